"""Which release reads a text: the marks against what was measured, and against what the corpus itself is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import corpus
from trlaunch.lowering.dialect import RELEASES, describe, marks, readers
from trlaunch.lowering.operations import DIALECTS, OPERATIONS

MEASURED = json.loads((Path(__file__).parents[1] / "matrix" / "readers.json").read_text())
# A text that 3.0 and 3.1 lower to another kernel: 3.2 passes the tensor map by value, they take its address.
READ_OTHERWISE = ("tma_matmul_kernel", "ttir", (3, 2), ((3, 0), (3, 1)))


def number(release: str) -> tuple[int, int]:
    major, minor = release.split(".")[:2]
    return int(major), int(minor)


@pytest.mark.parametrize("level", ["ttir", "ttgir"])
@pytest.mark.parametrize("case", corpus.cases(), ids=str)
def test_the_readers_are_those_that_were_measured(case, level):
    measured = tuple(number(release) for release in MEASURED[case.release][case.target][case.name][level])
    name, where, writer, otherwise = READ_OTHERWISE
    if (case.name, level, case.version) == (name, where, writer):
        measured = tuple(r for r in measured if r not in otherwise)
    assert readers(case.text(level)) == measured, [m.what for m in marks(case.text(level))]


@pytest.mark.parametrize("case", corpus.cases(), ids=str)
def test_a_release_reads_its_own_text(case):
    assert case.version in readers(case.text("ttir"))
    assert case.version in readers(case.text("ttgir"))


def test_every_mark_leaves_a_release():
    for name, (first, last) in OPERATIONS.items():
        oldest, newest = DIALECTS[name.partition(".")[0]]
        assert oldest <= first <= last <= newest, name
        assert (first, last) != (oldest, newest), f"{name} tells nothing beyond its dialect"


def test_operations_are_found_in_both_forms_and_not_elsewhere():
    assert [m.what for m in marks("  ttg.barrier local loc(#loc)\n")] == [
        "the dialect ttg",
        "the operation ttg.barrier",
    ]
    assert "the operation tt.gather" in [m.what for m in marks('%0 = "tt.gather"(%a, %b) : () -> ()\n')]
    assert marks("%tt.barrier = arith.constant 1 : i32\n") == []
    assert marks('#loc = loc("/a/ttg.barrier/k.py":1:0)\n') == []
    assert marks("module {\n  tt.func public @f(%arg0: !tt.ptr<f32> {tt.divisibility = 16 : i32}) {\n") == []


def test_releases_by_name():
    assert describe(()) == "none"
    assert describe(((3, 4),)) == "3.4"
    assert describe(((3, 8), (3, 9))) == "3.8 and 3.9"
    assert describe(RELEASES) == "3.0 to 3.9"


@given(st.text(alphabet='#!%tg.<>:, =-0123456789memdscbarri\n"{}', max_size=300))
def test_any_text_has_readers_in_order(text):
    assert set(readers(text)) <= set(RELEASES)
    assert list(readers(text)) == sorted(readers(text))
