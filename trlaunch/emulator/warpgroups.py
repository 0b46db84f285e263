"""``wgmma``: products of matrices in shared memory (or registers) by warpgroups of 128 threads.

The descriptor's bits, layouts in shared memory and the order of the result in registers are those of the PTX ISA,
"Asynchronous warpgroup-level matrix instructions". A product is done when it is issued: the hardware may read shared
memory as late as ``wgmma.wait_group``, and until then a kernel must not write there.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trlaunch.emulator.faults import FaultLog
from trlaunch.emulator.instructions.base import F2, F4, U2, U4, U8, Array
from trlaunch.emulator.instructions.fragments import element, even_and_odd, fragment_a
from trlaunch.emulator.memory import SharedMemory
from trlaunch.emulator.tensor_copies import swizzled

__all__ = ["Product", "multiply"]

#: Bytes of a swizzled row by the descriptor's layout type.
_WIDTHS = (0, 128, 64, 32)
_GROUP = 128
#: Bytes of a product that are worked on at a time, so that they stay in the cache.
_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Product:
    """Which product: element types, columns, type of the result, operands that are not k-major, and their signs."""

    left: str
    right: str
    columns: int
    out: str
    left_by_rows: bool = False
    right_by_rows: bool = False
    negative: bool = False


def _numbers(raw: Array, kind: str) -> Array:
    """16-byte units to numbers to multiply, in a last axis."""
    return element(np.ascontiguousarray(raw).view(U4), kind)


def _offsets(rows: int, even_first: bool, by_rows: bool, width: int, leading: Array, stride: Array) -> Array:
    """Offsets of 16-byte units, in the order (row, half of k) if k-major, else (k, eighth of rows)."""
    if by_rows:  # 16-bit elements, k of 16
        k, part = np.arange(16, dtype=np.int64)[:, None], np.arange(rows // 8, dtype=np.int64)[None, :]
        if not width:
            return (part * stride + (k % 8) * 16 + (k // 8) * leading).reshape(*stride.shape[:2], -1)
        at = part * 16
        whole = at % width + (at // width) * leading + (k % 8) * width + (k // 8) * stride
        return whole.reshape(*stride.shape[:2], -1)
    row, half = np.arange(rows, dtype=np.int64)[:, None], np.arange(2, dtype=np.int64)[None, :]
    if even_first:
        row = row.reshape(-1, 2).T.reshape(-1, 1)
    if not width:
        return ((row // 8) * stride + (row % 8) * 16 + half * leading).reshape(*stride.shape[:2], -1)
    return ((row // 8) * stride + (row % 8) * width + half * 16).reshape(*stride.shape[:2], -1)


def _operand(
    shared: SharedMemory,
    log: FaultLog,
    descriptor: Array,
    rows: int,
    even_first: bool,
    by_rows: bool,
    kind: str,
    groups: Array,
    mask: Array | None,
    site: int,
) -> Array:
    """A matrix from shared memory, shape (C, groups or 1, rows, k), or (C, ..., k, rows) if not k-major; with
    `even_first`, even rows before odd ones.
    """
    if descriptor.shape[1] > 1:
        descriptor = descriptor[:, ::_GROUP][:, groups]
        taking = mask
    else:
        taking = None if mask is None else np.asarray(mask.any(axis=1, keepdims=True))
    if taking is not None:
        # Lanes that do not take part may hold anything.
        wide = np.broadcast_to(descriptor, np.broadcast_shapes(descriptor.shape, taking.shape))
        some = wide[np.nonzero(np.broadcast_to(taking, wide.shape))]
        descriptor = np.where(taking, wide, some[0])
    modes = descriptor >> U8(62)
    if modes.min() != modes.max() or ((descriptor >> U8(49)) & U8(7)).any():
        what = "descriptors of one instruction with different swizzles, or with a base offset, are not executed"
        raise log.fault("wgmma", what, site, np.ones((1, 1), bool))
    width = _WIDTHS[int(modes[0, 0])]
    start, leading, stride = (
        (((descriptor >> U8(shift)) & U8(0x3FFF)) << U8(4)).astype(np.int64)[:, :, None, None] for shift in (0, 16, 32)
    )
    at = swizzled(start[..., 0] + _offsets(rows, even_first, by_rows, width, leading, stride), width)
    flat = at.astype(U8).reshape(at.shape[0], -1)
    active = None if taking is None else np.repeat(taking, at.shape[2], axis=1)
    raw = shared.load(flat, active, 16, site).reshape(-1, *at.shape[1:])
    if even_first and by_rows:
        words = np.ascontiguousarray(raw).view(U4).reshape(*raw.shape[:2], 16, -1)
        return even_and_odd(words, kind)
    numbers = _numbers(raw, kind)
    return numbers.reshape(*raw.shape[:2], 16 if by_rows else rows, -1)


def multiply(
    shared: SharedMemory,
    log: FaultLog,
    product: Product,
    left: Array | list[Array],
    right: Array,
    addends: list[Array],
    scale: Array | None,
    mask: Array | None,
    site: int,
) -> list[Array]:
    """The accumulator's registers after one ``wgmma.mma_async``."""
    ctas, threads = log.lanes
    if threads % _GROUP:
        what = f"wgmma needs warpgroups of {_GROUP} threads, the block has {threads}"
        raise log.fault("wgmma", what, site, np.ones((1, 1), bool))
    count = threads // _GROUP
    groups, active = np.arange(count), None
    if mask is not None:
        by_group = np.broadcast_to(mask, log.lanes).reshape(ctas, count, _GROUP)
        some = np.asarray(by_group.any(axis=2))
        if (some[:, :, None] & ~by_group).any():
            torn = (some[:, :, None] & ~by_group).reshape(ctas, threads)
            raise log.fault(
                "divergent", "lane does not reach a wgmma that its whole warpgroup must execute", site, torn
            )
        groups = np.flatnonzero(some.any(axis=0))
        active = None if some[:, groups].all() else some[:, groups]
    if isinstance(left, list):
        x = fragment_a(left, product.left, threads)
        x = x.reshape(x.shape[0], count, 64, -1)[:, groups]
    else:
        x = _operand(shared, log, left, 64, False, product.left_by_rows, product.left, groups, active, site)
        if product.left_by_rows:
            x = x.swapaxes(2, 3)
    y = _operand(shared, log, right, product.columns, True, product.right_by_rows, product.right, groups, active, site)
    if not product.right_by_rows:
        y = y.swapaxes(2, 3)
    return _added(_to_registers(x, y, product.negative), product.out, addends, scale, groups, count, log.lanes)


def _to_registers(x: Array, y: Array, negative: bool) -> Array:
    """Products of the groups as registers, shape (columns / 2, C, 128 groups): four of each eight columns.

    The columns come even ones first, so that four threads of a register are 16 bytes, which NumPy moves as one.
    """
    ctas, groups, columns = max(x.shape[0], y.shape[0]), max(x.shape[1], y.shape[1]), y.shape[3]
    out = np.empty((columns // 8, 2, 2, ctas, groups, _GROUP // 32, 8), np.complex128)
    few = max(1, _BYTES // (groups * 256 * columns))
    for start in range(0, ctas, few):
        part = slice(start, start + few)
        d = np.matmul(x[part] if x.shape[0] > 1 else x, y[part] if y.shape[0] > 1 else y)
        if d.dtype != F4:
            d = d.astype(np.int32)  # sums of products of 8-bit integers, too small to overflow
        if negative:
            d = -d
        # (CTA, group, warp, half of the rows, row, odd columns, eighth of the columns); a unit of four threads.
        units = d.view(np.complex128).reshape(d.shape[0], groups, _GROUP // 32, 2, 8, 2, columns // 8)
        out[:, :, :, part] = units.transpose(6, 3, 5, 0, 1, 2, 4)
    return out.view(np.int32 if x.dtype != F4 else F4).reshape(columns // 2, ctas, groups * _GROUP)


def _added(
    parts: Array,
    out: str,
    addends: list[Array],
    scale: Array | None,
    groups: Array,
    count: int,
    lanes: tuple[int, int],
) -> list[Array]:
    every = len(groups) == count
    if scale is not None and scale.size == 1:
        addends = addends if scale[0, 0] else [np.zeros((1, 1), addends[0].dtype)] * len(addends)
        scale = None
    results = []
    for k, addend in enumerate(addends):
        if scale is not None:
            addend = np.where(scale, addend, addend.dtype.type(0))
        if not every and addend.shape[1] > 1:
            addend = addend.reshape(addend.shape[0], count, _GROUP)[:, groups].reshape(addend.shape[0], -1)
        if out == "f16":
            total = _add_pairs(addend, parts[2 * k], parts[2 * k + 1])
        else:
            total = addend + parts[k].view(addend.dtype)
        if not every:
            whole = np.zeros((lanes[0], count, _GROUP), total.dtype)
            whole[:, groups] = total.reshape(total.shape[0], len(groups), _GROUP)
            total = whole.reshape(lanes)
        results.append(total)
    return results


def _add_pairs(addend: Array, even: Array, odd: Array) -> Array:
    halves = ((addend >> U4(n)).astype(U2).view(F2).astype(F4) for n in (0, 16))
    low, high = ((x + y).astype(F2).view(U2).astype(U4) for x, y in zip(halves, (even, odd), strict=True))
    return low | (high << U4(16))
