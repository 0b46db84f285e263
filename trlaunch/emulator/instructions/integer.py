"""Integer arithmetic (PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision ... Instructions")."""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.instructions import floating
from trlaunch.emulator.instructions.base import (
    I8,
    TYPE_DTYPE,
    U1,
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
from trlaunch.emulator.syntax import Instruction

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__ = ["INTEGER_TYPES"]

INTEGER_TYPES = ("u16", "s16", "u32", "s32", "u64", "s64")
_WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def _unsigned(type_name: str) -> str:
    return f"u{bits_of(type_name)}"


@emits("add", "sub", "mul", "mad", "div", "min", "max", "neg", "abs", "fma")
def arithmetic(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Send the opcodes that integers and floating point share to their family."""
    if pair := s.one_of(("u16x2", "s16x2")):
        return _pairs(c, i, s, pair)
    type_name = s.type()
    if type_name in INTEGER_TYPES and s.root in _INTEGER:
        _INTEGER[s.root](c, i, s, type_name)
    else:
        floating.emit(c, i, s, type_name)
    return None


def _pairs(c: Emitter, i: Instruction, s: Suffixes, pair: str) -> None:
    """Two 16-bit integers in a register (sm_90)."""
    relu = s.flag("relu")
    s.finish()
    function = {"add": "add", "min": "minimum", "max": "maximum"}.get(s.root)
    if function is None or (relu and (s.root == "add" or pair == "u16x2")):
        raise refuse(f"{i.opcode} is not PTX")
    d, a, b = take(i, 3)
    dtype = "i2" if pair == "s16x2" else "u2"
    c.write(d, "b32", f"of_pairs({function!r}, {c.read(a, 'b32')}, {c.read(b, 'b32')}, {dtype}, {relu})")


@runtime
def of_pairs(function: str, a: Array, b: Array, dtype: Any, relu: bool) -> Array:
    """A function of both halves of registers; with `relu`, negative results are 0."""
    x, y = (np.ascontiguousarray(v).view(dtype).reshape(*v.shape, 2) for v in (a, b))
    result = {"add": np.add, "minimum": np.minimum, "maximum": np.maximum}[function](x, y)
    if relu:
        result = np.maximum(result, dtype(0))
    return np.ascontiguousarray(result).view(U4)[..., 0]


def _add_sub(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    if s.flag("cc"):
        return _carry_add(c, i, s, t)
    d, a, b = take(i, 3)
    sign = "+" if s.root == "add" else "-"
    if s.flag("sat"):
        s.finish(("s32",), t)
        return c.write(d, t, f"saturating({c.read(a, t)}, {c.read(b, t)}, {sign}1)")
    s.finish()
    u = _unsigned(t)
    return c.write(d, u, f"{c.read(a, u)} {sign} {c.read(b, u)}")


@runtime
def saturating(a: Array, b: Array, sign: int) -> Array:
    """``add.sat.s32`` and ``sub.sat.s32``."""
    wide = a.astype(I8) + sign * b.astype(I8)
    return np.clip(wide, -(1 << 31), (1 << 31) - 1).astype(np.int32)


def _carry_add(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    """``add.cc``, ``addc``, ``sub.cc``, ``subc``: subtraction adds the complement, with the borrow inverted."""
    takes, gives = s.root.endswith("c"), s.flag("cc") or not s.root.endswith("c")
    d, a, b = take(i, 3)
    if t not in ("u32", "s32", "b32", "u64", "s64"):
        raise refuse(f"{s.root} of type .{t} is not executed")
    s.finish()
    u = _unsigned(t)
    left, right = c.read(a, u), c.read(b, u)
    subtract = s.root.startswith("sub")
    carry = _carry_in(c) if takes else None
    function = "sub_carry" if subtract else "add_carry"
    both = c.temp(f"{function}({left}, {right}, {carry})")
    c.write(d, u, f"{both}[0]")
    if gives:
        _carry_out(c, f"{both}[1]")


def _carry_in(c: Emitter) -> str:
    return c.read(c.layout.carry, "pred")


def _carry_out(c: Emitter, expression: str) -> None:
    c.write(c.layout.carry, "pred", expression)


@runtime
def add_carry(a: Array, b: Array, carry: Array | None) -> tuple[Array, Array]:
    """Sum and carry-out."""
    total = a + b
    out = total < a
    if carry is not None:
        total = total + carry
        out = out | (carry & (total == 0))
    return total, out


@runtime
def sub_carry(a: Array, b: Array, borrow: Array | None) -> tuple[Array, Array]:
    """Difference and borrow-out."""
    difference = a - b
    out = a < b
    if borrow is not None:
        out = out | (borrow & (difference == 0))
        difference = difference - borrow
    return difference, out


@emits("addc", "subc")
def extended(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """``addc`` and ``subc``."""
    _carry_add(c, i, s, s.type())


def _mul_mad(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    part = s.one_of(("lo", "hi", "wide"))
    carry, takes = s.flag("cc"), s.root == "madc"
    if not part:
        raise refuse(f"{s.root} of an integer type needs .lo, .hi or .wide")
    saturate = s.flag("sat")
    if saturate and (part, t) != ("hi", "s32"):
        raise refuse(f"{s.root}.{part}.sat.{t} is not executed")
    s.finish()
    operands = take(i, 3 if s.root == "mul" else 4)
    d, a, b = operands[:3]
    if part == "wide":
        if t not in _WIDE:
            raise refuse(f"{s.root}.wide.{t} is not executed")
        wide = _WIDE[t]
        result, out = f"{c.read(a, t)}.astype({TYPE_DTYPE[wide]}) * {c.read(b, t)}", wide
    elif part == "hi":
        result, out = f"mul_hi({c.read(a, t)}, {c.read(b, t)})", t
    else:
        u = _unsigned(t)
        result, out = f"{c.read(a, u)} * {c.read(b, u)}", u
    if s.root == "mul":
        return c.write(d, out, result)
    product = c.temp(result)
    addend = c.read(operands[3], out)
    if saturate:
        return c.write(d, out, f"saturating({product}, {addend}, 1)")
    if not (carry or takes):
        return c.write(d, out, f"{product} + {addend}")
    u = _unsigned(out)
    if out != u:
        product, addend = c.temp(f"{product}.view({TYPE_DTYPE[u]})"), c.read(operands[3], u)
    both = c.temp(f"add_carry({product}, {addend}, {_carry_in(c) if takes else None})")
    c.write(d, u, f"{both}[0]")
    if carry:
        _carry_out(c, f"{both}[1]")
    return None


@emits("madc")
def madc(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """``madc``: multiply and add with carry-in."""
    _mul_mad(c, i, s, s.type())


@runtime
def mul_hi(a: Array, b: Array) -> Array:
    """High half of the product."""
    dtype, bits = a.dtype, a.dtype.itemsize * 8
    if bits < 64:
        wide = np.int64 if dtype.kind == "i" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(dtype)
    mask, half = U8(0xFFFFFFFF), U8(32)
    x, y = a.view(U8), b.view(U8)
    x0, x1, y0, y1 = x & mask, x >> half, y & mask, y >> half
    middle = x1 * y0 + ((x0 * y0) >> half)
    low = (middle & mask) + x0 * y1
    high = x1 * y1 + (middle >> half) + (low >> half)
    if dtype.kind == "i":
        zero = U8(0)
        high = high - np.where(a < 0, y, zero) - np.where(b < 0, x, zero)
    return high.view(dtype)


@emits("mul24", "mad24")
def mul24(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Products of the low 24 bits: bits 31..0 (``.lo``) or 47..16 (``.hi``)."""
    t = s.type()
    part = s.one_of(("lo", "hi"))
    s.finish(("u32", "s32"), t)
    operands = take(i, 3 if s.root == "mul24" else 4)
    product = f"mul_24({c.read(operands[1], t)}, {c.read(operands[2], t)}, {part == 'hi'})"
    if s.root == "mad24":
        product = f"{product} + {c.read(operands[3], t)}"
    c.write(operands[0], t, product)


@runtime
def mul_24(a: Array, b: Array, high: bool) -> Array:
    """See `mul24`."""
    x, y = ((v.astype(I8) << I8(40)) >> I8(40) if v.dtype.kind == "i" else v.astype(I8) & I8(0xFFFFFF) for v in (a, b))
    return (x * y >> I8(16 if high else 0)).astype(U4).view(a.dtype)


def _div_rem(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    s.finish()
    d, a, b = take(i, 3)
    c.write(d, t, f"int_{s.root}({c.read(a, t)}, {c.read(b, t)})")


@emits("rem")
def rem(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """``rem``."""
    t = s.type()
    if t not in INTEGER_TYPES:
        raise refuse(f"rem of type .{t} is not executed")
    _div_rem(c, i, s, t)


@runtime
def int_div(a: Array, b: Array) -> Array:
    """Quotient rounded towards zero. Division by zero, unspecified in PTX, gives all ones as on hardware."""
    zero = b == 0
    some = bool(zero.any())
    if some:
        b = np.where(zero, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        quotient = a // b
    else:
        x, y = np.broadcast_arrays(a, b)
        unsigned = np.dtype(f"u{a.dtype.itemsize}")
        magnitude = np.abs(x).view(unsigned) // np.abs(y).view(unsigned)
        negative = (x ^ y) < 0
        quotient = np.where(negative, -magnitude, magnitude).view(a.dtype)
    return np.where(zero, np.array(-1).astype(a.dtype), quotient) if some else quotient


@runtime
def int_rem(a: Array, b: Array) -> Array:
    """Remainder with the sign of the dividend; the dividend itself for a zero divisor."""
    return a - int_div(a, b) * b if (b != 0).all() else np.where(b == 0, a, a - int_div(a, b) * b)


def _min_max(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    d, a, b = take(i, 3)
    relu = s.flag("relu")
    s.finish()
    value = f"{s.root}imum({c.read(a, t)}, {c.read(b, t)})"
    c.write(d, t, f"maximum({value}, {c.constant(TYPE_DTYPE[t], 0)})" if relu else value)


runtime(np.minimum)
runtime(np.maximum)


def _neg_abs(c: Emitter, i: Instruction, s: Suffixes, t: str) -> None:
    d, a = take(i, 2)
    s.finish(("s16", "s32", "s64"), t)
    c.write(d, t, f"-{c.read(a, t)}" if s.root == "neg" else f"abs({c.read(a, t)})")


_INTEGER = {
    "add": _add_sub,
    "sub": _add_sub,
    "mul": _mul_mad,
    "mad": _mul_mad,
    "div": _div_rem,
    "min": _min_max,
    "max": _min_max,
    "neg": _neg_abs,
    "abs": _neg_abs,
}


@emits("sad")
def sad(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Sum of absolute differences: ``c + |a - b|``."""
    t = s.type()
    s.finish(INTEGER_TYPES, t)
    d, a, b, e = take(i, 4)
    x, y = c.read(a, t), c.read(b, t)
    c.write(d, t, f"maximum({x}, {y}) - minimum({x}, {y}) + {c.read(e, t)}")


@emits("popc", "clz", "brev", "bfind")
def count_bits(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Counting and reversing bits; the result of ``popc``, ``clz`` and ``bfind`` is 32 bits wide."""
    t = s.type()
    d, a = take(i, 2)
    if s.root == "bfind":
        amount = s.flag("shiftamt")
        s.finish(("u32", "s32", "u64", "s64"), t)
        return c.write(d, "u32", f"find_bit({c.read(a, t)}, {amount})")
    s.finish(("b32", "b64"), t)
    return c.write(d, t if s.root == "brev" else "u32", f"bits_{s.root}({c.read(a, t)})")


_POPC = np.array([bin(n).count("1") for n in range(256)], dtype=U1)
_BREV = np.array([int(f"{n:08b}"[::-1], 2) for n in range(256)], dtype=U1)


def _bytes(a: Array) -> Array:
    return np.ascontiguousarray(a).view(U1).reshape(*a.shape, a.dtype.itemsize)


@runtime
def bits_popc(a: Array) -> Array:
    """Number of one bits."""
    counts: Array = _POPC[_bytes(a)].sum(axis=-1, dtype=U4)
    return counts


@runtime
def bits_brev(a: Array) -> Array:
    """Bits in the opposite order."""
    return np.ascontiguousarray(_BREV[_bytes(a)][..., ::-1]).view(a.dtype).reshape(a.shape)


@runtime
def bits_clz(a: Array) -> Array:
    """Number of leading zero bits."""
    x, bits = a, a.dtype.itemsize * 8
    shift = 1
    while shift < bits:
        x = x | (x >> a.dtype.type(shift))
        shift *= 2
    return U4(bits) - bits_popc(x)


@runtime
def find_bit(a: Array, amount: bool) -> Array:
    """Position of the highest bit that differs from the sign; 0xFFFFFFFF when there is none."""
    bits = a.dtype.itemsize * 8
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    x = (np.where(a < 0, ~a, a) if a.dtype.kind == "i" else a).view(unsigned)
    position = U4(bits - 1) - bits_clz(x)
    return np.where(position == U4(0xFFFFFFFF), position, U4(bits - 1) - position) if amount else position


@emits("bfe", "bfi")
def bit_field(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Bit field extract and insert; position and length are taken modulo 256."""
    t = s.type()
    if s.root == "bfe":
        s.finish(("u32", "s32", "u64", "s64"), t)
        d, a, b, e = take(i, 4)
        return c.write(d, t, f"bit_extract({c.read(a, t)}, {c.read(b, 'u32')}, {c.read(e, 'u32')})")
    s.finish(("b32", "b64"), t)
    f, a, b, e, length = take(i, 5)
    fields = f"{c.read(a, t)}, {c.read(b, t)}, {c.read(e, 'u32')}, {c.read(length, 'u32')}"
    return c.write(f, t, f"bit_insert({fields})")


@runtime
def bit_extract(a: Array, position: Array, length: Array) -> Array:
    """``bfe``: beyond the top, a signed field is filled with its sign bit (that of the operand, if outside)."""
    bits, unsigned = a.dtype.itemsize * 8, np.dtype(f"u{a.dtype.itemsize}")
    pos, size = position & U4(0xFF), length & U4(0xFF)
    x = a.view(unsigned)
    width = unsigned.type
    shifted = shift_right(x, pos)
    keep = shift_left(np.array([[1]], dtype=unsigned), size) - width(1)
    field = shifted & keep
    if a.dtype.kind == "u":
        return field
    top = np.minimum(pos + size - U4(1), U4(bits - 1))
    sign = np.where(size == 0, width(0), (x >> top.astype(unsigned)) & width(1)).astype(bool)
    valid = keep & shift_right(np.array([[~width(0)]], dtype=unsigned), pos)
    return np.where(sign, field | ~valid, field).view(a.dtype)


@runtime
def bit_insert(a: Array, b: Array, position: Array, length: Array) -> Array:
    """``bfi``: `a` into `b`."""
    unsigned = a.dtype
    pos, size = position & U4(0xFF), length & U4(0xFF)
    keep = shift_left(shift_left(np.array([[1]], dtype=unsigned), size) - unsigned.type(1), pos)
    return (b & ~keep) | (shift_left(a, pos) & keep)


@runtime
def shift_left(a: Array, amount: Array) -> Array:
    """``shl``: amounts beyond the width give zero."""
    bits = a.dtype.itemsize * 8
    if amount.size == 1:
        n = int(amount.item())
        return a << a.dtype.type(n) if n < bits else np.zeros_like(a)
    result = a << np.minimum(amount, U4(bits - 1)).astype(a.dtype)
    return np.where(amount >= bits, a.dtype.type(0), result)


@runtime
def shift_right(a: Array, amount: Array) -> Array:
    """``shr``: amounts beyond the width give zero, or the sign."""
    bits = a.dtype.itemsize * 8
    last = bits - 1
    if amount.size == 1:
        n = int(amount.item())
        if n < bits:
            return a >> a.dtype.type(n)
        return a >> a.dtype.type(last) if a.dtype.kind == "i" else np.zeros_like(a)
    result = a >> np.minimum(amount, U4(last)).astype(a.dtype)
    return result if a.dtype.kind == "i" else np.where(amount > last, a.dtype.type(0), result)


@emits("dp4a", "dp2a")
def dot_product(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Dot products of packed bytes (``dp4a``) or of two 16-bit values with two bytes (``dp2a``)."""
    kinds = [p for p in s.parts if p in ("u32", "s32")]
    half = s.one_of(("lo", "hi"))
    s.drop("u32", "s32")
    s.finish()
    d, a, b, e = take(i, 4)
    if len(kinds) != 2 or (s.root == "dp2a") != bool(half):
        raise refuse(f"{i.opcode} is not understood")
    out = "s32" if "s32" in kinds else "u32"
    width = "1" if s.root == "dp4a" else "2"
    left = f"{kinds[0][0].replace('s', 'i')}{width}"
    right = f"{kinds[1][0].replace('s', 'i')}1"
    start = 2 if half == "hi" else 0
    c.write(d, out, f"dot_packed({c.read(a, 'u32')}, {left}, {c.read(b, 'u32')}, {right}, {start}, {c.read(e, out)})")


@runtime
def dot_packed(a: Array, left: type, b: Array, right: type, start: int, addend: Array) -> Array:
    """See `dot_product`."""
    x = np.ascontiguousarray(a).view(left).reshape(*a.shape, -1).astype(I8)
    y = np.ascontiguousarray(b).view(right).reshape(*b.shape, -1).astype(I8)[..., start : start + x.shape[-1]]
    return ((x * y).sum(axis=-1) + addend).astype(addend.dtype)
