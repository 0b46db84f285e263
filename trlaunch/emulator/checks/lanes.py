"""The lanes of an access one by one, and groups of asynchronous work that lanes wait for."""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trlaunch.emulator.instructions.base import Array

__all__ = ["Groups", "Touch", "differ", "same_bits", "warps_of", "wide"]


_TINY, _ROUNDING = np.float32(2**-100), np.float32(2**-20)


def wide(mask: Array | None, shape: tuple[int, int]) -> Array:
    """A mask of all lanes."""
    found: Array = np.ones(shape, bool) if mask is None else np.broadcast_to(mask, shape)
    return found


def warps_of(mask: Array | None, shape: tuple[int, int]) -> Array:
    """The warps, shape (C, W), that have any lane in a mask."""
    return np.asarray(wide(mask, shape).reshape(shape[0], -1, 32).any(axis=2))


def same_bits(one: Array, other: Array) -> Array:
    """Whether elements of 1 to 16 bytes, shape (n,), are the same bit by bit."""
    size = one.dtype.itemsize
    if size != other.dtype.itemsize:
        return np.zeros(len(one), bool)
    x, y = (np.ascontiguousarray(v).view(f"u{min(size, 8)}").reshape(len(v), -1) for v in (one, other))
    return np.asarray((x == y).all(axis=1))


def differ(one: Array, other: Array) -> Array:
    """Whether elements of 1 to 16 bytes differ by more than the rounding of fp32.

    Lanes that reduce the same numbers in another order (or with another of two products fused) store what is not quite
    the same; Triton has all of them store it.
    """
    unequal = ~same_bits(one, other)
    if one.dtype.itemsize < 4 or not unequal.any():
        return unequal
    x, y = (np.ascontiguousarray(v).view(np.float32).reshape(len(v), -1) for v in (one, other))
    normal = (np.abs(x) > _TINY) & (np.abs(y) > _TINY) & (np.abs(x) < np.inf)
    close = normal & (np.abs(x - y) <= np.maximum(np.abs(x), np.abs(y)) * _ROUNDING)
    same = x.view(np.uint32) == y.view(np.uint32)
    return np.asarray(unequal & ~(close | same).all(axis=1))


@dataclass(slots=True)
class Touch:
    """An access of n active lanes.

    Attributes
    ----------
    row, thread : ndarray of int64, shape (n,)
        CTA of the chunk and thread.
    address : ndarray of int64, shape (n,)
    value : ndarray or None, shape (n,)
    """

    row: Array
    thread: Array
    address: Array
    value: Array | None

    @classmethod
    def of(cls, address: Array, mask: Array | None, value: Array | None, shape: tuple[int, int]) -> Touch:
        """The active lanes, in order; where there are other columns than threads, each warp has an equal share."""
        ctas, count = shape
        columns = max(address.shape[1], 1 if mask is None else mask.shape[1])
        columns = count if columns == 1 else columns
        size = ctas, columns
        if mask is None:
            row = np.repeat(np.arange(ctas), columns)
            column = np.tile(np.arange(columns), ctas)
            at = np.broadcast_to(address, size).reshape(-1)
            values = None if value is None else np.broadcast_to(value, size).reshape(-1)
        else:
            row, column = np.nonzero(np.broadcast_to(mask, size))
            at = np.broadcast_to(address, size)[row, column]
            values = None if value is None else np.broadcast_to(value, size)[row, column]
        thread = column if columns == count else column * count // columns
        return cls(row, thread, at.astype(np.int64), values)

    def __len__(self) -> int:
        return len(self.row)


class Groups:
    """Asynchronous work of threads, in groups that they commit and wait for."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._committed = np.zeros(shape, np.int64)
        self._work: list[tuple[Array, Array, Array, Array, Array]] = []

    def add(self, row: Array, thread: Array, granule: Array, record: Array) -> None:
        """Work on granules, shape (n, k), of threads, shape (n,), in the group that is open."""
        self._work.append((row, thread, granule, record, self._committed[row, thread].copy()))

    def commit(self, mask: Array | None) -> None:
        """Threads close their groups."""
        self._committed += wide(mask, self.shape)

    def left(self) -> list[tuple[Array, Array, Array]]:
        """Rows, threads and records of the work that nobody has waited for."""
        return [(work[0], work[1], work[3]) for work in self._work if len(work[0])]

    def wait(self, mask: Array | None, pending: int, uncommitted: bool = False) -> list[tuple[Array, ...]]:
        """Rows, threads, granules and records of the work that is done when all but `pending` groups are."""
        if not self._work:
            return []
        here = wide(mask, self.shape)
        limit = np.where(here, self._committed - (0 if uncommitted else pending) + uncommitted, -1)
        done: list[tuple[Array, ...]] = []
        left = []
        for work in self._work:
            over = work[4] < limit[work[0], work[1]]
            if over.all():
                done.append(work[:4])
                continue
            if over.any():
                done.append(tuple(part[over] for part in work[:4]))
            keep = ~over
            left.append((work[0][keep], work[1][keep], work[2][keep], work[3][keep], work[4][keep]))
        self._work = left
        return done
