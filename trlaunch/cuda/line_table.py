"""The line tables of a cubin: which source line, or line of PTX, each SASS instruction came from.

``.debug_line`` is DWARF's line program (DWARF 2 as ptxas writes it) with two opcodes of NVIDIA's: a row may name the
row of the call that its line was inlined into. ``.nv_debug_line_sass`` is the same for lines of ``.nv_debug_ptx_txt``,
the PTX that ptxas keeps in the cubin. pyelftools reads the header; it would skip NVIDIA's opcodes, so the program is
run here.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from trlaunch.cuda.disassembler import SourceLine
from trlaunch.elf import ElfFile, Section, Symbol, reading

__all__ = ["LineTable", "ptx_text", "read_line_table"]

_DEBUG_LINE = ".debug_line"
_LINES_OF_PTX = ".nv_debug_line_sass"
_PTX_TEXT = ".nv_debug_ptx_txt"

# DWARF 4, 6.2.5: standard and extended opcodes.
_COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE, _CONST_ADD_PC, _FIXED_ADVANCE_PC = 1, 2, 3, 4, 8, 9
_END_SEQUENCE, _SET_ADDRESS = 1, 2
# NVIDIA's: the row (from 1) that the next rows are inlined at, 0 for none.
_INLINED_CALL = 0x90
_MAX_DEPTH = 64
_MAX_ROWS = 4 << 20


@dataclass(frozen=True, slots=True)
class _Row:
    address: int
    file: int
    line: int
    context: int


@dataclass(slots=True)
class _Sequence:
    """Rows of one function: `anchor` is its symbol, or ``None`` with addresses that are those of the image."""

    anchor: int | None
    rows: list[_Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LineTable:
    """Lines by place in a section.

    Attributes
    ----------
    lines : dict
        For each section the ascending offsets at which a line begins, and the lines.
    """

    lines: dict[str, tuple[list[int], list[SourceLine | None]]]

    def at(self, section: str, offset: int) -> SourceLine | None:
        """The line of the instruction at an offset of a section, with the calls it was inlined at."""
        offsets, lines = self.lines.get(section, ([], []))
        i = bisect_right(offsets, offset) - 1
        return lines[i] if i >= 0 else None


def ptx_text(file: ElfFile) -> list[str]:
    """The lines of the PTX in the cubin, without the directives that ptxas drops; none where it has none."""
    section = file.section(_PTX_TEXT)
    return [] if section is None else file.content(section).decode("utf-8", "replace").split("\0")


def read_line_table(file: ElfFile, ptx: bool = False) -> LineTable:
    """Read the line table of a cubin, as it was linked or as it was in GPU memory.

    Parameters
    ----------
    file : ElfFile
    ptx : bool
        Lines of the PTX in the cubin instead of those of its source.

    Raises
    ------
    ImageError
        It is damaged.
    """
    section = file.section(_LINES_OF_PTX if ptx else _DEBUG_LINE)
    if section is None or section["sh_type"] == "SHT_NOBITS":
        return LineTable({})
    with reading(f"the line table {section.name}"):
        return _read(file, section)


def _read(file: ElfFile, section: Section) -> LineTable:
    data = file.content(section)
    anchors = _anchors(file, section.name)
    symbols = list(file.symbols(file.section(".symtab")))
    found: dict[str, dict[int, SourceLine | None]] = {}
    at = 0
    while at + 4 < len(data):
        program = _Program(data, at, anchors)
        program.run()
        for sequence in program.sequences:
            _place(file, symbols, program, sequence, found)
        at = program.end
    return LineTable({name: (sorted(rows), [rows[o] for o in sorted(rows)]) for name, rows in found.items()})


def _anchors(file: ElfFile, name: str) -> dict[int, tuple[int, int]]:
    """``(symbol, addend)`` by the offset in the section that a relocation patches."""
    found = {}
    for section in file.sections:
        if section.name in (f".rel{name}", f".rela{name}") and section["sh_type"] in ("SHT_REL", "SHT_RELA"):
            for entry in file.relocations(section):
                found[entry.offset] = (entry.symbol, entry.addend)
    return found


def _place(
    file: ElfFile,
    symbols: list[Symbol],
    program: _Program,
    sequence: _Sequence,
    found: dict[str, dict[int, SourceLine | None]],
) -> None:
    """Put the rows of a sequence at offsets of the section that they belong to."""
    if not sequence.rows:
        return
    start = sequence.rows[0].address
    where = _section_of(file, symbols, sequence.anchor, start)
    if where is None:
        return
    section, base = where
    lines = found.setdefault(section, {})
    for row in sequence.rows:
        # Of several rows at an address the last one holds; the others are there to be inlined at.
        lines[row.address - base] = program.source(row)


def _section_of(file: ElfFile, symbols: list[Symbol], symbol: int | None, address: int) -> tuple[str, int] | None:
    """The section of a sequence, and what its addresses count from."""
    for section in file.sections:
        size = section["sh_size"]
        if section["sh_addr"] and section["sh_addr"] <= address < section["sh_addr"] + size:
            return section.name, section["sh_addr"]
    entry = symbols[symbol] if symbol is not None and symbol < len(symbols) else None
    if entry is None or entry.section is None or entry.section >= len(file.sections):
        return None
    # Not relocated: addresses count from the symbol, which lies at its value in the section.
    section = file.sections[entry.section]
    start = entry.value - section["sh_addr"] if entry.value >= section["sh_addr"] else entry.value
    return section.name, -start


class _Program:
    """One line program: its header by pyelftools, its rows by its opcodes."""

    _at: int

    def __init__(self, data: bytes, offset: int, anchors: dict[int, tuple[int, int]]) -> None:
        from elftools.common.utils import struct_parse
        from elftools.dwarf.structs import DWARFStructs

        structs = DWARFStructs(little_endian=True, dwarf_format=32, address_size=8)
        self._data = data
        self._anchors = anchors
        self._header: Any = struct_parse(structs.Dwarf_lineprog_header, io.BytesIO(data), offset)
        self.end = offset + self._header["unit_length"] + 4
        if self.end > len(data) or self._header["version"] > 4 or not self._header["line_range"]:
            raise ValueError(f"line program of DWARF {self._header['version']} at {offset:#x}")
        # header_length counts from behind its own field: length 4, version 2, header_length 4.
        self._at = offset + 10 + self._header["header_length"]
        self.sequences: list[_Sequence] = []
        self._rows: list[_Row] = []

    def run(self) -> None:
        """Execute it."""
        header = self._header
        base, span, low = header["opcode_base"], header["line_range"], header["line_base"]
        step = header["minimum_instruction_length"]
        address, file, line, context = 0, 1, 1, 0
        sequence = _Sequence(None)

        def emit() -> None:
            row = _Row(address, file, line, context)
            self._rows.append(row)
            sequence.rows.append(row)
            if len(self._rows) > _MAX_ROWS:
                raise ValueError(f"more than {_MAX_ROWS} rows")

        while self._at < self.end:
            opcode = self._byte()
            if opcode >= base:
                address += (opcode - base) // span * step
                line += low + (opcode - base) % span
                emit()
            elif opcode == 0:
                size = self._uleb()
                after = self._at + size
                if not 0 < size <= self.end - self._at:
                    raise ValueError(f"an opcode of {size} bytes")
                extended = self._byte()
                if extended == _END_SEQUENCE:
                    self.sequences.append(sequence)
                    sequence = _Sequence(None)
                    address, file, line, context = 0, 1, 1, 0
                elif extended == _SET_ADDRESS:
                    symbol, addend = self._anchors.get(self._at, (None, 0))
                    if sequence.rows and symbol != sequence.anchor:
                        self.sequences.append(sequence)
                        sequence = _Sequence(None)
                    sequence.anchor = symbol
                    address = int.from_bytes(self._data[self._at : after], "little") or addend
                elif extended == _INLINED_CALL:
                    context = self._uleb()  # and the callee's name, which nvdisasm does not show either
                self._at = after
            elif opcode == _COPY:
                emit()
            elif opcode == _ADVANCE_PC:
                address += self._uleb() * step
            elif opcode == _ADVANCE_LINE:
                line += self._sleb()
            elif opcode == _SET_FILE:
                file = self._uleb()
            elif opcode == _CONST_ADD_PC:
                address += (255 - base) // span * step
            elif opcode == _FIXED_ADVANCE_PC:
                address += int.from_bytes(self._data[self._at : self._at + 2], "little")
                self._at += 2
            else:
                for _ in range(header["standard_opcode_lengths"][opcode - 1]):
                    self._uleb()
        self.sequences.append(sequence)

    def source(self, row: _Row) -> SourceLine | None:
        """The line of a row, with the calls it was inlined at; ``None`` for line 0, which is no line."""
        chain = [row]
        while chain[-1].context and len(chain) < _MAX_DEPTH:
            if chain[-1].context > len(self._rows):
                raise ValueError(f"a row inlined at row {chain[-1].context} of {len(self._rows)}")
            chain.append(self._rows[chain[-1].context - 1])
        source: SourceLine | None = None
        for entry in reversed(chain):
            if entry.line > 0:
                source = SourceLine(self._file(entry.file), entry.line, source)
        return source

    def _file(self, number: int) -> str:
        files, folders = self._header["file_entry"], self._header["include_directory"]
        if not 0 < number <= len(files):
            return "?"
        entry = files[number - 1]
        name: str = entry.name.decode("utf-8", "replace")
        folder = entry.dir_index
        if 0 < folder <= len(folders) and not name.startswith("/"):
            return f"{folders[folder - 1].decode('utf-8', 'replace').rstrip('/')}/{name}"
        return name

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _sleb(self) -> int:
        start = self._at
        value = self._uleb()
        bits = 7 * (self._at - start)
        return value - (1 << bits) if value >> (bits - 1) & 1 else value
