"""Comparison, selection, logic, shifts and bytes (PTX ISA, "Comparison and Selection", "Logic and Shift")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trlaunch.emulator.instructions.base import (
    TYPE_DTYPE,
    U4,
    U8,
    Array,
    Suffixes,
    bits_of,
    emits,
    refuse,
    runtime,
    take,
)
from trlaunch.emulator.instructions.floating import FLOAT_TYPES, read_float
from trlaunch.emulator.syntax import Immediate, Instruction, Operand, Pair, Sink

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__: list[str] = []

_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">",
            "hs": ">="}  # fmt: skip
#: Unordered comparisons are the complement of the opposite ordered one.
_UNORDERED = {"equ": "!=", "neu": "==", "ltu": ">=", "leu": ">", "gtu": "<=", "geu": "<"}
_COMBINE = {"and": "&", "or": "|", "xor": "^"}


def _comparison(c: Emitter, s: Suffixes, t: str, a: Operand, b: Operand) -> str:
    operator = s.one_of((*_COMPARE, *_UNORDERED, "num", "nan"))
    ftz = s.flag("ftz")
    if t in FLOAT_TYPES:
        x, y = read_float(c, a, t, ftz), read_float(c, b, t, ftz)
        if operator == "num":
            return f"({x} == {x}) & ({y} == {y})"
        if operator == "nan":
            return f"({x} != {x}) | ({y} != {y})"
        if operator == "ne":  # ordered: false for NaN, unlike NumPy's
            return f"({x} < {y}) | ({x} > {y})"
        if operator in _UNORDERED:
            if operator == "neu":
                return f"{x} != {y}"
            if operator == "equ":
                return f"~(({x} < {y}) | ({x} > {y}))"
            return f"~({x} {_UNORDERED[operator]} {y})"
    else:
        if t not in TYPE_DTYPE or t == "pred" or operator in (*_UNORDERED, "num", "nan") or ftz:
            raise refuse(f"the comparison .{operator}.{t} is not executed")
        if operator in ("lo", "ls", "hi", "hs"):
            t = f"u{bits_of(t)}"
        x, y = c.read(a, t), c.read(b, t)
    if operator not in _COMPARE:
        raise refuse("a comparison operator is missing")
    return f"{x} {_COMPARE[operator]} {y}"


@emits("setp")
def setp(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Compare, combine with a third predicate, set one or two predicates."""
    t = s.type()
    if t in _PAIRS:
        return _setp_pairs(c, i, s, t)
    d, a, b, *rest = take(i, 3, 4)
    combine = s.one_of(_COMBINE)
    result = c.temp(_comparison(c, s, t, a, b))
    s.finish()
    if bool(rest) != bool(combine):
        raise refuse("a comparison is combined with .and, .or or .xor and a predicate")
    d, second = (d.first, d.second) if isinstance(d, Pair) else (d, Sink())
    if rest:
        third = c.read(rest[0], "pred")
        c.write(d, "pred", f"{result} {_COMBINE[combine]} {third}")
        c.write(second, "pred", f"~{result} {_COMBINE[combine]} {third}")
    else:
        if not isinstance(second, Sink):
            c.write(second, "pred", f"~{result}")
        c.write_as(d, "p", result, name_only=True)
    return None


#: Packed types, and 1.0 in each half.
_PAIRS = {"f16x2": 0x3C00, "bf16x2": 0x3F80}


def _setp_pairs(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    """The lower halves' predicate, and the upper halves'."""
    d, a, b, *rest = take(i, 3, 4)
    combine = s.one_of(_COMBINE)
    result = c.temp(_comparison(c, s, t, a, b))
    s.finish()
    if bool(rest) != bool(combine) or not isinstance(d, Pair):
        raise refuse("packed halves are compared to two predicates")
    third = f" {_COMBINE[combine]} {c.read(rest[0], 'pred')}" if rest else ""
    c.write(d.first, "pred", f"{result}[..., 0]{third}")
    c.write(d.second, "pred", f"{result}[..., 1]{third}")


@runtime
def pairs_of_bits(both: Array, one: int) -> Array:
    """Registers with `one` in each half whose bit in the last axis is set."""
    return np.where(both, np.uint16(one), np.uint16(0)).view(U4)[..., 0]


@emits("set")
def set_(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Compare; the result is 1.0, or all ones for integer types."""
    t = s.type()
    out = s.type()
    d, a, b = take(i, 3)
    result = c.temp(_comparison(c, s, t, a, b))
    if t in _PAIRS:
        s.finish((t, "u32", "s32"), out)
        return c.write(d, "b32", f"pairs_of_bits({result}, {_PAIRS[t] if out == t else 0xFFFF})")
    s.finish(("u32", "s32", "f32"), out)
    one = c.read_as(Immediate(0x3F800000, "f32"), "f4") if out == "f32" else c.constant("u4", 0xFFFFFFFF)
    zero = c.read_as(Immediate(0, "f32"), "f4") if out == "f32" else c.constant("u4", 0)
    return c.write(d, "f32" if out == "f32" else "u32", f"where({result}, {one}, {zero})")


@emits("selp")
def selp(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Select by a predicate."""
    t = s.type()
    s.finish()
    d, a, b, p = take(i, 4)
    kind = f"b{bits_of(t)}" if t in TYPE_DTYPE and t != "pred" else t
    if kind == "pred":
        raise refuse("selp of predicates is not PTX")
    if t in ("f32", "f64"):
        kind = t
    c.write(d, kind, f"where({c.read(p, 'pred')}, {c.read(a, kind)}, {c.read(b, kind)})")


@emits("slct")
def slct(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Select by the sign of the third operand; -0.0 is not negative, NaN is."""
    by, t = s.type(), s.type()
    ftz = s.flag("ftz")
    s.finish(("s32", "f32"), by)
    d, a, b, e = take(i, 4)
    third = read_float(c, e, by, ftz) if by == "f32" else c.read(e, by)
    c.write(d, t, f"where({third} >= 0, {c.read(a, t)}, {c.read(b, t)})")


@emits("and", "or", "xor", "not", "cnot")
def logic(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Bitwise logic on bits and predicates."""
    t = s.type()
    s.finish(("pred", "b16", "b32", "b64"), t)
    if s.root in _COMBINE:
        d, a, b = take(i, 3)
        return c.write(d, t, f"{c.read(a, t)} {_COMBINE[s.root]} {c.read(b, t)}")
    d, a = take(i, 2)
    if s.root == "not":
        return c.write(d, t, f"~{c.read(a, t)}")
    if t == "pred":
        raise refuse("cnot of predicates is not PTX")
    return c.write(d, t, f"({c.read(a, t)} == 0).astype({TYPE_DTYPE[t]})")


@emits("lop3")
def lop3(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Any function of three bits, by its truth table."""
    t = s.type()
    s.finish(("b32",), t)
    d, a, b, e, table = take(i, 5)
    if not isinstance(table, Immediate) or isinstance(d, Pair):
        raise refuse("lop3 with this operand is not executed")
    x, y, z = c.read(a, t), c.read(b, t), c.read(e, t)
    terms = [
        f"({x if n & 4 else '~' + x} & {y if n & 2 else '~' + y} & {z if n & 1 else '~' + z})"
        for n in range(8)
        if table.value >> n & 1
    ]
    zero = c.constant("u4", 0)
    c.write(d, t, " | ".join(terms) if terms else f"({x} | {y} | {z}) & {zero}")


@emits("shl", "shr")
def shift(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Shifts; amounts beyond the width are the width."""
    t = s.type()
    s.finish()
    d, a, b = take(i, 3)
    if t not in TYPE_DTYPE or bits_of(t) not in (16, 32, 64) or t[0] == "f" or (s.root == "shl" and t[0] != "b"):
        raise refuse(f"{s.root} of type .{t} is not PTX")
    value = c.read(a, t)
    if isinstance(b, Immediate):
        amount = b.value & 0xFFFFFFFF
        if amount < bits_of(t):
            sign = "<<" if s.root == "shl" else ">>"
            return c.write(d, t, f"{value} {sign} {c.constant(TYPE_DTYPE[t], amount)}")
    name = "shift_left" if s.root == "shl" else "shift_right"
    return c.write(d, t, f"{name}({value}, {c.read(b, 'u32')})")


@emits("shf")
def funnel(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Funnel shift of the 64-bit value ``[b, a]``."""
    t = s.type()
    direction, mode = s.one_of(("l", "r")), s.one_of(("wrap", "clamp"))
    s.finish(("b32",), t)
    if not direction or not mode:
        raise refuse("shf needs .l or .r, and .wrap or .clamp")
    d, a, b, e = take(i, 4)
    c.write(d, t, f"funnel_{direction}({c.read(a, t)}, {c.read(b, t)}, {c.read(e, 'u32')}, {mode == 'wrap'})")


def _join(a: Array, b: Array) -> Array:
    joined: Array = (b.astype(U8) << U8(32)) | a
    return joined


@runtime
def funnel_l(a: Array, b: Array, n: Array, wrap: bool) -> Array:
    """``shf.l``."""
    n = n & U4(31) if wrap else np.minimum(n, U4(32))
    return ((_join(a, b) << n.astype(U8)) >> U8(32)).astype(U4)


@runtime
def funnel_r(a: Array, b: Array, n: Array, wrap: bool) -> Array:
    """``shf.r``."""
    n = n & U4(31) if wrap else np.minimum(n, U4(32))
    return (_join(a, b) >> n.astype(U8)).astype(U4)


@emits("prmt")
def prmt(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Pick bytes of ``{b, a}``."""
    t = s.type()
    mode = s.one_of(("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"))
    s.finish(("b32",), t)
    d, a, b, e = take(i, 4)
    low, high = c.read(a, t), c.read(b, t)
    if isinstance(e, Immediate) and not mode and not e.value & 0x8888:
        terms = []
        for k in range(4):
            pick = e.value >> 4 * k & 7
            shift = 8 * (k - pick % 4)
            source = low if pick < 4 else high
            kept = f"({source} & {c.constant('u4', 0xFF << 8 * (pick % 4))})"
            if shift:
                kept = f"({kept} {'<<' if shift > 0 else '>>'} {c.constant('u4', abs(shift))})"
            terms.append(kept)
        return c.write(d, t, " | ".join(terms))
    return c.write(d, t, f"permute_bytes({low}, {high}, {c.read(e, t)}, {mode!r})")


#: Byte picks by mode and the low two bits of the selector (PTX ISA, prmt).
_PERMUTE = {
    "f4e": (0x3210, 0x4321, 0x5432, 0x6543),
    "b4e": (0x5670, 0x6701, 0x7012, 0x0123),
    "rc8": (0x0000, 0x1111, 0x2222, 0x3333),
    "ecl": (0x3210, 0x3211, 0x3222, 0x3333),
    "ecr": (0x0000, 0x1110, 0x2210, 0x3210),
    "rc16": (0x1010, 0x3232, 0x1010, 0x3232),
}


@runtime
def permute_bytes(a: Array, b: Array, selector: Array, mode: str) -> Array:
    """``prmt`` with a selector that is not known before, or in a named mode."""
    if mode:
        selector = np.array(_PERMUTE[mode], dtype=U4)[selector & U4(3)]
    both = _join(a, b)
    result: Array = np.zeros((1, 1), dtype=U4)
    for k in range(4):
        nibble = (selector >> U4(4 * k)) & U4(15)
        byte = (both >> ((nibble & U4(7)) * U4(8)).astype(U8)).astype(U4) & U4(0xFF)
        sign = np.where(byte & U4(0x80), U4(0xFF), U4(0))
        result = result | (np.where(nibble & U4(8), sign, byte) << U4(8 * k))
    return result
