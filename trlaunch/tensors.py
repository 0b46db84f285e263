"""Tensors of any framework as an address, an extent, a dtype and a place.

Understood, in this order: trlaunch's own arrays, ``data_ptr()`` (torch and what imitates it),
``__cuda_array_interface__`` version 2 and 3, DLPack, ``__array_interface__`` (NumPy). No framework is imported.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

from trlaunch.errors import ArgumentError
from trlaunch.records import dataclass

__all__ = [
    "Pointer",
    "TensorView",
    "contiguous_strides",
    "dlpack_numbers",
    "dtype_name",
    "export_dlpack",
    "gpu_place",
    "is_tensor",
    "numpy_dtype",
    "view",
]


@dataclass(frozen=True, slots=True)
class Pointer:
    """A raw address for a pointer parameter. A plain int is never taken as one.

    Attributes
    ----------
    address : int
    nbytes : int or None
        Size of the memory behind it, for the emulator's bounds; ``None`` leaves it to what the driver knows.
    """

    address: int
    nbytes: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.address, bool) or not isinstance(self.address, int) or not 0 <= self.address < 2**64:
            raise ArgumentError(f"Pointer({self.address!r}): expected an address, an int from 0 to 2**64-1")


@dataclass(frozen=True, slots=True)
class TensorView:
    """What a launch needs of a tensor.

    Attributes
    ----------
    address : int
        Of its first element.
    extent : int or None
        Bytes from the first element to the end of the last; ``None`` when the exporter does not say.
    dtype : str or None
        Triton's name (``"fp16"``), or ``None`` when it has none.
    place : str or None
        ``"cpu"``, ``"cuda:1"``, ``"hip:0"``, ``"emulator"``, ``"managed"``; ``None`` when only the driver can tell.
    shape : tuple of int
    strides : tuple of int
        In elements.
    read_only : bool
    stream : int or None
        Stream that the exporter asks to be waited for.
    keep : object
        What holds the memory while it is in use.
    """

    address: int
    extent: int | None
    dtype: str | None
    place: str | None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    read_only: bool = False
    stream: int | None = None
    keep: Any = None


# NumPy's, torch's and JAX's dtype names by Triton's.
_DTYPES = {
    "bool": "i1",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float64": "fp64",
    "float8_e4m3fn": "fp8e4nv",
    "float8_e4m3b11fnuz": "fp8e4b15",
    "float8_e4m3fnuz": "fp8e4b8",
    "float8_e5m2": "fp8e5",
    "float8_e5m2fnuz": "fp8e5b16",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
}
_NUMPY = {
    "i1": "bool",
    "u1": "bool",
    "bf16": "uint16",  # NumPy has no bfloat16 and no fp8: their bits
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)},
    **dict.fromkeys(("fp8e4nv", "fp8e5", "fp8e4b15", "fp8e4b8", "fp8e5b16"), "uint8"),
}
# DLPack's DLDataTypeCode (dlpack.h): int 0, uint 1, float 2, bfloat 4, bool 6; the fp8 codes since DLPack 1.1.
_DLPACK_CODES = {
    **{(0, bits): f"i{bits}" for bits in (8, 16, 32, 64)},
    **{(1, bits): f"u{bits}" for bits in (8, 16, 32, 64)},
    (2, 16): "fp16",
    (2, 32): "fp32",
    (2, 64): "fp64",
    (4, 16): "bf16",
    (6, 8): "i1",
    (9, 8): "fp8e4b15",
    (10, 8): "fp8e4nv",
    (11, 8): "fp8e4b8",
    (12, 8): "fp8e5",
    (13, 8): "fp8e5b16",
}
# DLPack's DLDeviceType; host memory pinned by CUDA (3) or ROCm (11) is the CPU's here: give its device address.
_DLPACK_PLACES = {1: "cpu", 2: "cuda:{}", 3: "cpu", 10: "hip:{}", 11: "cpu", 13: "managed"}


def dlpack_numbers() -> dict[str, int]:
    """A number below 64 for each dtype that DLPack has: its code times 4 and the binary logarithm of its bytes."""
    return {name: code * 4 + (bits // 8).bit_length() - 1 for (code, bits), name in _DLPACK_CODES.items()}


def dtype_name(dtype: object) -> str | None:
    """Triton's name of a dtype (NumPy's, torch's, JAX's, a string such as ``"<f4"``); ``None`` when it has none."""
    name = getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]
    if name in _DTYPES:
        return _DTYPES[name]
    if name in _NUMPY:
        return name
    import numpy as np

    if dtype is None:  # to NumPy it means float64
        return None
    try:
        return _DTYPES.get(np.dtype(dtype).name)  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError, DeprecationWarning):  # of strings such as "(2,"; of "a", as an error
        return None


def numpy_dtype(name: str) -> str:
    """NumPy's dtype for a Triton type; the bits as unsigned integers where NumPy has none."""
    return _NUMPY[name]


def is_tensor(value: object) -> bool:
    """Whether `view` understands the value."""
    kind = type(value)
    return (
        hasattr(kind, "data_ptr")
        or hasattr(kind, "__dlpack__")
        or hasattr(value, "__cuda_array_interface__")
        or (hasattr(kind, "__array_interface__") and getattr(value, "shape", None) != ())
        or hasattr(value, "data_ptr")
    )


def view(value: Any, stream: int = 0) -> TensorView:
    """What a launch needs of a tensor.

    Parameters
    ----------
    value : tensor
        An object for which `is_tensor` holds.
    stream : int
        Stream the memory will be used on; DLPack exporters order their work before it.

    Raises
    ------
    TypeError
        It is no tensor, or its exporter refused; the message says why.
    """
    own = getattr(type(value), "__trlaunch_view__", None)
    if own is not None:
        result: TensorView = own(value)
        return result
    try:
        found = _from_protocol(value, stream)
    except (ValueError, OverflowError) as error:  # a number that is none, strides of another length than shape
        raise TypeError(f"what it says of itself is malformed: {error}") from None
    if not 0 <= found.address < 2**64:
        raise TypeError(f"its address is {found.address:#x}")
    return found


def _from_protocol(value: Any, stream: int) -> TensorView:
    if callable(getattr(value, "data_ptr", None)):
        return _from_data_ptr(value)
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(value, interface, None)
    if hasattr(type(value), "__array_interface__"):
        return _from_interface(value, value.__array_interface__, "cpu")
    if hasattr(type(value), "__dlpack__"):
        return _from_dlpack(value, stream)
    raise TypeError("it has no data_ptr(), __cuda_array_interface__, __dlpack__ or __array_interface__")


def _from_data_ptr(value: Any) -> TensorView:
    try:
        address = int(value.data_ptr())
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"its data_ptr() failed: {error}") from None
    device = getattr(value, "device", None)
    kind = getattr(device, "type", None)
    place = "cpu" if kind == "cpu" else gpu_place(value)
    if kind is not None and place is None:
        raise TypeError(f"it lives on device {device}")
    dtype = dtype_name(value.dtype) if hasattr(value, "dtype") else None
    if not hasattr(value, "shape") or not callable(getattr(value, "stride", None)):
        return TensorView(address, None, dtype, place, keep=value)
    shape, strides = tuple(value.shape), tuple(value.stride())
    itemsize = value.element_size() if callable(getattr(value, "element_size", None)) else None
    return TensorView(address, _extent(shape, strides, itemsize), dtype, place, shape, strides, keep=value)


def gpu_place(value: Any) -> str | None:
    """``"cuda:1"`` or ``"hip:1"`` of a tensor that names a GPU as its device; ``None`` of others.

    The device of a torch built for ROCm is called ``cuda``, too: ``torch.version.hip`` tells.
    """
    device = getattr(value, "device", None)
    kind, index = getattr(device, "type", None), getattr(device, "index", None)
    if kind == "cuda" and type(device).__module__.partition(".")[0] == "torch":
        torch = sys.modules.get("torch")
        if getattr(getattr(torch, "version", None), "hip", None) is not None:
            kind = "hip"
    return f"{kind}:{index or 0}" if kind in ("cuda", "hip") else None


def _from_interface(value: Any, interface: dict[str, Any], place: str | None) -> TensorView:
    # Version 3 of the CUDA array interface (Numba's documentation) and NumPy's array interface share these keys.
    try:
        address, read_only = interface["data"]
        shape = tuple(interface["shape"])
        typestr = interface["typestr"]
        byte_strides = interface.get("strides")
        itemsize = int(typestr[2:])
    except (KeyError, TypeError, ValueError) as error:
        raise TypeError(f"its array interface is malformed: {error!r}") from None
    if byte_strides is None:
        strides = contiguous_strides(shape)
    elif itemsize and all(s % itemsize == 0 for s in byte_strides):
        strides = tuple(s // itemsize for s in byte_strides)
    else:
        raise TypeError(f"its strides {tuple(byte_strides)} are no multiples of its item size, {itemsize} bytes")
    dtype = dtype_name(getattr(value, "dtype", typestr))
    return TensorView(
        int(address or 0),
        _extent(shape, strides, itemsize),
        dtype,
        place,
        shape,
        strides,
        bool(read_only),
        interface.get("stream") if place is None else None,
        value,
    )


class _DLTensor(ctypes.Structure):
    # struct DLTensor of dlpack.h; DLManagedTensor begins with it.
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


def _from_dlpack(value: Any, stream: int) -> TensorView:
    kind = int(value.__dlpack_device__()[0])
    try:
        if kind == 2:  # the protocol calls CUDA's legacy default stream 1, not 0
            capsule = value.__dlpack__(stream=stream or 1)
        elif kind == 10:
            capsule = value.__dlpack__(stream=stream)
        else:
            capsule = value.__dlpack__()
        tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"its __dlpack__() failed: {error}") from None
    place = _DLPACK_PLACES.get(tensor.device_type)
    if place is None or tensor.lanes != 1:
        raise TypeError(f"it lives on DLPack device type {tensor.device_type} with {tensor.lanes} lanes an element")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else contiguous_strides(shape)
    # The capsule was not consumed: its own destructor gives the memory back once `keep` is dropped.
    return TensorView(
        (tensor.data or 0) + tensor.byte_offset,
        _extent(shape, strides, tensor.bits // 8),
        _DLPACK_CODES.get((tensor.code, tensor.bits)),
        place.format(tensor.device_id),
        shape,
        strides,
        keep=(capsule, value),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_exported: dict[int, Any] = {}  # what a live capsule refers to, by the address of its DLManagedTensor

_capsule_new = ctypes.pythonapi.PyCapsule_New
_capsule_new.restype = ctypes.py_object
_capsule_new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_capsule_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_capsule_is_valid.restype = ctypes.c_int
_capsule_is_valid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_raw_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


@_Deleter  # type: ignore[untyped-decorator]
def _delete(managed: int) -> None:
    _exported.pop(managed, None)


@_Destructor  # type: ignore[untyped-decorator]
def _destroy(capsule: int) -> None:
    # A consumer renames the capsule to "used_dltensor" and calls the deleter itself.
    if _capsule_is_valid(capsule, b"dltensor"):
        _exported.pop(_raw_capsule_pointer(capsule, b"dltensor"), None)


def export_dlpack(owner: Any, address: int, shape: tuple[int, ...], dtype: str, device: tuple[int, int]) -> object:
    """A ``dltensor`` capsule over C-contiguous memory that `owner` keeps alive.

    Parameters
    ----------
    dtype : str
        Triton's name.
    device : tuple of int
        DLDeviceType and ordinal.
    """
    wanted = "i1" if dtype == "u1" else dtype
    code, bits = next(key for key, name in _DLPACK_CODES.items() if name == wanted)
    sizes = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    strides = (ctypes.c_int64 * max(len(shape), 1))(*contiguous_strides(shape))
    managed = _DLManagedTensor(
        _DLTensor(address, *device, len(shape), code, bits, 1, sizes, strides, 0),
        None,
        ctypes.cast(_delete, ctypes.c_void_p),
    )
    key = ctypes.addressof(managed)
    _exported[key] = (managed, sizes, strides, owner)
    return _capsule_new(key, b"dltensor", _destroy)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a C-contiguous array, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _extent(shape: Sequence[int], strides: Sequence[int], itemsize: int | None) -> int | None:
    if itemsize is None or any(stride < 0 for stride in strides):
        return None
    if 0 in shape:
        return 0
    return (1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))) * itemsize
