"""Matrix instructions of a warp: ``ldmatrix``, ``stmatrix``, ``mma.sync`` (PTX ISA, "Matrix Multiply-Accumulate").

All ``m16n8`` shapes share one layout in 32-bit words: lane ``4 g + t`` of a warp holds, of A, row ``g`` (and ``g + 8``)
and word ``t`` (and ``t + 4``) of k; of B, word ``t`` (and ``t + 4``) of k and column ``g``; of the result, rows ``g``
and ``g + 8`` of columns ``2 t`` and ``2 t + 1``. How many elements of k a word holds depends on the element.
"""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.instructions.base import (
    F2,
    F4,
    F8,
    I1,
    U1,
    U2,
    U4,
    Array,
    Suffixes,
    emits,
    refuse,
    runtime,
    take,
)
from trlaunch.emulator.instructions.data import address_of
from trlaunch.emulator.instructions.floating import bf16_to_f32
from trlaunch.emulator.syntax import Instruction, Operand, Vector

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__ = ["element", "fragment_a"]


@emits("ldmatrix", "stmatrix")
def ldmatrix(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """8x8 matrices of 16-bit elements; each row's address comes from one lane."""
    s.drop("sync", "aligned", "shared", "shared::cta")
    shape, count, trans, t = s.flag("m8n8"), s.one_of(("x1", "x2", "x4")), s.flag("trans"), s.type()
    s.finish(("b16",), t)
    a, b = take(i, 2)
    registers, address = (a, b) if s.root == "ldmatrix" else (b, a)
    items = registers.items if isinstance(registers, Vector) else (registers,)
    if not shape or not count or len(items) != int(count[1]) or c.guard is not None:
        raise refuse(f"{i.opcode} with these operands is not executed")
    c.warp_sync = True
    at = address_of(c, address, "shared")
    if s.root == "stmatrix":
        values = ", ".join(c.read(item, "b32") for item in items)
        return c.line(f"S.store_matrix({at}, [{values}], {trans}, m, {c.site})")
    raw = c.temp(f"S.load_matrix({at}, {len(items)}, {trans}, m, {c.site})")
    for k, item in enumerate(items):
        c.write(item, "b32", f"{raw}[{k}]")
    return None


@runtime
def rows_to_registers(rows: Array, trans: bool) -> list[Array]:
    """Rows of 16 bytes, shape (C, W, n, 8) of complex128, to n registers of shape (C, 32 W)."""
    ctas, warps, count, _ = rows.shape
    if trans:
        elements = rows.view(U2).reshape(ctas, warps, count, 8, 8)
        words = np.ascontiguousarray(elements.transpose(2, 0, 1, 4, 3)).view(U4)
    else:
        words = np.ascontiguousarray(rows.view(U4).reshape(ctas, warps, count, 32).transpose(2, 0, 1, 3))
    return list(words.reshape(count, ctas, warps * 32))


def registers_to_rows(registers: Array, trans: bool) -> Array:
    """Inverse of `rows_to_registers`: (n, C, T) words to (C, W, n, 8) rows."""
    count, ctas, threads = registers.shape
    warps = threads // 32
    if trans:
        halves = np.ascontiguousarray(registers).view(U2).reshape(count, ctas, warps, 8, 8)
        rows = np.ascontiguousarray(halves.transpose(1, 2, 0, 4, 3)).view(np.complex128)
    else:
        words = registers.reshape(count, ctas, warps, 8, 4).transpose(1, 2, 0, 3, 4)
        rows = np.ascontiguousarray(words).view(np.complex128)
    return rows.reshape(ctas, warps, count, 8)


#: Shape and element types of A and B to elements per 32-bit word, for results of f32 (f16) or s32.
_SHAPES = {
    ("m16n8k16", "f16"): 2, ("m16n8k8", "f16"): 2, ("m16n8k16", "bf16"): 2, ("m16n8k8", "bf16"): 2,
    ("m16n8k8", "tf32"): 1, ("m16n8k4", "tf32"): 1,
    **{(shape, kind): 4 for shape in ("m16n8k16", "m16n8k32") for kind in ("s8", "u8")},
}  # fmt: skip


@emits("mma")
def mma(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """``mma.sync.aligned.m16n8k*``: one product of a 16 x k by a k x 8 matrix per warp."""
    s.drop("sync", "aligned")
    saturate = s.flag("satfinite")
    shape = next((p for p in s.parts if p.startswith("m") and p[1:2].isdigit()), "")
    s.drop(shape)
    if not (s.flag("row") and s.flag("col")) or len(s.parts) != 4 or c.guard is not None:
        raise refuse(f"{i.opcode} is not executed")
    out, left, right, add = s.parts
    if (shape, left) not in _SHAPES or (shape, right) not in _SHAPES or out != add:
        raise refuse(f"{i.opcode} is not executed")
    integers = left in ("s8", "u8")
    if saturate and not integers:
        raise refuse(f"{i.opcode} is not PTX")
    if (left != right and not integers) or out not in (("s32",) if integers else ("f32", "f16")):
        raise refuse(f"{i.opcode} is not executed")
    if out == "f16" and left != "f16":
        raise refuse(f"{i.opcode} is not PTX")
    words = int(shape.partition("k")[2]) // _SHAPES[shape, left]
    c.warp_sync = True
    d, a, b, e = take(i, 4)
    out_registers = _vector(d, 2 if out == "f16" else 4)
    a_words = [c.read(r, "b32") for r in _vector(a, words // 2)]
    b_words = [c.read(r, "b32") for r in _vector(b, words // 4)]
    x = c.memo(("fragment", "a", left, *a_words), lambda: f"fragment_a([{', '.join(a_words)}], {left!r}, S.threads)")
    y = c.memo(("fragment", "b", right, *b_words), lambda: f"fragment_b([{', '.join(b_words)}], {right!r}, S.threads)")
    kind = "b32" if out == "f16" else out
    addends = ", ".join(c.read(r, kind) for r in _vector(e, len(out_registers)))
    c.line(f"if m is not None: S.check_warps(m, {c.site})")
    name = {"f32": "multiply_f32", "s32": "multiply_f32", "f16": "multiply_f16"}[out]
    raw = c.temp(f"{name}({x}, {y}, [{addends}]{', True' if saturate else ''})")
    for k, register in enumerate(out_registers):
        c.write(register, kind, f"{raw}[{k}]")


def _vector(operand: Operand, count: int) -> tuple[Operand, ...]:
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != count:
        raise refuse(f"a fragment of {count} registers is expected, not {len(items)}")
    return items


def element(words: Array, kind: str) -> Array:
    """Words of shape (..., w) as numbers to multiply, of shape (..., k)."""
    if kind == "f16":
        return words.view(F2).astype(F4)
    if kind == "bf16":
        return bf16_to_f32(words.view(U2))
    if kind == "tf32":  # hardware reads the upper 19 bits
        return (words & U4(0xFFFFE000)).view(F4)
    integers: Any = I1 if kind == "s8" else U1
    return words.view(integers).astype(F8)  # exact, and faster than integer products


def _lanes(word: Array, threads: int) -> Array:
    """A register as (C, W, 8, 4): warp, group, thread in group."""
    if word.shape[1] == 1:
        word = np.broadcast_to(word, (word.shape[0], threads))
    return word.reshape(word.shape[0], -1, 8, 4)


@runtime
def fragment_a(words: list[Array], kind: str, threads: int) -> Array:
    """Registers of A to (C, W, 16, k)."""
    parts = [_lanes(w, threads) for w in words]
    ctas = max(p.shape[0] for p in parts)
    halves = len(words) // 2
    out = np.empty((ctas, threads // 32, 2, 8, halves, 4), dtype=U4)
    for k, part in enumerate(parts):
        out[:, :, k & 1, :, k >> 1] = part
    return element(out.reshape(ctas, threads // 32, 16, 4 * halves), kind)


@runtime
def fragment_b(words: list[Array], kind: str, threads: int) -> Array:
    """Registers of B to (C, W, k, 8)."""
    parts = [_lanes(w, threads) for w in words]
    ctas = max(p.shape[0] for p in parts)
    out = np.empty((ctas, threads // 32, 8, len(words), 4), dtype=U4)
    for k, part in enumerate(parts):
        out[:, :, :, k] = part
    return element(out.reshape(ctas, threads // 32, 8, 4 * len(words)), kind).swapaxes(2, 3)


def _product(x: Array, y: Array) -> Array:
    """(C, W, 2, 8, 4, 2): half of the rows, group, thread in group, column."""
    d = np.matmul(x, y)
    return d.reshape(*d.shape[:2], 2, 8, 4, 2)


@runtime
def multiply_f32(x: Array, y: Array, addends: list[Array], saturating: bool = False) -> list[Array]:
    """Products added to the four accumulator registers (of f32, or s32 for integer products)."""
    d = _product(x, y)
    out = []
    threads = d.shape[1] * 32
    for k, addend in enumerate(addends):
        part = d[:, :, k >> 1, :, :, k & 1]
        if addend.dtype != F4:
            part = part.astype(np.int64).astype(addend.dtype)
        wide = addend.reshape(addend.shape[0], -1, 8, 4) if addend.shape[1] > 1 else addend.reshape(-1, 1, 1, 1)
        if saturating:
            total = np.clip(wide.astype(np.int64) + part, -(1 << 31), (1 << 31) - 1).astype(addend.dtype)
        else:
            total = wide + part
        out.append(total.reshape(-1, threads))
    return out


@runtime
def multiply_f16(x: Array, y: Array, addends: list[Array]) -> list[Array]:
    """Products added to the two accumulator registers of f16 pairs."""
    d = _product(x, y)
    threads = d.shape[1] * 32
    out = []
    for k, addend in enumerate(addends):
        pairs = np.ascontiguousarray(_lanes(addend, threads)).view(F2).reshape(addend.shape[0], -1, 8, 4, 2)
        total = (pairs.astype(F4) + d[:, :, k]).astype(F2)
        out.append(np.ascontiguousarray(total).view(U4).reshape(-1, threads))
    return out
