"""What atomic operations make of a value (PTX ISA, "Parallel Synchronization ...: atom")."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trlaunch.emulator.instructions.base import RUNTIME, U2, U4, Array
from trlaunch.emulator.instructions.floating import (
    bf16_from_f32,
    bf16_to_f32,
    float_max,
    float_min,
    pack_bf16x2,
    pack_f16x2,
    unpack_bf16x2,
    unpack_f16x2,
)

__all__ = ["CHANGES"]

_BITS = ("b32", "b64")
_INT = ("u32", "s32", "u64", "s64")


def _inc(old: Array, limit: Array) -> Array:
    return np.where(old >= limit, U4(0), old + U4(1))


def _dec(old: Array, limit: Array) -> Array:
    return np.where((old == 0) | (old > limit), limit, old - U4(1))


def _exch(old: Array, value: Array) -> Array:
    return np.broadcast_to(value, old.shape)


def _cas(old: Array, compare: Array, value: Array) -> Array:
    return np.where(old == compare, value, old)


def _add_bf16(old: Array, value: Array) -> Array:
    return bf16_from_f32(bf16_to_f32(old) + bf16_to_f32(value)).astype(U2)


def _add_f16x2(old: Array, value: Array) -> Array:
    return pack_f16x2(unpack_f16x2(old) + unpack_f16x2(value))


def _add_bf16x2(old: Array, value: Array) -> Array:
    return pack_bf16x2(unpack_bf16x2(old) + unpack_bf16x2(value))


def _packed_extreme(name: str, kind: str) -> Callable[..., Array]:
    """``min`` and ``max`` of types that are held as bits."""
    function = {"min": float_min, "max": float_max}[name]
    unpack, pack = {
        "f16x2": (unpack_f16x2, pack_f16x2),
        "bf16x2": (unpack_bf16x2, pack_bf16x2),
        "bf16": (bf16_to_f32, bf16_from_f32),
    }[kind]
    return lambda old, value: pack(function(unpack(old), unpack(value)))


#: By operation, or operation and type: the types it is executed for, and the new value of the old and the operands.
CHANGES: dict[str, tuple[tuple[str, ...], Callable[..., Array]]] = {
    "add": (("u32", "s32", "u64", "f16", "f32", "f64"), np.add),
    "add_bf16": (("bf16",), _add_bf16),
    "add_f16x2": (("f16x2",), _add_f16x2),
    "add_bf16x2": (("bf16x2",), _add_bf16x2),
    **{f"{n}_{k}": ((k,), _packed_extreme(n, k)) for n in ("min", "max") for k in ("bf16", "f16x2", "bf16x2")},
    "min_f16": (("f16",), float_min),
    "max_f16": (("f16",), float_max),
    "min": (_INT, np.minimum),
    "max": (_INT, np.maximum),
    "inc": (("u32",), _inc),
    "dec": (("u32",), _dec),
    "and": (_BITS, np.bitwise_and),
    "or": (_BITS, np.bitwise_or),
    "xor": (_BITS, np.bitwise_xor),
    "exch": (_BITS, _exch),
    "cas": (("b16", *_BITS), _cas),
}
RUNTIME.update({f"change_{name}": function for name, (_, function) in CHANGES.items()})
