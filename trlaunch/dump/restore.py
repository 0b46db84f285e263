"""A tensor of the TTGIR from the values of LLVM IR that are its registers.

Lowering makes a value of LLVM IR for each register of a tensor, in the order of the registers, with the location of the
operation (``ConvertTritonGPUToLLVM``). Where as many as the layout has registers are found, they are that tensor: as
LLVM computes it, which may have moved a conversion or a selection over to the other side of it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trlaunch.dump.choose import Candidate, candidates, dtype_of, select
from trlaunch.dump.layouts import Layout, layout_of
from trlaunch.dump.request import At
from trlaunch.errors import ArgumentError
from trlaunch.mlir_types import split_tensor
from trlaunch.scalars import SCALARS

if TYPE_CHECKING:
    from trlaunch.dump.llir import Definition

__all__ = ["Restored", "restored"]

# The instruction that an operation on tensors becomes, element by element.
_INSTRUCTIONS = {
    **{
        f"arith.{op}": (name,)
        for op, name in {
            "addf": "fadd", "subf": "fsub", "mulf": "fmul", "divf": "fdiv", "negf": "fneg", "addi": "add",
            "subi": "sub", "muli": "mul", "divsi": "sdiv", "divui": "udiv", "remsi": "srem", "remui": "urem",
            "andi": "and", "ori": "or", "xori": "xor", "shli": "shl", "shrsi": "ashr", "shrui": "lshr",
            "cmpi": "icmp", "cmpf": "fcmp", "select": "select", "extf": "fpext", "truncf": "fptrunc",
            "sitofp": "sitofp", "uitofp": "uitofp", "fptosi": "fptosi", "fptoui": "fptoui", "extsi": "sext",
            "extui": "zext", "trunci": "trunc", "bitcast": "bitcast",
        }.items()
    },
    "tt.addptr": ("getelementptr",),
    "tt.load": ("call", "load"),
    **dict.fromkeys(("arith.maxnumf", "arith.minnumf", "arith.maximumf", "arith.minimumf"), ("call",)),
}  # fmt: skip
# Where the compiler rewrites it: disjoint bits are added by or, and functions are called.
_ALSO = {"arith.addi": ("or",), "arith.divf": ("call",)}


@dataclass(frozen=True, slots=True)
class Restored:
    """A tensor and the values of LLVM IR that are its registers.

    Attributes
    ----------
    tensor : Candidate
        In the TTGIR.
    dtype : str
    layout : Layout
    definitions : tuple of Definition
        In the order of the registers; of one block.
    """

    tensor: Candidate
    dtype: str
    layout: Layout
    definitions: tuple[Definition, ...]


def restored(
    listed: Sequence[Definition],
    labels: Sequence[int],
    request: At,
    ttgir: str | None,
    kernel: str | None,
    threads: int,
) -> Restored:
    """The values that are a tensor's registers.

    Parameters
    ----------
    listed : sequence of Definition
    labels : sequence of int
        Lines at which blocks begin, in order.
    request : At
        ``tensor`` names a value of the TTGIR; what else it says chooses among the values of LLVM IR.
    ttgir : str, optional
        The text beside the LLVM IR.
    kernel : str, optional
    threads : int

    Raises
    ------
    ArgumentError
        There is no such tensor, its layout is not known, or its registers are not found: with how many there are.
    """
    if ttgir is None:
        raise ArgumentError(f"dump {request.text!r}: tensor= needs the TTGIR beside the LLVM IR, which has the layout")
    module, function, values = candidates(ttgir, kernel)
    asked = request.tensor if isinstance(request.tensor, At) else At(request.tensor)
    tensor = select(function, values, asked).candidate
    name = tensor.where.name
    parts = split_tensor(tensor.where.type)
    dtype = dtype_of(parts[1]) if parts is not None else None
    if parts is None or parts[2] is None or dtype is None:
        raise ArgumentError(f"dump {request.text!r}: {name} is {tensor.where.type}: expected a tensor")
    layout = layout_of(parts[0], parts[2], module.aliases)
    if layout.threads != threads:
        raise ArgumentError(
            f"dump {request.text!r}: {name} is held by {layout.threads} threads, the block has {threads}"
        )
    if request.line is None and request.python_line is None:
        alike = [c for c in values if (c.where.op, c.where.python) == (tensor.where.op, tensor.where.python)]
        if len(alike) > 1:  # of an unrolled or pipelined loop, or of one expression
            raise ArgumentError(
                f"dump {request.text!r}: the TTGIR has {len(alike)} {tensor.where.op} of that place in Python "
                f"({', '.join(c.where.name for c in alike[:6])}): say line=, or python_line= and op=, of the values of "
                f"LLVM IR"
            )
    bits = 64 if dtype == "*" else 1 if dtype == "i1" else 8 * SCALARS[dtype].size
    wanted = [layout, layout.without_copies()]
    groups = _groups(listed, request, tensor)
    for definitions in groups:
        held = sum(d.bits for d in definitions)
        for possible in wanted:
            if held == possible.registers * bits:
                blocks = {bisect.bisect(labels, d.line - 1) for d in definitions}
                if len(blocks) > 1:
                    raise ArgumentError(
                        f"dump {request.text!r}: its registers are values of {len(blocks)} blocks: expected one"
                    )
                return Restored(tensor, dtype, possible, tuple(definitions))
    counts = ", ".join(str(len(g)) for g in groups) or "0"
    raise ArgumentError(
        f"dump {request.text!r}: {name}, {tensor.where.op} of Python line "
        f"{tensor.where.python.line if tensor.where.python else '?'}, has {layout.registers} registers of {bits} bits "
        f"a thread, and {counts} values of LLVM IR match: op=, line= or python_line= choose others; the compiler may "
        f"have folded them"
    )


def _groups(listed: Sequence[Definition], request: At, tensor: Candidate) -> list[list[Definition]]:
    """Values that may be the tensor's registers, what is closest first."""
    found = [d for d in listed if d.bits]
    if request.line is not None:
        found = [d for d in found if d.line == request.line]
    if request.python_line is not None:
        found = [d for d in found if d.python is not None and d.python.line == request.python_line]
    if request.op is not None:
        found = [d for d in found if d.op == request.op]
        if request.line is not None or request.python_line is not None:
            return [found]
    place = tensor.where.python
    if place is None:
        raise ArgumentError(
            f"dump {request.text!r}: the TTGIR has no location of {tensor.where.name}: say op= and line="
        )
    here = [d for d in found if d.python is not None and d.python.line == place.line]
    exact = [d for d in here if d.python is not None and d.python.column == place.column]
    if request.op is not None:
        return [exact, here]
    name = tensor.where.op
    instructions = _INSTRUCTIONS.get(name) or (("call",) if name.startswith("math.") else ())
    if not instructions:
        raise ArgumentError(
            f"dump {request.text!r}: {name} is not lowered element by element, and the order of its registers is not "
            f"that of the text: say op= and line= or python_line= of values that are"
        )
    groups = []
    for ops in (instructions, instructions + _ALSO.get(name, ())):
        groups += [[d for d in some if d.op in ops] for some in (exact, here)]
    return groups
