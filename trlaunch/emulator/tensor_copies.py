"""The tensor memory accelerator: boxes of tensors to shared memory and back (PTX ISA, "cp.async.bulk.tensor").

A copy is done when it is issued, but what it wrote counts as written only when somebody has waited for its mbarrier, so
that a kernel that does not is found. All CTAs of a chunk that copy with equal maps do so in one step, in units of 16
bytes.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from trlaunch.emulator.faults import FaultLog
from trlaunch.emulator.instructions.atomics import CHANGES
from trlaunch.emulator.instructions.base import DTYPES, TYPE_DTYPE, U1, U4, U8, Array
from trlaunch.emulator.mbarriers import Barriers
from trlaunch.emulator.memory import GlobalMemory, MemoryRange, SharedMemory
from trlaunch.emulator.tensor_maps import FIELDS, MAGIC, MAGIC_OFFSET, SIZE, SWIZZLE_BYTES, TensorMap, decode
from trlaunch.errors import EmulatorError

__all__ = ["TensorCopies", "swizzled"]

#: PTX types by element type of a map, and what a NaN is made of.
_TYPES = ("u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f32", "f64", "bf16", "f32", "f32")
_NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f64": 0x7FF8000000000000}
_TENSOR_FLOAT = (11, 12)
_FLUSHED = (8, 12)


def swizzled(address: Array, width: int) -> Array:
    """Addresses of 16-byte parts after the swizzle of `width` bytes (0: none): bits 4 - 6 change with bits 7 - 9."""
    if not width:
        return address
    dtype = address.dtype.type
    return address ^ (((address >> dtype(7)) & dtype(width // 16 - 1)) << dtype(4))


@lru_cache(maxsize=64)
def _box(box: tuple[int, ...], element_size: int) -> tuple[list[Array], int]:
    """Of each row of a box, its index along the outer axes; and 16-byte parts of a row."""
    outer = box[1:] or (1,)
    rows = np.arange(int(np.prod(outer)), dtype=np.int64)
    indices = []
    for n in outer:
        indices.append(rows % n)
        rows = rows // n
    return indices, box[0] * element_size // 16


class _Places:
    """Where the parts of n copies lie: addresses, shape (n, R, P), and how many of their bytes are in the tensor."""

    def __init__(self, tensor: TensorMap, corner: list[Array]) -> None:
        indices, parts = _box(tensor.box, tensor.element_size)
        size = tensor.element_size
        start = corner[0][:, None] * size + 16 * np.arange(parts, dtype=np.int64)
        limit = tensor.shape[0] * size
        keep = np.where(start >= 0, np.clip(limit - start, 0, 16), 0)
        offset = np.zeros((len(corner[0]), len(indices[0])), np.int64)
        inside = np.ones(offset.shape, bool)
        for axis, stride in enumerate(tensor.strides):
            at = corner[axis + 1][:, None] + indices[axis]
            inside &= (at >= 0) & (at < tensor.shape[axis + 1])
            offset += at * stride
        self.address = tensor.address + offset[:, :, None] + start[:, None, :]
        self.keep = np.where(inside[:, :, None], keep[:, None, :], 0)
        self.whole = bool((self.keep == 16).all())


class TensorCopies:
    """Tensor copies of a chunk of CTAs."""

    def __init__(self, memory: GlobalMemory, shared: SharedMemory, barriers: Barriers, log: FaultLog) -> None:
        self.memory, self.shared, self.barriers, self.log = memory, shared, barriers, log

    # Which lanes copy what.

    def _groups(
        self, at: Array, map_address: Array, corner: list[Array], mask: Array | None, site: int
    ) -> Iterator[tuple[TensorMap, Array, Array, Array, list[Array]]]:
        """Map, rows of the chunk, lanes, shared addresses and corners of the copies with equal maps."""
        active = np.broadcast_to(np.ones((1, 1), bool) if mask is None else mask, self.log.lanes)
        rows, lanes = np.nonzero(active)
        if not len(rows):
            return

        def pick(x: Array) -> Array:
            return np.broadcast_to(x, self.log.lanes)[rows, lanes]

        raw = [self.memory.load(map_address + U8(k), mask, 16, site) for k in range(0, SIZE, 16)]
        target = pick(at).astype(np.int64)
        corners = [pick(c).view(np.int32).astype(np.int64) for c in corner]
        if map_address.size == 1:
            data = b"".join(part.ravel()[:1].tobytes() for part in raw)
            yield self._map(data, len(corner), active, site), rows, lanes, target, corners
            return
        whole = np.stack([pick(part) for part in raw], axis=1)
        texts = [row.tobytes() for row in whole]
        for data in dict.fromkeys(texts):
            here = np.array([t == data for t in texts])
            tensor = self._map(data, len(corner), active, site)
            yield tensor, rows[here], lanes[here], target[here], [c[here] for c in corners]

    def _map(self, data: bytes, rank: int, active: Array, site: int) -> TensorMap:
        try:
            tensor = decode(data)
        except EmulatorError as error:
            raise self.log.fault("tensor-map", str(error), site, active) from None
        problem = tensor.problem()
        if len(tensor.shape) != rank:
            problem = f"it has {len(tensor.shape)} axes, the instruction {rank}"
        if problem:
            raise self.log.fault("tensor-map", f"the tensor map breaks a rule: {problem}", site, active)
        return tensor

    def _lanes(self, rows: Array, lanes: Array) -> Array:
        bad = np.zeros(self.log.lanes, bool)
        bad[rows, lanes] = True
        return bad

    def _prepare(
        self, tensor: TensorMap, rows: Array, lanes: Array, target: Array, corner: list[Array], site: int
    ) -> tuple[_Places, Array]:
        """Checked places in the tensor, and indices of 16-byte units in the chunk's shared memory, shape (n, R, P)."""
        odd = corner[0] * tensor.element_size % 16 != 0
        if odd.any():
            what = (
                f"innermost coordinate {int(corner[0][odd][0])} of elements of {tensor.element_size} bytes: TMA needs"
                " a multiple of 16 bytes (the hardware stops with an illegal instruction)"
            )
            raise self.log.fault("misaligned", what, site, self._lanes(rows[odd], lanes[odd]))
        odd = target % 128 != 0
        if odd.any():
            what = f"shared address {int(target[odd][0]):#x} of a tensor copy: expected a multiple of 128"
            raise self.log.fault("misaligned", what, site, self._lanes(rows[odd], lanes[odd]))
        over = target > self.shared.nbytes - tensor.nbytes
        if over.any():
            first = int(target[over][0])
            what = f"a box of {tensor.nbytes} bytes at shared address {first:#x}: there are {self.shared.nbytes} bytes"
            raise self.log.fault("out-of-bounds", what, site, self._lanes(rows[over], lanes[over]), first)
        places = _Places(tensor, corner)
        at = target[:, None] + np.arange(0, tensor.nbytes, 16, dtype=np.int64)
        at = swizzled(at, SWIZZLE_BYTES[tensor.swizzle]) >> 4
        return places, at.reshape(places.address.shape)

    def _range(self, places: _Places, rows: Array, lanes: Array, site: int) -> MemoryRange | None:
        """The range that all parts lie in; ``None`` if no part lies in the tensor."""
        inside = places.keep > 0
        if not inside.any():
            return None
        low = int(places.address[inside].min())
        high = int((places.address + places.keep)[inside].max())
        for found in self.memory.ranges:
            if found.base <= low and high <= found.base + found.nbytes:
                return found
        bad = inside.copy()
        for found in self.memory.ranges:
            last = places.address + places.keep
            bad &= ~((places.address >= found.base) & (last <= found.base + found.nbytes))
        if not bad.any():
            raise self.log.fault("out-of-bounds", "the tensor lies in several buffers", site, self._lanes(rows, lanes))
        which = np.nonzero(bad)
        address = np.full((1, 1), int(places.address[bad][0]), U8)
        raise self.log.out_of_bounds(
            site, address, self._lanes(rows[which[0][:1]], lanes[which[0][:1]]), 16, "tensor copy", self.memory.ranges
        )

    def _about(
        self, site: int, kind: str, rows: Array, lanes: Array, units: Array, places: _Places, signal: Array | None
    ) -> None:
        """A copy is about to be done, for those who observe (`trlaunch.emulator.observer`)."""

    # Copies.

    def load(
        self, target: Array, map_address: Array, corner: list[Array], barrier: Array, mask: Array | None, site: int
    ) -> None:
        """Boxes to shared memory; the barrier gets the bytes of the whole box."""
        for tensor, rows, lanes, at, corners in self._groups(target, map_address, corner, mask, site):
            places, index = self._prepare(tensor, rows, lanes, at, corners, site)
            found = self._range(places, rows, lanes, site)
            if found is None:
                data = np.zeros(index.shape, np.complex128)
            else:
                first = found.base - found.lead
                keep = places.keep > 0
                unit = (places.address - first) >> 4
                data = found.view(16).take(unit if places.whole else np.where(keep, unit, 0))
            if not places.whole:
                data = _filled(data, places.keep, tensor)
            if tensor.element in _TENSOR_FLOAT or tensor.element in _FLUSHED:
                data = _rounded(data, tensor.element)
            signal = np.broadcast_to(barrier, self.log.lanes)[rows, lanes]
            self._about(site, "load", rows, lanes, index, places, signal)
            self.shared.writes += 1
            self.shared.flat[16][index + (rows * (self.shared.stride // 16))[:, None, None]] = data
            self.barriers.complete(rows, signal, tensor.nbytes, site)
            self.barriers.expect(rows, signal, index.reshape(len(rows), -1))

    def _read(self, index: Array, rows: Array, lanes: Array, site: int) -> Array:
        missing = ~self.shared.is_written(rows, index.reshape(len(rows), -1), 16).all(axis=1)
        if missing.any():
            what = "the box in shared memory has bytes that nothing has written yet"
            raise self.log.fault("uninitialised", what, site, self._lanes(rows[missing], lanes[missing]))
        return self.shared.flat[16].take(index + (rows * (self.shared.stride // 16))[:, None, None])

    def store(
        self, source: Array, map_address: Array, corner: list[Array], change: str, mask: Array | None, site: int
    ) -> None:
        """Boxes from shared memory; `change` names the reduction, or is empty."""
        for tensor, rows, lanes, at, corners in self._groups(source, map_address, corner, mask, site):
            places, index = self._prepare(tensor, rows, lanes, at, corners, site)
            data = self._read(index, rows, lanes, site)
            found = self._range(places, rows, lanes, site)
            if found is None:
                continue
            if found.read_only:
                what = f"tensor store into {found.name!r}, which is read-only"
                raise self.log.fault("read-only", what, site, self._lanes(rows, lanes))
            self._about(site, "reduce" if change else "store", rows, lanes, index, places, None)
            self.memory.writes += 1
            first = found.base - found.lead
            if change:
                self._reduce(tensor, found.view(1), places, first, data, change, self._lanes(rows, lanes), site)
                continue
            full = places.keep == 16
            found.view(16)[((places.address - first) >> 4)[full]] = data[full]
            part = (places.keep > 0) & ~full
            if part.any():
                where = (places.address - first)[part][:, None] + np.arange(16)
                kept = np.arange(16) < places.keep[part][:, None]
                found.view(1)[where[kept]] = data[part].view(U1).reshape(-1, 16)[kept]

    def _reduce(
        self,
        tensor: TensorMap,
        view: Array,
        places: _Places,
        first: int,
        data: Array,
        change: str,
        bad: Array,
        site: int,
    ) -> None:
        """Change elements by those of the box, one copy after the other."""
        kind = _TYPES[tensor.element]
        if change in ("and", "or", "xor"):
            kind = f"b{8 * tensor.element_size}"
        key = f"{change}_{kind}" if f"{change}_{kind}" in CHANGES else change
        kinds, function = CHANGES[key]
        if kind not in kinds and not (kind == "s64" and change == "add"):
            raise self.log.fault("tensor-map", f"a tensor reduction .{change} of .{kind} is not executed", site, bad)
        dtype = DTYPES[TYPE_DTYPE[kind]]
        elements, size = view.view(dtype), tensor.element_size
        for n in range(len(data)):
            value = np.ascontiguousarray(data[n]).view(dtype).reshape(*data[n].shape, -1)
            where = (places.address[n] - first)[..., None] // size + np.arange(16 // size)
            kept = np.arange(16 // size) * size < places.keep[n][..., None]
            elements[where[kept]] = function(elements[where[kept]], value[kept])

    # Maps made on the device.

    def replace(self, address: Array, field: str, ordinal: int, value: Array, mask: Array | None, site: int) -> None:
        """``tensormap.replace`` of a map in shared memory."""
        offset, size = FIELDS[field]
        dtype = {1: U1, 4: U4, 8: U8}[size]
        one = address.dtype.type
        self.shared.store(address + one(offset + size * ordinal), value.astype(dtype), mask, size, site)
        self.shared.store(address + one(MAGIC_OFFSET), np.full((1, 1), MAGIC, U4), mask, 4, site)

    def publish(self, target: Array, source: Array, mask: Array | None, site: int) -> None:
        """``tensormap.cp_fenceproxy``: a map from shared to global memory."""
        for k in range(0, SIZE, 16):
            part = self.shared.load(source + source.dtype.type(k), mask, 16, site)
            self.memory.store(target + U8(k), part, mask, 16, site)


def _filled(data: Array, keep: Array, tensor: TensorMap) -> Array:
    """Parts with what lies outside the tensor as zeros or NaN."""
    octets = np.ascontiguousarray(data).view(U1).reshape(*data.shape, 16)
    outside = np.arange(16) >= keep[..., None]
    kind = _TYPES[tensor.element]
    if tensor.nan and kind in _NAN:
        size = tensor.element_size
        fill: Any = np.frombuffer(_NAN[kind].to_bytes(size, "little") * (16 // size), U1)
    else:
        fill = U1(0)
    return np.ascontiguousarray(np.where(outside, fill, octets)).view(np.complex128)[..., 0]


def _rounded(data: Array, element: int) -> Array:
    """fp32 elements rounded to tf32 or without subnormal numbers."""
    words = np.ascontiguousarray(data).view(U4)
    if element in _FLUSHED:
        words = np.where((words & U4(0x7F800000)) == 0, words & U4(0x80000000), words)
    if element in _TENSOR_FLOAT:
        special = (words & U4(0x7F800000)) == U4(0x7F800000)
        words = np.where(special, words, (words + U4(0x1000)) & U4(0xFFFFE000))
    return np.ascontiguousarray(words).view(np.complex128)
