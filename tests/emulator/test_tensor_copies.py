"""Tensor maps, tensor copies and mbarriers in hand-written PTX: what they do, and what is wrong with them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.emulator.launching import assert_ptxas_accepts, launch, wrap
from trlaunch.devices import get
from trlaunch.emulator.tensor_maps import decode, encode
from trlaunch.errors import EmulatorError, Fault

#: A warp copies boxes of a tensor to shared memory, waits, and stores them: at the coordinates of `load` and `store`.
BODY = """
.reg .pred done;
mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0;
@%p1 mbarrier.init.shared::cta.b64 [bar], 1;
bar.sync 0;
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {expected};
mov.u32 %r2, tile;
mov.u32 %r3, bar;
mov.u32 %r4, {x}; mov.u32 %r5, {y};
@%p1 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%a0, {{%r4, %r5}}], [%r3];
wait:
mbarrier.try_wait.parity.shared::cta.b64 done, [%r3], 0;
@!done bra wait;
fence.proxy.async.shared::cta;
@%p1 cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%a1, {{0, 0}}], [%r2];
cp.async.bulk.commit_group;
cp.async.bulk.wait_group.read 0;
"""
SHARED = ".shared .align 1024 .b8 tile[4096]; .shared .align 8 .b64 bar;\n"


def tensor_map(x: np.ndarray, box: tuple[int, int], swizzle: int = 0, nan: bool = False, strides=None) -> np.ndarray:
    """A map of rows of fp16 in an array that the kernel gets a pointer to."""
    data = get("emulator").encode_tensor_map(
        element_type=6,
        address=x.ctypes.data,
        shape=x.shape[::-1],
        strides=strides or [x.strides[0]],
        box=box[::-1],
        swizzle=swizzle,
        nan_fill=nan,
        ordinal=0,
    )
    aligned = np.zeros(256, np.uint8)
    start = -aligned.ctypes.data % 64
    aligned[start : start + 128] = np.frombuffer(data, np.uint8)
    return aligned[start : start + 128]


def copy(source, target, x: int = 0, y: int = 0, *, expected: int | None = None, whole=None, **more) -> None:
    """The kernel's two maps, and the tensors themselves (`whole`: what the source is part of), to be known."""
    box = target.shape
    maps = [tensor_map(source, box, **more), tensor_map(target, box, **{**more, "nan": False})]
    nbytes = box[0] * box[1] * 2 if expected is None else expected
    text = wrap(BODY.format(x=x, y=y, expected=nbytes), 4, extra=SHARED)
    launch(text, [*maps, source if whole is None else whole, target], read_only=(0, 1, 2))


def numbers(rows: int, columns: int) -> np.ndarray:
    memory = np.zeros(rows * columns + 8, np.float16)
    start = -memory.ctypes.data % 16 // 2
    out = memory[start : start + rows * columns].reshape(rows, columns)
    out[...] = np.arange(1, rows * columns + 1).reshape(rows, columns) % 2048
    return out


def test_ptxas_accepts_the_kernel(tmp_path) -> None:
    assert_ptxas_accepts(wrap(BODY.format(x=0, y=0, expected=512), 4, extra=SHARED), tmp_path)


@pytest.mark.parametrize("swizzle, columns", [(0, 16), (1, 16), (2, 32), (3, 64)])
def test_a_box_goes_to_shared_memory_and_back(swizzle: int, columns: int) -> None:
    source, target = numbers(40, 128), numbers(16, columns) * 0
    copy(source, target, 24, 8, swizzle=swizzle)
    np.testing.assert_array_equal(target, source[8:24, 24 : 24 + columns])


@pytest.mark.parametrize("x, y", [(-8, -3), (48, 10), (1000, 0), (0, -1000)])
@pytest.mark.parametrize("nan", [False, True])
def test_what_lies_outside_is_zero_or_nan(x: int, y: int, nan: bool) -> None:
    whole, target = numbers(16, 64), numbers(8, 16)
    source = whole[:, :52]
    copy(source, target, x % 2**32, y % 2**32, nan=nan, whole=whole)
    padded = np.full((4096, 4096), np.nan if nan else 0, np.float16)
    padded[2048 : 2048 + 16, 2048 : 2048 + 52] = source
    np.testing.assert_array_equal(target, padded[2048 + y : 2048 + y + 8, 2048 + x : 2048 + x + 16])


def test_a_store_leaves_what_lies_outside_alone() -> None:
    source, memory = numbers(8, 16), np.full((12, 24), 7, np.float16)
    target = memory[:5, :12]
    maps = [tensor_map(source, (8, 16)), tensor_map(target, (8, 16), strides=[48])]
    launch(wrap(BODY.format(x=0, y=0, expected=256), 4, extra=SHARED), [*maps, source, memory])
    np.testing.assert_array_equal(target, source[:5, :12])
    memory[:5, :12] = 7
    assert (memory == 7).all()


def test_a_coordinate_that_is_no_multiple_of_16_bytes() -> None:
    with pytest.raises(Fault, match="innermost coordinate 3") as caught:
        copy(numbers(16, 64), numbers(8, 16), 3, 0)
    assert (caught.value.kind, caught.value.thread) == ("misaligned", (0, 0, 0))


def test_a_descriptor_with_an_odd_stride_made_on_the_device() -> None:
    source, out = numbers(16, 64), np.zeros(128, np.uint8)
    maps = tensor_map(source, (8, 16)).copy()
    maps[48:56] = np.frombuffer(struct.pack("<Q", 254), np.uint8)
    text = wrap(BODY.format(x=0, y=0, expected=256), 4, extra=SHARED)
    with pytest.raises(Fault, match="stride of 254 bytes is not a multiple of 16") as caught:
        launch(text, [maps, out, source])
    assert caught.value.kind == "tensor-map"


def test_bytes_that_are_no_map() -> None:
    text = wrap(BODY.format(x=0, y=0, expected=256), 4, extra=SHARED)
    with pytest.raises(Fault, match="not a tensor map") as caught:
        launch(text, [np.zeros(128, np.uint8), np.zeros(128, np.uint8)])
    assert caught.value.kind == "tensor-map"


@pytest.mark.parametrize("expected, state", [(512, "0 of 1 arrivals and 256 bytes"), (128, "has 128 bytes more")])
def test_byte_counts_that_cannot_complete(expected: int, state: str) -> None:
    with pytest.raises(Fault, match=state) as caught:
        copy(numbers(16, 64), numbers(8, 16), expected=expected)
    assert caught.value.kind == "deadlock"
    assert "CTA (0, 0, 0): warp 0 at PTX line" in str(caught.value)


def test_a_copy_that_nobody_waits_for() -> None:
    source, target = numbers(16, 64), numbers(8, 16)
    maps = [tensor_map(source, (8, 16)), tensor_map(target, (8, 16))]
    text = wrap(BODY.format(x=0, y=0, expected=256), 4, extra=SHARED)
    assert text.count("@!done bra wait;") == 1
    with pytest.raises(Fault, match="nothing has written yet") as caught:
        launch(text.replace("mbarrier.try_wait.parity.shared::cta.b64 done, [%r3], 0;", "").replace(
            "@!done bra wait;", ""), [*maps, source, target])  # fmt: skip
    assert caught.value.kind == "uninitialised"


def test_a_tensor_that_no_buffer_holds() -> None:
    source, out = numbers(16, 64), numbers(8, 16)
    maps = [tensor_map(source, (8, 16)), tensor_map(out, (8, 16))]
    with pytest.raises(Fault, match="tensor copy of 16 bytes") as caught:
        launch(wrap(BODY.format(x=0, y=8, expected=256), 4, extra=SHARED), [*maps, source[:12], out])
    assert caught.value.kind == "out-of-bounds"


def test_arrivals() -> None:
    body = "mov.u32 %r1, bar; mbarrier.init.shared.b64 [%r1], 32; bar.sync 0; mbarrier.arrive.shared.b64 %d1, [%r1];\n"
    wait = "l: mbarrier.test_wait.shared.b64 %p1, [%r1], %d1; @!%p1 bra l;"
    launch(wrap(body.replace("mbarrier.init", "@%p2 mbarrier.init").replace("mov.u32 %r1", "mov.u32 %r2, %tid.x; "
           "setp.eq.u32 %p2, %r2, 0; mov.u32 %r1") + wait, extra=SHARED), [0])  # fmt: skip
    with pytest.raises(Fault, match="not an initialised mbarrier"):
        launch(wrap("st.shared.b64 [bar], %d1; mbarrier.arrive.shared.b64 _, [bar];", extra=SHARED), [0])
    with pytest.raises(Fault, match="more threads arrive"):
        launch(wrap("mbarrier.init.shared.b64 [bar], 5; mbarrier.arrive.shared.b64 _, [bar], 6;", extra=SHARED), [0])


def test_elect_takes_the_lowest_member() -> None:
    out = np.zeros(64, np.uint32)
    body = """
    elect.sync %r1|%p1, 0xffffffff; selp.u32 %r2, 100, 0, %p1; add.u32 %r1, %r1, %r2;
    mov.u32 %r9, %tid.x; mad.wide.u32 %d9, %r9, 4, %a0; st.global.b32 [%d9], %r1;
    """
    launch(wrap(body, threads=64), [out])
    np.testing.assert_array_equal(out, np.where(np.arange(64) % 32 == 0, 100, 0))


@given(
    st.lists(st.integers(1, 2**31), min_size=1, max_size=5),
    st.integers(0, 12),
    st.integers(0, 3),
    st.integers(0, 2**44),
    st.booleans(),
)
def test_a_map_is_read_as_it_was_written(shape: list[int], element: int, swizzle: int, base: int, nan: bool) -> None:
    box = [16, *([8] * (len(shape) - 1))]
    strides = [16 * (n + 1) for n in range(len(shape) - 1)]
    try:
        data = encode(element_type=element, address=16 * base, shape=shape, strides=strides, box=box, swizzle=swizzle,
                      nan_fill=nan)  # fmt: skip
    except EmulatorError as error:
        assert "rows of the box" in str(error)
        return
    read = decode(data)
    assert len(data) == 128
    assert (read.address, list(read.shape), list(read.box), list(read.strides)) == (16 * base, shape, box, strides)
    assert (read.swizzle, read.nan, read.problem()) == (swizzle, nan, "")


@given(st.binary(min_size=128, max_size=128))
def test_arbitrary_bytes_are_no_map(data: bytes) -> None:
    with pytest.raises(EmulatorError):
        decode(data)
