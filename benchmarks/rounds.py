"""Ways measured in turns: what two of them are to each other while the clock may change from round to round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["ratio"]


def ratio(way: Sequence[float], base: Sequence[float]) -> float:
    """The ratio of two ways within a round, of which each has one time: the median over the rounds."""
    return statistics.median(one / other for one, other in zip(way, base, strict=True))
