"""Traces of registers: against NumPy, and against dumps that are put into the PTX."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests import corpus
from tests.emulator.archive import cases
from trlaunch import EmulatorError, Fault, Kernel, at, emulator
from trlaunch.dump.ptx import instructions

RNG = np.random.default_rng(7)
# Each thread sums i * tid over i < n, n from memory: another number of rounds in each CTA; odd threads count twice.
LOOP = """\
.version 8.0
.target sm_80
.address_size 64
.visible .entry loop(
	.param .u64 loop_param_0
)
.reqntid 40
{
	.reg .pred %p<4>;
	.reg .b32 %r<9>;
	.reg .b64 %rd<4>;
	.reg .f32 %f<2>;
	.reg .b16 %h<2>;
	ld.param.u64 %rd1, [loop_param_0];
	mov.u32 %r1, %ctaid.x;
	mul.wide.u32 %rd2, %r1, 4;
	add.s64 %rd3, %rd1, %rd2;
	ld.global.u32 %r2, [%rd3];
	mov.u32 %r3, %tid.x;
	and.b32 %r6, %r3, 1;
	setp.ne.s32 %p3, %r6, 0;
	mov.u32 %r4, 0;
	mov.u32 %r5, 0;
	setp.eq.s32 %p1, %r2, 0;
	@%p1 bra $L_end;
$L_loop:
	mad.lo.s32 %r4, %r5, %r3, %r4;
	@%p3 add.s32 %r5, %r5, 1;
	add.s32 %r5, %r5, 1;
	setp.lt.s32 %p2, %r5, %r2;
	@%p2 bra $L_loop;
$L_end:
	cvt.rn.f32.s32 %f1, %r4;
	cvt.rn.f16.f32 %h1, %f1;
	ret;
}
"""
COUNTS = np.array([3, 0, 5, 4], np.int32)


def line(text: str, ptx: str = LOOP) -> int:
    return next(i for i, t in enumerate(ptx.split("\n"), 1) if t.strip().startswith(text))


def loop_kernel() -> Kernel:
    return Kernel.from_bytes(LOOP, signature="*i32", device="emulator")


def reference() -> tuple[list[list[list[int]]], list[list[list[int]]]]:
    """What each thread writes to %r4 and %r5, in order."""
    sums, indices = [], []
    for n in COUNTS.tolist():
        row_of_sums, row_of_indices = [], []
        for tid in range(40):
            total, i = [0], [0]
            while n and i[-1] < n:
                total.append(total[-1] + i[-1] * tid)
                if tid % 2:
                    i.append(i[-1] + 1)
                i.append(i[-1] + 1)
            row_of_sums.append(total)
            row_of_indices.append(i)
        sums.append(row_of_sums)
        indices.append(row_of_indices)
    return sums, indices


def test_every_write_of_every_thread() -> None:
    with emulator.trace("%r4", "%r5", "%p2", "%f1", "%h1") as traced:
        loop_kernel().launch(4, COUNTS)
    assert list(traced) == ["%r4", "%r5", "%p2", "%f1", "%h1"]
    for name, wanted in zip(("%r4", "%r5"), reference(), strict=True):
        history = traced[name]
        assert history.type == "s32"
        assert history.values.shape == (4, 40, max(len(t) for row in wanted for t in row))
        for cta, row in enumerate(wanted):
            for thread, values in enumerate(row):
                written = history.written[cta, thread]
                assert written.sum() == len(values)
                assert written[: len(values)].all()
                assert history.values[cta, thread, written].tolist() == values
                assert not history.values[cta, thread, ~written].any()
    sums = reference()[0]
    np.testing.assert_array_equal(traced["%f1"].values[..., 0], [[t[-1] for t in row] for row in sums])
    assert traced["%f1"].values.dtype == np.float32
    assert traced["%h1"].values.dtype == np.float16
    rounds = traced["%p2"].written.sum(axis=2)
    np.testing.assert_array_equal(rounds, [[len(t) - 1 for t in row] for row in sums])
    assert traced["%p2"].values.dtype == np.bool_


def test_lines_tell_the_writes_apart() -> None:
    with emulator.trace("%r5") as traced:
        loop_kernel().launch(4, COUNTS)
    history = traced["%r5"]
    twice = history.at(line("@%p3 add.s32"))
    odd = np.arange(40) % 2 == 1
    assert not twice.written[:, ~odd].any()
    np.testing.assert_array_equal(twice.values[2, 1], [1, 3, 5])
    assert set(np.unique(history.lines)) == {0, line("mov.u32 %r5"), line("@%p3 add.s32"), line("add.s32 %r5")}
    assert np.isnan(history.floats[~history.written]).all()
    with pytest.raises(EmulatorError, match="no write of %r5 on PTX line 1: it was written on lines"):
        history.at(1)


def test_a_type_says_how_bits_are_read() -> None:
    with emulator.trace("%f1:u32", "%r4:f32", "%r4:u16", "%r4:f16x2") as traced:
        loop_kernel().launch(4, COUNTS)
    assert traced["%f1:u32"].values.dtype == np.uint32
    np.testing.assert_array_equal(
        traced["%f1:u32"].values.view(np.float32)[2, 3, 0], np.float32(reference()[0][2][3][-1])
    )
    assert traced["%r4:f16x2"].values.shape == (*traced["%r4:f32"].values.shape, 2)
    np.testing.assert_array_equal(traced["%r4:u16"].values, traced["%r4:f32"].values.view(np.uint32).astype(np.uint16))


def test_launches_are_kept_apart_and_kernels_chosen() -> None:
    case = corpus.find("3.6.0", "cuda:80", "add_kernel")
    x = np.ones(16, np.float32)
    with emulator.trace("%r4", kernel="loop") as traced:
        loop_kernel().launch(4, COUNTS)
        Kernel.from_file(case.path("ptx"), device="emulator").launch(1, x, x, np.zeros_like(x), 16)
        loop_kernel().launch(1, COUNTS[2:])
    assert [launch["%r4"].values.shape[0] for launch in traced.launches] == [4, 1]
    np.testing.assert_array_equal(traced["%r4"].values[0], traced.launches[0]["%r4"].values[2, :, :6][:, :6])
    with emulator.trace("%r4") as traced:
        pass
    assert len(traced) == 0
    with pytest.raises(KeyError, match="no launch was traced"):
        traced["%r4"]


def test_what_a_launch_wrote_until_it_died() -> None:
    text = LOOP.replace("cvt.rn.f16.f32 %h1, %f1;", "st.global.f32 [%rd3+4096], %f1;")
    with emulator.trace("%f1") as traced, pytest.raises(Fault):
        Kernel.from_bytes(text, signature="*i32", device="emulator").launch(4, COUNTS)
    np.testing.assert_array_equal(traced["%f1"].values[..., 0], [[t[-1] for t in row] for row in reference()[0]])


@pytest.mark.parametrize(
    "name, message",
    [
        ("f12", "expected a register such as"),
        ("%r1:f12", "there is no type f12"),
        ("%r99", "no instruction of loop uses a register '%r99'"),
        ("helper:%r1", "no instruction of helper in loop uses a register '%r1'"),
        ("%h1:f32", "holds no value of .f32"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(EmulatorError, match=re.escape(message)), emulator.trace(name):
        loop_kernel().launch(4, COUNTS)


def test_a_limit() -> None:
    with pytest.raises(EmulatorError, match="beyond 64 bytes"), emulator.trace("%r4", limit=64):
        loop_kernel().launch(4, COUNTS)
    with pytest.raises(EmulatorError, match="trace of which register"):
        emulator.trace()


def test_chunks_of_ctas_are_put_together() -> None:
    """More CTAs than run at once, of different numbers of rounds."""
    counts = RNG.integers(0, 6, 700).astype(np.int32)
    with emulator.trace("%r4") as traced:
        loop_kernel().launch(700, counts)
    rounds = traced["%r4"].written[:, 0].sum(axis=1) - 1
    np.testing.assert_array_equal(rounds, counts)  # thread 0 counts one by one


@pytest.mark.parametrize("case", cases("noinline_kernel", target="cuda80"), ids=str)
def test_registers_of_a_function_that_is_called_twice(case: Any) -> None:
    x, y = (RNG.standard_normal(5).astype(np.float32) for _ in range(2))
    out = np.zeros_like(x)
    text = case.ptx.split("\n")
    fma = next(t for t in text if t.strip().startswith("fma.rn.f32"))
    result = re.findall(r"%\w+", fma)[0]
    function = next(t.split()[-1].strip("(") for t in text if t.startswith(".func") and "affine" in t)
    kernel = Kernel.from_bytes(case.ptx.encode(), case.metadata, level="ptx", device="emulator")
    with emulator.trace(f"{function}:{result}") as traced:
        kernel.launch(5, x, y, out)
    (history,) = traced.values()
    once = x * np.float32(3) + y
    assert history.values.shape == (5, 128, 2)
    np.testing.assert_allclose(history.values[:, 0], np.stack([once, once * 3 + x], axis=1), rtol=1e-6)


def test_the_accumulator_of_a_matmul() -> None:
    """The sum over the blocks so far, after each round of the loop, in the lanes of the mma."""
    case = corpus.find("3.6.0", "cuda:80", "matmul_kernel")
    m, n, k = 64, 64, 96
    a, b = RNG.integers(-3, 4, (m, k)).astype(np.float16), RNG.integers(-3, 4, (k, n)).astype(np.float16)
    c = np.zeros((m, n), np.float16)
    mma = next(t for t in case.text("ptx").split("\n") if t.strip().startswith("mma.sync"))
    names = re.findall(r"%r\d+", mma)[:4]
    with emulator.trace(*names) as traced:
        Kernel.from_file(case.path("ptx"), device="emulator").launch((1, 1), a, b, c, m, n, k, k, n, n)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    for name in names:
        history = traced[name]
        assert history.type == "f32"
        last = history.values[0, :, history.written[0].all(axis=0).nonzero()[0][-1]]
        assert np.isin(last, wanted).all()


@pytest.mark.parametrize("release", ["3.1.0", "3.6.0", "3.9.0"])
def test_dumps_of_a_kernel_are_what_the_trace_says(release: str) -> None:
    case = corpus.find(release, "cuda:80", "softmax_kernel")
    x = RNG.standard_normal((5, 781)).astype(np.float32)
    arguments = [np.zeros_like(x), x, 781, 781, 781]
    listed = [
        i for i in instructions(case.text("ptx"))
        if i.opcode in ("max.f32", "add.f32", "sub.f32", "ex2.approx.f32", "setp.lt.s32", "mul.lo.s32")
    ]  # fmt: skip
    listed = [*listed[:6], *listed[-6:]]
    asked = [at(op=i.opcode, line=i.line, label=f"v{n}") for n, i in enumerate(listed)]
    written = [re.findall(r"%\w+", case.text("ptx").split("\n")[i.line - 1]) for i in listed]
    targets = [names[0] for names in written]
    run = Kernel.from_file(case.path("ptx"), dump=asked, device="emulator").launch(5, *arguments)
    with emulator.trace(*dict.fromkeys(targets)) as traced:
        Kernel.from_file(case.path("ptx"), device="emulator").launch(5, *arguments)
    assert run is not None
    for n, (instruction, target) in enumerate(zip(listed, targets, strict=True)):
        dump, history = run.dumps[f"v{n}"], traced[target].at(instruction.line)
        np.testing.assert_array_equal(dump.written, history.written[..., 0], err_msg=target)
        wanted = history.values[..., 0].view(dump.values.dtype)
        assert dump.values.tobytes() == np.ascontiguousarray(wanted).tobytes(), (target, instruction)


def test_dumps_of_a_loop_are_what_the_trace_says() -> None:
    asked = [at(op="mad.lo.s32", keep=6, label="sum"), at(op="setp.lt.s32", keep=6, label="again")]
    counts = COUNTS.copy()
    run = Kernel.from_bytes(LOOP, signature="*i32", device="emulator", dump=asked).launch(4, counts)
    with emulator.trace("%r4", "%p2") as traced:
        loop_kernel().launch(4, COUNTS)
    assert run is not None
    for label, register, start in (("sum", "%r4", "mad.lo.s32"), ("again", "%p2", "setp.lt.s32 %p2")):
        dump, history = run.dumps[label], traced[register].at(line(start))
        rounds = history.values.shape[2]
        # A dump has the loop's axis before the threads'.
        np.testing.assert_array_equal(dump.written[:, :rounds].transpose(0, 2, 1), history.written)
        np.testing.assert_array_equal(dump.values[:, :rounds].transpose(0, 2, 1), history.values)
        assert not dump.written[:, rounds:].any()
