"""Reading whole modules of MLIR text as MLIR's printer lays them out: operations, regions, values, types, locations.

The printer writes an operation a line, and a brace that ends a line opens a region; everything else is read by
brackets, so that no operation needs a rule of its own but for its types (`trlaunch.mlir_types`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from trlaunch.errors import ArtifactError
from trlaunch.mlir import split_list
from trlaunch.mlir_types import CLOSE, OPEN, find, result_types, string_end, type_list

__all__ = ["Block", "Module", "Operation", "Place", "Value", "parse"]

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.$-")
_MAX_DEPTH = 200


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a source file; `name` is the Python variable, where the location has one."""

    file: str
    line: int
    column: int
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True, eq=False)
class Value:
    """A result of an operation, or an argument of a block.

    Attributes
    ----------
    name : str
        ``%acc``; of an operation with several results ``%acc#1``.
    type : str or None
        As printed; ``None`` where the text does not say it.
    operation : Operation
        What defines it; of a block's argument the operation that has the block.
    block : Block or None
        The block whose argument it is.
    location : str
        ``loc(...)`` as printed, or nothing.
    """

    name: str
    type: str | None
    operation: Operation
    block: Block | None = None
    location: str = ""


@dataclass(slots=True, eq=False)
class Block:
    """A block: its arguments, its operations, and the offset at which its first operation may be put."""

    parent: Operation
    region: int
    start: int
    label: str | None = None
    arguments: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Operation:
    """An operation.

    Attributes
    ----------
    name : str
        ``arith.addi``.
    results : list of Value
    operands : list of str
        Every value that its text names, in order.
    head, tail : str
        The text from the name to the first region, and behind the last one, both without the location.
    start, end : int
        Offsets in the module's text.
    line : int
        1-based.
    blocks : list of Block
        Of all its regions, in order.
    parent : Block or None
    location : str
    """

    name: str
    start: int
    line: int
    parent: Block | None
    results: list[Value] = field(default_factory=list)
    operands: list[str] = field(default_factory=list)
    head: str = ""
    tail: str = ""
    end: int = 0
    blocks: list[Block] = field(default_factory=list)
    location: str = ""

    def walk(self) -> Iterator[Operation]:
        """The operation and all in its regions, in the order of the text."""
        yield self
        for block in self.blocks:
            for operation in block.operations:
                yield from operation.walk()

    def enclosing(self) -> Iterator[tuple[Operation, Block]]:
        """The operations around this one with the block it is in, innermost first."""
        block = self.parent
        while block is not None:
            yield block.parent, block
            block = block.parent.parent


@dataclass(slots=True)
class Module:
    """A parsed text: its operations outside of any other, and its attribute and location aliases."""

    text: str
    operations: list[Operation]
    aliases: dict[str, str]

    def function(self, symbol: str | None = None) -> Operation:
        """The ``tt.func`` of that symbol, or the only public one.

        Raises
        ------
        ArtifactError
            There is none, or several.
        """
        found = [o for top in self.operations for o in top.walk() if o.name == "tt.func"]
        names = [_symbol(o) for o in found]
        if symbol is not None:
            chosen = [o for o, name in zip(found, names, strict=True) if name == symbol]
        else:
            chosen = [o for o in found if not o.head.split("@")[0].rstrip().endswith("private")]
        if len(chosen) != 1:
            asked = f"no tt.func @{symbol}" if symbol else f"{len(chosen)} public functions"
            raise ArtifactError(f"the text has {asked}; it has {', '.join(names) or 'no tt.func'}")
        return chosen[0]

    def place(self, location: str) -> Place | None:
        """Where a ``loc(...)`` points, through aliases; of a call the callee, of several the first."""
        name: str | None = None
        for _ in range(_MAX_DEPTH):
            text = location.strip()
            if text.startswith("loc(") and text.endswith(")"):
                text = text[4:-1].strip()
            if text in self.aliases:
                location = self.aliases[text]
                continue
            if text.startswith("callsite("):
                location = text[len("callsite(") :].partition(" at ")[0]
                continue
            if text.startswith("fused"):
                location = text.partition("[")[2].split(",")[0].rstrip("]")
                continue
            if not text.startswith('"'):
                return None
            end = string_end(text, 0)
            word, rest = text[1 : end - 1], text[end:]
            if rest.startswith("("):
                name, location = name or word, rest[1:-1]
                continue
            numbers = rest.split(" to ")[0].strip(":").split(":")
            if len(numbers) == 2 and all(n.isdigit() for n in numbers):
                return Place(word, int(numbers[0]), int(numbers[1]), name)
            return None
        return None


def parse(text: str) -> Module:
    """Read a module.

    Raises
    ------
    ArtifactError
        A bracket, a string or a region is not closed, or a value is not where one is expected; with the line.
    """
    return _Parser(text).parse()


def _names(text: str) -> list[str]:
    """Every ``%value`` in a text, outside of strings."""
    found, i = [], 0
    while i < len(text):
        if text[i] == '"':
            i = string_end(text, i)
        elif text[i] == "%":
            end = i + 1
            while end < len(text) and text[end] in _NAME:
                end += 1
            if end + 1 < len(text) and text[end] == "#" and text[end + 1].isdigit():
                end += 1
                while end < len(text) and text[end].isdigit():
                    end += 1
            found.append(text[i:end])
            i = end
        else:
            i += 1
    return found


def _symbol(function: Operation) -> str:
    return function.head.partition("@")[2].partition("(")[0].strip('"')


def _without_location(text: str) -> tuple[str, str]:
    """A text and the ``loc(...)`` at its end."""
    at = find(text, "loc(", last=True)
    if at < 0 or not text.rstrip().endswith(")"):
        return text.rstrip(), ""
    return text[:at].rstrip(), text[at:].strip()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = [0]
        at = text.find("\n")
        while at >= 0:
            self.lines.append(at + 1)
            at = text.find("\n", at + 1)
        self.at = 0
        self.depth = 0

    def parse(self) -> Module:
        aliases: dict[str, str] = {}
        operations: list[Operation] = []
        while True:
            self._skip()
            if self.at >= len(self.text):
                return Module(self.text, operations, aliases)
            if self.text[self.at] in "#!":
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                name, _, meaning = self.text[self.at : end].partition(" = ")
                aliases[name.strip()] = meaning.strip()
                self.at = end
            elif self.text[self.at] == "}":
                raise self._error("a brace that closes nothing")
            else:
                operations.append(self._operation(None))

    def _line(self, at: int) -> int:
        low, high = 0, len(self.lines)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.lines[middle] <= at else (low, middle)
        return low + 1

    def _error(self, what: str) -> ArtifactError:
        line = self._line(self.at)
        text = self.text[self.lines[line - 1] :].partition("\n")[0].strip()
        return ArtifactError(f"MLIR line {line}: {what}: `{text[:80]}`")

    def _skip(self) -> None:
        text = self.text
        while self.at < len(text):
            if text[self.at].isspace():
                self.at += 1
            elif text.startswith("//", self.at):
                end = text.find("\n", self.at)
                self.at = len(text) if end < 0 else end
            else:
                return

    def _operation(self, parent: Block | None) -> Operation:
        text, start = self.text, self.at
        operation = Operation("", start, self._line(start), parent)
        declared: list[tuple[str, int]] = []
        if text[start] == "%":
            declared = self._results()
        begin = self.at
        if begin < len(text) and text[begin] == '"':
            self.at = string_end(text, begin)
            operation.name = text[begin + 1 : self.at - 1]
        else:
            while self.at < len(text) and text[self.at] in _NAME:
                self.at += 1
            operation.name = text[begin : self.at]
        if not operation.name:
            raise self._error("expected an operation")
        pieces = self._pieces(operation)
        if len(pieces) > 1:
            pieces[-1] = pieces[-1].lstrip(" )")  # "op"(...) ({ regions }) : types
        pieces[-1], operation.location = _without_location(pieces[-1])
        operation.end = self.at
        operation.head = pieces[0].strip()
        operation.tail = pieces[-1].strip() if len(pieces) > 1 else ""
        operation.operands = _names(operation.head) + _names(operation.tail)
        self._declare(operation, declared)
        return operation

    def _results(self) -> list[tuple[str, int]]:
        declared = []
        end = self.text.find("=", self.at)
        if end < 0:
            raise self._error("expected '=' behind a value")
        for part in self.text[self.at : end].split(","):
            name, _, count = part.strip().partition(":")
            if not name.startswith("%") or not all(c in _NAME for c in name[1:]) or (count and not count.isdigit()):
                raise self._error("expected '%name = operation'")
            declared.append((name, min(int(count or 0), 4096)))
        self.at = end + 1
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1
        return declared

    def _pieces(self, operation: Operation) -> list[str]:
        """The text of an operation around its regions, which are read on the way."""
        text = self.text
        pieces: list[str] = []
        begin, depth = self.at, 0
        while self.at < len(text):
            char = text[self.at]
            if char == '"':
                self.at = string_end(text, self.at)
                continue
            if char == "\n" and depth == 0:
                break
            if text.startswith("->", self.at):
                self.at += 2
                continue
            if text.startswith("//", self.at):
                pieces.append(text[begin : self.at])
                end = text.find("\n", self.at)
                self.at = begin = len(text) if end < 0 else end
                pieces[-1:] = [pieces[-1].rstrip()]
                if depth == 0:
                    return pieces
                continue
            if char == "{" and self._opens_region():
                pieces.append(text[begin : self.at])
                self._region(operation, pieces)
                begin = self.at
                continue
            if char in OPEN:
                depth += 1
            elif char in CLOSE:
                depth -= 1
                if depth < 0:
                    break  # the brace that closes the region around
            self.at += 1
        if depth > 0:
            self.at = operation.start
            raise self._error("a bracket that is not closed")
        pieces.append(text[begin : self.at])
        return pieces

    def _opens_region(self) -> bool:
        end = self.text.find("\n", self.at)
        rest = self.text[self.at + 1 : end if end >= 0 else len(self.text)].strip()
        return end >= 0 and (not rest or rest.startswith("//"))

    def _region(self, operation: Operation, pieces: list[str]) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self._error(f"regions deeper than {_MAX_DEPTH}")
        opened = self.at
        number = operation.blocks[-1].region + 1 if operation.blocks else 0
        self.at += 1
        block = Block(operation, number, self.at)
        operation.blocks.append(block)
        if number == 0:
            operation.head = pieces[0].strip()
            self._implied_arguments(operation, block)
        while True:
            self._skip()
            if self.at >= len(self.text):
                self.at = opened
                raise self._error("a region that is not closed")
            if self.text[self.at] == "}":
                self.at += 1
                break
            if self.text[self.at] == "^":
                if block.operations or block.label is not None:
                    block = Block(operation, number, self.at)
                    operation.blocks.append(block)
                self._label(block)
            else:
                block.operations.append(self._operation(block))
        self.depth -= 1

    def _label(self, block: Block) -> None:
        end = self.at
        while end < len(self.text) and self.text[end] not in "(:\n":
            end += 1
        block.label = self.text[self.at : end]
        if self.text[end : end + 1] == "(":
            parts = split_list(self.text, end + 1)
            close = self._closing(end)
            if parts is None or close < 0:
                raise self._error("the arguments of a block are not closed")
            for part in parts:
                block.arguments.append(self._argument(part, block))
            end = close + 1
        colon = self.text.find(":", end)
        if colon < 0:
            raise self._error("expected ':' behind a block's label")
        eol = self.text.find("\n", colon)
        self.at = block.start = len(self.text) if eol < 0 else eol

    def _closing(self, start: int) -> int:
        """The bracket that closes the one at `start`; -1 where none does."""
        depth, i = 0, start
        while i < len(self.text):
            char = self.text[i]
            if char == '"':
                i = string_end(self.text, i)
                continue
            if self.text.startswith("->", i):
                i += 2
                continue
            depth += (char in OPEN) - (char in CLOSE)
            if depth == 0:
                return i
            i += 1
        return -1

    def _argument(self, part: str, block: Block) -> Value:
        name, colon, rest = part.partition(":")
        rest, location = _without_location(rest.strip())
        brace = find(rest, "{")
        if not colon or not name.strip().startswith("%"):
            raise self._error("expected '%name: type'")
        return Value(name.strip(), rest[:brace].strip() if brace >= 0 else rest, block.parent, block, location)

    def _implied_arguments(self, operation: Operation, block: Block) -> None:
        """The arguments that an operation's own format declares in its head."""
        head, name = operation.head, operation.name
        if name == "tt.func":
            at = head.find("(")
            for part in split_list(head, at + 1) or ():
                block.arguments.append(self._argument(part, block))
        elif name == "scf.for":
            arrow = find(head, "->")
            colon = find(head, ":", last=True)
            index = head[colon + 1 :].strip() if colon > arrow else "index"
            induction = _names(head)[:1]
            block.arguments += [Value(n, index, operation, block) for n in induction]
            at = head.find("iter_args(")
            types = type_list(head[arrow + 2 : colon if colon > arrow else None]) if arrow >= 0 else []
            parts = split_list(head, at + len("iter_args(")) or [] if at >= 0 else []
            for part, kind in zip(parts, types, strict=False):
                block.arguments.append(Value(part.partition("=")[0].strip(), kind, operation, block))
        elif name == "scf.while":
            colon = find(head, ":")
            arrow = find(head, "->")
            types = type_list(head[colon + 1 : arrow]) if 0 <= colon < arrow else []
            at = head.find("(")
            parts = split_list(head, at + 1) or [] if 0 <= at < colon else []
            for part, kind in zip(parts, types, strict=False):
                block.arguments.append(Value(part.partition("=")[0].strip(), kind, operation, block))

    def _declare(self, operation: Operation, declared: list[tuple[str, int]]) -> None:
        names = [f"{name}#{i}" if count else name for name, count in declared for i in range(count or 1)]
        if not names:
            return
        types: list[str | None] = [None] * len(names)
        if operation.name in ("scf.for", "scf.if", "scf.while"):
            head = operation.head
            arrow = find(head, "->")
            if arrow >= 0:
                rest = head[arrow + 2 :]
                colon = find(rest, ":") if operation.name == "scf.for" else -1
                listed = type_list(rest[:colon] if colon >= 0 else rest)
                if len(listed) == len(names):
                    types = [*listed]
        else:
            clause = operation.tail or operation.head
            colon = find(clause, ":", last=True)
            if colon >= 0:
                types = result_types(operation.name, clause[colon + 1 :], len(names))
            elif operation.name == "arith.constant":
                types = ["i1"]  # true and false are printed without a type
        operation.results = [
            Value(n, t, operation, None, operation.location) for n, t in zip(names, types, strict=True)
        ]
