"""Which source line each line of a text level came from, so that levels can be laid beside each other.

The chain of a line is innermost first: a line of ``triton/language/standard.py`` that was inlined into the kernel is
followed by the kernel's own line, which is the same in all levels and all releases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trlaunch.artifact import Level
from trlaunch.mlir_text import Module, Operation, parse
from trlaunch.mlir_types import find

__all__ = ["Chain", "Line", "chains", "mlir_chain", "own_line"]

_DEPTH = 64
# PTX ISA, ".loc": file line column [, function_name label [+ immediate] , inlined_at file line column]
_LOC = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)\s+\d+(?:.*\binlined_at\s+(\d+)\s+(\d+)\s+\d+)?")
_FILE = re.compile(r'\s*\.file\s+(\d+)\s+"((?:[^"\\]|\\.)*)"')
# A line of PTX that holds an instruction: no directive, label, comment, brace nor declaration.
_NO_INSTRUCTION = re.compile(r"\s*(?:$|//|[{}()]|\.|\$?[\w$.]+:\s*(?://.*)?$)")
_NODE = re.compile(r"^!(\d+) = (?:distinct )?!(\w+)\((.*)\)\s*$", re.M)
_DEBUG = re.compile(r"!dbg !(\d+)")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a source file."""

    file: str
    line: int

    @property
    def name(self) -> str:
        """The file's name without its folders, which differ from machine to machine."""
        return self.file.replace("\\", "/").rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.name}:{self.line}"


Chain = tuple[Line, ...]


def chains(level: Level, text: str) -> list[Chain]:
    """The source lines of every line of a text, innermost first; empty where it has none.

    Parameters
    ----------
    level : Level
        ``ttir``, ``ttgir``, ``llir`` or ``ptx``; of Python nothing is known but the line itself.
    text : str

    Returns
    -------
    list of tuple of Line
        One for each line, as line feeds divide the text.

    Raises
    ------
    ArtifactError
        The text is MLIR and cannot be read.
    """
    if level in (Level.TTIR, Level.TTGIR):
        return _mlir(text)
    lines = text.split("\n")
    if level is Level.LLIR:
        return _llir(text, lines)
    if level is Level.PTX:
        return _ptx(lines)
    return [()] * len(lines)


def own_line(chain: Sequence[Line]) -> Line | None:
    """The kernel's own line: the outermost of the chain."""
    return chain[-1] if chain else None


# MLIR


def _mlir(text: str) -> list[Chain]:
    module = parse(text)
    found: list[Chain] = [()] * (text.count("\n") + 1)
    known: dict[str, Chain] = {}
    for top in module.operations:
        for operation in top.walk():
            if _is_code(operation):
                found[operation.line - 1] = mlir_chain(module, operation.location, known)
    return found


def _is_code(operation: Operation) -> bool:
    return operation.name not in ("module", "builtin.module", "tt.func")


def mlir_chain(module: Module, location: str, known: dict[str, Chain], depth: int = 0) -> Chain:
    """The lines of one ``loc(...)``, the callee before the place that it was inlined at; `known` is kept by callers."""
    text = location.strip()
    if text in known:
        return known[text]
    known[text] = ()  # ends a circle
    found: Chain = ()
    if depth < _DEPTH:
        found = _mlir_chain(module, text, known, depth + 1)
    known[text] = found
    return found


def _mlir_chain(module: Module, text: str, known: dict[str, Chain], depth: int) -> Chain:
    if text.startswith("loc(") and text.endswith(")"):
        return mlir_chain(module, text[4:-1], known, depth)
    if text in module.aliases:
        return mlir_chain(module, module.aliases[text], known, depth)
    if text.startswith("callsite(") and text.endswith(")"):
        inner = text[len("callsite(") : -1]
        at = find(inner, " at ")
        if at >= 0:
            callee = mlir_chain(module, inner[:at], known, depth)
            chain = callee + mlir_chain(module, inner[at + 4 :], known, depth)
            return chain if len(chain) <= _DEPTH else (chain[0], chain[-1])
    if text.startswith('"') and text.endswith(")"):  # "variable"(location)
        opened = find(text, "(")
        if opened > 0:
            return mlir_chain(module, text[opened + 1 : -1], known, depth)
    place = module.place(text)
    return (Line(place.file, place.line),) if place is not None else ()


# LLVM's debug metadata


def _llir(text: str, lines: Sequence[str]) -> list[Chain]:
    nodes = {m[1]: (m[2], m[3]) for m in _NODE.finditer(text)}
    known: dict[str, Chain] = {}

    def chain(number: str, depth: int = 0) -> Chain:
        if number not in known:
            kind, fields = nodes.get(number, ("", ""))
            line, scope, at = (_field(fields, name) for name in ("line", "scope", "inlinedAt"))
            file = _file(nodes, scope) if kind == "DILocation" else None
            # Line 0 is LLVM's word for code that belongs to no line.
            here = (Line(file, int(line)),) if file is not None and line and line != "0" else ()
            known[number] = here  # ends a circle
            if at is not None and depth < _DEPTH:
                known[number] = here + chain(at.lstrip("!"), depth + 1)
        return known[number]

    found: list[Chain] = []
    for line in lines:
        m = _DEBUG.search(line) if line[:1].isspace() else None
        found.append(chain(m[1]) if m else ())
    return found


def _field(fields: str, name: str) -> str | None:
    m = re.search(rf"\b{name}: ([^,\s]+)", fields)
    return m[1] if m else None


def _file(nodes: dict[str, tuple[str, str]], scope: str | None) -> str | None:
    for _ in range(_DEPTH):
        if scope is None:
            return None
        kind, fields = nodes.get(scope.lstrip("!"), ("", ""))
        if kind == "DIFile":
            m = re.search(r'filename: "([^"]*)"', fields)
            return m[1] if m else None
        scope = _field(fields, "file") or _field(fields, "scope")
    return None


# PTX


def _ptx(lines: Sequence[str]) -> list[Chain]:
    files: dict[str, str] = {}
    # A table may stand behind the code that uses it.
    for line in lines:
        if m := _FILE.match(line):
            files[m[1]] = m[2]

    def named(file: str, line: str) -> Line:
        return Line(files.get(file, "?"), int(line))

    found: list[Chain] = []
    current: Chain = ()
    for line in lines:
        if m := _LOC.match(line):
            inner = named(m[1], m[2])
            current = () if m[2] == "0" else (inner, named(m[3], m[4])) if m[3] else (inner,)
            found.append(())
        else:
            if line.startswith("}"):
                current = ()
            found.append(() if _NO_INSTRUCTION.match(line) else current)
    return found
