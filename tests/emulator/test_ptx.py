"""The PTX reader: scopes, labels, positions, constants; and that nothing makes it crash."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import corpus
from trlaunch.emulator import ptx, syntax
from trlaunch.emulator.syntax import Immediate
from trlaunch.errors import EmulatorError, TrlaunchError

HEADER = ".version 8.7\n.target sm_80\n.address_size 64\n"
REAL = [c.text("ptx") for c in corpus.cases("3.6.0", "cuda:80") if c.name in ("add_kernel", "matmul_kernel")]


def body(statements: str) -> syntax.Body:
    module = ptx.parse(HEADER + ".entry k()\n{\n" + statements + "\n}\n")
    return ptx.parse_body(module, module.functions["k"])


def instructions(statements: str) -> list[syntax.Instruction]:
    return [s for s in body(statements).statements if isinstance(s, syntax.Instruction)]


@pytest.mark.parametrize("case", corpus.cases(level="ptx"), ids=str)
def test_every_body_of_the_corpus_is_read(case: corpus.Case) -> None:
    module = ptx.parse(case.bytes("ptx"))
    for function in module.functions.values():
        if function.stop:
            statements = ptx.parse_body(module, function).statements
            assert any(isinstance(s, syntax.Instruction) and s.opcode == "ret" for s in statements)
            for s in statements:
                if isinstance(s, syntax.Instruction):
                    assert s.opcode in module.line_text(s.line)


def test_registers_and_labels_belong_to_their_scope() -> None:
    first, second, outer = (
        i
        for i in instructions(
            ".reg .b32 %r<3>; .reg .pred p;\n"
            "{ .reg .pred p; wait: @p bra wait; }\n{ .reg .pred p; wait: @!p bra.uni wait; }\nmov.u32 %r1, %r2;"
        )
    )
    assert first.guard is not None
    assert second.guard is not None
    assert first.guard.index != second.guard.index
    assert first.target != second.target
    assert (first.guard_negated, second.guard_negated) == (False, True)
    assert outer.operands[0] is not outer.operands[1]


def test_a_branch_may_leave_its_scope() -> None:
    branch, _ = instructions("{ bra done; }\ndone: ret;")
    assert branch.target == 0


def test_constants() -> None:
    operands = instructions(
        ".reg .b32 %r<3>; .reg .b64 %d;\n"
        "foo 10, 0x1F, 017, 0b101, -5, 7U, 0f3F800000, 0d3FF0000000000000, 1.5,\n"
        "-0f3F800000, 18446744073709551615, WARP_SZ;"
    )[0].operands
    assert operands == (
        Immediate(10), Immediate(31), Immediate(15), Immediate(5), Immediate(-5), Immediate(7),
        Immediate(0x3F800000, "f32"), Immediate(0x3FF0000000000000, "f64"),
        Immediate(0x3FF8000000000000, "f64"), Immediate(0xBF800000, "f32"), Immediate((1 << 64) - 1),
        Immediate(32),
    )  # fmt: skip


def test_operands() -> None:
    made = instructions(
        ".reg .b32 %r<9>; .reg .pred %p<3>; .reg .b64 %rd<3>;\n"
        "@!%p1 x.y::z.b32 {%r1, _}, %r2|%p2, [%rd1+-8], [smem], [ %rd2 + 0x10 ], !%p1, (%r3), %tid.x, smem+4,\n"
        "[%rd1, {%r4}];"
    )[0]
    kinds = [type(o).__name__ for o in made.operands]
    assert made.opcode == "x.y::z.b32"
    assert " ".join(kinds) == "Vector Pair Address Address Address Negated Group Special Symbol Address"
    addresses = [o for o in made.operands if isinstance(o, syntax.Address)]
    assert [a.offset for a in addresses] == [-8, 0, 16, 0]
    assert len(addresses[3].rest) == 1


def test_positions_follow_loc() -> None:
    module = ptx.parse(
        HEADER
        + ".entry k()\n{\n.loc 1 7 3\nfoo;\n.loc 2 9 1, function_name $L__x0, inlined_at 1 8 2 // c\nbar;\n"
        + '.loc 1 0 0\nbaz;\n}\n.file 1 "a/b.py"\n.file 2 "c.py"\n'
    )
    made = [
        s.position
        for s in ptx.parse_body(module, module.functions["k"]).statements
        if isinstance(s, syntax.Instruction)
    ]
    assert made == [syntax.Position(1, 7, 3), syntax.Position(2, 9, 1, (1, 8, 2)), None]
    assert module.files == {1: "a/b.py", 2: "c.py"}


def test_initialised_variables() -> None:
    module = ptx.parse(
        HEADER
        + ".global .align 4 .b8 s[4] = {37, 100, -1, 0};\n.global .u64 t[2] = {s, generic(s)+4};\n"
        + ".global .f32 f = 0f3F800000;\n.global .b32 m[2][2] = {{1, 2}, {3, 4}};"
    )
    assert module.variables["s"].data == bytes([37, 100, 255, 0])
    assert module.variables["t"].addresses == ((0, "s", 0), (8, "s", 4))
    assert module.variables["f"].data == bytes.fromhex("0000803f")
    assert module.variables["m"].data == bytes.fromhex("01000000020000000300000004000000")


@pytest.mark.parametrize(
    "statements, message",
    [
        ("mov.u32 %r1, 0;", "line 6: register '%r1' is not declared"),
        (".reg .b32 %r<2>; mov.u32 %r2, 0;", "line 6: register '%r2' is not declared"),
        ("\nbra nowhere;", "line 7: label 'nowhere' is not defined"),
        ("{ in: } bra in;", "label 'in' is not defined"),
        ("a: a: ret;", "defined twice"),
        (".reg .b32 p; @p ret;", "not a declared predicate"),
        (".reg .b32 %r1; mov.u32 %r1 0;", "expected ','"),
        (".reg .b32 %r1; mov.u32 %r1, ((((((1))))));", "nested too deeply"),
        ("foo 99999999999999999999;", "more than 64 bits"),
        (".what;", "expected a statement"),
        ("ret", "expected"),
    ],
)
def test_malformed_bodies_are_refused_with_the_line(statements: str, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        body(statements)


def read_everything(text: str | bytes) -> None:
    try:
        module = ptx.parse(text)
        for function in module.functions.values():
            if function.stop:
                ptx.parse_body(module, function)
    except TrlaunchError as error:
        assert str(error)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_arbitrary_input_never_crashes(text: str | bytes) -> None:
    read_everything(text)


WORDS = st.sampled_from(
    [
        *(".reg", ".b32", ".pred", "%r", "<4>", "{", "}", "(", ")", "[", "]", ",", ";", ":", "@", "!", "|", "+", "-"),
        *("0x10", "-1", ".loc", ".shared", ".align", "x[8]", "=", ".entry", "foo", "mov.u32", "bra", "ret", "%r1"),
        *(".param", ".func", ".extern", ".global", "0f3F800000", '"s"', "//", "/*", "*/", ".section", ".file", ".v4"),
        *("99999999999999999999999", "k", ".version", "8.7"),
    ]
)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=40))
def test_sequences_of_ptx_words_never_crash(words: list[str]) -> None:
    read_everything(HEADER + " ".join(words))
    read_everything(HEADER + ".entry k() { " + " ".join(words) + " }")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(REAL), st.data())
def test_mutations_of_real_ptx_never_crash(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 60))
    insert = data.draw(st.one_of(WORDS, st.text(max_size=8)))
    read_everything(text[:at] + insert + text[at + length :])
