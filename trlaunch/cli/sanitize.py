"""``trlaunch sanitize -- python script.py``: a whole program with every launch checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from trlaunch.arguments import UsageError
from trlaunch.cli.compute_sanitizer import on_compute_sanitizer
from trlaunch.cli.exits import Exit, reporting
from trlaunch.cli.investigate import KERNELS
from trlaunch.cli.options import Json
from trlaunch.cli.output import print_json, table
from trlaunch.emulator import settings
from trlaunch.errors import EmulatorError
from trlaunch.investigate.isolation import launches_in
from trlaunch.investigate.ring import VARIABLE as RING

__all__ = ["TOOLS", "sanitize"]

_PYTHON = re.compile(r"(python|pypy)[\d.]*(\.exe)?\Z")
#: Options of Python that have an argument.
_WITH_ARGUMENT = ("-W", "-X", "--check-hash-based-pycs")
_PROGRAM = ("-m", "trlaunch.emulator.checks.program")
#: The status of a command that its time limit ended, as of timeout(1).
_STOPPED = 124


def sanitize(
    words: Annotated[
        list[str],
        typer.Argument(
            help="A command after --: python script.py ...; or a script; or a kernel and what `trlaunch run` takes.",
            metavar="COMMAND",
        ),
    ],
    tool: Annotated[
        str,
        typer.Option(
            "--tool", help="Who checks: emulator, or compute-sanitizer[:racecheck|initcheck|synccheck].", metavar="TOOL"
        ),
    ] = "emulator",
    check: Annotated[
        str, typer.Option("--check", help="What is checked: some of memory, race, init.", metavar="NAMES")
    ] = ",".join(settings.CHECKS),
    collect: Annotated[
        bool,
        typer.Option(
            "--collect/--first",
            help="Collect what is found in all launches, each pair of lines once; or raise the first in the program.",
        ),
    ] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", "-t", min=0.1, help="Seconds for the command.")] = None,
    as_json: Json = False,
) -> None:
    """Run a program with every launch checked for races, uninitialised memory and wrong accesses."""
    with reporting(as_json):
        run = TOOLS.get(tool.partition(":")[0])
        if run is None:
            raise UsageError(f"--tool {tool!r}: expected {' or '.join(TOOLS)}")
        code = run(words, tool=tool, check=check, collect=collect, timeout=timeout, as_json=as_json)
    raise typer.Exit(code)


def _on_the_emulator(
    words: Sequence[str], *, tool: str, check: str, collect: bool, timeout: float | None, as_json: bool
) -> int:
    """Run a command whose launches go to the emulator, and show what its checks found."""
    if tool != "emulator":
        raise UsageError(f"--tool {tool!r}: the emulator has no tools of its own; --check says what it looks for")
    try:
        names = settings.parse(check)
    except EmulatorError as error:
        raise UsageError(f"--check {check!r}: {error}") from None
    command = command_of(words)
    stopped = None  # the launch that it was in when its time was up
    ended = ""
    with TemporaryDirectory(prefix="trlaunch-sanitize-") as folder:
        environment = {
            **os.environ,
            settings.VARIABLE: ",".join(sorted(names)),
            settings.REPORT: folder,
            settings.COLLECT: str(int(collect)),
            # The emulator's memory is the host's: frameworks have to put their tensors there.
            "CUDA_VISIBLE_DEVICES": "",
            "HIP_VISIBLE_DEVICES": "",
        }
        before = environment.get("PYTHONWARNINGS")
        environment["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:no GPU")))
        ring = Path(folder) / "ring"
        ring.mkdir()
        if timeout is not None:
            environment[RING] = str(ring)
        status = _run(command, environment, timeout, quiet=as_json)
        launches: Counter[str] = Counter()
        found: list[dict[str, Any]] = []
        for file in sorted(Path(folder).glob("*.json")):
            part = json.loads(file.read_text())
            launches.update(part["launches"])
            found += part["findings"]
        if status is None:
            status = _STOPPED
            # A process that is killed writes no launches down; its ring has the last ones.
            kept, phase = launches_in(ring)
            launches |= Counter(launch.kernel for launch in kept)
            stopped = str(kept[-1]) if kept and phase else None
            where = f" in {stopped}, which did not end" if stopped else ", outside of kernels"
            ended = f"the command was stopped after {timeout} s{where}"
        elif status:
            ended = f"the command ended with status {status}"
    itself = command[1:4] == ["-m", "trlaunch", "run"]
    if itself and status > 0 and not launches and status != _STOPPED and not as_json:
        return status  # it has said what it does not understand, or refuses
    if as_json:
        document = {"command": list(words), "status": status, "launches": dict(launches), "findings": found}
        print_json({**document, "stopped_in": stopped})
    else:
        _show(launches, found, ended)
    if found or stopped:
        return Exit.FAULT
    if itself and status == Exit.USAGE:
        return Exit.USAGE
    return Exit.OK if status == 0 else Exit.REFUSED


def command_of(words: Sequence[str]) -> list[str]:
    """The command with which a program runs under the checks.

    Raises
    ------
    UsageError
        A script does not exist.
    """
    first = Path(words[0])
    if first.suffix in KERNELS or first.is_dir():
        return [sys.executable, "-m", "trlaunch", "run", *words, "--device", "emulator"]
    if first.suffix == ".py":
        if not first.is_file():
            raise UsageError(f"{str(first)!r} does not exist")
        return [sys.executable, *_PROGRAM, *words]
    if not _PYTHON.match(first.name):
        return list(words)
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-m", "-c", "-"):
        at += 2 if words[at] in _WITH_ARGUMENT else 1
    if at >= len(words) or words[at] == "-":
        raise UsageError(f"{' '.join(words)}: expected a script, -m module or -c code behind {words[0]}")
    return [*words[:at], *_PROGRAM, *words[at:]]


def _run(command: Sequence[str], environment: dict[str, str], timeout: float | None, quiet: bool) -> int | None:
    """Run a command; its status, or ``None`` when its time was up."""
    try:
        done = subprocess.run(command, env=environment, timeout=timeout, check=False, stdout=2 if quiet else None)
    except FileNotFoundError:
        raise UsageError(f"{command[0]!r} is not a command") from None
    except PermissionError as error:
        raise UsageError(f"{command[0]!r}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def _show(launches: Counter[str], found: Sequence[dict[str, Any]], ended: str) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for number, finding in enumerate(found, 1):
        console.print()
        times = finding["occurrences"]
        console.print(Text(f"{number}. {finding['kind']} in {finding['kernel']}", "bold red"), end="")
        console.print(f", {times} times" if times > 1 else "", highlight=False)
        message = finding["message"].removeprefix(f"{finding['kind']} in {finding['kernel']}: ")
        console.print(Text(message), soft_wrap=True)
    per_kernel = Counter(finding["kernel"] for finding in found)
    if launches:
        console.print()
        table(("kernel", "launches", "findings"), [[k, n, per_kernel[k]] for k, n in sorted(launches.items())])
    else:
        console.print("the command launched nothing through trlaunch on the emulator", highlight=False)
    total, kernels = sum(launches.values()), len(launches)
    console.print(
        f"{len(found)} finding{'s' if len(found) != 1 else ''} in {total} launch{'es' if total != 1 else ''} of"
        f" {kernels} kernel{'s' if kernels != 1 else ''}{'; ' * bool(ended)}{ended}",
        highlight=False,
        markup=False,
        soft_wrap=True,
        style="bold red" if found else "bold",
    )


#: Who checks, by the name of ``--tool`` before any colon. Each gets the words of the command and the options, and
#: returns the exit code.
TOOLS: dict[str, Callable[..., int]] = {"emulator": _on_the_emulator, "compute-sanitizer": on_compute_sanitizer}
