"""The content-addressed cache: what it serves, what it refuses, and many processes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trlaunch import cache
from trlaunch.errors import FallbackWarning


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", set())
    return tmp_path / "cache"


def entry_folder(key: str) -> Path:
    return cache.path() / key[:2] / key


def test_what_was_put_is_got() -> None:
    key = cache.key("ptxas", b"text", 90)
    assert cache.get(key, "cubin") is None
    assert cache.put(key, {"cubin": b"\x00\x01", "log": b""})
    assert cache.get(key, "cubin") == b"\x00\x01"
    assert cache.get(key, "log") == b""
    assert cache.get(key, "other") is None
    (entry,) = cache.entries()
    assert (entry.key, entry.names, entry.nbytes) == (key, ("cubin", "log"), 2)


def test_first_writer_wins_and_nothing_is_left_behind() -> None:
    key = cache.key("k")
    assert cache.put(key, {"a": b"first"})
    assert cache.put(key, {"a": b"second"})
    assert cache.get(key, "a") == b"first"
    assert [p.name for p in entry_folder(key).parent.iterdir()] == [key]


def test_environment_moves_the_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.path() == folder
    monkeypatch.delenv("TRLAUNCH_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.path() == tmp_path / "xdg" / "trlaunch"
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.path() == tmp_path / "elsewhere"


@given(st.lists(st.one_of(st.binary(), st.text(), st.integers()), max_size=4),
       st.lists(st.one_of(st.binary(), st.text(), st.integers()), max_size=4))  # fmt: skip
@settings(deadline=None)
def test_different_parts_have_different_keys(a: list[bytes | str | int], b: list[bytes | str | int]) -> None:
    same = [(type(part), part) for part in a] == [(type(part), part) for part in b]
    assert (cache.key(*a) == cache.key(*b)) is same


def test_boundaries_between_parts_count() -> None:
    assert cache.key("ab", "c") != cache.key("a", "bc") != cache.key("abc")
    assert cache.key("1") != cache.key(1) != cache.key(b"1")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a").write_bytes(b"edited"),
        lambda folder: (folder / "a").write_bytes(b"conten"),
        lambda folder: (folder / "a").unlink(),
        lambda folder: (folder / "manifest.json").write_text(""),
        lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
        lambda folder: (folder / "manifest.json").write_text('{"a": 1}'),
        lambda folder: (folder / "manifest.json").write_text('["a"]'),
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "manifest.json").unlink(),
    ],
    ids=["edited", "torn", "missing", "empty", "deep", "number", "list", "binary", "unlisted"],
)
def test_damaged_entry_is_not_served_and_can_be_written_again(damage: object) -> None:
    key = cache.key("k")
    cache.put(key, {"a": b"content"})
    damage(entry_folder(key))
    assert cache.get(key, "a") is None
    assert cache.put(key, {"a": b"content"})
    assert cache.get(key, "a") == b"content"


def test_manifest_cannot_name_files_outside(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 7)
    key = cache.key("k")
    cache.put(key, {"a": b"content"})
    (entry_folder(key) / "manifest.json").write_text(json.dumps({"../../../secret": "0" * 64}))
    assert cache.entries() == []
    assert cache.get(key, "a") is None


def test_keys_and_names_are_checked() -> None:
    key = cache.key("k")
    for bad in ("", "../x", key.upper(), key[:-1]):
        with pytest.raises(ValueError, match="64 lower-case hex digits"):
            cache.get(bad, "a")
    for bad in ("", "a/b", "..", "manifest.json", "/etc/passwd"):
        with pytest.raises(ValueError, match="cache file name"):
            cache.put(key, {bad: b""})
        with pytest.raises(ValueError, match="cache file name"):
            cache.get(cache.key("k") if cache.put(key, {"a": b""}) else key, bad)


def test_clear_removes_entries_and_leftovers_only(folder: Path) -> None:
    keys = [cache.key(n) for n in range(5)]
    for key in keys:
        cache.put(key, {"a": key.encode()})
    leftover = entry_folder(keys[0]).parent / "tmp-1-0"
    leftover.mkdir()
    os.utime(leftover, (0, 0))
    (leftover.parent / "tmp-2-0").mkdir()
    (folder / "README").write_text("mine")
    assert {entry.key for entry in cache.entries()} == set(keys)
    assert cache.clear() == 5
    assert cache.entries() == []
    assert sorted(p.name for p in folder.iterdir()) == sorted(["README", keys[0][:2]])
    assert [p.name for p in leftover.parent.iterdir()] == ["tmp-2-0"]  # perhaps being written
    assert cache.clear() == 0


def test_folder_that_cannot_be_made_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    key = cache.key("k")
    with pytest.warns(FallbackWarning, match="cannot be written.*TRLAUNCH_CACHE_DIR"):
        assert not cache.put(key, {"a": b""})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not cache.put(key, {"a": b""})
        assert cache.get(key, "a") is None
        assert cache.entries() == []
        assert cache.clear() == 0


def test_full_disk_leaves_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    key = cache.key("k")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.warns(FallbackWarning, match="No space left"):
            assert not cache.put(key, {"a": b"x"})
    assert cache.get(key, "a") is None
    assert list(entry_folder(key).parent.iterdir()) == []


def test_permissions_follow_the_umask() -> None:
    previous = os.umask(0o022)
    try:
        key = cache.key("k")
        cache.put(key, {"a": b""})
    finally:
        os.umask(previous)
    assert stat.S_IMODE(entry_folder(key).stat().st_mode) == 0o755


def _content(number: int) -> bytes:
    return str(number).encode() * 20_000


def _race(folder: str, worker: int, start: object, problems: object) -> None:
    """Write, damage, clear and read the same few entries; only right bytes or nothing may come back."""
    os.environ["TRLAUNCH_CACHE_DIR"] = folder
    warnings.simplefilter("error")
    try:
        start.wait()
        for step in range(60):
            number = (worker + step) % 3
            key = cache.key("race", number)
            if worker == 0 and step % 7 == 3:
                cache.clear()
            if worker == 1 and step % 5 == 2:
                file = cache.path() / key[:2] / key / "data"
                if file.exists():
                    try:
                        with file.open("r+b") as stream:
                            stream.truncate(100)
                    except FileNotFoundError:
                        pass
            cache.put(key, {"data": _content(number), "more": b"m"})
            data = cache.get(key, "data")
            if data not in (None, _content(number)):
                problems.put(f"worker {worker} step {step}: {len(data)} wrong bytes")
    except BaseException as error:
        problems.put(f"worker {worker}: {error!r}")
        raise


def test_processes_race(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, problems = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_race, args=(str(folder), n, start, problems)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = []
    while not problems.empty():
        found.append(problems.get())
    assert (found, [worker.exitcode for worker in workers]) == ([], [0, 0, 0, 0])
    for number in range(3):
        key = cache.key("race", number)
        assert cache.get(key, "data") in (None, _content(number))
        assert cache.put(key, {"data": _content(number), "more": b"m"})
        assert cache.get(key, "data") == _content(number)
    leftovers = [p for group in folder.iterdir() for p in group.iterdir() if p.name.startswith("tmp-")]
    assert leftovers == []
