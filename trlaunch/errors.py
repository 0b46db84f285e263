"""The exceptions trlaunch raises; every one says what was expected, what was found and what to do."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from trlaunch.check import Report
    from trlaunch.tuning.report import Report as TuningReport

__all__ = [
    "ArgumentError",
    "ArtifactError",
    "AssemblerError",
    "AssemblerMissing",
    "CheckError",
    "CheckWarning",
    "CoreDumpError",
    "DeviceUnavailable",
    "DriverError",
    "EmulatorError",
    "FallbackWarning",
    "Fault",
    "ImageError",
    "LoweringError",
    "MetadataError",
    "SignatureError",
    "TrlaunchError",
    "TuningError",
    "UnsupportedInstruction",
    "warn",
]


class TrlaunchError(Exception):
    """Base of every exception that trlaunch raises on purpose."""


class ArtifactError(TrlaunchError):
    """A file is not what it was taken for: unknown level, unreadable, or its sibling is missing."""


class MetadataError(TrlaunchError):
    """Triton's metadata JSON is missing, malformed, or lacks a field that the launch needs."""


class ImageError(TrlaunchError):
    """A binary (or a PTX module standing for one) cannot be read, or lacks the kernel asked for."""


class CoreDumpError(TrlaunchError):
    """A GPU core dump cannot be read: it is something else, cut off, or its tables contradict each other."""


class SignatureError(TrlaunchError):
    """The sources of a kernel's parameters are missing or contradict each other."""


class ArgumentError(TrlaunchError, TypeError):
    """An argument of a launch does not fit its parameter."""


class CheckError(TrlaunchError):
    """A launch was refused before the driver was called.

    Attributes
    ----------
    report : trlaunch.check.Report
        Every finding of the audit, the errors among them.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


class DeviceUnavailable(TrlaunchError):
    """No usable device: a library is missing, no device answers, or the ordinal does not exist."""


class DriverError(TrlaunchError):
    """A driver call returned an error.

    Attributes
    ----------
    call : str
        The driver function, for example ``cuLaunchKernelEx``.
    code : int
        The numeric status.
    name : str
        The status by name, for example ``CUDA_ERROR_INVALID_VALUE``.
    """

    def __init__(self, message: str, *, call: str, code: int, name: str) -> None:
        super().__init__(message)
        self.call = call
        self.code = code
        self.name = name


class AssemblerError(TrlaunchError):
    """An assembler (ptxas, the driver's compiler) is missing or rejected its input.

    Attributes
    ----------
    log : str
        What the assembler printed.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class AssemblerMissing(AssemblerError):
    """No assembler is at hand, or none of those at hand suits; something else (the driver) may still do the work."""


class LoweringError(TrlaunchError):
    """A level could not be lowered: no compiler, text of another release, or the compiler failed.

    Attributes
    ----------
    stage : str
        Where: ``"install"``, ``"options"``, ``"parse"``, ``"ttgir"``, ``"ptx"``, ...
    pass_name : str or None
        The compiler pass, where it is known.
    log : str
        What the compiler printed.
    reproducer : pathlib.Path or None
        Folder with the input and the options, to run the failure again.
    before : str or None
        The module before the pass that failed.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: str,
        pass_name: str | None = None,
        log: str = "",
        reproducer: Path | None = None,
        before: str | None = None,
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.pass_name = pass_name
        self.log = log
        self.reproducer = reproducer
        self.before = before


class EmulatorError(TrlaunchError):
    """PTX that the emulator cannot read."""


class UnsupportedInstruction(EmulatorError):
    """PTX that the emulator can read but not execute; raised at load, with the line."""


class Fault(TrlaunchError):
    """A kernel died while it ran on the emulator.

    Attributes
    ----------
    kind : str
        ``out-of-bounds``, ``misaligned``, ``uninitialised``, ``deadlock``, ``trap``, ...
    cta, thread : tuple of int or None
        Block and thread index of the first faulting lane.
    address : int or None
        The address that was accessed.
    ptx_line : int or None
        1-based line in the PTX text.
    source : str or None
        ``file.py:line`` of the Python source, where the PTX carries ``.loc`` lines.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        cta: tuple[int, int, int] | None = None,
        thread: tuple[int, int, int] | None = None,
        address: int | None = None,
        ptx_line: int | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.cta = cta
        self.thread = thread
        self.address = address
        self.ptx_line = ptx_line
        self.source = source


class TuningError(TrlaunchError):
    """An autotuner has no candidate that runs and gives the right results.

    Attributes
    ----------
    report : trlaunch.tuning.report.Report or None
        What became of each.
    """

    def __init__(self, message: str, report: TuningReport | None) -> None:
        super().__init__(message)
        self.report = report


class CheckWarning(UserWarning):
    """An error of the audit before a launch, lowered to a warning by ``check="warn"``."""


class FallbackWarning(UserWarning):
    """Something else than what was asked for is used, for example the emulator where there is no GPU."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into trlaunch, however deep the reason was found."""
    package = __file__.removesuffix("errors.py")
    level, frame = 2, sys._getframe(1)  # 1 is the line below
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
