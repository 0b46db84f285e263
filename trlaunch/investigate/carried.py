"""Arguments carried to another process by value: the bytes behind every tensor, and how they lay in memory.

What makes a launch fail may be how its arguments lie: two that overlap, one that begins in the middle of an allocation.
So memory is carried by region, with its place relative to 256 bytes, and tensors are places in a region.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trlaunch.arguments import DTYPES, ArgumentSpec, parse_argument
from trlaunch.devices import get
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError, DeviceUnavailable
from trlaunch.memory import DeviceArray, asarray
from trlaunch.scalars import SCALARS
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import Pointer, TensorView, dtype_name, is_tensor, numpy_dtype, view

__all__ = [
    "Address",
    "Carried",
    "Descriptor",
    "Generated",
    "Number",
    "PlacedTensor",
    "Put",
    "Region",
    "Spot",
    "Tensor",
    "TensorMap",
    "Tuple",
    "Value",
    "carry",
    "labels",
]

#: Allocations of the CUDA driver are aligned to this many bytes (CUDA C++ Programming Guide, device memory accesses).
_ALIGNMENT = 256
_HOST = "host"


@dataclass(frozen=True, slots=True)
class Number:
    """A scalar; `type` is Triton's name where the caller's value has one (a NumPy scalar)."""

    value: int | float | bool
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a region: `offset` in bytes, `strides` in elements."""

    region: int
    offset: int
    dtype: str | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    nbytes: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """An address that means nothing to another process and is carried as it is: null, or wild."""

    address: int


@dataclass(frozen=True, slots=True)
class Generated:
    """A specification of the argument language, ``rand:fp16:512x512``; `seed` where it states none."""

    text: str
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A host tensor descriptor (`trlaunch.TensorDescriptor`)."""

    tensor: Tensor
    shape: tuple[int, ...] | None
    strides: tuple[int, ...] | None
    block_shape: tuple[int, ...]
    padding: str = "zero"
    round_f32_to_tf32: bool = False


@dataclass(frozen=True, slots=True)
class TensorMap:
    """An encoded CUtensorMap, in hexadecimal."""

    data: str


@dataclass(frozen=True, slots=True)
class Tuple:
    """A tuple of values."""

    items: tuple[Value, ...]


Value = Number | Tensor | Address | Generated | Descriptor | TensorMap | Tuple
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Number, Tensor, Address, Generated, Descriptor, TensorMap, Tuple)
}


@dataclass(frozen=True, slots=True)
class Region:
    """Memory that tensors lie in: its bytes, and its address modulo 256."""

    data: bytes = field(repr=False)
    misalignment: int = 0


@dataclass(frozen=True, slots=True)
class Carried:
    """The arguments of one launch.

    Attributes
    ----------
    positional : tuple of Value
    named : mapping of str to Value
    regions : tuple of Region
    """

    positional: tuple[Value, ...] = ()
    named: Mapping[str, Value] = field(default_factory=dict)
    regions: tuple[Region, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the bytes of the regions, for JSON."""
        return {
            "positional": [_to_dict(value) for value in self.positional],
            "named": {name: _to_dict(value) for name, value in self.named.items()},
            "misalignments": [region.misalignment for region in self.regions],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], regions: Sequence[bytes]) -> Carried:
        """The inverse of `to_dict`."""
        return cls(
            tuple(_from_dict(value) for value in state["positional"]),
            {name: _from_dict(value) for name, value in state["named"].items()},
            tuple(Region(data, at) for data, at in zip(regions, state["misalignments"], strict=True)),
        )

    def put(self, device: Device, names: Sequence[str | None] = ()) -> Put:
        """Allocate the regions on a device and make arguments of the values.

        Parameters
        ----------
        device : Device
        names : sequence of str or None
            The user's parameters in order, where they are known.
        """
        return Put(self, device, names)

    def __add__(self, other: Carried) -> Carried:
        """Both one after another."""
        count = len(self.regions)
        moved = [_moved(value, count) for value in other.positional]
        named = {name: _moved(value, count) for name, value in other.named.items()}
        return Carried((*self.positional, *moved), {**self.named, **named}, (*self.regions, *other.regions))


def _moved(value: Value, by: int) -> Value:
    if isinstance(value, Tensor):
        return replace(value, region=value.region + by)
    if isinstance(value, Descriptor):
        return replace(value, tensor=replace(value.tensor, region=value.tensor.region + by))
    return Tuple(tuple(_moved(item, by) for item in value.items)) if isinstance(value, Tuple) else value


def _to_dict(value: Value) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(value, name) for name in type(value).__dataclass_fields__}
    if isinstance(value, Tuple):
        fields["items"] = [_to_dict(item) for item in value.items]
    if isinstance(value, Descriptor):
        fields["tensor"] = _to_dict(value.tensor)
    return {"kind": type(value).__name__, **fields}


def _from_dict(state: Mapping[str, Any]) -> Any:
    fields = {name: tuple(part) if isinstance(part, list) else part for name, part in state.items() if name != "kind"}
    kind = _KINDS[state["kind"]]
    if kind is Tuple:
        fields["items"] = tuple(_from_dict(item) for item in state["items"])
    if kind is Descriptor:
        fields["tensor"] = _from_dict(state["tensor"])
    return kind(**fields)


# --- from the caller's process ---------------------------------------------------------------------------------------


def carry(args: Sequence[Any], named: Mapping[str, Any] | None = None) -> Carried:
    """Copy what a launch would be given: the memory behind tensors, numbers, descriptors.

    Parameters
    ----------
    args : sequence
        As `Kernel.launch` takes them, and besides: strings of the argument language (``"rand:fp16:512x512"``,
        ``"null"``), and ``None`` for a null pointer.
    named : mapping, optional
        By name.

    Raises
    ------
    ArgumentError
        A value is no argument, or refers to memory of unknown extent.
    DriverError
        Device memory cannot be read, for example because the caller's context is dead already.
    """
    gather = _Gather()
    positional = [gather.value(value, i) for i, value in enumerate(args)]
    by_name = {name: gather.value(value, len(args) + i) for i, (name, value) in enumerate((named or {}).items())}
    return gather.finish(positional, by_name)


class _Gather:
    """Collects stretches of memory, then joins those that overlap."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, int, int]] = []  # space, address, bytes
        self.kept: list[Any] = []

    def value(self, value: Any, position: int) -> Value:
        where = f"argument {position}"
        if isinstance(value, ArgumentSpec):
            return self._spec(value.text, position)
        if isinstance(value, str):
            return self._spec(value, position)
        if value is None:
            return Address(0)
        if isinstance(value, (bool, int, float)):
            return Number(value)
        if isinstance(value, Pointer):
            return self._pointer(value, where)
        if isinstance(value, (tuple, list)):
            return Tuple(tuple(self.value(item, position) for item in value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return TensorMap(bytes(value).hex())
        descriptor = TensorDescriptor.of(value)
        if descriptor is not None:
            return Descriptor(
                self._tensor(descriptor.tensor, where),
                _ints(descriptor.shape),
                _ints(descriptor.strides),
                _ints(descriptor.block_shape) or (),
                descriptor.padding,
                descriptor.round_f32_to_tf32,
            )
        if getattr(value, "shape", None) == () and hasattr(value, "item") and not hasattr(value, "data_ptr"):
            return Number(value.item(), dtype_name(value.dtype))
        if is_tensor(value):
            return self._tensor(value, where)
        raise ArgumentError(
            f"{where}: a {type(value).__name__} cannot be carried to another process: expected a tensor, a number, a "
            f"descriptor, trlaunch.Pointer, None, or a specification such as 'rand:fp16:512x512'"
        )

    def _spec(self, text: str, position: int) -> Value:
        spec = parse_argument(f"{position}={text}")
        if spec.kind == "null":
            return Address(0)
        if spec.kind == "scalar":
            assert spec.number is not None
            return Number(spec.number, spec.type)
        if spec.kind == "file":  # the file may be elsewhere, or gone, where the trial runs
            return self._tensor(asarray(spec.value(), spec.type, "emulator"), f"argument {position}")
        return Generated(text, position)

    def _pointer(self, pointer: Pointer, where: str) -> Value:
        if pointer.nbytes is not None:
            return self._placed(TensorView(pointer.address, pointer.nbytes, None, None))
        owner = _owner(pointer.address) if pointer.address else None
        if owner is not None:
            raise ArgumentError(
                f"{where}: {pointer.address:#x} is memory of {owner}, of unknown extent: pass the tensor, or "
                f"trlaunch.Pointer(address, nbytes), so that it can be carried to another process"
            )
        return Address(pointer.address)

    def _tensor(self, value: Any, where: str) -> Tensor:
        try:
            found = view(value)
        except TypeError as error:
            raise ArgumentError(f"{where}: a {type(value).__name__} that cannot be used: {error}") from None
        if found.extent is None:
            raise ArgumentError(
                f"{where}: the extent of a {type(value).__name__} is not known: pass trlaunch.Pointer(address, nbytes)"
            )
        self.kept.append(value)
        return self._placed(found)

    def _placed(self, found: TensorView) -> Tensor:
        place = found.place or str(_owner(found.address) or _HOST)
        space = _HOST if place in ("cpu", "emulator", "managed") else place
        nbytes = found.extent or 0
        self.spans.append((space, found.address, nbytes))
        index = len(self.spans) - 1  # of the span; `finish` makes a region of it
        return Tensor(index, 0, found.dtype, found.shape, found.strides, nbytes, found.read_only)

    def finish(self, positional: Sequence[Value], named: Mapping[str, Value]) -> Carried:
        regions: list[Region] = []
        places: dict[int, tuple[int, int]] = {}  # span -> region, offset
        order = sorted(range(len(self.spans)), key=lambda i: self.spans[i])
        start = 0
        while start < len(order):
            space, base, size = self.spans[order[start]]
            end, stop = base + size, start + 1
            while stop < len(order):
                other, address, nbytes = self.spans[order[stop]]
                if other != space or address >= end:
                    break
                end, stop = max(end, address + nbytes), stop + 1
            for i in order[start:stop]:
                places[i] = len(regions), self.spans[i][1] - base
            regions.append(Region(_read(space, base, end - base), base % _ALIGNMENT if space != _HOST else base % 16))
            start = stop
        values = [_settled(value, places) for value in positional]
        return Carried(tuple(values), {n: _settled(v, places) for n, v in named.items()}, tuple(regions))


def _settled(value: Value, places: Mapping[int, tuple[int, int]]) -> Value:
    if isinstance(value, Tensor):
        region, offset = places[value.region]
        return replace(value, region=region, offset=offset)
    if isinstance(value, Descriptor):
        tensor = _settled(value.tensor, places)
        assert isinstance(tensor, Tensor)
        return replace(value, tensor=tensor)
    return Tuple(tuple(_settled(item, places) for item in value.items)) if isinstance(value, Tuple) else value


def _ints(numbers: Sequence[Any] | None) -> tuple[int, ...] | None:
    return None if numbers is None else tuple(int(n) for n in numbers)


def _owner(address: int) -> Device | None:
    """The device that an address belongs to; a driver that nobody has used yet owns nothing."""
    for name in ("emulator", "cuda", "hip"):
        if f"trlaunch.{name}.driver" in sys.modules:
            try:
                ordinal = get(name).device_of_pointer(address)
            except DeviceUnavailable:  # somebody asked for it, and it is not there
                continue
            if ordinal is not None:
                return Device(name, ordinal)
    return None


def _read(space: str, address: int, nbytes: int) -> bytes:
    if not nbytes:
        return b""
    if space == _HOST:
        return ctypes.string_at(address, nbytes)
    device = Device.parse(space)
    data = bytearray(nbytes)
    get(device.driver).copy_to_host(memoryview(data), address, device.ordinal)
    return bytes(data)


def labels(values: Sequence[Value], names: Sequence[str | None]) -> list[str]:
    """The parameter each value goes to, ``arg3`` where that is not known: after a descriptor, whose slots vary."""
    found: list[str] = []
    slot: int | None = 0
    for i, value in enumerate(values):
        name = names[slot] if slot is not None and slot < len(names) else None
        if isinstance(value, Tuple) and name is not None:
            name = name.partition(".")[0]
        found.append(name or f"arg{i}")
        if slot is not None:
            slot = (
                None if isinstance(value, Descriptor) else slot + (len(value.items) if isinstance(value, Tuple) else 1)
            )
    return found


# --- in the trial's process ------------------------------------------------------------------------------------------


class PlacedTensor:
    """A tensor whose memory somebody else holds."""

    def __init__(self, found: TensorView) -> None:
        self.view = found

    def __trlaunch_view__(self) -> TensorView:
        return self.view

    def data_ptr(self) -> int:
        """Its address."""
        return self.view.address


@dataclass(frozen=True, slots=True)
class Spot:
    """Where one tensor argument lies: what a report compares addresses with."""

    label: str
    address: int
    nbytes: int


class Put:
    """Arguments on a device.

    Attributes
    ----------
    args, named
        What `Kernel.launch` takes.
    spots : list of Spot
        Where the tensors lie, in the order of the arguments.
    """

    def __init__(self, carried: Carried, device: Device, names: Sequence[str | None] = ()) -> None:
        self.device = device
        self._memory = [self._allocate(region) for region in carried.regions]
        self._tensors: dict[str, tuple[Any, Any]] = {}
        self.spots: list[Spot] = []
        made = zip(carried.positional, labels(carried.positional, names), strict=True)
        self.args = [self._make(value, label) for value, label in made]
        self.named = {name: self._make(value, name) for name, value in carried.named.items()}

    def _allocate(self, region: Region) -> tuple[DeviceArray, int]:
        import numpy as np

        skip = region.misalignment
        array = DeviceArray(len(region.data) + skip, "u8", self.device)
        if array.nbytes:
            array.copy_from(np.frombuffer(bytes(skip) + region.data, np.uint8))
        return array, array.address + skip

    def _make(self, value: Value, label: str) -> Any:
        if isinstance(value, Number):
            return value.value if value.type is None else DTYPES[value.type].type(value.value)
        if isinstance(value, Address):
            return Pointer(value.address)
        if isinstance(value, TensorMap):
            return bytes.fromhex(value.data)
        if isinstance(value, Tuple):
            return tuple(self._make(item, f"{label}.{i}") for i, item in enumerate(value.items))
        if isinstance(value, Descriptor):
            tensor = self._place(value.tensor, label)
            return TensorDescriptor(
                tensor, value.shape, value.strides, value.block_shape, value.padding, value.round_f32_to_tf32
            )
        if isinstance(value, Generated):
            spec = parse_argument(f"0={value.text}")
            array = asarray(spec.value(value.seed), spec.type, self.device)
            self._tensors[label] = array, None
            self.spots.append(Spot(label, array.address, array.nbytes))
            return array
        return self._place(value, label)

    def _place(self, tensor: Tensor, label: str) -> PlacedTensor:
        array, base = self._memory[tensor.region]
        address = base + tensor.offset
        self._tensors[label] = array, (tensor, address - array.address)
        self.spots.append(Spot(label, address, tensor.nbytes))
        return PlacedTensor(
            TensorView(
                address, tensor.nbytes, tensor.dtype, str(self.device), tensor.shape, tensor.strides,
                tensor.read_only, keep=array,
            )
        )  # fmt: skip

    def read(self) -> dict[str, Any]:
        """The tensors as NumPy arrays by label, copied from the device; bits where NumPy lacks the dtype."""
        import numpy as np

        found: dict[str, Any] = {}
        for label, (array, place) in self._tensors.items():
            if place is None:
                found[label] = array.numpy()
                continue
            tensor, skip = place
            data = array.numpy()[skip : skip + tensor.nbytes]
            if tensor.dtype is None or not tensor.shape or 0 in tensor.shape:
                found[label] = data
                continue
            kind = np.dtype(numpy_dtype(tensor.dtype))
            steps = [stride * SCALARS[tensor.dtype].size for stride in tensor.strides]
            whole = data[: math.floor(len(data) / kind.itemsize) * kind.itemsize]
            found[label] = np.lib.stride_tricks.as_strided(whole.view(kind), tensor.shape, steps).copy()
        return found
