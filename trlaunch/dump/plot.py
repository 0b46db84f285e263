"""Heat maps of dumps (matplotlib, the extra ``plot``): one picture of a dump, NaN and infinities marked in it."""

from __future__ import annotations

import io
import itertools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trlaunch.errors import ArgumentError, DeviceUnavailable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trlaunch.dump.read import Dump

__all__ = ["MARKS", "panels", "plot"]

MAX_PANELS = 64
_MARKED = 2000  # that many of a kind have a cross of their own: a pixel of a large picture is not seen
# What is no number: its colour, which the colour map does not have.
MARKS = {"NaN": "#ff2020", "+Inf": "#ff40ff", "-Inf": "#40e0ff", "not written": "#d0b48c"}


def panels(dump: Dump) -> tuple[list[tuple[tuple[int, ...], npt.NDArray[Any], npt.NDArray[np.bool_]]], int]:
    """A dump as pictures of two axes.

    Returns
    -------
    list of (index, values, written)
        The index of the axes before the last two; values as float64; which of them were written.
    int
        How many there are; the list has the first `MAX_PANELS`.
    """
    import numpy as np

    values = dump.floats.astype(np.float64)
    missing = values.ndim - dump.written.ndim
    written = np.broadcast_to(dump.written.reshape(dump.written.shape + (1,) * missing), values.shape)
    while values.ndim < 2:  # a row
        values, written = values[None], written[None]
    leading = values.shape[:-2]
    chosen = itertools.islice(np.ndindex(leading), MAX_PANELS)
    return [(index, values[index], written[index]) for index in chosen], math.prod(leading)


def plot(dump: Dump, path: str | Path) -> Path:
    """Write a heat map as PNG.

    The last two axes are a picture: a tensor's own, where it has two; of a vector programs or iterations are the rows.
    The axes before them are one picture beside the other, with their index.

    Parameters
    ----------
    dump : Dump
    path : path
        Of the file; ``.png`` is added where it has no extension.

    Raises
    ------
    DeviceUnavailable
        matplotlib is not installed.
    ArgumentError
        The dump has no elements, or the file cannot be written.
    """
    try:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise DeviceUnavailable(
            f"heat maps need matplotlib, which cannot be imported ({error}): pip install 'trlaunch[plot]'"
        ) from None
    import numpy as np

    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    if not dump.values.size:
        raise ArgumentError(f"dump {dump.key!r} has shape {dump.values.shape}: there is nothing to plot")
    shown, count = panels(dump)
    numbers = np.concatenate([values[written & np.isfinite(values)] for _, values, written in shown])
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    colours = ScalarMappable(Normalize(low, high if high > low else low + 1.0), "viridis")
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    side = 5.0 if len(shown) == 1 else 3.0 if len(shown) <= 9 else 1.8
    # Margins in inches: matplotlib's own layouts take a minute for 64 pictures.
    width, height = side * columns + 1.8, side * rows + 1.4
    figure = Figure((width, height), dpi=120)
    figure.subplots_adjust(0.5 / width, 0.7 / height, 1 - 1.2 / width, 1 - 0.7 / height, 0.25, 0.25)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    found = dict.fromkeys(MARKS, 0)
    for axis, (index, values, written) in zip(axes, shown, strict=False):
        picture = colours.to_rgba(np.where(written & np.isfinite(values), values, low))[..., :3]
        kinds = (np.isnan(values) & written, (values == np.inf) & written, (values == -np.inf) & written, ~written)
        for (name, colour), mask in zip(MARKS.items(), kinds, strict=True):
            places = int(mask.sum())
            found[name] += places
            if not places:
                continue
            picture[mask] = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
            if places <= _MARKED and name != "not written":
                y, x = np.nonzero(mask)
                axis.scatter(x, y, marker="x", s=18, c=colour, linewidths=0.8)
        axis.imshow(picture, interpolation="nearest", aspect="auto")
        axis.tick_params(labelsize=6)
        if len(shown) > 9:
            axis.set_xticks([])
            axis.set_yticks([])
        if index:
            axis.set_title(", ".join(map(str, index)), fontsize=7)
    for axis in axes[len(shown) :]:
        axis.axis("off")
    bar = figure.add_axes((1 - 1.0 / width, 0.7 / height, 0.2 / width, 1 - 1.4 / height))
    figure.colorbar(colours, cax=bar).ax.tick_params(labelsize=7)
    marks = [Patch(color=MARKS[name], label=f"{name}: {n}") for name, n in found.items() if n]
    if marks:
        figure.legend(handles=marks, loc="lower center", ncols=len(marks), fontsize=7)
    figure.suptitle(_title(dump, len(shown), count), y=1 - 0.08 / height, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    except OSError as error:
        raise ArgumentError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _title(dump: Dump, shown: int, count: int) -> str:
    where = dump.where
    shape = " x ".join(map(str, dump.values.shape))
    place = f"line {where.line}" + (f", {where.python}" if where.python is not None else "")
    some = "" if shown == count else f"; the first {shown} of {count} pictures"
    # A dollar sign begins mathematics in matplotlib, and the names of registers have one.
    return f"{dump.key}: {where.op}, {place}\n{dump.dtype}, {shape}{some}".replace("$", r"\$")
