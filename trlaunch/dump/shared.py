"""Reading shared and tensor memory in TTGIR: the operation that loads a memory descriptor, and in which layout.

Descriptor types: ``!tt.memdesc<64x32xf16, #shared, mutable>`` up to Triton 3.1, with the memory space behind the
encoding from 3.2, ``!ttg.memdesc`` from 3.3 (``TritonGPUTypes.td``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trlaunch.dump.emit import prefix_of
from trlaunch.dump.trips import definition
from trlaunch.mlir import split_list
from trlaunch.mlir_text import Module, Operation
from trlaunch.mlir_types import find, split_tensor
from trlaunch.scalars import SCALARS, from_mlir

__all__ = ["Load", "blocked_layout", "is_memory", "loading", "operand_source"]

_KINDS = ("!ttg.memdesc<", "!tt.memdesc<")


@dataclass(frozen=True, slots=True)
class Load:
    """How a value is had in a layout that can be stored.

    Attributes
    ----------
    operation : str
        ``ttg.local_load`` of a descriptor; nothing where `source` is stored as it is.
    type : str
        The tensor that it makes.
    source, source_type : str
        What is read in the value's place; nothing where it is the value itself.
    """

    operation: str
    type: str
    source: str = ""
    source_type: str = ""

    def text(self, name: str, type_text: str) -> str:
        """The operation on a value of that name and type."""
        return f"{self.operation} {self.source or name} : {self.source_type or type_text} -> {self.type}"


def operand_source(module: Module, function: Operation, made_by: Operation) -> Load | str:
    """An operand of a product, in the layout that it was loaded or converted from; or why there is none.

    Up to 3.2 Triton's compiler aborts on a pointer in the layout of an operand (``dot_op``).
    """
    name = made_by.name.rpartition(".")[2]
    clause = made_by.head[find(made_by.head, ":", last=True) + 1 :] if made_by.operands else ""
    source = clause.partition("->")[0].strip()
    if name == "local_load" and is_memory(source):
        value = definition(made_by, made_by.operands[0])
        found = loading(module, function, source, value.operation if value and value.block is None else None)
        return found if isinstance(found, str) else replace(found, source=made_by.operands[0], source_type=source)
    if name == "convert_layout" and split_tensor(source) and "dot_op" not in source:
        return Load("", source, made_by.operands[0], source)
    return "Triton up to 3.2 cannot store the layout of an operand of a product: dump what it is made from"


def is_memory(type_text: str) -> bool:
    """Whether a type is a memory descriptor."""
    return type_text.startswith(_KINDS)


def loading(module: Module, function: Operation, type_text: str, made_by: Operation | None = None) -> Load | str:
    """How a descriptor of this type is read, or why it cannot be.

    Parameters
    ----------
    module : Module
    function : Operation
        The kernel; tensor memory is read as one of its own operations reads it.
    type_text : str
        ``!ttg.memdesc<...>``.
    made_by : Operation, optional
        What makes the descriptor.
    """
    if made_by is not None and made_by.name == "triton_gpu.memdesc_subview" and "shared_memory" not in type_text:
        whole = split_tensor(f"tensor<{made_by.head.rpartition('->')[0].rpartition(': ')[2].partition('<')[2].strip()}")
        part = split_tensor(f"tensor<{type_text.partition('<')[2]}")
        if whole is not None and part is not None and len(whole[0]) == len(part[0]):
            return "Triton up to 3.1 cannot load part of a buffer in a layout of its own: dump the whole buffer"
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
    meaning = module.aliases.get(encoding, encoding)
    order = meaning.partition("order = [")[2].partition("]")[0]
    rank = len(order.split(",")) if order else 2
    if len(shape) > rank:
        return (
            f"it is {shape[0]} buffers of a pipeline: dump the one that memdesc_index or memdesc_subview takes from it"
        )
    if any(n < 1 or n & (n - 1) for n in shape):
        return f"{type_text} has a dimension that is no power of two"
    layout, reason = blocked_layout(module, shape, SCALARS[dtype].size)
    if reason:
        return reason
    return Load(f"{prefix_of(module.text)}.local_load", f"tensor<{''.join(f'{n}x' for n in shape)}{element}, {layout}>")


def _tensor_memory(function: Operation, type_text: str) -> Load | str:
    """Tensor memory is read by warps in layouts of its own: as an operation of the kernel reads the same type."""
    for operation in function.walk():
        if operation.name == "ttng.tmem_load" and type_text.removeprefix("!ttg.memdesc") in operation.head:
            made = operation.results[0].type
            if made is not None and split_tensor(made):
                return Load("ttng.tmem_load", made)
    return "it is tensor memory, and no ttng.tmem_load of the kernel shows in which layout this type is read"


def blocked_layout(module: Module, shape: tuple[int, ...], item: int) -> tuple[str, str]:
    """A plain layout for a tensor of items of so many bytes, or nothing and why there is none."""
    attributes = _module_head(module)
    if _integer(attributes, "num-ctas") != 1:
        return "", "the kernel runs in clusters of CTAs, over which it is spread"
    warps, threads = _integer(attributes, "num-warps"), _integer(attributes, "threads-per-warp")
    if not warps or not threads:
        return "", "the text does not state the warps of a block"
    return _blocked(prefix_of(module.text), shape, item, warps, threads), ""


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
