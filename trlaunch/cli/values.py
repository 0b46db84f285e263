"""``trlaunch values FILE``: what a dump can capture, a line each."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trlaunch.arguments import UsageError
from trlaunch.artifact import Artifact, Level
from trlaunch.cli.exits import reporting
from trlaunch.cli.options import File, Json, MetadataOption, NameOption
from trlaunch.cli.output import print_json, table
from trlaunch.dump.capture import dumpable
from trlaunch.dump.request import At, at

if TYPE_CHECKING:
    from trlaunch.dump.read import Dump

__all__ = ["parse_dump", "plot_dumps", "values"]

_COLUMNS = ("name", "op", "type", "layout", "line", "python", "refused")


def values(
    file: File,
    metadata: MetadataOption = None,
    name: NameOption = None,
    op: Annotated[str | None, typer.Option("--op", help="Only what this operation makes: tt.reduce.")] = None,
    python_line: Annotated[
        int | None, typer.Option("--python-line", help="Only what this line of Python made.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what cannot be captured, with the reason.")] = False,
    as_json: Json = False,
) -> None:
    """List the values inside a kernel that `trlaunch run --dump` can capture."""
    with reporting(as_json):
        artifact = Artifact.from_cache(file, name, Level.TTGIR) if file.is_dir() else Artifact.from_file(file, metadata)
        rows = []
        for where, refused in dumpable(artifact, name):
            if refused and not everything:
                continue
            if op not in (None, where.op) or (
                python_line is not None and (where.python is None or where.python.line != python_line)
            ):
                continue
            rows.append(
                {
                    "name": where.name,
                    "op": where.op,
                    "type": where.type,
                    "layout": where.layout,
                    "line": where.line,
                    "python": None if where.python is None else str(where.python),
                    "refused": refused or None,
                }
            )
        if as_json:
            print_json({"level": str(artifact.level), "values": rows})
        else:
            table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows])


def parse_dump(text: str) -> At:
    """A request as the command line writes it: ``%acc``, ``op=tt.reduce,nth=1,keep=last``, ``%acc,programs=0:0/7:3``.

    Raises
    ------
    UsageError
        A field is not one of those of `trlaunch.at`, or its value is no number.
    """
    settings: dict[str, Any] = {}
    for i, part in enumerate(text.split(",")):
        key, equals, value = part.strip().partition("=")
        if not equals and i == 0:
            settings["name"] = key
        elif equals and key in ("op", "dtype", "label", "tensor"):
            settings[key] = value
        elif equals and key in ("nth", "line", "python_line", "result", "after", "keep") and value.isdigit():
            settings[key] = int(value)
        elif equals and key == "keep":
            settings[key] = value
        elif equals and key == "part":
            settings[key] = [_slice(axis, text) for axis in value.split("/")]
        elif equals and key == "programs":
            settings[key] = [_numbers(program, text) for program in value.split("/")]
        else:
            raise UsageError(
                f"--dump {text!r}: {part!r} is not understood: expected a name, op=, line=, python_line=, nth=, "
                f"result=, after=, keep=all|last|N, programs=0:0/7:3, part=0:8/:, dtype=, "
                f"tensor= or label=, separated by commas"
            )
    settings.setdefault("label", text)
    return at(**settings)


def plot_dumps(folder: Path, dumps: Mapping[str, Dump]) -> list[Path]:
    """A heat map of each dump in a folder, which is made where it is not there: ``%acc.png``.

    Raises
    ------
    UsageError
        The folder cannot be made.
    DeviceUnavailable, ArgumentError
        As `trlaunch.Dump.plot`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--plot {str(folder)!r}: {error.strerror or error}") from None
    names: set[str] = set()
    written = []
    for key, dump in dumps.items():
        stem = "".join(c if c.isalnum() or c in "%#.-_=" else "_" for c in key)[:100]
        name = next(n for n in itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2))) if n not in names)
        names.add(name)
        written.append(dump.plot(folder / f"{name}.png"))
    return written


def _slice(text: str, whole: str) -> slice | None:
    low, colon, high = text.partition(":")
    if not colon or not all(not n or n.isdigit() for n in (low, high)) or (low and not high):
        raise UsageError(f"--dump {whole!r}: part={text!r}: expected a range on each axis such as 0:8/:")
    return slice(int(low or 0), int(high)) if high else None


def _numbers(text: str, whole: str) -> tuple[int, ...]:
    parts = text.split(":")
    if not all(part.isdigit() for part in parts):
        raise UsageError(f"--dump {whole!r}: programs={text!r}: expected coordinates such as 0:0/7:3")
    return tuple(int(part) for part in parts)
