"""Reading dumps back: the buffer of a launch as arrays that know what they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trlaunch.dump.plan import Plan, Region, Where
from trlaunch.errors import ArgumentError
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
    offset : int or numpy.ndarray of int
        What ``trlaunch.language`` was given as offset; where only the kernel knew it, one for each record.
    grid_axes : int
        How many of the first axes of `values` are programs.
    chosen : bool
        Whether programs were chosen; else it is every program of the grid.
    """

    key: str
    dtype: str
    values: npt.NDArray[Any]
    written: npt.NDArray[np.bool_]
    where: Where
    offset: int | npt.NDArray[Any] = 0
    grid_axes: int = 1
    chosen: bool = False

    @property
    def floats(self) -> npt.NDArray[Any]:
        """`values` as numbers that NumPy has: bf16 and fp8 as fp32."""
        return as_numbers(self.values, self.dtype)

    def plot(self, path: str | Path) -> Path:
        """Write a heat map as PNG, NaN and infinities marked; returns its path. Needs the extra ``plot``.

        Raises
        ------
        DeviceUnavailable
            matplotlib is not installed.
        ArgumentError
            There is nothing to plot, or the file cannot be written.
        """
        from trlaunch.dump.plot import plot

        return plot(self, path)

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

    def flat(self, size: int | None = None) -> npt.NDArray[np.float32]:
        """All dumps in one buffer of fp32, as triton-runner's ``dump_tensor`` has them.

        Each is at its offset, one captured in every program (``dump_grids``) program behind program. Where they
        overlap, later programs and iterations stay, and the dumps that come later in the text.

        Parameters
        ----------
        size : int, optional
            Elements of the buffer; left out, as many as are used.

        Raises
        ------
        ArgumentError
            A dump does not fit.
        """
        import numpy as np

        parts = [part for dump in self.dumps.values() for part in _flat_parts(dump)]
        used = max((start + values.size for start, values in parts), default=0)
        first = min((start for start, _ in parts), default=0)
        if first < 0 or (size is not None and used > size):
            raise ArgumentError(f"the dumps take elements {first} to {used} of a flat buffer; it has {size or used}")
        buffer = np.zeros(used if size is None else size, np.float32)
        for start, values in parts:
            buffer[start : start + values.size] = values
        return buffer


def _flat_parts(dump: Dump) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Where each record of a dump goes in a flat buffer, and its elements."""
    import numpy as np

    written = dump.written
    items = dump.values.size // max(written.size, 1)
    records = dump.floats.reshape(-1, items)
    offsets = np.broadcast_to(np.asarray(dump.offset), written.shape).reshape(-1)
    inner = math.prod(written.shape[dump.grid_axes :])  # iterations of a program
    for i in np.flatnonzero(written):
        program = 0 if dump.chosen else int(i) // inner
        yield int(offsets[i]) + program * items, records[i]


def read(plan: Plan, buffer: bytearray) -> dict[str, Dump]:
    """The dumps in a buffer, which they copy from."""
    import numpy as np

    data = np.frombuffer(buffer, np.uint8)
    offsets = {r.capture.offset_of: _read(r, data).values for r in plan.regions if r.capture.offset_of}
    return {
        region.capture.key: _read(region, data, offsets.get(region.capture.key))
        for region in plan.regions
        if not region.capture.offset_of
    }


def _read(region: Region, data: npt.NDArray[np.uint8], offset: npt.NDArray[Any] | None = None) -> Dump:
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
    if capture.layout is not None:  # threads and registers, several of which may hold one element
        held = values.reshape(*axes, -1)
        values = np.zeros((*axes, math.prod(capture.layout.shape)), values.dtype)
        values[..., capture.layout.elements().reshape(-1)] = held
        values, written = values.reshape(axes + capture.layout.shape), np.all(written, -1, keepdims=False)
    if capture.dtype == "i1":
        values = values != 0
    return Dump(
        capture.key,
        capture.dtype,
        values,
        written,
        capture.where,
        capture.offset if offset is None else offset,
        len(region.axes),
        capture.request.programs is not None,
    )


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
