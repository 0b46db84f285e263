"""``trlaunch values`` and ``trlaunch run --dump``."""

from __future__ import annotations

import numpy as np
import pytest

from tests import corpus
from tests.cli.conftest import cli
from trlaunch.arguments import UsageError, parse_argument
from trlaunch.cli.values import parse_dump

__all__ = ["cli"]


@pytest.mark.parametrize("level", ["ttir", "ttgir", "llir", "ptx"])
def test_values_of_each_level(cli, level):
    path = corpus.find("3.6.0", "cuda:80", "add_kernel").path(level)
    rows = cli("values", path, "--json").json["values"]
    assert rows
    assert all(row["refused"] is None for row in rows)
    op = {"llir": "fadd", "ptx": "add.f32"}.get(level, "arith.addf")
    sums = cli("values", path, "--op", op, "--json").json["values"]
    assert sums
    assert all(row["python"].endswith("kernels.py:23") for row in sums)
    lines = path.read_text().splitlines()
    assert all(row["name"] in lines[row["line"] - 1] and op in lines[row["line"] - 1] for row in sums)
    assert cli("values", path, "--python-line", "23", "--op", op, "--json").json["values"] == sums
    text = cli("values", path).out
    assert sums[0]["name"] in text


def test_what_cannot_be_captured_has_its_reason(cli):
    path = corpus.find("3.6.0", "cuda:80", "matmul_kernel").path("ttgir")
    plain, every = cli("values", path, "--json").json["values"], cli("values", path, "--all", "--json").json["values"]
    refused = [row for row in every if row["refused"]]
    assert len(plain) + len(refused) == len(every)
    assert any("shared" in row["refused"] for row in refused)


def test_a_cubin_has_no_values(cli):
    found = cli("values", corpus.find("3.6.0", "cuda:80", "add_kernel").path("cubin"))
    assert found.code == 1
    assert "ttir, ttgir, llir, ptx" in found.err


def test_dumps_are_shown_and_saved(cli, tmp_path):
    path = corpus.find("3.6.0", "cuda:80", "add_kernel").path("ptx")
    words = ["-a", "x_ptr=rand:float32:3072", "-a", "y_ptr=rand:float32:3072:5", "-a", "out_ptr=zeros:float32:3072"]
    command = ["run", path, "-g", "3", *words, "-a", "n_elements=3072", "-d", "emulator", "--dump"]
    document = cli(*command, "op=add.f32,nth=0,dtype=fp32,label=sum", "--save", tmp_path / "d.npz", "--json").json
    (dump,) = document["dumps"]
    assert (dump["dump"], dump["op"], dump["dtype"], dump["shape"]) == ("sum", "add.f32", "fp32", [3, 128])
    with np.load(tmp_path / "d.npz") as archive:
        saved = dict(archive)
    x, y = (parse_argument(f"a={w.partition('=')[2]}").value(default_seed=i) for i, w in ((0, words[1]), (1, words[3])))
    assert sorted(saved) == ["out_ptr", "sum", "x_ptr", "y_ptr"]
    assert np.isin(saved["sum"], x + y).all()
    assert dump["max"] == saved["sum"].max()
    text = cli(*command, "op=add.f32,nth=0,label=sum,keep=last").out
    assert "add.f32" in text
    assert "3x128" in text
    assert "out_ptr" in cli(*command, "op=add.f32,nth=0,label=out_ptr", "--save", tmp_path / "e.npz").err


def test_requests_on_the_command_line():
    made = parse_dump("%acc,keep=4,programs=0:0/7:3")
    assert (made.name, made.keep, made.programs, made.label) == (
        "%acc",
        4,
        ((0, 0), (7, 3)),
        "%acc,keep=4,programs=0:0/7:3",
    )
    assert parse_dump("op=tt.reduce,nth=1,label=sum").label == "sum"
    made = parse_dump("%acc,part=0:8/:/:4,after=31")
    assert (made.part, made.after) == (((0, 8), None, (0, 4)), 31)
    made = parse_dump("tensor=%acc,python_line=7")
    assert (made.name, made.tensor, made.python_line) == (None, "%acc", 7)
    for text in (
        "%acc,what=1",
        "op=tt.dot,nth=x",
        "%acc,programs=a:b",
        "%acc,again",
        "%acc,part=1",
        "%acc,part=3:",
        "%acc,part=a:b",
    ):
        with pytest.raises(UsageError, match="expected"):
            parse_dump(text)
