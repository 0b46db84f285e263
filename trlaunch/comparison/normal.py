"""Lines of code without what changes from build to build: the numbers of values and registers, labels, locations."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trlaunch.artifact import Level
from trlaunch.mlir_types import find

__all__ = ["SASS", "expanded", "normalised"]

#: The disassembly of a cubin or hsaco, which is no level of its own.
SASS = "sass"

_VALUE = re.compile(r"%[A-Za-z_$.\d-]+(?:[:#]\d+)?")
_ALIAS = re.compile(r"^(#[A-Za-z_]\w*) = (.*)$")
_ALIAS_USE = re.compile(r"#[A-Za-z_]\w*\b(?![.<])")
# Up to 3.2 the dialect of TTGIR was triton_gpu, and Hopper's triton_nvidia_gpu, until 3.3.
_DIALECTS = (("#triton_gpu.", "#"), ("#ttg.", "#"), ("triton_gpu.", "ttg."), ("triton_nvidia_gpu.", "ttng."))
_ALIAS_DEPTH = 8
_BLOCK = re.compile(r"\^bb\d+")
_LLVM_TAIL = re.compile(r"(?:, !\w[\w.]* !\d+)+\s*$|, #\d+$|(?<=\)) #\d+")
_LLVM_LABEL = re.compile(r"\blabel %[\w.]+")
_PTX_REGISTER = re.compile(r"%(r[dsqu]?|rs|rh|f[dh]?|p|h|b|hh|SPL?|func_retval)\d+\b")
_PTX_LABEL = re.compile(r"\$L__?\w+")
_COMMENT = re.compile(r"\s*//.*$")
_SASS_REGISTER = re.compile(r"\b(U?[RP]|B|SB)\d+\b")
_SASS_LABEL = re.compile(r"`\([^)]*\)|\b0x[0-9a-f]+$")
_AMD_REGISTER = re.compile(r"\b([vsa])(?:\d+\b|\[\d+:\d+\])")


def expanded(lines: Sequence[str]) -> list[str]:
    """Lines of MLIR with what their attribute aliases (``#blocked1``) stand for, whose numbers change."""
    aliases = {m[1]: m[2] for line in lines if not line.startswith("#loc") and (m := _ALIAS.match(line))}

    def expand(line: str) -> str:
        for _ in range(_ALIAS_DEPTH):  # a slice has a parent
            changed = _ALIAS_USE.sub(lambda m: aliases.get(m[0], m[0]), line)
            if changed == line:
                break
            line = changed
        return line

    return [line if line.startswith("#") or "#" not in line else expand(line) for line in lines]


def normalised(level: Level | str, line: str) -> str:
    """A line as it is compared.

    Parameters
    ----------
    level : Level or str
        Of the line; `SASS` for an instruction of either vendor's disassembly.
    line : str
    """
    if level in (Level.TTIR, Level.TTGIR):
        for old, new in _DIALECTS:
            line = line.replace(old, new)
        at = find(line, " loc(", last=True)
        return _BLOCK.sub("^bb", _VALUE.sub("%", line[:at] if at >= 0 else line)).strip()
    if level is Level.LLIR:
        line = _LLVM_TAIL.sub("", line)
        return _VALUE.sub("%", _LLVM_LABEL.sub("label %", line)).strip()
    if level is Level.PTX:
        return _PTX_LABEL.sub("$L", _PTX_REGISTER.sub(r"%\1", _COMMENT.sub("", line))).strip()
    if level == SASS:
        line = _SASS_REGISTER.sub(r"\1", line)
        opcode = line.partition(" ")[0].split(".")[0]
        if opcode in ("BRA", "BSSY", "CALL", "BRX", "JMP", "WARPSYNC", "RET"):
            line = _SASS_LABEL.sub("L", line)
        return _AMD_REGISTER.sub(r"\1", line)
    return line.rstrip()
