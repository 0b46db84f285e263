"""Plans of `trlaunch.launching` for the interpreter: one generated function for each kernel and device."""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trlaunch.errors import TrlaunchError
from trlaunch.launch_slots import ARRAY_DTYPES, array_dtype, dtype_mask, is_interface_array, slot
from trlaunch.memory import DeviceArray
from trlaunch.scalars import SCALARS, bfloat16_bits
from trlaunch.signature import Param
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import Pointer, contiguous_strides
from trlaunch.torch_tensors import torch_device_type, torch_dtypes

if TYPE_CHECKING:
    from trlaunch.driver import DeviceProperties, LaunchConfig
    from trlaunch.packing import Packer

__all__ = ["GeneratedPlan"]

_FORMATS = {
    "i1": "B", "u1": "B", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
    "fp16": "e", "bf16": "H", "fp32": "f", "fp64": "d",
}  # fmt: skip
_MOST_CONFIGURATIONS = 1024
_MOST_MAPS = 256


class _Unusual(RuntimeError):
    """An argument is for the explaining path."""


class GeneratedPlan:
    """A plan as one generated function: `run` launches, or says with ``False`` that it is for the explaining path.

    Parameters
    ----------
    direct : DirectLaunch
    packer : Packer
    properties : DeviceProperties
    fixed : bool
        The kernel was given its device.
    """

    __slots__ = ("direct", "fixed", "grids", "packer", "places", "properties", "run", "size", "torch", "triton")

    def __init__(self, direct: Any, packer: Packer, properties: DeviceProperties, fixed: bool) -> None:
        places = _places(packer, properties)
        assert places is not None, "GeneratedPlan.of asks first"
        self.direct = direct
        self.packer = packer
        self.places = places
        self.size = packer.signature.param_bytes
        self.properties = properties
        self.fixed = fixed
        self.torch: Any = None
        self.triton: Any = None
        self.grids: set[tuple[int, int, int]] = set()
        self.run: Callable[[Any, tuple[Any, ...], Any], bool] = self._compile()

    @classmethod
    def of(cls, direct: Any, packer: Packer, properties: DeviceProperties, known: Any) -> GeneratedPlan | None:
        """The plan, ``None`` for a kernel with parameters that need the explaining path."""
        return None if _places(packer, properties) is None else cls(direct, packer, properties, known.fixed)

    def add_grid(self, x: int, y: int, z: int) -> None:
        """A cooperative grid that was found to fit."""
        self.grids.add((x, y, z))

    def refresh(self) -> None:
        """Take torch's tensors and Triton's descriptors too, once these were imported."""
        torch = sys.modules.get("torch")
        known = hasattr(getattr(torch, "_C", None), "_cuda_getCurrentRawStream")
        if not known or torch_device_type(torch) != self.direct.device_type:
            torch = self.torch
        triton = getattr(sys.modules.get("triton.tools.tensor_descriptor"), "TensorDescriptor", self.triton)
        if torch is not self.torch or triton is not self.triton:
            self.torch, self.triton = torch, triton
            self.run = self._compile()

    def _compile(self) -> Callable[[Any, tuple[Any, ...], Any], bool]:
        body, values, layout, end = [], [], "<", 0
        ordinal = self.properties.device.ordinal
        foreign = _foreign_reader(self.direct.owns(ordinal))
        names: dict[str, Any] = {
            "bfloat16_bits": bfloat16_bits, "Array": DeviceArray, "Pointer": Pointer, "foreign": foreign,
        }  # fmt: skip
        for i, (param, position, nbytes) in enumerate(self.places):
            layout += f"{param.offset - end}x" if param.offset > end else ""
            end = param.offset + nbytes
            if param.is_tensor_map:
                names[f"described{i}"] = self._describer(position, param.offset, nbytes, foreign)
                body += [f"p{i}, asked, theirs = described{i}(a{i}, asked)", "located = True"]
                body += ["if theirs:", "    is_torch = True"]
                layout += f"{nbytes}s"
                values.append(f"p{i}")
                continue
            body += self._converter(i, param, names)
            pointer = slot(param)[0] in ("POINTER", "UNTYPED8")
            layout += "Q" if pointer else _FORMATS.get(param.type or "", "B")
            values.append(f"p{i}" if pointer or param.type == "bf16" else f"a{i}")
        layout += f"{self.size - end}x" if self.size > end else ""
        packer = struct.Struct(layout)
        arguments = "".join(f"a{i}, " for i in range(len(self.places)))
        packed = "".join(f"{value}, " for value in values)
        direct = self.direct
        here, packing, launching, named = direct.written(f"pack_into(view, 0, {packed})")
        names |= named
        if direct.scratch is not None:
            names["lent"] = direct.scratch.lent
            launching = ["with lent(view, ctas, stream):", *(f"    {line}" for line in launching)]
        lines = [
            "def run(grid, args, stream):",
            "    global kept",
            f"    if len(args) != {len(self.places)}:",
            "        return False",
            *([f"    {arguments}= args"] if arguments else []),
            "    located = is_torch = False",
            "    asked = 0",
            "    try:",
            *(f"        {line}" for line in body or ["pass"]),
            "    except (OverflowError, RuntimeError):",
            "        return False",
            "    if stream is None:",
            "        stream = current(ordinal) if is_torch else 0",
            "    elif type(stream) is not int:",
            "        return False",
            "    if asked and asked != (stream or 1):",
            "        return False",
            "    seen, sent, ctas, made = kept",
            "    if grid is not seen or stream != sent:",
            "        found = configure(grid, stream)",
            "        if found is None:",
            "            return False",
            "        _, _, ctas, made = found",
            "        if type(grid) is tuple or type(grid) is int:",
            "            kept = found",
            *(f"    {line}" for line in here),
            "    try:",
            "        if entry is None:",
            f"            return (located or fixed) and push(ctas, stream, ({packed}))",
            *(f"        {line}" for line in packing),
            "    except (misfit, OverflowError):",
            "        return False",
            *(f"    {line}" for line in launching),
            "    return True",
        ]
        # None of these refers to the plan: it must go, and the kernel's module with it, when the kernel does.
        ctas_of = functools.partial(_ctas, direct.config, direct.limit(self.properties), self.grids)

        def push(ctas: tuple[int, int, int], stream: int, packed: tuple[Any, ...]) -> bool:
            if direct.scratch is not None:
                return False
            direct.push(ctas, stream, packer.pack(*packed))
            return True

        names |= {
            "ordinal": ordinal,
            "kept": (None, None, None, None),
            "configure": _configure(ctas_of, direct.configured),
            "push": push,
            "fixed": self.fixed,
            "pack_into": packer.pack_into,
            "misfit": struct.error,
        }
        if self.torch is not None:
            names |= {"Tensor": self.torch.Tensor, "current": self.torch._C._cuda_getCurrentRawStream}
        exec("\n".join(lines), names)  # noqa: S102  the text is made of the lines above
        run: Callable[[Any, tuple[Any, ...], Any], bool] = names.pop("run")
        return run

    def _converter(self, i: int, param: Param, names: dict[str, Any]) -> list[str]:
        """Lines that check argument `i`, and compute what is packed where that is not the argument itself."""
        kind, low, high, divisibility = slot(param)
        if kind == "INTEGER":
            lines = [f"if type(a{i}) is not int" + (f" or a{i} % {divisibility}" if divisibility > 1 else "") + ":"]
            if param.size == 1:
                top = SCALARS[param.type or "i8"].high
                lines[:0] = [f"if type(a{i}) is int and not {max(low, -128)} <= a{i} <= {top}:", "    return False"]
            return [*lines, "    return False"]
        if kind in ("FP16", "BF16", "FP32", "FP64"):
            lines = [f"if type(a{i}) is not float and type(a{i}) is not int:", "    return False"]
            return [*lines, f"p{i} = bfloat16_bits(a{i})"] if kind == "BF16" else lines
        mask = dtype_mask(param)
        names[f"numbers{i}"] = frozenset(n for n in range(64) if mask >> n & 1)
        lines = [f"kind = type(a{i})"]
        branch = "if"
        if self.torch is not None:
            known = [dtype for dtype, number in torch_dtypes(self.torch).items() if mask >> number & 1]
            names[f"dtypes{i}"] = frozenset(known)
            names[f"dtype{i}"] = known[0] if known else None
            lines += [
                "if kind is Tensor:",
                f"    dtype = a{i}.dtype",
                f"    if a{i}.get_device() != ordinal or dtype is not dtype{i} and dtype not in dtypes{i}:",
                "        return False",
                f"    p{i} = a{i}.data_ptr()",
                f"    if not p{i}:",
                "        return False",
                "    located = is_torch = True",
            ]
            branch = "elif"
        lines += [
            f"{branch} kind is Array:",
            f"    p{i}, place, owner, number = a{i}._native",
            f"    if place != {self.direct.device_type} or owner != ordinal or number not in numbers{i} or not p{i}:",
            "        return False",
            "    located = True",
            "elif kind is Pointer:",
            f"    p{i} = a{i}.address",
        ]
        if kind == "UNTYPED8":
            lines += [f"elif kind is int and {low} <= a{i} <= {high}:", f"    p{i} = a{i} & {2**64 - 1}"]
        lines += [
            "else:",
            f"    p{i}, asked, number, sizes, steps = foreign(a{i}, asked)",
            f"    if number not in numbers{i}:",
            "        return False",
            "    located = True",
        ]
        if divisibility > 1:
            lines += [f"if p{i} % {divisibility}:", "    return False"]
        return lines

    def _describer(
        self, position: int, offset: int, nbytes: int, foreign: Callable[[Any, int], tuple[Any, ...]]
    ) -> Callable[[Any, int], tuple[bytes, int, bool]]:
        """A function that gives the bytes of a tensor descriptor, encoded once for the same numbers."""
        encode = functools.partial(self.packer.encoded, driver=self.direct.driver, device=self.properties.device)
        tensor_type = getattr(self.torch, "Tensor", None)
        triton, device_type, ordinal = self.triton, self.direct.device_type, self.properties.device.ordinal
        kept: dict[tuple[Any, ...], bytes] = {}

        def described(value: Any, asked: int) -> tuple[bytes, int, bool]:
            kind = type(value)
            if kind is TensorDescriptor:
                base, padding, tf32 = value.tensor, value.padding, value.round_f32_to_tf32
            elif kind is triton is not None:
                base = value.base
                padding, tf32 = getattr(value, "padding", "zero"), getattr(value, "round_f32_to_tf32", False)
            else:
                raise _Unusual
            shape, strides = value.shape, value.strides
            theirs = False
            kind = type(base)
            dtype: Any
            if kind is tensor_type and kind is not type(None):
                if base.get_device() != ordinal:
                    raise _Unusual
                address, dtype, theirs = base.data_ptr(), base.dtype, True
                shape = base.shape if shape is None else shape
                strides = base.stride() if strides is None else strides
            else:
                if kind is DeviceArray:
                    address, place, owner, dtype = base._native
                    sizes, steps = base.shape, None
                    if place != device_type or owner != ordinal:
                        raise _Unusual
                else:
                    address, asked, dtype, sizes, steps = foreign(base, asked)
                shape = sizes if shape is None else shape
                strides = steps if strides is None else strides
                strides = contiguous_strides(sizes) if strides is None else strides
            if not address or type(padding) is not str or type(tf32) is not bool:
                raise _Unusual
            key = (address, dtype, _ints(shape), _ints(strides), _ints(value.block_shape), padding, tf32)
            found = kept.get(key)
            if found is None:
                found = _encoded(encode, position, value, offset, nbytes)
                if len(kept) >= _MOST_MAPS:
                    kept.clear()
                kept[key] = found
            return found, asked, theirs

        return described


def _places(packer: Packer, properties: DeviceProperties) -> list[tuple[Param, int, int]] | None:
    """For each argument its first parameter, that one's position, and the bytes it fills; ``None`` for odd kernels."""
    places = []
    position = 0
    while position < len(packer.user):
        param = packer.user[position]
        taken, nbytes = 1, param.size
        if param.is_tensor_map:
            encoding = packer.encoding(position, properties)
            if encoding is not None:  # shape and strides follow
                taken = encoding[-1]
                last = packer.user[position + taken - 1]
                nbytes = last.offset + last.size - param.offset
            elif packer.descriptors[param.index] is not None:
                return None
        elif slot(param)[0] in ("TENSOR_MAP", "UNTYPED4"):
            return None
        places.append((param, position, nbytes))
        position += taken
    return places


def _foreign_reader(owned: Callable[[int], bool]) -> Callable[[Any, int], tuple[Any, ...]]:
    """A function that reads arrays by ``__cuda_array_interface__``, as `trlaunch.tensors.view` does.

    It takes an array, and the stream that those before it asked to be waited for, 0 for none; it gives the address,
    the stream as known now, the dtype's number, the shape, and the strides in elements, ``None`` for contiguous ones.
    """
    kinds: set[type] = set()
    itemsizes: dict[str, int] = {}

    def foreign(value: Any, asked: int) -> tuple[Any, ...]:
        kind = type(value)
        if kind not in kinds:
            if not is_interface_array(value):
                raise _Unusual
            kinds.add(kind)
        try:
            interface = value.__cuda_array_interface__
            address, _ = interface["data"]
            shape, typestr = interface["shape"], interface["typestr"]
            strides, stream = interface.get("strides"), interface.get("stream")
            dtype = getattr(value, "dtype", typestr)
            number = ARRAY_DTYPES.get(dtype)
            itemsize = itemsizes.get(typestr) or itemsizes.setdefault(typestr, int(typestr[2:]))
            if strides is not None:
                if type(strides) is not tuple or len(strides) != len(shape):
                    raise _Unusual
                if any(step % itemsize for step in strides):
                    raise _Unusual
                strides = tuple([step // itemsize for step in strides])
        except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
            raise _Unusual from None
        if type(address) is not int or type(shape) is not tuple or 0 in shape or not owned(address):
            raise _Unusual
        if number is None:
            number = array_dtype(dtype)
        if number < 0:
            raise _Unusual
        if stream is not None:
            if type(stream) is not int or (asked and asked != (stream or 1)):
                raise _Unusual
            asked = stream or 1  # the legacy default stream is 1 there
        return address, asked, number, shape, strides

    return foreign


def _encoded(encode: Callable[..., Any], position: int, value: Any, offset: int, nbytes: int) -> bytes:
    try:
        made = encode(position, value)
    except TrlaunchError:
        raise _Unusual from None  # it is raised again where the launch is explained
    if made is None or made[1] != offset or len(made[2]) != nbytes:
        raise _Unusual
    return bytes(made[2])


def _ints(value: Any) -> tuple[int, ...]:
    """Ints alone: 1.0 is found in a dictionary where 1 is."""
    try:
        found = value if type(value) is tuple else tuple(value)
    except TypeError:
        raise _Unusual from None
    for size in found:
        if type(size) is not int:
            raise _Unusual
    return found


def _ctas(
    config: LaunchConfig, limits: tuple[int, int, int], fitting: set[tuple[int, int, int]], grid: Any
) -> tuple[int, int, int] | None:
    """CTAs along each axis, ``None`` where the explaining path must look at the grid."""
    sizes = grid if isinstance(grid, (tuple, list)) else (grid,)
    if not 1 <= len(sizes) <= 3 or not _is_plain(grid):
        return None
    x, y, z = (size * step for size, step in zip((*sizes, 1, 1)[:3], config.cluster, strict=True))
    found = (x, y, z)
    if min(found) < 1 or any(map(int.__gt__, found, limits)):
        return None
    return None if config.cooperative and found not in fitting else found


_Configured = tuple[Any, int, tuple[int, int, int], Any]


def _configure(
    ctas_of: Callable[[Any], tuple[int, int, int] | None],
    make: Callable[[tuple[int, int, int], int], Any],
) -> Callable[[Any, int], _Configured | None]:
    """A function that gives the configuration of a grid and a stream, and keeps it: both, CTAs, what the driver takes.

    It gives ``None`` for a grid that the explaining path must look at.
    """
    configured: dict[Any, _Configured] = {}

    def configure(grid: Any, stream: int) -> _Configured | None:
        keeps = type(grid) is tuple or type(grid) is int  # what cannot change, and compares as it looks
        kept = configured.get((grid, stream)) if keeps and _is_plain(grid) else None
        if kept is not None:
            return grid, *kept[1:]
        ctas = ctas_of(grid)
        if ctas is None or not 0 <= stream < 2**64:
            return None
        found = grid, stream, ctas, make(ctas, stream)
        if keeps:
            if len(configured) >= _MOST_CONFIGURATIONS:
                configured.clear()
            configured[grid, stream] = found
        return found

    return configure


def _is_plain(grid: Any) -> bool:
    """Whether a grid is of ints alone: 1.0 is found in a dictionary where 1 is."""
    if type(grid) is int:
        return True
    if not isinstance(grid, (tuple, list)):
        return False
    for size in grid:  # noqa: SIM110  a generator would take several times as long
        if type(size) is not int:
            return False
    return True
