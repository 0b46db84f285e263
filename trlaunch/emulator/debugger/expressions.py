"""Conditions and values over registers, for all lanes at once: ``%r5 == 3 and f32(%r7) > 0.5``.

The grammar is Python's for arithmetic, comparison, ``and``, ``or``, ``not`` and the bit operators; ``&&``, ``||`` and
``!`` are understood as well. Operands are numbers, registers (``%r5``, ``%p1``), special registers (``%tid.x``,
``%ctaid.y``, ``%laneid``, ``%warpid``) and registers read as a type: ``f32(%r5)``, ``s32(%r5)``.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.registers import NUMPY_TYPES
from trlaunch.errors import EmulatorError

__all__ = ["REGISTER", "Expression"]

#: A register's name, and a component of a special one.
REGISTER = re.compile(r"%[A-Za-z_$][\w$]*(?:\.[xyz]\b)?")
_PREFIX = "register_"
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv, ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.BitXor: operator.xor, ast.LShift: operator.lshift, ast.RShift: operator.rshift, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_MOST = 4096
_EXPECTED = "expected something like %r5 == 3 and f32(%r7) > 0.5"
#: The value of a register of all lanes, read as a type (``None``: as what it holds), shape (C, T).
Read = Callable[[str, str | None], Array]


class Expression:
    """One expression, read once.

    Raises
    ------
    EmulatorError
        It is none.
    """

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self.registers: list[str] = list(dict.fromkeys(REGISTER.findall(text)))
        python = text.replace("&&", " and ").replace("||", " or ")
        python = re.sub(r"!(?!=)", " not ", python)
        # `a % b`, the remainder, looks like a register where no blank stands behind the sign.
        python = REGISTER.sub(lambda m: _PREFIX + m[0][1:].replace(".", "__").replace("$", "_S_"), python)
        self._names = {_PREFIX + n[1:].replace(".", "__").replace("$", "_S_"): n for n in self.registers}
        try:
            if len(text) > _MOST:
                raise SyntaxError
            self._tree = ast.parse(python.strip(), mode="eval").body
            self._check(self._tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise EmulatorError(f"{text.strip()[:80]!r} is not understood: {_EXPECTED}") from None

    def _check(self, node: ast.expr) -> None:
        """Refuse what `evaluate` does not know, before anything runs."""
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            return
        if isinstance(node, ast.Name) and node.id in self._names:
            return
        children: list[ast.expr]
        if isinstance(node, ast.BoolOp):
            children = node.values
        elif isinstance(node, ast.UnaryOp):
            children = [node.operand]
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            children = [node.left, node.right]
        elif isinstance(node, ast.Compare) and all(type(o) in _OPERATORS for o in node.ops):
            children = [node.left, *node.comparators]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in NUMPY_TYPES
            and len(node.args) == 1
            and not node.keywords
            and isinstance(node.args[0], ast.Name)
        ):
            children = [node.args[0]]
        else:
            raise SyntaxError
        for child in children:
            self._check(child)

    def evaluate(self, read: Read) -> Array:
        """The value for every lane, in a form that broadcasts to (C, T).

        Raises
        ------
        EmulatorError
            A register is not there, or the operands do not go together.
        """
        try:
            with np.errstate(all="ignore"):
                return np.asarray(self._value(self._tree, read))
        except (TypeError, OverflowError, ZeroDivisionError, ValueError) as error:
            raise EmulatorError(f"{self.text!r} cannot be computed: {error}") from None

    def _value(self, node: ast.expr, read: Read) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return _number(read(self._names[node.id], None))
        if isinstance(node, ast.Call):
            kind, register = node.func, node.args[0]
            assert isinstance(kind, ast.Name)
            assert isinstance(register, ast.Name)
            return _number(read(self._names[register.id], kind.id))
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, read)
            if isinstance(node.op, ast.Not):
                return np.logical_not(value)
            if isinstance(node.op, ast.Invert):
                return np.invert(value)
            return np.negative(value) if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](self._value(node.left, read), self._value(node.right, read))
        if isinstance(node, ast.BoolOp):
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            result = self._value(node.values[0], read)
            for part in node.values[1:]:
                result = join(result, self._value(part, read))
            return result
        assert isinstance(node, ast.Compare)
        left, result = self._value(node.left, read), True
        for op, item in zip(node.ops, node.comparators, strict=True):
            right = self._value(item, read)
            result = np.logical_and(result, _OPERATORS[type(op)](left, right))
            left = right
        return result


def _number(values: Array) -> Array:
    """Values that compute as numbers do on paper: integers in 64 bits, halves as float32."""
    if values.dtype.kind == "b":
        return values.astype(np.int64)
    if values.dtype.kind == "i" or (values.dtype.kind == "u" and values.itemsize < 8):
        return values.astype(np.int64)
    return values.astype(np.float32) if values.dtype == np.float16 else values
