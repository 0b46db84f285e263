"""Tensor maps (PTX ISA, "Tensors"): the emulator's own 128 bytes, as only a driver knows NVIDIA's.

============  =====================================================
bytes         field, little-endian
============  =====================================================
0 - 7         address of the tensor
8 - 27        elements along each axis, innermost first
28 - 47       elements of the box along each axis
48 - 79       bytes between neighbours along axis 1, 2, 3, 4
80 - 99       element strides
100 - 104     element type, rank - 1, interleave, swizzle, fill mode
124 - 127     ``TRLM``
============  =====================================================

Numbers of types and modes are those of ``tensormap.replace``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from trlaunch.errors import EmulatorError

__all__ = ["ELEMENT_SIZES", "FIELDS", "MAGIC", "MAGIC_OFFSET", "SIZE", "SWIZZLE_BYTES", "TensorMap", "decode", "encode"]

SIZE = 128
MAGIC, MAGIC_OFFSET = 0x4D4C5254, 124
_FORMAT = struct.Struct("<Q5I5I4Q5I5B19xI")
#: Offset of a field of ``tensormap.replace`` and its bytes; those with an ordinal lie side by side.
FIELDS = {
    "global_address": (0, 8), "global_dim": (8, 4), "box_dim": (28, 4), "global_stride": (48, 8),
    "element_stride": (80, 4), "elemtype": (100, 1), "rank": (101, 1), "interleave_layout": (102, 1),
    "swizzle_mode": (103, 1), "fill_mode": (104, 1),
}  # fmt: skip
#: Bytes by element type: u8 u16 u32 s32 u64 s64 f16 f32 f32.ftz f64 bf16 tf32 tf32.ftz.
ELEMENT_SIZES = (1, 2, 4, 4, 8, 8, 2, 4, 4, 8, 2, 4, 4)
#: CUtensorMapDataType (cuda.h) numbers f64, bf16 and f32.ftz otherwise.
_FROM_DRIVER = {8: 9, 9: 10, 10: 8}
#: By swizzle mode, bytes of a row whose 16-byte parts are exchanged.
SWIZZLE_BYTES = (0, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class TensorMap:
    """A tensor and the box that one copy moves; axes innermost first, strides in bytes and one fewer."""

    address: int
    shape: tuple[int, ...]
    box: tuple[int, ...]
    strides: tuple[int, ...]
    steps: tuple[int, ...]
    element: int
    interleave: int
    swizzle: int
    nan: bool

    @property
    def element_size(self) -> int:
        """Bytes of an element."""
        return ELEMENT_SIZES[self.element]

    @property
    def nbytes(self) -> int:
        """Bytes of the box."""
        size = self.element_size
        for n in self.box:
            size *= n
        return size

    def problem(self) -> str:
        """Which rule of TMA the map breaks; empty if none."""
        row = self.box[0] * self.element_size
        if self.address % 16:
            return f"its tensor begins at {self.address:#x}, which is not a multiple of 16"
        for stride in self.strides:
            if stride % 16:
                return f"a stride of {stride} bytes is not a multiple of 16: the hardware reads other memory, silently"
        if not all(1 <= n <= 256 for n in self.box):
            return f"a box of {self.box} elements: expected 1 to 256 along each axis"
        if row % 16:
            return f"rows of the box have {row} bytes: expected a multiple of 16"
        if self.swizzle and row > SWIZZLE_BYTES[self.swizzle]:
            return f"rows of the box have {row} bytes, more than the {SWIZZLE_BYTES[self.swizzle]} that are swizzled"
        if any(s != 1 for s in self.steps) or self.interleave:
            return "element strides and interleaved layouts are not executed"
        return ""


def encode(
    *, element_type: int, address: int, shape: Sequence[int], strides: Sequence[int], box: Sequence[int], swizzle: int,
    nan_fill: bool,
) -> bytes:  # fmt: skip
    """The map of a tensor, with the numbers that ``cuTensorMapEncodeTiled`` takes.

    Raises
    ------
    EmulatorError
        There is no such map.
    """
    rank = len(shape)
    element = _FROM_DRIVER.get(element_type, element_type)
    if not 1 <= rank <= 5 or len(box) != rank or len(strides) != rank - 1:
        raise EmulatorError(f"a tensor map of {rank} axes, {len(box)} of the box, {len(strides)} strides")
    if not 0 <= element < len(ELEMENT_SIZES) or not 0 <= swizzle <= 3:
        raise EmulatorError(f"a tensor map of element type {element_type}, swizzle {swizzle}: not executed")

    def five(values: Sequence[int], count: int = 5) -> list[int]:
        return [*values, *([0] * (count - len(values)))]

    data = _FORMAT.pack(
        address, *five(shape), *five(box), *five(strides, 4), *five([1] * rank), element, rank - 1, 0, swizzle,
        int(nan_fill), MAGIC,
    )  # fmt: skip
    problem = decode(data).problem()
    if problem:
        raise EmulatorError(f"no tensor map: {problem}")
    return data


@lru_cache(maxsize=256)
def decode(data: bytes) -> TensorMap:
    """Read a map.

    Raises
    ------
    EmulatorError
        The bytes are not a map of the emulator's.
    """
    fields = _FORMAT.unpack(data)
    element, last, interleave, swizzle, fill, magic = fields[20:]
    if magic != MAGIC:
        raise EmulatorError("these 128 bytes are not a tensor map that the emulator encoded")
    if last > 4 or element >= len(ELEMENT_SIZES) or swizzle > 3:
        raise EmulatorError(f"a tensor map of {last + 1} axes, element type {element}, swizzle {swizzle}: not executed")
    rank = last + 1
    return TensorMap(
        address=fields[0],
        shape=fields[1 : 1 + rank],
        box=fields[6 : 6 + rank],
        strides=fields[11 : 11 + last],
        steps=fields[15 : 15 + rank],
        element=element,
        interleave=interleave,
        swizzle=swizzle,
        nan=bool(fill),
    )
