"""``trlaunch coredump FILE``: what died, by a core dump that the GPU driver wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console
from rich.text import Text

from trlaunch import CoreDump
from trlaunch.cli.exits import reporting
from trlaunch.cli.options import Json
from trlaunch.cli.output import facts, print_json, table
from trlaunch.cuda.coredump_text import hexadecimal, lane_ranges, value_text
from trlaunch.cuda.fault_site import CoreException
from trlaunch.investigate.html import write_dump

__all__ = ["coredump"]


def coredump(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A GPU core dump, plain or compressed by gzip or xz.")
    ],
    kernel_dir: Annotated[
        Path | None,
        typer.Option(
            "--kernel-dir", "-k", exists=True, help="A folder with compiled kernels (Triton's cache): adds their lines."
        ),
    ] = None,
    registers: Annotated[
        bool, typer.Option("--registers", "-r", help="Show every register of the faulting warps.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show every warp that died, not the first four.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write it as one HTML file, too.")] = None,
    as_json: Json = False,
) -> None:
    """Show the exceptions of a GPU core dump: where, which instruction, with which operands, from which lines."""
    with reporting(as_json):
        dump = CoreDump(file, kernel_dir)
        if html is not None:
            write_dump(dump, html)
        if as_json:
            print_json(dump.as_dict(registers))
            return
        _show(dump, registers, None if every else 4)
        if html is not None:
            typer.echo(f"HTML written to {html}", err=True)


def _show(dump: CoreDump, registers: bool, most: int | None) -> None:
    info = dump.info
    facts(
        [
            ("core dump", dump.path.name if dump.path else None),
            ("written", f"{info.time:%Y-%m-%d %H:%M:%S} UTC" if info.time else None),
            ("driver", f"{info.driver[0]}.{info.driver[1]}" if info.driver else "before r565"),
            ("CUDA", f"{info.cuda[0]}.{info.cuda[1]}" if info.cuda else None),
            ("left out", _flags(dump)),
        ]
    )
    for device in dump.devices:
        facts([(f"device {device.id}", f"{device.name}, {device.sm_type}, {device.sm_count} SMs")])
        rows = [
            (g.id, _shape(g.grid), _shape(g.block), _shape(g.cluster) if g.cluster and any(g.cluster) else None,
             g.register_count, g.status) for g in device.grids
        ]  # fmt: skip
        if rows:
            table(["launch", "grid", "block", "cluster", "registers", "status"], rows)
    found = dump.exceptions or dump.stopped
    if not dump.exceptions:
        _line("no exception: stopped by a trap, a failed assert, or on request", "yellow")
    for entry in found[:most]:
        _exception(entry, registers)
    if most is not None and len(found) > most:
        _line(f"\n{len(found) - most} more; --all shows them", "dim")


def _exception(entry: CoreException, registers: bool) -> None:
    site = entry.site
    _line("")
    _line(f"{entry.text} ({entry.code})" + (f" at {site}" if site.function else ""), "bold red")
    facts(
        [
            ("meaning", entry.exception.meaning),
            ("block", entry.block),
            ("thread", _threads(entry)),
            ("lanes", lane_ranges(entry.lanes) if entry.lanes else None),
            ("device, SM", f"{entry.device.id}, {entry.sm.id}" + (f", warp {entry.warp.id}" if entry.warp else "")),
            ("pc", hexadecimal(entry.pc) if entry.pc is not None else None),
            ("address", value_text(entry.addresses) if entry.addresses else None),
        ]
    )
    for around in entry.context:
        here = around == entry.instruction
        _line(f"{'=>' if here else '  '} {around}", "bold" if here else "dim")
    rows = list(_operands(entry))
    if rows:
        table(["operand", "register", "value", "role", ""], rows)
    if entry.frames:
        table(
            ["level", "file", "line", "text"],
            [(f.level, Path(f.file).name or "in the cubin", f.line, f.text) for f in entry.frames],
        )
    for caller in entry.backtrace:
        _line(str(caller))
    for note in entry.notes:
        _line(f"note: {note}", "yellow")
    if registers:
        _registers(entry)


def _operands(entry: CoreException) -> Iterator[tuple[Any, ...]]:
    for operand in entry.operands:
        if operand.addresses is not None:
            yield operand.text, None, value_text(operand.addresses), "address", None
        if operand.constant is not None:
            yield operand.text, None, hexadecimal(operand.constant), "constant", None
        for name, values in operand.registers.items():
            late = "written since" if name in operand.overwritten else None
            yield operand.text, name, value_text(values), operand.roles.get(name), late


def _registers(entry: CoreException) -> None:
    warp = entry.warp
    if warp is None:
        return
    for name, values in (("UR", warp.uniform_registers), ("UP", warp.uniform_predicates)):
        if values:
            _line(f"\n{'uniform registers' if name == 'UR' else 'uniform predicates'}", "bold")
            _grid(name, [int(value) for value in values])
    for lane in entry.lanes:
        _line(f"\nlane {lane.id}, thread {lane.thread}, pc +{lane.offset:#x}", "bold")
        _grid("R", lane.registers)
        _line("  ".join(f"P{i} {int(value)}" for i, value in enumerate(lane.predicates)))


def _grid(name: str, values: Iterable[int]) -> None:
    cells = [Text(f"{f'{name}{i}':<5} {value:#010x}") for i, value in enumerate(values)]
    Console().print(Columns(cells, equal=True, column_first=False, padding=(0, 2)))


def _threads(entry: CoreException) -> str | None:
    if not entry.lanes:
        return None
    first, last = entry.lanes[0].thread, entry.lanes[-1].thread
    return str(first) if first == last else f"{first} to {last}"


def _flags(dump: CoreDump) -> str | None:
    flags = dump.info.flags
    return None if not flags else ", ".join(
        str(flag.name).removeprefix("SKIP_").lower().replace("_", " ") for flag in type(flags) if flag & flags
    )  # fmt: skip


def _shape(shape: tuple[int, ...] | None) -> str | None:
    return None if shape is None else " x ".join(map(str, shape))


def _line(text: str, style: str = "") -> None:
    Console().print(Text(text, style=style))
