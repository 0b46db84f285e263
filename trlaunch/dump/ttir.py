"""Injecting captures into TTIR and TTGIR text: a pointer parameter behind the user's, and stores behind the values.

A store carries the value's own encoding, so that no layout is converted for it. What it stores is masked, never
branched around: the structure of the loops stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from trlaunch.dump.choose import Candidate, Choice, candidates, dtype_of, marked, select
from trlaunch.dump.emit import PARAMETER, Edits, Emitter, parameters_end, prefix_of, program_number, store
from trlaunch.dump.plan import ENTRY_BYTES, Capture
from trlaunch.dump.request import At
from trlaunch.dump.trips import Loop
from trlaunch.errors import ArgumentError
from trlaunch.mlir_text import Block, Operation, Value
from trlaunch.mlir_types import split_tensor

__all__ = ["inject", "location_of", "place", "readable", "waits_of"]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the head of the function reads of a dump's header."""

    records: str
    flags: str
    counters: str
    slot: str
    valid: str
    caps: tuple[str, ...]


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
    chosen = marked(function, values) if requests is None else [select(function, values, r) for r in requests]
    chosen = [item for choice in chosen for item in _with_offset(choice)]
    numbers = iter(range(1 << 30))
    edits = Edits(text)
    close = parameters_end(text, function)
    comma = ", " if function.blocks[0].arguments else ""
    edits.put(close, 0, f"{comma}%{PARAMETER}: !tt.ptr<i8> {{tt.divisibility = 16 : i32}}")
    entry = Emitter(numbers, function.location)
    program = program_number(entry)
    captures = []
    prefix = prefix_of(text)
    waits = waits_of(function)
    for i, choice in enumerate(chosen):
        candidate, site = choice.candidate, choice.site
        around = _around(candidate.value, site)
        capture, whiles = _capture(choice, around)
        captures.append(capture)
        read = _read_entry(entry, i, program, len(capture.loops))
        counts = {}
        for number, (loop, block) in enumerate(whiles):
            counts[id(loop)] = _count(edits, numbers, read, loop, block, number, len(whiles))
        emit = Emitter(numbers, location_of(choice))
        _store(emit, candidate, capture, read, counts, prefix, waits, around)
        place(edits, choice, emit, also=bool(capture.offset_of))
    edits.put(function.blocks[0].start, 0, "\n" + "\n".join(entry.lines))
    return edits.apply(), captures, tuple(v.name for v in function.blocks[0].arguments)


def location_of(choice: Choice) -> str:
    """The location of what is emitted for a value."""
    return (choice.site or choice.candidate.value).location or choice.candidate.value.operation.location


def place(edits: Edits, choice: Choice, emit: Emitter, also: bool = False) -> None:
    """Put the operations of a capture where it belongs; `also`: beside another one that replaces the same mark."""
    value, site = choice.candidate.value, choice.site
    if site is not None and choice.replaces:
        edits.put(
            site.start, 1 if also else 2, "\n".join(emit.lines).lstrip() + "\n    " * also, None if also else site.end
        )
        return
    at = value.block.start if value.block is not None and site is None else (site or value.operation).end
    edits.put(at, 2, "\n" + "\n".join(emit.lines))


def _with_offset(choice: Choice) -> list[Choice]:
    """A choice, and one of the number that is its offset where only running the kernel tells it."""
    if isinstance(choice.offset, int):
        return [choice]
    request = replace(choice.request, name=choice.offset.value.name, label=f"offset of {choice.request.label}")
    return [
        choice,
        replace(choice, request=request, candidate=choice.offset, offset=0, offset_of=choice.request.label or ""),
    ]


def _around(value: Value, site: Operation | None) -> list[tuple[Operation, Block]]:
    """The operations around the place where a value is captured, innermost first."""
    if site is not None:
        return list(site.enclosing())
    around = list(value.operation.enclosing())
    return around if value.block is None else [(value.operation, value.block), *around]


def _capture(
    choice: Choice, around: Sequence[tuple[Operation, Block]]
) -> tuple[Capture, list[tuple[Operation, Block]]]:
    """What is captured, and the ``scf.while`` around it that must be counted."""
    candidate, request = choice.candidate, choice.request
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
    tensor = split_tensor(candidate.stored)
    shape, element = (tensor[0], tensor[1]) if tensor else ((), candidate.stored)
    window = request.part
    if window is not None:
        if len(window) != len(shape) or any(part and part[1] > n for part, n in zip(window, shape, strict=True)):
            raise ArgumentError(
                f"dump {request.text!r}: part= does not fit the shape {shape} of {candidate.where.name}"
            )
        shape = tuple(part[1] - part[0] if part else n for part, n in zip(window, shape, strict=True))
    dtype = dtype_of(element)
    if dtype is None:
        raise ArgumentError(f"dump {request.text!r}: {element} cannot be stored")
    if request.dtype is not None:
        raise ArgumentError(f"dump {request.text!r}: dtype= is for PTX, whose registers are untyped; this is {element}")
    offset = choice.offset if isinstance(choice.offset, int) else 0
    capture = Capture(request, candidate.where, dtype, shape, tuple(loops), 1, len(whiles), offset, choice.offset_of)
    return capture, whiles


# --- emitting --------------------------------------------------------------------------------------------------------


def _read_entry(emit: Emitter, index: int, program: str, loops: int) -> _Entry:
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
    edits: Edits, numbers: Iterator[int], entry: _Entry, loop: Operation, block: Block, number: int, count: int
) -> str:
    """Count the iterations of a while loop in memory; the number of the current one.

    The counter is a scalar, which one thread of the block stores and adds to: the two are in order.
    """

    def pointer(emit: Emitter) -> str:
        at = emit.binary("muli", entry.slot, emit.constant(4 * count, "i64"), "i64")
        at = emit.binary("addi", at, emit.constant(4 * number, "i64"), "i64")
        return emit.address(f"%{PARAMETER}", emit.binary("addi", entry.counters, at, "i64"), "i32")

    before = Emitter(numbers, loop.location)
    before.do(f"tt.store {pointer(before)}, {before.constant(0, 'i32')}, {entry.valid} : !tt.ptr<i32>")
    edits.put(loop.start, 1, "\n".join(before.lines).lstrip() + "\n    ")
    inside = Emitter(numbers, loop.location)
    one = inside.constant(1, "i32")
    turn = inside.let(
        f"tt.atomic_rmw add, acq_rel, gpu, {pointer(inside)}, {one}, {entry.valid} : (!tt.ptr<i32>, i32, i1) -> i32"
    )
    edits.put(block.start, 1, "\n" + "\n".join(inside.lines))
    return turn


def waits_of(function: Operation) -> dict[str, str]:
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


def _iteration(emit: Emitter, loop: Operation) -> str:
    """Number of the current iteration of an ``scf.for``, as i32."""
    low, _, step = loop.operands[1:4]
    induction = loop.blocks[0].arguments[0]
    kind = induction.type or "i32"
    distance = emit.binary("subi", induction.name, low, kind)
    turn = emit.binary("divui" if loop.head.startswith("unsigned") else "divsi", distance, step, kind)
    if kind == "i32":
        return turn
    return emit.let(f"arith.{'index_cast' if kind == 'index' else 'trunci'} {turn} : {kind} to i32")


def readable(emit: Emitter, candidate: Candidate, waits: dict[str, str]) -> tuple[str, str]:
    """The name and the type of what is stored: loaded from memory, or waited for, where that is needed."""
    name, load = candidate.value.name, candidate.load
    if load is not None:
        if not load.operation:
            return load.source, load.type
        return emit.let(load.text(name, candidate.value.type or "")), load.type
    tensor = split_tensor(candidate.stored)
    if tensor is not None and tensor[2] in waits:
        name = emit.let(f"{waits[tensor[2]]} {name} {{pendings = 0 : i32}} : {candidate.stored}")
    return name, candidate.stored


def _store(
    emit: Emitter,
    candidate: Candidate,
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
    name, kind = readable(emit, candidate, waits)
    store(
        emit,
        name,
        kind,
        lambda pointee: emit.address(f"%{PARAMETER}", offset, pointee),
        wanted,
        prefix,
        capture.request.part,
        relay=candidate.relay,
    )
