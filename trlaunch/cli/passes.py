"""``trlaunch passes FILE``: what each pass of the installed Triton does to a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trlaunch.cli.exits import reporting
from trlaunch.cli.options import CompileOption, Json, MetadataOption, NameOption, TargetOption, compile_options
from trlaunch.cli.output import print_json, table

if TYPE_CHECKING:
    from trlaunch.lowering.passes import PassRun

__all__ = ["passes"]


def passes(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TTIR, TTGIR, LLIR, or a saved module.")],
    target: TargetOption = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The level to stop at; by default PTX.", metavar="LEVEL")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", file_okay=False, help="Write the module after each pass into this folder."),
    ] = None,
    diff: Annotated[
        str | None, typer.Option("--diff", help="Show what one pass changed: coalesce, canonicalize#2.", metavar="PASS")
    ] = None,
    start_after: Annotated[
        str | None, typer.Option("--start-after", help="FILE is the module as this pass left it.", metavar="PASS")
    ] = None,
    option: CompileOption = None,
    metadata: MetadataOption = None,
    name: NameOption = None,
    as_json: Json = False,
) -> None:
    """List the passes that the installed Triton runs, with the time of each and what it changed."""
    with reporting(as_json):
        from trlaunch.lowering.passes import observe

        options = compile_options(option)
        source: Any = file
        if metadata is not None:
            from trlaunch import Artifact

            source = Artifact.from_file(file, metadata)
        run = observe(source, to, target, options, name=name, start_after=start_after)
        index = run.write(out) if out is not None else None
        if as_json:
            print_json({**_describe(run), **({"diff": run.diff(diff)} if diff else {})})
            return
        if diff is not None:
            typer.echo(run.diff(diff), nl=False)
            return
        table(("#", "stage", "pass", "ms", "changed"), _rows(run))
        if index is not None:
            typer.echo(f"written: {index}")


def _rows(run: PassRun) -> list[tuple[int, str, str, float, str]]:
    return [(r.index, r.stage, r.label, round(r.seconds * 1e3, 2), run.changes(r)) for r in run]


def _describe(run: PassRun) -> dict[str, Any]:
    described = [
        {
            "index": record.index,
            "stage": record.stage,
            "name": record.label,
            "kind": record.kind,
            "pipeline": record.pipeline,
            "ms": record.seconds * 1e3,
            "changed": record.changed,
            "changes": run.changes(record),
        }
        for record in run
    ]
    return {
        "kernel": run.start.carried["kernel"],
        "release": run.start.release,
        "target": str(run.start.target),
        "passes": described,
    }
