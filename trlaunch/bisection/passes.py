"""Over passes: the modules that the passes of a lowering left, each finished by the installed release and launched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.bisection.engine import Candidate
from trlaunch.bisection.oracles import Launch, Oracle
from trlaunch.errors import ArtifactError
from trlaunch.investigate.trial import Trial
from trlaunch.lowering.pass_marker import read_marker
from trlaunch.lowering.pass_names import kernel_of
from trlaunch.signature import from_func

__all__ = ["candidates"]

# What `PassRun.write` calls the module after a pass: 07-tritongpu-coalesce.mlir, 41-llvm.to_module.ll
_MODULE = re.compile(r"(\d+)-(.+)\.(?:mlir|ll)$")


def candidates(
    folder: str | Path,
    oracle: Oracle,
    *,
    grid: int | Sequence[int],
    args: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    timeout: float = 120.0,
    **settings: Any,
) -> list[Candidate]:
    """The module before the first pass, and that after each that a lowering can start from.

    Each is lowered the rest of the way by the installed Triton, so that a candidate is bad from the pass on whose
    output is wrong, in this folder, while the passes that run here do no harm.

    Parameters
    ----------
    folder : path
        What ``trlaunch passes --out`` (or `trlaunch.lowering.passes.PassRun.write`) wrote, with any file edited, or of
        another build of the compiler.
    oracle : callable
    grid, args, named
        Of the launch, as for `trlaunch.investigate.trial.Trial.of`.
    timeout : float
        Seconds for one trial, the lowering included.
    **settings
        Of the trial: ``device=``.

    Raises
    ------
    ArtifactError
        The folder holds no modules.
    """
    folder = Path(folder)
    found = sorted(
        (int(m[1]), m[2], path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (m := _MODULE.match(path.name))
    )
    if not found:
        raise ArtifactError(
            f"no module NN-<pass>.mlir in {str(folder)!r}: expected what `trlaunch passes FILE --out FOLDER` writes"
        )
    signature = settings.pop("signature", None) or _signature(found[0][2])
    rows = []
    for number, name, path in found:
        # Nothing beside the module belongs to it: the other files of the folder are other modules.
        artifact = replace(Artifact.from_file(path), siblings={}, metadata=None)
        if artifact.level is Level.LLIR and not _finished(artifact.text):
            continue
        marker = read_marker(artifact.text)
        where = {"target": str(marker.target)} if marker is not None else {}
        trial = Trial.of(artifact, grid=grid, args=args, named=named, signature=signature, **{**where, **settings})
        rows.append(Candidate(f"{number:02d} {name}", Launch(trial, oracle, timeout), path.name))
    return rows


def _finished(text: str) -> bool:
    """Whether LLVM IR is that of its level: Triton cannot go on in the middle of its LLVM passes."""
    marker = read_marker(text)
    return marker is not None and bool(marker.carried.get("output"))


def _signature(path: Path) -> dict[str, Any] | None:
    """Names and types of the parameters, which LLVM IR does not have."""
    artifact = Artifact.from_file(path)
    if artifact.level not in (Level.TTIR, Level.TTGIR):
        return None
    kernel = kernel_of(artifact.text)
    source = None if kernel is None else from_func(artifact.text, kernel, str(artifact.level))
    if source is None or not all(slot.name and slot.type for slot in source.slots):
        return None
    return {str(slot.name): slot.type for slot in source.slots}
