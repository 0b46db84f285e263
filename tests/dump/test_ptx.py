"""Dumps of PTX registers, per thread: kernels of every release, and PTX written for the purpose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import corpus
from trlaunch import ArgumentError, Kernel, at
from trlaunch.cuda.assembler import assemble
from trlaunch.dump.ptx import instructions

RNG = np.random.default_rng(3)

# Each thread sums i * tid over i < n, n from memory: another number of iterations in each program.
LOOP = """\
.version 8.0
.target sm_80
.address_size 64
.visible .entry loop(
	.param .u64 loop_param_0,
	.param .u64 loop_param_1
)
.reqntid 64
{
	.reg .pred %p<3>;
	.reg .b32 %r<8>;
	.reg .b64 %rd<5>;
	.reg .f64 %fd<2>;
	.reg .b16 %rs<2>;
	ld.param.u64 %rd1, [loop_param_0];
	mov.u32 %r1, %ctaid.x;
	mul.wide.u32 %rd2, %r1, 4;
	add.s64 %rd3, %rd1, %rd2;
	ld.global.u32 %r2, [%rd3];
	mov.u32 %r3, %tid.x;
	mov.u32 %r4, 0;
	mov.u32 %r5, 0;
	setp.eq.s32 %p1, %r2, 0;
	@%p1 bra $L_end;
$L_loop:
	mad.lo.s32 %r4, %r5, %r3, %r4;
	add.s32 %r5, %r5, 1;
	setp.lt.s32 %p2, %r5, %r2;
	@%p2 bra $L_loop;
$L_end:
	cvt.rn.f64.s32 %fd1, %r4;
	cvt.u16.u32 %rs1, %r4;
	{
	.reg .b32 inside;
	add.s32 inside, %r4, 7;
	mov.u32 %r6, inside;
	}
	ld.param.u64 %rd4, [loop_param_1];
	ld.global.v2.u32 {%r6, %r7}, [%rd4];
	ret;
}
"""


def captured(text: Any, dump: Any, grid: Any, *args: Any, **settings: Any) -> Any:
    make = Kernel.from_file if not isinstance(text, str) else Kernel.from_bytes
    run = make(text, dump=dump, device="emulator", **settings).launch(grid, *args)
    assert run is not None
    return run.dumps


def loop(dump: Any) -> Any:
    counts, pair = np.array([3, 0, 5], np.int32), np.array([11, 22], np.uint32)
    return captured(LOOP, dump, 3, counts, pair, signature="*i32, *i32")


@pytest.mark.parametrize("release", corpus.releases())
def test_registers_of_a_kernel_of_every_release(release):
    case = corpus.find(release, "cuda:80", "add_kernel")
    path, block = case.path("ptx"), case.constexprs["BLOCK"]
    n = 2 * block
    x, y = (RNG.standard_normal(n, dtype=np.float32) for _ in range(2))
    out, plain = np.zeros_like(x), np.zeros_like(x)
    listed = instructions(case.text("ptx"))
    sums = [i for i in listed if i.opcode.startswith("add.") and i.opcode.endswith("f32")]
    loads = [i for i in listed if i.opcode.startswith("ld.global")]
    asked = [at(op=s.opcode, line=s.line, dtype="fp32", label=f"sum{i}") for i, s in enumerate(sums)]
    asked.append(at(op=loads[0].opcode, line=loads[0].line, dtype="fp32", label="x"))
    asked.append(at(op="setp.lt.s32", nth=0, label="mask"))
    dumps = captured(path, asked, 2, x, y, out, n)
    got = np.stack([dumps[f"sum{i}"].values for i in range(len(sums))])
    np.testing.assert_array_equal(np.sort(got.reshape(-1)), np.sort(x + y))
    assert np.isin(dumps["x"].values, np.concatenate([x, [0]])).all()
    assert dumps["mask"].values.shape == (2, 128)
    assert dumps["mask"].values.all()
    assert dumps["x"].where.python is not None
    assert dumps["x"].where.python.file.endswith("kernels.py")
    Kernel.from_file(path, device="emulator").launch(2, x, y, plain, n)
    assert out.tobytes() == plain.tobytes()
    np.testing.assert_array_equal(out, x + y)


def test_iterations_are_counted_per_thread():
    line = next(i.line for i in instructions(LOOP) if i.opcode == "mad.lo.s32")
    with pytest.raises(ArgumentError, match=f"how often the loop around line {line} runs is not known .*keep=16"):
        loop(at(op="mad.lo.s32"))
    dump = loop(at(op="mad.lo.s32", keep=4, label="sum"))["sum"]
    assert dump.values.shape == (3, 4, 64)
    np.testing.assert_array_equal(dump.written.all(-1).sum(1), [3, 0, 4])
    triangle = np.array([0, 1, 3, 6])
    np.testing.assert_array_equal(dump.values[2], triangle[:, None] * np.arange(64))
    np.testing.assert_array_equal(dump.values[0, :3], triangle[:3, None] * np.arange(64))
    last = loop(at(op="mad.lo.s32", keep="last", label="sum"))["sum"]
    np.testing.assert_array_equal(last.values, np.array([3, 0, 10])[:, None] * np.arange(64))


def test_every_kind_of_register():
    line = next(i.line for i in instructions(LOOP) if i.opcode == "cvt.u16.u32")
    dumps = loop(
        [
            at("%fd1", label="double"),
            at("%rs1", label="half"),
            at("%r4", line=line, label="at a line"),
            at("%p1", label="none"),
            at("inside", label="inside", op="add.s32"),
            at(op="ld.global.v2.u32", label="pair"),
            at("%rd3", programs=[(1,)], label="address"),
        ]
    )
    total = np.array([3, 0, 10])[:, None] * np.arange(64)
    np.testing.assert_array_equal(dumps["double"].values, total.astype(np.float64))
    np.testing.assert_array_equal(dumps["half"].values, total.astype(np.uint16))
    np.testing.assert_array_equal(dumps["at a line"].values, total)
    np.testing.assert_array_equal(dumps["none"].values, np.array([False, True, False])[:, None] & np.ones(64, bool))
    np.testing.assert_array_equal(dumps["inside"].values, total + 7)
    np.testing.assert_array_equal(dumps["pair"].values, np.broadcast_to(np.uint32([11, 22]), (3, 64, 2)))
    assert dumps["address"].values.shape == (1, 64)
    assert len(np.unique(dumps["address"].values)) == 1


def test_captures_assemble():
    asked = [at("%fd1"), at("%p1"), at(op="mad.lo.s32", keep=2), at("inside", op="add.s32"), at(op="ld.global.v2.u32")]
    kernel = Kernel.from_bytes(LOOP, dump=asked, device="emulator", signature="*i32, *i32")
    assert assemble(kernel.code.ready.data, kernel.target).cubin


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (at("%r5"), r"2 instructions match, in lines \d+, \d+: add line= or nth="),
        (at("%nothing"), "no instruction matches"),
        (at("%r6", nth=5), "2 instructions match, there is no 5"),
        (at("%r2", dtype="fp64"), "dtype='fp64' does not fit a register of .b32"),
        (at("%r2", part=[None]), "part= is for tensors"),
        (at("%fd1", line=3), "no instruction matches"),
    ],
)
def test_what_cannot_be_captured_is_refused(asked, message):
    with pytest.raises(ArgumentError, match=message):
        loop(asked)


def test_a_cubin_is_refused_with_the_levels_beside_it():
    case = corpus.find("3.6.0", "cuda:80", "add_kernel")
    message = (
        "add_kernel.cubin is cubin, which captures cannot be put into; .*beside it there is ttir, ttgir, llir, ptx"
    )
    with pytest.raises(ArgumentError, match=message):
        Kernel.from_file(case.path("cubin"), dump="%r1")
