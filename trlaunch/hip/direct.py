"""Direct launches: what a launch of one loaded kernel needs of the HIP runtime, prepared once.

`trlaunch.launching` uses it in two ways: natively, by the addresses of the runtime's functions, and through
``hip-python`` where the native launcher is not built.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trlaunch.driver import DeviceProperties, Function, LaunchConfig, PackedArguments
from trlaunch.errors import TrlaunchError
from trlaunch.hip.note import WORK_ITEMS
from trlaunch.hip.status import UNKNOWN_STATUS
from trlaunch.records import dataclass, replace

if TYPE_CHECKING:
    from trlaunch.hip.driver import HipDriver
    from trlaunch.launch_slots import Scratch

__all__ = ["Addresses", "DirectLaunch"]


_CONVENTIONS = {
    "hipModuleLaunchKernel": "NUMBERS_AND_ADDRESSES",
    "hipModuleLaunchCooperativeKernel": "COOPERATIVE_NUMBERS_AND_ADDRESSES",
    "hipDrvLaunchKernelEx": "CONFIG_AND_ADDRESSES",
}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of the runtime's functions, by what they are used for; 0 for what this libamdhip64 does not have.

    A device is identified by its ordinal, and pushed by ``hipSetDevice``, which sets the one before again, too. The
    owner of memory is told by ``hipDrvPointerGetAttributes``, which takes what ``cuPointerGetAttributes`` takes.
    """

    launch: int
    identify: int
    push: int
    pop: int
    encode: int
    owner: int
    cooperative: int
    clusters: int

    @classmethod
    def of(cls, driver: HipDriver) -> Addresses:
        """Ask the library that ``hip-python`` has loaded."""
        address = driver.calls.address
        return cls(
            launch=address("hipModuleLaunchKernel"),
            identify=address("hipGetDevice"),
            push=address("hipSetDevice"),
            pop=0,  # the one before is set
            encode=0,  # there are no tensor maps
            owner=address("hipDrvPointerGetAttributes"),
            cooperative=address("hipModuleLaunchCooperativeKernel"),
            clusters=address("hipDrvLaunchKernelEx"),
        )


class DirectLaunch:
    """Launches of one kernel on one device, in one configuration but for grid and stream.

    Parameters
    ----------
    driver : HipDriver
    function : Function
        Loaded and prepared.
    config : LaunchConfig
        Of a launch that went well.
    nbytes : int
        Size of its parameter buffer.
    """

    no_context = -1  # no status: every thread has a current device
    device_type = 10  # kDLROCM of dlpack.h

    def __init__(self, driver: HipDriver, function: Function, config: LaunchConfig, nbytes: int) -> None:
        self.driver = driver
        self.function = function
        self.nbytes = nbytes
        self.config = replace(config, stream=0)
        self.made = driver.launch_config(self.config)
        self.scratch: Scratch | None = None

    @property
    def grid_offset(self) -> int:
        """Of the grid in `template`."""
        return int(type(self.made).grid.offset)

    @property
    def stream_offset(self) -> int:
        """Of the stream in `template`."""
        return int(type(self.made).stream.offset)

    @property
    def convention(self) -> str:
        """How the function that launches is called, as the native launcher names it."""
        return _CONVENTIONS[self.call]

    @property
    def functions(self) -> tuple[int, int, int, int, int, int]:
        """Addresses of what launches, tells where the thread is, enters, leaves, encodes tensor maps, tells owners."""
        known = self.driver.addresses
        launch = {
            "hipModuleLaunchKernel": known.launch,
            "hipModuleLaunchCooperativeKernel": known.cooperative,
            "hipDrvLaunchKernelEx": known.clusters,
        }[self.call]
        return launch, known.identify, known.push, known.pop, known.encode, known.owner

    @property
    def parameters(self) -> tuple[list[int], tuple[int, int, int], int]:
        """Offsets of all parameters, block and LDS: what the calls take beside the buffer."""
        return list(self.offsets), self.config.block, self.config.shared

    @property
    def steps(self) -> dict[str, str]:
        """The functions that `fail` tells of."""
        return {
            "identify": "hipGetDevice", "owner": "hipDrvPointerGetAttributes", "enter": "hipSetDevice",
            "launch": self.call, "leave": "hipSetDevice",
        }  # fmt: skip

    @property
    def primary(self) -> int:
        """What is pushed: the device's ordinal."""
        return self.function.device.ordinal

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each parameter lies in the buffer, the hidden ones included: their addresses are ``kernelParams``."""
        found: tuple[int, ...] = self.function.handle.offsets
        return found

    @property
    def call(self) -> str:
        """Name of the function that launches."""
        return self.driver.queue(self.function, self.config)[0]

    def limit(self, properties: DeviceProperties) -> tuple[int, int, int]:
        """The largest grid, in CTAs along each axis."""
        x, y, z = properties.max_grid
        return (min(x, WORK_ITEMS // self.config.block[0]), y, z)

    def template(self) -> bytes:
        """Bytes of the ``HIP_LAUNCH_CONFIG``; `made` owns the attributes that they point to.

        ``hipDrvLaunchKernelEx`` takes it; for the other two calls grid, block, LDS and stream are in it.
        """
        return ctypes.string_at(ctypes.addressof(self.made), ctypes.sizeof(self.made))

    def entries(self) -> dict[int, int]:
        """The ``hipFunction_t`` by the ordinal of the device."""
        return {self.function.device.ordinal: self.function.handle.function}

    def stranger(self) -> int | None:
        """Ordinal of the thread's current device, where that is another one."""
        current = self.driver.devices.current()
        return None if current == self.function.device.ordinal else current

    def owns(self, ordinal: int) -> Callable[[int], bool]:
        """A function that says whether memory belongs to a device, as far as the runtime knows."""
        owner = self.driver.device_of_pointer

        def owned(address: int) -> bool:
            try:
                return owner(address) == ordinal
            except TrlaunchError:  # raised again where the launch is explained
                return False

        return owned

    def fail(self, step: str, status: int | Exception, grid: tuple[int, int, int], stream: int) -> None:
        """Raise the error of a launch, or of what comes before or after it: `step` is a key of `steps`."""
        if step not in ("launch", "leave"):
            self.driver.calls.forget_last_error()
            raise self.driver.calls.error(self.steps[step], int(status))  # type: ignore[arg-type]
        config = replace(self.config, grid=grid, stream=stream)
        raise self.driver.calls.refused(self.steps[step], status, self.function, config, self.nbytes)

    def configured(self, grid: tuple[int, int, int], stream: int) -> Any:
        """What `written` calls ``made``."""
        return self.driver.queue(self.function, replace(self.config, grid=grid, stream=stream))

    def written(self, pack: str) -> tuple[list[str], list[str], list[str], dict[str, Any]]:
        """For the interpreter: lines that launch, and what they name.

        Parameters
        ----------
        pack : str
            A line that packs into ``view``.

        Returns
        -------
        here : list of str
            Lines that find ``entry``: ``None`` when another device is current, so that `push` has to do it.
        packing, launching : list of str
            Lines that take a buffer and pack into it, and those that launch from it in the configuration ``made``, or
            raise.
        names : dict
        """
        driver, ordinal, nbytes = self.driver, self.function.device.ordinal, self.nbytes
        names = {
            "identify": driver.calls.bindings.hipGetDevice, "unknown": UNKNOWN_STATUS, "parameters": driver.parameters,
            "offsets": self.offsets, "calls": driver.calls, "devices": driver.devices, "fail": self.fail,
        }  # fmt: skip
        here = [
            "try:",
            "    status, current_device = identify()",
            "except unknown as error:",
            "    raise calls.unknown('hipGetDevice', error) from error",
            "if status:",
            "    raise devices.refused(int(status))",
            f"entry = True if current_device == {ordinal} else None",
        ]
        packing = [
            "view, arrays = parameters.both",
            "array = arrays.get(offsets)",
            f"if array is None or len(view) < {nbytes}:",
            f"    parameters.hold({nbytes})",
            "    array = parameters.array_of(offsets)",
            "    view = parameters.view",
            pack,
        ]
        launching = [
            "call, queue = made",
            "try:",
            "    (status,) = queue(array)",
            "except unknown as error:",
            "    fail('launch', error, ctas, stream)",
            "except RuntimeError as error:",
            "    raise calls.missing(call, error) from error",
            "if status:",
            "    fail('launch', int(status), ctas, stream)",
        ]
        return here, packing, launching, names

    def push(self, grid: tuple[int, int, int], stream: int, data: bytes) -> None:
        """Launch from a thread whose current device is another one."""
        self.driver.launch(self.function, replace(self.config, grid=grid, stream=stream), PackedArguments(data))
