"""``trlaunch diff A B``: what two builds of a kernel differ in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trlaunch.cli.arguments import UsageError
from trlaunch.cli.exits import reporting
from trlaunch.cli.options import Json, NameOption
from trlaunch.cli.output import print_json, table
from trlaunch.comparison.caches import CacheDifference, diff_caches, is_cache
from trlaunch.comparison.difference import Difference
from trlaunch.comparison.difference import diff as compare

__all__ = ["diff"]

_SHOWN = ("registers", "spill instructions", "spilled registers", "dynamic shared bytes", "instructions")


def diff(
    first: Annotated[Path, typer.Argument(exists=True, help="A file of any level, a kernel's folder, or a cache.")],
    second: Annotated[Path, typer.Argument(exists=True, help="The other build.")],
    name: NameOption = None,
    level: Annotated[
        str | None,
        typer.Option("--level", "-l", help="Show the code of ttir, ttgir, llir, ptx or sass.", metavar="LEVEL"),
    ] = None,
    line: Annotated[
        int | None, typer.Option("--line", help="The code of this source line alone; with --level.", metavar="N")
    ] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 where something differs.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two builds of a kernel: metadata, registers, shared memory, instructions, and the code of each line."""
    with reporting(as_json):
        if line is not None and level is None:
            raise UsageError("--line needs --level: ttir, ttgir, llir, ptx or sass")
        if is_cache(first) and is_cache(second):
            if level is not None:
                raise UsageError("--level shows one kernel: give two files or two kernels' folders")
            same = _show_caches(diff_caches(first, second, name=name), as_json)
        else:
            same = _show(compare(first, second, name=name), level, line, as_json)
        if exit_code and not same:
            raise typer.Exit(1)


def _show(found: Difference, level: str | None, line: int | None, as_json: bool) -> bool:
    if level is not None:
        text = found.text(level, line)
        if as_json:
            print_json({"level": level, "line": line, "diff": text})
        else:
            typer.echo(text or "the same")
        return not text
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found))
    return found.same


def _show_caches(found: CacheDifference, as_json: bool) -> bool:
    if as_json:
        print_json(found.to_dict())
    else:
        rows = []
        for kernel, pair in found.pairs.items():
            cells: list[str | None] = []
            for name in _SHOWN:
                a, b = pair.first.resources.get(name), pair.second.resources.get(name)
                cells.append(None if a is None and b is None else f"{a}" if a == b else f"{a} -> {b}")
            rows.append((kernel, *cells, "same" if pair.same else "differs"))
        if rows:
            table(("kernel", *_SHOWN, "code"), rows)
        for what, names in (
            ("only in the first", found.only_first),
            ("only in the second", found.only_second),
            ("not compared", [*found.unpaired, *found.unread]),
        ):
            for kernel in names:
                typer.echo(f"{what}: {kernel}")
    return not (found.only_first or found.only_second or found.unpaired or found.unread) and all(
        pair.same for pair in found.pairs.values()
    )
