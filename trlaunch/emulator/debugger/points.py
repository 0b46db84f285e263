"""Breakpoints and watchpoints: where a launch is to stop."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trlaunch.emulator.debugger.expressions import Expression
from trlaunch.emulator.instructions.base import U8, Array
from trlaunch.emulator.local import LOCAL_WINDOW
from trlaunch.emulator.memory import SHARED_WINDOW, bytes_at
from trlaunch.emulator.registers import instruction_at
from trlaunch.emulator.syntax import TYPE_SIZES, Address, Instruction, Register
from trlaunch.errors import EmulatorError

if TYPE_CHECKING:
    from trlaunch.emulator.debugger.engine import Engine, Stop
    from trlaunch.emulator.debugger.lines import Frame

__all__ = ["Breakpoint", "Points", "Watchpoint", "holds", "where"]

_SOURCE = re.compile(r"(.*):(\d+)\Z")
#: Instructions that write memory at their first address.
_WRITES = ("st", "atom", "red", "cp", "stmatrix", "mbarrier")


@dataclass(slots=True)
class Breakpoint:
    """A place to stop at.

    Attributes
    ----------
    place : str
        In words.
    blocks : tuple of int
        Where the program stops for it.
    condition : Expression or None
        It stops only if this holds for a lane.
    hits : int
        How often it stopped the launch.
    """

    number: int
    place: str
    blocks: tuple[int, ...]
    condition: Expression | None = None
    temporary: bool = False
    enabled: bool = True
    hits: int = 0


@dataclass(slots=True)
class Watchpoint:
    """Bytes that the launch stops behind a change of.

    Attributes
    ----------
    what : str
        As it was asked for.
    space : {"global", "shared"}
    address, nbytes : int
    cta : int
        Linear index of the CTA whose shared memory it is.
    show : callable
        Bytes to text.
    """

    number: int
    what: str
    space: str
    address: int
    nbytes: int
    cta: int
    show: Callable[[bytes], str]
    condition: Expression | None = None
    enabled: bool = True
    hits: int = 0
    before: bytes | None = None

    def read(self, engine: Engine) -> bytes | None:
        """The bytes; ``None`` while their CTA does not run."""
        if self.space == "global":
            return bytes_at(self.address, self.nbytes).tobytes()
        rows = np.flatnonzero(engine.ctas == self.cta)
        if not len(rows) or engine.scheduler is None:
            return None
        return engine.scheduler.chunk.shared.bytes[rows[0], self.address : self.address + self.nbytes].tobytes()


@dataclass(slots=True)
class Points:
    """All of a session, by number."""

    table: dict[int, Breakpoint | Watchpoint] = field(default_factory=dict)
    _count: int = 0

    def number(self) -> int:
        """The next number."""
        self._count += 1
        return self._count

    def get(self, number: int) -> Breakpoint | Watchpoint:
        """One of them.

        Raises
        ------
        EmulatorError
            There is none of that number.
        """
        if number not in self.table:
            known = f"expected one of {', '.join(map(str, self.table))}" if self.table else "none is set"
            raise EmulatorError(f"there is no breakpoint or watchpoint {number}: {known}")
        return self.table[number]

    def install(self, engine: Engine) -> None:
        """Have the engine stop at them from now on."""
        breakpoints = [p for p in self.table.values() if isinstance(p, Breakpoint) and p.enabled]
        watchpoints = [p for p in self.table.values() if isinstance(p, Watchpoint) and p.enabled]
        if engine.running:
            for point in watchpoints:
                point.before = point.read(engine)
        blocks = [b for p in breakpoints for b in p.blocks]
        engine.set_hooks(blocks, self._reached, self._changed if watchpoints else None)

    def _reached(self, engine: Engine, block: int, mask: Array | None) -> Stop | None:
        from trlaunch.emulator.debugger.engine import Stop

        active = engine.alive if mask is None else np.broadcast_to(mask, engine.lanes) & engine.alive
        hit: list[Breakpoint] = []
        trouble = ""
        lanes = np.zeros(engine.lanes, bool)
        for point in list(self.table.values()):
            if not isinstance(point, Breakpoint) or not point.enabled or block not in point.blocks:
                continue
            try:
                here = active if point.condition is None else active & holds(engine, point.condition, block)
            except EmulatorError as error:
                here, trouble = active, f", whose condition fails: {error}"
            if here.any():
                point.hits += 1
                hit.append(point)
                lanes |= here
        if not hit:
            return None
        names = ", ".join(f"{p.number}" for p in hit)
        for point in hit:
            if point.temporary:
                del self.table[point.number]
        if any(p.temporary for p in hit):
            self.install(engine)
        word = "temporary breakpoint" if all(p.temporary for p in hit) else "breakpoint"
        return Stop("breakpoint", f"{word} {names}{trouble}", lanes)

    def _changed(self, engine: Engine, block: int, mask: Array | None) -> Stop | None:
        from trlaunch.emulator.debugger.engine import Stop

        texts: list[str] = []
        lanes = None
        for point in self.table.values():
            if not isinstance(point, Watchpoint) or not point.enabled:
                continue
            now, before = point.read(engine), point.before
            if now == before:
                continue
            point.before = now
            if now is None or before is None:  # another chunk of CTAs
                continue
            writers = _writers(engine, block, mask, point)
            if point.condition is not None and not (writers & holds(engine, point.condition, block)).any():
                continue
            point.hits += 1
            lanes = writers if lanes is None else lanes | writers
            instruction = instruction_at(engine.registers.program, block)
            line = instruction.line if instruction is not None else 0
            texts.append(
                f"watchpoint {point.number}: {point.what} changed from {point.show(before)} to {point.show(now)}"
                f" at PTX line {line}"
            )
        return Stop("watchpoint", "\n".join(texts), lanes) if texts else None


def holds(engine: Engine, condition: Expression, block: int) -> Array:
    """The lanes for which a condition holds, shape (C, T)."""
    from trlaunch.emulator.debugger.values import reader

    return np.broadcast_to(condition.evaluate(reader(engine, block)).astype(bool), engine.lanes)


def _writers(engine: Engine, block: int, mask: Array | None, point: Watchpoint) -> Array:
    """The lanes that wrote what is watched: by their addresses, where the instruction tells, else all that ran."""
    active = engine.alive if mask is None else np.broadcast_to(mask, engine.lanes) & engine.alive
    instruction = instruction_at(engine.registers.program, block)
    if instruction is None or engine.scheduler is None:
        return active
    values = engine.scheduler.chunk.registers
    if instruction.guard is not None:
        guard = np.broadcast_to(values[instruction.guard.index], engine.lanes)
        active = active & (~guard if instruction.guard_negated else guard)
    target = next((o for o in instruction.operands if isinstance(o, Address)), None)
    if target is None or instruction.opcode.partition(".")[0] not in _WRITES or not isinstance(target.base, Register):
        return active
    if target.base.type in ("pred", "b8", "b16", "u16", "s16", "f16"):
        return active
    width = 64 if values[target.base.index].itemsize == 8 else 32
    address = values[target.base.index].astype(U8) + U8(target.offset % (1 << width))
    if width == 32:
        address = address & U8(0xFFFFFFFF)
    if point.space == "shared":
        address = np.where((address >= SHARED_WINDOW) & (address < LOCAL_WINDOW), address - SHARED_WINDOW, address)
    near = np.broadcast_to(
        (address < U8(point.address + point.nbytes)) & (address + U8(_size(instruction)) > U8(point.address)),
        engine.lanes,
    )
    if point.space == "shared":
        near = near & (engine.ctas == point.cta)[:, None]
    found = active & near
    return found if found.any() else active


def _size(instruction: Instruction) -> int:
    """Bytes that a lane writes, as far as the opcode says."""
    parts = instruction.opcode.split(".")
    if parts[0] not in ("st", "atom", "red"):
        return 16
    size = next((TYPE_SIZES[p] for p in reversed(parts) if TYPE_SIZES.get(p)), 16)
    return size * next((int(p[1]) for p in parts if p in ("v2", "v4", "v8")), 1)


def where(engine: Engine, text: str, block: int | None) -> tuple[str, list[int]]:
    """What ``123``, ``file.py:12``, ``:12`` or a label means: in words, and the blocks.

    Raises
    ------
    EmulatorError
        There is no such place.
    """
    text = text.strip()
    lines = engine.lines
    if not text:
        if block is None:
            raise EmulatorError("break needs a place: a PTX line, file.py:12, :12 for a line of the kernel, or a label")
        instruction = instruction_at(engine.registers.program, block)
        return f"PTX line {instruction.line if instruction else 0}", [block]
    if text.isdecimal() and len(text) < 10:
        line, blocks = lines.blocks_at_ptx_line(int(text))
        return f"PTX line {line}", blocks
    if (m := _SOURCE.match(text)) is not None and len(m[2]) < 10:
        blocks = lines.blocks_at_source(m[1], int(m[2]))
        file = m[1] or next((f.name for b in blocks[:1] if (f := _own_frame(engine, b))), "")
        numbers = sorted({i.line for b in blocks if (i := instruction_at(engine.registers.program, b))})
        shown = ", ".join(map(str, numbers[:6])) + (", ..." if len(numbers) > 6 else "")
        return f"{file}:{m[2]} (PTX line{'s' if len(numbers) > 1 else ''} {shown})", blocks
    label = lines.line_of_label(text)
    if label is None:
        raise EmulatorError(
            f"{text[:60]!r} is no place: expected a PTX line, file.py:12, :12 for a line of the kernel, or a label"
        )
    line, blocks = lines.blocks_at_ptx_line(label)
    return f"{text} (PTX line {line})", blocks


def _own_frame(engine: Engine, block: int) -> Frame | None:
    instruction = instruction_at(engine.registers.program, block)
    return engine.lines.own(instruction.line) if instruction is not None else None
