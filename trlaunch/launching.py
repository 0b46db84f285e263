"""Fast launches: what a launch that went well taught about a kernel, compiled for the next ones.

`Kernel.launch` explains: it looks at everything and says what is wrong. After its first launch on a device the kernel
has a plan, which packs arguments that are plainly right and launches; whatever is not (and all that is wrong) goes back
to the explaining path. A plan is native where ``trlaunch._launcher`` was built, else it is a generated Python function.
``TRLAUNCH_PURE_PYTHON=1`` chooses the latter, ``TRLAUNCH_PURE_PYTHON=explain`` neither.

Both do the same: they take torch's tensors, arrays with ``__cuda_array_interface__`` (CuPy, numba-cuda), trlaunch's own
and `trlaunch.Pointer`, tensor descriptors over any of them, ints and floats; the native one also tuples and keywords.
The GIL makes them safe from several threads; the native launcher declines to be imported by a free-threaded Python,
where the generated one, which shares nothing but dictionaries, serves.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from trlaunch import hook_switch, streams
from trlaunch.driver import Device
from trlaunch.errors import FallbackWarning, warn
from trlaunch.launch_slots import ARRAY_DTYPES, Scratch, array_dtype, dtype_mask, is_interface_array, slot
from trlaunch.memory import DeviceArray
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import Pointer
from trlaunch.torch_tensors import torch_device_type, torch_dtypes, torch_handles

if TYPE_CHECKING:
    from trlaunch.cuda.direct import DirectLaunch as CudaDirect
    from trlaunch.driver import DeviceProperties, Function, LaunchConfig
    from trlaunch.generated_plan import GeneratedPlan
    from trlaunch.hip.direct import DirectLaunch as HipDirect
    from trlaunch.packing import Packer

__all__ = ["MODE", "Launched", "Launches", "accelerated", "bind", "learn", "register"]

#: Of the native launcher; counted up together with the number in native/launcher.c.
_INTERFACE = 3

_F = TypeVar("_F", bound=Callable[..., Any])


class Launched:
    """What launches by plans: its ``_launches`` is where the native launcher finds it without looking it up."""

    __slots__ = ("_launches",)
    _launches: Any


def _load() -> tuple[str, Any]:
    setting = os.environ.get("TRLAUNCH_PURE_PYTHON", "0")
    if setting not in ("", "0", "1", "explain"):
        warn(f"TRLAUNCH_PURE_PYTHON={setting!r} is taken as 1: expected 0, 1 or explain", FallbackWarning)
    if setting not in ("", "0"):
        return ("explain" if setting == "explain" else "python"), None
    try:
        from trlaunch import _launcher  # type: ignore[attr-defined, unused-ignore]
    except ImportError:  # not built, or a Python that it does not serve
        return "python", None
    found = getattr(_launcher, "INTERFACE", 1)
    if found != _INTERFACE:  # built from other sources than those that lie here: a checkout that went on
        warn(
            f"the native launcher that is installed has interface {found}, this trlaunch needs {_INTERFACE}, so that "
            f"launches go through Python: build it again with pip install -e .",
            FallbackWarning,
        )
        return "python", None
    _launcher.know(Pointer, DeviceArray, TensorDescriptor, streams.handle)
    _launcher.know_launched(Launched)
    _launcher.know_arrays(is_interface_array, ARRAY_DTYPES, array_dtype)
    return "native", _launcher


MODE, _native = _load()
"""``"native"``, ``"python"`` or ``"explain"``, and the extension module."""


def _known(value: Any) -> bool:
    return not any(finding.severity == "error" for finding in value)


# --- learning --------------------------------------------------------------------------------------------------------


class Launches:
    """The plans of one kernel where the native launcher is not used; `fixed`: the kernel was given its device."""

    __slots__ = ("fixed", "last", "plans")

    def __init__(self, fixed: bool) -> None:
        self.fixed = fixed
        self.plans: list[GeneratedPlan] = []
        self.last: GeneratedPlan | None = None

    def add(self, plan: GeneratedPlan, usual: bool) -> None:
        """Add a plan of another device; `usual`: for launches without device=, too."""
        self.plans.append(plan)
        self.last = plan if usual else self.last

    def forget(self) -> None:
        """Drop every plan."""
        self.plans, self.last = [], None

    def run(self, grid: Any, args: tuple[Any, ...], stream: Any) -> bool:
        """Launch; ``False`` when it is for the explaining path."""
        last = self.last
        return last is not None and (last.run(grid, args, stream) or self.run_elsewhere(grid, args, stream))

    def run_elsewhere(self, grid: Any, args: tuple[Any, ...], stream: Any) -> bool:
        """Launch what `last` did not; ``False`` when it is for the explaining path."""
        last = self.last
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
            subject = loaded.subject
            direct.scratch = Scratch.of(loaded.driver, loaded.device.ordinal, subject.signature, subject.metadata)
            if _native is not None:
                plan = _native_plan(direct, loaded.packer, loaded.properties)
            else:
                from trlaunch.generated_plan import GeneratedPlan

                plan = GeneratedPlan.of(direct, loaded.packer, loaded.properties, known)
        loaded.plan = plan or False
        if not plan:
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
        _teach(known, plan, device)
    if config.cooperative:
        plan.add_grid(*config.grid)


def _teach(known: Any, plan: Any, device: Any) -> None:
    direct = plan.keep
    for place, address in direct.entries().items():
        plan.add_entry(place, address)
    stranger = direct.stranger()
    if stranger is not None:
        plan.add_stranger(stranger)
    if type(device) is str or type(device) is Device:
        known.add_device(device, plan)


def _native_plan(direct: CudaDirect | HipDirect, packer: Packer, properties: DeviceProperties) -> Any:
    """A plan of the native launcher, ``None`` for a kernel that it does not serve."""
    config = direct.config
    template = direct.template()
    functions = direct.functions
    size = packer.signature.param_bytes
    if template is None or size > _native.MAX_PARAMETERS or max(properties.max_grid) >= 2**32:
        return None
    if not functions[0] or len(direct.parameters[0] if direct.parameters else ()) > _native.MAX_ADDRESSES:
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
    scratch = direct.scratch
    return _native.Plan(
        slots=slots,
        bytes=size,
        config=template,
        grid_offset=direct.grid_offset,
        stream_offset=direct.stream_offset,
        functions=functions,
        primary=direct.primary,
        no_context=direct.no_context,
        cluster=config.cluster,
        limit=direct.limit(properties),
        listed=config.cooperative,
        place=(direct.device_type, properties.device.ordinal),
        keep=direct,
        fail=direct.fail,
        encode=functools.partial(packer.encoded, driver=direct.driver, device=properties.device),
        scratch=None if scratch is None else (scratch.grant, scratch.release),
        convention=getattr(_native, direct.convention),
        parameters=direct.parameters,
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
                _native.know_tensors(kind, dtypes, stream, torch_device_type(torch))
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
        if device is None and not named:
            launches = self._launches
            last = launches.last
            if last is not None and (last.run(grid, args, stream) or launches.run_elsewhere(grid, args, stream)):
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

    def launch(*args: Any, **named: Any) -> Any:
        last = known.last
        if last is not None and not named and last.run(grid, args, stream):
            return None
        if last is not None and not named and known.run_elsewhere(grid, args, stream):
            return None
        return explain(*args, **named)

    return launch
