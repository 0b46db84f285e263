"""``trlaunch.patch_triton``: code that cannot be edited calls Triton, and its kernels are launched by trlaunch.

Triton has one place for this: the active driver, an object that says which device there is, loads binaries and makes
launchers. While the patch is in place that object is trlaunch's; no class or function of Triton is changed. Everything
that launches through a ``CompiledKernel`` goes this way: ``kernel[grid](...)``, autotuners, libraries that keep the
compiled kernel, and the code that ``torch.compile`` makes, whose own launcher of cubins is switched off meanwhile.
Triton specialises, compiles and caches as ever.
"""

from __future__ import annotations

import importlib
import os
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trlaunch import hook_switch
from trlaunch.artifact import Artifact, Level
from trlaunch.devices import default_device, get
from trlaunch.driver import Device, DeviceProperties
from trlaunch.errors import ArgumentError, ArtifactError
from trlaunch.kernel import Kernel
from trlaunch.lowering.options import jsonable
from trlaunch.lowering.specialize import runtime_leaves, without_const
from trlaunch.lowering.triton_compiler import active_attribute, load, release_number
from trlaunch.metadata import Metadata

if TYPE_CHECKING:
    from trlaunch.dump.read import Run

__all__ = ["TritonPatch", "patch_triton"]


def patch_triton(
    device: str | Device | None = None, *, check: str = "error", dump: Mapping[str, Any] | None = None
) -> TritonPatch:
    """Launch Triton's kernels through trlaunch, from this call on.

    As a context manager it ends with the block; else `TritonPatch.stop` ends it. Kernels that were loaded before are
    loaded again, and afterwards those that were loaded before are back. One thing cannot be taken over: a function of
    ``torch.compile`` (or another library that keeps launchers) that already ran keeps the launcher it ran with;
    ``torch.compiler.reset()`` before the patch lets go of it.

    Parameters
    ----------
    device : str, optional
        ``"cuda"``, ``"emulator"``; left out, the GPU if there is one, else the emulator. On a GPU the current device
        and the current stream are those of the driver that was active.
    check : {"error", "warn"}
        Whether an error of the audit refuses a launch.
    dump : mapping of str to request or sequence of them, optional
        By the name of a kernel, values of its TTGIR that each launch captures, as ``trlaunch.Kernel`` takes them;
        `TritonPatch.runs` has what the last launch of each captured.

    Raises
    ------
    LoweringError
        Triton is not installed.

    Examples
    --------
    >>> with trlaunch.patch_triton():       # doctest: +SKIP
    ...     library.softmax(x)
    """
    return TritonPatch(device, check, dump).start()


class TritonPatch:
    """Triton's active driver, replaced until `stop`; made by `patch_triton`.

    Attributes
    ----------
    runs : dict of str to Run
        What the last launch of each kernel with dumps captured, by its name.
    """

    def __init__(self, device: str | Device | None, check: str, dump: Mapping[str, Any] | None = None) -> None:
        if check not in ("error", "warn"):
            raise ArgumentError(f"check={check!r}: expected 'error' or 'warn'")
        self.device = default_device() if device is None else Device.parse(device)
        self.check = check
        self.runs: dict[str, Run] = {}
        self._dumps = dict(dump or {})
        self._saved: list[Callable[[], None]] = []
        self._loaded: weakref.WeakSet[Any] = weakref.WeakSet()  # Triton's CompiledKernel objects

    @property
    def active(self) -> bool:
        """Whether it is in place."""
        return bool(self._saved)

    def start(self) -> TritonPatch:
        """Put it in place again after `stop`; returns itself."""
        if self.active:
            return self
        config = load("runtime.driver").driver
        attribute = active_attribute(config)
        saved = getattr(config, attribute)
        driver = _make_driver(self, _real_driver(config) if self.device.driver != "emulator" else None)
        config.set_active(driver)

        def restore() -> None:
            if getattr(config, attribute) is driver:  # else somebody else's is active by now
                setattr(config, attribute, saved)

        self._saved.append(restore)
        self._saved += _without_static_launcher()
        return self

    def stop(self) -> None:
        """Undo it; nothing happens where it is not in place."""
        while self._saved:
            self._saved.pop()()
        while self._loaded:
            _unload(self._loaded.pop())

    def __enter__(self) -> TritonPatch:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _unload(kernel: Any) -> None:
    """Have a ``CompiledKernel`` ask the active driver again when it is launched next.

    It would have that driver unload trlaunch's module, too, from 3.8 on, when it is collected.
    """
    kernel.module = kernel.function = None
    vars(kernel).pop("run", None)  # set by _init_handles up to 3.4
    if "_run" in vars(kernel):
        kernel._run = None


# --- torch.compile ---------------------------------------------------------------------------------------------------

# TorchInductor's launcher of cubins, which does not ask Triton (torch/_inductor/config.py, since 2.7).
_STATIC_OPTION = "use_static_cuda_launcher"
_STATIC_VARIABLE = "TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER"


def _without_static_launcher() -> list[Callable[[], None]]:
    """Have TorchInductor launch through Triton; returns what undoes it."""
    before = os.environ.get(_STATIC_VARIABLE)
    os.environ[_STATIC_VARIABLE] = "0"  # read when torch is imported after this

    def restore_variable() -> None:
        if before is None:
            os.environ.pop(_STATIC_VARIABLE, None)
        else:
            os.environ[_STATIC_VARIABLE] = before

    undo = [restore_variable]
    if "torch" in sys.modules:
        config: Any = importlib.import_module("torch._inductor.config")
        if hasattr(config, _STATIC_OPTION):
            value = getattr(config, _STATIC_OPTION)
            setattr(config, _STATIC_OPTION, False)
            undo.append(lambda: setattr(config, _STATIC_OPTION, value))
    return undo


# --- the driver ------------------------------------------------------------------------------------------------------


class _Ordinal(int):
    """A device number that Triton's caches of loaded kernels, which go by device, keep apart from the plain one."""

    def __hash__(self) -> int:
        return hash(("trlaunch", int(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ordinal) and int(self) == int(other)

    def __ne__(self, other: object) -> bool:
        return not self == other


def _real_driver(config: Any) -> Any:
    """The driver that is active now; ``None`` where Triton cannot make one, as without torch up to 3.8."""
    try:
        active = config.active
        active.get_current_device()
    except (ImportError, RuntimeError):
        return None
    found = getattr(active, "_obj", active)  # a lazy proxy up to 3.4
    return found._real if isinstance(found, _Driver) else found  # inside another patch


def _make_driver(patch: TritonPatch, real: Any) -> Any:
    """A driver of trlaunch's; where there is a real one, one of its class: TorchInductor asks for that class."""
    if real is None:
        return _Driver(patch, None)
    made: Any = object.__new__(type("TrlaunchDriver", (_Driver, type(real)), {}))
    vars(made).update(vars(real))
    _Driver.__init__(made, patch, real)
    return made


class _Driver:
    """What Triton's runtime asks of its active driver (``DriverBase`` and what ``JITFunction`` uses)."""

    def __init__(self, patch: TritonPatch, real: Any) -> None:
        self._real = real
        self._device = patch.device
        self.utils = _Utils(patch, None if real is None else real.utils)
        self.launcher_cls = lambda source, metadata: _Launcher(patch, real, source, metadata)
        self.get_current_device = self._get_current_device
        if real is None:
            self.get_current_stream = lambda _device: 0
            self.set_current_device = lambda _device: None
            self.get_current_target = self._get_current_target
            self.get_device_capability = self._get_device_capability
            self.get_benchmarker = lambda: _benchmarker(self._device)
            self.get_active_torch_device = self._get_active_torch_device

    @staticmethod
    def is_active() -> bool:
        return True

    def _get_current_device(self) -> _Ordinal:
        return _Ordinal(self._device.ordinal if self._real is None else self._real.get_current_device())

    def _get_current_target(self) -> Any:
        target = self._properties().target
        arch: int | str = target.capability if target.backend == "cuda" else target.arch
        return load("backends.compiler").GPUTarget(target.backend, arch, target.warp_size)

    def _get_device_capability(self, _device: int | None = None) -> tuple[int, int]:
        return divmod(self._properties().target.capability, 10)

    def _get_active_torch_device(self) -> Any:
        torch: Any = importlib.import_module("torch")
        return torch.device("cpu" if self._device.driver == "emulator" else str(self._device))

    def _properties(self) -> DeviceProperties:
        return get(self._device.driver).properties(self._device.ordinal)


class _Utils:
    """What ``CompiledKernel`` loads its binary with; the rest is the real driver's."""

    def __init__(self, patch: TritonPatch, real: Any) -> None:
        self._patch = patch
        self._real = real

    def load_binary(self, name: str, data: bytes, _shared: int, device: int) -> tuple[Any, ...]:
        """Module, function, registers, spills and, from 3.4 on, the most threads of a block."""
        from trlaunch.cuda.image import read_image

        where = Device(self._patch.device.driver, int(device))
        function = _Function(name, data, where)
        entry = read_image(data).kernel(name)
        # The kernel that asks is not among the arguments, and has to be found again when the patch is undone.
        caller = sys._getframe(1).f_locals.get("self")
        if isinstance(caller, load("compiler.compiler").CompiledKernel):
            self._patch._loaded.add(caller)
        loaded = (function, function, entry.registers or 0, (entry.local_bytes or 0) // 4)
        limit = get(where.driver).properties(where.ordinal).max_threads_per_block
        return (*loaded, limit) if release_number() >= (3, 4) else loaded

    def get_device_properties(self, device: int) -> dict[str, int]:
        """The limits that Triton compares with, by its names."""
        if self._real is not None:
            stated: dict[str, int] = self._real.get_device_properties(int(device))
            return stated
        found = get(self._patch.device.driver).properties(int(device))
        return {
            "max_shared_mem": found.max_shared_optin,
            "multiprocessor_count": found.multiprocessors,
            "max_num_regs": 65536,  # 32-bit registers a multiprocessor: CUDA C++ programming guide, since sm_50
            "warpSize": found.target.warp_size,
        }

    def unload_module(self, module: Any) -> None:
        """Unload the real driver's modules; trlaunch's go with their kernels."""
        if not isinstance(module, _Function) and self._real is not None:
            self._real.unload_module(module)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self._real is None:
            raise AttributeError(name)
        return getattr(self._real, name)


class _Function:
    """A loaded binary: what ``CompiledKernel.function`` is while the patch is in place."""

    def __init__(self, name: str, data: bytes, device: Device) -> None:
        self.name = name
        self.data = data
        self.device = device


# --- launching -------------------------------------------------------------------------------------------------------


class _Launcher:
    """What ``CompiledKernel.run`` is while the patch is in place.

    Whoever keeps it longer launches as before the patch, where there was a driver.
    """

    def __init__(self, patch: TritonPatch, real: Any, source: Any, metadata: Any) -> None:
        self._patch = patch
        self._real = real
        self._source = source
        self._metadata = metadata
        self._types = _types_of(source)
        self._kernels: dict[Device, Kernel] = {}
        self._before: dict[Device, tuple[Any, Any]] = {}

    def __call__(
        self,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        stream: int,
        function: _Function,
        packed_metadata: Any,
        launch_metadata: Any,
        enter_hook: Any,
        exit_hook: Any,
        *args: Any,
    ) -> None:
        if not self._patch.active and self._real is not None:
            run, handle = self._as_before(function)
            run(grid_x, grid_y, grid_z, stream, handle, packed_metadata, launch_metadata, enter_hook, exit_hook, *args)
            return
        kernel = self._kernels.get(function.device)
        if kernel is None:
            kernel = self._kernels[function.device] = self._make(function)
        if enter_hook is not None:
            enter_hook(launch_metadata)
        run = kernel.launch(
            (grid_x, grid_y, grid_z),
            *(args if self._types is None else runtime_leaves(args, self._types.values())),
            stream=stream,
            device=function.device,
        )
        if run is not None:
            self._patch.runs[kernel.name] = run
        if exit_hook is not None:
            exit_hook(launch_metadata)

    def _make(self, function: _Function) -> Kernel:
        stated = jsonable(self._metadata._asdict())
        metadata = Metadata.from_dict(stated)
        dump = self._patch._dumps.get(function.name)
        if dump is not None:
            text = self._beside(str(stated["hash"]), Level.TTGIR)
            artifact = Artifact(Level.TTGIR, text, None, metadata)
            types = None if self._types is None else dict(self._types)
            how: dict[str, Any] = {"signature": types, "check": self._patch.check, "device": function.device}
            return Kernel(artifact, name=function.name, dump=dump, **how)
        if function.device.driver == "emulator":
            artifact = Artifact(Level.PTX, self._beside(str(stated["hash"]), Level.PTX), None, metadata)
        else:
            artifact = Artifact(Level.CUBIN, function.data, None, metadata)
        signature = None if self._types is None else dict(self._types)
        kernel = Kernel(artifact, name=function.name, signature=signature, check=self._patch.check)
        hook_switch.seen_by_triton.add(kernel)
        return kernel

    def _beside(self, key: str, level: Level) -> bytes:
        """A text that Triton left in its cache beside the binary."""
        name = self._source.name[:150]
        group: Mapping[str, str] = load("runtime.cache").get_cache_manager(key).get_group(f"{name}.json") or {}
        path = next((Path(path) for file, path in group.items() if file.endswith(f".{level}")), None)
        if path is None or not path.is_file():
            raise ArtifactError(
                f"{name}: {'the emulator executes PTX' if level is Level.PTX else f'dumps go into its {level}'}, and "
                f"Triton's cache has none beside its binary: expected {name}.{level}; unset TRITON_STORE_BINARY_ONLY"
            )
        return path.read_bytes()

    def _as_before(self, function: _Function) -> tuple[Any, Any]:
        before = self._before.get(function.device)
        if before is None:
            handle = self._real.utils.load_binary(
                function.name, function.data, self._metadata.shared, function.device.ordinal
            )[1]
            before = self._before[function.device] = (self._real.launcher_cls(self._source, self._metadata), handle)
        return before


def _types_of(source: Any) -> dict[str, Any] | None:
    """Types of the arguments that a launcher is given, ``"constexpr"`` for what is compiled in; ``None``: all run.

    From 3.3 on a launcher is given every parameter and the signature says which are constexprs; before, those that are
    no constexprs, and integers specialised to 1 and None are constants all the same.
    """
    function = getattr(source, "fn", None)
    if function is None:
        return None  # compiled from a file: its parameters are the kernel's
    names: Sequence[str] = function.arg_names

    def name(key: Any) -> str:
        return names[key] if isinstance(key, int) else str(key)

    types = {name(key): without_const(kind) for key, kind in source.signature.items()}
    if release_number() < (3, 3):
        constants = {name(key) for key in source.constants}
        types = {key: "constexpr" if key in constants else kind for key, kind in types.items()}
    return types


def _benchmarker(device: Device) -> Callable[..., Any]:
    """A stand-in for ``triton.testing.do_bench``, which needs torch: wall time between two synchronisations."""

    def bench(
        fn: Callable[[], Any], warmup: float = 25, rep: float = 100, quantiles: Sequence[float] | None = None, **_: Any
    ) -> Any:
        def timed() -> float:
            start = time.perf_counter()
            fn()
            get(device.driver).synchronize(device.ordinal)
            return (time.perf_counter() - start) * 1e3

        # One launch on the emulator can take longer than the whole budget of milliseconds.
        until = time.perf_counter() + warmup / 1e3
        timed()
        while time.perf_counter() < until:
            timed()
        times, until = [timed()], time.perf_counter() + rep / 1e3
        while time.perf_counter() < until and len(times) < 10_000:
            times.append(timed())
        times.sort()
        if quantiles is None:
            return statistics.fmean(times)
        return [times[min(int(q * len(times)), len(times) - 1)] for q in quantiles]

    return bench
