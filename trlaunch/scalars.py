"""Scalar types: Triton's names, their sizes, and how a Python value becomes their bytes."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable

from trlaunch.records import dataclass

__all__ = ["SCALARS", "Scalar", "bfloat16_bits", "from_llvm", "from_mlir"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """One scalar type.

    Attributes
    ----------
    name : str
        Triton's name: ``i1 i8 ... i64 u1 u8 ... u64 fp16 bf16 fp32 fp64`` and the fp8 kinds.
    size : int
        Bytes in the parameter buffer.
    kind : {"integer", "float", "byte"}
        ``byte``: an fp8 value, given as its byte.
    low, high : int
        Range of an integer.
    """

    name: str
    size: int
    kind: str
    low: int = 0
    high: int = 0

    def pack(self, value: object, *, signless: bool = False) -> bytes:
        """Little-endian bytes of a value.

        Parameters
        ----------
        value : int, float, bool or NumPy scalar
        signless : bool
            Take the unsigned range too: an MLIR or LLVM ``i32`` does not say whether it has a sign.

        Raises
        ------
        TypeError
            The value is of another kind: a float for an integer, a string for anything.
        OverflowError
            The value is out of range.
        """
        if self.kind == "float":
            return self._pack_float(value)
        try:
            integer = operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            integer = _bool_as_int(value)
        low, high = self.low, self.high
        if signless and low < 0:
            high = (1 << (8 * self.size)) - 1
        if not low <= integer <= high:
            raise OverflowError(f"{integer} is outside {low} .. {high}")
        return (integer & ((1 << (8 * self.size)) - 1)).to_bytes(self.size, "little")

    def _pack_float(self, value: object) -> bytes:
        if isinstance(value, (str, bytes, bytearray, complex)):
            raise TypeError
        try:
            number = float(value)  # type: ignore[arg-type]
        except OverflowError:
            raise OverflowError(f"{value} is too large for a float") from None
        except ValueError:
            raise TypeError from None
        return _FLOATS[self.name](number)


def _bool_as_int(value: object) -> int:
    # numpy.bool has no __index__; it has item() of type bool. A float must not pass.
    item = getattr(value, "item", None)
    plain = item() if callable(item) and getattr(value, "shape", None) == () else None
    if isinstance(plain, bool):
        return int(plain)
    raise TypeError


def _pack_fp16(value: float) -> bytes:
    try:
        return struct.pack("<e", value)  # rounds to nearest even; raises where the result would be infinite
    except OverflowError:
        return struct.pack("<e", math.copysign(math.inf, value))


def _pack_fp32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


def bfloat16_bits(value: float) -> int:
    """Bits of `value` as bfloat16, rounded once to nearest even.

    Triton's own launcher truncates instead. Rounding to fp32 first and then to bfloat16 would round twice, so the
    fp32 is made sticky: its last bit is set when the first rounding was not exact (round to odd).
    """
    if math.isnan(value):
        return 0x7FC0 | (0x8000 if math.copysign(1.0, value) < 0 else 0)
    single = struct.unpack("<f", _pack_fp32(value))[0]
    bits = struct.unpack("<I", struct.pack("<f", single))[0]
    if single != value and not math.isinf(single):
        if abs(single) > abs(value):
            bits -= 1  # towards zero, then sticky
        bits |= 1
    return int((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)


_FLOATS: dict[str, Callable[[float], bytes]] = {
    "fp16": _pack_fp16,
    "bf16": lambda value: bfloat16_bits(value).to_bytes(2, "little"),
    "fp32": _pack_fp32,
    "fp64": lambda value: struct.pack("<d", value),
}

_FP8 = ("fp8e4nv", "fp8e5", "fp8e4b15", "fp8e4b8", "fp8e5b16")


def _table() -> dict[str, Scalar]:
    table = {name: Scalar(name, 1, "integer", 0, 1) for name in ("i1", "u1")}
    for bits in (8, 16, 32, 64):
        table[f"i{bits}"] = Scalar(f"i{bits}", bits // 8, "integer", -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        table[f"u{bits}"] = Scalar(f"u{bits}", bits // 8, "integer", 0, (1 << bits) - 1)
    table |= {name: Scalar(name, size, "float") for name, size in (("fp16", 2), ("bf16", 2), ("fp32", 4), ("fp64", 8))}
    return table | {name: Scalar(name, 1, "byte", 0, 255) for name in _FP8}


SCALARS: dict[str, Scalar] = _table()

# MLIR's builtin float types by Triton's names (the fp8 names as in Triton's type printer since 3.0).
_MLIR = {
    "f16": "fp16",
    "bf16": "bf16",
    "f32": "fp32",
    "f64": "fp64",
    "f8E4M3FN": "fp8e4nv",
    "f8E4M3FNUZ": "fp8e4b8",
    "f8E4M3B11FNUZ": "fp8e4b15",
    "f8E5M2": "fp8e5",
    "f8E5M2FNUZ": "fp8e5b16",
}
_LLVM = {"half": "fp16", "bfloat": "bf16", "float": "fp32", "double": "fp64"}
_INTEGERS = ("i1", "i8", "i16", "i32", "i64")


def from_mlir(text: str) -> str | None:
    """Triton's name of an MLIR scalar type; ``None`` when it is not one."""
    return text if text in _INTEGERS else _MLIR.get(text)


def from_llvm(text: str) -> str | None:
    """Triton's name of an LLVM scalar type; ``None`` when it is not one."""
    return text if text in _INTEGERS else _LLVM.get(text)
