"""Loaded modules: one image, loaded once on each device that uses it."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from trlaunch.errors import DriverError
from trlaunch.hip.context import Devices
from trlaunch.hip.status import GONE, STICKY
from trlaunch.image import ImageKernel

__all__ = ["Entry", "Module"]


class Entry:
    """A kernel on one device.

    Attributes
    ----------
    function : int
        The ``hipFunction_t``.
    offsets : tuple of int
        Where each parameter lies in the buffer: the runtime is given their addresses one by one, and takes as many
        bytes of each as the image states.
    """

    __slots__ = ("function", "offsets")

    def __init__(self, function: int, offsets: tuple[int, ...]) -> None:
        self.function = function
        self.offsets = offsets


class Module:
    """One image and the modules made from it, one a device.

    Parameters
    ----------
    devices : Devices
    data : bytes
        An hsaco.
    """

    def __init__(self, devices: Devices, data: bytes) -> None:
        self.data = data
        self._devices = devices
        self._calls = devices.calls
        self._lock = threading.RLock()
        self._entries: dict[tuple[str, int], Entry] = {}
        self._loaded: dict[int, Any] = {}
        # Not at interpreter exit: the process takes its modules with it, and libamdhip64 may already be shut down.
        weakref.finalize(self, _unload, devices, self._loaded).atexit = False

    def entry(self, kernel: ImageKernel, ordinal: int) -> Entry:
        """`kernel` on a device, which is current; loaded when this is its first use.

        Raises
        ------
        DriverError
            The runtime cannot load the image or has no kernel of that name.
        """
        with self._lock:
            entry = self._entries.get((kernel.name, ordinal))
            if entry is None:
                function = self._calls(
                    "hipModuleGetFunction",
                    self._load(ordinal),
                    kernel.name.encode(),
                    detail=lambda: f"looking for kernel {kernel.name!r}",
                )
                entry = Entry(int(function), tuple(param.offset for param in kernel.params))
                self._entries[kernel.name, ordinal] = entry
            return entry

    def _load(self, ordinal: int) -> Any:
        """The ``hipModule_t`` on the current device."""
        module = self._loaded.get(ordinal)
        if module is None:
            module = self._loaded[ordinal] = self._calls(
                "hipModuleLoadData",
                self.data,
                detail=lambda: f"loading {len(self.data)} bytes on hip:{ordinal}",
            )
        return module


def _unload(devices: Devices, loaded: dict[int, Any]) -> None:
    """Unload modules that nothing refers to any more, in whichever thread dropped the last reference."""
    if os.getpid() != devices.process:
        return  # after fork() the modules belong to the parent
    for ordinal, module in loaded.items():
        try:
            with devices.use(ordinal):
                devices.calls("hipModuleUnload", module)
        except DriverError as error:
            # A dead device was reported to whoever used it.
            if error.code not in GONE | STICKY:
                raise
