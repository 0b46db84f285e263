"""The engine of every bisection: candidates in order, tried through any executor, until the first bad one is known.

A bisection can be interrupted: with ``state=`` each verdict is written to a file as soon as it is known, and a later
search over the same candidates goes on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from trlaunch.errors import ArgumentError, ArtifactError

__all__ = ["Candidate", "Search", "Verdict", "first_bad", "sweep"]

State = Literal["good", "bad", "skip"]
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial of a candidate showed.

    Attributes
    ----------
    state : {"good", "bad", "skip"}
        ``skip``: it could not be tried (it does not compile), and says nothing about the others.
    detail : str
        In words.
    values : mapping of str to object
        Figures for the table: registers, seconds.
    seconds : float
        The trial took.
    """

    state: State
    detail: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing to try.

    Attributes
    ----------
    label : str
        Unique among the candidates.
    trial : callable
        Takes a device (``"cuda:1"``, or ``None`` for the default one) and gives a `Verdict`. It must be possible to
        pickle it where the executor has processes or other machines.
    note : str
        For the table.
    """

    label: str
    trial: Callable[[str | None], Verdict]
    note: str = ""


@dataclass(slots=True)
class Search:
    """What a bisection found.

    Attributes
    ----------
    candidates : tuple of Candidate
    verdicts : dict of int to Verdict
        By index, of those that were tried.
    first : int or None
        The first bad candidate; ``None`` when none is bad. Between it and the last good one lie only `skipped` ones.
    last_good : int or None
        The last good one before it.
    trials : int
        Run by this search; verdicts that were read from its state do not count.
    """

    candidates: tuple[Candidate, ...]
    verdicts: dict[int, Verdict]
    first: int | None = None
    last_good: int | None = None
    trials: int = 0

    @property
    def found(self) -> Candidate | None:
        """The first bad candidate."""
        return None if self.first is None else self.candidates[self.first]

    @property
    def untried(self) -> bool:
        """Whether none of the candidates could be tried."""
        return all(verdict.state == "skip" for verdict in self.verdicts.values())

    @property
    def skipped(self) -> tuple[Candidate, ...]:
        """Candidates between the last good and the first bad one, none of which could be tried."""
        if self.first is None or self.last_good is None:
            return ()
        return self.candidates[self.last_good + 1 : self.first]

    @property
    def conclusion(self) -> str:
        """One sentence."""
        if self.first is None:
            skipped = [v for v in self.verdicts.values() if v.state == "skip"]
            if len(skipped) == len(self.verdicts):
                return f"no candidate could be tried: {skipped[0].detail}"
            return "no candidate is bad" + (f"; {len(skipped)} could not be tried" if skipped else "")
        name = self.candidates[self.first].label
        detail = self.verdicts[self.first].detail
        tail = f": {detail}" if detail else ""
        if self.last_good is None:
            again = any(v.state == "good" for v in self.verdicts.values())
            other = "; a later one is good, so that this row does not turn bad once: try all of it (sweep)"
            return f"already the first that could be tried, {name}, is bad{tail}{other if again else ''}"
        if self.skipped:
            return (
                f"{name} or one of the {len(self.skipped)} before it, which could not be tried, is the first bad{tail}"
            )
        return f"{name} is the first bad one{tail}"

    def rows(self) -> Iterator[tuple[int, str, str, str, Mapping[str, Any]]]:
        """Index, label, state, detail and values of each candidate that was tried, in order."""
        for i in sorted(self.verdicts):
            verdict = self.verdicts[i]
            yield i, self.candidates[i].label, verdict.state, verdict.detail, verdict.values

    def table(self) -> str:
        """A line for each candidate that was tried, and the conclusion."""
        names = list(dict.fromkeys(name for *_, values in self.rows() for name in values))
        lines = [["#", "candidate", *names, "state", "detail"]]
        for i, label, state, detail, values in self.rows():
            mark = " <-- first bad" if i == self.first else ""
            shown = ["" if values.get(name) is None else str(values[name]) for name in names]
            lines.append([str(i), label, *shown, state + mark, detail])
        widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
        text = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        count = f"{self.trials} trial{'s' if self.trials != 1 else ''} for {len(self.candidates)} candidates"
        return "\n".join([*text, f"{self.conclusion} ({count})"])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "candidates": [c.label for c in self.candidates],
            "verdicts": [
                {"index": i, "label": self.candidates[i].label, **asdict(v)} for i, v in self.verdicts.items()
            ],
            "first": self.first,
            "first_label": None if self.found is None else self.found.label,
            "last_good": self.last_good,
            "trials": self.trials,
            "conclusion": self.conclusion,
        }


Observer = Callable[[Candidate, Verdict, int, int], None]


def first_bad(
    candidates: Sequence[Candidate],
    *,
    executor: Executor | None = None,
    parallel: int = 1,
    devices: Sequence[str] = (),
    state: str | Path | None = None,
    observer: Observer | None = None,
) -> Search:
    """The first bad candidate of a row that is good at first and bad from some candidate on.

    Both ends are tried first. Of n candidates between them, about log2(n) are tried after that; with `parallel` trials
    at once, log(n) to the base ``parallel + 1`` rounds of them.

    Parameters
    ----------
    candidates : sequence of Candidate
        At least one.
    executor : concurrent.futures.Executor, optional
        Runs the trials: threads by default (a trial has a process of its own), or processes, or a cluster's executor.
        It is not shut down.
    parallel : int
        Trials at once.
    devices : sequence of str, optional
        Given to the trials in turn.
    state : path, optional
        File of the verdicts; those of an earlier search over the same candidates are taken from it.
    observer : callable, optional
        Takes each candidate, its verdict, the trials run, and an estimate of all.

    Returns
    -------
    Search

    Raises
    ------
    ArgumentError
        There is no candidate, two have one label, or `parallel` is not positive.
    ArtifactError
        The state is of another search.
    """
    run = _Run(candidates, parallel, devices, state, observer)
    with run.executor(executor):
        last = len(run.candidates) - 1
        run.try_all([0, last] if last else [0], _estimate(last))
        good = run.edge(range(last + 1), "good", stop="bad")
        if good is None:  # the first that can be tried is bad, or none can
            bad = run.edge(range(last + 1), "bad", stop="good")
            return run.search(bad, None)
        bad = run.edge(range(last, good, -1), "bad", stop="good")
        if bad is None:
            return run.search(None, max(i for i, v in run.verdicts.items() if v.state == "good"))
        while bad - good > 1:
            points = run.between(good, bad)
            if not points:
                break
            run.try_all(points, _estimate(bad - good))
            for point in points:
                verdict = run.verdicts[point].state
                if verdict == "bad":
                    bad = point
                    break
                if verdict == "good":
                    good = point
        return run.search(bad, good)


def sweep(
    candidates: Sequence[Candidate],
    *,
    executor: Executor | None = None,
    parallel: int = 1,
    devices: Sequence[str] = (),
    state: str | Path | None = None,
    observer: Observer | None = None,
) -> Search:
    """Try every candidate: for options and levels, of which some are bad in no order. Parameters as for `first_bad`."""
    run = _Run(candidates, parallel, devices, state, observer)
    with run.executor(executor):
        run.try_all(list(range(len(run.candidates))), len(run.candidates))
    bad = next((i for i, v in sorted(run.verdicts.items()) if v.state == "bad"), None)
    good = next((i for i in range((bad or 0) - 1, -1, -1) if run.verdicts[i].state == "good"), None)
    return run.search(bad, good)


def _estimate(distance: int) -> int:
    return 2 + max(distance - 1, 0).bit_length()


class _Run:
    def __init__(
        self,
        candidates: Sequence[Candidate],
        parallel: int,
        devices: Sequence[str],
        state: str | Path | None,
        observer: Observer | None,
    ) -> None:
        self.candidates = tuple(candidates)
        labels = [c.label for c in self.candidates]
        if not labels:
            raise ArgumentError("there is no candidate to try")
        if len(set(labels)) != len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ArgumentError(f"two candidates are called {twice!r}: expected a label for each")
        if parallel < 1:
            raise ArgumentError(f"parallel={parallel}: expected at least one trial at a time")
        self.parallel = parallel
        self.devices = tuple(devices)
        self.observer = observer
        self.trials = 0
        self.state = None if state is None else _State(Path(state), labels)
        self.verdicts: dict[int, Verdict] = {} if self.state is None else dict(self.state.read())
        self._executor: Executor | None = None

    @contextmanager
    def executor(self, given: Executor | None) -> Iterator[None]:
        if given is not None:
            self._executor = given
            yield
            return
        with ThreadPoolExecutor(self.parallel, thread_name_prefix="trlaunch-bisection") as own:
            self._executor = own
            yield

    def try_all(self, indices: Sequence[int], estimate: int) -> None:
        """Have a verdict of each; at most `parallel` at a time."""
        assert self._executor is not None
        left = [i for i in dict.fromkeys(indices) if i not in self.verdicts]
        running: dict[Future[Verdict], int] = {}
        try:
            while left or running:
                while left and len(running) < self.parallel:
                    index = left.pop(0)
                    device = self.devices[self.trials % len(self.devices)] if self.devices else None
                    self.trials += 1
                    running[self._executor.submit(self.candidates[index].trial, device)] = index
                # Futures of a cluster's executor need not be those of the standard library in all but one.
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    self._keep(running.pop(future), future.result(), estimate)
        finally:
            for future in running:
                future.cancel()

    def _keep(self, index: int, verdict: Verdict, estimate: int) -> None:
        self.verdicts[index] = verdict
        if self.state is not None:
            self.state.add(index, verdict)
        if self.observer is not None:
            self.observer(self.candidates[index], verdict, self.trials, max(estimate, self.trials))

    def edge(self, order: range, wanted: State, stop: State) -> int | None:
        """The first of these with the wanted verdict, trying on while they are to be skipped."""
        for index in order:
            self.try_all([index], len(self.candidates))
            state = self.verdicts[index].state
            if state == wanted:
                return index
            if state == stop:
                return None
        return None

    def between(self, good: int, bad: int) -> list[int]:
        """Points that divide what lies between evenly; those known to be skipped are passed over."""
        open_ = [i for i in range(good + 1, bad) if i not in self.verdicts or self.verdicts[i].state != "skip"]
        if not open_:
            return []
        count = min(self.parallel, len(open_))
        return sorted({open_[len(open_) * (k + 1) // (count + 1)] for k in range(count)})

    def search(self, first: int | None, last_good: int | None) -> Search:
        return Search(self.candidates, dict(sorted(self.verdicts.items())), first, last_good, self.trials)


class _State:
    """A file of JSON lines: a header that tells the search, then a verdict each."""

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self.path, self.labels = path, labels
        self.identity = hashlib.sha256("\0".join(labels).encode()).hexdigest()

    def read(self) -> Iterator[tuple[int, Verdict]]:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write({"trlaunch_bisection": _VERSION, "candidates": self.identity})
            return
        lines = self.path.read_text("utf-8", "replace").splitlines()
        header = _parsed(lines[0]) if lines else None
        if header is None or header.get("trlaunch_bisection") != _VERSION:
            raise ArtifactError(f"{str(self.path)!r} is no state of a bisection: name another file, or delete it")
        if header.get("candidates") != self.identity:
            raise ArtifactError(
                f"{str(self.path)!r} is the state of a search over other candidates: name another file, or delete it"
            )
        places = {label: i for i, label in enumerate(self.labels)}
        for line in lines[1:]:
            entry = _parsed(line)  # the last line may be cut off
            if entry is not None and entry.get("label") in places:
                yield (
                    places[entry["label"]],
                    Verdict(entry["state"], entry["detail"], entry["values"], entry["seconds"]),
                )

    def add(self, index: int, verdict: Verdict) -> None:
        self._write({"label": self.labels[index], **asdict(verdict)})

    def _write(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # an earlier search was stopped in the middle of a line
                    file.write(b"\n")
            file.write(json.dumps(entry, default=str).encode() + b"\n")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
