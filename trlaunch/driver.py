"""Driver: what loads and launches. ``cuda``, ``hip`` and ``emulator`` have the same few functions each.

A driver receives the packed parameter bytes and never learns types; `trlaunch.devices` finds the driver of a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from trlaunch.errors import DeviceUnavailable
from trlaunch.image import Image
from trlaunch.records import dataclass, field
from trlaunch.target import Target

__all__ = [
    "Buffer",
    "Device",
    "DeviceProperties",
    "Driver",
    "Function",
    "LaunchConfig",
    "PackedArguments",
    "Stopwatch",
]


@dataclass(frozen=True, slots=True)
class Device:
    """A device by driver and ordinal; ``str`` gives ``cuda:1`` or ``emulator``."""

    driver: str
    ordinal: int = 0

    @classmethod
    def parse(cls, text: str | Device) -> Device:
        """Read ``"cuda"``, ``"cuda:1"``, ``"hip:0"`` or ``"emulator"``.

        Raises
        ------
        DeviceUnavailable
            The text is none of these forms.
        """
        if isinstance(text, Device):
            return text
        driver, colon, ordinal = text.partition(":") if isinstance(text, str) else ("", "", "")
        known = (driver in ("cuda", "hip") and (not colon or ordinal.isdecimal())) or text == "emulator"
        if not known:
            raise DeviceUnavailable(f"device {text!r} is not understood: expected cuda, cuda:<n>, hip:<n> or emulator")
        return cls(driver, int(ordinal or 0))

    def __str__(self) -> str:
        return self.driver if self.driver == "emulator" else f"{self.driver}:{self.ordinal}"


@dataclass(frozen=True, slots=True)
class DeviceProperties:
    """What the audit before a launch needs to know of a device. Sizes in bytes.

    ``driver_version`` is the newest toolkit the driver serves, as ``(13, 0)``; the emulator has none.
    """

    device: Device
    name: str
    target: Target
    max_threads_per_block: int = 1024
    max_shared: int = 49152
    max_shared_optin: int = 49152
    max_grid: tuple[int, int, int] = (2**31 - 1, 65535, 65535)
    multiprocessors: int = 1
    supports_clusters: bool = False
    driver_version: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """How a kernel is launched: everything but its arguments.

    Attributes
    ----------
    grid : tuple of int
        CTAs along x, y, z, as the driver is given it (a multiple of `cluster`).
    block : tuple of int
        Threads along x, y, z.
    cluster : tuple of int
        CTAs per cluster.
    shared : int
        Dynamic shared memory in bytes.
    cooperative, pdl : bool
        Cooperative launch; programmatic dependent launch.
    stream : int
        Stream handle; 0 is the default stream.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    cluster: tuple[int, int, int] = (1, 1, 1)
    shared: int = 0
    cooperative: bool = False
    pdl: bool = False
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory that an argument refers to: `nbytes` bytes from `address`, and the parameter that brought it.

    What a tensor says of itself goes along for those who look at the launch: `dtype` (Triton's name), `shape`, and
    `strides` in elements; empty where it says nothing.
    """

    address: int
    nbytes: int
    name: str
    read_only: bool = False
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


@dataclass(slots=True)
class PackedArguments:
    """The parameter buffer of one launch, laid out as the image says, and the memory it refers to.

    `keep` holds what must live until the kernel was launched (exported capsules, encoded descriptors).
    """

    data: bytes
    buffers: Sequence[Buffer] = ()
    keep: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Function:
    """A kernel loaded on one device: what `Driver.launch` takes. `handle` and `module` belong to the driver."""

    device: Device
    name: str
    handle: Any
    module: Any


class Stopwatch(Protocol):
    """What `Driver.stopwatch` gives: the time a device spends between two points of a stream. It may be used again."""

    def start(self) -> None:
        """Mark the beginning, behind what is queued so far."""

    def stop(self) -> None:
        """Mark the end, behind what is queued so far."""

    def milliseconds(self) -> float:
        """Wait for the end; milliseconds from beginning to end."""

    def close(self) -> None:
        """Give its events back."""


class Driver(Protocol):
    """The functions that ``cuda.driver``, ``hip.driver`` and ``emulator.driver`` have, in this order."""

    name: str

    def device_count(self) -> int:
        """Number of devices. Raises `DeviceUnavailable` where the driver cannot be used at all."""

    def properties(self, ordinal: int) -> DeviceProperties:
        """Limits of a device. Raises `DeviceUnavailable` when there is none of that ordinal."""

    def current_device(self) -> int:
        """Ordinal of the calling thread's current device; 0 when it has none."""

    def load(self, image: Image, kernel: str, ordinal: int) -> Function:
        """Load `image` on a device (in its current or primary context) and find `kernel` in it."""

    def prepare(self, function: Function, shared: int) -> None:
        """Allow `shared` bytes of dynamic shared memory; called once before the first launch."""

    def resources(self, function: Function) -> dict[str, int]:
        """Registers, local and shared bytes, constant bytes, largest block, as the driver states them."""

    def occupancy(self, function: Function, config: LaunchConfig) -> int:
        """CTAs of this configuration that fit on one multiprocessor at a time."""

    def launch(self, function: Function, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Launch; returns when the work is queued (the emulator: when it is done)."""

    def synchronize(self, ordinal: int, stream: int = 0) -> None:
        """Wait until everything queued on the stream has run."""

    def allocate(self, nbytes: int, ordinal: int) -> int:
        """Address of `nbytes` of new device memory."""

    def free(self, address: int, ordinal: int) -> None:
        """Give memory from `allocate` back."""

    def allocate_scratch(self, nbytes: int, align: int, ordinal: int, stream: int) -> int:
        """Address of memory usable by work queued on `stream` until `free_scratch` is queued there."""

    def free_scratch(self, address: int, ordinal: int, stream: int) -> None:
        """Give scratch back once the work queued on `stream` so far has run."""

    def clear(self, address: int, nbytes: int, ordinal: int, stream: int) -> None:
        """Set memory to zero, in order on `stream`."""

    def copy_to_device(self, address: int, data: memoryview, ordinal: int, stream: int = 0) -> None:
        """Copy host bytes to the device; returns when `data` may be reused."""

    def copy_to_host(self, data: memoryview, address: int, ordinal: int, stream: int = 0) -> None:
        """Copy device memory to host bytes; returns when they have arrived."""

    def copy_on_device(self, target: int, source: int, nbytes: int, ordinal: int, stream: int = 0) -> None:
        """Copy device memory to device memory of the same device, in order on `stream`."""

    def device_of_pointer(self, address: int) -> int | None:
        """Ordinal of the device that owns a pointer; ``None`` when it is not device memory."""

    def wait_for_stream(self, ordinal: int, stream: int, other: int) -> None:
        """Make work queued on `stream` from now on wait for what is queued on `other`."""

    def stopwatch(self, ordinal: int, stream: int = 0) -> Stopwatch:
        """Something that measures device time on `stream` (the emulator: time)."""

    def encode_tensor_map(
        self,
        *,
        element_type: int,
        address: int,
        shape: Sequence[int],
        strides: Sequence[int],
        box: Sequence[int],
        swizzle: int,
        nan_fill: bool,
        ordinal: int,
    ) -> bytes:
        """128 bytes of a CUtensorMap.

        `shape` in elements, `strides` in bytes without the innermost, `box` in elements, all innermost first;
        `element_type` and `swizzle` by their ``CUtensorMapDataType`` and ``CUtensorMapSwizzle`` numbers.
        """
