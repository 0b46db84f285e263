"""The emulator as a driver: kernels run on the CPU, over host memory; a launch returns when it is done."""

# ruff: noqa: ARG002  (the functions of a driver take a stream and an ordinal whether or not they need them)

from __future__ import annotations

import bisect
import ctypes
import threading
from collections.abc import Sequence

import numpy as np

from trlaunch.driver import Device, DeviceProperties, Function, LaunchConfig, PackedArguments
from trlaunch.emulator.chunk import Chunk
from trlaunch.emulator.faults import FaultLog
from trlaunch.emulator.image import align_up
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.instruments import Instrument, installed
from trlaunch.emulator.memory import GlobalMemory, MemoryRange, bytes_at
from trlaunch.emulator.program import Program, compile_program
from trlaunch.emulator.scheduler import DEFAULT_STEP_LIMIT, Scheduler
from trlaunch.emulator.settings import checks
from trlaunch.emulator.stopwatch import WallStopwatch
from trlaunch.emulator.tensor_maps import encode
from trlaunch.errors import DeviceUnavailable, EmulatorError, Fault, UnsupportedInstruction
from trlaunch.image import Image
from trlaunch.target import Target

__all__ = ["EmulatorDriver"]

#: Lanes in lockstep: enough to hide Python's cost per instruction, few enough that registers stay in the cache.
_LANES = 65536
#: Bytes of shared memory of all CTAs of a chunk; and of local memory.
_SHARED_BYTES = 64 << 20
_MAX_SHARED = 232448
_NEW_MEMORY = 0xCD


class EmulatorDriver:
    """Executes PTX on the CPU. Memory is host memory; every access is checked against the launch's buffers.

    Attributes
    ----------
    step_limit : int
        Basic blocks that a group of CTAs may run before the launch counts as hung.
    """

    name = "emulator"
    _instance: EmulatorDriver | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.step_limit = DEFAULT_STEP_LIMIT
        self._memory: dict[int, Array] = {}
        self._ranges: dict[int, MemoryRange] = {}
        self._addresses: list[int] = []

    @classmethod
    def instance(cls) -> EmulatorDriver:
        """The one emulator of this process."""
        with cls._lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    def device_count(self) -> int:
        """There is one emulated device."""
        return 1

    def properties(self, ordinal: int) -> DeviceProperties:
        """Target sm_80, with the shared memory of sm_90; what can run is decided instruction by instruction."""
        self._device(ordinal)
        return DeviceProperties(
            device=Device("emulator"),
            name="emulator",
            target=Target("cuda", "80"),
            max_shared_optin=_MAX_SHARED,
        )

    def current_device(self) -> int:
        """Always device 0."""
        return 0

    def _device(self, ordinal: int) -> None:
        if ordinal != 0:
            raise DeviceUnavailable(f"emulator:{ordinal} does not exist: there is one emulator, number 0")

    def load(self, image: Image, kernel: str, ordinal: int) -> Function:
        """Compile a kernel of a PTX image for the CPU.

        Raises
        ------
        EmulatorError
            The image is not PTX, or malformed.
        UnsupportedInstruction
            The kernel contains an instruction that is not executed.
        """
        self._device(ordinal)
        if image.format != "ptx":
            raise EmulatorError(f"the emulator executes PTX, not a {image.format}: load the .ptx file beside it")
        program = compile_program(image.data, kernel)
        return Function(Device("emulator"), kernel, program, program)

    def prepare(self, function: Function, shared: int) -> None:
        """Check that `shared` bytes of dynamic shared memory exist."""
        most = _MAX_SHARED - self._program(function).static_shared
        if not 0 <= shared <= most:
            raise EmulatorError(
                f"{function.name} asks for {shared} bytes of dynamic shared memory: expected 0 to {most}"
            )

    def resources(self, function: Function) -> dict[str, int]:
        """What the PTX states: shared bytes and the largest block."""
        program = self._program(function)
        limit = program.function.directives.get("reqntid", program.function.directives.get("maxntid", (1024,)))
        return {
            "registers": 0,
            "local": program.frame,
            "shared": program.static_shared,
            "constant": 0,
            "max_threads": int(np.prod(limit, dtype=np.int64)),
        }

    def occupancy(self, function: Function, config: LaunchConfig) -> int:
        """CTAs that run in lockstep."""
        return self._chunk_size(self._program(function), config)

    def launch(self, function: Function, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Run a kernel to its end.

        Raises
        ------
        Fault
            A thread touched memory it may not, executed ``trap``, or waits for ever.
        EmulatorError
            The launch does not fit the kernel.
        """
        program = self._program(function)
        self._check_launch(program, config, arguments)
        instruments = (*installed(), *checks())
        limit = self.step_limit
        if any(i.stepping for i in instruments):
            limit *= max(len(b.body) + 1 for b in program.blocks)
        observed = any(i.observes for i in instruments)
        program = program.variant(stepping=any(i.stepping for i in instruments), observed=observed)
        memory_kind, chunk_kind, scheduler_kind = _observed_kinds() if observed else (GlobalMemory, Chunk, Scheduler)
        grid, block = config.grid, config.block
        total = grid[0] * grid[1] * grid[2]
        size = total if config.cooperative else self._chunk_size(program, config, instruments)
        ranges = [MemoryRange(b.address, b.nbytes, b.name, b.read_only) for b in arguments.buffers]
        ranges += [*self._ranges.values(), *program.ranges]
        threads = align_up(block[0] * block[1] * block[2], 32)
        params, base = _aligned_copy(arguments.data)
        if program.param_address:
            ranges.append(MemoryRange(base, len(params), "parameters", True))
        try:
            for instrument in instruments:
                instrument.begin(program, config, arguments)
            with np.errstate(all="ignore"):
                for start in range(0, total, size):
                    ctas = np.arange(start, min(start + size, total), dtype=np.int64)
                    lanes = (len(ctas), threads)
                    log = FaultLog(program.module, program.sites, program.name, ctas, grid, block, lanes)
                    memory = memory_kind(ranges, log)
                    chunk = chunk_kind(program, memory, log, arguments.data, base, ctas, grid, block, config.shared)
                    chunk.watched_by(instruments)
                    _run(scheduler_kind(program, chunk, limit), instruments)
        except Fault:
            if not any(i.forgives for i in instruments):
                raise
        finally:
            for instrument in instruments:
                instrument.end()

    def _check_launch(self, program: Program, config: LaunchConfig, arguments: PackedArguments) -> None:
        directives = program.function.directives
        threads = config.block[0] * config.block[1] * config.block[2]
        if min(*config.grid, *config.block) < 1 or threads > 1024:
            raise EmulatorError(
                f"grid {config.grid} and block {config.block}: expected 1 to 1024 threads and no empty axis"
            )
        if config.cluster != (1, 1, 1):
            raise UnsupportedInstruction(f"clusters of {config.cluster} CTAs: the emulator executes single CTAs only")
        required, most = directives.get("reqntid"), directives.get("maxntid")
        if required is not None and config.block != (*required, 1, 1)[:3]:
            raise EmulatorError(f"{program.name} was compiled for blocks of {required} threads, not {config.block}")
        if most is not None and threads > int(np.prod(most, dtype=np.int64)):
            raise EmulatorError(f"{program.name} was compiled for at most {most} threads a block, not {config.block}")
        if len(arguments.data) != program.param_bytes:
            raise EmulatorError(
                f"{program.name} takes {program.param_bytes} bytes of parameters, not {len(arguments.data)}"
            )
        if not 0 <= config.shared <= _MAX_SHARED - program.static_shared:
            raise EmulatorError(f"{config.shared} bytes of dynamic shared memory: expected at most {_MAX_SHARED}")

    def _chunk_size(self, program: Program, config: LaunchConfig, instruments: Sequence[Instrument] = ()) -> int:
        threads = align_up(config.block[0] * config.block[1] * config.block[2], 32)
        most = [n for i in instruments if (n := i.most_lanes(program, config)) is not None]
        lanes = min(_LANES, *most) if most else _LANES
        shared = program.static_shared + config.shared
        local = program.frame * threads
        return max(1, min(lanes // threads, _SHARED_BYTES // max(shared, 1), _SHARED_BYTES // max(local, 1)))

    def _program(self, function: Function) -> Program:
        if not isinstance(function.handle, Program):
            raise EmulatorError(f"{function.name} was not loaded by the emulator")
        return function.handle

    def synchronize(self, ordinal: int, stream: int = 0) -> None:
        """Nothing is ever queued."""
        self._device(ordinal)

    def allocate(self, nbytes: int, ordinal: int) -> int:
        """Address of `nbytes` of host memory, filled with 0xCD."""
        self._device(ordinal)
        return self._allocate(nbytes, 256, "allocation")

    def _allocate(self, nbytes: int, align: int, what: str) -> int:
        if nbytes < 0 or align < 1:
            raise EmulatorError(f"an allocation of {nbytes} bytes aligned to {align} is not possible")
        try:
            memory = np.full(max(nbytes, 1) + align, _NEW_MEMORY, dtype=np.uint8)
        except MemoryError:
            raise EmulatorError(f"out of memory: {nbytes} bytes for the emulator") from None
        address = align_up(int(memory.ctypes.data), align)
        with self._lock:
            self._memory[address] = memory
            self._ranges[address] = MemoryRange(address, nbytes, what)
            bisect.insort(self._addresses, address)
        return address

    def free(self, address: int, ordinal: int) -> None:
        """Give memory from `allocate` back."""
        self._device(ordinal)
        with self._lock:
            if address not in self._memory:
                raise EmulatorError(f"{address:#x} is not an allocation of the emulator, or was freed before")
            del self._memory[address], self._ranges[address]
            self._addresses.remove(address)

    def allocate_scratch(self, nbytes: int, align: int, ordinal: int, stream: int) -> int:
        """Address of `nbytes` of zeros."""
        self._device(ordinal)
        address = self._allocate(nbytes, max(align, 16), "scratch")
        if nbytes:
            bytes_at(address, nbytes)[:] = 0
        return address

    def free_scratch(self, address: int, ordinal: int, stream: int) -> None:
        """Give scratch back."""
        self.free(address, ordinal)

    def clear(self, address: int, nbytes: int, ordinal: int, stream: int) -> None:
        """Set bytes of an allocation to zero."""
        self._bytes(address, nbytes, ordinal, write=True)[:] = 0

    def copy_to_device(self, address: int, data: memoryview, ordinal: int, stream: int = 0) -> None:
        """Copy bytes into an allocation."""
        source = _host_bytes(data, writable=False)
        self._bytes(address, len(source), ordinal, write=True)[:] = source

    def copy_to_host(self, data: memoryview, address: int, ordinal: int, stream: int = 0) -> None:
        """Copy bytes out of an allocation."""
        target = _host_bytes(data, writable=True)
        target[:] = self._bytes(address, len(target), ordinal)

    def _bytes(self, address: int, nbytes: int, ordinal: int, write: bool = False) -> Array:
        self._device(ordinal)
        found = self._owner(address)
        if found is None or address + nbytes > found.base + found.nbytes:
            raise EmulatorError(f"{nbytes} bytes at {address:#x} do not lie in an allocation of the emulator")
        if write and found.written is not None:
            found.written[address - found.base : address - found.base + nbytes] = True
        return bytes_at(address, nbytes) if nbytes else np.zeros(0, dtype=np.uint8)

    def _owner(self, address: int) -> MemoryRange | None:
        with self._lock:
            at = bisect.bisect_right(self._addresses, address) - 1
            found = self._ranges[self._addresses[at]] if at >= 0 else None
        return found if found is not None and address < found.base + max(found.nbytes, 1) else None

    def copy_on_device(self, target: int, source: int, nbytes: int, ordinal: int, stream: int = 0) -> None:
        """Copy bytes of one allocation to another, or of any host memory that the caller vouches for."""
        self._device(ordinal)
        ctypes.memmove(target, source, nbytes)

    def device_of_pointer(self, address: int) -> int | None:
        """0 for memory of the emulator."""
        return 0 if self._owner(address) is not None else None

    def wait_for_stream(self, ordinal: int, stream: int, other: int) -> None:
        """Nothing is ever queued."""
        self._device(ordinal)

    def stopwatch(self, ordinal: int, stream: int = 0) -> WallStopwatch:
        """Something that measures time: a launch is done when it returns."""
        self._device(ordinal)
        return WallStopwatch()

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
        """128 bytes that the emulator's tensor copies read; not what a GPU reads (`trlaunch.emulator.tensor_maps`)."""
        self._device(ordinal)
        return encode(
            element_type=element_type,
            address=address,
            shape=shape,
            strides=strides,
            box=box,
            swizzle=swizzle,
            nan_fill=nan_fill,
        )


def _observed_kinds() -> tuple[type[GlobalMemory], type[Chunk], type[Scheduler]]:
    from trlaunch.emulator.observer import ObservedChunk, ObservedGlobal, ObservedScheduler

    return ObservedGlobal, ObservedChunk, ObservedScheduler


def _run(scheduler: Scheduler, instruments: Sequence[Instrument]) -> None:
    for instrument in instruments:
        instrument.attach(scheduler)
    try:
        scheduler.run()
        for instrument in instruments:
            instrument.detach(scheduler)
    except Fault as fault:
        for instrument in instruments:
            instrument.failed(scheduler, fault)
        raise


def _aligned_copy(data: bytes) -> tuple[Array, int]:
    """The parameters in memory of their own, at a multiple of 64; the array keeps it."""
    memory = np.zeros(len(data) + 64, dtype=np.uint8)
    start = -int(memory.ctypes.data) % 64
    memory[start : start + len(data)] = np.frombuffer(data, dtype=np.uint8)
    kept = memory[start : start + len(data)]
    return kept, int(kept.ctypes.data)


def _host_bytes(data: memoryview, writable: bool) -> Array:
    """Host memory of a copy as bytes."""
    if not data.contiguous or (writable and data.readonly):
        raise EmulatorError("a copy needs contiguous host memory" + (" that can be written" if writable else ""))
    return np.frombuffer(data, dtype=np.uint8)
