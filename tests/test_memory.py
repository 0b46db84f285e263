"""The small device array: on the emulator, whose memory is the host's, and over the fake CUDA driver."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import trlaunch
from tests.oracle import bfloat16
from trlaunch.errors import ArgumentError
from trlaunch.scalars import SCALARS
from trlaunch.tensors import numpy_dtype

DTYPES = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
]
arrays = hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))


@given(arrays)
def test_what_goes_in_comes_out(array):
    there = trlaunch.asarray(array, device="emulator")
    assert (there.shape, there.nbytes) == (array.shape, array.nbytes)
    back = there.numpy()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert back.ctypes.data != there.address or not array.size


def test_views_and_lists_are_copied_in_c_order():
    array = np.arange(24, dtype=np.int32).reshape(4, 6)
    for part in (array.T, array[::2, ::-1], array[1:, 3]):
        np.testing.assert_array_equal(trlaunch.asarray(part, device="emulator").numpy(), part)
    assert trlaunch.asarray([1.5, 2.5], "fp16", "emulator").numpy().tolist() == [1.5, 2.5]
    assert trlaunch.asarray(3, "i32", "emulator").numpy() == 3


@given(st.lists(st.floats(allow_nan=False), max_size=8), st.sampled_from([np.float64, np.float32, np.float16]))
def test_bfloat16_is_rounded_once(values, dtype):
    with np.errstate(over="ignore"):
        array = np.array(values, dtype)
    there = trlaunch.asarray(array, "bf16", "emulator")
    assert there.dtype == "bf16"
    assert there.numpy().tolist() == [bfloat16(float(v)) for v in array]


def test_bfloat16_of_doubles_that_rounding_twice_would_get_wrong():
    values = np.array([1.0 + 2.0**-8 + 2.0**-40, -(1.0 + 3 * 2.0**-8 - 2.0**-40), 3.39e38, 1e39, 2.0**-134 * 1.0000001])
    assert trlaunch.asarray(values, "bf16", "emulator").numpy().tolist() == [bfloat16(float(v)) for v in values]
    assert trlaunch.asarray(np.float64(1.5), "bf16", "emulator").shape == ()
    assert np.isnan(
        np.array(int(trlaunch.asarray(np.nan, "bf16", "emulator").numpy()) << 16, np.uint32).view(np.float32)
    )


def test_bits_of_types_numpy_does_not_have():
    assert trlaunch.asarray(np.array([0x3F80], np.uint16), "bf16", "emulator").numpy().tolist() == [0x3F80]
    assert trlaunch.asarray(np.array([7, 255]), "fp8e5", "emulator").numpy().tolist() == [7, 255]
    with pytest.raises(ArgumentError, match="an array of float64 for fp8e5: expected its bits in an integer array"):
        trlaunch.asarray([1.5], "fp8e5", "emulator")


@pytest.mark.parametrize("name", SCALARS)
def test_every_dtype_by_tritons_name(name):
    array = trlaunch.empty((2, 3), name, "emulator")
    assert (array.dtype, array.nbytes) == (name, 6 * SCALARS[name].size)
    assert array.numpy().dtype == numpy_dtype(name)
    np.testing.assert_array_equal(np.from_dlpack(array) if name[0] in "iu" else array.numpy(), array.numpy())


def test_dlpack_and_the_array_interface_share_the_memory():
    array = trlaunch.empty((3, 4), "int32", "emulator")
    array.copy_from(np.arange(12, dtype=np.int32).reshape(3, 4))
    shared, again = np.from_dlpack(array), np.asarray(array)
    assert shared.ctypes.data == again.ctypes.data == array.address
    np.testing.assert_array_equal(shared, array.numpy())
    again[0, 0] = 77
    assert array.numpy()[0, 0] == 77
    assert array.__dlpack_device__() == (1, 0)
    with pytest.raises(AttributeError, match="an array on emulator has no __cuda_array_interface__"):
        _ = array.__cuda_array_interface__


def test_memory_outlives_the_array_while_an_export_lives():
    array = trlaunch.asarray(np.arange(1000), device="emulator")
    shared = np.from_dlpack(array)
    del array
    gc.collect()
    assert shared.sum() == 499500


def test_shapes_of_numpy_integers_and_none_at_all():
    assert trlaunch.empty(np.int64(4), "fp32", "emulator").shape == (4,)
    assert trlaunch.empty((np.int32(2), 3), "fp32", "emulator").shape == (2, 3)
    empty = trlaunch.empty((0, 5), "fp32", "emulator")
    assert (empty.address, empty.nbytes, empty.numpy().shape) == (0, 0, (0, 5))


@pytest.mark.parametrize("shape", [-1, (2, -3), (1.5,), "ab", None, ((1, 2),)])
def test_shapes_that_are_none(shape):
    with pytest.raises(ArgumentError, match="expected non-negative ints"):
        trlaunch.empty(shape, "fp32", "emulator")


def test_refusals():
    with pytest.raises(ArgumentError, match="dtype 'complex64': expected NumPy's, torch's or Triton's name, one of"):
        trlaunch.empty(3, "complex64", "emulator")
    with pytest.raises(ArgumentError, match="dtype None: expected"):
        trlaunch.empty(3, None, "emulator")
    with pytest.raises(ArgumentError, match="dtype complex128: Triton has no such type"):
        trlaunch.asarray([1j], device="emulator")
    array = trlaunch.empty((2, 2), "fp32", "emulator")
    for wrong in (np.zeros((2, 3), np.float32), np.zeros((2, 2)), 5.0, [1, 2]):
        with pytest.raises(ArgumentError, match=r"expected an array of shape \(2, 2\) and dtype float32, found"):
            array.copy_from(wrong)
    with pytest.raises(trlaunch.DeviceUnavailable, match="device 'gpu' is not understood"):
        trlaunch.empty(3, "fp32", "gpu")


def test_cuda_arrays_are_allocated_copied_and_freed(fakecuda):
    recorded = fakecuda.run(
        """
        import gc
        import numpy as np
        import trlaunch
        array = trlaunch.asarray(np.arange(6, dtype=np.float32).reshape(2, 3), device="cuda:1")
        assert array.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
        assert array.__cuda_array_interface__ == {
            "data": (array.address, False), "shape": (2, 3), "typestr": "<f4", "strides": None, "version": 3}
        try:
            array.__array_interface__
        except AttributeError as error:
            print(error)
        capsule = array.__dlpack__(stream=2)
        print(repr(array), array.device)
        assert trlaunch.empty(0, "fp32", "cuda:1").address == 0
        del capsule, array
        gc.collect()
        """,
        devices=(90, 90),
    )
    assert recorded.stdout.splitlines() == [
        "an array on cuda:1 is not in host memory: use .numpy()",
        "trlaunch.DeviceArray(shape=(2, 3), dtype=fp32, device=cuda:1) cuda:1",
    ]
    assert recorded.only("cuMemAlloc")["size"] == 24
    assert recorded.only("cuMemFree")["address"] == recorded.only("cuMemAlloc")["address"]
    assert recorded.only("cuStreamWaitEvent")["stream"] == 2
    assert recorded.only("cuEventRecord")["stream"] == 0
