"""``trlaunch debug FILE --grid 8,8 --arg ...``: launch a kernel on the emulator under its debugger."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trlaunch.arguments import UsageError, parse_argument, parse_grid
from trlaunch.cli.exits import reporting
from trlaunch.cli.materialise import ArgOption, GridOption, in_order, materialise
from trlaunch.cli.options import File, MetadataOption, NameOption, SignatureOption, open_kernel

if TYPE_CHECKING:
    from trlaunch.emulator.debugger.prompt import Prompt

__all__ = ["debug"]


def debug(
    file: File,
    grid: GridOption,
    arg: ArgOption = None,
    command: Annotated[
        list[str] | None,
        typer.Option(
            "--command",
            "-c",
            help="Run these commands instead of reading them: break 31; run; print %r1. Repeatable.",
            metavar="COMMANDS",
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option("--script", exists=True, dir_okay=False, help="Commands from a file, a line each; before any -c."),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Read commands after those of --script and -c.")
    ] = False,
    metadata: MetadataOption = None,
    name: NameOption = None,
    signature: SignatureOption = None,
) -> None:
    """Debug a kernel on the emulator: breakpoints, steps, registers, shared memory, watchpoints; `help` lists all."""
    from trlaunch.emulator.debugger import open_session
    from trlaunch.emulator.debugger.prompt import Prompt, interact

    with reporting(False):
        sizes = parse_grid(grid)
        specs = [parse_argument(text) for text in arg or ()]
        texts = [*([_read(script)] if script is not None else []), *(command or ())]
        kernel = open_kernel(file, metadata, name, signature, "emulator")
        positional, named = in_order(materialise(kernel, specs, kernel.device))
        session = open_session(kernel, sizes, positional, named)
        try:
            prompt = Prompt(session)
            _execute(prompt, texts)
            if (interactive or not texts) and not prompt.quitting:
                if sys.stdin.isatty():
                    interact(session)
                else:
                    _execute(prompt, sys.stdin)
        finally:
            session.close()
            fault = session.fault
        if fault is not None:
            raise fault


def _read(script: Path) -> str:
    try:
        return script.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--script {str(script)!r} cannot be read: {error}") from None


def _execute(prompt: Prompt, texts: Iterable[str]) -> None:
    """Run commands, each shown before what it says."""
    from trlaunch.emulator.debugger.prompt import PROMPT, split_commands

    for line in split_commands(texts):
        sys.stdout.write(f"{PROMPT}{line}\n")
        prompt.onecmd(line)
        if prompt.quitting:
            return
