"""The emulator: runs PTX on the CPU, and finds what is wrong with a kernel.

``trlaunch.emulator.check`` names what launches are checked for, of ``memory`` (always), ``race`` and ``init``:

>>> import trlaunch.emulator
>>> trlaunch.emulator.check = "race,init"
>>> trlaunch.emulator.check
'memory,race,init'
>>> trlaunch.emulator.check = "memory"
"""

from __future__ import annotations

import sys
from types import ModuleType

from trlaunch.emulator import settings
from trlaunch.emulator.settings import checking

__all__ = ["checking"]


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
