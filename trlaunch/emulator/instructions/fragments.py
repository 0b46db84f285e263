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

from collections.abc import Callable
from typing import Any

import numpy as np

from trlaunch.emulator.instructions.base import F2, F4, F8, I1, I2, I4, U1, U2, U4, Array, runtime
from trlaunch.emulator.instructions.convert import FP8_VALUES
from trlaunch.emulator.instructions.floating import bf16_to_f32

__all__ = ["element", "even_and_odd", "f16_to_f32", "fragment_a", "registers_to_rows"]

_UNIT = np.complex128
#: A list of registers; or rows of ``ldmatrix`` and the number of the matrix that each register is.
Fragment = Any


def f16_to_f32(bits: Array, upper: bool = False) -> Array:
    """Value of f16 bits; several times as fast as NumPy's own conversion. With `upper` they are the upper half of
    words, which are changed.

    Sign, exponent and fraction are moved to their places in f32, and a product sets the exponent's bias right, also
    for subnormal numbers.
    """
    if upper:
        wide = bits.view(I4)
        wide >>= I4(3)
    else:
        wide = bits.view(I2).astype(I4)
        wide <<= I4(13)
    wide &= I4(-0x70002000)
    value: Array = wide.view(F4)
    value *= F4(2.0**112)
    if value.size and (
        value.max() >= 65536 or value.min() <= -65536
    ):  # infinities and NaN were, with an exponent of 31
        value = np.where(np.abs(value) >= 65536, (wide | I4(0x7F800000)).view(F4), value)
    return value


def element(words: Array, kind: str) -> Array:
    """Words of shape (..., w) as numbers to multiply, of shape (..., k)."""
    if kind == "f16":
        return f16_to_f32(words.view(U2))
    if kind == "bf16":
        return bf16_to_f32(words.view(U2))
    if kind == "tf32":  # hardware reads the upper 19 bits
        return (words & U4(0xFFFFE000)).view(F4)
    if kind in ("e4m3", "e5m2"):
        return FP8_VALUES[kind + "x2"].take(words.view(U1), mode="clip")
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


# Matrices. Units of a fragment are, per register, the 16 bytes of each ``g`` (or k, if transposed), shape (C, W, 8).

Units = list[Array]


def _units(fragment: Fragment, threads: int) -> Units:
    if isinstance(fragment, tuple):
        rows, *numbers = fragment
        return [rows[:, :, n] for n in numbers]
    return [_in_units(word, threads) for word in fragment]


def _in_units(word: Array, threads: int) -> Array:
    if word.shape[1] == 1:
        word = np.broadcast_to(word, (word.shape[0], threads))
    return np.ascontiguousarray(word).view(_UNIT).reshape(word.shape[0], -1, 8)


def _new(fragments: list[Units], *shape: int) -> Array:
    ctas = max(unit.shape[0] for units in fragments for unit in units)
    return np.empty((ctas, fragments[0][0].shape[1], *shape), _UNIT)


def _numbers(units: Array, rows: int, kind: str) -> Array:
    return element(units.view(U4).reshape(*units.shape[:2], rows, -1), kind)


def _matrix_a(fragments: list[Units], kind: str, trans: bool) -> Array:
    """Fragments of A, one below the other, to (C, W, rows, k); `trans`: they are columns of A in memory."""
    words = len(fragments[0])
    if trans:
        out = _new(fragments, words // 2, 8, len(fragments), 2)
        for m, units in enumerate(fragments):
            for n, unit in enumerate(units):
                out[:, :, n >> 1, :, m, n & 1] = unit
        return _numbers(out, words * 4, kind).swapaxes(2, 3)
    out = _new(fragments, len(fragments), 2, 8, words // 2)
    for m, units in enumerate(fragments):
        for n, unit in enumerate(units):
            out[:, :, m, n & 1, :, n >> 1] = unit
    return _numbers(out, len(fragments) * 16, kind)


def _matrix_b(fragments: list[Units], kind: str, trans: bool) -> Array:
    """Fragments of B, one beside the other, to (C, W, k, columns), all even columns before all odd ones; `trans`: they
    are rows of B in memory.
    """
    words = len(fragments[0])
    if trans:
        out = _new(fragments, words, 8, len(fragments))
        for n, units in enumerate(fragments):
            for k, unit in enumerate(units):
                out[:, :, k, :, n] = unit
        return even_and_odd(out.view(U4).reshape(*out.shape[:2], words * 8, -1), kind)
    out = _new(fragments, 2, len(fragments), 4, words)
    for n, units in enumerate(fragments):
        for k, unit in enumerate(units):
            out[:, :, :, n, :, k] = unit.reshape(*unit.shape[:2], 4, 2).swapaxes(2, 3)
    return _numbers(out, len(fragments) * 8, kind).swapaxes(2, 3)


def even_and_odd(words: Array, kind: str) -> Array:
    """Values of f16 or bf16 in words: of all lower, then of all upper halves along the last axis."""
    halves = np.empty((*words.shape[:-1], 2, words.shape[-1]), U4)
    np.left_shift(words, U4(16), out=halves[..., 0, :])
    np.bitwise_and(words, U4(0xFFFF0000), out=halves[..., 1, :])
    values = halves.view(F4) if kind == "bf16" else f16_to_f32(halves, upper=True)
    return values.reshape(*words.shape[:-1], -1)


def fragment_a(words: list[Array], kind: str, threads: int) -> Array:
    """Registers of A to (C, W, 16, k)."""
    return _matrix_a([_units(words, threads)], kind, False)


# Products.


#: Step by step of k, fragments one below or beside the other; what their elements are; and whether they lie in memory
#: the other way round than registers have them.
Matrices = tuple[list[list[Fragment]], str, bool]
#: Bytes of a product that are worked on at a time, so that they stay in the cache.
_BYTES = 1 << 18


@runtime
def multiply(
    left: Matrices, right: Matrices, addends: list[list[Array]], threads: int, saturating: bool = False
) -> Array:
    """Four registers of several ``m16n8``, with the products of A and B added: shape (registers, C, T).

    `addends` has four registers of f32 or s32 per ``m16n8``, row by row, and so has the result.
    """
    dtype = addends[0][0].dtype
    if dtype == F4:
        return _multiply(left, right, addends, threads, np.add)
    return _multiply(left, right, addends, threads, _add_saturating if saturating else _add_integers)


@runtime
def multiply_f16(left: Matrices, right: Matrices, addends: list[list[Array]], threads: int) -> Array:
    """As `multiply`, of two registers of pairs of f16 per ``m16n8``."""
    halves = [[(a >> U4(n)).astype(U2).view(F2).astype(F4) for a in each for n in (0, 16)] for each in addends]
    bits = _multiply(left, right, halves, threads, _add_halves).astype(F2).view(U2).astype(U4)
    return bits[::2] | (bits[1::2] << U4(16))


def _add_integers(total: Array, product: Array) -> Array:
    return total + product.astype(total.dtype)  # a product is too small to overflow


def _add_saturating(total: Array, product: Array) -> Array:
    wide = total.astype(np.int64) + product.astype(np.int64)
    return np.clip(wide, -(1 << 31), (1 << 31) - 1).astype(total.dtype)


def _add_halves(total: Array, product: Array) -> Array:
    return (total + product).astype(F2).astype(F4)


def _multiply(
    left: Matrices, right: Matrices, addends: list[list[Array]], threads: int, add: Callable[[Array, Array], Array]
) -> Array:
    lefts, rights = ([[_units(f, threads) for f in step] for step in steps] for steps, _, _ in (left, right))
    before = [[_in_units(a, threads) for a in each] for each in addends]
    ctas = max(u.shape[0] for step in [*lefts, *rights, before] for units in step for u in units)
    rows, columns, warps, dtype = len(lefts[0]), len(rights[0]), threads // 32, addends[0][0].dtype
    out = np.empty((rows, columns, 2, 2, ctas, warps, 8), _UNIT)
    few = max(1, _BYTES // (rows * columns * threads * 16))
    for start in range(0, ctas, few):
        part = slice(start, start + few)
        # Row of m16n8, half of the rows, row, odd columns, column of m16n8; a unit of four threads.
        total = np.empty((min(few, ctas - start), warps, rows, 2, 8, 2, columns), _UNIT)
        for at, units in enumerate(before):
            for k, unit in enumerate(units):
                total[:, :, at // columns, k >> 1, :, k & 1, at % columns] = _cut(unit, part)
        sums = total.view(dtype).reshape(*total.shape[:2], rows * 16, columns * 8)
        for a, b in zip(lefts, rights, strict=True):
            x = _matrix_a([[_cut(u, part) for u in units] for units in a], *left[1:])
            y = _matrix_b([[_cut(u, part) for u in units] for units in b], *right[1:])
            sums = add(sums, np.matmul(x, y))
        out[:, :, :, :, part] = sums.view(_UNIT).reshape(total.shape).transpose(2, 6, 3, 5, 0, 1, 4)
    return out.view(dtype).reshape(-1, ctas, threads)


def _cut(units: Array, part: slice) -> Array:
    return units[part] if units.shape[0] > 1 else units


@runtime
def multiply_f64(left: list[Array], right: list[Array], addends: list[Array], threads: int) -> list[Array]:
    """One product of f64, whose registers are laid out as words of the others are; A has 8 or 16 rows."""

    def lanes(register: Array) -> Array:
        wide = np.broadcast_to(register, (register.shape[0], threads)) if register.shape[1] == 1 else register
        return wide.reshape(wide.shape[0], -1, 8, 4)

    half = len(addends) // 2
    x = np.stack(np.broadcast_arrays(*map(lanes, left)), axis=2)  # (C, W, register, row, k)
    x = x.reshape(*x.shape[:2], len(left) // half, half, 8, 4).transpose(0, 1, 3, 4, 2, 5)
    y = np.stack(np.broadcast_arrays(*map(lanes, right)), axis=3)  # (C, W, column, register, k)
    y = y.reshape(*y.shape[:3], -1).swapaxes(2, 3)
    d = np.matmul(x.reshape(*x.shape[:2], 8 * half, -1), y)
    d = d.reshape(*d.shape[:2], half, 8, 4, 2)
    sums = (lanes(a) + d[:, :, k >> 1, :, :, k & 1] for k, a in enumerate(addends))
    return [s.reshape(s.shape[0], threads) for s in sums]
