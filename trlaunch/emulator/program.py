"""A kernel made ready to run: parsed, checked, and compiled to one Python function per basic block."""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trlaunch.emulator.cfg import Block, blocks_of
from trlaunch.emulator.codegen import Layout, generate
from trlaunch.emulator.image import align_up, param_layout, reachable, shared_layout
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.memory import MemoryRange
from trlaunch.emulator.ptx import parse, parse_body
from trlaunch.emulator.syntax import TYPE_SIZES, Function, Instruction, Module, Register
from trlaunch.errors import EmulatorError, ImageError, UnsupportedInstruction

__all__ = ["Program", "compile_program"]

#: Most instructions of a kernel that is executed: ten times the largest of Triton's own test kernels.
MAX_INSTRUCTIONS = 100_000
_CACHE_SIZE = 64
#: Up to this PTX version, the operand of ``tensormap.replace...global_stride`` was taken as a multiple of 16 bytes: by
#: ptxas up to CUDA 12.4, so that Triton 3.3 divides it (`trlaunch.cuda.assembler.strides_in_16_bytes`).
_STRIDES_IN_16_BYTES = (8, 4)
_cache: OrderedDict[tuple[bytes, str], Program] = OrderedDict()


@dataclass(slots=True)
class Program:
    """What a launch needs.

    Attributes
    ----------
    functions : list of callable
        One per block of `blocks`.
    registers : list of ndarray
        Zero of each register's type, shape (1, 1): what a register holds before it is written.
    declared : list of Register
        The same registers as they were declared.
    sites : list of Instruction
    warp_sync : list of bool
        Per block: lanes of a warp must arrive together.
    param_bytes, static_shared, frame : int
        Bytes of the parameters, of static shared memory, and of a thread's local memory.
    param_address : bool
        The kernel takes the address of a parameter.
    ranges : list of MemoryRange
        The module's own global and constant variables.
    """

    name: str
    module: Module
    function: Function
    blocks: list[Block]
    functions: list[Callable[..., Any]]
    registers: list[Array]
    declared: list[Register]
    sites: list[Instruction]
    warp_sync: list[bool]
    param_bytes: int
    static_shared: int
    dynamic_offset: int
    ranges: list[MemoryRange]
    frame: int
    param_address: bool
    source: str
    keep: list[Array]
    addresses: dict[str, int]
    variants: dict[tuple[bool, bool], Program] = field(default_factory=dict)

    def variant(self, *, stepping: bool, observed: bool) -> Program:
        """The same kernel, with the same variables, compiled for those who look at it.

        Parameters
        ----------
        stepping : bool
            Every instruction is a block of its own, and all registers can be read between any two.
        observed : bool
            Fences and groups of asynchronous work are told to observers.
        """
        if not (stepping or observed):
            return self
        key = stepping, observed
        if key not in self.variants:
            text = self.module.stream.text.encode("utf-8", "surrogateescape")
            self.variants[key] = _compile(text, self.name, stepping, observed, self)
        return self.variants[key]


def compile_program(text: bytes, kernel: str) -> Program:
    """Parse and compile one kernel; the result is kept for the life of the process, by content.

    Raises
    ------
    EmulatorError
        The text is not PTX.
    UnsupportedInstruction
        The kernel uses what is not executed; the message counts them and shows the first with its line.
    ImageError
        There is no such kernel.
    """
    key = (hashlib.sha256(text).digest(), kernel)
    if (found := _cache.get(key)) is not None:
        _cache.move_to_end(key)
        return found
    program = _compile(text, kernel)
    _cache[key] = program
    while len(_cache) > _CACHE_SIZE:
        _cache.popitem(last=False)
    return program


def _compile(
    text: bytes, kernel: str, stepping: bool = False, observed: bool = False, like: Program | None = None
) -> Program:
    module = parse(text)
    function = module.functions.get(kernel)
    if function is None or not function.entry:
        raise ImageError(f"no kernel {kernel!r} in this PTX: it holds {', '.join(sorted(module.functions)) or 'none'}")
    cluster = function.directives.get("reqnctapercluster", (1,))
    if np.prod(cluster, dtype=object) != 1 or ("explicitcluster" in function.directives and cluster == (1,)):
        raise UnsupportedInstruction(
            f"PTX line {function.line}: kernel {kernel!r} runs in clusters of {'x'.join(map(str, cluster))} CTAs:"
            " the emulator executes single CTAs only"
        )
    body = parse_body(module, function)
    _check_registers(function, body.registers)
    shared, static = shared_layout(module, function)
    params, param_bytes = param_layout(function)
    offsets = {p.name: q.offset for p, q in zip(function.params, params, strict=True)}
    if like is None:
        addresses, ranges, keep = _place_globals(module, function)
    else:
        addresses, ranges, keep = like.addresses, like.ranges, like.keep
    blocks = blocks_of(body, stepping)
    carry = Register("the carry", "pred", len(body.registers))
    body.registers.append(carry)
    layout = Layout(offsets, shared, addresses, body.locals, carry, module.version <= _STRIDES_IN_16_BYTES)
    layout.observed = observed
    source, namespace, sites, warp_sync, refused = generate(blocks, layout, MAX_INSTRUCTIONS, stepping)
    if refused:
        first, reason = refused[0]
        count = len(refused)
        more = f" ({count} such instructions in {kernel}; this is the first)" if count > 1 else ""
        raise UnsupportedInstruction(
            f"PTX line {first.line}: {module.line_text(first.line)}\n  {reason}: the emulator cannot run it{more}"
        )
    try:
        exec(compile(source, f"<{kernel}>", "exec"), namespace)
    except (RecursionError, MemoryError):
        raise EmulatorError(f"kernel {kernel!r} is too large to compile for the emulator") from None
    dynamic = [shared[v.name] for v in module.variables.values() if v.name in shared and v.size is None]
    return Program(
        name=kernel,
        module=module,
        function=function,
        blocks=blocks,
        functions=[namespace[f"b{b.index}"] for b in blocks],
        registers=[_zero(r.type) for r in body.registers],
        declared=body.registers,
        sites=sites,
        warp_sync=warp_sync,
        param_bytes=param_bytes,
        static_shared=static,
        dynamic_offset=max(dynamic, default=static),
        ranges=ranges,
        frame=body.frame,
        param_address=layout.param_address,
        source=source,
        keep=keep,
        addresses=addresses,
    )


_ZEROS = {
    "pred": np.zeros((1, 1), np.bool_),
    **{width: np.zeros((1, 1), dtype) for width, dtype in
       (("1", np.uint8), ("2", np.uint16), ("4", np.uint32), ("8", np.uint64))},
}  # fmt: skip


def _zero(type_name: str) -> Array:
    return _ZEROS.get(type_name, _ZEROS.get(str(TYPE_SIZES[type_name]), _ZEROS["1"]))


def _check_registers(function: Function, registers: list[Any]) -> None:
    for register in registers:
        if TYPE_SIZES[register.type] > 8:
            raise UnsupportedInstruction(
                f"PTX line {function.line}: register {register.name} of type .{register.type} in {function.name}:"
                " the emulator has no registers of more than 64 bits"
            )


def _place_globals(module: Module, function: Function) -> tuple[dict[str, int], list[MemoryRange], list[Array]]:
    """Memory for the module's variables that the kernel uses."""
    names = frozenset().union(*(f.names for f in reachable(module, function)))
    addresses: dict[str, int] = {}
    ranges: list[MemoryRange] = []
    arrays: dict[str, Array] = {}
    todo = [v for v in module.variables.values() if v.space in ("global", "const") and v.name in names]
    for variable in todo:
        size = variable.size
        if size is None or variable.name in addresses:
            continue
        if size > 1 << 28:
            raise EmulatorError(f"variable {variable.name!r} of {size} bytes: the emulator places at most 256 MiB")
        todo += [module.variables[n] for _, n, _ in variable.addresses if n in module.variables]
        space = np.zeros(size + variable.align + 16, dtype=np.uint8)
        base = int(space.ctypes.data)
        start = align_up(base, max(variable.align, 16)) - base
        space[start : start + len(variable.data)] = np.frombuffer(variable.data, dtype=np.uint8)[:size]
        addresses[variable.name] = base + start
        arrays[variable.name] = space[start : start + size]
        ranges.append(MemoryRange(base + start, size, variable.name, variable.space == "const"))
    for variable in todo:
        for at, name, addend in variable.addresses:
            if name not in addresses or at + 8 > (variable.size or 0):
                raise EmulatorError(
                    f"variable {variable.name!r} is initialised with {name!r}, which has no address here"
                )
            value = struct.pack("<Q", (addresses[name] + addend) % (1 << 64))
            arrays[variable.name][at : at + 8] = np.frombuffer(value, dtype=np.uint8)
    return addresses, ranges, list(arrays.values())
