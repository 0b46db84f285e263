"""A small device array, so that a script needs no framework."""

from __future__ import annotations

import ctypes
import operator
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trlaunch.devices import default_device, get
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError
from trlaunch.scalars import SCALARS
from trlaunch.tensors import TensorView, contiguous_strides, dlpack_numbers, dtype_name, export_dlpack, numpy_dtype

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DeviceArray", "asarray", "empty"]


_NUMBERS = dlpack_numbers()


class _Native:
    """What has, in one piece, all that a launch needs to know: address, DLPack's device type and ordinal, dtype."""

    __slots__ = ("_native",)


class DeviceArray(_Native):
    """A C-contiguous array in a device's memory, freed with the object.

    Other libraries take it without a copy: by ``__cuda_array_interface__`` and DLPack on a GPU, by
    ``__array_interface__`` and DLPack on the emulator, whose memory is the host's.

    Attributes
    ----------
    address : int
    shape : tuple of int
    dtype : str
        Triton's name, ``"fp16"``.
    nbytes : int
    device : trlaunch.driver.Device
    """

    def __init__(self, shape: int | Sequence[int], dtype: object, device: str | Device | None = None) -> None:
        self.device = default_device() if device is None else Device.parse(device)
        self.shape = _shape(shape)
        name = dtype_name(dtype)
        if name is None:
            raise ArgumentError(
                f"dtype {dtype!r}: expected NumPy's, torch's or Triton's name, one of {', '.join(SCALARS)}"
            )
        self.dtype = name
        self.nbytes = SCALARS[name].size
        for size in self.shape:
            self.nbytes *= size
        driver = get(self.device.driver)
        self.address = driver.allocate(self.nbytes, self.device.ordinal) if self.nbytes else 0
        self._native = (self.address, *self.__dlpack_device__(), _NUMBERS["i1" if name == "u1" else name])
        if self.nbytes:
            weakref.finalize(self, driver.free, self.address, self.device.ordinal).atexit = False

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy as a NumPy array, after everything queued on the default stream.

        bf16 and fp8, which NumPy does not have, come as their bits in unsigned integers.
        """
        import numpy as np

        out = np.empty(self.shape, numpy_dtype(self.dtype))
        if self.nbytes:
            get(self.device.driver).copy_to_host(_bytes_of(out), self.address, self.device.ordinal)
        return out

    def copy_from(self, array: Any) -> DeviceArray:
        """Fill from a NumPy array of the same shape and dtype (bits for bf16 and fp8); returns itself."""
        import numpy as np

        source = np.ascontiguousarray(array).reshape(np.shape(array))  # ascontiguousarray makes 0 axes 1
        if source.shape != self.shape or dtype_name(source.dtype) not in (
            self.dtype,
            dtype_name(numpy_dtype(self.dtype)),
        ):
            raise ArgumentError(
                f"expected an array of shape {self.shape} and dtype {numpy_dtype(self.dtype)}, "
                f"found {source.shape} and {source.dtype}"
            )
        if self.nbytes:
            get(self.device.driver).copy_to_device(self.address, _bytes_of(source), self.device.ordinal)
        return self

    def __trlaunch_view__(self) -> TensorView:
        strides = contiguous_strides(self.shape)
        return TensorView(self.address, self.nbytes, self.dtype, str(self.device), self.shape, strides, keep=self)

    def data_ptr(self) -> int:
        """The address: Triton's own launch takes what has it and a ``dtype`` for a tensor."""
        return self.address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.device.driver != "cuda":
            raise AttributeError(f"an array on {self.device} has no __cuda_array_interface__")
        return self._interface()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if self.device.driver != "emulator":
            raise AttributeError(f"an array on {self.device} is not in host memory: use .numpy()")
        return self._interface()

    def _interface(self) -> dict[str, Any]:
        import numpy as np

        typestr = np.dtype(numpy_dtype(self.dtype)).str
        return {"data": (self.address, False), "shape": self.shape, "typestr": typestr, "strides": None, "version": 3}

    def __dlpack_device__(self) -> tuple[int, int]:
        return ({"cuda": 2, "hip": 10, "emulator": 1}[self.device.driver], self.device.ordinal)

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> object:
        """A DLPack capsule; work already queued on the default stream is ordered before `stream` by the driver."""
        if self.device.driver != "emulator" and stream not in (None, -1, 0, 1):
            get(self.device.driver).wait_for_stream(self.device.ordinal, int(stream), 0)
        return export_dlpack(self, self.address, self.shape, self.dtype, self.__dlpack_device__())

    def __repr__(self) -> str:
        return f"trlaunch.DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device})"


def empty(shape: int | Sequence[int], dtype: object, device: str | Device | None = None) -> DeviceArray:
    """An uninitialised array on a device; left out, the GPU if there is one, else the emulator.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : str or dtype
        NumPy's or Triton's name: ``"float16"``, ``"fp16"``, ``"bf16"``.
    device : str or Device, optional
        ``"cuda:1"``, ``"emulator"``.
    """
    return DeviceArray(shape, dtype, device)


def asarray(array: Any, dtype: object = None, device: str | Device | None = None) -> DeviceArray:
    """A copy of a NumPy array (or what NumPy makes one of) on a device.

    Parameters
    ----------
    array : array_like
    dtype : str or dtype, optional
        Converts first; ``"bf16"`` rounds a float array to nearest even, and takes an integer array as bits.
    device : str or Device, optional
    """
    import numpy as np

    source = np.asarray(array)
    name = dtype_name(source.dtype if dtype is None else dtype)
    if name is None:
        raise ArgumentError(f"dtype {source.dtype if dtype is None else dtype!s}: Triton has no such type")
    if name.startswith("fp8") and source.dtype.kind not in "biu" and dtype_name(source.dtype) != name:
        raise ArgumentError(f"an array of {source.dtype} for {name}: expected its bits in an integer array")
    if name == "bf16" and source.dtype.kind == "f":
        source = _bfloat16(source)
    elif source.dtype != numpy_dtype(name) and dtype_name(source.dtype) != name:
        source = source.astype(numpy_dtype(name))
    return DeviceArray(source.shape, name, device).copy_from(source.view(numpy_dtype(name)))


def _bfloat16(source: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        single = source.astype(np.float32)
    bits = np.array(single.view(np.uint32))
    if source.dtype.itemsize > 4:  # towards zero, then sticky: rounding to fp32 first would round twice
        inexact = (single != source) & np.isfinite(single)
        bits -= (inexact & (np.abs(single) > np.abs(source))).astype(np.uint32)
        bits |= inexact.astype(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(source), np.uint16(0x7FC0), rounded)


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    return memoryview((ctypes.c_char * array.nbytes).from_address(array.ctypes.data)).cast("B")


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = (shape,) if hasattr(shape, "__index__") else tuple(shape)
        numbers = tuple(operator.index(size) for size in sizes)
    except TypeError:
        numbers = (-1,)
    if any(n < 0 for n in numbers):
        raise ArgumentError(f"shape {shape!r:.60}: expected non-negative ints")
    return numbers
