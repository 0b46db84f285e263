"""Placement: which GPU the arguments of a launch are on, and the grid as three sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trlaunch.devices import get
from trlaunch.errors import ArgumentError, DeviceUnavailable
from trlaunch.packing import flatten
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import gpu_place, is_tensor, view

__all__ = ["grid_sizes", "place_of"]


def grid_sizes(grid: int | Sequence[int]) -> tuple[int, int, int]:
    """Programs along x, y and z.

    Raises
    ------
    ArgumentError
        The grid is neither an int nor one to three of them, or one is negative.
    """
    try:
        sizes = [int(grid)] if hasattr(grid, "__index__") else [int(size.__index__()) for size in grid]
    except (TypeError, AttributeError):
        sizes = []
    if isinstance(grid, bool) or not 1 <= len(sizes) <= 3 or any(size < 0 for size in sizes):
        hint = "; call it: a compiled kernel has no constants for it to read" if callable(grid) else ""
        raise ArgumentError(f"grid={grid!r:.60}: expected an int or one to three ints, none negative{hint}")
    x, y, z = (*sizes, 1, 1)[:3]
    return (x, y, z)


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
