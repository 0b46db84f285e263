"""Signature: the ordered parameters of a kernel as compiled, put together from every source there is.

No Triton release stores it. The image has offsets and sizes of every parameter, the hidden ones included; text levels
beside it have types and, from Triton 3.5 on, names. Sources that are present must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trlaunch.errors import SignatureError
from trlaunch.image import ImageKernel, ImageParam
from trlaunch.metadata import Metadata
from trlaunch.mlir import Argument, find_function, split_list
from trlaunch.records import dataclass
from trlaunch.scalars import SCALARS, from_llvm, from_mlir

__all__ = ["Param", "Signature", "Source", "assemble", "category", "from_caller", "from_func", "from_llir", "from_ptx"]

TENSOR_MAP_BYTES = 128  # sizeof(CUtensorMap), cuda.h
_TDM_BYTES = 48  # a descriptor by value as Triton 3.8 and 3.9 take it on gfx1250
HIDDEN_ROLES = ("global_scratch", "profile_scratch")


@dataclass(frozen=True, slots=True)
class Slot:
    """One parameter as one source states it; ``None`` where the source does not say."""

    name: str | None = None
    type: str | None = None
    size: int | None = None
    divisibility: int = 1
    signless: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """The parameters as one source states them.

    Attributes
    ----------
    label : str
        For messages: ``"ttir"``, ``"ptx"``, ``"signature="``.
    slots : tuple of Slot
    with_hidden : bool
        Whether the hidden trailing parameters are among the slots.
    """

    label: str
    slots: tuple[Slot, ...]
    with_hidden: bool


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter slot of a kernel.

    Attributes
    ----------
    index, offset, size : int
        As the image lays it out; bytes.
    name : str or None
    type : str or None
        Triton's name: ``"*fp16"``, ``"i32"``, ``"tensordesc<fp16[64, 64]>"``; ``"*"`` is a pointer to something
        unknown, ``None`` is unknown altogether.
    role : {"user", "global_scratch", "profile_scratch", "dump"}
    divisibility : int
        What the compiler took for granted of the pointer or integer; 1 is nothing.
    signless : bool
        An integer whose sign no source states: both ranges fit.
    """

    index: int
    name: str | None
    type: str | None
    offset: int
    size: int
    role: str = "user"
    divisibility: int = 1
    signless: bool = True

    @property
    def label(self) -> str:
        """``parameter 2 'n_elements' (i32)``, for messages."""
        name = f" {self.name!r}" if self.name else ""
        return f"parameter {self.index}{name} ({self.type or f'{self.size} bytes of unknown type'})"

    @property
    def is_tensor_map(self) -> bool:
        """Whether the slot takes a CUtensorMap by value."""
        return self.size == TENSOR_MAP_BYTES


@dataclass(frozen=True, slots=True)
class Signature:
    """The ordered parameters of a kernel.

    Attributes
    ----------
    params : tuple of Param
        All of them, the hidden ones last.
    param_bytes : int
        Size of the parameter buffer.
    sources : tuple of str
        Where the parameters were read: ``("cubin", "ttir")``.
    """

    params: tuple[Param, ...]
    param_bytes: int
    sources: tuple[str, ...]

    def __iter__(self) -> Iterator[Param]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)

    @property
    def user(self) -> tuple[Param, ...]:
        """The parameters that a caller passes."""
        return tuple(p for p in self.params if p.role == "user")

    @property
    def hidden(self) -> tuple[Param, ...]:
        """The trailing parameters that the launcher fills."""
        return tuple(p for p in self.params if p.role != "user")

    def table(self) -> str:
        """The parameters as text, a line each."""
        rows = [("#", "name", "type", "offset", "size", "role")]
        rows += [(str(p.index), p.name or "-", p.type or "?", str(p.offset), str(p.size), p.role) for p in self.params]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def category(type_name: str | None) -> str | None:
    """``"pointer"``, ``"integer"``, ``"float"``, ``"byte"`` (fp8) or ``"descriptor"``; ``None``: unknown."""
    if type_name is None:
        return None
    if type_name.startswith("*"):
        return "pointer"
    if type_name.startswith("tensordesc") or type_name == "nvTmaDesc":
        return "descriptor"
    return SCALARS[type_name].kind


def type_size(type_name: str | None) -> int | None:
    """Bytes that a type takes in the parameter buffer; ``None`` when unknown."""
    kind = category(type_name)
    if kind is None or type_name is None:
        return None
    return {"pointer": 8, "descriptor": TENSOR_MAP_BYTES}.get(kind) or SCALARS[type_name].size


# --- sources ---------------------------------------------------------------------------------------------------------


def from_func(text: str, kernel: str, label: str) -> Source | None:
    """The parameters of ``tt.func @kernel`` in TTIR or TTGIR text; ``None`` when the text has no such function."""
    function = find_function(text, kernel)
    if function is None:
        return None
    names: dict[str, int] = {}
    slots = []
    for argument in function.arguments:
        # Triton 3.5 to 3.7 give the parts of a tuple or a descriptor one name: the first keeps it, then x.1, x.2.
        seen = names.get(argument.name or "", 0)
        names[argument.name or ""] = seen + 1
        slots.append(_func_slot(argument, f"{argument.name}.{seen}" if seen and argument.name else argument.name))
    return Source(label, tuple(slots), False)


def _func_slot(argument: Argument, name: str | None) -> Slot:
    if "tt.nv_tma_desc" in argument.attributes:
        return Slot(name, "nvTmaDesc", TENSOR_MAP_BYTES)
    type_name = _mlir_type(argument.type)
    divisibility = re.match(_DIVISIBILITY, argument.attributes.get("tt.divisibility", ""))
    return Slot(name, type_name, type_size(type_name), int(divisibility[1]) if divisibility else 1, True)


_DIVISIBILITY = r"([0-9]{1,9})\s*(?::|\Z)"
_TENSORDESC = r"!tt\.tensordesc<(?:tensor<)?((?:\d+x)+)([A-Za-z]\w*)"


def _mlir_type(text: str) -> str | None:
    text, pointers = text.strip(), ""
    while text.startswith("!tt.ptr<"):
        text, pointers = text[len("!tt.ptr<") :].rpartition(">")[0].strip(), pointers + "*"
    if pointers:
        return pointers + (from_mlir(text.partition(",")[0].strip()) or "")  # !tt.ptr<f32, 1>: the address space
    if text.startswith("!tt.tensordesc") and (m := re.match(_TENSORDESC, text)):
        shape = ", ".join(m[1][:-1].split("x"))
        return f"tensordesc<{from_mlir(m[2]) or m[2]}[{shape}]>"
    return from_mlir(text)


_LLIR_DEFINE = r"^define\b[^\n@]*@{name}\("


def from_llir(text: str, kernel: str) -> Source | None:
    """The parameters of the kernel's ``define`` in LLVM IR; they include the hidden ones."""
    m = re.search(_LLIR_DEFINE.format(name=re.escape(kernel)), text, re.M)
    if m is None:
        return None
    slots = []
    for part in split_list(text, m.end()) or ():
        word = part.split(None, 1)[0] if part.split() else ""
        type_name = "*" if word == "ptr" else from_llvm(word)
        if word == "ptr" and "byval" in part:
            type_name = "nvTmaDesc"
        slots.append(Slot(None, type_name, type_size(type_name)))
    return Source("llir", tuple(slots), True)


# PTX states a type only where LLVM's did: .u16 was bf16 too up to Triton 3.1, and .u64 a pointer up to 3.1.
_PTX_TYPES = {"u8": None, "u16": None, "u32": "i32", "u64": None, "f32": "fp32", "f64": "fp64", "ptr": "*"}


def from_ptx(kernel: ImageKernel) -> Source:
    """The parameters of a PTX ``.entry``, read by `trlaunch.emulator.image`; they include the hidden ones."""
    return Source("ptx", tuple(Slot(None, _PTX_TYPES.get(p.type or ""), p.size) for p in kernel.params), True)


def from_caller(signature: Mapping[str, Any] | Sequence[Any] | str, image: ImageKernel) -> Source:
    """A caller's ``signature=``: Triton's types by name, in order, or as one comma-separated string.

    Raises
    ------
    SignatureError
        A type is not one of Triton's.
    """
    if isinstance(signature, str):
        signature = [part.strip() for part in re.split(r",(?![^\[<]*[\]>])", signature) if part.strip()]
    items: list[tuple[str | None, Any]]
    if isinstance(signature, Mapping):
        items = [(str(name), value) for name, value in signature.items()]
    elif isinstance(signature, Sequence):
        items = [(None, value) for value in signature]
    else:
        raise SignatureError(
            f"signature= is a {type(signature).__name__}: expected {{name: type}}, a list of types or a string"
        )
    slots: list[Slot] = []
    for name, value in items:
        _caller_slots(name, value, image.params, slots)
    return Source("signature=", tuple(slots), False)


def _caller_slots(name: str | None, value: Any, layout: Sequence[ImageParam], slots: list[Slot]) -> None:
    if isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            _caller_slots(f"{name}.{i}" if name else None, item, layout, slots)
        return
    text = value.strip() if isinstance(value, str) else value
    if text == "constexpr":
        return
    if isinstance(text, str) and (m := re.fullmatch(r"tensordesc<\w+\[([\d, ]+)\](?:,.*)?>", text)):
        slots.extend(_descriptor_slots(name, text, m[1].count(",") + 1, layout, len(slots)))
        return
    if text == "nvTmaDesc" or (isinstance(text, str) and text.lstrip("*") in SCALARS) or text == "*":
        signless = not (isinstance(text, str) and text in SCALARS)
        slots.append(Slot(name, text, type_size(text), 1, signless))
        return
    raise SignatureError(
        f"signature= has {value!r} for {name or f'entry {len(slots)}'}: expected a Triton type such as *fp16, i32, "
        f"fp32, tensordesc<fp16[64, 64]>, constexpr or a tuple of types"
    )


def _descriptor_slots(
    name: str | None, type_name: str, rank: int, layout: Sequence[ImageParam], at: int
) -> Iterator[Slot]:
    shape = [Slot(f"{name}.shape.{i}" if name else None, "i32", 4) for i in range(rank)]
    strides = [Slot(f"{name}.stride.{i}" if name else None, "i64", 8) for i in range(rank)]
    if at < len(layout) and layout[at].size == TENSOR_MAP_BYTES:
        yield Slot(name, type_name, TENSOR_MAP_BYTES)
    else:
        yield Slot(name, "*" + type_name[len("tensordesc<") :].partition("[")[0], 8)
        yield from (Slot(None, "i64", 8) for _ in range(2 * rank))
        # One flag from 3.5 (pad with NaN), a second from 3.7 (round to tf32), none in 3.4: the image's sizes tell.
        flags = 0
        while flags < 2 and at + 1 + 2 * rank + flags < len(layout) and layout[at + 1 + 2 * rank + flags].size == 1:
            flags += 1
            yield Slot(None, "i1", 1)
    yield from shape
    yield from strides


# --- putting them together -------------------------------------------------------------------------------------------


def hidden_count(metadata: Metadata | None) -> int | None:
    """How many trailing parameters the release that wrote the metadata adds; ``None`` when it cannot be told."""
    if metadata is None or not {"num_stages", "hash"} <= metadata.raw.keys():  # not a whole JSON of Triton's
        return None
    if metadata.profile_scratch_size is not None:
        return 2
    if metadata.global_scratch_size is not None:
        return 1
    hip = metadata.target is not None and metadata.target.backend == "hip"
    return 1 if hip and metadata.release else 0  # HIP's 3.3 and 3.4 have the parameter but not the key


def assemble(image: ImageKernel, image_label: str, metadata: Metadata | None, sources: Sequence[Source]) -> Signature:
    """The signature on which the image, the metadata and every text source agree.

    Parameters
    ----------
    image : ImageKernel
        Offsets and sizes; always right.
    image_label : str
        What to call the image in messages.
    metadata : Metadata or None
        Tells how many hidden parameters there are.
    sources : sequence of Source
        Most trusted first.

    Raises
    ------
    SignatureError
        Two sources contradict each other, or the hidden parameters cannot be told from the caller's.
    """
    layout = image.params
    hidden = _hidden(layout, image_label, metadata, sources)
    count = len(layout) - hidden
    merged: list[Slot] = [Slot(size=p.size) for p in layout]
    origin = [image_label] * len(layout)
    for source in sources:
        if source.with_hidden and len(source.slots) != len(layout):
            raise SignatureError(_counts(layout, image_label, source, 0))
        for i, slot in enumerate(source.slots):
            known = merged[i]
            if known.size == _TDM_BYTES and (slot.type or "").startswith("tensordesc"):
                raise SignatureError(
                    f"parameter {i}{f' {slot.name!r}' if slot.name else ''} is a tensor descriptor of gfx1250, "
                    f"{_TDM_BYTES} bytes by value, which trlaunch cannot make: make the descriptor in the kernel, "
                    f"or pass pointers"
                )
            contradiction = _contradiction(known, slot)
            if contradiction:
                raise SignatureError(
                    f"{source.label} and {origin[i]} contradict each other about parameter {i}"
                    f"{f' {known.name or slot.name!r}' if known.name or slot.name else ''}: {contradiction}; "
                    f"the files are not of one compilation, or signature= is wrong"
                )
            if slot.type not in (None, "*") and known.type in (None, "*"):
                origin[i] = source.label
            merged[i] = _merge(known, slot)
    params = [
        Param(p.index, m.name, m.type, p.offset, p.size, "user", m.divisibility, m.signless)
        if i < count
        else Param(p.index, HIDDEN_ROLES[i - count], "*i8", p.offset, p.size, HIDDEN_ROLES[i - count])
        for i, (p, m) in enumerate(zip(layout, merged, strict=True))
    ]
    labels = dict.fromkeys((image_label, *(s.label for s in sources)))  # PTX is an image and a source
    return Signature(tuple(params), image.param_bytes, tuple(labels))


def _hidden(
    layout: Sequence[ImageParam], image_label: str, metadata: Metadata | None, sources: Sequence[Source]
) -> int:
    stated = hidden_count(metadata)
    hidden = stated
    for source in sources:
        if source.with_hidden:
            continue
        counted = len(layout) - len(source.slots)
        if not 0 <= counted <= len(HIDDEN_ROLES) or (stated is not None and counted != stated):
            raise SignatureError(_counts(layout, image_label, source, stated))
        hidden = counted
    if hidden is None:
        raise SignatureError(
            f"the {image_label} has {len(layout)} parameters and nothing tells how many of them are the hidden scratch "
            f"pointers (0 up to Triton 3.2, 1 in 3.3 and 3.4, 2 from 3.5): give Triton's JSON, or signature= with the "
            f"types of the user's parameters"
        )
    trailing = layout[len(layout) - hidden :] if hidden else ()
    if len(trailing) != hidden or any(p.size != 8 for p in trailing):
        sizes = ", ".join(str(p.size) for p in layout) or "none"
        raise SignatureError(
            f"the metadata ({metadata.releases if metadata else 'none'}) means {hidden} trailing scratch pointers of "
            f"8 bytes; the {image_label} has parameters of {sizes} bytes: the two are not of one compilation"
        )
    return hidden


def _counts(layout: Sequence[ImageParam], image_label: str, source: Source, stated: int | None) -> str:
    extra = f" and the metadata means {stated} hidden ones" if stated else ""
    return (
        f"{source.label} has {len(source.slots)} parameters{extra}, the {image_label} has {len(layout)}: "
        f"expected the same kernel of the same compilation "
        f"(constexpr arguments and integers specialised to 1 are no parameters)"
    )


def _contradiction(known: Slot, slot: Slot) -> str | None:
    if known.size is not None and slot.size is not None and known.size != slot.size:
        return f"{slot.type or 'it'} takes {slot.size} bytes, found {known.size}"
    if known.type is None or slot.type is None:
        return None
    if category(known.type) != category(slot.type):
        return f"{slot.type} against {known.type}"
    if category(known.type) == "float" and known.type != slot.type:
        return f"{slot.type} against {known.type}"
    pointees = known.type.lstrip("*"), slot.type.lstrip("*")
    if category(known.type) == "pointer" and all(pointees) and not _same_memory(*pointees):
        return f"{slot.type} against {known.type}"
    return None


def _same_memory(one: str, other: str) -> bool:
    if one == other:
        return True
    a, b = SCALARS.get(one), SCALARS.get(other)
    # MLIR writes a pointer to u8, to bool and (in old releases) to fp8 as a pointer to i8.
    return bool(a and b and a.size == b.size and "float" not in (a.kind, b.kind))


def _merge(known: Slot, slot: Slot) -> Slot:
    type_name = known.type if known.type not in (None, "*") else slot.type or known.type
    return Slot(
        known.name or slot.name,
        type_name,
        known.size,
        max(known.divisibility, slot.divisibility),
        known.signless and slot.signless,
    )
