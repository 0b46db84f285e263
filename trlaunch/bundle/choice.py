"""Which entry of a bundle a device runs."""

from __future__ import annotations

from collections.abc import Sequence

from trlaunch.artifact import Level
from trlaunch.bundle.archive import Entry
from trlaunch.check import runs_on
from trlaunch.devices import default_device, get
from trlaunch.driver import Device
from trlaunch.errors import ArtifactError

__all__ = ["choose"]


def choose(entries: Sequence[Entry], device: str | Device | None = None, where: str = "the bundle") -> Entry:
    """The entry for a device: of those that run there a binary before PTX, and the latest architecture.

    Parameters
    ----------
    entries : sequence of Entry
        A single one is taken as it is: the audit before a launch says whether it runs.
    device : str, optional
        Left out, the GPU if there is one, else the emulator, which executes PTX: of the oldest architecture.
    where : str
        What to call the bundle in messages.

    Raises
    ------
    ArtifactError
        None of several runs there.
    """
    if len(entries) == 1:
        return entries[0]
    backends = {entry.target.backend for entry in entries}
    if device is None:
        chosen = default_device(backends.pop() if len(backends) == 1 else None)
    else:
        chosen = Device.parse(device)
    if chosen.driver == "emulator":
        with_ptx = [e for e in entries if e.level is Level.PTX or Level.PTX in e.texts]
        if with_ptx:
            return min(with_ptx, key=lambda e: e.target.capability)
        raise ArtifactError(
            f"{where} holds {_targets(entries)} without PTX, and the emulator executes PTX: save it with texts=True, "
            f"or launch on a GPU"
        )
    properties = get(chosen.driver).properties(chosen.ordinal)
    fitting = [e for e in entries if runs_on(e.target, properties.target, text=e.level is Level.PTX) is None]
    if not fitting:
        raise ArtifactError(
            f"{where} holds {_targets(entries)}; {chosen} ({properties.name}) is {properties.target}, which runs none "
            f"of them: add a kernel compiled for it"
        )
    return max(fitting, key=lambda e: (e.level is not Level.PTX, len(e.target.arch), e.target.arch, e.target.suffix))


def _targets(entries: Sequence[Entry]) -> str:
    return ", ".join(str(entry.target) for entry in entries)
