"""What is said about a race: both accesses, with their threads, lines and values."""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.checks.accumulators import registers_of_all
from trlaunch.emulator.checks.clocks import WARPS
from trlaunch.emulator.checks.findings import Findings
from trlaunch.emulator.checks.records import ASYNC, FLYING, Sites, epochs, places, threads
from trlaunch.emulator.faults import FaultLog, nearest, source_of, source_text
from trlaunch.emulator.instructions.base import Array

if TYPE_CHECKING:
    from trlaunch.emulator.checks.lanes import Touch
    from trlaunch.emulator.memory import GlobalMemory, SharedMemory

__all__ = ["Reports"]

_MISSING = {
    "cp.async": "a copy by cp.async that is still under way: its thread has not waited for the group",
    "wgmma": "wgmma, which may read its operand until wgmma.wait_group",
    "bulk": "a tensor store, which may read shared memory until cp.async.bulk.wait_group",
    "tensor": "a tensor copy whose mbarrier this thread has not waited for",
}


@dataclass(frozen=True, slots=True)
class _Race:
    """Access `n` of a touch, and the record of the other one."""

    site: int
    what: str
    touch: Touch
    n: int
    size: int
    place: str
    there: bytes
    record: Array
    cta: tuple[int, int, int]
    other: str
    rival: Any

    def values(self) -> str:
        """What is there and what is written, as numbers in hexadecimal."""

        def number(raw: bytes) -> str:
            return f"{int.from_bytes(raw[: self.size], 'little'):#0{2 + 2 * self.size}x}"

        if not self.there:
            return ""
        if self.touch.value is None:
            return f" (the value there is {number(self.there)})"
        new = number(self.touch.value[self.n].tobytes())
        if self.rival is not None:
            return f" (it writes {new}, the other {number(self.rival.tobytes())})"
        return f" (it writes {new} over {number(self.there)})"


class Reports:
    """Raises, or collects, what the race check of one chunk finds."""

    def __init__(
        self, log: FaultLog, memory: GlobalMemory, shared: SharedMemory, sites: Sites, findings: Findings
    ) -> None:
        self.log, self.memory, self.sites, self.findings = log, memory, sites, findings
        self._shared = shared

    def shared(
        self,
        site: int,
        what: str,
        touch: Touch,
        size: int,
        record: Array,
        bad: Array,
        other: str,
        rival: Any = None,
    ) -> None:
        """An access to shared memory races.

        Parameters
        ----------
        record, bad : ndarray, shape (n, ...)
            What was done there before, and with which of it the lanes' accesses race.
        other : {"store", "load", "fence"}
            What the records are; ``fence``: stores that lack one.
        rival : number, optional
            What another lane stores in the same instruction.
        """
        n = int(np.nonzero(bad)[0][0])
        at = int(touch.address[n])
        offset = int(touch.row[n]) * self._shared.stride + at
        there = bytes(self._shared.flat[1][offset : offset + size])
        found = record[bad][:1]
        cta = self.log.lane(int(touch.row[n]), 0)[0]
        self._say(_Race(site, what, touch, n, size, f"shared address {at:#x}", there, found, cta, other, rival), bad)

    def global_(
        self,
        site: int,
        what: str,
        touch: Touch,
        size: int,
        record: Array,
        bad: Array,
        other: str,
        rival: Any = None,
    ) -> None:
        """As `shared`, for global memory."""
        n = int(np.nonzero(bad)[0][0])
        at = int(touch.address[n])
        there = b""
        for r in self.memory.ranges:
            if r.base <= at and at + size <= r.base + r.nbytes:
                start = at - r.base + r.lead
                there = bytes(r.view(1)[start : start + size])
                break
        place = f"address {at:#x}, {nearest(at, size, self.memory.ranges)}"
        found = record[bad][:1]
        x, y, _ = self.log.grid
        index = int(threads(found)[0]) // self.log.lanes[1]
        cta = (index % x, index // x % y, index // (x * y))
        self._say(_Race(site, what, touch, n, size, place, there, found, cta, other, rival), bad)

    def unfinished(self, site: int, row: Array, thread: Array) -> None:
        """Threads that end while what they store is read from their CTA's shared memory."""
        line = self.log.sites[site].line
        if self.findings.collect and self.findings.again(self.log.kernel, "race", line):
            return
        lanes = np.zeros(self.log.lanes, bool)
        lanes[row, thread] = True
        text = (
            "the thread ends without a cp.async.bulk.wait_group for this tensor store: shared memory may be another"
            " CTA's before it has been read"
        )
        fault = self.log.fault("race", text, site, lanes)
        if not self.findings.collect:
            raise fault
        self.findings.add(self.log.kernel, fault)

    def register(self, use: int, product: int) -> None:
        """A register of a ``wgmma`` that is used before its group was waited for."""
        sites, module = self.log.sites, self.log.module
        line, before = sites[use].line, sites[product].line
        if self.findings.collect and self.findings.again(self.log.kernel, "race", line, before):
            return
        shared = registers_of_all(sites[use]) & registers_of_all(sites[product])
        names = ", ".join(sorted(shared)[:4]) + (", ..." if len(shared) > 4 else "")
        text = (
            f"{names} of a product is used before wgmma.wait_group covers it"
            f"\n  the product: PTX line {before}: {module.line_text(before)[:160]}"
        )
        fault = self.log.fault("race", text, use, None)
        if not self.findings.collect:
            raise fault
        self.findings.add(self.log.kernel, fault, before)

    def _lanes(self, touch: Touch, bad: Array) -> Array:
        lanes = np.zeros(self.log.lanes, bool)
        here = bad.reshape(len(bad), -1).any(axis=1)
        lanes[touch.row[here], touch.thread[here]] = True
        return lanes

    def _say(self, race: _Race, bad: Array) -> None:
        before = self.sites.site(int(places(race.record)[0]))
        sites, module = self.log.sites, self.log.module
        line = sites[before].line
        if self.findings.collect and self.findings.again(self.log.kernel, "race", sites[race.site].line, line):
            return
        name = self._name(before, race.other)
        text = f"{race.what} of {race.size} byte{'s' if race.size > 1 else ''} at {race.place}, "
        text += self._relation(race, before, name) + race.values()
        text += f"\n  the {name}: CTA {race.cta}, {self._who(race)}, PTX line {line}: {module.line_text(line)}"
        _, chain = source_of(module, sites[before].position)
        if chain:
            written = source_text(module, sites[before].position)
            text += f"\n    at {chain}" + (f": {written}" if written else "")
        fault = self.log.fault("race", text, race.site, self._lanes(race.touch, bad), int(race.touch.address[race.n]))
        if not self.findings.collect:
            raise fault
        self.findings.add(self.log.kernel, fault, line)

    def _relation(self, race: _Race, before: int, name: str) -> str:
        epoch = int(epochs(race.record)[0])
        if race.rival is not None:
            return "where another thread stores another value in the same instruction"
        if race.other == "fence":
            return "which a store wrote without a fence.proxy.async behind it: the asynchronous proxy may not see it"
        if epoch == FLYING:
            return f"in the way of {_MISSING[self._kind(before)]}"
        if epoch > ASYNC:
            return f"in the way of {_MISSING['tensor']}"
        return f"which no barrier orders after the {name} below"

    def _who(self, race: _Race) -> str:
        thread = int(threads(race.record)[0]) % (self.log.lanes[1] if race.place.startswith("address") else 1 << 30)
        if thread >= WARPS * 32:
            return f"a thread of warp {thread & 31}"
        x, y, _ = self.log.block
        return f"thread {(thread % x, thread // x % y, thread // (x * y))}"

    def _kind(self, site: int) -> str:
        opcode = self.log.sites[site].opcode
        return "wgmma" if opcode.startswith("wgmma") else "bulk" if ".bulk" in opcode else "cp.async"

    def _name(self, site: int, other: str) -> str:
        opcode = self.log.sites[site].opcode
        if opcode.startswith(("atom", "red")):
            return "atomic"
        if opcode.startswith("mbarrier"):
            return ".".join(opcode.split(".")[:2])
        return {"fence": "store", "store": "write", "load": "read"}[other]
