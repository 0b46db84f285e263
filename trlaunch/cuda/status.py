"""Calls into libcuda through ``cuda.bindings``, and what their statuses mean.

Every call of the CUDA driver goes through `Calls`, so no status is dropped. The tables of codes are from the
``CUresult`` enumeration of ``cuda.h``.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trlaunch.errors import ArgumentError, DeviceUnavailable, DriverError, TrlaunchError

if TYPE_CHECKING:
    from trlaunch.driver import Function, LaunchConfig

__all__ = ["GONE", "STICKY", "UNKNOWN_STATUS", "Calls", "load_bindings"]

MINIMUM_DRIVER = (12, 0)
"""Toolkit version that a driver must serve: the first with ``cuCtxGetId``; ``cuLaunchKernelEx`` came with 11.8."""

STICKY = frozenset({214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911})
"""Statuses after which the context answers every call with the same error (``cuda.h``: "the process must be
terminated and relaunched"; ASSERT and the uncorrectable ECC and NVLink errors say the same of the context)."""

GONE = frozenset({3, 4, 201, 709})
"""NOT_INITIALIZED, DEINITIALIZED, INVALID_CONTEXT, CONTEXT_IS_DESTROYED: nothing is left that could be released."""

ADVICE = {
    3: "CUDA does not survive fork(): start worker processes with the 'spawn' method",
    200: "the image is not one this driver can read: it may be damaged or of a newer toolkit",
    201: "the calling thread has no usable CUDA context",
    209: "the image is for another architecture than the device",
    218: "the driver's compiler rejected the PTX: assemble it with ptxas to see the lines",
    222: "the PTX is newer than the driver: assemble it with ptxas, or update the driver",
    400: "a stream or event of another context or device gives this too: check which device the stream belongs to",
    701: "too many registers or threads for one block, or more parameter bytes than the kernel has",
    720: "a cooperative grid must fit on the device all at once: launch fewer blocks",
    801: "this device or driver does not support what was asked for",
    900: "this is not allowed while the stream is captured into a graph: launch once before the capture",
    906: "the legacy default stream cannot be used while another stream is captured: pass stream=",
    912: "the grid is no multiple of the cluster, or the cluster is larger than the device can schedule",
}
"""What a status usually means here, by code."""

INIT_ADVICE = {
    34: "the libcuda that was loaded is the toolkit's stub: take its folder out of LD_LIBRARY_PATH",
    100: "the driver sees no device: check nvidia-smi, the container's --gpus option and CUDA_VISIBLE_DEVICES",
    101: "CUDA_VISIBLE_DEVICES names a device that does not exist",
    304: "the driver could not open its devices: check the permissions of /dev/nvidia*",
    802: "the system is not ready: check that nvidia-fabricmanager runs",
    803: "libcuda and the kernel module are of different versions: reboot, or reinstall the driver",
    804: "the CUDA compatibility package does not support this device: take it out of LD_LIBRARY_PATH",
    999: "the kernel modules may be missing or broken: check nvidia-smi and that nvidia-uvm is loaded",
}
"""What to do when ``cuInit`` answers so, by code."""

UNKNOWN_STATUS = (ValueError, KeyError)
"""What ``cuda.bindings`` raises for a status that it has no member for (``KeyError`` in 13.0)."""

_UNKNOWN_STATUS = r"(\d+)(?: is not a valid CUresult)?"


def load_bindings() -> ModuleType:
    """Import ``cuda.bindings.driver`` (cuda-python 12.8 or newer).

    Raises
    ------
    DeviceUnavailable
        cuda-python is not installed, or so old that it has no ``cuda.bindings``.
    """
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise DeviceUnavailable(
            f"the CUDA driver needs cuda-python 12.8 or newer, and importing cuda.bindings.driver failed "
            f'({error}): pip install "trlaunch[cuda]"'
        ) from error


class Calls:
    """The driver functions by name, every status checked.

    ``calls("cuMemAlloc", 16)`` returns what the function gives beside its status: nothing, one value, or a list.

    Parameters
    ----------
    bindings : module
        ``cuda.bindings.driver``.

    Raises
    ------
    DeviceUnavailable
        libcuda cannot be loaded or initialised, it has no device, or it is older than `MINIMUM_DRIVER`.
    """

    def __init__(self, bindings: ModuleType) -> None:
        self.bindings = bindings
        try:
            status = self.status("cuInit", 0)
        except RuntimeError as error:
            raise DeviceUnavailable(_no_library(error)) from error
        except DriverError as error:  # a status that the bindings do not know
            status = error.code
        if status:
            name, text = self.describe(status)
            advice = INIT_ADVICE.get(status, "check nvidia-smi")
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            raise DeviceUnavailable(
                f"no CUDA device can be used: cuInit returned {name} ({status}: {text}); {advice}"
                + ("" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})")
            )
        version = self("cuDriverGetVersion")
        self.driver_version: tuple[int, int] = (version // 1000, version % 1000 // 10)
        if self.driver_version < MINIMUM_DRIVER:
            found, needed = (".".join(map(str, v)) for v in (self.driver_version, MINIMUM_DRIVER))
            raise DeviceUnavailable(
                f"the NVIDIA driver serves CUDA {found}, and trlaunch needs {needed} or newer: update the driver"
            )

    def __call__(self, call: str, *args: Any, detail: Callable[[], str] | None = None) -> Any:
        """Call a driver function and return its results.

        Parameters
        ----------
        call : str
            For example ``"cuMemAlloc"``.
        detail : callable, optional
            Gives, when the call failed, what the message says beside the status.

        Raises
        ------
        DriverError
            The status is not ``CUDA_SUCCESS``.
        """
        status, *results = self._raw(call, args)
        if status:
            try:
                more = detail() if detail else ""
            except DriverError as error:
                more = f"and then, while asking for more: {error}"
            raise self.error(call, int(status), more)
        return results if len(results) > 1 else results[0] if results else None

    def status(self, call: str, *args: Any) -> int:
        """Call a driver function for its status alone, which the caller must look at."""
        return int(self._raw(call, args)[0])

    def query(self, call: str, *args: Any) -> tuple[int, Any]:
        """Status and result of a driver function whose failure is an answer; the caller must look at the status."""
        status, *results = self._raw(call, args)
        return int(status), results[0]

    def address(self, call: str, flags: int = 0) -> int:
        """Address of a driver function; `flags` are ``CUdriverProcAddress_flags``."""
        major, minor = MINIMUM_DRIVER
        found, _ = self("cuGetProcAddress", call.encode(), major * 1000 + minor * 10, flags)
        return int(found)

    def _raw(self, call: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            results: tuple[Any, ...] = getattr(self.bindings, call)(*args)
        except UNKNOWN_STATUS as error:
            raise self.unknown(call, error) from error
        except OverflowError as error:
            raise ArgumentError(f"a number is out of the range that {call} takes: {error}") from error
        return results

    def unknown(self, call: str, error: Exception, detail: str = "") -> TrlaunchError:
        """The error for a status that ``cuda.bindings`` is too old to have in its enumeration.

        The bindings turn every status into an enumeration member and raise one of `UNKNOWN_STATUS` where there is none.
        """
        match = re.fullmatch(_UNKNOWN_STATUS, str(error))
        if match is None:
            return ArgumentError(f"cuda-python refused the arguments of {call}: {error}")
        return self.error(call, int(match[1]), detail)

    def refused(
        self, call: str, status: int | Exception, function: Function, config: LaunchConfig, nbytes: int
    ) -> TrlaunchError:
        """The error for a launch that failed: with a status, or with what the bindings raise for one that they lack."""
        detail = f"launching {function.name!r} on {function.device} with {config} and {nbytes} bytes of parameters"
        if isinstance(status, Exception):
            return self.unknown(call, status, detail)
        return self.error(call, status, detail)

    def error(self, call: str, status: int, detail: str = "") -> DriverError:
        """The exception for a failed call: code, name, the driver's description, and what it usually means."""
        name, text = self.describe(status)
        message = f"{call} returned {name} ({status}: {text})"
        if status in STICKY:
            message += (
                "; the CUDA context is dead and answers every call so until the process ends, and an earlier launch "
                "may be the cause: CUDA_LAUNCH_BLOCKING=1 reports it at the launch that failed"
            )
        elif status in ADVICE:
            message += f"; {ADVICE[status]}"
        if detail:
            message += f"\n{detail}"
        return DriverError(message, call=call, code=status, name=name)

    def describe(self, status: int) -> tuple[str, str]:
        """Name and description of a status, in the driver's own words."""
        try:
            member = self.bindings.CUresult(status)
        except ValueError:
            return f"CUDA_ERROR_{status}", "a status that this cuda-python does not know: update it"
        texts = []
        for call in ("cuGetErrorName", "cuGetErrorString"):
            answer, text = getattr(self.bindings, call)(member)
            # An older driver has no text for a newer status; the name is then the bindings' own.
            texts.append(text.decode(errors="replace") if not answer and text else str(member.name))
        return texts[0], texts[1]


def _no_library(error: RuntimeError) -> str:
    """Why libcuda could not be loaded: what was looked for, where, and what to do."""
    searched = os.environ.get("LD_LIBRARY_PATH")
    where = f"LD_LIBRARY_PATH={searched}, " if searched else ""
    if Path("/proc/driver/nvidia/version").exists():
        advice = "the kernel module is loaded: in a container, start it with --gpus all (NVIDIA Container Toolkit)"
    else:
        advice = "install the NVIDIA driver, or use device='emulator'"
    reason = " ".join(str(error).split())
    return (
        f"libcuda.so.1 could not be used: it was looked for in {where}the linker's cache and the default library "
        f"folders ({reason}); {advice}"
    )
