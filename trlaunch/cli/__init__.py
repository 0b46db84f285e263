"""The ``trlaunch`` command: one module a subcommand."""

from __future__ import annotations

from typing import Annotated

import typer

import trlaunch
from trlaunch.cli.bisect import app as bisect
from trlaunch.cli.bundle import bundle
from trlaunch.cli.cache import app as cache
from trlaunch.cli.check import check
from trlaunch.cli.coredump import coredump
from trlaunch.cli.debug import debug
from trlaunch.cli.diff import diff
from trlaunch.cli.inspect import inspect
from trlaunch.cli.investigate import investigate
from trlaunch.cli.lower import lower
from trlaunch.cli.map import map_
from trlaunch.cli.passes import passes
from trlaunch.cli.run import run
from trlaunch.cli.sanitize import sanitize
from trlaunch.cli.tune import tune
from trlaunch.cli.values import values

__all__ = ["app"]

app = typer.Typer(
    name="trlaunch",
    help="Run Triton-compiled GPU kernels straight through the driver API.",
    epilog="Exit codes: 0 done, 1 refused, 2 usage, 3 device or package unavailable, 4 fault or driver error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from trlaunch.launching import MODE

        typer.echo(f"trlaunch {trlaunch.__version__} (launches: {MODE})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(inspect)
app.command()(check)
app.command()(run)
app.command()(investigate)
app.command(context_settings={"ignore_unknown_options": True})(sanitize)
app.command()(lower)
app.command()(bundle)
app.command()(tune)
app.command()(diff)
app.add_typer(bisect, name="bisect")
app.add_typer(cache, name="cache")
app.command()(values)
app.command()(passes)
app.command()(coredump)
app.command()(debug)
app.command(name="map")(map_)
