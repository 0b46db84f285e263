"""What is not executed is refused at load, with its line; and no text makes loading crash or hang."""

# ruff: noqa: E501, SIM905  (tables of PTX statements read best as rows)

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import corpus
from tests.emulator.launching import HEADER, wrap
from trlaunch.emulator.driver import EmulatorDriver
from trlaunch.emulator.image import read_image
from trlaunch.errors import EmulatorError, TrlaunchError, UnsupportedInstruction


def load(text: str | bytes) -> None:
    image = read_image(text)
    for kernel in image.kernels:
        EmulatorDriver.instance().load(image, kernel, 0)


def test_what_comes_after_sm_90_is_refused_with_its_line() -> None:
    text = wrap("mov.u32 %r1, 0;\ntcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%a0], 128;")
    with pytest.raises(UnsupportedInstruction, match="tcgen05 is not executed") as caught:
        load(text)
    line = int(str(caught.value).partition("PTX line ")[2].partition(":")[0])
    assert text.splitlines()[line - 1].startswith("tcgen05")


@pytest.mark.parametrize("case", [c for c in corpus.cases(level="ptx") if not c.name.startswith("cluster")], ids=str)
def test_every_kernel_without_clusters_loads(case: corpus.Case) -> None:
    load(case.bytes("ptx"))


@pytest.mark.parametrize("case", [c for c in corpus.cases(level="ptx") if c.name.startswith("cluster")], ids=str)
def test_clusters_are_refused(case: corpus.Case) -> None:
    with pytest.raises(UnsupportedInstruction, match="cluster"):
        load(case.bytes("ptx"))


@pytest.mark.parametrize(
    "body, message",
    [
        ("wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16 {%f1}, %d1, %d2, 1;", "is not executed"),
        ("mapa.shared::cluster.u32 %r1, %r2, 0;", "mapa is not executed"),
        ("add.rz.f16 %h1, %h2, %h3;", r"the rounding \.rz is not executed"),
        ("bar.red.popc.u32 %r1, 0, %p1;", "bar.red.popc.u32 is not executed"),
        ("add.u32 %r1, %r2;", "takes 3 operands, not 2"),
        ("mov.u32 %r1, nothing;", "'nothing' is not a variable"),
        ("add.u64 %d1, %d2, %r1;", "too narrow"),
        ("add.u64 %r1, %d2, %d1;", "cannot hold this result"),
        ("setp.eq.u32 %r1, %r2, %r3;", "cannot hold this result"),
        ("mov.u32 %r1, %clusterid.x;", "special register %clusterid.x"),
        ("add.wrong.u32 %r1, %r2, %r3;", r"the suffix \.wrong of add"),
        ("bra.wrong end; end:", r"the suffix \.wrong of bra"),
        ("call.uni (%r1), f, (%r2);", "a call of f is not executed"),
        ("atom.global.add.s64 %d1, [%a0], %d2;", "atom.global.add.s64 is not executed"),
    ],
)
def test_what_is_not_executed_says_so(body: str, message: str) -> None:
    with pytest.raises(UnsupportedInstruction, match=message) as caught:
        load(wrap("mov.u32 %r5, 0;\n" + body))
    assert body.partition(";")[0] in str(caught.value)


def test_every_refused_instruction_is_counted() -> None:
    with pytest.raises(UnsupportedInstruction, match=r"\(3 such instructions in k; this is the first\)"):
        load(wrap("tcgen05.a;\nmov.u32 %r1, 0;\ntcgen05.b;\ntcgen05.c;"))


def test_wide_registers_and_huge_variables() -> None:
    with pytest.raises(UnsupportedInstruction, match="more than 64 bits"):
        load(wrap(".reg .b128 %q; mov.b128 %q, {%d1, %d2};"))
    with pytest.raises(EmulatorError, match="at most 256 MiB"):
        load(wrap("mov.u64 %d1, big;", extra=".global .b8 big[1000000000];\n"))


ROOTS = (
    "add sub mul mad div rem min max neg abs and or xor not cnot shl shr shf lop3 prmt bfe bfi popc clz brev bfind setp "
    "set selp slct mov cvt cvta ld st atom red shfl vote match redux activemask fma sqrt rsqrt rcp sin cos lg2 ex2 tanh "
    "copysign testp bar barrier ldmatrix stmatrix mma cp isspacep createpolicy dp4a dp2a sad mul24 mad24 addc subc madc "
    "membar fence nanosleep bra ret exit trap elect mbarrier tensormap wgmma setmaxnreg call"
).split()
SUFFIXES = st.sampled_from(
    (
        "u8 s8 u16 s16 u32 s32 u64 s64 b16 b32 b64 f16 f16x2 bf16 bf16x2 f32 f64 pred tf32 lo hi wide cc sat rn rz rni rzi "
        "ftz approx full sync global shared param v2 v4 idx bfly ballot all m8n8 x4 trans aligned eq lt and add cas async "
        "ca commit_group wait_group to uni l wrap row col m16n8k16 relu NaN arrive warp volatile const bulk tensor 2d parity expect_tx try_wait mma_async m64n8k16 local "
        "replace tile b1024 shared::cta init e4m3x2 satfinite v8"
    ).split()
)
OPERANDS = st.sampled_from(
    ["%r1", "%r2", "%d1", "%h1", "%f1", "%g1", "%p1", "!%p1", "1", "-1", "0x10", "0f3F800000", "1.5", "[%a0]", "[%r1+4]",
     "[s]", "[k_0]", "s", "k", "{%r1, %r2}", "{%f1, %f2, %f3, %f4}", "{}", "%r1|%p1", "_", "%tid.x", "(%r1)", "[7]",
     "[%a0, {%r1}]", "%laneid", "missing"]
)  # fmt: skip


@st.composite
def statements(draw: st.DrawFn) -> str:
    root = draw(st.sampled_from(ROOTS))
    opcode = ".".join([root, *draw(st.lists(SUFFIXES, max_size=5))])
    guard = draw(st.sampled_from(["", "", "@%p1 ", "@!%p2 "]))
    return f"{guard}{opcode} {', '.join(draw(st.lists(OPERANDS, max_size=5)))};"


def load_or_refuse(text: str | bytes) -> None:
    try:
        load(text)
    except TrlaunchError as error:
        assert str(error)


@settings(max_examples=400, deadline=None)
@given(st.lists(statements(), min_size=1, max_size=4))
def test_arbitrary_instructions_never_crash(lines: list[str]) -> None:
    load_or_refuse(wrap("\n".join(lines), extra=".shared .align 16 .b8 s[64];\n"))


REAL = [corpus.find("3.6.0", "cuda:80", n).text("ptx") for n in ("add_kernel", "softmax_kernel", "matmul_kernel")]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(REAL), st.data())
def test_mutations_of_real_ptx_never_crash(text: str, data: st.DataObject) -> None:
    start = text.index(".entry")
    at = data.draw(st.integers(start, text.index(".section")))
    word = data.draw(
        st.one_of(SUFFIXES, OPERANDS, st.text(max_size=4), st.sampled_from([";", ",", ".", "%r9", "@", "}"]))
    )
    load_or_refuse(text[:at] + word + text[at + data.draw(st.integers(0, 12)) :])


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_arbitrary_text_never_crashes(text: str | bytes) -> None:
    load_or_refuse(text)
    if isinstance(text, str):
        load_or_refuse(HEADER + text)
