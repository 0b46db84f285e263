"""Devices: the driver of a name, and the device that is used when none is named."""

from __future__ import annotations

from trlaunch.driver import Device, Driver
from trlaunch.errors import DeviceUnavailable, FallbackWarning, warn

__all__ = ["default_device", "get"]


def get(name: str) -> Driver:
    """The driver of that name, imported on first use.

    Raises
    ------
    DeviceUnavailable
        There is no such driver, or its Python package is not installed.
    """
    if name == "cuda":
        from trlaunch.cuda.driver import CudaDriver

        return CudaDriver.instance()
    if name == "emulator":
        from trlaunch.emulator.driver import EmulatorDriver

        return EmulatorDriver.instance()
    raise DeviceUnavailable(f"driver {name!r} is not available: expected cuda or emulator")


def default_device() -> Device:
    """The calling thread's current GPU; where there is none the emulator, with a `FallbackWarning` that says why."""
    try:
        cuda = get("cuda")
        if cuda.device_count() > 0:
            return Device("cuda", cuda.current_device())
        reason = "the CUDA driver sees no device"
    except DeviceUnavailable as error:
        reason = str(error)
    warn(
        f"no GPU, so the emulator is used ({reason}); device='emulator' chooses it without this warning",
        FallbackWarning,
    )
    return Device("emulator")
