"""A candidate's first run in a process of its own, so that one that faults or hangs does no harm here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from trlaunch.cuda.status import STICKY
from trlaunch.driver import Device
from trlaunch.tuning.candidate import Candidate

__all__ = ["run_isolated"]


def run_isolated(
    candidate: Candidate, grid: Any, args: Sequence[Any], named: Mapping[str, Any], device: Device, timeout: float
) -> tuple[str, str, Mapping[str, npt.NDArray[Any]]]:
    """Launch once, with copies of the arguments.

    Returns
    -------
    tuple
        A status of `trlaunch.tuning.report`, why it is not ``"ok"``, and the tensors as the kernel left them, by name.
    """
    from trlaunch.investigate import Trial, run

    kernel = candidate.kernel
    settings: dict[str, Any] = {"options": dict(candidate.options)} if candidate.options else {}
    stated = kernel.artifact.parameters
    if stated is not None and kernel._given_signature is None and all(slot.type for slot in stated.slots):
        settings["signature"] = {slot.name or f"arg{i}": slot.type for i, slot in enumerate(stated.slots)}
    trial = Trial.of(
        kernel, grid=grid, args=args, named=named, device=str(device), check="error", **settings
    )  # of the arguments as they are at this time
    outcome = run(trial, timeout)
    status, message = outcome.status, ""
    if status == "error" and outcome.error is not None and outcome.error.code in STICKY:
        status = "fault"  # hipError_t has the same numbers for what a kernel dies of
    if outcome.status != "ok":
        message = (
            outcome.error.message if outcome.error is not None else (outcome.stderr.strip().splitlines() or [""])[-1]
        )
        message = message.partition("\n")[0] or f"after {outcome.seconds:.1f} s of {timeout:g} s"
    return status, message, outcome.outputs
