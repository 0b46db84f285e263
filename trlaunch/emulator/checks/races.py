"""The race check: accesses that nothing orders, and asynchronous work that nobody waited for."""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trlaunch.emulator.checks.accumulators import unwaited
from trlaunch.emulator.checks.clocks import MOST_WARPS, Clocks, Releases
from trlaunch.emulator.checks.findings import Findings
from trlaunch.emulator.checks.global_races import GlobalRaces
from trlaunch.emulator.checks.lanes import Touch, warps_of
from trlaunch.emulator.checks.records import Sites, places
from trlaunch.emulator.checks.reports import Reports
from trlaunch.emulator.checks.shared_races import SharedRaces
from trlaunch.emulator.checks.slices import Slices
from trlaunch.emulator.instructions.base import U8, Array
from trlaunch.emulator.observer import Observer
from trlaunch.emulator.program import Program

if TYPE_CHECKING:
    from trlaunch.driver import LaunchConfig, PackedArguments
    from trlaunch.emulator.scheduler import Scheduler

__all__ = ["Races"]

#: Threads in lockstep, and bytes of records of shared memory.
_LANES, _BYTES = 1 << 14, 96 << 20
_PROGRAMS = 16


class _Facts(NamedTuple):
    """What can be told of a program before it runs."""

    program: Program
    sites: Sites
    slices: Slices
    unwaited: list[tuple[int, int]]


_known: OrderedDict[int, _Facts] = OrderedDict()


def _facts(program: Program) -> _Facts:
    """The facts of a program; those of the last few are kept."""
    found = _known.get(id(program))
    if found is None or found.program is not program:
        found = _known[id(program)] = _Facts(program, Sites(program), Slices(program), unwaited(program))
        while len(_known) > _PROGRAMS:
            _known.popitem(last=False)
    return found


class Races(Observer):
    """Follows one launch."""

    reluctant = True

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self._global: GlobalRaces | None = None

    def most_lanes(self, program: Program, config: LaunchConfig) -> int:
        """As many as their records of shared memory have room for."""
        warps = -(-int(np.prod(config.block)) // 32)
        nbytes = (program.static_shared + config.shared) // _facts(program).sites.shared * 8 * (1 + 2 * warps)
        return min(_LANES, max(1, _BYTES // max(nbytes, 1)) * warps * 32)

    def begin(self, program: Program, config: LaunchConfig, arguments: PackedArguments) -> None:  # noqa: ARG002
        """What the launch of this program and grid needs."""
        self._facts = _facts(program)
        self._sites = self._facts.sites
        self._global = None
        self._warps = -(-int(np.prod(config.block)) // 32)
        total = int(np.prod(config.grid)) * self._warps
        #: Order between CTAs is followed; otherwise, where a program has some, only races within a CTA are told.
        followed = self._sites.orders and total <= MOST_WARPS
        self._releases = Releases(total) if followed else None
        self._across = followed or not self._sites.orders

    def attach(self, scheduler: Scheduler) -> None:
        """A chunk has clocks and records of its own; those of global memory are the launch's."""
        chunk = scheduler.chunk
        self._chunk = chunk
        self._shape: tuple[int, int] = chunk.log.lanes
        self._clocks = Clocks(chunk.ctas, self._warps, self._releases, self._across)
        reports = Reports(chunk.log, chunk.memory, chunk.shared, self._sites, self.findings)
        self._shared = SharedRaces(chunk.shared, self._sites, self._clocks, reports)
        if self._global is None:
            for use, product in self._facts.unwaited:
                reports.register(use, product)
            self._global = GlobalRaces(chunk.memory.ranges, self._sites, self._shape[1], self._facts.slices)
        self._global.begin(chunk.memory, self._clocks, reports)
        self._issuers = np.zeros(0, np.int64)
        self._reports = reports

    def detach(self, scheduler: Scheduler) -> None:  # noqa: ARG002
        """Nothing may be under way any more."""
        for row, thread, record in self._shared.bulk.left():
            self._reports.unfinished(self._sites.site(int(places(record[:1])[0])), row, thread)

    # What happens.

    def access(
        self, site: int, space: str, kind: str, address: Array, mask: Array | None, size: int, value: Array | None
    ) -> None:
        """A load, a store, or the beginning of asynchronous work."""
        if kind == "tensor-map":
            return
        if kind == "wgmma":
            self._shared.operand(site, self._operand(address, mask), size)
            return
        if kind == "load" and self._sites.sites[site].opcode.startswith("tensormap.cp"):
            self._clocks.warp(warps_of(mask, self._shape))  # its .sync has the lanes of the warp meet
        touch = Touch.of(address, mask, value, self._shape)
        strong = kind in ("load", "store", "atomic") and self._sites.is_strong(site)
        races: Any = self._shared if space == "shared" else self._global
        if kind == "load":
            races.load(site, touch, size, strong)
        elif kind == "cp.async":
            self._shared.store(site, touch, size, False, flying=True)
        else:
            races.store(site, touch, size, strong)
        if strong and space == "global":
            races.order(site, touch)

    def _operand(self, address: Array, mask: Array | None) -> Touch:
        """16-byte parts that warpgroups read: each warp all of them, in the name of its first thread."""
        ctas = self._shape[0]
        columns = address.shape[1]
        size = ctas, columns
        row, column = np.nonzero(np.ones(size, bool) if mask is None else np.broadcast_to(mask, size))
        group = self._issuers[column * len(self._issuers) // columns]
        at = np.broadcast_to(address, size)[row, column].astype(np.int64)
        warp = (group[:, None] * 4 + np.arange(4)).reshape(-1)
        return Touch(np.repeat(row, 4), warp * 32, np.repeat(at, 4), None)

    def barrier(self, site: int, number: int, arrived: Array | None, waiting: Array | None) -> None:  # noqa: ARG002
        """Warps meet."""
        if arrived is None:
            self._clocks.barrier(None, None)
        else:
            self._clocks.barrier(warps_of(arrived, self._shape), warps_of(waiting, self._shape))

    def mbarrier(self, site: int, kind: str, address: Array, mask: Array | None, passed: Array | None) -> None:
        """Warps hand on and learn what happened."""
        words, stride = self._chunk.shared.flat[8].view(U8), self._chunk.shared.stride // 8
        if kind == "complete":
            self._clocks.look(words, stride)
            return
        touch = Touch.of(address, mask, None, self._shape)
        if kind in ("init", "inval"):
            self._shared.store(site, touch, 8, False)
        else:
            self._shared.load(site, touch, 8, True)
        over = None if passed is None else np.broadcast_to(passed, self._shape)[touch.row, touch.thread]
        if kind != "arrive":
            self._clocks.look(words, stride)
        for at in np.unique(touch.address).tolist():
            here = touch.address == at
            if kind == "init":
                self._clocks.renew(at, np.isin(np.arange(self._shape[0]), touch.row[here]))
                continue
            if kind == "wait" and over is not None:
                here = here & over
            which = np.zeros((self._shape[0], self._warps), bool)
            which[touch.row[here], touch.thread[here] >> 5] = True
            if kind == "arrive":
                self._clocks.arrive(at, which)
            elif kind == "wait":
                self._clocks.wait(at, which)
        if kind == "arrive":
            self._clocks.look(words, stride)

    def sync(self, site: int, kind: str, mask: Array | None, pending: int) -> None:  # noqa: ARG002
        """Warps meet, or asynchronous work is over."""
        shared = self._shared
        if kind == "warp":
            self._clocks.warp(None if mask is None else warps_of(mask, self._shape))
        elif kind == "fence.proxy.async":
            self._clocks.fence(warps_of(mask, self._shape))
        elif kind == "wgmma.issue":
            groups = warps_of(mask, self._shape)[:, ::4].any(axis=0)
            self._issuers = np.flatnonzero(groups)
        elif kind == "cp.async.commit":
            shared.copies.commit(mask)
        elif kind.startswith("cp.async.wait"):
            shared.copies_done(mask, pending, kind.endswith("all"))
        elif kind == "wgmma.commit":
            shared.products.commit(mask)
        elif kind == "wgmma.wait":
            shared.reads_done(shared.products, mask, pending)
        elif kind == "bulk.commit":
            shared.bulk.commit(mask)
        elif kind in ("bulk.wait", "bulk.read.wait"):
            shared.reads_done(shared.bulk, mask, pending)

    def tensor(
        self, site: int, kind: str, rows: Array, lanes: Array, units: Array, places: Any, signal: Array | None
    ) -> None:
        """The beginning of a tensor copy."""
        boxes = Touch(rows, lanes, np.zeros(len(rows), np.int64), None)
        self._shared.box(site, boxes, units.reshape(len(rows), -1), signal)
        inside = places.keep > 0
        which = np.nonzero(inside)[0]
        value = None
        if kind == "store":
            at = units + (rows * (self._chunk.shared.stride // 16))[:, None, None]
            value = self._chunk.shared.flat[16].take(at[inside])
        touch = Touch(rows[which], lanes[which], places.address[inside].astype(np.int64), value)
        assert self._global is not None
        if not len(touch):
            return
        if kind == "load":
            self._global.load(site, touch, 16, False)
        else:
            self._global.store(site, touch, 16, kind == "reduce")
