"""``cvt`` and ``cvta`` (PTX ISA, "Data Movement and Conversion Instructions: cvt").

Rounding to integral values and to integers, saturation, and the packed forms. A NaN becomes zero when it is converted
to an integer, unless the source is f64 or the result has 64 bits: then only the highest bit is set.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from trlaunch.emulator.instructions.floating import bf16_from_f32, odd_f32
from trlaunch.emulator.syntax import Instruction

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__ = ["FP8_VALUES", "fp8_bits"]

_INTEGERS = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
_FLOATS = ("f16", "bf16", "f32", "f64")
_PACKED = {"f16x2": "f16", "bf16x2": "bf16"}
_EIGHT = ("e4m3x2", "e5m2x2")
_FLOAT_ROUNDING = ("rn", "rz", "rm", "rp", "rna")
_INTEGER_ROUNDING = ("rni", "rzi", "rmi", "rpi")


@emits("cvt")
def cvt(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Convert between types."""
    if s.flag("pack"):
        raise refuse("cvt.pack is not executed")
    ftz, sat, relu, finite = s.flag("ftz"), s.flag("sat"), s.flag("relu"), s.flag("satfinite")
    rounding = s.one_of((*_FLOAT_ROUNDING, *_INTEGER_ROUNDING))
    if any(p in _EIGHT for p in s.parts):
        return _eight_bits(c, i, s, rounding, relu, finite)
    source, target = s.type(), s.type()
    s.finish()
    if target in _PACKED:
        return _packed(c, i, source, _PACKED[target], target, rounding, ftz, relu, finite)
    d, a = take(i, 2)
    if rounding == "rna" and target != "tf32":
        raise refuse(f"{i.opcode} is not PTX")
    if target == "tf32":
        return _tf32(c, i, source, rounding, relu, finite)
    if (relu or finite) and not (source == "f32" and target in ("f16", "bf16")):
        raise refuse(f"{i.opcode} is not executed")
    if source in _INTEGERS and target in _INTEGERS:
        if rounding:
            raise refuse(f"{i.opcode} is not PTX")
        value = c.read(a, source)
        if sat:
            value = f"saturate_int({value}, {TYPE_DTYPE[target]})"
            return c.write(d, target, value)
        if TYPE_DTYPE[source] == TYPE_DTYPE[target]:
            return c.write_as(d, TYPE_DTYPE[target], value, name_only=True)
        return c.write(d, target, f"{value}.astype({TYPE_DTYPE[target]})")
    if source not in (*_INTEGERS, *_FLOATS) or target not in (*_INTEGERS, *_FLOATS):
        raise refuse(f"cvt from .{source} to .{target} is not executed")
    value = c.read(a, source)
    if source == "bf16":
        value = f"bf16_to_f32({value})"
    elif source == "f32" and ftz:
        value = f"flush({value})"
    if target in _INTEGERS:
        if rounding not in _INTEGER_ROUNDING:
            raise refuse(f"{i.opcode} needs an integer rounding such as .rzi")
        return c.write(d, target, f"float_to_int({value}, {rounding!r}, {TYPE_DTYPE[target]})")
    if source in _INTEGERS:
        mode = rounding or "rn"
        if mode not in ("rn", "rz", "rm", "rp"):
            raise refuse(f"{i.opcode} needs a rounding such as .rn")
        expression = f"int_to_float({value}, {target!r}, {mode!r})"
    elif rounding in _INTEGER_ROUNDING:
        if source != target:
            raise refuse(f"{i.opcode} is not PTX")
        expression = f"integral({value}, {rounding!r})"
        if target == "bf16":
            expression = f"bf16_from_f32({expression})"
    else:
        expression = f"float_to_float({value}, {target!r}, {rounding or 'rn'!r}, {relu}, {finite})"
    if ftz and target == "f32":
        expression = f"flush({expression})"
    if sat:
        if target == "bf16":
            raise refuse(f"{i.opcode} is not PTX")
        expression = f"saturate({expression})"
    return c.write(d, target, expression)


def _packed(
    c: Emitter, i: Instruction, source: str, half: str, target: str, rounding: str, ftz: bool, relu: bool, finite: bool
) -> None:
    if source != "f32" or rounding not in ("rn", "rz") or ftz:
        raise refuse(f"{i.opcode} is not executed")
    d, a, b = take(i, 3)
    high, low = c.read(a, "f32"), c.read(b, "f32")
    c.write(d, target, f"pack_halves({high}, {low}, {half!r}, {rounding!r}, {relu}, {finite})")


def _eight_bits(c: Emitter, i: Instruction, s: Suffixes, rounding: str, relu: bool, finite: bool) -> None:
    """Two fp8 from f32 or f16x2, saturating; or two f16 from them."""
    if len(s.parts) != 2 or rounding != "rn":
        raise refuse(f"{i.opcode} is not executed")
    target, source = s.parts
    if target == "f16x2":
        d, a = take(i, 2)
        return c.write(d, "b32", f"halves_from_fp8({c.read(a, 'b16')}, {source!r}, {relu})")
    if not finite or target not in _EIGHT or source not in ("f32", "f16x2"):
        raise refuse(f"{i.opcode} is not executed")
    if source == "f32":
        d, a, b = take(i, 3)
        high, low = c.read(a, "f32"), c.read(b, "f32")
    else:
        d, a = take(i, 2)
        halves = c.temp(f"unpack_f16x2({c.read(a, 'f16x2')}).astype(f4)")
        high, low = f"{halves}[..., 1]", f"{halves}[..., 0]"
    return c.write(d, "b16", f"pack_fp8({high}, {low}, {target!r}, {relu})")


def _tf32(c: Emitter, i: Instruction, source: str, rounding: str, relu: bool, finite: bool) -> None:
    d, a = take(i, 2)
    if source != "f32" or rounding not in ("rna", "rn", "rz") or finite:
        raise refuse(f"{i.opcode} is not executed")
    c.write(d, "b32", f"to_tf32({c.read(a, 'f32')}, {rounding!r}, {relu})")


@runtime
def saturate_int(x: Array, dtype: Any) -> Array:
    """Clamp to the range of `dtype`."""
    to, of = np.iinfo(dtype), np.iinfo(x.dtype)
    return np.clip(x, x.dtype.type(max(to.min, of.min)), x.dtype.type(min(to.max, of.max))).astype(dtype)


@runtime
def integral(x: Array, rounding: str) -> Array:
    """Round to an integral value of the same type."""
    if rounding == "rni":
        return np.rint(x)
    return {"rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[rounding](x)


@runtime
def float_to_int(x: Array, rounding: str, dtype: Any) -> Array:
    """Round, clamp to the range of `dtype`; see above for NaN."""
    wide_nan = x.dtype == F8 or np.dtype(dtype).itemsize == 8
    whole = integral(x if x.dtype != F2 else x.astype(F4), rounding).astype(F8)
    info = np.iinfo(dtype)
    nan = whole != whole
    # 2**63 and 2**64 are f64 numbers; their predecessors are not.
    high, low = whole >= float(info.max) + (info.bits < 64), whole <= float(info.min)
    outside = nan | high | low
    result: Array = np.where(outside, 0.0, whole).astype(dtype)
    if outside.any():
        result = np.where(high, dtype(info.max), np.where(low, dtype(info.min), result))
        top = 1 << (info.bits - 1)
        result = np.where(nan, dtype((top if info.min == 0 else -top) if wide_nan else 0), result)
    return result


def _directed(exact: Array, near: Array, error: Array, rounding: str) -> Array:
    """`near`, moved one step where it was rounded the wrong way; `error` is exact minus near in sign."""
    dtype = near.dtype.type
    if rounding == "rz":
        down = (error < 0) & (near > 0)
        up = (error > 0) & (near < 0)
    else:
        down = (error < 0) if rounding == "rm" else np.zeros(near.shape, bool)
        up = (error > 0) if rounding == "rp" else np.zeros(near.shape, bool)
    result = np.where(down, np.nextafter(near, dtype(-np.inf)), np.where(up, np.nextafter(near, dtype(np.inf)), near))
    return np.where(np.isnan(exact), near, result)


_DTYPE: dict[str, Any] = {"f16": F2, "f32": F4, "f64": F8}


@runtime
def int_to_float(x: Array, target: str, rounding: str) -> Array:
    """Integer to floating point, rounded once."""
    if target == "bf16":
        exact = _int_to_odd_f64(x)
        return _bf16_bits(exact, rounding)
    dtype = _DTYPE[target]
    if x.dtype.itemsize < 8:
        wide = x.astype(F8)
        near = wide.astype(dtype)
        return near if rounding == "rn" else _directed(wide, near, wide - near.astype(F8), rounding)
    if target == "f64":
        near = x.astype(F8)
        if rounding == "rn":
            return near
        inside = np.abs(near) < 2.0**62
        back = np.where(inside, near, 0.0).astype(np.int64)
        error = np.where(inside, x.astype(np.int64) - back, _large_error(x, near)).astype(F8)
        return _directed(near, near, error, rounding)
    wide = _int_to_odd_f64(x)
    near = wide.astype(dtype)
    return near if rounding == "rn" else _directed(wide, near, wide - near.astype(F8), rounding)


def _large_error(x: Array, near: Array) -> Array:
    """Sign of ``x - near`` for 64-bit integers of any size."""
    signs = [int(a) - int(b) for a, b in zip(x.ravel(), near.ravel(), strict=True)]
    return np.array([(s > 0) - (s < 0) for s in signs], dtype=np.int64).reshape(x.shape)


def _int_to_odd_f64(x: Array) -> Array:
    """64-bit integers as f64, rounded to odd."""
    if x.dtype.itemsize < 8:
        return x.astype(F8)
    low = (x & x.dtype.type(0xFFFFFFFF)).astype(F8)
    high = (x >> x.dtype.type(32)).astype(F8) * 2.0**32
    near = high + low
    error = low - (near - high)
    bits = near.view(U8)
    inexact = (error != 0) & ((bits & U8(1)) == 0)
    away = (error > 0) == (near > 0)
    return (bits + np.where(inexact, np.where(away, U8(1), ~U8(0)), U8(0))).view(F8)


def _bf16_bits(x: Array, rounding: str) -> Array:
    """bf16 bits of f64 values, rounded once."""
    odd = odd_f32(x.astype(F8))
    if rounding == "rn":
        return bf16_from_f32(odd)
    bits = odd.view(U4)
    truncated = bits >> U4(16)
    inexact = (bits & U4(0xFFFF)) != 0
    grow = inexact & {"rz": odd != odd, "rm": odd < 0, "rp": odd > 0}[rounding]
    return np.where(odd != odd, U2(0x7FFF), (truncated + grow).astype(U2))


@runtime
def float_to_float(x: Array, target: str, rounding: str, relu: bool, finite: bool) -> Array:
    """Between floating-point types; bf16 comes back as bits."""
    if relu:
        x = np.where(x > 0, x, np.where(x != x, x, x.dtype.type(0)))
    if target == "bf16":
        bits = _bf16_bits(x, rounding)
        if finite:
            largest = np.where(np.signbit(x), U2(0xFF7F), U2(0x7F7F))
            bits = np.where((bits & U2(0x7FFF)) == 0x7F80, largest, bits)
        return bits
    dtype = _DTYPE[target]
    near = x.astype(dtype)
    if rounding != "rn" and near.dtype.itemsize < x.dtype.itemsize:
        near = _directed(x, near, x.astype(F8) - near.astype(F8), rounding)
    if finite:
        largest_value = np.finfo(dtype).max
        near = np.where(np.isinf(near), np.copysign(largest_value, near), near)
    if target == "f16":
        nan = near != near
        if nan.any():
            near = np.where(nan, np.array(0x7FFF, dtype=U2).view(F2), near)
    return near


@runtime
def pack_halves(high: Array, low: Array, half: str, rounding: str, relu: bool, finite: bool) -> Array:
    """``cvt.rn.f16x2.f32 d, a, b``: `a` goes to the high half."""
    if half == "f16" and rounding == "rn" and not relu and not finite:
        top, bottom = _half_bits(high), _half_bits(low)
    elif half == "bf16" and rounding == "rn" and not relu and not finite:
        top, bottom = bf16_from_f32(high), bf16_from_f32(low)
    else:
        top, bottom = (float_to_float(v, half, rounding, relu, finite).view(U2) for v in (high, low))
    out = np.empty((*np.broadcast_shapes(high.shape, low.shape), 2), dtype=U2)
    out[..., 0] = bottom
    out[..., 1] = top
    packed: Array = out.view(U4)[..., 0]
    return packed


def _half_bits(x: Array) -> Array:
    half = x.astype(F2)
    nan = half != half
    return np.where(nan, U2(0x7FFF), half.view(U2)) if nan.any() else half.view(U2)


@runtime
def pack_fp8(high: Array, low: Array, kind: str, relu: bool) -> Array:
    """Bits of two fp8, rounded to nearest even; what is too large becomes the largest number, NaN stays."""
    return (fp8_bits(high, kind, relu).astype(U2) << U2(8)) | fp8_bits(low, kind, relu)


def fp8_bits(x: Array, kind: str, relu: bool = False) -> Array:
    """Bits of one fp8 from f32."""
    fraction, least, largest, nan = {"e4m3x2": (3, -6, 448.0, 0x7F), "e5m2x2": (2, -14, 57344.0, 0x7F)}[kind]
    size = np.minimum(np.abs(x.astype(F8)), largest)
    exponent = np.maximum(np.frexp(size)[1] - 1, least)
    steps = np.rint(np.ldexp(size, fraction - exponent))
    # A number that rounds up to the next power of two carries into the exponent by itself.
    bits = (steps + ((exponent - least) << fraction)).astype(np.uint8)
    bits = np.where(size == 0, np.uint8(0), bits)
    bits = bits | (np.signbit(x).astype(np.uint8) << np.uint8(7))
    if relu:
        bits = np.where(np.signbit(x), np.uint8(0), bits)
    return np.where(x != x, np.uint8(nan), bits)


def fp8_values(kind: str) -> Array:
    """The f32 of each of the 256 fp8: e4m3 has no infinity, its NaN is 0x7f and 0xff."""
    fraction, least = {"e4m3x2": (3, -6), "e5m2x2": (2, -14)}[kind]
    code = np.arange(128)
    exponent, rest = code >> fraction, code & ((1 << fraction) - 1)
    whole = np.where(exponent > 0, rest + (1 << fraction), rest)
    value = np.ldexp(whole.astype(F8), np.maximum(exponent, 1) - 1 + least - fraction)
    if kind == "e4m3x2":
        value[127] = np.nan
    else:
        value[124:] = (np.inf, np.nan, np.nan, np.nan)
    return np.concatenate([value, -value]).astype(F4)


FP8_VALUES = {kind: fp8_values(kind) for kind in _EIGHT}


@runtime
def halves_from_fp8(bits: Array, kind: str, relu: bool) -> Array:
    """f16x2 from two fp8."""
    pair = np.ascontiguousarray(bits).view(np.uint8).reshape(*bits.shape, 2)
    value = FP8_VALUES[kind][pair]
    if relu:
        value = np.where(value < 0, F4(0), value)
    half = value.astype(F2).view(U2)
    half = np.where(value != value, U2(0x7FFF), half)
    packed: Array = np.ascontiguousarray(half).view(U4)[..., 0]
    return packed


@runtime
def to_tf32(x: Array, rounding: str, relu: bool) -> Array:
    """tf32 bits: 13 low bits of f32 dropped; ``rna`` rounds ties away from zero."""
    if relu:
        x = np.where(x > 0, x, np.where(x != x, x, F4(0)))
    u = x.view(U4)
    if rounding == "rna":
        rounded = u + U4(0x1000)
    elif rounding == "rn":
        rounded = u + (U4(0xFFF) + ((u >> U4(13)) & U4(1)))
    else:
        rounded = u
    kept = rounded & U4(0xFFFFE000)
    special = (u & U4(0x7F800000)) == U4(0x7F800000)
    if not special.any():
        return kept
    return np.where(special, np.where(x != x, U4(0x7FFFFFFF), u), kept)


@emits("cvta")
def cvta(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Between a state space and generic addresses: addresses of shared and local memory lie in windows."""
    to = s.flag("to")
    t = s.type()
    space = s.one_of(("global", "shared", "shared::cta", "const", "local", "param"))
    s.finish(("u64",), t)
    d, a = take(i, 2)
    value = c.read(a, t)
    if space.startswith("shared"):
        return c.write(d, t, f"{value} {'-' if to else '+'} SHARED_WINDOW")
    if space == "param":
        c.layout.param_address = True
        return c.write(d, t, f"{value} {'-' if to else '+'} S.param_base")
    if space == "local":
        return c.write(d, t, f"{value} {'-' if to else '+'} LOCAL_WINDOW")
    if not space:
        raise refuse(f"{i.opcode} needs a state space")
    return c.write_as(d, "u8", value, name_only=True)
