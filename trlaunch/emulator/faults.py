"""The report of a lane that died: where, which lanes, what they touched, and the line at each level."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.syntax import Instruction, Module, Position
from trlaunch.errors import Fault

if TYPE_CHECKING:
    from trlaunch.emulator.memory import MemoryRange

__all__ = ["FaultLog", "nearest", "source_of", "source_text"]

Dim = tuple[int, int, int]


def source_of(module: Module, position: Position | None) -> tuple[str | None, str]:
    """``file.py:line`` of the kernel's own line, and the whole chain of inlined lines in words."""
    if position is None:
        return None, ""
    inner = f"{module.files.get(position.file, '?')}:{position.line}"
    if position.inlined_at is None:
        return inner, inner
    file, line, _ = position.inlined_at
    outer = f"{module.files.get(file, '?')}:{line}"
    return outer, f"{inner}, inlined at {outer}"


def source_text(module: Module, position: Position | None) -> str:
    """The kernel's own line as its file has it; empty where the file is not there."""
    if position is None:
        return ""
    file, line = (position.file, position.line) if position.inlined_at is None else position.inlined_at[:2]
    return linecache.getline(module.files.get(file, ""), line).strip()


class FaultLog:
    """Makes `Fault` exceptions for one chunk of CTAs.

    Parameters
    ----------
    module, sites
        What the site numbers in generated code stand for.
    kernel : str
    ctas : ndarray of int64, shape (C,)
        Linear index of each CTA in the grid.
    grid, block : tuple of int
    lanes : tuple of int
        ``(C, T)`` of the lanes that run.
    first : int
        Thread of the first of them in each CTA.
    """

    def __init__(
        self,
        module: Module,
        sites: Sequence[Instruction],
        kernel: str,
        ctas: Array,
        grid: Dim,
        block: Dim,
        lanes: tuple[int, int],
    ) -> None:
        self.module, self.sites, self.kernel = module, sites, kernel
        self.ctas, self.grid, self.block, self.lanes = ctas, grid, block, lanes
        self.first = 0

    def lane(self, row: int, thread: int) -> tuple[Dim, Dim]:
        """Block index and thread index of a lane."""
        cta, thread = int(self.ctas[row]), thread + self.first
        x, y, _ = self.grid
        bx, by, _ = self.block
        return (cta % x, cta // x % y, cta // (x * y)), (thread % bx, thread // bx % by, thread // (bx * by))

    def fault(self, kind: str, what: str, site: int, bad: Array | None, address: int | None = None) -> Fault:
        """A fault of the lanes in `bad`; `what` completes "<kernel>: ..."."""
        instruction = self.sites[site]
        source, chain = source_of(self.module, instruction.position)
        cta = thread = None
        where = ""
        if bad is not None:
            rows, threads = np.nonzero(self._wide(bad))
            if bad.shape[1] not in (1, self.lanes[1]):  # items that a warp handles together
                threads = threads * self.lanes[1] // bad.shape[1]
            cta, thread = self.lane(int(rows[0]), int(threads[0]))
            count = len(rows)
            where = f"\n  first lane: CTA {cta}, thread {thread}; {count} lane{'s' if count > 1 else ''} in all"
            others = len(np.unique(rows))
            where += f", in {others} CTAs" if others > 1 else ""
        line = instruction.line
        message = f"{kind} in {self.kernel}: {what}{where}\n  PTX line {line}: {self.module.line_text(line)}"
        if chain:
            message += f"\n  at {chain}"
            text = source_text(self.module, instruction.position)
            message += f"\n    {text}" if text else ""
        return Fault(message, kind=kind, cta=cta, thread=thread, address=address, ptx_line=line, source=source)

    def _wide(self, bad: Array) -> Array:
        return np.broadcast_to(bad, (self.lanes[0], bad.shape[1] if bad.shape[1] > 1 else self.lanes[1]))

    def _first(self, address: Array, bad: Array) -> int:
        every = self._wide(np.broadcast_to(bad, np.broadcast_shapes(bad.shape, address.shape)))
        at = tuple(int(n[0]) for n in np.nonzero(every))
        return int(np.broadcast_to(address, every.shape)[at])

    def out_of_bounds(
        self, site: int, address: Array, bad: Array, size: int, action: str, ranges: Sequence[MemoryRange]
    ) -> Fault:
        """Global access outside every range."""
        first = self._first(address, bad)
        what = f"{action} of {_bytes(size)} at address {first:#x}, {nearest(first, size, ranges)}"
        return self.fault("out-of-bounds", what, site, bad, first)

    def read_only(self, site: int, address: Array, mask: Array | None, size: int, found: MemoryRange) -> Fault:
        """Store into a buffer that must not be written."""
        bad = np.ones((1, 1), bool) if mask is None else mask
        bad = bad & (address - np.uint64(found.base) <= np.uint64(found.nbytes - size))
        first = self._first(address, bad)
        what = f"store of {_bytes(size)} at address {first:#x}, in {found.name!r}, which is read-only"
        return self.fault("read-only", what, site, bad, first)

    def misaligned(
        self, site: int, address: Array, bad: Array, size: int, action: str, ranges: Sequence[MemoryRange]
    ) -> Fault:
        """Access at an address that is not a multiple of its size."""
        first = self._first(address, bad)
        near = f", {nearest(first, size, ranges)}" if ranges else " of shared memory"
        what = f"{action} of {_bytes(size)} at address {first:#x}{near}: not a multiple of {size}"
        return self.fault("misaligned", what, site, bad, first)

    def shared_out_of_bounds(self, site: int, address: Array, bad: Array, size: int, action: str, nbytes: int) -> Fault:
        """Access outside of the CTA's shared memory."""
        first = self._first(address, bad)
        over = first + size - nbytes
        signed = first - (1 << 8 * address.dtype.itemsize)
        place = f"{over} bytes past its end" if over < 1 << 31 else f"{-signed} bytes before its start"
        what = f"{action} of {_bytes(size)} at shared address {first:#x}: shared memory has {nbytes} bytes, {place}"
        return self.fault("out-of-bounds", what, site, bad, first)

    def local_out_of_bounds(self, site: int, address: Array, bad: Array, size: int, action: str, nbytes: int) -> Fault:
        """Access outside of the thread's local memory."""
        first = self._first(address, bad)
        what = f"{action} of {_bytes(size)} at local address {first:#x}: the thread has {nbytes} bytes of local memory"
        return self.fault("out-of-bounds", what, site, bad, first)

    def uninitialised(self, site: int, address: Array, bad: Array, size: int) -> Fault:
        """Load of shared memory that nobody wrote."""
        first = self._first(address, bad)
        what = (
            f"load of {_bytes(size)} at shared address {first:#x}, which nothing has written yet"
            " (a missing store, or an asynchronous copy that was not waited for)"
        )
        return self.fault("uninitialised", what, site, bad, first)


def _bytes(size: int) -> str:
    return f"{size} byte{'s' if size > 1 else ''}"


def nearest(address: int, size: int, ranges: Sequence[MemoryRange]) -> str:
    """Where an address lies from the nearest buffer."""
    if not ranges:
        return "and the launch has no buffer at all"

    def distance(r: MemoryRange) -> int:
        return max(r.base - address, address + size - (r.base + r.nbytes), 0)

    near = min(ranges, key=distance)
    whole = f"{near.name!r} ({near.nbytes} bytes from {near.base:#x})"
    missed = distance(near)
    if not missed:
        return f"{address - near.base} bytes into {whole}"
    if address < near.base:
        return f"{missed} byte{'s' if missed > 1 else ''} before {whole}"
    end = near.base + near.nbytes
    gap = address - end
    if gap < 0:
        return f"{missed} byte{'s' if missed > 1 else ''} of it past the end of {whole}"
    return f"{gap} byte{'s' if gap != 1 else ''} past the end of {whole}"
