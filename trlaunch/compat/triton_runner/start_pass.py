"""``start_pass=``: a pass by the name that triton-runner has for it, and what comes behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trlaunch.artifact import Artifact, Level, detect
from trlaunch.errors import LoweringError
from trlaunch.lowering.pass_marker import read_marker
from trlaunch.lowering.pass_names import Planned, find, squeezed
from trlaunch.lowering.pass_recorder import Recorder
from trlaunch.lowering.passes import resume
from trlaunch.lowering.triton_compiler import Compiler
from trlaunch.metadata import Metadata
from trlaunch.target import Target

__all__ = ["label_of", "resumed"]

# triton-runner 0.3.8 calls passes by what follows "add_" in Triton's bindings. Most end as MLIR's argument does
# (coalesce, tritongpu-coalesce); these do not.
_ARGUMENTS = {
    "inliner": ("inline",),
    "canonicalizer": ("canonicalize",),
    "combine_ops": ("triton-combine",),
    "convert_ttgpuir": ("convert-triton-to-tritongpu",),
    "hopper_warpspec": ("nvgpu-warp-specialization",),
    "warp_specialize": ("tritongpu-automatic-warp-specialization",),
    "lower_mma": ("triton-nvidia-mma-lowering",),
    "allocate_shared_memory": ("allocate-shared-memory", "allocate-shared-memory-nv"),
    "allocate_tensor_memory": ("triton-tensor-memory-allocation",),
    "allocate_global_scratch": ("tritongpu-global-scratch-memory-allocation",),
    "to_llvmir": ("convert-triton-gpu-to-llvm",),
}
# It numbers the passes of a stage from 1 (the first without a number), but for these of the ttgir stage: which of the
# passes of that name, from the front or from the back.
_TTGIR_OCCURRENCES = {
    "canonicalizer_2": 0,
    "canonicalizer_3": 1,
    "canonicalizer_tail": -2,
    "canonicalizer_final": -1,
    "symbol_dce_2": 0,
}
_NUMBERED = re.compile(r"(\w+?)(?:_(\d+|tail|final))?\Z")


def label_of(planned: Sequence[Planned], level: Level, name: str) -> str:
    """A pass as trlaunch calls it, ``"tritongpu-remove-layout-conversions#2"``.

    Parameters
    ----------
    planned : sequence of Planned
        The passes of the installed release.
    level : Level
        The stage that the text was saved in.
    name : str
        triton-runner's (``"remove_layout_conversions_2"``) or trlaunch's.

    Raises
    ------
    LoweringError
        The release has no such pass in that stage; the message lists those it has.
    """
    inside = [p for p in planned if p.stage == str(level)]
    match = _NUMBERED.fullmatch(name)
    if match is not None:
        base, number = match.groups()
        wanted = [squeezed(argument) for argument in _ARGUMENTS.get(base, (base,))]
        fitting = [p for p in inside if squeezed(p.name) in wanted] or [
            p for p in inside if squeezed(p.name).endswith(tuple(wanted))
        ]
        position = _TTGIR_OCCURRENCES.get(name) if level is Level.TTGIR else None
        if position is None and number not in ("tail", "final"):
            position = int(number or 1) - 1
        if position is not None and -len(fitting) <= position < len(fitting):
            return fitting[position].label
    return find(inside, name).label


def resumed(
    text: str,
    level: Level,
    start_pass: str,
    to: Level,
    *,
    target: Target,
    options: Mapping[str, Any],
    metadata: Mapping[str, Any] | Metadata | None,
    name: str,
) -> Artifact:
    """What the installed release makes of a module that was saved after a pass.

    Parameters
    ----------
    text : str
        MLIR; where trlaunch saved it, its first line says target and options.
    level : Level
        The stage it was saved in.
    start_pass : str
        As `label_of` takes it.
    to : Level
    target : Target
        Of the device at hand, for text that does not say.
    options : mapping
        Triton's, over those that the text says.
    metadata : mapping or Metadata or None
        What earlier stages found out, for text that does not say.
    name : str
        The kernel's.

    Raises
    ------
    LoweringError
        There is no such pass, or the compiler failed.
    """
    if level not in (Level.TTIR, Level.TTGIR, Level.LLIR):
        raise LoweringError(
            f"start_pass={start_pass!r}: there are no passes of {level}: expected ttir, ttgir or llir", stage="passes"
        )
    marker = read_marker(text)
    chosen = target if marker is None else marker.target
    given = dict(options) if marker is None else {**marker.options, **options}
    label = label_of(Recorder(Compiler(chosen, given)).plan(), level, start_pass)
    data = text.encode()
    source = Artifact.from_bytes(data, metadata, None if detect(data) else Level.TTGIR)
    return resume(source, label, to, chosen, dict(options) or None, name=name)
