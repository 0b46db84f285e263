"""What PTX text consists of: a module, its variables and functions, their statements and operands."""

from __future__ import annotations

from dataclasses import dataclass, field

from trlaunch.emulator.tokens import TokenStream

__all__ = [
    "TYPE_SIZES", "Address", "Body", "CallSite", "Function", "Group", "Immediate", "Instruction", "LabelMark", "Module",
    "Negated", "Operand", "Pair", "Param", "Position", "Register", "Sink", "Special", "Symbol", "Variable", "Vector",
]  # fmt: skip

#: Bytes of each fundamental type; ``pred`` has no size in memory.
TYPE_SIZES = {
    "pred": 0, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "tf32": 4,
    "b64": 8, "u64": 8, "s64": 8, "f64": 8, "b128": 16,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a source file, from ``.loc``; `inlined_at` is where the function was inlined."""

    file: int
    line: int
    column: int
    inlined_at: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Register:
    """A declared register; `index` is unique in its function."""

    name: str
    type: str
    index: int


@dataclass(frozen=True, slots=True)
class Immediate:
    """A constant: integer value, or the bits of an f32 (``0f``) or f64 (``0d``, decimal) literal."""

    value: int
    kind: str = "int"


@dataclass(frozen=True, slots=True)
class Special:
    """A special register such as ``%tid.x``."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, parameter, function or label, plus a byte offset."""

    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """``[base+offset]``; `rest` holds what follows a comma inside the brackets (tensor coordinates)."""

    base: Register | Symbol | Immediate | Special
    offset: int = 0
    rest: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class Vector:
    """``{a, b, ...}``."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """``(a, b, ...)`` of a call."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """``a|b``: a result and its predicate, or two predicates."""

    first: Operand
    second: Operand


@dataclass(frozen=True, slots=True)
class Negated:
    """``!p``."""

    operand: Operand


@dataclass(frozen=True, slots=True)
class Sink:
    """``_``: a result nobody wants."""


Operand = Register | Immediate | Special | Symbol | Address | Vector | Group | Pair | Negated | Sink


@dataclass(frozen=True, slots=True)
class CallSite:
    """A call of the device function `callee` on a PTX line; `id` is unique in the body."""

    callee: str
    line: int
    id: int


@dataclass(slots=True)
class Instruction:
    """One instruction.

    Attributes
    ----------
    opcode : str
        With all suffixes, as written.
    operands : tuple of Operand
    guard : Register or None
        Predicate of ``@p``; `guard_negated` for ``@!p``.
    line : int
        1-based line in the PTX text.
    position : Position or None
        Source position from ``.loc``.
    target : int or None
        Label id, for a branch.
    callers : tuple of CallSite
        The calls that this is in the place of, outermost first.
    """

    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | None
    guard_negated: bool
    line: int
    position: Position | None
    target: int | None = None
    callers: tuple[CallSite, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelMark:
    """A label in a function body; `id` is unique in the function."""

    name: str
    id: int


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: `size` and `align` in bytes."""

    name: str
    type: str
    size: int
    align: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable: `size` in bytes (``None``: ``extern`` without a length), `data` its initial bytes."""

    name: str
    space: str
    type: str
    size: int | None
    align: int
    data: bytes = b""
    addresses: tuple[tuple[int, str, int], ...] = ()


@dataclass(slots=True)
class Function:
    """A kernel (`entry`) or device function. `start` and `stop` bound the body's tokens; both 0 without a body."""

    name: str
    entry: bool
    params: tuple[Param, ...]
    results: tuple[Param, ...]
    directives: dict[str, tuple[int, ...]]
    line: int
    start: int = 0
    stop: int = 0
    names: frozenset[str] = frozenset()
    variables: tuple[Variable, ...] = ()
    has_loc: bool = False


@dataclass(slots=True)
class Body:
    """Statements of a function and of all it calls, and what they declare.

    Attributes
    ----------
    locals : dict
        ``.local`` variables, and ``.param`` variables of bodies, by unique name: where they lie in a thread's frame.
    frame : int
        Size of the frame in bytes.
    """

    statements: list[Instruction | LabelMark]
    registers: list[Register]
    variables: list[Variable]
    locals: dict[str, int] = field(default_factory=dict)
    frame: int = 0


@dataclass(slots=True)
class Module:
    """A PTX module."""

    stream: TokenStream
    version: tuple[int, int]
    target: str
    options: tuple[str, ...] = ()
    variables: dict[str, Variable] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    files: dict[int, str] = field(default_factory=dict)

    def line_text(self, line: int) -> str:
        """The text of a PTX line, without comment."""
        return self.stream.line_text(line)
