"""``trlaunch tune PATH... --grid 8 --arg ...``: measure kernels and choose the fastest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import trlaunch
from trlaunch.arguments import GENERATORS, ArgumentSpec, UsageError, parse_argument
from trlaunch.cli.exits import Exit, reporting
from trlaunch.cli.formula import parse_formulas
from trlaunch.cli.options import DeviceOption, Json, SignatureOption, compile_options
from trlaunch.cli.output import facts, print_json, table
from trlaunch.devices import default_device
from trlaunch.driver import Device
from trlaunch.errors import TuningError
from trlaunch.tuning import Candidate
from trlaunch.tuning.arrays import by_name, tensors_in
from trlaunch.tuning.candidate import candidates_of

__all__ = ["tune"]


def tune(
    paths: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            help="Kernels, or folders of them; of each kernel the level closest to the device.",
            metavar="PATH",
        ),
    ],
    grid: Annotated[
        str,
        typer.Option(
            "--grid",
            "-g",
            help="Programs along x, y, z: 8,8, or formulas over arguments, constants of bundles and compile options: "
            "cdiv(n,BLOCK).",
            metavar="X,Y,Z",
        ),
    ],
    arg: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            "-a",
            help=f"An argument by name or position: M=512, a=rand:float16:512x512 (or {', '.join(GENERATORS)}), "
            "b=@weights.npy. Repeat it for each.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--options",
            help="Compile options to try, for levels above PTX: num_warps=4,num_stages=3. Repeat it for each set.",
            metavar="NAME=VALUE,...",
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            help="What an argument must hold: out=@out.npy; or first, or a candidate, to compare with its results.",
            metavar="NAME=@FILE",
        ),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="An argument whose value decides anew.", metavar="NAME")
    ] = None,
    restore: Annotated[
        list[str] | None,
        typer.Option("--restore", help="An argument that is put back before each run.", metavar="NAME"),
    ] = None,
    zero: Annotated[
        list[str] | None,
        typer.Option("--reset-to-zero", help="An argument that is zero before each run.", metavar="NAME"),
    ] = None,
    signature: SignatureOption = None,
    device: DeviceOption = None,
    warmup: Annotated[float, typer.Option("--warmup", min=0, help="Milliseconds of warming up.")] = 25.0,
    rep: Annotated[float, typer.Option("--rep", min=0, help="Milliseconds of measuring.")] = 100.0,
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Of floats, relative and absolute.")] = 1e-2,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Run each first in a process of its own: one may fault or hang.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for such a process.")] = 60.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure even if an earlier run is in the cache.")] = False,
    as_json: Json = False,
) -> None:
    """Measure kernels on arguments made on the spot, and say which is fastest."""
    with reporting(as_json):
        sizes = parse_formulas(grid)
        specs = [parse_argument(text) for text in arg or ()]
        sets = [compile_options(text.split(","), "--options") for text in option] if option else None
        candidates = candidates_of([_typed(c, signature) for c in candidates_of(paths, None)], sets)
        place = default_device() if device is None else Device.parse(device)
        names, args, named = _arguments(candidates, specs, place)
        known = by_name(names, args, named)
        tensors = tensors_in(known)
        _among("--key", key or (), known)
        _among("--restore", restore or (), tensors)
        _among("--reset-to-zero", zero or (), tensors)
        expected = _reference(reference or ())
        if isinstance(expected, str):
            _among("--reference", [expected], ["first", *(c.label for c in candidates)])
        else:
            _among("--reference", expected or (), tensors)

        def size_of(candidate: Candidate) -> tuple[int, ...]:
            def value_of(name: str) -> Any:
                if name in known:
                    return known[name]
                try:
                    return candidate[name]
                except trlaunch.ArgumentError as error:
                    numbers = ", ".join(n for n in known if n not in tensors) or "the numbers that --arg gives"
                    raise trlaunch.ArgumentError(f"--grid {name!r}: expected one of {numbers}; {error}") from None

            return tuple(s.value(value_of) for s in sizes)

        tuner = trlaunch.autotune(
            candidates,
            key=key or (),
            grid=size_of,
            restore=restore or (),
            reset_to_zero=zero or (),
            reference=expected,
            rtol=tolerance,
            atol=tolerance,
            warmup=warmup,
            rep=rep,
            isolated=isolated,
            timeout=timeout,
            cache=not fresh,
            show=False if as_json else None,
        )
        failed = None
        try:
            tuner.choose(None, *args, device=place, **named)
            report = tuner.report
        except TuningError as error:
            if error.report is None:
                raise
            report, failed = error.report, error
        assert report is not None
        if as_json:
            print_json(report.to_dict())
        else:
            table(report.COLUMNS[:-1], [row[:-1] for row in report.rows()])
            typer.echo()
            for result in report.results:
                if result.message:
                    typer.echo(f"{result.label}: {result.message}")
            facts(
                [
                    ("best", report.best or "none can be used"),
                    ("device", f"{place} ({report.device})"),
                    ("measured", "by an earlier run (--fresh measures again)" if report.cached else None),
                ]
            )
        if failed is not None:
            raise typer.Exit(Exit.REFUSED)


def _typed(candidate: Candidate, signature: str | None) -> Candidate:
    """With the types that were stated for files which do not say them."""
    if signature is None:
        return candidate
    return Candidate(trlaunch.Kernel.from_file(candidate.source, signature=signature), candidate.label)


def _arguments(
    candidates: Sequence[Candidate], specs: Sequence[ArgumentSpec], device: Device
) -> tuple[list[str], list[Any], dict[str, Any]]:
    """Names of the parameters, and the values by position and by name, arrays on the device."""
    names: list[str] = []
    for candidate in candidates:
        try:
            names = candidate.names
        except trlaunch.TrlaunchError:
            continue
        break
    made: dict[str | int, Any] = {}
    for i, spec in enumerate(specs):
        key = names[spec.key] if isinstance(spec.key, int) and spec.key < len(names) else spec.key
        if key in made:
            raise UsageError(f"argument {spec.key}={spec.text}: {key} was given before")
        value = spec.value(default_seed=i)
        if isinstance(value, np.ndarray):
            value = trlaunch.asarray(value, spec.type, device=device)
        made[key] = trlaunch.Pointer(0) if value is None else value
    if made.keys() >= set(names):
        return names, [made.pop(name) for name in names], {str(k): v for k, v in made.items()}
    return names, [], {str(k): v for k, v in made.items()}


def _among(option: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that there are not."""
    names = list(known)
    for name in given:
        if name not in names:
            raise UsageError(f"{option} {name!r}: expected one of {', '.join(names) or 'those that --arg gives'}")


def _reference(texts: Sequence[str]) -> Any:
    """What ``--reference`` says: a label, or arrays by name."""
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    arrays: dict[str, Any] = {}
    for text in texts:
        spec = parse_argument(text)
        if spec.path is None or not isinstance(spec.key, str):
            raise UsageError(f"--reference {text!r}: expected NAME=@FILE.npy, first, or the label of a candidate")
        arrays[spec.key] = spec.value()
    return arrays or None
