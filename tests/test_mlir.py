"""tt.func of every release, and text that only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.corpus import cases, find
from trlaunch.errors import ArtifactError, TrlaunchError
from trlaunch.mlir import Argument, find_function, split_list
from trlaunch.signature import from_func


@pytest.mark.parametrize("case", [c for c in cases() if c.name != "tma_matmul_kernel"], ids=str)
def test_arguments_of_every_kernel(case):
    for level in ("ttir", "ttgir"):
        function = find_function(case.text(level), case.kernel)
        assert function.symbol == case.kernel
        assert len(function.arguments) == len(case.params)
        for argument, param in zip(function.arguments, case.params, strict=True):
            assert argument.ssa.startswith("%")
            assert argument.type.startswith("!tt.ptr<") == param.type.startswith("*")
            assert (argument.attributes.get("tt.divisibility") == "16 : i32") == param.divisible_by_16
            # Names are printed from 3.5 on; the parts of a tuple share one.
            assert argument.name == (param.name.partition(".")[0] if case.version >= (3, 5) else None) or (
                argument.name == param.name
            )


def function(arguments: str, head: str = "") -> list[Argument]:
    return list(
        find_function(
            f"{head}module {{\n  tt.func public @k({arguments}) attributes {{noinline = false}} {{", "k"
        ).arguments
    )


def test_forms_of_arguments():
    head = '#loc1 = loc("x_ptr"(#loc))\n#loc = loc(unknown)\n'
    assert function('%x: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc("x_ptr"(#loc)), %n: i32 loc(#loc1)', head) == [
        Argument("%x", "!tt.ptr<f32>", {"tt.divisibility": "16 : i32"}, "x_ptr"),
        Argument("%n", "i32", {}, "x_ptr"),
    ]
    assert function('%arg0: !tt.ptr<i8, 0> {tt.nv_tma_desc = 1 : i32} loc("/a (b), c.py":6:0)') == [
        Argument("%arg0", "!tt.ptr<i8, 0>", {"tt.nv_tma_desc": "1 : i32"}, None)
    ]
    assert function("%a.shape.0: i64, %d: !tt.tensordesc<tensor<64x64xf16>>") == [
        Argument("%a.shape.0", "i64"),
        Argument("%d", "!tt.tensordesc<tensor<64x64xf16>>"),
    ]
    assert function('%s: i32 {a = "}, \\" ,", b = [1, 2]}')[0].attributes == {"a": '"}, \\" ,"', "b": "[1, 2]"}
    assert function("") == []


def test_functions_are_found_by_whole_name():
    text = 'tt.func private @k1(%a: i32)\ntt.func @k(%b: i64)\ntt.func public @"q"(%c: f32)'
    assert find_function(text, "k").arguments[0].ssa == "%b"
    assert find_function(text, "q").arguments[0].ssa == "%c"
    assert find_function(text, "k2") is None
    assert find_function(text, "k.") is None


def test_damage_is_refused_with_the_line():
    with pytest.raises(ArtifactError, match="line 3: the argument list of tt.func @k is not closed"):
        find_function("\n\ntt.func @k(%a: i32", "k")
    with pytest.raises(ArtifactError, match="line 1: expected '%name: type' in tt.func @k, found 'i32'"):
        find_function("tt.func @k(%a: i32, i32)", "k")
    with pytest.raises(ArtifactError, match="found '%a:'"):
        find_function("tt.func @k(%a: , %b: i32)", "k")


def test_split_list():
    assert split_list('(a, b<c, d>, {e, f}, "g, )", h -> i)', 1) == ["a", "b<c, d>", "{e, f}", '"g, )"', "h -> i"]
    assert split_list("(a, b", 1) is None
    assert split_list('(a, "b', 1) is None
    assert split_list("()", 1) == []


LINES = [
    line for case in (find("3.0.0", "cuda:90", "add_kernel"), find("3.9.0", "cuda:80", "tma_matmul_kernel"))
    for line in case.text("ttir").splitlines() if "tt.func" in line
]  # fmt: skip
pieces = st.sampled_from(
    ["!tt.ptr<", ">", "{", "}", "(", ")", ",", "%", ":", '"', "\\", "->", "loc(", "#loc1", "\n", "tt.divisibility = "]
)


@given(st.one_of(st.text(max_size=60), st.lists(pieces | st.text(max_size=3), max_size=12).map("".join)))
@example("%a: i32 {tt.divisibility = ² : i32}")
@example("%a: i32 {tt.divisibility = " + "9" * 5000 + " : i32}")
@example("%a: " + "!tt.ptr<" * 3000 + "f32" + ">" * 3000)
@example("%a: i32 loc(" * 2000)
def test_any_argument_list_is_read_or_refused(arguments):
    text = f"tt.func public @k({arguments})"
    try:
        source = from_func(text, "k", "ttir")
    except TrlaunchError as error:
        assert str(error)
    else:
        assert source is None or source.label == "ttir"


@given(st.sampled_from(LINES), st.data())
def test_mutated_functions_are_read_or_refused(line, data):
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(line)))
        stop = data.draw(st.integers(start, min(start + 12, len(line))))
        line = line[:start] + data.draw(pieces | st.text(max_size=4)) + line[stop:]
    for kernel in ("add_kernel", "tma_matmul_kernel"):
        try:
            from_func(line, kernel, "ttir")
        except TrlaunchError as error:
            assert str(error)
