"""What became of the candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from trlaunch.tuning.timing import Times

__all__ = ["STATUSES", "Report", "Result"]

STATUSES = {
    "ok": "it ran, and its results agree with the reference where there is one",
    "refused": "trlaunch refused the launch: it cannot run on this device, with this grid or these arguments",
    "wrong": "its results differ from the reference",
    "fault": "the kernel died",
    "hang": "the kernel did not end within the time limit",
    "error": "a call of the driver failed",
    "killed": "its process died",
    "timeout": "its process did not come as far as the kernel",
}


@dataclass(frozen=True, slots=True)
class Result:
    """One candidate.

    Attributes
    ----------
    label : str
    digest : str
        `Candidate.digest`; empty where it could not be opened.
    status : str
        One of `STATUSES`.
    times : Times or None
    error : float or None
        The largest difference to the reference.
    message : str
        Why it is not ``"ok"``.
    """

    label: str
    digest: str
    status: str
    times: Times | None = None
    error: float | None = None
    message: str = ""

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Result:
        """What `dataclasses.asdict` made."""
        times = state.pop("times")
        return cls(**state, times=None if times is None else Times(**times))


@dataclass(frozen=True, slots=True)
class Report:
    """The candidates for one key.

    Attributes
    ----------
    key : mapping of str to object
        The values that the choice was made for.
    device : str
        Its name.
    results : tuple of Result
        In the order of the candidates.
    best : str or None
        Label of the choice; ``None`` when none is ``"ok"``.
    cached : bool
        Whether an earlier process measured this.
    """

    key: dict[str, Any]
    device: str
    results: tuple[Result, ...]
    best: str | None
    cached: bool = False

    @classmethod
    def of(cls, key: dict[str, Any], device: str, results: Sequence[Result]) -> Report:
        """Choose the least median of those that are ``"ok"``."""
        timed = [r for r in results if r.status == "ok" and r.times is not None]
        best = min(timed, key=lambda r: r.times.median if r.times else 0.0).label if timed else None
        return cls(key, device, tuple(results), best)

    def rows(self) -> list[tuple[Any, ...]]:
        """Label, status, median, 20 % and 80 % quantiles in ms, how many times the best's, runs, error, message."""
        times = {r.label: r.times for r in self.results}
        chosen = times.get(self.best or "")
        out: list[tuple[Any, ...]] = []
        for r in sorted(self.results, key=lambda r: r.times.median if r.times and r.status == "ok" else float("inf")):
            t = r.times
            slower = None if t is None or chosen is None else f"{t.median / max(chosen.median, 1e-9):.2f}"
            numbers = (None, None, None) if t is None else tuple(f"{x:.4g}" for x in (t.median, t.p20, t.p80))
            error = None if r.error is None else f"{r.error:.3g}"
            out.append((r.label, r.status, *numbers, slower, t.runs if t else None, error, r.message or None))
        return out

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "candidate",
        "status",
        "ms",
        "20 %",
        "80 %",
        "of best",
        "runs",
        "max error",
        "why",
    )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [self.COLUMNS, *([("" if cell is None else str(cell)) for cell in row] for row in self.rows())]
        kept = [i for i in range(len(self.COLUMNS)) if any(row[i] for row in rows[1:])]
        widths = {i: max(len(str(row[i])) for row in rows) for i in kept}
        return "\n".join("  ".join(str(row[i]).ljust(widths[i]) for i in kept).rstrip() for row in rows)
