"""A stopwatch of two events, for the time a device spends on what lies between them."""

from __future__ import annotations

from typing import Any

from trlaunch.hip.context import Devices
from trlaunch.hip.status import Calls

__all__ = ["EventStopwatch"]


class EventStopwatch:
    """Device time between two points of a stream, by `hipEventElapsedTime`; see `trlaunch.driver.Stopwatch`.

    Parameters
    ----------
    calls : Calls
    devices : Devices
    ordinal, stream : int
        Where it is used.
    """

    def __init__(self, calls: Calls, devices: Devices, ordinal: int, stream: int) -> None:
        self._calls = calls
        self._devices = devices
        self._ordinal = ordinal
        self._stream = stream
        self._events: list[Any] = []
        with devices.use(ordinal):
            for _ in range(2):
                self._events.append(calls("hipEventCreateWithFlags", 0))

    def start(self) -> None:
        """Mark the beginning."""
        self._record(0)

    def stop(self) -> None:
        """Mark the end."""
        self._record(1)

    def _record(self, which: int) -> None:
        with self._devices.use(self._ordinal):
            self._calls("hipEventRecord", self._events[which], self._stream)

    def milliseconds(self) -> float:
        """Wait for the end; milliseconds, in steps of about half a microsecond."""
        with self._devices.use(self._ordinal):
            self._calls("hipEventSynchronize", self._events[1])
            return float(self._calls("hipEventElapsedTime", *self._events))

    def close(self) -> None:
        """Destroy the events."""
        with self._devices.use(self._ordinal):
            while self._events:
                self._calls("hipEventDestroy", self._events.pop())
