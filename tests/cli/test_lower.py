"""``trlaunch lower``; that the levels are right is tests/lowering's to show."""

from __future__ import annotations

import json

import pytest

from trlaunch.arguments import UsageError
from trlaunch.cli.options import compile_options


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))


def test_ptx_to_cubin_needs_no_triton(cli, artifacts, tmp_path):
    done = cli("lower", artifacts / "matmul_kernel.ptx", "--to", "cubin", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["matmul_kernel.cubin", "matmul_kernel.json"]
    assert str(tmp_path / "out" / "matmul_kernel.cubin") in done.out
    metadata = json.loads((tmp_path / "out" / "matmul_kernel.json").read_text())
    assert metadata["shared"] == json.loads((artifacts / "matmul_kernel.json").read_text())["shared"]
    shown = cli("inspect", tmp_path / "out" / "matmul_kernel.cubin", "--json")
    assert shown.json["target"] == "cuda:80"


def test_as_json(cli, artifacts, tmp_path):
    done = cli("lower", artifacts / "add_kernel.ptx", "--to", "cubin", "-o", tmp_path, "--json", "--target", "cuda:86")
    assert done.code == 0, done.err
    assert done.json["kernel"] == "add_kernel"
    assert done.json["target"] == "cuda:86"
    assert done.json["files"] == [str(tmp_path / "add_kernel.cubin"), str(tmp_path / "add_kernel.json")]


def test_files_are_not_written_over(cli, artifacts):
    before = (artifacts / "add_kernel.cubin").read_bytes()
    refused = cli("lower", artifacts / "add_kernel.ptx", "--to", "cubin", "--option", "enable_fp_fusion=false")
    assert refused.code == 2
    assert "add_kernel.json" in refused.err
    assert "would be written over: -f does" in refused.err
    assert (artifacts / "add_kernel.cubin").read_bytes() == before
    done = cli("lower", artifacts / "add_kernel.ptx", "--to", "cubin", "--option", "enable_fp_fusion=false", "-f")
    assert done.code == 0, done.err
    assert json.loads((artifacts / "add_kernel.json").read_text())["enable_fp_fusion"] is False


def test_a_folder_that_cannot_be_made(cli, artifacts, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli("lower", artifacts / "add_kernel.ptx", "--to", "cubin", "-o", tmp_path / "file" / "out")
    assert done.code == 2
    assert "cannot be written" in done.err


@pytest.mark.parametrize("to", ["ttir", "sass"])
def test_a_level_that_is_not_later(cli, artifacts, tmp_path, to):
    done = cli("lower", artifacts / "add_kernel.ptx", "--to", to, "-o", tmp_path / "out", "--json")
    assert done.code == 1
    assert done.json["error"]["stage"] == "levels"
    assert not (tmp_path / "out").exists()


def test_triton_is_named_where_it_is_missing(cli, artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr("trlaunch.lowering.triton_compiler.importlib.util.find_spec", lambda _: None)
    done = cli("lower", artifacts / "add_kernel.ttir", "--to", "ptx", "-o", tmp_path / "out")
    assert done.code == 3
    assert 'pip install "trlaunch[triton]"' in done.err


def test_options_have_values():
    given = [
        "num_warps=8",
        "maxnreg=none",
        "enable_fp_fusion=False",
        "ptx_options=--opt-level 1",
        "cluster_dims=(2, 1, 1)",
    ]
    assert compile_options(given) == {
        "num_warps": 8,
        "maxnreg": None,
        "enable_fp_fusion": False,
        "ptx_options": "--opt-level 1",
        "cluster_dims": (2, 1, 1),
    }
    assert compile_options(None) == {}
    for wrong, reason in (("num_warps", "expected NAME=VALUE"), ("=8", "expected NAME=VALUE")):
        with pytest.raises(UsageError, match=reason):
            compile_options([wrong])
    with pytest.raises(UsageError, match="given twice"):
        compile_options(["num_warps=4", "num_warps=8"])
