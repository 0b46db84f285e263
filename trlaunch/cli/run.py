"""``trlaunch run FILE --grid 8,8 --arg a=rand:float16:512x512 ...``: launch a kernel on arguments made on the spot."""

from __future__ import annotations

import functools
import os
import statistics
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

import trlaunch
from trlaunch import devices
from trlaunch.arguments import ArgumentSpec, UsageError, as_floats, parse_argument, parse_grid
from trlaunch.cli.comparing import compare_files
from trlaunch.cli.exits import reporting
from trlaunch.cli.materialise import ArgOption, GridOption, LaunchArgument, in_order, materialise
from trlaunch.cli.options import DeviceOption, File, Json, MetadataOption, NameOption, SignatureOption, open_kernel
from trlaunch.cli.output import facts, print_json, table
from trlaunch.cli.values import parse_dump, plot_dumps
from trlaunch.driver import Device

__all__ = ["run"]


class _Launch:
    """A launch that can be repeated."""

    def __init__(
        self, kernel: trlaunch.Kernel, device: Device, grid: tuple[int, ...], arguments: Sequence[LaunchArgument]
    ) -> None:
        self.kernel = kernel
        self.device = device
        self.grid = grid
        self.arguments = arguments
        self.dumps: Mapping[str, trlaunch.Dump] = {}
        self._positional, self._named = in_order(arguments)

    def timed(self) -> float:
        """Launch; seconds until the device is done, and its dumps are read."""
        start = time.perf_counter()
        run = self.kernel.launch(self.grid, *self._positional, device=self.device, **self._named)
        self.dumps = run.dumps if run is not None else {}
        devices.get(self.device.driver).synchronize(self.device.ordinal)
        return time.perf_counter() - start


def run(
    file: File,
    grid: GridOption,
    arg: ArgOption = None,
    metadata: MetadataOption = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    device: DeviceOption = None,
    dump: Annotated[
        list[str] | None,
        typer.Option(
            "--dump",
            help="A value inside the kernel to capture: %acc, or op=tt.reduce,nth=1,keep=last. Repeat it for each; "
            "`trlaunch values` lists them.",
            metavar="VALUE",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save", "-o", help="Write the arrays, as the first launch left them, and its dumps.", metavar="NPZ"
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", file_okay=False, help="Write a heat map of each dump to this folder.", metavar="FOLDER"),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            exists=True,
            help="Another TTIR or TTGIR of the kernel: dump the same Python lines in both, and report the first value "
            "that differs.",
            metavar="FILE",
        ),
    ] = None,
    atol: Annotated[
        float | None, typer.Option("--atol", min=0, help="With --compare; by the dtype if left out.")
    ] = None,
    rtol: Annotated[
        float | None, typer.Option("--rtol", min=0, help="With --compare; by the dtype if left out.")
    ] = None,
    repeat: Annotated[int, typer.Option("--repeat", "-r", min=0, help="Launch N times more and time it.")] = 0,
    as_json: Json = False,
) -> None:
    """Launch a kernel once (and --repeat more times), and show what became of its arrays."""
    with reporting(as_json):
        sizes = parse_grid(grid)
        specs = [parse_argument(text) for text in arg or ()]
        if save is not None and not save.parent.is_dir():
            raise UsageError(f"--save {str(save)!r}: there is no folder {str(save.parent)!r}")
        if save is not None and save.exists() and not zipfile.is_zipfile(save):
            raise UsageError(f"--save {str(save)!r}: a file that is no .npz is there: name another, or delete it")
        if compare is not None:
            if dump or save is not None or plot is not None or repeat:
                raise UsageError("--compare chooses the dumps itself: leave out --dump, --save, --plot and --repeat")
            settings = {"name": name, "signature": signature, "device": device}
            again = functools.partial(_dumps_of_one_launch, sizes=sizes, specs=specs)
            compare_files((file, compare), settings, again, (atol, rtol), as_json)
            return
        if plot is not None and not dump:
            raise UsageError("--plot draws dumps: give --dump, too")
        kernel = open_kernel(file, metadata, name, signature, device, [parse_dump(text) for text in dump or ()])
        place = kernel.device
        arguments = materialise(kernel, specs, place)
        launch = _Launch(kernel, place, sizes, arguments)
        first = launch.timed()
        for argument in arguments:
            if argument.before is not None:
                argument.after = argument.value.numpy()
        dumps = launch.dumps
        times = [launch.timed() for _ in range(repeat)]
        launch.dumps = dumps
        if save is not None:
            arrays = {a.label: a.after for a in arguments if a.after is not None}
            if both := sorted(arrays.keys() & dumps.keys()):
                raise UsageError(f"--dump {both[0]!r} has the name of an argument: give it another label=")
            _save(save, {**arrays, **{key: dumped.values for key, dumped in dumps.items()}})
        if plot is not None:
            plot_dumps(plot, dumps)
        (_show_json if as_json else _show)(launch, first, times)


def _dumps_of_one_launch(
    kernel: trlaunch.Kernel, *, sizes: tuple[int, ...], specs: Sequence[ArgumentSpec]
) -> Mapping[str, trlaunch.Dump]:
    launch = _Launch(kernel, kernel.device, sizes, materialise(kernel, specs, kernel.device))
    launch.timed()
    return launch.dumps


def _save(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an .npz under a temporary name and rename it (numpy.savez takes no array called ``file``)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "x") as archive:
            for label, array in arrays.items():
                with archive.open(f"{label}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"--save {str(path)!r}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _summary(argument: LaunchArgument) -> dict[str, Any]:
    described: dict[str, Any] = {"argument": argument.label, "given": argument.spec.text}
    before, after = argument.before, argument.after
    if before is None or after is None:
        return described
    values = as_floats(after, argument.spec.type)
    described["dtype"] = argument.value.dtype
    described["shape"] = list(after.shape)
    described["changed"] = before.tobytes() != after.tobytes()
    if values.size:
        described |= {"min": values.min().item(), "max": values.max().item()}
        described["nan"] = int(np.isnan(values).sum()) if values.dtype.kind == "f" else 0
    return described


def _dump_summary(dump: trlaunch.Dump) -> dict[str, Any]:
    described: dict[str, Any] = {
        "dump": dump.key,
        "op": dump.where.op,
        "line": dump.where.line,
        "python": None if dump.where.python is None else str(dump.where.python),
        "dtype": dump.dtype,
        "shape": list(dump.values.shape),
    }
    written = dump.floats[dump.written]
    if written.size:
        described |= {"min": written.min().item(), "max": written.max().item()}
        described["nan"] = int(np.isnan(written).sum()) if written.dtype.kind == "f" else 0
    return described


def _show_json(launch: _Launch, first: float, times: Sequence[float]) -> None:
    print_json(
        {
            "kernel": launch.kernel.name,
            "level": str(launch.kernel.level),
            "device": str(launch.device),
            "grid": list(launch.grid),
            "arguments": [_summary(a) for a in launch.arguments],
            "dumps": [_dump_summary(d) for d in launch.dumps.values()],
            "first_launch_s": first,
            "repeats_s": list(times),
        }
    )


def _show(launch: _Launch, first: float, times: Sequence[float]) -> None:
    rows = [_summary(a) for a in launch.arguments]
    for row in rows:
        if "shape" in row:
            row["shape"] = "x".join(map(str, row["shape"]))
            row["changed"] = "yes" if row["changed"] else "no"
            row |= {key: f"{row[key]:.6g}" for key in ("min", "max") if key in row}
    spread = f"{min(times) * 1e3:.3f} ms best, {statistics.median(times) * 1e3:.3f} ms median" if times else None
    facts(
        [
            ("kernel", launch.kernel.name),
            ("level", launch.kernel.level),
            ("device", launch.device),
            ("grid", " x ".join(map(str, launch.grid))),
            ("first launch", f"{first * 1e3:.3f} ms, loading included"),
            (f"{len(times)} more", spread),
        ]
    )
    columns = ("argument", "given", "dtype", "shape", "changed", "min", "max", "nan")
    if rows:
        typer.echo()
        table(columns, [[row.get(column) for column in columns] for row in rows])
    dumps = [_dump_summary(d) for d in launch.dumps.values()]
    for row in dumps:
        row["shape"] = "x".join(map(str, row["shape"]))
        row |= {key: f"{row[key]:.6g}" for key in ("min", "max") if key in row}
    if dumps:
        typer.echo()
        found = ("dump", "op", "line", "python", "dtype", "shape", "min", "max", "nan")
        table(found, [[row.get(column) for column in found] for row in dumps])
