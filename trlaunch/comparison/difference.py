"""Two builds of a kernel beside each other."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.comparison.build import TEXTS, Build, read
from trlaunch.comparison.mix import CLASSES, mix
from trlaunch.comparison.normal import SASS, normalised
from trlaunch.errors import ArtifactError

__all__ = ["Difference", "LineRow", "Pair", "diff"]

_WIDTH = 40
_LEVELS: tuple[Level | str, ...] = (*TEXTS, SASS)


@dataclass(frozen=True, slots=True)
class Pair:
    """A named value of both builds; ``None`` where a build does not state it."""

    name: str
    first: Any
    second: Any

    @property
    def differs(self) -> bool:
        """Whether the builds state different values, or one of them none."""
        return bool(self.first != self.second)


@dataclass(frozen=True, slots=True)
class LineRow:
    """What became of one source line.

    Attributes
    ----------
    file : str
    line : int
    counts : mapping of str to (int, int)
        Lines of code at each level that both builds have, SASS instructions among them.
    changed : tuple of str
        The levels whose code differs once registers, value names and labels are left out.
    """

    file: str
    line: int
    counts: Mapping[str, tuple[int, int]]
    changed: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Difference:
    """What two builds of a kernel differ in; made by `diff`.

    Attributes
    ----------
    first, second : Build
    """

    def __init__(self, first: Build, second: Build) -> None:
        self.first, self.second = first, second

    @property
    def metadata(self) -> list[Pair]:
        """Every key of either JSON, but those that name the build (hash, version)."""
        return _pairs(self.first.metadata, self.second.metadata)

    @property
    def resources(self) -> list[Pair]:
        """Registers, spills, shared memory, instructions."""
        return _pairs(self.first.resources, self.second.resources)

    @property
    def mix(self) -> list[Pair]:
        """Instructions by class; empty where a build has no disassembly."""
        if not (self.first.opcodes and self.second.opcodes):
            return []
        a, b = (mix(build.opcodes.elements()) for build in (self.first, self.second))
        return [Pair(group, a[group], b[group]) for group in CLASSES if a[group] or b[group]]

    @property
    def opcodes(self) -> list[Pair]:
        """Instructions by mnemonic, the largest change first."""
        a, b = self.first.opcodes, self.second.opcodes
        if not (a and b):
            return []
        names = sorted(a.keys() | b.keys(), key=lambda name: (-abs(a[name] - b[name]), name))
        return [Pair(name, a[name], b[name]) for name in names]

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that both builds have, from the highest to SASS."""
        return tuple(str(level) for level in _LEVELS if level in self.first.code and level in self.second.code)

    @property
    def lines(self) -> list[LineRow]:
        """Every source line that either build has code of, in order."""
        sides = {level: tuple(self._code(build, level).by_line() for build in self._builds) for level in self.levels}
        places = sorted({place for pair in sides.values() for side in pair for place in side})
        rows = []
        for file, line in places:
            place = (file, line)
            codes = {level: (a.get(place, []), b.get(place, [])) for level, (a, b) in sides.items()}
            rows.append(
                LineRow(
                    file,
                    line,
                    {level: (len(a), len(b)) for level, (a, b) in codes.items()},
                    tuple(level for level, (a, b) in codes.items() if _normal(level, a) != _normal(level, b)),
                )
            )
        return rows

    def text(self, level: Level | str, line: int | None = None, *, context: int = 3) -> str:
        """The code of a level as a unified diff, without value names, registers, labels and locations.

        Parameters
        ----------
        level : str
            One of `levels`.
        line : int, optional
            The code of this source line alone.
        context : int
            Equal lines around a difference.

        Returns
        -------
        str
            Empty where nothing differs.

        Raises
        ------
        ArtifactError
            A build lacks the level, or no build has code of the line.
        """
        name = str(level)
        if name not in self.levels:
            raise ArtifactError(
                f"level {name!r} is not in both builds: expected one of {', '.join(self.levels) or 'none'}"
            )
        codes = [self._code(build, name) for build in self._builds]
        if line is None:
            sides: list[Sequence[str]] = [code.lines for code in codes]
        else:
            at = [[text for (_, n), texts in code.by_line().items() if n == line for text in texts] for code in codes]
            if not any(at):
                known = sorted({n for code in codes for _, n in code.by_line()})
                raise ArtifactError(f"no {name} comes from line {line}; there is code of lines {_ranges(known)}")
            sides = [*at]
        a, b = (_normal(name, side) for side in sides)
        found = difflib.unified_diff(a, b, self.first.label, self.second.label, n=context, lineterm="")
        return "\n".join(found)

    @property
    def same(self) -> bool:
        """Whether metadata, resources and the code of every level that both have are the same."""
        if any(pair.differs for pair in (*self.metadata, *self.resources)):
            return False
        return all(not self.text(level) for level in self.levels)

    @property
    def _builds(self) -> tuple[Build, Build]:
        return (self.first, self.second)

    @staticmethod
    def _code(build: Build, level: str) -> Any:
        return build.code[next(key for key in build.code if str(key) == level)]

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON; of the code the counts by line."""

        def pairs(rows: Iterable[Pair]) -> dict[str, list[Any]]:
            return {row.name: [row.first, row.second] for row in rows}

        return {
            "first": self.first.label,
            "second": self.second.label,
            "kernel": [self.first.kernel, self.second.kernel],
            "same": self.same,
            "metadata": pairs(p for p in self.metadata if p.differs),
            "resources": pairs(self.resources),
            "mix": pairs(self.mix),
            "opcodes": pairs(p for p in self.opcodes if p.differs),
            "lines": [
                {
                    "file": r.file,
                    "line": r.line,
                    "counts": {k: list(v) for k, v in r.counts.items()},
                    "changed": list(r.changed),
                }
                for r in self.lines
            ],
            "notes": [[*self.first.notes], [*self.second.notes]],
        }

    def __str__(self) -> str:
        out = io.StringIO()
        for text in self._report():
            out.write(text + "\n")
        return out.getvalue().rstrip()

    def _report(self) -> Iterator[str]:
        yield f"first:  {self.first.label}"
        yield f"second: {self.second.label}"
        for side, build in zip(("first", "second"), self._builds, strict=True):
            for note in build.notes:
                yield f"  note ({side}): {note}"
        a, b = self.first.metadata, self.second.metadata
        changed = [p for p in self.metadata if p.differs and p.name in a and p.name in b]
        only = [f"  only in {side}: {', '.join(names)}" for side, names in (
            ("first", [n for n in a if n not in b]), ("second", [n for n in b if n not in a])) if names]  # fmt: skip
        if a and b and (changed or only):
            yield "\nmetadata"
            yield from _table(changed)
            yield from only
        if self.resources:
            yield "\nresources"
            yield from _table(self.resources)
        if self.mix:
            yield "\ninstructions by class"
            yield from _table(self.mix)
            moved = [p for p in self.opcodes if p.differs][:12]
            if moved:
                yield "\nmnemonics that changed most"
                yield from _table(moved)
        rows = [row for row in self.lines if row.changed]
        if rows:
            yield "\nsource lines whose code changed"
            levels = self.levels
            yield "  " + "line".ljust(24) + "".join(level.rjust(14) for level in levels)
            for row in rows:
                cells = [
                    (f"{a} -> {b}" if a != b else f"{a} (*)" if level in row.changed else f"{a}").rjust(14)
                    for level in levels
                    for a, b in [row.counts[level]]
                ]
                yield "  " + str(row).ljust(24) + "".join(cells)
            yield "  (*) as many, but not the same"
        elif self.same:
            yield "\nthe same but for names of registers, values and labels"


def diff(first: str | Path | Artifact, second: str | Path | Artifact, *, name: str | None = None) -> Difference:
    """What two builds of a kernel differ in: metadata, resources, instruction mix, and the code of each source line.

    Parameters
    ----------
    first, second : path or Artifact
        Files of any level or folders of Triton's cache; the levels beside a file are compared, too.
    name : str, optional
        The kernel, where there are several.

    Raises
    ------
    ArtifactError, MetadataError, ImageError
        A file cannot be read.
    """
    return Difference(read(first, name=name), read(second, name=name))


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Pair]:
    return [Pair(name, a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b))]


def _normal(level: str, lines: Iterable[str]) -> list[str]:
    return [normalised(level if level == SASS else Level(level), line) for line in lines]


def _table(pairs: Iterable[Pair]) -> Iterator[str]:
    for pair in pairs:
        change = ""
        if pair.differs and all(isinstance(v, int) and not isinstance(v, bool) for v in (pair.first, pair.second)):
            delta = pair.second - pair.first
            change = f"  {delta:+d}" + (f" ({delta / pair.first:+.0%})" if pair.first else "")
        yield f"  {pair.name:<24} {_shown(pair.first):>16} {_shown(pair.second):>16}{change}"


def _shown(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _ranges(numbers: Sequence[int]) -> str:
    """``3-5, 9``."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in parts) or "none"
