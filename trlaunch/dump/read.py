"""Reading dumps back: the buffer of a launch as arrays that know what they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trlaunch.dump.plan import Plan, Region, Where
from trlaunch.tensors import numpy_dtype

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Dump", "Run", "read"]


@dataclass(frozen=True, slots=True)
class Dump:
    """One captured value.

    Attributes
    ----------
    key : str
        As in ``run.dumps``.
    dtype : str
        Triton's name; ``"*"`` is an address.
    values : numpy.ndarray
        Grid axes (one axis of the programs asked for, with ``programs=``), an axis for each loop around the value,
        outermost first, then the tensor's own shape. bf16 and fp8, which NumPy does not have, are their bits in
        unsigned integers: `floats` reads them. What was not written is zero.
    written : numpy.ndarray of bool
        Which records were written: without the tensor's shape, but with the threads of a value per thread. False
        where a program made fewer iterations than another, or a branch was not taken.
    where : Where
        Line in the text, Python line, type, layout.
    """

    key: str
    dtype: str
    values: npt.NDArray[Any]
    written: npt.NDArray[np.bool_]
    where: Where

    @property
    def floats(self) -> npt.NDArray[Any]:
        """`values` as numbers that NumPy has: bf16 and fp8 as fp32."""
        return as_numbers(self.values, self.dtype)

    def __repr__(self) -> str:
        return f"Dump({self.key!r}, {self.dtype}, shape={self.values.shape}, line {self.where.line})"


@dataclass(frozen=True, slots=True)
class Run:
    """What a launch with dumps returns.

    Attributes
    ----------
    dumps : mapping of str to Dump
        By the name or label that was asked for.
    """

    dumps: Mapping[str, Dump]


def read(plan: Plan, buffer: bytearray) -> dict[str, Dump]:
    """The dumps in a buffer, which they copy from."""
    import numpy as np

    data = np.frombuffer(buffer, np.uint8)
    return {region.capture.key: _read(region, data) for region in plan.regions}


def _read(region: Region, data: npt.NDArray[np.uint8]) -> Dump:
    import numpy as np

    capture = region.capture
    count, axes = region.count, (*region.axes, *region.caps)
    flags = data[region.flags : region.flags + count * capture.flags].astype(bool)
    threads = (capture.flags,) if capture.flags > 1 else ()
    written = flags.reshape(axes + threads)
    items = math.prod(capture.shape)
    raw = data[region.records : region.records + count * capture.record_bytes]
    raw = raw.reshape(count, capture.record_bytes)[:, : items * capture.item_bytes]
    kind = "uint64" if capture.dtype == "*" else "uint8" if capture.dtype == "i1" else numpy_dtype(capture.dtype)
    values = np.ascontiguousarray(raw).view(kind).reshape(axes + capture.shape).copy()
    values[~written] = 0
    if capture.dtype == "i1":
        values = values != 0
    return Dump(capture.key, capture.dtype, values, written, capture.where)


# Exponent bits, mantissa bits, bias, and whether there are infinities (IEEE) or only NaN: all ones ("fn"), or the
# negative zero ("fnuz"). Micikevicius et al., "FP8 formats for deep learning"; LLVM's APFloat semantics.
_FP8 = {
    "fp8e5": (5, 2, 15, "ieee"),
    "fp8e4nv": (4, 3, 7, "fn"),
    "fp8e4b15": (4, 3, 15, "none"),
    "fp8e4b8": (4, 3, 8, "fnuz"),
    "fp8e5b16": (5, 2, 16, "fnuz"),
}


def as_numbers(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Bits of bf16 and fp8 as fp32; everything else as it is."""
    import numpy as np

    if dtype == "bf16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype not in _FP8:
        return values
    exponent_bits, mantissa_bits, bias, special = _FP8[dtype]
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    numbers = sign * np.where(
        exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1.0 + fraction, exponent.astype(int) - bias)
    )
    top = exponent == (1 << exponent_bits) - 1
    if special == "ieee":
        numbers[top] = np.where(mantissa[top] == 0, sign[top] * np.inf, np.nan)
    elif special == "fn":
        numbers[top & (mantissa == (1 << mantissa_bits) - 1)] = np.nan
    elif special == "fnuz":
        numbers[codes == 0x80] = np.nan
    found: npt.NDArray[Any] = numbers.astype(np.float32)[values]
    return found
