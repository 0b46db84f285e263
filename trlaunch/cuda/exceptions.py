"""The exceptions of NVIDIA GPUs, as debuggers and core dumps number them (``CUDBGException_t``).

The numbers and what they stand for are those of NVIDIA's debugger API: ``cudadebugger.h`` of cuda-gdb 10 to 13, where
older headers name what newer ones only reserve (1, 2, 3, 11, 13, 15, 16; gone with CUDA 13.1), and newer ones split
illegal instructions (4) into 23 to 31. Which of them a GPU reports is up to the driver, not to the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXCEPTIONS", "UNKNOWN", "GpuException", "exception"]


@dataclass(frozen=True, slots=True)
class GpuException:
    """One exception code.

    Attributes
    ----------
    code : int
    kind : str
        A short name that scripts may rely on: ``"misaligned-address"``.
    text : str
        The name that debuggers print: ``"Warp Misaligned Address"``.
    scope : str
        What reports it: ``"lane"``, ``"warp"``, ``"cluster"``, ``"device"``; nothing for no exception.
    meaning : str
        What has happened, in a sentence.
    since : str
        The first CUDA release, where it is not as old as the debugger.
    until : str
        The first CUDA release that reports it no longer.
    """

    code: int
    kind: str
    text: str
    scope: str
    meaning: str
    since: str = ""
    until: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.code})"


UNKNOWN = 0xFFFFFFFF
"""The code that stands for an exception that the debugger could not tell."""

_TABLE = (
    GpuException(0, "none", "No exception", "", "The threads were stopped without an exception."),
    GpuException(
        1, "lane-illegal-address", "Lane Illegal Address", "lane", "A thread used an address that is mapped nowhere.",
        until="13.1",
    ),
    GpuException(
        2, "lane-stack-overflow", "Lane User Stack Overflow", "lane", "A thread ran out of its stack.", until="13.1"
    ),
    GpuException(
        3, "device-stack-overflow", "Device Hardware Stack Overflow", "device",
        "The stack of the hardware ran over.", until="13.1",
    ),
    GpuException(
        4, "illegal-instruction", "Warp Illegal Instruction", "warp",
        "A warp executed an instruction that cannot be executed: opcode, operands, registers, descriptor or the warps "
        "taking part in it are wrong. Drivers before CUDA 13.1 report 23 to 31 as this, too.",
    ),
    GpuException(
        5, "out-of-range-address", "Warp Out-of-range Address", "warp",
        "An address lies outside its window: shared memory, local memory, or the GPU's address space.",
    ),
    GpuException(
        6, "misaligned-address", "Warp Misaligned Address", "warp",
        "An address is not a multiple of the access's size.",
    ),
    GpuException(
        7, "invalid-address-space", "Warp Invalid Address Space", "warp",
        "The instruction may not access the memory space that the address lies in.",
    ),
    GpuException(8, "invalid-pc", "Warp Invalid PC", "warp", "The program counter left the program."),
    GpuException(
        9, "hardware-stack-overflow", "Warp Hardware Stack Overflow", "warp",
        "A warp's stack ran over, or the stack of the device API.",
    ),
    GpuException(
        10, "device-illegal-address", "Device Illegal Address", "device",
        "The memory management unit met an address that is mapped nowhere; which warp used it is not known.",
    ),
    GpuException(
        11, "lane-misaligned-address", "Lane Misaligned Address", "lane",
        "A thread used an address that is not a multiple of the access's size.", until="13.1",
    ),
    GpuException(12, "assert", "Warp Assert", "warp", "A device-side assert failed."),
    GpuException(
        13, "lane-syscall", "Lane Syscall Error", "lane",
        "A device-side call (malloc, free, ...) was given something invalid.", until="13.1",
    ),
    GpuException(
        14, "illegal-address", "Warp Illegal Address", "warp", "A warp used an address that is mapped nowhere."
    ),
    GpuException(
        15, "lane-nonmigratable-atomic", "Lane Nonmigratable System Atomic", "lane",
        "A system-wide atomic went to memory that cannot migrate.", until="13.1",
    ),
    GpuException(
        16, "lane-invalid-atomic", "Lane Invalid System Atomic", "lane",
        "A system-wide atomic went to memory that does not support it.", until="13.1",
    ),
    GpuException(
        17, "cluster-out-of-range-address", "Cluster Out-of-range Address", "cluster",
        "An address in the shared memory of another block of the cluster lies outside it.", since="11.8",
    ),
    GpuException(
        18, "cluster-block-not-present", "Cluster Block Not Present", "cluster",
        "A block of the cluster that was accessed has exited, or never was.", since="11.8",
    ),
    GpuException(
        19, "stack-canary", "Warp Stack Canary", "warp", "A function's stack frame was overwritten.", since="12.4"
    ),
    GpuException(
        20, "tmem-access", "Warp Tensor Memory Access Check", "warp",
        "Tensor memory was accessed that the warp has not allocated.", since="12.8",
    ),
    GpuException(
        21, "tmem-leak", "Warp Tensor Memory Leak", "warp", "A block exited without freeing its tensor memory.",
        since="12.8",
    ),
    GpuException(
        22, "newer-driver", "Warp Call Requires Newer Driver", "warp", "The code calls what this driver does not have.",
        since="12.8",
    ),
    GpuException(
        23, "misaligned-pc", "Warp Misaligned PC", "warp", "A branch went to an address that is no instruction's.",
        since="13.1",
    ),
    GpuException(
        24, "pc-overflow", "Warp PC Overflow", "warp", "The program counter left the address space.", since="13.1"
    ),
    GpuException(
        25, "misaligned-register", "Warp Misaligned Register", "warp",
        "A register pair or quad does not begin at a multiple of its size.", since="13.1",
    ),
    GpuException(
        26, "illegal-encoding", "Warp Illegal Instruction Encoding", "warp",
        "The bits at the program counter are no instruction of this GPU.", since="13.1",
    ),
    GpuException(
        27, "illegal-parameter", "Warp Illegal Instruction Parameter", "warp",
        "An operand's value is not allowed: descriptor, coordinates, shape, count.", since="13.1",
    ),
    GpuException(
        28, "out-of-range-register", "Warp Out-of-range Register", "warp",
        "A register was used that the warp does not have (setmaxnreg, or too few registers at the launch).",
        since="13.1",
    ),
    GpuException(
        29, "invalid-constant-address", "Warp Invalid Constant Address", "warp",
        "An indexed load from constant memory lies outside its bank.", since="13.1",
    ),
    GpuException(
        30, "mmu-fault", "Warp MMU Fault", "warp", "A warp's access was refused by the memory management unit.",
        since="13.1",
    ),
    GpuException(
        31, "barrier-arrival", "Warp Barrier Arrival Mismatch", "warp",
        "An mbarrier is locked, or more threads arrived at it than it expects.", since="13.1",
    ),
    GpuException(
        32, "cluster-poison", "Cluster Shared Memory Issue", "cluster",
        "An access within the cluster met an uncorrectable error.", since="13.1",
    ),
    GpuException(
        33, "api-stack", "Warp API Stack Error", "warp", "The stack of the device API ran over.", since="13.1"
    ),
    GpuException(
        34, "block-not-present", "Warp Block Not Present", "cluster",
        "A block of the cluster was not there for an access or a barrier.", since="13.1",
    ),
    GpuException(
        35, "user-stack-overflow", "Warp User Stack Overflow", "warp", "A warp ran out of its stack.", since="13.1"
    ),
    GpuException(
        36, "tma-syscall", "TMA Syscall Error", "warp", "An operation of the tensor memory accelerator failed.",
        since="13.3",
    ),
)  # fmt: skip

EXCEPTIONS = {entry.code: entry for entry in _TABLE}
"""Every code by its number."""


def exception(code: int) -> GpuException:
    """The exception of a number; for one that no header knows, an entry that says so.

    >>> exception(6).text
    'Warp Misaligned Address'
    """
    if code in EXCEPTIONS:
        return EXCEPTIONS[code]
    if code == UNKNOWN:
        return GpuException(code, "unknown", "Unknown exception", "device", "The driver could not tell what it was.")
    return GpuException(
        code, "unknown", f"Exception {code}", "device", "This code is newer than CUDA 13.3, the newest known here."
    )
