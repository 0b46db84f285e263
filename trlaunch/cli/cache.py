"""``trlaunch cache``: what lowering and assembling have left, and where."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from typing import Annotated

import typer

from trlaunch import cache
from trlaunch.cli.exits import reporting
from trlaunch.cli.options import Json
from trlaunch.cli.output import print_json, table

__all__ = ["app"]

app = typer.Typer(help="Show, clear or locate the cache of lowered and assembled kernels.", no_args_is_help=True)

# What failures and MLIR_ENABLE_DUMP leave beside the entries, for people to read.
_KEPT = ("reproducers", "dumps")


@app.command("ls")
def list_entries(as_json: Json = False) -> None:
    """List the entries, oldest first."""
    with reporting(as_json):
        found = cache.entries()
        if as_json:
            print_json(
                {
                    "path": str(cache.path()),
                    "entries": [
                        {"key": e.key, "files": e.names, "bytes": e.nbytes, "modified": e.modified} for e in found
                    ],
                }
            )
            return
        table(
            ("entry", "bytes", "made", "files"),
            [(e.key[:16], e.nbytes, _time(e.modified), " ".join(e.names)) for e in found],
        )
        typer.echo(f"{len(found)} entries, {sum(e.nbytes for e in found):,} bytes in {cache.path()}")


@app.command()
def clear(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what failed compilations and MLIR_ENABLE_DUMP left.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove every entry."""
    with reporting(as_json):
        removed = cache.clear()
        folders = [cache.path() / name for name in _KEPT if everything and (cache.path() / name).is_dir()]
        for folder in folders:
            shutil.rmtree(folder)
        if as_json:
            print_json({"path": str(cache.path()), "removed": removed, "folders": [str(f) for f in folders]})
        else:
            typer.echo(f"{removed} entries removed from {cache.path()}")
            for folder in folders:
                typer.echo(f"removed {folder}")


@app.command()
def path() -> None:
    """Print the cache's folder: TRLAUNCH_CACHE_DIR, else the user's. It need not exist."""
    typer.echo(cache.path())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
