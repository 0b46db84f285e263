"""``trlaunch lower FILE --to LEVEL``: the same kernel at a later level, by the installed Triton."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from trlaunch.arguments import UsageError
from trlaunch.artifact import Artifact
from trlaunch.cli.exits import reporting
from trlaunch.cli.options import (
    CompileOption,
    Json,
    MetadataOption,
    NameOption,
    TargetOption,
    compile_options,
)
from trlaunch.cli.output import facts, print_json

__all__ = ["lower"]


def lower(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TTIR, TTGIR, LLIR, PTX or AMDGCN text.")],
    to: Annotated[str, typer.Option("--to", help="ttgir, llir, ptx, cubin, amdgcn or hsaco.", metavar="LEVEL")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", file_okay=False, help="Folder of the results; by default that of FILE."),
    ] = None,
    target: TargetOption = None,
    option: CompileOption = None,
    start_after: Annotated[
        str | None, typer.Option("--start-after", help="FILE is the module as this pass left it.", metavar="PASS")
    ] = None,
    all_levels: Annotated[bool, typer.Option("--all", help="Write the levels on the way, too.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Write over files that are there.")] = False,
    metadata: MetadataOption = None,
    name: NameOption = None,
    as_json: Json = False,
) -> None:
    """Lower a kernel to a later level: k.ttgir to k.cubin, with its metadata in k.json."""
    with reporting(as_json):
        from trlaunch.lowering import lower as lowered

        options = compile_options(option)
        source = file if metadata is None else Artifact.from_file(file, metadata)
        made = lowered(source, to, target, options, name=name, start_after=start_after)
        folder = out or file.parent
        levels = {made.level: made.data}
        if all_levels:
            levels |= {level: text for level, text in made.siblings.items() if isinstance(text, bytes)}
        assert made.metadata is not None
        files = {folder / f"{file.stem}.{level}": data for level, data in levels.items()}
        files[folder / f"{file.stem}.json"] = (json.dumps(made.metadata.raw, indent=1) + "\n").encode()
        written = _write(files, file, force)
        if as_json:
            print_json(
                {
                    "kernel": made.metadata.name,
                    "target": str(made.metadata.target),
                    "files": [str(path) for path in written],
                }
            )
        else:
            facts(
                [
                    ("kernel", made.metadata.name),
                    ("target", made.metadata.target),
                    *(("written", path) for path in written),
                ]
            )


def _write(files: dict[Path, bytes], source: Path, force: bool) -> list[Path]:
    """Write the files that differ from what is there; never over the source, and over others only when told to."""
    changed = {path: data for path, data in files.items() if not (path.is_file() and path.read_bytes() == data)}
    over = [path for path in changed if path.exists()]
    if any(path.exists() and path.samefile(source) for path in over):
        raise UsageError(f"{source} would be written over: expected another folder, -o DIR")
    if over and not force:
        raise UsageError(f"{', '.join(path.name for path in over)} in {over[0].parent} would be written over: -f does")
    try:
        for path, data in changed.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
    return list(files)
