"""What may look at launches while they run: a debugger, traces, memory maps, checks.

An instrument is installed for a block of code of one thread (or task); every launch there asks it in. Launches without
one pay for a look at a context variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trlaunch.driver import LaunchConfig, PackedArguments
    from trlaunch.emulator.program import Program
    from trlaunch.emulator.scheduler import Scheduler
    from trlaunch.errors import Fault

__all__ = ["Instrument", "install", "installed"]


class Instrument:
    """Looks at launches; a subclass says at what.

    Attributes
    ----------
    stepping : bool
        The program is compiled so that every instruction is a block and every register can be read between two.
    observes : bool
        It is a `trlaunch.emulator.observer.Observer`, which sees accesses and synchronisation.
    """

    stepping = False
    observes = False
    #: Whether a launch that died returns all the same: its fault was taken down in `failed`.
    forgives = False

    def most_lanes(self, program: Program, config: LaunchConfig) -> int | None:  # noqa: ARG002
        """Threads that should run in lockstep at most; ``None`` leaves it to the driver."""
        return None

    def begin(self, program: Program, config: LaunchConfig, arguments: PackedArguments) -> None:
        """A launch begins."""

    def attach(self, scheduler: Scheduler) -> None:
        """A chunk of CTAs is about to run; `Scheduler.functions` may be replaced."""

    def detach(self, scheduler: Scheduler) -> None:
        """A chunk of CTAs has run to its end."""

    def failed(self, scheduler: Scheduler, fault: Fault) -> None:
        """A chunk of CTAs died; its state is as it was then."""

    def end(self) -> None:
        """The launch is over, whether or not it went well."""


_installed: ContextVar[tuple[Instrument, ...]] = ContextVar("_installed", default=())


def installed() -> tuple[Instrument, ...]:
    """The instruments of the calling thread, in the order they were installed."""
    return _installed.get()


@contextmanager
def install(instrument: Instrument) -> Iterator[None]:
    """Have an instrument look at the launches of this block of code."""
    token = _installed.set((*_installed.get(), instrument))
    try:
        yield
    finally:
        _installed.reset(token)
