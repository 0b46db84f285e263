"""Edits of PTX that keep a kernel from going on: programs that return at once, and blocks that are never entered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trlaunch.artifact import Artifact, Level
from trlaunch.bisection.engine import Verdict
from trlaunch.bisection.oracles import Launch, Oracle
from trlaunch.dump.ptx import Instruction, instructions
from trlaunch.emulator.cfg import Block, blocks_of
from trlaunch.emulator.ptx import parse, parse_body
from trlaunch.emulator.syntax import Function
from trlaunch.errors import ArgumentError, ArtifactError
from trlaunch.investigate.trial import Trial

__all__ = ["EditedLaunch", "PtxBlock", "blocks_in_order", "only_programs", "ptx_of", "stop_before"]

_PREFIX = "trl_cut"


@dataclass(frozen=True, slots=True)
class PtxBlock:
    """A basic block.

    Attributes
    ----------
    lines : tuple of int
        Lines of its instructions, 1-based.
    source : str or None
        ``file.py:line`` of the first one that has a source.
    """

    lines: tuple[int, ...]
    source: str | None = None

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        first, last = self.lines[0], self.lines[-1]
        return (f"line {first}" if first == last else f"lines {first}-{last}") + where


def _kernel(text: str, name: str | None) -> Function:
    found = [f for f in parse(text).functions.values() if f.entry and name in (None, f.name)]
    if len(found) != 1:
        raise ArgumentError(f"the PTX has {len(found)} kernels{f' {name!r}' if name else ''}: expected one, or name=")
    return found[0]


def only_programs(text: str, first: int, last: int, name: str | None = None) -> str:
    """The kernel, of which only CTAs `first` to `last` run; the others return at once.

    A CTA's number is ``x + grid.x * (y + grid.y * z)``. Kernels whose CTAs wait for each other hang then.

    Parameters
    ----------
    text : str
        PTX.
    first, last : int
        Both included.
    name : str, optional
        The kernel, where there are several.
    """
    head = (
        f".reg .pred %{_PREFIX}_p<3>;", f".reg .b32 %{_PREFIX}_r<6>;",
        f"mov.u32 %{_PREFIX}_r0, %ctaid.z;", f"mov.u32 %{_PREFIX}_r1, %nctaid.y;", f"mov.u32 %{_PREFIX}_r2, %ctaid.y;",
        f"mad.lo.u32 %{_PREFIX}_r3, %{_PREFIX}_r0, %{_PREFIX}_r1, %{_PREFIX}_r2;",
        f"mov.u32 %{_PREFIX}_r4, %nctaid.x;", f"mov.u32 %{_PREFIX}_r5, %ctaid.x;",
        f"mad.lo.u32 %{_PREFIX}_r3, %{_PREFIX}_r3, %{_PREFIX}_r4, %{_PREFIX}_r5;",
        f"setp.lt.u32 %{_PREFIX}_p0, %{_PREFIX}_r3, {first};", f"@%{_PREFIX}_p0 ret;",
        f"setp.gt.u32 %{_PREFIX}_p1, %{_PREFIX}_r3, {last};", f"@%{_PREFIX}_p1 ret;",
    )  # fmt: skip
    listed = instructions(text, name)
    if not listed:
        raise ArgumentError("the kernel has no instruction")
    at = listed[0].start
    # All on one line: lines that an error names are those of the user's file.
    return f"{text[:at]}{' '.join(head)} {text[at:]}"


def blocks_in_order(text: str, name: str | None = None) -> list[PtxBlock]:
    """The basic blocks of a kernel in reverse postorder: one comes behind those that lead to it, loops apart."""
    function = _kernel(text, name)
    module = parse(text)
    body = parse_body(module, module.functions[function.name])
    # Blocks as written: those of functions that are called are no part of the kernel's own text.
    own = {i.line: i for i in instructions(text, function.name)}
    blocks = blocks_of(body)
    rows = []
    for index in _reverse_postorder(blocks):
        block = blocks[index]
        statements = [*block.body, *([block.end] if block.end is not None else [])]
        lines = [s.line for s in statements if s.line in own]
        if lines:
            places = (own[line].python for line in lines)
            source = next((str(place) for place in places if place is not None), None)
            rows.append(PtxBlock(tuple(dict.fromkeys(lines)), source))
    return rows


def _reverse_postorder(blocks: Sequence[Block]) -> list[int]:
    order: list[int] = []
    seen = {0}
    stack = [(0, iter(sorted(blocks[0].successors, reverse=True)))]
    while stack:
        index, left = stack[-1]
        for successor in left:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(sorted(blocks[successor].successors, reverse=True))))
                break
        else:
            order.append(index)
            stack.pop()
    return order[::-1]


def stop_before(text: str, lines: Sequence[int], name: str | None = None) -> str:
    """The kernel, whose threads return when they come to the first instruction of one of these lines."""
    wanted = set(lines)
    starts: dict[int, Instruction] = {}
    for instruction in instructions(text, name):
        if instruction.line in wanted:
            starts.setdefault(instruction.line, instruction)
    if missing := sorted(wanted - starts.keys()):
        raise ArgumentError(f"line {missing[0]} of the PTX holds no instruction of the kernel")
    out, last = [], 0
    for at in sorted(i.start for i in starts.values()):
        out += [text[last:at], "ret; "]
        last = at
    return "".join([*out, text[last:]])


def ptx_of(file: str | Path) -> Artifact:
    """The PTX of a kernel without the binary that was made of it; the levels above stay for names and types.

    Raises
    ------
    ArtifactError
        There is no PTX.
    """
    path = Path(file)
    artifact = Artifact.from_cache(path) if path.is_dir() else Artifact.from_file(path)
    ptx = artifact if artifact.level is Level.PTX else artifact.sibling(Level.PTX)
    if ptx is None:
        raise ArtifactError(f"{artifact.label} has no PTX beside it: expected k.ptx")
    above = {level: artifact.siblings[level] for level in (Level.TTIR, Level.TTGIR) if level in artifact.siblings}
    return replace(ptx, metadata=artifact.metadata, siblings=above)


@dataclass(frozen=True, slots=True)
class EditedLaunch:
    """The trial of a candidate that is a launch of edited PTX; the text is edited when it is tried.

    Attributes
    ----------
    trial : Trial
        Of the whole PTX.
    oracle : callable
    timeout : float
    programs : (int, int) or None
        For `only_programs`.
    stops : tuple of int
        For `stop_before`.
    """

    trial: Trial
    oracle: Oracle
    timeout: float
    programs: tuple[int, int] | None = None
    stops: tuple[int, ...] = ()

    def __call__(self, device: str | None) -> Verdict:
        """Run it in a process of its own."""
        text = self.trial.files[self.trial.file].decode()
        if self.stops:
            text = stop_before(text, self.stops, self.trial.name)
        if self.programs is not None:
            text = only_programs(text, *self.programs, self.trial.name)
        trial = replace(self.trial, files={**self.trial.files, self.trial.file: text.encode()})
        return Launch(trial, self.oracle, self.timeout)(device)
