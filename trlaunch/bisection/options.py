"""Over compile options: the kernel compiled with each combination."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact
from trlaunch.bisection.engine import Candidate
from trlaunch.bisection.oracles import Launch, Oracle
from trlaunch.errors import ArgumentError
from trlaunch.investigate.trial import Trial

__all__ = ["candidates", "combinations"]


def combinations(choices: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Every combination: ``{"num_warps": [4, 8], "num_stages": [2, 3]}`` gives four.

    Raises
    ------
    ArgumentError
        There is nothing to choose from.
    """
    rows = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    if not choices or not rows:
        raise ArgumentError("there are no options to choose from: expected {'num_warps': [2, 4, 8]}")
    return rows


def candidates(
    file: str | Path,
    oracle: Oracle,
    choices: Mapping[str, Iterable[Any]],
    *,
    grid: int | Sequence[int],
    args: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    timeout: float = 120.0,
    **settings: Any,
) -> list[Candidate]:
    """A kernel of TTIR (or of TTGIR, for what is not decided yet there) with each combination of options.

    Parameters
    ----------
    file : path
    oracle, grid, args, named, timeout, **settings
        As for `trlaunch.bisection.passes.candidates`.
    choices : mapping of str to values
        ``{"num_warps": [2, 4, 8], "num_stages": [1, 2, 3]}``.
    """
    artifact = Artifact.from_file(file)
    # The binary beside it was made with other options.
    artifact = replace(artifact, siblings={})
    rows = []
    for options in combinations(choices):
        label = " ".join(f"{name}={value}" for name, value in options.items())
        trial = Trial.of(artifact, grid=grid, args=args, named=named, options=options, **settings)
        rows.append(Candidate(label, Launch(trial, oracle, timeout)))
    return rows
