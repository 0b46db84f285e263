"""Instructions of a whole warp: shuffles, votes, matches, reductions."""

# NumPy types what an operator gives as Any where the element type is not known.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.instructions.base import U4, Array, Suffixes, emits, refuse, runtime, take
from trlaunch.emulator.syntax import Immediate, Instruction, Operand, Pair, Sink

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__: list[str] = []

_LANES = np.arange(32, dtype=np.int64)
_TWO_LANES, _FOUR_LANES = np.uint64, np.complex128


def _members(c: Emitter, mask: str, operand: Operand) -> str:
    """Emit the check that the member mask names the lanes that execute; the name of the member mask."""
    c.warp_sync = True
    members = c.read(operand, "u32")
    if mask != "m" or not (isinstance(operand, Immediate) and operand.value & 0xFFFFFFFF == 0xFFFFFFFF):
        c.line(f"S.check_members({mask}, {members}, {c.site})")
    else:
        c.line(f"if m is not None: S.check_members(m, {members}, {c.site})")
    return members


@emits("shfl")
def shfl(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Shuffle within a warp."""
    synchronous = s.flag("sync")
    mode = s.one_of(("up", "down", "bfly", "idx"))
    t = s.type()
    s.finish(("b32",), t)
    if not synchronous or not mode:
        raise refuse(f"{i.opcode} is not executed")
    d, a, b, clamp, members = take(i, 5)
    _members(c, c.mask(), members)
    value = c.read(a, "b32")
    d, valid = (d.first, d.second) if isinstance(d, Pair) else (d, Sink())
    if isinstance(b, Immediate) and isinstance(clamp, Immediate):
        lanes, inside = source_lanes(mode, _LANES, np.int64(b.value & 31), np.int64(clamp.value))
        simple = mode == "bfly" and inside.all() and (b.value & 31).bit_count() == 1
        name = f"lanes_{mode}_{b.value & 31}_{clamp.value & 0x1F1F}"
        c.constants[name] = lanes
        c.constants[f"{name}_p"] = inside
        c.write(d, "b32", f"shuffle_xor({value}, {b.value & 31})" if simple else f"shuffle({value}, {name})")
        c.write(valid, "pred", f"lanes_to_threads({name}_p, S.threads)")
        return
    both = c.temp(f"shuffle_any({value}, {mode!r}, {c.read(b, 'u32')}, {c.read(clamp, 'u32')}, S.lane_index)")
    c.write(d, "b32", f"{both}[0]")
    c.write(valid, "pred", f"{both}[1]")


def source_lanes(mode: str, lane: Array, b: Any, clamp: Any) -> tuple[Array, Array]:
    """Lane each lane reads from, and whether that lies inside its segment (PTX ISA, shfl.sync)."""
    segment, limit = (clamp >> 8) & 31, clamp & 31
    low = lane & segment
    high = low | (limit & ~segment & 31)
    source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": low | (b & ~segment & 31)}[mode]
    inside = source >= high if mode == "up" else source <= high
    return np.where(inside, source, lane), inside


@runtime
def shuffle(x: Array, lanes: Array) -> Array:
    """Values of the lanes that `lanes` names, the same in every warp."""
    if x.shape[1] == 1:
        return x
    return x.reshape(x.shape[0], -1, 32).take(lanes, axis=2).reshape(x.shape)


@runtime
def shuffle_xor(x: Array, distance: int) -> Array:
    """Butterfly over a power of two."""
    if x.shape[1] == 1:
        return x
    # Two or four lanes are moved as one element.
    unit, count = (_TWO_LANES, distance // 2) if distance == 2 else (_FOUR_LANES, distance // 4)
    wide = np.ascontiguousarray(x) if distance == 1 else np.ascontiguousarray(x).view(unit)
    pairs = wide.reshape(x.shape[0], -1, 2, max(count, 1))
    out = np.empty_like(pairs)
    out[:, :, 0], out[:, :, 1] = pairs[:, :, 1], pairs[:, :, 0]
    return out.view(x.dtype).reshape(x.shape)


@runtime
def lanes_to_threads(values: Array, threads: int) -> Array:
    """One value per lane of a warp, for all threads."""
    return np.tile(values, threads // 32)[None, :]


@runtime
def shuffle_any(x: Array, mode: str, b: Array, clamp: Array, lane: Array) -> tuple[Array, Array]:
    """Shuffle with operands that are not constants."""
    source, inside = source_lanes(mode, lane, (b & U4(31)).astype(np.int64), clamp.astype(np.int64))
    shape = np.broadcast_shapes(x.shape, source.shape)
    wide = np.broadcast_to(x, shape).reshape(shape[0], -1, 32)
    picked = np.take_along_axis(wide, np.broadcast_to(source, shape).reshape(wide.shape), axis=2)
    return picked.reshape(shape), np.broadcast_to(inside, shape)


@emits("vote")
def vote(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Votes over the active lanes of the member mask."""
    synchronous = s.flag("sync")
    mode = s.one_of(("all", "any", "uni", "ballot"))
    t = s.type()
    s.finish(("b32",) if mode == "ballot" else ("pred",), t)
    if not synchronous:
        raise refuse(f"{i.opcode} is not executed")
    d, a, members = take(i, 3)
    mask = c.mask()
    named = _members(c, mask, members)
    c.write(d, t, f"vote_{mode}({c.read(a, 'pred')}, S.participants({mask}, {named}))")


def _by_warp(x: Any, shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(x, shape).reshape(shape[0], -1, 32)


def _to_lanes(x: Array) -> Array:
    return np.repeat(x, 32, axis=1)


def _ballot(bits: Array) -> Array:
    """One word per warp from (C, W, 32) booleans."""
    return np.packbits(bits, axis=-1, bitorder="little").view(U4)[..., 0]


@runtime
def vote_ballot(p: Array, lanes: Array) -> Array:
    """Bit per lane whose predicate is true."""
    shape = np.broadcast_shapes(p.shape, lanes.shape)
    return _to_lanes(_ballot(_by_warp(p & lanes, shape)))


@runtime
def vote_any(p: Array, lanes: Array) -> Array:
    """Whether any predicate is true."""
    shape = np.broadcast_shapes(p.shape, lanes.shape)
    return _to_lanes(_by_warp(p & lanes, shape).any(axis=2))


@runtime
def vote_all(p: Array, lanes: Array) -> Array:
    """Whether all predicates are true."""
    shape = np.broadcast_shapes(p.shape, lanes.shape)
    return _to_lanes(_by_warp(p | ~lanes, shape).all(axis=2))


@runtime
def vote_uni(p: Array, lanes: Array) -> Array:
    """Whether all predicates are equal."""
    return vote_all(p, lanes) | ~vote_any(p, lanes)


@emits("activemask")
def activemask(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """The lanes that execute this instruction."""
    t = s.type()
    s.finish(("b32",), t)
    (d,) = take(i, 1)
    every = c.constant("u4", 0xFFFFFFFF)
    c.write(d, t, f"vote_ballot({c.constant('p', 1)}, S.participants({c.mask()}, {every}))")


@emits("match")
def match(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Lanes that hold the same value."""
    mode = s.one_of(("any", "all"))
    synchronous, t = s.flag("sync"), s.type()
    s.finish(("b32", "b64"), t)
    if not synchronous or not mode:
        raise refuse(f"{i.opcode} is not executed")
    d, a, members = take(i, 3)
    mask = c.mask()
    named = _members(c, mask, members)
    d, same = (d.first, d.second) if isinstance(d, Pair) else (d, Sink())
    both = c.temp(f"match_{mode}({c.read(a, t)}, S.participants({mask}, {named}))")
    c.write(d, "b32", f"{both}[0]")
    if mode == "all":
        c.write(same, "pred", f"{both}[1]")


@runtime
def match_any(x: Array, lanes: Array) -> tuple[Array, None]:
    """Per lane, the ballot of lanes with its value."""
    shape = np.broadcast_shapes(x.shape, lanes.shape)
    value, take_part = _by_warp(x, shape), _by_warp(lanes, shape)
    equal = (value[..., :, None] == value[..., None, :]) & take_part[..., None, :]
    return np.packbits(equal, axis=-1, bitorder="little").view(U4)[..., 0].reshape(shape), None


@runtime
def match_all(x: Array, lanes: Array) -> tuple[Array, Array]:
    """The ballot of all lanes if they hold one value, else 0; and whether they do."""
    shape = np.broadcast_shapes(x.shape, lanes.shape)
    value, take_part = _by_warp(x, shape), _by_warp(lanes, shape)
    first = np.take_along_axis(value, take_part.argmax(axis=2)[..., None], axis=2)
    same = ((value == first) | ~take_part).all(axis=2)
    return _to_lanes(np.where(same, _ballot(take_part), U4(0))), _to_lanes(same)


@emits("redux")
def redux(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Reductions over a warp."""
    synchronous = s.flag("sync")
    name = s.one_of(("add", "min", "max", "and", "or", "xor"))
    t = s.type()
    s.finish(("b32",) if name in ("and", "or", "xor") else ("u32", "s32"), t)
    if not synchronous:
        raise refuse(f"{i.opcode} is not executed")
    d, a, members = take(i, 3)
    mask = c.mask()
    named = _members(c, mask, members)
    c.write(d, t, f"reduce_warp({c.read(a, t)}, {name!r}, S.participants({mask}, {named}))")


@runtime
def reduce_warp(x: Array, name: str, lanes: Array) -> Array:
    """``redux.sync``."""
    shape = np.broadcast_shapes(x.shape, lanes.shape)
    function: Any = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
                     "xor": np.bitwise_xor}[name]  # fmt: skip
    info = np.iinfo(x.dtype)
    neutral = {"min": info.max, "max": info.min, "and": info.max}.get(name, 0)
    values = np.where(_by_warp(lanes, shape), _by_warp(x, shape), x.dtype.type(neutral))
    return _to_lanes(function.reduce(values, axis=2, dtype=x.dtype))


@emits("bar", "barrier")
def bar_warp(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """``bar.warp.sync``; the barriers of a CTA end their block and are the scheduler's."""
    warp, synchronous = s.flag("warp"), s.flag("sync")
    if not (warp and synchronous):
        raise refuse(f"{i.opcode} is not executed")
    s.finish()
    (members,) = take(i, 1)
    _members(c, c.mask(), members)
    c.event("warp")
