"""Exit codes, and how an error reaches the user: one block on stderr, never a traceback."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer

from trlaunch.arguments import UsageError
from trlaunch.errors import (
    AssemblerError,
    AssemblerMissing,
    CheckError,
    DeviceUnavailable,
    DriverError,
    Fault,
    LoweringError,
    TrlaunchError,
)

__all__ = ["Exit", "exit_code", "reporting"]


class Exit(IntEnum):
    """What ``trlaunch`` exits with."""

    OK = 0
    #: The file, its metadata, an argument or the check says that this cannot run.
    REFUSED = 1
    #: The command line is not understood, or a file it names cannot be read or written.
    USAGE = 2
    #: No such device, or a package or tool that is needed is not installed.
    UNAVAILABLE = 3
    #: The kernel died, or a call of the driver failed.
    FAULT = 4


# First match wins.
_CODES: tuple[tuple[type[Exception], Exit], ...] = (
    (UsageError, Exit.USAGE),
    (DeviceUnavailable, Exit.UNAVAILABLE),
    (AssemblerMissing, Exit.UNAVAILABLE),
    (Fault, Exit.FAULT),
    (DriverError, Exit.FAULT),
    (TrlaunchError, Exit.REFUSED),
)


def exit_code(error: TrlaunchError) -> Exit:
    """The exit code that stands for an error."""
    if isinstance(error, LoweringError) and error.stage == "install":
        return Exit.UNAVAILABLE
    return next(code for kind, code in _CODES if isinstance(error, kind))


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn errors into one block on stderr and an exit code, and warnings into notes there.

    With `as_json`, the error is on stdout as well: ``{"error": {"type", "message", "exit_code", ...}}``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _Notes()
        try:
            yield
        except TrlaunchError as error:
            code = exit_code(error)
            if as_json:
                typer.echo(json.dumps({"error": _describe(error, code)}, indent=2))
            typer.echo(f"{type(error).__name__}: {error}{_log(error)}", err=True)
            raise typer.Exit(code) from None


class _Notes:
    """Writes each warning once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, message: Warning | str, *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in self._seen:
            self._seen.add(text)
            sys.stderr.write(f"note: {text}\n")


def _log(error: TrlaunchError) -> str:
    log = error.log.strip() if isinstance(error, (AssemblerError, LoweringError)) else ""
    return "" if not log or log in str(error) else "\n" + "\n".join(f"  {line}" for line in log.splitlines())


def _describe(error: TrlaunchError, code: Exit) -> dict[str, Any]:
    described: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "exit_code": int(code)}
    if isinstance(error, CheckError):
        described["report"] = error.report.to_dict()
    if isinstance(error, DriverError):
        described |= {"call": error.call, "code": error.code, "name": error.name}
    if isinstance(error, LoweringError):
        described |= {"stage": error.stage, "pass_name": error.pass_name}
        described["reproducer"] = None if error.reproducer is None else str(error.reproducer)
    if isinstance(error, Fault):
        described |= {key: getattr(error, key) for key in ("kind", "cta", "thread", "address", "ptx_line", "source")}
    return described
