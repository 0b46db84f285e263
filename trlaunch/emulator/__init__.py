"""The emulator: runs PTX on the CPU, and finds what is wrong with a kernel.

``trlaunch.emulator.check`` names what launches are checked for, of ``memory`` (always), ``race`` and ``init``:

>>> import trlaunch.emulator
>>> trlaunch.emulator.check = "race,init"
>>> trlaunch.emulator.check
'memory,race,init'
>>> trlaunch.emulator.check = "memory"

`trace` records what registers hold, `memory_map` counts what arrays are touched by; both are context managers.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trlaunch.emulator import settings
from trlaunch.emulator.settings import checking

if TYPE_CHECKING:
    from trlaunch.emulator.memory_maps import memory_map
    from trlaunch.emulator.tracing import trace

    check: str

__all__ = ["checking", "memory_map", "trace"]

_LAZY = {"memory_map": "memory_maps", "trace": "tracing"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"trlaunch.emulator.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'trlaunch.emulator' has no attribute {name!r}")


class _Emulator(ModuleType):
    """The package, whose `check` is looked at when it is set."""

    @property
    def check(self) -> str:
        """What launches are checked for outside of every `checking`, separated by commas."""
        return ",".join(name for name in settings.CHECKS if name in settings.process_wide())

    @check.setter
    def check(self, text: str) -> None:
        settings.set_process_wide(text)


sys.modules[__name__].__class__ = _Emulator
