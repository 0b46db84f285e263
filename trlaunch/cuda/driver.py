"""The CUDA driver: loads cubins (or PTX) and launches them through ``cuda.bindings``.

Only the driver API of ``cuda.h`` is used. No call here waits for the device except `CudaDriver.synchronize` and the
copies, and none that a launch makes breaks a graph capture once its kernel was loaded on the device.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

from trlaunch.cuda.context import INVALID_CONTEXT, Contexts
from trlaunch.cuda.direct import Addresses, DirectLaunch
from trlaunch.cuda.module import Entry, Module
from trlaunch.cuda.status import UNKNOWN_STATUS, Calls, load_bindings
from trlaunch.cuda.stopwatch import EventStopwatch
from trlaunch.driver import Device, DeviceProperties, Function, LaunchConfig, PackedArguments
from trlaunch.errors import ArgumentError, DriverError, ImageError
from trlaunch.image import Image
from trlaunch.target import Target

__all__ = ["CudaDriver"]

MAX_PARAMETER_BYTES = 32764
"""Largest parameter buffer of a kernel (CUDA C++ Programming Guide: 32,764 bytes from sm_70 on, 4,096 before)."""

PARAMETER_ALIGNMENT = 64
"""Alignment of the parameter buffer, that of a CUtensorMap. Offsets in it are the image's: ptxas aligns a parameter by
its place in constant memory, so that one of 64 bytes may lie at offset 48."""

POOL_ALIGNMENT = 256
"""Alignment in bytes of every allocation of the driver (CUDA C++ Programming Guide, "at least 256 bytes")."""

PORTABLE_CLUSTER = 8
"""CTAs per cluster that every device with clusters supports without opting in (CUDA C++ Programming Guide)."""

TENSOR_MAP_BYTES = 128

_LAUNCH_PARAM_END, _LAUNCH_PARAM_BUFFER_POINTER, _LAUNCH_PARAM_BUFFER_SIZE = range(3)

_POINTER_MEMORY_TYPE, _POINTER_DEVICE_ORDINAL = 2, 9  # CUpointer_attribute

_RESOURCES = {
    "registers": "NUM_REGS",
    "local_bytes": "LOCAL_SIZE_BYTES",
    "static_shared": "SHARED_SIZE_BYTES",
    "constant_bytes": "CONST_SIZE_BYTES",
    "max_threads": "MAX_THREADS_PER_BLOCK",
    "binary_version": "BINARY_VERSION",
    "ptx_version": "PTX_VERSION",
}
"""Keys of `CudaDriver.resources` and the ``CU_FUNC_ATTRIBUTE_`` each comes from."""

_LIMITS = (
    "COMPUTE_CAPABILITY_MAJOR",
    "COMPUTE_CAPABILITY_MINOR",
    "WARP_SIZE",
    "MAX_THREADS_PER_BLOCK",
    "MAX_SHARED_MEMORY_PER_BLOCK",
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
    "MAX_GRID_DIM_X",
    "MAX_GRID_DIM_Y",
    "MAX_GRID_DIM_Z",
    "MULTIPROCESSOR_COUNT",
)
"""``CU_DEVICE_ATTRIBUTE_`` names that `CudaDriver.properties` asks for."""


class _ParameterBuffer(threading.local):
    """One thread's parameter buffer, and an ``extra`` array for each size that points the driver to it.

    Both are made once a thread: a launch copies its bytes in, and the driver copies them out before it returns.
    """

    def __init__(self) -> None:
        storage = (ctypes.c_char * (MAX_PARAMETER_BYTES + PARAMETER_ALIGNMENT))()
        skip = -ctypes.addressof(storage) % PARAMETER_ALIGNMENT
        self.view = memoryview(storage).cast("B")[skip : skip + MAX_PARAMETER_BYTES]
        self._begin = ctypes.addressof(storage) + skip
        self._extras: dict[int, int] = {}
        self._keep: list[Any] = [storage]
        self.both = self.view, self._extras  # one look-up of what is a thread's own

    def fill(self, data: bytes) -> int:
        """Copy `data` in; the address to pass as ``extra``, 0 when there is no parameter at all."""
        size = len(data)
        if not size:
            return 0
        if size > MAX_PARAMETER_BYTES:
            raise ArgumentError(f"{size} bytes of parameters: a CUDA kernel takes at most {MAX_PARAMETER_BYTES}")
        self.view[:size] = data
        return self.extra_of(size)

    def extra_of(self, size: int) -> int:
        """Address of the array that says where the buffer is and that so many bytes of it count; 0 for none."""
        found = self._extras.get(size, 0)
        if not found and size:
            count = ctypes.c_size_t(size)
            extra = (ctypes.c_void_p * 5)(
                _LAUNCH_PARAM_BUFFER_POINTER,
                self._begin,
                _LAUNCH_PARAM_BUFFER_SIZE,
                ctypes.addressof(count),
                _LAUNCH_PARAM_END,
            )
            self._keep += count, extra
            found = self._extras[size] = ctypes.addressof(extra)
        return found


class _PointerQuery(threading.local):
    """One thread's question to ``cuPointerGetAttributes``.

    The C function is called directly: ``cuda.bindings`` 13.3.1 answers DEVICE_ORDINAL with 0 for every pointer.
    """

    def __init__(self, function: int) -> None:
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)
        self._function = prototype(function)
        self.memory_type, self.ordinal = ctypes.c_uint(), ctypes.c_int()
        self._attributes = (ctypes.c_int * 2)(_POINTER_MEMORY_TYPE, _POINTER_DEVICE_ORDINAL)
        self._values = (ctypes.c_void_p * 2)(ctypes.addressof(self.memory_type), ctypes.addressof(self.ordinal))

    def ask(self, address: int) -> int:
        """The status; on success `memory_type` and `ordinal` hold the answer."""
        return int(self._function(2, self._attributes, self._values, address))


class CudaDriver:
    """NVIDIA devices through libcuda. Use `instance`: the driver keeps what was loaded and retained.

    Every function may be called from any thread. The context of the calling thread is used where it belongs to the
    device; else the device's primary context is, for the length of the call.

    A graph captured from launches refers to the kernel's module: keep the `Function` (the kernel) as long as the
    graph.

    Raises
    ------
    DeviceUnavailable
        cuda-python or libcuda is missing, the driver is too old, or there is no device.
    """

    name = "cuda"
    direct_launch: ClassVar[type[DirectLaunch]] = DirectLaunch

    _instance: ClassVar[CudaDriver | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._cuda = load_bindings()
        self.calls = Calls(self._cuda)
        self.contexts = Contexts(self.calls)
        self._lock = threading.Lock()
        self._modules: weakref.WeakValueDictionary[tuple[bytes, bool], Module] = weakref.WeakValueDictionary()
        self._properties: dict[int, DeviceProperties] = {}
        self._pools: dict[int, Any] = {}
        self.parameters = _ParameterBuffer()
        self.pointer_query = _PointerQuery(self.calls.address("cuPointerGetAttributes"))
        self.launch_config = functools.lru_cache(maxsize=1024)(self._make_launch_config)

    @classmethod
    def instance(cls) -> CudaDriver:
        """The driver of this process, made on first use."""
        with cls._instance_lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    def device_count(self) -> int:
        """Number of devices that the driver shows this process."""
        return len(self.contexts.devices)

    def properties(self, ordinal: int) -> DeviceProperties:
        """Name, compute capability and limits of a device.

        Raises
        ------
        DeviceUnavailable
            There is no device of that ordinal.
        """
        if ordinal in self._properties:
            return self._properties[ordinal]
        device = self.contexts.device(ordinal)
        attribute = self._cuda.CUdevice_attribute
        of = {
            name: self.calls("cuDeviceGetAttribute", getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), device)
            for name in _LIMITS
        }
        major, minor = of["COMPUTE_CAPABILITY_MAJOR"], of["COMPUTE_CAPABILITY_MINOR"]
        name = self.calls("cuDeviceGetName", 256, device)
        self._properties[ordinal] = properties = DeviceProperties(
            device=Device(self.name, ordinal),
            name=name.split(b"\0", 1)[0].decode(errors="replace"),
            target=Target("cuda", f"{major}{minor}", warp_size=of["WARP_SIZE"]),
            max_threads_per_block=of["MAX_THREADS_PER_BLOCK"],
            max_shared=of["MAX_SHARED_MEMORY_PER_BLOCK"],
            max_shared_optin=of["MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"],
            max_grid=(of["MAX_GRID_DIM_X"], of["MAX_GRID_DIM_Y"], of["MAX_GRID_DIM_Z"]),
            multiprocessors=of["MULTIPROCESSOR_COUNT"],
            supports_clusters=major >= 9,
            driver_version=self.calls.driver_version,
        )
        return properties

    def current_device(self) -> int:
        """Ordinal of the device whose context is current in this thread; 0 when none is."""
        context_id = self.contexts.current_id()
        return 0 if context_id is None else self.contexts.ordinal_of(context_id)

    def load(self, image: Image, kernel: str, ordinal: int) -> Function:
        """Load `image` on a device and find `kernel` in it.

        The same bytes are loaded once in each context. A launch while another context of the device is current
        loads them there too. PTX goes through the driver's own compiler.

        Raises
        ------
        DriverError
            The driver refuses the image or has no kernel of that name; its compiler's log is in the message.
        """
        if image.format not in ("cubin", "ptx"):
            raise ImageError(f"the CUDA driver loads a cubin or PTX, and this image is {image.format}")
        key = image.data, image.format == "ptx"
        with self._lock:
            module = self._modules.get(key)
            if module is None:
                module = self._modules[key] = Module(self.contexts, *key)
        handle = module.kernel(kernel, ordinal)
        with self.contexts.use(ordinal) as context_id:
            module.entry(handle, context_id)
        return Function(Device(self.name, ordinal), kernel, handle, module)

    def prepare(self, function: Function, shared: int) -> None:
        """Allow `shared` bytes of dynamic shared memory, in this context and those the kernel is loaded in later.

        Raises
        ------
        DriverError
            It is more than the device has beside the kernel's static shared memory; the message gives the numbers.
        """
        with self.contexts.use(function.device.ordinal) as context_id:
            function.module.allow_shared(function.module.entry(function.handle, context_id), shared)
        function.handle.shared = max(function.handle.shared, shared)

    def resources(self, function: Function) -> dict[str, int]:
        """What the driver says of a loaded kernel.

        Returns
        -------
        dict of str to int
            ``registers`` (per thread), ``local_bytes`` (per thread), ``static_shared``, ``constant_bytes``,
            ``max_threads`` (per block), ``binary_version`` and ``ptx_version`` (90 for 9.0).
        """
        attribute = self._cuda.CUfunction_attribute
        with self.contexts.use(function.device.ordinal) as context_id:
            loaded = function.module.entry(function.handle, context_id).function
            return {
                key: int(self.calls("cuFuncGetAttribute", getattr(attribute, f"CU_FUNC_ATTRIBUTE_{name}"), loaded))
                for key, name in _RESOURCES.items()
            }

    def occupancy(self, function: Function, config: LaunchConfig) -> int:
        """CTAs of this configuration that fit on one multiprocessor at a time.

        With clusters it is an average over the device, rounded down but at least 1 where any cluster fits: the
        driver counts clusters on the device, and some multiprocessors may be left over.
        """
        ctas = math.prod(config.cluster)
        with self.contexts.use(function.device.ordinal) as context_id:
            entry = function.module.entry(function.handle, context_id)
            if ctas == 1:
                return int(
                    self.calls(
                        "cuOccupancyMaxActiveBlocksPerMultiprocessor",
                        entry.function,
                        math.prod(config.block),
                        config.shared,
                    )
                )
            if ctas > PORTABLE_CLUSTER:
                function.module.allow_non_portable_cluster(entry)
            clusters = self.calls("cuOccupancyMaxActiveClusters", entry.function, self.launch_config(config))
        fitting = int(clusters) * ctas
        return max(1, fitting // self.properties(function.device.ordinal).multiprocessors) if fitting else 0

    def launch(self, function: Function, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Queue the kernel on ``config.stream``; the parameter bytes go to the driver as they are.

        Raises
        ------
        DriverError
            The driver refuses the launch, or an earlier one failed.
        """
        context_id = self.contexts.current_id()
        # Entries are of this device only, so a context that has one needs no further question.
        entry = None if context_id is None else function.handle.entries.get(context_id)
        if entry is not None:
            self._launch(function, entry, config, arguments)
            return
        with self.contexts.use_instead_of(context_id, function.device.ordinal) as context_id:
            self._launch(function, function.module.entry(function.handle, context_id), config, arguments)

    @functools.cached_property
    def addresses(self) -> Addresses:
        """Of the driver's functions that a launch calls."""
        return Addresses.of(self)

    def _launch(self, function: Function, entry: Entry, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Launch in the current context, whose `entry` is given."""
        if math.prod(config.cluster) > PORTABLE_CLUSTER and not entry.non_portable_cluster:
            function.module.allow_non_portable_cluster(entry)
        launch_config = self.launch_config(config)
        extra = self.parameters.fill(arguments.data)
        try:
            (status,) = self._cuda.cuLaunchKernelEx(launch_config, entry.function, None, extra)
        except UNKNOWN_STATUS as error:
            raise self.calls.refused("cuLaunchKernelEx", error, function, config, len(arguments.data)) from error
        if status:
            raise self.calls.refused("cuLaunchKernelEx", int(status), function, config, len(arguments.data))

    def _make_launch_config(self, config: LaunchConfig) -> Any:
        """The ``CUlaunchConfig``. The driver only reads it, so that threads may share one."""
        cuda = self._cuda
        made = cuda.CUlaunchConfig()
        try:
            made.gridDimX, made.gridDimY, made.gridDimZ = config.grid
            made.blockDimX, made.blockDimY, made.blockDimZ = config.block
            made.sharedMemBytes = config.shared
            made.hStream = cuda.CUstream(config.stream)
            attributes = []
            if math.prod(config.cluster) > 1:
                attributes.append(self._attribute("CLUSTER_DIMENSION"))
                dimension = attributes[-1].value.clusterDim
                dimension.x, dimension.y, dimension.z = config.cluster
                # As Triton's launcher does: CTAs of a cluster over as many multiprocessors as there are.
                attributes.append(self._attribute("CLUSTER_SCHEDULING_POLICY_PREFERENCE"))
                policy = cuda.CUclusterSchedulingPolicy.CU_CLUSTER_SCHEDULING_POLICY_SPREAD
                attributes[-1].value.clusterSchedulingPolicyPreference = policy
            if config.cooperative:
                attributes.append(self._attribute("COOPERATIVE"))
                attributes[-1].value.cooperative = 1
            if config.pdl:
                attributes.append(self._attribute("PROGRAMMATIC_STREAM_SERIALIZATION"))
                attributes[-1].value.programmaticStreamSerializationAllowed = 1
        except OverflowError as error:
            raise ArgumentError(f"a number in {config} is out of range: expected unsigned 32-bit ({error})") from error
        if attributes:
            made.attrs = attributes
            made.numAttrs = len(attributes)
        return made

    def _attribute(self, name: str) -> Any:
        made = self._cuda.CUlaunchAttribute()
        made.id = getattr(self._cuda.CUlaunchAttributeID, f"CU_LAUNCH_ATTRIBUTE_{name}")
        return made

    def synchronize(self, ordinal: int, stream: int = 0) -> None:
        """Wait until everything queued on the stream has run. A kernel that failed is reported here."""
        with self.contexts.use(ordinal):
            self.calls("cuStreamSynchronize", stream)

    def allocate(self, nbytes: int, ordinal: int) -> int:
        """Address of `nbytes` of new device memory (of one byte, when none is asked for)."""
        if nbytes < 0:
            raise ArgumentError(f"cannot allocate {nbytes} bytes")
        with self.contexts.use(ordinal), self.contexts.relaxed_capture():
            return int(
                self.calls("cuMemAlloc", max(nbytes, 1), detail=lambda: f"allocating {nbytes} bytes on cuda:{ordinal}")
            )

    def free(self, address: int, ordinal: int) -> None:
        """Give memory from `allocate` back."""
        with self.contexts.use(ordinal), self.contexts.relaxed_capture():
            self.calls("cuMemFree", address, detail=lambda: f"freeing {address:#x} on cuda:{ordinal}")

    def allocate_scratch(self, nbytes: int, align: int, ordinal: int, stream: int) -> int:
        """Address of memory usable by work queued on `stream` until `free_scratch` is queued there.

        It comes from a memory pool of trlaunch's own, which keeps what is given back. While the stream is captured,
        allocation and release become nodes of the graph.

        Raises
        ------
        ArgumentError
            `align` is more than the driver guarantees.
        """
        if nbytes < 0 or not 0 < align <= POOL_ALIGNMENT or POOL_ALIGNMENT % align:
            raise ArgumentError(
                f"cannot allocate {nbytes} bytes of scratch aligned to {align}: expected a size of at least 0 and "
                f"an alignment that is a power of two up to {POOL_ALIGNMENT}"
            )
        with self.contexts.use(ordinal):
            return int(
                self.calls(
                    "cuMemAllocFromPoolAsync",
                    max(nbytes, 1),
                    self._pool(ordinal),
                    stream,
                    detail=lambda: f"allocating {nbytes} bytes of scratch on cuda:{ordinal}",
                )
            )

    def free_scratch(self, address: int, ordinal: int, stream: int) -> None:
        """Give scratch back once the work queued on `stream` so far has run."""
        with self.contexts.use(ordinal):
            self.calls("cuMemFreeAsync", address, stream)

    def clear(self, address: int, nbytes: int, ordinal: int, stream: int) -> None:
        """Set memory to zero, in order on `stream`."""
        if nbytes:
            with self.contexts.use(ordinal):
                self.calls("cuMemsetD8Async", address, 0, nbytes, stream)

    def _pool(self, ordinal: int) -> Any:
        """The device's memory pool for scratch, which never gives memory back to the system by itself."""
        with self._lock:
            if ordinal not in self._pools:
                cuda = self._cuda
                wanted = cuda.CUmemPoolProps()
                wanted.allocType = cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
                wanted.handleTypes = cuda.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_NONE
                wanted.location.type = cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
                wanted.location.id = int(self.contexts.device(ordinal))
                with self.contexts.relaxed_capture():
                    pool = self.calls("cuMemPoolCreate", wanted)
                    threshold = cuda.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
                    try:
                        self.calls("cuMemPoolSetAttribute", pool, threshold, cuda.cuuint64_t(2**64 - 1))
                    except DriverError:
                        self.calls("cuMemPoolDestroy", pool)
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
        self._copy("cuMemcpyHtoDAsync", address, _host(data), data, ordinal, stream)

    def copy_to_host(self, data: memoryview, address: int, ordinal: int, stream: int = 0) -> None:
        """Copy device memory to host bytes, in the order of `stream`; returns when they have arrived.

        Raises
        ------
        ArgumentError
            `data` is read-only or not C-contiguous.
        """
        if data.readonly:
            raise ArgumentError("cannot copy from the device into read-only memory")
        self._copy("cuMemcpyDtoHAsync", _host(data), address, data, ordinal, stream)

    def _copy(self, call: str, target: Any, source: Any, data: memoryview, ordinal: int, stream: int) -> None:
        if not data.nbytes:
            return
        with self.contexts.use(ordinal):
            self.calls(call, target, source, data.nbytes, stream, detail=lambda: f"copying {data.nbytes} bytes")
            # From pinned memory the call returns before the bytes were read.
            self.calls("cuStreamSynchronize", stream)

    def copy_on_device(self, target: int, source: int, nbytes: int, ordinal: int, stream: int = 0) -> None:
        """Copy memory of the device to another place of it, in order on `stream`."""
        if nbytes:
            with self.contexts.use(ordinal):
                self.calls("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def device_of_pointer(self, address: int) -> int | None:
        """Ordinal of the device that a pointer belongs to; ``None`` when the driver does not know the memory.

        Managed memory counts by the device it was allocated for, page-locked host memory by the device whose
        context locked it.
        """
        if not 0 < address < 2**64:
            return None
        query = self.pointer_query
        status = query.ask(address)
        if status == INVALID_CONTEXT:  # the documented answer for memory that no context allocated or registered
            return None
        if status:
            raise self.calls.error("cuPointerGetAttributes", status, f"asking about {address:#x}")
        # Unknown memory is answered with success and a memory type of 0.
        ordinal = query.ordinal.value
        return ordinal if query.memory_type.value and 0 <= ordinal < self.device_count() else None

    def wait_for_stream(self, ordinal: int, stream: int, other: int) -> None:
        """Make work queued on `stream` from now on wait for what is queued on `other`, without waiting here."""
        if stream == other:
            return
        with self.contexts.use(ordinal):
            event = self.calls("cuEventCreate", int(self._cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING))
            try:
                self.calls("cuEventRecord", event, other)
                self.calls("cuStreamWaitEvent", stream, event, 0)
            finally:
                # The driver keeps the event until it has been waited for.
                self.calls("cuEventDestroy", event)

    def stopwatch(self, ordinal: int, stream: int = 0) -> EventStopwatch:
        """Something that measures device time on `stream`, by two events."""
        return EventStopwatch(self.calls, self.contexts, ordinal, stream)

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
        """128 bytes of a CUtensorMap, by ``cuTensorMapEncodeTiled``.

        `shape` in elements, `strides` in bytes without the innermost, `box` in elements, all innermost first;
        `element_type` and `swizzle` by their ``CUtensorMapDataType`` and ``CUtensorMapSwizzle`` numbers. Element
        strides are 1, nothing is interleaved, L2 is promoted to 128 bytes; `nan_fill` fills out-of-bounds elements
        with NaN instead of zero.

        Raises
        ------
        ArgumentError
            The lengths do not go together, or a number is none that the encoding has.
        DriverError
            The driver refuses the map; the message gives its rules and the numbers.
        """
        cuda = self._cuda
        rank = len(shape)
        if not 1 <= rank <= 5 or len(strides) != rank - 1 or len(box) != rank:
            raise ArgumentError(
                f"a tensor map has 1 to 5 dimensions, a stride for each but the innermost and a box of as many: found "
                f"shape {tuple(shape)}, strides {tuple(strides)}, box {tuple(box)}"
            )
        try:
            data_type, swizzling = cuda.CUtensorMapDataType(element_type), cuda.CUtensorMapSwizzle(swizzle)
            dimensions, steps = ([cuda.cuuint64_t(n) for n in numbers] for numbers in (shape, strides))
            boxes, ones = ([cuda.cuuint32_t(n) for n in numbers] for numbers in (box, [1] * rank))
        except (ValueError, OverflowError) as error:
            raise ArgumentError(f"a number of the tensor map is out of range: {error}") from error
        fill = cuda.CUtensorMapFloatOOBfill

        def rules() -> str:
            return (
                f"expected: address a multiple of 16, strides multiples of 16 below 2**40, shape from 1 to 2**32, box "
                f"from 1 to 256, its innermost row a multiple of 16 bytes and within the swizzle span; found: address "
                f"{address:#x}, {data_type.name}, shape {tuple(shape)}, strides {tuple(strides)}, box {tuple(box)}, "
                f"{swizzling.name} (innermost first)"
            )

        with self.contexts.use(ordinal):
            encoded = self.calls(
                "cuTensorMapEncodeTiled",
                data_type,
                rank,
                address,
                dimensions,
                steps or [cuda.cuuint64_t(0)],  # not looked at for rank 1, yet a null pointer is refused
                boxes,
                ones,
                cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzling,
                cuda.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
                if nan_fill
                else fill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                detail=rules,
            )
        return ctypes.string_at(encoded.getPtr(), TENSOR_MAP_BYTES)


def _host(data: memoryview) -> memoryview:
    """`data`, when the driver can copy it in one piece."""
    if not data.c_contiguous:
        raise ArgumentError(f"expected C-contiguous memory, found strides {data.strides} for shape {data.shape}")
    return data
