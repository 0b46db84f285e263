"""``triton_runner.jit``: `trlaunch.jit` whose launches take ``ttgir_dir=`` and its like."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trlaunch
from trlaunch.artifact import Artifact
from trlaunch.compat.triton_runner.dumps import DUMPS, DumpingFunction, dumping_artifact
from trlaunch.compat.triton_runner.source import Source, take
from trlaunch.compat.triton_runner.start_pass import resumed
from trlaunch.driver import Device
from trlaunch.errors import ArtifactError
from trlaunch.jit_function import TrlaunchFunction
from trlaunch.kernel import Kernel
from trlaunch.lowering.options import jsonable
from trlaunch.lowering.specialize import Bound, bind, derived, where
from trlaunch.metadata import Metadata

if TYPE_CHECKING:
    from trlaunch.dump.read import Run

__all__ = ["RunnerFunction", "jit"]


class RunnerFunction(TrlaunchFunction):
    """A `trlaunch.jit` function with triton-runner's launch keywords.

    ``ttir_dir``, ``ttgir_dir``, ``llir_dir``, ``ptx_dir``, ``cubin_dir``, ``amdgcn_dir``, ``hsaco_dir``: run
    ``<folder>/<function name>.<level>``. ``ttir_src``, ``ttgir_src``, ``llir_src``, ``ptx_src``, ``amdgcn_src``: run
    text, or a file of any name, with ``metadata_json`` where the JSON is not beside it. ``start_pass``: go on behind
    that pass. ``autotune_cubin_dir``: ``cubin_dir`` under ``triton.autotune``. ``dump_tensor``, ``dump_value``,
    ``dump_grid``: write values to a buffer.
    """

    _replacements: dict[Hashable, TrlaunchFunction]
    _renamed: bool

    def run(self, *args: Any, grid: Any, warmup: bool = False, **keywords: Any) -> Kernel | Run:
        """As `trlaunch.TrlaunchFunction.run`.

        Raises
        ------
        ArgumentError, ArtifactError
            The keywords contradict each other, or what they name cannot be run.
        """
        source, rest = take(self.__name__, self.signature.parameters, keywords)
        if source is None:
            if DUMPS[0] not in rest:
                return super().run(*args, grid=grid, warmup=warmup, **rest)
            function = self._replacement("dump_tensor", lambda: None, DumpingFunction)
            return function.run(*args, grid=grid, warmup=warmup, **rest)
        if source.start_pass is not None:
            return self._run_behind(source, source.start_pass, args, rest, grid=grid, warmup=warmup)
        if source.is_plain_file:
            function = self._replacement(source.path, lambda: source.path)
        else:
            artifact = source.artifact()
            if source.dump is not None:
                artifact = dumping_artifact(artifact, source.dump, rest[DUMPS[0]])
            key = (artifact.level, artifact.data, _stable(artifact.metadata), source.dump)
            kind: Any = _Replacement if source.dump is None else _DumpingReplacement
            function = self._replacement(key, lambda: artifact, kind)
        return function.run(*args, grid=grid, warmup=warmup, **rest)

    def _run_behind(
        self, source: Source, start_pass: str, args: tuple[Any, ...], keywords: dict[str, Any], **how: Any
    ) -> Kernel | Run:
        """Lower what was saved after a pass, and run that; compile options are spent on the way."""
        bound = bind(self, args, keywords)
        to, target = where(None, self._device, tuple(bound.values.values()))
        options = {key: value for key, value in bound.options.items() if key != "stream" and value is not None}
        text, metadata = source.content(), source.known()
        key = (text, source.level, start_pass, to, target, _stable(options), _stable(metadata))
        function = self._replacement(
            key,
            lambda: resumed(
                text,
                source.level,
                start_pass,
                to,
                target=target,
                options=options,
                metadata=metadata,
                name=self.__name__,
            ),
        )
        rest = {key: value for key, value in keywords.items() if key not in bound.options or key == "stream"}
        return function.run(*args, **how, **rest)

    def _replacement(
        self, key: Hashable, use: Callable[[], Path | Artifact | None], kind: Any = None
    ) -> TrlaunchFunction:
        """The function with a file or content in its place; the same one for the same key."""
        with self._lock:
            function = self._replacements.get(key)
            if function is None:
                decorate: Any = trlaunch.jit(use=use(), device=self._device, check=self._check)
                made = decorate(self)
                function = self._replacements[key] = derived(made, _class_over(kind or _Replacement), {})
            return function


class _Replacement(TrlaunchFunction):
    """A function that runs a file or content, of its own name."""

    _renamed: bool

    def _from_content(self, content: Any, bound: Bound) -> tuple[Kernel, list[Any], dict[str, Any]]:
        kernel, positional, named = super()._from_content(content, bound)
        if kernel.name != self.__name__ and not self._renamed:
            raise ArtifactError(
                f"{kernel.artifact.label} has the kernel {kernel.name}, and the function is {self.__name__}: expected "
                f"the file of this function; a function whose kernel has another name says so with jit(repr=...)"
            )
        return kernel, positional, named


class _DumpingReplacement(_Replacement, DumpingFunction):
    """A function that runs content with the store of a value in it."""


def jit(
    function: Any = None,
    *,
    version: Any = None,
    repr: Callable[..., str] | None = None,  # noqa: A002 -- triton.jit's keyword
    launch_metadata: Callable[..., Any] | None = None,
    do_not_specialize: Iterable[int | str] | None = None,
    do_not_specialize_on_alignment: Iterable[int | str] | None = None,
    debug: bool | None = None,
    noinline: bool | None = None,
    device: str | Device | None = None,
    check: str = "error",
) -> Any:
    """``triton_runner.jit``: a `RunnerFunction`, to decorate a function with, or to put over ``@gluon.jit``.

    Parameters
    ----------
    function : function
    version, repr, launch_metadata, do_not_specialize, do_not_specialize_on_alignment, debug, noinline
        ``triton.jit``'s.
    device, check
        `trlaunch.jit`'s.

    Raises
    ------
    LoweringError
        Triton is not installed.
    """
    stated = {
        "version": version,
        "repr": repr,
        "launch_metadata": launch_metadata,
        "do_not_specialize": do_not_specialize,
        "do_not_specialize_on_alignment": do_not_specialize_on_alignment,
        "debug": debug,
        "noinline": noinline,
    }
    options = {key: value for key, value in stated.items() if value is not None}

    def decorate(target: Any) -> RunnerFunction:
        made = derived(trlaunch.jit(device=device, check=check, **options)(target), _class_over(RunnerFunction), {})
        made._replacements = {}
        made._renamed = repr is not None or getattr(target, "_renamed", False)
        result: RunnerFunction = made
        return result

    return decorate if function is None else decorate(function)


@functools.cache
def _class_over(kind: type[TrlaunchFunction]) -> Callable[[type], type]:
    @functools.cache
    def over(base: type) -> type:
        return type(kind.__name__, (kind, base), {"__doc__": kind.__doc__})

    return over


def _stable(value: Metadata | Mapping[str, Any] | None) -> str:
    raw = value.raw if isinstance(value, Metadata) else value
    return "" if raw is None else json.dumps(jsonable(raw), sort_keys=True)
