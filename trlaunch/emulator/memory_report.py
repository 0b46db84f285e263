"""Memory maps as tables, JSON, .npz files and pictures."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.instructions.base import Array
from trlaunch.errors import ArgumentError, DeviceUnavailable

if TYPE_CHECKING:
    from trlaunch.emulator.memory_maps import ArgumentMap, InstructionMap, MemoryMap

__all__ = ["as_dict", "as_text", "pixels", "plot", "save"]

_KINDS = ("reads", "writes", "atomics")
#: Pixels of a heat map along an axis; larger arrays are drawn with the maximum of each block.
_PIXELS = 1024
_WIDTH = 64
#: Instructions of each space that are drawn.
_BARS = 80


def _columns(header: list[str], rows: list[list[str]]) -> list[str]:
    every = [header, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    numeric = [all(re.match(r"[\d.%]*\Z", row[i]) for row in rows) for i in range(len(header))]
    return [
        "  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)).rstrip()
        for row in every
    ]


def _touched(counts: Array) -> str:
    """Accesses, and how many elements they went to."""
    total = int(counts.sum())
    return f"{total}" if not total else f"{total} to {int((counts > 0).sum())}"


def as_text(found: MemoryMap) -> str:
    """A table of the arguments, one of the instructions on global memory, one of those on shared memory."""
    rows = [
        [
            a.name, a.dtype, "x".join(map(str, a.reads.shape)), *(_touched(getattr(a, kind)) for kind in _KINDS),
            f"{a.requests}", f"{a.sectors_per_request:.2f}", f"{a.efficiency:.0%}",
        ]
        for a in found.arguments.values()
    ]  # fmt: skip
    header = ["argument", "dtype", "shape", *_KINDS, "requests", "sectors/request", "useful"]
    lines = [f"{found.kernel}, grid {found.grid[0]} x {found.grid[1]} x {found.grid[2]}"]
    lines += ["", *_columns(header, rows)] if rows else []
    on_global = [i for i in found.instructions if i.space == "global"]
    if on_global:
        header = ["PTX", "source", "kind", "argument", "requests", "sectors/request", "useful", "instruction"]
        rows = [
            [
                f"{i.line}", _short(i.source), i.kind, i.argument, f"{i.requests}", f"{i.sectors_per_request:.2f}",
                f"{i.efficiency:.0%}", i.text[:_WIDTH],
            ]
            for i in on_global
        ]  # fmt: skip
        lines += ["", "global memory", *_columns(header, rows)]
    shared = [i for i in found.instructions if i.space == "shared"]
    if shared:
        header = ["PTX", "source", "kind", "requests", "wavefronts", "without conflicts", "degree", "instruction"]
        rows = [
            [
                f"{i.line}", _short(i.source), i.kind, f"{i.requests}", f"{i.wavefronts}", f"{i.ideal}", f"{i.degree}",
                i.text[:_WIDTH],
            ]
            for i in shared
        ]  # fmt: skip
        lines += ["", "shared memory", *_columns(header, rows)]
    return "\n".join(lines)


def _short(source: str) -> str:
    return source.replace("\\", "/").rpartition("/")[2]


def _argument(a: ArgumentMap) -> dict[str, Any]:
    described: dict[str, Any] = {"name": a.name, "dtype": a.dtype, "shape": list(a.reads.shape)}
    for kind in _KINDS:
        counts = getattr(a, kind)
        described[kind] = {
            "total": int(counts.sum()), "elements": int((counts > 0).sum()), "most": int(counts.max(initial=0)),
        }  # fmt: skip
    described |= {"requests": a.requests, "sectors": a.sectors, "useful_bytes": a.useful}
    return described | {"sectors_per_request": a.sectors_per_request, "efficiency": a.efficiency}


def _instruction(i: InstructionMap) -> dict[str, Any]:
    described = {"line": i.line, "text": i.text, "source": i.source, "space": i.space, "kind": i.kind}
    described |= {"requests": i.requests, "accesses": i.accesses, "useful_bytes": i.useful}
    if i.space == "global":
        described |= {"argument": i.argument, "sectors": i.sectors, "sectors_per_request": i.sectors_per_request}
        return described | {"efficiency": i.efficiency}
    return described | {"wavefronts": i.wavefronts, "ideal_wavefronts": i.ideal, "degree": i.degree}


def as_dict(found: MemoryMap) -> dict[str, Any]:
    """Everything but the arrays."""
    return {
        "kernel": found.kernel,
        "grid": list(found.grid),
        "arguments": [_argument(a) for a in found.arguments.values()],
        "instructions": [_instruction(i) for i in found.instructions],
    }


def save(found: MemoryMap, path: Path) -> Path:
    """Write the counts of all arguments under a temporary name, and rename the file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, argument in found.arguments.items():
                for kind in _KINDS:
                    with archive.open(f"{name}.{kind}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, getattr(argument, kind), allow_pickle=False)
        temporary.replace(path)
    except OSError as error:
        raise ArgumentError(f"the memory map cannot be written to {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


# Pictures.


def pixels(counts: Array, most: int = _PIXELS) -> Array:
    """Counts as a picture of at most `most` pixels along each axis.

    Arrays of one axis are broken into rows, those of more than two are laid out row below row. Where there are more
    elements than pixels, a pixel is the maximum of a block of them; NaN where rows are filled up.
    """
    if counts.ndim < 2:
        flat = counts.reshape(-1)
        columns = min(len(flat), max(1, 1 << (len(flat).bit_length() // 2 + 1))) or 1
        rows = -(-len(flat) // columns) or 1
        filled = np.full(rows * columns, np.nan)
        filled[: len(flat)] = flat
        picture: Array = filled.reshape(rows, columns)
    else:
        picture = counts.reshape(-1, counts.shape[-1]).astype(np.float64)
    for axis in (0, 1):
        step = -(-picture.shape[axis] // most)
        if step > 1:
            edges = np.arange(0, picture.shape[axis], step)
            picture = np.fmax.reduceat(picture, edges, axis=axis)
    return picture


def plot(found: MemoryMap, folder: Path) -> list[Path]:
    """A PNG for each argument that was touched, and one of the instructions."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DeviceUnavailable("matplotlib is not installed: pip install trlaunch[plot]") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(f"{folder} cannot be made: {error.strerror or error}") from None
    written = []
    for argument in found.arguments.values():
        panels = [(kind, getattr(argument, kind)) for kind in _KINDS if getattr(argument, kind).any()]
        if panels:
            figure = Figure(figsize=(5.5 * len(panels), 5), layout="constrained")
            _heat_maps(figure, argument, panels)
            written.append(_written(figure, folder, f"{found.kernel}.{argument.name}.png"))
    charts = _charted(found)
    if charts:
        figure = Figure(figsize=(10, 1.5 + 0.22 * max(len(rows) for rows in charts.values())), layout="constrained")
        _bars(figure, charts)
        written.append(_written(figure, folder, f"{found.kernel}.instructions.png"))
    return written


def _written(figure: Any, folder: Path, name: str) -> Path:
    path = folder / re.sub(r"[^\w.-]", "_", name)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise ArgumentError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _heat_maps(figure: Any, argument: ArgumentMap, panels: list[tuple[str, Array]]) -> None:
    shape = " x ".join(map(str, argument.reads.shape)) or "scalar"
    figure.suptitle(
        f"{argument.name} ({argument.dtype}, {shape})\n"
        f"{argument.sectors_per_request:.2f} sectors a request, {argument.efficiency:.0%} of the bytes wanted"
    )
    for number, (kind, counts) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        top = int(counts.max())
        image = axes.imshow(pixels(counts), aspect="auto", interpolation="nearest", vmin=0, vmax=top, cmap="viridis")
        axes.set_title(f"{kind}: {int(counts.sum())}, at most {top} an element")
        figure.colorbar(image, ax=axes)
        if counts.ndim == 2:
            axes.set_xlabel("axis 1" + _blocks(counts.shape[1]))
            axes.set_ylabel("axis 0" + _blocks(counts.shape[0]))


def _blocks(size: int) -> str:
    step = -(-size // _PIXELS)
    return f" (blocks of {step})" if step > 1 else ""


def _charted(found: MemoryMap) -> dict[str, list[InstructionMap]]:
    """The warps' instructions by space, in the order of the text; of many, those that cost most."""
    panels: dict[str, list[InstructionMap]] = {}
    for space in ("global", "shared"):
        rows = [i for i in found.instructions if i.space == space and not i.kind.startswith("tensor")]
        costly = sorted(rows, key=lambda i: -(i.sectors + i.wavefronts))[:_BARS]
        if rows:
            panels[space] = [i for i in rows if any(i is c for c in costly)]
    return panels


def _bars(figure: Any, panels: dict[str, list[InstructionMap]]) -> None:
    """Sectors a request of global memory and turns a request of shared memory, an instruction a line."""
    for number, (space, rows) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), number)
        names = [f"{i.line} {i.kind} {i.argument}".strip() for i in rows]
        at = np.arange(len(rows))
        if space == "global":
            axes.barh(at, [i.sectors_per_request for i in rows])
            axes.set_xlabel("sectors of 32 bytes a request")
        else:
            axes.barh(at, [i.wavefronts / i.requests for i in rows], label="taken")
            axes.barh(at, [i.ideal / i.requests for i in rows], height=0.4, label="without bank conflicts")
            axes.set_xlabel("wavefronts a request")
            axes.legend(loc="upper center", ncols=2, fontsize=7, bbox_to_anchor=(0.5, -0.05 - 0.5 / len(rows)))
        axes.set_yticks(at, names, fontsize=7)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_title(f"{space} memory, by PTX line" + (f": the {_BARS} costliest" if len(rows) == _BARS else ""))
