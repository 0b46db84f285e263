"""``@trlaunch.jit``: a drop-in for ``@triton.jit`` that is compiled by Triton and launched by trlaunch."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from trlaunch.artifact import Artifact, Level
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError, ArtifactError, FallbackWarning, LoweringError, TrlaunchError, warn
from trlaunch.kernel import Kernel
from trlaunch.lowering import specialize
from trlaunch.lowering.specialize import Bound
from trlaunch.packing import flatten
from trlaunch.target import Target
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import is_tensor, view

if TYPE_CHECKING:
    from trlaunch.dump.read import Run

__all__ = ["Compiled", "TrlaunchFunction", "arguments_for", "jit"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel and Triton's types of the function's parameters, by name."""

    kernel: Kernel
    types: Mapping[str, Any]


class TrlaunchFunction:
    """A kernel function that trlaunch launches: ``function[grid](*arguments, **options)``.

    It is one of Triton's ``JITFunction`` too (of Gluon's, where it was made from one): other kernels can call it, and
    ``triton.autotune`` and ``triton.heuristics`` go above it. What is launched is a `trlaunch.Kernel`, which
    ``function[grid](...)`` and `warmup` return, one for each specialisation.

    Beside the function's parameters a launch takes Triton's compile options (``num_warps``, ``num_stages``,
    ``num_ctas``, ``maxnreg``, ...) and ``stream``.
    """

    # Triton's JITFunction has these; the class that is instantiated derives from both (`_class_over`).
    fn: Callable[..., Any]
    params: Sequence[Any]
    signature: Any
    cache_key: str
    used_global_vals: Mapping[Any, Any]
    pre_run_hooks: list[Callable[..., Any]]
    __name__: str

    _device: Device | None
    _check: str
    _dump: Any
    _content: _Content | None
    _compiled: dict[Any, Compiled]
    _places: dict[Device, tuple[Level, Target]]
    _lock: threading.RLock

    def _settle(
        self, use: str | Path | Artifact | None, device: str | Device | None, check: str, dump: Any = None
    ) -> None:
        if check not in ("error", "warn"):
            raise ArgumentError(f"check={check!r}: expected 'error' or 'warn'")
        self._device = None if device is None else Device.parse(device)
        self._check = check
        self._dump = None if dump is False else dump
        if use is None:
            self._content = None
        elif isinstance(use, Artifact):
            self._content = _Content(use)
        else:
            self._content = _File(Path(use), self.fn.__code__.co_filename)
        self._compiled = {}
        self._lock = threading.RLock()

    def run(self, *args: Any, grid: Any, warmup: bool = False, **keywords: Any) -> Kernel | Run:
        """Compile where no earlier call was specialised alike, launch unless `warmup`.

        Parameters
        ----------
        *args, **keywords
            The function's arguments, compile options, ``stream``.
        grid : int, sequence of int or callable
            A callable is given the arguments by name.
        warmup : bool

        Returns
        -------
        Kernel or Run
            The kernel; of a function with ``dump=`` that was launched, what it captured.

        Raises
        ------
        ArgumentError, LoweringError, CheckError, DriverError, Fault
            As `Kernel.from_function` and `Kernel.launch`.
        """
        for hook in self.pre_run_hooks:
            hook(*args, **keywords)
        bound = specialize.bind(self, args, keywords)
        options = dict(bound.options)
        stream = options.pop("stream", None)
        bound = Bound(self, bound.values, options)
        try:
            if self._content is not None:
                kernel, positional, named = self._from_content(self._content, bound)
            else:
                kernel, positional, named = self._from_source(bound)
            if not warmup:
                shape = specialize.grid_of(grid, bound)
                captured = self._launch(kernel, shape, positional, stream, named)
                if captured is not None:
                    return captured
        except TrlaunchError as error:
            known = specialize.known_to_autotuner(error)
            if known is error:
                raise
            raise known from error.__cause__
        return kernel

    def warmup(self, *args: Any, grid: Any = None, **keywords: Any) -> Kernel:
        """Compile without a launch; dtypes stand for tensors."""
        kernel = self.run(*args, grid=grid, warmup=True, **keywords)
        assert isinstance(kernel, Kernel)
        return kernel

    def _launch(
        self, kernel: Kernel, shape: Any, positional: list[Any], stream: Any, named: dict[str, Any]
    ) -> Run | None:
        return kernel.launch(shape, *positional, stream=stream, **named)

    # --- compiled ----------------------------------------------------------------------------------------------------

    def _from_source(self, bound: Bound) -> tuple[Kernel, list[Any], dict[str, Any]]:
        values = tuple(bound.values.values())
        level, target = specialize.where(None, self._device, values)
        marks = tuple(map(_mark, self.params, values))
        key = (level, target, self.cache_key, marks, tuple(sorted((k, _constant(v)) for k, v in bound.options.items())))
        compiled = self._compiled.get(key)
        if compiled is None:
            with self._lock:
                compiled = self._compiled.get(key)
                if compiled is None:
                    compiled = self._compiled[key] = self._compile(bound, level, target)
        self._refuse_changed_globals()
        return compiled.kernel, specialize.runtime_leaves(values, compiled.types.values()), {}

    def _compile(self, bound: Bound, level: Level, target: Target) -> Compiled:
        dump = self._dump
        made = specialize.compile_function(bound, level, target, marked=dump is True, first=dump is not None)
        kernel = Kernel(made.artifact, signature=made.types, device=self._device, check=self._check, dump=dump)
        return Compiled(kernel, made.types)

    def _refuse_changed_globals(self) -> None:
        missing = object()
        for (name, _), (value, scope) in self.used_global_vals.items():
            found = scope.get(name, missing)
            if found is not value and found != value:
                raise LoweringError(
                    f"{self.__name__} was compiled with {name} = {value!r:.60}, which is now "
                    f"{'gone' if found is missing else f'{found!r:.60}'}: pass what changes as an argument or a "
                    f"tl.constexpr parameter",
                    stage="python",
                )

    # --- edited ------------------------------------------------------------------------------------------------------

    def _from_content(self, content: _Content, bound: Bound) -> tuple[Kernel, list[Any], dict[str, Any]]:
        kernel = content.kernel(bound.options, self._device, self._check, self._dump)
        return (kernel, *arguments_for(kernel, kernel.artifact.label, self.params, bound.values))

    def __repr__(self) -> str:
        return f"trlaunch.jit({self.fn.__module__}:{self.__name__})"


@overload
def jit(function: Callable[..., Any]) -> TrlaunchFunction: ...


@overload
def jit(
    function: None = None,
    *,
    use: str | Path | Artifact | None = None,
    device: str | Device | None = None,
    check: str = "error",
    dump: Any = None,
    **triton_options: Any,
) -> Callable[[Callable[..., Any]], TrlaunchFunction]: ...


def jit(
    function: Any = None,
    *,
    use: str | Path | Artifact | None = None,
    device: str | Device | None = None,
    check: str = "error",
    dump: Any = None,
    **triton_options: Any,
) -> Any:
    """A drop-in for ``@triton.jit``: Triton compiles the function, trlaunch launches it.

    Parameters
    ----------
    function : function
        A plain one, or what ``@triton.jit`` or ``@gluon.jit`` made of one.
    use : path or Artifact, optional
        A file, or content at hand, of any level from TTIR to cubin that runs instead of what would be compiled. A
        relative path is one from the working directory; a file is read again when it changes. Its parameters are the
        function's without what is compiled in; where it says their names (TTIR and TTGIR from Triton 3.5 on), they
        are matched by name.
    device : str, optional
        ``"cuda:1"``, ``"emulator"``; left out, where the arguments are, else the GPU if there is one, else the
        emulator.
    check : {"error", "warn"}
        Whether an error of the audit refuses a launch.
    dump : bool, str, At or sequence of them, optional
        ``True`` captures what the function passes to `trlaunch.language.dump` and its kin; names and `trlaunch.at`
        capture values of the TTIR it compiles to (of Gluon the TTGIR), or of what `use` has. A launch then returns a
        `trlaunch.Run`.
    **triton_options
        ``triton.jit``'s: ``do_not_specialize``, ``do_not_specialize_on_alignment``, ``repr``, ``debug``,
        ``noinline``, ...

    Raises
    ------
    LoweringError
        Triton is not installed.
    ArgumentError
        It is no function, or an autotuner: ``@trlaunch.jit`` goes under ``@triton.autotune``.

    Notes
    -----
    ``triton.autotune`` times with what Triton's active driver offers. Where there is no GPU it needs ``do_bench=``
    (3.3 and later) or `patch_triton` around decorator and launch (3.2 and later); in 3.0 and 3.1 it needs torch.
    TLX functions, where the installed Triton has ``triton.language.extra.tlx``, are ``@triton.jit`` functions and go
    the same way; no release on PyPI has it, and it was not run.

    Examples
    --------
    >>> @trlaunch.jit(device="emulator")                                        # doctest: +SKIP
    ... def add(x, y, out, n, BLOCK: tl.constexpr):
    ...     i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ...     tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)
    >>> add[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, out, n, BLOCK=1024)  # doctest: +SKIP
    """

    def decorate(target: Any) -> TrlaunchFunction:
        made = specialize.derived(target, _class_over, triton_options)
        made._settle(use, device, check, dump)
        result: TrlaunchFunction = made
        return result

    return decorate if function is None else decorate(function)


@functools.cache
def _class_over(base: type) -> type:
    if issubclass(base, TrlaunchFunction):
        return base
    return type("TrlaunchFunction", (TrlaunchFunction, base), {"__doc__": TrlaunchFunction.__doc__})


# --- keys: equal where Triton would specialise alike, and sometimes finer --------------------------------------------


def _mark(param: Any, value: Any) -> Any:
    if param.is_constexpr:
        return _constant(value)
    align = not getattr(param, "do_not_specialize_on_alignment", False)
    return _specialisation(value, not param.do_not_specialize, align)


def _specialisation(value: Any, specialise: bool, align: bool) -> Any:
    kind = type(value)
    if kind is int:
        width = 32 if -(2**31) <= value < 2**31 else -64 if value >= 2**63 else 64
        return (width, align and value % 16 == 0, value == 1) if specialise else width
    if value is None or isinstance(value, (bool, float)):
        return kind
    if isinstance(value, tuple):
        return (kind, *(_specialisation(item, True, True) for item in value))
    if callable(getattr(value, "data_ptr", None)):
        return (getattr(value, "dtype", None), specialise and align and value.data_ptr() % 16 == 0)
    descriptor = TensorDescriptor.of(value)
    if descriptor is not None:
        dtype = getattr(descriptor.tensor, "dtype", None)
        return (kind, str(dtype), tuple(descriptor.block_shape), repr(getattr(value, "layout", None)))
    if is_tensor(value):
        try:
            tensor = view(value)
        except TypeError:
            return _constant(value)  # the binder says what is wrong with it
        return (tensor.dtype, specialise and align and tensor.address % 16 == 0)
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return _specialisation(value.item(), specialise, align)
    return _constant(value)


def _constant(value: Any) -> Any:
    """A hashable that tells values apart that compile differently: ``1``, ``1.0`` and ``True`` do."""
    kind = type(value)
    if kind is float:
        return (kind, value.hex())
    if isinstance(value, (tuple, list)):
        return (kind, *map(_constant, value))
    if isinstance(value, dict):
        return (kind, *((key, _constant(item)) for key, item in value.items()))
    if hasattr(value, "cache_key"):  # another kernel function
        return (kind, value.cache_key)
    if kind.__name__ == "constexpr" and hasattr(value, "value"):
        return (kind, _constant(value.value))
    try:
        hash(value)
    except TypeError:
        return (kind, repr(value))
    return (kind, value)


# --- files instead of what would be compiled -------------------------------------------------------------------------

# Metadata this young may belong to a write that goes on within the clock's granularity: read again next time.
_SETTLED = 50_000_000  # ns


class _Content:
    """Content that takes the place of compiling: a kernel for each set of options."""

    def __init__(self, artifact: Artifact | None) -> None:
        self._artifact = artifact
        self._kernels: dict[Any, Kernel] = {}
        self._lock = threading.Lock()

    def kernel(self, options: Mapping[str, Any], device: Device | None, check: str, dump: Any = None) -> Kernel:
        """The kernel of the content as it is now."""
        with self._lock:
            self._refresh()
            key = _constant(dict(sorted(options.items())))
            kernel = self._kernels.get(key)
            if kernel is None:
                kernel = self._kernels[key] = _made(self._read(), options, device, check, dump)
            return kernel

    def _refresh(self) -> None:
        """Forget kernels of what has changed since."""

    def _read(self) -> Artifact:
        assert self._artifact is not None
        return self._artifact


class _File(_Content):
    """A file; its kernels are made anew when it or its JSON changed."""

    def __init__(self, path: Path, source: str) -> None:
        super().__init__(None)
        self.path = path
        self._source = source
        self._stamp: Any = None

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp is None or stamp != self._stamp:
            self._kernels.clear()
        self._stamp = stamp

    def _look(self) -> Any:
        """Identity of the content, ``None`` while it cannot be told from a later one."""
        stamps: list[tuple[int, ...]] = []
        for path in (self.path, self.path.with_suffix(".json")):
            try:
                status = path.stat()
            except OSError as error:
                if path is self.path:
                    raise ArtifactError(self._missing(error)) from None
                stamps.append(())
                continue
            if time.time_ns() - status.st_mtime_ns < _SETTLED:
                return None
            stamps.append((status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino))
        return tuple(stamps)

    def _missing(self, error: OSError) -> str:
        beside = Path(self._source).with_name(self.path.name)
        hint = f"; there is one beside the function: use={str(beside)!r}" if beside.is_file() else ""
        return f"use={str(self.path)!r}: {str(self.path.absolute())!r} cannot be read: {error.strerror or error}{hint}"

    def _read(self) -> Artifact:
        return Artifact.from_file(self.path)


def _made(
    artifact: Artifact, options: Mapping[str, Any], device: Device | None, check: str, dump: Any = None
) -> Kernel:
    """The kernel of an artifact; TTIR without metadata is lowered for the device at hand."""
    if artifact.level is Level.TTIR:
        stated = artifact.metadata.target if artifact.metadata is not None else None
        target = specialize.where(None, device, ())[1] if stated is None else None
        return Kernel(artifact, device=device, check=check, options=options, target=target, dump=dump)
    kernel = Kernel(artifact, device=device, check=check, dump=dump)
    raw = kernel.metadata.raw if kernel.metadata is not None else {}
    for name, value in options.items():
        if name in raw and value is not None and raw[name] != value:
            warn(f"{name}={value!r} does not apply: {artifact.label} has {raw[name]!r}", FallbackWarning)
    return kernel


def arguments_for(
    kernel: Kernel, file: str, params: Sequence[Any], values: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments that a file's kernel takes, of those of the function.

    Parameters
    ----------
    kernel : Kernel
    file : str
        What messages call it.
    params : sequence
        Triton's of the function: names, and which are constexprs.
    values : mapping
        By name.

    Raises
    ------
    ArgumentError
        The file was compiled for another value of an argument, or its parameters are not the function's.
    """
    runtime = {p.name: values[p.name] for p in params if not p.is_constexpr}
    names = [p.name for p in kernel.signature.user]
    plain = not any(isinstance(v, tuple) or TensorDescriptor.of(v) is not None for v in runtime.values())
    if plain and names and all(name in runtime for name in names):
        for name, value in runtime.items():
            if name not in names and value is not None and not (_is_one(value)):
                raise ArgumentError(
                    f"{file} has no parameter {name!r}: it was compiled for {name} = 1 or None, found {value!r:.60}; "
                    f"lower it again for other values"
                )
        return [runtime[name] for name in names if name is not None], {}
    leaves = [leaf for leaf in flatten(tuple(runtime.values())) if leaf is not None]
    if len(leaves) != len(names) and len(kept := [leaf for leaf in leaves if not _is_one(leaf)]) == len(names):
        leaves = kept
    return leaves, {}


def _is_one(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == 1
