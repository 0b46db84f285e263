"""Instructions that came with sm_90: mbarriers, tensor copies and maps, warpgroup products."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trlaunch.emulator.instructions.base import TYPE_DTYPE, U4, Array, Suffixes, emits, refuse, runtime, take
from trlaunch.emulator.instructions.data import address_of
from trlaunch.emulator.syntax import TYPE_SIZES, Address, Immediate, Instruction, Operand, Pair, Register, Sink, Vector
from trlaunch.emulator.tensor_maps import FIELDS
from trlaunch.emulator.warpgroups import Product

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__ = ["bulk"]

_ORDER = ("release", "acquire", "relaxed", "cta", "cluster", "shared", "shared::cta", "b64")


@emits("mbarrier")
def mbarrier(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Barriers in shared memory."""
    action = s.one_of(("init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait"))
    expects, parity = s.flag("expect_tx"), s.flag("parity")
    s.drop(*_ORDER)
    s.finish()
    mask, site = c.mask(), c.site
    zero, one = c.constant("u8", 0), c.constant("u8", 1)
    if action == "init":
        a, count = take(i, 2)
        return c.line(f"S.barriers.init({address_of(c, a, 'shared')}, {c.read(count, 'u32')}, {mask}, {site})")
    if action == "inval":
        (a,) = take(i, 1)
        return c.line(f"S.barriers.invalidate({address_of(c, a, 'shared')}, {mask}, {site})")
    if action in ("expect_tx", "complete_tx"):
        a, amount = take(i, 2)
        sign = "" if action == "expect_tx" else "-"
        signed = c.temp(f"{sign}{c.read(amount, 'u32')}.astype(i8)")
        return c.line(f"S.barriers.arrive({address_of(c, a, 'shared')}, {zero}, {signed}, {mask}, {site})")
    if action == "arrive":
        d: Operand = Sink()
        operands = i.operands
        if operands and not isinstance(operands[0], Address):
            d, operands = operands[0], operands[1:]
        if not 1 <= len(operands) <= 2 or (expects and len(operands) != 2):
            raise refuse(f"{i.opcode} with these operands is not executed")
        a = operands[0]
        number = c.read(operands[1], "u32") if len(operands) == 2 else one
        arrivals, nbytes = (one, number) if expects else (number, zero)
        old = c.temp(f"S.barriers.arrive({address_of(c, a, 'shared')}, {arrivals}, {nbytes}, {mask}, {site})")
        return c.write_as(d, "u8", old, name_only=True)
    if action in ("test_wait", "try_wait"):
        p, a, state = take(i, 3, 4)[:3]
        # A state is the word before the arrival; the phase it was in has to end.
        wanted = c.read(state, "u32") if parity else c.temp(f"({c.read(state, 'u64')} >> {c.constant('u8', 62)})")
        passed = c.temp(f"S.barriers.passed({address_of(c, a, 'shared')}, {wanted}, {mask}, {site})")
        return c.write_as(p, "p", passed, name_only=True)
    raise refuse(f"{i.opcode} is not executed")


@emits("elect")
def elect(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """The lowest lane of the member mask is the leader."""
    synchronous = s.flag("sync")
    s.finish()
    d, members = take(i, 2)
    if not synchronous or not isinstance(d, Pair):
        raise refuse(f"{i.opcode} is not executed")
    c.warp_sync = True
    named = c.read(members, "u32")
    lowest = c.temp(f"{named} & (~{named} + {c.constant('u4', 1)})")
    c.write(d.first, "b32", f"lane_of({lowest})")
    c.write(d.second, "pred", f"S.lanemask_eq == {lowest}")


@runtime
def lane_of(bit: Array) -> Array:
    """Number of the one bit that is set."""
    return np.log2(np.maximum(bit, U4(1))).astype(U4)


@emits("setmaxnreg")
def setmaxnreg(_: Emitter, i: Instruction, s: Suffixes) -> None:
    """Registers are not scarce here."""
    s.drop("sync", "aligned", "u32", "inc", "dec")
    s.finish()
    take(i, 1)


def bulk(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """``cp.async.bulk`` and ``cp.reduce.async.bulk``, whose copies are done at once, and their groups."""
    s.drop("async", "bulk")
    change = s.one_of(("add", "min", "max", "inc", "dec", "and", "or", "xor")) if s.flag("reduce") else ""
    if s.flag("commit_group"):
        c.event("bulk.commit")
        return s.finish()
    if s.flag("wait_group"):
        read = s.flag("read")
        s.finish()
        c.event("bulk.read.wait" if read else "bulk.wait", _pending(take(i, 1)[0]))
        return None
    rank = s.one_of(("1d", "2d", "3d", "4d", "5d"))
    s.drop("tile", "L2::cache_hint")
    if not s.flag("tensor") or not rank or not i.operands:
        raise refuse(f"{i.opcode} is not executed")
    if s.parts in (["shared::cluster", "global", "mbarrier::complete_tx::bytes"],
                   ["shared::cta", "global", "mbarrier::complete_tx::bytes"]) and not change:  # fmt: skip
        target, source, barrier = take(i, 3, 4)[:3]
        there, address = address_of(c, target, "shared"), address_of(c, barrier, "shared")
        what = f"{there}, {_tensor(c, source, rank)}, {address}"
        return c.line(f"S.tensors.load({what}, {c.mask()}, {c.site})")
    if s.parts == ["global", "shared::cta", "bulk_group"]:
        target, source = take(i, 2, 3)[:2]
        what = f"{address_of(c, source, 'shared')}, {_tensor(c, target, rank)}, {change!r}"
        return c.line(f"S.tensors.store({what}, {c.mask()}, {c.site})")
    raise refuse(f"{i.opcode} is not executed")


def _pending(operand: Operand) -> int:
    """How many groups a wait leaves pending."""
    if not isinstance(operand, Immediate):
        raise refuse("the wait for a group needs a constant")
    return operand.value


def _tensor(c: Emitter, operand: object, rank: str) -> str:
    """Address of a map and coordinates, from ``[map, {x, y}]``."""
    if not isinstance(operand, Address) or len(operand.rest) != 1 or not isinstance(operand.rest[0], Vector):
        raise refuse("a tensor operand of this form is not executed")
    items = operand.rest[0].items
    if len(items) != int(rank[0]):
        raise refuse(f"{rank} needs {rank[0]} coordinates, not {len(items)}")
    at = address_of(c, Address(operand.base, operand.offset), "")
    return f"{at}, [{', '.join(c.read(item, 'u32') for item in items)}]"


@emits("tensormap")
def tensormap(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Maps made on the device: fields are replaced in shared memory, then the map is copied to global memory."""
    if s.flag("cp_fenceproxy"):
        s.drop("global", "shared::cta", "tensormap::generic", "release", "gpu", "sys", "cta", "sync", "aligned")
        s.finish()
        target, source, size = take(i, 3)
        if not isinstance(size, Immediate) or size.value != 128:
            raise refuse(f"{i.opcode} of other than 128 bytes is not PTX")
        there, here = address_of(c, target, "global"), address_of(c, source, "shared")
        return c.line(f"S.tensors.publish({there}, {here}, {c.mask()}, {c.site})")
    field = s.one_of(FIELDS)
    space = s.flag("shared::cta") and s.flag("replace") and s.flag("tile") and s.flag("b1024")
    if not field or not space:
        raise refuse(f"{i.opcode} is not executed")
    kind = s.type()
    s.finish()
    a, *rest = take(i, 2, 3)
    ordinal = rest[0] if len(rest) == 2 else Immediate(0)
    last = 3 if field == "global_stride" else 4
    if not isinstance(ordinal, Immediate) or not 0 <= ordinal.value <= last:
        raise refuse(f"{i.opcode} needs a constant ordinal from 0 to {last}")
    value = c.read(rest[-1], kind)
    if field == "global_stride" and c.layout.strides_in_16_bytes:
        value = c.temp(f"{value} << {c.constant(TYPE_DTYPE[kind], 4)}")
    what = f"{address_of(c, a, 'shared')}, {field!r}, {ordinal.value}, {value}"
    return c.line(f"S.tensors.replace({what}, {c.mask()}, {c.site})")


_K = {"f16": 16, "bf16": 16, "tf32": 8, "e4m3": 32, "e5m2": 32, "s8": 32, "u8": 32}


@emits("wgmma")
def wgmma(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Warpgroup products; fences, commits and waits have nothing to wait for."""
    s.drop("sync", "aligned")
    if kind := s.one_of(("fence", "commit_group", "wait_group")):
        pending = _pending(take(i, 1)[0]) if kind == "wait_group" else 0
        c.event(f"wgmma.{kind.removesuffix('_group')}", pending)
        return s.finish()
    saturate = s.flag("satfinite")
    if not s.flag("mma_async") or len(s.parts) != 4 or c.guard is not None or saturate:
        raise refuse(f"{i.opcode} is not executed")
    shape, out, left, right = s.parts
    columns, _, k = shape.removeprefix("m64n").partition("k")
    kinds = {left, right}
    same = len(kinds) == 1 or kinds <= {"e4m3", "e5m2"} or kinds <= {"s8", "u8"}
    outs = ("s32",) if left in ("s8", "u8") else ("f32", "f16") if left in ("f16", "e4m3", "e5m2") else ("f32",)
    if k != str(_K.get(left)) or not same or not columns.isdigit() or not 8 <= int(columns) <= 256 or out not in outs:
        raise refuse(f"{i.opcode} is not executed")
    n = int(columns)
    if n % 8:
        raise refuse(f"{i.opcode} is not PTX")
    d, a, b, scale, *flags = take(i, 4, 8)
    values = []
    for flag in flags:
        if not isinstance(flag, Immediate):
            raise refuse(f"{i.opcode} needs constants behind the scale")
        values.append(flag.value)
    scales, transposed = values[:2], values[2:]
    registers = isinstance(a, Vector)
    by_rows = [False, *(bool(v) for v in transposed)] if registers else [bool(v) for v in transposed]
    by_rows += [False] * (2 - len(by_rows))
    if any(v not in (1, -1) for v in scales) or (any(by_rows) and left not in ("f16", "bf16")):
        raise refuse(f"{i.opcode} with these constants is not PTX")
    product = Product(left, right, n, out, by_rows[0], by_rows[1], int(np.prod(scales or [1])) < 0)
    name = f"product_{left}_{right}_{n}_{out}_{by_rows[0]:d}{by_rows[1]:d}{product.negative:d}"
    c.constants[name] = product
    targets = d.items if isinstance(d, Vector) else ()
    if len(targets) != n // (4 if out == "f16" else 2):
        raise refuse(f"{i.opcode} with {len(targets)} registers of the result is not PTX")
    if isinstance(a, Vector):
        if len(a.items) != 4:
            raise refuse(f"{i.opcode} with {len(a.items)} registers of A is not PTX")
        x = f"[{', '.join(c.read(r, 'b32') for r in a.items)}]"
    else:
        x = c.read(a, "b64")
    kind = "b32" if out == "f16" else out
    if isinstance(scale, Register) and TYPE_SIZES[scale.type]:
        raise refuse(f"{i.opcode} needs a predicate as the scale of the result")
    how = c.read(scale, "pred")
    addends = ", ".join(c.read(r, kind) for r in targets)
    c.warp_sync = True
    raw = c.temp(f"S.product({name}, {x}, {c.read(b, 'b64')}, [{addends}], {how}, m, {c.site})")
    for at, register in enumerate(targets):
        c.write(register, kind, f"{raw}[{at}]")
    return None
