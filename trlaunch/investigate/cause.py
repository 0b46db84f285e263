"""Cause: one explanation of why a kernel died, and what each means and what to try about it. Tables alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CAUSES", "Cause"]

#: Rule -> what happened, and what to try.
CAUSES = {
    "refused": (
        "the launch was refused before the driver had it",
        "do what the message says; nothing ran",
    ),
    "block": (
        "the block is not the one the kernel was compiled for",
        "launch with the JSON that was written with this binary: its num_warps gives the block",
    ),
    "shared": (
        "the launch has less dynamic shared memory than the kernel uses",
        'launch with the JSON that was written with this binary ("shared"), or pass shared= as much as it needs',
    ),
    "architecture": (
        "the binary is for another device",
        "compile for this device: a suffix 'a' runs on that very capability alone",
    ),
    "configuration": (
        "the launch does not fit the image",
        "take image, JSON and text levels from one compilation",
    ),
    "null-pointer": (
        "a null pointer is accessed",
        "pass a tensor; a kernel that takes None has to be compiled for it",
    ),
    "wild-pointer": (
        "an argument is no address of device memory",
        "pass the tensor instead of an address, and keep it alive until the kernel is done",
    ),
    "out-of-bounds": (
        "an access lies outside of every argument",
        "look at the mask and the offsets of this access: strides in elements, sizes as passed, the last program",
    ),
    "shared-out-of-bounds": (
        "an access lies outside of the block's shared memory",
        "compare the launch's shared memory with the JSON's; then look at the index into shared memory",
    ),
    "read-only": (
        "the kernel writes to memory that must not be written",
        "copy the argument, or give the kernel an output of its own",
    ),
    "misaligned": (
        "an address is not a multiple of what the access needs",
        "pass an aligned copy: Triton specialises on addresses and strides that are multiples of 16",
    ),
    "tma-coordinate": (
        "a TMA copy begins at a coordinate that is not a multiple of 16 bytes",
        "make the innermost offset times the element size a multiple of 16, or load this tile with pointers",
    ),
    "tensor-map": (
        "a tensor descriptor breaks a rule of TMA",
        "make the descriptor on the host, which checks it: base and strides multiples of 16 bytes, boxes to 256",
    ),
    "mbarrier": (
        "an mbarrier is not initialised, or is used by more threads than it expects",
        "init every mbarrier with its count, fence, and make the threads meet before the first of them arrives",
    ),
    "wgmma": (
        "a warpgroup instruction is not executed by a whole warpgroup",
        "wgmma and setmaxnreg take 4 aligned warps: num_warps must be a multiple of 4",
    ),
    "setmaxnreg": (
        "the register budgets after setmaxnreg do not add up",
        "the sum over the warpgroups must be what the block was launched with; each from 24 to 256, a multiple of 8",
    ),
    "illegal-instruction": (
        "an instruction cannot be executed as it stands",
        "look at the operands of the instruction; assemble the PTX with another ptxas to rule the assembler out",
    ),
    "assert": ("a device-side assert failed", "the message has the condition; the arguments do not keep it"),
    "trap": (
        "the kernel executed trap",
        "trap is what a check in the kernel ends with: look at the branch that leads to it",
    ),
    "deadlock": (
        "threads wait for what never comes",
        "every thread of the barrier has to reach it, every copy's bytes must be expected, every phase waited for once",
    ),
    "endless-loop": (
        "a loop does not end",
        "look at the condition of the loop and at the arguments that it depends on; a poll needs a volatile load",
    ),
    "slow": (
        "the kernel may only need more time",
        "raise the time limit, or launch a smaller grid",
    ),
    "divergent": (
        "part of a warp or block executes what all of it must",
        "move the barrier, shuffle or matrix instruction out of the branch, or mask with the active threads",
    ),
    "uninitialised": (
        "memory is read that nothing has written",
        "wait for the copy (cp.async, mbarrier) before the load, or store first",
    ),
    "race": ("two accesses that nothing orders touch the same memory", "put a barrier between them"),
    "stack": (
        "the stack ran over",
        "raise the limit (cuCtxSetLimit, CU_LIMIT_STACK_SIZE), or end the recursion",
    ),
    "resources": (
        "a block needs more registers or threads than a multiprocessor has",
        "compile with fewer warps, smaller tiles, or maxnreg",
    ),
    "cooperative": ("a cooperative grid does not fit on the device at once", "launch fewer blocks"),
    "cluster": ("the device cannot form these clusters", "launch a grid that is a multiple of the cluster"),
    "invalid-value": (
        "the driver refused the launch without a reason",
        "compare block, shared memory, grid and cluster with what the image and the device allow",
    ),
    "ptx": ("the driver's compiler refused the PTX", "assemble it with ptxas: it names the line"),
    "memory": ("device memory ran out", "run smaller arguments, or end what else uses the device"),
    "hardware": ("the device reported an error of its own", "look at nvidia-smi -q and the kernel log (Xid)"),
    "host-crash": (
        "the process itself died, not the kernel",
        "the end of its stderr has the Python stack (faulthandler); a SIGILL or SIGSEGV there is in host code",
    ),
    "not-started": (
        "the process did not come as far as the launch",
        "raise the time limit: compiling and loading count; the end of its stderr may say more",
    ),
    "earlier-launch": (
        "the error belongs to another launch than the one that reported it",
        "launches are asynchronous: the driver reports an error at some later call",
    ),
    "unknown": (
        "the evidence tells no cause",
        "run it under compute-sanitizer (trlaunch sanitize --tool compute-sanitizer), and with a core dump in full",
    ),
}


@dataclass(frozen=True, slots=True)
class Cause:
    """One explanation.

    Attributes
    ----------
    rule : str
        One of `CAUSES`.
    score : float
        From 0 to 1: 0.95 and more where the evidence shows it, less where it only fits.
    facts : tuple of str
        What made the rule speak.
    """

    rule: str
    score: float
    facts: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What happened."""
        return CAUSES[self.rule][0]

    @property
    def advice(self) -> str:
        """What to try."""
        return CAUSES[self.rule][1]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "facts": list(self.facts), "title": self.title, "advice": self.advice}
