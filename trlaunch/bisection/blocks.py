"""Over the basic blocks of PTX, and the instructions of one: how far a kernel comes before it goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trlaunch.bisection.engine import Candidate
from trlaunch.bisection.oracles import Oracle
from trlaunch.bisection.ptx_edits import EditedLaunch, PtxBlock, blocks_in_order, ptx_of
from trlaunch.errors import ArgumentError
from trlaunch.investigate.trial import Trial

__all__ = ["PtxBlock", "candidates", "instructions"]


def candidates(
    file: str | Path,
    oracle: Oracle,
    *,
    grid: int | Sequence[int],
    args: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    timeout: float = 60.0,
    **settings: Any,
) -> list[Candidate]:
    """Growing parts of the kernel: candidate n runs its first n blocks, and threads that come to another one return.

    Blocks are in reverse postorder. What goes wrong in a later round of a loop needs the block that goes back, and
    that is the one found then. Oracles are crashes and hangs.

    Parameters
    ----------
    file : path
        PTX, or a file or folder with PTX beside it.
    oracle, grid, args, named, timeout, **settings
        As for `trlaunch.bisection.passes.candidates`.
    """
    artifact = ptx_of(file)
    blocks = blocks_in_order(artifact.text, settings.get("name"))
    trial = Trial.of(artifact, grid=grid, args=args, named=named, **settings)
    rows = []
    for count in range(1, len(blocks) + 1):
        stops = tuple(sorted({block.lines[0] for block in blocks[count:]} - set(blocks[count - 1].lines)))
        label = f"block {count - 1}, {blocks[count - 1]}"
        rows.append(Candidate(label, EditedLaunch(trial, oracle, timeout, stops=stops)))
    return rows


def instructions(
    file: str | Path,
    oracle: Oracle,
    block: int,
    *,
    grid: int | Sequence[int],
    args: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    timeout: float = 60.0,
    **settings: Any,
) -> list[Candidate]:
    """Growing parts of one block, behind the blocks before it; the first candidate runs none of its instructions.

    Parameters
    ----------
    block : int
        Its number among `candidates`.
    file, oracle, grid, args, named, timeout, **settings
        As for `candidates`.

    Raises
    ------
    ArgumentError
        There is no such block.
    """
    artifact = ptx_of(file)
    blocks = blocks_in_order(artifact.text, settings.get("name"))
    if not 0 <= block < len(blocks):
        raise ArgumentError(f"block {block}: the kernel has blocks 0 to {len(blocks) - 1}")
    trial = Trial.of(artifact, grid=grid, args=args, named=named, **settings)
    text = artifact.text.split("\n")
    lines = blocks[block].lines
    later = {other.lines[0] for other in blocks[block + 1 :]}
    rows = [
        Candidate("before the block", EditedLaunch(trial, oracle, timeout, stops=tuple(sorted({lines[0], *later}))))
    ]
    for i, line in enumerate(lines):
        stops = {*later, *lines[i + 1 : i + 2]} - {line}
        label = f"line {line}: {text[line - 1].strip()}"
        rows.append(Candidate(label, EditedLaunch(trial, oracle, timeout, stops=tuple(sorted(stops)))))
    return rows
