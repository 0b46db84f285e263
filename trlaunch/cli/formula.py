"""Sizes of a grid as formulas over names: ``cdiv(M,BLOCK_M)*cdiv(N,BLOCK_N)``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from trlaunch.arguments import UsageError

__all__ = ["Formula", "parse_formulas"]

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., int]] = {"cdiv": lambda a, b: -(-a // b), "min": min, "max": max}
_LONGEST = 200


class Formula:
    """One size.

    Parameters
    ----------
    text : str

    Raises
    ------
    UsageError
        It has something else than numbers, names, ``+ - * // %`` and ``cdiv``, ``min``, ``max``.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        try:
            if len(self.text) > _LONGEST:
                raise ValueError(f"{len(self.text)} characters")
            self._tree = ast.parse(self.text, mode="eval").body
            self._check(self._tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UsageError(
                f"grid {self.text[:60]!r}: expected numbers, names, + - * // % and cdiv(a, b), min, max, "
                f"for example cdiv(M,BLOCK_M) ({error})"
            ) from None

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.Constant):
            if type(node.value) is not int:
                raise ValueError(f"found {node.value!r}")
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            self._check(node.left)
            self._check(node.right)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            if node.keywords or (node.func.id == "cdiv" and len(node.args) != 2) or not node.args:
                raise ValueError(f"found {ast.unparse(node)}")
            for argument in node.args:
                self._check(argument)
        elif not isinstance(node, ast.Name):
            raise ValueError(f"found {ast.unparse(node)}")

    @property
    def names(self) -> list[str]:
        """What it refers to."""
        inside = (node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name))
        return [name for name in dict.fromkeys(inside) if name not in _FUNCTIONS]

    def value(self, names: Mapping[str, Any] | Callable[[str], Any]) -> int:
        """The size.

        Raises
        ------
        UsageError
            A name has no whole number for a value, or the result is no size.
        """
        find = names if callable(names) else names.__getitem__
        try:
            found = self._value(self._tree, find)
        except ZeroDivisionError:
            raise UsageError(f"grid {self.text!r}: division by zero") from None
        if not 0 < found < 2**31:
            raise UsageError(f"grid {self.text!r} is {found}: expected 1 to {2**31 - 1}")
        return found

    def _value(self, node: ast.expr, find: Callable[[str], Any]) -> int:
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int)
            return node.value
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](self._value(node.left, find), self._value(node.right, find))
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            return _FUNCTIONS[node.func.id](*(self._value(argument, find) for argument in node.args))
        assert isinstance(node, ast.Name)
        value = find(node.id)
        if type(value) is not int:
            raise UsageError(f"grid {self.text!r}: {node.id} is {value!r:.40}, expected a whole number")
        return value


def parse_formulas(text: str) -> tuple[Formula, ...]:
    """One to three formulas, separated by commas outside parentheses."""
    parts, depth, last = [], 0, 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(text[last:i])
            last = i + 1
    parts.append(text[last:])
    if not 1 <= len(parts) <= 3:
        raise UsageError(f"grid {text!r}: expected one to three sizes, for example 8 or cdiv(M,64),cdiv(N,64)")
    return tuple(Formula(part) for part in parts)
