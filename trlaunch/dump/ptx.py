"""Injecting captures into PTX text: registers at a line, per thread, with a per-thread count of iterations.

The text is read token by token, one function at a time: every opcode is read, and scopes of inline assembly are kept.
Which operands an instruction writes follows PTX ISA, chapter "Instruction Set": the first one, unless it is one of
`_NO_RESULT`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trlaunch.dump.plan import ENTRY_BYTES, Capture, Where
from trlaunch.dump.request import At
from trlaunch.dump.trips import Loop
from trlaunch.emulator.ptx import parse
from trlaunch.emulator.syntax import Function
from trlaunch.emulator.tokens import Token, TokenStream
from trlaunch.errors import ArgumentError
from trlaunch.mlir_text import Place
from trlaunch.scalars import SCALARS

__all__ = ["Instruction", "dumpable", "inject", "instructions"]

_PARAMETER = "trl_dump_param"
# What the first part of an opcode says: nothing is written to a register.
_NO_RESULT = frozenset(
    (
        "st", "stu", "red", "bra", "brx", "ret", "exit", "trap", "brkpt", "bar", "barrier", "membar", "fence", "cp",
        "prefetch", "prefetchu", "discard", "applypriority", "stmatrix", "call", "wgmma", "nanosleep", "griddepcontrol",
        "setmaxnreg", "pmevent", "multimem", "tcgen05", "tensormap",
    )
)  # fmt: skip
# Register types: Triton's name of what a record holds. Untyped registers hold bits.
_DTYPES = {
    "pred": "i1", "b16": "u16", "u16": "u16", "s16": "i16", "f16": "fp16", "bf16": "bf16", "b32": "u32", "u32": "u32",
    "s32": "i32", "f32": "fp32", "f16x2": "u32", "bf16x2": "u32", "b64": "u64", "u64": "u64", "s64": "i64",
    "f64": "fp64",
}  # fmt: skip


@dataclass(slots=True)
class Instruction:
    """One instruction of a kernel.

    Attributes
    ----------
    opcode : str
        With all its suffixes.
    results : tuple of str
        Registers it writes: several of a vector.
    start, end : int
        Offsets of its first character and behind its semicolon.
    line : int
    python : Place or None
    registers : mapping of str to str
        Types of the registers that are visible here.
    target : str or None
        Label that it branches to.
    """

    opcode: str
    results: tuple[str, ...]
    start: int
    end: int
    line: int
    python: Place | None
    registers: _Scope
    target: str | None = None


@dataclass(slots=True)
class _Scope:
    outer: _Scope | None
    names: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, tuple[int, str]] = field(default_factory=dict)

    def type_of(self, name: str) -> str | None:
        """Type of a register, ``None`` where none of that name is declared."""
        scope: _Scope | None = self
        prefix = name.rstrip("0123456789")
        digits = name[len(prefix) :]
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            if prefix in scope.ranges and digits and len(digits) < 10 and int(digits) < scope.ranges[prefix][0]:
                return scope.ranges[prefix][1]
            scope = scope.outer
        return None


def inject(
    text: str, kernel: str | None, requests: Sequence[At], threads: int | None
) -> tuple[str, list[Capture], int]:
    """The text with captures in it.

    Parameters
    ----------
    text : str
    kernel : str, optional
        The only one, where left out.
    requests : sequence of At
    threads : int, optional
        Threads a block, where the text does not state them.

    Returns
    -------
    text : str
    captures : list of Capture
    index : int
        The place of the new parameter, the last one.

    Raises
    ------
    ArgumentError
        A request matches no register or several, or the register cannot be stored.
    """
    if _PARAMETER in text:
        raise ArgumentError(f"the text has {_PARAMETER} already: give the file without captures")
    stream, function, listed, labels, first = _read(text, kernel)
    threads = math.prod(function.directives.get("reqntid", (0,))) or threads
    if not threads:
        raise ArgumentError(f"dump: {function.name} does not state its block (.reqntid): give Triton's JSON with it")
    edits = [(_close(stream, function), f",\n\t.param .u64 .ptr .global .align 16 {_PARAMETER}\n")]
    if not function.params:
        raise ArgumentError(f"dump: {function.name} has no parameter list to append to")
    captures, head = [], list(_head(len(requests)))
    for i, request in enumerate(requests):
        capture, registers, at = _capture(listed, labels, request, threads)
        captures.append(capture)
        head += _entry(i, bool(capture.loops))
        edits.append((at, "\n" + "\n".join(f"\t{line}" for line in _store(i, capture, registers, threads))))
    edits.append((first, "\n\t".join(head) + "\n\t"))
    out, last = [], 0
    for at, piece in sorted(edits, key=lambda e: e[0]):
        out += [text[last:at], piece]
        last = at
    return "".join([*out, text[last:]]), captures, len(function.params)


def instructions(text: str, kernel: str | None = None) -> list[Instruction]:
    """The instructions of a kernel, in the order of the text."""
    return _read(text, kernel)[2]


def dumpable(text: str, kernel: str | None = None) -> list[tuple[Where, str]]:
    """The registers that a kernel writes, each with why it cannot be captured."""
    found = []
    for i in instructions(text, kernel):
        for register in i.results:
            kind = i.registers.type_of(register) or "?"
            refused = "" if kind in _DTYPES else f"a register of .{kind} is not stored"
            found.append((Where(register, i.opcode, i.line, i.python, f".{kind}"), refused))
    return found


# --- reading ---------------------------------------------------------------------------------------------------------


def _read(text: str, kernel: str | None) -> tuple[TokenStream, Function, list[Instruction], dict[str, int], int]:
    module = parse(text)
    entries = [f for f in module.functions.values() if f.entry and (kernel is None or f.name == kernel)]
    if len(entries) != 1:
        raise ArgumentError(
            f"the PTX has {len(entries)} kernels{f' {kernel!r}' if kernel else ''}; "
            f"it has {', '.join(f.name for f in module.functions.values() if f.entry) or 'none'}: expected name="
        )
    function, stream = entries[0], module.stream
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    scope = _Scope(None)
    place: Place | None = None
    first = -1
    at = function.start
    while at < function.stop:
        token = stream.tokens[at]
        if token.text == "{":
            scope, at = _Scope(scope), at + 1
            first = token.start if first < 0 else first
        elif token.text == "}":
            scope, at = scope.outer or scope, at + 1
        elif token.text == ";":
            at += 1
        elif token.text == ".loc":
            numbers = [t.text for t in stream.tokens[at + 1 : at + 4]]
            if all(n.isdigit() for n in numbers):
                file = module.files.get(int(numbers[0]), "?")
                place = Place(file, int(numbers[1]), int(numbers[2])) if int(numbers[1]) else None
            at = _next_line(stream, at)
        elif token.kind == "directive":
            end = _semicolon(stream, at, function.stop)
            if token.text == ".reg":
                _declare(scope, stream.tokens[at + 1 : end])
            at = end + 1
        elif token.kind == "name" and stream.tokens[at + 1].text == ":":
            first = token.start if first < 0 else first
            labels[token.text] = token.start
            at += 2
        else:
            first = token.start if first < 0 else first
            end = _semicolon(stream, at, function.stop)
            found.append(_instruction(stream, at, end, place, scope))
            at = end + 1
    return stream, function, found, labels, first


def _semicolon(stream: TokenStream, at: int, stop: int) -> int:
    while at < stop and stream.tokens[at].text != ";":
        at += 1
    return at


def _next_line(stream: TokenStream, at: int) -> int:
    line = stream.line_of(stream.tokens[at])
    while stream.tokens[at].kind != "end" and stream.line_of(stream.tokens[at]) == line:
        at += 1
    return at


def _declare(scope: _Scope, tokens: Sequence[Token]) -> None:
    kind = tokens[0].text.lstrip(".") if tokens else ""
    i = 1
    while i < len(tokens):
        name = tokens[i].text
        if i + 2 < len(tokens) and tokens[i + 1].text == "<":
            count = tokens[i + 2].text
            scope.ranges[name] = (int(count) if count.isdecimal() and len(count) < 10 else 0, kind)
            i += 5
        else:
            scope.names[name] = kind
            i += 2


def _instruction(stream: TokenStream, at: int, end: int, place: Place | None, scope: _Scope) -> Instruction:
    tokens = stream.tokens[at:end]
    i = 0
    if tokens[0].text == "@":
        i = 3 if len(tokens) > 1 and tokens[1].text == "!" else 2
    opcode = tokens[i].text if i < len(tokens) else ""
    operands = tokens[i + 1 :]
    results: list[str] = []
    if opcode.split(".")[0] not in _NO_RESULT and operands:
        depth = 0
        for token in operands:
            if token.text in "{[(":
                depth += 1
            elif token.text in "}])":
                depth -= 1
            elif token.text == "[" or (token.text == "," and depth == 0):
                break
            if token.kind == "name" and scope.type_of(token.text) is not None:
                results.append(token.text)
    target = operands[0].text if opcode.split(".")[0] == "bra" and operands else None
    stop = stream.tokens[end].start + 1
    line = stream.line_of(tokens[0])
    return Instruction(opcode, tuple(results), tokens[0].start, stop, line, place, scope, target)


def _close(stream: TokenStream, function: Function) -> int:
    """Offset behind the last parameter of an entry."""
    tokens = stream.tokens
    at = next(i for i, t in enumerate(tokens) if t.text == ".entry" and tokens[i + 1].text == function.name)
    depth = 0
    for token in tokens[at + 2 :]:
        depth += (token.text == "(") - (token.text == ")")
        if token.text == ")" and depth == 0:
            return len(stream.text[: token.start].rstrip())
    raise ArgumentError(f"dump: the parameters of {function.name} are not closed")


# --- choosing --------------------------------------------------------------------------------------------------------


def _capture(
    listed: Sequence[Instruction], labels: dict[str, int], request: At, threads: int
) -> tuple[Capture, tuple[str, ...], int]:
    found = [i for i in listed if _matches(i, request)]
    if request.nth is not None:
        if not 0 <= request.nth < len(found):
            raise ArgumentError(f"dump {request.text!r}: {len(found)} instructions match, there is no {request.nth}")
        found = [found[request.nth]]
    if not found:
        raise ArgumentError(f"dump {request.text!r}: no instruction matches; `trlaunch values` lists the registers")
    if len(found) > 1:
        lines = ", ".join(str(i.line) for i in found[:8])
        raise ArgumentError(
            f"dump {request.text!r}: {len(found)} instructions match, in lines {lines}: add line= or nth="
        )
    at = found[0]
    registers = (request.name,) if request.name is not None else at.results
    kinds = {at.registers.type_of(r) for r in registers}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None or kind not in _DTYPES:
        what = f"{', '.join(registers) or 'nothing'}" + (f" ({kind})" if kind else "")
        raise ArgumentError(
            f"dump {request.text!r}: `{at.opcode}` in line {at.line} gives {what}: expected registers of one type that "
            f"can be stored ({', '.join(_DTYPES)})"
        )
    if request.tensor is not None:
        raise ArgumentError(f"dump {request.text!r}: tensor= is for LLVM IR, whose values are registers of tensors")
    if request.part is not None:
        raise ArgumentError(f"dump {request.text!r}: part= is for tensors; a register is one value a thread")
    dtype = _DTYPES[kind]
    if request.dtype is not None:
        if request.dtype not in SCALARS or SCALARS[request.dtype].size != SCALARS[dtype].size or kind == "pred":
            raise ArgumentError(f"dump {request.text!r}: dtype={request.dtype!r} does not fit a register of .{kind}")
        dtype = request.dtype
    loops: tuple[Loop, ...] = ()
    if request.keep != "last" and any(
        i.target in labels and labels[i.target] <= at.start <= i.start for i in listed if i.target is not None
    ):
        loops = (Loop(f"loop around line {at.line}"),)
    shape = (threads,) if len(registers) == 1 else (threads, len(registers))
    where = Where(", ".join(registers), at.opcode, at.line, at.python, f".{kind}")
    return Capture(request, where, dtype, shape, loops, threads), registers, at.end


def _matches(instruction: Instruction, request: At) -> bool:
    if request.line is not None and instruction.line != request.line:
        return False
    if request.op is not None and instruction.opcode != request.op:
        return False
    if request.python_line is not None and (
        instruction.python is None or instruction.python.line != request.python_line
    ):
        return False
    if request.name is None:
        return bool(instruction.results)
    if request.line is not None:  # any register, whether or not it is written here
        return instruction.registers.type_of(request.name) is not None
    return request.name in instruction.results


# --- emitting --------------------------------------------------------------------------------------------------------


def _head(count: int) -> Iterator[str]:
    """Registers of all dumps, the buffer's address, the thread, the number of the program."""
    n = count
    yield f".reg .b64 %trl_base, %trl_program, %trl_t, %trl_u, %trl_v, %trl_records<{n}>, %trl_flags<{n}>, %trl_table;"
    yield f".reg .b32 %trl_tid, %trl_x, %trl_y, %trl_z, %trl_ny, %trl_nz, %trl_one, %trl_slot<{n}>, %trl_cap<{n}>;"
    yield f".reg .b32 %trl_turn<{n}>, %trl_bit;"
    yield ".reg .pred %trl_p, %trl_q;"
    yield f"ld.param.u64 %trl_base, [{_PARAMETER}];"
    yield "cvta.to.global.u64 %trl_base, %trl_base;"
    yield "mov.u32 %trl_one, 1;"
    yield "mov.u32 %trl_tid, %tid.x;"
    for register, special in (("x", "ctaid.x"), ("y", "ctaid.y"), ("z", "ctaid.z"), ("ny", "nctaid.y")):
        yield f"mov.u32 %trl_{register}, %{special};"
    yield "mov.u32 %trl_nz, %nctaid.z;"
    yield "mad.lo.s32 %trl_x, %trl_x, %trl_ny, %trl_y;"
    yield "mad.lo.s32 %trl_x, %trl_x, %trl_nz, %trl_z;"
    yield "mul.wide.u32 %trl_program, %trl_x, 4;"


def _entry(index: int, counted: bool) -> Iterator[str]:
    """What a dump's header says."""
    at = index * ENTRY_BYTES
    yield f"ld.global.u64 %trl_records{index}, [%trl_base+{at}];"
    yield f"shl.b64 %trl_records{index}, %trl_records{index}, 4;"
    yield f"ld.global.u64 %trl_flags{index}, [%trl_base+{at + 8}];"
    yield f"ld.global.u64 %trl_table, [%trl_base+{at + 16}];"
    yield f"ld.global.u32 %trl_cap{index}, [%trl_base+{at + 32}];"
    yield "add.s64 %trl_table, %trl_table, %trl_program;"
    yield "add.s64 %trl_table, %trl_table, %trl_base;"
    yield f"ld.global.u32 %trl_slot{index}, [%trl_table];"
    yield f"add.s64 %trl_records{index}, %trl_records{index}, %trl_base;"
    yield f"add.s64 %trl_flags{index}, %trl_flags{index}, %trl_base;"
    if counted:
        yield f"mov.u32 %trl_turn{index}, 0;"


def _store(index: int, capture: Capture, registers: Sequence[str], threads: int) -> Iterator[str]:
    size = capture.item_bytes
    yield f"setp.ge.s32 %trl_p, %trl_slot{index}, 0;"
    yield f"cvt.s64.s32 %trl_t, %trl_slot{index};"
    if capture.loops:
        yield f"setp.lt.u32 %trl_q, %trl_turn{index}, %trl_cap{index};"
        yield "and.pred %trl_p, %trl_p, %trl_q;"
        yield f"cvt.u64.u32 %trl_u, %trl_cap{index};"
        yield "mul.lo.s64 %trl_t, %trl_t, %trl_u;"
        yield f"cvt.u64.u32 %trl_u, %trl_turn{index};"
        yield "add.s64 %trl_t, %trl_t, %trl_u;"
        yield f"add.s32 %trl_turn{index}, %trl_turn{index}, 1;"
    yield f"mul.lo.s64 %trl_u, %trl_t, {threads};"
    yield f"mul.lo.s64 %trl_t, %trl_t, {capture.record_bytes};"
    yield f"add.s64 %trl_t, %trl_t, %trl_records{index};"
    yield f"add.s64 %trl_u, %trl_u, %trl_flags{index};"
    yield f"mul.wide.u32 %trl_v, %trl_tid, {size * len(registers)};"
    yield "add.s64 %trl_t, %trl_t, %trl_v;"
    yield "cvt.u64.u32 %trl_v, %trl_tid;"
    yield "add.s64 %trl_u, %trl_u, %trl_v;"
    for i, register in enumerate(registers):
        if capture.dtype == "i1":
            yield f"selp.u32 %trl_bit, 1, 0, {register};"
            yield f"@%trl_p st.global.u8 [%trl_t+{i}], %trl_bit;"
        else:
            yield f"@%trl_p st.global.b{8 * size} [%trl_t+{i * size}], {register};"
    yield "@%trl_p st.global.u8 [%trl_u], %trl_one;"
