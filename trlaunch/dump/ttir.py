"""Injecting captures into TTIR and TTGIR text: a pointer parameter behind the user's, and stores behind the values.

A store carries the value's own encoding, so that no layout is converted for it. What it stores is masked, never
branched around: the structure of the loops stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trlaunch.dump.plan import ENTRY_BYTES, MAX_LOOPS, Capture, Where
from trlaunch.dump.request import At
from trlaunch.dump.trips import Loop, definition
from trlaunch.errors import ArgumentError
from trlaunch.language import MARK
from trlaunch.mlir_text import Block, Module, Operation, Value, parse
from trlaunch.mlir_types import split_tensor
from trlaunch.scalars import from_mlir

__all__ = ["PARAMETER", "Candidate", "candidates", "inject"]

PARAMETER = "trl_dump"

# Regions that run with the threads of the whole block and see the values around them.
_REGIONS = ("tt.func", "scf.for", "scf.if", "scf.while")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value of a kernel: what can be said of it, and why it cannot be dumped (nothing where it can)."""

    value: Value
    where: Where
    refused: str = ""


@dataclass(slots=True)
class _Edits:
    """Text to put in at offsets; what has a lower rank comes first."""

    text: str
    parts: list[tuple[int, int, int, str, int]] = field(default_factory=list)

    def put(self, at: int, rank: int, text: str, end: int | None = None) -> None:
        """Put text in, in the place of what is there up to `end`."""
        self.parts.append((at, rank, len(self.parts), text, at if end is None else end))

    def apply(self) -> str:
        out, last = [], 0
        for at, _, _, text, end in sorted(self.parts):
            out += [self.text[last:at], text]
            last = end
        return "".join([*out, self.text[last:]])


@dataclass(slots=True)
class _Emitter:
    """Operations as text; names are unique in the module."""

    numbers: Iterator[int]
    location: str
    lines: list[str] = field(default_factory=list)

    def do(self, text: str) -> None:
        self.lines.append(f"    {text} {self.location}".rstrip())

    def let(self, text: str) -> str:
        name = f"%{PARAMETER}_{next(self.numbers)}"
        self.do(f"{name} = {text}")
        return name

    def constant(self, value: int, kind: str) -> str:
        return self.let(f"arith.constant {value} : {kind}")

    def binary(self, op: str, a: str, b: str, kind: str) -> str:
        return self.let(f"arith.{op} {a}, {b} : {kind}")

    def address(self, base: str, offset: str, pointee: str) -> str:
        """``base + offset`` bytes as a pointer to something."""
        moved = self.let(f"tt.addptr {base}, {offset} : !tt.ptr<i8>, i64")
        return moved if pointee == "i8" else self.let(f"tt.bitcast {moved} : !tt.ptr<i8> -> !tt.ptr<{pointee}>")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the head of the function reads of a dump's header."""

    records: str
    flags: str
    counters: str
    slot: str
    valid: str
    caps: tuple[str, ...]


def candidates(text: str, kernel: str | None = None) -> tuple[Module, Operation, list[Candidate]]:
    """Every value of a kernel, in the order of the text, with its module and function."""
    module = parse(text)
    function = module.function(kernel)
    found = []
    for operation in function.walk():
        blocks = [value for block in operation.blocks for value in block.arguments]
        found += [_candidate(module, value) for value in (*operation.results, *blocks)]
    order = {id(c): (c.value.block.start if c.value.block else c.value.operation.start) for c in found}
    return module, function, sorted(found, key=lambda c: order[id(c)])


def inject(text: str, kernel: str | None, requests: Sequence[At] | None) -> tuple[str, list[Capture], tuple[str, ...]]:
    """The text with captures in it.

    Parameters
    ----------
    text : str
        TTIR or TTGIR.
    kernel : str, optional
    requests : sequence of At, optional
        Left out, what `trlaunch.language` marked.

    Returns
    -------
    text : str
    captures : list of Capture
    names : tuple of str
        The parameters before the new one.

    Raises
    ------
    ArgumentError
        A request matches no value or several, or the value cannot be stored; the message says why.
    """
    _, function, values = candidates(text, kernel)
    if f"%{PARAMETER}" in text:
        raise ArgumentError(f"the text has %{PARAMETER} already: give the file without captures")
    chosen: list[tuple[At, Candidate, Operation | None]]
    if requests is None:
        chosen = _marked(function, values)
    else:
        chosen = [(request, _select(values, request), None) for request in requests]
    numbers = iter(range(1 << 30))
    edits = _Edits(text)
    close = _parameters_end(text, function)
    comma = ", " if function.blocks[0].arguments else ""
    edits.put(close, 0, f"{comma}%{PARAMETER}: !tt.ptr<i8> {{tt.divisibility = 16 : i32}}")
    entry = _Emitter(numbers, function.location)
    program = _program(entry)
    captures = []
    prefix = "triton_gpu" if "triton_gpu." in text else "ttg"
    waits = _waits(function)
    for i, (request, candidate, site) in enumerate(chosen):
        around = _around(candidate.value, site)
        capture, whiles = _capture(candidate, request, around)
        captures.append(capture)
        read = _read_entry(entry, i, program, len(capture.loops))
        location = (site or candidate.value).location or candidate.value.operation.location
        counts = {}
        for number, (loop, block) in enumerate(whiles):
            counts[id(loop)] = _count(edits, numbers, read, loop, block, number, len(whiles))
        emit = _Emitter(numbers, location)
        _store(emit, candidate.value, capture, read, counts, prefix, waits, around)
        if site is not None:
            edits.put(site.start, 2, "\n".join(emit.lines).lstrip(), site.end)
            continue
        inside = candidate.value.block
        at = candidate.value.operation.end if inside is None else inside.start
        edits.put(at, 2, "\n" + "\n".join(emit.lines))
    edits.put(function.blocks[0].start, 0, "\n" + "\n".join(entry.lines))
    return edits.apply(), captures, tuple(v.name for v in function.blocks[0].arguments)


# --- choosing --------------------------------------------------------------------------------------------------------


def _candidate(module: Module, value: Value) -> Candidate:
    operation, block = value.operation, value.block
    tensor = split_tensor(value.type or "")
    line = operation.line
    if block is not None:
        line = module.text.count("\n", 0, block.start) + 1 if block.label is not None else operation.line
    op = operation.name if block is None else "argument"
    place = module.place(value.location or operation.location)
    where = Where(value.name, op, line, place, value.type or "?", tensor[2] if tensor else None)
    return Candidate(value, where, _refusal(value))


def _refusal(value: Value) -> str:
    if value.type is None:
        return f"the text does not say the type of a result of {value.operation.name}"
    chain = [o for o, _ in value.operation.enclosing()]
    if value.block is not None:
        chain.insert(0, value.operation)
    outside = next((o for o in chain if o.name not in _REGIONS and o.name not in ("module", "builtin.module")), None)
    if outside is not None:
        return f"it is inside {outside.name}, whose region does not see the dump's pointer or does not run per block"
    tensor = split_tensor(value.type)
    looped = any(o.name == "scf.for" for o in chain)
    if looped and tensor and not tensor[2] and value.operation.name == "tt.experimental_descriptor_load":
        return "the pipeliner of Triton up to 3.3 fails on a descriptor load in a loop that is used twice"
    element = tensor[1] if tensor else value.type
    if tensor and any(n < 1 or n & (n - 1) for n in tensor[0]):
        return f"a tensor of type {value.type} has a dimension that is no power of two"
    if _dtype(element) is None:
        reason = {
            "tt.memdesc": "it is shared memory: dump what ttg.local_load makes of it",
            "ttg.memdesc": "it is shared or tensor memory: dump what ttg.local_load or ttng.tmem_load makes of it",
        }.get(element.lstrip("!").split("<")[0], "only numbers, pointers and tensors of them can be stored")
        return f"its type is {value.type}: {reason}"
    loops = [o for o in chain if o.name in ("scf.for", "scf.while")]
    return f"it is inside {len(loops)} loops: {MAX_LOOPS} are the most" if len(loops) > MAX_LOOPS else ""


def _dtype(element: str) -> str | None:
    if element == "index":
        return "i64"
    if element.startswith("!tt.ptr<"):
        return None if element.startswith("!tt.ptr<tensor") else "*"
    return from_mlir(element)


def _select(values: Sequence[Candidate], request: At) -> Candidate:
    found = [c for c in values if _matches(c, request)]
    if request.name is None:  # what cannot be dumped is not counted, unless there is nothing else
        found = [c for c in found if not c.refused] or found
    if request.op is not None and request.name is None:  # count operations, not their results
        first = {id(c.value.operation): c for c in reversed(found)}
        found = [c for c in found if first[id(c.value.operation)] is c]
    if request.nth is not None:
        if not 0 <= request.nth < len(found):
            raise ArgumentError(f"dump {request.text!r}: {len(found)} values match, there is no number {request.nth}")
        found = [found[request.nth]]
    if not found:
        near = [c.where.name for c in values if not c.refused][:8]
        raise ArgumentError(
            f"dump {request.text!r}: no value of the kernel matches; `trlaunch values` lists them: "
            f"{', '.join(near)}, ..."
        )
    if len(found) > 1 and request.line is not None and request.name is None and request.op is None:
        operations = {id(c.value.operation) for c in found if c.value.block is None}
        if len(operations) == 1:  # the line of one operation with several results: result= chooses
            found = [c for c in found if c.value.block is None][:1]
    if len(found) > 1:
        listed = ", ".join(f"{c.where.name} in line {c.where.line}" for c in found[:6])
        raise ArgumentError(f"dump {request.text!r}: {len(found)} values match ({listed}): add line= or nth=")
    chosen = found[0]
    if request.result:
        results = chosen.value.operation.results
        if request.name is not None or request.result >= len(results):
            raise ArgumentError(f"dump {request.text!r}: result={request.result}, it has {len(results)}")
        value = results[request.result]
        chosen = next(c for c in values if c.value is value)
    if chosen.refused:
        raise ArgumentError(f"dump {request.text!r}: {chosen.where.name} cannot be dumped: {chosen.refused}")
    return chosen


def _matches(candidate: Candidate, request: At) -> bool:
    where = candidate.where
    if request.name is not None and where.name not in (request.name, f"{request.name}#0"):
        return False
    if request.op is not None and (where.op != request.op or not request.op):
        return False
    if request.line is not None and where.line != request.line:
        return False
    if request.python_line is not None:
        return where.python is not None and where.python.line == request.python_line
    return True


def _marked(function: Operation, values: Sequence[Candidate]) -> list[tuple[At, Candidate, Operation | None]]:
    """The requests of `trlaunch.language`: each is a ``tt.print`` of the value, which the capture replaces."""
    by_value = {id(c.value): c for c in values}
    found: list[tuple[At, Candidate, Operation | None]] = []
    seen: dict[str, int] = {}
    for operation in function.walk():
        if operation.name != "tt.print" or f'" {MARK}' not in operation.head:
            continue
        fields = operation.head.partition(MARK)[2].partition('"')[0].strip().rstrip(":").split(":")
        name = fields[1].strip() if len(fields) > 1 and fields[1].strip() else f"dump{len(found)}"
        seen[name] = seen.get(name, -1) + 1
        label = f"{name}.{seen[name]}" if seen[name] else name
        programs: tuple[tuple[int, ...], ...] | str | None = None if fields[0] == "all" else "last"
        if fields[0][0].isdigit():
            programs = (tuple(int(n) for n in fields[0].split(".")),)
        value = definition(operation, operation.operands[0])
        candidate = None if value is None else by_value.get(id(value))
        if candidate is None or candidate.refused:
            reason = "it is not a value of the kernel" if candidate is None else candidate.refused
            raise ArgumentError(f"dump {label!r}: {operation.operands[0]} cannot be dumped: {reason}")
        found.append((At(candidate.value.name, programs=programs, label=label), candidate, operation))
    if not found:
        raise ArgumentError("dump=True: the kernel has no trlaunch.language.dump: expected one, or names of values")
    return found


def _around(value: Value, site: Operation | None) -> list[tuple[Operation, Block]]:
    """The operations around the place where a value is captured, innermost first."""
    if site is not None:
        return list(site.enclosing())
    around = list(value.operation.enclosing())
    return around if value.block is None else [(value.operation, value.block), *around]


def _capture(
    candidate: Candidate, request: At, around: Sequence[tuple[Operation, Block]]
) -> tuple[Capture, list[tuple[Operation, Block]]]:
    """What is captured, and the ``scf.while`` around it that must be counted."""
    value = candidate.value
    loops, whiles = [], []
    for operation, block in reversed(around):
        if operation.name == "scf.for":
            loops.append(Loop(f"scf.for in line {operation.line}", operation))
        elif operation.name == "scf.while":
            first = next(b for b in operation.blocks if b.region == block.region)
            whiles.append((operation, first))
            loops.append(Loop(f"scf.while in line {operation.line}"))
    if request.keep == "last":
        loops, whiles = [], []
    tensor = split_tensor(value.type or "")
    shape, element = (tensor[0], tensor[1]) if tensor else ((), value.type or "")
    window = request.part
    if window is not None:
        if len(window) != len(shape) or any(part and part[1] > n for part, n in zip(window, shape, strict=True)):
            raise ArgumentError(
                f"dump {request.text!r}: part= does not fit the shape {shape} of {candidate.where.name}"
            )
        shape = tuple(part[1] - part[0] if part else n for part, n in zip(window, shape, strict=True))
    dtype = _dtype(element)
    if dtype is None:
        raise ArgumentError(f"dump {request.text!r}: {element} cannot be stored")
    if request.dtype is not None:
        raise ArgumentError(f"dump {request.text!r}: dtype= is for PTX, whose registers are untyped; this is {element}")
    return Capture(request, candidate.where, dtype, shape, tuple(loops), 1, len(whiles)), whiles


# --- emitting --------------------------------------------------------------------------------------------------------


def _parameters_end(text: str, function: Operation) -> int:
    """Offset of the bracket that closes the parameter list."""
    at = text.index("(", text.index("@", function.start))
    depth, i = 0, at
    while True:
        char = text[i]
        if char == '"':
            i += 1
            while text[i] != '"':
                i += 2 if text[i] == "\\" else 1
        depth += (char in "([{<") - (char in ")]}>")
        if depth == 0:
            return i
        i += 1


def _program(emit: _Emitter) -> str:
    """The number of the program: ``(x * ny + y) * nz + z``."""
    x, y, z = (emit.let(f"tt.get_program_id {axis} : i32") for axis in "xyz")
    ny, nz = (emit.let(f"tt.get_num_programs {axis} : i32") for axis in "yz")
    row = emit.binary("addi", emit.binary("muli", x, ny, "i32"), y, "i32")
    number = emit.binary("addi", emit.binary("muli", row, nz, "i32"), z, "i32")
    return emit.let(f"arith.extsi {number} : i32 to i64")


def _read_entry(emit: _Emitter, index: int, program: str, loops: int) -> _Entry:
    base = f"%{PARAMETER}"

    def load(offset: int, kind: str) -> str:
        pointer = emit.address(base, emit.constant(index * ENTRY_BYTES + offset, "i64"), kind)
        return emit.let(f"tt.load {pointer} : !tt.ptr<{kind}>")

    units = load(0, "i64")
    records = emit.binary("muli", units, emit.constant(16, "i64"), "i64")
    flags, table, counters = load(8, "i64"), load(16, "i64"), load(24, "i64")
    caps = tuple(load(32 + 4 * i, "i32") for i in range(loops))
    moved = emit.binary("addi", table, emit.binary("muli", program, emit.constant(4, "i64"), "i64"), "i64")
    slot32 = emit.let(f"tt.load {emit.address(base, moved, 'i32')} : !tt.ptr<i32>")
    valid = emit.let(f"arith.cmpi sge, {slot32}, {emit.constant(0, 'i32')} : i32")
    return _Entry(records, flags, counters, emit.let(f"arith.extsi {slot32} : i32 to i64"), valid, caps)


def _count(
    edits: _Edits, numbers: Iterator[int], entry: _Entry, loop: Operation, block: Block, number: int, count: int
) -> str:
    """Count the iterations of a while loop in memory; the number of the current one.

    The counter is a scalar, which one thread of the block stores and adds to: the two are in order.
    """

    def pointer(emit: _Emitter) -> str:
        at = emit.binary("muli", entry.slot, emit.constant(4 * count, "i64"), "i64")
        at = emit.binary("addi", at, emit.constant(4 * number, "i64"), "i64")
        return emit.address(f"%{PARAMETER}", emit.binary("addi", entry.counters, at, "i64"), "i32")

    before = _Emitter(numbers, loop.location)
    before.do(f"tt.store {pointer(before)}, {before.constant(0, 'i32')}, {entry.valid} : !tt.ptr<i32>")
    edits.put(loop.start, 1, "\n".join(before.lines).lstrip() + "\n    ")
    inside = _Emitter(numbers, loop.location)
    one = inside.constant(1, "i32")
    turn = inside.let(
        f"tt.atomic_rmw add, acq_rel, gpu, {pointer(inside)}, {one}, {entry.valid} : (!tt.ptr<i32>, i32, i1) -> i32"
    )
    edits.put(block.start, 1, "\n" + "\n".join(inside.lines))
    return turn


def _waits(function: Operation) -> dict[str, str]:
    """The operation that waits for asynchronous matrix products, by the encoding of their results.

    Until then the tensor cores write the registers: of the accumulator that a loop carries, too, and of what a wait
    lets pending. A value of such an encoding is waited for before it is stored.
    """
    operations = list(function.walk())
    names = [o.name for o in operations if o.name.endswith("dot_wait")]
    waits: dict[str, str] = {}
    for operation in operations:
        if names and ("isAsync = true" in operation.head or operation.name.endswith(".dot_async")):
            for value in operation.results:
                tensor = split_tensor(value.type or "")
                if tensor is not None and tensor[2] is not None:
                    waits[tensor[2]] = names[0]
    return waits


def _iteration(emit: _Emitter, loop: Operation) -> str:
    """Number of the current iteration of an ``scf.for``, as i32."""
    low, _, step = loop.operands[1:4]
    induction = loop.blocks[0].arguments[0]
    kind = induction.type or "i32"
    distance = emit.binary("subi", induction.name, low, kind)
    turn = emit.binary("divui" if loop.head.startswith("unsigned") else "divsi", distance, step, kind)
    if kind == "i32":
        return turn
    return emit.let(f"arith.{'index_cast' if kind == 'index' else 'trunci'} {turn} : {kind} to i32")


def _store(
    emit: _Emitter,
    value: Value,
    capture: Capture,
    entry: _Entry,
    counts: dict[int, str],
    prefix: str,
    waits: dict[str, str],
    around: Sequence[tuple[Operation, Block]],
) -> None:
    record, wanted = entry.slot, entry.valid
    whiles = [o for o, _ in reversed(around) if o.name in ("scf.for", "scf.while")]
    for loop, source, cap in zip(capture.loops, whiles, entry.caps, strict=False):
        turn = counts[id(source)] if loop.operation is None else _iteration(emit, loop.operation)
        wanted = emit.binary("andi", wanted, emit.let(f"arith.cmpi slt, {turn}, {cap} : i32"), "i1")
        wide, most = (emit.let(f"arith.extsi {n} : i32 to i64") for n in (turn, cap))
        record = emit.binary("addi", emit.binary("muli", record, most, "i64"), wide, "i64")
    flag = emit.address(f"%{PARAMETER}", emit.binary("addi", entry.flags, record, "i64"), "i8")
    emit.do(f"tt.store {flag}, {emit.constant(1, 'i8')}, {wanted} : !tt.ptr<i8>")
    distance = emit.binary("muli", record, emit.constant(capture.record_bytes, "i64"), "i64")
    offset = emit.binary("addi", entry.records, distance, "i64")
    tensor = split_tensor(value.type or "")
    shape, element, encoding = tensor if tensor else ((), value.type or "", None)
    suffix = f", {encoding}" if encoding else ""

    def typed(kind: str, of: Sequence[int] | None = None, layout: str = suffix) -> str:
        dims = shape if of is None else of
        return f"tensor<{''.join(f'{n}x' for n in dims)}{kind}{layout}>" if tensor else kind

    name = value.name
    if encoding in waits:
        name = emit.let(f"{waits[encoding]} {name} {{pendings = 0 : i32}} : {value.type}")
    stored, kind = _storable(emit, name, element, typed)
    base = emit.address(f"%{PARAMETER}", offset, kind)
    if not tensor:
        emit.do(f"tt.store {base}, {stored}, {wanted} : !tt.ptr<{kind}>")
        return
    index, inside = _index(emit, shape, encoding, capture.request.part, prefix)
    pointers = emit.let(f"tt.splat {base} : !tt.ptr<{kind}> -> {typed(f'!tt.ptr<{kind}>')}")
    pointers = emit.let(f"tt.addptr {pointers}, {index} : {typed(f'!tt.ptr<{kind}>')}, {typed('i32')}")
    mask = emit.let(f"tt.splat {wanted} : i1 -> {typed('i1')}")
    for part in inside:
        mask = emit.binary("andi", mask, part, typed("i1"))
    emit.do(f"tt.store {pointers}, {stored}, {mask} : {typed(f'!tt.ptr<{kind}>')}")


def _storable(emit: _Emitter, name: str, element: str, typed: object) -> tuple[str, str]:
    """A value as something that memory holds, and its type there."""
    assert callable(typed)
    if element == "i1":
        return emit.let(f"arith.extui {name} : {typed('i1')} to {typed('i8')}"), "i8"
    if element == "index":
        return emit.let(f"arith.index_cast {name} : {typed('index')} to {typed('i64')}"), "i64"
    if element.startswith("!tt.ptr<"):
        return emit.let(f"tt.ptr_to_int {name} : {typed(element)} -> {typed('i64')}"), "i64"
    if element.startswith("f8"):
        return emit.let(f"tt.bitcast {name} : {typed(element)} -> {typed('i8')}"), "i8"
    return name, element


def _index(
    emit: _Emitter,
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
