"""Fragments of matrices: what the lanes of a warp hold in registers, as matrices to multiply, and back.

All ``m16n8`` shapes share one layout in 32-bit words: lane ``4 g + t`` of a warp holds, of A, row ``g`` (and ``g + 8``)
and word ``t`` (and ``t + 4``) of k; of B, word ``t`` (and ``t + 4``) of k and column ``g``; of the result, rows ``g``
and ``g + 8`` of columns ``2 t`` and ``2 t + 1``. How many elements of k a word holds depends on the element.

The four words of one ``g`` are 16 bytes, and so is a row of ``ldmatrix``: matrices are put together from such units,
which NumPy moves as complex128. A fragment is either a list of registers, or a tuple of the rows that ``ldmatrix`` read
and, per register, which of its matrices that is.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any

import numpy as np

from trlaunch.emulator.instructions.base import F2, F4, F8, I1, I2, I4, U1, U2, U4, Array, runtime
from trlaunch.emulator.instructions.floating import bf16_to_f32

__all__ = ["element", "f16_to_f32", "fragment_a", "registers_to_rows"]

_UNIT = np.complex128
#: A list of registers; or rows of ``ldmatrix`` and the number of the matrix that each register is.
Fragment = Any


def f16_to_f32(bits: Array) -> Array:
    """Value of f16 bits; several times as fast as NumPy's own conversion.

    Sign, exponent and fraction are moved to their places in f32, and a product sets the exponent's bias right, also
    for subnormal numbers.
    """
    wide = bits.view(I2).astype(I4)
    wide <<= I4(13)
    wide &= I4(-0x70002000)
    value: Array = wide.view(F4)
    value *= F4(2.0**112)
    if value.size and (
        value.max() >= 65536 or value.min() <= -65536
    ):  # infinities and NaN were, with an exponent of 31
        return bits.view(F2).astype(F4)
    return value


def element(words: Array, kind: str) -> Array:
    """Words of shape (..., w) as numbers to multiply, of shape (..., k)."""
    if kind == "f16":
        return f16_to_f32(words.view(U2))
    if kind == "bf16":
        return bf16_to_f32(words.view(U2))
    if kind == "tf32":  # hardware reads the upper 19 bits
        return (words & U4(0xFFFFE000)).view(F4)
    integers: Any = I1 if kind == "s8" else U1
    return words.view(integers).astype(F8)  # exact, and faster than integer products


# Rows and registers.


@runtime
def matrix_register(rows: Array, number: int, trans: bool) -> Array:
    """One register, shape (C, T), from the rows that ``ldmatrix`` read, shape (C, W, n, 8) of 16 bytes."""
    ctas, warps = rows.shape[:2]
    one = np.ascontiguousarray(rows[:, :, number])
    if trans:
        halves = one.view(U2).reshape(ctas, warps, 8, 8)
        return np.ascontiguousarray(halves.swapaxes(2, 3)).view(U4).reshape(ctas, -1)
    return one.view(U4).reshape(ctas, -1)


def registers_to_rows(registers: Array, trans: bool) -> Array:
    """Inverse of `matrix_register`, for all matrices: (n, C, T) words to (C, W, n, 8) rows."""
    count, ctas, threads = registers.shape
    warps = threads // 32
    if trans:
        halves = np.ascontiguousarray(registers).view(U2).reshape(count, ctas, warps, 8, 8)
        rows = np.ascontiguousarray(halves.transpose(1, 2, 0, 4, 3)).view(_UNIT)
    else:
        units = np.ascontiguousarray(registers).view(_UNIT).reshape(count, ctas, warps, 8)
        rows = np.ascontiguousarray(units.transpose(1, 2, 0, 3))
    return rows.reshape(ctas, warps, count, 8)


# Matrices.


def _units(fragment: Fragment, threads: int) -> list[Array]:
    """Per register of a fragment, its 16-byte units, shape (C, W, 8): by row ``g``, or by k if it is transposed."""
    if isinstance(fragment, tuple):
        rows, *numbers = fragment
        return [rows[:, :, n] for n in numbers]
    found = []
    for word in fragment:
        if word.shape[1] == 1:
            word = np.broadcast_to(word, (word.shape[0], threads))
        found.append(np.ascontiguousarray(word).view(_UNIT).reshape(word.shape[0], -1, 8))
    return found


def _gather(fragments: list[Fragment], threads: int) -> tuple[list[list[Array]], int]:
    units = [_units(f, threads) for f in fragments]
    return units, max(u.shape[0] for each in units for u in each)


@runtime
def matrix_a(fragments: list[Fragment], kind: str, threads: int) -> Array:
    """Fragments of A, one below the other, to (C, W, rows, k)."""
    units, ctas = _gather(fragments, threads)
    out = np.empty((ctas, threads // 32, len(units), 2, 8, len(units[0]) // 2), _UNIT)
    for m, each in enumerate(units):
        for n, unit in enumerate(each):
            out[:, :, m, n & 1, :, n >> 1] = unit
    return element(out.view(U4).reshape(ctas, threads // 32, len(units) * 16, -1), kind)


@runtime
def matrix_a_trans(fragments: list[Fragment], kind: str, threads: int) -> Array:
    """As `matrix_a`, of fragments that ``ldmatrix`` has to transpose: their rows are columns of A."""
    units, ctas = _gather(fragments, threads)
    out = np.empty((ctas, threads // 32, len(units[0]) // 2, 8, len(units), 2), _UNIT)
    for m, each in enumerate(units):
        for n, unit in enumerate(each):
            out[:, :, n >> 1, :, m, n & 1] = unit
    return element(out.view(U4).reshape(ctas, threads // 32, len(units[0]) * 4, -1), kind).swapaxes(2, 3)


@runtime
def matrix_b(fragments: list[Fragment], kind: str, threads: int) -> Array:
    """Fragments of B, one beside the other, to (C, W, k, columns)."""
    units, ctas = _gather(fragments, threads)
    out = np.empty((ctas, threads // 32, len(units), 8, len(units[0])), _UNIT)
    for n, each in enumerate(units):
        for k, unit in enumerate(each):
            out[:, :, n, :, k] = unit
    return element(out.view(U4).reshape(ctas, threads // 32, len(units) * 8, -1), kind).swapaxes(2, 3)


@runtime
def matrix_b_trans(fragments: list[Fragment], kind: str, threads: int) -> Array:
    """As `matrix_b`, of fragments that ``ldmatrix`` has to transpose: their rows are those of B."""
    units, ctas = _gather(fragments, threads)
    out = np.empty((ctas, threads // 32, len(units[0]), 8, len(units)), _UNIT)
    for n, each in enumerate(units):
        for k, unit in enumerate(each):
            out[:, :, k, :, n] = unit
    return element(out.view(U4).reshape(ctas, threads // 32, len(units[0]) * 8, -1), kind)


def fragment_a(words: list[Array], kind: str, threads: int) -> Array:
    """Registers of A to (C, W, 16, k)."""
    return matrix_a([words], kind, threads)


runtime(np.matmul)


@runtime
def accumulate(products: list[Array], addends: list[list[Array]], columns: int, saturating: bool) -> list[Array]:
    """Products of shape (C, W, 16 m, 8 n), one after the other, added to accumulators of f32 or s32.

    `addends` has the four registers of each ``m16n8``, `columns` of them side by side; the result is in that order.
    """
    ctas, warps = products[0].shape[:2]
    # Half of the rows, row, eighth of the columns, thread of four, one of two columns.
    split = [d.reshape(ctas, warps, -1, 2, 8, columns, 4, 2) for d in products]
    out = []
    for at, registers in enumerate(addends):
        m, n = divmod(at, columns)
        for k, addend in enumerate(registers):
            wide = addend.reshape(addend.shape[0], -1, 8, 4) if addend.shape[1] > 1 else addend[:, :, None, None]
            for d in split:
                part = d[:, :, m, k >> 1, :, n, :, k & 1]
                if addend.dtype == F4:
                    wide = wide + part
                elif saturating:
                    total = wide.astype(np.int64) + part.astype(np.int64)
                    wide = np.clip(total, -(1 << 31), (1 << 31) - 1).astype(addend.dtype)
                else:
                    wide = wide + part.astype(np.int64).astype(addend.dtype)
            out.append(wide.reshape(wide.shape[0], -1))
    return out


@runtime
def accumulate_f16(products: list[Array], addends: list[list[Array]], columns: int, _: bool) -> list[Array]:
    """As `accumulate`, of the two accumulator registers of f16 pairs of each ``m16n8``."""
    ctas, warps = products[0].shape[:2]
    split = [d.reshape(ctas, warps, -1, 2, 8, columns, 4, 2) for d in products]
    out = []
    for at, registers in enumerate(addends):
        m, n = divmod(at, columns)
        for k, addend in enumerate(registers):
            if addend.shape[1] == 1:
                addend = np.broadcast_to(addend, (addend.shape[0], warps * 32))
            total = np.ascontiguousarray(addend).view(F2).reshape(addend.shape[0], -1, 8, 4, 2)
            for d in split:
                total = (total.astype(F4) + d[:, :, m, k, :, n]).astype(F2)
            out.append(np.ascontiguousarray(total).view(U4).reshape(total.shape[0], -1))
    return out
