"""A stopwatch of the host's clock: nothing is ever queued on the emulator."""

from __future__ import annotations

import time

__all__ = ["WallStopwatch"]


class WallStopwatch:
    """Time between two calls; see `trlaunch.driver.Stopwatch`."""

    def __init__(self) -> None:
        self._start = self._stop = 0.0

    def start(self) -> None:
        """Mark the beginning."""
        self._start = self._stop = time.perf_counter()

    def stop(self) -> None:
        """Mark the end."""
        self._stop = time.perf_counter()

    def milliseconds(self) -> float:
        """Milliseconds from beginning to end."""
        return (self._stop - self._start) * 1e3

    def close(self) -> None:
        """There is nothing to give back."""
