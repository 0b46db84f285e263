"""The sections of a GPU core dump: checked once, found by their place in the tree of tables, read when asked for.

A GPU full of warps has three sections a thread, 800 000 and more: the section table is read by ``struct``, not as one
pyelftools object each, and nothing else is read before somebody asks for it. The header, and what it says of tables
with more than 65 279 sections, is pyelftools' business.
"""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from trlaunch.cuda.coredump_format import PARENTS, SHT_LOUSER, TABLES, Kind
from trlaunch.elf import describe, reading
from trlaunch.errors import CoreDumpError, ImageError

__all__ = ["CoreFile", "Node"]

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SHT_STRTAB, _SHT_NOBITS = 3, 8
_KINDS = {SHT_LOUSER + kind: kind for kind in Kind}
_FORMATS = {4: "I", 8: "Q"}
# Larger files stay on disk, where global memory may be many times the rest.
_IN_MEMORY = 256 << 20
# What a compressed dump may unpack to, in memory.
_MAX_UNPACKED = 4 << 30
_MAX_STRING = 4096
_UNPACKERS = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}


Node = tuple[int, int]
"""A row of a table: its section's index and the row."""


class CoreFile:
    """A core dump as a tree of sections.

    Parameters
    ----------
    source : path or bytes
        A file, which may be compressed by gzip (as drivers of CUDA 13.1 and newer do on request) or xz, or its content.

    Raises
    ------
    CoreDumpError
        It is no GPU core dump, or a damaged one.
    """

    def __init__(self, source: str | Path | bytes) -> None:
        self.path = None if isinstance(source, bytes) else Path(source)
        self.label = "this core dump" if self.path is None else self.path.name
        self._data = source if isinstance(source, bytes) else self._load(Path(source))
        self.size = len(self._data) if self._data is not None else Path(str(self.path)).stat().st_size
        self.nodes: dict[tuple[str, int, int], Any] = {}
        self._index()

    def error(self, message: str) -> CoreDumpError:
        """An error about this file."""
        return CoreDumpError(f"{self.label} {message}")

    # The file

    def _load(self, path: Path) -> bytes | None:
        """The content, unpacked where it is compressed; ``None`` for a large file, which is read piece by piece."""
        try:
            with path.open("rb") as file:
                head = file.read(6)
                unpack: Any = _UNPACKERS.get(head[:2])
                if unpack is None:
                    return None if path.stat().st_size > _IN_MEMORY else head + file.read()
                file.seek(0)
                return self._unpacked(unpack(file))
        except OSError as error:
            # A damaged gzip stream is an OSError without a number.
            if error.errno is None:
                raise self.error(f"is damaged: {error}") from error
            raise CoreDumpError(f"cannot read the core dump {path}: {error.strerror or error}") from error
        except (EOFError, lzma.LZMAError, zlib.error) as error:
            raise self.error(f"is damaged: it does not unpack ({error})") from error

    def _unpacked(self, stream: Any) -> bytes:
        data = bytearray()
        with stream:
            while piece := stream.read(1 << 20):
                data += piece
                if len(data) > _MAX_UNPACKED:
                    raise self.error(f"unpacks to more than {_MAX_UNPACKED >> 30} GiB: unpack it to a file first")
        return bytes(data)

    def _stream(self) -> BinaryIO:
        if self._data is not None:
            return io.BytesIO(self._data)
        assert self.path is not None
        return self.path.open("rb")

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file.

        Raises
        ------
        CoreDumpError
            The file ends before, or has become shorter since it was opened.
        """
        if self._data is not None:
            found = self._data[offset : offset + size]
        else:
            try:
                with self._stream() as file:
                    file.seek(offset)
                    found = file.read(size)
            except OSError as error:
                raise self.error(f"cannot be read: {error.strerror or error}") from error
        if len(found) != size:
            raise self.error(f"is cut off: {size} bytes at {offset:#x} were expected, {len(found)} are there")
        return found

    # The section table

    def _index(self) -> None:
        head = self.read(0, min(self.size, 1 << 16))
        if head[:4] != b"\x7fELF":
            raise CoreDumpError(f"expected a GPU core dump (ELF, type ET_CORE), found {describe(head)}")
        offset, count, names = self._header()
        table = list(_SECTION.iter_unpack(self.read(offset, count * _SECTION.size)))
        self.kinds: list[Kind | None] = [_KINDS.get(row[1]) for row in table]
        self.addresses = [row[3] for row in table]
        self.offsets = [row[4] for row in table]
        self.sizes = [row[5] for row in table]
        # The driver leaves the row size of the one-row table out.
        self.strides = [row[9] or (row[5] if row[1] == SHT_LOUSER + Kind.METADATA else 0) for row in table]
        self._children: dict[tuple[Kind, int, int], list[int]] = {}
        self._strings = (0, 0)
        for i, (_, kind, _, _, start, size, link, info, _, _) in enumerate(table):
            if kind not in (0, _SHT_NOBITS) and start + size > self.size:
                raise self.error(f"is cut off: section {i} ends at {start + size:#x}, the file at {self.size:#x}")
            if kind == _SHT_STRTAB and i != names:
                self._strings = (start, size)
            elif kind in _KINDS:
                parent = self._parent(i, link, info)
                self._children.setdefault((_KINDS[kind], *parent), []).append(i)
        if Kind.DEVICES not in self.kinds:
            raise self.error("has no table of devices, which every GPU core dump has: is it a dump of a process?")

    def _header(self) -> tuple[int, int, int]:
        """Offset and length of the section table, and the section of its names, after checking what the file is."""
        from elftools.elf.elffile import ELFFile

        try:
            with reading(self.label), self._stream() as stream:
                elf = ELFFile(stream)
                header = elf.header
                offset, entry = header["e_shoff"], header["e_shentsize"]
                fields = elf.elfclass, elf.little_endian, header["e_machine"], header["e_type"]
                count, names = elf.num_sections(), elf.get_shstrndx()
        except ImageError as error:
            raise CoreDumpError(str(error)) from error
        if fields != (64, True, "EM_CUDA", "ET_CORE"):
            raise CoreDumpError(
                f"expected a GPU core dump (64-bit little-endian ELF for machine EM_CUDA, type ET_CORE), found a "
                f"{fields[0]}-bit {'little' if fields[1] else 'big'}-endian one for {fields[2]}, type {fields[3]}"
            )
        if entry != _SECTION.size or count == 0:
            raise self.error(f"has no usable section table ({count} sections of {entry} bytes, ELF64 has 64)")
        if offset + count * entry > self.size:
            raise self.error(
                f"is cut off: its section table ends at {offset + count * entry:#x}, the file at {self.size:#x} "
                f"(the driver writes the table last: was the process killed while it dumped?)"
            )
        return offset, count, names

    def _parent(self, i: int, link: int, info: int) -> Node:
        """The row that a section belongs to; (0, 0) where it belongs to the file."""
        kind = self.kinds[i]
        assert kind is not None
        if kind in TABLES:
            size, stride = self.sizes[i], self.strides[i]
            if size and (stride < TABLES[kind].smallest or size % stride):
                raise self.error(
                    f"is damaged: section {i} ({kind.name}) has {size} bytes in rows of {stride}; "
                    f"a row takes at least {TABLES[kind].smallest}"
                )
        if kind not in PARENTS:
            return (0, 0)
        if link >= len(self.kinds) or self.kinds[link] is not PARENTS[kind]:
            raise self.error(f"is damaged: section {i} ({kind.name}) does not belong to a {PARENTS[kind].name} table")
        if info >= self.rows_of(link):
            raise self.error(
                f"is damaged: section {i} ({kind.name}) belongs to row {info} of section {link}, "
                f"which has {self.rows_of(link)}"
            )
        return (link, info)

    def rows_of(self, section: int) -> int:
        """How many rows a table has."""
        return self.sizes[section] // self.strides[section] if self.strides[section] else 0

    # What is in it

    def children(self, kind: Kind, parent: Node = (0, 0)) -> Sequence[int]:
        """The sections of a kind that belong to a row."""
        return self._children.get((kind, *parent), ())

    def rows(self, kind: Kind, parent: Node = (0, 0)) -> Iterator[tuple[Node, dict[str, int | None]]]:
        """The rows of the tables of a kind that belong to a row, by field; a field that the driver lacks is None."""
        for section in self.children(kind, parent):
            for row, fields in enumerate(self._decode(kind, section)):
                yield (section, row), fields

    def _decode(self, kind: Kind, section: int) -> Iterator[dict[str, int | None]]:
        names, packed, absent = _layout(kind, self.strides[section])
        data, stride = self.content(section), self.strides[section]
        for at in range(0, len(data), stride or 1):
            yield dict(zip(names, packed.unpack_from(data, at), strict=True)) | absent

    def content(self, section: int) -> bytes:
        """The bytes of a section."""
        return self.read(self.offsets[section], self.sizes[section])

    def words(self, kind: Kind, parent: Node) -> tuple[int, ...]:
        """The 32-bit words of the section of a kind that belongs to a row; none where there is no such section."""
        sections = self.children(kind, parent)
        if not sections:
            return ()
        data = self.content(sections[0])
        return struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])

    def string(self, offset: int | None) -> str:
        """The string at an offset into ``.strtab``; nothing where there is none."""
        start, size = self._strings
        if not offset or offset >= size:
            return ""
        text = self.read(start + offset, min(size - offset, _MAX_STRING))
        return text.partition(b"\0")[0].decode("utf-8", "replace")


@lru_cache(maxsize=64)
def _layout(kind: Kind, stride: int) -> tuple[tuple[str, ...], struct.Struct, dict[str, None]]:
    """Names and layout of the fields that lie inside a row of `stride` bytes, and the names of those that do not."""
    names: list[str] = []
    absent: dict[str, None] = {}
    packed, end = "<", 0
    for field in TABLES[kind].fields:
        end += field.size
        if end > stride:
            absent[field.name] = None
        elif field.name:
            names.append(field.name)
            packed += _FORMATS[field.size]
        else:
            packed += f"{field.size}x"
    absent.pop("", None)
    return tuple(names), struct.Struct(packed), absent
