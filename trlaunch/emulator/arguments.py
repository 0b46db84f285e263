"""The arguments of a launch as those who look at it see them: names, types, values, and the arrays behind pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.image import param_layout
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.memory import bytes_at
from trlaunch.scalars import SCALARS
from trlaunch.tensors import contiguous_strides, numpy_dtype

if TYPE_CHECKING:
    from trlaunch.driver import Buffer, PackedArguments
    from trlaunch.emulator.program import Program
    from trlaunch.signature import Signature

__all__ = ["Argument", "arguments_of", "array_of", "dtype_of"]


#: PTX types by Triton's names; ``.b`` and ``.u`` are what compilers declare integers and pointers as.
_PTX_TYPES = {
    "f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp64", "s8": "i8", "s16": "i16", "s32": "i32", "s64": "i64",
    "b8": "u8", "b16": "u16", "b32": "u32", "b64": "u64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Argument:
    """One parameter of a launch.

    Attributes
    ----------
    name : str
        The Python parameter, ``parameter <n>`` where that is not known.
    type : str
        Triton's name of its type, else the PTX type.
    role : str
        As in `trlaunch.Param`.
    data : bytes
        What was passed.
    buffer : Buffer or None
        The memory behind it.
    """

    index: int
    name: str
    type: str
    role: str
    data: bytes
    buffer: Buffer | None = None

    @property
    def value(self) -> int | float | bytes:
        """The number that was passed; the address of a pointer; the bytes of a descriptor."""
        scalar = SCALARS.get(self.type)
        if scalar is not None and scalar.kind == "float":
            if self.type == "bf16":
                raw = int.from_bytes(self.data, "little") << 16
                return float(np.array(raw, np.uint32).view(np.float32))
            return float(np.frombuffer(self.data, numpy_dtype(self.type))[0])
        if len(self.data) > 8 or (scalar is not None and scalar.size != len(self.data)):
            return self.data
        kind = self.type[:1]
        return int.from_bytes(self.data, "little", signed=scalar is not None and kind == "i" and self.type != "i1")

    @property
    def array(self) -> Array | None:
        """The memory behind a pointer, in place: shape and strides are the tensor's, bf16 and fp8 are their bits."""
        return None if self.buffer is None else array_of(self.buffer, self.type)

    @property
    def dtype(self) -> str:
        """Triton's name of the type of its elements."""
        return self.type if self.buffer is None else dtype_of(self.buffer, self.type)


def dtype_of(buffer: Buffer, type_name: str | None) -> str:
    """Triton's name of a buffer's element type: the tensor's own, else that of the pointer, else bytes."""
    if buffer.dtype is not None:
        return buffer.dtype
    pointee = (type_name or "").removeprefix("*") if (type_name or "").startswith("*") else ""
    return pointee if pointee in SCALARS else "u8"


def array_of(buffer: Buffer, type_name: str | None = None) -> Array:
    """The memory of a buffer in place, in the shape of the tensor that it was passed as."""
    dtype = np.dtype(numpy_dtype(dtype_of(buffer, type_name)))
    memory = bytes_at(buffer.address, buffer.nbytes) if buffer.nbytes else np.zeros(0, np.uint8)
    shape, strides = buffer.shape, buffer.strides
    if not shape and not strides and buffer.nbytes != dtype.itemsize:
        shape = (buffer.nbytes // dtype.itemsize,)
    steps = [s * dtype.itemsize for s in strides or contiguous_strides(shape)]
    if 0 in shape or not buffer.nbytes:
        return np.zeros(shape, dtype)
    memory = memory[: buffer.nbytes // dtype.itemsize * dtype.itemsize]
    return np.lib.stride_tricks.as_strided(memory.view(dtype), shape, steps)


def arguments_of(program: Program, packed: PackedArguments, signature: Signature | None = None) -> list[Argument]:
    """The parameters of a launch in order; without a signature names and types are those of the PTX."""
    layout, _ = param_layout(program.function)
    by_name: dict[str, Buffer] = {b.name: b for b in packed.buffers}
    known: Sequence[Any] = signature.params if signature is not None and len(signature) == len(layout) else ()
    found = []
    for slot in layout:
        param = known[slot.index] if known else None
        name = (param.name if param is not None else None) or f"parameter {slot.index}"
        kind = (param.type if param is not None else None) or _PTX_TYPES.get(slot.type or "", slot.type or "b8")
        data = packed.data[slot.offset : slot.offset + slot.size]
        buffer = by_name.get(name)
        found.append(Argument(slot.index, name, kind, param.role if param is not None else "user", data, buffer))
    return found
