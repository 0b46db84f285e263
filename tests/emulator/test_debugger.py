"""The debugger: a kernel written for the purpose, followed step by step, and Triton's kernels of several releases."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trlaunch
import trlaunch.emulator
from tests import corpus
from tests.emulator.archive import cases
from trlaunch import ArgumentError, EmulatorError, Fault, Kernel
from trlaunch.emulator.debugger import Session
from trlaunch.emulator.debugger.expressions import Expression

PYTHON = """\
import triton
import triton.language as tl


@triton.jit
def sums(out, n):
    i = tl.arange(0, 64)
    total = 0
    for k in range(n):
        total += i + helper(i)
    tl.store(out + i, exchange(total))
"""
# Each thread adds its index and half of it n times, hands the sum to its neighbour in shared memory, and stores it.
PTX = """\
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 global_smem[];
.func (.param .b32 func_retval0) helper(.param .b32 helper_param_0)
{
	.reg .b32 %r<4>;
	.loc 2 3 5
	ld.param.b32 %r1, [helper_param_0];
	.loc 2 4 5
	shr.u32 %r2, %r1, 1;
	st.param.b32 [func_retval0], %r2;
	ret;
}
.visible .entry sums(
	.param .u64 sums_param_0,
	.param .u32 sums_param_1
)
.reqntid 64
{
	.reg .pred %p<3>;
	.reg .b32 %r<16>;
	.reg .b64 %rd<4>;
	.loc 1 6 0
	ld.param.u64 %rd1, [sums_param_0];
	ld.param.u32 %r9, [sums_param_1];
	.loc 1 7 9
	mov.u32 %r1, %tid.x;
	mov.u32 %r8, %ctaid.x;
	.loc 1 8 13
	mov.b32 %r2, 0;
	mov.b32 %r3, 0;
$L_loop:
	.loc 1 10 18
	{
	.param .b32 param0;
	st.param.b32 [param0], %r1;
	.param .b32 retval0;
	call.uni (retval0), helper, (param0);
	ld.param.b32 %r10, [retval0];
	}
	add.s32 %r2, %r2, %r1;
	add.s32 %r2, %r2, %r10;
	.loc 1 9 5
	add.s32 %r3, %r3, 1;
	setp.lt.s32 %p1, %r3, %r9;
	@%p1 bra $L_loop;
	.loc 2 9 4                // helpers.py:9:4 @[ sums.py:11:23 ]
	shl.b32 %r4, %r1, 2;
	mov.b32 %r5, global_smem;
	add.s32 %r6, %r5, %r4;
	st.shared.b32 [%r6], %r2;
	bar.sync 0;
	xor.b32 %r11, %r4, 4;
	add.s32 %r12, %r5, %r11;
	ld.shared.b32 %r13, [%r12];
	.loc 1 11 5
	mad.lo.s32 %r14, %r8, 64, %r1;
	mul.wide.u32 %rd2, %r14, 4;
	add.s64 %rd3, %rd1, %rd2;
	st.global.b32 [%rd3], %r13;
	cvt.rn.f32.s32 %r15, %r13;
	ret;
}
	.file 1 "sums.py"
	.file 2 "/nowhere/helpers.py"
"""
LINE = {text.strip(): number for number, text in reversed(list(enumerate(PTX.split("\n"), 1)))}
ROUNDS = 5


def expected() -> np.ndarray:
    i = np.arange(64)
    return ROUNDS * (i + i // 2)[i ^ 1]


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    (tmp_path / "sums.py").write_text(PYTHON)
    file = tmp_path / "sums.ptx"
    file.write_text(PTX)
    return Kernel.from_file(file, signature="*i32, i32", device="emulator", shared=256)


def debugged(kernel: Kernel, *commands: str, grid: Any = 3, size: int | None = None) -> tuple[Session, np.ndarray]:
    out = np.zeros(64 * 3 if size is None else size, np.int32)
    return kernel.debug(grid, out, ROUNDS, commands=commands), out


def answer(session: Session, command: str) -> list[str]:
    return session.execute(command).splitlines()


def test_stands_before_the_first_instruction_and_runs_to_the_end(kernel: Kernel) -> None:
    session, out = debugged(kernel)
    assert session.ptx_line == LINE["ld.param.u64 %rd1, [sums_param_0];"]
    assert session.line is not None
    assert (session.line.name, session.line.line) == ("sums.py", 6)
    assert session.run().kind == "exited"
    assert not session.running
    np.testing.assert_array_equal(out.reshape(3, 64), np.broadcast_to(expected(), (3, 64)))
    with pytest.raises(EmulatorError, match="ended"):
        session.step()


def test_steps_are_instructions_of_the_thread_in_focus(kernel: Kernel) -> None:
    session, _ = debugged(kernel)
    lines = [session.ptx_line]
    while session.step().kind == "step":
        lines.append(session.ptx_line)
    before = range(lines[0], LINE["mov.b32 %r3, 0;"] + 1)
    texts = PTX.split("\n")
    straight = [n for n in before if not texts[n - 1].strip().startswith(".")]
    # Parameters of the call lie in the frame: storing and loading them are instructions, the call itself is none.
    body = ["st.param.b32 [param0], %r1;", "ld.param.b32 %r1, [helper_param_0];", "shr.u32 %r2, %r1, 1;",
            "st.param.b32 [func_retval0], %r2;", "ret;", "ld.param.b32 %r10, [retval0];", "add.s32 %r2, %r2, %r1;",
            "add.s32 %r2, %r2, %r10;", "add.s32 %r3, %r3, 1;", "setp.lt.s32 %p1, %r3, %r9;",
            "@%p1 bra $L_loop;"]  # fmt: skip
    rest = range(LINE["shl.b32 %r4, %r1, 2;"], LINE["cvt.rn.f32.s32 %r15, %r13;"] + 2)
    assert lines == [
        *straight,
        *[LINE[text] for text in body] * ROUNDS,
        *[n for n in rest if not texts[n - 1].strip().startswith(".")],
    ]


def test_registers_are_those_of_the_threads(kernel: Kernel) -> None:
    session, _ = debugged(kernel, f"break {LINE['bar.sync 0;']}", "run")
    i = np.arange(64)
    assert session.registers["%r2"].dtype == np.int32
    np.testing.assert_array_equal(session.registers["%r2"], ROUNDS * (i + i // 2))
    np.testing.assert_array_equal(session.registers["%p1"], np.zeros(64, bool))
    np.testing.assert_array_equal(session.register("%tid.x"), i)
    np.testing.assert_array_equal(session.register("%r1", "f32"), i.astype(np.int32).view(np.float32))
    np.testing.assert_array_equal(session.shared(0, 64, np.int32), ROUNDS * (i + i // 2))
    assert session.shared_written(0, 256).all()
    session.focus(cta=2)
    np.testing.assert_array_equal(session.registers["%r8"], np.full(64, 2))
    assert "%r13" in session.registers
    assert len(session.registers) == len(list(session.registers)) == 18
    with pytest.raises(KeyError, match="%r99"):
        session.registers["%r99"]


def test_a_name_means_the_register_of_the_function_in_focus(kernel: Kernel) -> None:
    session, _ = debugged(kernel, f"break {LINE['shr.u32 %r2, %r1, 1;']}", "run", "run", "step")
    i = np.arange(64)
    assert set(session.registers) == {"%r1", "%r2"}
    np.testing.assert_array_equal(session.registers["%r2"], i // 2)
    session.finish()
    np.testing.assert_array_equal(session.registers["%r2"], i + i // 2)


def test_breakpoints_by_line_file_label_and_condition(kernel: Kernel) -> None:
    loop = LINE["st.param.b32 [param0], %r1;"]
    for place, line in (
        (str(loop), loop),
        (str(loop - 4), loop),  # a line without an instruction: the next one that has one
        ("$L_loop", loop),
        (":10", loop),
        ("sums.py:10", loop),
        ("helpers.py:4", LINE["shr.u32 %r2, %r1, 1;"]),
        ("nowhere/helpers.py:9", LINE["shl.b32 %r4, %r1, 2;"]),
    ):
        session, _ = debugged(kernel, f"break {place}", "run")
        assert session.stop is not None
        assert session.stop.kind == "breakpoint", place
        assert session.ptx_line == line, place
        session.close()
    session, _ = debugged(kernel, f"break {loop} if %r3 == 3 and %tid.x == 40 && %ctaid.x == 1", "run")
    assert (session.cta, session.thread) == ((1, 0, 0), (40, 0, 0))
    np.testing.assert_array_equal(session.registers["%r3"], np.full(64, 3))
    assert session.stop.lanes.sum() == 1
    assert session.run().kind == "exited"


@pytest.mark.parametrize(
    "command, message",
    [
        ("break 9999", "no instruction on or after PTX line 9999: sums has them on lines"),
        ("break sums.py:99", "the nearest lines with code are"),
        ("break other.py:3", "no code of a file 'other.py': the PTX states lines of helpers.py, sums.py"),
        ("break $L_none", "is no place"),
        ("break 40 if", "error: 'break' "),
        ("break 40 if %r3 ==", "is not understood"),
        ("break 40 if %r77 == 1", "uses a register '%r77'"),
        ("break 40 if __import__('os')", "is not understood"),
        ("break 40 if ~f32(%r1) == 1", "cannot be computed"),
        ("watch arg0[0] if %r99 > 1", "uses a register '%r99'"),
        ("delete 7", "there is no breakpoint or watchpoint 7: none is set"),
        ("cta 3", r"there is no CTA \(3\): the launch has 3 x 1 x 1"),
        ("thread 64", r"there is no thread \(64\)"),
        ("warp 2", "expected 0 to 1"),
        ("print %r77", "uses a register '%r77'"),
        ("print/q %r1", "there is no format /q"),
        ("print nothing", "has no argument 'nothing': expected one of arg0, arg1"),
        ("print 1+", "'1[+]' is not understood: expected something like"),
        ("print arg1 + 1", "is not understood"),
        ("print 1/0", "'1/0' cannot be computed: division by zero"),
        ("print arg0[64, 2]", "there is no such element"),
        ("watch arg1[0]", "is no array: it is a i32"),
        ("watch 4096 4", "are in no array of the launch"),
        ("shared 254 1 u32", "shared memory has 256 bytes: 4 from 254 are not in it"),
        ("memory arg0 500", "arg0 has 192 elements"),
        ("memory arg0 -1", "arg0 has 192 elements: there is none -1"),
        ("memory arg0 0 -1", "'-1': expected a positive number"),
        ("memory 4096 -1", "'-1': expected a positive number"),
        ("shared 0 -1", "'-1': expected a positive number"),
        ("step -1", "expected a positive number"),
        ("step none", "expected a positive number"),
        ("frobnicate", "no command 'frobnicate'"),
        ("st", "may be"),
        ("info nothing", "expected one of breakpoints, registers"),
    ],
)
def test_wrong_commands_are_answered(kernel: Kernel, command: str, message: str) -> None:
    session, _ = debugged(kernel)
    said = session.execute(command)
    if command == "break 40 if":  # a place of that name
        assert said.startswith("error: ")
    elif command == "st":
        assert session.ptx_line > LINE["ld.param.u64 %rd1, [sums_param_0];"]  # step
    else:
        assert said.startswith("error: ")
        assert re.search(message, said), said
    assert session.running


def test_next_until_and_finish_follow_python_lines(kernel: Kernel) -> None:
    session, _ = debugged(kernel)

    def line() -> int:
        assert session.line is not None
        return session.line.line

    seen = [line()]
    for _ in range(7):
        session.next()
        seen.append(line())
    assert seen == [6, 7, 8, 10, 9, 10, 9, 10]  # over the call, round the loop
    session.step(2)
    assert [f.function for f in session.backtrace()] == ["helper", "sums"]
    session.finish()
    assert session.ptx_line == LINE["ld.param.b32 %r10, [retval0];"]
    session.until()
    assert line() == 11  # behind the loop
    assert session.ptx_line == LINE["shl.b32 %r4, %r1, 2;"]
    frames = session.backtrace()
    assert [(f.name, f.line, f.inlined) for f in frames] == [("helpers.py", 9, True), ("sums.py", 11, False)]
    session.finish()  # out of what was inlined
    assert session.ptx_line == LINE["mad.lo.s32 %r14, %r8, 64, %r1;"]
    assert session.finish().kind == "exited"


def test_until_a_line(kernel: Kernel) -> None:
    session, _ = debugged(kernel, "until 10")
    assert session.line is not None
    assert session.line.line == 10
    session.until(11)
    np.testing.assert_array_equal(session.registers["%r3"], np.full(64, ROUNDS))


def test_watchpoints_stop_behind_the_change(kernel: Kernel) -> None:
    session, out = debugged(kernel, "watch arg0[70]", "watch shared 8 4 if %tid.x == 2", "run")
    assert session.stop is not None
    assert session.stop.kind == "watchpoint"
    assert f"shared 8 4 changed from 0xffffffff to {ROUNDS * 3:#010x}" in session.stop.what
    assert session.thread == (2, 0, 0)
    assert session.ptx_line == LINE["bar.sync 0;"]
    stop = session.run()
    assert "watchpoint 1: arg0[70] changed from 0 to" in stop.what
    assert f"to {expected()[6]} at PTX line {LINE['st.global.b32 [%rd3], %r13;']}" in stop.what
    assert (session.cta, session.thread) == ((1, 0, 0), (6, 0, 0))
    assert out[70] == expected()[6]
    assert session.run().kind == "exited"


def test_temporary_disabled_and_deleted_breakpoints(kernel: Kernel) -> None:
    loop = LINE["add.s32 %r2, %r2, %r1;"]
    session, _ = debugged(kernel, f"tbreak {loop}", f"break {loop + 1}")
    assert "temporary breakpoint 1" in session.execute("continue")
    assert "breakpoint 2" in session.execute("continue")
    assert answer(session, "info breakpoints")[1].split()[:3] == ["2", "break", "yes"]
    session.execute("disable 2")
    assert answer(session, "info breakpoints")[1].split()[:3] == ["2", "break", "no"]
    session.execute("until")
    session.execute("enable")
    assert answer(session, "info breakpoints")[1].split()[-1] == "1"
    session.execute("delete")
    assert answer(session, "info breakpoints") == ["no breakpoints"]


def test_a_fault_is_looked_at_where_it_happened(kernel: Kernel) -> None:
    session, out = debugged(kernel, "run", size=160)
    assert session.fault is not None
    assert session.fault.kind == "out-of-bounds"
    assert (session.cta, session.thread) == ((2, 0, 0), (32, 0, 0))
    assert session.ptx_line == LINE["st.global.b32 [%rd3], %r13;"]
    np.testing.assert_array_equal(session.registers["%r13"], expected())
    address = session.registers["%rd3"].astype(np.uint64)
    assert address[32] == out.ctypes.data + out.nbytes
    assert "the kernel died of a fault, out-of-bounds" in session.execute("continue")
    assert isinstance(session.engine.error, Fault)
    assert "died" in repr(session)
    said = session.execute("run")
    assert "launching anew" in said
    assert session.fault is not None


def test_a_deadlock_is_looked_at_where_the_threads_wait() -> None:
    text = (
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_param_0)\n.reqntid 64\n{\n"
        ".reg .pred %p<2>; .reg .b32 %r<2>;\nmov.u32 %r1, %tid.x;\nsetp.lt.u32 %p1, %r1, 32;\n"
        "@%p1 bra $L_one;\nbar.sync 1;\nbra.uni $L_end;\n$L_one:\nbar.sync 2;\n$L_end:\nret;\n}\n"
    )
    session = Kernel.from_bytes(text, signature="*i32").debug(1, np.zeros(1, np.int32), commands=["run", "info warps"])
    assert session.fault is not None
    assert session.fault.kind == "deadlock"
    warps = [line.strip("* ").split() for line in answer(session, "info warps")[1:]]
    assert [w[:5] for w in warps] == [
        ["0", "0xffffffff", "barrier", "2", "14"], ["1", "0xffffffff", "barrier", "1", "11"]
    ]  # fmt: skip
    said = "\n".join(answer(session, "info barriers"))
    assert "barrier 1: 32 of 64 threads, warps 1 (PTX line 11)" in said
    assert "barrier 2: 32 of 64 threads, warps 0 (PTX line 14)" in said


def test_what_commands_say(kernel: Kernel) -> None:
    """The whole of a session as text: it is the same each time."""
    commands = [
        "break :11 if %tid.x == 33", "run", "print %r1", "print/x %r2", "p %r1 * 2 + 1", "p f32(%r1)", "step 5",
        "backtrace", "info line", "list python", f"list {LINE['bar.sync 0;']}", "shared 0 4 i32", "info shared",
        "x/4d shared:8", "memory arg0 0 4", "p arg1", "cta 1", "thread 3", "warp 1", "help step",
    ]  # fmt: skip
    one, _ = debugged(kernel, *commands)
    two, _ = debugged(kernel, "\n".join(commands[:3]), "; ".join(commands[3:]))
    assert one.transcript == two.transcript
    said = one.transcript
    for part in (
        f"breakpoint 1 at sums.py:11 (PTX line {LINE['shl.b32 %r4, %r1, 2;']}) if %tid.x == 33",
        "breakpoint 1: 3 lanes in 3 CTAs",
        "[CTA (0,0,0), thread (33,0,0) (warp 1, lane 1)]",
        "sums at sums.py:11, in helpers.py:9",
        "      11  tl.store(out + i, exchange(total))",
        f"=>    {LINE['shl.b32 %r4, %r1, 2;']}  shl.b32 %r4, %r1, 2;",
        "%r1 .s32, CTA (0,0,0) warp 1, active 0xffffffff\n  lanes    0..7: 32 33 34 35 36 37 38 39\n",
        "  lanes   8..15: 40 41 42 43 44 45 46 47\n",
        "%r2 .b32, CTA (0,0,0) warp 1, active 0xffffffff\n  lanes    0..7:  0xf0",
        "lanes    0..7:  65  67  69  71",
        "#0  helpers.py:9 [inlined], PTX line",
        "#1  sums at sums.py:11, PTX line",
        "=>    11      tl.store(out + i, exchange(total))",
        "  0x0:  0  5 15 20",
        "256 bytes, 256 of them written: 0x0..0xff",
        "  0x8: 15 20 30 35",
        "  [0]: 0 0 0 0",
        "arg1 = 5 (i32)",
        "step [N]: execute N instructions",
    ):
        assert part in said, part
    assert re.search(r"\n=> +\d+ +xor.b32 %r11, %r4, 4;\n", said)
    assert re.search(r"\n +\d+ +bar.sync 0;\n", said)


def test_help_lists_every_command(kernel: Kernel) -> None:
    session, _ = debugged(kernel)
    said = session.execute("help")
    for command in COMMANDS.split():
        assert command in said.split()
        about = session.execute(f"help {command}")
        assert about.startswith(command), about


def test_information_about_arguments_registers_and_warps(kernel: Kernel) -> None:
    session, out = debugged(kernel, f"break {LINE['add.s32 %r3, %r3, 1;']}", "run")
    rows = [line.split() for line in answer(session, "info args")]
    assert rows[1] == ["parameter", "0", "*i32", f"{out.ctypes.data:#x}", "i32", "192"]
    assert rows[2] == ["parameter", "1", "i32", "5"]
    registers = {line.split()[0]: line.split()[1:] for line in answer(session, "info registers")[1:]}
    assert registers["%r9"] == [".s32", "5"]
    assert registers["%r1"][:2] == [".s32", "0"]
    assert "differs" in registers["%r1"]
    assert [name for name in registers if name.startswith("%r") and name[2].isdigit()] == [
        f"%r{i}" for i in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15)
    ]
    warps = answer(session, "info warps")
    assert len(warps) == 3
    assert warps[1].split()[:5] == ["*", "0", "0xffffffff", "running", str(LINE["add.s32 %r3, %r3, 1;"])]


def test_stepping_changes_nothing(kernel: Kernel) -> None:
    plain = np.zeros(192, np.int32)
    kernel.launch(3, plain, ROUNDS)
    session, out = debugged(kernel, "step 20", "continue")
    np.testing.assert_array_equal(out, plain)
    again = np.zeros(192, np.int32)
    kernel.launch(3, again, ROUNDS)
    np.testing.assert_array_equal(again, plain)
    function = kernel._loaded[kernel.device].function
    assert function is not None
    assert len(function.handle.blocks) < len(session.engine.program.blocks)


def test_ctas_beyond_the_chunk_that_runs(kernel: Kernel) -> None:
    out = np.zeros(64 * 300, np.int32)
    session = kernel.debug(300, out, ROUNDS, commands=["cta 299"])
    assert "CTA (299, 0, 0) has not started: CTAs (0, 0, 0) to" in session.transcript
    session.break_(LINE["bar.sync 0;"], "%ctaid.x == 299")
    session.run()
    assert session.cta == (299, 0, 0)
    assert "has ended" in session.execute("cta 0")
    session.close()
    assert not session.running


def test_leaving_a_session_ends_the_launch(kernel: Kernel) -> None:
    with debugged(kernel)[0] as session:
        session.step()
        assert session.running
        thread = session.engine._thread
    assert not session.running
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()


def test_a_session_that_is_forgotten_ends_its_launch(kernel: Kernel) -> None:
    thread = debugged(kernel, "step 3")[0].engine._thread
    assert thread is not None
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_interrupting_a_kernel_that_does_not_end() -> None:
    text = (
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 k_param_0)\n.reqntid 32\n{\n"
        ".reg .b32 %r<2>;\nmov.b32 %r1, 0;\n$L_loop:\nadd.s32 %r1, %r1, 1;\nbra.uni $L_loop;\n}\n"
    )
    session = Kernel.from_bytes(text, signature="*i32").debug(1, np.zeros(1, np.int32), commands=[])
    done = threading.Event()

    def press() -> None:
        while not done.wait(0.1):
            os.kill(os.getpid(), signal.SIGINT)

    def pressed(_: int, frame: FrameType | None) -> None:
        while frame is not None:  # before the session waits for the kernel, Ctrl-C is not its business
            if frame.f_code.co_name == "_wait" and not done.is_set():
                done.set()
                raise KeyboardInterrupt
            frame = frame.f_back

    finger = threading.Thread(target=press)
    before = signal.signal(signal.SIGINT, pressed)
    try:
        finger.start()
        assert session.run().kind == "interrupt"
    finally:
        done.set()
        finger.join()
        signal.signal(signal.SIGINT, before)
    first = session.registers["%r1"][0]
    assert first > 0
    session.step(2)
    assert session.registers["%r1"][0] == first + 1
    session.close()


def test_wrong_arguments_are_refused_as_by_a_launch(kernel: Kernel) -> None:
    with pytest.raises(ArgumentError, match="parameter 1"):
        kernel.debug(1, np.zeros(64, np.int32), commands=[])
    with pytest.raises(EmulatorError, match="grid of no programs"):
        kernel.debug(0, np.zeros(64, np.int32), 3, commands=["run"])
    with pytest.raises(ArgumentError, match="no terminal"):
        kernel.debug(1, np.zeros(64, np.int32), 3)


PIECES = [*"%r123pf.()+-*/<>=!&|~^ ['", " and ", " or ", " not ", "f32(", "0x1", "%tid.x", "True"]
EXPRESSIONS = st.lists(st.sampled_from(PIECES), max_size=20).map("".join)


@given(EXPRESSIONS | st.text(max_size=20))
def test_expressions_are_read_or_refused(text: str) -> None:
    lanes = np.arange(8, dtype=np.int32).reshape(1, 8)
    try:
        expression = Expression(text)
        with np.errstate(all="ignore"):
            found = expression.evaluate(lambda name, kind: lanes.view(np.float32) if kind == "f32" else lanes)
    except EmulatorError:
        return
    np.broadcast_to(found, (1, 8))


@given(
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), st.integers(-5, 9),
    st.sampled_from(["and", "or", "&&", "||"]), st.integers(-5, 9),
)  # fmt: skip
def test_conditions_are_those_of_python(compare: str, one: int, join: str, two: int) -> None:
    lanes = np.arange(8, dtype=np.int32)
    found = Expression(f"%r1 {compare} {one} {join} not (%r1 * 2 - 3 == {two})").evaluate(lambda *_: lanes)
    word = {"&&": "and", "||": "or"}.get(join, join)
    wanted = [eval(f"r {compare} {one} {word} not (r * 2 - 3 == {two})", {"r": int(r)}) for r in lanes]
    np.testing.assert_array_equal(found.astype(bool), wanted)


COMMANDS = """
break tbreak delete enable disable run continue step next until finish cta thread warp print info shared memory x watch
backtrace list quit
"""
ARGUMENTS = """
p/x x/4x 1 2 40 0x10 :10 sums.py:10 $L_loop if %r1 %p1 f32(%r2) == < 3 arg0 arg0[3] arg1 warps args registers barriers
line shared:8 fp16 u8 bf16 , -1 99999999999 ( [ % /
"""
# What runs the kernel is left out: a kernel that stands still has more to say.
WORDS = st.sampled_from([w for w in (COMMANDS + ARGUMENTS).split() if w not in ("run", "continue", "quit")])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=st.lists(st.lists(WORDS, min_size=1, max_size=5).map(" ".join), min_size=1, max_size=8))
def test_no_command_breaks_a_session(kernel: Kernel, commands: list[str]) -> None:
    session, _ = debugged(kernel, *commands)
    with session:
        assert session.transcript.count("(trlaunch) ") >= len(commands)
        assert "Traceback" not in session.transcript


# Triton's kernels.


@pytest.mark.parametrize("release", ["3.0.0", "3.2.0", "3.6.0", "3.9.0"])
def test_the_sum_of_a_triton_kernel(release: str) -> None:
    case = corpus.find(release, "cuda:80", "add_kernel")
    n = 2 * case.constexprs["BLOCK"]
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    out = np.zeros_like(x)
    store = next(i for i, t in enumerate(case.text("ptx").split("\n"), 1) if "st.global" in t)
    session = Kernel.from_file(case.path("ptx")).debug(2, x, y, out, n, commands=[f"break {store}", "run"])
    names = re.findall(r"%[rf]\d+", case.text("ptx").split("\n")[store - 1].partition("{")[2])
    assert len(names) == 4
    sums = np.stack([session.register(name, "f32") for name in names], axis=1)
    assert all(session.registers[name].dtype == np.float32 for name in names)
    np.testing.assert_array_equal(np.sort(sums.ravel()), np.sort((x + y)[np.isin(x + y, sums)]))
    assert np.isin(sums, x + y).all()
    assert session.line is not None
    assert session.line.name == "kernels.py"
    assert "*fp32" in answer(session, "info args")[1].split()
    assert session.run().kind == "exited"
    np.testing.assert_array_equal(out, x + y)


@pytest.mark.parametrize("release, depth", [("3.2.0", 1), ("3.6.0", 3), ("3.9.0", 3)])
def test_lines_that_were_inlined(release: str, depth: int) -> None:
    """Since 3.4 the PTX says what ``tl.max`` was inlined into: in a comment, from 3.8 on in ``inlined_at``."""
    case = corpus.find(release, "cuda:80", "softmax_kernel")
    x = np.zeros((1, 781), np.float32)
    most = next(i for i, t in enumerate(case.text("ptx").split("\n"), 1) if t.strip().startswith("max.f32"))
    with Kernel.from_file(case.path("ptx")).debug(
        1, np.zeros_like(x), x, 781, 781, 781, commands=[f"break {most}", "run"]
    ) as session:
        frames = session.backtrace()
        assert len(frames) == depth
        assert frames[0].name == "standard.py"
        if depth > 1:
            assert (frames[-1].name, frames[-1].line, frames[-1].function) == ("kernels.py", 32, "softmax_kernel")
            assert "tt.reduce" in session.execute("list python")
            assert "standard.py" in session.execute("info line")


@pytest.mark.parametrize("case", cases("noinline_kernel", target="cuda80"), ids=str)
def test_a_triton_function_that_is_not_inlined(case: Any) -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal(5).astype(np.float32) for _ in range(2))
    out = np.zeros_like(x)
    kernel = Kernel.from_bytes(case.ptx.encode(), case.metadata, level="ptx", signature="*fp32, *fp32, *fp32")
    line = next(i for i, t in enumerate(case.ptx.split("\n"), 1) if t.strip().startswith("fma.rn.f32"))
    session = kernel.debug(5, x, y, out, commands=[f"break {line}", "run"])
    frames = session.backtrace()
    assert "affine" in frames[0].function
    assert frames[1].function == "noinline_kernel"
    assert frames[0].file
    first = frames[1].ptx_line
    session.step()
    written = re.findall(r"%\w+", case.ptx.split("\n")[line - 1])[0]
    np.testing.assert_allclose(session.registers[written][0], x[0] * 3 + y[0], rtol=1e-6)
    session.run()
    assert session.backtrace()[1].ptx_line > first
    assert session.run().kind == "exited"
    np.testing.assert_allclose(out, (x * 3 + y) * 3 + x, rtol=1e-6)


@pytest.mark.parametrize("case", cases("specialised_kernel"), ids=str)
def test_specialised_warps_stand_at_different_places(case: Any) -> None:
    m, n, k = 128, 192, 256
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
    c = np.zeros((m, n), np.float16)
    x, y = (trlaunch.TensorDescriptor(t, block_shape=(64, 64)) for t in (a, b))
    kernel = Kernel.from_bytes(case.ptx.encode(), case.metadata, level="ptx")
    line = next(i for i, t in enumerate(case.ptx.split("\n"), 1) if t.strip().startswith("wgmma.mma_async"))
    session = kernel.debug((2, 3), x, y, c, n, k, commands=[f"break {line}", "run"])
    assert session.ptx_line == line
    rows = [text[2:].split() for text in answer(session, "info warps")[1:]]
    assert sorted(int(row[0]) for row in rows) == list(range(12))
    places = {tuple(row[2:4]) for row in rows}
    assert len(places) >= 3  # producers, consumers, and who waits for an mbarrier
    assert ("running", str(line)) in places
    assert any("mbarrier" in text for text in answer(session, "info barriers"))
    warp = next(int(row[0]) for row in rows if row[2] == "ready")
    session.focus(warp=warp)
    before = session.ptx_line
    session.step()
    assert session.ptx_line > before
    assert session.execute("delete") == ""
    assert session.run().kind == "exited"
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=2e-3, atol=2e-3)


def _flash(rng: np.random.Generator) -> tuple[tuple[int, ...], list[Any]]:
    q, k, v = (rng.standard_normal((2, 128, 64)).astype(np.float16) for _ in range(3))
    return (2, 2), [q, k, v, np.zeros_like(q), 0.125, 128 * 64, 128]


def _persistent(rng: np.random.Generator) -> tuple[tuple[int, ...], list[Any]]:
    m, n, k = 128, 192, 128
    a, b = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
    maps = [trlaunch.TensorDescriptor(t, block_shape=(64, 64)) for t in (a, b, np.zeros((m, n), np.float16))]
    return (6,), [*maps, m, n, k]


def _sort(rng: np.random.Generator) -> tuple[tuple[int, ...], list[Any]]:
    x = rng.standard_normal((4, 128)).astype(np.float32)
    return (4,), [x, np.zeros_like(x)]


def _collatz(rng: np.random.Generator) -> tuple[tuple[int, ...], list[Any]]:
    x = rng.integers(1, 300, 256).astype(np.int32)
    return (2,), [x, np.zeros_like(x), 256]


@pytest.mark.parametrize(
    "name, make",
    [
        ("flash_kernel", _flash),
        ("persistent_kernel", _persistent),
        ("sort_kernel", _sort),
        ("collatz_kernel", _collatz),
    ],
)
def test_bits_are_those_of_a_plain_launch(name: str, make: Any) -> None:
    """What a kernel computes does not depend on whether somebody follows its instructions."""
    case = next(c for c in cases(name) if (c.release, c.target) == ("3.6.0", "cuda90"))
    kernel = Kernel.from_bytes(case.ptx.encode(), case.metadata, level="ptx", device="emulator")
    left = []
    for debug in (False, True):
        grid, values = make(np.random.default_rng(3))
        if debug:
            session = kernel.debug(grid, *values, commands=["step 3", "continue"])
            assert session.engine.error is None
        else:
            kernel.launch(grid, *values)
        arrays = [getattr(v, "tensor", v) for v in values if not isinstance(v, (int, float))]
        left.append([a.copy() for a in arrays])
    plain, stepped = left
    assert any(a.any() for a in plain)
    for a, b in zip(plain, stepped, strict=True):
        assert a.tobytes() == b.tobytes()


def test_halves_are_compared_as_what_they_are() -> None:
    case = corpus.find("3.6.0", "cuda:80", "matmul_kernel")
    a = np.ones((64, 64), np.float16)
    line, text = next((i, t) for i, t in enumerate(case.text("ptx").split("\n"), 1) if "ldmatrix" in t)
    name = re.findall(r"%r\d+", text)[0]
    out = np.zeros_like(a)
    commands = [f"break {line + 1} if {name} == 1", f"break {line + 1} if u32({name}) == 0x3c003c00", "run"]
    session = Kernel.from_file(case.path("ptx")).debug(1, a, a, out, 64, 64, 64, 64, 64, 64, commands=commands)
    assert f"{name} holds two values of .f16: read it as u32({name})" in session.transcript
    assert session.stop is not None
    assert session.stop.kind == "breakpoint"
    assert (session.registers[name] == 1).all()
    assert session.registers[name].shape == (128, 2)
    assert "(1, 1)" in session.execute(f"print {name}")
    session.close()


def test_a_race_is_looked_at_where_it_was_found(tmp_path: Path) -> None:
    text = PTX.replace("\tbar.sync 0;\n", "")
    kernel = Kernel.from_bytes(text, signature="*i32, i32", device="emulator", shared=256)
    with trlaunch.emulator.checking("race"):
        session = kernel.debug(3, np.zeros(192, np.int32), ROUNDS, commands=["run"])
    assert session.fault is not None
    assert session.fault.kind == "race"
    line = session.engine.lines.ptx[session.ptx_line - 1]
    assert line.strip() == "ld.shared.b32 %r13, [%r12];"
    session.close()


def test_a_trace_of_a_debugged_launch(kernel: Kernel) -> None:
    with trlaunch.emulator.trace("%r2") as traced:
        session, _ = debugged(kernel, f"break {LINE['bar.sync 0;']}", "run", "continue")
    assert not session.running
    i = np.arange(64)
    np.testing.assert_array_equal(traced["%r2"].values[1, :, -1], ROUNDS * (i + i // 2))


def test_ptx_without_lines() -> None:
    text = "\n".join(t for t in PTX.split("\n") if not t.strip().startswith(".loc"))
    kernel = Kernel.from_bytes(text, signature="*i32, i32", device="emulator", shared=256)
    session, _ = debugged(kernel, "break :10", "until", "next", "backtrace", "list python", "info line")
    said = session.transcript
    assert "the PTX states no source lines" in said
    assert "#0  sums at PTX line" in said
    assert "the PTX states no Python line for this instruction" in said
    assert session.line is None


def test_dumps_come_back_from_a_debugged_launch() -> None:
    case = corpus.find("3.6.0", "cuda:80", "add_kernel")
    x = np.arange(1024, dtype=np.float32)
    kernel = Kernel.from_file(case.path("ptx"), dump=trlaunch.at(op="setp.lt.s32", nth=0, label="mask"))
    session = kernel.debug(1, x, x, np.zeros_like(x), 1024, commands=["step 5", "continue"])
    assert session.result.dumps["mask"].values.all()
