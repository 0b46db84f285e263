"""Memory as lanes see it: host memory in ranges that a launch may touch, and the shared memory of a chunk of CTAs.

Addresses of global memory are host addresses. Every access is checked for its bounds and alignment before NumPy touches
anything; the functions return or take arrays with a lane per element, and look at no lane outside the mask.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from trlaunch.emulator.faults import FaultLog
from trlaunch.emulator.instructions.base import U1, U8, Array

__all__ = ["SHARED_WINDOW", "VIEWS", "GlobalMemory", "MemoryRange", "SharedMemory", "bytes_at", "serialise", "trim"]

#: Generic addresses of shared memory begin here: above every address that a process can have.
SHARED_WINDOW = U8(1 << 60)
#: Elements of each size as they are moved.
VIEWS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64, 16: np.complex128}


class _Window:
    def __init__(self, address: int, nbytes: int, read_only: bool) -> None:
        self.__array_interface__ = {
            "data": (address, read_only), "shape": (nbytes,), "typestr": "|u1", "version": 3,
        }  # fmt: skip


def bytes_at(address: int, nbytes: int, read_only: bool = False) -> Array:
    """Host memory as an array of bytes, without a copy."""
    return np.asarray(_Window(address, nbytes, read_only))


class MemoryRange:
    """`nbytes` bytes from `base` that lanes may touch."""

    __slots__ = ("base", "lead", "name", "nbytes", "read_only", "views", "written")

    def __init__(self, base: int, nbytes: int, name: str, read_only: bool = False) -> None:
        self.base, self.nbytes, self.name, self.read_only = base, nbytes, name, read_only
        #: Bytes between the 16-byte boundary where the views begin and `base`. What the views hold outside of the
        #: range is never accessed.
        self.lead = base & 15
        self.views: dict[int, Array] = {}
        #: Bytes that are known to have been written, where a check wants to know (`checks.uninitialised`).
        self.written: Array | None = None

    def view(self, size: int) -> Array:
        """The range as elements of `size` bytes, from the 16-byte boundary at or below its base."""
        found = self.views.get(size)
        if found is None:
            whole = bytes_at(self.base - self.lead, (self.lead + self.nbytes + 15) // 16 * 16)
            found = self.views[size] = whole.view(VIEWS[size])
        return found


class GlobalMemory:
    """The ranges a launch may touch.

    Attributes
    ----------
    writes : int
        Counts instructions that changed memory, so that a spin can tell whether anything happened.
    """

    def __init__(self, ranges: Iterable[MemoryRange], log: FaultLog) -> None:
        self.ranges = sorted((r for r in ranges if r.nbytes > 0), key=lambda r: r.base)
        self.log = log
        self.writes = 0
        self._last: dict[int, MemoryRange] = {}

    def _inside(self, found: MemoryRange, address: Array, mask: Array | None, size: int) -> Array | None:
        """Element indices into `found`'s view if every active lane lies in it and is aligned."""
        if found.nbytes < size:
            return None
        offset = address - U8(found.base)
        if mask is not None:
            offset = _only(offset, mask)
        if int(offset.max()) > found.nbytes - size:
            return None
        if found.lead:
            offset = offset + U8(found.lead)
            if mask is not None:
                offset = np.where(mask, offset, U8(-(-found.lead // size) * size))
        if size == 1:
            return offset.view(np.int64)
        if int(np.bitwise_or.reduce(offset, axis=None)) & (size - 1):
            return None
        shift = U8(size.bit_length() - 1)
        return (offset >> shift).view(np.int64)

    def _find(self, address: Array, mask: Array | None, size: int, site: int) -> tuple[MemoryRange, Array] | None:
        found = self._last.get(site)
        if found is not None:
            index = self._inside(found, address, mask, size)
            if index is not None:
                return found, index
        row, column = divmod(int(mask.argmax()), mask.shape[1]) if mask is not None else (0, 0)
        first = int(address[row if address.shape[0] > 1 else 0, column if address.shape[1] > 1 else 0])
        for found in self.ranges:
            if found.base <= first < found.base + found.nbytes:
                index = self._inside(found, address, mask, size)
                if index is not None:
                    self._last[site] = found
                    return found, index
        return None

    def _pieces(
        self, address: Array, mask: Array | None, size: int, site: int, action: str
    ) -> Iterable[tuple[MemoryRange, Array, Array]]:
        """Lanes by range, where they touch more than one; a fault if one touches none."""
        left = np.ones(address.shape, bool) if mask is None else np.broadcast_to(mask, np.broadcast_shapes(
            mask.shape, address.shape)).copy()  # fmt: skip
        address = np.broadcast_to(address, left.shape)
        odd = left & ((address & U8(size - 1)) != 0)
        if odd.any():
            raise self.log.misaligned(site, address, odd, size, action, self.ranges)
        pieces = []
        for found in self.ranges:
            if found.nbytes >= size:
                here = left & (address - U8(found.base) <= U8(found.nbytes - size))
                if here.any():
                    offset = address[here] - U8(found.base) + U8(found.lead)
                    pieces.append((found, here, (offset // U8(size)).view(np.int64)))
                    left &= ~here
        if left.any():
            raise self.log.out_of_bounds(site, address, left, size, action, self.ranges)
        return pieces

    def load(self, address: Array, mask: Array | None, size: int, site: int) -> Array:
        """Elements of `size` bytes; lanes outside the mask hold anything."""
        if mask is not None:
            mask = _trim(mask)
            if mask is _NOBODY:
                return np.zeros((1, 1), VIEWS[size])
        hit = self._find(address, mask, size, site)
        if hit is not None:
            return hit[0].view(size).take(hit[1], mode="clip")  # inside, so this only saves NumPy's own check
        result: Array | None = None
        for found, here, index in self._pieces(address, mask, size, site, "load"):
            if result is None:
                result = np.zeros(here.shape, VIEWS[size])
            result[here] = found.view(size)[index]
        assert result is not None
        return result

    def store(self, address: Array, value: Array, mask: Array | None, size: int, site: int) -> None:
        """Write one element of `size` bytes per active lane; of lanes with one address the last wins."""
        if mask is not None:
            mask = _trim(mask)
            if mask is _NOBODY:
                return
        self.writes += 1
        hit = self._find(address, mask, size, site)
        if hit is not None:
            found, index = hit
            if found.read_only:
                raise self.log.read_only(site, address, mask, size, found)
            _scatter(found.view(size), index, value, mask)
            return
        for found, here, index in self._pieces(address, mask, size, site, "store"):
            if found.read_only:
                raise self.log.read_only(site, address, here, size, found)
            found.view(size)[index] = np.broadcast_to(value, here.shape)[here]

    def atomic(
        self,
        address: Array,
        mask: Array | None,
        dtype: Any,
        site: int,
        change: Callable[..., Array],
        operands: list[Array],
    ) -> Array:
        """Read, change and write one element per active lane, as if one lane came after the other."""
        size = np.dtype(dtype).itemsize
        if mask is not None:
            mask = _trim(mask)
        shape = np.broadcast_shapes(address.shape, *(o.shape for o in operands), () if mask is None else mask.shape)
        shape = np.broadcast_shapes(shape, self.log.lanes)
        if mask is _NOBODY:
            return np.zeros((1, 1), dtype)
        result = np.zeros(shape, dtype)
        address = np.broadcast_to(address, shape)
        operands = [np.broadcast_to(o, shape) for o in operands]
        wide = None if mask is None else np.broadcast_to(mask, shape)
        for found, here, index in self._pieces(address, wide, size, site, "atomic"):
            if found.read_only:
                raise self.log.read_only(site, address, here, size, found)
            view = found.view(size).view(dtype)
            result[here], changed = serialise(view, index, change, [o[here] for o in operands])
            self.writes += changed
        return result


_NOBODY = np.zeros((1, 1), bool)


def _trim(mask: Array) -> Array | None:
    """``None`` for a mask of all lanes, `_NOBODY` for none."""
    if mask.all():
        return None
    return mask if mask.any() else _NOBODY


def trim(mask: Array) -> tuple[Array | None, bool]:
    """The mask, ``None`` if it names all lanes, and whether it names any."""
    trimmed = _trim(mask)
    return trimmed, trimmed is not _NOBODY


def _only(offset: Array, mask: Array) -> Array:
    """`offset` of the lanes of a mask, 0 of the others."""
    if mask.shape == offset.shape:
        return np.where(mask, offset, offset.dtype.type(0))
    return offset * mask.astype(offset.dtype)


def _columns(mask: Array) -> slice | Array:
    """The columns of a mask of shape (1, T), as a slice if they are side by side."""
    columns = np.flatnonzero(mask[0])
    first, last = int(columns[0]), int(columns[-1]) + 1
    return slice(first, last) if last - first == len(columns) else columns


def _put(rows: Array, at: Array, value: Array) -> None:
    """``rows[:, at] = value``, faster where `at` is some range in another order, as it is with swizzled layouts."""
    if len(at) > 1 and rows.shape[0] * len(at) > 4096:
        first, last = int(at.min()), int(at.max()) + 1
        if last - first <= len(at):
            source = np.full(last - first, -1, dtype=np.int64)
            source[at - first] = np.arange(len(at))
            if int(source.min()) >= 0:
                rows[:, first:last] = value.take(source, axis=1, mode="clip") if value.shape[1] > 1 else value
                return
    rows[:, at] = value


def _scatter(view: Array, index: Array, value: Array, mask: Array | None) -> None:
    if mask is None:
        if index.size == 1 and value.size > 1:
            view[index.item()] = value[-1, -1]  # the last lane's
            return
        shape = np.broadcast_shapes(index.shape, value.shape)
        view[index if index.shape == shape else np.broadcast_to(index, shape)] = value
        return
    if mask.shape[0] == 1 and index.shape[1] == mask.shape[1] > 1:
        columns = _columns(mask)
        index = index[:, columns]
        value = value[:, columns] if value.shape[1] > 1 else value
        shape = np.broadcast_shapes(index.shape, value.shape)
        view[index if index.shape == shape else np.broadcast_to(index, shape)] = value
        return
    shape = np.broadcast_shapes(index.shape, value.shape, mask.shape)
    mask = mask if mask.shape == shape else np.broadcast_to(mask, shape)
    index = index if index.shape == shape else np.broadcast_to(index, shape)
    view[index[mask]] = value if value.size == 1 and value.ndim == 0 else np.broadcast_to(value, shape)[mask]


def serialise(view: Array, index: Array, change: Callable[..., Array], operands: list[Array]) -> tuple[Array, bool]:
    """Apply `change` to elements of `view`; lanes with the same index one after the other, in lane order."""
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    first = np.ones(len(order), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    old = np.empty(len(order), view.dtype)
    starts = np.flatnonzero(first)
    counts = np.diff(np.append(starts, len(order)))
    changed = False
    if isinstance(change, np.ufunc) and len(starts) < int(counts.max()):
        for start, count in zip(starts, counts, strict=True):
            at = order[start : start + count]
            steps = change.accumulate(np.concatenate([view[index[at[:1]]], operands[0][at]]), dtype=view.dtype)
            old[at] = steps[:-1]
            view[index[at[0]]] = steps[-1]
            changed = changed or steps[-1:].tobytes() != steps[:1].tobytes()
        return old, changed
    for turn in range(int(counts.max())):
        at = order[starts[counts > turn] + turn]
        before = view[index[at]]
        after = change(before, *(o[at] for o in operands))
        old[at] = before
        view[index[at]] = after
        changed = changed or after.tobytes() != before.tobytes()
    return old, changed


class SharedMemory:
    """The shared memory of C CTAs side by side, `nbytes` each, and which bytes were written.

    ``common`` marks bytes that every CTA has written, ``own`` those of single CTAs; accesses whose addresses do not
    depend on the CTA need only look at the first.
    """

    def __init__(self, ctas: int, nbytes: int, log: FaultLog) -> None:
        self.ctas, self.nbytes, self.log = ctas, nbytes, log
        self.stride = (nbytes + 15) // 16 * 16 or 16
        self.bytes = np.full((ctas, self.stride), 0xFF, dtype=U1)
        self.views = {size: self.bytes.view(dtype) for size, dtype in VIEWS.items()}
        self.flat = {size: view.reshape(-1) for size, view in self.views.items()}
        self.common = np.zeros(self.stride, bool)
        self.own: Array | None = None
        self.writes = 0  # counts instructions that wrote, as that of `GlobalMemory`
        self._rows = {size: np.arange(ctas, dtype=np.int64)[:, None] * (self.stride // size) for size in VIEWS}

    def _index(self, address: Array, mask: Array | None, size: int, site: int, action: str) -> Array:
        if mask is not None:
            address = _only(address, mask)
        offset = address.astype(np.int64) if address.dtype != U8 else address
        top = int(offset.max())
        if top > self.nbytes - size:
            limit = self.nbytes - size
            bad = address > address.dtype.type(limit) if limit >= 0 else np.ones(address.shape, bool)
            if mask is not None:
                bad = bad & mask
            raise self.log.shared_out_of_bounds(site, address, bad, size, action, self.nbytes)
        if size > 1:
            if int(np.bitwise_or.reduce(offset, axis=None)) & (size - 1):
                odd = (address & address.dtype.type(size - 1)) != 0
                raise self.log.misaligned(site, address, odd, size, action, ())
            offset = offset >> offset.dtype.type(size.bit_length() - 1)
        return offset.view(np.int64)

    def load(self, address: Array, mask: Array | None, size: int, site: int) -> Array:
        """Elements of `size` bytes; lanes outside the mask hold anything."""
        if mask is not None:
            mask = _trim(mask)
            if mask is _NOBODY:
                return np.zeros((1, 1), VIEWS[size])
        index = self._index(address, mask, size, site, "load")
        if index.shape[0] == 1:
            if not _written(self.common, index, size).all():
                self._check(address, index, mask, size, site)
            return self.views[size].take(index[0], axis=1, mode="clip")
        self._check(address, index, mask, size, site)
        return self.flat[size].take(index + self._rows[size], mode="clip")

    def _check(self, address: Array, index: Array, mask: Array | None, size: int, site: int) -> None:
        """A fault if an active lane reads bytes that nobody wrote."""
        good = np.broadcast_to(_written(self.common, index, size), (self.ctas, index.shape[1]))
        if self.own is not None and not good.all():
            both = (self.own | self.common).reshape(-1)
            good = _written(both, index + self._rows[size], size)
        bad = ~good if mask is None else ~good & mask
        if bad.any():
            raise self.log.uninitialised(site, address, bad, size)

    def store(self, address: Array, value: Array, mask: Array | None, size: int, site: int) -> None:
        """Write one element of `size` bytes per active lane."""
        if mask is not None:
            mask = _trim(mask)
            if mask is _NOBODY:
                return
        self.writes += 1
        index = self._index(address, mask, size, site, "store")
        uniform = index.shape[0] == 1
        if uniform and (mask is None or mask.shape[0] == 1):
            at = index[0]
            if mask is not None:
                keep = np.broadcast_to(mask[0], np.broadcast_shapes(mask[0].shape, at.shape))
                at = np.broadcast_to(at, keep.shape)[keep]
                if value.shape[1] == len(keep):
                    value = value[:, keep]
            elif len(at) == 1 and value.shape[1] > 1:
                value = value[:, -1:]
            _put(self.views[size], at, value)
            _mark(self.common, at, size)
            return
        rows = index + self._rows[size]
        _scatter(self.flat[size], rows, value, mask)
        if self.own is None:
            self.own = np.zeros((self.ctas, self.stride), bool)
        if mask is not None:
            shape = np.broadcast_shapes(rows.shape, mask.shape)
            rows = np.broadcast_to(rows, shape)[np.broadcast_to(mask, shape)]
        _mark(self.own.reshape(-1), rows, size)

    def atomic(
        self,
        address: Array,
        mask: Array | None,
        dtype: Any,
        site: int,
        change: Callable[..., Array],
        operands: list[Array],
    ) -> Array:
        """As `GlobalMemory.atomic`."""
        size = np.dtype(dtype).itemsize
        if mask is not None:
            mask = _trim(mask)
            if mask is _NOBODY:
                return np.zeros((1, 1), dtype)
        self.writes += 1
        index = self._index(address, mask, size, site, "atomic")
        shape = self.log.lanes
        rows = np.broadcast_to(index + self._rows[size], shape)
        self._check(address, index, mask, size, site)
        result = np.zeros(shape, dtype)
        view = self.flat[size].view(dtype)
        here: Any = ... if mask is None else np.broadcast_to(mask, shape)
        if mask is not None and mask.shape[0] == 1 and mask.shape[1] > 1:
            here = slice(None), np.flatnonzero(mask[0])  # the same lanes of every CTA: look at no others
        picked = rows[here]
        values = [np.broadcast_to(o, shape)[here].ravel() for o in operands]
        old, _ = serialise(view, picked.ravel(), change, values)
        result[here] = old.reshape(picked.shape)
        return result

    def written_by(self, rows: Array, units: Array, size: int) -> None:
        """Mark elements of single CTAs as written; `units` has a row of them per entry of `rows`."""
        if len(rows) == self.ctas and (units == units[0]).all() and len(np.unique(rows)) == self.ctas:
            _mark(self.common, units[0], size)
            return
        if self.own is None:
            self.own = np.zeros((self.ctas, self.stride), bool)
        _mark(self.own.reshape(-1), units + (rows * (self.stride // size))[:, None], size)

    def forget_by(self, rows: Array, units: Array, size: int) -> None:
        """Mark elements of single CTAs as not written; `units` as in `written_by`."""
        if len(rows) == self.ctas and (units == units[0]).all() and len(np.unique(rows)) == self.ctas:
            self.forget(units[0], size)
            return
        if self.own is None:
            self.own = np.zeros((self.ctas, self.stride), bool)
        every = np.unique(units)
        octets = (every[:, None] * size + np.arange(size)).ravel()
        self.own[:, octets] |= self.common[octets]
        _mark(self.common, every, size, False)
        _mark(self.own.reshape(-1), units + (rows * (self.stride // size))[:, None], size, False)

    def is_written(self, rows: Array, units: Array, size: int) -> Array:
        """Whether elements of single CTAs were written, shape of `units`."""
        good = _written(self.common, units, size)
        if self.own is not None and not good.all():
            both = (self.own | self.common).reshape(-1)
            good = _written(both, units + (rows * (self.stride // size))[:, None], size)
        return good

    def forget(self, index: Array, size: int) -> None:
        """Mark elements (of all CTAs) as not written: an asynchronous copy is on its way there."""
        _mark(self.common, index, size, False)
        if self.own is not None:
            for row in self.own:
                _mark(row, index, size, False)

    def remember(self, index: Array, size: int) -> None:
        """Mark elements (of all CTAs) as written."""
        _mark(self.common, index, size)


_PAIRS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_ALL = {size: dtype(int.from_bytes(b"\1" * size, "little")) for size, dtype in _PAIRS.items()}


def _written(flags: Array, index: Array, size: int) -> Array:
    if size == 16:
        pair = flags.view(np.uint64).reshape(-1, 2)[index]
        both: Array = (pair == _ALL[8]).all(axis=-1)
        return both
    return flags.view(_PAIRS[size]).take(index) == _ALL[size]


def _mark(flags: Array, index: Array, size: int, value: bool = True) -> None:
    if size == 16:
        flags.view(np.uint64).reshape(-1, 2)[index] = _ALL[8] if value else 0
    else:
        flags.view(_PAIRS[size])[index] = _ALL[size] if value else 0
