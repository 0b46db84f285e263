"""Placement: which GPU the arguments of a launch are on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trlaunch.devices import get
from trlaunch.errors import DeviceUnavailable
from trlaunch.packing import flatten
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import gpu_place, is_tensor, view

__all__ = ["place_of"]


def place_of(values: Sequence[Any]) -> str | None:
    """The GPU that the first tensor on one is on, ``"cuda:1"``; ``None`` when none is."""
    for value in flatten(values):
        if isinstance(value, (int, float)):
            continue
        descriptor = TensorDescriptor.of(value)
        tensor = descriptor.tensor if descriptor is not None else value
        named = gpu_place(tensor)
        if named is not None:
            return named
        if not is_tensor(tensor):
            continue
        own = getattr(tensor, "__trlaunch_view__", None)
        if own is not None:
            return str(own().place)
        if 0 in (getattr(tensor, "shape", None) or ()):
            continue  # an empty array has no memory that could be anywhere
        if hasattr(tensor, "__cuda_array_interface__") or _dlpack_gpu(tensor):
            place = _owner(tensor)
            if place is not None:  # an empty array has no memory, hence no owner
                return place
    return None


def _dlpack_gpu(tensor: Any) -> bool:
    device = getattr(type(tensor), "__dlpack_device__", None)
    return device is not None and int(device(tensor)[0]) in (2, 10)  # kDLCUDA, kDLROCM


def _owner(tensor: Any) -> str | None:
    try:
        found = view(tensor)
    except TypeError:
        return None  # packing reports it with the parameter's name
    if found.place is not None:
        return found.place if found.place.startswith(("cuda", "hip")) else None
    refused = []
    for name in ("cuda", "hip"):
        try:
            owner = get(name).device_of_pointer(found.address)
        except DeviceUnavailable as error:
            refused.append(error)
            continue
        if owner is not None:
            return f"{name}:{owner}"
    if len(refused) == 2:
        raise refused[0]
    return None
