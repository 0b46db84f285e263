"""``cp.async``: asynchronous copies from global to shared memory, in groups.

The bytes arrive at once, but are marked as not written until the group was waited for, so that a kernel that forgets to
wait is found. Groups are counted per thread; they are followed as long as all threads of the chunk act together, and
afterwards copies count as complete at once.
"""

from __future__ import annotations

import numpy as np

from trlaunch.emulator.instructions.base import U4, U8, Array
from trlaunch.emulator.memory import GlobalMemory, SharedMemory

__all__ = ["AsyncCopies"]


class AsyncCopies:
    """Copies in flight of one chunk of CTAs."""

    def __init__(self, memory: GlobalMemory, shared: SharedMemory) -> None:
        self.memory, self.shared = memory, shared
        self._open: list[tuple[Array, int]] = []
        self._groups: list[list[tuple[Array, int]]] = []
        self._followed = True

    def start(
        self, target: Array, source: Array, size: int, count: Array | None, mask: Array | None, site: int
    ) -> None:
        """Copy `count` of `size` bytes (``None``: all) per active lane; the rest becomes zero."""
        reading = mask
        partial = False
        if count is not None:
            wanted = np.minimum(count, U4(size))
            some = wanted > 0
            reading = some if mask is None else mask & some
            partial = bool((some & (wanted < size)).any())
        if partial:
            data = self._bytewise(
                source, size, np.minimum(count if count is not None else U4(size), U4(size)), mask, site
            )
        else:
            data = self.memory.load(source, reading, size, site)
            if reading is not None and not reading.all():
                data = np.where(reading, data, data.dtype.type(0))
        self.shared.store(target, data, mask, size, site)
        whole = mask is None or bool(mask.all())
        if not whole:
            self.stop_following()
        elif self._followed and target.shape[0] == 1:
            index = (target[0] // target.dtype.type(size)).astype(np.int64)
            self.shared.forget(index, size)
            self._open.append((index, size))

    def _bytewise(self, source: Array, size: int, count: Array, mask: Array | None, site: int) -> Array:
        parts = []
        for k in range(size):
            here = count > k if mask is None else mask & (count > k)
            byte = self.memory.load(source + U8(k), here, 1, site)
            parts.append(np.where(here, byte, np.uint8(0)))
        shape = np.broadcast_shapes(*(p.shape for p in parts))
        out = np.stack([np.broadcast_to(p, shape) for p in parts], axis=-1)
        wide: Array = out.view({4: np.uint32, 8: np.uint64, 16: np.complex128}[size])[..., 0]
        return wide

    def commit(self, mask: Array | None) -> None:
        """``cp.async.commit_group``."""
        if mask is not None and not mask.all():
            self.stop_following()
        if self._followed:
            self._groups.append(self._open)
            self._open = []

    def wait(self, pending: int, mask: Array | None, every: bool) -> None:
        """``cp.async.wait_group`` (all but the `pending` youngest groups) or ``wait_all``."""
        if mask is not None and not mask.all():
            self.stop_following()
            return
        while len(self._groups) > max(0, pending):
            for index, size in self._groups.pop(0):
                self.shared.remember(index, size)
        if every:
            for index, size in self._open:
                self.shared.remember(index, size)
            self._open = []

    def stop_following(self) -> None:
        """Count all copies as complete, now and from now on."""
        self._followed = False
        for group in [*self._groups, self._open]:
            for index, size in group:
                self.shared.remember(index, size)
        self._groups, self._open = [], []
