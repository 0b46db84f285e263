"""``trlaunch investigate k.cubin --grid 8,8 --arg ...`` and ``trlaunch investigate -- python train.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trlaunch.arguments import UsageError, parse_argument, parse_grid
from trlaunch.artifact import Artifact
from trlaunch.cli.exits import Exit, reporting
from trlaunch.cli.options import DeviceOption, Json, MetadataOption, NameOption, SignatureOption, split_arguments
from trlaunch.cli.output import print_json
from trlaunch.investigate import Report, investigate_program
from trlaunch.investigate.api import investigate as investigate_launch

__all__ = ["KERNELS", "investigate", "show_report"]

_UNAVAILABLE = ("DeviceUnavailable", "AssemblerMissing")
_CODES = {"ok": Exit.OK, "refused": Exit.REFUSED, "timeout": Exit.FAULT}


def investigate(
    words: Annotated[
        list[str],
        typer.Argument(help="A compiled kernel or a folder of Triton's cache; or a command after --.", metavar="FILE"),
    ],
    grid: Annotated[
        str | None, typer.Option("--grid", "-g", help="CTAs along x, y, z: 8,8. Needed for a FILE.", metavar="X,Y,Z")
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", help="An argument, as for `trlaunch run`. Repeat it.", metavar="KEY=VALUE"),
    ] = None,
    metadata: MetadataOption = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    device: DeviceOption = None,
    shared: Annotated[
        int | None, typer.Option("--shared", min=0, help="Dynamic shared memory in bytes, over the metadata's.")
    ] = None,
    check: Annotated[
        str, typer.Option("--check", help="warn: what the audit finds is evidence; error: it refuses the launch.")
    ] = "warn",
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", "-t", min=0.1, help="Seconds for each run: 60 for a FILE, none for a command."),
    ] = None,
    core: Annotated[
        str, typer.Option("--core", help="The GPU core dump: light, full (with memory) or none.")
    ] = "light",
    witness: Annotated[
        str,
        typer.Option("--witness", help="Ask the emulator, too: auto (if it dies), always (what a GPU hides), never."),
    ] = "auto",
    replay: Annotated[
        bool | None,
        typer.Option(
            "--replay/--once",
            help="Run a command again with each launch waited for; by default where the core dump does not tell.",
        ),
    ] = None,
    kernel_dir: Annotated[
        Path | None,
        typer.Option("--kernel-dir", file_okay=False, help="Compiled kernels of a command; by default Triton's cache."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save", "-o", help="Write a folder with which others can reproduce it.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as one HTML file.")] = None,
    as_json: Json = False,
) -> None:
    """Run a launch, or a whole program, in a process of its own; say what died, where, and why."""
    with reporting(as_json):
        if core not in ("light", "full", "none"):
            raise UsageError(f"--core {core!r}: expected light, full or none")
        if grid is None:
            file = Path(words[0])
            if len(words) == 1 and (file.is_dir() or (file.is_file() and file.suffix in KERNELS)):
                raise UsageError(f"--grid is needed for {file.name}, for example --grid 8,8")
            if arg:
                raise UsageError("--arg is for a FILE with --grid; a command has its own arguments")
            report = investigate_program(
                words, timeout=timeout, core=core, replay=replay, kernel_dir=kernel_dir, echo=not as_json
            )
        else:
            if len(words) != 1:
                raise UsageError(f"one FILE was expected with --grid, found {len(words)}: {' '.join(words)[:60]}")
            path = Path(words[0])
            if not path.exists():
                raise UsageError(f"{str(path)!r} does not exist")
            source = Artifact.from_cache(path, name) if path.is_dir() else Artifact.from_file(path, metadata)
            positional, named = split_arguments([parse_argument(text) for text in arg or ()])
            report = investigate_launch(
                source,
                grid=parse_grid(grid),
                args=positional,
                named=named,
                timeout=60.0 if timeout is None else timeout,
                core=core,
                witness=witness,
                name=name,
                signature=signature,
                device=device,
                shared=shared,
                check=check,
            )
        code = show_report(report, save, html, as_json)
    raise typer.Exit(code)


#: Files that are kernels, and no commands.
KERNELS = (".cubin", ".ptx", ".llir", ".ttgir", ".ttir", ".hsaco", ".amdgcn")


def show_report(report: Report, save: Path | None, html: Path | None, as_json: bool) -> int:
    """Print and write a report; the exit code, which says whether something died."""
    if save is not None:
        report.save(save)
    if html is not None:
        report.html(html)
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(str(report))
        for what, path in (("reproducer", save), ("HTML", html)):
            if path is not None:
                typer.echo(f"{what} written to {path}", err=True)
    died = report.evidence.died
    if report.status == "refused" and died is not None and died.type in _UNAVAILABLE:
        return Exit.UNAVAILABLE
    return _CODES.get(report.status, Exit.FAULT)
