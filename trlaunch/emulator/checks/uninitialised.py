"""Loads of arrays of `trlaunch.empty` that nothing has written.

The emulator fills new memory with 0xCD. What kernels, copies and clears write is taken down byte by byte; what the host
writes through a view cannot be seen, so that an element counts as not written only while the 16 bytes around it are
0xCD still.
"""

# ruff: noqa: ARG002  (an observer is told more than this one looks at)
# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.checks.findings import Findings
from trlaunch.emulator.checks.lanes import Touch
from trlaunch.emulator.faults import nearest
from trlaunch.emulator.instructions.base import U8, Array
from trlaunch.emulator.observer import Observer

if TYPE_CHECKING:
    from trlaunch.emulator.memory import MemoryRange
    from trlaunch.emulator.scheduler import Scheduler

__all__ = ["NEW_MEMORY", "Uninitialised"]

#: What new memory is filled with, and the name of its range.
NEW_MEMORY = 0xCD
_NEW = np.full(16, NEW_MEMORY, np.uint8)
ALLOCATION = "allocation"


class Uninitialised(Observer):
    """Follows one launch."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def attach(self, scheduler: Scheduler) -> None:
        """Follow the arrays of `trlaunch.empty`."""
        chunk = scheduler.chunk
        self._log, self._memory = chunk.log, chunk.memory
        self._fresh = [r for r in chunk.memory.ranges if r.name == ALLOCATION]
        for found in self._fresh:
            if found.written is None:
                found.written = np.zeros(found.nbytes, bool)

    def access(
        self, site: int, space: str, kind: str, address: Array, mask: Array | None, size: int, value: Array | None
    ) -> None:
        """Loads are looked at, stores taken down."""
        if space != "global" or not self._fresh or kind == "tensor-map":
            return
        touch = Touch.of(address, mask, value, self._log.lanes)
        self._look(site, kind, touch, size)

    def tensor(
        self, site: int, kind: str, rows: Array, lanes: Array, units: Array, places: Any, signal: Array | None
    ) -> None:
        """As `access`, of tensor copies."""
        inside = places.keep > 0
        which = np.nonzero(inside)[0]
        if len(which) and self._fresh:
            touch = Touch(rows[which], lanes[which], places.address[inside].astype(np.int64), None)
            self._look(site, kind, touch, 16)

    def _look(self, site: int, kind: str, touch: Touch, size: int) -> None:
        for found in self._fresh:
            assert found.written is not None
            here = (touch.address >= found.base) & (touch.address < found.base + found.nbytes)
            if not here.any():
                continue
            at = touch.address[here] - found.base
            octets = np.minimum(at[:, None] + np.arange(size), found.nbytes - 1)
            if kind != "store":
                bad = ~found.written[octets].any(axis=1) & _untouched(found, at)
                if bad.any():
                    lanes = np.flatnonzero(here)[bad]
                    self._say(site, kind, touch, lanes, size)
            if kind in ("store", "atomic", "reduce"):
                found.written[octets] = True

    def _say(self, site: int, kind: str, touch: Touch, which: Array, size: int) -> None:
        line = self._log.sites[site].line
        if self.findings.collect and self.findings.again(self._log.kernel, "uninitialised", line):
            return
        lanes = np.zeros(self._log.lanes, bool)
        lanes[touch.row[which], touch.thread[which]] = True
        at = int(touch.address[which[0]])
        place = f"address {at:#x}, {nearest(at, size, self._memory.ranges)}"
        what = (
            f"{kind} of {size} byte{'s' if size > 1 else ''} at {place}, which nothing has written since it was"
            f" allocated (its bytes are {NEW_MEMORY:#x} still)"
        )
        fault = self._log.fault("uninitialised", what, site, lanes, at)
        if not self.findings.collect:
            raise fault
        self.findings.add(self._log.kernel, fault)


def _untouched(found: MemoryRange, at: Array) -> Array:
    """Whether the 16 bytes around each offset are as they were when they were allocated."""
    unit = (at + found.lead) >> 4
    words = found.view(16)[unit]
    return words.view(U8).reshape(-1, 2)[:, 0] == _NEW.view(U8)[0]
