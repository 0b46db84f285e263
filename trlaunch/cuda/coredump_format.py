"""Format facts of GPU core dumps: section types, the fields of every table, and since which driver they are there.

A core dump is an ELF64 file of type ``ET_CORE`` in which everything is a section. NVIDIA documents the format in
``cudacoredump.h`` of cuda-gdb; rows of a table have grown with the driver, so a row is ``sh_entsize`` bytes long and
fields beyond it are absent. Tables form a tree: ``sh_link`` is the section of the parent's table, ``sh_info`` the row
in it. Strings are offsets into ``.strtab``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

__all__ = [
    "EM_CUDA",
    "ET_CORE",
    "PARENTS",
    "SHT_LOUSER",
    "TABLES",
    "CbuState",
    "Field",
    "Flag",
    "GridStatus",
    "KernelOrigin",
    "KernelType",
    "Kind",
    "Table",
]

ET_CORE = 4
EM_CUDA = 190
SHT_LOUSER = 0x80000000


class Kind(IntEnum):
    """``sh_type`` less `SHT_LOUSER`."""

    MANAGED_MEMORY = 1
    GLOBAL_MEMORY = 2
    LOCAL_MEMORY = 3
    SHARED_MEMORY = 4
    REGISTERS = 5
    IMAGE = 6
    RELOCATED_IMAGE = 7
    BACKTRACE = 8
    DEVICES = 9
    CONTEXTS = 10
    SMS = 11
    GRIDS = 12
    CTAS = 13
    WARPS = 14
    LANES = 15
    MODULES = 16
    PREDICATES = 17
    PARAMETERS = 18
    UNIFORM_REGISTERS = 19  # r400
    UNIFORM_PREDICATES = 20  # r400
    CONSTANT_BANKS = 21  # r550
    METADATA = 22  # r565
    BARRIERS = 23  # r575


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a row: name, bytes, and the driver (``565`` for r565) that first wrote it; 0 for the first ever."""

    name: str
    size: int
    since: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """The fields of a table's rows, in order.

    Attributes
    ----------
    fields : tuple of Field
        Padding is named ``""``.
    """

    fields: tuple[Field, ...]

    def size(self, driver: int) -> int:
        """Bytes of a row as this driver writes it."""
        return sum(field.size for field in self.fields if field.since <= driver)

    @property
    def smallest(self) -> int:
        """Bytes of a row as the first driver wrote it."""
        return self.size(0)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The size of every generation, ascending."""
        return tuple(self.size(driver) for driver in sorted({field.since for field in self.fields} | {0}))


def _table(*generations: tuple[int, str]) -> Table:
    """A table from ``(driver, "name:bytes ...")``; a bare ``:4`` is padding, bytes left out are 4."""
    fields = []
    for since, text in generations:
        for word in text.split():
            name, _, size = word.partition(":")
            fields.append(Field(name, int(size or 4), since))
    return Table(tuple(fields))


TABLES = {
    Kind.METADATA: _table((0, "generator:8 driver_major driver_minor cuda_major cuda_minor flags timestamp")),
    Kind.DEVICES: _table(
        (0, "name:8 type:8 sm_type:8 id pci_bus pci_device sms warps_per_sm lanes_per_warp registers_per_lane"),
        (0, "predicates_per_lane sm_major sm_minor instruction_bytes status"),
        (400, "uniform_registers uniform_predicates"),
        (575, "barriers :4"),
    ),
    Kind.CONTEXTS: _table((0, "id:8 shared_window:8 local_window:8 global_window:8 device thread")),
    Kind.MODULES: _table((0, "handle:8")),
    Kind.GRIDS: _table(
        (0, "id:8 context:8 function:8 entry:8 module:8 parent:8 params_offset:8 type origin status registers"),
        (0, "grid_x grid_y grid_z block_x block_y block_z blocking thread"),
        (525, "cluster_x cluster_y cluster_z :4"),
        (565, "preferred_cluster_x preferred_cluster_y preferred_cluster_z :4"),
    ),
    Kind.CONSTANT_BANKS: _table((0, "address:8 size bank")),
    Kind.SMS: _table(
        (0, "id :4"),
        (555, "exception error_pc_valid error_pc:8"),
        (565, "cluster_target_valid cluster_target_x cluster_target_y cluster_target_z"),
        (580, "exception_text:8"),
    ),
    Kind.CTAS: _table(
        (0, "grid:8 block_x block_y block_z :4"),
        (525, "cluster_x cluster_y cluster_z :4"),
        (565, "cluster_dim_x cluster_dim_y cluster_dim_z :4"),
    ),
    Kind.WARPS: _table(
        (0, "error_pc:8 id valid_mask active_mask broken error_pc_valid :4"),
        (525, "registers :4"),
        (570, "shared_bytes :4"),
        (575, "syscall_mask cbu_active_mask cbu_exited_mask cbu_collective_mask"),
        (590, "barrier_scope :4 barrier_info:8"),
    ),
    Kind.LANES: _table(
        (0, "pc:8 offset:8 id thread_x thread_y thread_z exception call_depth syscall_depth condition_codes"),
        (575, "cbu_state :4"),
        (615, "rpc_low rpc_high"),
    ),
    Kind.BACKTRACE: _table((0, "return_offset:8 return_address:8 level :4")),
}  # fmt: skip
"""The fields of every table. Drivers from 346 to 615; SM rows of driver 580 seen with 48 bytes, ``exception_text``
among them."""

PARENTS = {
    Kind.CONTEXTS: Kind.DEVICES,
    Kind.GRIDS: Kind.DEVICES,
    Kind.SMS: Kind.DEVICES,
    Kind.MODULES: Kind.CONTEXTS,
    Kind.IMAGE: Kind.MODULES,
    Kind.RELOCATED_IMAGE: Kind.MODULES,
    Kind.PARAMETERS: Kind.GRIDS,
    Kind.CONSTANT_BANKS: Kind.GRIDS,
    Kind.CTAS: Kind.SMS,
    Kind.SHARED_MEMORY: Kind.CTAS,
    Kind.WARPS: Kind.CTAS,
    Kind.UNIFORM_REGISTERS: Kind.WARPS,
    Kind.UNIFORM_PREDICATES: Kind.WARPS,
    Kind.BARRIERS: Kind.WARPS,
    Kind.LANES: Kind.WARPS,
    Kind.LOCAL_MEMORY: Kind.LANES,
    Kind.REGISTERS: Kind.LANES,
    Kind.PREDICATES: Kind.LANES,
    Kind.BACKTRACE: Kind.LANES,
}
"""Whose row the section belongs to; the others belong to the file."""


class Flag(IntFlag):
    """``CUDBGCoredumpGenerationFlags``: what the driver was told to leave out."""

    SKIP_NONRELOCATED_IMAGES = 1
    SKIP_GLOBAL_MEMORY = 2
    SKIP_SHARED_MEMORY = 4
    SKIP_LOCAL_MEMORY = 8
    SKIP_ABORT = 16
    SKIP_CONSTANT_BANKS = 32
    GZIP = 64
    FAULTED_CONTEXTS_ONLY = 128


class GridStatus(IntEnum):
    """``CUDBGGridStatus``."""

    INVALID = 0
    PENDING = 1
    ACTIVE = 2
    SLEEPING = 3
    TERMINATED = 4
    UNDETERMINED = 5


class KernelType(IntEnum):
    """``CUDBGKernelType``."""

    UNKNOWN = 0
    SYSTEM = 1
    APPLICATION = 2


class KernelOrigin(IntEnum):
    """``CUDBGKernelOrigin``."""

    CPU = 0
    GPU = 1


class CbuState(IntEnum):
    """``CUDBGCbuThreadState``: what a thread waits for in the convergence barrier unit; 9 and more: B0, B1, ..."""

    EXITED = 0
    READY = 1
    YIELDED = 2
    SLEEP = 3
    SLEEP_YIELD = 4
    READY_AT_NEXT = 5
    BLOCKED_PLUS = 6
    BLOCKED_ALL = 7
    BLOCKED_COLLECTIVE = 8
