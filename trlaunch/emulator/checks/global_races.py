"""Races in global memory, over all chunks of a launch.

Of every granule, the last write and two reads are kept as records: the earliest since then that later ones do not make
superfluous, and one of another warp. Without instructions that order what CTAs do, accesses of two CTAs race whenever
one of them is a plain store.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trlaunch.emulator.checks.clocks import EVERYWHERE, Clocks
from trlaunch.emulator.checks.lanes import Touch, differ, same_bits
from trlaunch.emulator.checks.records import Sites, epochs, places, records, threads
from trlaunch.emulator.instructions.base import Array
from trlaunch.errors import EmulatorError

if TYPE_CHECKING:
    from trlaunch.emulator.checks.reports import Reports
    from trlaunch.emulator.checks.slices import Slices
    from trlaunch.emulator.memory import GlobalMemory, MemoryRange

__all__ = ["GlobalRaces"]

#: Addresses of one instruction that are told apart as means of synchronisation.
_MOST_ADDRESSES = 64


class GlobalRaces:
    """What happened to the arrays of a launch."""

    def __init__(self, ranges: Sequence[MemoryRange], sites: Sites, threads_of_cta: int, slices: Slices) -> None:
        self.sites, self.count, self.slices = sites, threads_of_cta, slices
        self.size = sites.global_
        starts: list[int] = []
        ends: list[int] = []
        for found in sorted((r for r in ranges if not r.read_only), key=lambda r: r.base):
            low, high = found.base & ~15, (found.base + found.nbytes + 15) & ~15
            if starts and low <= ends[-1]:
                ends[-1] = max(ends[-1], high)
            else:
                starts.append(low)
                ends.append(high)
        self._starts, self._ends = np.array(starts, np.int64), np.array(ends, np.int64)
        lengths = (self._ends - self._starts) // self.size
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
        total = int(lengths.sum())
        try:
            self.written = np.zeros(total, np.uint64)
            self.read = np.zeros((2, total), np.uint64)
        except MemoryError:
            raise EmulatorError(
                f"the check of races needs {24 * total} bytes for what happens to {total * self.size} bytes of arrays:"
                " leave out what the kernel has no use for, or check a smaller problem"
            ) from None
        self.clocks: Clocks
        self.memory: GlobalMemory
        self.reports: Reports

    def begin(self, memory: GlobalMemory, clocks: Clocks, reports: Reports) -> None:
        """The next chunk of CTAs."""
        self.memory, self.clocks, self.reports = memory, clocks, reports

    def _granules(self, touch: Touch, size: int) -> tuple[Touch, Array]:
        """Lanes that touch what can be written, and their granules, shape (n, k)."""
        if not len(self._starts):
            return _some(touch, np.zeros(len(touch), bool)), np.zeros((0, 1), np.int64)
        which = np.searchsorted(self._starts, touch.address, "right") - 1
        inside = (which >= 0) & (touch.address < self._ends[which])
        if not inside.all():
            touch, which = _some(touch, inside), which[inside]
        first = self._offsets[which] + (touch.address - self._starts[which]) // self.size
        return touch, first[:, None] + np.arange(max(1, size // self.size))

    def _made(self, site: int, touch: Touch) -> Array:
        cta = self.clocks.ctas[touch.row]
        epoch = self.clocks.now(touch.row, touch.thread >> 5)
        return records(epoch, cta * self.count + touch.thread, self.sites.place(site))

    def _known(self, touch: Touch, record: Array) -> Array:
        thread, epoch = threads(record), epochs(record)
        cta, inner = thread // self.count, thread % self.count
        row = touch.row[:, None]
        own = (cta == self.clocks.ctas[row]) & (inner == touch.thread[:, None])
        known = self.clocks.knows_of(row, (touch.thread >> 5)[:, None], cta, inner >> 5, epoch)
        return (record == 0) | own | known

    def _conflict(self, touch: Touch, record: Array, strong: bool) -> Array | None:
        if not record.any():
            return None
        bad = ~self._known(touch, record)
        if strong:
            bad &= ~self.sites.strong[places(record)]
        return bad if bad.any() else None

    def load(self, site: int, touch: Touch, size: int, strong: bool) -> None:
        """Lanes read; of atomics, `strong`, the part that reads."""
        touch, at = self._granules(touch, size)
        if not len(touch):
            return
        record = self.written[at]
        bad = self._conflict(touch, record, strong)
        if bad is not None:
            self.reports.global_(site, "atomic" if strong else "load", touch, size, record, bad, "store")
        self._remember_read(touch, at, self._made(site, touch))

    def _remember_read(self, touch: Touch, at: Array, made: Array) -> None:
        first = self.read[0][at]
        if not first.any():
            self.read[0][at] = made[:, None]
            # Of lanes of several warps that read one place, a second is kept.
            lost = threads(self.read[0][at]) >> 5 != threads(made)[:, None] >> 5
            if lost.any():
                self.read[1][at[lost]] = np.broadcast_to(made[:, None], at.shape)[lost]
            return
        replaced = self._known(touch, first)
        new = np.broadcast_to(made[:, None], at.shape)
        self.read[0][at[replaced]] = new[replaced]
        other = ~replaced
        if other.any():
            second = self.read[1][at]
            free = other & self._known(touch, second)
            self.read[1][at[free]] = new[free]

    def store(self, site: int, touch: Touch, size: int, strong: bool) -> None:
        """Lanes write."""
        touch, at = self._granules(touch, size)
        if not len(touch):
            return
        what = "atomic" if strong else "store"
        record = self.written[at]
        bad = self._conflict(touch, record, strong)
        if bad is not None and not strong:
            bad &= ~self._equal(touch, size)[:, None]
        if bad is not None and bad.any():
            self.reports.global_(site, what, touch, size, record, bad, "store")
        for kept in self.read:
            record = kept[at]
            bad = self._conflict(touch, record, strong)
            if bad is not None:
                bad &= ~self._replicated(site, touch, record, bad)
                if bad.any():
                    self.reports.global_(site, what, touch, size, record, bad, "load")
        made = self._made(site, touch)
        self.written[at] = made[:, None]
        if strong:
            self._remember_read(touch, at, made)
        elif touch.value is not None:
            self._collisions(site, touch, at, made, size)

    def _replicated(self, site: int, touch: Touch, record: Array, bad: Array) -> Array:
        """Loads of the same CTA that matter to nothing but this store (`trlaunch.emulator.checks.slices`)."""
        place = places(record)
        harmless = [p for p in np.unique(place[bad]).tolist() if self.slices.only_stored_by(self.sites.site(p), site)]
        same = threads(record) // self.count == self.clocks.ctas[touch.row][:, None]
        return same & np.isin(place, harmless)

    def _equal(self, touch: Touch, size: int) -> Array:
        """Lanes that write what is there already."""
        if touch.value is None or touch.value.dtype.itemsize != size:
            return np.zeros(len(touch), bool)
        there = np.zeros(len(touch), touch.value.dtype)
        for found in self.memory.ranges:
            here = (touch.address >= found.base) & (touch.address + size <= found.base + found.nbytes)
            index = (touch.address[here] - found.base + found.lead) // size
            there[here] = found.view(size)[index].view(there.dtype)
        return same_bits(there, touch.value)

    def _collisions(self, site: int, touch: Touch, at: Array, made: Array, size: int) -> None:
        """Lanes of one instruction that write different values to one place."""
        assert touch.value is not None
        record = self.written[at]
        lost = record != made[:, None]
        if not lost.any():
            return
        order = np.argsort(touch.address, kind="stable")
        address, value = touch.address[order], touch.value[order]
        differs = (address[1:] == address[:-1]) & differ(value[1:], value[:-1])
        if not differs.any():
            return
        bad = np.zeros(at.shape, bool)
        where = int(np.flatnonzero(differs)[0])
        one, other = int(order[where]), int(order[where + 1])
        bad[one] = True
        record = record.copy()
        record[one] = made[other]
        self.reports.global_(site, "store", touch, size, record, bad, "store", touch.value[other])

    def order(self, site: int, touch: Touch) -> None:
        """A strong access orders what CTAs do, if its instruction says so."""
        acquires, releases = self.sites.acquires(site), self.sites.releases(site)
        if self.clocks.releases is None or not (acquires or releases):
            return
        warp = touch.thread >> 5
        addresses = np.unique(touch.address)
        if len(addresses) > _MOST_ADDRESSES:
            who = np.unique(np.stack([touch.row, warp], axis=1), axis=0)
            self.clocks.meet(EVERYWHERE, [(int(a), int(b)) for a, b in who], acquires, releases)
            return
        for address in addresses.tolist():
            here = touch.address == address
            who = np.unique(np.stack([touch.row[here], warp[here]], axis=1), axis=0)
            self.clocks.meet(address, [(int(a), int(b)) for a, b in who], acquires, releases)


def _some(touch: Touch, which: Array) -> Touch:
    value = None if touch.value is None else touch.value[which]
    return Touch(touch.row[which], touch.thread[which], touch.address[which], value)
