"""Fast launches: what a launch that went well taught about a kernel, compiled for the next ones.

`Kernel.launch` explains: it looks at everything and says what is wrong. After its first launch on a device the kernel
has a plan, which packs arguments that are plainly right and launches; whatever is not (and all that is wrong) goes back
to the explaining path. A plan is native where ``trlaunch._launcher`` was built, else it is a generated Python function.
``TRLAUNCH_PURE_PYTHON=1`` chooses the latter, ``TRLAUNCH_PURE_PYTHON=explain`` neither.

Both do the same: they take torch's tensors, trlaunch's arrays and `trlaunch.Pointer`, ints and floats; the native one
also tuples, keywords and tensor descriptors. The GIL makes them safe from several threads; the native launcher declines
to be imported by a free-threaded Python, where the generated one, which shares nothing but dictionaries, serves.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from trlaunch import hook_switch, streams
from trlaunch.driver import Device
from trlaunch.memory import DeviceArray
from trlaunch.packing import Packer, reinterprets
from trlaunch.scalars import SCALARS
from trlaunch.signature import Param, category
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import Pointer, dlpack_numbers
from trlaunch.torch_tensors import torch_dtypes, torch_handles

if TYPE_CHECKING:
    from trlaunch.cuda.direct import DirectLaunch
    from trlaunch.driver import DeviceProperties, Function, LaunchConfig

__all__ = ["MODE", "Launched", "Launches", "accelerated", "bind", "learn", "register"]

_F = TypeVar("_F", bound=Callable[..., Any])

ALL_DTYPES = 2**64 - 1


class Launched:
    """What launches by plans: its ``_launches`` is where the native launcher finds it without looking it up."""

    __slots__ = ("_launches",)
    _launches: Any


def _load() -> tuple[str, Any]:
    setting = os.environ.get("TRLAUNCH_PURE_PYTHON", "0")
    if setting not in ("", "0"):
        return ("explain" if setting == "explain" else "python"), None
    try:
        from trlaunch import _launcher  # type: ignore[attr-defined, unused-ignore]
    except ImportError:  # not built, or a Python that it does not serve
        return "python", None
    _launcher.know(Pointer, DeviceArray, TensorDescriptor, streams.handle)
    _launcher.know_launched(Launched)
    return "native", _launcher


MODE, _native = _load()
"""``"native"``, ``"python"`` or ``"explain"``, and the extension module."""


# --- what a kernel takes ---------------------------------------------------------------------------------------------


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


def _known(value: Any) -> bool:
    return not any(finding.severity == "error" for finding in value)


# --- learning --------------------------------------------------------------------------------------------------------


class Launches:
    """The plans of one kernel where the native launcher is not used; `fixed`: the kernel was given its device."""

    __slots__ = ("fixed", "last", "plans")

    def __init__(self, fixed: bool) -> None:
        self.fixed = fixed
        self.plans: list[_PythonPlan] = []
        self.last: _PythonPlan | None = None

    def add(self, plan: _PythonPlan, usual: bool) -> None:
        """Add a plan of another device; `usual`: for launches without device=, too."""
        self.plans.append(plan)
        self.last = plan if usual else self.last

    def forget(self) -> None:
        """Drop every plan."""
        self.plans, self.last = [], None

    def run(self, grid: Any, args: tuple[Any, ...], stream: Any) -> bool:
        """Launch; ``False`` when it is for the explaining path."""
        last = self.last
        if last is None:
            return False
        if last.run(grid, args, stream):
            return True
        if not self.fixed:
            for plan in self.plans:
                if plan is not last and plan.run(grid, args, stream):
                    self.last = plan
                    return True
        return False


def register(kernel: Any, fixed: bool) -> None:
    """Give a new kernel an empty collection of plans, native where that is possible."""
    hook_switch.register(kernel, Launches if _native is None else _native.Launches, fixed)


def learn(
    kernel: Any,
    loaded: Any,
    function: Function,
    config: LaunchConfig,
    device: Any,
) -> None:
    """Make a plan of a launch that the explaining path has just done, or add what was new in it.

    Parameters
    ----------
    kernel : Kernel
    loaded
        It on this device: ``driver``, ``properties``, ``packer``, ``findings``, and ``plan``, which is set.
    function, config
        What was launched, and how.
    device : object
        What the caller gave as ``device=``.
    """
    known = hook_switch.plans_of(kernel)
    direct_launch = getattr(loaded.driver, "direct_launch", None)
    if MODE == "explain" or direct_launch is None or loaded.plan is False:
        return
    if _native is not None:
        _know_torch()
    plan = loaded.plan
    if plan is None:
        plan = False
        if _known(loaded.findings):
            direct = direct_launch(loaded.driver, function, config, loaded.packer.signature.param_bytes)
            make = _native_plan if _native is not None else _PythonPlan.of
            plan = make(direct, loaded.packer, loaded.properties, known) or False
        loaded.plan = plan
        if plan is False:
            return
        if isinstance(known, Launches):
            known.plans.append(plan)
        else:
            known.add(plan, device is None or not known.fixed)
    if isinstance(known, Launches):
        plan.refresh()
        if device is None:
            known.last = plan
    else:
        _teach(known, plan, function, device)
    if config.cooperative:
        plan.add_grid(*config.grid)


def _teach(known: Any, plan: Any, function: Function, device: Any) -> None:
    direct = plan.keep
    entries = direct.entries()
    for context_id, address in entries.items():
        plan.add_entry(context_id, address)
    current = direct.current()
    if current not in entries and current not in function.handle.entries:
        plan.add_stranger(current)
    if type(device) is str or type(device) is Device:
        known.add_device(device, plan)


def _native_plan(direct: DirectLaunch, packer: Packer, properties: DeviceProperties, _: Any) -> Any:
    """A plan of the native launcher, ``None`` for a kernel that it does not serve."""
    config = direct.config
    template = direct.template()
    size = packer.signature.param_bytes
    if template is None or size > _native.MAX_PARAMETERS or max(properties.max_grid) >= 2**32:
        return None
    if any(param.divisibility & (param.divisibility - 1) for param in packer.user):
        return None  # Triton knows powers of two alone
    slots: list[tuple[Any, ...]] = []
    for param in packer.user:
        kind, low, high, divisibility = slot(param)
        dtypes = dtype_mask(param) if kind in ("POINTER", "UNTYPED8") else 0
        place = getattr(_native, kind), param.offset, param.size
        encoding = packer.encoding(len(slots), properties) if param.is_tensor_map else None
        slots.append((*place, low, high, divisibility, dtypes, param.name, encoding))
    addresses = direct.addresses
    return _native.Plan(
        slots=slots,
        bytes=size,
        config=template,
        grid_offset=direct.grid_offset,
        stream_offset=direct.stream_offset,
        functions=(addresses.launch, addresses.identify, addresses.push, addresses.pop, addresses.encode),
        primary=direct.primary,
        no_context=direct.no_context,
        cluster=config.cluster,
        limit=properties.max_grid,
        listed=config.cooperative,
        place=(direct.device_type, properties.device.ordinal),
        keep=direct,
        fail=direct.fail,
        encode=functools.partial(packer.encoded, driver=direct.driver, device=properties.device),
    )


_torch: Any = None
_handled = False


def _know_torch() -> None:
    """Tell the native launcher of torch's tensors and Triton's descriptors once they are imported."""
    global _torch, _handled
    torch = sys.modules.get("torch")
    if torch is not None and torch is not _torch:
        stream = getattr(getattr(torch, "_C", None), "_cuda_getCurrentRawStream", None)
        if stream is not None:  # a build for CPUs alone has none, and no tensor that a GPU could use
            dtypes = torch_dtypes(torch)
            for kind in dict.fromkeys((torch.Tensor, getattr(getattr(torch, "nn", None), "Parameter", torch.Tensor))):
                _native.know_tensors(kind, dtypes, stream)
            _torch = torch
    cuda = getattr(_torch, "cuda", None)
    if not _handled and cuda is not None and cuda.is_initialized():  # before, there is no tensor on a GPU
        handles = torch_handles(_torch)
        _handled = True
        if handles is not None:
            _native.know_handles(*handles)
    triton = sys.modules.get("triton.tools.tensor_descriptor")
    if triton is not None and hasattr(triton, "TensorDescriptor"):
        _native.know_descriptor(triton.TensorDescriptor)


# --- the method of Kernel --------------------------------------------------------------------------------------------


def accelerated(function: _F) -> _F:
    """Have a method that launches try the plans in ``self._launches`` first, and what is around launches then."""

    @functools.wraps(function)
    def explain(self: Any, grid: Any, *args: Any, stream: Any = None, device: Any = None, **named: Any) -> Any:
        around = hook_switch.around
        if around is None:
            return function(self, grid, *args, stream=stream, device=device, **named)
        launch = functools.partial(_launch_hooked, self, function)
        return around(self, launch, grid, args, stream, device, named)

    if MODE == "explain":
        return explain  # type: ignore[return-value]
    if _native is not None:
        method: _F = _native.Method(explain)
        return method

    @functools.wraps(function)
    def launch(self: Any, grid: Any, *args: Any, stream: Any = None, device: Any = None, **named: Any) -> Any:
        if device is None and not named and self._launches.run(grid, args, stream):
            return None
        return explain(self, grid, *args, stream=stream, device=device, **named)

    return launch  # type: ignore[return-value]


def _launch_hooked(
    kernel: Any, function: Callable[..., Any], grid: Any, args: Any, stream: Any, device: Any, named: Any
) -> Any:
    """Launch by the plans that were put aside, or by the explaining path."""
    explain = functools.partial(function, kernel, grid, stream=stream, device=device)
    plans = hook_switch.plans_of(kernel)
    if _native is not None:
        return _native.Bound(plans, explain, grid, stream, device)(*args, **named)
    if MODE != "explain" and device is None and not named and plans.run(grid, args, stream):
        return None
    return explain(*args, **named)


def bind(kernel: Any, explain: Callable[..., Any], grid: Any, stream: Any, device: Any) -> Callable[..., Any]:
    """A callable that launches on `grid`, by a plan or by `explain`."""
    known = kernel._launches
    if _native is not None:
        bound: Callable[..., Any] = _native.Bound(known, explain, grid, stream, device)
        return bound
    if MODE == "explain" or device is not None:
        return explain
    run = known.run

    def launch(*args: Any, **named: Any) -> Any:
        if not named and run(grid, args, stream):
            return None
        return explain(*args, **named)

    return launch


# --- plans without the native launcher -------------------------------------------------------------------------------

_FORMATS = {
    "i1": "B", "u1": "B", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
    "fp16": "e", "bf16": "H", "fp32": "f", "fp64": "d",
}  # fmt: skip


class _PythonPlan:
    """A plan as one generated function: `run` launches, or says with ``False`` that it is for the explaining path."""

    def __init__(self, direct: DirectLaunch, packer: Packer, properties: DeviceProperties, fixed: bool) -> None:
        self.direct = direct
        self.params = packer.user
        self.size = packer.signature.param_bytes
        self.properties = properties
        self.fixed = fixed
        self.torch: Any = None
        self.grids: set[tuple[int, int, int]] = set()
        self.run: Callable[[Any, tuple[Any, ...], Any], bool] = self._compile()

    @classmethod
    def of(
        cls, direct: DirectLaunch, packer: Packer, properties: DeviceProperties, known: Launches
    ) -> _PythonPlan | None:
        """The plan, ``None`` for a kernel with parameters that need the explaining path."""
        if any(slot(param)[0] in ("TENSOR_MAP", "UNTYPED4") for param in packer.user):
            return None
        return cls(direct, packer, properties, known.fixed)

    def add_grid(self, x: int, y: int, z: int) -> None:
        """A cooperative grid that was found to fit."""
        self.grids.add((x, y, z))

    def refresh(self) -> None:
        """Take torch's tensors too, once torch was imported."""
        torch = sys.modules.get("torch")
        if torch is not self.torch and hasattr(getattr(torch, "_C", None), "_cuda_getCurrentRawStream"):
            self.torch = torch
            self.run = self._compile()

    def _compile(self) -> Callable[[Any, tuple[Any, ...], Any], bool]:
        import struct

        from trlaunch.scalars import bfloat16_bits

        body, values, layout, end = [], [], "<", 0
        names: dict[str, Any] = {"bfloat16_bits": bfloat16_bits, "Array": DeviceArray, "Pointer": Pointer}
        for i, param in enumerate(self.params):
            layout += f"{param.offset - end}x" if param.offset > end else ""
            end = param.offset + param.size
            body += self._converter(i, param, names)
            pointer = slot(param)[0] in ("POINTER", "UNTYPED8")
            layout += "Q" if pointer else _FORMATS.get(param.type or "", "B")
            values.append(f"p{i}" if pointer or param.type == "bf16" else f"a{i}")
        layout += f"{self.size - end}x" if self.size > end else ""
        packer = struct.Struct(layout)
        arguments = "".join(f"a{i}, " for i in range(len(self.params)))
        lines = [
            "def run(grid, args, stream):",
            f"    if len(args) != {len(self.params)}:",
            "        return False",
            *([f"    {arguments}= args"] if arguments else []),
            "    located = is_torch = False",
            "    try:",
            *(f"        {line}" for line in body or ["pass"]),
            "    except (OverflowError, RuntimeError):",
            "        return False",
            "    if stream is None:",
            "        stream = current(ordinal) if is_torch else 0",
            "    elif stream.__class__ is not int:",
            "        return False",
            "    try:",
            "        seen, launch = configured[grid, stream]",
            "    except (KeyError, TypeError):",
            "        seen, launch = configure(grid, stream)",
            "        if launch is None:",
            "            return False",
            "    if seen is not grid and not plain(grid):",
            "        return False",
            "    try:",
            f"        if launch(pack_into, ({''.join(f'{v}, ' for v in values)})):",
            "            return True",
            f"        return (located or fixed) and push(grid, stream, ({''.join(f'{v}, ' for v in values)}))",
            "    except (error, OverflowError):",
            "        return False",
        ]
        # None of these refers to the plan: it must go, and the kernel's module with it, when the kernel does.
        configured: dict[Any, Any] = {}
        direct = self.direct
        ctas_of = functools.partial(_ctas, direct.config, self.properties.max_grid, self.grids)

        def push(grid: Any, stream: int, packed: tuple[Any, ...]) -> bool:
            ctas = ctas_of(grid)
            if ctas is None:
                return False
            direct.push(ctas, stream, packer.pack(*packed))
            return True

        names |= {
            "ordinal": self.properties.device.ordinal,
            "configured": configured,
            "configure": _configure(configured, ctas_of, direct.launcher()),
            "plain": _is_plain,
            "push": push,
            "fixed": self.fixed,
            "pack_into": packer.pack_into,
            "error": struct.error,
        }
        if self.torch is not None:
            names |= {"Tensor": self.torch.Tensor, "current": self.torch._C._cuda_getCurrentRawStream}
        exec("\n".join(lines), names)  # noqa: S102  the text is made of the lines above
        run: Callable[[Any, tuple[Any, ...], Any], bool] = names.pop("run")
        return run

    def _converter(self, i: int, param: Param, names: dict[str, Any]) -> list[str]:
        """Lines that check argument `i`, and compute what is packed where that is not the argument itself."""
        kind, low, high, divisibility = slot(param)
        lines = []
        if kind == "INTEGER":
            lines = [f"if a{i}.__class__ is not int" + (f" or a{i} % {divisibility}" if divisibility > 1 else "") + ":"]
            if param.size == 1:
                lines.insert(
                    0,
                    f"if a{i}.__class__ is int and not {max(low, -128)} <= a{i} <= {SCALARS[param.type or 'i8'].high}:",
                )
                lines.insert(1, "    return False")
            return [*lines, "    return False"]
        if kind in ("FP16", "BF16", "FP32", "FP64"):
            lines = [f"if a{i}.__class__ is not float and a{i}.__class__ is not int:", "    return False"]
            return [*lines, f"p{i} = bfloat16_bits(a{i})"] if kind == "BF16" else lines
        mask = dtype_mask(param)
        names[f"numbers{i}"] = frozenset(n for n in range(64) if mask >> n & 1)
        lines = [f"kind = a{i}.__class__"]
        branch = "if"
        if self.torch is not None:
            known = torch_dtypes(self.torch)
            names[f"dtypes{i}"] = frozenset(k for k, number in known.items() if mask >> number & 1)
            lines += [
                "if kind is Tensor:",
                f"    if a{i}.get_device() != ordinal or a{i}.dtype not in dtypes{i}:",
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
        lines += ["else:", "    return False"]
        if divisibility > 1:
            lines += [f"if p{i} % {divisibility}:", "    return False"]
        return lines


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


def _configure(
    configured: dict[Any, Any],
    ctas_of: Callable[[Any], tuple[int, int, int] | None],
    make: Callable[[tuple[int, int, int], int], Any],
) -> Callable[[Any, int], tuple[Any, Any]]:
    """What the generated function calls for a grid and a stream that `configured` has not."""

    def configure(grid: Any, stream: int) -> tuple[Any, Any]:
        ctas = ctas_of(grid)
        if ctas is None or not 0 <= stream < 2**64:
            return None, None
        launch = make(ctas, stream)
        if type(grid) is not list:
            if len(configured) >= 1024:
                configured.clear()
            configured[grid, stream] = grid, launch
        return grid, launch

    return configure


def _is_plain(grid: Any) -> bool:
    """Whether a grid is of ints alone: 1.0 is found in a dictionary where 1 is."""
    return all(type(size) is int for size in (grid if isinstance(grid, (tuple, list)) else (grid,)))
