"""The debugger: a kernel's launch on the emulator, instruction by instruction."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trlaunch.emulator.debugger.engine import Stop
from trlaunch.emulator.debugger.lines import Frame
from trlaunch.emulator.debugger.session import Session

if TYPE_CHECKING:
    from trlaunch.kernel import Kernel

__all__ = ["Frame", "Session", "Stop", "debug", "open_session"]


def open_session(
    kernel: Kernel, grid: int | Sequence[int], args: Sequence[Any] = (), named: Mapping[str, Any] | None = None
) -> Session:
    """A session that stands before the first instruction of a launch."""
    from trlaunch.artifact import Level

    path = kernel.artifact.path
    return Session(
        lambda: kernel.launch(grid, *args, device="emulator", **(named or {})),
        name=kernel.name,
        signature=kernel.signature,
        folders=[path.parent] if path is not None else [],
        ttir=kernel.code.texts.get(Level.TTIR),
    )


def debug(
    kernel: Kernel,
    grid: int | Sequence[int],
    args: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    commands: Sequence[str] | None = None,
) -> Session:
    """What `trlaunch.Kernel.debug` does.

    Parameters
    ----------
    kernel : Kernel
    grid : int or sequence of int
    args : sequence
        Arguments in order.
    named : mapping, optional
        Arguments by name.
    commands : sequence of str, optional
        Commands to run first; a string may hold several, with semicolons between them. Left out, a prompt on the
        terminal.

    Returns
    -------
    Session
        After the commands; after the prompt, which ends the launch when it is left.

    Raises
    ------
    ArgumentError
        An argument does not fit its parameter, or there is no terminal for a prompt.
    EmulatorError, UnsupportedInstruction, CheckError
        As a launch on the emulator. A fault is not raised: the session stands where it happened.
    """
    from trlaunch.emulator.debugger.prompt import interact, split_commands
    from trlaunch.errors import ArgumentError

    if commands is None and not sys.stdin.isatty():
        raise ArgumentError("there is no terminal for the prompt: give commands=[...]")
    session = open_session(kernel, grid, args, named)
    if commands is None:
        interact(session)
        return session
    for command in split_commands([commands] if isinstance(commands, str) else commands):
        session.execute(command)
    return session
