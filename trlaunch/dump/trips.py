"""How often the loops around a value run, counted before the launch from the kernel's own integer arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trlaunch.errors import ArgumentError
from trlaunch.mlir_text import Block, Operation, Value

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trlaunch.dump.plan import Capture

    Numbers = npt.NDArray[np.int64]

__all__ = ["Loop", "count_iterations", "definition"]

_MAX_NUMBERS = 1 << 24  # programs x outer iterations that are evaluated at once
_MAX_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop around a captured value: an ``scf.for``, or something whose iterations only running it tells.

    Attributes
    ----------
    label : str
        For messages: ``scf.for in line 90``.
    operation : Operation or None
        The ``scf.for``.
    """

    label: str
    operation: Operation | None = None


class _Unknown(Exception):
    """Why a number is not known before the launch."""


def count_iterations(capture: Capture, grid: tuple[int, int, int], arguments: Mapping[str, int]) -> tuple[int, ...]:
    """The most iterations that any program makes of each loop around a value, outermost first.

    Raises
    ------
    ArgumentError
        A bound is not integer arithmetic over arguments, program ids and constants.
    """
    import numpy as np

    caps: list[int] = []
    evaluate = _Evaluator(grid, arguments, len(capture.loops))
    for axis, loop in enumerate(capture.loops):
        try:
            if loop.operation is None:
                raise _Unknown("only running it tells")
            low, high, step = (evaluate.operand(loop.operation, n) for n in loop.operation.operands[1:4])
            if np.any(step <= 0):
                raise _Unknown("its step is not positive")
            trips = int(np.max(np.maximum(-((low - high) // step), 0), initial=0))
            caps.append(trips)
            shape = [1] * (len(capture.loops) + 1)
            shape[axis + 1] = max(trips, 1)
            induction = low + step * np.arange(max(trips, 1), dtype=np.int64).reshape(shape)
            evaluate.known[loop.operation.blocks[0].arguments[0]] = induction
        except _Unknown as reason:
            raise ArgumentError(
                f"dump {capture.key!r}: how often the {loop.label} runs is not known before the launch ({reason}): "
                f"say how many iterations to keep, trlaunch.at(..., keep=16), or keep='last'"
            ) from None
    if math.prod(grid) == 0:
        return (0,) * len(caps)
    return tuple(caps)


def definition(user: Operation, name: str) -> Value | None:
    """The value that `name` is in an operation: the one of the nearest region around it."""
    for operation, block in ((o, b) for o, b in user.enclosing()):
        for sibling in (b for b in operation.blocks if b.region == block.region):
            found = _in_block(sibling, name)
            if found is not None:
                return found
    return None


def _in_block(block: Block, name: str) -> Value | None:
    for value in block.arguments:
        if value.name == name:
            return value
    for operation in block.operations:
        for value in operation.results:
            if value.name == name:
                return value
    return None


def _quotient(a: Numbers, b: Numbers) -> Numbers:
    import numpy as np

    if np.any(b == 0):
        raise _Unknown("a division by zero")
    exact: Numbers = np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
    return exact


def _minimum(a: Numbers, b: Numbers) -> Numbers:
    import numpy as np

    return np.minimum(a, b)


def _maximum(a: Numbers, b: Numbers) -> Numbers:
    import numpy as np

    return np.maximum(a, b)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divsi": _quotient,
    "arith.divui": _quotient,
    "arith.ceildivsi": lambda a, b: -_quotient(-a, b),
    "arith.remsi": lambda a, b: a - _quotient(a, b) * b,
    "arith.remui": lambda a, b: a - _quotient(a, b) * b,
    "arith.minsi": _minimum,
    "arith.minui": _minimum,
    "arith.maxsi": _maximum,
    "arith.maxui": _maximum,
    "arith.andi": lambda a, b: a & b,
    "arith.ori": lambda a, b: a | b,
    "arith.shli": lambda a, b: a << b,
    "arith.shrsi": lambda a, b: a >> b,
}
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "slt": lambda a, b: a < b,
    "sle": lambda a, b: a <= b,
    "sgt": lambda a, b: a > b,
    "sge": lambda a, b: a >= b,
}
_SAME = ("arith.extsi", "arith.extui", "arith.trunci", "arith.index_cast")


class _Evaluator:
    """Integers of all programs at once: axis 0 is the program, then an axis for each loop."""

    def __init__(self, grid: tuple[int, int, int], arguments: Mapping[str, int], loops: int) -> None:
        self.grid = grid
        self.arguments = arguments
        self.known: dict[Value, Numbers] = {}
        self.loops = loops
        self.steps = 0

    def operand(self, user: Operation, name: str) -> Numbers:
        """The number that a name is in an operation."""
        import numpy as np

        value = definition(user, name)
        if value is None:
            raise _Unknown(f"{name} is not defined")
        if value in self.known:
            return self.known[value]
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise _Unknown("its bounds take too long to work out")
        operation = value.operation
        if value.block is not None:
            if operation.name != "tt.func" or name not in self.arguments:
                raise _Unknown(f"{name} is an argument of {operation.name}")
            made = np.full((1,) * (self.loops + 1), self.arguments[name], np.int64)
        else:
            made = self._compute(operation)
        if made.size > _MAX_NUMBERS:
            raise _Unknown("it has too many programs and iterations to work out")
        self.known[value] = made
        return made

    def _compute(self, operation: Operation) -> Numbers:
        import numpy as np

        name = operation.name
        shape = (-1,) + (1,) * self.loops
        if name == "arith.constant":
            word = operation.head.split(":")[0].split()[0] if operation.head.split() else ""
            number = {"true": 1, "false": 0}.get(word)
            if number is None and word.lstrip("-").isdigit() and len(word) < 20:
                number = int(word)
            if number is None:
                raise _Unknown(f"{operation.head[:40]} is no integer")
            return np.full((1,) * (self.loops + 1), number, np.int64)
        if name in ("tt.get_program_id", "tt.get_num_programs"):
            axis = "xyz".find(operation.head[:1])
            if axis < 0:
                raise _Unknown(f"{name} {operation.head[:20]}")
            if name == "tt.get_num_programs":
                return np.full((1,) * (self.loops + 1), self.grid[axis], np.int64)
            ids: Numbers = np.indices(self.grid, np.int64)[axis].reshape(shape)
            return ids
        operands = [self.operand(operation, n) for n in operation.operands] if name in _KNOWN else []
        if name in _BINARY:
            return np.asarray(_BINARY[name](*operands[:2]), np.int64)
        if name in _SAME:
            return operands[0]
        if name == "arith.select":
            return np.where(operands[0] != 0, operands[1], operands[2])
        predicate = operation.head.split(",")[0]
        if name == "arith.cmpi" and predicate in _COMPARE:
            return np.asarray(_COMPARE[predicate](*operands[:2]), np.int64)
        raise _Unknown(f"it depends on a {name} in line {operation.line}")


_KNOWN = frozenset({*_BINARY, *_SAME, "arith.select", "arith.cmpi"})
