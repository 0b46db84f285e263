"""Floating-point arithmetic (PTX ISA, "Floating Point", "Half Precision" and "Mixed Precision" instructions).

f16 and bf16 are computed in f32 and rounded, which is exact for one operation; f16x2 and bf16x2 are two of them.
Approximate instructions give the correctly rounded or NumPy's result, which is inside their error bounds but not
bit-equal to any GPU.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from trlaunch.emulator.instructions.base import (
    F2,
    F4,
    F8,
    TYPE_DTYPE,
    U2,
    U4,
    U8,
    Array,
    Suffixes,
    emits,
    refuse,
    runtime,
    take,
)
from trlaunch.emulator.syntax import Instruction, Operand

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__ = [
    "FLOAT_TYPES", "bf16_from_f32", "bf16_to_f32", "emit", "float_max", "float_min", "read_float", "two_product",
    "two_sum",
]  # fmt: skip

FLOAT_TYPES = ("f16", "f16x2", "bf16", "bf16x2", "f32", "f64")
_ROUNDINGS = ("rn", "rz", "rm", "rp")
_TINY = float(np.finfo(F4).tiny)


def read_float(c: Emitter, operand: Operand, t: str, ftz: bool = False) -> str:
    """The name of a value to compute with: f32 for bf16 types, halves in a last axis for packed types."""
    name = c.read(operand, t)
    if t == "f32" and ftz:
        return c.memo(("ftz", name), lambda: f"flush({name})")
    if t in _UNPACK:
        return c.memo(("unpack", t, name), lambda: f"{_UNPACK[t]}({name})")
    return name


_UNPACK = {"bf16": "bf16_to_f32", "f16x2": "unpack_f16x2", "bf16x2": "unpack_bf16x2"}
_PACK = {"bf16": "bf16_from_f32", "f16x2": "pack_f16x2", "bf16x2": "pack_bf16x2"}


def _write_float(c: Emitter, d: Operand, t: str, expression: str, ftz: bool = False, saturate: bool = False) -> None:
    if saturate:
        expression = f"saturate({expression})"
    if t in _PACK:
        expression = f"{_PACK[t]}({expression})"
    elif t == "f32" and ftz:
        expression = f"flush({expression})"
    c.write(d, t, expression)


@runtime
def flush(x: Array) -> Array:
    """``.ftz``: subnormal numbers become zeros of the same sign."""
    small = np.abs(x) < F4(_TINY)
    if not small.any():
        return x
    return np.where(small, (x.view(U4) & U4(0x80000000)).view(F4), x)


@runtime
def saturate(x: Array) -> Array:
    """``.sat``: clamp to [0, 1]; NaN becomes 0."""
    one, zero = x.dtype.type(1), x.dtype.type(0)
    return np.where(x > zero, np.minimum(x, one), zero)


@runtime
def bf16_to_f32(bits: Array) -> Array:
    """Value of bf16 bits."""
    return (bits.astype(U4) << U4(16)).view(F4)


@runtime
def bf16_from_f32(x: Array) -> Array:
    """bf16 bits, rounded to nearest even; NaN becomes 0x7fff."""
    x = x.astype(F4, copy=False)
    u = x.view(U4)
    rounded = ((u + (U4(0x7FFF) + ((u >> U4(16)) & U4(1)))) >> U4(16)).astype(U2)
    nan = x != x
    return np.where(nan, U2(0x7FFF), rounded) if nan.any() else rounded


@runtime
def unpack_f16x2(bits: Array) -> Array:
    """The two f16 of a register, low half first, in a last axis."""
    return np.ascontiguousarray(bits).view(F2).reshape(*bits.shape, 2)


@runtime
def pack_f16x2(x: Array) -> Array:
    """Inverse of `unpack_f16x2`."""
    return np.ascontiguousarray(x, dtype=F2).view(U4).reshape(x.shape[:-1])


@runtime
def unpack_bf16x2(bits: Array) -> Array:
    """The two bf16 of a register as f32, low half first, in a last axis."""
    return bf16_to_f32(np.ascontiguousarray(bits).view(U2).reshape(*bits.shape, 2))


@runtime
def pack_bf16x2(x: Array) -> Array:
    """Inverse of `unpack_bf16x2`, rounding."""
    return np.ascontiguousarray(bf16_from_f32(x)).view(U4).reshape(x.shape[:-1])


def emit(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    """Opcodes that have integer forms as well."""
    function = _FLOAT.get(s.root)
    if function is None or t not in FLOAT_TYPES:
        raise refuse(f"{s.root} of type .{t} is not executed")
    function(c, i, s, t)


def _directed_mode(s: Suffixes, t: str) -> str:
    """The rounding; other than to nearest for f32 and f64 alone."""
    mode = s.one_of(_ROUNDINGS, "rn")
    if mode != "rn" and t not in ("f32", "f64"):
        raise refuse(f"{s.root} of type .{t} with the rounding .{mode} is not executed")
    return mode


def _binary(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    mode = _directed_mode(s, t)
    ftz, sat = s.flag("ftz"), s.flag("sat")
    s.finish()
    d, a, b = take(i, 3)
    sign = {"add": "+", "sub": "-", "mul": "*"}[s.root]
    if mode != "rn":
        value = f"{s.root}_directed({read_float(c, a, t, ftz)}, {read_float(c, b, t, ftz)}, {mode!r})"
        return _write_float(c, d, t, value, ftz, sat)
    return _write_float(c, d, t, f"{read_float(c, a, t, ftz)} {sign} {read_float(c, b, t, ftz)}", ftz, sat)


def _fma(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    mode = _directed_mode(s, t)
    ftz, sat, relu = s.flag("ftz"), s.flag("sat"), s.flag("relu")
    s.finish()
    if relu and t in ("f32", "f64"):
        raise refuse(f"{s.root}.relu of type .{t} is not PTX")
    d, a, b, e = take(i, 4)
    x, y, z = (read_float(c, o, t, ftz) for o in (a, b, e))
    function = {"f64": "fma64", "f32": "fma32", "f16": "fma16", "f16x2": "fma16"}.get(t, "fma_bf16")
    value = f"{function}({x}, {y}, {z})" if mode == "rn" else f"fma_directed({x}, {y}, {z}, {mode!r})"
    if relu:
        value = f"float_max({value}, {c.constant('f4' if 'bf16' in t else 'f2', 0)})"
    _write_float(c, d, t, value, ftz, sat)


def to_odd(value: Array, error: Array) -> Array:
    """Round an exact sum ``value + error`` of f64 to odd, so that rounding it once more is exact."""
    bits = value.view(U8)
    away = (error > 0) == (value > 0)
    inexact = (error != 0) & ((bits & U8(1)) == 0) & np.isfinite(value)
    return (bits + np.where(inexact, np.where(away, U8(1), ~U8(0)), U8(0))).view(F8)


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Sum and its error, whose sum is exact (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


#: Lanes whose intermediate results in f64 stay in the cache.
_FEW = 16384


@runtime
def fma32(a: Array, b: Array, c: Array) -> Array:
    """``fma.rn.f32``: the product is exact in f64; where the sum lies near a tie of f32 it is rounded to odd first."""
    shape = np.broadcast_shapes(a.shape, b.shape, c.shape)
    if len(shape) < 2 or shape[0] * shape[1] <= _FEW:
        return _fma32(a, b, c)
    out = np.empty(shape, F4)
    rows = max(1, _FEW // shape[1])
    for start in range(0, shape[0], rows):
        part = slice(start, start + rows)
        out[part] = _fma32(*(x[part] if x.shape[0] > 1 else x for x in (a, b, c)))
    return out


def _fma32(a: Array, b: Array, c: Array) -> Array:
    product = a.astype(F8) * b
    total = product + c
    result = total.astype(F4)
    # The bits that f32 drops are exactly a half, or the result is subnormal and drops more.
    tie = (total.view(U8) & U8(0x1FFFFFFF)) == U8(0x10000000)
    small = np.abs(result) < F4(2.0**-125)
    if small.any():
        tie |= small & (total != 0)
    if tie.any():
        wide = np.broadcast_to(product, total.shape)[tie], np.broadcast_to(c, total.shape)[tie].astype(F8)
        result[tie] = to_odd(*two_sum(*wide)).astype(F4)
    return result


@runtime
def fma16(a: Array, b: Array, c: Array) -> Array:
    """``fma.rn.f16``: the product is exact in f32 and the sum in f64."""
    return _half_from_f64(a.astype(F8) * b.astype(F8) + c.astype(F8))


def _half_from_f64(x: Array) -> Array:
    # NumPy rounds f64 to f16 in one step.
    return x.astype(F2)


@runtime
def fma_bf16(a: Array, b: Array, c: Array) -> Array:
    """``fma.rn.bf16``, as the f32 that rounds to it: the f64 sum is rounded to odd at f32."""
    product = a.astype(F8) * b
    total, error = two_sum(product, np.broadcast_to(c.astype(F8), np.broadcast_shapes(product.shape, c.shape)))
    return odd_f32(to_odd(total, error))


@runtime
def odd_f32(x: Array) -> Array:
    """f64 to f32, rounded to odd, so that rounding on to bf16 is exact."""
    near = x.astype(F4)
    back = near.astype(F8)
    bits = near.view(U4)
    inexact = (back != x) & ((bits & U4(1)) == 0) & np.isfinite(near)
    away = np.abs(back) < np.abs(x)
    return (bits + np.where(inexact, np.where(away, U4(1), ~U4(0)), U4(0))).view(F4)


@runtime
def fma64(a: Array, b: Array, c: Array) -> Array:
    """``fma.rn.f64`` by exact sums (Boldo and Melquiond, "Emulation of a FMA", 2008); extremes lane by lane."""
    a, b, c = np.broadcast_arrays(a, b, c)
    product, low = two_product(a, b)
    high, small = two_sum(c, low)
    total, rest = two_sum(product, high)
    result: Array = total + to_odd(*two_sum(small, rest))
    safe = (np.abs(product) < 1e290) & (np.abs(product) > 1e-250) & (np.abs(c) < 1e290) & (np.abs(a) < 1e290)
    safe &= (np.abs(b) < 1e290) & ((np.abs(c) > 1e-250) | (c == 0))
    if not safe.all():
        for at in zip(*np.nonzero(~safe), strict=True):
            result[at] = _fma_exact(float(a[at]), float(b[at]), float(c[at]))
    return result


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """Product of f64 and its error, whose sum is exact unless a part overflows or vanishes (Dekker)."""
    product = a * b
    x = a * 134217729.0
    y = b * 134217729.0
    ah, bh = x - (x - a), y - (y - b)
    al, bl = a - ah, b - bh
    return product, al * bl - (((product - ah * bh) - al * bh) - ah * bl)


def _fma_exact(a: float, b: float, c: float) -> float:
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)) or a == 0 or b == 0:
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    (an, ad), (bn, bd), (cn, cd) = a.as_integer_ratio(), b.as_integer_ratio(), c.as_integer_ratio()
    top = an * bn * cd + cn * ad * bd
    if top == 0:
        return float(np.float64(a) * np.float64(b) + np.float64(c)) if c == 0 else 0.0
    try:
        return top / (ad * bd * cd)
    except OverflowError:
        return math.inf if top > 0 else -math.inf


def _div(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    mode = "rn" if s.flag("full") or s.flag("approx") else _directed_mode(s, t)
    ftz = s.flag("ftz")
    s.finish(("f32", "f64"), t)
    d, a, b = take(i, 3)
    x, y = read_float(c, a, t, ftz), read_float(c, b, t, ftz)
    _write_float(c, d, t, f"{x} / {y}" if mode == "rn" else f"div_directed({x}, {y}, {mode!r})", ftz)


def _min_max(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    ftz, nan, xor_sign, absolute = s.flag("ftz"), s.flag("NaN"), s.flag("xorsign"), s.flag("abs")
    s.finish()
    d, a, b, *more = take(i, 3, 4)
    if xor_sign != absolute or (more and (t != "f32" or xor_sign)):
        raise refuse(f"{i.opcode} is not executed")
    x, y = read_float(c, a, t, ftz), read_float(c, b, t, ftz)
    name = "propagating" if nan else "float"
    if xor_sign:
        value = f"xor_sign({name}_{s.root}(abs({x}), abs({y})), {x}, {y})"
    else:
        value = f"{name}_{s.root}({x}, {y})"
    for operand in more:
        value = f"{name}_{s.root}({value}, {read_float(c, operand, t, ftz)})"
    _write_float(c, d, t, value, ftz)


def _canonical(dtype: np.dtype[np.generic]) -> Array:
    bits = {2: (0x7FFF, U2), 4: (0x7FFFFFFF, U4), 8: (0x7FF8000000000000, U8)}[dtype.itemsize]
    return np.array(bits[0], dtype=bits[1]).view(dtype)


@runtime
def float_max(a: Array, b: Array) -> Array:
    """``max``: the other operand for NaN, +0.0 over -0.0."""
    return _extreme(a, b, np.fmax, np.bitwise_and)


@runtime
def float_min(a: Array, b: Array) -> Array:
    """``min``: the other operand for NaN, -0.0 over +0.0."""
    return _extreme(a, b, np.fmin, np.bitwise_or)


def _extreme(a: Array, b: Array, function: Callable[..., Array], zeros: Callable[..., Array]) -> Array:
    result = function(a, b)
    unsigned = np.dtype(f"u{result.dtype.itemsize}")
    zero = result == 0
    if zero.any():
        # Among equal numbers only zeros differ in their bits: + wins by "and", - by "or".
        zero &= a == b
        result = np.where(zero, zeros(a.view(unsigned), b.view(unsigned)).view(result.dtype), result)
    nan = result != result
    return np.where(nan, _canonical(result.dtype), result) if nan.any() else result


@runtime
def propagating_max(a: Array, b: Array) -> Array:
    """``max.NaN``."""
    return np.where((a != a) | (b != b), _canonical(a.dtype), float_max(a, b))


@runtime
def propagating_min(a: Array, b: Array) -> Array:
    """``min.NaN``."""
    return np.where((a != a) | (b != b), _canonical(a.dtype), float_min(a, b))


@runtime
def xor_sign(value: Array, a: Array, b: Array) -> Array:
    """`value` with the product of the operands' signs."""
    return np.where(np.signbit(a) ^ np.signbit(b), -value, value)


def _neg_abs(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    ftz = s.flag("ftz")
    s.finish()
    d, a = take(i, 2)
    if t in ("f32", "f64"):
        value = read_float(c, a, t, ftz)
        return c.write(d, t, f"-{value}" if s.root == "neg" else f"abs({value})")
    u = {"f16": "u16", "bf16": "u16"}.get(t, "u32")
    sign = {"u16": 0x8000, "u32": 0x80008000}[u]
    if s.root == "neg":
        return c.write(d, u, f"{c.read(a, u)} ^ {c.constant(TYPE_DTYPE[u], sign)}")
    return c.write(d, u, f"{c.read(a, u)} & {c.constant(TYPE_DTYPE[u], sign ^ (0xFFFF if u == 'u16' else 0xFFFFFFFF))}")


_FLOAT = {
    "add": _binary, "sub": _binary, "mul": _binary, "fma": _fma, "mad": _fma, "div": _div, "min": _min_max,
    "max": _min_max, "neg": _neg_abs, "abs": _neg_abs,
}  # fmt: skip

#: One operand, through a function: the types each is executed for.
_UNARY = {
    "sqrt": ("f32", "f64"), "rsqrt": ("f32", "f64"), "rcp": ("f32", "f64"), "sin": ("f32",), "cos": ("f32",),
    "lg2": ("f32",), "ex2": ("f32", "f16", "f16x2", "bf16", "bf16x2"),
    "tanh": ("f32", "f16", "f16x2", "bf16", "bf16x2"),
}  # fmt: skip


@emits(*_UNARY)
def unary(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Roots, reciprocals and transcendental functions."""
    t = s.type()
    mode = "rn" if s.flag("approx") else _directed_mode(s, t)
    ftz = s.flag("ftz")
    s.finish(_UNARY[s.root], t)
    d, a = take(i, 2)
    if mode != "rn":
        if s.root not in ("sqrt", "rcp"):
            raise refuse(f"{i.opcode} is not PTX")
        x = read_float(c, a, t, ftz)
        one = c.constant(TYPE_DTYPE[t], 1)
        value = f"sqrt_directed({x}, {mode!r})" if s.root == "sqrt" else f"div_directed({one}, {x}, {mode!r})"
        return _write_float(c, d, t, value, ftz)
    return _write_float(c, d, t, f"float_{s.root}({read_float(c, a, t, ftz)})", ftz)


@runtime
def float_sqrt(x: Array) -> Array:
    """Square root."""
    return np.sqrt(x)


@runtime
def float_rsqrt(x: Array) -> Array:
    """One over the square root, rounded once."""
    return (1.0 / np.sqrt(x.astype(F8))).astype(x.dtype)


@runtime
def float_rcp(x: Array) -> Array:
    """Reciprocal."""
    return x.dtype.type(1) / x


def _through_f32(x: Array, function: Callable[[Array], Array]) -> Array:
    return function(x.astype(F4, copy=False)).astype(x.dtype, copy=False)


@runtime
def float_ex2(x: Array) -> Array:
    """Power of two."""
    return _through_f32(x, np.exp2)


@runtime
def float_tanh(x: Array) -> Array:
    """Hyperbolic tangent."""
    return _through_f32(x, np.tanh)


@runtime
def float_lg2(x: Array) -> Array:
    """Binary logarithm."""
    return np.log2(x)


@runtime
def float_sin(x: Array) -> Array:
    """Sine."""
    return np.sin(x)


@runtime
def float_cos(x: Array) -> Array:
    """Cosine."""
    return np.cos(x)


@emits("copysign")
def copysign(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """The second operand with the sign of the first."""
    t = s.type()
    s.finish(("f32", "f64"), t)
    d, a, b = take(i, 3)
    c.write(d, t, f"copysign({c.read(b, t)}, {c.read(a, t)})")


runtime(np.copysign)


@emits("testp")
def testp(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Class of a number."""
    t = s.type()
    kind = s.one_of(("finite", "infinite", "number", "notanumber", "normal", "subnormal"))
    s.finish(("f32", "f64"), t)
    d, a = take(i, 2)
    x = c.read(a, t)
    tests = {
        "finite": f"isfinite({x})", "infinite": f"isinf({x})", "number": f"{x} == {x}", "notanumber": f"{x} != {x}",
        "normal": f"is_normal({x})", "subnormal": f"(abs({x}) > 0) & isfinite({x}) & ~is_normal({x})",
    }  # fmt: skip
    if kind not in tests:
        raise refuse("testp needs a class")
    c.write(d, "pred", tests[kind])


runtime(np.isfinite)
runtime(np.isinf)


@runtime
def is_normal(x: Array) -> Array:
    """Finite, not zero and not subnormal."""
    return np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny)
