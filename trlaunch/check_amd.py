"""Rules of the audit that only code for AMD has: wavefronts, vector registers, the kernarg segment, the grid."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trlaunch.finding import Finding, Subject

__all__ = ["kernarg", "registers", "wave", "work_items"]


def wave(s: Subject) -> Iterator[Finding]:
    """The wavefront size of the image against metadata and device."""
    compiled = s.entry.wave_size
    if compiled is None:
        return
    stated = s.metadata.target.warp_size if s.metadata and s.metadata.target else None
    if stated is not None and stated != compiled:
        yield Finding(
            "wave",
            "error",
            f"the {s.image.format} was compiled for wavefronts of {compiled}, the metadata's warp_size is {stated}",
            "give the JSON that was written with this file",
        )
    # From gfx10 on a device runs both; before, 64 is all there is.
    elif compiled == 32 and s.device.target.warp_size == 64:
        yield Finding(
            "wave",
            "error",
            f"the {s.image.format} was compiled for wavefronts of 32, {s.device.device} ({s.device.target}) has 64",
            f"compile for {s.device.target}",
        )
    else:
        yield Finding("wave", "ok", f"wavefronts of {compiled}")


def registers(s: Subject) -> Iterator[Finding]:
    """The vector registers of a workgroup against what a SIMD unit has."""
    used, lanes = s.entry.registers, s.entry.wave_size
    if used is None or lanes is None or s.threads is None:
        return
    from trlaunch.hip.note import SIMD_UNITS, vector_registers

    file = vector_registers(s.image.target.arch, lanes)
    waves = math.ceil(math.ceil(s.threads / lanes) / SIMD_UNITS)  # of the workgroup, on one SIMD unit
    given = math.ceil(used / file.granule) * file.granule
    if used > file.addressable:
        yield Finding(
            "registers",
            "error",
            f"{used} VGPRs a thread, {s.image.target.arch} has {file.addressable}",
            "the image is damaged, or for another architecture",
        )
    elif waves * given > file.total:
        yield Finding(
            "registers",
            "error",
            f"{s.threads} threads of {used} VGPRs need {waves} x {given} registers of a SIMD unit, it has {file.total}",
            "compile with fewer warps, or with a larger waves_per_eu",
        )
    else:
        spilled = s.entry.spilled_registers or 0
        note = f", {spilled} spilled" if spilled else ""
        yield Finding("registers", "ok", f"{used} VGPRs a thread of {file.addressable}{note}")


def kernarg(s: Subject) -> Iterator[Finding]:
    """The kernarg segment against the signature: each type lies at a multiple of its size."""
    for param in s.signature.params:
        align = param.size if param.size in (1, 2, 4, 8) else 1
        if param.offset % align:
            yield Finding(
                "parameters",
                "error",
                f"{param.label} of {param.size} bytes lies at offset {param.offset} of the kernarg segment",
                "the image is damaged",
            )


def work_items(s: Subject, ctas: int) -> Iterator[Finding]:
    """The threads along x, of which there are `ctas` CTAs."""
    from trlaunch.hip.note import WORK_ITEMS

    threads = s.threads or 1
    if ctas * threads > WORK_ITEMS:
        yield Finding(
            "grid",
            "error",
            f"{ctas} CTAs of {threads} threads are {ctas * threads} along x, HIP counts them in 32 bits",
            "put a part of the axis on y, or loop in the kernel",
        )
