"""Races in the shared memory of a chunk of CTAs.

Of every granule, the last write, the last read of each warp, and the last one that is still under way (an operand of
``wgmma``, the source of a tensor store) are kept as records. An access races with those that its warp
does not know of (`trlaunch.emulator.checks.clocks`).
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.checks.clocks import WARPS, Clocks
from trlaunch.emulator.checks.lanes import Groups, Touch, differ, same_bits
from trlaunch.emulator.checks.records import ASYNC, EPOCH, FLYING, Sites, epochs, places, records, threads
from trlaunch.emulator.instructions.base import Array

if TYPE_CHECKING:
    from trlaunch.emulator.checks.reports import Reports
    from trlaunch.emulator.memory import SharedMemory

__all__ = ["SharedRaces"]

_FLYING = np.uint64(FLYING) << EPOCH


class SharedRaces:
    """What happened to the shared memory of C CTAs."""

    def __init__(self, memory: SharedMemory, sites: Sites, clocks: Clocks, reports: Reports) -> None:
        self.memory, self.sites, self.clocks, self.reports = memory, sites, clocks, reports
        self.size = sites.shared
        self.stride = memory.stride // self.size
        self.warps = clocks.warps
        count = memory.ctas * self.stride
        self.written = np.zeros(count, np.uint64)
        self.read = np.zeros((count, self.warps), np.uint64)
        self.flying = np.zeros((count, self.warps), np.uint64)
        shape = memory.ctas, self.warps * 32
        self.copies, self.products, self.bulk = Groups(shape), Groups(shape), Groups(shape)

    # Records.

    def _granules(self, touch: Touch, size: int) -> Array:
        """Granules, shape (n, k), in the chunk's shared memory."""
        first = touch.row * self.stride + touch.address // self.size
        if size <= self.size:
            return first[:, None]
        return first[:, None] + np.arange(size // self.size)

    def _known(self, touch: Touch, record: Array, proxy: bool = False) -> Array:
        """Which records the lanes' warps know of, or are of the lanes themselves; shape of `record`, (n, ...)."""
        extra = (slice(None),) + (None,) * (record.ndim - 1)
        epoch, thread = epochs(record), threads(record)
        row, warp = touch.row[extra], (touch.thread >> 5)[extra]
        own = (thread == touch.thread[extra]) & (epoch < ASYNC)
        if proxy:
            return (record == 0) | self.clocks.knows(row, warp, thread >> 5, epoch, True)
        return (record == 0) | own | self.clocks.knows(row, warp, thread >> 5, epoch)

    def _conflict(self, touch: Touch, record: Array, strong: bool) -> Array | None:
        """Where records, shape (n, ...), race with the lanes' access; ``None`` where none does."""
        if not record.size or record.max() < np.uint64(self.clocks.floor + 1) << EPOCH:
            return None
        bad = ~self._known(touch, record)
        if strong:
            bad &= ~self.sites.strong[places(record)]
        return bad if bad.any() else None

    # Accesses.

    def load(self, site: int, touch: Touch, size: int, strong: bool) -> None:
        """Lanes read; of atomics, `strong`, the part that reads."""
        at = self._granules(touch, size)
        record = self.written[at]
        bad = self._conflict(touch, record, strong)
        if bad is not None:
            self.reports.shared(site, "load" if not strong else "atomic", touch, size, record, bad, "store")
        warp = touch.thread >> 5
        made = records(self.clocks.now(touch.row, warp), touch.thread, self.sites.place(site))
        self.read[at, warp[:, None]] = made[:, None]

    def store(self, site: int, touch: Touch, size: int, strong: bool, *, flying: bool = False) -> None:
        """Lanes write, or begin a copy that does."""
        at = self._granules(touch, size)
        warp = touch.thread >> 5
        made = records(self.clocks.now(touch.row, warp), touch.thread, self.sites.place(site))
        self._before_write(site, touch, at, size, strong, "copy" if flying else "atomic" if strong else "store")
        if flying:
            made = records(np.full(len(touch), FLYING), touch.thread, self.sites.place(site))
            self.copies.add(touch.row, touch.thread, at, made)
        self.written[at] = made[:, None]
        if strong:
            self.read[at, warp[:, None]] = made[:, None]
        elif touch.value is not None:
            self._collisions(site, touch, at, made, size)

    def _before_write(self, site: int, touch: Touch, at: Array, size: int, strong: bool, what: str) -> None:
        record = self.written[at]
        bad = self._conflict(touch, record, strong)
        if bad is not None:
            bad = self._unequal(touch, bad, size)
            if bad.any():
                self.reports.shared(site, what, touch, size, record, bad, "store")
        for kept in (self.read, self.flying):
            record = kept[at]
            bad = self._conflict(touch, record, strong)
            if bad is not None:
                self.reports.shared(site, what, touch, size, record, bad, "load")

    def _unequal(self, touch: Touch, bad: Array, size: int) -> Array:
        """`bad` without the lanes that write what is there already."""
        if touch.value is None:
            return bad
        there = self.memory.flat[size].take(touch.row * (self.memory.stride // size) + touch.address // size)
        return bad & ~_spread(same_bits(touch.value, there), bad.ndim)

    def _collisions(self, site: int, touch: Touch, at: Array, made: Array, size: int) -> None:
        """Lanes of one instruction that write different values to one place."""
        record = self.written[at]
        if touch.value is None or not (record != made[:, None]).any():
            return
        both = np.lexsort((touch.address, touch.row))
        row, address, value = touch.row[both], touch.address[both], touch.value[both]
        differs = (address[1:] == address[:-1]) & (row[1:] == row[:-1]) & differ(value[1:], value[:-1])
        if not differs.any():
            return
        where = int(np.flatnonzero(differs)[0])
        one, other = int(both[where]), int(both[where + 1])
        bad = np.zeros(record.shape, bool)
        bad[one] = True
        record = record.copy()
        record[one] = made[other]
        self.reports.shared(site, "store", touch, size, record, bad, "store", touch.value[other])

    # Asynchronous work.

    def operand(self, site: int, touch: Touch, size: int) -> None:
        """Warpgroups begin to read an operand of ``wgmma``."""
        self._begin_reading(site, touch, size, "wgmma", self.products)

    def _begin_reading(self, site: int, touch: Touch, size: int, what: str, groups: Groups) -> None:
        at = self._granules(touch, size)
        record = self.written[at]
        bad = self._conflict(touch, record, False)
        if bad is not None:
            self.reports.shared(site, what, touch, size, record, bad, "store")
        else:
            generic = (record != 0) & (epochs(record) < ASYNC) & ~self.sites.copies[places(record)]
            bad = generic & ~self._known(touch, record, proxy=True)
            if bad.any():
                self.reports.shared(site, what, touch, size, record, bad, "fence")
        made = records(np.full(len(touch), FLYING), touch.thread, self.sites.place(site))
        self.flying[at, (touch.thread >> 5)[:, None]] = made[:, None]
        groups.add(touch.row, touch.thread, at, made)

    def box(self, site: int, touch: Touch, units: Array, signal: Array | None) -> None:
        """A tensor copy of 16-byte units, shape (n, u), to (with a signal) or from shared memory."""
        each = units.shape[1]
        spread = Touch(np.repeat(touch.row, each), np.repeat(touch.thread, each), units.reshape(-1) * 16, None)
        if signal is None:
            self._begin_reading(site, spread, 16, "tensor store", self.bulk)
            return
        at = self._granules(spread, 16)
        self._before_write(site, spread, at, 16, False, "tensor copy")
        number = np.array([self.clocks.barrier_at(int(a)) for a in signal], np.int64)
        phase = self.clocks.phases[touch.row, number] + 1 + ASYNC
        made = records(phase, (WARPS + number) * 32 + (touch.thread >> 5), self.sites.place(site))
        self.written[at] = np.repeat(made, each)[:, None]

    def copies_done(self, mask: Array | None, pending: int, every: bool) -> None:
        """``cp.async.wait_group``: the threads know that their copies have come."""
        for row, thread, at, record in self.copies.wait(mask, pending, every):
            place = places(record[:1])
            made = records(self.clocks.now(row, thread >> 5), thread, int(place[0]))
            self.written[at] = np.where(self.written[at] == record[:, None], made[:, None], self.written[at])

    def reads_done(self, groups: Groups, mask: Array | None, pending: int) -> None:
        """Warpgroups know that operands have been read; threads, that what they store has."""
        for row, thread, at, record in groups.wait(mask, pending):
            warp = (thread >> 5)[:, None]
            made = records(self.clocks.now(row, thread >> 5), thread, int(places(record[:1])[0]))
            self.flying[at, warp] = np.where(self.flying[at, warp] == record[:, None], 0, self.flying[at, warp])
            self.read[at, warp] = np.maximum(self.read[at, warp], made[:, None])


def _spread(flags: Array, dimensions: int) -> Any:
    return flags.reshape(-1, *(1,) * (dimensions - 1))
