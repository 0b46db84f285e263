"""Moving data: ``mov``, loads and stores, asynchronous copies, atomics, and the hints that change nothing here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trlaunch.emulator.instructions.atomics import CHANGES
from trlaunch.emulator.instructions.base import (
    RUNTIME,
    TYPE_DTYPE,
    Array,
    Suffixes,
    bits_of,
    emits,
    refuse,
    runtime,
    take,
)
from trlaunch.emulator.local import LOCAL_WINDOW
from trlaunch.emulator.memory import SHARED_WINDOW
from trlaunch.emulator.syntax import (
    TYPE_SIZES,
    Address,
    Immediate,
    Instruction,
    Operand,
    Register,
    Sink,
    Symbol,
    Vector,
)

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__ = ["address_of", "both"]

RUNTIME["SHARED_WINDOW"], RUNTIME["LOCAL_WINDOW"] = SHARED_WINDOW, LOCAL_WINDOW
_VECTORS = {"v2": 2, "v4": 4}
_SPACES = ("global", "shared", "shared::cta", "local", "param", "const")
#: Memory order, scope and caching: one lane sees another's write at once here, so none of them matters.
_HINTS = (
    *("weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu", "sys", "nc", "ca", "cg"),
    *("cs", "lu", "cv", "wb", "wt", "mmio"),
)
_HINT_PREFIXES = ("L1::", "L2::", "level::")


@runtime
def both(mask: Array | None, guard: Array) -> Array:
    """The active lanes among those of the guard."""
    return guard if mask is None else mask & guard


@emits("mov")
def mov(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Copy, pack or unpack a register."""
    t = s.type()
    s.finish()
    d, a = take(i, 2)
    if isinstance(d, Vector):
        return _unpack(c, d, a, t)
    if isinstance(a, Vector):
        return _pack(c, d, a, t)
    return c.copy(d, a, t)


def _part(vector: Vector, t: str) -> str:
    bits = bits_of(t)
    if t == "pred" or len(vector.items) not in (2, 4) or bits // len(vector.items) not in (8, 16, 32):
        raise refuse(f"mov.{t} with {len(vector.items)} parts is not executed")
    return f"b{bits // len(vector.items)}"


def _unpack(c: Emitter, d: Vector, a: Operand, t: str) -> None:
    part = _part(d, t)
    value = c.read(a, f"b{bits_of(t)}")
    for k, item in enumerate(d.items):
        shifted = f"({value} >> {c.constant(f'u{bits_of(t) // 8}', k * bits_of(part))})" if k else value
        c.write(item, part, f"{shifted}.astype({TYPE_DTYPE[part]})")


def _pack(c: Emitter, d: Operand, a: Vector, t: str) -> None:
    part, whole = _part(a, t), f"u{bits_of(t) // 8}"
    terms = [
        f"({c.read(item, part)}.astype({whole}) << {c.constant(whole, k * bits_of(part))})" if k
        else f"{c.read(item, part)}.astype({whole})"
        for k, item in enumerate(a.items)
    ]  # fmt: skip
    c.write(d, f"b{bits_of(t)}", " | ".join(terms))


def address_of(c: Emitter, operand: Operand, space: str) -> str:
    """The name of an address, as u8, or as u4 for shared memory in 32-bit registers."""
    if not isinstance(operand, Address) or operand.rest:
        raise refuse("an address of this form is not executed")
    base, offset = operand.base, operand.offset
    if isinstance(base, Symbol):
        return c.constant("u4" if space == "shared" else "u8", c.address_of(Symbol(base.name, offset)))
    dtype = "u8"
    if isinstance(base, Register) and TYPE_SIZES[base.type] == 4:
        if space not in ("shared", "local"):
            raise refuse(f"a 32-bit address of .{space or 'generic'} memory is not executed")
        dtype = "u4"
    name = c.read_as(base, dtype)
    if not offset:
        return name
    wrapped = c.constant(dtype, offset & ((1 << 8 * int(dtype[1])) - 1))
    return c.memo(("address", name, offset), lambda: f"{name} + {wrapped}")


def _access(s: Suffixes) -> tuple[str, str, int]:
    """Space, type and vector length of a load or store."""
    t = s.type()
    s.drop(*_HINTS)
    s.drop_prefixes(*_HINT_PREFIXES)
    space = s.one_of(_SPACES)
    count = _VECTORS.get(s.one_of(_VECTORS), 1)
    s.finish()
    if t not in TYPE_DTYPE or t == "pred" or TYPE_SIZES[t] * count > 16:
        raise refuse(f"{s.root} of {count} elements of type .{t} is not executed")
    return space.partition("::")[0], t, count


def _items(operand: Operand, count: int) -> tuple[Operand, ...]:
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != count:
        raise refuse(f"{count} registers are expected, not {len(items)}")
    return items


@emits("ld", "ldu")
def ld(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Load; a cache-policy operand is ignored."""
    space, t, count = _access(s)
    d, a = take(i, 2, 3)[:2]
    items = _items(d, count)
    size = TYPE_SIZES[t]
    if space == "param" and not _in_frame(c, a):
        return _ld_param(c, items, a, t)
    address = address_of(c, a, space)
    method = {"shared": "S.shared.load", "": "S.load_generic", "local": "S.local.load", "param": "S.local.load"}.get(
        space, "S.memory.load"
    )
    raw = c.temp(f"{method}({address}, {c.mask()}, {size * count}, {c.site})")
    if count > 1:
        raw = c.temp(f"elements({raw}, u{size})")
    for k, item in enumerate(items):
        value = f"{raw}[..., {k}]" if count > 1 else raw
        if t[0] == "s" and isinstance(item, Register) and TYPE_SIZES[item.type] > size:
            c.write(item, t, f"{value}.view({TYPE_DTYPE[t]})")
        else:
            c.write_as(item, f"u{size}", value, name_only=count == 1)
    return None


def _in_frame(c: Emitter, a: Operand) -> bool:
    """Whether an address is that of a ``.param`` variable of a body, for a call."""
    return isinstance(a, Address) and isinstance(a.base, Symbol) and a.base.name in c.layout.locals


@runtime
def elements(packed: Array, dtype: type) -> Array:
    """The parts of wide elements in a last axis."""
    return packed.view(dtype).reshape(*packed.shape, -1)


def _ld_param(c: Emitter, items: tuple[Operand, ...], a: Operand, t: str) -> None:
    size = TYPE_SIZES[t]
    if isinstance(a, Address) and isinstance(a.base, Register) and len(items) == 1:
        c.layout.param_address = True
        dtype = "u4" if TYPE_SIZES[a.base.type] == 4 else "u8"
        offset = c.constant("u8", a.offset & ((1 << 64) - 1))
        address = c.temp(f"S.param_base + {c.read_as(a.base, dtype)} + {offset}")
        value = c.temp(f"S.memory.load({address}, {c.mask()}, {size}, {c.site})")
        return c.write_as(items[0], TYPE_DTYPE[t], f"{value}.view({TYPE_DTYPE[t]})")
    if not isinstance(a, Address) or not isinstance(a.base, Symbol) or a.base.name not in c.layout.params:
        raise refuse("ld.param from this address is not executed")
    start = c.layout.params[a.base.name] + a.offset
    for k, item in enumerate(items):
        dtype = TYPE_DTYPE[t] if t[0] == "s" else f"u{size}"
        at = start + k * size
        value = c.memo(("param", at, dtype), lambda at=at, dtype=dtype: f"S.param({at}, {dtype}, {size})")  # type: ignore[misc]
        c.write_as(item, dtype, value, name_only=True)
    return None


@emits("st")
def st(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Store; a cache-policy operand is ignored."""
    space, t, count = _access(s)
    a, b = take(i, 2, 3)[:2]
    if space not in ("global", "shared", "local", "") and not (space == "param" and _in_frame(c, a)):
        raise refuse(f"a store to .{space} memory is not executed")
    size = TYPE_SIZES[t]
    values = [c.read_as(item, f"u{size}") for item in _items(b, count)]
    address = address_of(c, a, space)
    value = values[0] if count == 1 else c.temp(f"joined({', '.join(values)})")
    method = {"shared": "S.shared.store", "": "S.store_generic", "global": "S.memory.store"}.get(space, "S.local.store")
    c.line(f"{method}({address}, {value}, {c.mask()}, {size * count}, {c.site})")


_JOINED = {2: "u2", 4: "u4", 8: "u8", 16: "c16"}


@runtime
def joined(*parts: Array) -> Array:
    """Elements side by side, as one wide element per lane; the inverse of `elements`."""
    shape = np.broadcast_shapes(*(p.shape for p in parts))
    out = np.empty((*shape, len(parts)), dtype=parts[0].dtype)
    for k, part in enumerate(parts):
        out[..., k] = part
    return out.view(_JOINED[out.itemsize * len(parts)]).reshape(shape)


@emits("atom", "red")
def atom(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Atomic operations; a cache-policy operand is ignored."""
    s.drop("noftz")
    t = s.type()
    s.drop(*_HINTS)
    s.drop_prefixes(*_HINT_PREFIXES)
    space = s.one_of(("global", "shared", "shared::cta")).partition("::")[0]
    count = int(s.one_of(("v2", "v4", "v8"), "v1")[1])
    name = s.one_of(("add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"))
    s.finish()
    key = f"{name}_{t}" if f"{name}_{t}" in CHANGES else name
    allowed = CHANGES.get(key, ((), None))[0]
    if t not in allowed:
        raise refuse(f"{i.opcode} is not executed")
    wanted = 2 if name == "cas" else 1
    if s.root == "red":
        a, *values = take(i, 1 + wanted, 2 + wanted)
        d: Operand = Sink()
    else:
        d, a, *values = take(i, 2 + wanted, 3 + wanted)
    memory = {"shared": "S.shared.atomic", "": "S.atomic_generic"}.get(space, "S.memory.atomic")
    address = address_of(c, a, space)
    parts = [_items(v, count) for v in values[:wanted]]
    results = _items(d, count) if not isinstance(d, Sink) else (d,) * count
    # Each element of a vector is an atomic of its own (PTX ISA, atom).
    wide = c.temp(f"{address}.astype(u8)") if count > 1 else address
    for k, result in enumerate(results):
        operands = ", ".join(c.read(part[k], t) for part in parts)
        at = f"{wide} + {c.constant('u8', k * TYPE_SIZES[t])}" if k else wide
        old = c.temp(f"{memory}({at}, {c.mask()}, {TYPE_DTYPE[t]}, {c.site}, change_{key}, [{operands}])")
        c.write_as(result, TYPE_DTYPE[t], old, name_only=True)


@emits("cp")
def cp(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """``cp.async`` and its groups, and the bulk forms."""
    if "bulk" in s.parts:
        from trlaunch.emulator.instructions.hopper import bulk

        return bulk(c, i, s)
    if not s.flag("async"):
        raise refuse(f"{i.opcode} is not executed")
    if s.flag("commit_group"):
        s.finish()
        return c.line(f"S.copies.commit({c.mask()})")
    if s.flag("wait_all"):
        s.finish()
        return c.line(f"S.copies.wait(0, {c.mask()}, True)")
    if s.flag("wait_group"):
        s.finish()
        (n,) = take(i, 1)
        if not isinstance(n, Immediate):
            raise refuse("cp.async.wait_group needs a constant")
        return c.line(f"S.copies.wait({n.value}, {c.mask()}, False)")
    cached = s.one_of(("ca", "cg"))
    s.drop_prefixes(*_HINT_PREFIXES)
    target = s.flag("shared") or s.flag("shared::cta")
    if not (cached and target and s.flag("global")):
        raise refuse(f"{i.opcode} is not executed")
    s.finish()
    d, a, size, *rest = take(i, 3, 5)
    if not isinstance(size, Immediate) or size.value not in ((4, 8, 16) if cached == "ca" else (16,)):
        raise refuse(f"{i.opcode} of this size is not PTX")
    count = "None"
    # A 64-bit operand is a cache policy; a predicate means "ignore the source".
    if rest and isinstance(rest[0], Register) and rest[0].type == "pred":
        count = f"where({c.read(rest[0], 'pred')}, {c.constant('u4', 0)}, {c.constant('u4', size.value)})"
    elif rest and not (isinstance(rest[0], Register) and TYPE_SIZES[rest[0].type] == 8):
        count = c.read(rest[0], "u32")
    source, destination = address_of(c, a, "global"), address_of(c, d, "shared")
    return c.line(f"S.copies.start({destination}, {source}, {size.value}, {count}, {c.mask()}, {c.site})")


@emits("fence", "membar")
def fence(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Lanes see each other's writes at once here; it matters to the checks alone."""
    if any(p.startswith("op_restrict") for p in s.parts):
        raise refuse(f"{i.opcode} is not executed")
    proxy = any(p.startswith("async") for p in s.parts)
    c.event("fence.proxy.async" if proxy else "fence")


@emits("prefetch", "prefetchu", "nanosleep", "griddepcontrol", "discard", "applypriority")
def nothing(_: Emitter, i: Instruction, s: Suffixes) -> None:
    """Hints."""


@emits("createpolicy")
def createpolicy(c: Emitter, i: Instruction, _: Suffixes) -> None:
    """A cache policy is a number that nobody looks at."""
    c.write_as(i.operands[0] if i.operands else Sink(), "u8", c.constant("u8", 0), name_only=True)


@emits("isspacep")
def isspacep(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Whether a generic address is one of the state space."""
    space = s.one_of(("global", "shared", "shared::cta", "const", "local", "param")).partition("::")[0]
    s.finish()
    p, a = take(i, 2)
    value = c.read(a, "u64")
    tests = {
        "global": f"{value} < SHARED_WINDOW",
        "shared": f"({value} >= SHARED_WINDOW) & ({value} < LOCAL_WINDOW)",
        "local": f"{value} >= LOCAL_WINDOW",
    }
    if space not in tests:
        raise refuse(f"{i.opcode} is not executed")
    c.write(p, "pred", tests[space])
