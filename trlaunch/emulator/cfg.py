"""Control flow: basic blocks of a body in the order of the text, and which registers live across them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trlaunch.emulator.syntax import Body, Instruction, LabelMark

__all__ = ["Block", "blocks_of", "is_polling", "live_out"]

#: Instructions that end a block because lanes wait there for other lanes.
_BARRIERS = ("bar", "barrier")
_EXITS = ("ret", "exit", "trap")
#: A loop around one of these may wait for another lane's write.
_POLLING = ("atom", "mbarrier")
_STRONG = frozenset(("volatile", "acquire", "relaxed"))


@dataclass(slots=True)
class Block:
    """Instructions that run together. The last decides where lanes go next.

    Attributes
    ----------
    kind : {"fall", "jump", "branch", "exit", "trap", "barrier"}
        ``branch``, and the guarded forms of the others, send lanes to `target` where the block's result is true and to
        `following` where it is not.
    target, following : int or None
        Block indices.
    polls : bool
        The jump to `target` goes back, and the loop contains an instruction that may wait for other lanes.
    uses, defines : int
        Bit sets of register indices, filled in by the code generator.
    """

    index: int
    body: list[Instruction] = field(default_factory=list)
    kind: str = "fall"
    end: Instruction | None = None
    target: int | None = None
    following: int | None = None
    polls: bool = False
    uses: int = 0
    defines: int = 0

    @property
    def successors(self) -> list[int]:
        """Blocks that can come next."""
        return [b for b in (self.target, self.following) if b is not None]


def blocks_of(body: Body, single: bool = False) -> list[Block]:
    """The basic blocks of a body; the last one always ends in an exit. With `single`, of one instruction each."""
    blocks = [Block(0)]
    labels: dict[int, int] = {}

    def start() -> None:
        if blocks[-1].body or blocks[-1].end is not None:
            blocks.append(Block(len(blocks)))

    for statement in body.statements:
        if isinstance(statement, LabelMark):
            start()
            labels[statement.id] = len(blocks) - 1
            continue
        current = blocks[-1]
        root = statement.opcode.partition(".")[0]
        if root == "bra":
            current.kind = "jump" if statement.guard is None else "branch"
        elif root in _EXITS:
            current.kind = "trap" if root == "trap" else "exit"
        elif root in _BARRIERS and not statement.opcode.startswith(("bar.warp", "barrier.cluster")):
            current.kind = "barrier"
        else:
            current.body.append(statement)
            if single:
                blocks.append(Block(len(blocks)))
            continue
        current.end = statement
        blocks.append(Block(len(blocks)))
    if blocks[-1].kind == "fall":
        blocks[-1].kind = "exit"
    for block in blocks:
        last = block.index + 1
        if block.end is not None and block.end.target is not None:
            block.target = labels[block.end.target]
        if last < len(blocks) and (
            block.kind in ("fall", "barrier", "branch") or (block.end is not None and block.end.guard is not None)
        ):
            block.following = last
        if block.target is not None and block.target <= block.index:
            loop = blocks[block.target : block.index + 1]
            block.polls = any(is_polling(i) for b in loop for i in b.body)
    return blocks


def is_polling(instruction: Instruction) -> bool:
    """Whether a loop around this instruction may wait for another lane."""
    parts = instruction.opcode.split(".")
    return parts[0] in _POLLING or (parts[0] == "ld" and not _STRONG.isdisjoint(parts))


def live_out(blocks: Sequence[Block]) -> list[int]:
    """Per block, the bit set of registers that a later block reads before it writes them."""
    into = [b.uses for b in blocks]
    out = [0] * len(blocks)
    before = _predecessors(blocks)
    todo = list(range(len(blocks)))
    queued = set(todo)
    while todo:
        index = todo.pop()
        queued.discard(index)
        block = blocks[index]
        out[index] = _union(into[s] for s in block.successors)
        reached = block.uses | (out[index] & ~block.defines)
        if reached != into[index]:
            into[index] = reached
            fresh = [p for p in before[index] if p not in queued]
            todo.extend(fresh)
            queued.update(fresh)
    return out


def _predecessors(blocks: Sequence[Block]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in blocks]
    for block in blocks:
        for successor in block.successors:
            found[successor].append(block.index)
    return found


def _union(sets: Iterable[int]) -> int:
    result = 0
    for item in sets:
        result |= item
    return result
