"""The state of one chunk of CTAs while it runs: what generated code finds under the name ``S``."""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trlaunch.emulator.copies import AsyncCopies
from trlaunch.emulator.faults import Dim, FaultLog
from trlaunch.emulator.instructions.base import U4, U8, Array
from trlaunch.emulator.instructions.fragments import registers_to_rows
from trlaunch.emulator.instruments import Instrument
from trlaunch.emulator.local import LOCAL_WINDOW, LocalMemory
from trlaunch.emulator.mbarriers import Barriers
from trlaunch.emulator.memory import SHARED_WINDOW, VIEWS, GlobalMemory, SharedMemory
from trlaunch.emulator.output import assertion, print_lanes
from trlaunch.emulator.program import Program
from trlaunch.emulator.tensor_copies import TensorCopies
from trlaunch.emulator.warpgroups import Product, multiply

__all__ = ["Chunk", "Parts"]

_MAX_T = 1024


def _grid_axis(values: Array) -> Array:
    """Indices along one axis of the grid, shape (C, 1), or (1, 1) where they are all the same."""
    column = values.astype(U4)[:, None]
    return column[:1] if (column == column[0]).all() else column


class Parts(NamedTuple):
    """The classes of what a chunk works on."""

    shared: type[SharedMemory]
    copies: type[AsyncCopies]
    barriers: type[Barriers]
    tensors: type[TensorCopies]


class Chunk:
    """C CTAs of T threads, T a multiple of 32: lanes beyond the block are never active.

    Attributes
    ----------
    ctas : ndarray of int64, shape (C,)
        Linear indices of the CTAs.
    registers : list of ndarray
        Registers across blocks, by index.
    param_base : ndarray of uint64, shape (1, 1)
        Where the parameters lie in memory, for kernels that take the address of one.
    start : ndarray or None
        The lanes that exist, ``None`` if all do.
    """

    parts = Parts(SharedMemory, AsyncCopies, Barriers, TensorCopies)

    def __init__(
        self,
        program: Program,
        memory: GlobalMemory,
        log: FaultLog,
        params: bytes,
        param_base: int,
        ctas: Array,
        grid: Dim,
        block: Dim,
        shared: int,
    ) -> None:
        threads = block[0] * block[1] * block[2]
        self.threads = (threads + 31) // 32 * 32
        self.ctas, self.memory, self.log = ctas, memory, log
        nbytes = program.dynamic_offset + shared if shared else program.static_shared
        self.shared = self.parts.shared(len(ctas), nbytes, log)
        self.local = LocalMemory(program.frame, log)
        self.copies = self.parts.copies(memory, self.shared)
        self.barriers = self.parts.barriers(self.shared, log)
        self.tensors = self.parts.tensors(memory, self.shared, self.barriers, log)
        self.registers: list[Array] = list(program.registers)
        linear = np.arange(self.threads, dtype=U4)[None, :]
        self.start = None if self.threads == threads else linear < threads
        self._params = params
        self.param_base = np.array([[param_base]], dtype=U8)
        self._ticks = itertools.count(1)
        self._special(linear, ctas, grid, block, shared)

    def _special(self, linear: Array, ctas: Array, grid: Dim, block: Dim, shared: int) -> None:
        bx, by, bz = (U4(n) for n in block)
        zero = np.zeros((1, 1), dtype=U4)
        flat = by == 1 and bz == 1
        self.tid_x = linear if flat else linear % bx
        self.tid_y = zero if flat else linear // bx % by
        self.tid_z = zero if flat else linear // (bx * by)
        gx, gy, _ = grid
        self.ctaid_x, self.ctaid_y = _grid_axis(ctas % gx), _grid_axis(ctas // gx % gy)
        self.ctaid_z = _grid_axis(ctas // (gx * gy))
        for name, values in (("ntid", block), ("nctaid", grid)):
            for axis, value in zip("xyz", values, strict=True):
                setattr(self, f"{name}_{axis}", np.array([[value]], dtype=U4))
        self.laneid = linear % U4(32)
        self.warpid = linear // U4(32)
        self.nwarpid = np.array([[self.threads // 32]], dtype=U4)
        self.smid, self.nsmid, self.gridid = zero, zero + U4(1), np.zeros((1, 1), dtype=U8)
        self.lane_index = self.laneid.astype(np.int64)
        one = U4(1)
        self.lanemask_eq = one << self.laneid
        self.lanemask_lt = self.lanemask_eq - one
        self.lanemask_le = self.lanemask_lt | self.lanemask_eq
        self.lanemask_gt = ~self.lanemask_le
        self.lanemask_ge = ~self.lanemask_lt
        self.total_smem_size = np.array([[self.shared.nbytes]], dtype=U4)
        self.dynamic_smem_size = np.array([[shared]], dtype=U4)

    def watched_by(self, instruments: Sequence[Instrument]) -> None:
        """Tell those who observe; a plain chunk has nobody to tell (`trlaunch.emulator.observer`)."""

    def param(self, offset: int, dtype: Any, size: int) -> Array:
        """An element of the parameter buffer, shape (1, 1)."""
        return np.frombuffer(self._params[offset : offset + size].ljust(size, b"\0"), dtype=dtype).reshape(1, 1)

    def clock(self) -> Array:
        """A counter that grows with every read."""
        return np.array([[next(self._ticks)]], dtype=U8)

    # Warps.

    def participants(self, mask: Array | None, members: Array) -> Array:
        """Active lanes that the member mask names, shape (1 or C, T)."""
        named = (members >> self.laneid) & U4(1) != 0
        if mask is not None:
            named = named & mask
        if self.start is not None:
            named = named & self.start
        return named

    def check_members(self, mask: Array | None, members: Array, site: int) -> None:
        """A fault if a lane executes that its member mask does not name, or a named lane that exists does not."""
        named = (members >> self.laneid) & U4(1) != 0
        active = np.ones((1, 1), bool) if mask is None else mask
        if self.start is not None:
            active = active & self.start
        stray = active & ~named
        if stray.any():
            raise self.log.fault("divergent", "lane is not in the member mask of this warp instruction", site, stray)
        if mask is None:
            return
        # A warp's lanes give the same member mask; those that execute speak for the warp.
        wide = np.broadcast_to(active, self.log.lanes).reshape(self.log.lanes[0], -1, 32)
        asked = np.broadcast_to(members, self.log.lanes).reshape(wide.shape)
        wanted = np.bitwise_or.reduce(np.where(wide, asked, U4(0)), axis=2, keepdims=True)
        missing = ((wanted >> np.arange(32, dtype=U4)) & U4(1) != 0) & ~wide
        lanes = missing.reshape(self.log.lanes) & self.alive
        if lanes.any():
            raise self.log.fault(
                "divergent", "lane is named by the member mask of a warp instruction but does not reach it", site, lanes
            )

    def check_warps(self, mask: Array, site: int) -> None:
        """A fault unless every warp executes with all of its lanes or none."""
        wide = np.broadcast_to(mask, self.log.lanes).reshape(self.log.lanes[0], -1, 32)
        torn = wide.any(axis=2, keepdims=True) & ~wide
        if torn.any():
            raise self.log.fault(
                "divergent", "lane does not reach an instruction that its whole warp must execute", site,
                torn.reshape(self.log.lanes),
            )  # fmt: skip

    @property
    def alive(self) -> Array:
        """Lanes that have not exited, shape (C, T); the scheduler replaces it."""
        return self._alive

    @alive.setter
    def alive(self, value: Array) -> None:
        self._alive = value

    # Matrices in shared memory.

    def _row_addresses(self, address: Array, mask: Array | None, count: int) -> tuple[Array, Array | None]:
        """Addresses of the rows, from the first ``8 count`` lanes of each warp, and their mask."""
        if address.shape[1] == 1:
            address = np.broadcast_to(address, (address.shape[0], self.threads))
        if count < 4:
            address = address.reshape(address.shape[0], -1, 32)[:, :, : 8 * count].reshape(address.shape[0], -1)
            if mask is not None and mask.shape[1] > 1:
                mask = mask.reshape(mask.shape[0], -1, 32)[:, :, : 8 * count].reshape(mask.shape[0], -1)
        return address, mask

    def load_matrix(self, address: Array, count: int, mask: Array | None, site: int) -> Array:
        """``ldmatrix``: rows of 16 bytes of `count` matrices of each warp, shape (C, W, count, 8)."""
        if mask is not None:
            self.check_warps(mask, site)
        at, kept = self._row_addresses(address, mask, count)
        rows = self.shared.load(at, kept, 16, site)
        if rows.shape[1] == 1:
            rows = np.broadcast_to(rows, at.shape)
        return rows.reshape(rows.shape[0], -1, count, 8)

    def store_matrix(self, address: Array, values: list[Array], trans: bool, mask: Array | None, site: int) -> None:
        """``stmatrix``."""
        if mask is not None:
            self.check_warps(mask, site)
        at, kept = self._row_addresses(address, mask, len(values))
        lanes = (len(values), self.log.lanes[0], self.threads)
        registers = np.empty(lanes, dtype=U4)
        for k, value in enumerate(values):
            registers[k] = value
        rows = registers_to_rows(registers, trans)
        self.shared.store(at, rows.reshape(rows.shape[0], -1), kept, 16, site)

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
        """``wgmma.mma_async``."""
        return multiply(self.shared, self.log, product, left, right, addends, scale, mask, site)

    # Generic addresses: global memory as it is, shared and local memory in windows above it.

    def _parts(self, address: Array, mask: Array | None) -> list[tuple[Any, Array, Array, Array | None]]:
        """Memory, addresses in it, the lanes that point there, and those of them that are active (``None``: all)."""
        if mask is None and bool((address < SHARED_WINDOW).all()):
            return [(self.memory, address, np.ones((1, 1), bool), None)]
        in_local, in_shared = address >= LOCAL_WINDOW, (address >= SHARED_WINDOW) & (address < LOCAL_WINDOW)
        every = (
            (self.local, address - LOCAL_WINDOW, in_local),
            (self.shared, address - SHARED_WINDOW, in_shared),
            (self.memory, address, address < SHARED_WINDOW),
        )
        found: list[tuple[Any, Array, Array, Array | None]] = []
        for memory, inside, here in every:
            active = here if mask is None else here & mask
            if active.any():
                found.append((memory, inside, here, active))
        return found

    def load_generic(self, address: Array, mask: Array | None, size: int, site: int) -> Array:
        """Load from global, shared or local memory."""
        result: Array | None = None
        for memory, inside, here, active in self._parts(address, mask):
            value = memory.load(inside, active, size, site)
            result = value if result is None else np.where(here, value, result)
        return np.zeros((1, 1), VIEWS[size]) if result is None else result

    def store_generic(self, address: Array, value: Array, mask: Array | None, size: int, site: int) -> None:
        """Store to global, shared or local memory."""
        for memory, inside, _, active in self._parts(address, mask):
            memory.store(inside, value, active, size, site)

    def atomic_generic(
        self, address: Array, mask: Array | None, dtype: Any, site: int, change: Any, operands: list[Array]
    ) -> Array:
        """Atomic in global or shared memory."""
        result = np.zeros((1, 1), dtype)
        for memory, inside, here, active in self._parts(address, mask):
            if memory is self.local:
                raise self.log.fault("atomic", "an atomic in local memory is undefined", site, active)
            result = np.where(here, memory.atomic(inside, active, dtype, site, change, operands), result)
        return result

    # What kernels say.

    def print(self, template: Array, buffer: Array, mask: Array | None, site: int) -> None:
        """``vprintf``."""
        mask = self.start if mask is None else mask
        print_lanes(self.memory, self.local, self.log, template, buffer, mask, site)

    def fail(self, strings: list[Array], line: Array, mask: Array | None, site: int) -> None:
        """``__assertfail``."""
        mask = self.start if mask is None else mask
        if (fault := assertion(self.memory, self.log, strings, line, mask, site)) is not None:
            raise fault
