"""Host tensor descriptors: what TMA can address, the numbers of the encoding, and the cache of maps."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.arrays import TorchLike
from trlaunch.driver import Device, DeviceProperties
from trlaunch.errors import ArgumentError
from trlaunch.metadata import TensorDescriptorMeta
from trlaunch.scalars import SCALARS
from trlaunch.target import Target
from trlaunch.tensor_descriptor import TensorDescriptor, TensorMapCache, encode


class FakeDriver:
    """Records what it is asked to encode."""

    name = "cuda"

    def __init__(self, version=(13, 0)):
        self.asked = []
        self.version = version

    def properties(self, ordinal):
        return DeviceProperties(Device("cuda", ordinal), "GPU", Target("cuda", "90"), driver_version=self.version)

    def encode_tensor_map(self, **asked):
        self.asked.append(asked)
        return b"\xff" * 128


def tensor(shape, dtype="float16", address=0x1000, strides=None):
    return TorchLike(address, shape, dtype, strides=strides)


META = TensorDescriptorMeta((64, 32), 6, 2, 2)


def test_numbers_of_the_encoding_are_innermost_first():
    driver = FakeDriver()
    descriptor = TensorDescriptor(tensor((8, 128, 96)), block_shape=(1, 64, 32), padding="nan")
    encode(descriptor.resolve(), TensorDescriptorMeta((1, 64, 32), 6, 2, 2), driver, 3)
    assert driver.asked == [
        {
            "element_type": 6, "address": 0x1000, "shape": [96, 128, 8], "strides": [96 * 2, 96 * 128 * 2],
            "box": [32, 64, 1], "swizzle": 2, "nan_fill": True, "ordinal": 3,
        }
    ]  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_every_rank_has_a_stride_for_each_axis_but_the_innermost(rank):
    driver = FakeDriver()
    shape = (2, 3, 4, 5, 64)[-rank:]
    meta = TensorDescriptorMeta((1, 1, 1, 1, 32)[-rank:], 6, 2, 2)
    encode(TensorDescriptor(tensor(shape), block_shape=meta.block_shape).resolve(), meta, driver, 0)
    asked = driver.asked[0]
    assert asked["shape"] == list(shape[::-1])
    assert asked["strides"] == list(np.empty(shape, np.float16).strides[:-1][::-1])
    assert asked["box"] == [32, 1, 1, 1, 1][:rank]


def test_shape_and_strides_given_rule_over_the_tensors():
    resolved = TensorDescriptor(tensor((4096,)), (16, 64), (64, 1), (16, 64)).resolve()
    assert (resolved.shape, resolved.strides, resolved.block) == ((16, 64), (64, 1), (16, 64))
    numpy_ints = TensorDescriptor(tensor((4096,)), np.array([16, 64]), [np.int64(64), 1], (16, 64)).resolve()
    assert numpy_ints.shape == (16, 64)
    assert all(type(n) is int for n in numpy_ints.shape + numpy_ints.strides)


@pytest.mark.parametrize("ptx,driver_type", [(0, 0), (5, 5), (6, 6), (7, 7), (8, 10), (9, 8), (10, 9)])
def test_element_types_are_numbered_as_the_driver_does(ptx, driver_type):
    # PTX ISA, tensormap.replace .elemtype: 7 .f32, 8 .f32.ftz, 9 .f64, 10 .bf16; cuda.h: 8 FLOAT64, 9 BFLOAT16,
    # 10 FLOAT32_FTZ.
    driver = FakeDriver()
    encode(
        TensorDescriptor(tensor((64, 64)), block_shape=(64, 32)).resolve(),
        TensorDescriptorMeta((64, 32), ptx, 2, 2),
        driver,
        0,
    )
    assert driver.asked[0]["element_type"] == driver_type


def test_tf32_and_fp4():
    driver = FakeDriver()
    meta = TensorDescriptorMeta((64, 32), 7, 4, 3)
    encode(
        TensorDescriptor(tensor((64, 64), "float32"), block_shape=(64, 32), round_f32_to_tf32=True).resolve(),
        meta,
        driver,
        0,
    )
    assert driver.asked[-1]["element_type"] == 11  # CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
    fp4 = TensorDescriptorMeta((64, 32), 0, 1, 3, fp4_padded=True)
    encode(TensorDescriptor(tensor((64, 64), "uint8"), block_shape=(64, 32)).resolve(), fp4, driver, 0)
    assert driver.asked[-1]["shape"] == [128, 64]


@pytest.mark.parametrize(
    "dtype,block,box,swizzle,element_type",
    [
        ("float16", (64, 64), [64, 64], 3, 6),
        ("float16", (64, 128), [64, 64], 3, 6),  # rows are cut to 128 bytes
        ("float16", (64, 32), [32, 64], 2, 6),
        ("float16", (64, 16), [16, 64], 1, 6),
        ("float32", (16, 64), [32, 16], 3, 7),
        ("uint8", (16, 128), [128, 16], 3, 0),
        ("bfloat16", (16, 64), [64, 16], 3, 9),
    ],
)
def test_without_metadata_the_box_is_what_old_releases_filled_in(dtype, block, box, swizzle, element_type):
    driver = FakeDriver()
    encode(TensorDescriptor(tensor((256, 256), dtype), block_shape=block).resolve(), None, driver, 0)
    asked = driver.asked[0]
    assert (asked["box"], asked["swizzle"], asked["element_type"]) == (box, swizzle, element_type)


@pytest.mark.parametrize("name", SCALARS)
def test_every_dtype_has_an_element_type(name):
    driver = FakeDriver()
    size = SCALARS[name].size
    view = SimpleNamespace(data_ptr=lambda: 0x1000, shape=(64, 128), stride=lambda: (128, 1), dtype=name)
    encode(TensorDescriptor(view, block_shape=(64, 32 // size)).resolve(), None, driver, 0)
    assert driver.asked[0]["element_type"] in range(10)


def test_bit_21_is_cleared_for_small_tensors_on_drivers_up_to_13_1():
    small, large = tensor((64, 1023)), tensor((64, 1024))
    for version, shape, cleared in (
        ((13, 1), small, True), ((13, 0), small, True), ((12, 4), small, True), ((13, 2), small, False),
        ((13, 1), large, False),
    ):  # fmt: skip
        padded = TensorDescriptor(shape, None, (1024, 1), (64, 32))
        data = encode(padded.resolve(), META, FakeDriver(version), 0)
        word = int.from_bytes(data[8:16], "little")
        assert (word == 2**64 - 1 - (1 << 21)) == cleared
        assert data[:8] + data[16:] == b"\xff" * 120


@pytest.mark.parametrize(
    "descriptor,message",
    [
        (
            TensorDescriptor(tensor((64, 64), address=0x1008), block_shape=(64, 64)),
            "begins at 0x1008: TMA needs a multiple",
        ),
        (TensorDescriptor(tensor((64, 63)), block_shape=(64, 63)), "stride 63 of axis 0 of a descriptor is 126 bytes"),
        (TensorDescriptor(tensor((64, 64), strides=(1, 64)), block_shape=(64, 64)), "expected the last to be 1"),
        (TensorDescriptor(tensor((64, 64)), block_shape=(64,)), "expected 1 to 5 axes, the same in all"),
        (TensorDescriptor(tensor((64, 64))), "expected 1 to 5 axes, the same in all"),
        (TensorDescriptor(tensor((1,) * 6), block_shape=(1,) * 6), "expected 1 to 5 axes"),
        (TensorDescriptor(tensor((64, 64)), block_shape=(64, 0)), "expected ints from 1 to 2"),
        (TensorDescriptor(tensor((0, 64)), block_shape=(64, 64)), "expected ints from 1 to 2"),
        (TensorDescriptor(tensor((64, 64)), (64, 2**32), (64, 1), (64, 64)), "expected ints from 1 to 2"),
        (
            TensorDescriptor(tensor((64, 64)), (64, 64.0), (64, 1), (64, 64)),
            "shape (64, 64.0) of a descriptor: expected ints",
        ),
        (TensorDescriptor(tensor((64, 64)), 64, (64, 1), (64, 64)), "shape 64 of a descriptor: expected ints"),
        (
            TensorDescriptor(tensor((64, 64)), None, ("a", 1), (64, 64)),
            "strides ('a', 1) of a descriptor: expected ints",
        ),
        (TensorDescriptor(tensor((64, 64)), None, (-64, 1), (64, 64)), "stride -64 of axis 0"),
        (TensorDescriptor(tensor((64, 64)), block_shape=(64, 64), padding="one"), "padding 'one' of a descriptor"),
        (TensorDescriptor(5, block_shape=(64, 64)), "the descriptor's tensor is a int: it has no data_ptr()"),
        (TensorDescriptor(np.zeros((4, 4), complex), block_shape=(4, 4)), "a dtype that Triton has no name for"),
    ],
)
def test_what_tma_cannot_address_is_refused_with_the_rule(descriptor, message):
    with pytest.raises(ArgumentError) as caught:
        descriptor.resolve()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "descriptor,meta,message",
    [
        (TensorDescriptor(tensor((64, 64)), block_shape=(512, 64)), None, "TMA moves at most 256 elements a side"),
        (TensorDescriptor(tensor((64, 64)), block_shape=(64, 8)), None, "its rows are 16 bytes, TMA needs at least 32"),
        (TensorDescriptor(tensor((64,)), block_shape=(64,)), META, "of 1 axes, the kernel was compiled for one of 2"),
        (TensorDescriptor(tensor((64, 64), "float32"), block_shape=(64, 32)), META, "compiled for elements of 2 bytes"),
        (
            TensorDescriptor(tensor((64, 64)), block_shape=(64, 32), round_f32_to_tf32=True),
            META,
            "of fp16: expected fp32",
        ),
    ],
)
def test_what_the_kernel_was_not_compiled_for_is_refused(descriptor, meta, message):
    driver = FakeDriver()
    with pytest.raises(ArgumentError) as caught:
        encode(descriptor.resolve(), meta, driver, 0)
    assert message in str(caught.value)
    assert not driver.asked


def test_tritons_own_descriptors_are_understood():
    theirs = SimpleNamespace(
        base=tensor((64, 64)), shape=[64, 64], strides=[64, 1], block_shape=[64, 32], padding="nan"
    )
    ours = TensorDescriptor.of(theirs)
    assert (ours.tensor, ours.shape, ours.block_shape, ours.padding) == (theirs.base, [64, 64], [64, 32], "nan")
    assert ours.round_f32_to_tf32 is False
    assert TensorDescriptor.of(ours) is ours
    assert TensorDescriptor.of(np.zeros(3)) is TensorDescriptor.of(3) is None


def test_cache_holds_what_the_map_depends_on_and_no_more_than_its_capacity():
    driver, cache = FakeDriver(), TensorMapCache(capacity=4)
    base = {"shape": (64, 64), "address": 0x1000}

    def get(ordinal=0, meta=META, padding="zero", **changes):
        made = TensorDescriptor(tensor(**{**base, **changes}), block_shape=(64, 32), padding=padding)
        return cache.get(made.resolve(), meta, driver, ordinal)

    get(), get(), get()
    assert len(driver.asked) == 1
    for changed in (
        {"address": 0x2000}, {"shape": (32, 64)}, {"padding": "nan"}, {"ordinal": 1},
        {"meta": TensorDescriptorMeta((64, 32), 6, 2, 1)}, {"strides": (128, 1)},
    ):  # fmt: skip
        before = len(driver.asked)
        get(**changed), get(**changed)
        assert len(driver.asked) == before + 1, changed
    assert len(cache._maps) == 4
    before = len(driver.asked)
    get()  # the first, pushed out
    assert len(driver.asked) == before + 1


def test_cache_from_several_threads():
    driver, cache = FakeDriver(), TensorMapCache(capacity=2)
    start, errors = threading.Barrier(4), []

    def work():
        start.wait()
        try:
            for i in range(300):
                made = TensorDescriptor(tensor((64, 64), address=16 * (1 + i % 7)), block_shape=(64, 32))
                cache.get(made.resolve(), META, driver, 0)
        except Exception as error:  # noqa: BLE001 - whatever a race raises
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(cache._maps) <= 2 + 4


numbers = st.lists(st.integers(-2, 300) | st.sampled_from([2**32, 2**40, 1.5, "x", None]), max_size=6)


@given(numbers | st.none(), numbers | st.none(), numbers, st.sampled_from(["float16", "float32", "int8"]))
def test_any_numbers_are_resolved_or_refused(shape, strides, block, dtype):
    try:
        resolved = TensorDescriptor(tensor((64, 64), dtype), shape, strides, block).resolve()
        encode(resolved, None, FakeDriver(), 0)
    except ArgumentError as error:
        assert str(error)
