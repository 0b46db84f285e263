"""What drivers, core dumps and the emulator call an error -> what it is a symptom of.

CUDA names its statuses in ``CUresult`` (cuda.h), HIP in ``hipError_t`` (hip_runtime_api.h); kinds of GPU exceptions are
those of `trlaunch.cuda.exceptions`, kinds of faults those of `trlaunch.Fault`.
"""

from __future__ import annotations

import re

from trlaunch.investigate.trial import Died

__all__ = ["MEANINGS", "of_exception", "of_fault", "of_status", "printed"]

#: Symptom -> what it means, for people.
MEANINGS = {
    "illegal-address": "a thread accessed memory that it may not",
    "misaligned": "a thread accessed memory at an address that is not a multiple of the access's size",
    "illegal-instruction": "a warp executed an instruction that cannot be executed as it stood",
    "launch-failed": "the kernel stopped itself, or an error without a status of its own ended it",
    "assert": "a device-side assert failed",
    "trap": "the kernel executed trap",
    "stack": "the stack of a thread or warp ran over",
    "address-space": "an instruction was given an address of another memory space than it works on",
    "pc": "a thread jumped to where there is no code",
    "hang": "the kernel did not end",
    "barrier": "threads do not meet at a barrier as they must",
    "mbarrier": "an mbarrier was used that is not initialised, or by more threads than it expects",
    "tensor-map": "a tensor descriptor breaks a rule of TMA",
    "uninitialised": "memory was read that nothing has written",
    "wgmma": "a warpgroup instruction was not executed by a whole warpgroup as it must be",
    "race": "two accesses that nothing orders touch the same memory",
    "invalid-value": "the driver refused the launch or one of its values",
    "resources": "a block needs more registers, threads or shared memory than there are",
    "cooperative": "a cooperative grid does not fit on the device at once",
    "cluster": "the device cannot form the clusters that the launch asks for",
    "architecture": "the binary is not for this device",
    "ptx": "the driver's compiler refused the PTX",
    "image": "the binary cannot be read by this driver",
    "memory": "device memory ran out",
    "hardware": "the device reported an error of its own",
    "gone": "the process uses a context or handle that is not there any more",
}

_STATUS = {
    1: "invalid-value",
    2: "memory",
    4: "gone",
    98: "architecture",
    200: "image",
    201: "gone",
    209: "architecture",
    214: "hardware",
    218: "ptx",
    220: "hardware",
    221: "ptx",
    222: "ptx",
    226: "hardware",
    400: "gone",
    700: "illegal-address",
    701: "resources",
    702: "hang",
    709: "gone",
    710: "assert",
    714: "stack",
    715: "illegal-instruction",
    716: "misaligned",
    717: "address-space",
    718: "pc",
    719: "launch-failed",
    720: "cooperative",
    912: "cluster",
}

_EXCEPTIONS = {
    "lane-illegal-address": "illegal-address",
    "illegal-address": "illegal-address",
    "device-illegal-address": "illegal-address",
    "out-of-range-address": "illegal-address",
    "cluster-out-of-range-address": "illegal-address",
    "cluster-block-not-present": "cluster",
    "misaligned-address": "misaligned",
    "lane-misaligned-address": "misaligned",
    "invalid-address-space": "address-space",
    "invalid-pc": "pc",
    "assert": "assert",
    "hardware-stack-overflow": "stack",
    "device-stack-overflow": "stack",
    "lane-stack-overflow": "stack",
    "stack-canary": "stack",
    "barrier-arrival": "mbarrier",
    "api-stack": "stack",
    "user-stack-overflow": "stack",
    "misaligned-pc": "pc",
    "pc-overflow": "pc",
    "cluster-poison": "hardware",
    "block-not-present": "cluster",
    "mmu-fault": "illegal-address",
}

_FAULTS = {
    "out-of-bounds": "illegal-address",
    "read-only": "illegal-address",
    "misaligned": "misaligned",
    "uninitialised": "uninitialised",
    "tensor-map": "tensor-map",
    "mbarrier": "mbarrier",
    "deadlock": "hang",
    "hang": "hang",
    "divergent": "barrier",
    "barrier": "barrier",
    "wgmma": "wgmma",
    "assert": "assert",
    "trap": "trap",
    "atomic": "address-space",
    "race": "race",
}


# What cuGetErrorString and hipGetErrorString say of an error of the device, as torch and Triton pass it on.
_TEXTS = {
    "an illegal memory access was encountered": (700, "CUDA_ERROR_ILLEGAL_ADDRESS"),
    "too many resources requested for launch": (701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
    "the launch timed out and was terminated": (702, "CUDA_ERROR_LAUNCH_TIMEOUT"),
    "device-side assert triggered": (710, "CUDA_ERROR_ASSERT"),
    "hardware stack error": (714, "CUDA_ERROR_HARDWARE_STACK_ERROR"),
    "an illegal instruction was encountered": (715, "CUDA_ERROR_ILLEGAL_INSTRUCTION"),
    "misaligned address": (716, "CUDA_ERROR_MISALIGNED_ADDRESS"),
    "operation not supported on global/shared address space": (717, "CUDA_ERROR_INVALID_ADDRESS_SPACE"),
    "invalid program counter": (718, "CUDA_ERROR_INVALID_PC"),
    "unspecified launch failure": (719, "CUDA_ERROR_LAUNCH_FAILED"),
}
_PRINTED = re.compile(
    r"^.*(?:CUDA|HIP|hip|cu[A-Z]|Triton Error)[^\n]*?(" + "|".join(map(re.escape, _TEXTS)) + r").*$", re.M
)


def printed(text: str) -> Died | None:
    """The first error of a device in what a program printed: torch's, Triton's, any that quotes the driver."""
    found = _PRINTED.search(text)
    if found is None:
        return None
    code, name = _TEXTS[found[1]]
    return Died("DriverError", found[0].strip(), call="the program", name=name, code=code)


def of_status(code: int | None) -> str | None:
    """The symptom of a driver's status; CUDA and HIP number these alike."""
    return None if code is None else _STATUS.get(code)


def of_exception(kind: str) -> str | None:
    """The symptom of a GPU exception by its kind; those that the table lacks are finer kinds of illegal instruction."""
    return None if kind in ("none", "unknown") else _EXCEPTIONS.get(kind, "illegal-instruction")


def of_fault(kind: str | None) -> str | None:
    """The symptom of a fault of the emulator."""
    return None if kind is None else _FAULTS.get(kind)
