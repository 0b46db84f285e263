"""``trlaunch map FILE --grid 8,8 --arg ...``: which memory a kernel touches, how often, and how well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trlaunch.arguments import UsageError, parse_argument, parse_grid
from trlaunch.cli.exits import reporting
from trlaunch.cli.materialise import ArgOption, GridOption, in_order, materialise
from trlaunch.cli.options import File, Json, MetadataOption, NameOption, SignatureOption, open_kernel
from trlaunch.cli.output import print_json

__all__ = ["map_"]


def map_(
    file: File,
    grid: GridOption,
    arg: ArgOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            file_okay=False,
            help="Draw heat maps to this folder, a PNG for each argument and one of the instructions.",
            metavar="FOLDER",
        ),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", "-o", help="Write the counts of each element.", metavar="NPZ")
    ] = None,
    metadata: MetadataOption = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    as_json: Json = False,
) -> None:
    """Launch a kernel on the emulator, and count its reads, writes, sectors and bank conflicts."""
    from trlaunch.emulator.memory_maps import memory_map

    with reporting(as_json):
        sizes = parse_grid(grid)
        specs = [parse_argument(text) for text in arg or ()]
        if save is not None and not save.parent.is_dir():
            raise UsageError(f"--save {str(save)!r}: there is no folder {str(save.parent)!r}")
        kernel = open_kernel(file, metadata, name, signature, "emulator")
        positional, named = in_order(materialise(kernel, specs, kernel.device))
        with memory_map() as seen:
            kernel.launch(sizes, *positional, device="emulator", **named)
        if not seen.launches:
            raise UsageError(f"--grid {grid}: a grid of no programs touches nothing")
        found = seen.last
        written = [] if save is None else [found.save(save)]
        if plot is not None:
            written += found.plot(plot)
        if as_json:
            print_json({**found.to_dict(), "files": [str(path) for path in written]})
            return
        typer.echo(found.table())
        for path in written:
            typer.echo(f"wrote {path}")
