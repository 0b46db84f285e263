"""Reading shared and tensor memory in TTGIR: the operation that loads a memory descriptor, and in which layout.

Descriptor types: ``!tt.memdesc<64x32xf16, #shared, mutable>`` up to Triton 3.1, with the memory space behind the
encoding from 3.2, ``!ttg.memdesc`` from 3.3 (``TritonGPUTypes.td``).
"""

from __future__ import annotations

from dataclasses import dataclass

from trlaunch.dump.emit import prefix_of
from trlaunch.mlir import split_list
from trlaunch.mlir_text import Module, Operation
from trlaunch.mlir_types import split_tensor
from trlaunch.scalars import SCALARS, from_mlir

__all__ = ["Load", "is_memory", "loading"]

_KINDS = ("!ttg.memdesc<", "!tt.memdesc<")


@dataclass(frozen=True, slots=True)
class Load:
    """How a descriptor is read.

    Attributes
    ----------
    operation : str
        ``ttg.local_load``.
    type : str
        The tensor that it makes.
    """

    operation: str
    type: str


def is_memory(type_text: str) -> bool:
    """Whether a type is a memory descriptor."""
    return type_text.startswith(_KINDS)


def loading(module: Module, function: Operation, type_text: str) -> Load | str:
    """How a descriptor of this type is read, or why it cannot be.

    Parameters
    ----------
    module : Module
    function : Operation
        The kernel; tensor memory is read as one of its own operations reads it.
    type_text : str
        ``!ttg.memdesc<...>``.
    """
    inner = type_text.partition("<")[2]
    tensor = split_tensor(f"tensor<{inner}")
    if tensor is None or tensor[2] is None or not tensor[0]:
        return "its shape is not stated"
    shape, element, rest = tensor
    encoding, *others = split_list(f"{rest})", 0) or [""]
    spaces = [module.aliases.get(word, word) for word in others]
    if any("tensor_memory" in word for word in spaces):
        return _tensor_memory(function, type_text)
    dtype = from_mlir(element)
    if dtype is None:
        return f"its elements are {element}"
    attributes = _module_head(module)
    if _integer(attributes, "num-ctas") != 1:
        return "the kernel runs in clusters of CTAs, which share it: dump what ttg.local_load makes of it"
    warps, threads = _integer(attributes, "num-warps"), _integer(attributes, "threads-per-warp")
    if not warps or not threads:
        return "the text does not state the warps of a block"
    meaning = module.aliases.get(encoding, encoding)
    order = meaning.partition("order = [")[2].partition("]")[0]
    rank = len(order.split(",")) if order else 2
    if len(shape) > rank:
        return (
            f"it is {shape[0]} buffers of a pipeline: dump the one that memdesc_index or memdesc_subview takes from it"
        )
    if any(n < 1 or n & (n - 1) for n in shape):
        return f"{type_text} has a dimension that is no power of two"
    prefix = prefix_of(module.text)
    layout = _blocked(prefix, shape, SCALARS[dtype].size, warps, threads)
    return Load(f"{prefix}.local_load", f"tensor<{''.join(f'{n}x' for n in shape)}{element}, {layout}>")


def _tensor_memory(function: Operation, type_text: str) -> Load | str:
    """Tensor memory is read by warps in layouts of its own: as an operation of the kernel reads the same type."""
    for operation in function.walk():
        if operation.name == "ttng.tmem_load" and type_text.removeprefix("!ttg.memdesc") in operation.head:
            made = operation.results[0].type
            if made is not None and split_tensor(made):
                return Load("ttng.tmem_load", made)
    return "it is tensor memory, and no ttng.tmem_load of the kernel shows in which layout this type is read"


def _module_head(module: Module) -> str:
    return next((o.head for o in module.operations if o.name in ("module", "builtin.module")), "")


def _integer(attributes: str, name: str) -> int:
    """The value of ``"ttg.num-warps" = 4 : i32``; 0 where it is not there."""
    word = attributes.partition(f'.{name}" = ')[2].partition(" ")[0]
    return int(word) if word.isdigit() else 0


def _blocked(prefix: str, shape: tuple[int, ...], item: int, warps: int, threads: int) -> str:
    """A blocked layout: 16 bytes a thread along the last axis, threads along the last axes, warps along the first."""
    rank = len(shape)
    each, lanes, groups = [1] * rank, [1] * rank, [1] * rank
    each[-1] = min(max(16 // item, 1), shape[-1])
    for axis in reversed(range(rank)):
        lanes[axis] = min(threads, max(shape[axis] // each[axis], 1))
        threads //= lanes[axis]
    lanes[0] *= threads
    for axis in range(rank):
        groups[axis] = min(warps, max(shape[axis] // (each[axis] * lanes[axis]), 1))
        warps //= groups[axis]
    groups[0] *= warps
    order = list(reversed(range(rank)))
    return (
        f"#{prefix}.blocked<{{sizePerThread = {each}, threadsPerWarp = {lanes}, warpsPerCTA = {groups}, "
        f"order = {order}}}>"
    )
