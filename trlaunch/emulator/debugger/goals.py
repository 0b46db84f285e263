"""How far a step goes."""

from __future__ import annotations

from trlaunch.emulator.debugger.engine import Engine, Goal
from trlaunch.emulator.registers import instruction_at

__all__ = ["Finish", "Instructions", "NextLine", "Until"]


class Instructions(Goal):
    """So many instructions of the thread that is followed."""

    def __init__(self, count: int) -> None:
        self._left = count

    def reached(self, engine: Engine, block: int) -> bool:
        """Whether they are executed."""
        del engine, block
        self._left -= 1
        return self._left <= 0


class _Lines(Goal):
    """Looks at the lines of a function, and not at what it calls."""

    def __init__(self, engine: Engine, block: int) -> None:
        self.depth = engine.lines.depth(block)[0]
        self.line = self._line(engine, block)

    def _line(self, engine: Engine, block: int) -> tuple[str, int] | None:
        instruction = instruction_at(engine.registers.program, block)
        frame = engine.lines.own(instruction.line) if instruction is not None else None
        return (frame.file, frame.line) if frame is not None else None


class NextLine(_Lines):
    """Another line of the same function, or the caller's."""

    def reached(self, engine: Engine, block: int) -> bool:
        """Whether this is another line; code that belongs to no line is passed over."""
        depth = engine.lines.depth(block)[0]
        if depth > self.depth:
            return False
        if self.line is None:  # nothing says where it begins or ends: an instruction, over calls
            return True
        line = self._line(engine, block)
        return line is not None and (line != self.line or depth < self.depth)


class Until(_Lines):
    """A later line of the same function: behind the loop that this is in."""

    def __init__(self, engine: Engine, block: int, line: int | None) -> None:
        super().__init__(engine, block)
        self._least = line
        self._block = block

    def reached(self, engine: Engine, block: int) -> bool:
        """Whether the line is reached, or, where no lines are known, a later instruction."""
        depth = engine.lines.depth(block)[0]
        if depth != self.depth:
            return depth < self.depth
        line = self._line(engine, block)
        if self.line is None:
            return block > self._block
        if line is None or line[0] != self.line[0]:
            return False
        return line[1] >= self._least if self._least is not None else line[1] > self.line[1]


class Finish(Goal):
    """The end of the innermost function: one that is called, or one that was inlined."""

    def __init__(self, engine: Engine, block: int) -> None:
        self._calls, self._inlined = engine.lines.depth(block)

    def reached(self, engine: Engine, block: int) -> bool:
        """Whether it is left."""
        calls, inlined = engine.lines.depth(block)
        if calls != self._calls or self._inlined == 1:
            return calls < self._calls
        return inlined < self._inlined
