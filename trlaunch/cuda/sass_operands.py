"""The operands of a SASS instruction as nvdisasm prints them: which registers they read, and the address they make.

NVIDIA documents the instructions' names, not their operands; what is here was read off nvdisasm's output for the
kernels of ten Triton releases (sm_80, sm_90) and checked against the addresses that faulted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from trlaunch.cuda.disassembler import Instruction

__all__ = ["Access", "Constant", "Operand", "State", "Term", "access_of", "destinations", "operands"]

State = Callable[[str], "int | None"]
"""The value of a register by name, ``None`` where it is not known."""

_REGISTER = re.compile(r"(?<![\w.])(UR|R|UP|P)(\d+|Z|T)(?!\w)((?:\.\w+)*)")
_BRACKETS = re.compile(r"(\w*)((?:\[[^\[\]]*\])+)")
_TERM = re.compile(r"([+-]?)\s*(-?0x[0-9a-f]+|-?\d+|(?:UR|R)(?:\d+|Z)(?:\.\w+)*)")
_SCALE = re.compile(r"\.X(\d+)")

# What the uniform registers from the first operand's on are to a tensor copy, before one coordinate a dimension, the
# innermost first; the second operand is the address of the tensor map (read off against cp.async.bulk.tensor in PTX).
_TENSOR_COPIES = {
    "UTMALDG": ("shared address", "mbarrier"),
    "UTMASTG": ("shared address",),
    "UTMAREDG": ("shared address",),
    "UTMAPF": (),
}
_MAP_ROLES = ("tensor map, low half", "tensor map, high half")

# Address space by the first part of the mnemonic.
_SPACES = {
    **dict.fromkeys(("LDG", "STG", "ATOMG", "REDG", "RED", "LDGSTS", "CCTL", "CCTLL", "UBLKPF", "LDGMC"), "global"),
    **dict.fromkeys(("LD", "ST", "ATOM"), "generic"),
    **dict.fromkeys(("LDS", "STS", "ATOMS", "LDSM", "STSM", "SYNCS", "LDSLK", "STSUL", "STAS", "REDAS"), "shared"),
    **dict.fromkeys(("LDL", "STL"), "local"),
    **dict.fromkeys(("LDT", "STT", "LDTM", "STTM"), "tensor"),
    **dict.fromkeys(("LDC", "ULDC", "LDCU"), "constant"),
}
_STORES = ("ST", "STG", "STS", "STL", "STSM", "RED", "REDG", "STAS", "REDAS", "STT", "STTM")
# Instructions that write no register: their first operand is read.
_NO_RESULT = (
    *_STORES, "BRA", "EXIT", "BAR", "MEMBAR", "NOP", "RET", "CALL", "BSYNC", "WARPSYNC", "DEPBAR", "LDGSTS",
    "UTMALDG", "UTMASTG", "UTMAREDG", "UTMACMDFLUSH", "SYNCS", "ERRBAR", "CCTL", "BPT", "KILL", "UBLKCP", "YIELD",
    "LDGDEPBAR", "NANOSLEEP", "BRX", "JMP", "JMX", "FENCE", "ACQBULK", "PREEXIT", "USETMAXREG", "WARPGROUP",
    "UCGABAR_ARV",
)  # fmt: skip
_SIZES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Term:
    """A register in an address: `wide` when it is a pair, times `scale`, with ``-`` in front or not."""

    register: str
    wide: bool = False
    scale: int = 1
    negative: bool = False

    def value(self, state: State) -> int | None:
        """What it adds, ``None`` where a register is not known."""
        low = state(self.register)
        high = state(_next(self.register, 1)) if self.wide else 0
        if low is None or high is None:
            return None
        whole = (low | high << 32) * self.scale
        return -whole if self.negative else whole


@dataclass(frozen=True, slots=True)
class Access:
    """The address of an operand in brackets.

    Attributes
    ----------
    space : str
        ``"global"``, ``"shared"``, ``"local"``, ``"generic"``, ``"constant"``; nothing where it is unknown.
    terms : tuple of Term
    offset : int
    size : int or None
        Bytes that one thread accesses; ``None`` where the instruction does not say.
    """

    space: str
    terms: tuple[Term, ...]
    offset: int
    size: int | None

    def address(self, state: State) -> int | None:
        """The address, ``None`` where a register is not known."""
        total = self.offset
        for term in self.terms:
            value = term.value(state)
            if value is None:
                return None
            total += value
        wide = self.space in ("global", "generic") or any(term.wide for term in self.terms)
        return total & (_MASK64 if wide else 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant bank's word, ``c[0x0][0x210]``: the offset may have a register in it."""

    bank: int
    offset: int
    register: str | None = None


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand.

    Attributes
    ----------
    text : str
    registers : tuple of str
        Every register that it names, pairs and quads spelled out: ``("R2", "R3")``.
    access : Access or None
    constant : Constant or None
    roles : tuple of str
        What each register is to the instruction, of those that take theirs in a row: ``"mbarrier"``,
        ``"coordinate 0"`` (the innermost). Empty for others.
    """

    text: str
    registers: tuple[str, ...] = ()
    access: Access | None = None
    constant: Constant | None = None
    roles: tuple[str, ...] = ()


def operands(instruction: Instruction) -> tuple[Operand, ...]:
    """The operands of an instruction, its guard ``@P0`` first where it has one."""
    base, *modifiers = instruction.opcode.split(".")
    found = []
    if instruction.predicate is not None:
        found.append(Operand(f"@{instruction.predicate}", _named(instruction.predicate, 1)))
    data = _data_registers(modifiers)
    for i, text in enumerate(instruction.operands):
        if base in _TENSOR_COPIES and i < 2 and "[" in text:
            found.append(_tensor_copy(text, base, modifiers, map_address=i == 1))
        else:
            found.append(_operand(text, base, modifiers, data))
    return tuple(found)


def access_of(found: tuple[Operand, ...]) -> Access | None:
    """The memory access among operands; of a copy's two the global one, which is the last."""
    accesses = [operand.access for operand in found if operand.access is not None and operand.access.space]
    return accesses[-1] if accesses else None


def destinations(instruction: Instruction) -> frozenset[str]:
    """The registers that an instruction writes, as far as its text tells."""
    base, *modifiers = instruction.opcode.split(".")
    if base in _NO_RESULT or not instruction.operands:
        return frozenset()
    first = instruction.operands[0]
    width = 2 if "WIDE" in modifiers else _data_registers(modifiers)
    return frozenset(_named(first, width)) if "[" not in first else frozenset()


def _operand(text: str, base: str, modifiers: list[str], data: int) -> Operand:
    found = _BRACKETS.search(text)
    if found is None:
        return Operand(text, _named(text, data))
    groups = re.findall(r"\[([^\[\]]*)\]", found[2])
    if found[1] in ("c", "cx") and len(groups) == 2:
        return _constant(text, groups)
    terms, offset = _terms(groups[-1])
    registers: tuple[str, ...] = ()
    if len(groups) > 1 or found[1]:  # desc[UR4][R2.64]: a 64-bit descriptor; gdesc[UR8]: two
        registers += _named(groups[0], 4 if found[1] == "gdesc" else 2)
    space = _SPACES.get(base, "") if found[1] in ("", "desc") else ""
    if found[1] and len(groups) == 1:
        return Operand(text, registers)
    if base == "LDGSTS" and found[1] == "" and len(groups) == 1 and "64" not in groups[0]:
        space = "shared"
    if space in ("global", "generic") and "E" in modifiers:
        terms = _widened(terms, groups[-1])
    for term in terms:
        registers += _run(term.register, 2 if term.wide else 1)
    return Operand(text, registers, Access(space, terms, offset, _size(base, modifiers)))


def _tensor_copy(text: str, base: str, modifiers: list[str], map_address: bool) -> Operand:
    """``[UR8]`` of ``UTMALDG.2D [UR8], [UR6]``, or ``[UR6]``: registers in a row, each with its role."""
    dimensions = next((int(m[0]) for m in modifiers if re.fullmatch(r"[1-5]D", m)), 0)
    roles = _MAP_ROLES if map_address else (*_TENSOR_COPIES[base], *(f"coordinate {i}" for i in range(dimensions)))
    registers = _run(_named(text, 1)[0], len(roles))
    return Operand(text, registers, roles=roles if len(roles) == len(registers) else ())


def _terms(text: str) -> tuple[tuple[Term, ...], int]:
    """The terms of ``R2.64+UR4+0x10`` and its constant."""
    terms, offset = [], 0
    for sign, word in _TERM.findall(text):
        if word[0] in "UR":
            name, _, suffix = word.partition(".")
            scale = _SCALE.search(word)
            terms.append(Term(name, "64" in suffix.split("."), int(scale[1]) if scale else 1, sign == "-"))
        else:
            offset += int(word, 16 if "x" in word else 10) * (-1 if sign == "-" else 1)
    return tuple(terms), offset


def _widened(terms: tuple[Term, ...], text: str) -> tuple[Term, ...]:
    """Up to sm_75 the ``.E`` of the mnemonic alone says that the address is a pair; sm_80 and newer say ``R2.64``."""
    if not terms or any(term.wide for term in terms) or ".U32" in text:
        return terms
    return (Term(terms[0].register, True, terms[0].scale, terms[0].negative), *terms[1:])


def _constant(text: str, groups: list[str]) -> Operand:
    terms, offset = _terms(groups[1])
    bank = int(groups[0], 16) if groups[0].startswith("0x") else -1  # a bindless bank is named by a register
    register = terms[0].register if terms else None
    return Operand(text, _named(" ".join(groups), 1), None, Constant(bank, offset, register))


def _named(text: str, width: int) -> tuple[str, ...]:
    """The registers in a text; the first of each run of `width`, or of two where ``.64`` says so."""
    found: tuple[str, ...] = ()
    for match in _REGISTER.finditer(text):
        count = 1 if match[1] in ("P", "UP") else 2 if ".64" in match[3] else width
        found += _run(match[1] + match[2], count)
    return found


def _run(name: str, count: int) -> tuple[str, ...]:
    return (name,) if not name[-1].isdigit() else tuple(_next(name, i) for i in range(count))


def _next(name: str, step: int) -> str:
    letters = name.rstrip("0123456789")
    digits = name[len(letters) :]
    return f"{letters}{int(digits) + step}" if digits else name


def _data_registers(modifiers: list[str]) -> int:
    return max((_SIZES.get(modifier, 4) for modifier in modifiers), default=4) // 4 or 1


def _size(base: str, modifiers: list[str]) -> int | None:
    if base in ("LDSM", "STSM"):
        return 16
    if base in ("CCTL", "SYNCS") or base not in _SPACES:
        return 8 if base == "SYNCS" else None
    return max((_SIZES[modifier] for modifier in modifiers if modifier in _SIZES), default=4)
