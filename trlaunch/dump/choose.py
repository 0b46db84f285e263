"""Which values of TTIR and TTGIR are captured: every value with its place, and those that requests and marks name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trlaunch.dump.plan import MAX_LOOPS, Where
from trlaunch.dump.request import At
from trlaunch.dump.shared import Load, blocked_layout, is_memory, loading, operand_source
from trlaunch.dump.trips import definition
from trlaunch.errors import ArgumentError
from trlaunch.language import MARK
from trlaunch.mlir_text import Module, Operation, Value, parse
from trlaunch.mlir_types import split_tensor
from trlaunch.scalars import SCALARS, from_mlir

__all__ = ["Candidate", "Choice", "candidates", "dtype_of", "marked", "select"]

# Regions that run with the threads of the whole block and see the values around them.
_REGIONS = ("tt.func", "scf.for", "scf.if", "scf.while")
_MODULES = ("module", "builtin.module")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value of a kernel.

    Attributes
    ----------
    value : Value
    where : Where
    stored : str
        The type that is stored: the value's, or that of the tensor that `load` makes of memory.
    load : Load or None
        Of a memory descriptor: how it is read.
    refused : str
        Why it cannot be dumped; nothing where it can.
    relay : str
        A layout that it is converted to first, where its own cannot be stored.
    """

    value: Value
    where: Where
    stored: str
    load: Load | None = None
    refused: str = ""
    relay: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A value to capture, and where.

    Attributes
    ----------
    request : At
    candidate : Candidate
    site : Operation or None
        The operation behind which it is captured, where that is not what defines it.
    replaces : bool
        The capture takes the operation's place.
    offset : int or Candidate
        What `trlaunch.language` was given as offset.
    offset_of : str
        Key of the dump that this value is the offset of.
    """

    request: At
    candidate: Candidate
    site: Operation | None = None
    replaces: bool = False
    offset: int | Candidate = 0
    offset_of: str = ""


def candidates(text: str, kernel: str | None = None) -> tuple[Module, Operation, list[Candidate]]:
    """Every value of a kernel, in the order of the text, with its module and function."""
    module = parse(text)
    function = module.function(kernel)
    found = []
    for operation in function.walk():
        blocks = [value for block in operation.blocks for value in block.arguments]
        found += [_candidate(module, function, value) for value in (*operation.results, *blocks)]
    order = {id(c): (c.value.block.start if c.value.block else c.value.operation.start) for c in found}
    return module, function, sorted(found, key=lambda c: order[id(c)])


def _candidate(module: Module, function: Operation, value: Value) -> Candidate:
    operation, block = value.operation, value.block
    line = operation.line
    if block is not None:
        line = module.text.count("\n", 0, block.start) + 1 if block.label is not None else operation.line
    op = operation.name if block is None else "argument"
    place = module.place(value.location or operation.location)
    load = None
    stored = value.type or "?"
    memory, operand = is_memory(stored), "triton_gpu.dot_op" in stored and "!tt.memdesc" not in stored
    if memory or operand:
        found = (
            loading(module, function, stored, None if block else operation)
            if memory
            else operand_source(module, function, operation)
        )
        if isinstance(found, str):
            where = Where(value.name, op, line, place, stored)
            return Candidate(value, where, stored, None, f"its type is {stored}: {found}")
        load, stored = found, found.type
    tensor = split_tensor(stored)
    layout = split_tensor(value.type or "") or tensor
    where = Where(value.name, op, line, place, value.type or "?", layout[2] if layout else None)
    refused, relay = _refusal(value, stored), ""
    if tensor is not None and not refused and "#triton_gpu.slice<" in (tensor[2] or ""):
        # Up to 3.2 a store in such a layout leaves elements out: threads that hold them are taken for copies.
        dtype = dtype_of(tensor[1])
        relay, refused = blocked_layout(module, tensor[0], 8 if dtype in (None, "*") else SCALARS[dtype].size)
    return Candidate(value, where, stored, load, refused, relay)


def _refusal(value: Value, stored: str) -> str:
    if value.type is None:
        return f"the text does not say the type of a result of {value.operation.name}"
    chain = [o for o, _ in value.operation.enclosing()]
    if value.block is not None:
        chain.insert(0, value.operation)
    outside = next((o for o in chain if o.name not in (*_REGIONS, *_MODULES)), None)
    if outside is not None:
        return f"it is inside {outside.name}, whose region does not see the dump's pointer or does not run per block"
    tensor = split_tensor(stored)
    looped = any(o.name == "scf.for" for o in chain)
    if looped and tensor and not tensor[2] and value.operation.name == "tt.experimental_descriptor_load":
        return "the pipeliner of Triton up to 3.3 fails on a descriptor load in a loop that is used twice"
    element = tensor[1] if tensor else stored
    if tensor and any(n < 1 or n & (n - 1) for n in tensor[0]):
        return f"a tensor of type {value.type} has a dimension that is no power of two"
    if dtype_of(element) is None:
        return f"its type is {value.type}: only numbers, pointers and tensors of them can be stored"
    loops = [o for o in chain if o.name in ("scf.for", "scf.while")]
    return f"it is inside {len(loops)} loops: {MAX_LOOPS} are the most" if len(loops) > MAX_LOOPS else ""


def dtype_of(element: str) -> str | None:
    """Triton's name of an element's type, ``"*"`` of a pointer; ``None`` of what is not stored."""
    if element == "index":
        return "i64"
    if element.startswith("!tt.ptr<"):
        return None if element.startswith("!tt.ptr<tensor") else "*"
    return from_mlir(element)


def select(function: Operation, values: Sequence[Candidate], request: At) -> Choice:
    """The one value that a request names.

    Raises
    ------
    ArgumentError
        There is none, or several, or it cannot be captured there.
    """
    if request.tensor is not None:
        raise ArgumentError(f"dump {request.text!r}: tensor= is for LLVM IR; here it is the name itself")
    found = [c for c in values if _matches(c, request)]
    if request.name is None:  # what cannot be dumped is not counted, unless there is nothing else
        found = [c for c in found if not c.refused] or found
    if request.op is not None and request.name is None:  # count operations, not their results
        first = {id(c.value.operation): c for c in reversed(found)}
        found = [c for c in found if first[id(c.value.operation)] is c]
    if request.nth is not None:
        if not 0 <= request.nth < len(found):
            raise ArgumentError(f"dump {request.text!r}: {len(found)} values match, there is no number {request.nth}")
        found = [found[request.nth]]
    if not found:
        near = [c.where.name for c in values if not c.refused][:8]
        raise ArgumentError(
            f"dump {request.text!r}: no value of the kernel matches; `trlaunch values` lists them: "
            f"{', '.join(near)}, ..."
        )
    if len(found) > 1 and request.line is not None and request.name is None and request.op is None:
        operations = {id(c.value.operation) for c in found if c.value.block is None}
        if len(operations) == 1:  # the line of one operation with several results: result= chooses
            found = [c for c in found if c.value.block is None][:1]
    if len(found) > 1:
        listed = ", ".join(f"{c.where.name} in line {c.where.line}" for c in found[:6])
        raise ArgumentError(f"dump {request.text!r}: {len(found)} values match ({listed}): add line= or nth=")
    chosen = found[0]
    if request.result:
        results = chosen.value.operation.results
        if request.name is not None or request.result >= len(results):
            raise ArgumentError(f"dump {request.text!r}: result={request.result}, it has {len(results)}")
        value = results[request.result]
        chosen = next(c for c in values if c.value is value)
    if chosen.refused:
        raise ArgumentError(f"dump {request.text!r}: {chosen.where.name} cannot be dumped: {chosen.refused}")
    return Choice(request, chosen, _site(function, chosen, request))


def _site(function: Operation, chosen: Candidate, request: At) -> Operation | None:
    """The operation that ``after=`` names."""
    if request.after is None:
        return None
    for operation in function.walk():
        if operation.line != request.after or operation is function:
            continue
        outside = next((o for o, _ in operation.enclosing() if o.name not in (*_REGIONS, *_MODULES)), None)
        if outside is None and not operation.name.endswith((".yield", ".condition", ".return")):
            if definition(operation, chosen.value.name) is chosen.value and chosen.where.line <= operation.line:
                return operation
            raise ArgumentError(
                f"dump {request.text!r}: {chosen.where.name} of line {chosen.where.line} is not seen behind line "
                f"{request.after}, {operation.name}"
            )
    raise ArgumentError(f"dump {request.text!r}: after={request.after}: no operation to capture behind is in that line")


def _matches(candidate: Candidate, request: At) -> bool:
    where = candidate.where
    if request.name is not None and where.name not in (request.name, f"{request.name}#0"):
        return False
    if request.op is not None and (where.op != request.op or not request.op):
        return False
    if request.line is not None and where.line != request.line:
        return False
    if request.python_line is not None:
        return where.python is not None and where.python.line == request.python_line
    return True


def marked(function: Operation, values: Sequence[Candidate]) -> list[Choice]:
    """The requests of `trlaunch.language`: each is a ``tt.print`` of the value, which the capture replaces.

    Raises
    ------
    ArgumentError
        There is none, or a value cannot be captured.
    """
    by_value = {id(c.value): c for c in values}

    def candidate_of(operation: Operation, name: str, label: str) -> Candidate:
        value = definition(operation, name)
        candidate = None if value is None else by_value.get(id(value))
        if candidate is None or candidate.refused:
            reason = "it is not a value of the kernel" if candidate is None else candidate.refused
            raise ArgumentError(f"dump {label!r}: {name} cannot be dumped: {reason}")
        return candidate

    found: list[Choice] = []
    seen: dict[str, int] = {}
    for operation in function.walk():
        if operation.name != "tt.print" or f'" {MARK}' not in operation.head:
            continue
        where, label, constant = _mark_fields(operation)
        name = label or f"dump{len(found)}"
        seen[name] = seen.get(name, -1) + 1
        label = f"{name}.{seen[name]}" if seen[name] else name
        programs: tuple[tuple[int, ...], ...] | str | None = None if where == "all" else "last"
        if where[:1].isdigit():
            programs = (tuple(int(n) for n in where.split(".")),)
        candidate = candidate_of(operation, operation.operands[0], label)
        request = At(candidate.value.name, programs=programs, label=label)
        offset: int | Candidate = constant
        if len(operation.operands) > 1:
            offset = candidate_of(operation, operation.operands[1], f"offset of {label}")
        found.append(Choice(request, candidate, operation, True, offset))
    if not found:
        raise ArgumentError("dump=True: the kernel has no trlaunch.language.dump: expected one, or names of values")
    return found


def _mark_fields(operation: Operation) -> tuple[str, str, int]:
    """Programs, name and constant offset of a mark: ``"trl_dump:0.0.0:total:64"``."""
    where, name, offset, *_ = (*operation.head.partition(MARK)[2].partition('"')[0].strip().split(":"), "", "")
    return where, name.strip(), int(offset) if offset.strip().lstrip("-").isdigit() else 0
