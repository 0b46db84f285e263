"""``trlaunch bundle FILE -o OUT``: a kernel in one file, or as a C header."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import trlaunch
from trlaunch.arguments import UsageError
from trlaunch.artifact import BUNDLE_MAGIC
from trlaunch.bundle import header, load, save
from trlaunch.cli.exits import reporting
from trlaunch.cli.options import Json, NameOption, SignatureOption, compile_options
from trlaunch.cli.output import print_json

__all__ = ["bundle"]

_HEADERS = (".h", ".hh", ".hpp", ".hxx")


def bundle(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            help="A compiled kernel (cubin, hsaco, PTX, .trk) or a folder of Triton's cache, its JSON behind it where "
            "that is not beside it. Several, one a target, for a .trk.",
            metavar="FILE [JSON] ...",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--out", "-o", help="FILE.trk, or FILE.h for C and C++.", dir_okay=False, metavar="FILE")
    ],
    name: NameOption = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Of a .trk with several targets this one: cuda:90a.", metavar="TARGET"),
    ] = None,
    signature: SignatureOption = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Take the text levels beside the binary along: the emulator runs the PTX.")
    ] = False,
    constant: Annotated[
        list[str] | None,
        typer.Option("--constant", "-c", help="A constexpr that was compiled in: BLOCK=1024.", metavar="NAME=VALUE"),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="What the header's names begin with; by default the kernel's name.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write binary, metadata and signature to one file: a .trk for trlaunch, a .h for programs without Python."""
    with reporting(as_json):
        constants = compile_options(constant, "--constant")
        is_header = output.suffix in _HEADERS
        if not is_header and output.suffix != ".trk":
            raise UsageError(f"--out {str(output)!r}: expected a name that ends in .trk, {', '.join(_HEADERS)}")
        if output.exists() and not force:
            raise UsageError(f"{str(output)!r} is there already: --force writes over it")
        if not output.parent.is_dir():
            raise UsageError(f"--out {str(output)!r}: there is no folder {str(output.parent)!r}")
        kernels = [k for file, metadata in _pairs(files) for k in _open(file, metadata, name, signature)]
        if target is not None:
            held = [str(kernel.target) for kernel in kernels]
            kernels = [kernel for kernel in kernels if str(kernel.target) == target]
            if not kernels:
                raise UsageError(f"--target {target!r}: expected one of {', '.join(held)}")
        if is_header and len(kernels) > 1 and len(files) == 1:
            held = [str(kernel.target) for kernel in kernels]
            raise UsageError(f"{files[0].name} holds {', '.join(held)}: a header takes one; choose it with --target")
        if is_header and len(kernels) > 1:
            raise UsageError(f"{len(kernels)} kernels were given: a header takes one; write one for each")
        if is_header and texts:
            raise UsageError("--texts is for a .trk: a header takes the binary alone")
        if not is_header and prefix is not None:
            raise UsageError("--prefix is for a header: a .trk has no names in it but the kernel's")
        if is_header:
            _write(output, header(kernels[0], prefix=prefix, constants=constants))
        else:
            save(output, kernels, texts=texts, constants=constants)
        described: dict[str, Any] = {
            "file": str(output),
            "kernel": kernels[0].name,
            "targets": [str(kernel.target) for kernel in kernels],
            "bytes": output.stat().st_size,
        }
        if as_json:
            print_json(described)
        else:
            typer.echo(
                f"{output}: {described['kernel']} for {', '.join(described['targets'])}, {described['bytes']:,} bytes"
            )


def _pairs(files: Sequence[Path]) -> list[tuple[Path, Path | None]]:
    """Each file with the JSON that stands behind it."""
    pairs: list[tuple[Path, Path | None]] = []
    for file in files:
        if file.suffix != ".json":
            pairs.append((file, None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], file)
        else:
            raise UsageError(f"{str(file)!r}: expected the binary that this JSON belongs to before it")
    return pairs


def _open(file: Path, metadata: Path | None, name: str | None, signature: str | None) -> list[trlaunch.Kernel]:
    """The kernel of a file, or those of a bundle, one a target."""
    if file.is_dir():
        return [trlaunch.Kernel.from_cache(file, name=name, signature=signature)]
    if metadata is None and _is_bundle(file):
        return [trlaunch.Kernel(artifact, name=name, signature=signature) for artifact in load(file).artifacts()]
    return [trlaunch.Kernel.from_file(file, metadata, name=name, signature=signature)]


def _is_bundle(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(BUNDLE_MAGIC)) == BUNDLE_MAGIC
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be read: {error.strerror or error}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"--out {str(path)!r}: {error.strerror or error}") from None
