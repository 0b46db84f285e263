"""What ``trlaunch run --compare OTHER`` does: both files with dumps of the same Python lines, until one differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

import trlaunch
from trlaunch.artifact import Artifact, Level
from trlaunch.cli.exits import Exit
from trlaunch.cli.output import facts, print_json
from trlaunch.dump.compare import Comparison, Difference, compare, pair
from trlaunch.dump.plan import Where

__all__ = ["compare_files"]


def compare_files(
    files: tuple[Path, Path],
    settings: Mapping[str, Any],
    launch: Callable[[trlaunch.Kernel], Mapping[str, trlaunch.Dump]],
    tolerances: tuple[float | None, float | None],
    as_json: bool,
) -> None:
    """Compare two files and show what was found.

    Parameters
    ----------
    files : tuple of path
        A folder of Triton's cache stands for the TTGIR in it.
    settings : mapping
        `trlaunch.Kernel`'s keywords for both.
    launch : callable
        Launches a kernel on fresh arguments; its dumps.
    tolerances : tuple of float or None
        Absolute and relative.
    as_json : bool

    Raises
    ------
    typer.Exit
        They differ: exit code 1.
    """
    artifacts = [
        Artifact.from_cache(file, settings.get("name"), Level.TTGIR) if file.is_dir() else Artifact.from_file(file)
        for file in files
    ]
    pairs, unpaired = pair(artifacts[0], artifacts[1], settings.get("name"))

    def dumps(side: int, requests: Sequence[trlaunch.At]) -> Mapping[str, trlaunch.Dump]:
        return launch(trlaunch.Kernel(artifacts[side], dump=tuple(requests), **settings))

    found = compare(pairs, unpaired, dumps, *tolerances)
    (_show_json if as_json else _show)(files, found)
    if found.difference is not None:
        raise typer.Exit(Exit.REFUSED)


def _show_json(files: tuple[Path, Path], found: Comparison) -> None:
    difference = found.difference
    described = None
    if difference is not None:
        described = {
            "python": str(difference.first.python),
            "first": _place(difference.first),
            "second": _place(difference.second),
            "index": list(difference.index),
            "values": list(difference.values),
            "elements": difference.count,
            "of": difference.total,
            "atol": difference.atol,
            "rtol": difference.rtol,
        }
    print_json(
        {
            "files": [str(file) for file in files],
            "equal": found.equal,
            "unpaired": found.unpaired,
            "skipped": list(found.skipped),
            "difference": described,
        }
    )


def _place(where: Where) -> dict[str, Any]:
    return {"name": where.name, "op": where.op, "line": where.line, "type": where.type}


def _show(files: tuple[Path, Path], found: Comparison) -> None:
    facts(
        [
            ("files", f"{files[0]}, {files[1]}"),
            ("values that agree", found.equal),
            ("in one of them alone", found.unpaired or None),
            ("of other iterations", "; ".join(found.skipped)),
        ]
    )
    if found.difference is not None:
        typer.echo()
        facts(_rows(found.difference))


def _rows(difference: Difference) -> list[tuple[str, Any]]:
    first, second = difference.first, difference.second
    index = ", ".join(map(str, difference.index))
    one, other = ("not written" if value is None else f"{value!r}" for value in difference.values)
    return [
        ("first that differs", str(first.python)),
        ("in the first file", f"{first.name} = {first.op} in line {first.line}: {one}"),
        ("in the second file", f"{second.name} = {second.op} in line {second.line}: {other}"),
        ("at index", f"[{index}], of {difference.count} elements that differ among {difference.total}"),
        ("tolerance", f"{difference.atol:g} absolute, {difference.rtol:g} relative"),
    ]
