"""What tests compare with: computed from specifications, by other means than the package's."""

from __future__ import annotations

import math
import random
import re
import struct
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["INTEGERS", "SM_90_BASE", "bfloat16", "buffer", "layout", "numpy_bytes", "sample"]

INTEGERS = {
    "i1": (0, 1),
    "u1": (0, 1),
    **{f"i{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"u{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
_NUMPY = {"i1": "<u1", "u1": "<u1", "fp16": "<f2", "fp32": "<f4", "fp64": "<f8"} | {
    f"{kind}{bits}": f"<{kind}{bits // 8}" for kind in "iu" for bits in (8, 16, 32, 64)
}
_EDGES = (0.0, -0.0, math.inf, -math.inf, 1.5, -2.75, 65504.0, 65520.0, 1e-8, 3.4028235677973366e38, 1e300, 5e-324)


def bfloat16(value: float) -> int:
    """Bits of a double as bfloat16 by exact arithmetic: 8 exponent bits, 7 of fraction, ties to even."""
    if math.isnan(value):
        raise ValueError("a NaN has many encodings")
    sign = 0x8000 if math.copysign(1, value) < 0 else 0
    if math.isinf(value):
        return sign | 0x7F80
    exponent = max(math.frexp(value)[1] - 1, -126)
    unit = Fraction(2) ** (exponent - 7)
    rounded = round(abs(Fraction(value)) / unit) * unit  # round() of a Fraction is exact, ties to even
    if rounded >= Fraction(2) ** 128:
        return sign | 0x7F80
    (single,) = struct.unpack("<I", struct.pack("<f", float(rounded)))  # exact: a bfloat16 is an fp32
    return sign | single >> 16


def numpy_bytes(type_name: str, value: Any) -> bytes:
    """A scalar's bytes by NumPy (bfloat16 by `bfloat16`)."""
    if type_name == "bf16":
        return bfloat16(float(value)).to_bytes(2, "little")
    if type_name.startswith("fp8"):
        return bytes([value])
    if type_name in INTEGERS and value < 0:
        return np.array(value, np.int64).astype(_NUMPY[type_name]).tobytes()
    with np.errstate(all="ignore"):
        return np.array(value, np.uint64 if type_name in INTEGERS else np.float64).astype(_NUMPY[type_name]).tobytes()


_SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
_PARAM = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.[bsuf](8|16|32|64)\b[^,\[]*(?:\[(\d+)\])?\s*(?:,|\Z)")


SM_90_BASE = 0x210
"""Where sm_90 code finds its parameters in constant bank 0 (``c[0x0][0x210]`` in what nvdisasm prints)."""


def layout(ptx: str, kernel: str, base: int = 0) -> list[tuple[int, int]]:
    """Offset and size of each parameter in a PTX text (PTX ISA: .param variables have their type's alignment).

    A cubin aligns the address in the constant bank, not the offset: with `base` 0x210 a first parameter aligned to 64
    lies at offset 48. The driver takes a packed buffer with that gap (seen on an H200, driver 580, CUDA 13.0: without
    the gap the kernel dies).
    """
    found = re.search(rf"\.entry\s+{re.escape(kernel)}\s*\((.*?)\n?\)", ptx, re.S)
    assert found, kernel
    end, slots = 0, []
    for align, bits, count in _PARAM.findall(found[1].strip()):
        size = _SIZES[bits] * int(count or 1)
        step = int(align or _SIZES[bits])
        start = -(-(base + end) // step) * step - base
        slots.append((start, size))
        end = start + size
    assert len(slots) == found[1].count(".param")
    return slots


def buffer(slots: list[tuple[int, int]], values: list[bytes]) -> bytes:
    """A parameter buffer: each value at its slot, zero bytes elsewhere; the slots beyond the values are zero."""
    data = bytearray(slots[-1][0] + slots[-1][1])
    for (offset, size), value in zip(slots, values, strict=False):
        assert len(value) == size, (size, value)
        data[offset : offset + size] = value
    return bytes(data)


def sample(type_name: str, rng: random.Random) -> Any:
    """A value of a scalar type, edges included."""
    if type_name in INTEGERS:
        low, high = INTEGERS[type_name]
        return rng.choice((low, high, rng.randint(low, high), rng.randint(low, high)))
    if type_name.startswith("fp8"):
        return rng.randrange(256)
    return rng.choice((*_EDGES, *(rng.uniform(-4, 4) * 10.0 ** rng.randint(-40, 40) for _ in range(12))))
