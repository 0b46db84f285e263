"""The HIP driver: loads hsacos and launches them through ``hip-python``.

Only the module API of ``hip_runtime_api.h`` is used. No call here waits for the device except `HipDriver.synchronize`
and the copies.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from trlaunch.driver import Device, DeviceProperties, Function, LaunchConfig, PackedArguments
from trlaunch.errors import ArgumentError, DeviceUnavailable, DriverError, ImageError
from trlaunch.hip.bindings import load_bindings, text
from trlaunch.hip.context import Devices
from trlaunch.hip.direct import Addresses, DirectLaunch
from trlaunch.hip.module import Entry, Module
from trlaunch.hip.status import UNKNOWN_STATUS, Calls
from trlaunch.hip.stopwatch import EventStopwatch
from trlaunch.image import Image
from trlaunch.target import Target

__all__ = ["HipDriver"]

PARAMETER_ALIGNMENT = 64
"""Alignment of the parameter buffer; the largest alignment that a kernel argument has is 16."""

POOL_ALIGNMENT = 256
"""Alignment in bytes of every allocation of the runtime."""

_INVALID_VALUE = 1
_DISABLE_TIMING = 2  # hipEventDisableTiming

_RESOURCES = {
    "registers": "NUM_REGS",
    "local_bytes": "LOCAL_SIZE_BYTES",
    "static_shared": "SHARED_SIZE_BYTES",
    "constant_bytes": "CONST_SIZE_BYTES",
    "max_threads": "MAX_THREADS_PER_BLOCK",
}
"""Keys of `HipDriver.resources` and the ``HIP_FUNC_ATTRIBUTE_`` each comes from."""

_CLUSTERS = ("gfx125",)
"""Beginnings of the architectures with workgroup clusters."""


class _Attribute(ctypes.Structure):
    # hipLaunchAttribute: the value is a union of 64 bytes behind 8 of id and padding.
    _fields_ = (("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16))


class _LaunchConfig(ctypes.Structure):
    # HIP_LAUNCH_CONFIG. hip-python wraps it from 7.2 on, but not the cluster attribute before 10.0.
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


_ATTRIBUTE_COOPERATIVE, _ATTRIBUTE_CLUSTER_DIMENSION = 2, 4  # hipLaunchAttributeID


class _ParameterBuffer(threading.local):
    """One thread's parameter buffer, and for each layout the array of addresses that the runtime is given.

    Made once a thread and grown as needed: a launch copies its bytes in, and the runtime copies them out, as many of
    each parameter as the image states, before it returns.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[int, ...], Any] = {}
        self._addresses: dict[tuple[int, ...], int] = {}
        self._make(4096)

    def _make(self, size: int) -> None:
        self._arrays.clear()
        self._addresses.clear()
        self._storage = (ctypes.c_char * (size + PARAMETER_ALIGNMENT))()
        skip = -ctypes.addressof(self._storage) % PARAMETER_ALIGNMENT
        self._base = ctypes.addressof(self._storage) + skip
        self.view = memoryview(self._storage).cast("B")[skip : skip + size]
        self.both = self.view, self._addresses  # one look-up of what is a thread's own

    def fill(self, data: bytes, offsets: tuple[int, ...]) -> int:
        """Copy `data` in; the address to pass as ``kernelParams``."""
        self.hold(len(data))
        self.view[: len(data)] = data
        return self.array_of(offsets)

    def hold(self, size: int) -> None:
        """Have room for that many bytes; the buffer and all arrays may be others behind it."""
        if size > len(self.view):
            self._make(2 * size)

    def array_of(self, offsets: tuple[int, ...]) -> int:
        """Address of the array that says where in the buffer each parameter is."""
        found = self._addresses.get(offsets)
        if found is None:
            if len(self._arrays) >= 4096:
                self._arrays.clear()
                self._addresses.clear()
            array = (ctypes.c_void_p * (len(offsets) + 1))(*(self._base + offset for offset in offsets), None)
            self._arrays[offsets] = array
            found = self._addresses[offsets] = ctypes.addressof(array)
        return found


class HipDriver:
    """AMD devices through libamdhip64. Use `instance`: the driver keeps what was loaded.

    Every function may be called from any thread. The device is current for the length of the call; the thread's own
    is current again behind it.

    A graph captured from launches refers to the kernel's module: keep the `Function` (the kernel) as long as the
    graph.

    Raises
    ------
    DeviceUnavailable
        hip-python or libamdhip64 is missing, the runtime is too old, or there is no device.
    """

    name = "hip"
    direct_launch: ClassVar[type[DirectLaunch]] = DirectLaunch

    _instance: ClassVar[HipDriver | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._hip = load_bindings()
        self.calls = Calls(self._hip)
        self.devices = Devices(self.calls)
        self._lock = threading.Lock()
        self._modules: weakref.WeakValueDictionary[bytes, Module] = weakref.WeakValueDictionary()
        self._properties: dict[int, DeviceProperties] = {}
        self._pools: dict[int, Any] = {}
        self.parameters = _ParameterBuffer()
        self.launch_config = functools.lru_cache(maxsize=1024)(_make_launch_config)

    @classmethod
    def instance(cls) -> HipDriver:
        """The driver of this process, made on first use."""
        with cls._instance_lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    def device_count(self) -> int:
        """Number of devices that the runtime shows this process."""
        return self.devices.count

    def properties(self, ordinal: int) -> DeviceProperties:
        """Name, architecture and limits of a device.

        Raises
        ------
        DeviceUnavailable
            There is no device of that ordinal, or the runtime states no architecture of it.
        """
        if ordinal in self._properties:
            return self._properties[ordinal]
        self.devices.device(ordinal)
        found = self.calls.structure("hipGetDeviceProperties", self._hip.hipDeviceProp_t, ordinal)
        arch = text(found.gcnArchName)  # "gfx90a:sramecc+:xnack-"
        target = Target.parse(f"hip:{arch}", int(found.warpSize) or None)
        grid = tuple(int(n) for n in found.maxGridSize)
        self._properties[ordinal] = properties = DeviceProperties(
            device=Device(self.name, ordinal),
            name=text(found.name) or arch,
            target=target,
            max_threads_per_block=int(found.maxThreadsPerBlock),
            max_shared=int(found.sharedMemPerBlock),
            max_shared_optin=int(found.sharedMemPerBlock),
            max_grid=(grid[0], grid[1], grid[2]),
            multiprocessors=int(found.multiProcessorCount),
            supports_clusters=target.arch.startswith(_CLUSTERS),
            driver_version=self.calls.driver_version,
        )
        return properties

    def current_device(self) -> int:
        """Ordinal of the calling thread's current device; 0 when it has set none."""
        return self.devices.current()

    def load(self, image: Image, kernel: str, ordinal: int) -> Function:
        """Load `image` on a device and find `kernel` in it. The same bytes are loaded once on each device.

        Raises
        ------
        DriverError
            The runtime refuses the image or has no kernel of that name.
        """
        if image.format != "hsaco":
            raise ImageError(f"the HIP driver loads an hsaco, and this image is {image.format}")
        with self._lock:
            module = self._modules.get(image.data)
            if module is None:
                module = self._modules[image.data] = Module(self.devices, image.data)
        with self.devices.use(ordinal):
            entry = module.entry(image.kernel(kernel), ordinal)
        return Function(Device(self.name, ordinal), kernel, entry, module)

    def prepare(self, function: Function, shared: int) -> None:
        """Allow `shared` bytes of LDS: HIP asks for no opt-in, so that only the device's limit counts.

        Raises
        ------
        DriverError
            It is more than the device has; the message gives the numbers.
        """
        limit = self.properties(function.device.ordinal).max_shared
        if shared > limit:
            raise self.calls.error(
                "hipModuleLaunchKernel",
                _INVALID_VALUE,
                f"asked for {shared} bytes of dynamic LDS; {function.device} allows {limit} bytes a workgroup",
            )

    def resources(self, function: Function) -> dict[str, int]:
        """What the runtime says of a loaded kernel.

        Returns
        -------
        dict of str to int
            ``registers`` (VGPRs per thread), ``local_bytes`` (scratch per thread), ``static_shared``,
            ``constant_bytes``, ``max_threads`` (per block).
        """
        attribute = self._hip.hipFunction_attribute
        with self.devices.use(function.device.ordinal):
            return {
                key: int(
                    self.calls(
                        "hipFuncGetAttribute",
                        getattr(attribute, f"HIP_FUNC_ATTRIBUTE_{name}"),
                        function.handle.function,
                    )
                )
                for key, name in _RESOURCES.items()
            }

    def occupancy(self, function: Function, config: LaunchConfig) -> int:
        """CTAs of this configuration that fit on one compute unit at a time.

        HIP cannot be asked for clusters of a module's kernel, so that they count as single CTAs.
        """
        with self.devices.use(function.device.ordinal):
            return int(
                self.calls(
                    "hipModuleOccupancyMaxActiveBlocksPerMultiprocessor",
                    function.handle.function,
                    math.prod(config.block),
                    config.shared,
                )
            )

    def launch(self, function: Function, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Queue the kernel on ``config.stream``; the runtime is given the address of each parameter.

        It lays the kernel's arguments out by the image's note and fills the ``hidden_`` ones itself, as it does for
        Triton's own launcher, which passes addresses too.

        Raises
        ------
        DriverError
            The runtime refuses the launch, or an earlier one failed.
        """
        ordinal = function.device.ordinal
        if self.devices.current() == ordinal:
            self._launch(function, config, arguments)
            return
        with self.devices.use(ordinal):
            self._launch(function, config, arguments)

    @functools.cached_property
    def addresses(self) -> Addresses:
        """Of the runtime's functions that a launch calls."""
        return Addresses.of(self)

    def _launch(self, function: Function, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Launch on the current device."""
        entry: Entry = function.handle
        parameters = self.parameters.fill(arguments.data, entry.offsets)
        call, queue = self.queue(function, config)
        try:
            (status,) = queue(parameters)
        except UNKNOWN_STATUS as error:
            raise self.calls.refused(call, error, function, config, len(arguments.data)) from error
        except OverflowError as error:
            raise ArgumentError(f"a number in {config} is out of range: expected unsigned 32-bit ({error})") from error
        except RuntimeError as error:
            raise self.calls.missing(call, error) from error
        if status:
            raise self.calls.refused(call, int(status), function, config, len(arguments.data))

    def queue(self, function: Function, config: LaunchConfig) -> tuple[str, Callable[[int], tuple[Any, ...]]]:
        """The call for a launch of this kind: its name, and it as a function of the address of ``kernelParams``."""
        if config.pdl:
            raise ArgumentError(f"{function.name}: HIP has no programmatic dependent launch (launch_pdl)")
        entry, hip = function.handle.function, self._hip
        gx, gy, gz = config.grid
        x, y, z = config.block
        shared, stream = config.shared, config.stream
        if config.cluster != (1, 1, 1):
            return "hipDrvLaunchKernelEx", self._queue_clusters(entry, config)
        if config.cooperative:
            together = hip.hipModuleLaunchCooperativeKernel
            return "hipModuleLaunchCooperativeKernel", (
                lambda parameters: together(entry, gx, gy, gz, x, y, z, shared, stream, parameters)
            )
        launch = hip.hipModuleLaunchKernel
        return "hipModuleLaunchKernel", (
            lambda parameters: launch(entry, gx, gy, gz, x, y, z, shared, stream, parameters, None)
        )

    def _queue_clusters(self, entry: int, config: LaunchConfig) -> Callable[[int], tuple[Any, ...]]:
        if not self.calls.has("hipDrvLaunchKernelEx"):
            raise DeviceUnavailable(
                "a launch in clusters needs hipDrvLaunchKernelEx, which this hip-python does not have: "
                "pip install 'hip-python>=7.2', with a ROCm of that release"
            )
        launch, made = self._hip.hipDrvLaunchKernelEx, self.launch_config(config)
        return lambda parameters: launch(ctypes.addressof(made), entry, parameters, None)

    def synchronize(self, ordinal: int, stream: int = 0) -> None:
        """Wait until everything queued on the stream has run. A kernel that failed is reported here."""
        with self.devices.use(ordinal):
            self.calls("hipStreamSynchronize", stream)

    def allocate(self, nbytes: int, ordinal: int) -> int:
        """Address of `nbytes` of new device memory (of one byte, when none is asked for)."""
        if nbytes < 0:
            raise ArgumentError(f"cannot allocate {nbytes} bytes")
        with self.devices.use(ordinal):
            return int(
                self.calls("hipMalloc", max(nbytes, 1), detail=lambda: f"allocating {nbytes} bytes on hip:{ordinal}")
            )

    def free(self, address: int, ordinal: int) -> None:
        """Give memory from `allocate` back."""
        with self.devices.use(ordinal):
            self.calls("hipFree", address, detail=lambda: f"freeing {address:#x} on hip:{ordinal}")

    def allocate_scratch(self, nbytes: int, align: int, ordinal: int, stream: int) -> int:
        """Address of memory usable by work queued on `stream` until `free_scratch` is queued there.

        It comes from a memory pool of trlaunch's own, which keeps what is given back. While the stream is captured,
        allocation and release become nodes of the graph.

        Raises
        ------
        ArgumentError
            `align` is more than the runtime guarantees.
        """
        if nbytes < 0 or not 0 < align <= POOL_ALIGNMENT or POOL_ALIGNMENT % align:
            raise ArgumentError(
                f"cannot allocate {nbytes} bytes of scratch aligned to {align}: expected a size of at least 0 and "
                f"an alignment that is a power of two up to {POOL_ALIGNMENT}"
            )
        with self.devices.use(ordinal):
            return int(
                self.calls(
                    "hipMallocFromPoolAsync",
                    max(nbytes, 1),
                    self._pool(ordinal),
                    stream,
                    detail=lambda: f"allocating {nbytes} bytes of scratch on hip:{ordinal}",
                )
            )

    def free_scratch(self, address: int, ordinal: int, stream: int) -> None:
        """Give scratch back once the work queued on `stream` so far has run."""
        with self.devices.use(ordinal):
            self.calls("hipFreeAsync", address, stream)

    def clear(self, address: int, nbytes: int, ordinal: int, stream: int) -> None:
        """Set memory to zero, in order on `stream`."""
        if nbytes:
            with self.devices.use(ordinal):
                self.calls("hipMemsetD8Async", address, 0, nbytes, stream)

    def _pool(self, ordinal: int) -> Any:
        """The device's memory pool for scratch, which never gives memory back to the system by itself."""
        with self._lock:
            if ordinal not in self._pools:
                hip = self._hip
                wanted = hip.hipMemPoolProps()
                wanted.allocType = hip.hipMemAllocationType.hipMemAllocationTypePinned
                wanted.location.type = hip.hipMemLocationType.hipMemLocationTypeDevice
                wanted.location.id = ordinal
                pool = self.calls("hipMemPoolCreate", wanted)
                threshold = ctypes.c_uint64(2**64 - 1)
                release = hip.hipMemPoolAttr.hipMemPoolAttrReleaseThreshold
                try:
                    self.calls("hipMemPoolSetAttribute", pool, release, ctypes.addressof(threshold))
                except DriverError:
                    self.calls("hipMemPoolDestroy", pool)
                    raise
                self._pools[ordinal] = pool
            return self._pools[ordinal]

    def copy_to_device(self, address: int, data: memoryview, ordinal: int, stream: int = 0) -> None:
        """Copy host bytes to the device, in the order of `stream`; returns when they have arrived.

        Raises
        ------
        ArgumentError
            `data` is not C-contiguous.
        """
        self._copy("hipMemcpyHtoDAsync", address, _host(data), data, ordinal, stream)

    def copy_to_host(self, data: memoryview, address: int, ordinal: int, stream: int = 0) -> None:
        """Copy device memory to host bytes, in the order of `stream`; returns when they have arrived.

        Raises
        ------
        ArgumentError
            `data` is read-only or not C-contiguous.
        """
        if data.readonly:
            raise ArgumentError("cannot copy from the device into read-only memory")
        self._copy("hipMemcpyDtoHAsync", _host(data), address, data, ordinal, stream)

    def _copy(self, call: str, target: Any, source: Any, data: memoryview, ordinal: int, stream: int) -> None:
        if not data.nbytes:
            return
        with self.devices.use(ordinal):
            self.calls(call, target, source, data.nbytes, stream, detail=lambda: f"copying {data.nbytes} bytes")
            # From pinned memory the call returns before the bytes were read.
            self.calls("hipStreamSynchronize", stream)

    def copy_on_device(self, target: int, source: int, nbytes: int, ordinal: int, stream: int = 0) -> None:
        """Copy memory of the device to another place of it, in order on `stream`."""
        if nbytes:
            with self.devices.use(ordinal):
                self.calls("hipMemcpyDtoDAsync", target, source, nbytes, stream)

    def device_of_pointer(self, address: int) -> int | None:
        """Ordinal of the device that a pointer belongs to; ``None`` when the runtime does not know the memory.

        Managed memory counts by the device it was allocated for, page-locked host memory by the device that was
        current when it was locked.
        """
        if not 0 < address < 2**64:
            return None
        answers = []
        for name in ("MEMORY_TYPE", "DEVICE_ORDINAL"):
            answer = ctypes.c_int(0)
            attribute = getattr(self._hip.hipPointer_attribute, f"HIP_POINTER_ATTRIBUTE_{name}")
            status, _ = self.calls.query("hipPointerGetAttribute", ctypes.addressof(answer), attribute, address)
            if status == _INVALID_VALUE:  # the documented answer for memory that HIP did not allocate or register
                return None
            if status:
                raise self.calls.error("hipPointerGetAttribute", status, f"asking about {address:#x}")
            answers.append(answer.value)
        memory_type, ordinal = answers
        return ordinal if memory_type and 0 <= ordinal < self.device_count() else None

    def wait_for_stream(self, ordinal: int, stream: int, other: int) -> None:
        """Make work queued on `stream` from now on wait for what is queued on `other`, without waiting here."""
        if stream == other:
            return
        with self.devices.use(ordinal):
            event = self.calls("hipEventCreateWithFlags", _DISABLE_TIMING)
            try:
                self.calls("hipEventRecord", event, other)
                self.calls("hipStreamWaitEvent", stream, event, 0)
            finally:
                # The runtime keeps the event until it has been waited for.
                self.calls("hipEventDestroy", event)

    def stopwatch(self, ordinal: int, stream: int = 0) -> EventStopwatch:
        """Something that measures device time on `stream`, by two events."""
        return EventStopwatch(self.calls, self.devices, ordinal, stream)

    def encode_tensor_map(
        self,
        *,
        element_type: int,  # noqa: ARG002 -- the protocol's
        address: int,  # noqa: ARG002
        shape: Sequence[int],  # noqa: ARG002
        strides: Sequence[int],  # noqa: ARG002
        box: Sequence[int],  # noqa: ARG002
        swizzle: int,  # noqa: ARG002
        nan_fill: bool,  # noqa: ARG002
        ordinal: int,
    ) -> bytes:
        """HIP has no CUtensorMap: a kernel for AMD takes a descriptor in its parts.

        Raises
        ------
        ArgumentError
            Always.
        """
        raise ArgumentError(f"hip:{ordinal} has no tensor maps: a kernel for AMD takes a descriptor in its parts")


def _make_launch_config(config: LaunchConfig) -> _LaunchConfig:
    """The ``HIP_LAUNCH_CONFIG`` of a launch in clusters. The runtime only reads it, so that threads may share one."""
    for number in (*config.grid, *config.block, *config.cluster, config.shared):
        if not 0 <= number < 2**32:
            raise ArgumentError(f"a number in {config} is out of range: expected unsigned 32-bit ({number})")
    attributes = (_Attribute * 2)()
    attributes[0].id = _ATTRIBUTE_CLUSTER_DIMENSION
    attributes[0].value[:3] = config.cluster
    attributes[1].id = _ATTRIBUTE_COOPERATIVE
    attributes[1].value[0] = 1
    made = _LaunchConfig((ctypes.c_uint * 3)(*config.grid), (ctypes.c_uint * 3)(*config.block), config.shared)
    made.stream = config.stream
    made.attributes = attributes
    made.count = 2 if config.cooperative else 1
    return made


def _host(data: memoryview) -> memoryview:
    """`data`, when the runtime can copy it in one piece."""
    if not data.c_contiguous:
        raise ArgumentError(f"expected C-contiguous memory, found strides {data.strides} for shape {data.shape}")
    return data
