"""A stopwatch of two events, for the time a device spends on what lies between them."""

from __future__ import annotations

from typing import Any

from trlaunch.cuda.context import Contexts
from trlaunch.cuda.status import Calls

__all__ = ["EventStopwatch"]


class EventStopwatch:
    """Device time between two points of a stream, by `cuEventElapsedTime`; see `trlaunch.driver.Stopwatch`.

    Parameters
    ----------
    calls : Calls
    contexts : Contexts
    ordinal, stream : int
        Where it is used.
    """

    def __init__(self, calls: Calls, contexts: Contexts, ordinal: int, stream: int) -> None:
        self._calls = calls
        self._contexts = contexts
        self._ordinal = ordinal
        self._stream = stream
        self._events: list[Any] = []
        with contexts.use(ordinal):
            for _ in range(2):
                self._events.append(calls("cuEventCreate", 0))

    def start(self) -> None:
        """Mark the beginning."""
        self._record(0)

    def stop(self) -> None:
        """Mark the end."""
        self._record(1)

    def _record(self, which: int) -> None:
        with self._contexts.use(self._ordinal):
            self._calls("cuEventRecord", self._events[which], self._stream)

    def milliseconds(self) -> float:
        """Wait for the end; milliseconds, in steps of about half a microsecond."""
        with self._contexts.use(self._ordinal):
            self._calls("cuEventSynchronize", self._events[1])
            return float(self._calls("cuEventElapsedTime", *self._events))

    def close(self) -> None:
        """Destroy the events."""
        with self._contexts.use(self._ordinal):
            while self._events:
                self._calls("cuEventDestroy", self._events.pop())
