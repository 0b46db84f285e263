"""Arithmetic rounded toward zero, down or up (``.rz``, ``.rm``, ``.rp``), of f32 and f64.

PTX has no other: f16 and bf16, packed or not, are rounded to nearest alone, and ``.f32x2`` came with sm_100.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from trlaunch.emulator.instructions.base import F4, F8, Array, runtime
from trlaunch.emulator.instructions.floating import fma64, two_product, two_sum

__all__: list[str] = []


@runtime
def directed(value: Array, error: Array, mode: str) -> Array:
    """f32 of the exact number ``value + error`` (f64, the error smaller than a step of the value), rounded to ``rz``,
    ``rm`` or ``rp``. What overflows toward the rounding becomes the largest number; an exact zero sum is left alone.
    """
    near = value.astype(F4)
    back = near.astype(F8)
    rest = np.where(np.isfinite(value) & np.isfinite(near), value - back, 0.0)
    over = np.isinf(near) & np.isfinite(value)
    rest = np.where(rest == 0, error, rest)
    rest = np.where(over, -back, rest)
    if mode == "rz":
        down, up = (rest < 0) & (near > 0), (rest > 0) & (near < 0)
    else:
        down, up = (rest < 0) & (mode == "rm"), (rest > 0) & (mode == "rp")
    lower, upper = np.nextafter(near, F4(-np.inf)), np.nextafter(near, F4(np.inf))
    result = np.where(down, lower, np.where(up, upper, near))
    return np.where(np.isfinite(value), result, near)


def _sum_directed(a: Array, b: Array, mode: str) -> Array:
    total, error = two_sum(a, b)
    error = np.where(np.isfinite(total), error, 0.0)
    result = directed(total, error, mode)
    if mode == "rm":  # x - x is -0.0 in this mode
        zero = (total == 0) & ~((a == 0) & (b == 0) & ~np.signbit(a) & ~np.signbit(b))
        result = np.where(zero, F4(-0.0), result)
    return result


@runtime
def add_directed(a: Array, b: Array, mode: str) -> Array:
    """``add.rz.f32`` and the like."""
    if a.dtype == F8:
        return _directed_f64("add", mode, a, b)
    return _sum_directed(a.astype(F8), b.astype(F8), mode)


@runtime
def sub_directed(a: Array, b: Array, mode: str) -> Array:
    """``sub.rz.f32`` and the like."""
    if a.dtype == F8:
        return _directed_f64("sub", mode, a, b)
    return _sum_directed(a.astype(F8), -b.astype(F8), mode)


@runtime
def mul_directed(a: Array, b: Array, mode: str) -> Array:
    """``mul.rz.f32`` and the like."""
    if a.dtype == F8:
        return _directed_f64("mul", mode, a, b)
    product = a.astype(F8) * b
    return directed(product, np.zeros_like(product), mode)


@runtime
def fma_directed(a: Array, b: Array, c: Array, mode: str) -> Array:
    """``fma.rz.f32`` and the like."""
    if a.dtype == F8:
        return _directed_f64("fma", mode, a, b, c)
    product = a.astype(F8) * b
    return _sum_directed(product, np.broadcast_to(c.astype(F8), np.broadcast_shapes(product.shape, c.shape)), mode)


@runtime
def div_directed(a: Array, b: Array, mode: str) -> Array:
    """``div.rz.f32`` and the like: what the quotient misses has the sign of the remainder over the divisor."""
    if a.dtype == F8:
        return _directed_f64("div", mode, a, b)
    wide, by = a.astype(F8), b.astype(F8)
    near = (wide / by).astype(F4).astype(F8)
    rest = np.where(np.isfinite(near) & (by != 0), (wide - near * by) * np.sign(by), 0.0)
    quotient = np.where(np.isfinite(near), near, wide / by)
    return directed(quotient, rest, mode)


@runtime
def sqrt_directed(x: Array, mode: str) -> Array:
    """``sqrt.rz.f32`` and the like."""
    if x.dtype == F8:
        return _directed_f64("sqrt", mode, x)
    near = np.sqrt(x.astype(F8)).astype(F4).astype(F8)
    return directed(near, np.where(np.isfinite(near), x - near * near, 0.0), mode)


# f64: to nearest, then a step where the error says so. Lanes whose error cannot be had in f64 are done with fractions.

_Terms = tuple[Array, Array]


def _error_of_sum(a: Array, b: Array) -> _Terms:
    return two_sum(a, b)


def _error_of_product(a: Array, b: Array) -> _Terms:
    return two_product(a, b)


def _error_of_quotient(a: Array, b: Array) -> _Terms:
    near = a / b
    product, low = two_product(near, b)
    return near, ((a - product) - low) * np.sign(b)


def _error_of_root(x: Array) -> _Terms:
    near = np.sqrt(x)
    square, low = two_product(near, near)
    return near, (x - square) - low


def _error_of_fma(a: Array, b: Array, c: Array) -> _Terms:
    near = fma64(a, b, c)
    product, low = two_product(a, b)
    total, rest = two_sum(product, c)
    small, smallest = two_sum(rest, low)
    most, left = two_sum(total - near, small)
    error = most + (left + smallest)
    return near, np.where(np.abs(most) > 4 * np.abs(smallest), error, np.nan)


_ERRORS: dict[str, Callable[..., _Terms]] = {
    "add": _error_of_sum, "sub": lambda a, b: two_sum(a, -b), "mul": _error_of_product, "div": _error_of_quotient,
    "sqrt": _error_of_root, "fma": _error_of_fma,
}  # fmt: skip
_EXACT: dict[str, Callable[..., Fraction]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "fma": lambda a, b, c: a * b + c,
}  # fmt: skip


def _directed_f64(name: str, mode: str, *operands: Array) -> Array:
    operands = tuple(np.broadcast_arrays(*operands))
    near, error = _ERRORS[name](*operands)
    finite = np.logical_and.reduce([np.isfinite(x) for x in operands])
    largest = np.maximum.reduce([np.abs(x) for x in (*operands, near)])
    least = np.minimum.reduce([np.where(x == 0, 1.0, np.abs(x)) for x in (*operands, near)])
    sums = name in ("add", "sub")
    safe = np.isfinite(error) & (largest < 1e290) & (sums | (least > 1e-140))
    safe &= sums | (near != 0) | (np.minimum.reduce([np.abs(x) for x in operands]) == 0)
    if mode == "rz":
        down, up = (error < 0) & (near > 0), (error > 0) & (near < 0)
    else:
        down, up = (error < 0) & (mode == "rm"), (error > 0) & (mode == "rp")
    result: Array = np.where(down, np.nextafter(near, -np.inf), np.where(up, np.nextafter(near, np.inf), near))
    result = np.where(finite, result, near)
    for at in zip(*np.nonzero(finite & ~safe), strict=True):
        result[at] = _rounded(name, mode, float(near[at]), [float(x[at]) for x in operands])
    if mode == "rm" and name in ("add", "sub", "fma"):  # x - x is -0.0 in this mode
        result = np.where(_cancels(name, operands) & (result == 0) & finite, -0.0, result)
    return result


def _cancels(name: str, operands: tuple[Array, ...]) -> Array:
    """Whether terms of a sum are of different signs."""
    first = operands[0] * operands[1] if name == "fma" else operands[0]
    sign = np.signbit(first)
    if name == "fma":
        sign = np.signbit(operands[0]) ^ np.signbit(operands[1])
    return sign != (np.signbit(operands[-1]) ^ (name == "sub"))


def _rounded(name: str, mode: str, near: float, operands: list[float]) -> float:
    """One lane: the neighbours of the nearest number on either side of the exact result."""
    if (name == "div" and operands[1] == 0) or (name == "sqrt" and operands[0] <= 0) or math.isnan(near):
        return near
    finite = math.copysign(np.finfo(F8).max, near) if math.isinf(near) else near
    around = [math.nextafter(finite, -math.inf), finite, math.nextafter(finite, math.inf)]

    def compare(x: float) -> int:
        """Sign of `x` minus the exact result."""
        if math.isinf(x):
            return 1 if x > 0 else -1
        if name == "sqrt":
            rest = Fraction(x) * abs(Fraction(x)) - Fraction(operands[0])
        else:
            rest = Fraction(x) - _EXACT[name](*map(Fraction, operands))
        return (rest > 0) - (rest < 0)

    signs = [compare(x) for x in around]
    exact = [x for x, sign in zip(around, signs, strict=True) if sign == 0]
    if exact:
        return near if near in exact else exact[0]
    below = max(x for x, sign in zip(around, signs, strict=True) if sign < 0)
    above = min(x for x, sign in zip(around, signs, strict=True) if sign > 0)
    if mode == "rz":
        mode = "rm" if above > 0 and below >= 0 else "rp"
    chosen = below if mode == "rm" else above
    return math.copysign(chosen, near) if chosen == 0 else chosen
