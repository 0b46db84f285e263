"""Vector clocks: what each warp of a chunk of CTAs knows to have happened before.

Every warp counts epochs; a new one begins where others may come to know of the last (a barrier, an arrival, a release)
and where lanes of the warp come to know of each other (``bar.warp.sync``). An access is known if its epoch is at most
the one that the warp knows of the actor. Actors are the warps of the CTA, its mbarriers, in whose name copies of the
tensor memory accelerator write and whose epochs are phases, and, where a program orders what CTAs do, all warps of the
grid.

There are two such clocks: that of everything, and that of what a ``fence.proxy.async`` has made known to the
asynchronous proxy.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from trlaunch.emulator.checks.records import ASYNC
from trlaunch.emulator.instructions.base import Array

__all__ = ["EVERYWHERE", "MOST_BARRIERS", "MOST_WARPS", "WARPS", "Clocks", "Releases"]

#: Warps that a CTA can have; mbarriers of a CTA that are told apart.
WARPS, MOST_BARRIERS = 32, 64
_OTHERS = WARPS + MOST_BARRIERS
#: Stands for all addresses, where an instruction touches too many to tell them apart.
EVERYWHERE = -1
#: Warps of a grid whose order is followed across CTAs.
MOST_WARPS = 2048


class Releases:
    """What was released at each address of global memory, over all chunks of a launch, in epochs of all warps."""

    def __init__(self, warps: int) -> None:
        self.warps = warps
        self._at: dict[int, Array] = {}
        self._all, self._anywhere = np.zeros(warps, np.int64), np.zeros(warps, np.int64)

    def get(self, address: int) -> Array:
        """What an acquire there learns."""
        if address == EVERYWHERE:
            return self._all
        found = self._at.get(address)
        return self._anywhere if found is None else np.maximum(found, self._anywhere)

    def put(self, address: int, clock: Array) -> None:
        """Add to it."""
        np.maximum(self._all, clock, out=self._all)
        if address == EVERYWHERE:
            np.maximum(self._anywhere, clock, out=self._anywhere)
        else:
            self._at[address] = np.maximum(self.get(address), clock)


class Clocks:
    """The clocks of C CTAs of W warps.

    Attributes
    ----------
    epoch : ndarray of int64, shape (C, W)
        The one each warp is in.
    known : ndarray of int64, shape (2, C, W, D)
        Last epoch known of each actor; 0 of everything, 1 of what the asynchronous proxy may use.
    floor : int
        Every warp knows what all warps of its CTA did up to this epoch.
    across : bool
        Without `releases`: other CTAs' accesses are not ordered at all. Otherwise nobody knows, and they count as
        ordered.
    """

    def __init__(self, ctas: Array, warps: int, releases: Releases | None, across: bool = True) -> None:
        self.ctas, self.warps, self.releases, self.across = ctas, warps, releases, across
        count = len(ctas)
        self.epoch = np.ones((count, warps), np.int64)
        depth = _OTHERS + (releases.warps if releases is not None else 0)
        self.known = np.zeros((2, count, warps, depth), np.int64)
        self.floor = 0
        self._own = np.arange(warps)
        self._barriers: dict[int, int] = {}
        self._arrived: dict[int, Array] = {}
        self._done: dict[int, Array] = {}
        #: Phases that are over, and the bit of the one that is not.
        self.phases = np.zeros((count, MOST_BARRIERS), np.int64)
        self._bits = np.zeros((count, MOST_BARRIERS), np.int64)

    def now(self, row: Array, warp: Array) -> Array:
        """The epochs of warps, for records; the last one that these can hold is known to all from then on."""
        return np.minimum(self.epoch[row, warp], ASYNC - 1)

    def _published(self) -> Array:
        """What each warp hands on: what it knows, and what it did."""
        made = self.known.copy()
        made[0][:, self._own, self._own] = self.epoch
        return made

    def barrier(self, arrived: Array | None, waiting: Array | None) -> None:
        """Warps, shape (C, W), meet; ``None`` are all warps."""
        if arrived is None or waiting is None:
            latest = int(self.epoch.max())
            joined = self.known.max(axis=2, keepdims=True)
            self.known[:] = joined
            self.known[0][:, :, : self.warps] = latest
            self.epoch[:] = latest + 1
            self.floor = min(latest, ASYNC - 2)
            return
        shown = np.where(arrived[None, :, :, None], self._published(), 0)
        joined = shown.max(axis=2, keepdims=True)
        self.known = np.where(waiting[None, :, :, None], np.maximum(self.known, joined), self.known)
        self.epoch += arrived
        self.floor = min(max(self.floor, int(self.known[0][:, :, : self.warps].min())), ASYNC - 2)

    def warp(self, which: Array | None) -> None:
        """The lanes of warps meet."""
        here = np.ones(self.epoch.shape, bool) if which is None else which
        own = self.known[0][:, self._own, self._own]
        self.known[0][:, self._own, self._own] = np.where(here, self.epoch, own)
        self.epoch += here

    def fence(self, which: Array) -> None:
        """Warps make what they know of known to the asynchronous proxy."""
        shown = np.maximum(self._published()[0], self.known[1])
        self.known[1] = np.where(which[:, :, None], shown, self.known[1])
        self.epoch += which

    # mbarriers.

    def barrier_at(self, address: int) -> int:
        """The number of an mbarrier among actors; one too many shares the last."""
        if address not in self._barriers:
            number = min(len(self._barriers), MOST_BARRIERS - 1)
            self._barriers[address] = number
            if number not in self._arrived:
                shape = self.known.shape[0], self.known.shape[1], self.known.shape[3]
                self._arrived[number], self._done[number] = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        return self._barriers[address]

    def renew(self, address: int, ctas: Array) -> None:
        """An mbarrier of these CTAs (a bool each) begins again with its first phase."""
        self._bits[ctas, self.barrier_at(address)] = 0

    def arrive(self, address: int, which: Array) -> None:
        """Warps, shape (C, W), hand on what they know to those that see the phase end."""
        number = self.barrier_at(address)
        shown = np.where(which[None, :, :, None], self._published(), 0).max(axis=2)
        self._arrived[number] = np.maximum(self._arrived[number], shown)
        self.epoch += which

    def look(self, words: Array, stride: int) -> None:
        """Take note of phases that are over; `words` are the 8-byte words of shared memory, `stride` per CTA."""
        rows = np.arange(len(self.ctas)) * stride
        for address, number in self._barriers.items():
            if address // 8 >= stride:
                continue
            bits = ((words[rows + address // 8] >> np.uint64(62)) & np.uint64(1)).astype(np.int64)
            valid = (words[rows + address // 8] >> np.uint64(63)) != 0
            ended = valid & (bits != self._bits[:, number])
            if ended.any():
                self._bits[ended, number] = bits[ended]
                self.phases[ended, number] += 1
                self._done[number] = np.where(ended[None, :, None], self._arrived[number], self._done[number])

    def wait(self, address: int, which: Array) -> None:
        """Warps, shape (C, W), have seen the last phase end."""
        number = self.barrier_at(address)
        learnt = np.maximum(self.known, self._done[number][:, :, None, :])
        learnt[:, :, :, WARPS + number] = np.where(self.phases[:, number] > 0, self.phases[:, number] + ASYNC, 0)[
            None, :, None
        ]
        self.known = np.where(which[None, :, :, None], np.maximum(self.known, learnt), self.known)

    # Between CTAs.

    def _everywhere(self, row: int, warp: int) -> Array:
        """What a warp publishes, in epochs of all warps of the grid."""
        assert self.releases is not None
        made = self.known[0, row, warp, _OTHERS:].copy()
        start = int(self.ctas[row]) * self.warps
        made[start : start + self.warps] = self.known[0, row, warp, : self.warps]
        made[start + warp] = self.epoch[row, warp]
        return made

    def meet(self, address: int, who: list[tuple[int, int]], acquires: bool, releases: bool) -> None:
        """Warps (CTA of the chunk, warp) access an address one after the other."""
        assert self.releases is not None
        for row, warp in who:
            mine = self._everywhere(row, warp) if releases else None
            if acquires:
                there = self.releases.get(address)
                known = self.known[0, row, warp, _OTHERS:]
                np.maximum(known, there, out=known)
                if mine is not None:
                    mine = np.maximum(mine, there)
            if mine is not None:
                self.releases.put(address, mine)
                self.epoch[row, warp] += 1

    # Who knows of what.

    def knows(self, row: Array, warp: Array, actor: Array, epoch: Array, proxy: bool = False) -> Array:
        """Whether a warp knows of an epoch of an actor of its CTA."""
        return epoch <= self.known[int(proxy), row, warp, actor]

    def knows_of(self, row: Array, warp: Array, cta: Array, other: Array, epoch: Array) -> Array:
        """Whether a warp knows of an epoch of a warp of any CTA."""
        if self.releases is None:
            far = np.full(epoch.shape, not self.across)
        else:
            far = epoch <= self.known[0, row, warp, _OTHERS + cta * self.warps + other]
        return np.where(cta == self.ctas[row], epoch <= self.known[0, row, warp, other], far)
