"""Investigate: what a kernel died of, at which line, with which operands, and what to try.

The module is a function as well: ``trlaunch.investigate("k.cubin", grid=(8, 8), args=[...])`` is
`trlaunch.investigate.api.investigate`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trlaunch.investigate.api import investigate_trial, launch_here
    from trlaunch.investigate.cause import Cause
    from trlaunch.investigate.evidence import Evidence, Line, Site
    from trlaunch.investigate.isolation import run
    from trlaunch.investigate.program import investigate_program
    from trlaunch.investigate.report import Report
    from trlaunch.investigate.trial import STATUSES, Launched, Outcome, Trial

__all__ = [
    "STATUSES",
    "Cause",
    "Evidence",
    "Launched",
    "Line",
    "Outcome",
    "Report",
    "Site",
    "Trial",
    "investigate_program",
    "investigate_trial",
    "launch_here",
    "run",
]

_HOME = {
    "investigate_trial": "api",
    "launch_here": "api",
    "Cause": "cause",
    "Evidence": "evidence",
    "Line": "evidence",
    "Site": "evidence",
    "run": "isolation",
    "investigate_program": "program",
    "Report": "report",
    "STATUSES": "trial",
    "Launched": "trial",
    "Outcome": "trial",
    "Trial": "trial",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


class _Callable(ModuleType):
    """A module that is the function it is named for, too."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        """As `trlaunch.investigate.api.investigate`."""
        from trlaunch.investigate.api import investigate

        return investigate(*args, **named)


sys.modules[__name__].__class__ = _Callable
investigate = sys.modules[__name__]
