"""What code run by `tests.fakecuda.FakeCuda.run` often needs; imported in that process."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

from trlaunch.cuda.driver import CudaDriver
from trlaunch.image import Image, ImageKernel
from trlaunch.target import Target

__all__ = ["cubin", "cuda", "driver", "fail", "fnv1a", "image", "ptx", "user_context"]

PTX = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry {name}()\n{{\n ret;\n}}\n"


def driver() -> CudaDriver:
    """The CUDA driver of this process."""
    return CudaDriver.instance()


def cuda(call: str, *args: Any) -> Any:
    """Call a function of ``cuda.bindings.driver`` as a user would, and return its result."""
    from cuda.bindings import driver as bindings

    status, *results = getattr(bindings, call)(*args)
    assert status == 0, (call, status)
    return results[0] if results else None


def fail(call: str, status: int, nth: int = 0) -> None:
    """Make the n-th next call of that name fail (0: every one); status 0 heals it."""
    ctypes.CDLL("libcuda.so.1").fakecuda_fail(call.encode(), status, nth)


def cubin(*kernels: str) -> bytes:
    """The least that the fake library takes for a cubin: an ELF header, and the names of the kernels behind it."""
    names = "\0".join(kernels).encode() + b"\0"
    machine = 190  # EM_CUDA
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, machine, 1, 0, 0, 64 + len(names), 0, 64, 0, 0, 0, 0, 0
    )
    return header + names


def image(*kernels: str, target: str = "cuda:90") -> Image:
    """An image of `cubin` with these kernels."""
    return _image("cubin", cubin(*kernels), kernels, target)


def ptx(kernel: str, text: str | None = None, target: str = "cuda:90") -> Image:
    """An image of PTX text, by default with an empty kernel of that name."""
    return _image("ptx", (text if text is not None else PTX.format(name=kernel)).encode(), (kernel,), target)


def _image(form: str, data: bytes, kernels: tuple[str, ...], target: str) -> Image:
    return Image(form, Target.parse(target), data, {name: ImageKernel(name, (), 0) for name in kernels})


def user_context(ordinal: int) -> Any:
    """Make a context of the user's own on a device, and leave it current."""
    from cuda.bindings import driver as bindings

    device = cuda("cuDeviceGet", ordinal)
    if int(bindings.CUDA_VERSION) >= 13000:
        return cuda("cuCtxCreate", None, 0, device)
    return cuda("cuCtxCreate", 0, device)


def fnv1a(data: bytes) -> int:
    """The 64-bit FNV-1a hash that the log gives of a module's bytes."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value
