"""``vprintf`` and ``__assertfail``: what kernels say (CUDA C++ Programming Guide, "Formatted Output", "Assertion")."""

from __future__ import annotations

import re
import struct
import sys

import numpy as np

from trlaunch.emulator.faults import FaultLog
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.local import LOCAL_WINDOW, LocalMemory
from trlaunch.emulator.memory import GlobalMemory, bytes_at
from trlaunch.errors import Fault

__all__ = ["assertion", "print_lanes"]

_CONVERSION = re.compile(r"%([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+))?(hh|h|ll|l|z|j|t)?([diouxXcsfFeEgGaAp%])")
_LONGEST = 1 << 16


def print_lanes(
    memory: GlobalMemory,
    local: LocalMemory,
    log: FaultLog,
    template: Array,
    buffer: Array,
    mask: Array | None,
    site: int,
) -> None:
    """Write the text of every active lane to standard output, in the order of CTAs and threads."""
    active = np.broadcast_to(np.ones((1, 1), bool) if mask is None else mask, log.lanes)
    templates = np.broadcast_to(template, log.lanes)
    places = np.broadcast_to(buffer, log.lanes)
    texts: dict[int, str] = {}
    parts = []
    for row, thread in zip(*np.nonzero(active), strict=True):
        address = int(templates[row, thread])
        if address not in texts:
            texts[address] = text_at(memory, log, address, site, active)
        start = int(places[row, thread])
        data = b""
        if start >= int(LOCAL_WINDOW):
            data = local.bytes[row, thread, start - int(LOCAL_WINDOW) :].tobytes()
        parts.append(_format(memory, log, texts[address], data, site, active))
    sys.stdout.write("".join(parts))
    sys.stdout.flush()


def assertion(
    memory: GlobalMemory, log: FaultLog, strings: list[Array], line: Array, mask: Array | None, site: int
) -> Fault | None:
    """The fault of the first active lane; `strings` are the message, the file and the function."""
    active = np.broadcast_to(np.ones((1, 1), bool) if mask is None else mask, log.lanes)
    if not active.any():
        return None
    at = tuple(int(n[0]) for n in np.nonzero(active))
    message, file, function = (
        text_at(memory, log, int(np.broadcast_to(s, log.lanes)[at]), site, active) for s in strings
    )
    number = int(np.broadcast_to(line, log.lanes)[at])
    where = f"{file}:{number}" + (f", in {function}" if function not in ("", "unknown") else "")
    return log.fault("assert", f"assertion failed: {message!r} at {where}", site, active)


def text_at(memory: GlobalMemory, log: FaultLog, address: int, site: int, active: Array) -> str:
    """The zero-terminated string at a generic address of global memory."""
    for found in memory.ranges:
        if found.base <= address < found.base + found.nbytes:
            data = bytes_at(address, min(found.base + found.nbytes - address, _LONGEST)).tobytes()
            return data.partition(b"\0")[0].decode("utf-8", "replace")
    raise log.out_of_bounds(site, np.full((1, 1), address, np.uint64), active, 1, "load", memory.ranges)


class _Values:
    """Variable arguments as they lie in memory: at multiples of their size."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, code: str, size: int) -> int | float:
        self.at = -(-self.at // size) * size
        raw = self.data[self.at : self.at + size].ljust(size, b"\0")
        self.at += size
        value: int | float = struct.unpack("<" + code, raw)[0]
        return value


def _format(memory: GlobalMemory, log: FaultLog, template: str, data: bytes, site: int, active: Array) -> str:
    values = _Values(data)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, length, kind = match.groups()
        if kind == "%":
            return "%"
        width = str(values.take("i", 4)) if width == "*" else width or ""
        if precision is not None:
            precision = "." + (str(values.take("i", 4)) if precision == "*" else precision)
        spec = f"%{flags}{width}{precision or ''}"
        if kind == "s":
            return (spec + "s") % text_at(memory, log, int(values.take("Q", 8)), site, active)
        if kind == "p":
            return f"{values.take('Q', 8):#x}"
        if kind in "fFeEgG":
            return (spec + kind) % values.take("d", 8)
        if kind in "aA":
            return float(values.take("d", 8)).hex()
        wide = length in ("l", "ll", "z", "j", "t")
        code = ("q" if wide else "i") if kind in "dic" else ("Q" if wide else "I")
        return (spec + ("d" if kind in "iu" else kind)) % values.take(code, 8 if wide else 4)

    return _CONVERSION.sub(one, template)
