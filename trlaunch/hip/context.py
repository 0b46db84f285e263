"""HIP devices: have the right one current for the length of a call, and leave no trace.

HIP has no contexts of the user's own: each thread has a current device, device 0 at first.
"""

from __future__ import annotations

import os
from types import TracebackType

from trlaunch.errors import DeviceUnavailable, DriverError
from trlaunch.hip.status import UNKNOWN_STATUS, Calls, visible_devices

__all__ = ["Devices"]

NO_DEVICE = 100


class Devices:
    """The devices of this process, by ordinal."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.process = os.getpid()
        status, count = calls.query("hipGetDeviceCount")
        if status not in (0, NO_DEVICE):
            raise calls.error("hipGetDeviceCount", status)
        self.count = 0 if status else int(count)

    def device(self, ordinal: int) -> int:
        """The ordinal itself, where there is such a device.

        Raises
        ------
        DeviceUnavailable
            There is no device of that ordinal.
        """
        if not 0 <= ordinal < self.count:
            count = self.count
            raise DeviceUnavailable(
                f"there is no hip:{ordinal}: the runtime has {count} device{'s' * (count != 1)}"
                + (f", hip:0 to hip:{count - 1}" if count > 1 else ", hip:0" if count else "")
                + visible_devices()
            )
        return ordinal

    def current(self) -> int:
        """Ordinal of the calling thread's current device."""
        # Every launch comes through here: the binding is called directly.
        try:
            status, ordinal = self.calls.bindings.hipGetDevice()
        except UNKNOWN_STATUS as error:
            raise self.calls.unknown("hipGetDevice", error) from error
        if status:
            raise self.refused(int(status))
        found: int = ordinal
        return found

    def refused(self, status: int) -> DriverError:
        """The exception for a thread whose current device the runtime does not tell."""
        self.calls.forget_last_error()
        return self.calls.error("hipGetDevice", status)

    def use(self, ordinal: int) -> _Use:
        """Have a device current inside a ``with`` block; the thread's own is current again behind it."""
        return _Use(self, ordinal)


class _Use:
    """The block of `Devices.use`; a class, because a generator costs a microsecond more in every launch."""

    __slots__ = ("_devices", "_ordinal", "_previous")

    def __init__(self, devices: Devices, ordinal: int) -> None:
        self._devices = devices
        self._ordinal = ordinal
        self._previous: int | None = None

    def __enter__(self) -> None:
        current = self._devices.current()
        if current != self._ordinal:
            self._devices.calls("hipSetDevice", self._devices.device(self._ordinal))
            self._previous = current

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            try:
                self._devices.calls("hipSetDevice", self._previous)
            except DriverError as second:
                if error is None:
                    raise
                # What failed first is what the caller must see; the second failure is told with it.
                error.args = (f"{error}; then {second}", *error.args[1:])
