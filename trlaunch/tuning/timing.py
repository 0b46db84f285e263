"""Timing: how long a launch takes on the device, each time with an L2 cache that holds nothing of use.

As Triton's ``do_bench`` does it: an estimate of five runs says how many fit into the time that warming up and measuring
may take; before each run memory larger than any L2 is written; events around the launch alone give its time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from trlaunch.driver import Device, Driver, Stopwatch

__all__ = ["Times", "measure"]

FLUSH_BYTES = 256 << 20
"""Memory that is written between runs: ``do_bench``'s, above the L2 of any GPU."""

_ESTIMATE, _MOST, _BATCH = 5, 1000, 32


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of the runs of one kernel.

    Attributes
    ----------
    median, best, p20, p80 : float
    runs : int
    """

    median: float
    best: float
    p20: float
    p80: float
    runs: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> Times:
        """Of one measurement a run."""
        ordered = sorted(milliseconds)
        last = len(ordered) - 1
        return cls(
            statistics.median(ordered), ordered[0], ordered[round(0.2 * last)], ordered[round(0.8 * last)], len(ordered)
        )


def measure(
    driver: Driver,
    device: Device,
    stream: int,
    launch: Callable[[], object],
    prepare: Callable[[], None],
    *,
    warmup: float = 25.0,
    rep: float = 100.0,
) -> Times:
    """Time a launch.

    Parameters
    ----------
    driver, device, stream
        Where `launch` queues.
    launch, prepare : callable
        What is timed, and what is queued before it each time, untimed.
    warmup, rep : float
        Milliseconds to spend on warming up and on measuring; at least one run each (none for warming up on the
        emulator, where there is nothing to warm).

    Raises
    ------
    DriverError
        A call of the driver failed, or a launch did.
    """
    emulated = driver.name == "emulator"
    flush = 0 if emulated else driver.allocate(FLUSH_BYTES, device.ordinal)

    def before() -> None:
        if flush:
            driver.clear(flush, FLUSH_BYTES, device.ordinal, stream)
        prepare()

    watches = [driver.stopwatch(device.ordinal, stream) for _ in range(1 if emulated else _BATCH)]
    try:
        first = _times(1 if emulated else _ESTIMATE, watches, before, launch)
        estimate = max(min(first), 1e-4)
        for _ in range(0 if emulated else max(1, min(_MOST, int(warmup / estimate)))):
            prepare()
            launch()
        wanted = max(1, min(_MOST, int(rep / estimate)))
        if emulated and wanted == 1:
            return Times.of(first)
        return Times.of(_times(wanted, watches, before, launch))
    finally:
        for watch in watches:
            watch.close()
        if flush:
            driver.synchronize(device.ordinal, stream)
            driver.free(flush, device.ordinal)


def _times(
    count: int, watches: list[Stopwatch], before: Callable[[], None], launch: Callable[[], object]
) -> list[float]:
    """Milliseconds of `count` runs; the host waits once for each batch of them."""
    found: list[float] = []
    while len(found) < count:
        batch = watches[: count - len(found)]
        for watch in batch:
            before()
            watch.start()
            launch()
            watch.stop()
        found += [watch.milliseconds() for watch in batch]
    return found
