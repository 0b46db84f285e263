"""TTIR and TTGIR text that is put into a module: operations, the addresses of a tensor's elements, edits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from trlaunch.errors import ArgumentError
from trlaunch.mlir_text import Operation
from trlaunch.mlir_types import CLOSE, OPEN, split_tensor, string_end

__all__ = ["PARAMETER", "Edits", "Emitter", "parameters_end", "prefix_of", "program_number", "store"]

PARAMETER = "trl_dump"


@dataclass(slots=True)
class Edits:
    """Text to put in at offsets; what has a lower rank comes first."""

    text: str
    parts: list[tuple[int, int, int, str, int]] = field(default_factory=list)

    def put(self, at: int, rank: int, text: str, end: int | None = None) -> None:
        """Put text in, in the place of what is there up to `end`."""
        self.parts.append((at, rank, len(self.parts), text, at if end is None else end))

    def apply(self) -> str:
        """The text with everything put in."""
        out, last = [], 0
        for at, _, _, text, end in sorted(self.parts):
            out += [self.text[last:at], text]
            last = end
        return "".join([*out, self.text[last:]])


@dataclass(slots=True)
class Emitter:
    """Operations as text; names are unique in the module."""

    numbers: Iterator[int]
    location: str
    lines: list[str] = field(default_factory=list)

    def do(self, text: str) -> None:
        """An operation without a result."""
        self.lines.append(f"    {text} {self.location}".rstrip())

    def let(self, text: str) -> str:
        """An operation with a result; its name."""
        name = f"%{PARAMETER}_{next(self.numbers)}"
        self.do(f"{name} = {text}")
        return name

    def constant(self, value: int, kind: str) -> str:
        """An integer."""
        return self.let(f"arith.constant {value} : {kind}")

    def binary(self, op: str, a: str, b: str, kind: str) -> str:
        """An operation of ``arith`` on two values of one type."""
        return self.let(f"arith.{op} {a}, {b} : {kind}")

    def address(self, base: str, offset: str, pointee: str) -> str:
        """``base + offset`` bytes as a pointer to something."""
        moved = self.let(f"tt.addptr {base}, {offset} : !tt.ptr<i8>, i64")
        return moved if pointee == "i8" else self.let(f"tt.bitcast {moved} : !tt.ptr<i8> -> !tt.ptr<{pointee}>")


def parameters_end(text: str, function: Operation) -> int:
    """Offset of the bracket that closes the parameter list.

    Raises
    ------
    ArgumentError
        There is none.
    """
    symbol = text.find("@", function.start)
    i = text.find("(", symbol) if symbol >= 0 else len(text)
    depth = 0
    while 0 <= i < len(text):
        if text[i] == '"':
            i = string_end(text, i)
            continue
        depth += (text[i] in OPEN) - (text[i] in CLOSE)
        if depth == 0:
            return i
        i += 1
    raise ArgumentError(f"dump: the parameters of the function in line {function.line} are not closed")


def program_number(emit: Emitter) -> str:
    """The number of the program: ``(x * ny + y) * nz + z``."""
    x, y, z = (emit.let(f"tt.get_program_id {axis} : i32") for axis in "xyz")
    ny, nz = (emit.let(f"tt.get_num_programs {axis} : i32") for axis in "yz")
    row = emit.binary("addi", emit.binary("muli", x, ny, "i32"), y, "i32")
    number = emit.binary("addi", emit.binary("muli", row, nz, "i32"), z, "i32")
    return emit.let(f"arith.extsi {number} : i32 to i64")


def prefix_of(text: str) -> str:
    """The dialect of layouts and of shared memory: its name changed with Triton 3.3."""
    return "triton_gpu" if "triton_gpu." in text else "ttg"


def store(
    emit: Emitter,
    name: str,
    type_text: str,
    base: Callable[[str], str],
    wanted: str,
    prefix: str,
    window: Sequence[tuple[int, int] | None] | None = None,
    fp32: bool = False,
    relay: str = "",
) -> None:
    """Store a value, its elements one behind the other, row-major, in the value's own encoding.

    Parameters
    ----------
    emit : Emitter
    name, type_text : str
        Of the value.
    base : callable
        Given the type in memory (``i8``), emits a pointer to it to where the first element goes.
    wanted : str
        An i1: whether to store.
    prefix : str
        As of `prefix_of`.
    window : sequence, optional
        First index and the one behind the last of each axis, ``None`` for all of it.
    fp32 : bool
        Convert what is stored.
    relay : str
        The layout to store it in, where its own cannot be.
    """
    tensor = split_tensor(type_text)
    shape, element, encoding = tensor or ((), type_text, None)
    suffix = f", {encoding}" if encoding else ""

    def typed(kind: str) -> str:
        return f"tensor<{''.join(f'{n}x' for n in shape)}{kind}{suffix}>" if tensor else kind

    stored, kind = _as_fp32(emit, name, element, typed) if fp32 else _as_it_is(emit, name, element, typed)
    if tensor and relay:
        before, suffix, encoding = typed(kind), f", {relay}", relay
        stored = emit.let(f"{prefix}.convert_layout {stored} : {before} -> {typed(kind)}")
    first = base(kind)
    if not tensor:
        emit.do(f"tt.store {first}, {stored}, {wanted} : !tt.ptr<{kind}>")
        return
    index, inside = _indices(emit, shape, encoding, window, prefix)
    pointers = emit.let(f"tt.splat {first} : !tt.ptr<{kind}> -> {typed(f'!tt.ptr<{kind}>')}")
    pointers = emit.let(f"tt.addptr {pointers}, {index} : {typed(f'!tt.ptr<{kind}>')}, {typed('i32')}")
    mask = emit.let(f"tt.splat {wanted} : i1 -> {typed('i1')}")
    for part in inside:
        mask = emit.binary("andi", mask, part, typed("i1"))
    emit.do(f"tt.store {pointers}, {stored}, {mask} : {typed(f'!tt.ptr<{kind}>')}")


def _as_it_is(emit: Emitter, name: str, element: str, typed: Callable[[str], str]) -> tuple[str, str]:
    """A value as something that memory holds, and its type there."""
    if element == "i1":
        return emit.let(f"arith.extui {name} : {typed('i1')} to {typed('i8')}"), "i8"
    if element == "index":
        return emit.let(f"arith.index_cast {name} : {typed('index')} to {typed('i64')}"), "i64"
    if element.startswith("!tt.ptr<"):
        return emit.let(f"tt.ptr_to_int {name} : {typed(element)} -> {typed('i64')}"), "i64"
    if element.startswith("f8"):
        return emit.let(f"tt.bitcast {name} : {typed(element)} -> {typed('i8')}"), "i8"
    return name, element


def _as_fp32(emit: Emitter, name: str, element: str, typed: Callable[[str], str]) -> tuple[str, str]:
    """A number as fp32."""
    if element == "f32":
        return name, "f32"
    if element == "index":
        name, element = emit.let(f"arith.index_cast {name} : {typed('index')} to {typed('i64')}"), "i64"
    if element.startswith("f8"):
        return emit.let(f"tt.fp_to_fp {name} : {typed(element)} -> {typed('f32')}"), "f32"
    casts = {"f64": "truncf", "f16": "extf", "bf16": "extf", "i1": "uitofp"}
    cast = casts.get(element) or ("sitofp" if element[:1] == "i" and element[1:].isdigit() else None)
    if cast is None:
        raise ArgumentError(f"{name} is {element}, which fp32 does not hold: expected numbers")
    return emit.let(f"arith.{cast} {name} : {typed(element)} to {typed('f32')}"), "f32"


def _indices(
    emit: Emitter,
    shape: tuple[int, ...],
    encoding: str | None,
    window: Sequence[tuple[int, int] | None] | None,
    prefix: str,
) -> tuple[str, list[str]]:
    """Each element's number in the record, row-major, and the masks of the parts asked for."""
    rank = len(shape)
    kept = [part or (0, n) for part, n in zip(window or (None,) * rank, shape, strict=True)]
    full = f", {encoding}" if encoding else ""
    whole = f"tensor<{''.join(f'{n}x' for n in shape)}i32{full}>"
    total, masks = "", []
    for dim, size in enumerate(shape):
        if size == 1:
            continue
        others = [d for d in range(rank) if d != dim]
        layouts = [encoding]
        for other in reversed(others):
            parent = layouts[-1]
            layouts.append(f"#{prefix}.slice<{{dim = {other}, parent = {parent}}}>" if parent else None)
        layout = layouts.pop()
        dims = [size]
        kind = f"tensor<{size}xi32{f', {layout}' if layout else ''}>"
        part = emit.let(f"tt.make_range {{end = {size} : i32, start = 0 : i32}} : {kind}")
        for other in others:
            layout = layouts.pop()
            dims.insert(other, 1)
            wider = f"tensor<{''.join(f'{n}x' for n in dims)}i32{f', {layout}' if layout else ''}>"
            part = emit.let(f"tt.expand_dims {part} {{axis = {other} : i32}} : {kind} -> {wider}")
            kind = wider
        if tuple(dims) != shape:
            part = emit.let(f"tt.broadcast {part} : {kind} -> {whole}")
        low, high = kept[dim]
        if (low, high) != (0, size):
            for predicate, bound in (("sge", low), ("slt", high)):
                limit = emit.let(f"arith.constant dense<{bound}> : {whole}")
                masks.append(emit.let(f"arith.cmpi {predicate}, {part}, {limit} : {whole}"))
        if low:
            part = emit.binary("subi", part, emit.let(f"arith.constant dense<{low}> : {whole}"), whole)
        stride = math.prod(high - low for low, high in kept[dim + 1 :])
        if stride != 1:
            part = emit.binary("muli", part, emit.let(f"arith.constant dense<{stride}> : {whole}"), whole)
        total = emit.binary("addi", total, part, whole) if total else part
    return total or emit.let(f"arith.constant dense<0> : {whole}"), masks
