"""A line on the terminal while something takes longer than a second."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

__all__ = ["progress"]

_PATIENCE = 1.0  # seconds


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show `title` and the current step on stderr after a second, where it is a terminal; gone when done.

    Yields
    ------
    callable
        Takes the name of the step that begins.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    step, done = [""], threading.Event()

    def show() -> None:
        if done.wait(_PATIENCE):
            return
        terminal = sys.__stderr__ or sys.stderr
        while True:
            terminal.write(f"\r\x1b[K{title}: {step[0]} ...")
            terminal.flush()
            if done.wait(0.2):
                break
        terminal.write("\r\x1b[K")
        terminal.flush()

    thread = threading.Thread(target=show, name="trlaunch progress", daemon=True)
    thread.start()
    try:
        yield lambda name: step.__setitem__(0, name)
    finally:
        done.set()
        thread.join()
