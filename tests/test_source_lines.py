"""Source lines of text levels, against other readers of the same files and the Python source itself."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import FOLDER, cases
from trlaunch.artifact import Level
from trlaunch.emulator.ptx import parse, parse_body
from trlaunch.errors import ArtifactError
from trlaunch.source_lines import Line, chains, own_line

KERNELS = FOLDER.parent / "kernels.py"
TEXTS = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX)
CASES = [case for case in cases(kernel="matmul_kernel") if case.target in ("cuda:80", "cuda:90")]


def body_of(function: str) -> range:
    """The lines of a kernel's Python source, decorators included."""
    for node in ast.parse(KERNELS.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return range(node.decorator_list[0].lineno, node.end_lineno + 1)
    raise AssertionError(function)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_level_points_into_the_kernel(case):
    lines = body_of(case.kernel)
    seen = {}
    for level in TEXTS:
        if level in case.levels:
            text = case.path(level).read_text()
            found = chains(level, text)
            assert len(found) == len(text.split("\n"))
            own = {own_line(chain) for chain in found if chain}
            seen[level] = {line.line for line in own if line.name == "kernels.py"}
            assert seen[level] <= set(lines), level
            assert len(seen[level]) > 5, level
    # tl.dot, the loads and the store are in every level.
    assert len(set.intersection(*seen.values())) > 5


@pytest.mark.parametrize("case", [c for c in CASES if c.target == "cuda:80"], ids=str)
def test_ptx_lines_are_those_that_the_parser_sees(case):
    text = case.path("ptx").read_text()
    found = chains(Level.PTX, text)
    module = parse(text)
    body = parse_body(module, next(iter(module.functions.values())))
    checked = 0
    for instruction in body.statements:
        position = getattr(instruction, "position", None)
        if position is not None and position.line:
            assert found[instruction.line - 1][0] == Line(module.files[position.file], position.line)
            checked += 1
    assert checked > 100


def test_an_inlined_line_is_followed_by_the_line_it_is_inlined_at():
    ttgir = """#loc1 = loc("/a/standard.py":267:36)
#loc2 = loc("/b/kernels.py":33:63)
#loc3 = loc("x"(#loc1))
#loc4 = loc(callsite(#loc3 at #loc2))
module {
  tt.func public @k() {
    %0 = arith.constant 1 : i32 loc(#loc4)
    tt.return loc(#loc2)
  } loc(#loc2)
} loc(#loc)
#loc = loc(unknown)
"""
    found = chains(Level.TTGIR, ttgir)
    inner, outer = Line("/a/standard.py", 267), Line("/b/kernels.py", 33)
    assert found[6] == (inner, outer)
    assert found[7] == (outer,)
    assert sum(map(bool, found)) == 2
    assert str(own_line(found[6])) == "kernels.py:33"

    llir = """define ptx_kernel void @k() !dbg !5 {
  %1 = add i32 1, 1, !dbg !8
  ret void, !dbg !9
}
!3 = !DIFile(filename: "kernels.py", directory: "/b")
!4 = !DIFile(filename: "standard.py", directory: "/a")
!5 = distinct !DISubprogram(name: "k", scope: !3, file: !3, line: 1)
!6 = distinct !DILexicalBlockFile(scope: !5, file: !4, discriminator: 0)
!7 = !DILocation(line: 33, column: 63, scope: !5)
!8 = !DILocation(line: 267, column: 36, scope: !6, inlinedAt: !7)
!9 = !DILocation(line: 0, scope: !5)
"""
    found = chains(Level.LLIR, llir)
    assert found[1] == (Line("standard.py", 267), Line("kernels.py", 33))
    assert not any(found[2:])

    ptx = """.visible .entry k()
{
\t.loc\t1 33 63
\tadd.s32 %r1, %r2, 1;
\t.loc\t2 267 36, function_name $L__info_string0, inlined_at 1 33 63
$L1:
\tadd.s32 %r1, %r2, 2;
\t// comment
\tret;
}
\t.file\t1 "/b/kernels.py"
\t.file\t2 "/a/standard.py"
"""
    found = chains(Level.PTX, ptx)
    assert found[3] == (outer,)
    assert found[6] == found[8] == (inner, outer)
    assert sum(map(bool, found)) == 3


def test_a_circle_of_locations_ends():
    llir = "define void @k() {\n  ret void, !dbg !1\n}\n!1 = !DILocation(line: 3, scope: !2, inlinedAt: !1)\n"
    llir += '!2 = !DIFile(filename: "k.py", directory: "")\n'
    assert chains(Level.LLIR, llir)[1] == (Line("k.py", 3), Line("k.py", 3))
    ttir = "#loc1 = loc(callsite(#loc1 at #loc1))\nmodule {\n  tt.return loc(#loc1)\n}\n"
    chains(Level.TTIR, ttir)


ALPHABET = st.sampled_from(
    ["#loc", "1", " = loc(", "callsite(", " at ", '"a.py"', ":", "3", "(", ")", "{", "}", "\n", "module", "!dbg !1"]
)
NODES = st.sampled_from(
    ["!1 = !DILocation(", "line: 4", ", scope: !1", "inlinedAt: !1", ".loc 1", "  ret;", "!DIFile("]
)


@given(level=st.sampled_from(TEXTS), parts=st.lists(ALPHABET | NODES, max_size=40))
def test_any_text_gives_a_chain_for_each_line_or_an_error(level, parts):
    text = "".join(parts)
    try:
        found = chains(level, text)
    except ArtifactError:
        assert level in (Level.TTIR, Level.TTGIR)
    else:
        assert len(found) == len(text.split("\n"))
