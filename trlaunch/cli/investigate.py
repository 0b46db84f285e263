"""``trlaunch investigate k.cubin --grid 8,8 --arg ...`` and ``trlaunch investigate -- python train.py``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from trlaunch.arguments import UsageError, parse_argument, parse_grid
from trlaunch.artifact import Artifact
from trlaunch.cli.exits import Exit, exit_code, reporting
from trlaunch.cli.options import DeviceOption, Json, MetadataOption, NameOption, SignatureOption, split_arguments
from trlaunch.cli.output import print_json
from trlaunch.errors import ArgumentError, TrlaunchError
from trlaunch.investigate import Report, investigate_program
from trlaunch.investigate.api import WITNESS
from trlaunch.investigate.api import investigate as investigate_launch

__all__ = ["KERNELS", "investigate", "show_report"]

_UNAVAILABLE = ("DeviceUnavailable", "AssemblerMissing")
_CODES = {"ok": Exit.OK, "refused": Exit.REFUSED, "exit": Exit.REFUSED, "timeout": Exit.FAULT}


def investigate(
    words: Annotated[
        list[str],
        typer.Argument(
            help="A compiled kernel or a folder of Triton's cache; or a command after --, or a script.", metavar="FILE"
        ),
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
        if check not in ("warn", "error"):
            raise UsageError(f"--check {check!r}: expected warn or error")
        if witness not in WITNESS:
            raise UsageError(f"--witness {witness!r}: expected one of {', '.join(WITNESS)}")
        _can_be_written(save, html)
        if grid is None:
            file = Path(words[0])
            if len(words) == 1 and (file.is_dir() or (file.is_file() and file.suffix in KERNELS)):
                raise UsageError(f"--grid is needed for {file.name}, for example --grid 8,8")
            if arg:
                raise UsageError("--arg is for a FILE with --grid; a command has its own arguments")
            report = investigate_program(
                _command(words), timeout=timeout, core=core, replay=replay, kernel_dir=kernel_dir, echo=not as_json
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


def _command(words: list[str]) -> list[str]:
    """The command of a program; a Python script that is no command by itself runs in this Python."""
    if Path(words[0]).suffix != ".py" or shutil.which(words[0]) is not None:
        return words
    if not Path(words[0]).is_file():
        raise UsageError(f"{words[0]!r} does not exist")
    return [sys.executable, *words]


def _can_be_written(save: Path | None, html: Path | None) -> None:
    """Refuse targets that cannot be written, before a run that may take long."""
    if save is not None:
        if save.exists() and not save.is_dir():
            raise UsageError(f"--save {str(save)!r} is a file: expected a folder, which is made if there is none")
        folder = save.absolute()
        while not folder.exists():
            folder = folder.parent
        _probe("--save", save, folder)
    if html is not None:
        if html.is_dir():
            raise UsageError(f"--html {str(html)!r} is a folder: expected a file")
        if not html.exists():
            _probe("--html", html, html.absolute().parent)
        elif not os.access(html, os.W_OK):
            raise UsageError(f"--html {str(html)!r} cannot be written: permission denied")


def _probe(option: str, path: Path, folder: Path) -> None:
    # Permissions alone do not tell: root may write anywhere, except where the file system has no new files.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"{str(folder)!r} takes no files ({error.strerror or error})"
        raise UsageError(f"{option} {str(path)!r} cannot be written: {reason}") from None


def show_report(report: Report, save: Path | None, html: Path | None, as_json: bool) -> int:
    """Print and write a report; the exit code, which says whether something died.

    What cannot be written is said after the report; the exit code then is 2, unless something died.
    """
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo(str(report))
    died = report.evidence.died
    code = _CODES.get(report.status, Exit.FAULT)
    if report.status == "refused" and died is not None and died.type in _UNAVAILABLE:
        code = Exit.UNAVAILABLE
    for what, path, write in (("reproducer", save, report.save), ("HTML", html, report.html)):
        if path is None:
            continue
        try:
            write(path)
        except TrlaunchError as error:
            typer.echo(f"{type(error).__name__}: {error}", err=True)
            code = code or (Exit.USAGE if isinstance(error, ArgumentError) else exit_code(error))
        else:
            if not as_json:
                typer.echo(f"{what} written to {path}", err=True)
    return code
