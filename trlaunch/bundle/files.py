"""Bundles as files: kernels written to a ``.trk``, and read back as artifacts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trlaunch.artifact import Artifact, Level
from trlaunch.bundle.archive import Constant, Entry, decode, encode
from trlaunch.bundle.choice import choose
from trlaunch.bundle.whole import constants_of, refuse_torn
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError, ArtifactError
from trlaunch.metadata import Metadata
from trlaunch.signature import Slot, Source
from trlaunch.target import Target

if TYPE_CHECKING:
    from trlaunch.kernel import Kernel

__all__ = ["Bundle", "artifact_of", "entry_of", "load", "save"]

_TEXTS = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX, Level.AMDGCN)

_SOURCE = "bundle"  # what a signature calls where it is from


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a ``.trk`` file holds.

    Attributes
    ----------
    path : pathlib.Path or None
    entries : tuple of Entry
        One a target.
    """

    path: Path | None
    entries: tuple[Entry, ...]

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return self.path.name if self.path else "the bundle"

    def artifact(self, device: str | Device | None = None, target: str | Target | None = None) -> Artifact:
        """What `Kernel` is made from: the entry for a target, where one is given, else for a device (`choose`).

        Raises
        ------
        ArtifactError
            There is none.
        """
        if target is None:
            return artifact_of(choose(self.entries, device, self.label), self.path)
        for entry in self.entries:
            if str(entry.target) == str(Target.parse(target) if isinstance(target, str) else target):
                return artifact_of(entry, self.path)
        held = ", ".join(str(entry.target) for entry in self.entries)
        raise ArtifactError(f"target={str(target)!r}: expected one of the targets that {self.label} holds, {held}")

    def artifacts(self) -> tuple[Artifact, ...]:
        """All of them, in the order of the file."""
        return tuple(artifact_of(entry, self.path) for entry in self.entries)


def load(path: str | Path) -> Bundle:
    """Read a ``.trk`` file.

    Raises
    ------
    ArtifactError
        It cannot be read, is no bundle, was cut short or edited.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    return Bundle(path, decode(data, path.name))


def save(
    path: str | Path,
    kernels: Kernel | Sequence[Kernel],
    *,
    texts: bool = False,
    constants: Mapping[str, Constant] | None = None,
) -> Path:
    """Write a kernel, or one kernel compiled for several targets, to one file.

    The file is written under a temporary name and renamed: whoever reads it finds the old content or the new.

    Parameters
    ----------
    path : path
        By custom it ends in ``.trk``.
    kernels : Kernel or sequence of Kernel
        Made from any level; what is written is the cubin, the hsaco or the PTX that they came to.
    texts : bool
        Take the text levels along that are beside the binary; those of a bundle stay in it. The emulator executes the
        PTX among them, and the audit compares the shared memory of the TTGIR.
    constants : mapping, optional
        The constexpr arguments that were compiled in, for people and for the grids of `trlaunch.autotune`; no file of
        Triton's has them.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    ArtifactError
        Two kernels are for the same target or of different names, or the file cannot be written.
    CheckError
        Binary, metadata and text levels are not of one compilation.
    ArgumentError
        A constant is no number, text or bool, or names an argument of the launch.
    """
    path = Path(path)
    given = (kernels,) if not isinstance(kernels, Sequence) else tuple(kernels)
    data = encode([entry_of(kernel, texts=texts, constants=constants) for kernel in given])
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ArtifactError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def entry_of(kernel: Kernel, *, texts: bool = False, constants: Mapping[str, Constant] | None = None) -> Entry:
    """A kernel as an entry; what it was given beside its files (name, shared memory, types) is written, too."""
    if kernel._captures is not None:
        raise ArgumentError(f"{kernel.name} captures dumps: save the kernel without dump=")
    refuse_torn(kernel)
    ready = kernel.code.ready
    beside: dict[Level, bytes] = {}
    stated = kernel.artifact.parameters
    for level in _TEXTS if texts or (stated is not None and stated.label == _SOURCE) else ():
        sibling = ready.sibling(level) if level is not ready.level else None
        if sibling is not None:
            beside[level] = sibling.data
    known = constants_of(kernel, constants)
    parameters = tuple(Slot(p.name, p.type, p.size, p.divisibility, p.signless) for p in kernel.signature.user)
    return Entry(kernel.name, kernel.target, ready.level, ready.data, _metadata(kernel), parameters, known, beside)


def artifact_of(entry: Entry, path: Path | None = None) -> Artifact:
    """An entry as the artifact that a kernel is made from."""
    return Artifact(
        entry.level,
        entry.data,
        path,
        entry.metadata or Metadata.from_dict({"name": entry.kernel}),
        dict(entry.texts),
        Source(_SOURCE, entry.parameters, False),
        dict(entry.constants),
    )


def _metadata(kernel: Kernel) -> Metadata:
    """The metadata with the settings that the kernel was given over it."""
    raw = dict(kernel.metadata.raw) if kernel.metadata is not None else {}
    over: dict[str, Any] = {}
    if kernel.metadata is None or kernel.metadata.name is None:
        over["name"] = kernel.name
    if kernel._given_shared is not None:
        over["shared"] = kernel._given_shared
    return kernel.metadata if kernel.metadata is not None and not over else Metadata.from_dict({**raw, **over})
