"""``trlaunch debug FILE --grid 8,8 --arg ...``: launch a kernel on the emulator under its debugger."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trlaunch.arguments import UsageError, parse_argument, parse_grid
from trlaunch.cli.exits import Exit, reporting
from trlaunch.cli.materialise import ArgOption, GridOption, in_order, materialise
from trlaunch.cli.options import File, Json, MetadataOption, NameOption, SignatureOption, open_kernel
from trlaunch.cli.output import print_json

if TYPE_CHECKING:
    from trlaunch.emulator.debugger import Session
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
    as_json: Json = False,
) -> None:
    """Debug a kernel on the emulator: breakpoints, steps, registers, shared memory, watchpoints; `help` lists all."""
    from trlaunch.emulator.debugger import open_session
    from trlaunch.emulator.debugger.prompt import Prompt, interact

    with reporting(as_json):
        sizes = parse_grid(grid)
        specs = [parse_argument(text) for text in arg or ()]
        texts = [*([_read(script)] if script is not None else []), *(command or ())]
        if as_json and (interactive or not texts):
            raise UsageError("--json is for commands: give them with -c or --script, and leave --interactive out")
        kernel = open_kernel(file, metadata, name, signature, "emulator")
        positional, named = in_order(materialise(kernel, specs, kernel.device))
        session = open_session(kernel, sizes, positional, named)
        try:
            prompt = Prompt(session)
            said = _execute(prompt, texts, not as_json)
            if as_json:
                print_json(_document(session, said))
            if (interactive or not texts) and not prompt.quitting:
                if sys.stdin.isatty():
                    interact(session)
                else:
                    _execute(prompt, sys.stdin, True)
        finally:
            session.close()
            fault = session.fault
        if fault is not None:
            raise fault
        if prompt.refused:
            typer.echo(f"{prompt.refused} command{'s were' if prompt.refused > 1 else ' was'} refused", err=True)
            raise typer.Exit(Exit.REFUSED)


def _read(script: Path) -> str:
    try:
        return script.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--script {str(script)!r} cannot be read: {error}") from None


def _execute(prompt: Prompt, texts: Iterable[str], show: bool) -> list[tuple[str, str]]:
    """Run commands, each shown before what it says; the commands and what they said."""
    from trlaunch.emulator.debugger.prompt import PROMPT, split_commands

    done = []
    for line in split_commands(texts):
        if show:
            sys.stdout.write(f"{PROMPT}{line}\n")
            sys.stdout.flush()
        done.append((line, prompt.say(line)))
        if show:
            sys.stdout.write(done[-1][1])
        if prompt.quitting:
            break
    return done


def _document(session: Session, said: Sequence[tuple[str, str]]) -> dict[str, Any]:
    stop = session.stop
    return {
        "kernel": session.name,
        "commands": [{"command": command, "said": text.splitlines()} for command, text in said],
        "running": session.running,
        "stopped": stop.kind if stop is not None else None,
        "cta": list(session.cta),
        "thread": list(session.thread),
    }
