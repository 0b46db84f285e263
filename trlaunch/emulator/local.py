"""Local memory: the frame of every thread, side by side."""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from trlaunch.emulator.faults import FaultLog
from trlaunch.emulator.instructions.base import U1, U8, Array
from trlaunch.emulator.memory import VIEWS, trim

__all__ = ["LOCAL_WINDOW", "LocalMemory"]

#: Generic addresses of local memory begin here, above those of shared memory.
LOCAL_WINDOW = U8(1 << 61)


class LocalMemory:
    """`nbytes` bytes for each of C times T threads; an address counts from the start of the thread's own."""

    def __init__(self, nbytes: int, log: FaultLog) -> None:
        self.nbytes, self.log = nbytes, log
        self.stride = (nbytes + 15) // 16 * 16
        self.bytes = np.zeros((*log.lanes, self.stride), dtype=U1)
        self.views = {size: self.bytes.view(dtype) for size, dtype in VIEWS.items()}

    def _index(self, address: Array, mask: Array | None, size: int, site: int, action: str) -> Array:
        if mask is not None:
            address = address * mask
        bad = address > address.dtype.type(max(self.nbytes - size, 0))
        if bad.any() or self.nbytes < size:
            raise self.log.local_out_of_bounds(site, address, bad | (self.nbytes < size), size, action, self.nbytes)
        odd = (address & address.dtype.type(size - 1)) != 0
        if odd.any():
            raise self.log.misaligned(site, address, odd, size, action, ())
        return (address // address.dtype.type(size)).astype(np.int64)

    def load(self, address: Array, mask: Array | None, size: int, site: int) -> Array:
        """Elements of `size` bytes; lanes outside the mask hold anything."""
        if mask is not None:
            mask, anybody = trim(mask)
            if not anybody:
                return np.zeros((1, 1), VIEWS[size])
        index = self._index(address, mask, size, site, "load")
        view = self.views[size]
        if index.size == 1:
            return view[:, :, index.item()].copy()
        wide = np.broadcast_to(index, self.log.lanes)[..., None]
        found: Array = np.take_along_axis(view, wide, axis=2)[..., 0]
        return found

    def store(self, address: Array, value: Array, mask: Array | None, size: int, site: int) -> None:
        """Write one element of `size` bytes per active lane."""
        if mask is not None:
            mask, anybody = trim(mask)
            if not anybody:
                return
        index = self._index(address, mask, size, site, "store")
        view = self.views[size]
        if index.size == 1:
            target = view[:, :, index.item()]
            target[...] = value if mask is None else np.where(mask, value, target)
            return
        wide = np.broadcast_to(index, self.log.lanes)[..., None]
        if mask is not None:
            value = np.where(mask, value, np.take_along_axis(view, wide, axis=2)[..., 0])
        np.put_along_axis(view, wide, np.broadcast_to(value, self.log.lanes)[..., None], axis=2)
