"""The debugger: a kernel's launch on the emulator, instruction by instruction."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trlaunch.emulator.debugger.session import Session

if TYPE_CHECKING:
    from trlaunch.kernel import Kernel

__all__ = ["Session", "debug"]


def debug(
    kernel: Kernel,
    grid: int | Sequence[int],
    args: Sequence[Any] = (),
    named: dict[str, Any] | None = None,
    commands: Sequence[str] | None = None,
) -> Session:
    """What `trlaunch.Kernel.debug` does.

    Parameters
    ----------
    kernel : Kernel
    grid : int or sequence of int
    args : sequence
        Arguments in order.
    named : dict, optional
        Arguments by name.
    commands : sequence of str, optional
        Commands to run first; a string may hold several, with semicolons between them. Left out, a prompt on the
        terminal.

    Returns
    -------
    Session
        After the commands, or after the prompt was left.
    """
    from trlaunch.artifact import Level
    from trlaunch.emulator.debugger.prompt import interact, split_commands

    path = kernel.artifact.path
    session = Session(
        lambda: kernel.launch(grid, *args, device="emulator", **(named or {})),
        name=kernel.name,
        signature=kernel.signature,
        folders=[path.parent] if path is not None else [],
        ttir=kernel.code.texts.get(Level.TTIR),
    )
    if commands is None:
        if not sys.stdin.isatty():
            from trlaunch.errors import ArgumentError

            session.close()
            raise ArgumentError("there is no terminal for the prompt: give commands=[...]")
        interact(session)
        return session
    for command in split_commands([commands] if isinstance(commands, str) else commands):
        session.execute(command)
    return session
