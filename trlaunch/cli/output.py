"""Tables for people and JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["facts", "print_json", "table"]


def print_json(value: Any) -> None:
    """Write a JSON document to stdout."""
    typer.echo(json.dumps(value, indent=2, default=str))


def facts(rows: Iterable[tuple[str, Any]]) -> None:
    """Print ``name  value`` lines; rows without a value are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value is not None and value != "":
            grid.add_row(Text(name), Text(str(value)))
    Console().print(grid)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; columns of which every value is ``None`` are left out."""
    cells = [list(row) for row in rows]
    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in cells)]
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i in kept:
        numeric = all(isinstance(row[i], (int, float)) or row[i] is None for row in cells)
        shown.add_column(columns[i], justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        shown.add_row(*(Text("" if row[i] is None else str(row[i])) for i in kept))
    Console().print(shown)
