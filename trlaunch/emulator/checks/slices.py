"""Where the value of a load can go: whether a load that races with a store matters at all.

Triton has every warp load what a small tensor or a scalar holds, and lets one thread store it. Where all that a load's
value can do is to be stored by the very store that it races with, a warp that loads too late stores nothing of it: the
threads that store have loaded for themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trlaunch.emulator.program import Program
from trlaunch.emulator.syntax import Address, Group, Instruction, Negated, Operand, Pair, Register, Vector

__all__ = ["Slices", "registers_of"]

#: Instructions whose result depends on nothing but their operands (in this lane or another of the warp).
_SIDE_EFFECTS = frozenset((
    "st", "atom", "red", "cp", "bra", "brx", "call", "bar", "barrier", "mbarrier", "tensormap", "stmatrix", "wgmma",
    "trap", "exit", "ret", "elect",
))  # fmt: skip


def registers_of(operand: Operand) -> set[str]:
    """Names of the registers of an operand."""
    return set(_registers(operand))


def _registers(operand: Operand) -> Iterator[str]:
    if isinstance(operand, Register):
        yield operand.name
    elif isinstance(operand, Negated):
        yield from _registers(operand.operand)
    elif isinstance(operand, Pair):
        yield from _registers(operand.first)
        yield from _registers(operand.second)
    elif isinstance(operand, (Vector, Group)):
        for item in operand.items:
            yield from _registers(item)
    elif isinstance(operand, Address):
        if isinstance(operand.base, Register):
            yield operand.base.name
        for item in operand.rest:
            yield from _registers(item)


def _all(operands: Iterable[Operand]) -> set[str]:
    return {name for operand in operands for name in _registers(operand)}


class Slices:
    """The uses of each register of a program."""

    def __init__(self, program: Program) -> None:
        self.sites = program.sites
        self._uses: dict[str, list[int]] = {}
        self._reach: dict[int, frozenset[int] | None] = {}
        for at, instruction in enumerate(self.sites):
            names = _all(_sources(instruction))
            if instruction.guard is not None:
                names |= set(_registers(instruction.guard))
            for name in names:
                self._uses.setdefault(name, []).append(at)

    def only_stored_by(self, load: int, store: int) -> bool:
        """Whether the value of a load (a site) reaches no other effect than being the value of a store (a site)."""
        if load not in self._reach:
            self._reach[load] = self._effects(load)
        found = self._reach[load]
        return found is not None and found <= {store}

    def _effects(self, load: int) -> frozenset[int] | None:
        """Stores that store the value, ``None`` if it does anything else."""
        if self.sites[load].opcode.split(".")[0] != "ld":
            return None
        todo = list(_all(self.sites[load].operands[:1]))
        seen = set(todo)
        stores: set[int] = set()
        while todo:
            name = todo.pop()
            for at in self._uses.get(name, ()):
                instruction = self.sites[at]
                root = instruction.opcode.split(".")[0]
                guarded = instruction.guard is not None and name in _registers(instruction.guard)
                if root == "st" and not guarded and name not in _all(instruction.operands[:1]):
                    stores.add(at)
                elif root in _SIDE_EFFECTS or root == "ld":
                    return None
                else:
                    fresh = _all(instruction.operands[:1]) - seen
                    seen |= fresh
                    todo += fresh
        return frozenset(stores)


def _sources(instruction: Instruction) -> tuple[Operand, ...]:
    """Operands that are read: of a store all, of others all behind the first."""
    root = instruction.opcode.split(".")[0]
    return instruction.operands if root in _SIDE_EFFECTS else instruction.operands[1:]
