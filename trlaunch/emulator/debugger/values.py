"""Values of registers of the lanes that run, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.debugger.expressions import Read
from trlaunch.emulator.instructions import CLOCKS, SPECIAL_REGISTERS
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.registers import interpret
from trlaunch.emulator.syntax import TYPE_SIZES
from trlaunch.errors import EmulatorError

if TYPE_CHECKING:
    from trlaunch.emulator.debugger.engine import Engine

__all__ = [
    "FORMATS",
    "format_value",
    "formatted",
    "lane_table",
    "natural",
    "read_register",
    "reader",
    "value_type",
    "width_of",
]

#: Letters behind ``print/`` and ``x/``, and the kind of number they stand for.
FORMATS = {
    "x": "hexadecimal", "d": "signed", "u": "unsigned", "f": "floating point", "h": "fp16", "b": "bf16", "t": "binary",
}  # fmt: skip
_LANES_A_LINE = 8


def read_register(engine: Engine, name: str, type_name: str | None, block: int) -> tuple[Array, str]:
    """A register of all lanes, shape (C, T) (packed types: (C, T, 2)), and the PTX type that it is shown as.

    Raises
    ------
    EmulatorError
        There is no such register, or it cannot be read as that type.
    """
    if engine.scheduler is None:
        raise EmulatorError("the kernel does not run yet")
    chunk = engine.scheduler.chunk
    special = name[1:].replace(".", "_")
    if special in SPECIAL_REGISTERS and special not in CLOCKS:
        values = np.broadcast_to(getattr(chunk, special), engine.lanes)
        kind = type_name or ("u64" if values.itemsize == 8 else "u32")
        return interpret(values, kind), kind
    register = engine.registers.find(name, block)
    bits = engine.registers.read(chunk.registers, register, engine.lanes)
    kind = type_name or engine.registers.kind(register)
    return interpret(bits, kind), kind


def reader(engine: Engine, block: int) -> Read:
    """What an expression reads registers with at a block."""

    def read(name: str, type_name: str | None) -> Array:
        values, kind = read_register(engine, name, type_name, block)
        if kind.endswith("x2"):
            raise EmulatorError(f"{name} holds two values of .{kind[:-2]}: read it as u32({name})")
        return values

    return read


def value_type(letter: str | None, kind: str, width: int) -> str:
    """The PTX type that a format letter reads a register of `width` bytes as.

    Raises
    ------
    EmulatorError
        There is no such format, or not for this width.
    """
    if letter is None or kind == "pred":
        return kind
    if letter not in FORMATS:
        known = ", ".join(f"/{k} {v}" for k, v in FORMATS.items())
        raise EmulatorError(f"there is no format /{letter}: expected one of {known}")
    found = {
        "x": f"b{8 * width}", "t": f"b{8 * width}", "u": f"u{8 * width}", "d": f"s{8 * width}",
        "f": {2: "f16", 4: "f32", 8: "f64"}.get(width), "h": {2: "f16", 4: "f16x2"}.get(width),
        "b": {2: "bf16", 4: "bf16x2"}.get(width),
    }[letter]  # fmt: skip
    if found is None:
        raise EmulatorError(f"a register of {width} bytes cannot be shown as /{letter}, {FORMATS[letter]}")
    return found


def format_value(value: Any, letter: str | None = None) -> str:
    """One value as text; rows of two (packed types) in parentheses."""
    value = np.asarray(value)
    if value.ndim:
        return "(" + ", ".join(format_value(v, letter) for v in value) + ")"
    kind = value.dtype.kind
    if kind == "b":
        return str(int(value))
    if kind == "f":
        number = float(value)
        if math.isnan(number) or math.isinf(number):
            return f"{number}"
        digits = {2: 5, 4: 9, 8: 17}[value.itemsize]
        short = f"{number:.6g}"
        return short if value.dtype.type(float(short)) == value else f"{number:.{digits}g}"
    number = int(value)
    if letter == "x":
        return f"{number % (1 << 8 * value.itemsize):#x}"
    if letter == "t":
        return f"{number % (1 << 8 * value.itemsize):#b}"
    if letter is None and value.itemsize == 8 and abs(number) >= 1 << 32:
        return f"{number:#x}"
    return str(number)


def formatted(values: Sequence[Any] | Array, letter: str | None = None) -> list[str]:
    """Values as text."""
    return [format_value(v, letter) for v in values]


def lane_table(texts: Sequence[str], active: Sequence[bool], first: int = 0) -> list[str]:
    """Lanes, eight on a line; those that are not active in parentheses. Alike for all: on one line."""
    shown = [t if a else f"({t})" for t, a in zip(texts, active, strict=True)]
    last = first + len(shown) - 1
    if len(set(shown)) == 1 and len(shown) > 1:
        return [f"  lanes {first}..{last}: {shown[0]}"]
    width = max(map(len, shown), default=0)
    lines = []
    for start in range(0, len(shown), _LANES_A_LINE):
        part = shown[start : start + _LANES_A_LINE]
        numbers = f"{first + start}..{first + start + len(part) - 1}"
        lines.append(f"  lanes {numbers:>7}: " + " ".join(t.rjust(width) for t in part))
    return lines


def natural(name: str) -> list[Any]:
    """A key that sorts ``%r2`` before ``%r10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def width_of(engine: Engine, name: str, block: int) -> tuple[int, str]:
    """Bytes of a register, and the PTX type that it is best shown as."""
    special = name[1:].replace(".", "_")
    if special in SPECIAL_REGISTERS:
        return int(SPECIAL_REGISTERS[special][1]), f"u{8 * int(SPECIAL_REGISTERS[special][1])}"
    register = engine.registers.find(name, block)
    return TYPE_SIZES[register.type], engine.registers.kind(register)
