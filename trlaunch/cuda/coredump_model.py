"""What a GPU core dump holds: a tree of devices, SMs, blocks, warps and lanes, launches, modules and memory.

Everything below a device is read when it is asked for. A field that the driver which wrote the dump did not know is
``None``; what its flags left out is empty or ``None``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from trlaunch.cuda.coredump_file import CoreFile, Node
from trlaunch.cuda.coredump_format import CbuState, Flag, GridStatus, KernelOrigin, KernelType, Kind
from trlaunch.cuda.exceptions import GpuException, exception
from trlaunch.cuda.module_image import ModuleImage

__all__ = [
    "Context",
    "Cta",
    "Device",
    "DumpInfo",
    "Frame",
    "Grid",
    "Lane",
    "Memory",
    "Module",
    "Sm",
    "Warp",
    "device_of",
]

Dim3 = tuple[int, int, int]
T = TypeVar("T")
_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Entry:
    """Base of everything that is a row of a table."""

    _file: CoreFile = field(repr=False, compare=False)
    _at: Node = field(repr=False, compare=False)

    def _children(self, kind: Kind, make: Callable[[CoreFile, Node, _Row], T]) -> tuple[T, ...]:
        key = (kind.name, *self._at)
        if key not in self._file.nodes:
            found = (make(self._file, at, row) for at, row in self._file.rows(kind, self._at))
            self._file.nodes[key] = tuple(found)
        nodes: tuple[T, ...] = self._file.nodes[key]
        return nodes

    def _memory(self, kind: Kind) -> Memory | None:
        sections = self._file.children(kind, self._at)
        return Memory.of(self._file, kind, sections[0]) if sections else None


@dataclass(frozen=True, slots=True)
class DumpInfo:
    """What the dump says of itself; ``None`` before driver r565.

    Attributes
    ----------
    generator : str or None
        ``"UD"`` is the unified debugger backend.
    driver : tuple of int or None
        Version of the GPU driver, ``(580, 159)``; ``(0, 0)`` on Tegra.
    cuda : tuple of int or None
        Version of CUDA that the driver has, ``(13, 0)``.
    flags : Flag or None
        What was left out.
    time : datetime.datetime or None
        When it was written, in UTC.
    """

    generator: str | None = None
    driver: tuple[int, int] | None = None
    cuda: tuple[int, int] | None = None
    flags: Flag | None = None
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """A piece of memory in the dump.

    Attributes
    ----------
    kind : str
        ``"global"``, ``"managed"``, ``"shared"``, ``"local"``, ``"parameters"``.
    address : int
        Of the first byte; in shared memory and parameters from their own beginning.
    size : int
    """

    kind: str
    address: int
    size: int
    _file: CoreFile = field(repr=False, compare=False)
    _section: int = field(repr=False, compare=False)

    @staticmethod
    def of(file: CoreFile, kind: Kind, section: int) -> Memory:
        """The memory of a section."""
        name = kind.name.lower().removesuffix("_memory")
        return Memory(name, file.addresses[section], file.sizes[section], file, section)

    def __contains__(self, address: int) -> bool:
        return self.address <= address < self.address + self.size

    def read(self, address: int, size: int) -> bytes | None:
        """`size` bytes at an address; ``None`` where not all of them are in this piece."""
        if not self.address <= address <= address + size <= self.address + self.size:
            return None
        return self._file.read(self._file.offsets[self._section] + address - self.address, size)

    @property
    def data(self) -> bytes:
        """All of it, read at each use."""
        return self._file.content(self._section)


@dataclass(frozen=True, slots=True)
class Frame:
    """A return address on the stack of a lane: frame 0 is the innermost call."""

    level: int
    return_address: int
    return_offset: int


@dataclass(frozen=True, slots=True)
class Lane(_Entry):
    """A thread.

    Attributes
    ----------
    id : int
        Lane of the warp.
    thread : tuple of int
        Thread index.
    pc : int
        GPU address of the next instruction (of the classic debugger backend: a host address of a copy of the code).
    offset : int
        The same from the start of the function.
    exception : GpuException
        Code 0 for a thread that had none.
    call_depth, syscall_depth : int
        Frames on the stack, and how many of them are in system calls.
    cbu_state : str or None
        What the thread waits for in the convergence barrier unit.
    """

    id: int
    thread: Dim3
    pc: int
    offset: int
    exception: GpuException
    call_depth: int
    syscall_depth: int
    cbu_state: str | None

    @property
    def registers(self) -> tuple[int, ...]:
        """R0, R1, ... as unsigned 32-bit values; as many as the dump has."""
        return self._file.words(Kind.REGISTERS, self._at)

    @property
    def predicates(self) -> tuple[bool, ...]:
        """P0, P1, ..., the last of which is PT."""
        return tuple(value != 0 for value in self._file.words(Kind.PREDICATES, self._at))

    @property
    def local(self) -> Memory | None:
        """The part of its local memory that is in the dump."""
        return self._memory(Kind.LOCAL_MEMORY)

    @property
    def backtrace(self) -> tuple[Frame, ...]:
        """The return addresses on its stack, innermost first."""
        frames = self._children(
            Kind.BACKTRACE, lambda _f, _a, row: Frame(row["level"], row["return_address"], row["return_offset"])
        )
        return tuple(sorted(frames, key=lambda frame: frame.level))


@dataclass(frozen=True, slots=True)
class Warp(_Entry):
    """A warp.

    Attributes
    ----------
    id : int
        Warp slot of the SM.
    error_pc : int or None
        Address of the instruction that raised the exception, where the hardware kept it.
    valid_mask, active_mask : int
        Lanes that exist, and those that were not diverged.
    broken : bool
        Stopped at a breakpoint: a ``trap`` does that.
    register_count, shared_bytes : int or None
        Registers a thread, and shared memory of the block.
    syscall_mask, cbu_active_mask, cbu_exited_mask, cbu_collective_mask : int or None
    barrier_scope, barrier_info : int or None
        Hardware barrier information, from driver r590 on.
    """

    id: int
    error_pc: int | None
    valid_mask: int
    active_mask: int
    broken: bool
    register_count: int | None
    shared_bytes: int | None
    syscall_mask: int | None
    cbu_active_mask: int | None
    cbu_exited_mask: int | None
    cbu_collective_mask: int | None
    barrier_scope: int | None
    barrier_info: int | None

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Its threads: those of `valid_mask`."""
        return tuple(lane for lane in self._children(Kind.LANES, _lane) if self.valid_mask >> lane.id & 1)

    @property
    def uniform_registers(self) -> tuple[int, ...]:
        """UR0, UR1, ...; none on GPUs without them."""
        return self._file.words(Kind.UNIFORM_REGISTERS, self._at)

    @property
    def uniform_predicates(self) -> tuple[bool, ...]:
        """UP0, UP1, ..., the last of which is UPT."""
        return tuple(value != 0 for value in self._file.words(Kind.UNIFORM_PREDICATES, self._at))

    @property
    def barriers(self) -> tuple[int, ...]:
        """B0, B1, ...: masks of the lanes that each convergence barrier waits for."""
        return self._file.words(Kind.BARRIERS, self._at)


@dataclass(frozen=True, slots=True)
class Cta(_Entry):
    """A block: `block` is its index, `grid` the id of its grid, `cluster` and `cluster_dim` are of its cluster."""

    grid: int
    block: Dim3
    cluster: Dim3 | None
    cluster_dim: Dim3 | None

    @property
    def warps(self) -> tuple[Warp, ...]:
        """Its warps."""
        return self._children(Kind.WARPS, _warp)

    @property
    def shared(self) -> Memory | None:
        """Its shared memory, where the dump has it."""
        return self._memory(Kind.SHARED_MEMORY)


@dataclass(frozen=True, slots=True)
class Sm(_Entry):
    """A streaming multiprocessor.

    Attributes
    ----------
    id : int
    exception : GpuException or None
        What happened in any of its warps, those that have exited since among them; ``None`` before driver r555.
    error_pc : int or None
    cluster_target : tuple of int or None
        For an exception of a cluster: index of the block that was to serve the request.
    exception_text : str
        The driver's own words on it; from driver r580 on, and mostly empty.
    """

    id: int
    exception: GpuException | None
    error_pc: int | None
    cluster_target: Dim3 | None
    exception_text: str

    @property
    def ctas(self) -> tuple[Cta, ...]:
        """The blocks on it."""
        return self._children(Kind.CTAS, _cta)


@dataclass(frozen=True, slots=True)
class Grid(_Entry):
    """A launch.

    Attributes
    ----------
    id : int
    context, function, module, entry : int
        Handles of context, function and module, and the GPU address of the kernel's code.
    parent : int
        Id of the grid that launched it, of a grid launched from the device.
    params_offset : int
        Where the parameters begin in constant bank 0.
    type, origin, status : str
    register_count : int
        Registers a thread.
    grid, block : tuple of int
    cluster, preferred_cluster : tuple of int or None
        Zeros where the launch has none.
    blocking : bool
    thread : int
        Host thread that launched it.
    """

    id: int
    context: int
    function: int
    module: int
    entry: int
    parent: int
    params_offset: int
    type: str
    origin: str
    status: str
    register_count: int
    grid: Dim3
    block: Dim3
    cluster: Dim3 | None
    preferred_cluster: Dim3 | None
    blocking: bool
    thread: int

    @property
    def parameters(self) -> Memory | None:
        """The parameter buffer."""
        return self._memory(Kind.PARAMETERS)

    @property
    def constant_banks(self) -> dict[int, tuple[int, int]]:
        """Address and size of each constant bank by number."""
        rows = self._file.rows(Kind.CONSTANT_BANKS, self._at)
        return {row["bank"]: (row["address"], row["size"]) for _, row in rows}  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Module(_Entry):
    """A module that was loaded."""

    handle: int

    @property
    def relocated(self) -> bytes | None:
        """The cubin as it was in GPU memory, with the addresses that its functions had there."""
        return self._image(Kind.RELOCATED_IMAGE)

    @property
    def original(self) -> bytes | None:
        """The cubin as it was loaded."""
        return self._image(Kind.IMAGE)

    @property
    def image(self) -> ModuleImage | None:
        """What the image says: of the relocated one, else of the original one.

        Raises
        ------
        ImageError
            It is damaged.
        """
        key = ("ModuleImage", *self._at)
        if key not in self._file.nodes:
            data = self.relocated or self.original
            self._file.nodes[key] = None if data is None else ModuleImage(data)
        found: ModuleImage | None = self._file.nodes[key]
        return found

    def _image(self, kind: Kind) -> bytes | None:
        sections = self._file.children(kind, self._at)
        return self._file.content(sections[0]) if sections else None


@dataclass(frozen=True, slots=True)
class Context(_Entry):
    """A context: its handle, the windows of its memory spaces, and the host thread that owns it."""

    id: int
    shared_window: int
    local_window: int
    global_window: int
    device: int
    thread: int

    @property
    def modules(self) -> tuple[Module, ...]:
        """The modules loaded in it."""
        return self._children(Kind.MODULES, lambda file, at, row: Module(file, at, row["handle"]))


@dataclass(frozen=True, slots=True)
class Device(_Entry):
    """A GPU.

    Attributes
    ----------
    id : int
    name, type, sm_type : str
        ``"NVIDIA H200"``, ``"GH100GL-A"``, ``"sm_90"``.
    pci_bus, pci_device : int
    capability : tuple of int
        Compute capability.
    sm_count, warps_per_sm, lanes_per_warp, registers_per_lane, predicates_per_lane, instruction_bytes : int
    status : int
        ``CUDBGResult``; 0 where the debugger could read the device.
    uniform_registers, uniform_predicates, barriers : int or None
        How many a warp has.
    """

    id: int
    name: str
    type: str
    sm_type: str
    pci_bus: int
    pci_device: int
    capability: tuple[int, int]
    sm_count: int
    warps_per_sm: int
    lanes_per_warp: int
    registers_per_lane: int
    predicates_per_lane: int
    instruction_bytes: int
    status: int
    uniform_registers: int | None
    uniform_predicates: int | None
    barriers: int | None

    @property
    def contexts(self) -> tuple[Context, ...]:
        """Its contexts."""
        names = "id", "shared_window", "local_window", "global_window", "device", "thread"
        return self._children(Kind.CONTEXTS, lambda file, at, row: Context(file, at, *(row[name] for name in names)))

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The launches that were running, or about to."""
        return self._children(Kind.GRIDS, _grid)

    @property
    def sms(self) -> tuple[Sm, ...]:
        """Its SMs, idle ones among them."""
        return self._children(Kind.SMS, _sm)

    def grid(self, id: int) -> Grid | None:  # noqa: A002
        """The launch of an id."""
        return next((grid for grid in self.grids if grid.id == id), None)


# Rows to objects


def _dim3(row: _Row, name: str) -> Dim3:
    return row[f"{name}_x"], row[f"{name}_y"], row[f"{name}_z"]


def _dim3_if_known(row: _Row, name: str) -> Dim3 | None:
    return None if row[f"{name}_z"] is None else _dim3(row, name)


def _member(enum: Any, value: int) -> str:
    return str(enum(value).name.lower()) if value in set(enum) else str(value)


def _cbu_state(value: int | None) -> str | None:
    if value is None:
        return None
    return f"blocked_b{value - 9}" if value > max(CbuState) else _member(CbuState, value)


def device_of(file: CoreFile, at: Node, row: _Row) -> Device:
    """The device of a row of the table of devices."""
    return Device(
        file, at, row["id"], file.string(row["name"]), file.string(row["type"]), file.string(row["sm_type"]),
        row["pci_bus"], row["pci_device"], (row["sm_major"], row["sm_minor"]), row["sms"], row["warps_per_sm"],
        row["lanes_per_warp"], row["registers_per_lane"], row["predicates_per_lane"], row["instruction_bytes"],
        row["status"], row["uniform_registers"], row["uniform_predicates"], row["barriers"],
    )  # fmt: skip


def _grid(file: CoreFile, at: Node, row: _Row) -> Grid:
    return Grid(
        file, at, row["id"], row["context"], row["function"], row["module"], row["entry"], row["parent"],
        row["params_offset"], _member(KernelType, row["type"]), _member(KernelOrigin, row["origin"]),
        _member(GridStatus, row["status"]), row["registers"], _dim3(row, "grid"), _dim3(row, "block"),
        _dim3_if_known(row, "cluster"), _dim3_if_known(row, "preferred_cluster"), row["blocking"] != 0, row["thread"],
    )  # fmt: skip


def _sm(file: CoreFile, at: Node, row: _Row) -> Sm:
    code = row["exception"]
    return Sm(
        file, at, row["id"],
        exception(code) if code else None,
        row["error_pc"] if row["error_pc_valid"] else None,
        _dim3(row, "cluster_target") if row["cluster_target_valid"] and row["cluster_target_z"] is not None else None,
        file.string(row["exception_text"]),
    )  # fmt: skip


def _cta(file: CoreFile, at: Node, row: _Row) -> Cta:
    return Cta(
        file, at, row["grid"], _dim3(row, "block"), _dim3_if_known(row, "cluster"), _dim3_if_known(row, "cluster_dim")
    )


def _warp(file: CoreFile, at: Node, row: _Row) -> Warp:
    return Warp(
        file, at, row["id"], row["error_pc"] if row["error_pc_valid"] else None, row["valid_mask"], row["active_mask"],
        row["broken"] != 0, row["registers"], row["shared_bytes"], row["syscall_mask"], row["cbu_active_mask"],
        row["cbu_exited_mask"], row["cbu_collective_mask"], row["barrier_scope"], row["barrier_info"],
    )  # fmt: skip


def _lane(file: CoreFile, at: Node, row: _Row) -> Lane:
    return Lane(
        file, at, row["id"], _dim3(row, "thread"), row["pc"], row["offset"], exception(row["exception"]),
        row["call_depth"], row["syscall_depth"], _cbu_state(row["cbu_state"]),
    )  # fmt: skip
