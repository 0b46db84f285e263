"""What bad means: an oracle takes the `Outcome` of a launch, or the figures of a build, and gives a `Verdict`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trlaunch.bisection.engine import Verdict
from trlaunch.errors import ArgumentError
from trlaunch.investigate.arrays import load_arrays
from trlaunch.investigate.isolation import run
from trlaunch.investigate.trial import Outcome, Trial

__all__ = ["Crashes", "Differs", "Exceeds", "Hangs", "Launch", "Oracle", "Slower", "difference"]

Oracle = Callable[[Outcome], Verdict]

#: What ended before the kernel did says nothing about the kernel.
_NOT_TRIED = ("refused", "timeout")
_DIED = ("error", "fault", "killed", "hang")


def _not_tried(outcome: Outcome) -> Verdict | None:
    if outcome.status not in _NOT_TRIED:
        return None
    why = outcome.error.message.partition("\n")[0] if outcome.error else outcome.status
    return Verdict("skip", why, seconds=outcome.seconds)


def _died(outcome: Outcome) -> Verdict:
    error = outcome.error
    what = (error.name or error.kind or error.type) if error else outcome.status
    line = f" at PTX line {error.ptx_line}" if error is not None and error.ptx_line else ""
    return Verdict("bad", f"{outcome.status}: {what}{line}", seconds=outcome.seconds)


@dataclass(frozen=True, slots=True)
class Crashes:
    """Bad is a kernel that dies or does not end."""

    def __call__(self, outcome: Outcome) -> Verdict:
        """Judge an outcome."""
        if outcome.status in _DIED:
            return _died(outcome)
        return _not_tried(outcome) or Verdict("good", seconds=outcome.seconds)


@dataclass(frozen=True, slots=True)
class Hangs:
    """Bad is a kernel that does not end; one that dies of something else cannot be told."""

    def __call__(self, outcome: Outcome) -> Verdict:
        """Judge an outcome."""
        if outcome.status == "hang":
            return _died(outcome)
        if outcome.status in _DIED:
            return Verdict("skip", _died(outcome).detail, seconds=outcome.seconds)
        return _not_tried(outcome) or Verdict("good", seconds=outcome.seconds)


@dataclass(frozen=True)
class Differs:
    """Bad is an output beyond a tolerance, or a kernel that dies.

    Attributes
    ----------
    reference : mapping of str to ndarray
        What tensors should be by argument name (``arg0`` where there are no names); others are not looked at.
    rtol, atol : float
        As for `numpy.isclose`; NaN equals NaN.
    """

    reference: Mapping[str, Any] = field(repr=False)
    rtol: float = 1e-2
    atol: float = 1e-2

    @classmethod
    def from_file(cls, path: str | Path, rtol: float = 1e-2, atol: float = 1e-2) -> Differs:
        """Take the reference from an ``.npz`` file, such as ``trlaunch run --save`` writes."""
        return cls(load_arrays(Path(path)), rtol, atol)

    def __call__(self, outcome: Outcome) -> Verdict:
        """Judge an outcome.

        Raises
        ------
        ArgumentError
            The kernel has no such output, or one of another shape.
        """
        if outcome.status in _DIED:
            return _died(outcome)
        skipped = _not_tried(outcome)
        if skipped is not None:
            return skipped
        worst, details = 0.0, []
        for name, wanted in self.reference.items():
            if name not in outcome.outputs:
                raise ArgumentError(
                    f"the reference has {name!r}, which is no output of the kernel: it has "
                    f"{', '.join(outcome.outputs) or 'none'}"
                )
            wrong, error, text = difference(outcome.outputs[name], wanted, self.rtol, self.atol)
            worst = max(worst, error)
            if wrong:
                details.append(f"{name}: {text}")
        return Verdict("bad" if details else "good", "; ".join(details), {"max error": f"{worst:.3g}"}, outcome.seconds)


def difference(found: Any, wanted: Any, rtol: float, atol: float) -> tuple[int, float, str]:
    """Elements beyond the tolerance, the largest absolute error, and the first of them in words."""
    a, b = np.asarray(found), np.asarray(wanted)
    if a.shape != b.shape:
        raise ArgumentError(f"an output has shape {a.shape}, its reference {b.shape}: expected the same")
    if not a.size:
        return 0, 0.0, ""
    kind = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
    x, y = a.astype(kind), b.astype(kind)
    with np.errstate(all="ignore"):
        wrong = ~np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=True)
        error = np.abs(x - y)
    finite = error[np.isfinite(error)]
    count = int(wrong.sum())
    text = ""
    if count:
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        text = f"{count} of {a.size} elements differ, the first at {list(at)}: {a[at]!s} instead of {b[at]!s}"
    return count, float(finite.max()) if finite.size else 0.0, text


@dataclass(frozen=True, slots=True)
class Slower:
    """Bad is a kernel that takes longer than a limit.

    Attributes
    ----------
    seconds : float
        The limit for one launch, device included.
    """

    seconds: float

    def __call__(self, outcome: Outcome) -> Verdict:
        """Judge an outcome."""
        if outcome.status in _DIED:
            return Verdict("skip", _died(outcome).detail, seconds=outcome.seconds)
        skipped = _not_tried(outcome)
        if skipped is not None or outcome.kernel_seconds is None:
            return skipped or Verdict("skip", "the kernel was not timed", seconds=outcome.seconds)
        took = outcome.kernel_seconds
        values = {"kernel ms": round(took * 1e3, 4)}
        state: Any = "bad" if took > self.seconds else "good"
        return Verdict(state, f"{took * 1e3:.3f} ms", values, outcome.seconds)


@dataclass(frozen=True, slots=True)
class Exceeds:
    """Bad is a build with more of something: ``Exceeds("registers", 64)``.

    Attributes
    ----------
    what : str
        A name of `trlaunch.diff`'s resources: ``"registers"``, ``"spill instructions"``, ``"dynamic shared bytes"``,
        ``"local bytes"``, ``"instructions"``.
    limit : int or None
        ``None``: what the first candidate has.
    """

    what: str
    limit: int | None = None

    def judge(self, resources: Mapping[str, int], seconds: float, shown: Sequence[str] = ()) -> Verdict:
        """Judge a build by its resources; those in `shown` come along in the table."""
        if self.limit is None:
            raise ArgumentError("a limit is needed to judge a build: Exceeds('registers', 64)")
        if self.what not in resources:
            known = ", ".join(resources) or "nothing"
            return Verdict("skip", f"the build does not state {self.what!r}; it states {known}", seconds=seconds)
        value = resources[self.what]
        values = {name: resources.get(name) for name in dict.fromkeys((self.what, *shown))}
        more = value > self.limit
        return Verdict("bad" if more else "good", f"{value} > {self.limit}" if more else "", values, seconds)


@dataclass(frozen=True, slots=True)
class Launch:
    """The trial of a candidate that is one launch."""

    trial: Trial
    oracle: Oracle
    timeout: float = 60.0

    def __call__(self, device: str | None) -> Verdict:
        """Run it in a process of its own."""
        trial = self.trial if device is None else replace(self.trial, device=device)
        return self.oracle(run(trial, self.timeout))
