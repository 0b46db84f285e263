"""``trlaunch inspect`` over the corpus of every release, and without what lies beside a file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import corpus
from trlaunch.cuda.toolkit import find_tools, newest, searched

CASES = [case for case in corpus.cases(target="cuda:80") if "cubin" in case.levels]


def scalars(case: corpus.Case) -> list[corpus.Param]:
    return [] if any(p.type.startswith("tensordesc") for p in case.params) else list(case.params)


def same_type(found: str | None, compiled: str) -> bool:
    """MLIR drops signs, has one name for bool, and lets an i8 pointer stand for every byte."""
    plain = re.sub(r"^(\**)u(\d+)$", r"\1i\2", compiled)
    return found == plain or (found == "*i8" and plain in ("*i1", "*i8")) or found == plain.replace("u1", "i1")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.release}-{case.name}")
@pytest.mark.parametrize("level", ["cubin", "ptx"])
def test_the_parameters_are_those_the_kernel_was_compiled_with(cli, case, level):
    found = cli("inspect", case.path(level), "--json")
    assert found.code == 0, found.err
    (kernel,) = found.json["kernels"]
    assert kernel["name"] == case.kernel
    assert found.json["target"] == case.target
    user = [p for p in kernel["params"] if p["role"] == "user"]
    if scalars(case):
        assert len(user) == len(case.params)
        for shown, compiled in zip(user, case.params, strict=True):
            assert same_type(shown["type"], compiled.type), (shown, compiled)


@pytest.mark.parametrize("stem", ["add_kernel", "softmax_kernel", "matmul_kernel"])
def test_offsets_and_sizes_do_not_depend_on_the_level(cli, artifacts, stem):
    layouts = []
    for level in ("cubin", "ptx"):
        (kernel,) = cli("inspect", artifacts / f"{stem}.{level}", "--json").json["kernels"]
        layouts.append([(p["offset"], p["size"], p["type"], p["role"]) for p in kernel["params"]])
    assert layouts[0] == layouts[1]
    names = [p["name"] for p in cli("inspect", artifacts / f"{stem}.ttir", "--json").json["kernels"][0]["params"]]
    assert names == [p["name"] for p in kernel["params"] if p["role"] == "user"]


def cuobjdump(path: Path) -> str:
    tool = newest(find_tools("cuobjdump", variable="CUOBJDUMP"))
    assert tool is not None, searched("CUOBJDUMP")
    return subprocess.run([tool.path, "-res-usage", path], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("stem", ["add_kernel", "softmax_kernel", "matmul_kernel"])
def test_registers_are_what_cuobjdump_says(cli, artifacts, stem):
    path = artifacts / f"{stem}.cubin"
    expected = int(re.search(r"REG:(\d+)", cuobjdump(path))[1])
    assert cli("inspect", path, "--json").json["kernels"][0]["registers"] == expected
    assert f"{expected} a thread" in cli("inspect", path).out


def test_the_tables_show_everything_a_launch_depends_on(cli, artifacts):
    text = cli("inspect", artifacts / "matmul_kernel.cubin").out
    for words in ("cubin", "cuda:80", "Triton 3.6.0", "16384", "exactly 128 x 1 x 1", "stride_cm", "global_scratch"):
        assert words in text


def test_without_json_the_layout_is_shown_and_why_no_more(cli, artifacts, tmp_path):
    shutil.copy(artifacts / "matmul_kernel.cubin", tmp_path)
    found = cli("inspect", tmp_path / "matmul_kernel.cubin")
    assert found.code == 0
    assert "hidden scratch" in found.out
    types = "*fp16,*fp16,*fp16,i32,i32,i32,i32,i32,i32"
    document = cli("inspect", tmp_path / "matmul_kernel.cubin", "--signature", types, "--json").json
    params = document["kernels"][0]["params"]
    assert [p["type"] for p in params if p["role"] == "user"] == types.split(",")
    assert [p["role"] for p in params[-2:]] == ["global_scratch", "profile_scratch"]


def test_a_cache_folder(cli, artifacts, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    for file in artifacts.glob("add_kernel.*"):
        shutil.copy(file, folder)
    document = cli("inspect", folder, "--json").json
    assert document["level"] == "cubin"
    assert document["siblings"] == ["ptx", "ttgir", "ttir"]
    assert document["metadata"] == json.loads((artifacts / "add_kernel.json").read_text())


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("x.cubin", b"\x7fELF" + b"\0" * 60, "expected 190"),
        ("x.cubin", b"", "no known level"),
        ("x.ptx", b".version 8.0\n.target sm_80\n.entry k(", "line"),
        ("x.py", b"import triton\n", "expected cubin, ptx"),
        ("x.ttir", b"tt.func public @k(%a: i32", "@k"),
    ],
)
def test_what_cannot_be_read_is_refused(cli, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    found = cli("inspect", tmp_path / name)
    assert found.code == 1
    assert message in found.err


def test_a_name_that_is_not_there(cli, artifacts):
    for level in ("cubin", "ptx", "ttir"):
        found = cli("inspect", artifacts / f"add_kernel.{level}", "--name", "ad_kernel")
        assert found.code == 1
        assert "'add_kernel'" in found.err
