"""What the families of instructions share: the table of opcodes, suffixes, and types as NumPy knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from trlaunch.emulator.syntax import TYPE_SIZES, Instruction, Operand
from trlaunch.errors import UnsupportedInstruction

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__ = [
    "DTYPES", "EMITTERS", "F2", "F4", "F8", "I1", "I2", "I4", "I8", "RUNTIME", "SIGNED", "TYPE_DTYPE", "U1", "U2", "U4",
    "U8", "Array", "Suffixes", "bits_of", "emits", "refuse", "runtime",
    "take",
]  # fmt: skip

Array = np.ndarray[Any, Any]
U1, U2, U4, U8 = np.uint8, np.uint16, np.uint32, np.uint64
I1, I2, I4, I8 = np.int8, np.int16, np.int32, np.int64
F2, F4, F8 = np.float16, np.float32, np.float64

#: Short names of element types, as they are written in generated code.
DTYPES: dict[str, Any] = {
    "u1": U1, "u2": U2, "u4": U4, "u8": U8, "i1": I1, "i2": I2, "i4": I4, "i8": I8, "f2": F2, "f4": F4, "f8": F8,
    "p": np.bool_,
}  # fmt: skip

#: PTX type to element type. bf16, tf32 and packed types are held as their bits.
TYPE_DTYPE = {
    "pred": "p", "b8": "u1", "u8": "u1", "s8": "i1", "b16": "u2", "u16": "u2", "s16": "i2", "f16": "f2", "bf16": "u2",
    "b32": "u4", "u32": "u4", "s32": "i4", "f32": "f4", "f16x2": "u4", "bf16x2": "u4", "tf32": "u4",
    "b64": "u8", "u64": "u8", "s64": "i8", "f64": "f8",
}  # fmt: skip
SIGNED = frozenset(("s8", "s16", "s32", "s64"))

Emit = Callable[["Emitter", Instruction, "Suffixes"], None]
#: How each opcode root is turned into NumPy.
EMITTERS: dict[str, Emit] = {}
#: Functions that generated code may call, by name.
RUNTIME: dict[str, Any] = {}

_F = TypeVar("_F", bound=Callable[..., Any])


def emits(*roots: str) -> Callable[[Emit], Emit]:
    """Register the function that emits code for opcodes with these roots."""

    def register(function: Emit) -> Emit:
        for root in roots:
            EMITTERS[root] = function
        return function

    return register


def runtime(function: _F) -> _F:
    """Let generated code call `function` by its name."""
    RUNTIME[function.__name__] = function
    return function


def refuse(reason: str) -> UnsupportedInstruction:
    """The exception for a form of an instruction that is read but not executed."""
    return UnsupportedInstruction(reason)


def take(instruction: Instruction, least: int, most: int | None = None) -> tuple[Operand, ...]:
    """The operands of an instruction that has between `least` and `most` of them."""
    most = least if most is None else most
    if not least <= len(instruction.operands) <= most:
        expected = str(least) if least == most else f"{least} to {most}"
        raise refuse(f"{instruction.opcode} takes {expected} operands, not {len(instruction.operands)}")
    return instruction.operands


def bits_of(type_name: str) -> int:
    """Width of a type in bits."""
    return TYPE_SIZES[type_name] * 8


class Suffixes:
    """The dot-separated parts of an opcode after its root, taken one by one; what is left over is not supported."""

    def __init__(self, opcode: str) -> None:
        self.root, *self.parts = opcode.split(".")

    def flag(self, name: str) -> bool:
        """Take `name` if it is there."""
        if name in self.parts:
            self.parts.remove(name)
            return True
        return False

    def one_of(self, names: Iterable[str], default: str = "") -> str:
        """Take the first of `names` that is there."""
        for name in names:
            if name in self.parts:
                self.parts.remove(name)
                return name
        return default

    def drop(self, *names: str) -> None:
        """Take hints that change nothing here."""
        self.parts = [p for p in self.parts if p not in names]

    def drop_prefixes(self, *prefixes: str) -> None:
        """Take hints by how they begin."""
        self.parts = [p for p in self.parts if not p.startswith(prefixes)]

    def type(self) -> str:
        """Take the last type."""
        for at in range(len(self.parts) - 1, -1, -1):
            if self.parts[at] in TYPE_SIZES:
                return self.parts.pop(at)
        raise refuse("an instruction type is missing")

    def finish(self, allowed_types: Iterable[str] | None = None, type_name: str = "") -> None:
        """Refuse what was not taken, and a type outside `allowed_types`."""
        if self.parts:
            raise refuse(f"the suffix .{self.parts[0]} of {self.root} is not executed")
        if allowed_types is not None and type_name not in allowed_types:
            raise refuse(f"{self.root} of type .{type_name} is not executed")
