"""Some warps of a chunk that run by themselves, as those of specialised kernels do.

A block that only a few warp groups have reached would compute all lanes in vain and merge what it made under a mask.
Instead these warps get a state and registers of their own, with their lanes alone, for as long as nobody else runs
them; what they changed goes back to the registers of all when a block runs for more lanes.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from trlaunch.emulator.chunk import Chunk
from trlaunch.emulator.copies import AsyncCopies
from trlaunch.emulator.instructions.base import Array

__all__ = ["Strands"]

#: Threads that are kept together: those of a warp group, whose instructions need them all.
_GROUP = 128


class _Registers:
    """Registers of some lanes, over those of all."""

    __slots__ = ("changed", "every", "lanes", "seen")

    def __init__(self, every: list[Array], lanes: slice) -> None:
        self.every, self.lanes = every, lanes
        self.changed: dict[int, Array] = {}
        self.seen: dict[int, Array] = {}

    def __getitem__(self, index: int) -> Array:
        found = self.changed.get(index)
        if found is None:
            found = self.seen.get(index)
        if found is None:
            found = self.every[index]
            if found.shape[1] > 1:
                found = self.seen[index] = np.ascontiguousarray(found[:, self.lanes])
        return found

    def __setitem__(self, index: int, value: Array) -> None:
        self.changed[index] = value

    def give_back(self, threads: int) -> None:
        """Change the registers of all."""
        for index, value in self.changed.items():
            old = self.every[index]
            whole = np.empty((max(old.shape[0], value.shape[0]), threads), old.dtype)
            whole[:] = old
            whole[:, self.lanes] = value if value.dtype == old.dtype else value.view(old.dtype)
            self.every[index] = whole
        self.changed.clear()
        self.seen.clear()


class _Strand:
    def __init__(self, chunk: Chunk, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.lanes = slice(first, last)
        self.chunk = copy.copy(chunk)
        self.chunk.threads = last - first
        self.chunk.copies = AsyncCopies(chunk.memory, chunk.shared)
        for name, value in vars(chunk).items():
            if isinstance(value, np.ndarray) and value.shape == (1, chunk.threads):
                setattr(self.chunk, name, value[:, self.lanes])
        self.registers = _Registers(chunk.registers, self.lanes)

    def widen(self, value: Any, threads: int) -> Any:
        """What a block returns, for all lanes."""
        if isinstance(value, tuple):
            return tuple(self.widen(v, threads) for v in value)
        if not isinstance(value, np.ndarray) or value.shape[1] == 1:
            return value
        whole = np.zeros((value.shape[0], threads), value.dtype)
        whole[:, self.lanes] = value
        return whole


class Strands:
    """Runs blocks of a chunk, for all lanes or by strand."""

    def __init__(self, chunk: Chunk, possible: bool) -> None:
        self.chunk = chunk
        self.possible = possible and chunk.start is None and not chunk.threads % _GROUP and chunk.threads > _GROUP
        self._strands: dict[tuple[int, int], _Strand] = {}

    def run(self, function: Callable[..., Any], mask: Array | None) -> Any:
        """Run a block for the lanes of `mask`, shape (1, T) or (C, T), or all; its result."""
        strand = self._find(mask) if self.possible and mask is not None and mask.shape[1] > 1 else None
        if strand is None or mask is None:
            if self._strands:
                self._join(0, self.chunk.threads)
            return function(self.chunk, self.chunk.registers, mask)
        inside: Array | None = mask[:, strand.lanes]
        if inside is not None and inside.all():
            inside = None
        log, threads = self.chunk.log, self.chunk.threads
        strand.chunk.alive = self.chunk.alive[:, strand.lanes]
        log.lanes, log.first = (log.lanes[0], strand.chunk.threads), strand.first
        try:
            result = function(strand.chunk, strand.registers, inside)
        finally:
            log.lanes, log.first = (log.lanes[0], threads), 0
        return strand.widen(result, threads)

    def _find(self, mask: Array) -> _Strand | None:
        groups = np.flatnonzero(mask.any(axis=0).reshape(-1, _GROUP).any(axis=1))
        if not len(groups):
            return None
        first, last = int(groups[0]) * _GROUP, (int(groups[-1]) + 1) * _GROUP
        if (last - first) * 2 > self.chunk.threads:
            return None
        found = self._strands.get((first, last))
        if found is None:
            self._join(first, last)
            self.chunk.copies.stop_following()
            found = self._strands[first, last] = _Strand(self.chunk, first, last)
        return found

    def _join(self, first: int, last: int) -> None:
        """Put an end to the strands of these lanes."""
        for key in [k for k in self._strands if k[0] < last and first < k[1]]:
            strand = self._strands.pop(key)
            strand.registers.give_back(self.chunk.threads)
            strand.chunk.copies.stop_following()
