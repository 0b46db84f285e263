"""Accesses as 64-bit numbers, and what the instructions of a program do to memory.

A record is, from its highest bit, 20 bits of an epoch of the actor, 30 of a thread, 14 of a place in the list of
instructions that touch memory; 0 is no access at all. Records of one thread compare like their epochs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.syntax import TYPE_SIZES, Immediate, Instruction

if TYPE_CHECKING:
    from trlaunch.emulator.program import Program

__all__ = ["ASYNC", "EPOCH", "FLYING", "THREAD", "Sites", "epochs", "places", "records", "threads"]

EPOCH, THREAD = np.uint64(44), np.uint64(14)
_THREADS, _PLACES = np.uint64((1 << 30) - 1), np.uint64((1 << 14) - 1)
#: Epochs from here on are phases of mbarriers; this one is that of work that nobody has waited for yet.
ASYNC, FLYING = 1 << 19, (1 << 20) - 1


def records(epoch: Any, thread: Array, place: int) -> Array:
    """Records of threads that access memory now."""
    made: Array = (epoch.astype(np.uint64) << EPOCH) | (thread.astype(np.uint64) << THREAD) | np.uint64(place)
    return made


def epochs(record: Array) -> Array:
    """When, in the actor's epochs."""
    found: Array = (record >> EPOCH).astype(np.int64)
    return found


def threads(record: Array) -> Array:
    """Who."""
    found: Array = ((record >> THREAD) & _THREADS).astype(np.int64)
    return found


def places(record: Array) -> Array:
    """Which instruction, as an index of `Sites`."""
    found: Array = (record & _PLACES).astype(np.int64)
    return found


_STRONG = ("volatile", "relaxed", "acquire", "release", "acq_rel", "mmio")


class Sites:
    """The instructions of a program that touch memory.

    Attributes
    ----------
    shared, global_ : int
        Bytes that accesses of each space are told apart by: those of the smallest write.
    orders : bool
        There are instructions that order what different CTAs do.
    """

    def __init__(self, program: Program) -> None:
        self.sites = program.sites
        self._place: dict[int, int] = {}
        self._site: list[int] = [-1]
        #: By place: atomics and other strong accesses, which do not race with each other; copies by ``cp.async``.
        self.strong = np.zeros(1 << 14, bool)
        self.copies = np.zeros(1 << 14, bool)
        self.shared = self.global_ = 16
        fenced = any(_is_fence(i) for i in self.sites)
        self._acquires: set[int] = set()
        self._releases: set[int] = set()
        for at, instruction in enumerate(self.sites):
            self._measure(instruction)
            parts = instruction.opcode.split(".")
            if "shared" in parts or "shared::cta" in parts or parts[0] not in ("ld", "st", "atom", "red"):
                continue
            both = "acq_rel" in parts or "volatile" in parts or (fenced and _is_strong(parts))
            if both or "acquire" in parts:
                self._acquires.add(at)
            if both or "release" in parts:
                self._releases.add(at)
        self.orders = bool(self._acquires) and bool(self._releases)

    def _measure(self, instruction: Instruction) -> None:
        """Make room for a write of this size; what reads less of a granule meets every write to it."""
        parts = instruction.opcode.split(".")
        root = parts[0]
        if root not in ("st", "atom", "red", "cp", "mbarrier", "tensormap"):
            return
        size = 16
        if root in ("st", "atom", "red"):
            size = next((TYPE_SIZES[p] for p in reversed(parts) if TYPE_SIZES.get(p)), 16)
            if root == "st":
                size *= next((int(p[1]) for p in parts if p in ("v2", "v4")), 1)
        elif root == "cp" and "bulk" not in parts and len(instruction.operands) > 2:
            bytes_ = instruction.operands[2]
            size = bytes_.value if isinstance(bytes_, Immediate) else 4
        elif root == "mbarrier":
            size = 8
        elif root == "tensormap":
            size = 4
        size = max(1, min(size, 16))
        shared = any(p.startswith("shared") for p in parts)
        elsewhere = any(p in ("local", "param", "const") for p in parts)
        if shared or not ("global" in parts or elsewhere):
            self.shared = min(self.shared, size)
        if "global" in parts or not (shared or elsewhere):
            self.global_ = min(self.global_, size)

    def place(self, site: int) -> int:
        """The number of an instruction in records."""
        found = self._place.get(site)
        if found is None:
            found = self._place[site] = min(len(self._site), (1 << 14) - 1)
            if found == len(self._site):
                self._site.append(site)
                parts = self.sites[site].opcode.split(".")
                self.strong[found] = _is_strong(parts)
                self.copies[found] = parts[:2] == ["cp", "async"]
        return found

    def site(self, place: int) -> int:
        """The instruction of a number in records."""
        return self._site[place]

    def acquires(self, site: int) -> bool:
        """Whether what others released before is ordered before what follows."""
        return site in self._acquires

    def releases(self, site: int) -> bool:
        """Whether what came before is ordered before what others do once they acquired it."""
        return site in self._releases

    def is_strong(self, site: int) -> bool:
        """Whether the access is atomic, or at least meant to meet those of other threads."""
        return bool(self.strong[self.place(site)])


def _is_strong(parts: list[str]) -> bool:
    if parts[:2] == ["cp", "reduce"]:
        return True
    return parts[0] in ("atom", "red", "mbarrier") or (parts[0] in ("ld", "st") and any(p in _STRONG for p in parts))


def _is_fence(instruction: Instruction) -> bool:
    parts = instruction.opcode.split(".")
    return parts[0] == "membar" or (parts[0] == "fence" and ("acq_rel" in parts or "sc" in parts))
