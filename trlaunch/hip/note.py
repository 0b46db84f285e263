"""Facts of the AMDGPU code-object format, as tables: ELF flags, the metadata note, the kernel descriptor.

They are LLVM's "User Guide for AMDGPU Backend" (AMDGPUUsage), sections ELF Code Object, Code Object Metadata and Kernel
Descriptor, for code objects of version 4 to 6, where none other is named; the machine numbers are
``llvm/BinaryFormat/ELF.h``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = [
    "ABI_VERSIONS",
    "DESCRIPTOR_SIZE",
    "EM_AMDGPU",
    "HIDDEN",
    "MACHINES",
    "NOTE_OWNER",
    "NOTE_TYPE",
    "OSABI_HSA",
    "SIMD_UNITS",
    "VALUE_KINDS",
    "WORK_ITEMS",
    "Descriptor",
    "VectorRegisters",
    "features_of_flags",
    "machine_of_flags",
    "vector_registers",
    "wave_size",
]

EM_AMDGPU = 224
OSABI_HSA = 64

ABI_VERSIONS = {2: 4, 3: 5, 4: 6}
"""``e_ident[EI_ABIVERSION]`` and the code-object version that it stands for. Triton writes 4 up to 3.2, 5 from 3.3."""

NOTE_OWNER, NOTE_TYPE = "AMDGPU", 32  # NT_AMDGPU_METADATA, whose description is MessagePack

MACHINES = {
    0x20: "gfx600", 0x21: "gfx601", 0x3A: "gfx602",
    0x22: "gfx700", 0x23: "gfx701", 0x24: "gfx702", 0x25: "gfx703", 0x26: "gfx704", 0x3B: "gfx705",
    0x28: "gfx801", 0x29: "gfx802", 0x2A: "gfx803", 0x3C: "gfx805", 0x2B: "gfx810",
    0x2C: "gfx900", 0x2D: "gfx902", 0x2E: "gfx904", 0x2F: "gfx906", 0x30: "gfx908", 0x31: "gfx909",
    0x32: "gfx90c", 0x3F: "gfx90a", 0x4C: "gfx942", 0x4F: "gfx950",
    0x33: "gfx1010", 0x34: "gfx1011", 0x35: "gfx1012", 0x42: "gfx1013",
    0x36: "gfx1030", 0x37: "gfx1031", 0x38: "gfx1032", 0x39: "gfx1033", 0x3E: "gfx1034", 0x3D: "gfx1035",
    0x45: "gfx1036",
    0x41: "gfx1100", 0x46: "gfx1101", 0x47: "gfx1102", 0x44: "gfx1103",
    0x43: "gfx1150", 0x4A: "gfx1151", 0x55: "gfx1152", 0x58: "gfx1153",
    0x48: "gfx1200", 0x4E: "gfx1201", 0x49: "gfx1250", 0x5A: "gfx1251",
}  # fmt: skip
"""``EF_AMDGPU_MACH`` (the low byte of ``e_flags``) by processor."""

_MACH_MASK = 0xFF
# EF_AMDGPU_FEATURE_{XNACK,SRAMECC}_V4: two bits each. 0 is "not supported", 1 "any": the code runs either way.
_FEATURES = (("sramecc", 10), ("xnack", 8))
_OFF, _ON = 2, 3

WORK_ITEMS = 2**32 - 1
"""Threads along an axis of a grid: ``grid_size_x`` of the AQL dispatch packet (HSA runtime specification)."""

HIDDEN = "hidden_"
"""Prefix of the ``.value_kind`` of arguments that the runtime fills by itself; no launcher passes them."""

VALUE_KINDS = {
    "by_value": None,
    "global_buffer": "global",
    "dynamic_shared_pointer": "local",
    "sampler": None,
    "image": None,
    "pipe": None,
    "queue": None,
}
"""``.value_kind`` of the arguments that a launcher passes, and the address space a pointer of that kind points to."""

DESCRIPTOR_SIZE = 64
# Offsets 0, 4, 8, 16; 44, 48, 52, 56, 58 of amdhsa::kernel_descriptor_t; the rest is reserved and zero.
_DESCRIPTOR = struct.Struct("<III4xq20xIIIHH4x")
_ENABLE_WAVEFRONT_SIZE32 = 1 << 10  # kernel_code_properties


class Descriptor(NamedTuple):
    """The kernel descriptor, 64 bytes behind the symbol ``<kernel>.kd``. Sizes in bytes.

    Attributes
    ----------
    group_segment, private_segment, kernarg : int
        LDS a workgroup, scratch a work-item, kernel arguments (0 when the compiler did not state it).
    entry_offset : int
        From the descriptor to the code.
    rsrc3, rsrc1, rsrc2 : int
        ``COMPUTE_PGM_RSRC``.
    properties : int
        Which registers are set up, and the wavefront size.
    preload : int
        Kernel arguments that are preloaded into registers.
    """

    group_segment: int
    private_segment: int
    kernarg: int
    entry_offset: int
    rsrc3: int
    rsrc1: int
    rsrc2: int
    properties: int
    preload: int

    @classmethod
    def unpack(cls, data: bytes) -> Descriptor:
        """The descriptor in its 64 bytes."""
        return cls(*_DESCRIPTOR.unpack(data))

    @property
    def wave32(self) -> bool:
        """Whether the kernel runs in wavefronts of 32."""
        return bool(self.properties & _ENABLE_WAVEFRONT_SIZE32)


def machine_of_flags(flags: int) -> str | None:
    """The processor that ``e_flags`` state, ``None`` for one that is not in `MACHINES`."""
    return MACHINES.get(flags & _MACH_MASK)


def features_of_flags(flags: int) -> str:
    """The features that ``e_flags`` insist on, as in a target id: ``":sramecc+:xnack-"``, mostly empty."""
    parts = []
    for name, shift in _FEATURES:
        setting = flags >> shift & 3
        if setting in (_OFF, _ON):
            parts.append(f":{name}{'+' if setting == _ON else '-'}")
    return "".join(parts)


def wave_size(arch: str) -> int:
    """Lanes of a wavefront that every kernel of an architecture can be compiled for: 64 before gfx10, else 32."""
    return 64 if len(arch.removeprefix("gfx")) == 3 else 32


class VectorRegisters(NamedTuple):
    """The vector register file of a SIMD unit, as ``AMDGPUBaseInfo.cpp`` of LLVM has it.

    Attributes
    ----------
    addressable : int
        Most that one thread can have, those for accumulation included where they are of one file.
    total : int
        A lane of a SIMD unit has them for all of its wavefronts.
    granule : int
        They are given out in multiples of it.
    """

    addressable: int
    total: int
    granule: int


SIMD_UNITS = 4
"""Of a compute unit (gfx9), or of a workgroup processor (gfx10 and later): what the waves of a workgroup share."""

_FULL_FILE = frozenset({"gfx1100", "gfx1101", "gfx1151", "gfx1200", "gfx1201"})


def vector_registers(arch: str, wave: int) -> VectorRegisters:
    """The register file of an architecture, for wavefronts of 32 or 64 lanes."""
    if wave_size(arch) == 64:
        # gfx90a, gfx942 and gfx950 have one file for VGPRs and AGPRs, those before two of 256.
        unified = arch in ("gfx90a", "gfx942", "gfx950")
        return VectorRegisters(512, 512, 8) if unified else VectorRegisters(256, 256, 4)
    if arch.startswith("gfx125"):
        return VectorRegisters(1024, 1024, 16)
    total, granule = (1536, 24) if arch in _FULL_FILE else (1024, 16 if arch.startswith("gfx11") else 8)
    return VectorRegisters(256, total, granule) if wave == 32 else VectorRegisters(256, total // 2, granule // 2)
