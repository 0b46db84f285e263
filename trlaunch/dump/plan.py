"""The dump buffer: what is in it, how large it is for one launch, and its header, which injected code reads.

One buffer serves all dumps of a launch. It begins with an entry of `ENTRY_BYTES` for each dump, little-endian:

====== ==== ============================================================================================
offset type meaning
====== ==== ============================================================================================
0      i64  where its records begin, in units of 16 bytes (so that the compiler knows the alignment)
8      i64  where its flags begin, in bytes: one byte for each record (and thread), 1 when it was written
16     i64  where its table of slots begins: an i32 for each program, -1 for one that is not captured
24     i64  where its counters begin: an i32 for each slot (and loop or thread) that counts iterations
32     i32  iterations kept of each loop around it, outermost first; eight of them
64     i32  programs along y, then along z: code for AMD has no cheap way to ask
====== ==== ============================================================================================

Record ``((slot * n0 + i0) * n1 + i1)`` holds iteration ``(i0, i1)`` of the program of that slot. Grid and iteration
counts are read from the header, so that a kernel is compiled once for all of them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trlaunch.dump.request import At
from trlaunch.errors import ArgumentError
from trlaunch.mlir_text import Place
from trlaunch.scalars import SCALARS

if TYPE_CHECKING:
    import numpy as np

    from trlaunch.dump.layouts import Layout
    from trlaunch.dump.trips import Loop

__all__ = ["DEFAULT_LIMIT", "ENTRY_BYTES", "MAX_LOOPS", "Capture", "Plan", "Where", "make_plan"]

ENTRY_BYTES = 80
MAX_LOOPS = 8
UNKNOWN = 16
"""Iterations of each loop that ``keep="known"`` keeps where their number is not known beforehand."""
DEFAULT_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Where:
    """Where a dumped value is.

    Attributes
    ----------
    name : str
    op : str
        What makes it; ``argument`` of a function's or a block's arguments.
    line : int
        In the text that was given, from 1.
    python : Place or None
        In the Python source.
    type : str
        As the level writes it.
    layout : str or None
        A tensor's encoding.
    """

    name: str
    op: str
    line: int
    python: Place | None
    type: str
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class Capture:
    """One value that injected code captures.

    Attributes
    ----------
    request : At
    where : Where
    dtype : str
        Triton's name; ``"*"`` is an address.
    shape : tuple of int
        Of one record: the tensor's own; of a value per thread the block's threads, then a vector's elements.
    loops : tuple of Loop
        Loops around it with an iteration axis, outermost first; none with ``keep="last"``.
    flags : int
        Flags of a record: 1, or one for each thread.
    counters : int
        Counters of a slot.
    offset : int
        What `trlaunch.language` was given as offset.
    offset_of : str
        Key of the dump that this value is the offset of.
    layout : Layout or None
        How threads and registers, which `shape` is then, make a tensor.
    """

    request: At
    where: Where
    dtype: str
    shape: tuple[int, ...]
    loops: tuple[Loop, ...] = ()
    flags: int = 1
    counters: int = 0
    offset: int = 0
    offset_of: str = ""
    layout: Layout | None = None

    @property
    def key(self) -> str:
        """Key in ``run.dumps``."""
        return self.request.label or self.request.text

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return 8 if self.dtype == "*" else SCALARS[self.dtype].size

    @property
    def record_bytes(self) -> int:
        """Bytes of a record; tensors begin at multiples of 16."""
        size = math.prod(self.shape) * self.item_bytes
        return size if not self.shape else (size + 15) // 16 * 16


@dataclass(slots=True)
class Region:
    """Where one dump of a launch is in the buffer; offsets in bytes."""

    capture: Capture
    axes: tuple[int, ...]
    slots: int
    caps: tuple[int, ...]
    table: np.ndarray[Any, Any] = field(repr=False)
    records: int = 0
    flags: int = 0
    counters: int = 0

    @property
    def count(self) -> int:
        return self.slots * math.prod(self.caps)

    @property
    def nbytes(self) -> int:
        return self.count * (self.capture.record_bytes + self.capture.flags) + self.slots * self.capture.counters * 4


@dataclass(slots=True)
class Plan:
    """The buffer of one launch: regions, size, and the header as bytes."""

    regions: list[Region]
    nbytes: int
    header: bytes
    cleared: int


def make_plan(
    captures: Sequence[Capture],
    grid: tuple[int, int, int],
    axes: int,
    arguments: Mapping[str, int],
    limit: int | None = DEFAULT_LIMIT,
) -> Plan:
    """Lay out the buffer of one launch.

    Parameters
    ----------
    captures : sequence of Capture
    grid : tuple of int
        Programs along x, y, z.
    axes : int
        How many of them the caller gave: the result has that many grid axes.
    arguments : mapping of str to int
        Integer arguments by SSA name, from which iterations are counted.
    limit : int, optional
        Bytes above which the launch is refused.

    Raises
    ------
    ArgumentError
        Iterations cannot be counted beforehand, a program is outside of the grid, or the buffer would be too large.
    """
    import numpy as np

    from trlaunch.dump.trips import count_iterations

    regions = []
    programs = math.prod(grid)
    for capture in captures:
        chosen = capture.request.programs
        table = np.arange(programs, dtype=np.int32)
        slots, shape = programs, grid[:axes]
        if isinstance(chosen, str):  # the last along every axis
            chosen = (tuple(n - 1 for n in grid),) if programs else ()
        if chosen is not None:
            slots, shape = len(chosen), (len(chosen),)
            table = np.full(programs, -1, np.int32)
            for slot, program in enumerate(chosen):
                x, y, z = (*program, 0, 0)[:3]
                if x >= grid[0] or y >= grid[1] or z >= grid[2]:
                    raise ArgumentError(f"dump {capture.key!r}: program {program} is outside of the grid {grid[:axes]}")
                table[(x * grid[1] + y) * grid[2] + z] = slot
        keep = capture.request.keep
        if isinstance(keep, int):
            caps = (keep,) * len(capture.loops)
        else:
            try:
                caps = count_iterations(capture, grid, arguments)
            except ArgumentError:
                if keep != "known":
                    raise
                caps = (UNKNOWN,) * len(capture.loops)
        regions.append(Region(capture, shape, slots, caps, table))
    header = len(regions) * ENTRY_BYTES
    tables = header
    records = _up(tables + len(regions) * programs * 4)
    # What must be zero comes first: flags and counters.
    at = records
    for region in regions:
        region.counters = at
        at = _up(at + region.slots * region.capture.counters * 4)
        region.flags = at
        at = _up(at + region.count * region.capture.flags)
    cleared = at
    for region in regions:
        region.records = at
        at = _up(at + region.count * region.capture.record_bytes)
    if limit is not None and at > limit:
        raise ArgumentError(_too_large(regions, at, limit))
    parts = bytearray()
    for i, region in enumerate(regions):
        caps = (*region.caps, *(1,) * (MAX_LOOPS - len(region.caps)))
        parts += struct.pack(
            "<4q10i8x",
            region.records // 16,
            region.flags,
            tables + i * programs * 4,
            region.counters,
            *caps,
            *grid[1:],
        )
    for region in regions:
        parts += region.table.tobytes()
    return Plan(regions, at, bytes(parts), cleared)


def _up(size: int) -> int:
    return (size + 127) // 128 * 128


def _too_large(regions: Sequence[Region], total: int, limit: int) -> str:
    lines = []
    for region in regions:
        capture = region.capture
        axes = [("programs", region.slots), *(("iterations", n) for n in region.caps)]
        factors = " x ".join(f"{n} {what}" for what, n in axes)
        lines.append(f"{capture.key}: {factors} x {capture.record_bytes} bytes = {region.nbytes / 2**20:.1f} MiB")
    return (
        f"the dump takes {total / 2**20:.1f} MiB, the limit is {limit / 2**20:.1f} MiB ({'; '.join(lines)}): "
        f"capture fewer programs (trlaunch.at(..., programs=[(0, 0)])), fewer iterations (keep='last' or keep=N), part "
        f"of the tensor (part=[slice(0, 8)]), or raise dump_limit="
    )
