"""Direct launches: what a launch of one loaded kernel needs of the CUDA driver, prepared once.

`trlaunch.launching` uses it in two ways: natively, by the addresses of the driver's functions, and through
``cuda.bindings`` where the native launcher is not built.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from trlaunch.cuda.context import INVALID_CONTEXT
from trlaunch.cuda.status import UNKNOWN_STATUS
from trlaunch.driver import DeviceProperties, Function, LaunchConfig, PackedArguments
from trlaunch.records import dataclass, replace

if TYPE_CHECKING:
    from trlaunch.cuda.driver import CudaDriver
    from trlaunch.launch_slots import Scratch

__all__ = ["Addresses", "DirectLaunch"]

PORTABLE_CLUSTER = 8


class _Config(ctypes.Structure):
    """``CUlaunchConfig`` (cuda.h); what `DirectLaunch.template` finds in one of cuda.bindings must agree with it."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    )


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of the driver's functions, by what they are used for."""

    launch: int
    identify: int
    push: int
    pop: int
    encode: int
    owner: int

    @classmethod
    def of(cls, driver: CudaDriver) -> Addresses:
        """Ask the driver, in the flavour of default stream that ``cuda.bindings`` was started with."""
        per_thread = os.environ.get("CUDA_PYTHON_CUDA_PER_THREAD_DEFAULT_STREAM", "0") not in ("", "0")
        flag = 2 if per_thread else 0  # CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM
        names = (
            "cuLaunchKernelEx", "cuCtxGetId", "cuCtxPushCurrent", "cuCtxPopCurrent", "cuTensorMapEncodeTiled",
            "cuPointerGetAttributes",
        )  # fmt: skip
        return cls(*(driver.calls.address(name, flag) for name in names))


class DirectLaunch:
    """Launches of one kernel on one device, in one configuration but for grid and stream.

    Parameters
    ----------
    driver : CudaDriver
    function : Function
        Loaded and prepared.
    config : LaunchConfig
        Of a launch that went well.
    nbytes : int
        Size of its parameter buffer.
    """

    convention = "CONFIG_AND_BUFFER"  # of the native launcher
    parameters = None  # it needs no more than the buffer
    steps: ClassVar[dict[str, str]] = {
        "identify": "cuCtxGetId", "owner": "cuPointerGetAttributes", "enter": "cuCtxPushCurrent",
        "launch": "cuLaunchKernelEx", "leave": "cuCtxPopCurrent",
    }  # fmt: skip
    no_context = INVALID_CONTEXT
    device_type = 2  # kDLCUDA of dlpack.h
    grid_offset: int = _Config.grid.offset
    stream_offset: int = _Config.stream.offset

    def __init__(self, driver: CudaDriver, function: Function, config: LaunchConfig, nbytes: int) -> None:
        self.driver = driver
        self.function = function
        self.nbytes = nbytes
        self.config = replace(config, stream=0)
        self.made = driver.launch_config(self.config)
        self.scratch: Scratch | None = None
        self.non_portable = math.prod(config.cluster) > PORTABLE_CLUSTER

    @property
    def functions(self) -> tuple[int, int, int, int, int, int]:
        """Addresses of what launches, tells where the thread is, enters, leaves, encodes tensor maps, tells owners."""
        known = self.driver.addresses
        return known.launch, known.identify, known.push, known.pop, known.encode, known.owner

    @property
    def primary(self) -> int:
        """Handle of the device's primary context, retained."""
        return int(self.driver.contexts.primary(self.function.device.ordinal))

    def limit(self, properties: DeviceProperties) -> tuple[int, int, int]:
        """The largest grid, in CTAs along each axis."""
        return properties.max_grid

    def template(self) -> bytes | None:
        """Bytes of the ``CUlaunchConfig``; `made` owns the attributes that they point to.

        ``None`` when ``cuda.bindings`` lays the structure out in another way than is known here.
        """
        if not callable(getattr(self.made, "getPtr", None)):
            return None
        found = _Config.from_address(int(self.made.getPtr()))
        config = self.config
        agrees = (tuple(found.grid), tuple(found.block), found.shared) == (config.grid, config.block, config.shared)
        if (
            not agrees
            or found.stream
            or found.count != len(self.made.attrs or ())
            or bool(found.count) != bool(found.attributes)
        ):
            return None
        return bytes(found)

    def entries(self) -> dict[int, int]:
        """The ``CUfunction`` by the identity of the context, for the contexts in which nothing is left to allow."""
        found = self.function.handle.entries
        return {i: int(e.function) for i, e in list(found.items()) if e.non_portable_cluster or not self.non_portable}

    def stranger(self) -> int | None:
        """Identity of the thread's current context, 0 for none, where the kernel is not loaded in it."""
        current = self.driver.contexts.current_id() or 0
        return None if current in self.function.handle.entries else current

    def owns(self, ordinal: int) -> Callable[[int], bool]:
        """A function that says whether memory belongs to a device, as far as the driver knows."""
        query = self.driver.pointer_query

        def owned(address: int) -> bool:
            if not 0 < address < 2**64 or query.ask(address):  # a status is raised where the launch is explained
                return False
            return query.ordinal.value == ordinal and query.memory_type.value != 0

        return owned

    def fail(self, step: str, status: int | Exception, grid: tuple[int, int, int], stream: int) -> None:
        """Raise the error of a launch, or of what comes before or after it: `step` is a key of `steps`."""
        if step not in ("launch", "leave"):
            raise self.driver.calls.error(self.steps[step], int(status))  # type: ignore[arg-type]
        config = replace(self.config, grid=grid, stream=stream)
        raise self.driver.calls.refused(self.steps[step], status, self.function, config, self.nbytes)

    def configured(self, grid: tuple[int, int, int], stream: int) -> Any:
        """What `written` calls ``made``."""
        return self.driver.launch_config(replace(self.config, grid=grid, stream=stream))

    def written(self, pack: str) -> tuple[list[str], list[str], list[str], dict[str, Any]]:
        """For the interpreter: lines that launch, and what they name.

        Parameters
        ----------
        pack : str
            A line that packs into ``view``.

        Returns
        -------
        here : list of str
            Lines that find ``entry``: ``None`` when no context of the device is current, so that `push` has to do it.
        packing, launching : list of str
            Lines that take a buffer and pack into it, and those that launch from it in the configuration ``made``, or
            raise.
        names : dict
        """
        driver, nbytes = self.driver, self.nbytes
        bindings, parameters = driver.calls.bindings, driver.parameters
        names = {
            "identify": bindings.cuCtxGetId, "launch_kernel": bindings.cuLaunchKernelEx, "unknown": UNKNOWN_STATUS,
            "entries": self.function.handle.entries, "parameters": parameters, "extra_of": parameters.extra_of,
            "calls": driver.calls, "fail": self.fail,
        }  # fmt: skip
        here = [
            "try:",
            "    status, context_id = identify(None)",
            "except unknown as error:",
            "    raise calls.unknown('cuCtxGetId', error) from error",
            "entry = None if status else entries.get(context_id)",
        ]
        if self.non_portable:
            here += ["if entry is not None and not entry.non_portable_cluster:", "    entry = None"]
        launching = [
            "try:",
            f"    (status,) = launch_kernel(made, entry.function, None, extras.get({nbytes}) or extra_of({nbytes}))",
            "except unknown as error:",
            "    fail('launch', error, ctas, stream)",
            "if status:",
            "    fail('launch', int(status), ctas, stream)",
        ]
        return here, ["view, extras = parameters.both", pack], launching, names

    def push(self, grid: tuple[int, int, int], stream: int, data: bytes) -> None:
        """Launch from a thread whose current context is not of this device."""
        self.driver.launch(self.function, replace(self.config, grid=grid, stream=stream), PackedArguments(data))
