"""Names of passes: read out of a pipeline as MLIR prints it, numbered, and found again by what a user calls them.

A pass is called by its argument, ``tritongpu-coalesce``, the name that ``triton-opt`` and MLIR's dumps use. A pipeline
is printed as ``any(cse,tritongpu-pipeline{dump-intermediate-steps=false num-stages=3},tt.func(a,b))`` (MLIR, "Pass
Infrastructure", textual pass pipeline specification).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trlaunch.errors import LoweringError

__all__ = ["Planned", "elements", "find", "kernel_of", "numbered", "squeezed"]

_OPEN, _CLOSE = "({[<", ")}]>"
_NAME = re.compile(r"unknown<(?:.*::)?([^>]*)>|([A-Za-z_][\w.-]*)")

_KERNEL = re.compile(
    r'^\s*tt\.func (?:public )?@"?([\w.$]+)|^\s*llvm\.func (?!internal|private)[^@\n]*@"?([\w.$]+)"?\(.*\{$', re.M
)


@dataclass(frozen=True, slots=True)
class Planned:
    """One pass of a release's pipeline.

    Attributes
    ----------
    stage : str
        ``"ttgir"``.
    position : int
        From 0, among the passes of its stage.
    name : str
        Its argument: ``"tritongpu-coalesce"``.
    occurrence : int
        From 1, counted over all stages from ttir on.
    pipeline : str
        As MLIR prints it, options included.
    """

    stage: str
    position: int
    name: str
    occurrence: int
    pipeline: str

    @property
    def label(self) -> str:
        """``"tritongpu-coalesce#1"``."""
        return f"{self.name}#{self.occurrence}"


def elements(pipeline: str) -> list[tuple[str, str]]:
    """The passes of a printed pipeline as (argument, text with options); anchors such as ``tt.func(...)`` are opened.

    >>> elements("builtin.module(any(cse,tt.func(licm),pipeline{num-stages=3}))")
    [('cse', 'cse'), ('licm', 'licm'), ('pipeline', 'pipeline{num-stages=3}')]
    """
    found: list[tuple[str, str]] = []
    for element in _split(pipeline):
        match = _NAME.match(element)
        if match is None:
            raise LoweringError(
                f"a pass pipeline that cannot be read: {element[:60]!r} in {pipeline[:200]!r}", stage="passes"
            )
        if match[2] is not None and element[match.end() :].startswith("(") and element.endswith(")"):
            found += elements(element[match.end() + 1 : -1])
        else:
            found.append((match[1] or match[2], element))
    return found


def _split(text: str) -> list[str]:
    """Split at the commas that no bracket holds; a list of options may hold some."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def numbered(passes: Iterable[tuple[str, str, str]]) -> tuple[Planned, ...]:
    """Number passes given as (stage, name, pipeline) in the order they run."""
    seen: dict[str, int] = {}
    lengths: dict[str, int] = {}
    planned = []
    for stage, name, pipeline in passes:
        seen[name] = seen.get(name, 0) + 1
        planned.append(Planned(stage, lengths.get(stage, 0), name, seen[name], pipeline))
        lengths[stage] = lengths.get(stage, 0) + 1
    return tuple(planned)


def squeezed(name: str) -> str:
    """A name as it is compared: ``TritonGPUCoalesce`` and ``tritongpu-coalesce`` are one."""
    return re.sub(r"[-_]", "", name).lower()


def find(planned: Sequence[Planned], wanted: str) -> Planned:
    """The pass a user means.

    Parameters
    ----------
    planned : sequence of Planned
    wanted : str
        The argument, or the end of it behind a dash (``coalesce`` for ``tritongpu-coalesce``); with ``#2`` the second
        occurrence, which is needed where there are several.

    Raises
    ------
    LoweringError
        No pass is called that, or several are.
    """
    name, _, number = wanted.partition("#")
    if number and not number.isdecimal():
        raise LoweringError(f"pass {wanted!r}: expected a number after '#', as in {name}#2", stage="passes")
    fitting = [p for p in planned if squeezed(p.name) == squeezed(name)] or [
        p for p in planned if p.name.endswith(f"-{name}")
    ]
    if not fitting:
        near = sorted({p.name for p in planned if name and name in p.name})
        known = near or sorted({p.name for p in planned})
        raise LoweringError(
            f"no pass is called {name!r}: {'near it are' if near else 'the passes are'} {', '.join(known)}",
            stage="passes",
        )
    if number:
        names = {p.name for p in fitting}
        fitting = [p for p in fitting if p.occurrence == int(number)] if len(names) == 1 else fitting
        if not fitting:
            last = max(p.occurrence for p in planned if p.name in names)
            raise LoweringError(f"pass {wanted!r}: there are {last} of them", stage="passes")
    if len(fitting) > 1:
        listed = ", ".join(f"{p.label} ({p.stage})" for p in fitting)
        raise LoweringError(f"pass {wanted!r} runs several times: say which of {listed}", stage="passes")
    return fitting[0]


def kernel_of(text: str) -> str | None:
    """Symbol of the kernel in MLIR text or LLVM IR: its one public function; ``None`` where there are several."""
    found = {m[1] or m[2] for m in _KERNEL.finditer(text)}
    return found.pop() if len(found) == 1 else None
