"""``trlaunch run --compare``: the values of the same Python lines in two texts of one kernel."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import corpus
from tests.cli.conftest import cli
from tests.dump.test_ttir import line_of
from trlaunch import ArgumentError
from trlaunch.artifact import Artifact
from trlaunch.dump.compare import pair, tolerance

__all__ = ["cli"]


def written(artifact, path):
    """An artifact and its JSON as files."""
    path.write_bytes(artifact.data)
    path.with_suffix(".json").write_text(json.dumps(dict(artifact.metadata.raw)))
    return path


@pytest.fixture
def softmax(kernels, lowered, tmp_path):
    """The TTGIR of a softmax over rows, twice: for four warps and for two; and the words that launch them."""
    x = np.zeros((3, 200), np.float32)
    files = [
        written(
            lowered(kernels.softmax, "ttgir", x, x.copy(), 200, BLOCK=64, num_warps=warps),
            tmp_path / f"softmax{warps}.ttgir",
        )
        for warps in (4, 2)
    ]
    words = ["-g", "3", "-a", "0=randn:float32:3x200:5", "-a", "1=zeros:float32:3x200", "-a", "2=200", "-d", "emulator"]
    return [*files, words]


def test_two_schedules_of_one_kernel_agree(cli, softmax):
    first, second, words = softmax
    found = cli("run", first, *words, "--compare", second, "--json")
    assert found.code == 0, found.err
    assert found.json["difference"] is None
    assert found.json["equal"] > 10
    assert found.json["skipped"] == []
    assert "values that agree" in cli("run", first, *words, "--compare", second).out


def test_the_first_value_that_differs(cli, softmax, kernels):
    first, second, words = softmax
    line = line_of(kernels, "powers = tl.exp(values - higher)")
    text = second.read_text()
    changed = text.replace("math.exp ", "math.exp2 ", 1)
    assert changed != text
    second.write_text(changed)
    found = cli("run", first, *words, "--compare", second, "--json")
    assert found.code == 1
    difference = found.json["difference"]
    # The line whose operation was changed has another one there: what it goes into is the first that both have.
    assert difference["python"].endswith(f":{line + 1}")
    assert difference["first"]["op"] in ("tt.reduce", "arith.addf", "arith.mulf")
    one, other = difference["values"]
    assert abs(one - other) > difference["atol"] + difference["rtol"] * abs(other)
    shown = cli("run", first, *words, "--compare", second)
    assert shown.code == 1
    assert f"kernels.py:{line + 1}" in shown.out
    assert f"in line {difference['second']['line']}" in shown.out
    # and within a tolerance that is as wide they agree
    assert cli("run", first, *words, "--compare", second, "--atol", "1e9").code == 0


def test_ttir_against_ttgir(cli, kernels, lowered, tmp_path):
    a, c = np.zeros((32, 96), np.float16), np.zeros((32, 32), np.float32)
    files = [
        written(lowered(kernels.matmul, level, a, a, c, 96, M=32, N=32, BLOCK_K=32), tmp_path / f"m.{level}")
        for level in ("ttir", "ttgir")
    ]
    words = ["-a", "0=randn:fp16:32x96", "-a", "1=randn:fp16:96x32", "-a", "2=zeros:fp32:32x32", "-a", "3=96"]
    found = cli("run", files[0], "-g", "1", *words, "-d", "emulator", "--compare", files[1], "--json")
    assert found.code == 0, found.err
    assert found.json["equal"] > 0


def test_what_cannot_be_compared(cli, softmax, tmp_path):
    first, second, words = softmax
    assert "leave out --dump" in cli("run", first, *words, "--compare", second, "--dump", "%x").err
    other = corpus.find("3.6.0", "cuda:80", "add_kernel")
    assert "no values of the same Python lines" in cli("run", first, *words, "--compare", other.path("ttgir")).err
    assert (
        "is ptx: values are compared at ttir and ttgir" in cli("run", first, *words, "--compare", other.path("ptx")).err
    )


def test_values_are_paired_by_python_line():
    first, second = (
        Artifact.from_file(corpus.find(v, "cuda:80", "add_kernel").path("ttir")) for v in ("3.2.0", "3.9.0")
    )
    pairs, unpaired = pair(first, second)
    assert {p.first.op for p in pairs} >= {"arith.addf", "tt.load", "arith.cmpi", "tt.get_program_id"}
    assert all(p.first.python.line == p.second.python.line and p.first.op == p.second.op for p in pairs)
    assert all("!tt.ptr" not in p.first.type for p in pairs)
    assert unpaired == 0
    with pytest.raises(ArgumentError, match="is cubin: values are compared at ttir and ttgir"):
        pair(first, Artifact.from_file(corpus.find("3.9.0", "cuda:80", "add_kernel").path("cubin")))


def test_types_that_round_have_a_tolerance():
    assert tolerance("i32") == tolerance("i1") == (0.0, 0.0)
    assert all(min(tolerance(dtype)) > 0 for dtype in ("fp64", "fp32", "fp16", "bf16", "fp8e5"))
