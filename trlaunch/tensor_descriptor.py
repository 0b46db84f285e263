"""Host tensor descriptors: a tensor, its shape, its strides and the block that one TMA copy moves.

On sm_90 and later Triton takes one as a CUtensorMap by value, followed by shape (i32) and strides (i64); elsewhere it
is decomposed into a pointer, shape and strides. Triton's own ``TensorDescriptor`` objects are understood as well.
"""

from __future__ import annotations

import contextlib
import operator
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from trlaunch.devices import get
from trlaunch.driver import Device, Driver
from trlaunch.errors import ArgumentError
from trlaunch.memory import DeviceArray
from trlaunch.metadata import TensorDescriptorMeta
from trlaunch.records import dataclass
from trlaunch.scalars import SCALARS
from trlaunch.tensors import TensorView, view

__all__ = ["PTX_TO_DRIVER", "Settled", "TensorDescriptor", "TensorMapCache", "encode", "settled"]

# CUtensorMapDataType (cuda.h) by Triton's dtype, for maps without compiler metadata.
_DATA_TYPES = {
    "i8": 0, "u8": 0, "i1": 0, "u1": 0, "fp8e4nv": 0, "fp8e5": 0, "fp8e4b15": 0, "fp8e4b8": 0, "fp8e5b16": 0,
    "i16": 1, "u16": 1, "u32": 2, "i32": 3, "u64": 4, "i64": 5, "fp16": 6, "fp32": 7, "fp64": 8, "bf16": 9,
}  # fmt: skip
# PTX ISA, tensormap.replace: elemtype is numbered differently from 8 on (.f32.ftz, .f64, .bf16).
PTX_TO_DRIVER = {8: 10, 9: 8, 10: 9}
_TFLOAT32 = 11
_SWIZZLES = ((128, 3), (64, 2), (32, 1))  # bytes of the box's inner row: CUtensorMapSwizzle
_MAX_BOX = 256  # elements a side: cuTensorMapEncodeTiled, driver API reference


@dataclass(frozen=True, eq=False)
class TensorDescriptor:
    """A tensor as TMA sees it.

    Parameters
    ----------
    tensor : tensor
        The base; its address is a multiple of 16.
    shape : sequence of int, optional
        Elements along each axis, 1 to 5 axes; left out, the tensor's.
    strides : sequence of int, optional
        In elements; the last is 1, the others multiples of 16 bytes; left out, the tensor's.
    block_shape : sequence of int
        Elements of the block that one copy moves, as in the kernel.
    padding : {"zero", "nan"}
        What reads outside the tensor give.
    round_f32_to_tf32 : bool
        Round fp32 elements to tf32 when they are loaded.
    """

    tensor: Any
    shape: Sequence[int] | None = None
    strides: Sequence[int] | None = None
    block_shape: Sequence[int] = ()
    padding: str = "zero"
    round_f32_to_tf32: bool = False

    @classmethod
    def of(cls, value: Any) -> TensorDescriptor | None:
        """`value` when it is a descriptor, Triton's or trlaunch's, else ``None``."""
        if isinstance(value, cls):
            return value
        if hasattr(value, "base") and hasattr(value, "block_shape") and hasattr(value, "strides"):
            return cls(
                value.base,
                value.shape,
                value.strides,
                value.block_shape,
                getattr(value, "padding", "zero"),
                bool(getattr(value, "round_f32_to_tf32", False)),
            )
        return None

    def resolve(self, stream: int = 0) -> Resolved:
        """Address, shape and strides, checked.

        Raises
        ------
        ArgumentError
            TMA cannot address this tensor; the message says which rule it breaks.
        """
        try:
            base = view(self.tensor, stream)
        except TypeError as error:
            raise ArgumentError(f"the descriptor's tensor is a {type(self.tensor).__name__}: {error}") from None
        shape = _numbers("shape", self.shape) if self.shape is not None else base.shape
        strides = _numbers("strides", self.strides) if self.strides is not None else base.strides
        block = _numbers("block_shape", self.block_shape)
        _check(shape, strides, block, self.padding, base)
        return Resolved(base, shape, strides, block, self.padding == "nan", self.round_f32_to_tf32)

    def on_device(self, device: str | Device | None = None) -> DeviceArray:
        """The encoded CUtensorMap in device memory, for kernels that take its address (Triton 3.0 and 3.1)."""
        import numpy as np

        resolved = self.resolve()
        where = Device.parse(device or resolved.base.place or "cuda")
        data = np.frombuffer(encode(resolved, None, get(where.driver), where.ordinal), np.uint8)
        return DeviceArray(len(data), "u8", where).copy_from(data)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A descriptor's numbers: the base, shape and strides in elements, outermost first."""

    base: TensorView
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]
    nan: bool
    tf32: bool


def _numbers(what: str, value: Sequence[Any]) -> tuple[int, ...]:
    try:
        return tuple(operator.index(n) for n in value)
    except TypeError:
        raise ArgumentError(f"{what} {value!r:.60} of a descriptor: expected ints") from None


def _check(
    shape: tuple[int, ...], strides: tuple[int, ...], block: tuple[int, ...], padding: str, base: TensorView
) -> None:
    rank = len(shape)
    if not 1 <= rank <= 5 or len(strides) != rank or len(block) != rank:
        raise ArgumentError(
            f"shape {shape}, strides {strides} and block_shape {block} of a descriptor: "
            f"expected 1 to 5 axes, the same in all"
        )
    if padding not in ("zero", "nan"):
        raise ArgumentError(f"padding {padding!r} of a descriptor: expected 'zero' or 'nan'")
    if any(n < 1 for n in (*shape, *block)) or any(n >= 2**32 for n in shape):
        raise ArgumentError(f"shape {shape} and block_shape {block} of a descriptor: expected ints from 1 to 2**32-1")
    if strides[-1] != 1:
        raise ArgumentError(f"strides {strides} of a descriptor: expected the last to be 1 (TMA reads rows)")
    if base.dtype is None:
        raise ArgumentError("the descriptor's tensor has a dtype that Triton has no name for")
    size = SCALARS[base.dtype].size
    if base.address % 16:
        raise ArgumentError(
            f"the descriptor's tensor begins at {base.address:#x}: TMA needs a multiple of 16, "
            f"it is {base.address % 16} past one"
        )
    for axis, stride in enumerate(strides[:-1]):
        if stride * size % 16 or stride < 0 or stride * size >= 2**40:
            raise ArgumentError(
                f"stride {stride} of axis {axis} of a descriptor is {stride * size} bytes: TMA needs a multiple of 16 "
                f"below 2**40; pad the rows"
            )


def encode(resolved: Resolved, meta: TensorDescriptorMeta | None, driver: Driver, ordinal: int) -> bytes:
    """128 bytes of a CUtensorMap.

    Parameters
    ----------
    resolved : Resolved
    meta : TensorDescriptorMeta or None
        What the compiler decided (box, element type, swizzle); without it, as Triton 3.0 to 3.3 filled their
        descriptors: the block is the box, cut to a row of 128 bytes, and the widest swizzle that the row fills.
    driver, ordinal
        Who encodes it.
    """
    dtype = resolved.base.dtype or ""
    size = SCALARS[dtype].size
    shape = list(resolved.shape)
    if meta is None:
        box = list(resolved.block)
        row = box[-1] * size
        if row > 128 and len(box) == 2:
            box[-1], row = 128 // size, 128
        swizzle = next((number for width, number in _SWIZZLES if row >= width), None)
        if swizzle is None:
            raise ArgumentError(
                f"block_shape {resolved.block} of {dtype}: its rows are {row} bytes, TMA needs at least 32"
            )
        element_type = _DATA_TYPES[dtype]
    else:
        if len(meta.block_shape) != len(shape):
            raise ArgumentError(
                f"a descriptor of {len(shape)} axes, the kernel was compiled for one of {len(meta.block_shape)} "
                f"(blocks of {list(meta.block_shape)})"
            )
        if size != meta.element_size:
            raise ArgumentError(
                f"a descriptor of {dtype} ({size} bytes), the kernel was compiled for elements of "
                f"{meta.element_size} bytes"
            )
        box, swizzle = list(meta.block_shape), meta.swizzle
        element_type = _element_type(meta)
        if meta.fp4_padded:
            shape[-1] *= 2
    if resolved.tf32:
        if dtype != "fp32":
            raise ArgumentError(f"round_f32_to_tf32 on a descriptor of {dtype}: expected fp32")
        element_type = _TFLOAT32
    if any(n > _MAX_BOX for n in box):
        raise ArgumentError(f"block_shape {tuple(box)} of a descriptor: TMA moves at most {_MAX_BOX} elements a side")
    data = driver.encode_tensor_map(
        element_type=element_type,
        address=resolved.base.address,
        shape=shape[::-1],
        strides=[stride * size for stride in resolved.strides[-2::-1]],
        box=box[::-1],
        swizzle=swizzle,
        nan_fill=resolved.nan,
        ordinal=ordinal,
    )
    if _clears_bit(driver.properties(ordinal).driver_version) and _span(resolved, size) < 128 * 1024:
        word = int.from_bytes(data[8:16], "little") & ~(1 << 21)
        data = data[:8] + word.to_bytes(8, "little") + data[16:]
    return data


@dataclass(frozen=True, slots=True)
class Settled:
    """What of a map is settled by the compiler and the driver: `encode` with metadata, but for the descriptor."""

    element_type: int
    clears_bit: bool


def settled(meta: TensorDescriptorMeta, driver_version: tuple[int, int] | None) -> Settled | None:
    """`Settled`; ``None`` for a box that TMA refuses."""
    if any(n > _MAX_BOX for n in meta.block_shape):
        return None
    return Settled(_element_type(meta), _clears_bit(driver_version))


def _element_type(meta: TensorDescriptorMeta) -> int:
    return PTX_TO_DRIVER.get(meta.element_type, meta.element_type)


def _clears_bit(driver_version: tuple[int, int] | None) -> bool:
    # Drivers up to 13.1 set a bit that is wrong for tensors under 128 KiB; CUTLASS and Triton 3.7 clear it.
    return driver_version is not None and driver_version <= (13, 1)


def _span(resolved: Resolved, size: int) -> int:
    return (1 + sum((n - 1) * s for n, s in zip(resolved.shape, resolved.strides, strict=True))) * size


class TensorMapCache:
    """Encoded maps by what they were encoded from; the oldest goes when it is full.

    Safe from several threads: every step is one dictionary operation, and a lost race encodes twice.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self.capacity = capacity
        self._maps: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()

    def get(self, resolved: Resolved, meta: TensorDescriptorMeta | None, driver: Driver, ordinal: int) -> bytes:
        """The map, encoded now or before."""
        key = (
            resolved.base.address, resolved.base.dtype, resolved.shape, resolved.strides,
            resolved.block if meta is None else meta, resolved.nan, resolved.tf32, driver.name, ordinal,
        )  # fmt: skip
        data = self._maps.get(key)
        if data is None:
            data = encode(resolved, meta, driver, ordinal)
            self._maps[key] = data
            if len(self._maps) > self.capacity:
                with contextlib.suppress(KeyError):  # another thread emptied it
                    self._maps.popitem(last=False)
        return data
