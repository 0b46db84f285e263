"""Cubin -> SASS by NVIDIA's nvdisasm, as instructions with their source lines."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trlaunch.cuda.image import read_image
from trlaunch.cuda.toolkit import Tool, find_tools, newest, searched
from trlaunch.errors import AssemblerError, AssemblerMissing

__all__ = ["Instruction", "SourceLine", "disassemble", "disassemble_function", "find_disassemblers", "parse"]

_VARIABLE = "TRLAUNCH_NVDISASM"
_TIMEOUT = 300.0

# What nvdisasm -ndf -c -gi prints (12.4 to 13.5). Without -ndf it first follows the data flow, which can fail and takes
# longer, to print the same.
_SECTION = re.compile(r"//-+ (\S+) +-+$")
# //## File "add.py", line 7 inlined at "add.py", line 12
_LINE = re.compile(r'\s*//## File "([^"]*)", line (\d+)(?: inlined at "([^"]*)", line (\d+))?')
_LABEL = re.compile(r"([.$\w]+):$")
#         /*0160*/              @!P0 LDG.E R0, desc[UR4][R6.64] ;
_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?(\S.*?)\s*;")


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of a source file, and the line that the function it is in was inlined at."""

    file: str
    line: int
    inlined_at: SourceLine | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One SASS instruction.

    Attributes
    ----------
    offset : int
        Bytes from the start of the kernel's code.
    text : str
        As nvdisasm prints it, without the predicate.
    predicate : str or None
        ``"P0"``, ``"!P0"``, ``"UP2"``; ``None`` for an instruction that is always executed.
    labels : tuple of str
        Labels at this offset.
    source : SourceLine or None
        ``None`` where the cubin has no line for it.
    """

    offset: int
    text: str
    predicate: str | None = None
    labels: tuple[str, ...] = ()
    source: SourceLine | None = None

    @property
    def opcode(self) -> str:
        """Mnemonic with its modifiers, ``"LDG.E.128"``."""
        return self.text.split(maxsplit=1)[0]

    @property
    def operands(self) -> tuple[str, ...]:
        """Operands in order; commas inside brackets do not separate."""
        rest = self.text.partition(" ")[2].strip()
        return tuple(part.strip() for part in re.split(r",(?![^\[({]*[\])}])", rest)) if rest else ()

    def __str__(self) -> str:
        return f"{self.offset:04x}: " + (f"@{self.predicate} " if self.predicate else "") + self.text


def find_disassemblers() -> list[Tool]:
    """Every nvdisasm at hand: ``TRLAUNCH_NVDISASM`` alone, else where `find_assemblers` looks for ptxas."""
    return find_tools("nvdisasm", variable=_VARIABLE)


def disassemble(cubin: bytes, kernel: str | None = None) -> list[Instruction]:
    """The instructions of a kernel, in order, by the newest nvdisasm at hand.

    Parameters
    ----------
    cubin : bytes
    kernel : str, optional
        Name of the kernel; not needed when there is only one.

    Raises
    ------
    ImageError
        Not a cubin, or it has no such kernel.
    AssemblerMissing
        No nvdisasm is at hand.
    AssemblerError
        nvdisasm failed; ``log`` holds what it printed.
    """
    name = read_image(cubin).kernel(kernel).name
    return _instructions(cubin, name)


def disassemble_function(cubin: bytes, section: str, symbol: int) -> list[Instruction]:
    """The instructions of one function of an image that need not be as a linker made it, as one out of GPU memory.

    Parameters
    ----------
    cubin : bytes
    section : str
        Name of the section, without ``.text.``.
    symbol : int
        Index of the function in the symbol table; nvdisasm leaves the others alone, of which there may be hundreds.

    Returns
    -------
    list of Instruction
        With offsets as nvdisasm prints them: the addresses that the section has in the image.

    Raises
    ------
    AssemblerMissing, AssemblerError
        As `disassemble`.
    """
    return _instructions(cubin, section, "-fun", str(symbol))


def _instructions(cubin: bytes, name: str, *options: str) -> list[Instruction]:
    seen = find_disassemblers()
    tool = newest(seen)
    if tool is None:
        listed = "".join(f"\n  {tool}: {tool.problem}" for tool in seen)
        raise AssemblerMissing(
            f"no nvdisasm to disassemble {name!r}: looked in {searched(_VARIABLE)}. Install one "
            f"(pip install nvidia-cuda-nvdisasm), or set {_VARIABLE}{listed}"
        )
    found = parse(_run(tool, cubin, *options), name)
    if not found:
        raise AssemblerError(f"{tool} printed no instruction of kernel {name!r}")
    return found


def _run(tool: Tool, cubin: bytes, *options: str) -> str:
    with tempfile.TemporaryDirectory(prefix="trlaunch-nvdisasm-") as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        try:
            done = subprocess.run(
                [tool.path, "-ndf", "-c", "-gi", *options, file],
                capture_output=True,
                timeout=_TIMEOUT,
                check=False,
                cwd=folder,
            )
        except OSError as error:
            raise AssemblerError(f"{tool} cannot be run: {error.strerror or error}") from error
        except subprocess.TimeoutExpired as error:
            raise AssemblerError(f"{tool} was stopped after {_TIMEOUT:.0f} s") from error
    log = done.stderr.decode("utf-8", "replace")
    if done.returncode != 0:
        how = f"died of signal {-done.returncode}" if done.returncode < 0 else f"exited with {done.returncode}"
        raise AssemblerError(f"{tool} {how}: {log.strip().partition(chr(10))[0]}", log)
    return done.stdout.decode("utf-8", "replace")


def parse(text: str, kernel: str) -> list[Instruction]:
    """The instructions of section ``.text.<kernel>`` in what ``nvdisasm -c -gi`` printed.

    nvdisasm names a line once, before the first instruction it belongs to; an inlined line is followed by the lines
    of its callers, innermost first, each as "File ..., line ... inlined at ...".
    """
    wanted = f".text.{kernel}"
    inside = False
    labels: list[str] = []
    chain: list[tuple[SourceLine, SourceLine | None]] = []
    source: SourceLine | None = None
    instructions = []
    for line in text.splitlines():
        if found := _SECTION.match(line):
            inside = found[1] == wanted
            labels, chain, source = [], [], None
        elif not inside:
            continue
        elif found := _LINE.match(line):
            at = SourceLine(found[3], int(found[4])) if found[3] else None
            if chain and chain[-1][1] is None:  # a line that was inlined nowhere ends its chain
                chain = []
            chain.append((SourceLine(found[1], int(found[2])), at))
        elif found := _INSTRUCTION.match(line):
            if chain:
                source, chain = _joined(chain), []
            instructions.append(Instruction(int(found[1], 16), found[3], found[2], tuple(labels), source))
            labels = []
        elif found := _LABEL.match(line):
            labels.append(found[1])
    return instructions


def _joined(chain: list[tuple[SourceLine, SourceLine | None]]) -> SourceLine:
    """One `SourceLine` out of the lines printed before an instruction, innermost first."""
    line, caller = chain[-1]
    outer = SourceLine(line.file, line.line, caller)
    for line, at in reversed(chain[:-1]):
        # "f inlined at g" is followed by g itself, which may be inlined in turn.
        same = at is not None and (at.file, at.line) == (outer.file, outer.line)
        outer = SourceLine(line.file, line.line, outer if same else at)
    return outer
