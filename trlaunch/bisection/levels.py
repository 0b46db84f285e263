"""Over levels: the kernel made again from each level that lies beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.bisection.engine import Candidate
from trlaunch.bisection.oracles import Launch, Oracle
from trlaunch.errors import ArtifactError
from trlaunch.investigate.trial import Trial

__all__ = ["candidates"]

_ORDER = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX, Level.AMDGCN, Level.CUBIN, Level.HSACO)


def candidates(
    file: str | Path | Artifact,
    oracle: Oracle,
    *,
    grid: int | Sequence[int],
    args: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    timeout: float = 120.0,
    **settings: Any,
) -> list[Candidate]:
    """The kernel from each level there is, from the highest on; the installed release (and ptxas) does the rest.

    With a file edited or miscompiled at one level, those from it on are bad; the levels above were lowered again.

    Parameters
    ----------
    file : path or Artifact
        A file of any level, or a folder of Triton's cache.
    oracle, grid, args, named, timeout, **settings
        As for `trlaunch.bisection.passes.candidates`.

    Raises
    ------
    ArtifactError
        Only one level is there.
    """
    if isinstance(file, Artifact):
        artifact = file
    else:
        artifact = Artifact.from_cache(file) if Path(file).is_dir() else Artifact.from_file(file)
    there = {artifact.level: artifact}
    there |= {level: found for level in artifact.siblings if (found := artifact.sibling(level)) is not None}
    rows = []
    for level in _ORDER:
        if level in there:
            # Levels above say names and types; a level below must not be taken instead of being made.
            above = {other: there[other].data for other in _ORDER[: _ORDER.index(level)] if other in there}
            source = replace(there[level], siblings=above, metadata=artifact.metadata)
            trial = Trial.of(source, grid=grid, args=args, named=named, **settings)
            rows.append(Candidate(str(level), Launch(trial, oracle, timeout)))
    if len(rows) < 2:
        raise ArtifactError(
            f"{artifact.label} is alone: a bisection over levels needs others beside it, such as `trlaunch "
            f"lower --all` and Triton's cache have"
        )
    return rows
