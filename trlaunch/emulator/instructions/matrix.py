"""Matrix instructions of a warp: ``ldmatrix``, ``stmatrix``, ``mma.sync`` (PTX ISA, "Matrix Multiply-Accumulate").

Code for ``mma`` is put off until something reads a result. Those that came together by then are one product of larger
matrices, as far as they share operands: a product of many small ones is what NumPy is slow at. Each element is still
the sum that single instructions make, step by step of k.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trlaunch.emulator.instructions.base import TYPE_DTYPE, Suffixes, emits, refuse, take
from trlaunch.emulator.instructions.data import address_of
from trlaunch.emulator.syntax import Instruction, Operand, Vector

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__: list[str] = []


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
    rows = c.temp(f"S.load_matrix({at}, {len(items)}, m, {c.site})")
    for k, item in enumerate(items):
        name = c.temp(f"matrix_register({rows}, {k}, {trans})")
        c.origins[name] = (rows, k, trans)
        c.write_as(item, "u4", name, name_only=True)
    return None


#: Shape and element types of A and B to elements per 32-bit word, for results of f32 (f16) or s32.
_SHAPES = {
    ("m16n8k16", "f16"): 2, ("m16n8k8", "f16"): 2, ("m16n8k16", "bf16"): 2, ("m16n8k8", "bf16"): 2,
    ("m16n8k8", "tf32"): 1, ("m16n8k4", "tf32"): 1,
    **{(shape, kind): 4 for shape in ("m16n8k16", "m16n8k32") for kind in ("s8", "u8", "e4m3", "e5m2")},
}  # fmt: skip


@emits("mma")
def mma(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """``mma.sync.aligned.m16n8k*``: one product of a 16 x k by a k x 8 matrix per warp; ``m8n8k4`` of f64."""
    s.drop("sync", "aligned")
    saturate = s.flag("satfinite")
    shape = next((p for p in s.parts if p.startswith("m") and p[1:2].isdigit()), "")
    s.drop(shape)
    if not (s.flag("row") and s.flag("col")) or len(s.parts) != 4 or c.guard is not None:
        raise refuse(f"{i.opcode} is not executed")
    out, left, right, add = s.parts
    if (out, left, right, add) == ("f64",) * 4 and not saturate:
        return _mma_f64(c, i, shape)
    if (shape, left) not in _SHAPES or (shape, right) not in _SHAPES or out != add:
        raise refuse(f"{i.opcode} is not executed")
    integers, eight = left in ("s8", "u8"), left in ("e4m3", "e5m2")
    if saturate and not integers:
        raise refuse(f"{i.opcode} is not PTX")
    alike = right in (("s8", "u8") if integers else ("e4m3", "e5m2") if eight else (left,))
    if not alike or out not in (("s32",) if integers else ("f32", "f16")):
        raise refuse(f"{i.opcode} is not executed")
    if out == "f16" and left != "f16" and not eight:
        raise refuse(f"{i.opcode} is not PTX")
    words = int(shape.partition("k")[2]) // _SHAPES[shape, left]
    c.warp_sync = True
    d, a, b, e = take(i, 4)
    results = _vector(d, 2 if out == "f16" else 4)
    x = _fragment(c, _vector(a, words // 2), left)
    y = _fragment(c, _vector(b, words // 4), right)
    if c.once(("warps",)):
        c.line(f"if m is not None: S.check_warps(m, {c.site})")
    return _defer(c, (out, left, right, saturate), x, y, _vector(e, len(results)), results)


#: Registers of A, B and the result of ``mma`` of f64.
_F64_SHAPES = {"m8n8k4": (1, 1, 2), "m16n8k4": (2, 1, 4), "m16n8k8": (4, 2, 4), "m16n8k16": (8, 4, 4)}


def _mma_f64(c: Emitter, i: Instruction, shape: str) -> None:
    if shape not in _F64_SHAPES:
        raise refuse(f"{i.opcode} is not executed")
    c.warp_sync = True
    counts = _F64_SHAPES[shape]
    d, a, b, e = take(i, 4)
    x, y, z = (
        ", ".join(c.read(r, "f64") for r in _vector(operand, count))
        for operand, count in zip((a, b, e), counts, strict=True)
    )
    if c.once(("warps",)):
        c.line(f"if m is not None: S.check_warps(m, {c.site})")
    raw = c.temp(f"multiply_f64([{x}], [{y}], [{z}], S.threads)")
    for k, register in enumerate(_vector(d, counts[2])):
        c.write(register, "f64", f"{raw}[{k}]")


def _vector(operand: Operand, count: int) -> tuple[Operand, ...]:
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != count:
        raise refuse(f"a fragment of {count} registers is expected, not {len(items)}")
    return items


@dataclass(frozen=True, slots=True)
class _Fragment:
    """Source text of a fragment, and whether its units lie along k (`trlaunch.emulator.instructions.fragments`)."""

    text: str
    trans: bool
    words: str


def _fragment(c: Emitter, operands: tuple[Operand, ...], kind: str) -> _Fragment:
    names = [c.read(r, "b32") for r in operands]
    words = f"[{', '.join(names)}]"
    origins = [c.origins.get(n) for n in names]
    first = origins[0]
    if first is None or any(o is None or (o[0], o[2]) != (first[0], first[2]) for o in origins):
        return _Fragment(words, False, words)
    if first[2] and kind not in ("f16", "bf16"):  # what is transposed is 16 bits wide
        return _Fragment(words, False, words)
    numbers = ", ".join(str(o[1]) for o in origins if o is not None)
    return _Fragment(f"({first[0]}, {numbers})", first[2], words)


@dataclass(slots=True)
class _Chain:
    """Products that are added to one accumulator, one after the other."""

    left: list[_Fragment]
    right: list[_Fragment]
    addends: list[str]
    results: list[str]


@dataclass(slots=True)
class Products:
    """Products whose code is put off, all of the same types."""

    kind: tuple[str, str, str, bool]
    chains: list[_Chain] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def flush(self, c: Emitter) -> None:
        """Emit them."""
        by_left: dict[tuple[_Fragment, ...], dict[tuple[_Fragment, ...], _Chain]] = {}
        rest = []
        for chain in self.chains:
            columns = by_left.setdefault(tuple(chain.left), {})
            if tuple(chain.right) in columns:
                rest.append(chain)  # the same product to another accumulator
            else:
                columns[tuple(chain.right)] = chain
        blocks: dict[tuple[tuple[_Fragment, ...], ...], list[dict[tuple[_Fragment, ...], _Chain]]] = {}
        for columns in by_left.values():
            blocks.setdefault(tuple(columns), []).append(columns)
        for rights, rows in blocks.items():
            self._emit(c, [[columns[right] for right in rights] for columns in rows])
        for chain in rest:
            self._emit(c, [[chain]])

    def _emit(self, c: Emitter, block: list[list[_Chain]]) -> None:
        out, left, right, saturate = self.kind
        steps = range(len(block[0][0].left))
        x = _matrices([[row[0].left[k] for row in block] for k in steps], left)
        y = _matrices([[chain.right[k] for chain in block[0]] for k in steps], right)
        chains = [chain for row in block for chain in row]
        results = ", ".join(name for chain in chains for name in chain.results)
        addends = ", ".join(f"[{', '.join(chain.addends)}]" for chain in chains)
        name = "multiply_f16" if out == "f16" else "multiply"
        c.line(f"{results} = {name}({x}, {y}, [{addends}], S.threads{', True' if saturate else ''})")


def _matrices(steps: list[list[_Fragment]], kind: str) -> str:
    trans = steps[0][0].trans
    if any(f.trans != trans for step in steps for f in step):
        trans, texts = False, [[f.words for f in step] for step in steps]
    else:
        texts = [[f.text for f in step] for step in steps]
    listed = ", ".join(f"[{', '.join(step)}]" for step in texts)
    return f"([{listed}], {kind!r}, {trans})"


def _defer(
    c: Emitter,
    kind: tuple[str, str, str, bool],
    x: _Fragment,
    y: _Fragment,
    addends: tuple[Operand, ...],
    results: tuple[Operand, ...],
) -> None:
    t = "b32" if kind[0] == "f16" else kind[0]
    if c.deferred is not None and c.deferred.kind != kind:
        c.flush()
    pending = c.deferred
    found = None
    if pending is not None:
        # A result that only the next product reads never becomes a register.
        before = [c.last_name(e, d, t) for e, d in zip(addends, results, strict=True)]
        found = next((chain for chain in pending.chains if chain.results == before), None)
    if found is None:
        names = [c.read(e, t) for e in addends]  # flushes where it has to
        c.deferred = pending = c.deferred or Products(kind)
        found = _Chain([], [], names, [])
        pending.chains.append(found)
    assert pending is not None
    found.left.append(x)
    found.right.append(y)
    found.results = [c.fresh() for _ in results]
    pending.names.update(found.results)
    for register, name in zip(results, found.results, strict=True):
        c.write_as(register, TYPE_DTYPE[t], name, name_only=True)
