"""A cubin as it was in GPU memory: its functions by address, their code, instructions and lines.

The driver gives every section its address and patches the code, so that `trlaunch.cuda.image`, which reads cubins as
linkers make them, refuses such a file; a function that was never loaded is at address 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from trlaunch.cuda.disassembler import Instruction, SourceLine, disassemble_function
from trlaunch.cuda.eiattr import EM_CUDA
from trlaunch.cuda.line_table import LineTable, ptx_text, read_line_table
from trlaunch.elf import ElfFile, reading
from trlaunch.errors import ImageError

__all__ = ["Function", "ModuleImage"]

_TEXT = ".text."
# The longest field that a relocation of code patches: a 64-bit address.
_PATCH = 8


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a cubin.

    Attributes
    ----------
    name : str
    address : int
        In GPU memory; in a cubin that was not loaded its offset in the section.
    size : int
    section : str
        ``".text.<kernel>"``.
    section_address : int
    symbol : int
        Its index in the symbol table.
    """

    name: str
    address: int
    size: int
    section: str
    section_address: int
    symbol: int

    def __contains__(self, address: int) -> bool:
        return self.address <= address < self.address + self.size


class ModuleImage:
    """A cubin, relocated or not.

    Parameters
    ----------
    data : bytes

    Attributes
    ----------
    functions : tuple of Function
        Those that have code.

    Raises
    ------
    ImageError
        Not a cubin, or damaged. What is read later raises the same.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._file = ElfFile(data, "cubin", EM_CUDA)
        with reading("this cubin"):
            self.functions = tuple(self._functions())
        self._listed: dict[str, list[Instruction]] = {}

    def _functions(self) -> list[Function]:
        found = []
        table = self._file.section(".symtab")
        for i, symbol in enumerate(self._file.symbols(table)):
            index = symbol.section
            if symbol.kind != "STT_FUNC" or index is None:
                continue
            if index >= len(self._file.sections):
                raise ImageError(f"this cubin is damaged: {symbol.name!r} is in section {index}")
            section = self._file.sections[index]
            if section.name.startswith(_TEXT) and symbol.size:
                found.append(Function(symbol.name, symbol.value, symbol.size, section.name, section["sh_addr"], i))
        return found

    def function(self, name: str) -> Function | None:
        """The function of a name."""
        return next((function for function in self.functions if function.name == name), None)

    def at(self, address: int) -> Function | None:
        """The function that an address lies in; of nested ones the innermost."""
        found = [function for function in self.functions if function.section_address and address in function]
        return min(found, key=lambda function: function.size, default=None)

    def main(self, function: Function) -> Function:
        """The function whose section it is: ptxas puts helpers of a kernel into the kernel's section."""
        inside = [other for other in self.functions if other.section == function.section]
        return next((f for f in inside if f.section == _TEXT + f.name), function)

    def code(self, function: Function) -> bytes:
        """The bytes of a function."""
        section = self._file.section(function.section)
        assert section is not None
        start = function.address - function.section_address
        return self._file.content(section)[start : start + function.size]

    def instructions(self, function: Function) -> list[Instruction]:
        """The instructions of the section that a function is in, with offsets from the section's start.

        Raises
        ------
        AssemblerMissing, AssemblerError
            No nvdisasm is at hand, or it failed.
        """
        if function.section not in self._listed:
            main = self.main(function)
            listed = _listed(self.data, main.section.removeprefix(_TEXT), main.symbol)
            base = function.section_address if listed[0].offset >= function.section_address else 0
            self._listed[function.section] = [replace(entry, offset=entry.offset - base) for entry in listed]
        return self._listed[function.section]

    @cached_property
    def lines(self) -> LineTable:
        """Source lines by section and offset."""
        return read_line_table(self._file)

    @cached_property
    def ptx_lines(self) -> LineTable:
        """Lines of `ptx` by section and offset."""
        return read_line_table(self._file, ptx=True)

    @cached_property
    def ptx(self) -> list[str]:
        """The lines of the PTX that ptxas keeps in the cubin."""
        return ptx_text(self._file)

    def source(self, function: Function, offset: int) -> SourceLine | None:
        """The source line at an offset from a function's start."""
        return self.lines.at(function.section, function.address - function.section_address + offset)

    def ptx_line(self, function: Function, offset: int) -> int | None:
        """The line of `ptx` at an offset from a function's start, from 1."""
        found = self.ptx_lines.at(function.section, function.address - function.section_address + offset)
        return None if found is None else found.line

    def same_code(self, other: ModuleImage, name: str) -> bool:
        """Whether a function of this image is that of another, but for what relocations patch."""
        mine, its = self.function(name), other.function(name)
        if mine is None or its is None or mine.size != its.size:
            return False
        code, expected = bytearray(self.code(mine)), bytearray(other.code(its))
        patched = self._patched(mine) | other._patched(its)
        for i in patched:
            code[i : i + _PATCH] = expected[i : i + _PATCH] = bytes(_PATCH)
        return code == expected

    def _patched(self, function: Function) -> set[int]:
        """Offsets in a function that relocations patch."""
        found = set()
        with reading("this cubin"):
            for section in self._file.sections:
                if section.name in (f".rel{function.section}", f".rela{function.section}"):
                    # In GPU memory offsets may count from the section or be addresses.
                    for entry in self._file.relocations(section):
                        offset = entry.offset
                        start = function.address if offset >= function.section_address > 0 else 0
                        if start == 0:
                            start = function.address - function.section_address
                        if 0 <= offset - start < function.size:
                            found.add(offset - start)
        return found


@lru_cache(maxsize=16)
def _listed(data: bytes, section: str, symbol: int) -> tuple[Instruction, ...]:
    """What nvdisasm makes of a function: warps that died together, and dumps of one kernel, ask for the same."""
    return tuple(disassemble_function(data, section, symbol))
