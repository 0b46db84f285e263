"""How the native launcher reads torch's tensors: without a Python call, and without the casts of torch's own bindings.

A tensor is a Python object that holds an ``at::Tensor`` (``THPVariable`` of ``torch/csrc/autograd/python_variable.h``).
torch's stable C interface (``torch/csrc/inductor/aoti_torch/c/shim.h``, since torch 2.2) reads address, device and
dtype of one in a few nanoseconds; its DLPack exchange table takes several times as long, its methods more. Where the
``at::Tensor`` lies in the object and what its numbers mean is found out by tensors made here, and each answer is
compared with that of the method; where any differs, the exchange table or the methods are used.

Dtype and device lie side by side in a ``TensorImpl`` (``data_type_``, ``device_opt_`` of ``c10/core/TensorImpl.h``).
Where they do is found by the same tensors. The native launcher asks the functions about dtype and device only of
tensors whose bytes there are not those of one that it asked about before; where bytes and functions contradict each
other, it keeps to asking.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

from trlaunch.tensors import dlpack_numbers, dtype_name

__all__ = ["torch_device_type", "torch_dtypes", "torch_handles"]

_READERS = (
    ("aoti_torch_get_data_ptr", ctypes.c_void_p),
    ("aoti_torch_get_device_type", ctypes.c_int32),
    ("aoti_torch_get_device_index", ctypes.c_int32),
    ("aoti_torch_get_dtype", ctypes.c_int32),
)
_SCALAR_TYPES = 64
_REFERENCE_COUNTS, _SMALLEST_TENSOR_IMPL = 16, 192  # bytes: what comes first in a TensorImpl, and torch 2.2's to 2.14's


def torch_dtypes(torch: Any) -> dict[Any, int]:
    """The number of `dlpack_numbers` of each of torch's dtypes."""
    numbers = dlpack_numbers()
    named = {kind: dtype_name(kind) for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
    return {kind: numbers[name] for kind, name in named.items() if name in numbers}


def torch_device_type(torch: Any) -> int:
    """DLPack's number of the devices that torch calls ``cuda``: 10 (kDLROCM) or 2 (kDLCUDA), by its build."""
    return 2 if getattr(getattr(torch, "version", None), "hip", None) is None else 10


def torch_handles(torch: Any) -> tuple[tuple[int, int], tuple[int, ...], int, int, bytes] | None:
    """What ``_launcher.know_handles`` takes: ``None`` where this torch cannot be read so, as far as can be told now.

    The offsets of the ``at::Tensor`` in a tensor and of dtype and device in what that points to, 0 where they were not
    found; the addresses of the functions that read data, device type, device and
    dtype of one, and of that for the current stream, or 0; torch's and DLPack's number of the GPU; for each of torch's
    ``ScalarType`` the number of `dlpack_numbers`, 255 for none.
    """
    folder = Path(getattr(torch, "__file__", None) or "", "..", "lib").resolve()
    try:
        library = ctypes.CDLL(str(folder / "libtorch_cpu.so"))  # it is loaded already
        readers = [(getattr(library, name), kind) for name, kind in _READERS]
        gpu, host = library.aoti_torch_device_type_cuda(), library.aoti_torch_device_type_cpu()
    except (OSError, AttributeError):
        return None
    dtypes = torch_dtypes(torch)
    probes = [(torch.empty(2, dtype=dtype, device="cpu"), dtype) for dtype in dtypes]
    if not probes or any(type(probe) is not torch.Tensor for probe, _ in probes):  # a mode of torch makes others
        return None
    offset = _offset([probe for probe, _ in probes], torch.Tensor.__basicsize__)
    if offset is None:
        return None
    numbers = bytearray(b"\xff" * _SCALAR_TYPES)
    keys: list[tuple[Any, bytes]] = []
    for probe, dtype in probes:
        data, device_type, index, scalar_type = (_read(f, id(probe) + offset, kind) for f, kind in readers)
        if [data, device_type] != [probe.data_ptr(), host] or not 0 <= (scalar_type or 0) < _SCALAR_TYPES:
            return None
        numbers[scalar_type or 0] = dtypes[dtype]
        keys.append((probe, struct.pack("<HBbB", scalar_type or 0, host, index or 0, True)))
    functions = [_address(function) for function, _ in readers]
    known = _stream(torch, folder)
    return (offset, _key_offset(keys)), (*functions, known), gpu, torch_device_type(torch), bytes(numbers)


def _offset(probes: list[Any], size: int) -> int | None:
    """Where tensors have the word that is their ``TensorImpl``, which is all that an ``at::Tensor`` is."""
    for offset in range(object.__basicsize__, size - 7, 8):
        if all(ctypes.c_uint64.from_address(id(probe) + offset).value == probe._cdata for probe in probes):
            return offset
    return None


def _key_offset(keys: list[tuple[Any, bytes]]) -> int:
    """Where each ``TensorImpl`` has these bytes: its dtype, device type and index, and that it has a device; or 0."""
    for offset in range(_REFERENCE_COUNTS, _SMALLEST_TENSOR_IMPL - 7, 8):
        if all(ctypes.string_at(probe._cdata + offset, len(key)) == key for probe, key in keys):
            return offset
    return 0


def _read(function: Any, handle: int, kind: Any) -> int | None:
    out = kind()
    status = function(ctypes.c_void_p(handle), ctypes.byref(out))
    return None if status else out.value


def _stream(torch: Any, folder: Path) -> int:
    """The function that gives a device's current stream as torch's own does; 0 where there is none."""
    try:
        function = ctypes.CDLL(str(folder / "libtorch_cuda.so")).aoti_torch_get_current_cuda_stream
    except (OSError, AttributeError):
        return 0
    device, out = torch.cuda.current_device(), ctypes.c_void_p()
    if function(ctypes.c_int32(device), ctypes.byref(out)):
        return 0
    return _address(function) if (out.value or 0) == torch._C._cuda_getCurrentRawStream(device) else 0


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
