"""Hsaco: which kernels it holds, for which architecture, and what their launch must look like.

The format is ELF64 with AMD's metadata note; its facts are tables in ``note``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trlaunch.elf import ElfFile, reading
from trlaunch.errors import ImageError
from trlaunch.hip import note
from trlaunch.hip.note import Descriptor
from trlaunch.image import Image, ImageKernel, ImageParam
from trlaunch.target import Target

__all__ = ["read_image"]

_TYPE_NAMES = {"ET_REL": "an object file, which is not linked: ld.lld -shared makes an hsaco of it"}
_LARGEST = 2**31  # bytes; every size of a launch is below it


def read_image(data: bytes) -> Image:
    """Read an hsaco.

    Parameters
    ----------
    data : bytes
        Content of the file.

    Returns
    -------
    Image
        ``format == "hsaco"``, one `ImageKernel` for each kernel of the metadata note. Their `params` are what a
        launcher passes; the ``hidden_`` arguments, which the runtime fills, are in `implicit`. `param_bytes` ends
        where those begin.

    Raises
    ------
    ImageError
        Not an hsaco (the message says what it seems to be), not a linked one, damaged, or contradicting itself.

    Notes
    -----
    ``uses_dynamic_shared`` is ``None``: Triton allocates all LDS dynamically, and an hsaco says nothing about that (the
    note's ``.group_segment_fixed_size`` is 0 in every release from 3.0 to 3.9).
    """
    data = bytes(data)
    file = ElfFile(data, "hsaco", note.EM_AMDGPU)
    with reading("this hsaco"):
        return _read(file, data)


def _read(file: ElfFile, data: bytes) -> Image:
    version = _check_header(file)
    root = _metadata(file)
    target = _target(file, root)
    symbols = _symbols(file)
    lines = file.section(".debug_line")
    has_lines = lines is not None and lines["sh_size"] > 0
    kernels: dict[str, ImageKernel] = {}
    wave_sizes: set[int] = set()
    for entry in root.maps("amdhsa.kernels"):
        kernel = _kernel(file, symbols, entry, has_lines)
        if kernel.name in kernels:
            raise ImageError(f"this hsaco is damaged: its note has kernel {kernel.name!r} twice")
        kernels[kernel.name] = kernel
        wave_sizes.add(kernel.wave_size or target.warp_size)
    missing = sorted(symbols.descriptors() - {f"{name}.kd" for name in kernels})
    if missing:
        raise ImageError(f"this hsaco is damaged: {missing[0]!r} is a kernel that its note knows nothing of")
    if len(wave_sizes) == 1:
        target = Target(target.backend, target.arch, target.suffix, wave_sizes.pop())
    return Image("hsaco", target, data, MappingProxyType(kernels), _toolchain(file, version))


def _check_header(file: ElfFile) -> int:
    """The code-object version."""
    kind = file.type
    if kind != "ET_DYN":
        raise ImageError(f"expected a linked hsaco (ELF type ET_DYN), found {_TYPE_NAMES.get(kind, kind)}")
    osabi, abi = file.osabi, file.abi_version
    if osabi != note.OSABI_HSA or abi not in note.ABI_VERSIONS:
        known = ", ".join(f"{number} (code object v{version})" for number, version in note.ABI_VERSIONS.items())
        raise ImageError(
            f"expected an hsaco with EI_OSABI {note.OSABI_HSA} and ABI version {known}; found EI_OSABI {osabi} with "
            f"ABI version {abi}"
        )
    return note.ABI_VERSIONS[abi]


def _metadata(file: ElfFile) -> _Map:
    """The metadata note, of which there must be one."""
    import msgpack

    found = [
        description
        for section in file.sections
        if section["sh_type"] == "SHT_NOTE"
        for owner, kind, description in file.notes(section.name)
        if (owner, kind) == (note.NOTE_OWNER, note.NOTE_TYPE)
    ]
    if len(found) != 1:
        raise ImageError(
            f"this hsaco has {len(found)} metadata notes (owner AMDGPU, type 32), expected one: it says how the "
            f"kernels' arguments are laid out"
        )
    try:
        value = msgpack.unpackb(found[0], raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, TypeError, RecursionError) as error:
        raise ImageError(f"this hsaco is damaged: its metadata note is no MessagePack ({error})") from error
    if not isinstance(value, dict):
        raise ImageError(f"this hsaco is damaged: its metadata note is no map but {type(value).__name__}")
    return _Map(value, "the note")


def _target(file: ElfFile, root: _Map) -> Target:
    flags = file.flags
    arch = note.machine_of_flags(flags)
    if arch is None:
        raise ImageError(
            f"this hsaco is for a machine that is not known here: e_flags {flags:#x}, EF_AMDGPU_MACH {flags & 0xFF:#x}"
        )
    # "amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-" up to Triton 3.8, "amdgpu9.42-amd-amdhsa-unknown-gfx942" in 3.9
    stated = root.text("amdhsa.target", "")
    named = re.findall(r"gfx[0-9a-f]+", stated)
    if named and named[-1] != arch:
        raise ImageError(f"this hsaco is damaged: e_flags {flags:#x} mean {arch}, its note says {stated!r}")
    return Target("hip", arch, note.features_of_flags(flags), note.wave_size(arch))


def _toolchain(file: ElfFile, version: int) -> str:
    comment = file.section(".comment")
    parts = file.content(comment).decode("utf-8", "replace").split("\0") if comment is not None else []
    linker = next((m for part in parts if (m := re.search(r"LLD \d[\w.]*", part))), None)
    return f"code object v{version}" + (f", {linker[0]}" if linker else "")


@dataclass(frozen=True)
class _Symbols:
    """The exported symbols: value, size and type by name."""

    table: Mapping[str, tuple[int, int, str | int]]

    def descriptors(self) -> set[str]:
        return {name for name, (_, size, kind) in self.table.items() if kind == "STT_OBJECT" and name.endswith(".kd")}


def _symbols(file: ElfFile) -> _Symbols:
    table = file.section(".dynsym")
    if table is None or table["sh_type"] != "SHT_DYNSYM":
        raise ImageError("this hsaco has no dynamic symbols, by which the driver finds its kernels")
    return _Symbols(
        {
            symbol.name: (symbol.value, symbol.size, symbol.kind)
            for symbol in file.symbols(table)
            if symbol.name and symbol.section is not None
        }
    )


def _kernel(file: ElfFile, symbols: _Symbols, entry: _Map, has_lines: bool) -> ImageKernel:
    name = entry.text(".name")
    entry.where = f"kernel {name!r}"
    descriptor = _descriptor(file, symbols, name, entry.text(".symbol", f"{name}.kd"))
    kernarg = entry.integer(".kernarg_segment_size")
    static = entry.integer(".group_segment_fixed_size")
    private = entry.integer(".private_segment_fixed_size")
    for what, stated, described in (
        (".group_segment_fixed_size", static, descriptor.group_segment),
        (".private_segment_fixed_size", private, descriptor.private_segment),
        (".kernarg_segment_size", kernarg, descriptor.kernarg or kernarg),
    ):
        if stated != described:
            raise ImageError(
                f"this hsaco is damaged: {what} of kernel {name!r} is {stated} in the note, {described} in its "
                f"descriptor"
            )
    wave = entry.integer(".wavefront_size", low=32)
    if wave not in (32, 64) or (wave == 32) != descriptor.wave32:
        raise ImageError(
            f"this hsaco is damaged: .wavefront_size of kernel {name!r} is {wave} in the note, "
            f"{32 if descriptor.wave32 else 64} in its descriptor"
        )
    params, implicit = _arguments(entry, name, kernarg)
    required = entry.numbers(".reqd_workgroup_size")
    return ImageKernel(
        name=name,
        params=params,
        param_bytes=min((p.offset for p in implicit), default=kernarg),
        required_block=required,
        max_threads=(entry.integer(".max_flat_workgroup_size", low=1), 1, 1),
        cluster=entry.numbers(".cluster_dims"),
        registers=entry.integer(".vgpr_count"),
        static_shared=static,
        local_bytes=private,
        has_line_table=has_lines,
        scalar_registers=entry.integer(".sgpr_count"),
        accumulation_registers=entry.integer(".agpr_count", default=0) if ".agpr_count" in entry.value else None,
        spilled_registers=entry.integer(".vgpr_spill_count", default=0),
        spilled_scalar_registers=entry.integer(".sgpr_spill_count", default=0),
        wave_size=wave,
        param_align=entry.integer(".kernarg_segment_align", low=1),
        implicit=implicit,
    )


def _descriptor(file: ElfFile, symbols: _Symbols, name: str, symbol: str) -> Descriptor:
    """The kernel descriptor behind `symbol`, whose entry must be the code of kernel `name`."""
    if symbol != f"{name}.kd":
        raise ImageError(f"this hsaco is damaged: kernel {name!r} has descriptor {symbol!r}, expected {f'{name}.kd'!r}")
    address, size, _ = symbols.table.get(symbol, (0, -1, ""))
    content = _at(file, address, note.DESCRIPTOR_SIZE) if size == note.DESCRIPTOR_SIZE else None
    if content is None:
        raise ImageError(
            f"this hsaco is damaged: it has no descriptor {symbol!r} of {note.DESCRIPTOR_SIZE} bytes, by which the "
            f"driver starts kernel {name!r}"
        )
    descriptor = Descriptor.unpack(content)
    start, length, kind = symbols.table.get(name, (-1, 0, ""))
    if kind != "STT_FUNC" or address + descriptor.entry_offset != start:
        raise ImageError(
            f"this hsaco is damaged: the descriptor of kernel {name!r} starts at {address + descriptor.entry_offset:#x}"
            + (f", its code at {start:#x}" if kind == "STT_FUNC" else ", and there is no function of that name")
        )
    if length == 0 or _at(file, start, length) is None:
        raise ImageError(f"this hsaco is damaged: the {length} bytes of code of kernel {name!r} lie in no section")
    return descriptor


def _at(file: ElfFile, address: int, size: int) -> bytes | None:
    """`size` bytes at a virtual address; ``None`` when no section holds them."""
    for section in file.sections:
        offset = address - section["sh_addr"]
        if section["sh_type"] == "SHT_PROGBITS" and section["sh_addr"] and 0 <= offset <= section["sh_size"] - size:
            return file.content(section)[offset : offset + size]
    return None


def _arguments(entry: _Map, name: str, kernarg: int) -> tuple[tuple[ImageParam, ...], tuple[ImageParam, ...]]:
    """What a launcher passes, and what the runtime fills; both in order, inside the kernarg segment."""
    passed: list[ImageParam] = []
    implicit: list[ImageParam] = []
    end = 0
    for index, argument in enumerate(entry.maps(".args", optional=True)):
        argument.where = f"argument {index} of kernel {name!r}"
        offset, size, kind = argument.integer(".offset"), argument.integer(".size"), argument.text(".value_kind")
        if offset < end or offset + size > kernarg:
            raise ImageError(
                f"this hsaco is damaged: {argument.where} takes {size} bytes from offset {offset}; the one before it "
                f"ends at {end}, the kernarg segment at {kernarg}"
            )
        end = offset + size
        if kind.startswith(note.HIDDEN):
            implicit.append(ImageParam(index, offset, size, kind))
        elif implicit:
            raise ImageError(f"this hsaco is damaged: {argument.where} ({kind}) lies behind those of the runtime")
        elif kind not in note.VALUE_KINDS:
            raise ImageError(f"{argument.where} has .value_kind {kind!r}, expected {', '.join(note.VALUE_KINDS)}")
        else:
            space = argument.text(".address_space", note.VALUE_KINDS[kind] or "")
            passed.append(ImageParam(index, offset, size, space=space or None))
    return tuple(passed), tuple(implicit)


class _Map:
    """Typed access to a map of the note: what is missing or of another type is damage, named by its key."""

    def __init__(self, value: Mapping[Any, Any], where: str) -> None:
        self.value = value
        self.where = where

    def _wrong(self, key: str, expected: str) -> ImageError:
        found = repr(self.value[key])[:60] if key in self.value else "nothing"
        return ImageError(f"this hsaco is damaged: {key} of {self.where} is {found}, expected {expected}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.value.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def integer(self, key: str, low: int = 0, default: int | None = None) -> int:
        value = self.value.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < _LARGEST:
            raise self._wrong(key, f"a number from {low}")
        return value

    def numbers(self, key: str) -> tuple[int, int, int] | None:
        """Three positive numbers; ``None`` when there is no such key."""
        value = self.value.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 3 or any(type(n) is not int or n < 1 for n in value):
            raise self._wrong(key, "three positive numbers")
        return (value[0], value[1], value[2])

    def maps(self, key: str, optional: bool = False) -> Sequence[_Map]:
        value = self.value.get(key, [] if optional else None)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(key, "a list of maps")
        return [_Map(item, f"{key}[{i}]") for i, item in enumerate(value)]
