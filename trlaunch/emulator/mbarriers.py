"""Barriers in shared memory (PTX ISA, "mbarrier"): 64-bit words that count arrivals and bytes of asynchronous copies.

The word is opaque in PTX. Here its bits are, from the lowest: 20 of arrivals still expected in this phase, 20 of
arrivals expected in each, 22 of bytes expected minus bytes that came (offset by half), one of the phase, and one that
marks an initialised barrier.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import numpy as np

from trlaunch.emulator.faults import FaultLog
from trlaunch.emulator.instructions.base import U4, U8, Array
from trlaunch.emulator.memory import SharedMemory, serialise

__all__ = ["Barriers", "describe"]

_COUNT = (1 << 20) - 1
_BYTES = (1 << 22) - 1
_HALF = 1 << 21
_VALID = 1 << 63


def _arrive(old: Array, count: Array, nbytes: Array) -> Array:
    """`nbytes` are expected (or, negative, have come), then `count` arrivals; a complete phase ends."""
    pending = (old & U8(_COUNT)).astype(np.int64) - count.astype(np.int64)
    expected = (old >> U8(20)) & U8(_COUNT)
    left = ((old >> U8(40)) & U8(_BYTES)).astype(np.int64) + nbytes
    done = (pending <= 0) & (left == _HALF)
    pending = np.where(done, expected, np.maximum(pending, 0).astype(U8)).astype(U8)
    word = (old & U8(_VALID | (1 << 62))) ^ (done.astype(U8) << U8(62))
    return word | pending | (expected << U8(20)) | ((left & _BYTES).astype(U8) << U8(40))


def describe(word: int, came: int = 0) -> str:
    """A barrier's state in words; `came` bytes of copies have come in this phase."""
    if not word & _VALID:
        return "not an initialised mbarrier"
    nbytes, missing, count = ((word >> 40) & _BYTES) - _HALF, word & _COUNT, word >> 20 & _COUNT
    text = f"phase {word >> 62 & 1} expects {count} arrival{'s' if count != 1 else ''}, found {count - missing}"
    if nbytes or came:
        text += f"; expects {nbytes + came} bytes of copies, found {came}"
    left = f"{nbytes} bytes" if nbytes >= 0 else f"has {-nbytes} bytes more than were expected"
    return f"{text} (waits for {missing} of {count} arrivals and {left})"


class Barriers:
    """The mbarriers of a chunk of CTAs."""

    def __init__(self, shared: SharedMemory, log: FaultLog) -> None:
        self.shared, self.log = shared, log
        #: Where lanes waited last, for the report of a deadlock: by site, the address and the mask.
        self.waits: dict[int, tuple[Array, Array | None]] = {}
        #: Copies nobody has waited for: by the barrier's address, CTAs and the 16-byte units each wrote.
        self._unseen: dict[int, list[tuple[Array, Array]]] = {}
        #: By address, bytes of copies that came to each CTA's barrier in the phase of this bit, for the same report.
        self._came: dict[int, tuple[Array, Array]] = {}

    def _check(self, address: Array, mask: Array | None, site: int) -> Array:
        words = self.shared.load(address, mask, 8, site)
        bad = (words & U8(_VALID)) == 0
        if mask is not None:
            bad = bad & mask
        if bad.any():
            raise self.log.fault("mbarrier", "this is not an initialised mbarrier", site, bad)
        return words

    def init(self, address: Array, count: Array, mask: Array | None, site: int) -> None:
        """``mbarrier.init``."""
        wide = count.astype(U8)
        bad = (wide == 0) | (wide > _COUNT)
        if bad.any() and (mask is None or (bad & mask).any()):
            raise self.log.fault("mbarrier", f"expected a count from 1 to {_COUNT}", site, bad)
        self.shared.store(address, wide | (wide << U8(20)) | U8(_VALID | _HALF << 40), mask, 8, site)

    def invalidate(self, address: Array, mask: Array | None, site: int) -> None:
        """``mbarrier.inval``."""
        self._check(address, mask, site)
        self.shared.store(address, np.zeros((1, 1), U8), mask, 8, site)

    def arrive(self, address: Array, count: Array, nbytes: Array, mask: Array | None, site: int) -> Array:
        """``mbarrier.arrive`` and ``expect_tx``; the words before."""
        if mask is not None and not mask.any():
            return np.zeros((1, 1), U8)
        self._check(address, mask, site)
        operands = [count.astype(U8), nbytes.astype(np.int64)]
        old = self.shared.atomic(address, mask, U8, site, _arrive, operands)
        over = (old & U8(_COUNT)) < operands[0]
        if mask is not None:
            over = over & mask
        if over.any():
            raise self.log.fault("mbarrier", "more threads arrive than the barrier expects in a phase", site, over)
        return old

    def complete(self, rows: Array, address: Array, nbytes: int, site: int) -> None:
        """Bytes of a copy have come: `rows` and `address` of one barrier per copy."""
        index = rows * (self.shared.stride // 8) + (address.astype(np.int64) >> 3)
        words = self.shared.flat[8].view(U8)
        if (address.astype(np.int64) > self.shared.nbytes - 8).any() or not (words[index] & U8(_VALID)).all():
            raise self.log.fault(
                "mbarrier", "the copy signals something that is not an initialised mbarrier", site, None
            )
        for at in dict.fromkeys(address.tolist()):
            self._add_up(at, rows[address == at], nbytes)
        count = np.zeros(len(index), U8)
        serialise(words, index, _arrive, [count, np.full(len(index), -nbytes, np.int64)])

    def _add_up(self, at: int, rows: Array, nbytes: int) -> None:
        """Bytes of copies have come to the barriers of these CTAs (more than once, where there are several)."""
        words = self.shared.flat[8].view(U8)[at // 8 :: self.shared.stride // 8]
        phase = (words >> U8(62)) & U8(1)
        came, before = self._came.get(at, (np.zeros(len(phase), np.int64), phase))
        came = np.where(phase == before, came, 0) + nbytes * np.bincount(rows, minlength=len(phase))
        self._came[at] = came, phase

    def expect(self, rows: Array, address: Array, units: Array) -> None:
        """16-byte units of shared memory that may be read once the phase of the barrier is known to be over."""
        self.shared.forget_by(rows, units, 16)
        for at in dict.fromkeys(address.tolist()):
            here = address == at
            self._unseen.setdefault(at, []).append((rows[here], units[here]))

    def _seen(self, address: Array, done: Array) -> None:
        """Lanes know that phases are over."""
        for at in [at for at in self._unseen if (address == at).any()]:
            ctas = np.asarray(((address == at) & done).any(axis=1))
            left = []
            for rows, units in self._unseen[at]:
                now = ctas[rows] if len(ctas) > 1 else np.broadcast_to(ctas, rows.shape)
                if now.any():
                    self.shared.written_by(rows[now], units[now], 16)
                if not now.all():
                    left.append((rows[~now], units[~now]))
            if left:
                self._unseen[at] = left
            else:
                del self._unseen[at]

    def passed(self, address: Array, parity: Array, mask: Array | None, site: int) -> Array:
        """Whether the phase of this parity is over."""
        if mask is not None and not mask.any():
            return np.zeros((1, 1), bool)
        words = self._check(address, mask, site)
        self.waits[site] = address, mask
        result = ((words >> U8(62)).astype(U4) & U4(1)) != (parity.astype(U4) & U4(1))
        if self._unseen:
            self._seen(address, result if mask is None else result & mask)
        return result

    def report(self, sites: list[int]) -> list[tuple[int, str]]:
        """Sites of waits and what their barriers wait for, of the first lane of each."""
        found = []
        for site in sites:
            if site in self.waits:
                address, mask = self.waits[site]
                wide = np.ones((1, 1), bool) if mask is None else mask
                if not wide.any():
                    continue
                wide, every = np.broadcast_arrays(wide, address)
                row, lane = (int(n[0]) for n in np.nonzero(wide))
                at = int(every[row, lane])
                word = int(self.shared.flat[8].view(U8)[row * (self.shared.stride // 8) + at // 8])
                came, phase = self._came.get(at, (np.zeros(row + 1, np.int64), np.zeros(row + 1, U8)))
                tally = int(came[row]) if int(phase[row]) == word >> 62 & 1 else 0
                found.append((site, f"mbarrier at shared address {at:#x}: {describe(word, tally)}"))
        return found
