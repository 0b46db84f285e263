"""Comparing two texts of one kernel by what they compute: the values of the same Python lines, side by side.

Values are paired by Python line, operation, shape and element type, the first with the first; where the two texts have
another number of them there is nothing to pair. Locations come from Triton's own text (MLIR, "Location Information").
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trlaunch.artifact import Artifact, Level
from trlaunch.dump.choose import Candidate, candidates, dtype_of
from trlaunch.dump.plan import Where
from trlaunch.dump.read import Dump
from trlaunch.dump.request import At, at
from trlaunch.errors import ArgumentError
from trlaunch.mlir_types import split_tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Comparison", "Difference", "Pair", "compare", "pair", "tolerance"]

#: How far two values may be apart, absolutely and relative to the second: some roundings of the type.
_TOLERANCES = {
    "fp64": (1e-12, 1e-10),
    "fp32": (1e-5, 1e-4),
    "fp16": (1e-3, 1e-2),
    "bf16": (1e-2, 5e-2),
    "fp8e4nv": (1e-1, 2e-1),
    "fp8e5": (1e-1, 3e-1),
}
_BATCH = 16  # values in one launch
_SKIPPED = ("arith.constant", "argument", "tt.make_range")


@dataclass(frozen=True, slots=True)
class Pair:
    """One value in both texts, and how it is asked for; `end`: where the first text has it, behind its regions."""

    end: int
    first: Where
    second: Where
    requests: tuple[At, At]


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two values differ.

    Attributes
    ----------
    first, second : Where
    index : tuple of int
        Of the first element that differs: grid, iterations, the tensor's own axes.
    values : tuple
        Both.
    count, total : int
        How many elements differ, of how many.
    atol, rtol : float
    """

    first: Where
    second: Where
    index: tuple[int, ...]
    values: tuple[Any, Any]
    count: int
    total: int
    atol: float
    rtol: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing two texts gave.

    Attributes
    ----------
    equal : int
        Values that agree, up to the first that does not.
    difference : Difference or None
    unpaired : int
        Values that only one of the texts has.
    skipped : tuple of str
        Why pairs were left out: their loops are not the same ones.
    """

    equal: int
    difference: Difference | None
    unpaired: int
    skipped: tuple[str, ...]


def pair(first: Artifact, second: Artifact, name: str | None = None) -> tuple[list[Pair], int]:
    """The values that both texts have, in the order of the first, and how many only one of them has.

    Raises
    ------
    ArgumentError
        A level is neither TTIR nor TTGIR, or no value of one text is of a Python line of the other.
    """
    sides = []
    for artifact in (first, second):
        if artifact.level not in (Level.TTIR, Level.TTGIR):
            raise ArgumentError(f"{artifact.label} is {artifact.level}: values are compared at ttir and ttgir")
        symbol = name or (artifact.metadata.name if artifact.metadata is not None else None)
        sides.append(_by_place(candidates(artifact.text, symbol)[2]))
    pairs: list[Pair] = []
    unpaired = sum(len(side[key]) for side in sides for key in side if len(sides[0][key]) != len(sides[1][key]))
    for key, values in list(sides[0].items()):
        if len(values) == len(sides[1][key]):
            pairs += [_pair(a, b) for a, b in zip(values, sides[1][key], strict=True)]
    if not pairs:
        raise ArgumentError(
            f"{first.label} and {second.label} have no values of the same Python lines: expected two texts of one "
            f"kernel, with their locations"
        )
    return sorted(pairs, key=lambda p: p.end), unpaired


def _by_place(values: Sequence[Candidate]) -> dict[tuple[Any, ...], list[Candidate]]:
    found: dict[tuple[Any, ...], list[Candidate]] = collections.defaultdict(list)
    for candidate in values:
        where = candidate.where
        if candidate.refused or where.python is None or where.op in _SKIPPED or candidate.load is not None:
            continue
        shape, element, _ = split_tensor(candidate.stored) or ((), candidate.stored, None)
        if dtype_of(element) != "*":  # addresses are of other memory
            operation = where.op.removeprefix("ttng.").removeprefix("triton_nvidia_gpu.").removeprefix("tt.")
            operation = "dot" if operation in ("warp_group_dot", "dot_async") else operation
            found[where.python.line, operation, shape, element].append(candidate)
    return found


def _pair(first: Candidate, second: Candidate) -> Pair:
    def request(candidate: Candidate) -> At:
        where = candidate.where
        return replace(at(where.name, op=where.op, line=where.line), keep="known")

    return Pair(first.value.operation.end, first.where, second.where, (request(first), request(second)))


def compare(
    pairs: Sequence[Pair],
    unpaired: int,
    launch: Callable[[int, Sequence[At]], Mapping[str, Dump]],
    atol: float | None = None,
    rtol: float | None = None,
) -> Comparison:
    """Launch both texts with dumps of the same values, some at a time, until one differs.

    Parameters
    ----------
    pairs, unpaired
        From `pair`.
    launch : callable
        Given 0 for the first text or 1 for the second and requests, launches it on fresh arguments; the dumps.
    atol, rtol : float, optional
        How far floating-point values may be apart; left out, by their type (`tolerance`). Others are equal.
    """
    equal, skipped = 0, []
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        both = [launch(side, [replace(p.requests[side], label=str(i)) for i, p in enumerate(batch)]) for side in (0, 1)]
        for item, one, other in zip(batch, *(_ordered(dumps) for dumps in both), strict=True):
            if one.values.shape != other.values.shape:
                skipped.append(
                    f"{item.first.name} in line {item.first.line}: {one.values.shape} and {other.values.shape}"
                )
                continue
            absolute, relative = tolerance(one.dtype)
            absolute, relative = absolute if atol is None else atol, relative if rtol is None else rtol
            found = _difference(item, one, other, absolute, relative)
            if found is not None:
                return Comparison(equal, found, unpaired, tuple(skipped))
            equal += 1
    return Comparison(equal, None, unpaired, tuple(skipped))


def _ordered(dumps: Mapping[str, Dump]) -> Iterator[Dump]:
    return (dumps[str(i)] for i in range(len(dumps)))


def tolerance(dtype: str) -> tuple[float, float]:
    """How far values of a type may be apart, absolutely and relatively; 0 of types that do not round."""
    return _TOLERANCES.get(dtype, (0.0, 0.0))


def _difference(item: Pair, one: Dump, other: Dump, atol: float, rtol: float) -> Difference | None:
    import numpy as np

    a, b = one.floats, other.floats
    missing = (1,) * (a.ndim - one.written.ndim)
    apart = (one.written != other.written).reshape(one.written.shape + missing)
    if a.dtype.kind == "f":
        x, y = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore"):
            close = np.abs(x - y) <= atol + rtol * np.abs(y)
        different = ~(close | (x == y) | (np.isnan(x) & np.isnan(y))) | apart
    else:
        different = (a != b) | apart
    count = int(different.sum())
    if not count:
        return None
    index = tuple(int(n) for n in np.unravel_index(int(np.argmax(different)), different.shape))
    values = (_shown(a, one.written, index), _shown(b, other.written, index))
    return Difference(item.first, item.second, index, values, count, different.size, atol, rtol)


def _shown(values: npt.NDArray[Any], written: npt.NDArray[np.bool_], index: tuple[int, ...]) -> Any:
    """A number; ``None`` where it was not written."""
    return values[index].item() if written[index[: written.ndim]] else None
