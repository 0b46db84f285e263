"""Work in a process of its own: Triton's compiler ends in an abort where others raise."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["PATIENCE", "in_process", "silenced"]

PATIENCE = 120.0  # seconds


def in_process(work: Callable[[], Any], patience: float = PATIENCE) -> tuple[str, Any]:
    """Do some work in a fork.

    Returns
    -------
    tuple
        ``("done", value)``, ``("error", message)``, ``("died", how)`` or ``("stuck", seconds)``.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            outcome: tuple[str, Any] = ("done", work())
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the result
            outcome = ("error", f"{type(error).__name__}: {error}")
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
    os.close(write)
    data, end = b"", time.monotonic() + patience
    with os.fdopen(read, "rb") as pipe:
        while select.select([pipe], [], [], max(end - time.monotonic(), 0))[0]:
            chunk = os.read(pipe.fileno(), 1 << 20)
            if not chunk:
                break
            data += chunk
        else:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        killed = os.WTERMSIG(status)
        return ("stuck", patience) if killed == signal.SIGKILL else ("died", signal.Signals(killed).name)
    # A fatal error of LLVM's ends the process by exit(1).
    return pickle.loads(data) if data else ("died", f"exit {os.waitstatus_to_exitcode(status)}")


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep what MLIR prints before it aborts off the terminal."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
