"""Sites: where a kernel died, as a core dump and as the emulator tell it."""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trlaunch.artifact import Level
from trlaunch.errors import ArtifactError
from trlaunch.investigate import symptoms
from trlaunch.investigate.carried import Spot
from trlaunch.investigate.evidence import Line, Site
from trlaunch.investigate.trial import Outcome
from trlaunch.source_lines import Chain, chains, own_line

__all__ = ["core_site", "fault_site", "lines_from"]

_ABOVE_PTX = (Level.LLIR, Level.TTGIR, Level.TTIR)
#: An instruction of PTX -> the operations of the levels above that become it; first match wins.
_BECOMES = (
    (r"cp\.(?:reduce\.)?async\.bulk", r"tma_copy|descriptor_|tma_|cp\.(?:reduce\.)?async\.bulk"),
    (r"cp\.async", r"async_copy|tt\.load|cp\.async"),
    (r"mbarrier|fence\.", r"barrier|fence"),
    (r"(?:wgmma|mma)\.", r"dot|mma"),
    (r"ldmatrix|ld\.shared", r"local_load|ldmatrix|ld\.shared|convert_layout|tt\.(?:dot|reduce|scan)|\bload\b"),
    (r"stmatrix|st\.shared", r"local_(?:store|alloc)|stmatrix|st\.shared|convert_layout|tt\.reduce|\bstore\b"),
    (r"(?:atom|red)\.", r"atomic|atom\.|red\.|cmpxchg"),
    (r"\bldu?\.", r"tt\.load|\bld\.global|\bload\b"),
    (r"\bst\.", r"tt\.store|\bst\.global|\bstore\b"),
    (r"call|trap", r"assert|call"),
)
_MOST = 3
#: Address spaces whose addresses can be compared with those of arguments.
_GLOBAL = ("global", "generic")


def core_site(core: bytes, folder: Path | None, spots: Sequence[Spot]) -> Site:
    """Where a GPU core dump says that a kernel died.

    Parameters
    ----------
    core : bytes
    folder : pathlib.Path or None
        Has the kernel's files at all levels.
    spots : sequence of Spot
        Where the arguments lay in the process that left the dump.

    Raises
    ------
    CoreDumpError
        The dump cannot be read.
    """
    from trlaunch.cuda.coredump import coredump

    dump = coredump(core, folder)
    fault = dump.fault
    if fault is None:
        return Site("core dump", None, "no warp is in the dump", spots=tuple(spots))
    instruction = fault.instruction
    text = "" if instruction is None else instruction.text
    if instruction is not None and instruction.predicate:
        text = f"@{instruction.predicate} {text}"
    access = fault.access
    comparable = access is not None and access.space in _GLOBAL
    same = [e for e in (dump.exceptions or dump.stopped) if e.pc == fault.pc]
    grid = fault.grid
    return Site(
        witness="core dump",
        symptom=symptoms.of_exception(fault.kind),
        what=fault.text if fault.code else "the threads were stopped without an exception",
        kernel=fault.function,
        cta=fault.block,
        thread=fault.thread,
        instruction=text,
        address=fault.address if comparable else None,
        access=access.size if access is not None else None,
        operands=tuple(_operand(operand) for operand in fault.operands),
        coordinates=_coordinates(fault.operands),
        lines=(
            *_sass(fault, text),
            *(Line(f.level, _place(f), f.line, f.text) for f in reversed(fault.frames)),
        ),
        lanes=sum(len(e.lanes) for e in same) or 1,
        spots=tuple(spots),
        launch="" if grid is None else _launch(grid),
        threads=None if grid is None else math.prod(grid.block),
        notes=fault.notes,
    )


def _place(frame: Any) -> str:
    """The file of a level: of the kernel's own its name, for the folder is not there any more."""
    if not frame.file:
        return "in the cubin"
    return str(frame.file) if frame.level == "python" else Path(frame.file).name


def _sass(fault: Any, text: str) -> tuple[Line, ...]:
    if fault.function is None:
        return ()
    where = fault.function if fault.offset is None else f"{fault.function}+{fault.offset:#x}"
    return (Line("sass", where, None, text),)


def _operand(operand: Any) -> tuple[str, str]:
    """An operand with its value in the first lane."""
    parts = []
    if operand.addresses and operand.addresses[0] is not None:
        parts.append(f"{operand.addresses[0]:#x}")
    for name, values in operand.registers.items():
        if values and values[0] is not None:
            role = operand.roles.get(name)
            label = "" if name == operand.text else f"{name}="
            parts.append(f"{label}{values[0]:#x}" + (f" ({role})" if role else ""))
    if operand.constant is not None:
        parts.append(f"{operand.constant:#x}")
    return operand.text, " ".join(parts) or "?"


def _coordinates(operands: Sequence[Any]) -> tuple[int, ...]:
    """Of a tensor copy, for the first lane: 32-bit integers with sign."""
    found = {}
    for operand in operands:
        for name, role in operand.roles.items():
            value = operand.registers[name][0] if operand.registers[name] else None
            if role.startswith("coordinate ") and value is not None and name not in operand.overwritten:
                found[int(role.split()[1])] = value - (1 << 32) if value >> 31 else value
    return tuple(found[i] for i in range(len(found))) if set(found) == set(range(len(found))) else ()


def _launch(grid: Any) -> str:
    shape = ",".join(map(str, grid.grid))
    block = ",".join(map(str, grid.block))
    return f"grid ({shape}) block ({block}), {grid.register_count} registers a thread"


def fault_site(outcome: Outcome, texts: Mapping[str, str]) -> Site | None:
    """Where a trial on the emulator died; ``None`` where it did not die of a fault.

    Parameters
    ----------
    outcome : Outcome
    texts : mapping of str to str
        The kernel's text by level.
    """
    error = outcome.error
    if error is None or error.type != "Fault":
        return None
    ptx = next((data.decode("utf-8", "replace") for name, data in outcome.images.items() if name.endswith(".ptx")), "")
    ptx = ptx or texts.get("ptx", "")
    rows = ptx.split("\n")
    text = rows[error.ptx_line - 1].strip() if error.ptx_line and error.ptx_line <= len(rows) else ""
    size = re.search(r"\bof (\d+) bytes? at", error.message)
    lanes = re.search(r"; (\d+) lanes? in all", error.message)
    last = outcome.last
    what = error.message.partition("\n")[0].replace(f" in {last.kernel}" if last else "", "", 1)
    return Site(
        witness="emulator",
        symptom=symptoms.of_fault(error.kind),
        what=what,
        kernel=last.kernel if last else None,
        cta=error.cta,
        thread=error.thread,
        instruction=text,
        address=error.address,
        access=int(size[1]) if size else None,
        lines=lines_from(ptx, error.ptx_line, texts, error.source),
        lanes=int(lanes[1]) if lanes else 1,
        spots=last.buffers if last else (),
        launch="" if last is None else last.shape,
    )


def lines_from(ptx: str, number: int | None, texts: Mapping[str, str], source: str | None) -> tuple[Line, ...]:
    """The line of PTX, and the lines of the levels above that come from the same line of Python.

    Parameters
    ----------
    ptx : str
    number : int or None
        Line in it, from 1.
    texts : mapping of str to str
        The levels above.
    source : str or None
        ``file.py:line``, where the PTX does not say.
    """
    found: list[Line] = []
    rows = ptx.split("\n")
    own = None
    if number is not None and 0 < number <= len(rows):
        found.append(Line("ptx", "kernel.ptx", number, rows[number - 1]))
        own = own_line(_chain(ptx, rows, number))
        source = str(own) if own is not None else source
    if source:
        for level in _ABOVE_PTX:
            if text := texts.get(str(level)):
                found += _matching(level, text, source, found[0].text if found else "")
        name, _, line = source.rpartition(":")
        text = "" if own is None else linecache.getline(own.file, own.line).rstrip("\n")  # empty: it is not here
        found.append(Line("python", name, int(line), text) if line.isdigit() else Line("python", source, None))
    return tuple(found)


def _chain(ptx: str, rows: Sequence[str], number: int) -> Chain:
    """The source lines of a line of PTX; inside inline assembly those of its first instruction.

    Triton 3.9 counts up the lines of an inline assembly of several instructions as if they were the source's.
    """
    every = chains(Level.PTX, ptx)
    for i in range(number - 1, -1, -1):
        if "// end inline asm" in rows[i]:
            break
        if "// begin inline asm" in rows[i]:
            return next((chain for chain in every[i:number] if chain), ())
    return every[number - 1]


def _matching(level: Level, text: str, source: str, instruction: str) -> list[Line]:
    """The lines of a level from a line of Python: of several those that become the instruction, three at most."""
    try:
        every = chains(level, text)
    except ArtifactError:  # text of a release that the reader does not know: the report goes without this level
        return []
    rows = text.split("\n")
    hits = [i for i, chain in enumerate(every) if (own := own_line(chain)) is not None and str(own) == source]
    becomes = next((above for ptx, above in _BECOMES if re.search(ptx, instruction)), None)
    same = [i for i in hits if becomes is not None and re.search(becomes, rows[i])]
    return [Line(str(level), f"kernel.{level}", i + 1, rows[i]) for i in (same or hits)[:_MOST]]
