"""Where an instruction comes from: the lines it was inlined from, the calls it is behind, and the text of all of them.

``.loc`` states the innermost line; what it was inlined into stands in ``inlined_at`` (Triton 3.8 on) or in the comment
that LLVM writes behind it (Triton 3.4 to 3.7); before, only the innermost line is known.
"""

from __future__ import annotations

import ast
import bisect
import linecache
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trlaunch.emulator.registers import instruction_at
from trlaunch.errors import EmulatorError

if TYPE_CHECKING:
    from trlaunch.emulator.program import Program

__all__ = ["Frame", "LineTable", "Sources"]

# PTX ISA, ".loc": file line column [, function_name label [+ immediate] , inlined_at file line column]
_LOC = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)(?:\s+(\d+))?(?:[^/]*\binlined_at\s+(\d+)\s+(\d+)\s+(\d+))?(?:.*?//(.*))?")
_PLACE = re.compile(r"([^\s@\[\]][^@\[\]]*?):(\d+):(\d+)\s*(?=@|\]|$)")
_LABEL = re.compile(r"\s*([\w$.%]+):\s*(?://.*)?$")
_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in a source file, or, where nothing is known of that, in the PTX.

    Attributes
    ----------
    ptx_line : int
    file : str
        Empty where the PTX states no line.
    line, column : int
    function : str
        The device function of a frame that is one in the PTX; else the Python function, where the file can be read.
    inlined : bool
        It has no registers of its own: the compiler put it into the next frame.
    """

    ptx_line: int
    file: str = ""
    line: int = 0
    column: int = 0
    function: str = ""
    inlined: bool = False

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.file.replace("\\", "/").rpartition("/")[2]

    def __str__(self) -> str:
        where = f"{self.name}:{self.line}" if self.file else f"PTX line {self.ptx_line}"
        return f"{self.function} at {where}" if self.function else where


class LineTable:
    """Lines and frames of one program compiled for stepping."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.files = program.module.files
        self.ptx = program.module.stream.text.split("\n")
        by_name = {path.replace("\\", "/").rpartition("/")[2]: path for path in self.files.values()}
        self._chains: list[tuple[Frame, ...]] = [()]
        current: tuple[Frame, ...] = ()
        seen: dict[tuple[int, int, int], tuple[Frame, ...]] = {}
        for number, text in enumerate(self.ptx, 1):
            if (m := _LOC.match(text)) is not None:
                current = self._chain(m, number, by_name, seen)
            elif text.startswith("}"):
                current = ()
            self._chains.append(current)
        starts = (f.line for f in program.module.functions.values() if f.stop)
        firsts = (next((c for c in self._chains[line:] if c), ()) for line in starts)
        self._own_files = {chain[-1].file for chain in firsts if chain}
        self._lines = [i.line if (i := instruction_at(program, b.index)) else 0 for b in program.blocks]

    def _chain(
        self,
        m: re.Match[str],
        number: int,
        by_name: dict[str, str],
        seen: dict[tuple[int, int, int], tuple[Frame, ...]],
    ) -> tuple[Frame, ...]:
        here = int(m[1]), int(m[2]), int(m[3] or 0)
        if not here[1]:  # line 0: code that belongs to no line
            return ()
        inner = Frame(number, self.files.get(here[0], "?"), here[1], here[2])
        outer: tuple[Frame, ...] = ()
        if m[4]:
            at = int(m[4]), int(m[5]), int(m[6])
            outer = seen.get(at) or (Frame(number, self.files.get(at[0], "?"), at[1], at[2]),)
        elif m[7]:
            places = [(p[1].strip(), int(p[2]), int(p[3])) for p in _PLACE.finditer(m[7])]
            if places and places[0][1:] == here[1:]:
                outer = tuple(Frame(number, by_name.get(f, f), line, column) for f, line, column in places[1:_DEPTH])
        chain = (replace(inner, inlined=bool(outer)), *outer)[:_DEPTH]
        if outer:
            chain = (*(replace(f, inlined=True) for f in chain[:-1]), replace(chain[-1], inlined=False))
        if m[4] or here not in seen:
            seen[here] = chain
        return chain

    def chain(self, ptx_line: int) -> tuple[Frame, ...]:
        """The source lines of an instruction of a PTX line, innermost first; empty where none is stated."""
        found = self._chains[ptx_line] if 0 < ptx_line < len(self._chains) else ()
        return tuple(replace(f, ptx_line=ptx_line) for f in found)

    def own(self, ptx_line: int) -> Frame | None:
        """The line of the function whose PTX this is; ``None`` where the PTX does not state it."""
        found = self.chain(ptx_line)
        return found[-1] if found and found[-1].file in self._own_files else None

    def backtrace(self, block: int) -> list[Frame]:
        """Where a block is, innermost first: inlined lines, then the lines of the calls it is behind."""
        instruction = instruction_at(self.program, block)
        if instruction is None:
            return []
        frames: list[Frame] = []
        line = instruction.line
        for caller in reversed(instruction.callers):
            frames += self._function_frames(line, caller.callee)
            line = caller.line
        return frames + self._function_frames(line, self.program.name)

    def _function_frames(self, ptx_line: int, function: str) -> list[Frame]:
        chain = list(self.chain(ptx_line)) or [Frame(ptx_line)]
        chain[-1] = replace(chain[-1], function=function, inlined=False)
        return chain

    def depth(self, block: int) -> tuple[int, int]:
        """Device functions that a block is behind, and lines that it is inlined in."""
        instruction = instruction_at(self.program, block)
        if instruction is None:
            return (0, 0)
        return len(instruction.callers), max(len(self.chain(instruction.line)), 1)

    # Places to stop.

    def blocks_at_ptx_line(self, line: int) -> tuple[int, list[int]]:
        """The blocks of the first PTX line from `line` on that has instructions, and that line.

        Raises
        ------
        EmulatorError
            There is none.
        """
        known = sorted({n for n in self._lines if n})
        at = bisect.bisect_left(known, line)
        if line < 1 or at == len(known):
            raise EmulatorError(
                f"no instruction on or after PTX line {line}: {self.program.name} has them on lines {known[0]} to"
                f" {known[-1]}"
            )
        blocks = [b for b, n in enumerate(self._lines) if n == known[at]]
        # An instruction of several blocks is in the place of several calls: each call has its own first one.
        firsts: dict[object, int] = {}
        for block in blocks:
            instruction = instruction_at(self.program, block)
            firsts.setdefault(instruction.callers if instruction else (), block)
        return known[at], list(firsts.values())

    def line_of_label(self, label: str) -> int | None:
        """The PTX line of a label."""
        for number, text in enumerate(self.ptx, 1):
            if (m := _LABEL.match(text)) is not None and m[1] == label:
                return number
        return None

    def blocks_at_source(self, file: str, line: int) -> list[int]:
        """Where the code of a source line begins: at each place, the first block of a stretch of it.

        Raises
        ------
        EmulatorError
            There is no such file, or no code of that line; the message says which there are.
        """
        names = {f.file for chain in self._chains for f in chain}
        matching = {n for n in names if _same_file(n, file)} if file else self._own_files
        if not names:
            raise EmulatorError("the PTX states no source lines: it was compiled without line information")
        if not matching:
            known = ", ".join(sorted({n.replace("\\", "/").rpartition("/")[2] for n in names})) or "none"
            raise EmulatorError(f"no code of a file {file!r}: the PTX states lines of {known}")
        found, before = [], False
        lines: set[int] = set()
        for block, number in enumerate(self._lines):
            chain = self.chain(number)
            lines.update(f.line for f in chain if f.file in matching)
            here = any(f.file in matching and f.line == line for f in chain)
            if here and not before:
                found.append(block)
            before = here
        if not found:
            near = sorted(lines, key=lambda n: (abs(n - line), n))[:6]
            raise EmulatorError(
                f"no code of line {line} of {sorted(matching)[0]}: the nearest lines with code are"
                f" {', '.join(map(str, sorted(near)))}"
            )
        return found


def _same_file(path: str, wanted: str) -> bool:
    a, b = path.replace("\\", "/"), os.path.normpath(wanted).replace("\\", "/")
    return a == b or a.endswith("/" + b) or b.endswith("/" + a)


class Sources:
    """The text of source files: the file itself where it is there, else the TTIR's operations of a line.

    Parameters
    ----------
    folders : sequence of path
        Where files with a relative path are looked for.
    ttir : str or None
        The kernel's TTIR.
    """

    def __init__(self, folders: Sequence[Path] = (), ttir: str | None = None) -> None:
        self._folders = [Path(), *folders]
        self._ttir = ttir
        self._operations: dict[tuple[str, int], list[str]] | None = None
        self._functions: dict[Path, list[tuple[int, int, str]]] = {}

    def path(self, file: str) -> Path | None:
        """The file on this machine."""
        for folder in self._folders:
            found = folder / file
            if file and found.is_file():
                return found
        return None

    def text(self, file: str, line: int) -> str | None:
        """One line of a file, without its line end."""
        path = self.path(file)
        if path is None:
            return None
        linecache.checkcache(str(path))
        return linecache.getline(str(path), line).rstrip("\n") or None

    def lines(self, file: str) -> list[str]:
        """All lines of a file; none if it is not there."""
        path = self.path(file)
        return [] if path is None else [text.rstrip("\n") for text in linecache.getlines(str(path))]

    def function(self, file: str, line: int) -> str:
        """The Python function around a line, empty where that cannot be found out."""
        path = self.path(file)
        if path is None:
            return ""
        if path not in self._functions:
            self._functions[path] = _functions(path)
        around = [f for f in self._functions[path] if f[0] <= line <= f[1]]
        return max(around)[2] if around else ""

    def operations(self, file: str, line: int) -> list[str]:
        """The TTIR of a source line."""
        if self._operations is None:
            self._operations = _ttir_lines(self._ttir) if self._ttir else {}
        name = file.replace("\\", "/").rpartition("/")[2]
        return self._operations.get((name, line), [])


def _functions(path: Path) -> list[tuple[int, int, str]]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(n.lineno, n.end_lineno or n.lineno, n.name) for n in ast.walk(tree) if isinstance(n, kinds)]


def _ttir_lines(text: str) -> dict[tuple[str, int], list[str]]:
    from trlaunch.artifact import Level
    from trlaunch.source_lines import chains

    found: dict[tuple[str, int], list[str]] = {}
    for chain, line in zip(chains(Level.TTIR, text), text.split("\n"), strict=False):
        if chain:
            own = chain[-1]
            shown = re.sub(r"\s*loc\(.*$", "", line).strip()
            found.setdefault((own.name, own.line), []).append(shown)
    return found
