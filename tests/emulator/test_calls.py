"""Local memory, calls of device functions, printing and assertions in hand-written PTX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.emulator.launching import HEADER, assert_ptxas_accepts, entry, launch, wrap
from trlaunch.emulator.driver import EmulatorDriver
from trlaunch.emulator.image import read_image
from trlaunch.errors import Fault, UnsupportedInstruction

FUNCTION = """
.func (.param .b32 out) twice_plus(.param .b32 x, .param .b64 y)
{
.reg .pred %p<2>; .reg .b32 %r<5>; .reg .b64 %d<2>;
ld.param.b32 %r1, [x];
ld.param.b32 %r2, [y+4];
shl.b32 %r3, %r1, 1;
setp.gt.u32 %p1, %r1, 20;
@%p1 bra big;
add.u32 %r3, %r3, %r2;
st.param.b32 [out], %r3;
ret;
big:
st.param.b32 [out], %r2;
ret;
}
"""
CALL = """{
.param .b32 p0; .param .b64 p1; .param .b32 r0;
mov.b64 %d1, {7, 100};
st.param.b32 [p0], %r1; st.param.b64 [p1], %d1;
call.uni (r0), twice_plus, (p0, p1);
ld.param.b32 %r1, [r0];
}"""
STORE = "mov.u32 %r9, %tid.x; mad.wide.u32 %d9, %r9, 4, %a0; st.global.b32 [%d9], %r1;"


def test_a_device_function_takes_and_returns_values_and_branches() -> None:
    out = np.zeros(32, np.uint32)
    launch(HEADER + FUNCTION + entry(f"mov.u32 %r1, %tid.x;\n{CALL}\n{STORE}"), [out])
    x = np.arange(32, dtype=np.uint32)
    np.testing.assert_array_equal(out, np.where(x > 20, 100, 2 * x + 100))


def test_calls_follow_each_other() -> None:
    out = np.zeros(32, np.uint32)
    launch(HEADER + FUNCTION + entry(f"mov.u32 %r1, %tid.x;\n{CALL}\n{CALL}\n{STORE}"), [out])
    x = np.arange(32)
    once = np.where(x > 20, 100, 2 * x + 100)
    np.testing.assert_array_equal(out, np.where(once > 20, 100, 2 * once + 100))


def test_recursion_is_refused() -> None:
    text = HEADER + ".func f()\n{\ncall.uni f, ();\nret;\n}\n" + entry("call.uni f, ();")
    image = read_image(text)
    with pytest.raises(UnsupportedInstruction, match="recursion"):
        EmulatorDriver.instance().load(image, "k", 0)


def test_local_memory_is_each_threads_own_and_has_generic_addresses() -> None:
    out = np.zeros(64, np.uint32)
    body = """
    .local .align 16 .b8 depot[64];
    mov.u64 %d1, depot; cvta.local.u64 %d2, %d1;
    mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 7; mul.wide.u32 %d3, %r2, 4;
    add.u64 %d4, %d1, %d3; add.u64 %d5, %d2, %d3;
    st.local.b32 [%d4], %r1;
    ld.b32 %r3, [%d5]; add.u32 %r3, %r3, 1000; st.b32 [%d5], %r3;
    ld.local.b32 %r1, [%d4];
    """
    launch(wrap(body + STORE, threads=64), [out])
    np.testing.assert_array_equal(out, np.arange(64) + 1000)


def test_local_memory_has_bounds() -> None:
    with pytest.raises(Fault, match="64 bytes of local memory") as caught:
        launch(wrap(".local .b8 depot[64]; mov.u64 %d1, depot; ld.local.b32 %r1, [%d1+64];"), [0])
    assert caught.value.kind == "out-of-bounds"


STRINGS = (
    ".extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);\n"
    ".extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 c);\n"
    + "".join(
        f".global .b8 {name}[{len(text) + 1}] = {{{', '.join(map(str, [*text.encode(), 0]))}}};\n"
        for name, text in {
            "format": "t %u: %5.2f %lld %s%%\n", "word": "word", "message": "x > 0", "file": "f.py", "function": "f"
        }.items()
    )
)  # fmt: skip


def test_vprintf_prints_a_line_per_active_thread(capsys: pytest.CaptureFixture[str]) -> None:
    body = """
    .local .align 8 .b8 depot[32];
    mov.u64 %d1, depot; cvta.local.u64 %d2, %d1;
    mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 30; @%p1 bra end;
    st.local.b32 [%d1], %r1; mov.f64 %g1, 0d4002000000000000; st.local.f64 [%d1+8], %g1;
    mov.b64 %d3, -5; st.local.b64 [%d1+16], %d3; mov.u64 %d4, word; st.local.b64 [%d1+24], %d4;
    { .param .b64 p0; .param .b64 p1; .param .b32 r0; mov.u64 %d5, format;
    st.param.b64 [p0], %d5; st.param.b64 [p1], %d2; call.uni (r0), vprintf, (p0, p1); ld.param.b32 %r2, [r0]; }
    end:
    """
    launch(wrap(body, extra=STRINGS), [0])
    assert capsys.readouterr().out == "t 30:  2.25 -5 word%\nt 31:  2.25 -5 word%\n"


def test_a_failed_assertion_says_what_and_where() -> None:
    body = """
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; setp.ne.u32 %p1, %r1, 2; @%p1 bra end;
    setp.lt.u32 %p1, %r2, 9; @%p1 bra end;
    { .param .b64 p0; .param .b64 p1; .param .b32 p2; .param .b64 p3; .param .b64 p4;
    mov.u64 %d1, message; mov.u64 %d2, file; mov.u64 %d3, function; mov.u64 %d4, 1; mov.u32 %r3, 12;
    st.param.b64 [p0], %d1; st.param.b64 [p1], %d2; st.param.b32 [p2], %r3; st.param.b64 [p3], %d3;
    st.param.b64 [p4], %d4; call.uni __assertfail, (p0, p1, p2, p3, p4); }
    trap;
    end:
    """
    with pytest.raises(Fault, match=r"assertion failed: 'x > 0' at f\.py:12, in f") as caught:
        launch(wrap(body, extra=STRINGS), [0], grid=(4,))
    assert (caught.value.kind, caught.value.cta, caught.value.thread) == ("assert", (2, 0, 0), (9, 0, 0))


def test_the_carry_crosses_blocks() -> None:
    out = np.zeros(32, np.uint32)
    body = """
    mov.u32 %r1, %tid.x; add.cc.u32 %r2, %r1, 0xfffffff0;
    bra next;
    next:
    addc.u32 %r1, 10, 0;
    """
    launch(wrap(body + STORE), [out])
    np.testing.assert_array_equal(out, 10 + (np.arange(32) >= 16))


def test_vector_atomics_are_one_atomic_per_element(tmp_path: Path) -> None:
    total, half = np.array([1, 2], np.float32), np.zeros(2, np.float16)
    body = """
    mov.u32 %r1, %tid.x; cvt.rn.f32.u32 %f1, %r1; mov.f32 %f2, 0f3F000000; mov.b16 %h1, 0x3C00; mov.b16 %h2, 0x4000;
    atom.global.gpu.acq_rel.add.v2.f32 {%f3, %f4}, [%a0], {%f1, %f2};
    red.global.gpu.relaxed.add.noftz.v2.f16 [%a1], {%h1, %h2};
    """
    text = wrap(body, 2).replace(".version 8.0", ".version 8.1")
    assert_ptxas_accepts(text, tmp_path)
    launch(text, [total, half])
    np.testing.assert_array_equal(total, [1 + 31 * 16, 2 + 16])
    np.testing.assert_array_equal(half, [32, 64])
