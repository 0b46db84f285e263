"""Injecting captures into LLVM IR: any value of a kernel, per thread.

Types follow the LLVM language reference, chapters "Type System" and "Instruction Reference". Stores are predicated
inline assembly, as Triton's own are, so that no block is split. Each thread counts its iterations in the buffer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trlaunch.dump.plan import ENTRY_BYTES, Capture, Where
from trlaunch.dump.request import At
from trlaunch.dump.restore import Restored, restored
from trlaunch.dump.trips import Loop
from trlaunch.errors import ArgumentError
from trlaunch.mlir import split_list
from trlaunch.mlir_text import Place
from trlaunch.scalars import from_llvm

__all__ = ["Definition", "definitions", "dumpable", "inject"]

_PARAMETER = "trl_dump"
_RESULT = re.compile(r'[ \t]*(%(?:[-\w.$]+|"[^"]*")) = (?:(?:tail|notail|musttail) )?([a-z]+)\b(.*)')
_LABEL = re.compile(r'((?:[-\w.$]+|"[^"]*")):(?:\s|$)')
_BRANCH = re.compile(r'\blabel %((?:[-\w.$]+|"[^"]*"))')
_DEBUG = re.compile(r"!dbg !(\d+)")
_SCALAR = re.compile(r"ptr(?: addrspace\(\d+\))?|i\d+|half|bfloat|float|double|void")
_CASTS = frozenset(
    (
        "trunc", "zext", "sext", "fptrunc", "fpext", "fptoui", "fptosi", "uitofp", "sitofp", "ptrtoint", "inttoptr",
        "bitcast", "addrspacecast",
    )
)  # fmt: skip
# How many bits of it a store writes, and the constraint of the register it is in.
_STORES = {"i8": (8, "h"), "i16": (16, "h"), "i32": (32, "r"), "i64": (64, "l")}
# The thread in the block and the program's coordinates: intrinsics of the back ends.
_IDS = {
    "nvvm": tuple(f"llvm.nvvm.read.ptx.sreg.{name}" for name in ("tid.x", "ctaid.x", "ctaid.y", "ctaid.z")),
    "amdgcn": ("llvm.amdgcn.workitem.id.x", *(f"llvm.amdgcn.workgroup.id.{axis}" for axis in "xyz")),
}
_PROMISE = re.compile(r' "amdgpu-no-work(?:group-id-[xyz]|item-id-x)"(?:="[^"]*")?')


@dataclass(frozen=True, slots=True)
class Definition:
    """One value: its name, instruction, type (``None`` where it is not known), line, Python line."""

    name: str
    op: str
    type: str | None
    line: int
    python: Place | None
    loops: tuple[int, ...] = ()
    after: int = 0

    @property
    def bits(self) -> int:
        """Bits of it that are stored; 0 of what is not."""
        leaves = _leaves(self.type) or []
        return sum(1 if leaf == "i1" else _STORES[_integer(leaf)][0] for leaf in leaves)


def definitions(text: str, kernel: str | None = None) -> list[Definition]:
    """The values of a kernel, in the order of the text.

    Raises
    ------
    ArgumentError
        The text has no such kernel.
    """
    lines = text.split("\n")
    first, last = _body(lines, kernel)
    places = _Places(text)
    labels: dict[str, int] = {}
    branches: list[tuple[int, int]] = []
    for i in range(first, last):
        if m := _LABEL.match(lines[i]):
            labels[m[1]] = i
    for i in range(first, last):
        branches += [(labels[name], i) for name in _BRANCH.findall(lines[i]) if labels.get(name, last) <= i]
    found = []
    for i in range(first, last):
        m = _RESULT.match(lines[i])
        if m is None:
            continue
        after = i
        if m[2] == "phi":
            while " = phi " in lines[after + 1]:
                after += 1
        rest = m[3].partition(", !dbg")[0]
        loops = tuple(sorted({low for low, high in branches if low <= i <= high}))
        found.append(Definition(m[1], m[2], _type_of(m[2], rest), i + 1, places.of(lines[i]), loops, after))
    return found


def inject(
    text: str, kernel: str | None, requests: Sequence[At], threads: int | None, ttgir: str | None = None
) -> tuple[str, list[Capture], int]:
    """The text with captures in it; parameters and results as those of `trlaunch.dump.ptx.inject`.

    `ttgir` is the text beside it, which has the layouts of tensors.

    Raises
    ------
    ArgumentError
        A request matches no value or several, or the value cannot be stored.
    """
    if f"%{_PARAMETER}" in text:
        raise ArgumentError(f"the text has %{_PARAMETER} already: give the file without captures")
    amd = re.search(r'^target triple = "amd', text, re.M) is not None
    if not threads:
        raise ArgumentError("dump: LLVM IR does not state the block's threads: give Triton's JSON with it")
    lines = text.split("\n")
    first, _ = _body(lines, kernel)
    listed = definitions(text, kernel)
    numbers = iter(range(1 << 30))
    head = [lines[first]] if _LABEL.match(lines[first]) else []
    emit = _Emitter(numbers, amd)
    emit.program()
    added: dict[int, list[str]] = {}
    captures = []
    for i, request in enumerate(requests):
        if request.tensor is not None:
            labels = [n for n in range(first, len(lines)) if _LABEL.match(lines[n])]
            found = restored(listed, labels, request, ttgir, kernel, threads)
            held, capture = found.definitions, _restored_capture(found, request, threads)
        else:
            definition, leaves = _choose(listed, request)
            held, capture = (definition,), _captured(definition, leaves, request, threads)
        captures.append(capture)
        emit.entry(i)
        store = _Emitter(numbers, amd)
        store.store(i, capture, held, threads)
        added.setdefault(max(d.after for d in held), []).extend(store.lines)
    out = []
    for i, line in enumerate(lines):
        if i == first:
            out += [line, *emit.lines] if head else [*emit.lines, line]
        elif i == first - 1:
            out.append(_with_parameter(line))
        else:
            out.append(line)
        out += added.get(i, [])
    declared = [f"i32 @{symbol}()" for symbol in _IDS["amdgcn" if amd else "nvvm"]]
    if amd:
        out = _without_promises(out, lines[first - 1])
        declared += [
            f"void @llvm.masked.store.v1{kind}.p1(<1 x {kind}>, ptr addrspace(1), i32 immarg, <1 x i1>)"
            for kind in _STORES
        ]
    declared = [
        f"declare {one}"
        for one in declared
        if not re.search(rf"declare .*@{re.escape(one.split('@')[1].split('(')[0])}\(", text)
    ]
    parts = split_list(lines[first - 1], lines[first - 1].index("(", lines[first - 1].index("@")) + 1)
    return "\n".join([*out, *declared, ""]), captures, len(parts or ())


def dumpable(text: str, kernel: str | None = None) -> list[tuple[Where, str]]:
    """The values of a kernel, each with why it cannot be captured."""
    return [
        (Where(d.name, d.op, d.line, d.python, d.type or "?"), "" if _leaves(d.type) else "its type is not stored")
        for d in definitions(text, kernel)
        if d.type != "void"
    ]


# --- reading ---------------------------------------------------------------------------------------------------------


def _body(lines: Sequence[str], kernel: str | None) -> tuple[int, int]:
    """Lines of a kernel's body: behind the one that defines it, up to its brace."""
    found = [
        i
        for i, line in enumerate(lines)
        if line.startswith("define") and (f"@{kernel}(" in line if kernel else " internal " not in line)
    ]
    if len(found) != 1:
        raise ArgumentError(f"the LLVM IR has {len(found)} kernels{f' {kernel!r}' if kernel else ''}: expected name=")
    end = next((i for i in range(found[0], len(lines)) if lines[i] == "}"), None)
    if end is None:
        raise ArgumentError(f"LLVM IR line {found[0] + 1}: the function is not closed")
    return found[0] + 1, end


class _Places:
    """Debug locations by number."""

    def __init__(self, text: str) -> None:
        self.lines = {
            m[1]: (int(m[2]), int(m[3]))
            for m in re.finditer(r"^!(\d+) = .*!DILocation\(line: (\d+), column: (\d+)", text, re.M)
        }
        m = re.search(r'!DIFile\(filename: "([^"]*)"', text)
        self.file = m[1] if m else "?"

    def of(self, line: str) -> Place | None:
        m = _DEBUG.search(line)
        place = self.lines.get(m[1]) if m else None
        return Place(self.file, *place) if place and place[0] else None


def _type_end(text: str, at: int) -> int:
    """Offset behind the type that begins at `at`; `at` itself where none does."""
    if text[at : at + 1] in ("{", "<", "["):
        depth = 0
        for i in range(at, len(text)):
            depth += (text[i] in "{<[(") - (text[i] in "}>])")
            if depth == 0:
                return i + 1
        return at
    m = _SCALAR.match(text, at)
    return m.end() if m and not text[m.end() : m.end() + 1].isalnum() else at


def _first_type(text: str) -> tuple[str | None, str]:
    """The first type in a text, past flags and attributes, and what follows it."""
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        end = _type_end(text, at)
        if end > at:
            return text[at:end], text[end:]
        m = re.compile(r"[\w.]+(?:\([^()]*\))?").match(text, at)
        if m is None:
            break
        at = m.end()
    return None, ""


def _type_of(op: str, rest: str) -> str | None:
    """Type of an instruction's result, by what follows its name."""
    if op in _CASTS:
        return rest.rpartition(" to ")[2].partition(",")[0].strip() or None
    found, after = _first_type(rest.replace(" inbounds", "").replace(" inrange", ""))
    if found is None or op == "cmpxchg":
        return None
    if op in ("icmp", "fcmp"):
        return f"<{found[1:].partition(' x ')[0]} x i1>" if found.startswith("<") else "i1"
    if op == "select":
        return _first_type(after.partition(",")[2])[0]
    if op == "atomicrmw":
        return _first_type(after.partition(",")[2])[0]
    if op == "getelementptr":
        return _first_type(after.partition(",")[2])[0]
    if op == "alloca":
        return "ptr"
    if op == "extractelement":
        return found[1:-1].partition(" x ")[2]
    if op == "shufflevector":
        mask = after.rpartition("<")[0].rpartition("<")[2]
        return f"<{mask.partition(' x ')[0]} x {found[1:-1].partition(' x ')[2]}>" if mask else None
    if op == "extractvalue":
        for index in after.split(",")[1:]:
            parts = split_list(found, 1) if found.startswith("{") else None
            number = index.strip()
            if parts is None or not number.isdigit() or int(number) >= len(parts):
                return None
            found = parts[int(number)]
        return found
    return found


def _leaves(type_text: str | None) -> list[str] | None:
    """Scalar types that a value consists of; ``None`` of a type that is not stored."""
    if type_text is None or type_text == "void":
        return None
    if type_text.startswith("<") and not type_text.startswith("<{"):
        count, _, element = type_text[1:-1].partition(" x ")
        return [element] * int(count) if count.isdigit() and int(count) <= 1024 and _dtype(element) else None
    if type_text.startswith("{"):
        parts = split_list(type_text, 1) or []
        return parts if len(set(parts)) == 1 and _dtype(parts[0]) else None
    return [type_text] if _dtype(type_text) else None


def _integer(scalar: str) -> str:
    """The integer that is stored for a scalar."""
    integers = {"half": "i16", "bfloat": "i16", "float": "i32", "double": "i64", "i1": "i8"}
    return "i64" if scalar.startswith("ptr") else integers.get(scalar, scalar)


def _dtype(scalar: str) -> str | None:
    return "*" if scalar.startswith("ptr") else from_llvm(scalar)


# --- choosing --------------------------------------------------------------------------------------------------------


def _choose(listed: Sequence[Definition], request: At) -> tuple[Definition, list[str]]:
    found = [
        d
        for d in listed
        if request.name in (None, d.name)
        and request.op in (None, d.op)
        and request.line in (None, d.line)
        and (request.python_line is None or (d.python is not None and d.python.line == request.python_line))
    ]
    if request.name is None:
        found = [d for d in found if _leaves(d.type)] or found
    if request.nth is not None:
        if not 0 <= request.nth < len(found):
            raise ArgumentError(f"dump {request.text!r}: {len(found)} values match, there is no number {request.nth}")
        found = [found[request.nth]]
    if len(found) != 1:
        where = ", ".join(f"{d.name} in line {d.line}" for d in found[:6])
        raise ArgumentError(
            f"dump {request.text!r}: {len(found) or 'no'} values match{f' ({where})' if where else ''}: "
            f"`trlaunch values` lists them; name= and line= choose"
        )
    leaves = _leaves(found[0].type)
    if leaves is None:
        raise ArgumentError(
            f"dump {request.text!r}: {found[0].name} is {found[0].type or 'of a type that is not known'}: expected a "
            f"number, a pointer, or a vector or struct of one type of them"
        )
    if request.part is not None or request.dtype is not None:
        raise ArgumentError(f"dump {request.text!r}: part= is for tensors and dtype= for PTX, this is LLVM IR")
    return found[0], leaves


def _captured(definition: Definition, leaves: Sequence[str], request: At, threads: int) -> Capture:
    dtype = _dtype(leaves[0])
    if dtype is None:
        raise ArgumentError(f"dump {request.text!r}: {leaves[0]} cannot be stored")
    loops: tuple[Loop, ...] = ()
    if request.keep != "last" and definition.loops:
        loops = (Loop(f"loop around line {definition.line}"),)
    scalar = definition.type is not None and definition.type[0] not in "<{"
    shape = (threads,) if scalar else (threads, len(leaves))
    where = Where(definition.name, definition.op, definition.line, definition.python, definition.type or "?")
    return Capture(request, where, dtype, shape, loops, threads, threads if loops else 0)


def _restored_capture(found: Restored, request: At, threads: int) -> Capture:
    if request.part is not None or request.dtype is not None:
        raise ArgumentError(f"dump {request.text!r}: part= and dtype= do not go with tensor=")
    loops: tuple[Loop, ...] = ()
    if request.keep != "last" and found.definitions[0].loops:
        loops = (Loop(f"loop around line {found.definitions[0].line}"),)
    shape, where = (threads, found.layout.registers), found.tensor.where
    counters = threads if loops else 0
    return Capture(request, where, found.dtype, shape, loops, threads, counters, layout=found.layout)


# --- emitting --------------------------------------------------------------------------------------------------------


def _with_parameter(line: str) -> str:
    """The line that defines the function, with the pointer behind its parameters."""
    at = line.index("(", line.index("@"))
    depth = 0
    for i in range(at, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if depth == 0:
            comma = ", " if line[at + 1 : i].strip() else ""
            return f"{line[:i]}{comma}ptr addrspace(1) align 16 %{_PARAMETER}{line[i:]}"
    raise ArgumentError("dump: the parameters of the function are not closed")


def _without_promises(lines: Sequence[str], function: str) -> list[str]:
    """The text with the kernel no longer promising that it does not ask for its place in the grid."""
    groups = re.findall(r"#\d+", function)
    return [
        _PROMISE.sub("", line) if line.startswith(tuple(f"attributes {group} =" for group in groups)) else line
        for line in lines
    ]


class _Emitter:
    """Instructions as lines; names are unique in the function."""

    def __init__(self, numbers: Iterator[int], amd: bool = False) -> None:
        self.numbers = numbers
        self.amd = amd
        self.lines: list[str] = []

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def let(self, text: str, name: str | None = None) -> str:
        name = name or f"%{_PARAMETER}_{next(self.numbers)}"
        self.do(f"{name} = {text}")
        return name

    def at(self, base: str, offset: str, name: str | None = None) -> str:
        return self.let(f"getelementptr i8, ptr addrspace(1) {base}, i64 {offset}", name)

    def load(self, kind: str, address: str, name: str | None = None) -> str:
        return self.let(f"load {kind}, ptr addrspace(1) {address}, align {4 if kind == 'i32' else 8}", name)

    def wide(self, value: str) -> str:
        return self.let(f"zext i32 {value} to i64")

    def put(self, address: str, value: str, kind: str, wanted: str) -> None:
        """Store where `wanted`."""
        bits, constraint = _STORES[kind]
        if self.amd:  # which has no predicated store in its assembly: the compiler branches around
            vector = self.let(f"bitcast {kind} {value} to <1 x {kind}>")
            mask = self.let(f"bitcast i1 {wanted} to <1 x i1>")
            self.do(
                f"call void @llvm.masked.store.v1{kind}.p1(<1 x {kind}> {vector}, ptr addrspace(1) {address}, "
                f"i32 {bits // 8}, <1 x i1> {mask})"
            )
            return
        if kind == "i8":
            value, kind = self.let(f"zext i8 {value} to i16"), "i16"
        self.do(
            f'call void asm sideeffect "@$2 st.global.b{bits} [$0], $1;", "l,{constraint},b"'
            f"(ptr addrspace(1) {address}, {kind} {value}, i1 {wanted})"
        )

    def program(self) -> None:
        """The thread, and the number of the program, times four."""
        tid, x, y, z = (self.let(f"call i32 @{name}()") for name in _IDS["amdgcn" if self.amd else "nvvm"])
        self.let(f"zext i32 {tid} to i64", f"%{_PARAMETER}_tid")
        ny, nz = (self.load("i32", self.at(f"%{_PARAMETER}", str(offset))) for offset in (64, 68))
        row = self.let(f"add i32 {self.let(f'mul i32 {x}, {ny}')}, {y}")
        number = self.let(f"add i32 {self.let(f'mul i32 {row}, {nz}')}, {z}")
        self.let(f"shl i64 {self.wide(number)}, 2", f"%{_PARAMETER}_program")

    def entry(self, index: int) -> None:
        """What a dump's header says."""
        base, own = f"%{_PARAMETER}", f"%{_PARAMETER}_{{}}_{index}"

        def field(offset: int, kind: str = "i64") -> str:
            return self.load(kind, self.at(base, str(index * ENTRY_BYTES + offset)))

        self.at(base, self.let(f"shl i64 {field(0)}, 4"), own.format("records"))
        self.at(base, field(8), own.format("flags"))
        table = self.at(base, field(16))
        slot = self.load("i32", self.at(table, f"%{_PARAMETER}_program"))
        self.at(base, field(24), own.format("counters"))
        self.let(f"zext i32 {field(32, 'i32')} to i64", own.format("cap"))
        self.let(f"icmp sge i32 {slot}, 0", own.format("valid"))
        chosen = self.let(f"select i1 {own.format('valid')}, i32 {slot}, i32 0")
        self.let(f"zext i32 {chosen} to i64", own.format("slot"))

    def store(self, index: int, capture: Capture, held: Sequence[Definition], threads: int) -> None:
        """Store what the values hold, one behind the other."""
        own, tid = f"%{_PARAMETER}_{{}}_{index}", f"%{_PARAMETER}_tid"
        record, wanted = own.format("slot"), own.format("valid")
        if capture.loops:
            which = self.let(f"add i64 {self.let(f'mul i64 {record}, {threads}')}, {tid}")
            counter = self.at(own.format("counters"), self.let(f"shl i64 {which}, 2"))
            turn = self.load("i32", counter)
            self.put(counter, self.let(f"add i32 {turn}, 1"), "i32", wanted)
            wide = self.wide(turn)
            inside = self.let(f"icmp ult i64 {wide}, {own.format('cap')}")
            wanted = self.let(f"and i1 {wanted}, {inside}")
            row = self.let(f"mul i64 {record}, {own.format('cap')}")
            record = self.let(f"add i64 {row}, {wide}")
        distance = self.let(f"mul i64 {record}, {capture.record_bytes}")
        base = self.at(own.format("records"), distance)
        base = self.at(base, self.let(f"mul i64 {tid}, {capture.item_bytes * math.prod(capture.shape[1:])}"))
        offset = 0
        for definition in held:
            for i, leaf in enumerate(_leaves(definition.type) or ()):
                value, kind = self._bits(self._leaf(definition, i), leaf)
                self.put(self.at(base, str(offset)), value, kind, wanted)
                offset += _STORES[kind][0] // 8
        flag = self.let(f"add i64 {self.let(f'mul i64 {record}, {threads}')}, {tid}")
        self.put(self.at(own.format("flags"), flag), "1", "i8", wanted)

    def _leaf(self, definition: Definition, index: int) -> str:
        kind = definition.type or ""
        if kind.startswith("{"):
            return self.let(f"extractvalue {kind} {definition.name}, {index}")
        if kind.startswith("<"):
            return self.let(f"extractelement {kind} {definition.name}, i32 {index}")
        return definition.name

    def _bits(self, value: str, kind: str) -> tuple[str, str]:
        """A scalar as an integer that a store takes, and that integer's type."""
        integer = _integer(kind)
        if integer == kind:
            return value, kind
        cast = "ptrtoint" if kind.startswith("ptr") else "zext" if kind == "i1" else "bitcast"
        return self.let(f"{cast} {kind} {value} to {integer}"), integer
