"""Resources: what a kernel takes on a device."""

from __future__ import annotations

from trlaunch.records import dataclass

__all__ = ["Resources"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a kernel takes on a device.

    Attributes
    ----------
    registers : int or None
        Per thread.
    local_bytes : int or None
        Local memory per thread in bytes: stack frame and spilled registers.
    spill_instructions : int or None
        Instructions that store or reload spilled registers, where the image lists them.
    static_shared, dynamic_shared : int
        Bytes a block.
    threads : int
        A block.
    ctas_per_multiprocessor : int or None
        Blocks that are resident on one multiprocessor at a time.
    """

    registers: int | None
    local_bytes: int | None
    spill_instructions: int | None
    static_shared: int
    dynamic_shared: int
    threads: int
    ctas_per_multiprocessor: int | None
