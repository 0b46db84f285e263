"""Instruments that see every access to memory and every synchronisation of a launch.

A launch that an `Observer` looks at is made of other parts: subclasses of memory, barriers and copies that tell what is
done with them, and a program whose fences and waits call them. A launch without one has none of this in its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.chunk import Chunk, Parts
from trlaunch.emulator.copies import AsyncCopies
from trlaunch.emulator.faults import FaultLog
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.instruments import Instrument
from trlaunch.emulator.mbarriers import Barriers
from trlaunch.emulator.memory import GlobalMemory, SharedMemory, trim
from trlaunch.emulator.scheduler import Scheduler
from trlaunch.emulator.tensor_copies import TensorCopies
from trlaunch.emulator.warpgroups import Product

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ObservedChunk", "ObservedGlobal", "ObservedScheduler", "Observer"]


class Observer(Instrument):
    """Sees accesses and synchronisation; a subclass says what it does with them.

    Masks are ``None`` for all lanes, or arrays that broadcast to the chunk's lanes (C, T), as addresses do. Chunks of
    an observed launch run one after the other; `attach` announces each.
    """

    observes = True
    #: Every wait for an mbarrier fails once before it succeeds, so that a kernel that does not try again is found.
    reluctant = False

    def access(
        self, site: int, space: str, kind: str, address: Array, mask: Array | None, size: int, value: Array | None
    ) -> None:
        """Lanes touch `size` bytes each, in bounds and aligned; what is stored is not yet there.

        Parameters
        ----------
        site : int
            Index of the instruction in the program's sites.
        space : {"global", "shared"}
        kind : {"load", "store", "atomic", "cp.async", "wgmma", "tensor-map"}
            ``cp.async`` is the store of a copy to shared memory, ``wgmma`` the load of an operand.
        address : ndarray of uint32 or uint64
            Where ``ldmatrix`` and ``wgmma`` load, an address per row or 16-byte part: of n columns, each warp (group)
            in turn has an equal share.
        size : int
            Bytes of each access.
        value : ndarray or None
            What is stored, in elements of `size` bytes.
        """

    def barrier(self, site: int, number: int, arrived: Array | None, waiting: Array | None) -> None:
        """A barrier of CTAs is complete; `arrived` includes those that wait."""

    def mbarrier(self, site: int, kind: str, address: Array, mask: Array | None, passed: Array | None) -> None:
        """``init``, ``inval``, ``arrive`` and ``wait`` happen, or ``complete``: the bytes of copies have come.

        ``init`` and ``inval`` are told before they are done, the others afterwards. `passed` are the lanes whose wait
        is over; of ``complete``, `address` has one barrier per copy.
        """

    def sync(self, site: int, kind: str, mask: Array | None, pending: int) -> None:
        """A fence, or the end or the wait of a group of asynchronous work.

        Parameters
        ----------
        kind : str
            ``fence``, ``fence.proxy.async``, ``warp`` (``bar.warp.sync``), ``wgmma.issue``; or ``cp.async``, ``bulk``,
            ``bulk.read`` or ``wgmma``, followed by ``.commit`` or ``.wait``; ``cp.async.wait_all``. `site` is -1 for
            those of ``cp.async``.
        pending : int
            Groups that may go on behind a wait.
        """

    def tensor(
        self, site: int, kind: str, rows: Array, lanes: Array, units: Array, places: Any, signal: Array | None
    ) -> None:
        """Tensor copies, told before anything is written.

        Parameters
        ----------
        kind : {"load", "store", "reduce"}
            ``load`` writes shared memory.
        rows, lanes : ndarray of int, shape (n,)
            CTA of the chunk and thread of each copy.
        units : ndarray of int, shape (n, R, P)
            16-byte units of the CTA's shared memory.
        places : _Places
            `address` and `keep` (bytes of each unit inside of the tensor), shape (n, R, P).
        signal : ndarray of int, shape (n,), or None
            Shared address of the mbarrier that a load signals.
        """


class _Observed:
    """Who is told; a chunk fills it in."""

    observers: Sequence[Observer] = ()


class ObservedGlobal(_Observed, GlobalMemory):
    """Global memory that tells observers what is done with it."""

    #: What loads count as, where they are not what they look like.
    kind = ""

    def _valid(self, address: Array, mask: Array | None, size: int, site: int, action: str) -> bool:
        """Whether any lane takes part; a fault if one is out of bounds."""
        if mask is not None:
            mask, anybody = trim(mask)
            if not anybody:
                return False
        if self._find(address, mask, size, site) is None:
            list(self._pieces(address, mask, size, site, action))
        return True

    def load(self, address: Array, mask: Array | None, size: int, site: int) -> Array:
        """Tell, and load."""
        if self._valid(address, mask, size, site, "load"):
            for observer in self.observers:
                observer.access(site, "global", self.kind or "load", address, mask, size, None)
        return super().load(address, mask, size, site)

    def store(self, address: Array, value: Array, mask: Array | None, size: int, site: int) -> None:
        """Tell, and store."""
        if self._valid(address, mask, size, site, "store"):
            for observer in self.observers:
                observer.access(site, "global", "store", address, mask, size, value)
        super().store(address, value, mask, size, site)

    def atomic(
        self,
        address: Array,
        mask: Array | None,
        dtype: Any,
        site: int,
        change: Callable[..., Array],
        operands: list[Array],
    ) -> Array:
        """Tell, and do it."""
        size = dtype(0).itemsize
        if self._valid(address, mask, size, site, "atomic"):
            for observer in self.observers:
                observer.access(site, "global", "atomic", address, mask, size, operands[-1])
        return super().atomic(address, mask, dtype, site, change, operands)


class _ObservedShared(_Observed, SharedMemory):
    #: What accesses count as, where they are not what they look like; ``none`` is not told at all.
    kind = ""

    def _tell(
        self, kind: str, address: Array, mask: Array | None, size: int, site: int, value: Array | None = None
    ) -> None:
        if self.kind == "none":
            return
        if mask is not None:
            mask, anybody = trim(mask)
            if not anybody:
                return
        self._index(address, mask, size, site, kind)
        for observer in self.observers:
            observer.access(site, "shared", self.kind or kind, address, mask, size, value)

    def load(self, address: Array, mask: Array | None, size: int, site: int) -> Array:
        self._tell("load", address, mask, size, site)
        return super().load(address, mask, size, site)

    def store(self, address: Array, value: Array, mask: Array | None, size: int, site: int) -> None:
        self._tell("store", address, mask, size, site, value)
        super().store(address, value, mask, size, site)

    def atomic(
        self,
        address: Array,
        mask: Array | None,
        dtype: Any,
        site: int,
        change: Callable[..., Array],
        operands: list[Array],
    ) -> Array:
        self._tell("atomic", address, mask, dtype(0).itemsize, site, operands[-1])
        return super().atomic(address, mask, dtype, site, change, operands)


class _ObservedCopies(_Observed, AsyncCopies):
    shared: _ObservedShared

    def start(
        self, target: Array, source: Array, size: int, count: Array | None, mask: Array | None, site: int
    ) -> None:
        self.shared.kind = "cp.async"
        super().start(target, source, size, count, mask, site)
        self.shared.kind = ""

    def commit(self, mask: Array | None) -> None:
        super().commit(mask)
        for observer in self.observers:
            observer.sync(-1, "cp.async.commit", mask, 0)

    def wait(self, pending: int, mask: Array | None, every: bool) -> None:
        super().wait(pending, mask, every)
        for observer in self.observers:
            observer.sync(-1, "cp.async.wait_all" if every else "cp.async.wait", mask, pending)


class _ObservedBarriers(_Observed, Barriers):
    shared: _ObservedShared

    def __init__(self, shared: SharedMemory, log: FaultLog) -> None:
        super().__init__(shared, log)
        #: By site, what the lanes' last waits were for that failed for no reason: address and parity, plus one.
        self.failed: dict[int, Array] = {}

    def complete(self, rows: Array, address: Array, nbytes: int, site: int) -> None:
        super().complete(rows, address, nbytes, site)
        self._tell(site, "complete", address, None)

    def _tell(self, site: int, kind: str, address: Array, mask: Array | None, passed: Array | None = None) -> None:
        if mask is None or mask.any():
            for observer in self.observers:
                observer.mbarrier(site, kind, address, mask, passed)

    def init(self, address: Array, count: Array, mask: Array | None, site: int) -> None:
        self._tell(site, "init", address, mask)
        self.shared.kind = "none"
        super().init(address, count, mask, site)
        self.shared.kind = ""

    def invalidate(self, address: Array, mask: Array | None, site: int) -> None:
        self._tell(site, "inval", address, mask)
        self.shared.kind = "none"
        super().invalidate(address, mask, site)
        self.shared.kind = ""

    def arrive(self, address: Array, count: Array, nbytes: Array, mask: Array | None, site: int) -> Array:
        self.shared.kind = "none"
        old = super().arrive(address, count, nbytes, mask, site)
        self.shared.kind = ""
        self._tell(site, "arrive", address, mask)
        return old

    def passed(self, address: Array, parity: Array, mask: Array | None, site: int) -> Array:
        self.shared.kind = "none"
        result = super().passed(address, parity, mask, site)
        self.shared.kind = ""
        if any(o.reluctant for o in self.observers):
            here = np.broadcast_to(result if mask is None else result & mask, self.log.lanes)
            phase = address.astype(np.int64) * 2 + (parity & parity.dtype.type(1)).astype(np.int64)
            before = self.failed.get(site, np.zeros((1, 1), np.int64)) == phase + 1
            self.failed[site] = np.where(here, np.where(before, 0, phase + 1), self.failed.get(site, 0))
            result = here & before
        self._tell(site, "wait", address, mask, result)
        return result


class _ObservedTensors(_Observed, TensorCopies):
    memory: ObservedGlobal

    def _groups(self, *arguments: Any) -> Any:
        self.memory.kind = "tensor-map"
        found = list(super()._groups(*arguments))
        self.memory.kind = ""
        return found

    def _about(
        self, site: int, kind: str, rows: Array, lanes: Array, units: Array, places: Any, signal: Array | None
    ) -> None:
        for observer in self.observers:
            observer.tensor(site, kind, rows, lanes, units, places, signal)


class ObservedChunk(Chunk):
    """A chunk whose parts tell observers what is done with them."""

    parts = Parts(_ObservedShared, _ObservedCopies, _ObservedBarriers, _ObservedTensors)
    shared: _ObservedShared
    memory: ObservedGlobal
    observers: Sequence[Observer] = ()

    def watched_by(self, instruments: Sequence[Instrument]) -> None:
        """Tell the observers among these."""
        observers = [i for i in instruments if isinstance(i, Observer)]
        parts: tuple[Any, ...] = (self.memory, self.shared, self.copies, self.barriers, self.tensors)
        for part in parts:
            part.observers = observers
        self.observers = observers

    def event(self, site: int, kind: str, mask: Array | None, pending: int = 0) -> None:
        """What generated code calls for fences and groups."""
        for observer in self.observers:
            observer.sync(site, kind, mask, pending)

    def product(
        self,
        product: Product,
        left: Array | list[Array],
        right: Array,
        addends: list[Array],
        scale: Array,
        mask: Array | None,
        site: int,
    ) -> list[Array]:
        """``wgmma.mma_async``; operands are loaded by every warpgroup for itself."""
        self.event(site, "wgmma.issue", mask)
        self.shared.kind = "wgmma"
        threads = self.threads
        if not isinstance(left, list):
            left = np.broadcast_to(left, (left.shape[0], threads))
        right = np.broadcast_to(right, (right.shape[0], threads))
        found = super().product(product, left, right, addends, scale, mask, site)
        self.shared.kind = ""
        return found


class ObservedScheduler(Scheduler):
    """A scheduler that tells observers of barriers."""

    splits = False
    chunk: ObservedChunk

    def _passes(self, site: int, number: int, arrived: Array | None, waiting: Array | None) -> None:
        for observer in self.chunk.observers:
            observer.barrier(site, number, arrived, waiting)
