"""A progress bar, on a terminal alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["progress"]


@contextlib.contextmanager
def progress(total: int, what: str, wanted: bool | None) -> Iterator[Callable[[str], None]]:
    """Give a function that is told of each candidate before it is tried.

    Parameters
    ----------
    total : int
    what : str
        What the bar is called.
    wanted : bool, optional
        Left out, a bar is shown where stderr is a terminal and rich is installed.
    """
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield lambda label: None  # noqa: ARG005
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        if wanted:
            raise
        yield lambda label: None  # noqa: ARG005
        return
    columns = (TextColumn("{task.fields[what]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("{task.description}"))  # fmt: skip
    with Progress(*columns, console=Console(stderr=True, force_terminal=wanted), transient=True) as bar:
        task = bar.add_task("", total=total, what=what)
        started = False

        def tell(label: str) -> None:
            nonlocal started
            bar.update(task, description=label, advance=int(started))
            started = True

        yield tell
