"""A fault names the lane, the address, the buffer, and the line at each level."""

# ruff: noqa: E501  (tables of PTX statements read best as rows)

from __future__ import annotations

import re

import numpy as np
import pytest

from tests import corpus
from tests.emulator.launching import assert_ptxas_accepts, entry, launch, wrap
from trlaunch.emulator.driver import EmulatorDriver
from trlaunch.errors import Fault

ADD = corpus.find("3.6.0", "cuda:80", "add_kernel")


def line_of(text: str, needle: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if needle in line)


def test_out_of_bounds_load_of_a_triton_kernel() -> None:
    text = ADD.text("ptx")
    x, y, out = (np.zeros(4096, np.float32) for _ in range(3))
    with pytest.raises(Fault) as caught:
        launch(text, [x[:4000], y, out, 4096], grid=(4,))
    fault = caught.value
    assert fault.kind == "out-of-bounds"
    assert fault.cta == (3, 0, 0)
    assert fault.thread == ((4000 - 3 * 1024 - 512) // 4, 0, 0)
    assert fault.address == x.ctypes.data + 16000
    assert "ld.global.v4.b32" in text.splitlines()[fault.ptx_line - 1]
    message = str(fault)
    assert "load of 16 bytes" in message
    assert f"0 bytes past the end of 'arg0' (16000 bytes from {x.ctypes.data:#x})" in message
    assert "24 lanes in all" in message
    assert f"PTX line {fault.ptx_line}" in message
    assert re.search(r"kernels\.py:\d+$", fault.source)
    source_line = int(fault.source.rpartition(":")[2])
    source = (corpus.FOLDER.parent / "kernels.py").read_text().splitlines()
    assert "tl.load(x_ptr + offsets" in source[source_line - 1]


def test_misaligned_access_of_a_triton_kernel() -> None:
    x, y, out = (np.zeros(4097, np.float32) for _ in range(3))
    with pytest.raises(Fault, match="not a multiple of 16") as caught:
        launch(ADD.text("ptx"), [x[1:], y, out, 4096], grid=(4,))
    assert caught.value.kind == "misaligned"
    assert caught.value.address == x.ctypes.data + 4


def test_store_into_a_read_only_buffer() -> None:
    x, y, out = (np.zeros(4096, np.float32) for _ in range(3))
    with pytest.raises(Fault, match="'arg2', which is read-only") as caught:
        launch(ADD.text("ptx"), [x, y, out, 4096], grid=(4,), read_only=(2,))
    assert caught.value.kind == "read-only"
    assert not out.any()


def test_a_masked_lane_is_never_looked_at() -> None:
    x, y, out = np.ones(1000, np.float32), np.ones(1000, np.float32), np.zeros(1000, np.float32)
    launch(ADD.text("ptx"), [x, y, out, 1000], grid=(4,))
    assert (out == 2).all()


MODULE_BODIES = {
    "before": "add.s64 %d1, %a0, -8; ld.global.u32 %r1, [%d1];",
    "overlap": "st.global.u32 [%a0+1022], %r1;",
    "null": "mov.u64 %d1, 0; ld.global.u32 %r1, [%d1];",
    "odd_shared": "mov.u32 %r1, s; ld.shared.u32 %r2, [%r1+2];",
    "past_shared": "mov.u32 %r1, s; st.shared.u64 [%r1+60], %a0;",
    "below_shared": "mov.u32 %r1, s; st.shared.u32 [%r1+-4], %r1;",
    "unwritten": "mov.u32 %r1, s; ld.shared.u32 %r2, [%r1+8];",
    "trap": "mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 7; @%p1 trap;",
    "atomic": "atom.global.add.u32 %r1, [%a0+4096], 1;",
    "unwaited": "mov.u32 %r1, s; cp.async.ca.shared.global [%r1], [%a0], 16; cp.async.commit_group;"
    " ld.shared.u32 %r2, [%r1]; st.global.u32 [%a0], %r2;",
}
EXTRA = ".shared .align 16 .b8 s[64];\n"
MODULE = (
    ".version 8.0\n.target sm_90\n.address_size 64\n"
    + EXTRA
    + "".join(entry(body, name=name) for name, body in MODULE_BODIES.items())
)


def test_ptxas_accepts_the_module(tmp_path) -> None:
    # ptxas itself sees the constant shared addresses that are wrong, so those stay out.
    wrong = ("odd_shared", "past_shared", "below_shared")
    text = ".version 8.0\n.target sm_90\n.address_size 64\n" + EXTRA
    assert_ptxas_accepts(text + "".join(entry(b, name=n) for n, b in MODULE_BODIES.items() if n not in wrong), tmp_path)


@pytest.mark.parametrize(
    "name, kind, message",
    [
        ("before", "out-of-bounds", "8 bytes before 'arg0' (1024 bytes"),
        ("overlap", "misaligned", "1022 bytes into 'arg0'|2 bytes of it past the end"),
        ("null", "out-of-bounds", "load of 4 bytes at address 0x0"),
        ("odd_shared", "misaligned", "not a multiple of 4"),
        ("past_shared", "out-of-bounds", "shared memory has 64 bytes, 4 bytes past its end"),
        ("below_shared", "out-of-bounds", "4 bytes before its start"),
        ("unwritten", "uninitialised", "which nothing has written yet"),
        ("trap", "trap", "first lane: CTA (0, 0, 0), thread (7, 0, 0); 1 lane in all"),
        ("atomic", "out-of-bounds", "3072 bytes past the end"),
        ("unwaited", "uninitialised", "asynchronous copy that was not waited for"),
    ],
)
def test_kinds_of_faults(name: str, kind: str, message: str) -> None:
    with pytest.raises(Fault) as caught:
        launch(MODULE, [np.zeros(256, np.uint32)], kernel=name)
    assert caught.value.kind == kind
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)
    assert MODULE.splitlines()[caught.value.ptx_line - 1] in MODULE
    assert f"in {name}:" in str(caught.value)


def test_faults_name_a_lane_of_a_three_dimensional_grid() -> None:
    body = (
        "mov.u32 %r1, %ctaid.z; mov.u32 %r2, %tid.y; setp.eq.u32 %p1, %r1, 2; setp.eq.and.u32 %p2, %r2, 3, %p1;"
        "@%p2 st.global.u32 [%a0+64], %r1;"
    )
    with pytest.raises(Fault) as caught:
        launch(wrap(body, threads=64), [np.zeros(4, np.uint32)], grid=(2, 3, 4), block=(8, 4, 2))
    assert (caught.value.cta, caught.value.thread) == ((0, 0, 2), (0, 3, 0))
    assert "96 lanes in all, in 6 CTAs" in str(caught.value)


def test_inlined_lines_name_both() -> None:
    text = wrap(
        ".loc 1 12 3\n.loc 2 44 1, function_name $L__s, inlined_at 1 12 3\nld.global.u32 %r1, [%a0+64];"
        "\n.loc 1 13 1\nst.global.u32 [%a0], %r1;"
    )
    text += '.file 1 "/src/kernel.py"\n.file 2 "/lib/standard.py"\n'
    with pytest.raises(Fault) as caught:
        launch(text, [np.zeros(4, np.uint32)])
    assert caught.value.source == "/src/kernel.py:12"
    assert "/lib/standard.py:44, inlined at /src/kernel.py:12" in str(caught.value)


BARRIERS = {
    "never": ("bar.sync 1, 64;", "barrier 1 has 32 of 64 threads", "deadlock"),
    "halves": (
        "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32; @%p1 bra first; bar.sync 1; bra.uni done; first: bar.sync 2; done:",
        "barrier 1 has 32 of 64 threads",
        "deadlock",
    ),
    "odd": ("bar.sync 0, 33;", "expected one multiple of 32", "barrier"),
    "spin": (
        "again: ld.volatile.global.u32 %r1, [%a0]; setp.eq.u32 %p1, %r1, 0; @%p1 bra again;",
        "poll memory that nothing changes",
        "deadlock",
    ),
    "forever": ("again: add.u32 %r1, %r1, 1; bra again;", "did not end after 1000 blocks", "hang"),
    "torn": (
        "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 16; @!%p1 bra done; shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffffffff; done:",
        "named by the member mask",
        None,
    ),
    "stray": ("mov.u32 %r1, %tid.x; shfl.sync.idx.b32 %r2, %r1, 1, 31, 0xff; st.global.u32 [%a0], %r2;", "not in the member", "divergent"),
}  # fmt: skip


@pytest.mark.parametrize("name", BARRIERS)
def test_what_can_never_go_on_ends_in_a_fault(name: str) -> None:
    body, message, kind = BARRIERS[name]
    driver = EmulatorDriver()
    driver.step_limit = 1000 if name == "forever" else driver.step_limit
    threads = 64 if name == "halves" else 32
    if kind is None:  # the other half of the warp has exited, so nobody is missing
        launch(wrap(body, threads=threads), [np.zeros(4, np.uint32)], driver=driver)
        return
    with pytest.raises(Fault, match=message) as caught:
        launch(wrap(body, threads=threads), [np.zeros(4, np.uint32)], driver=driver)
    assert caught.value.kind == kind


@pytest.mark.parametrize("release", ["3.0.0", "3.6.0", "3.9.0"])
@pytest.mark.parametrize("instead", ["", "cp.async.wait_group 6;"])
def test_a_matmul_that_does_not_wait_for_its_copies(release: str, instead: str) -> None:
    case = corpus.find(release, "cuda:80", "matmul_kernel")
    text = re.sub(r"cp\.async\.wait_group\s+0x[0-9a-f]+;|cp\.async\.wait_group\s+\d+;", instead, case.text("ptx"))
    assert text != case.text("ptx")
    n = 128
    a, b, c = (np.ones((n, n), np.float16) for _ in range(3))
    with pytest.raises(Fault, match="asynchronous copy that was not waited for") as caught:
        launch(text, [a, b, c, n, n, n, n, n, n], grid=(2, 2), shared=case.metadata["shared"])
    assert caught.value.kind == "uninitialised"
    assert "ldmatrix" in text.splitlines()[caught.value.ptx_line - 1]


def test_a_softmax_without_its_store_to_shared_memory() -> None:
    case = corpus.find("3.6.0", "cuda:80", "softmax_kernel")
    text = re.sub(r"@%p\d+ st\.shared\.b32 .*;", "", case.text("ptx"), count=1)
    assert text != case.text("ptx")
    x, out = np.ones((4, 781), np.float32), np.zeros((4, 781), np.float32)
    with pytest.raises(Fault, match="nothing has written yet"):
        launch(text, [out, x, 781, 781, 781], grid=(4,), shared=case.metadata["shared"])
