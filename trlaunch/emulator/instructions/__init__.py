"""Instructions by family: how each opcode is turned into NumPy, and the functions that generated code calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trlaunch.emulator.instructions import (  # noqa: F401  (each registers its opcodes)
    atomics,
    calls,
    convert,
    data,
    floating,
    fragments,
    hopper,
    integer,
    logic,
    matrix,
    rounding,
    warp,
)
from trlaunch.emulator.instructions.base import Suffixes, refuse, take

if TYPE_CHECKING:
    from trlaunch.emulator.cfg import Block
    from trlaunch.emulator.codegen import Emitter

__all__ = ["CLOCKS", "SPECIAL_REGISTERS", "terminator"]

_AXES = ("x", "y", "z")
#: Special registers as attributes of the chunk's state, and their element type.
SPECIAL_REGISTERS = {
    **{f"{name}_{axis}": "u4" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in _AXES},
    **dict.fromkeys(("laneid", "warpid", "nwarpid", "smid", "nsmid"), "u4"),
    **{f"lanemask_{kind}": "u4" for kind in ("eq", "le", "lt", "ge", "gt")},
    **dict.fromkeys(("total_smem_size", "dynamic_smem_size"), "u4"),
    "gridid": "u8",
    **dict.fromkeys(("clock", "clock_hi", "clock64", "globaltimer", "globaltimer_lo", "globaltimer_hi"), "u8"),
}
#: Those that grow with every read.
CLOCKS = frozenset(("clock", "clock_hi", "clock64", "globaltimer", "globaltimer_lo", "globaltimer_hi"))


def terminator(c: Emitter, block: Block, site: int) -> str | None:
    """Emit what ends a block; its result is the condition under which lanes leave, or the operands of a barrier."""
    end = block.end
    assert end is not None
    c.site = site
    suffixes = Suffixes(end.opcode)
    guard = c.guard_of(end)
    if block.kind != "barrier":
        suffixes.drop("uni")
        suffixes.finish()
        return guard
    suffixes.drop("cta", "aligned")
    arrive = suffixes.flag("arrive")
    if not arrive and not suffixes.flag("sync"):
        raise refuse(f"{end.opcode} is not executed")
    suffixes.finish()
    number, *count = take(end, 2 if arrive else 1, 2)
    threads = c.read(count[0], "u32") if count else "None"
    return c.temp(f"({c.read(number, 'u32')}, {threads}, {guard}, {arrive})")
