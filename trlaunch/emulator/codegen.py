"""PTX to NumPy: one Python function per basic block.

Lanes are a chunk of C CTAs of T threads each. A register is an array of shape (1, 1), (C, 1), (1, T) or (C, T), so
that what is uniform over threads or CTAs is computed once and NumPy's broadcasting does the rest. Inside a block every
value has its own Python name, views as another type are made once, and a name is deleted after its last use, so that
temporary arrays stay in the cache.

A block function is called as ``f(S, R, m)``: the chunk's state, its registers across blocks, and the mask of active
lanes (``None``: all). It computes every lane and merges what later blocks need under the mask; only memory accesses and
warp-wide instructions look at the mask before. Its result is the condition of a branch or the operands of a barrier.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator import instructions
from trlaunch.emulator.cfg import Block, live_out
from trlaunch.emulator.instructions.base import DTYPES, EMITTERS, RUNTIME, TYPE_DTYPE, Suffixes, refuse
from trlaunch.emulator.syntax import (
    TYPE_SIZES,
    Address,
    Group,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Pair,
    Register,
    Sink,
    Special,
    Symbol,
    Vector,
)
from trlaunch.errors import UnsupportedInstruction

if TYPE_CHECKING:
    from trlaunch.emulator.instructions.matrix import Products

__all__ = ["Emitter", "Layout", "generate"]

_NAME = re.compile(r"\bv\d+\b")
#: What an assignment makes, and calls that check or change state.
_ASSIGNED = re.compile(r"(v\d+(?:, v\d+)*) = ")
_ASKS = re.compile(r"\bS\.[\w.]+\(")
_INDENT = "    "


@dataclass(slots=True)
class Layout:
    """Where symbols lie: parameter offsets, shared offsets, addresses of global variables, places in a thread's frame;
    all in bytes. `carry` stands for the condition code register; with `strides_in_16_bytes` that is the unit of
    ``tensormap.replace``'s strides; `param_address` is set when it turns out that the kernel takes the address of a
    parameter; code that is `observed` tells of fences and groups.
    """

    params: dict[str, int]
    shared: dict[str, int]
    globals: dict[str, int]
    locals: dict[str, int]
    carry: Register
    strides_in_16_bytes: bool = False
    param_address: bool = False
    observed: bool = False


class Emitter:
    """Builds the lines of one block; instruction families call its methods."""

    def __init__(self, layout: Layout, constants: dict[str, Any], occurrences: Counter[int] | None = None) -> None:
        self.layout = layout
        self.constants = constants
        self.occurrences = occurrences if occurrences is not None else Counter()
        self.lines: list[str] = []
        self.uses = 0
        self.defines = 0
        self.site = 0
        self.guard: str | None = None
        self.warp_sync = False
        #: Products whose code is put off until one of their results is read.
        self.deferred: Products | None = None
        #: Registers that ``ldmatrix`` made: the rows it read, which matrix of them, and whether transposed.
        self.origins: dict[str, tuple[str, int, bool]] = {}
        self._env: dict[Register, dict[str, str]] = {}
        self._count = 0
        self._memo: dict[tuple[Any, ...], str] = {}
        self._registers: dict[int, Register] = {}

    # Lines and names.

    def fresh(self) -> str:
        """A new name."""
        self._count += 1
        return f"v{self._count - 1}"

    def temp(self, expression: str) -> str:
        """A new name for the value of `expression`; it is never computed if nobody uses it and no state is asked."""
        name = self.fresh()
        self.lines.append(f"{name} = {expression}")
        return name

    def line(self, text: str) -> None:
        """A statement."""
        self.lines.append(text)

    def event(self, kind: str, pending: int = 0, every: bool = False) -> None:
        """Tell observers, if there are any, of a fence or group; one of `every` active lane, whatever the guard."""
        if self.layout.observed:
            self.line(f"S.event({self.site}, {kind!r}, {'m' if every else self.mask()}, {pending})")

    def memo(self, key: tuple[Any, ...], expression: Callable[[], str]) -> str:
        """The name of a value that may be computed once per block; `key` must name all it depends on."""
        if key not in self._memo:
            self._memo[key] = self.temp(expression())
        return self._memo[key]

    def once(self, key: tuple[Any, ...]) -> bool:
        """Whether this is the first time in this block that `key` is asked for."""
        first = key not in self._memo
        self._memo[key] = ""
        return first

    def flush(self) -> None:
        """Emit what was put off."""
        deferred, self.deferred = self.deferred, None
        if deferred is not None:
            deferred.flush(self)

    def constant(self, dtype: str, value: Any) -> str:
        """The name of a (1, 1) array."""
        name = f"k_{dtype}_{value:x}" if isinstance(value, int) and value >= 0 else f"k_{dtype}_m{-value:x}"
        if name not in self.constants:
            made = np.array([[value]], dtype=DTYPES[dtype])
            made.flags.writeable = False
            self.constants[name] = made
        return name

    def _float_constant(self, dtype: str, bits: int) -> str:
        name = f"k_{dtype}_x{bits:x}"
        if name not in self.constants:
            made = np.array([[bits]], dtype=DTYPES["u" + dtype[1]]).view(DTYPES[dtype])
            made.flags.writeable = False
            self.constants[name] = made
        return name

    # Operands.

    def read(self, operand: Operand, type_name: str) -> str:
        """The name of an operand's value, as the element type of `type_name`."""
        dtype = TYPE_DTYPE.get(type_name)
        if dtype is None:
            raise refuse(f"the type .{type_name} is not executed")
        return self.read_as(operand, dtype)

    def read_as(self, operand: Operand, dtype: str) -> str:
        """The name of an operand's value as element type `dtype`."""
        if isinstance(operand, Register):
            return self._read_register(operand, dtype)
        if isinstance(operand, Immediate):
            return self._immediate(operand, dtype)
        if isinstance(operand, Special):
            return self._special(operand, dtype)
        if isinstance(operand, Symbol):
            return self.constant(dtype, self.address_of(operand) & ((1 << 8 * int(dtype[1])) - 1))
        if isinstance(operand, Negated) and dtype == "p":
            inner = self.read_as(operand.operand, "p")
            return self.memo(("not", inner), lambda: f"~{inner}")
        raise refuse(f"an operand of this kind is not executed ({type(operand).__name__.lower()})")

    def address_of(self, symbol: Symbol) -> int:
        """The address of a variable in its own space."""
        for table in (self.layout.shared, self.layout.globals, self.layout.locals, self.layout.params):
            if symbol.name in table:
                return table[symbol.name] + symbol.offset
        raise refuse(f"{symbol.name!r} is not a variable that is executed")

    def _read_register(self, register: Register, dtype: str) -> str:
        values = self._env.get(register)
        if values is None:
            self.uses |= 1 << register.index
            self._registers[register.index] = register
            values = {_canonical(register): f"r{register.index}"}
            self._env[register] = values
        if self.deferred is not None and not self.deferred.names.isdisjoint(values.values()):
            self.flush()
        if dtype in values:
            return values[dtype]
        width = TYPE_SIZES[register.type]
        if dtype == "p" or register.type == "pred" or int(dtype[1]) > width:
            raise refuse(f"register {register.name} of type .{register.type} is too narrow for this use")
        if int(dtype[1]) == width:
            source = next(iter(values.values()))
            values[dtype] = self.temp(f"{source}.view({dtype})")
        else:
            low = self._read_register(register, f"u{width}")
            unsigned = f"u{dtype[1]}"
            if unsigned not in values:
                values[unsigned] = self.temp(f"{low}.astype({unsigned})")
            if dtype != unsigned:
                values[dtype] = self.temp(f"{values[unsigned]}.view({dtype})")
        return values[dtype]

    def last_name(self, operand: Operand, target: Operand, type_name: str) -> str | None:
        """The name of a register that is read for the last time: `target` replaces it, or the whole kernel writes and
        reads it once. It may not have its value yet.
        """
        if not isinstance(operand, Register) or (operand != target and self.occurrences[operand.index] != 2):
            return None
        return self._env.get(operand, {}).get(TYPE_DTYPE[type_name])

    def _immediate(self, operand: Immediate, dtype: str) -> str:
        value, kind = operand.value, operand.kind
        if dtype == "p":
            return self.constant("p", int(value != 0))
        bits = 8 * int(dtype[1])
        if dtype[0] == "f":
            if kind == "int":
                raise refuse("an integer constant stands where a floating-point one is expected")
            number = struct.unpack("<f", struct.pack("<I", value))[0] if kind == "f32" else None
            if number is None:
                number = struct.unpack("<d", struct.pack("<Q", value))[0]
            if (dtype, kind) in (("f4", "f32"), ("f8", "f64")):
                return self._float_constant(dtype, value)
            with np.errstate(all="ignore"):
                made = np.array(number).astype(DTYPES[dtype])
            return self._float_constant(dtype, int(made.view(DTYPES[f"u{dtype[1]}"])))
        if kind == "f64" and bits == 32:
            with np.errstate(all="ignore"):
                made = np.array(struct.unpack("<d", struct.pack("<Q", value))[0]).astype(np.float32)
            value = int(made.view(np.uint32))
        value &= (1 << bits) - 1
        if dtype[0] == "i" and value >> (bits - 1):
            value -= 1 << bits
        return self.constant(dtype, value)

    def _special(self, operand: Special, dtype: str) -> str:
        name = operand.name[1:].replace(".", "_")
        if name not in instructions.SPECIAL_REGISTERS:
            raise refuse(f"the special register {operand.name} is not executed")
        if name in instructions.CLOCKS:
            return self.temp(f"S.clock().astype({dtype})")
        value = self.memo(("special", name), lambda: f"S.{name}")
        stored = instructions.SPECIAL_REGISTERS[name]
        if dtype == stored:
            return value
        if dtype[0] in "ui" and int(dtype[1]) == int(stored[1]):
            return self.memo(("special", name, dtype), lambda: f"{value}.view({dtype})")
        return self.memo(("special", name, dtype), lambda: f"{value}.astype({dtype})")

    # Results.

    def write(self, operand: Operand, type_name: str, expression: str) -> None:
        """Make a register hold `expression`, whose element type is that of `type_name`."""
        self.write_as(operand, TYPE_DTYPE[type_name], expression)

    def write_as(self, operand: Operand, dtype: str, expression: str, *, name_only: bool = False) -> None:
        """As `write`, by element type. With `name_only` the expression is a name that needs no new one."""
        if isinstance(operand, Sink):
            return
        if not isinstance(operand, Register):
            raise refuse("the result is not a register")
        width = TYPE_SIZES[operand.type]
        if (operand.type == "pred") != (dtype == "p") or (dtype != "p" and int(dtype[1]) > width):
            raise refuse(f"register {operand.name} of type .{operand.type} cannot hold this result")
        if self.guard is None:
            value = expression if name_only else self.temp(expression)
        else:
            guard, old = self.guard, None
            value = expression if name_only else self.temp(expression)
            if dtype == "p" or int(dtype[1]) == width:
                old = self._read_register(operand, dtype)
                value = self.temp(f"where({guard}, {value}, {old})")
        if dtype != "p" and int(dtype[1]) < width:
            wide = f"{'i' if dtype[0] == 'i' else 'u'}{width}"
            if dtype[0] == "f":
                value = self.temp(f"{value}.view(u{dtype[1]})")
            value = self.temp(f"{value}.astype({wide})")
            dtype = wide
            if self.guard is not None:
                value = self.temp(f"where({self.guard}, {value}, {self._read_register(operand, wide)})")
        self._define(operand, {dtype: value})

    def copy(self, target: Operand, source: Operand, type_name: str) -> None:
        """Let `target` be another name for the value of `source`."""
        dtype = TYPE_DTYPE[type_name]
        if (
            self.guard is None
            and isinstance(target, Register)
            and isinstance(source, Register)
            and TYPE_SIZES[target.type] == TYPE_SIZES[source.type]
            and (target.type == "pred") == (source.type == "pred")
        ):
            self._read_register(source, next(iter(self._env.get(source, {})), _canonical(source)))
            self._define(target, self._env[source].copy())
        else:
            self.write_as(target, dtype, self.read_as(source, dtype), name_only=True)

    def _define(self, register: Register, values: dict[str, str]) -> None:
        self._env[register] = values
        self.defines |= 1 << register.index
        self._registers[register.index] = register

    def mask(self) -> str:
        """The name of the mask of lanes that execute this instruction: ``m`` and the guard."""
        if self.guard is None:
            return "m"
        guard = self.guard
        return self.memo(("mask", guard), lambda: f"both(m, {guard})")

    def invalidate(self, prefix: str) -> None:
        """Forget remembered values whose key begins with `prefix`."""
        self._memo = {k: v for k, v in self._memo.items() if k[0] != prefix}

    # The block as a whole.

    def instruction(self, instruction: Instruction, site: int) -> None:
        """Emit one instruction.

        Raises
        ------
        UnsupportedInstruction
            It is not executed; the message says what of it.
        """
        self.site = site
        suffixes = Suffixes(instruction.opcode)
        emit = EMITTERS.get(suffixes.root)
        if emit is None:
            raise refuse(f"{suffixes.root} is not executed")
        self.guard = self.guard_of(instruction)
        emit(self, instruction, suffixes)
        self.guard = None

    def guard_of(self, instruction: Instruction) -> str | None:
        """The name of the instruction's predicate value."""
        if instruction.guard is None:
            return None
        operand: Operand = instruction.guard
        return self.read_as(Negated(operand) if instruction.guard_negated else operand, "p")

    def finish(self, live: int, result: str | None) -> list[str]:
        """All lines of the block, registers loaded and stored, names deleted after their last use."""
        stored = [(i, self._final(i)) for i in _bits(self.defines & live)]
        lines = [f"r{i} = R[{i}]" for i in _bits(self.uses)]
        body = _delete_early(self.lines, {v for _, v in stored} | ({result} if result else set()))
        lines += body
        if stored:
            lines.append("if m is None:")
            lines += [f"{_INDENT}R[{i}] = {v}" for i, v in stored]
            lines.append("else:")
            lines += [f"{_INDENT}R[{i}] = where(m, {v}, R[{i}])" for i, v in stored]
        if result:
            lines.append(f"return {result}")
        return lines or ["pass"]

    def _final(self, index: int) -> str:
        register = self._registers[index]
        return self._read_register(register, _canonical(register))


def _canonical(register: Register) -> str:
    if register.type == "pred":
        return "p"
    width = TYPE_SIZES[register.type]
    if width > 8:
        raise refuse(f"registers of type .{register.type} are not executed")
    return f"u{width}"


def _bits(value: int) -> list[int]:
    return [i for i, digit in enumerate(reversed(bin(value)[2:])) if digit == "1"]


def _delete_early(lines: list[str], keep: set[str]) -> list[str]:
    seen: set[str] = set(keep)
    out: list[str] = []
    for line in reversed(lines):
        made = _ASSIGNED.match(line)
        if made is not None and seen.isdisjoint(_NAME.findall(made[1])) and not _ASKS.search(line):
            continue
        dead = [name for name in dict.fromkeys(_NAME.findall(line)) if name not in seen]
        seen.update(dead)
        if dead:
            out.append("del " + ", ".join(dead))
        out.append(line)
    out.reverse()
    return out


def _occurrences(blocks: list[Block]) -> Counter[int]:
    """How often each register stands in a kernel, by index."""
    found: Counter[int] = Counter()
    todo: list[Any] = []
    for block in blocks:
        for instruction in block.body if block.end is None else [*block.body, block.end]:
            todo += instruction.operands
            todo.append(instruction.guard)
    while todo:
        operand = todo.pop()
        if isinstance(operand, Register):
            found[operand.index] += 1
        elif isinstance(operand, (Vector, Group)):
            todo += operand.items
        elif isinstance(operand, Address):
            todo += (operand.base, *operand.rest)
        elif isinstance(operand, Pair):
            todo += (operand.first, operand.second)
        elif isinstance(operand, Negated):
            todo.append(operand.operand)
    return found


def generate(
    blocks: list[Block], layout: Layout, limit: int, keep_all: bool = False
) -> tuple[str, dict[str, Any], list[Instruction], list[bool], list[tuple[Instruction, str]]]:
    """Source text of all block functions; with `keep_all`, they leave every register that they write.

    Returns
    -------
    source : str
        Functions ``b0``, ``b1``, ...
    namespace : dict
        Constants and functions the source refers to.
    sites : list of Instruction
        What the site numbers in the source stand for.
    warp_sync : list of bool
        Per block, whether it contains an instruction that all lanes of a warp must execute together.
    refused : list of (Instruction, str)
        What is not executed and why; the source is of use only if this is empty. At most `limit` instructions.
    """
    constants: dict[str, Any] = {}
    sites: list[Instruction] = []
    refused: list[tuple[Instruction, str]] = []
    emitters: list[Emitter] = []
    occurrences = _occurrences(blocks)
    results: list[str | None] = []
    if sum(len(b.body) for b in blocks) > limit:
        raise UnsupportedInstruction(f"a function of more than {limit} instructions is not executed")
    for block in blocks:
        emitter = Emitter(layout, constants, occurrences)
        result = None
        for instruction in [*block.body, *([block.end] if block.end is not None else [])]:
            sites.append(instruction)
            try:
                if instruction is block.end:
                    result = instructions.terminator(emitter, block, len(sites) - 1)
                else:
                    emitter.instruction(instruction, len(sites) - 1)
            except UnsupportedInstruction as error:
                emitter.guard = None
                refused.append((instruction, str(error)))
        block.uses, block.defines = emitter.uses, emitter.defines
        emitters.append(emitter)
        results.append(result)
    if refused:
        return "", {}, sites, [], refused
    live = [-1] * len(blocks) if keep_all else live_out(blocks)
    text: list[str] = []
    for block, emitter, result in zip(blocks, emitters, results, strict=True):
        text.append(f"def b{block.index}(S, R, m):")
        text += [_INDENT + line for line in emitter.finish(live[block.index], result)]
    namespace = {**RUNTIME, **DTYPES, **constants, "where": np.where}
    return "\n".join(text) + "\n", namespace, sites, [e.warp_sync for e in emitters], refused
