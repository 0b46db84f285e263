"""``trlaunch bisect``: which pass, release, options, level, CTA or block of PTX makes a kernel go wrong."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trlaunch.arguments import UsageError, parse_argument, parse_grid
from trlaunch.bisection import blocks as over_blocks
from trlaunch.bisection import cells as over_cells
from trlaunch.bisection import levels as over_levels
from trlaunch.bisection import options as over_options
from trlaunch.bisection import passes as over_passes
from trlaunch.bisection import releases as over_releases
from trlaunch.bisection.engine import Candidate, Search, Verdict, first_bad, sweep
from trlaunch.bisection.oracles import Crashes, Differs, Exceeds, Hangs, Slower
from trlaunch.cli.exits import Exit, reporting
from trlaunch.cli.options import (
    CompileOption,
    Json,
    NameOption,
    SignatureOption,
    compile_options,
    split_arguments,
)
from trlaunch.cli.output import print_json
from trlaunch.driver import Device

__all__ = ["app"]

app = typer.Typer(
    name="bisect",
    help="Find which pass, release, options, level, CTA or block of PTX makes a kernel go wrong. Each trial runs in a "
    "process of its own.",
    no_args_is_help=True,
)

Grid = Annotated[str, typer.Option("--grid", "-g", help="CTAs along x, y, z: 8,8.", metavar="X,Y,Z")]
Arg = Annotated[
    list[str] | None,
    typer.Option("--arg", "-a", help="An argument, as for `trlaunch run`. Repeat it.", metavar="KEY=VALUE"),
]
Bad = Annotated[
    str | None,
    typer.Option(
        "--bad",
        help="What is bad: crash, hang, differs (from --reference), or slower (than --limit ms); differs where there "
        "is a reference, else crash.",
        metavar="WHAT",
    ),
]
Dies = Annotated[
    str | None,
    typer.Option(
        "--bad",
        help="What is bad: crash (hangs included) or hang. What the parts left out do not write differs from any "
        "reference.",
        metavar="WHAT",
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        "--reference", exists=True, dir_okay=False, help="What arrays should be: `trlaunch run --save`.", metavar="NPZ"
    ),
]
Rtol = Annotated[float, typer.Option("--rtol", min=0, help="With --reference.")]
Atol = Annotated[float, typer.Option("--atol", min=0, help="With --reference.")]
Limit = Annotated[float | None, typer.Option("--limit", min=0, help="Milliseconds a launch may take.")]
Timeout = Annotated[float, typer.Option("--timeout", "-t", min=0.1, help="Seconds for each trial.")]
Devices = Annotated[
    str | None, typer.Option("--devices", "-d", help="Where trials run, in turn: cuda:0,cuda:1.", metavar="D,D")
]
Parallel = Annotated[int | None, typer.Option("--parallel", "-j", min=1, help="Trials at once; one a device.")]
State = Annotated[
    Path | None,
    typer.Option("--state", dir_okay=False, help="Keep verdicts here, and go on from them.", metavar="FILE"),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", dir_okay=False, help="Write the result as JSON.")]


def _oracle(bad: str | None, reference: Path | None, rtol: float, atol: float, limit: float | None) -> Any:
    bad = bad or ("differs" if reference is not None else "crash")
    if bad == "crash":
        return Crashes()
    if bad == "hang":
        return Hangs()
    if bad == "differs":
        if reference is None:
            raise UsageError("--bad differs needs --reference FILE.npz")
        return Differs.from_file(reference, rtol, atol)
    if bad == "slower":
        if limit is None:
            raise UsageError("--bad slower needs --limit MILLISECONDS")
        return Slower(limit / 1e3)
    raise UsageError(f"--bad {bad!r}: expected crash, hang, differs or slower")


def _dies(bad: str | None) -> Any:
    if bad not in (None, "crash", "hang"):
        raise UsageError(
            f"--bad {bad!r}: expected crash or hang: what the parts that are left out do not write differs from any "
            f"reference"
        )
    return Hangs() if bad == "hang" else Crashes()


def _launch(
    grid: str, arg: list[str] | None, timeout: float, name: str | None = None, signature: str | None = None
) -> dict[str, Any]:
    positional, named = split_arguments([parse_argument(text) for text in arg or ()])
    given = {key: value for key, value in (("name", name), ("signature", signature)) if value is not None}
    return {"grid": parse_grid(grid), "args": positional, "named": named, "timeout": timeout, **given}


class _Runner:
    """The search with a progress bar on a terminal, and its result as a table or JSON."""

    def __init__(
        self, devices: str | None, parallel: int | None, state: Path | None, out: Path | None, as_json: bool
    ) -> None:
        self.devices = [d.strip() for d in devices.split(",")] if devices else []
        for device in self.devices:
            Device.parse(device)
        self.parallel = parallel or max(1, len(self.devices))
        self.state, self.out, self.as_json = state, out, as_json

    def run(self, search: Callable[..., Search], candidates: Sequence[Candidate]) -> Search:
        """Search, showing how far it is."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
            task = progress.add_task("bisecting", total=None)

            def observer(candidate: Candidate, verdict: Verdict, done: int, estimate: int) -> None:
                progress.update(task, completed=done, total=estimate, description=f"{candidate.label}: {verdict.state}")

            return search(candidates, parallel=self.parallel, devices=self.devices, state=self.state, observer=observer)

    def show(self, *found: Search) -> None:
        """Print the results; ``--out`` has the same as JSON."""
        documents = [search.to_dict() for search in found]
        document = documents[0] if len(documents) == 1 else {**documents[0], "then": documents[1]}
        if self.out is not None:
            self.out.write_text(json.dumps(document, indent=2, default=str) + "\n")
        if self.as_json:
            print_json(document)
        else:
            typer.echo("\n\n".join(search.table() for search in found))
        if found[0].untried:
            raise typer.Exit(Exit.REFUSED)


@app.command()
def passes(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What `trlaunch passes --out` wrote.")],
    grid: Grid,
    arg: Arg = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    bad: Bad = None,
    reference: Reference = None,
    rtol: Rtol = 1e-2,
    atol: Atol = 1e-2,
    limit: Limit = None,
    timeout: Timeout = 120.0,
    devices: Devices = None,
    parallel: Parallel = None,
    state: State = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The first pass whose output is wrong: each module in FOLDER is lowered further by the installed Triton."""
    with reporting(as_json):
        runner = _Runner(devices, parallel, state, out, as_json)
        oracle = _oracle(bad, reference, rtol, atol, limit)
        rows = over_passes.candidates(folder, oracle, **_launch(grid, arg, timeout, name, signature))
        runner.show(runner.run(first_bad, rows))


@app.command()
def levels(
    file: Annotated[Path, typer.Argument(exists=True, help="A kernel with other levels beside it, or its folder.")],
    grid: Grid,
    arg: Arg = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    bad: Bad = None,
    reference: Reference = None,
    rtol: Rtol = 1e-2,
    atol: Atol = 1e-2,
    limit: Limit = None,
    timeout: Timeout = 120.0,
    devices: Devices = None,
    parallel: Parallel = None,
    state: State = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The first level that is wrong: the kernel is made again from each."""
    with reporting(as_json):
        runner = _Runner(devices, parallel, state, out, as_json)
        oracle = _oracle(bad, reference, rtol, atol, limit)
        rows = over_levels.candidates(file, oracle, **_launch(grid, arg, timeout, name, signature))
        runner.show(runner.run(sweep, rows))


@app.command()
def options(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="TTIR.")],
    grid: Grid,
    vary: Annotated[
        list[str],
        typer.Option("--vary", help="An option and its values: num_warps=2,4,8. Repeat it.", metavar="NAME=V,V"),
    ],
    arg: Arg = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    bad: Bad = None,
    reference: Reference = None,
    rtol: Rtol = 1e-2,
    atol: Atol = 1e-2,
    limit: Limit = None,
    timeout: Timeout = 120.0,
    devices: Devices = None,
    parallel: Parallel = None,
    state: State = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Which combinations of compile options are wrong: all are tried."""
    with reporting(as_json):
        runner = _Runner(devices, parallel, state, out, as_json)
        oracle = _oracle(bad, reference, rtol, atol, limit)
        rows = over_options.candidates(file, oracle, _choices(vary), **_launch(grid, arg, timeout, name, signature))
        runner.show(runner.run(sweep, rows))


@app.command()
def cells(
    file: Annotated[Path, typer.Argument(exists=True, help="PTX, or a kernel with PTX beside it.")],
    grid: Grid,
    arg: Arg = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    bad: Dies = None,
    timeout: Timeout = 60.0,
    devices: Devices = None,
    parallel: Parallel = None,
    state: State = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The first CTA of the grid that crashes or hangs."""
    with reporting(as_json):
        runner = _Runner(devices, parallel, state, out, as_json)
        rows = over_cells.candidates(file, _dies(bad), **_launch(grid, arg, timeout, name, signature))
        runner.show(runner.run(first_bad, rows))


@app.command()
def blocks(
    file: Annotated[Path, typer.Argument(exists=True, help="PTX, or a kernel with PTX beside it.")],
    grid: Grid,
    arg: Arg = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    bad: Dies = None,
    timeout: Timeout = 60.0,
    devices: Devices = None,
    parallel: Parallel = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The basic block of the PTX that crashes or hangs, and then its instruction."""
    with reporting(as_json):
        runner = _Runner(devices, parallel, None, out, as_json)
        oracle, launch = _dies(bad), _launch(grid, arg, timeout, name, signature)
        found = [runner.run(first_bad, over_blocks.candidates(file, oracle, **launch))]
        if found[0].first is not None:
            rows = over_blocks.instructions(file, oracle, found[0].first, **launch)
            found.append(runner.run(first_bad, rows))
        runner.show(*found)


@app.command()
def releases(
    source: Annotated[str, typer.Argument(help="kernels.py:function, or text of a level.", metavar="FILE[:FUNCTION]")],
    target: Annotated[str, typer.Option("--target", help="cuda:90.")],
    type_: Annotated[
        list[str] | None,
        typer.Option("--type", help="Of each argument in order: *fp16, or a number. Repeat it.", metavar="TYPE"),
    ] = None,
    constant: Annotated[
        list[str] | None, typer.Option("--constant", help="A constexpr: BLOCK=64. Repeat it.", metavar="NAME=VALUE")
    ] = None,
    option: CompileOption = None,
    measure: Annotated[
        str,
        typer.Option("--measure", help="registers, 'dynamic shared bytes', 'spill instructions', instructions, ..."),
    ] = "registers",
    over: Annotated[
        int | None, typer.Option("--over", help="Bad is more than this; by default than the oldest release's.")
    ] = None,
    release: Annotated[
        list[str] | None, typer.Option("--release", help="Of these, oldest first, instead of all.", metavar="X.Y.Z")
    ] = None,
    python: Annotated[
        list[str] | None,
        typer.Option("--python", help="A Python that has a release: 3.2.0=/path/bin/python.", metavar="X.Y.Z=PATH"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Try every release, for the whole table.")] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep", file_okay=False, help="Keep the builds in this folder.")
    ] = None,
    timeout: Timeout = 600.0,
    parallel: Parallel = None,
    state: State = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """The first release of Triton that compiles a kernel to more registers, shared memory or instructions."""
    with reporting(as_json):
        path, _, function = source.partition(":")
        if not Path(path).is_file():
            raise UsageError(f"{path!r} is no file: expected kernels.py:function, or text of a level")
        runner = _Runner(None, parallel, state, out, as_json)
        made = over_releases.Source(
            path,
            target,
            function,
            tuple(_value(text) for text in type_ or ()),
            compile_options(constant),
            compile_options(option),
        )
        rows = over_releases.candidates(
            made,
            Exceeds(measure, over),
            tuple(release or over_releases.RELEASES),
            pythons=_pythons(python or ()),
            keep=keep,
            timeout=timeout,
        )
        runner.show(runner.run(sweep if every else first_bad, rows))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _choices(texts: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name or not values:
            raise UsageError(f"--vary {text!r}: expected NAME=VALUE,VALUE, for example num_warps=2,4,8")
        found[name] = [_value(value) for value in values.split(",")]
    return found


def _pythons(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        release, equals, path = text.partition("=")
        if not equals or not Path(path).is_file():
            raise UsageError(
                f"--python {text!r}: expected RELEASE=PATH of a Python, for example 3.2.0=/venv/bin/python"
            )
        found[release] = path
    return found
