"""Calls into libamdhip64 through hip-python, and what their statuses mean.

Every call of the HIP driver goes through `Calls`, so no status is dropped. The tables of codes are from the
``hipError_t`` enumeration of ``hip_runtime_api.h``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trlaunch.errors import ArgumentError, DeviceUnavailable, DriverError, TrlaunchError
from trlaunch.hip.bindings import address, filled, missing_device

if TYPE_CHECKING:
    from trlaunch.driver import Function, LaunchConfig

__all__ = ["GONE", "STICKY", "UNKNOWN_STATUS", "Calls", "visible_devices"]

MINIMUM_RUNTIME = (6, 0)
"""HIP version that a runtime must have: the first with ``hipGetDevicePropertiesR0600``, which hip-python calls."""

STICKY = frozenset({700, 702, 709, 710, 719})
"""ILLEGAL_ADDRESS, LAUNCH_TIMEOUT, CONTEXT_IS_DESTROYED, ASSERT, LAUNCH_FAILURE: the device is lost to the process."""

GONE = frozenset({3, 4, 201})
"""NOT_INITIALIZED, DEINITIALIZED, INVALID_CONTEXT: nothing is left that could be released."""

ADVICE = {
    1: "a grid of no blocks, more LDS than the device has, or an address that is none give this",
    2: "free memory, or launch less at a time",
    3: "HIP does not survive fork(): start worker processes with the 'spawn' method",
    98: "the kernel was not compiled for this device",
    101: "check HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES",
    200: "the image is not one this runtime can read: it may be damaged or of a newer code-object version",
    209: "the image is for another architecture, or for other xnack or sramecc settings, than the device",
    400: "a stream or event of another device gives this too: check which device the stream belongs to",
    500: "the image has no such kernel",
    701: "too many registers or threads for one workgroup, or more threads than the kernel was compiled for",
    720: "a cooperative grid must fit on the device all at once: launch fewer blocks",
    801: "this device or runtime does not support what was asked for",
    900: "this is not allowed while the stream is captured into a graph: launch once before the capture",
    906: "the legacy default stream cannot be used while another stream is captured: pass stream=",
}
"""What a status usually means here, by code."""

UNKNOWN_STATUS = (ValueError,)
"""What hip-python raises for a status that it has no member for."""

_UNKNOWN_STATUS = re.compile(r"(\d+) is not a valid \w*hipError_t\w*")
_NO_SYMBOL = re.compile(r"failed to dlsym '?b?'?(\w+)")


class Calls:
    """The functions of the runtime by name, every status checked.

    ``calls("hipMalloc", 16)`` returns what the function gives beside its status: nothing, one value, or a list. A
    failure does not stay behind as the thread's last error, where another user of HIP in the process, such as torch,
    would take it for its own.

    Parameters
    ----------
    bindings : module
        ``hip.hip``.

    Raises
    ------
    DeviceUnavailable
        libamdhip64 cannot be initialised, it has no device, or it is older than `MINIMUM_RUNTIME`.
    """

    def __init__(self, bindings: ModuleType) -> None:
        self.bindings = bindings
        try:
            status = self.status("hipInit", 0)
        except DriverError as error:  # a status that the bindings do not know
            status = error.code
        if status:
            name, text = self.describe(status)
            raise DeviceUnavailable(
                f"no HIP device can be used: hipInit returned {name} ({status}: {text}); {missing_device()}"
                + visible_devices()
            )
        version = self("hipDriverGetVersion")  # 60443484 is 6.4: major * 10,000,000 + minor * 100,000 + patch
        self.driver_version: tuple[int, int] = (version // 10_000_000, version // 100_000 % 100)
        if self.driver_version < MINIMUM_RUNTIME:
            found, needed = (".".join(map(str, v)) for v in (self.driver_version, MINIMUM_RUNTIME))
            raise DeviceUnavailable(f"libamdhip64 is of HIP {found}, and trlaunch needs {needed} or newer: update ROCm")

    def __call__(self, call: str, *args: Any, detail: Callable[[], str] | None = None) -> Any:
        """Call a function of the runtime and return its results.

        Parameters
        ----------
        call : str
            For example ``"hipMalloc"``.
        detail : callable, optional
            Gives, when the call failed, what the message says beside the status.

        Raises
        ------
        DriverError
            The status is not ``hipSuccess``.
        """
        status, *results = self.raw(call, args)
        if status:
            try:
                more = detail() if detail else ""
            except DriverError as error:
                more = f"and then, while asking for more: {error}"
            raise self.error(call, int(status), more)
        return results if len(results) > 1 else results[0] if results else None

    def status(self, call: str, *args: Any) -> int:
        """Call a function for its status alone, which the caller must look at."""
        return int(self.raw(call, args)[0])

    def query(self, call: str, *args: Any) -> tuple[int, Any]:
        """Status and result of a function whose failure is an answer; the caller must look at the status."""
        status, *results = self.raw(call, args)
        return int(status), results[0] if results else None

    def structure(self, call: str, make: Callable[[], Any], *args: Any) -> Any:
        """The structure that a call fills; raises as calling does."""
        status, made = filled(lambda *given: self.raw(call, given), make, *args)
        if status:
            raise self.error(call, int(status))
        return made

    def address(self, call: str) -> int:
        """Address of a function in the library that hip-python has loaded; 0 where it has none of that name."""
        return address(call)

    def has(self, call: str) -> bool:
        """Whether this hip-python has a function."""
        return hasattr(self.bindings, call)

    def raw(self, call: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What hip-python returns: the status, which the caller must look at, and the results."""
        try:
            results: tuple[Any, ...] = getattr(self.bindings, call)(*args)
        except UNKNOWN_STATUS as error:
            raise self.unknown(call, error) from error
        except OverflowError as error:
            raise ArgumentError(f"a number is out of the range that {call} takes: {error}") from error
        except RuntimeError as error:
            raise self.missing(call, error) from error
        if results[0]:
            self.forget_last_error()
        return results

    def forget_last_error(self) -> None:
        """Clear the calling thread's last error; the status was looked at already."""
        with contextlib.suppress(*UNKNOWN_STATUS):
            self.bindings.hipGetLastError()  # its status is the error that is being cleared

    def unknown(self, call: str, error: Exception, detail: str = "") -> TrlaunchError:
        """The error for a status that this hip-python is too old to have in its enumeration."""
        match = _UNKNOWN_STATUS.fullmatch(str(error))
        if match is None:
            return ArgumentError(f"hip-python refused the arguments of {call}: {error}")
        self.forget_last_error()
        return self.error(call, int(match[1]), detail)

    def missing(self, call: str, error: RuntimeError) -> TrlaunchError:
        """The error for a library that could not be loaded, or that lacks a function."""
        symbol = _NO_SYMBOL.search(str(error))
        reason = " ".join(str(error).split())
        if symbol is None:
            return DeviceUnavailable(f"{call} could not be called: {reason}; {missing_device()}")
        return DeviceUnavailable(
            f"libamdhip64 has no {symbol[1]}, which {call} of this hip-python calls ({reason}): it is older than the "
            f"bindings; update ROCm, or install the hip-python of its release"
        )

    def refused(
        self, call: str, status: int | Exception, function: Function, config: LaunchConfig, nbytes: int
    ) -> TrlaunchError:
        """The error for a launch that failed: with a status, or with what the bindings raise for one that they lack."""
        detail = f"launching {function.name!r} on {function.device} with {config} and {nbytes} bytes of parameters"
        if isinstance(status, Exception):
            return self.unknown(call, status, detail)
        self.forget_last_error()
        return self.error(call, status, detail)

    def error(self, call: str, status: int, detail: str = "") -> DriverError:
        """The exception for a failed call: code, name, the runtime's description, and what it usually means."""
        name, text = self.describe(status)
        message = f"{call} returned {name} ({status}: {text})"
        if status in STICKY:
            message += (
                "; the device may answer every call so until the process ends, and an earlier launch may be the cause: "
                "AMD_SERIALIZE_KERNEL=3 reports it at the launch that failed"
            )
        elif status in ADVICE:
            message += f"; {ADVICE[status]}"
        if detail:
            message += f"\n{detail}"
        return DriverError(message, call=call, code=status, name=name)

    def describe(self, status: int) -> tuple[str, str]:
        """Name and description of a status, in the runtime's own words."""
        try:
            member = self.bindings.hipError_t(status)
        except ValueError:
            return f"hipError_{status}", "a status that this hip-python does not know: update it"
        return str(member.name), self._words(member)

    def _words(self, member: Any) -> str:
        try:
            answer, words = self.bindings.hipGetErrorString(member)
        except RuntimeError:  # the library is gone or has no such function; the name says enough
            return str(member.name)
        if answer or words is None:
            return str(member.name)
        return words.decode(errors="replace") if isinstance(words, bytes) else _c_string(words)


def _c_string(words: Any) -> str:
    """What hip-python wraps a ``const char *`` in, as text."""
    if isinstance(words, str):
        return words
    import ctypes

    return ctypes.string_at(int(words)).decode(errors="replace")


def visible_devices() -> str:
    """The variables that hide devices, where they are set, for messages."""
    names = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    found = [f"{name}={os.environ[name]!r}" for name in names if name in os.environ]
    return f" ({', '.join(found)})" if found else ""
