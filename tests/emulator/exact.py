"""Rounding by exact arithmetic: what a floating-point format makes of a fraction, in every rounding mode."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

#: Bits of fraction and smallest exponent of a normal number; f32 and tf32 share the exponents.
FORMATS = {
    "f16": (10, -14, 15),
    "bf16": (7, -126, 127),
    "tf32": (10, -126, 127),
    "f32": (23, -126, 127),
    "f64": (52, -1022, 1023),
}


def rounded(value: Fraction | int | float, name: str, mode: str = "rn") -> float:
    """`value` in a format; overflow goes to infinity, or to the largest number where the mode rounds away from it."""
    if isinstance(value, float) and not math.isfinite(value):
        return value
    negative = math.copysign(1, value) < 0 if isinstance(value, float) else value < 0
    sign = -1.0 if negative else 1.0
    magnitude = abs(Fraction(value))
    if not magnitude:
        return sign * 0.0
    bits, least, most = FORMATS[name]
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, least) - bits)
    whole, rest = divmod(magnitude, unit)
    up = {
        "rn": rest * 2 > unit or (rest * 2 == unit and whole % 2 == 1),
        "rna": rest * 2 >= unit,
        "rz": False,
        "rm": negative and rest > 0,
        "rp": not negative and rest > 0,
    }[mode]
    result = (whole + up) * unit
    largest = (2 - Fraction(1, 2**bits)) * Fraction(2) ** most
    if result > largest:
        away = mode in ("rn", "rna") or (mode == "rm" and negative) or (mode == "rp" and not negative)
        return sign * (math.inf if away else float(largest))
    return sign * float(result)


def bf16_bits(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0] >> 16


def from_bf16(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def to_integer(value: float, name: str, mode: str, wide: bool = False) -> int:
    """Float to integer with saturation; `wide`: the source is f64."""
    bits = int(name[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if name[0] == "s" else (0, (1 << bits) - 1)
    if math.isnan(value):
        if not wide and bits < 64:
            return 0
        return low if name[0] == "s" else 1 << bits - 1
    if math.isinf(value):
        return high if value > 0 else low
    exact = Fraction(value)
    whole = {"rni": round(exact), "rzi": math.trunc(exact), "rmi": math.floor(exact), "rpi": math.ceil(exact)}[mode]
    return min(max(whole, low), high)
