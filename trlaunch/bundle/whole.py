"""Whether what is about to be bundled belongs together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trlaunch.artifact import Level
from trlaunch.bundle.archive import Constant
from trlaunch.check import Report, Subject, audit
from trlaunch.driver import Device, DeviceProperties
from trlaunch.errors import ArgumentError, CheckError

if TYPE_CHECKING:
    from trlaunch.kernel import Kernel

__all__ = ["constants_of", "refuse_torn"]

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


def constants_of(kernel: Kernel, given: Mapping[str, Constant] | None) -> dict[str, Constant]:
    """The constexpr arguments that a kernel was compiled with: those that it knows, and the ones given.

    Raises
    ------
    ArgumentError
        One of those given is no number, text or bool, or names an argument that is passed at each launch.
    """
    passed = dict.fromkeys((p.name or "").partition(".")[0] for p in kernel.signature.user)
    for name, value in (given or {}).items():
        if not isinstance(name, str) or type(value) not in (int, float, str, bool, type(None)):
            raise ArgumentError(f"constants={{{name!r}: {value!r:.60}}}: expected a number, text, bool or None by name")
        if name in passed or name in {p.name for p in kernel.signature.user}:
            raise ArgumentError(
                f"constant {name}={value!r:.60}: expected a constexpr that was compiled into {kernel.name}, found one "
                f"of the arguments that a launch passes ({', '.join(filter(None, passed))}): leave it out"
            )
    return {**kernel.artifact.constants, **(given or {})}
