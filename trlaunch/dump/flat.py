"""Injecting stores to a caller's own buffer of fp32 into TTIR and TTGIR: triton-runner's ``dump_tensor``.

The buffer is one more parameter of the user's, behind the others. What is stored is converted to fp32; a later store to
an element replaces an earlier one. Unlike a capture nothing says what was written, nor how large the buffer is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trlaunch.dump.choose import Candidate, Choice, candidates, marked, select
from trlaunch.dump.emit import PARAMETER, Edits, Emitter, parameters_end, prefix_of, program_number, store
from trlaunch.dump.request import At
from trlaunch.dump.ttir import location_of, place, readable, waits_of
from trlaunch.errors import ArgumentError
from trlaunch.mlir_types import split_tensor

__all__ = ["FLAT_PARAMETER", "Flat", "inject_flat"]

FLAT_PARAMETER = "dump_tensor"


@dataclass(frozen=True, slots=True)
class Flat:
    """A text with stores to a flat buffer.

    Attributes
    ----------
    text : str
    index : int
        The place of the buffer among the parameters of the function.
    spans : tuple of (int, int, bool)
        Of each store whose offset is constant: offset, elements, and whether all programs store, each behind the one
        before.
    """

    text: str
    index: int
    spans: tuple[tuple[int, int, bool], ...]

    def elements(self, programs: int) -> int:
        """How many elements the buffer has at least, for so many programs."""
        return max((start + size * (programs if every else 1) for start, size, every in self.spans), default=0)


def inject_flat(text: str, kernel: str | None, requests: Sequence[At] | None) -> Flat:
    """Put the stores in.

    Parameters
    ----------
    text : str
        TTIR or TTGIR.
    kernel : str, optional
    requests : sequence of At, optional
        Left out, what `trlaunch.language` marked. Of each, ``programs`` counts: one, ``"last"`` or all of them.

    Raises
    ------
    ArgumentError
        A value is not found, or is none that fp32 can hold; an offset is negative.
    """
    if f"%{PARAMETER}" in text:
        raise ArgumentError(f"the text has %{PARAMETER} already: give the file without captures")
    _, function, values = candidates(text, kernel)
    chosen = marked(function, values) if requests is None else [select(function, values, r) for r in requests]
    if any(v.name == f"%{FLAT_PARAMETER}" for v in function.blocks[0].arguments):
        raise ArgumentError(f"the kernel has a parameter {FLAT_PARAMETER!r} already: dump_tensor= needs that name")
    numbers = iter(range(1 << 30))
    edits = Edits(text)
    index = len(function.blocks[0].arguments)
    comma = ", " if index else ""
    edits.put(parameters_end(text, function), 0, f"{comma}%{FLAT_PARAMETER}: !tt.ptr<f32>")
    entry = Emitter(numbers, function.location)
    program = program_number(entry)
    prefix, waits = prefix_of(text), waits_of(function)
    spans = []
    for choice in chosen:
        emit = Emitter(numbers, location_of(choice))
        shape = (split_tensor(choice.candidate.stored) or ((),))[0]
        size, every = math.prod(shape), choice.request.programs is None
        offset = _offset(emit, choice)
        if isinstance(choice.offset, int):
            if choice.offset < 0:
                raise ArgumentError(f"offset={choice.offset}: expected none below 0")
            spans.append((choice.offset, size, every))
        if every:
            offset = emit.binary("addi", offset, emit.binary("muli", program, emit.constant(size, "i64"), "i64"), "i64")
        wanted = _wanted(entry, choice.request.programs)
        name, kind = readable(emit, choice.candidate, waits)

        def base(_: str, emit: Emitter = emit, offset: str = offset) -> str:
            return emit.let(f"tt.addptr %{FLAT_PARAMETER}, {offset} : !tt.ptr<f32>, i64")

        store(emit, name, kind, base, wanted, prefix, fp32=True, relay=choice.candidate.relay)
        place(edits, choice, emit)
    edits.put(function.blocks[0].start, 0, "\n" + "\n".join(entry.lines))
    return Flat(edits.apply(), index, tuple(spans))


def _offset(emit: Emitter, choice: Choice) -> str:
    """The element that a store begins at, as i64."""
    if isinstance(choice.offset, int):
        return emit.constant(choice.offset, "i64")
    given: Candidate = choice.offset
    kind, name = given.stored, given.value.name
    if kind == "i64":
        return name
    if kind == "index":
        return emit.let(f"arith.index_cast {name} : index to i64")
    if not kind.startswith("i") or kind == "i1":
        raise ArgumentError(f"offset of {choice.request.label}: it is {kind}: expected an integer")
    return emit.let(f"arith.extsi {name} : {kind} to i64")


def _wanted(emit: Emitter, programs: tuple[tuple[int, ...], ...] | str | None) -> str:
    """Whether this program stores, as i1."""
    wanted = emit.let("arith.constant true")
    if programs is None:
        return wanted
    for axis, name in enumerate("xyz"):
        own = emit.let(f"tt.get_program_id {name} : i32")
        if isinstance(programs, str):  # the last along every axis
            count = emit.let(f"tt.get_num_programs {name} : i32")
            other = emit.binary("subi", count, emit.constant(1, "i32"), "i32")
        else:
            other = emit.constant((*programs[0], 0, 0)[axis], "i32")
        same = emit.let(f"arith.cmpi eq, {own}, {other} : i32")
        wanted = emit.binary("andi", wanted, same, "i1")
    return wanted
