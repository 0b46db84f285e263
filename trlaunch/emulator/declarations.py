"""Reading declarations of parameters and variables, and constants (PTX ISA, "State Spaces, Types and Variables")."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from trlaunch.emulator.syntax import TYPE_SIZES, Immediate, Param, Variable
from trlaunch.emulator.tokens import TokenStream

__all__ = ["SPACES", "number", "param", "type_name", "variables"]

SPACES = frozenset(("global", "const", "shared", "local", "param", "tex"))


def _align(s: TokenStream) -> int:
    value = s.integer()
    if not (0 < value <= 1 << 20 and value & (value - 1) == 0):
        raise s.error("an alignment must be a power of two", back=1)
    return value


def type_name(s: TokenStream) -> str:
    """A fundamental type such as ``.b32``, without its dot."""
    token = s.next()
    if token.kind != "directive" or token.text[1:] not in TYPE_SIZES:
        raise s.error(f"expected a type such as .b32, found {token.text[:40]!r}", back=1)
    return token.text[1:]


def param(s: TokenStream) -> Param:
    """``.param .u64 .ptr .global .align 1 name`` or ``.param .align 64 .b8 name[128]`` (or ``.reg`` in a ``.func``)."""
    if not s.accept(".reg"):
        s.expect(".param")
    align, count, kind = 0, 1, ""
    while s.here.kind == "directive":
        if s.accept(".align"):
            align = _align(s)
        elif s.accept(".ptr"):
            if s.here.text[1:] in SPACES:
                s.next()
            if s.accept(".align"):  # of what is pointed to
                _align(s)
        elif s.here.text in (".v2", ".v4"):
            count = int(s.next().text[2:])
        else:
            kind = type_name(s)
    if not kind:
        raise s.error("expected the type of a parameter")
    name = s.expect_kind("name", "the name of a parameter")
    size = TYPE_SIZES[kind] * count
    natural = size or 1
    if s.accept("["):
        size *= 0 if s.here.text == "]" else s.integer()
        natural = TYPE_SIZES[kind] * count or 1
        s.expect("]")
    if not 0 <= size <= 1 << 20:
        raise s.error(f"parameter {name!r} of {size} bytes", back=1)
    return Param(name, kind, size, align or natural)


def variables(s: TokenStream, extern: bool) -> Iterator[Variable]:
    """``.shared .align 16 .b8 name[1024];`` with an optional initialiser, or several separated by commas."""
    space = s.next().text[1:].partition("::")[0]
    align, count, kind = 0, 1, ""
    while s.here.kind == "directive":
        if s.accept(".align"):
            align = _align(s)
        elif s.accept(".attribute"):
            while not s.accept(")"):
                if s.next().kind == "end":
                    raise s.error("expected ')'")
        elif s.here.text in (".v2", ".v4"):
            count = int(s.next().text[2:])
        else:
            kind = type_name(s)
    if not kind or not TYPE_SIZES[kind]:
        raise s.error(f"expected the type of a .{space} variable")
    unit = TYPE_SIZES[kind] * count
    while True:
        name = s.expect_kind("name", f"the name of a .{space} variable")
        copies, size = 1, unit
        if s.accept("<"):
            copies = s.integer()
            s.expect(">")
            if not 0 < copies <= 4096:
                raise s.error(f"{name}<{copies}>: expected 1 to 4096 variables", back=1)
        size_known = True
        while s.accept("["):
            if s.accept("]"):
                size_known = False
                continue
            size *= s.integer()
            s.expect("]")
        if not 0 <= size <= 1 << 32:
            raise s.error(f"variable {name!r} of {size} bytes", back=1)
        data = b""
        addresses: tuple[tuple[int, str, int], ...] = ()
        if s.accept("="):
            data, addresses = _initialiser(s, kind)
            size = max(size, len(data)) if size_known else len(data)
            size_known = True
        for i in range(copies):
            full = name if copies == 1 else f"{name}{i}"
            known = size if size_known and not (extern and size == 0) else None
            yield Variable(full, space, kind, known, align or unit, data, addresses)
        if s.accept(";"):
            return
        s.expect(",")


def _initialiser(s: TokenStream, kind: str) -> tuple[bytes, tuple[tuple[int, str, int], ...]]:
    """Bytes of ``{1, 2, name}``; names of variables come back as (offset, name, addend)."""
    size, out = TYPE_SIZES[kind], bytearray()
    addresses: list[tuple[int, str, int]] = []
    depth = 0
    while True:
        if s.accept("{"):
            depth += 1
        elif s.accept("}"):
            depth -= 1
        elif s.here.kind == "name":
            name = s.next().text
            if name == "generic" and s.accept("("):
                name = s.expect_kind("name", "a variable")
                s.expect(")")
            addend = s.integer() if s.here.text == "-" or s.accept("+") else 0
            addresses.append((len(out), name, addend))
            out += bytes(size)
        else:
            negative = s.accept("-")
            value = number(s)
            bits = value.value
            if value.kind == "f64" and kind == "f32":
                bits = _f32_bits(bits)
            elif negative and value.kind == "int":
                bits = -bits
            elif negative:
                bits ^= 1 << (size * 8 - 1)
            out += (bits & ((1 << size * 8) - 1)).to_bytes(size, "little")
        if depth <= 0:
            return bytes(out), tuple(addresses)
        if s.here.text != "}" and s.tokens[s.at - 1].text != "{":
            s.expect(",")


def _f32_bits(bits64: int) -> int:
    value = struct.unpack("<d", struct.pack("<Q", bits64))[0]
    try:
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    except OverflowError:
        return 0xFF800000 if value < 0 else 0x7F800000


def number(s: TokenStream) -> Immediate:
    """A literal without a sign."""
    text = s.expect_kind("number", "a number")
    if text[:2] in ("0f", "0F"):
        return Immediate(int(text[2:], 16), "f32")
    if text[:2] in ("0d", "0D"):
        return Immediate(int(text[2:], 16), "f64")
    if text[:2] not in ("0x", "0X") and any(c in text for c in ".eE"):
        return Immediate(int(struct.unpack("<Q", struct.pack("<d", float(text)))[0]), "f64")
    return Immediate(s.integer_value(text))
