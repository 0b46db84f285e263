"""Arrays as other libraries hand them out, over addresses that need not exist: the protocols and nothing else."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

from trlaunch.tensors import contiguous_strides, export_dlpack

__all__ = ["CupyLike", "DlpackLike", "TorchLike", "storage"]

_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int8": 1, "int32": 4, "int64": 8, "uint8": 1}


@dataclass(frozen=True)
class _TorchDevice:
    type: str
    index: int | None = None

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


@dataclass(frozen=True)
class _TorchDtype:
    text: str

    def __str__(self) -> str:
        return f"torch.{self.text}"


class TorchLike:
    """``data_ptr()``, ``dtype``, ``device``, ``shape``, ``stride()``, ``element_size()``, as torch.Tensor has."""

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...] = (1024,),
        dtype: str = "float32",
        device: str = "cuda:0",
        strides: tuple[int, ...] | None = None,
    ) -> None:
        kind, _, index = device.partition(":")
        self.address, self.shape, self.dtype = address, shape, _TorchDtype(dtype)
        self.device = _TorchDevice(kind, int(index) if index else None)
        self._strides = contiguous_strides(shape) if strides is None else strides

    def data_ptr(self) -> int:
        return self.address

    def stride(self) -> tuple[int, ...]:
        return self._strides

    def element_size(self) -> int:
        return _SIZES[self.dtype.text]


@dataclass
class CupyLike:
    """``__cuda_array_interface__`` version 3, as CuPy and numba-cuda have."""

    address: int
    shape: tuple[int, ...] = (1024,)
    typestr: str = "<f4"
    strides: tuple[int, ...] | None = None
    stream: int | None = None
    read_only: bool = False

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.typestr,
            "data": (self.address, self.read_only),
            "strides": self.strides,
            "stream": self.stream,
            "version": 3,
        }


@dataclass
class DlpackLike:
    """``__dlpack__`` and ``__dlpack_device__`` alone, as a JAX array has; `streams` records what consumers asked."""

    address: int
    shape: tuple[int, ...] = (1024,)
    dtype: str = "fp32"
    device: tuple[int, int] = (2, 0)
    streams: list[Any] = field(default_factory=list)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: Any = None) -> object:
        self.streams.append(stream)
        return export_dlpack(self, self.address, self.shape, self.dtype, self.device)


def storage(nbytes: int, align: int = 256) -> tuple[int, Any]:
    """Address of zeroed host memory of that alignment, and what keeps it."""
    memory = ctypes.create_string_buffer(nbytes + align)
    return ctypes.addressof(memory) + -ctypes.addressof(memory) % align, memory
