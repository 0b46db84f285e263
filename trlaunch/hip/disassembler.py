"""Hsaco -> AMDGCN instructions by llvm-objdump, with their source lines."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from trlaunch.errors import AssemblerError, AssemblerMissing
from trlaunch.hip.image import read_image
from trlaunch.hip.toolkit import Tool, find_tools, newest, run, searched

__all__ = ["Instruction", "SourceLine", "disassemble", "find_disassemblers", "parse"]

_VARIABLE = "TRLAUNCH_LLVM_OBJDUMP"

# What llvm-objdump -d -l prints (LLVM 22):
#   0000000000001600 <add_kernel>:
_FUNCTION = re.compile(r"([0-9a-f]{8,}) <([^>]+)>:$")
#   ; kernels.py:18
_LINE = re.compile(r"; (.+):(\d+)$")
#   	s_branch 56             // 00000000161C: BF820038 <add_kernel+0x100>
_INSTRUCTION = re.compile(r"\s+(\S.*?)\s*// ([0-9A-Fa-f]{8,}): ((?:[0-9A-Fa-f]{8}\b ?)+)\s*(?:<([^>]+)>)?")


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A line of a source file; llvm-objdump names the innermost one where functions were inlined."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes
    ----------
    offset : int
        Bytes from the start of the kernel's code.
    text : str
        As llvm-objdump prints it; ``.long 0x...`` for a word that it cannot decode.
    words : tuple of int
        Its encoding, 32 bits each.
    source : SourceLine or None
        ``None`` where the hsaco has no line for it.
    goes_to : str or None
        Target of a branch, ``"add_kernel+0x100"``.
    """

    offset: int
    text: str
    words: tuple[int, ...]
    source: SourceLine | None = None
    goes_to: str | None = None

    @property
    def opcode(self) -> str:
        """Mnemonic, ``"global_load_dwordx4"``."""
        return self.text.split(maxsplit=1)[0]

    @property
    def operands(self) -> tuple[str, ...]:
        """Operands in order; commas inside brackets do not separate."""
        rest = self.text.partition(" ")[2].strip()
        return tuple(part.strip() for part in re.split(r",(?![^\[({]*[\])}])", rest)) if rest else ()

    def __str__(self) -> str:
        return f"{self.offset:04x}: {self.text}"


def find_disassemblers() -> list[Tool]:
    """Every llvm-objdump at hand: ``TRLAUNCH_LLVM_OBJDUMP`` alone, else where `find_assemblers` looks for llvm-mc."""
    return find_tools("llvm-objdump", variable=_VARIABLE)


def disassemble(hsaco: bytes, kernel: str | None = None) -> list[Instruction]:
    """The instructions of a kernel, in order, by the newest llvm-objdump at hand.

    Parameters
    ----------
    hsaco : bytes
    kernel : str, optional
        Name of the kernel; not needed when there is only one.

    Raises
    ------
    ImageError
        Not an hsaco, or it has no such kernel.
    AssemblerMissing
        No llvm-objdump is at hand.
    AssemblerError
        llvm-objdump failed; ``log`` holds what it printed.
    """
    name = read_image(hsaco).kernel(kernel).name
    seen = find_disassemblers()
    tool = newest(seen)
    if tool is None:
        listed = "".join(f"\n  {tool}: {tool.problem}" for tool in seen)
        raise AssemblerMissing(
            f"no llvm-objdump to disassemble {name!r}: looked in {searched(_VARIABLE)}. Install one "
            f"(apt install llvm-22; ROCm has one), or set {_VARIABLE}{listed}"
        )
    found = parse(_run(tool, hsaco), name)
    if not found:
        raise AssemblerError(f"{tool} printed no instruction of kernel {name!r}")
    return found


def _run(tool: Tool, hsaco: bytes) -> str:
    with tempfile.TemporaryDirectory(prefix="trlaunch-objdump-") as folder:
        Path(folder, "kernel.hsaco").write_bytes(hsaco)
        try:
            done = run(tool, "-d", "-l", "kernel.hsaco", folder=folder)
        except OSError as error:
            raise AssemblerError(f"{tool} cannot be run: {error.strerror or error}") from error
        except subprocess.TimeoutExpired as error:
            raise AssemblerError(f"{tool} was stopped after {error.timeout:.0f} s") from error
    log = done.stderr.decode("utf-8", "replace")
    if done.returncode != 0:
        how = f"died of signal {-done.returncode}" if done.returncode < 0 else f"exited with {done.returncode}"
        raise AssemblerError(f"{tool} {how}: {log.strip().partition(chr(10))[0]}", log)
    return done.stdout.decode("utf-8", "replace")


def parse(text: str, kernel: str) -> list[Instruction]:
    """The instructions of function `kernel` in what ``llvm-objdump -d -l`` printed.

    llvm-objdump names a line once, before the first instruction it belongs to.
    """
    start: int | None = None
    source: SourceLine | None = None
    instructions = []
    for line in text.splitlines():
        if found := _FUNCTION.match(line):
            start = int(found[1], 16) if found[2] == kernel else None
            source = None
        elif start is None:
            continue
        elif found := _LINE.match(line):
            source = SourceLine(found[1], int(found[2])) if int(found[2]) else None
        elif found := _INSTRUCTION.match(line):
            words = tuple(int(word, 16) for word in found[3].split())
            instructions.append(Instruction(int(found[2], 16) - start, found[1], words, source, found[4]))
    return instructions
