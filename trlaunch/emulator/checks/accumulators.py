"""Registers of ``wgmma`` that are used before its group was waited for.

Accumulators, and A where it is in registers, belong to the asynchronous proxy from ``wgmma.mma_async`` until a
``wgmma.wait_group`` covers it (PTX ISA, "wgmma.mma_async": accessing them before is undefined). Only another
``wgmma.mma_async`` may accumulate into the same registers. That no path breaks the rule can be told from the text.
"""

from __future__ import annotations

from trlaunch.emulator.cfg import Block
from trlaunch.emulator.checks.slices import registers_of
from trlaunch.emulator.program import Program
from trlaunch.emulator.syntax import Immediate, Instruction, Vector

__all__ = ["registers_of_all", "unwaited"]

#: For each register: the instruction, and groups committed since (the least over all paths), no more than this.
_State = dict[str, tuple[int, int]]
_MOST = 64


def unwaited(program: Program) -> list[tuple[int, int]]:
    """Pairs of sites: what uses a register too early, and the ``wgmma.mma_async`` it belongs to."""
    if not any(i.opcode.startswith("wgmma.mma_async") for i in program.sites):
        return []
    starts, at = [], 0
    for block in program.blocks:
        starts.append(at)
        at += len(block.body) + (block.end is not None)
    entering: list[_State | None] = [None] * len(program.blocks)
    entering[0] = {}
    todo = [0]
    found: dict[tuple[int, int], None] = {}
    while todo:
        index = todo.pop()
        state = dict(entering[index] or {})
        _through(program.blocks[index], starts[index], state, found)
        for successor in program.blocks[index].successors:
            joined = _joined(entering[successor], state)
            if joined is not None:
                entering[successor] = joined
                todo.append(successor)
    return list(found)


def _joined(before: _State | None, state: _State) -> _State | None:
    """What two paths agree on at worst; ``None`` if that is `before`."""
    if before is None:
        return dict(state)
    made = dict(before)
    for name, (site, age) in state.items():
        if name not in made or age < made[name][1]:
            made[name] = site, age
    return made if made != before else None


def _through(block: Block, start: int, state: _State, found: dict[tuple[int, int], None]) -> None:
    for n, instruction in enumerate([*block.body, *([block.end] if block.end is not None else [])]):
        parts = instruction.opcode.split(".")
        if parts[0] != "wgmma":
            for name in registers_of_all(instruction) & state.keys():
                found.setdefault((start + n, state[name][0]))
        elif parts[1] == "commit_group":
            for name, (site, age) in state.items():
                state[name] = site, min(age + 1, _MOST)
        elif parts[1] == "wait_group":
            pending = instruction.operands[0]
            most = pending.value if isinstance(pending, Immediate) else 0
            for name in [name for name, (_, age) in state.items() if age > most]:
                del state[name]
        elif parts[1] == "mma_async":
            target, left = instruction.operands[:2]
            for name in registers_of(target) | (registers_of(left) if isinstance(left, Vector) else set()):
                state[name] = start + n, 0


def registers_of_all(instruction: Instruction) -> set[str]:
    """Names of all registers that an instruction reads or writes."""
    guard = () if instruction.guard is None else (instruction.guard,)
    return {name for operand in (*instruction.operands, *guard) for name in registers_of(operand)}
