"""Whole modules of MLIR text: the corpus of every release, what Triton's own reader says, and text that is broken."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import corpus
from trlaunch.errors import ArtifactError
from trlaunch.mlir import find_function
from trlaunch.mlir_text import parse
from trlaunch.mlir_types import element_type, result_types, split_tensor

TEXTS = [(case, level) for case in corpus.cases() for level in ("ttir", "ttgir") if level in case.levels]

LOOPS = """\
#blocked = #ttg.blocked<{sizePerThread = [1], threadsPerWarp = [32], warpsPerCTA = [4], order = [0]}>
#loc = loc("k.py":7:0)
module attributes {"ttg.num-warps" = 4 : i32} {
  tt.func public @k(%x: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc("x"(#loc)), %n: i32 loc(#loc)) {
    %c0 = arith.constant 0 : i32 loc(#loc1)
    %flag = arith.constant true loc(#loc1)
    %a:2 = scf.for %i = %c0 to %n step %n iter_args(%s = %c0, %t = %flag) -> (i32, i1)  : i32 {
      %low, %high = arith.mulsi_extended %s, %i : i32 loc(#loc2)
      %w:2 = scf.while (%p = %s, %q = %t) : (i32, i1) -> (i32, i1) {
        scf.condition(%q) %p, %q : i32, i1 loc(#loc2)
      } do {
      ^bb0(%p: i32 loc(#loc2), %q: i1 loc(#loc2)):
        scf.yield %p, %q : i32, i1 loc(#loc2)
      } loc(#loc2)
      scf.yield %w#0, %w#1 : i32, i1 loc(#loc3)
    } {tt.num_stages = 3 : i32} loc(#loc3)
    %r = "tt.reduce"(%c0) <{axis = 0 : i32}> ({
    ^bb0(%u: f32 loc(#loc3), %v: f32 loc(#loc3)):
      %sum = arith.addf %u, %v : f32 loc(#loc3)
      tt.reduce.return %sum : f32 loc(#loc3)
    }) : (tensor<64x32xf32, #blocked>) -> tensor<64xf32, #ttg.slice<{dim = 1, parent = #blocked}>> loc(#loc3)
    %e = tt.elementwise_inline_asm "add.f32 $0, $1; // -> {" {c = "=f"} %r : tensor<64xf32> -> tensor<64xf32> loc(#loc4)
    cf.cond_br %flag, ^bb1, ^bb2(%c0 : i32) loc(#loc)
  ^bb1:  // pred: ^bb0
    tt.return loc(#loc)
  ^bb2(%z: i32 loc(#loc)):  // pred: ^bb0
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
#loc1 = loc(unknown)
#loc2 = loc("k.py":9:4)
#loc3 = loc("total"(#loc5))
#loc4 = loc(callsite(#loc2 at #loc3))
#loc5 = loc("other.py":11:2)
"""


@pytest.mark.parametrize(("case", "level"), TEXTS, ids=[f"{case}-{level}" for case, level in TEXTS])
def test_every_line_of_the_corpus_that_defines_values_is_read(case, level):
    text = case.text(level)
    module = parse(text)
    function = module.function(case.kernel)
    operations = list(function.walk())
    lines = text.splitlines()
    # An operation of its own format begins a line of its own: its results and its name are found by other means.
    defining = {i: m[1] for i, line in enumerate(lines, 1) if (m := re.match(r"\s+(%[^=]+?) = ", line))}
    found = {o.line: o for o in operations if o.results}
    inside = {i: names for i, names in defining.items() if function.line < i}
    assert found.keys() >= {i for i in inside if i < text.count("\n", 0, function.end) + 1}
    for i, operation in found.items():
        names = [name for part in defining[i].split(",") for name in [part.strip().partition(":")[0]]]
        assert {value.name.partition("#")[0] for value in operation.results} == set(names)
        assert operation.name in lines[i - 1]
    stated = find_function(text, case.kernel)
    assert [(a.name, a.type) for a in function.blocks[0].arguments] == [(a.ssa, a.type) for a in stated.arguments]
    # What every user of a value says of its type: arith prints the type of its operands.
    types = {}
    for operation in operations:
        for value in (*operation.results, *(a for b in operation.blocks for a in b.arguments)):
            types.setdefault(value.name, set()).add(value.type)
    checked = 0
    for operation in operations:
        if operation.name in ("arith.addi", "arith.muli", "arith.addf", "arith.mulf", "arith.andi"):
            stated_type = operation.head.rpartition(" : ")[2]
            assert all(stated_type in types[name] for name in operation.operands)
            checked += 1
    assert checked or case.name in ("scalars_kernel", "cluster_kernel", "tma_matmul_kernel")


def test_regions_values_types_and_places():
    module = parse(LOOPS)
    function = module.function()
    by_name = {o.name: o for o in function.walk()}
    loop, inner, reduce = by_name["scf.for"], by_name["scf.while"], by_name["tt.reduce"]
    assert [(a.name, a.type) for a in loop.blocks[0].arguments] == [("%i", "i32"), ("%s", "i32"), ("%t", "i1")]
    assert [(v.name, v.type) for v in loop.results] == [("%a#0", "i32"), ("%a#1", "i1")]
    assert loop.operands[:4] == ["%i", "%c0", "%n", "%n"]
    assert [(b.region, [(a.name, a.type) for a in b.arguments]) for b in inner.blocks] == [
        (0, [("%p", "i32"), ("%q", "i1")]),
        (1, [("%p", "i32"), ("%q", "i1")]),
    ]
    assert [v.type for v in inner.results] == ["i32", "i1"]
    assert [v.type for v in by_name["arith.mulsi_extended"].results] == ["i32", "i32"]
    assert reduce.results[0].type == "tensor<64xf32, #ttg.slice<{dim = 1, parent = #blocked}>>"
    assert [o.name for o, _ in by_name["arith.addf"].enclosing()][:2] == ["tt.reduce", "tt.func"]
    assert by_name["tt.elementwise_inline_asm"].results[0].type == "tensor<64xf32>"
    assert [b.label for b in function.blocks] == [None, "^bb1", "^bb2"]
    assert [a.name for a in function.blocks[2].arguments] == ["%z"]
    assert [str(module.place(o.location)) for o in (inner, loop, by_name["tt.elementwise_inline_asm"])] == [
        "k.py:9",
        "other.py:11",
        "k.py:9",
    ]
    place = module.place(loop.location)
    assert place is not None
    assert place.name == "total"
    assert module.place("loc(unknown)") is None
    flag = next(o for o in function.walk() if o.results and o.results[0].name == "%flag")
    assert flag.results[0].type == "i1"


@pytest.mark.parametrize(
    ("name", "clause", "types"),
    [
        ("arith.cmpi", " tensor<4x2xi32, #b>", ["tensor<4x2xi1, #b>"]),
        ("arith.select", " tensor<4xi1>, tensor<4xf32>", ["tensor<4xf32>"]),
        ("tt.load", " tensor<4x!tt.ptr<f8E5M2>, #b>", ["tensor<4xf8E5M2, #b>"]),
        ("tt.load", " !tt.ptr<bf16>", ["bf16"]),
        ("tt.load", " !tt.ptr<tensor<4x8xf16>>", ["tensor<4x8xf16>"]),
        ("tt.addptr", " !tt.ptr<f32>, i32", ["!tt.ptr<f32>"]),
        ("arith.extf", " f16 to f32", ["f32"]),
        ("tt.dot", " tensor<4x4xf16> * tensor<4x4xf16> -> tensor<4x4xf32>", ["tensor<4x4xf32>"]),
        ("ttng.warp_group_dot_wait", " f32, i32", ["f32", "i32"]),
        ("arith.addui_extended", " i32, i1", ["i32", "i1"]),
        ("tt.split", " tensor<4x2xf32> -> tensor<4xf32>", ["tensor<4xf32>", "tensor<4xf32>"]),
        ("unknown.op", " i32, f32", [None]),
    ],
)
def test_types_of_results(name, clause, types):
    assert result_types(name, clause, len(types)) == types


def test_tensors_taken_apart():
    nested = "tensor<4x1x!tt.ptr<f32, 1>, #ttg.slice<{dim = 0, parent = #b}>>"
    assert split_tensor(nested) == ((4, 1), "!tt.ptr<f32, 1>", "#ttg.slice<{dim = 0, parent = #b}>")
    assert split_tensor("f32") is None
    assert element_type("tensor<2xbf16>") == "bf16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module {\n  %0 = arith.addi %1, %2 : i32\n", "MLIR line 1: a region that is not closed"),
        ("module {\n}\n}\n", "MLIR line 3: a brace that closes nothing"),
        ("module {\n  %0 = arith.addi (%1 : i32\n", "line 2: a bracket that is not closed"),
        ("module {\n  %0 + 3\n}", "expected '"),
        ("{", "expected an operation"),
    ],
)
def test_broken_text_is_refused_with_its_line(text, message):
    with pytest.raises(ArtifactError, match=re.escape(message)):
        parse(text)


def test_a_function_that_is_not_there_is_refused():
    with pytest.raises(ArtifactError, match="no tt.func @other; it has k"):
        parse(LOOPS).function("other")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text_is_read_or_refused(data):
    at = data.draw(st.integers(0, len(LOOPS) - 1))
    length = data.draw(st.integers(0, 40))
    put = data.draw(st.text(alphabet='(){}[]<>"%#^:=,\n lo0->/\\', max_size=6))
    try:
        module = parse(LOOPS[:at] + put + LOOPS[at + length :])
        for operation in module.function().walk():
            module.place(operation.location)
    except ArtifactError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='(){}[]<>"%#^:=,\n abx0->/\\!', max_size=120))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ArtifactError):
        parse(text)
