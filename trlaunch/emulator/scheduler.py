"""Which block runs next, for which lanes.

Lanes of a chunk move in lockstep. Of the blocks that lanes wait for, the one that comes first in the text runs next,
for all lanes that are there; compilers lay code out so that this reconverges what diverged. PTX states no point of
reconvergence, so three things are looked after apart:

* lanes at a barrier wait until all threads of their CTA that have not exited (or as many as it says) are there;
* lanes of a loop that polls memory step aside, whenever they go round, until no others can run;
* part of a warp steps aside in the same way before a block with an instruction for whole warps.

If nothing can run, or a poll goes round and round while memory does not change, the launch is deadlocked.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from trlaunch.emulator.chunk import Chunk
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.program import Program
from trlaunch.emulator.strands import Strands
from trlaunch.errors import Fault

__all__ = ["DEFAULT_STEP_LIMIT", "Scheduler"]

#: Blocks that a chunk may run before its launch counts as hung.
DEFAULT_STEP_LIMIT = 5_000_000
#: Rounds of polling without any change to memory that count as a deadlock.
_MAX_SPINS = 500
#: Every so many rounds in which something was written, all of shared memory is looked at.
_LOOK = 32


@dataclass(slots=True)
class _Arrival:
    """Lanes that arrived at a barrier and where they go on; ``None`` for ``bar.arrive``, which does not wait."""

    lanes: Array
    resume: int | None
    site: int


class Scheduler:
    """Runs one chunk to its end.

    Attributes
    ----------
    splits : bool
        Warps that run alone may do so without the others' lanes, so that masks and registers are theirs alone.
    """

    splits = True

    def __init__(self, program: Program, chunk: Chunk, step_limit: int = DEFAULT_STEP_LIMIT) -> None:
        self.program, self.chunk, self.step_limit = program, chunk, step_limit
        self.functions = program.functions  # of each block; an instrument may wrap them
        self.shape = chunk.log.lanes
        chunk.alive = (
            np.ones(self.shape, bool) if chunk.start is None else np.broadcast_to(chunk.start, self.shape).copy()
        )
        self.pending: dict[int, Array | None] = {0: chunk.start}
        self.parked: dict[int, Array | None] = {}
        self.waiting: dict[int, list[_Arrival]] = {}
        self.counts: dict[int, int | None] = {}
        self.whole = chunk.start is None  # no lane has exited and none is missing
        self._spins = 0
        self._spin_mark = (-1, 0)
        self._written = (-1, -1)
        self._looks = 0
        self._force = False
        self._site_of_end = _sites_of_ends(program)

    def run(self) -> None:
        """Run until every lane has exited.

        Raises
        ------
        Fault
            A lane died, or the lanes wait for each other.
        """
        blocks, functions, pending = self.program.blocks, self.functions, self.pending
        strands = Strands(self.chunk, self.splits and functions is self.program.functions and not self.program.frame)
        for _ in range(self.step_limit):
            if not pending and not self._unpark():
                return
            index = min(pending)
            mask = pending.pop(index)
            if mask is not None and self.program.warp_sync[index] and self._hold(index, mask):
                continue
            self._force = False
            block = blocks[index]
            result = strands.run(functions[index], mask)
            kind = block.kind
            if kind == "fall":
                self._add(block.following, mask)
            elif kind == "jump":
                self._jump(block.polls, block.target, mask)
            elif kind == "branch":
                self._branch(block, mask, result)
            elif kind == "barrier":
                self._barrier(index, mask, result)
            else:
                self._exit(index, mask, result)
        raise self._hung()

    # Moving lanes.

    def _add(self, index: int | None, mask: Array | None) -> None:
        assert index is not None
        _merge(self.pending, index, mask)

    def _jump(self, polls: bool, index: int | None, mask: Array | None) -> None:
        """Go to `index`; back round a loop that polls, only when nobody else can run."""
        if not polls:
            return self._add(index, mask)
        assert index is not None
        _merge(self.parked, index, mask)
        return None

    def _branch(self, block: Any, mask: Array | None, taken: Array) -> None:
        if taken.size == 1:
            if taken[0, 0]:
                self._jump(block.polls, block.target, mask)
            else:
                self._add(block.following, mask)
            return
        here = taken if mask is None else taken & mask
        rest = ~taken if mask is None else mask & ~taken
        if not rest.any():
            self._jump(block.polls, block.target, mask)
        elif not here.any():
            self._add(block.following, mask)
        else:
            self._jump(block.polls, block.target, here)
            self._add(block.following, rest)

    def _hold(self, index: int, mask: Array) -> bool:
        """Put part of a warp aside until the rest has come, if it can."""
        if self._force or not (self.pending or self.parked):
            return False
        if mask.shape[1] == 1:
            return False
        wide = np.broadcast_to(mask, self.shape).reshape(self.shape[0], -1, 32)
        absent = self.chunk.alive.reshape(wide.shape) & ~wide
        if not (wide.any(axis=2) & absent.any(axis=2)).any():
            return False
        _merge(self.parked, index, mask)
        return True

    def _unpark(self) -> bool:
        """Let those go on that stepped aside; false when no lane is left at all."""
        if not self.parked:
            if self.waiting:
                raise self._deadlock()
            return False
        # Polling code passes what it read through shared memory, so writing there is no progress by itself; other bytes
        # are. To look at all of them each time would cost more than what runs in between.
        written = self.chunk.memory.writes, self.chunk.shared.writes
        if written == self._written:
            self._spins += 1
        else:
            self._looks = (self._looks + 1) % _LOOK
            if self._looks == 0 or self._spins:
                mark = self.chunk.memory.writes, zlib.crc32(self.chunk.shared.bytes.data)
                self._spins = self._spins + 1 if mark == self._spin_mark else 0
                self._spin_mark = mark
        self._written = written
        if self._spins > _MAX_SPINS:
            raise self._livelock()
        # When nothing but waiting parts of warps came round, run one of them as it is.
        self._force = self._spins > 0
        self.pending.update(self.parked)
        self.parked.clear()
        return True

    def _exit(self, index: int, mask: Array | None, guard: Array | None) -> None:
        block = self.program.blocks[index]
        everyone = self.chunk.alive if mask is None else np.broadcast_to(mask, self.shape)
        leaving = everyone if guard is None else everyone & guard
        if block.kind == "trap" and leaving.any():
            raise self.chunk.log.fault("trap", "the kernel executed trap", self._site_of_end[index], leaving)
        if guard is None and mask is None and not self.waiting:
            return
        if block.following is not None:
            staying = everyone & ~leaving
            if staying.any():
                self._add(block.following, None if mask is None and not leaving.any() else staying)
        if leaving.any():
            self.whole = False
            self.chunk.alive = self.chunk.alive & ~leaving
            for number in list(self.waiting):
                self._release(number)

    # Barriers.

    def _barrier(
        self, index: int, mask: Array | None, operands: tuple[Array, Array | None, Array | None, bool]
    ) -> None:
        block = self.program.blocks[index]
        numbers, counts, guard, arrive = operands
        site = self._site_of_end[index]
        whole_ctas = mask is None or mask.shape[1] == 1
        plain = guard is None and counts is None and not arrive and numbers.size == 1
        if whole_ctas and plain and self.whole and int(numbers.item()) not in self.waiting:
            self._passes(site, int(numbers.item()), mask, mask)
            self._add(block.following, mask)
            return
        here = np.broadcast_to(np.ones((1, 1), bool) if mask is None else mask, self.shape) & self.chunk.alive
        if guard is not None:
            skipping = here & ~guard
            here = here & guard
            if skipping.any():
                self._add(block.following, skipping)
        if arrive and here.any():
            self._add(block.following, here)
        wide_numbers = np.broadcast_to(numbers, self.shape)
        for number in np.unique(wide_numbers[here]):
            lanes = here & (wide_numbers == number)
            if not 0 <= number < 16:
                raise self.chunk.log.fault("barrier", f"barrier {number} does not exist: expected 0 to 15", site, lanes)
            count = None
            if counts is not None:
                values = np.unique(np.broadcast_to(counts, self.shape)[lanes])
                if len(values) > 1 or values[0] == 0 or values[0] % 32:
                    what = f"barrier {number} for {' and '.join(map(str, values))} threads: expected one multiple of 32"
                    raise self.chunk.log.fault("barrier", what, site, lanes)
                count = int(values[0])
            if number in self.counts and number in self.waiting and self.counts[number] != count:
                other = self.counts[number] or "all"
                what = f"barrier {number} for {count or 'all'} threads, but lanes wait there for {other}"
                raise self.chunk.log.fault("barrier", what, site, lanes)
            self.counts[int(number)] = count
            arrival = _Arrival(lanes, None if arrive else block.following, site)
            self.waiting.setdefault(int(number), []).append(arrival)
            self._release(int(number))

    def _release(self, number: int) -> None:
        """Let those CTAs go on whose threads are all there."""
        arrivals = self.waiting[number]
        arrived = sum(a.lanes.sum(axis=1) for a in arrivals)
        count = self.counts[number]
        ready = arrived > 0
        if count is None:
            ready &= arrived >= self.chunk.alive.sum(axis=1)
        else:
            ready &= arrived >= count
        if not ready.any():
            return
        lanes = [a.lanes & ready[:, None] for a in arrivals]
        waiting = [a for a, b in zip(lanes, arrivals, strict=True) if b.resume is not None]
        nobody = np.zeros((1, 1), bool)
        self._passes(arrivals[0].site, number, sum(lanes, nobody), sum(waiting, nobody))
        left = []
        for arrival in arrivals:
            going = arrival.lanes & ready[:, None]
            if arrival.resume is not None and going.any():
                _merge(self.pending, arrival.resume, None if going.all() else going)
            remaining = arrival.lanes & ~ready[:, None]
            if remaining.any():
                left.append(_Arrival(remaining, arrival.resume, arrival.site))
        if left:
            self.waiting[number] = left
        else:
            del self.waiting[number]

    def _passes(self, site: int, number: int, arrived: Array | None, waiting: Array | None) -> None:
        """A barrier is complete, for those who observe (`trlaunch.emulator.observer`)."""

    # Reports.

    def _deadlock(self) -> Fault:
        parts = []
        for number, arrivals in sorted(self.waiting.items()):
            lanes = np.logical_or.reduce([a.lanes for a in arrivals])
            cta = int(np.flatnonzero(lanes.any(axis=1))[0])
            lines = sorted({self.program.sites[a.site].line for a in arrivals if a.lanes[cta].any()})
            count = self.counts[number]
            wanted = int(self.chunk.alive[cta].sum()) if count is None else count
            where = ", ".join(map(str, lines))
            parts.append(f"barrier {number} has {int(lanes[cta].sum())} of {wanted} threads (PTX line {where})")
        first = next(iter(self.waiting.values()))[0]
        lanes = np.logical_or.reduce([a.lanes for arrivals in self.waiting.values() for a in arrivals])
        what = "no thread can go on: " + "; ".join(parts)
        return self.chunk.log.fault("deadlock", what, first.site, lanes)

    def _livelock(self) -> Fault:
        index, mask = min(self.parked.items())
        what = (
            "threads poll memory that nothing changes; if they wait for other CTAs, those have not started"
            " (only a cooperative launch has all CTAs run at once)"
        )
        for site, state in self.chunk.barriers.report(sorted(self.chunk.barriers.waits)):
            what += f"\n  PTX line {self.program.sites[site].line} waits: {state}"
        for at, parked in sorted(self.parked.items()):
            what += f"\n  {self._warps(parked)} at PTX line {self.program.sites[self._first_site(at)].line}"
        for number, arrivals in sorted(self.waiting.items()):
            for arrival in arrivals:
                line = self.program.sites[arrival.site].line
                what += f"\n  {self._warps(arrival.lanes)} at barrier {number}, PTX line {line}"
        return self.chunk.log.fault("deadlock", what, self._first_site(index), self._lanes(mask))

    def _warps(self, mask: Array | None) -> str:
        """The warps of the first CTA that has any of these lanes, in words."""
        wide = np.broadcast_to(self._lanes(mask), self.shape) & self.chunk.alive
        if not wide.any():
            return "no thread"
        row = int(np.flatnonzero(wide.any(axis=1))[0])
        warps = np.flatnonzero(wide[row].reshape(-1, 32).any(axis=1))
        cta, _ = self.chunk.log.lane(row, 0)
        named = ", ".join(map(str, warps[:8])) + (", ..." if len(warps) > 8 else "")
        return f"CTA {cta}: warp{'s' if len(warps) > 1 else ''} {named}"

    def _hung(self) -> Fault:
        index = min(self.pending, default=0)
        what = (
            f"the kernel did not end after {self.step_limit} blocks; if it is meant to run this long,"
            " raise EmulatorDriver.step_limit"
        )
        return self.chunk.log.fault("hang", what, self._first_site(index), self._lanes(self.pending.get(index)))

    def _lanes(self, mask: Array | None) -> Array:
        return self.chunk.alive if mask is None else mask

    def _first_site(self, index: int) -> int:
        """A site in or after a block."""
        blocks = self.program.blocks
        return min(sum(len(b.body) + (b.end is not None) for b in blocks[:index]), len(self.program.sites) - 1)


def _merge(table: dict[int, Array | None], index: int, mask: Array | None) -> None:
    if index in table:
        other = table[index]
        if mask is None or other is None:
            table[index] = None
            return
        mask = mask | other
        if mask.all():
            mask = None
    if mask is not None and mask.shape[0] > 1 and (mask == mask[:1]).all():
        mask = mask[:1]  # the same lanes of every CTA: what they compute alike stays computed once
    table[index] = mask


def _sites_of_ends(program: Program) -> dict[int, int]:
    found, at = {}, 0
    for block in program.blocks:
        at += len(block.body)
        if block.end is not None:
            found[block.index] = at
            at += 1
    return found
