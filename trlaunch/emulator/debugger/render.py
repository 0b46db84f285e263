"""What a session looks like, as text: places, registers, warps, arguments, source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.debugger import values
from trlaunch.emulator.debugger.points import Breakpoint, Watchpoint
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.registers import instruction_at
from trlaunch.errors import EmulatorError, Fault

if TYPE_CHECKING:
    from trlaunch.emulator.arguments import Argument
    from trlaunch.emulator.debugger.lines import Frame
    from trlaunch.emulator.debugger.session import Session

__all__ = [
    "address", "arguments", "backtrace", "barriers", "breakpoints", "element", "location", "memory", "numbers",
    "ptx_listing", "register", "registers", "shared", "source_listing", "stopped", "table", "warps",
]  # fmt: skip

_MOST_ELEMENTS = 256
#: Longest instruction that is shown whole; longer ones have long lists of registers.
_LONG = 120
_VECTOR = re.compile(r"\{\s*([^,{}]+),(?:[^,{}]+,){3,}\s*([^,{}]+?)\s*\}")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Columns under their names."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def _triple(index: Sequence[int]) -> str:
    return "(" + ",".join(map(str, index)) + ")"


def _focus(session: Session) -> str:
    lane = session.engine.focus[1]
    return f"CTA {_triple(session.cta)}, thread {_triple(session.thread)} (warp {lane // 32}, lane {lane % 32})"


def stopped(session: Session) -> list[str]:
    """Why the launch stopped, and where."""
    stop = session.stop
    if not session.running:
        fault = session.engine.error
        if isinstance(fault, Fault):
            return [f"the kernel died of a fault, {fault.kind}; run launches it anew"]
        return ["the kernel has ended; run launches it anew"]
    assert stop is not None
    lines: list[str] = []
    if stop.kind == "fault":
        lines += str(stop.what).splitlines()
    elif stop.what:
        lines += stop.what.splitlines()
        if stop.lanes is not None and stop.kind == "breakpoint":
            lanes = np.broadcast_to(stop.lanes, session.engine.lanes)
            ctas = int(lanes.any(axis=1).sum())
            more = f" in {ctas} CTAs" if ctas > 1 else ""
            lines[-1] += f": {int(lanes.sum())} lane{'s' if lanes.sum() > 1 else ''}{more}"
    return [*lines, *location(session)]


def location(session: Session) -> list[str]:
    """The focus, its Python line and its PTX line."""
    place = session.engine.place()
    if place.block is None:
        return [f"[{_focus(session)}] {place.state}"]
    instruction = instruction_at(session.engine.registers.program, place.block)
    state = "" if place.state in ("running", "ready") else f", {place.state}"
    lines = [f"[{_focus(session)}{state}]"]
    if instruction is None:
        return [*lines, "=> behind the last instruction"]
    frames = session.backtrace()
    own = next((f for f in frames if not f.inlined), frames[-1])
    where = str(own)
    if frames[0].inlined:
        where += f", in {frames[0]}"
    lines.append(where)
    if own.file and (text := session.sources.text(own.file, own.line)) is not None:
        lines.append(f"   {own.line:>5}  {text.strip()}")
    lines.append(f"=> {instruction.line:>5}  {_ptx(session, instruction.line)}")
    return lines


def _ptx(session: Session, line: int) -> str:
    text = " ".join(session.engine.lines.ptx[line - 1].split("//")[0].split())
    return _VECTOR.sub(r"{\1, ..., \2}", text) if len(text) > _LONG else text


def backtrace(session: Session) -> list[str]:
    """One line a frame, innermost first."""
    lines = []
    for number, frame in enumerate(session.backtrace()):
        kind = " [inlined]" if frame.inlined else ""
        lines.append(f"#{number}  {frame}{kind}, PTX line {frame.ptx_line}")
        if frame.file and (text := session.sources.text(frame.file, frame.line)) is not None:
            lines.append(f"      {text.strip()}")
    return lines


# Registers.


def register(session: Session, name: str, letter: str | None, warp: int | None = None) -> list[str]:
    """One register of a warp, lane by lane; lanes elsewhere in parentheses."""
    block = session._here()
    width, kind = values.width_of(session.engine, name, block)
    type_name = values.value_type(letter, kind, width)
    every = session.register(name, type_name)
    active = session.active()
    warp = session.engine.focus[1] // 32 if warp is None else warp
    part, here = every[warp * 32 : warp * 32 + 32], active[warp * 32 : warp * 32 + 32]
    bits = sum(1 << i for i, on in enumerate(here) if on)
    head = f"{name} .{type_name}, CTA {_triple(session.cta)} warp {warp}, active {bits:#010x}"
    return [head, *values.lane_table(values.formatted(part, letter), list(here))]


def registers(session: Session) -> list[str]:
    """All registers of the focus thread, and whether its warp agrees."""
    block = session._here()
    engine = session.engine
    row, lane = session._row(), engine.focus[1]
    first = lane // 32 * 32
    rows = []
    for name in sorted(engine.registers.names(block), key=values.natural):
        found, kind = values.read_register(engine, name, None, block)
        warp = np.array(found[row, first : first + 32])
        same = all(w.tobytes() == warp[0].tobytes() for w in warp)
        rows.append([name, f".{kind}", values.format_value(found[row, lane]), "" if same else "differs in the warp"])
    return table(["register", "type", "value", ""], rows) if rows else ["no register is used here"]


# Threads.


def warps(session: Session) -> list[str]:
    """Where each warp of the CTA in focus is; a warp whose lanes are at several places has a line for each."""
    engine = session.engine
    session._row()
    blocks, states, names = engine.places()
    row = engine.row
    assert row is not None
    threads = session._threads()
    rows = []
    for warp in range((threads + 31) // 32):
        part = slice(warp * 32, min(warp * 32 + 32, threads))
        pairs = list(zip(blocks[row, part].tolist(), states[row, part].tolist(), strict=True))
        for block, state in dict.fromkeys(pairs):
            bits = sum(1 << i for i, pair in enumerate(pairs) if pair == (block, state))
            focus = engine.focus[1]
            here = "*" if part.start <= focus < part.stop and pairs[focus - part.start] == (block, state) else ""
            instruction = instruction_at(engine.registers.program, block) if block >= 0 else None
            line = text = source = ""
            if instruction is not None:
                line = str(instruction.line)
                text = _ptx(session, instruction.line)
                own = engine.lines.own(instruction.line)
                source = f"{own.name}:{own.line}" if own is not None else ""
            rows.append([here, warp, f"{bits:#010x}", names[state], line, source, text[:60]])
    return table(["", "warp", "lanes", "state", "PTX", "source", "instruction"], rows)


def barriers(session: Session) -> list[str]:
    """Named barriers and mbarriers that lanes of the CTA in focus wait at."""
    engine = session.engine
    row = session._row()
    scheduler = engine.scheduler
    assert scheduler is not None
    lines = []
    for number, arrivals in sorted(scheduler.waiting.items()):
        here = np.logical_or.reduce([a.lanes for a in arrivals])[row]
        count = scheduler.counts[number] or int(scheduler.chunk.alive[row].sum())
        found = sorted(np.unique(np.flatnonzero(here) // 32).tolist())
        where = sorted({scheduler.program.sites[a.site].line for a in arrivals if a.lanes[row].any()})
        if here.any():
            lines.append(
                f"barrier {number}: {int(here.sum())} of {count} threads, warps {', '.join(map(str, found))}"
                f" (PTX line{'s' if len(where) > 1 else ''} {', '.join(map(str, where))})"
            )
    known = scheduler.chunk.barriers
    for site, state in known.report(sorted(known.waits)):
        lines.append(f"mbarrier, PTX line {scheduler.program.sites[site].line} waits: {state}")
    return lines or ["no thread of this CTA waits at a barrier"]


# Memory.


def arguments(session: Session) -> list[str]:
    """Names, types, values and arrays."""
    rows = []
    for argument in session.arguments():
        array, value = argument.array, argument.value
        shown = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
        if array is not None or argument.type.startswith("*") or argument.role != "user":
            shown = f"{value:#x}" if isinstance(value, int) else shown
        shape = "x".join(map(str, array.shape)) if array is not None else ""
        dtype = argument.dtype if array is not None else ""
        rows.append([argument.name if argument.role == "user" else argument.role, argument.type, shown, dtype, shape])
    return table(["argument", "type", "value", "array of", "shape"], rows)


def memory(values_: Array, dtype: str, letter: str | None, start: int, label: str, per_line: int = 8) -> list[str]:
    """Elements with the address (or index) of the first of each line."""
    shown = values_ if letter == "x" else numbers(values_, dtype)
    texts = values.formatted(shown[:_MOST_ELEMENTS], letter)
    width = max(map(len, texts), default=0)
    step = values_.itemsize
    lines = []
    for at in range(0, len(texts), per_line):
        place = f"{start + at * step:#x}" if label == "address" else f"[{start + at}]"
        lines.append(f"  {place}: " + " ".join(t.rjust(width) for t in texts[at : at + per_line]))
    if len(shown) > _MOST_ELEMENTS:
        lines.append(f"  ... {len(shown) - _MOST_ELEMENTS} more")
    return lines or ["  nothing"]


def shared(session: Session) -> list[str]:
    """How much shared memory the CTA has, and which part of it was written."""
    nbytes = session._shared().nbytes
    if not nbytes:
        return ["the kernel uses no shared memory"]
    written = session.shared_written(0, nbytes)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], written, [False]]).astype(np.int8)))
    spans = [f"{a:#x}..{b - 1:#x}" for a, b in edges.reshape(-1, 2)[:8].tolist()]
    more = ", ..." if len(edges) > 16 else ""
    return [f"{nbytes} bytes, {int(written.sum())} of them written: {', '.join(spans) or 'none'}{more}"]


def element(value: Array, dtype: str, letter: str | None) -> str:
    """One element of an array."""
    if letter == "x":
        return values.format_value(np.asarray(value).view(f"u{value.itemsize}"), letter)
    return values.format_value(numbers(np.asarray(value)[None], dtype)[0], letter)


def numbers(array: Array, dtype: str) -> Array:
    """bf16 and fp8 as the numbers that they stand for."""
    from trlaunch.dump.read import as_numbers

    return as_numbers(array, dtype)


def address(argument: Argument) -> str:
    """The address of an array."""
    return f"{argument.value:#x}" if isinstance(argument.value, int) else "a descriptor's tensor"


# Lists.


def breakpoints(session: Session) -> list[str]:
    """All breakpoints and watchpoints."""
    rows = []
    for point in session.points.table.values():
        kind = "watch" if isinstance(point, Watchpoint) else "tbreak" if point.temporary else "break"
        place = point.place if isinstance(point, Breakpoint) else point.what
        condition = f"if {point.condition.text}" if point.condition is not None else ""
        rows.append([point.number, kind, "yes" if point.enabled else "no", place, condition, point.hits])
    if not rows:
        return ["no breakpoints"]
    return table(["number", "kind", "enabled", "place", "condition", "hits"], rows)


def ptx_listing(session: Session, around: int, count: int = 11) -> list[str]:
    """PTX lines around one."""
    text = session.engine.lines.ptx
    here = _current_line(session)
    marked = {
        i.line: ("b" if p.enabled else "d")
        for p in session.points.table.values()
        if isinstance(p, Breakpoint)
        for b in p.blocks
        if (i := instruction_at(session.engine.registers.program, b)) is not None
    }
    first = max(1, min(around - count // 2, len(text) - count + 1))
    return [
        f"{marked.get(n, ' ')}{'=>' if n == here else '  '} {n:>5}  {text[n - 1].expandtabs(4).rstrip()}"
        for n in range(first, min(first + count, len(text) + 1))
    ]


def source_listing(session: Session, frame: Frame, count: int = 11) -> list[str]:
    """Python lines around a frame's; without the file, the TTIR of its line."""
    found = session.sources.lines(frame.file)
    if found:
        first = max(1, min(frame.line - count // 2, len(found) - count + 1))
        return [
            f"{'=>' if n == frame.line else '  '} {n:>5}  {found[n - 1]}"
            for n in range(first, min(first + count, len(found) + 1))
        ]
    operations = session.sources.operations(frame.file, frame.line)
    if not operations:
        raise EmulatorError(f"{frame.file} is not on this machine, and there is no TTIR that has its line {frame.line}")
    return [f"{frame.name}:{frame.line} in TTIR (the file itself is not here):", *(f"    {o}" for o in operations)]


def _current_line(session: Session) -> int:
    try:
        return session.ptx_line
    except EmulatorError:
        return 0
