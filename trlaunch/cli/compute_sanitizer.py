"""``trlaunch sanitize --tool compute-sanitizer[:racecheck]``: a program or a launch under NVIDIA's tool."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trlaunch.arguments import UsageError
from trlaunch.cli.exits import Exit
from trlaunch.cli.investigate import KERNELS, show_report
from trlaunch.errors import ArgumentError
from trlaunch.investigate.sanitizers import sanitize_program, tool_name

__all__ = ["on_compute_sanitizer"]


def on_compute_sanitizer(
    words: Sequence[str],
    *,
    tool: str,
    check: str,  # noqa: ARG001 - of the emulator: NVIDIA's tools are chosen by name
    collect: bool,  # noqa: ARG001 - they always go on
    timeout: float | None,
    as_json: bool,
) -> int:
    """Run a command, or ``FILE --grid ... --arg ...`` as for ``trlaunch run``, and show what the tool found.

    Raises
    ------
    UsageError
        There is no such tool.
    AssemblerMissing
        compute-sanitizer is not installed.
    """
    try:
        name = tool_name(tool)
    except ArgumentError as error:
        raise UsageError(f"--tool {error}") from None
    first = Path(words[0])
    command = list(words)
    if first.is_dir() or first.suffix in KERNELS:
        command = [sys.executable, "-m", "trlaunch", "run", *words]
    elif first.suffix == ".py":
        command = [sys.executable, *words]
    report = sanitize_program(command, name, timeout=timeout, echo=not as_json)
    code = show_report(report, None, None, as_json)
    refused = not report.evidence.sites and report.evidence.outcome.returncode not in (0, None)
    return Exit.REFUSED if refused else code
