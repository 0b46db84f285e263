"""Whether what is about to be bundled belongs together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trlaunch.artifact import Level
from trlaunch.check import Report, Subject, audit
from trlaunch.driver import Device, DeviceProperties
from trlaunch.errors import CheckError

if TYPE_CHECKING:
    from trlaunch.kernel import Kernel

__all__ = ["refuse_torn"]

_SHARED = 1 << 20
"""Shared memory of a device that is not asked: more than any has, so that only the files are judged."""


def refuse_torn(kernel: Kernel) -> None:
    """Audit binary, metadata and signature against each other, as for a device of the kernel's own target.

    Raises
    ------
    CheckError
        They are not of one compilation, or lack what a launch needs (unless the kernel has ``check="warn"``).
    """
    target, path = kernel.image.target, kernel.artifact.path
    device = DeviceProperties(
        Device(target.backend),
        f"a device of {target}",
        target,
        max_shared=_SHARED,
        max_shared_optin=_SHARED,
        supports_clusters=True,
    )
    subject = Subject(
        image=kernel.image,
        entry=kernel.entry,
        source_target=target,
        metadata=kernel.metadata,
        signature=kernel.signature,
        device=device,
        shared=kernel.shared,
        shared_given=kernel._given_shared is not None,
        threads=kernel.threads,
        ttgir=kernel.code.texts.get(Level.TTGIR),
        stem=path.stem if path else None,
        folder=path.parent.name if path else None,
        driver_compiles=False,
    )
    report = Report(f"{kernel.name} ({kernel.image.format}, {target})", audit(subject))
    if not report.ok and kernel._check == "error":
        reasons = "; ".join(f"{f.rule}: {f.message}" + (f"; {f.hint}" if f.hint else "") for f in report.errors)
        raise CheckError(f"{kernel.name} is not bundled, its files do not belong together: {reasons}", report)
