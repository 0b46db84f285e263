"""ELF64 little-endian files from untrusted bytes: the tables that a launch needs, with one error for all that is wrong.

cubin and hsaco are both ELF. Nothing in a hostile file may cost memory or time out of proportion to its length, so the
tables are checked before anything is read: every section lies inside the file, names are finite, tables have the entry
sizes of ELF64 (System V gABI, chapters 4 and 5).

Sections, symbols and relocations are read here, and named as pyelftools names them: importing it takes as long as the
rest of a first launch. Where DWARF is read, it is pyelftools that does it.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trlaunch.errors import ImageError

__all__ = ["ElfFile", "Relocation", "Section", "Symbol", "describe", "reading"]

# System V gABI: Elf64_Ehdr after e_ident, and Elf64_Shdr.
_HEADER = struct.Struct("<HHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SECTION_FIELDS = (
    "sh_name", "sh_type", "sh_flags", "sh_addr", "sh_offset", "sh_size", "sh_link", "sh_info", "sh_addralign",
    "sh_entsize",
)  # fmt: skip
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION, _RELOCATION_ADDEND = struct.Struct("<QQ"), struct.Struct("<QQq")
_IDENT = 16

_FILE_TYPES = {0: "ET_NONE", 1: "ET_REL", 2: "ET_EXEC", 3: "ET_DYN", 4: "ET_CORE"}
_SECTION_TYPES = {
    0: "SHT_NULL", 1: "SHT_PROGBITS", 2: "SHT_SYMTAB", 3: "SHT_STRTAB", 4: "SHT_RELA", 5: "SHT_HASH", 6: "SHT_DYNAMIC",
    7: "SHT_NOTE", 8: "SHT_NOBITS", 9: "SHT_REL", 11: "SHT_DYNSYM",
}  # fmt: skip
_SYMBOL_TYPES = {0: "STT_NOTYPE", 1: "STT_OBJECT", 2: "STT_FUNC", 3: "STT_SECTION", 4: "STT_FILE"}
_NO_SECTION = frozenset((0, 0xFFF1, 0xFFF2))  # SHN_UNDEF, SHN_ABS, SHN_COMMON

_SHT_SYMTAB, _SHT_STRTAB, _SHT_RELA, _SHT_NOBITS, _SHT_REL, _SHT_DYNSYM = 2, 3, 4, 8, 9, 11
_ENTRY_SIZES = {_SHT_SYMTAB: 24, _SHT_DYNSYM: 24, _SHT_RELA: 24, _SHT_REL: 16}
_SHN_LORESERVE = 0xFF00

# Kernel names are mangled signatures at worst; a longer one is a string table without terminators.
_MAX_NAME = 64 * 1024
# Names may share bytes of the string table (a suffix of another name), and symbol tables may overlap. Real files stay
# far below this many bytes of names for each byte of the file; every name counts for a few bytes more than it has.
_NAME_BYTES_PER_FILE_BYTE = 16
_NAME_COST = 8

_MACHINES = {
    190: "NVIDIA CUDA (a cubin)",
    224: "AMDGPU (an hsaco)",
    62: "x86-64",
    183: "AArch64",
    247: "eBPF",
}

_MAGICS = (
    (
        b"\x50\xed\x55\xba",
        "a CUDA fatbin (magic 0xBA55ED50), a container of cubins: take one out with cuobjdump -xelf all",
    ),
    (b"\xb1\x43\x62\x46", "a CUDA fatbin wrapper (magic 0x466243B1)"),
    (
        b"__CLANG_OFFLOAD_BUNDLE__",
        "a clang offload bundle, a container of hsacos: take one out with clang-offload-bundler",
    ),
    (b"BC\xc0\xde", "LLVM bitcode"),
    (b"\x1f\x8b", "gzip data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"PK\x03\x04", "a zip archive"),
)
_TEXTS = (
    (b".version", "PTX text"),
    (b".amdgcn_target", "AMDGCN assembly text"),
    (b"tt.func", "TTIR or TTGIR text"),
    (b"define ", "LLVM IR text"),
)


def describe(data: bytes) -> str:
    """What `data`, which is not ELF, seems to be instead: for the "found" part of a message."""
    if not data:
        return "no bytes at all"
    for magic, name in _MAGICS:
        if data.startswith(magic):
            return name
    head = bytes(data[:65536])
    for mark, name in _TEXTS:
        if mark in head and b"\0" not in head:
            return name
    return f"{len(data)} bytes starting with {bytes(data[:8])!r}"


_ERRORS: tuple[type[Exception], ...] = (
    struct.error, ValueError, OverflowError, LookupError, AssertionError, AttributeError, TypeError,
    RecursionError,
)  # fmt: skip


def _errors() -> tuple[type[Exception], ...]:
    if "elftools.common.exceptions" not in sys.modules:  # then pyelftools raised nothing
        return _ERRORS
    import zlib

    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.construct import ConstructError

    return (ELFError, DWARFError, ConstructError, zlib.error, *_ERRORS)


class Section:
    """A section: its name, and its fields by the gABI's names, ``section["sh_size"]``.

    ``sh_type`` is the name of a type that is known here (``"SHT_PROGBITS"``), else its number.
    """

    __slots__ = ("_fields", "name")

    def __init__(self, name: str, row: tuple[int, ...]) -> None:
        self.name = name
        self._fields: dict[str, Any] = dict(zip(_SECTION_FIELDS, row, strict=True))
        self._fields["sh_type"] = _SECTION_TYPES.get(row[1], row[1])

    def __getitem__(self, field: str) -> Any:
        return self._fields[field]


class Symbol:
    """An entry of a symbol table.

    Attributes
    ----------
    name : str
    kind : str or int
        ``"STT_FUNC"``; a number where it is not known here.
    other : int
        ``st_other``, all of its bits.
    section : int or None
        Index of the section it lies in; ``None`` for an undefined, absolute or common symbol.
    value, size : int
    """

    __slots__ = ("kind", "name", "other", "section", "size", "value")

    def __init__(self, name: str, row: tuple[int, ...]) -> None:
        _, info, self.other, index, self.value, self.size = row
        self.name = name
        self.kind = _SYMBOL_TYPES.get(info & 15, info & 15)
        self.section = None if index in _NO_SECTION else index


class Relocation:
    """An entry of a relocation table: `addend` is 0 where the table has none."""

    __slots__ = ("addend", "offset", "symbol")

    def __init__(self, offset: int, info: int, addend: int = 0) -> None:
        self.offset = offset
        self.symbol = info >> 32  # ELF64_R_SYM
        self.addend = addend


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what ``struct`` and pyelftools raise on malformed bytes into `ImageError`.

    This is the one boundary for those errors. Besides its own `ELFError`, pyelftools lets errors of its parser
    (``ConstructError``) and of Python's containers and codecs through when fields contradict each other; a section
    that links to itself ends in `RecursionError`. `MemoryError` and programming errors are not among them.
    """
    try:
        yield
    except _errors() as error:
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ImageError(f"{what} is damaged: its ELF structure does not parse ({detail})") from error


class ElfFile:
    """A checked ELF64 file.

    Parameters
    ----------
    data : bytes
    what : str
        What the file is expected to be (``"cubin"``), for messages.
    machine : int
        ``e_machine`` that it must have.

    Attributes
    ----------
    type : str
        ``"ET_EXEC"``, or the digits of a type that is not known here.
    flags : int
        ``e_flags``.
    osabi, abi_version : int
        ``EI_OSABI`` and ``EI_ABIVERSION``.
    sections : list of Section
        In the order of the section table.

    Raises
    ------
    ImageError
        Not ELF, not 64-bit little-endian, for another machine, or the section table points outside the file.
    """

    def __init__(self, data: bytes, what: str, machine: int) -> None:
        if data[:4] != b"\x7fELF":
            raise ImageError(f"expected a {what} (ELF, starting with 7f 45 4c 46), found {describe(data)}")
        self.what = what
        self._data = data
        table, names = self._check(machine)
        kind, *_, self.flags = _HEADER.unpack_from(data, _IDENT)[:7]
        self.type = _FILE_TYPES.get(kind, str(kind))
        self.osabi, self.abi_version = data[7], data[8]
        self.sections = [Section(self._name(table[names], row[0]), row) for row in table]
        self._by_name: dict[str, Section] = {}
        for section in self.sections:
            self._by_name.setdefault(section.name, section)

    def _check(self, machine: int) -> tuple[list[tuple[int, ...]], int]:
        """The rows of the section table, and which of them has their names."""
        data, what = self._data, self.what
        if len(data) < _IDENT + _HEADER.size:
            raise ImageError(f"this {what} is truncated: {len(data)} bytes, an ELF64 header alone takes 64")
        if data[4] != 2 or data[5] != 1:
            raise ImageError(
                f"expected a 64-bit little-endian {what} (EI_CLASS 2, EI_DATA 1), "
                f"found EI_CLASS {data[4]}, EI_DATA {data[5]}"
            )
        (_, found, *_, offset, _flags, _ehsize, _phentsize, _phnum, entry, count, names) = _HEADER.unpack_from(
            data, _IDENT
        )
        if found != machine:
            raise ImageError(
                f"expected a {what} for {_MACHINES.get(machine, machine)}, ELF machine {machine}; "
                f"found ELF machine {found}{f', {_MACHINES[found]}' if found in _MACHINES else ''}"
            )
        if offset == 0 or count == 0 or count >= _SHN_LORESERVE:
            raise ImageError(f"this {what} has no usable section table (e_shoff {offset:#x}, e_shnum {count})")
        if entry != _SECTION.size:
            raise ImageError(f"this {what} has section headers of {entry} bytes, ELF64 has {_SECTION.size}")
        if offset + count * entry > len(data):
            raise ImageError(
                f"this {what} is truncated: its section table ends at {offset + count * entry:#x}, "
                f"the file at {len(data):#x}"
            )
        if names >= count:
            raise ImageError(f"this {what} names section {names} as its section names, it has {count}")
        table = [_SECTION.unpack_from(data, offset + i * entry) for i in range(count)]
        for i, (_, kind, _, _, start, size, link, _, _, entsize) in enumerate(table):
            if kind not in (0, _SHT_NOBITS) and start + size > len(data):
                raise ImageError(
                    f"this {what} is truncated: section {i} ends at {start + size:#x}, the file at {len(data):#x}"
                )
            if kind in _ENTRY_SIZES and entsize != _ENTRY_SIZES[kind]:
                raise ImageError(
                    f"this {what} has a table (section {i}) of {entsize}-byte entries, expected {_ENTRY_SIZES[kind]}"
                )
            if kind in (_SHT_SYMTAB, _SHT_DYNSYM) and (link >= count or table[link][1] != _SHT_STRTAB):
                raise ImageError(f"this {what} has a symbol table (section {i}) without a string table")
        budget = max(_MAX_NAME, _NAME_BYTES_PER_FILE_BYTE * len(data))
        budget = self._check_names(table[names], (row[0] for row in table), budget)
        for row in table:
            if row[1] in (_SHT_SYMTAB, _SHT_DYNSYM):
                symbols = (struct.unpack_from("<I", data, row[4] + i)[0] for i in range(0, row[5] - 23, 24))
                budget = self._check_names(table[row[6]], symbols, budget)
        return table, names

    def _check_names(self, strings: tuple[int, ...], offsets: Iterator[int], budget: int) -> int:
        """Bound the bytes that reading these names costs."""
        start, size = strings[4], strings[5]
        if strings[1] != _SHT_STRTAB:
            raise ImageError(f"this {self.what} keeps names in a section that is no string table")
        for offset in offsets:
            end = self._data.find(b"\0", start + offset, start + size)
            if offset >= size or end < 0 or end - start - offset > _MAX_NAME:
                raise ImageError(f"this {self.what} has a name at {offset:#x} of a string table of {size:#x} bytes")
            budget -= end - start - offset + _NAME_COST
            if budget < 0:
                raise ImageError(
                    f"this {self.what} has names longer in total than {_NAME_BYTES_PER_FILE_BYTE} times the file"
                )
        return budget

    def _name(self, strings: tuple[int, ...], offset: int) -> str:
        """A name that `_check_names` found in order."""
        start = strings[4] + offset
        return self._data[start : self._data.index(b"\0", start)].decode("utf-8", "replace")

    def symbols(self, section: Section | None) -> Iterator[Symbol]:
        """The entries of a symbol table, in order; none of a section that is no symbol table."""
        if section is None or section["sh_type"] not in ("SHT_SYMTAB", "SHT_DYNSYM"):
            return
        content = self.content(section)
        names = self.sections[section["sh_link"]]
        strings = (0, 0, 0, 0, names["sh_offset"])
        for row in _SYMBOL.iter_unpack(content[: len(content) // _SYMBOL.size * _SYMBOL.size]):
            yield Symbol(self._name(strings, row[0]), row)

    def relocations(self, section: Section) -> Iterator[Relocation]:
        """The entries of a relocation table; none of a section that is no relocation table."""
        layout = {"SHT_REL": _RELOCATION, "SHT_RELA": _RELOCATION_ADDEND}.get(section["sh_type"])
        if layout is not None:
            content = self.content(section)
            for row in layout.iter_unpack(content[: len(content) // layout.size * layout.size]):
                yield Relocation(*row)

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return self._by_name.get(name)

    def content(self, section: Section) -> bytes:
        """The bytes of a section in the file; none for NOBITS. Compressed sections are returned as they are."""
        if section["sh_type"] in ("SHT_NOBITS", "SHT_NULL"):
            return b""
        start = section["sh_offset"]
        return self._data[start : start + section["sh_size"]]

    def notes(self, section_name: str) -> list[tuple[str, int, bytes]]:
        """``(owner, type, description)`` of each note of a section (gABI chapter 5, note section).

        Raises
        ------
        ImageError
            A note reaches beyond its section.
        """
        section = self.section(section_name)
        data = self.content(section) if section is not None else b""
        found = []
        at = 0
        while at + 12 <= len(data):
            owner_size, size, kind = struct.unpack_from("<III", data, at)
            owner_end = at + 12 + owner_size
            start = at + 12 + (owner_size + 3 & ~3)
            if start + size > len(data):
                raise ImageError(f"this {self.what} is damaged: a note of {section_name} is longer than the section")
            owner = data[at + 12 : owner_end].rstrip(b"\0").decode("latin-1")
            found.append((owner, kind, data[start : start + size]))
            at = start + (size + 3 & ~3)
        return found
