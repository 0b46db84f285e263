"""Packing: the values of a launch -> the bytes of the parameter buffer, laid out as the image says."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trlaunch.driver import Buffer, Device, DeviceProperties, Driver, PackedArguments
from trlaunch.errors import ArgumentError
from trlaunch.metadata import Metadata, TensorDescriptorMeta
from trlaunch.records import dataclass, field
from trlaunch.scalars import SCALARS
from trlaunch.signature import Param, Signature, category
from trlaunch.tensor_descriptor import Resolved, TensorDescriptor, TensorMapCache, settled
from trlaunch.tensors import Pointer, TensorView, dlpack_numbers, is_tensor, view

__all__ = ["Packer", "describe", "flatten", "reinterprets"]


@dataclass(slots=True)
class _Launch:
    """What one call of `Packer.pack` gathers."""

    driver: Driver
    device: Device
    stream: int
    data: bytearray
    buffers: list[Buffer] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)
    waits: set[int] = field(default_factory=set)


class Packer:
    """Fills the parameter buffer of one kernel.

    Parameters
    ----------
    kernel : str
        Its name, for messages.
    signature : Signature
    metadata : Metadata or None
        Its tensor descriptors decide how host descriptors are passed.
    """

    def __init__(self, kernel: str, signature: Signature, metadata: Metadata | None) -> None:
        self.kernel = kernel
        self.signature = signature
        self.user = signature.user
        self.maps = TensorMapCache()
        metas = metadata.tensor_descriptors if metadata else ()
        slots = [p.index for p in self.user if p.is_tensor_map]
        self.descriptors: dict[int, TensorDescriptorMeta | None] = {
            index: metas[i] if i < len(metas) else None for i, index in enumerate(slots)
        }
        release = tuple(int(n) for n in (metadata.release or "0").split(".")[:2] if n.isdigit()) if metadata else ()
        self.takes_addresses = metadata is not None and metadata.releases == "3.0 or 3.1"
        # These two releases pass the shape of a padded fp4 descriptor as the map has it, doubled.
        self.doubles_fp4_shape = release in ((3, 5), (3, 6))

    def pack(
        self,
        args: Sequence[Any],
        named: Mapping[str, Any],
        *,
        driver: Driver,
        device: Device,
        stream: int = 0,
    ) -> PackedArguments:
        """The parameter buffer of one launch.

        Parameters
        ----------
        args : sequence
            User arguments in order; tuples and lists are flattened.
        named : mapping
            The rest by name.
        driver, device, stream
            Where it will run.

        Returns
        -------
        PackedArguments
            The hidden parameters are null: `fill_hidden`.

        Raises
        ------
        ArgumentError
            A value does not fit its parameter, or there are too many or too few.
        """
        launch = _Launch(driver, device, stream, bytearray(self.signature.param_bytes))
        leaves: deque[Any] = deque(flatten(args))
        used: set[str] = set()
        position, count = 0, len(self.user)
        while position < count:
            param = self.user[position]
            if not leaves:
                key = _keyword(param, named, used)
                if key is None:
                    raise ArgumentError(self._missing(position, named))
                used.add(key)
                leaves.extend(flatten((named[key],)))
                self._expect_leaves(position, key, len(leaves))
                continue
            position += self._place(launch, position, leaves.popleft())
        if leaves:
            raise ArgumentError(
                f"{self.kernel} takes {count} arguments, {count + len(leaves)} were given: "
                f"{describe(leaves[0])} is the first too many (constexpr arguments and integers that were specialised "
                f"to 1 are not passed); it takes\n{self.signature.table()}"
            )
        if unknown := named.keys() - used:
            raise ArgumentError(self._unknown(sorted(unknown)[0]))
        for other in launch.waits:
            driver.wait_for_stream(device.ordinal, stream, other)
        return PackedArguments(bytes(launch.data), launch.buffers, launch.keep)

    def fill_hidden(self, packed: PackedArguments, addresses: Mapping[str, int]) -> PackedArguments:
        """The same arguments with the scratch pointers filled in, by role."""
        data = bytearray(packed.data)
        for param in self.signature.hidden:
            address = addresses.get(param.role, 0)
            data[param.offset : param.offset + param.size] = address.to_bytes(param.size, "little")
        return PackedArguments(bytes(data), packed.buffers, packed.keep)

    def encoded(
        self, position: int, descriptor: Any, *, driver: Driver, device: Device
    ) -> tuple[int, int, bytes] | None:
        """What a tensor descriptor comes to, for a launcher that keeps it.

        Parameters
        ----------
        position : int
            Of its first slot among the user's.
        descriptor : TensorDescriptor
            trlaunch's or Triton's.
        driver, device
            Where it will be used.

        Returns
        -------
        tuple or None
            The number of slots, where their bytes begin, and the bytes; ``None`` when a stream must be waited for.

        Raises
        ------
        ArgumentError
            As `pack`.
        """
        launch = _Launch(driver, device, 0, bytearray(self.signature.param_bytes))
        taken = self._place(launch, position, descriptor)
        if launch.waits:
            return None
        first, last = self.user[position], self.user[position + taken - 1]
        return taken, first.offset, bytes(launch.data[first.offset : last.offset + last.size])

    def encoding(self, position: int, properties: DeviceProperties) -> tuple[Any, ...] | None:
        """What `trlaunch.tensor_descriptor.settled` has for a slot, for a launcher that calls the driver itself.

        Returns
        -------
        tuple or None
            Element type, bytes of an element, swizzle, axes; 1 where the innermost axis counts half elements in the
            map, 2 where it does in the shape that follows, too; whether a bit is cleared; the dtypes as bits by
            `trlaunch.tensors.dlpack_numbers`; the box, innermost first; the slots taken. ``None`` where the map depends
            on the descriptor's block (Triton 3.2 and 3.3) or the slots are of other sizes.
        """
        meta = self.descriptors[self.user[position].index]
        if meta is None:
            return None
        rank = len(meta.block_shape)
        sizes = [param.size for param in self.user[position : position + 1 + 2 * rank]]
        if sizes != [128, *[4] * rank, *[8] * rank]:
            return None
        found = settled(meta, properties.driver_version)
        if found is None:
            return None
        dtypes = sum(1 << n for name, n in dlpack_numbers().items() if SCALARS[name].size == meta.element_size)
        halves = 0 if not meta.fp4_padded else 2 if self.doubles_fp4_shape else 1
        return (
            found.element_type, meta.element_size, meta.swizzle, rank, halves, found.clears_bit, dtypes,
            meta.block_shape[::-1], len(sizes),
        )  # fmt: skip

    # --- one value ---------------------------------------------------------------------------------------------------

    def _place(self, launch: _Launch, position: int, value: Any) -> int:
        """Write one argument; returns how many slots it took."""
        param = self.user[position]
        descriptor = TensorDescriptor.of(value)
        if descriptor is not None:
            return self._place_descriptor(launch, position, descriptor)
        kind = category(param.type)
        if kind is None:
            kind = self._infer(param, value)
        if kind == "pointer":
            data = self._address(launch, param, value).to_bytes(8, "little")
        elif kind == "descriptor":
            data = self._tensor_map_bytes(param, value)
        else:
            data = self._scalar(param, value)
        launch.data[param.offset : param.offset + param.size] = data
        return 1

    def _scalar(self, param: Param, value: Any) -> bytes:
        scalar = SCALARS[param.type] if param.type else _UNTYPED[param.size, _is_float(value)]
        if not isinstance(value, (int, float)) and is_tensor(value) and not _is_numpy_scalar(value):
            one = all(size == 1 for size in getattr(value, "shape", ()))
            advice = "pass its value, .item()" if one else "are the arguments in another order?"
            raise self._wrong(param, f"a number, found {describe(value)}; {advice}")
        try:
            data = scalar.pack(value, signless=param.signless)
        except TypeError:
            expected = "a number" if scalar.kind == "float" else "an int"
            raise self._wrong(param, f"{expected} for {scalar.name}, found {describe(value)}") from None
        except OverflowError as error:
            raise self._wrong(param, f"a value of {scalar.name}: {error}") from None
        if param.divisibility > 1 and scalar.kind == "integer" and int(value) % param.divisibility:
            raise self._wrong(
                param,
                f"a multiple of {param.divisibility}, for which the kernel was specialised, found {value}; "
                f"compile it without that specialisation",
            )
        return data

    def _infer(self, param: Param, value: Any) -> str:
        """What a slot of unknown type is, by the value it is given (see `trlaunch.signature`)."""
        number = isinstance(value, (int, float)) or _is_numpy_scalar(value)
        if param.size == 8 and (isinstance(value, Pointer) or (is_tensor(value) and not number)):
            return "pointer"
        if number and (param.size, _is_float(value)) in _UNTYPED:
            return "number"
        raise self._wrong(
            param,
            f"a value whose type tells what the slot is (8 bytes: a tensor or an int; 4 bytes: an int or a float), "
            f"found {describe(value)}; give signature= or put the .ttir beside the binary. The slots are\n"
            f"{self.signature.table()}",
        )

    def _tensor_map_bytes(self, param: Param, value: Any) -> bytes:
        if isinstance(value, (bytes, bytearray, memoryview)) and len(value) == param.size:
            return bytes(value)
        raise self._wrong(
            param,
            f"a trlaunch.TensorDescriptor or the {param.size} bytes of an encoded CUtensorMap, found {describe(value)}",
        )

    # --- pointers ----------------------------------------------------------------------------------------------------

    def _address(self, launch: _Launch, param: Param, value: Any) -> int:
        if isinstance(value, Pointer):
            if value.nbytes is not None:
                launch.buffers.append(Buffer(value.address, value.nbytes, param.name or f"parameter {param.index}"))
            self._check_alignment(param, value.address)
            return value.address
        if value is None:
            raise self._wrong(param, "a tensor, found None (Triton compiles None in as a constexpr: leave it out)")
        if isinstance(value, int):
            raise self._wrong(
                param, f"a tensor, found the int {value}; a raw address is passed as trlaunch.Pointer({value})"
            )
        if not is_tensor(value):
            raise self._wrong(param, f"a tensor or trlaunch.Pointer, found {describe(value)}")
        try:
            tensor = view(value, launch.stream)
        except TypeError as error:
            raise self._wrong(param, f"a tensor, found a {type(value).__name__} that cannot be used: {error}") from None
        self._check_dtype(param, tensor, value)
        self._check_place(launch, param, tensor, value)
        self._check_alignment(param, tensor.address)
        self._record(launch, param, tensor)
        return tensor.address

    def _check_alignment(self, param: Param, address: int) -> None:
        if param.divisibility > 1 and address % param.divisibility:
            raise self._wrong(
                param,
                f"an address that is a multiple of {param.divisibility}, for which the kernel was specialised, found "
                f"{address:#x}, {address % param.divisibility} past one; pass an aligned copy",
            )

    def _record(self, launch: _Launch, param: Param, tensor: TensorView) -> None:
        launch.keep.append(tensor.keep)
        name = param.name or f"parameter {param.index}"
        facts = tensor.dtype, tensor.shape, tensor.strides
        launch.buffers.append(Buffer(tensor.address, tensor.extent or 0, name, tensor.read_only, *facts))
        # The array interface calls the legacy default stream 1, the driver API 0 as well.
        if tensor.stream is not None and (tensor.stream or 1) != (launch.stream or 1):
            launch.waits.add(tensor.stream)

    def _check_dtype(self, param: Param, tensor: TensorView, value: Any) -> None:
        expected, found = (param.type or "*")[1:], tensor.dtype
        if not expected or found is None or reinterprets(expected, found):
            return
        if expected.startswith("*"):
            expected = "u64"
        raise self._wrong(
            param,
            f"a tensor of {expected}, found {describe(value)} ({found}); pass a view of that dtype, "
            f"or trlaunch.Pointer(address) to reinterpret the memory",
        )

    def _check_place(self, launch: _Launch, param: Param, tensor: TensorView, value: Any) -> None:
        place, device = tensor.place, launch.device
        if device.driver == "emulator":
            if place not in ("cpu", "emulator"):
                raise self._wrong(param, f"a tensor in host memory (the emulator runs it), found {describe(value)}")
            if tensor.extent is None:
                raise self._wrong(
                    param, f"a tensor of known extent, found {describe(value)}; use trlaunch.Pointer(address, nbytes)"
                )
            return
        if place == str(device) or place == "managed" or tensor.extent == 0:
            return
        if place in ("cpu", "emulator"):
            raise self._wrong(
                param, f"a tensor on {device}, found {describe(value)} in host memory; copy it to the device"
            )
        if place is None:
            owner = launch.driver.device_of_pointer(tensor.address)
            if owner is None:
                raise self._wrong(
                    param, f"device memory of {device}, found {tensor.address:#x}, which is not device memory"
                )
            place = f"{device.driver}:{owner}"
        if place != str(device):
            raise self._wrong(
                param,
                f"a tensor on {device}, found {describe(value)} on {place}; copy it, or launch with device={place!r}",
            )

    # --- descriptors -------------------------------------------------------------------------------------------------

    def _place_descriptor(self, launch: _Launch, position: int, descriptor: TensorDescriptor) -> int:
        param = self.user[position]
        try:
            resolved = descriptor.resolve(launch.stream)
        except ArgumentError as error:
            raise self._wrong(param, f"a tensor descriptor: {error}") from None
        self._check_place(launch, param, resolved.base, descriptor.tensor)
        if param.is_tensor_map:
            return self._place_native(launch, position, resolved)
        return self._place_decomposed(launch, position, resolved)

    def _place_native(self, launch: _Launch, position: int, resolved: Resolved) -> int:
        param, rank = self.user[position], len(resolved.shape)
        meta = self.descriptors[param.index]
        try:
            data = self.maps.get(resolved, meta, launch.driver, launch.device.ordinal)
        except ArgumentError as error:
            raise self._wrong(param, str(error)) from None
        self._record(launch, param, resolved.base)
        if meta is None:  # Triton 3.2 and 3.3 pass the map alone
            self._write(launch, position, [data])
            return 1
        shape = list(resolved.shape)
        if meta.fp4_padded and self.doubles_fp4_shape:
            shape[-1] *= 2
        fields = [data, *(_int(n, 4) for n in shape), *(_int(n, 8) for n in resolved.strides)]
        self._expect_sizes(position, [len(f) for f in fields], f"a descriptor of {rank} axes")
        self._write(launch, position, fields)
        return len(fields)

    def _place_decomposed(self, launch: _Launch, position: int, resolved: Resolved) -> int:
        param, rank = self.user[position], len(resolved.shape)
        if category(param.type) not in ("pointer", None) or param.size != 8:
            raise self._wrong(param, "another kind of argument, found a tensor descriptor")
        flags = [b"\0" if not flag else b"\1" for flag in (resolved.nan, resolved.tf32)]
        after = position + 1 + 2 * rank
        taken = 0  # no flag in 3.4, padding from 3.5, tf32 rounding from 3.7
        while taken < 2 and after + taken < len(self.user) and self.user[after + taken].size == 1:
            taken += 1
        for flag, what in list(zip(flags, ("padding='nan'", "round_f32_to_tf32"), strict=True))[taken:]:
            if flag != b"\0":
                raise self._wrong(param, f"a descriptor without {what}: this release of Triton cannot pass it")
        fields = [
            _int(resolved.base.address, 8),
            *(_int(n, 8) for n in (*resolved.shape, *resolved.strides)),
            *flags[:taken],
            *(_int(n, 4) for n in resolved.shape),
            *(_int(n, 8) for n in resolved.strides),
        ]
        hint = "; Triton 3.0 and 3.1 take its address: pass descriptor.on_device()" if self.takes_addresses else ""
        self._expect_sizes(position, [len(f) for f in fields], f"a decomposed descriptor of {rank} axes", hint)
        self._check_dtype(param, resolved.base, resolved.base.keep)
        self._record(launch, param, resolved.base)
        self._write(launch, position, fields)
        return len(fields)

    def _expect_sizes(self, position: int, sizes: list[int], what: str, hint: str = "") -> None:
        found = [p.size for p in self.user[position : position + len(sizes)]]
        if found != sizes:
            raise self._wrong(
                self.user[position],
                f"{what} to take slots of {sizes} bytes, found {found}: the kernel takes no such descriptor here{hint}",
            )

    def _write(self, launch: _Launch, position: int, fields: Sequence[bytes]) -> None:
        for param, data in zip(self.user[position:], fields, strict=False):
            launch.data[param.offset : param.offset + param.size] = data

    # --- messages ----------------------------------------------------------------------------------------------------

    def _wrong(self, param: Param, rest: str) -> ArgumentError:
        return ArgumentError(f"{self.kernel}, {param.label}: expected {rest}")

    def _expect_leaves(self, position: int, key: str, given: int) -> None:
        """A tuple by name fills the parameters of that name, and no more."""
        taken = 0
        for param in self.user[position:]:
            if param.name is None or key not in (param.name, param.name.partition(".")[0]):
                break
            taken += 1
        if given != taken and (given > 1 or taken == 0):
            values = "1 value" if taken == 1 else f"{taken} values"
            raise ArgumentError(f"{self.kernel}: {key!r} takes {values}, {given} were given by name")

    def _missing(self, position: int, named: Mapping[str, Any]) -> str:
        param = self.user[position]
        hint = "" if param.name or not named else " (the parameters' names are not known: pass arguments by position)"
        names = {name for p in self.user if p.name for name in (p.name, p.name.partition(".")[0])}
        if param.name and (strangers := sorted(named.keys() - names)):
            hint = f" ({strangers[0]!r} was given, which it does not have)"
        return (
            f"{self.kernel} takes {len(self.user)} arguments, {param.label} and what follows it are missing{hint}; "
            f"it takes\n{self.signature.table()}"
        )

    def _unknown(self, name: str) -> str:
        names = [p.name for p in self.user if p.name]
        if name in names or any(n.partition(".")[0] == name for n in names):
            return f"{self.kernel} got {name!r} both by position and by name"
        if not names:
            return (
                f"{self.kernel} has no known parameter names, {name!r} was given: pass arguments by position, "
                f"or give signature="
            )
        return (
            f"{self.kernel} has no parameter {name!r} (constexprs are compiled in): expected one of {', '.join(names)}"
        )


# The type that a slot of unknown type gets, by its size and whether it is given a float.
_UNTYPED = {(8, False): SCALARS["i64"], (4, False): SCALARS["i32"], (4, True): SCALARS["fp32"]}


def reinterprets(expected: str, found: str) -> bool:
    """Whether memory of one dtype serves as that of another: MLIR has no signs, and fp8 and bool come as bytes."""
    if expected.startswith("*"):  # pointers in memory are 64-bit integers
        expected = "u64"
    a, b = SCALARS[expected], SCALARS[found]
    return a is b or (a.size == b.size and "float" not in (a.kind, b.kind))


def flatten(values: Sequence[Any]) -> Iterator[Any]:
    """The leaves of nested tuples and lists, in order."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from flatten(value)
        else:
            yield value


def describe(value: Any) -> str:
    """A value for an error message: type, and dtype, shape and device where it has them."""
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    if isinstance(value, (bool, int, float, str, bytes)) or value is None:
        return f"{name} {value!r:.60}"
    parts = [str(getattr(value, "dtype", "")).rpartition(".")[2]]
    shape = getattr(value, "shape", None)
    parts.append(str(tuple(shape)) if isinstance(shape, (tuple, list)) else "")
    device = getattr(value, "device", None)
    parts.append(f"on {device}" if device is not None and not callable(device) else "")
    return " ".join(["a", name, *(p for p in parts if p)])


def _keyword(param: Param, named: Mapping[str, Any], used: set[str]) -> str | None:
    if param.name is None:
        return None
    for key in (param.name, param.name.partition(".")[0]):
        if key in named and key not in used:
            return key
    return None


def _is_numpy_scalar(value: Any) -> bool:
    return getattr(value, "shape", None) == () and type(value).__module__ in ("numpy", "ml_dtypes")


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or (_is_numpy_scalar(value) and value.dtype.kind not in "biu")


def _int(value: int, size: int) -> bytes:
    return (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
