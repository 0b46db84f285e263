"""What is said about a race: both accesses, with their threads, lines and values."""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING

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


class Reports:
    """Raises, or collects, what the race check of one chunk finds."""

    def __init__(
        self, log: FaultLog, memory: GlobalMemory, shared: SharedMemory, sites: Sites, findings: Findings
    ) -> None:
        self.log, self.memory, self.sites, self.findings = log, memory, sites, findings
        self._shared = shared

    def shared(self, site: int, what: str, touch: Touch, size: int, record: Array, bad: Array, other: str) -> None:
        """An access to shared memory and the records, shape (n, ...), that it races with where `bad` is true."""
        n = int(np.nonzero(bad)[0][0])
        found = record[bad][:1]
        at = int(touch.address[n])
        offset = int(touch.row[n]) * self._shared.stride + at
        there = bytes(self._shared.flat[1][offset : offset + size])
        lanes = self._lanes(touch, bad)
        thread, epoch = int(threads(found)[0]), int(epochs(found)[0])
        cta = self.log.lane(int(touch.row[n]), 0)[0]
        self._say(site, f"shared address {at:#x}", what, touch, n, size, there, lanes, cta, thread, epoch, found, other)

    def global_(self, site: int, what: str, touch: Touch, size: int, record: Array, bad: Array, other: str) -> None:
        """As `shared`, for global memory."""
        n = int(np.nonzero(bad)[0][0])
        found = record[bad][:1]
        at = int(touch.address[n])
        there = b""
        for r in self.memory.ranges:
            if r.base <= at and at + size <= r.base + r.nbytes:
                start = at - r.base + r.lead
                there = bytes(r.view(1)[start : start + size])
                break
        place = f"address {at:#x}, {nearest(at, size, self.memory.ranges)}"
        threads_of_cta = self.log.lanes[1]
        linear = int(threads(found)[0])
        x, y, _ = self.log.grid
        index = linear // threads_of_cta
        cta = (index % x, index // x % y, index // (x * y))
        lanes = self._lanes(touch, bad)
        epoch = int(epochs(found)[0])
        self._say(site, place, what, touch, n, size, there, lanes, cta, linear % threads_of_cta, epoch, found, other)

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

    def _say(
        self,
        site: int,
        place: str,
        what: str,
        touch: Touch,
        n: int,
        size: int,
        there: bytes,
        lanes: Array,
        cta: tuple[int, int, int],
        thread: int,
        epoch: int,
        found: Array,
        other: str,
    ) -> None:
        before = self.sites.site(int(places(found)[0]))
        line = self.log.sites[before].line
        if self.findings.collect and self.findings.again(self.log.kernel, "race", self.log.sites[site].line, line):
            return
        text = f"{what} of {size} byte{'s' if size > 1 else ''} at {place}"
        if other == "fence":
            text += ", which a store wrote without a fence.proxy.async behind it: the asynchronous proxy may not see it"
        elif epoch == FLYING:
            text += f", in the way of {_MISSING[self._kind(before)]}"
        elif epoch > ASYNC:
            text += f", in the way of {_MISSING['tensor']}"
        else:
            text += f", which no barrier orders after the {self._name(before, other)} below"
        text += _values(touch, n, there, size)
        bx, by, _ = self.log.block
        if thread >= WARPS * 32 and epoch > ASYNC:
            who = f"a thread of warp {thread & 31}"
        else:
            who = f"thread {(thread % bx, thread // bx % by, thread // (bx * by))}"
        text += f"\n  the {self._name(before, other)}: CTA {cta}, {who}, PTX line {line}: "
        text += self.log.module.line_text(line)
        _, chain = source_of(self.log.module, self.log.sites[before].position)
        if chain:
            written = source_text(self.log.module, self.log.sites[before].position)
            text += f"\n    at {chain}" + (f": {written}" if written else "")
        fault = self.log.fault("race", text, site, lanes, int(touch.address[n]))
        if not self.findings.collect:
            raise fault
        self.findings.add(self.log.kernel, fault, line)

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


def _values(touch: Touch, n: int, there: bytes, size: int) -> str:
    """What is there and what is written, as numbers in hexadecimal."""
    if not there:
        return ""
    old = f"{int.from_bytes(there, 'little'):#0{2 + 2 * size}x}"
    if touch.value is None:
        return f" (the value there is {old})"
    new = int.from_bytes(touch.value[n].tobytes()[:size], "little")
    return f" (it writes {new:#0{2 + 2 * size}x} over {old})"
