"""The tensors among the arguments of a launch: kept, put back, set to zero, read and compared."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trlaunch.arguments import as_floats
from trlaunch.devices import get
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import TensorView, is_tensor, numpy_dtype, view

__all__ = ["Kept", "by_name", "difference", "read", "tensors_in"]


def by_name(names: Sequence[str], args: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a launch by name."""
    numbered = [*names, *(f"arg{i}" for i in range(len(names), len(args)))]
    return {**dict(zip(numbered, args, strict=False)), **named}


def tensors_in(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that are tensors, and the tensors of descriptors."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, (int, float, str)) or value is None:
            continue
        descriptor = TensorDescriptor.of(value)
        tensor = descriptor.tensor if descriptor is not None else value
        if is_tensor(tensor) and getattr(tensor, "shape", None) != ():
            found[name] = tensor
    return found


class Kept:
    """What has to be as it was before each run of a candidate.

    Parameters
    ----------
    arguments : mapping of str to object
    restore, zero : sequence of str
        Arguments that are put back, and that are set to zero.
    device : Device
    stream : int
        On which this is queued.
    """

    def __init__(
        self, arguments: Mapping[str, Any], restore: Sequence[str], zero: Sequence[str], device: Device, stream: int
    ) -> None:
        self._driver = get(device.driver)
        self._ordinal, self._stream = device.ordinal, stream
        self._zero = [_view(arguments, name, "reset_to_zero") for name in zero]
        self._copies: list[tuple[TensorView, int]] = []
        for name in restore:
            found = _view(arguments, name, "restore")
            copy = self._driver.allocate(found.extent or 0, self._ordinal)
            self._copies.append((found, copy))
            self._driver.copy_on_device(copy, found.address, found.extent or 0, self._ordinal, stream)

    def put_back(self) -> None:
        """Queue what brings the tensors back."""
        for found, copy in self._copies:
            self._driver.copy_on_device(found.address, copy, found.extent or 0, self._ordinal, self._stream)
        for found in self._zero:
            if self._driver.name == "emulator":
                ctypes.memset(found.address, 0, found.extent or 0)
            else:
                self._driver.clear(found.address, found.extent or 0, self._ordinal, self._stream)

    def close(self) -> None:
        """Free the copies, once what was queued is done."""
        if self._copies:
            self._driver.synchronize(self._ordinal, self._stream)
        while self._copies:
            self._driver.free(self._copies.pop()[1], self._ordinal)


def _view(arguments: Mapping[str, Any], name: str, what: str) -> TensorView:
    tensor = tensors_in({name: arguments[name]} if name in arguments else {}).get(name)
    if tensor is None:
        raise ArgumentError(f"{what}: {name!r} is no tensor of the launch: expected one of {', '.join(arguments)}")
    found = view(tensor)
    if found.extent is None:
        raise ArgumentError(f"{what}: {name!r} does not say how large it is: pass a tensor with a shape")
    return found


def read(tensor: Any) -> tuple[npt.NDArray[Any], str | None]:
    """A tensor's values on the host and Triton's name of its dtype; bf16 and fp8 as their bits."""
    found = view(tensor)
    dtype = np.dtype(numpy_dtype(found.dtype or "u8"))
    data = bytearray(found.extent or 0)
    if data:
        _fetch(data, found)
    flat = np.frombuffer(bytes(data), dtype)
    if not flat.size:
        return np.empty(found.shape, dtype), found.dtype
    strides = tuple(stride * dtype.itemsize for stride in found.strides)
    return np.lib.stride_tricks.as_strided(flat, found.shape, strides).copy(), found.dtype


def _fetch(data: bytearray, found: TensorView) -> None:
    if found.place in ("cpu", "emulator"):
        data[:] = ctypes.string_at(found.address, len(data))
        return
    place = found.place
    if place is None or place == "managed":
        owners = ((name, get(name).device_of_pointer(found.address)) for name in ("cuda", "hip"))
        place = next((f"{name}:{owner}" for name, owner in owners if owner is not None), None)
    if place is None:
        raise ArgumentError(f"{found.address:#x} is no memory of a device: expected a tensor that can be read")
    device = Device.parse(place)
    get(device.driver).copy_to_host(memoryview(data), found.address, device.ordinal)


def difference(
    found: npt.NDArray[Any], expected: npt.NDArray[Any], dtype: str | None, rtol: float, atol: float
) -> tuple[bool, float]:
    """Whether two arrays agree, and the largest difference.

    Floats agree within ``atol + rtol * |expected|``, NaN with NaN; everything else, fp8 included, to the bit.
    """
    if found.shape != expected.shape:
        return False, float("inf")
    if not found.size:
        return True, 0.0
    floats = found.dtype.kind == "f" or dtype == "bf16"
    if not floats:
        same = found == expected.astype(found.dtype)
        return bool(same.all()), float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
    a = as_floats(found, dtype).astype(np.float64)
    b = expected if expected.dtype.kind == "f" else as_floats(expected, dtype)
    b = b.astype(np.float64)
    agree = np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    worst = float(np.nanmax(apart)) if not np.isnan(apart).all() else (0.0 if agree.all() else float("nan"))
    return bool(agree.all()), worst
