"""Format facts of cubins: numbers, names and payloads, apart from the logic that uses them.

NVIDIA publishes no specification. Each number was paired with its name by reading the raw bytes of ``.nv.info``,
``.nv.info.<kernel>`` and ``.nv.compat`` beside what ``cuobjdump -elf`` of CUDA 13.5 prints for them, over cubins of
ptxas 12.4, 12.8, 12.9, 13.1, 13.3, 13.4 and 13.5 for sm_70 to sm_121a; tests/cuda/test_image.py repeats the comparison.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

from trlaunch.errors import ImageError

__all__ = [
    "ACCELERATOR_FLAG",
    "ANNOTATION",
    "ATTRIBUTE_NAMES",
    "CBANK",
    "CUDA_ACCELERATOR_TARGET",
    "DIMENSIONS",
    "EM_CUDA",
    "FUNCTION_VALUE",
    "KPARAM",
    "KPARAM_V2",
    "OSABI",
    "RESERVED_SHARED",
    "SPACES",
    "SPILL_ANNOTATION",
    "SPILL_ANNOTATIONS_SINCE",
    "STO_CUDA_ENTRY",
    "TKINFO_NOTE",
    "UNKNOWN_SIZE",
    "Abi",
    "Attribute",
    "Format",
    "decode",
    "sm_of_flags",
]

EM_CUDA = 190
"""``e_machine``; readelf calls it "NVIDIA CUDA architecture"."""


class Abi(IntEnum):
    """``EI_ABIVERSION``. 7 comes with ``EI_OSABI`` 0x33, 8 with 0x41 (``cuobjdump -elf``: "abi=7", "ABI=8").

    ptxas 12.8 and 12.9 write 8 from sm_100 on and 7 below; ptxas 13 writes 8 for every architecture.
    """

    V7 = 7
    V8 = 8


OSABI = {Abi.V7: 0x33, Abi.V8: 0x41}

ACCELERATOR_FLAG = {Abi.V7: 1 << 11, Abi.V8: 1 << 3}
"""Bit of ``e_flags`` that stands for the ``a`` of ``sm_90a``.

Flags 0x5a055a and 0x5a0d5a for sm_90 and sm_90a (ptxas 12.4 to 12.9), 0x6006402 and 0x600640a for sm_100 and sm_100a
(ptxas 12.8, 12.9). ptxas 13 leaves the bit clear and writes `CUDA_ACCELERATOR_TARGET` instead. No version
tells sm_100f from sm_100 other than by the command line in ``.note.nv.tkinfo``.
"""


def sm_of_flags(abi: Abi, flags: int) -> int:
    """Compute capability in ``e_flags``: 90 in 0x5a055a (ABI 7, bits 0-7), 100 in 0x6006402 (ABI 8, bits 8-15)."""
    return flags & 0xFF if abi is Abi.V7 else flags >> 8 & 0xFF


STO_CUDA_ENTRY = 0x10
"""Bit of ``st_other`` that marks a kernel (``cuobjdump -elf``: "ENTRY"); device functions lack it."""

RESERVED_SHARED = 1024
"""Bytes of ``.nv.shared.<kernel>`` that are the driver's own, from sm_90 on; none below."""


class Format:
    """First byte of an attribute; the second is the attribute's number (``EIFMT_*`` in ``cuobjdump -elf``)."""

    NVAL = 1  # no value; two bytes of padding
    BVAL = 2  # one byte, one of padding
    HVAL = 3  # two bytes
    SVAL = 4  # a two-byte size, then that many bytes


class Attribute:
    """``EIATTR_*``: attributes of ``.nv.info`` and ``.nv.info.<kernel>``.

    Plain numbers: an enumeration of these takes as long to make as reading a cubin does.
    """

    PAD = 0x00
    MAX_THREADS = 0x05
    PARAM_CBANK = 0x0A
    REQNTID = 0x10
    FRAME_SIZE = 0x11
    MIN_STACK_SIZE = 0x12
    KPARAM_INFO = 0x17
    CBANK_PARAM_SIZE = 0x19
    MAXREG_COUNT = 0x1B
    EXIT_INSTR_OFFSETS = 0x1C
    COOP_GROUP_INSTR_OFFSETS = 0x28
    COOP_GROUP_MASK_REGIDS = 0x29
    REGCOUNT = 0x2F
    INT_WARP_WIDE_INSTR_OFFSETS = 0x31
    SW_WAR = 0x36
    CUDA_API_VERSION = 0x37
    CTA_PER_CLUSTER = 0x3D
    EXPLICIT_CLUSTER = 0x3E
    MAX_CLUSTER_RANK = 0x3F
    RESERVED_SMEM_USED = 0x41
    KPARAM_INFO_V2 = 0x45
    VRC_CTA_INIT_COUNT = 0x4A
    NUM_BARRIERS = 0x4C
    SPARSE_MMA_MASK = 0x50
    ANNOTATIONS = 0x55
    LANGUAGE = 0x66
    NVSAL_SW_WAR = 0x6B
    PREEXIT_USED = 0x6D


ATTRIBUTE_NAMES = {number: name for name, number in vars(Attribute).items() if name.isupper()}

CUDA_ACCELERATOR_TARGET = 0x09
"""``EICOMPAT_ATTR_*``: attribute of ``.nv.compat``."""


# Payloads, little-endian.
FUNCTION_VALUE = struct.Struct("<II")
"""REGCOUNT, FRAME_SIZE, MIN_STACK_SIZE: symbol index, value."""

UNKNOWN_SIZE = 0xFFFFFFFF
"""MIN_STACK_SIZE of a kernel whose call depth is not bounded."""

DIMENSIONS = struct.Struct("<III")
"""REQNTID, MAX_THREADS, CTA_PER_CLUSTER: x, y, z."""

CBANK = struct.Struct("<IHH")
"""PARAM_CBANK: symbol of the constant bank section, offset of the parameters in it, their size in bytes."""

KPARAM = struct.Struct("<IHHI")
"""KPARAM_INFO: index (always 0), ordinal, offset, then bits: 0-7 log2 of the pointee's alignment, 8-11 its space,
12-16 bank (31), 17 parameter space, 18-31 size."""

KPARAM_V2 = struct.Struct("<IHHHBB")
"""KPARAM_INFO_V2, for kernels with a parameter larger than 14 bits can say: index, ordinal, offset, size, log2 of the
pointee's alignment, its space."""

SPACES = {1: "local", 2: "shared", 3: "const", 4: "global", 5: "generic"}
"""State space a pointer parameter was declared with (``.param .u64 .ptr .global``); 0 without ``.ptr``."""

ANNOTATION = struct.Struct("<II")
"""ANNOTATIONS: kind, offset of the instruction in the kernel."""

SPILL_ANNOTATION = 1
"""cuobjdump: "SpillRefill", one for each instruction that stores or reloads a spilled register."""

SPILL_ANNOTATIONS_SINCE = 128
"""CUDA_API_VERSION (major * 10 + minor) from which spills are annotated: 12.8 writes them, 12.4 does not."""

TKINFO_NOTE = struct.Struct("<IIIIII")
"""``.note.nv.tkinfo``, type 2000: note version (the toolkit in 12.x), then offsets into the strings that follow
(object file, tool name, tool version, tool branch, command line); ``cuobjdump -elf`` prints them by these names."""


def decode(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """Attributes of one section as ``(number, value)``: an int for NVAL, BVAL and HVAL, bytes for SVAL.

    Raises
    ------
    ImageError
        The format byte is unknown, or an attribute reaches beyond the section.
    """
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise ImageError(f"this cubin is damaged: {where} ends inside an attribute at {at:#x}")
        kind, number, value = struct.unpack_from("<BBH", data, at)
        at += 4
        if kind == Format.SVAL:
            if at + value > len(data):
                raise ImageError(
                    f"this cubin is damaged: attribute {number:#x} of {where} has {value} bytes, "
                    f"{len(data) - at} are left"
                )
            yield number, data[at : at + value]
            at += value
        elif kind == Format.HVAL:
            yield number, value
        elif kind == Format.BVAL:
            yield number, value & 0xFF
        elif kind == Format.NVAL:
            yield number, 0
        else:
            raise ImageError(f"this cubin is damaged: {where} has an attribute of unknown format {kind} at {at - 4:#x}")
