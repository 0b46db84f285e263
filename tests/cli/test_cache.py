"""``trlaunch cache``."""

from __future__ import annotations

import pytest

from trlaunch import cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_path(cli, folder):
    done = cli("cache", "path")
    assert (done.code, done.out) == (0, f"{folder}\n")
    assert not folder.exists()


def test_an_empty_cache(cli, folder):
    assert f"0 entries, 0 bytes in {folder}" in cli("cache", "ls").out
    assert cli("cache", "ls", "--json").json == {"path": str(folder), "entries": []}
    assert cli("cache", "clear").out == f"0 entries removed from {folder}\n"


def test_entries_are_listed_and_cleared(cli, folder, artifacts, tmp_path):
    assert cli("lower", artifacts / "add_kernel.ptx", "--to", "cubin", "-o", tmp_path).code == 0
    key = cache.key("another")
    assert cache.put(key, {"a.bin": b"1234"})
    listed = cli("cache", "ls")
    assert f"{len(cache.entries())} entries" in listed.out
    assert key[:16] in listed.out
    found = {entry["key"]: entry for entry in cli("cache", "ls", "--json").json["entries"]}
    assert found[key]["files"] == ["a.bin"]
    assert found[key]["bytes"] == 4
    (folder / "reproducers" / "0123").mkdir(parents=True)
    cleared = cli("cache", "clear", "--json").json
    assert cleared == {"path": str(folder), "removed": len(found), "folders": []}
    assert cache.entries() == []
    assert (folder / "reproducers" / "0123").is_dir()
    everything = cli("cache", "clear", "--all")
    assert f"removed {folder / 'reproducers'}" in everything.out
    assert not (folder / "reproducers").exists()
