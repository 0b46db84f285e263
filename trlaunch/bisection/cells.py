"""Over the programs of a grid: which CTA it is that goes wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trlaunch.bisection.engine import Candidate
from trlaunch.bisection.oracles import Oracle
from trlaunch.bisection.ptx_edits import EditedLaunch, ptx_of
from trlaunch.errors import ArgumentError
from trlaunch.investigate.trial import Trial

__all__ = ["candidates", "program_id"]


def program_id(number: int, grid: Sequence[int]) -> tuple[int, int, int]:
    """Index along x, y, z of a CTA by its number ``x + grid.x * (y + grid.y * z)``."""
    x, y, _ = (*grid, 1, 1)[:3]
    return number % x, number // x % y, number // (x * y)


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
    """Growing parts of the grid: candidate n runs CTAs 0 to n, and the others return at once.

    `first_bad` of these is the first CTA that goes wrong by itself or after those before it. Oracles are crashes and
    hangs: what the CTAs that do not run leave unwritten differs from a reference.

    Parameters
    ----------
    file : path
        PTX, or a file or folder with PTX beside it.
    oracle, grid, args, named, timeout, **settings
        As for `trlaunch.bisection.passes.candidates`.

    Raises
    ------
    ArgumentError
        The kernel launches clusters, or its CTAs wait for each other.
    """
    artifact = ptx_of(file)
    sizes = (grid,) if isinstance(grid, int) else tuple(grid)
    metadata = artifact.metadata
    if metadata is not None and (math.prod(metadata.cluster) > 1 or metadata.cooperative):
        raise ArgumentError(
            "the CTAs of this kernel wait for each other (clusters, a cooperative grid): none runs alone"
        )
    trial = Trial.of(artifact, grid=sizes, args=args, named=named, **settings)
    return [
        Candidate(f"CTA {program_id(last, sizes)}", EditedLaunch(trial, oracle, timeout, programs=(0, last)))
        for last in range(math.prod(sizes))
    ]
