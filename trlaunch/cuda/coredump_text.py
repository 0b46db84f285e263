"""A core dump and its exceptions for people, and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trlaunch.cuda.fault_site import source_chain

if TYPE_CHECKING:
    from trlaunch.cuda.coredump import CoreDump
    from trlaunch.cuda.coredump_model import Grid, Lane
    from trlaunch.cuda.fault_site import CoreException, OperandValue

__all__ = [
    "as_dict",
    "as_text",
    "exception_as_dict",
    "exception_as_text",
    "hexadecimal",
    "lane_ranges",
    "operand_text",
    "value_text",
]

# An SM may have 64 warps that all died of the same thing.
_SHOWN = 4


def hexadecimal(value: int | None) -> str:
    """``0x7f17dfe00001``, or ``?``."""
    return "?" if value is None else f"{value:#x}"


def lane_ranges(lanes: Sequence[Lane]) -> str:
    """``0-31`` or ``0, 4-7``."""
    runs: list[list[int]] = []
    for lane in sorted(lane.id for lane in lanes):
        if runs and lane == runs[-1][1] + 1:
            runs[-1][1] = lane
        else:
            runs.append([lane, lane])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def value_text(values: Sequence[int | None]) -> str:
    """The one value of all lanes, or the first and the last with how many differ."""
    different = set(values)
    if not values:
        return "?"
    if len(different) == 1:
        return hexadecimal(values[0])
    return f"{hexadecimal(values[0])} .. {hexadecimal(values[-1])} ({len(different)} values in {len(values)} lanes)"


def operand_text(operand: OperandValue) -> str:
    """``desc[UR4][R2.64+0x1]  address 0x7f17dfe00001  R2 0xdfe00000  R3 0x7f17``."""
    parts = [operand.text]
    if operand.addresses is not None:
        parts.append(f"address {value_text(operand.addresses)}")
    if operand.constant is not None:
        parts.append(hexadecimal(operand.constant))
    for name, values in operand.registers.items():
        since = " (written since)" if name in operand.overwritten else ""
        role = f" ({operand.roles[name]})" if name in operand.roles else ""
        parts.append(f"{name} {value_text(values)}{role}{since}")
    return "  ".join(parts)


def as_text(dump: CoreDump) -> str:
    """The whole dump, a paragraph for each exception."""
    return "\n".join(_dump_lines(dump))


def _dump_lines(dump: CoreDump) -> Iterator[str]:
    info = dump.info
    made = [
        f"driver {info.driver[0]}.{info.driver[1]}" if info.driver else "",
        f"CUDA {info.cuda[0]}.{info.cuda[1]}" if info.cuda else "",
        f"{info.time:%Y-%m-%d %H:%M:%S} UTC" if info.time else "",
    ]
    yield f"GPU core dump {dump.path.name if dump.path else ''}: ".replace(" :", ":") + ", ".join(filter(None, made))
    for device in dump.devices:
        yield f"device {device.id}: {device.name}, {device.sm_type}, {device.sm_count} SMs"
        for grid in device.grids:
            yield f"  {_grid_text(grid)}"
    found = dump.exceptions
    if not found:
        stopped = dump.stopped
        yield "no exception: the threads were stopped by a trap, a failed assert, or a request"
        for entry in stopped[:_SHOWN]:
            yield from ("", exception_as_text(entry))
        return
    for entry in found[:_SHOWN]:
        yield from ("", exception_as_text(entry))
    if len(found) > _SHOWN:
        yield ""
        yield f"and {len(found) - _SHOWN} more warps or SMs: {', '.join(sorted({e.text for e in found[_SHOWN:]}))}"


def _grid_text(grid: Grid) -> str:
    shapes = [f"grid {grid.grid}", f"block {grid.block}"]
    if grid.cluster is not None and any(grid.cluster):
        shapes.append(f"cluster {grid.cluster}")
    return f"launch {grid.id}: {', '.join(shapes)}, {grid.register_count} registers a thread, {grid.status}"


def exception_as_text(entry: CoreException) -> str:
    """One exception: what, where, instruction, operands, lines, notes."""
    return "\n".join(_exception_lines(entry))


def _exception_lines(entry: CoreException) -> Iterator[str]:
    site = entry.site
    yield f"{entry.text} ({entry.code}) at {site}" if site.function else f"{entry.text} ({entry.code})"
    yield f"  {entry.exception.meaning}"
    where = f"  device {entry.device.id}, SM {entry.sm.id}"
    if entry.warp is not None:
        where += f", warp {entry.warp.id}, lanes {lane_ranges(entry.lanes)}"
    if entry.block is not None:
        where += f"; block {entry.block}, thread {entry.thread}"
    yield where
    yield f"  pc {hexadecimal(entry.pc)}"
    for around in entry.context:
        mark = "=>" if around == entry.instruction else "  "
        yield f"  {mark} {around}"
    for operand in entry.operands:
        if operand.registers or operand.constant is not None:
            yield f"     {operand_text(operand)}"
    for frame in entry.frames:
        yield f"  {frame}  {frame.text}".rstrip()
    for caller in entry.backtrace:
        yield f"  {caller}"
    for note in entry.notes:
        yield f"  note: {note}"


def as_dict(dump: CoreDump, registers: bool = False) -> dict[str, Any]:
    """The dump for JSON."""
    info = dump.info
    return {
        "file": None if dump.path is None else str(dump.path),
        "driver": info.driver,
        "cuda": info.cuda,
        "generator": info.generator,
        "flags": None
        if info.flags is None
        else [str(flag.name).lower() for flag in type(info.flags) if flag & info.flags],
        "time": None if info.time is None else info.time.isoformat(),
        "devices": [
            {
                "id": device.id,
                "name": device.name,
                "type": device.type,
                "sm_type": device.sm_type,
                "capability": device.capability,
                "sms": device.sm_count,
                "contexts": [
                    {"id": context.id, "thread": context.thread, "modules": [m.handle for m in context.modules]}
                    for context in device.contexts
                ],
                "grids": [_grid_as_dict(grid) for grid in device.grids],
            }
            for device in dump.devices
        ],
        "exceptions": [exception_as_dict(entry, registers) for entry in dump.exceptions],
        "stopped": [] if dump.exceptions else [exception_as_dict(entry, registers) for entry in dump.stopped],
    }


def _grid_as_dict(grid: Grid) -> dict[str, Any]:
    parameters = grid.parameters
    return {
        "id": grid.id,
        "grid": grid.grid,
        "block": grid.block,
        "cluster": grid.cluster,
        "preferred_cluster": grid.preferred_cluster,
        "registers": grid.register_count,
        "status": grid.status,
        "origin": grid.origin,
        "entry": grid.entry,
        "thread": grid.thread,
        "parameters": None if parameters is None else parameters.data.hex(),
        "constant_banks": {str(bank): place for bank, place in grid.constant_banks.items()},
    }


def exception_as_dict(entry: CoreException, registers: bool = False) -> dict[str, Any]:
    """One exception for JSON."""
    site = entry.site
    found: dict[str, Any] = {
        "kind": entry.kind,
        "code": entry.code,
        "text": entry.text,
        "meaning": entry.exception.meaning,
        "device": entry.device.id,
        "sm": entry.sm.id,
        "warp": None if entry.warp is None else entry.warp.id,
        "lanes": [lane.id for lane in entry.lanes],
        "block": entry.block,
        "threads": list(entry.threads),
        "grid": None if entry.grid is None else entry.grid.id,
        "cluster_target": entry.sm.cluster_target,
        "pc": entry.pc,
        "exact": entry.exact,
        "function": site.function,
        "offset": site.offset,
        "instruction": None if site.instruction is None else str(site.instruction).partition(": ")[2],
        "around": [str(around) for around in entry.context],
        "address": entry.address,
        "addresses": list(entry.addresses),
        "space": None if entry.access is None else entry.access.space,
        "size": None if entry.access is None else entry.access.size,
        "operands": [
            {
                "text": operand.text,
                "registers": {name: list(values) for name, values in operand.registers.items()},
                "addresses": None if operand.addresses is None else list(operand.addresses),
                "constant": operand.constant,
                "overwritten": list(operand.overwritten),
                "roles": operand.roles,
            }
            for operand in entry.operands
        ],
        "source": [str(line) for line in source_chain(site.source)],
        "frames": [
            {
                "level": frame.level,
                "file": frame.file,
                "line": frame.line,
                "text": frame.text,
                "others": list(frame.others),
                "inlined_at": list(frame.inlined_at),
            }
            for frame in entry.frames
        ],
        "backtrace": [str(caller) for caller in entry.backtrace],
        "notes": list(entry.notes),
    }
    if registers and entry.warp is not None:
        found["registers"] = {
            "uniform": list(entry.warp.uniform_registers),
            "uniform_predicates": list(entry.warp.uniform_predicates),
            "barriers": list(entry.warp.barriers),
            "lanes": {
                str(lane.id): {"registers": list(lane.registers), "predicates": list(lane.predicates)}
                for lane in entry.warp.lanes
            },
        }
    return found
