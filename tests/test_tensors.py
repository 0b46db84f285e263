"""Tensors of every protocol become the same few numbers."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.arrays import CupyLike, DlpackLike, TorchLike
from trlaunch.scalars import SCALARS
from trlaunch.tensors import Pointer, contiguous_strides, dtype_name, export_dlpack, is_tensor, numpy_dtype, view

INTEGERS = [f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = ["bool", *INTEGERS, "float16", "float32", "float64"]


@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)), st.data())
def test_numpy_arrays_and_views(array, data):
    if array.ndim and data.draw(st.booleans()):
        array = array[tuple(slice(None, None, data.draw(st.integers(1, 3))) for _ in range(array.ndim))]
    if data.draw(st.booleans()):
        array = array.T
    seen = view(array)
    assert (seen.address, seen.shape, seen.place) == (array.ctypes.data, array.shape, "cpu")
    assert SCALARS[seen.dtype].size == array.itemsize
    if array.size:
        pairs = zip(seen.strides, array.strides, array.shape, strict=True)
        assert all(s * array.itemsize == n for s, n, size in pairs if size > 1)  # an axis of one has no stride
        assert seen.extent == sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) + array.itemsize
    else:
        assert seen.extent == 0


def test_numbers_are_no_tensors():
    assert is_tensor(np.zeros(1))
    for number in (1, 1.5, True, np.float32(1), np.int64(3), "x", None, (1, 2)):
        assert not is_tensor(number)


def test_read_only_arrays_and_negative_strides():
    array = np.arange(8)
    array.flags.writeable = False
    assert view(array).read_only
    assert view(np.arange(8)[::-1]).extent is None


def test_torch_cupy_and_dlpack():
    torch = view(TorchLike(0x1000, (4, 8), "bfloat16", "cuda:1", (16, 1)))
    assert (torch.address, torch.dtype, torch.place, torch.extent) == (0x1000, "bf16", "cuda:1", (3 * 16 + 7 + 1) * 2)
    assert view(TorchLike(0x1000, device="cpu")).place == "cpu"
    with pytest.raises(TypeError, match="it lives on device mps"):
        view(TorchLike(0x1000, device="mps:0"))
    cupy = view(CupyLike(0x2000, (4, 8), "<f2", (64, 4), stream=9, read_only=True))
    assert (cupy.address, cupy.dtype, cupy.place, cupy.strides) == (0x2000, "fp16", None, (32, 2))
    assert (cupy.extent, cupy.stream, cupy.read_only) == ((3 * 32 + 7 * 2 + 1) * 2, 9, True)
    exported = DlpackLike(0x3000, (3, 5), "fp64", (2, 1))
    jax = view(exported, stream=7)
    assert (jax.address, jax.dtype, jax.place, jax.shape, jax.strides) == (0x3000, "fp64", "cuda:1", (3, 5), (5, 1))
    view(exported)
    assert exported.streams == [7, 1]  # the protocol's default stream is 1
    rocm = DlpackLike(0x3000, device=(10, 0))
    assert view(rocm).place == "hip:0"
    assert view(DlpackLike(0x3000, device=(13, 0))).place == "managed"
    assert view(DlpackLike(0x3000, device=(1, 0))).place == "cpu"
    assert rocm.streams == [0]
    with pytest.raises(TypeError, match="it lives on DLPack device type 7 with 1 lanes"):
        view(DlpackLike(0x3000, device=(7, 0)))


def test_exporters_that_refuse_are_quoted():
    class Refusing(DlpackLike):
        def __dlpack__(self, *, stream=None):
            raise BufferError("it requires grad")

    with pytest.raises(TypeError, match=r"its __dlpack__\(\) failed: it requires grad"):
        view(Refusing(0x1000))

    class Deleted(TorchLike):
        def data_ptr(self):
            raise RuntimeError("no storage")

    with pytest.raises(TypeError, match=r"its data_ptr\(\) failed: no storage"):
        view(Deleted(0))


@pytest.mark.parametrize(
    "array",
    [
        CupyLike("abc"),
        CupyLike(-1),
        CupyLike(2**64),
        CupyLike(16, ("x",)),
        CupyLike(16, typestr="f"),
        CupyLike(16, (2, 2), strides=(8,)),
        CupyLike(16, (2,), strides=(3,)),
        CupyLike(16, 5),
        TorchLike(2**65),
        TorchLike(16, (2, 3), strides=(1,)),
        SimpleNamespace(__cuda_array_interface__={}),
        SimpleNamespace(__cuda_array_interface__=5),
        3,
        "x",
    ],
)
def test_malformed_tensors_are_type_errors_that_say_why(array):
    with pytest.raises(TypeError) as caught:
        view(array)
    assert str(caught.value)


def test_addresses():
    assert Pointer(0).nbytes is None
    assert Pointer(2**64 - 1, 16).nbytes == 16
    for bad in (-1, 2**64, 1.0, True, None, "0"):
        with pytest.raises(TypeError, match="expected an address, an int from 0 to 2"):
            Pointer(bad)


def test_dtype_names():
    for name in DTYPES:
        expected = "i1" if name == "bool" else name.replace("uint", "u").replace("int", "i").replace("float", "fp")
        assert dtype_name(np.dtype(name)) == dtype_name(name) == dtype_name(np.dtype(name).str) == expected
    assert dtype_name(TorchLike(0, dtype="float8_e4m3fn").dtype) == "fp8e4nv"
    assert dtype_name(TorchLike(0, dtype="bfloat16").dtype) == "bf16"
    assert [dtype_name(name) for name in SCALARS] == list(SCALARS)
    for other in (None, "complex64", "float128x", object(), "(2,", "<f3", "a", "a5", 5):
        assert dtype_name(other) is None


@given(st.text(max_size=6))
def test_any_text_is_a_dtype_or_none(text):
    assert dtype_name(text) in {None, *SCALARS}


@pytest.mark.parametrize("name", SCALARS)
def test_numpy_dtypes_have_the_size(name):
    assert np.dtype(numpy_dtype(name)).itemsize == SCALARS[name].size


@given(st.lists(st.integers(0, 5), max_size=4), st.sampled_from(sorted(SCALARS)))
def test_dlpack_export_is_read_back(shape, dtype):
    exported = view(DlpackLike(0x5000, tuple(shape), dtype, (2, 3)))
    assert (exported.address, exported.shape, exported.place) == (0x5000, tuple(shape), "cuda:3")
    assert exported.strides == contiguous_strides(shape)
    assert exported.dtype == {"u1": "i1"}.get(dtype, dtype)


class Owner:
    """Host memory that is exported through DLPack, as another library's array would be."""

    def __init__(self, shape):
        self.array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, *, stream=None, **_):
        return export_dlpack(self, self.array.ctypes.data, self.array.shape, "fp32", (1, 0))


def test_numpy_takes_the_export_and_keeps_its_owner():
    owner = Owner((3, 4))
    gone = weakref.ref(owner)
    taken = np.from_dlpack(owner)
    assert (taken == owner.array).all()
    del owner
    gc.collect()
    assert gone() is not None
    del taken
    gc.collect()
    assert gone() is None


def test_an_export_nobody_takes_is_freed():
    owner = Owner((2,))
    gone = weakref.ref(owner)
    seen = view(owner)
    assert seen.shape == (2,)
    del owner
    gc.collect()
    assert gone() is not None
    del seen
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (4, 1, 5)])
def test_contiguous_strides_are_numpys(shape):
    assert [s * 8 for s in contiguous_strides(shape)] == list(np.empty(shape).strides)
