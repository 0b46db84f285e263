"""What the plans of `trlaunch.launching` ask of a parameter, and of arrays that other libraries hand out.

The native launcher and the generated functions have to agree with each other and with `trlaunch.packing`: what all of
them derive from a signature or keep about foreign types is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trlaunch.driver import Driver
from trlaunch.errors import TrlaunchError
from trlaunch.metadata import Metadata
from trlaunch.packing import reinterprets
from trlaunch.scalars import SCALARS
from trlaunch.signature import Param, Signature, category
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import dlpack_numbers, dtype_name, gpu_place

__all__ = ["ARRAY_DTYPES", "Scratch", "array_dtype", "dtype_mask", "is_interface_array", "slot"]

ALL_DTYPES = 2**64 - 1
_MOST_DTYPES = 256

ARRAY_DTYPES: dict[Any, int] = {}
"""The number of `dlpack_numbers` of each dtype (or ``typestr``) that arrays had so far, -1 for none."""


class Scratch:
    """What a launch allocates for a kernel and gives back behind it, in order on its stream.

    Parameters
    ----------
    driver : Driver
    ordinal : int
    wanted : sequence of tuple
        For each pointer its offset in the buffer, bytes for each CTA, alignment, and whether the memory is cleared.
    """

    def __init__(self, driver: Driver, ordinal: int, wanted: Sequence[tuple[int, int, int, bool]]) -> None:
        self.driver = driver
        self.ordinal = ordinal
        self.wanted = tuple(wanted)

    @classmethod
    def of(cls, driver: Driver, ordinal: int, signature: Signature, metadata: Metadata | None) -> Scratch | None:
        """What the metadata asks for; ``None`` when it is nothing."""
        wanted = []
        for param in signature.hidden:
            size = getattr(metadata, f"{param.role}_size", None)
            if size:
                align = getattr(metadata, f"{param.role}_align")
                wanted.append((param.offset, size, align, param.role == "profile_scratch"))
        return cls(driver, ordinal, wanted) if wanted else None

    def grant(self, ctas: tuple[int, int, int], stream: int) -> list[tuple[int, int]]:
        """Offset and address of each."""
        granted: list[tuple[int, int]] = []
        count = ctas[0] * ctas[1] * ctas[2]
        try:
            for offset, size, align, cleared in self.wanted:
                address = self.driver.allocate_scratch(size * count, align, self.ordinal, stream)
                granted.append((offset, address))
                if cleared:
                    self.driver.clear(address, size * count, self.ordinal, stream)
        except TrlaunchError:
            self.release(granted, stream)
            raise
        return granted

    def release(self, granted: list[tuple[int, int]], stream: int) -> None:
        """Give back what `grant` gave."""
        for _, address in granted:
            self.driver.free_scratch(address, self.ordinal, stream)

    @contextmanager
    def lent(self, view: memoryview, ctas: tuple[int, int, int], stream: int) -> Iterator[None]:
        """Have the addresses in a buffer for the length of a launch."""
        granted = self.grant(ctas, stream)
        try:
            for offset, address in granted:
                view[offset : offset + 8] = address.to_bytes(8, "little")
            yield
        finally:
            self.release(granted, stream)


def dtype_mask(param: Param) -> int:
    """The dtypes that a pointer parameter takes, a bit for each number of `dlpack_numbers`."""
    expected = (param.type or "*")[1:]
    if not expected:
        return ALL_DTYPES
    return sum(1 << number for name, number in dlpack_numbers().items() if reinterprets(expected, name))


def slot(param: Param) -> tuple[str, int, int, int]:
    """Kind of a parameter as the native launcher names it, its range and its divisibility."""
    kind = category(param.type)
    if kind == "pointer" and param.size == 8:
        return "POINTER", 0, 0, param.divisibility
    scalar = None
    if param.type is None and param.size in (4, 8):
        name, scalar = f"UNTYPED{param.size}", SCALARS[f"i{8 * param.size}"]
    elif kind in ("integer", "byte", "float") and param.type is not None and SCALARS[param.type].size == param.size:
        scalar = SCALARS[param.type]
        name = scalar.name.upper() if kind == "float" else "INTEGER"
    if scalar is None:
        return "TENSOR_MAP", 0, 0, 1
    high = (1 << (8 * scalar.size)) - 1 if param.signless and scalar.low < 0 else scalar.high
    return name, scalar.low, high, param.divisibility if kind in ("integer", None) else 1


def is_interface_array(value: Any) -> bool:
    """Whether launches read a value, and all of its type, by ``__cuda_array_interface__``, and by nothing before it."""
    kind = type(value)
    return (
        hasattr(kind, "__cuda_array_interface__")
        and not hasattr(value, "data_ptr")
        and not hasattr(value, "__trlaunch_view__")
        and not isinstance(value, (int, float, tuple, list))
        and gpu_place(value) is None
        and TensorDescriptor.of(value) is None
    )


def array_dtype(dtype: Any) -> int:
    """Add a dtype to `ARRAY_DTYPES`; its number there."""
    name = dtype_name(dtype)
    number = dlpack_numbers().get(name, -1) if name is not None else -1
    if len(ARRAY_DTYPES) < _MOST_DTYPES:
        ARRAY_DTYPES[dtype] = number
    return number
