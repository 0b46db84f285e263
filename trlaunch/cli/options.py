"""Options that several commands share, and how they become a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import trlaunch

__all__ = ["DeviceOption", "File", "Json", "MetadataOption", "NameOption", "SignatureOption", "open_kernel"]

File = Annotated[
    Path,
    typer.Argument(exists=True, help="A compiled kernel (cubin, PTX, ...), or a folder of Triton's cache."),
]
MetadataOption = Annotated[
    Path | None,
    typer.Option(
        "--metadata", "-m", exists=True, dir_okay=False, help="Triton's JSON; by default the one beside FILE."
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="The kernel, where FILE holds several.", show_default=False)
]
SignatureOption = Annotated[
    str | None,
    typer.Option(
        "--signature",
        help='Types of the arguments, where no text level states them: "*fp32,*fp32,i32".',
        metavar="TYPES",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", "-d", help="cuda, cuda:1, hip or emulator; by default the GPU, else the emulator."),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of tables.")]


def open_kernel(
    file: Path,
    metadata: Path | None,
    name: str | None,
    signature: str | None,
    device: str | None,
    dump: Sequence[trlaunch.At] = (),
) -> trlaunch.Kernel:
    """The kernel that the shared options name."""
    wanted = tuple(dump) or None
    if file.is_dir():
        return trlaunch.Kernel.from_cache(file, name=name, signature=signature, device=device, dump=wanted)
    return trlaunch.Kernel.from_file(file, metadata, name=name, signature=signature, device=device, dump=wanted)
