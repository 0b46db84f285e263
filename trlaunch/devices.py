"""Devices: the driver of a name, and the device that is used when none is named."""

from __future__ import annotations

import os
from importlib.util import find_spec

from trlaunch.driver import Device, Driver
from trlaunch.errors import DeviceUnavailable, FallbackWarning, warn

__all__ = ["default_device", "get"]

_SAID: set[str] = set()
#: Set by `trlaunch.investigate` in the processes it starts: every launch is kept in a file (`investigate.ring`).
_KEPT = bool(os.environ.get("TRLAUNCH_LAUNCH_RING"))


def get(name: str) -> Driver:
    """The driver of that name, imported on first use.

    Raises
    ------
    DeviceUnavailable
        There is no such driver, or its Python package is not installed.
    """
    driver = _get(name)
    if not _KEPT:
        return driver
    from trlaunch.investigate.ring import recording

    return recording(driver)


def _get(name: str) -> Driver:
    if name == "cuda":
        from trlaunch.cuda.driver import CudaDriver

        return CudaDriver.instance()
    if name == "hip":
        from trlaunch.hip.driver import HipDriver

        return HipDriver.instance()
    if name == "emulator":
        from trlaunch.emulator.driver import EmulatorDriver

        return EmulatorDriver.instance()
    raise DeviceUnavailable(f"driver {name!r} is not available: expected cuda, hip or emulator")


def default_device(backend: str | None = None) -> Device:
    """Where a kernel runs that was told no device.

    The calling thread's current GPU, an NVIDIA one before an AMD one; where there is none the emulator, with a
    `FallbackWarning` that says why, once in a process.

    Parameters
    ----------
    backend : {"cuda", "hip"}, optional
        What the kernel was compiled for: a GPU of that vendor alone. The emulator does not execute code for AMD.

    Raises
    ------
    DeviceUnavailable
        The kernel is for AMD, and there is no AMD GPU.
    """
    reasons = []
    for name in ("cuda", "hip") if backend is None else (backend,):
        try:
            driver = get(name)
            if driver.device_count() > 0:
                return Device(name, driver.current_device())
            reasons.append(f"the {'CUDA driver' if name == 'cuda' else 'HIP runtime'} sees no device")
        except DeviceUnavailable as error:
            if backend == "hip":
                raise
            # Who has no hip-python does not wait for an AMD GPU.
            if name == "cuda" or find_spec("hip") is not None:
                reasons.append(str(error).partition("\n")[0].partition(": ")[0])  # without where it was looked for
    if backend == "hip":
        raise DeviceUnavailable(f"the kernel is for an AMD GPU, and {reasons[0]}")
    message = (
        f"no GPU, so the emulator is used ({'; '.join(reasons)}); device='emulator' chooses it without this warning"
    )
    if message not in _SAID:  # once is enough, at whatever line
        _SAID.add(message)
        warn(message, FallbackWarning)
    return Device("emulator")
