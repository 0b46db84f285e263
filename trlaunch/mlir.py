"""Reading MLIR text as Triton prints it: functions, their arguments with attributes and locations."""

from __future__ import annotations

import re
from collections.abc import Mapping

from trlaunch.errors import ArtifactError
from trlaunch.records import dataclass, field

__all__ = ["Argument", "Function", "find_function", "split_list"]

_OPEN, _CLOSE = "([{<", ")]}>"
_NAME_LOC = r'loc\(\s*"((?:[^"\\]|\\.)*)"\s*\('
_LOC_ALIAS = r"loc\(\s*(#loc\d*)\s*\)"
_ALIAS_LINE = r'(?m)^(#loc\d*) = loc\("((?:[^"\\]|\\.)*)"\('


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a ``tt.func``.

    Attributes
    ----------
    ssa : str
        SSA name with its ``%``.
    type : str
        MLIR type as printed.
    attributes : mapping of str to str
        ``{"tt.divisibility": "16 : i32"}``.
    name : str or None
        Name in the Python source: Triton 3.5 and later print it as a location, earlier ones do not know it.
    """

    ssa: str
    type: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """One ``tt.func``: its symbol and its arguments in order."""

    symbol: str
    arguments: tuple[Argument, ...]


def find_function(text: str, symbol: str) -> Function | None:
    """The ``tt.func`` of that symbol in TTIR or TTGIR text; ``None`` when there is none.

    Raises
    ------
    ArtifactError
        Its argument list does not parse.
    """
    m = re.search(rf'\btt\.func\s+(?:public\s+|private\s+)?@"?{re.escape(symbol)}"?\(', text)
    if m is None:
        return None
    line = text.count("\n", 0, m.start()) + 1
    aliases = dict(re.findall(_ALIAS_LINE, text))
    parts = split_list(text, m.end())
    if parts is None:
        raise ArtifactError(f"line {line}: the argument list of tt.func @{symbol} is not closed")
    arguments = []
    for part in parts:
        argument = _argument(part, aliases)
        if argument is None:
            raise ArtifactError(f"line {line}: expected '%name: type' in tt.func @{symbol}, found {part[:60]!r}")
        arguments.append(argument)
    return Function(symbol, tuple(arguments))


def split_list(text: str, start: int) -> list[str] | None:
    """Comma-separated parts from `start` to the bracket that closes the list; ``None`` when none does."""
    parts: list[str] = []
    depth, begin, i = 0, start, start
    while i < len(text):
        char = text[i]
        if char == '"':
            i = _string_end(text, i)
            if i < 0:
                return None
        elif char == "-" and text.startswith("->", i):
            i += 1
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
            if depth < 0:
                parts.append(text[begin:i])
                return [p.strip() for p in parts if p.strip()]
        elif char == "," and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
        i += 1
    return None


def _string_end(text: str, start: int) -> int:
    i = start + 1
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == '"':
            return i
        i += 1
    return -1


def _argument(part: str, aliases: Mapping[str, str]) -> Argument | None:
    ssa, colon, rest = part.partition(":")
    ssa = ssa.strip()
    if not colon or not ssa.startswith("%"):
        return None
    rest = rest.strip()
    end = _type_end(rest)
    type_text, rest = rest[:end].strip(), rest[end:].strip()
    if not type_text:
        return None
    attributes: dict[str, str] = {}
    if rest.startswith("{"):
        items = split_list(rest, 1)
        if items is None:
            return None
        for item in items:
            key, _, value = item.partition("=")
            attributes[key.strip()] = value.strip()
    name = None
    if '"' in rest and (m := re.search(_NAME_LOC, rest)):
        name = m[1]
    elif m := re.search(_LOC_ALIAS, rest):
        name = aliases.get(m[1])
    return Argument(ssa, type_text, attributes, name)


def _type_end(text: str) -> int:
    depth = 0
    for i, char in enumerate(text):
        if char in "<([":
            depth += 1
        elif char in ">)]":
            depth -= 1
        elif depth == 0 and (char == "{" or text.startswith(" loc(", i)):
            return i
    return len(text)
