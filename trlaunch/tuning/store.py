"""Choices kept on disk, by key, device and content, in trlaunch's cache."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trlaunch import cache
from trlaunch.driver import DeviceProperties
from trlaunch.tuning.candidate import Candidate
from trlaunch.tuning.report import Report, Result

__all__ = ["key_of", "load", "save"]

_VERSION = 1
_FILE = "choice.json"


def key_of(values: Mapping[str, Any], properties: DeviceProperties, candidates: Sequence[Candidate], how: str) -> str:
    """Key of a choice.

    Parameters
    ----------
    values : mapping
        The key values of the launch.
    properties : DeviceProperties
        Its name, target and driver count.
    candidates : sequence of Candidate
        Their contents and options count, their names and places do not.
    how : str
        What else the choice depends on: the reference and its tolerance, isolation and its time limit.
    """
    driver = ".".join(map(str, properties.driver_version or ()))
    parts = [f"autotune {_VERSION}", properties.name, str(properties.target), driver, json.dumps(values), how]
    return cache.key(*parts, *(candidate.digest for candidate in candidates))


def load(key: str, values: dict[str, Any], device: str, candidates: Sequence[Candidate]) -> Report | None:
    """The report of an earlier process under today's labels; ``None`` when there is none that can be used."""
    data = cache.get(key, _FILE)
    if data is None:
        return None
    try:
        state = json.loads(data)
        results = [Result.from_dict(item) for item in state["results"]]
        best = state["best"]
        if len(results) != len(candidates) or type(best) is not int or not 0 <= best < len(results):
            return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    named = tuple(
        Result(c.label, r.digest, r.status, r.times, r.error, r.message)
        for c, r in zip(candidates, results, strict=True)
    )
    return Report(values, device, named, candidates[best].label, cached=True)


def save(key: str, report: Report, candidates: Sequence[Candidate]) -> None:
    """Keep a report for later processes."""
    best = next(i for i, candidate in enumerate(candidates) if candidate.label == report.best)
    state = {"best": best, "key": report.key, "device": report.device, "results": [asdict(r) for r in report.results]}
    cache.put(key, {_FILE: json.dumps(state, default=str).encode()})
