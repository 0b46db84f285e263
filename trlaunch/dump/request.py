"""What a caller asks to see, as ``dump=[...]`` takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trlaunch.errors import ArgumentError

__all__ = ["At", "at", "requests"]


@dataclass(frozen=True, slots=True)
class At:
    """One value to capture; made by `at`. Comparisons have ``keep="known"``: all iterations, as far as known."""

    name: str | None = None
    op: str | None = None
    nth: int | None = None
    line: int | None = None
    python_line: int | None = None
    result: int = 0
    after: int | None = None
    keep: str | int = "all"
    programs: tuple[tuple[int, ...], ...] | str | None = None
    part: tuple[tuple[int, int] | None, ...] | None = None
    dtype: str | None = None
    label: str | None = None
    tensor: str | At | None = None

    @property
    def text(self) -> str:
        """The value as asked for: ``%acc`` or ``op=tt.reduce, nth=1``; the key of the dump without a label."""
        if self.tensor is not None and self.op is None and self.line is None and self.python_line is None:
            return self.tensor if isinstance(self.tensor, str) else self.tensor.text
        if self.name is not None and self.op is None and self.nth is None and self.line is None:
            return self.name
        fields = ("tensor", "name", "op", "nth", "line", "python_line")
        return ", ".join(f"{f}={getattr(self, f)}" for f in fields if getattr(self, f) is not None)


def at(
    name: str | None = None,
    *,
    op: str | None = None,
    nth: int | None = None,
    line: int | None = None,
    python_line: int | None = None,
    result: int = 0,
    after: int | None = None,
    keep: str | int = "all",
    programs: Sequence[Sequence[int]] | str | None = None,
    part: Sequence[Any] | None = None,
    dtype: str | None = None,
    label: str | None = None,
    tensor: str | At | None = None,
) -> At:
    """A value inside a kernel; everything given must hold of it.

    Parameters
    ----------
    name : str, optional
        As in the text: ``%acc``, ``%acc#1`` of an operation with several results, ``%f12`` in PTX.
    op : str, optional
        Operation that makes it: ``tt.reduce``; in PTX and LLIR the instruction: ``fma.rn.f32``, ``fadd``.
    nth : int, optional
        Which of those that match, in the order of the text, from 0.
    line : int, optional
        Line in the text, from 1.
    python_line : int, optional
        Line in the Python source, where the text has locations.
    result : int
        Which result of an operation with several, where no name tells.
    after : int, optional
        In TTIR and TTGIR, the line of the operation behind which it is captured; left out, what defines it. Shared
        memory is filled after its definition: behind the line of the wait it has what was copied.
    keep : {"all", "last"} or int
        Iterations of the loops around it: every one, what the last one left, or the first N of each loop.
    programs : sequence of sequence of int, or "last", optional
        Coordinates in the grid of the programs to capture: ``[(0, 0), (7, 3)]``, or the last along every axis; left
        out, all.
    part : sequence of slice or None, optional
        Part of a tensor, an entry a dimension: ``[slice(0, 8), None]``.
    dtype : str, optional
        Triton's name of the type to read the bits as: PTX keeps floats in untyped registers.
    label : str, optional
        Key of the dump; left out, the name, else what was asked.
    tensor : str or At, optional
        In LLVM IR, a tensor of the TTGIR beside it, by name or as this function finds it there: the values that are its
        registers are captured and put back into its shape. They are found by the operation and its Python line, or as
        the other settings say.

    Raises
    ------
    ArgumentError
        Nothing identifies a value, or a setting is none of those above.
    """
    if tensor is None and name is None and op is None and line is None and python_line is None:
        raise ArgumentError("trlaunch.at(): expected a name, op=, line=, python_line= or tensor=")
    if keep not in ("all", "last") and (not isinstance(keep, int) or isinstance(keep, bool) or not 0 < keep < 1 << 31):
        raise ArgumentError(f"keep={keep!r:.60}: expected 'all', 'last' or a number of iterations")
    return At(
        name, op, nth, line, python_line, result, after, keep, _programs(programs), _window(part), dtype, label, tensor
    )


def requests(dump: Any) -> tuple[At, ...]:
    """The requests of ``dump=``: one or several names and `At`.

    Raises
    ------
    ArgumentError
        Something else is among them, or two have one key.
    """
    items = (dump,) if isinstance(dump, (str, At)) else tuple(dump)
    made = []
    for item in items:
        if not isinstance(item, (str, At)):
            raise ArgumentError(f"dump= has {item!r:.60}: expected names such as '%acc' and trlaunch.at(...)")
        made.append(at(item) if isinstance(item, str) else item)
    keys = [r.label or r.text for r in made]
    for key in keys:
        if keys.count(key) > 1:
            raise ArgumentError(f"dump= has {key!r} {keys.count(key)} times: give each a label= of its own")
    if not made:
        raise ArgumentError("dump=[]: expected at least one value; leave it out to capture none")
    return tuple(made)


def _programs(programs: Sequence[Sequence[int]] | str | None) -> tuple[tuple[int, ...], ...] | str | None:
    if programs is None or programs == "last":
        return None if programs is None else "last"
    found: tuple[tuple[int, ...], ...] = ()
    if not isinstance(programs, str):
        try:
            found = tuple(tuple(int(n.__index__()) for n in p) for p in programs)
        except (TypeError, AttributeError):
            found = ()
    if not found or any(not 1 <= len(p) <= 3 or min(p) < 0 for p in found) or len({len(p) for p in found}) != 1:
        raise ArgumentError(f"programs={programs!r:.60}: expected 'last' or coordinates in the grid, [(0, 0), (7, 3)]")
    return found


def _window(parts: Sequence[Any] | None) -> tuple[tuple[int, int] | None, ...] | None:
    if parts is None:
        return None
    window: list[tuple[int, int] | None] = []
    for part in parts:
        if part is None or (isinstance(part, slice) and part == slice(None)):
            window.append(None)
        elif (
            isinstance(part, slice)
            and part.step in (None, 1)
            and isinstance(part.stop, int)
            and 0 <= (part.start or 0) < part.stop
        ):
            window.append((part.start or 0, part.stop))
        else:
            raise ArgumentError(f"part= has {part!r}: expected None or slice(start, stop) with 0 <= start < stop")
    return tuple(window)
