"""Which checks launches on the emulator run with.

`trlaunch.emulator.check` holds for the process, `trlaunch.emulator.checking` for a block of code of one thread; the
environment variable ``TRLAUNCH_EMULATOR_CHECK`` says what the process begins with. Where ``TRLAUNCH_EMULATOR_REPORT``
names a folder, what is found goes into a file there as well (``trlaunch sanitize`` reads it); with
``TRLAUNCH_EMULATOR_COLLECT=1`` nothing of it is raised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from trlaunch.errors import EmulatorError

if TYPE_CHECKING:
    from trlaunch.emulator.checks import Findings
    from trlaunch.emulator.instruments import Instrument

__all__ = ["CHECKS", "COLLECT", "REPORT", "VARIABLE", "checking", "checks", "parse", "process_wide", "set_process_wide"]

#: What can be checked, and what that is; ``memory`` always is.
CHECKS = {
    "memory": "accesses out of bounds, misaligned, or to read-only arrays",
    "race": "accesses that no barrier orders, copies that nobody waited for",
    "init": "loads of shared memory or of arrays of `trlaunch.empty` that nothing has written",
}
VARIABLE = "TRLAUNCH_EMULATOR_CHECK"
REPORT, COLLECT = "TRLAUNCH_EMULATOR_REPORT", "TRLAUNCH_EMULATOR_COLLECT"

_process_wide: frozenset[str] | None = None
_findings: Findings | None = None
_local: ContextVar[tuple[frozenset[str], Findings | None] | None] = ContextVar("_local", default=None)


def parse(text: str) -> frozenset[str]:
    """Names of checks, separated by commas.

    Raises
    ------
    EmulatorError
        There is no check of a name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()] if isinstance(text, str) else [text]
    for name in names:
        if name not in CHECKS:
            raise EmulatorError(
                f"there is no check {name!r}: expected some of {', '.join(CHECKS)}, separated by commas"
            )
    return frozenset((*names, "memory"))


def process_wide() -> frozenset[str]:
    """The checks of launches outside of every `checking`."""
    global _process_wide
    if _process_wide is None:
        _process_wide = parse(os.environ.get(VARIABLE, "memory"))
    return _process_wide


def set_process_wide(text: str) -> None:
    """Set the checks of launches outside of every `checking`."""
    global _process_wide
    _process_wide = parse(text)


@contextmanager
def checking(*names: str, collect: bool = False) -> Iterator[Findings]:
    """Check the launches of this block of code.

    Parameters
    ----------
    *names : str
        Of ``memory``, ``race``, ``init``; without any, all. They replace `trlaunch.emulator.check`.
    collect : bool
        Do not raise what is found: go on, and have it in the result. A launch that cannot go on (an access out of
        bounds, a deadlock) ends there, without an exception.

    Yields
    ------
    Findings
        How many launches were checked and, with `collect`, what was found, each pair of lines once.

    Raises
    ------
    EmulatorError
        There is no check of a name.
    """
    from trlaunch.emulator.checks import Findings

    findings = Findings(collect=collect)
    token = _local.set((parse(",".join(names or CHECKS)), findings))
    try:
        yield findings
    finally:
        _local.reset(token)


def _reported() -> Findings | None:
    """The findings of the process, where a file is to have them."""
    global _findings
    if _findings is None and os.environ.get(REPORT):
        from trlaunch.emulator.checks import Findings

        _findings = Findings(collect=os.environ.get(COLLECT) == "1", folder=Path(os.environ[REPORT]))
    return _findings


def checks() -> tuple[Instrument, ...]:
    """The instrument of a launch that is to be checked for more than its memory accesses."""
    local = _local.get()
    names, findings = local if local is not None else (process_wide(), _reported())
    if len(names) == 1 and findings is None:
        return ()
    from trlaunch.emulator.checks import instruments

    return instruments(names, findings)
