"""``trlaunch check FILE``: the audit that comes before every first launch, without the launch."""

from __future__ import annotations

from typing import Annotated

import typer

from trlaunch.arguments import parse_grid
from trlaunch.cli.exits import Exit, reporting
from trlaunch.cli.options import DeviceOption, File, Json, MetadataOption, NameOption, SignatureOption, open_kernel
from trlaunch.cli.output import print_json

__all__ = ["check"]


def check(
    file: File,
    grid: Annotated[str | None, typer.Option("--grid", "-g", help="CTAs along x, y, z: 8,8.", metavar="X,Y,Z")] = None,
    metadata: MetadataOption = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    device: DeviceOption = None,
    as_json: Json = False,
) -> None:
    """Say whether a kernel can be launched: its binary against its metadata, the grid and the device."""
    with reporting(as_json):
        sizes = None if grid is None else parse_grid(grid)
        kernel = open_kernel(file, metadata, name, signature, device)
        report = kernel.check(sizes)
        if as_json:
            print_json({"kernel": kernel.name, **report.to_dict()})
        else:
            typer.echo(str(report))
        if not report.ok:
            raise typer.Exit(Exit.REFUSED)
