"""What cuda-gdb says of a core dump, as values to compare with."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from trlaunch import CoreDump
from trlaunch.cuda.fault_site import CoreException

__all__ = ["Seen", "ask", "entry_of", "find", "parse", "same"]

_PC = re.compile(r"triggered at PC (0x[0-9a-f]+)")
_EXCEPTION = re.compile(r"^CUDA Exception: (.+?)\s*$", re.M)
_FOCUS = re.compile(
    r"block \((\d+),\s*(\d+),\s*(\d+)\), thread \((\d+),\s*(\d+),\s*(\d+)\), "
    r"device (\d+), sm (\d+), warp (\d+), lane (\d+)"
)
_REGISTER = re.compile(r"^(U?R\d+)\s+0x([0-9a-f]+)", re.M)
_AT = re.compile(r"^(?:=>|\*>)?\s*0x([0-9a-f]+) <([^>]*)>:?\s*(.*?)\s*;?\s*$", re.M)
_CALLER = re.compile(r"^#(\d+)\s+(?:0x[0-9a-f]+ in )?([\w$]+)", re.M)


@dataclass(frozen=True)
class Seen:
    """One core dump by cuda-gdb.

    Attributes
    ----------
    text : str
        All that it printed.
    exception : str or None
    pc : int or None
        Of the exception.
    focus : dict
        ``block``, ``thread``, ``device``, ``sm``, ``warp``, ``lane`` of the thread that it chose.
    registers : dict
        Of that thread.
    instructions : dict
        ``(place, text)`` by address.
    callers : list of str
        Functions on the stack, innermost first.
    """

    text: str
    exception: str | None = None
    pc: int | None = None
    focus: dict[str, object] = field(default_factory=dict)
    registers: dict[str, int] = field(default_factory=dict)
    instructions: dict[int, tuple[str, str]] = field(default_factory=dict)
    callers: list[str] = field(default_factory=list)


def find() -> str | None:
    """The program, on the path or in the usual installation."""
    usual = Path("/usr/local/cuda/bin/cuda-gdb")
    return shutil.which("cuda-gdb") or (str(usual) if usual.is_file() else None)


def ask(dump: Path) -> Seen:
    """Have cuda-gdb open a dump and say where it is."""
    program = find()
    assert program is not None
    commands = [
        f"target cudacore {dump}", "info cuda kernels", "bt", "x/2i $pc", "x/i $errorpc", "info registers",
        "info registers system", "info cuda lanes",
    ]  # fmt: skip
    words = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        [program, "-batch", "-nx", *words], capture_output=True, text=True, errors="replace", timeout=120, check=False
    )
    return parse(f"{done.stdout}\n{done.stderr}")


def parse(text: str) -> Seen:
    """What it printed as values."""
    exception, pc, focus = _EXCEPTION.search(text), _PC.search(text), _FOCUS.search(text)
    found: dict[str, object] = {}
    if focus is not None:
        numbers = [int(number) for number in focus.groups()]
        found = {"block": tuple(numbers[:3]), "thread": tuple(numbers[3:6])}
        found |= dict(zip(("device", "sm", "warp", "lane"), numbers[6:], strict=True))
    return Seen(
        text,
        exception[1] if exception else None,
        int(pc[1], 16) if pc else None,
        found,
        {name: int(value, 16) for name, value in _REGISTER.findall(text)},
        {int(address, 16): (place, words) for address, place, words in _AT.findall(text)},
        [name for _, name in _CALLER.findall(text)],
    )


def entry_of(dump: CoreDump, focus: dict[str, object]) -> CoreException:
    """The exception of the thread that cuda-gdb chose."""
    for entry in dump.exceptions or dump.stopped:
        warp = entry.warp
        if warp is not None and (entry.sm.id, warp.id) == (focus["sm"], focus["warp"]):
            return entry
    raise AssertionError(f"no warp {focus['warp']} of SM {focus['sm']} among {dump}")


def same(dump: CoreDump, seen: Seen) -> None:
    """Assert that a dump says what cuda-gdb says: exception, thread, address, instruction, registers."""
    assert seen.exception is not None, seen.text
    assert dump.exceptions, seen.text
    entry = entry_of(dump, seen.focus) if seen.focus else dump.exceptions[0]
    assert entry.text == seen.exception
    assert entry.block == seen.focus["block"]
    lane = next(lane for lane in entry.warp.lanes if lane.id == seen.focus["lane"])
    assert lane.thread == seen.focus["thread"]
    if seen.pc is not None:
        assert entry.pc == seen.pc
    place, text = seen.instructions.get(entry.pc, ("", ""))
    if place:
        assert place == f"{entry.function}+{entry.offset}"
    if text:
        guard = f"@{entry.instruction.predicate} " if entry.instruction.predicate else ""
        assert _plain(guard + entry.instruction.text) == _plain(text)
    shown = {int(name[1:]): value for name, value in seen.registers.items() if name.startswith("R")}
    assert shown, seen.text
    count = len(lane.registers)
    assert {i: lane.registers[i] for i in shown if i < count} == {i: v for i, v in shown.items() if i < count}


def _plain(text: str) -> list[str]:
    """The words of an instruction: cuda-gdb 13.0 puts the operands of copies in another order than nvdisasm."""
    return sorted(re.findall(r"[\w.!@+-]+", text))
