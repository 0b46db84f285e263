"""Registers of a program compiled for stepping: by name, as what they hold, for all lanes.

PTX declares most registers as bits (``.b32``); what a register holds is inferred from the instructions that write and
read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.syntax import (
    TYPE_SIZES,
    CallSite,
    Group,
    Instruction,
    Negated,
    Operand,
    Pair,
    Register,
    Vector,
)
from trlaunch.errors import EmulatorError

if TYPE_CHECKING:
    from trlaunch.emulator.program import Program

__all__ = ["NUMPY_TYPES", "Registers", "instruction_at", "interpret"]

#: What a value of each type is to NumPy. Packed types are rows of two; bf16 becomes float32.
NUMPY_TYPES: dict[str, Any] = {
    "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16,
    "s16": np.int16, "f16": np.float16, "bf16": np.float32, "b32": np.uint32, "u32": np.uint32, "s32": np.int32,
    "f32": np.float32, "tf32": np.float32, "f16x2": np.float16, "bf16x2": np.float32, "b64": np.uint64,
    "u64": np.uint64, "s64": np.int64, "f64": np.float64,
}  # fmt: skip
#: Instructions that pass bits on without a word about what they are.
_COPIES = frozenset(("mov", "selp", "shfl", "prmt"))
_PACKED = {"f16": "f16x2", "bf16": "bf16x2"}
_WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


def interpret(bits: Array, type_name: str) -> Array:
    """Register bits as values of a PTX type.

    Parameters
    ----------
    bits : ndarray of uint8, uint16, uint32, uint64 or bool
    type_name : str
        Of the width of the register, or narrower: the low bits then.

    Returns
    -------
    ndarray
        Of the same shape; packed types have a last axis of two, the low half first.

    Raises
    ------
    EmulatorError
        There is no such type, or it is wider than the register.
    """
    if type_name not in NUMPY_TYPES:
        raise EmulatorError(f".{type_name} is not a register type: expected one of {', '.join(NUMPY_TYPES)}")
    if bits.dtype == np.bool_ or type_name == "pred":
        return bits.astype(NUMPY_TYPES[type_name])
    size = TYPE_SIZES[type_name]
    if size > bits.itemsize:
        raise EmulatorError(f"a register of {bits.itemsize} bytes holds no value of .{type_name}, which has {size}")
    low = bits.astype(f"u{size}")
    if type_name.startswith("bf16"):
        halves = low[..., None] >> np.array([0, 16], np.uint32) if size == 4 else low[..., None]
        wide: Array = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide if size == 4 else wide[..., 0]
    if type_name == "f16x2":
        return np.ascontiguousarray(low).view(np.float16).reshape(*low.shape, 2)
    return low.view(NUMPY_TYPES[type_name])


def instruction_at(program: Program, block: int) -> Instruction | None:
    """The instruction of a block of a program compiled for stepping; the last block may have none."""
    found = program.blocks[block]
    return found.body[0] if found.body else found.end


class Registers:
    """The registers of one program compiled for stepping.

    Attributes
    ----------
    writers : dict of int to list of int
        Blocks that write each register, by its index.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.writers: dict[int, list[int]] = {}
        self._readers: dict[int, list[int]] = {}
        self._scopes: dict[int, set[tuple[CallSite, ...]]] = {}
        for block in program.blocks:
            instruction = instruction_at(program, block.index)
            if instruction is None:
                continue
            for index in _bits(block.defines):
                self.writers.setdefault(index, []).append(block.index)
            for index in _bits(block.uses):
                self._readers.setdefault(index, []).append(block.index)
            for index in _bits(block.defines | block.uses):
                self._scopes.setdefault(index, set()).add(instruction.callers)
        self.kinds = self._infer()
        self._by_name: dict[str, list[Register]] = {}
        for register in program.declared:
            if register.index in self._scopes and register.name.startswith("%"):
                self._by_name.setdefault(register.name, []).append(register)

    # By name.

    def names(self, block: int | None = None) -> list[str]:
        """All names, in the order of the text; with `block`, those of the function that it is in."""
        if block is None:
            return list(self._by_name)
        here = self._callers(block)
        return [n for n, found in self._by_name.items() if any(here in self._scopes[r.index] for r in found)]

    def all(self, name: str) -> list[Register]:
        """The registers of a name: one, unless device functions or nested scopes have registers of that name, too.

        Raises
        ------
        EmulatorError
            No instruction uses such a register.
        """
        found = self._by_name.get(name)
        if not found:
            raise EmulatorError(f"no instruction of {self.program.name} uses a register {name!r}")
        return found

    def select(self, name: str, function: str | None = None) -> list[Register]:
        """The registers that a name means in a function: the kernel, unless it has none, or the one that is named.

        Raises
        ------
        EmulatorError
            No instruction there uses such a register.
        """
        every = self.all(name)
        kernel = self.program.name

        def inside(register: Register, where: str) -> bool:
            return any((c[-1].callee if c else kernel) == where for c in self._scopes[register.index])

        found = [r for r in every if inside(r, function or kernel)]
        if function is not None and not found:
            raise EmulatorError(f"no instruction of {function} in {kernel} uses a register {name!r}")
        return found or every

    def find(self, name: str, block: int) -> Register:
        """The register that a name means at a block: of the same function, the nearest where there are several."""
        here = self._callers(block)
        every = self.all(name)
        mine = [r for r in every if here in self._scopes[r.index]] or every
        if len(mine) == 1:
            return mine[0]

        def distance(register: Register) -> int:
            places = [*self.writers.get(register.index, ()), *self._readers.get(register.index, ())]
            first, last = min(places), max(places)
            return 0 if first <= block <= last else min(abs(block - first), abs(block - last))

        return min(mine, key=distance)

    def _callers(self, block: int) -> tuple[CallSite, ...]:
        instruction = instruction_at(self.program, block)
        return instruction.callers if instruction is not None else ()

    # What they hold.

    def kind(self, register: Register) -> str:
        """The PTX type that a register's bits are best shown as."""
        return self.kinds.get(register.index) or _plain(register)

    def _infer(self) -> dict[int, str]:
        kinds: dict[int, str] = {}
        width = {r.index: TYPE_SIZES[r.type] for r in self.program.declared}
        for register in self.program.declared:
            if register.type == "pred" or register.type[0] != "b":
                kinds[register.index] = register.type
        for tables, writes in ((self.writers, True), (self._readers, False)):
            for index, blocks in tables.items():
                if index in kinds:
                    continue
                found = (self._stated(block, index, width[index], writes) for block in blocks)
                kind = next((k for k in found if k is not None), None)
                if kind is not None:
                    kinds[index] = kind
        for _ in range(4):  # along chains of copies
            if not self._follow_copies(kinds, width):
                break
        return kinds

    def _stated(self, block: int, index: int, width: int, writes: bool) -> str | None:
        """The type that an instruction gives to a register, ``None`` where it only moves bits."""
        instruction = instruction_at(self.program, block)
        assert instruction is not None
        root, *parts = instruction.opcode.split(".")
        if root in ("ld", "ldu", "st", "mov", "cp", "ldmatrix", "stmatrix", "mbarrier"):
            parts = [p for p in parts if p[0] in "sf"]  # .u is what compilers write for want of a better word
        types = [p for p in parts if p in TYPE_SIZES and p != "pred" and (p[0] != "b" or p.startswith("bf"))]
        if root in ("mma", "wgmma"):
            at = next((k for k, o in enumerate(instruction.operands) if index in _indices(o)), 0)
            kind = types[min(at, len(types) - 1)] if types else None
            return _PACKED.get(kind, kind) if kind and width == 4 else None
        if root == "cvt" and len(types) == 2:
            types = types[:1] if writes else types[1:]
        if root == "mad" and not writes and "wide" in parts and types:
            types.append(_WIDER.get(types[0], types[0]))
        if "wide" in parts and writes:
            types = [_WIDER.get(t, t) for t in types]
        fitting = [t for t in types if TYPE_SIZES[t] == width]
        if root == "set" or not fitting:
            return None
        return fitting[0] if writes else fitting[-1]

    def _follow_copies(self, kinds: dict[int, str], width: dict[int, int]) -> bool:
        changed = False
        for block in self.program.blocks:
            instruction = instruction_at(self.program, block.index)
            if instruction is None or instruction.opcode.partition(".")[0] not in _COPIES:
                continue
            involved = [i for i in _bits(block.defines | block.uses) if width[i]]
            known = [i for i in involved if kinds.get(i, "pred") != "pred"]
            for index in involved:
                if index in kinds:
                    continue
                like = [i for i in known if width[i] == width[index]]
                if like:
                    kinds[index] = kinds[like[0]]
                    changed = True
        return changed

    def read(self, values: Sequence[Array], register: Register, lanes: tuple[int, int]) -> Array:
        """A register of all lanes as bits, shape (C, T), not to be written."""
        return np.broadcast_to(values[register.index], lanes)


def _plain(register: Register) -> str:
    return {"b8": "u8", "b16": "u16", "b32": "s32", "b64": "u64"}.get(register.type, register.type)


def _indices(operand: Operand) -> set[int]:
    if isinstance(operand, Register):
        return {operand.index}
    if isinstance(operand, Negated):
        return _indices(operand.operand)
    if isinstance(operand, Pair):
        return _indices(operand.first) | _indices(operand.second)
    if isinstance(operand, (Vector, Group)):
        return set().union(*(_indices(o) for o in operand.items)) if operand.items else set()
    return set()


def _bits(value: int) -> Iterable[int]:
    while value:
        low = value & -value
        yield low.bit_length() - 1
        value ^= low
