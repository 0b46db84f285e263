"""Triton's compiler, whichever release is installed: the only module that imports triton.

Nothing of Triton's runtime is used: a backend is made for the target at hand and its stage functions are called one
by one, which needs no GPU and no torch in any release from 3.0 to 3.9.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from trlaunch.errors import LoweringError
from trlaunch.lowering.limits import refuse_options, refuse_target
from trlaunch.target import Target

__all__ = [
    "LOCK",
    "WATCH",
    "Compiler",
    "active_attribute",
    "active_target",
    "captured_stderr",
    "installed_release",
    "load",
    "release",
    "release_number",
]

# MLIR prints diagnostics to the C stderr, and Triton's environment switches are the process's: one compile at a time.
LOCK = threading.RLock()

# Makes what runs the stages of a compiler in its place, while passes are looked at: an object with a method `run`.
WATCH: ContextVar[Callable[[Compiler], Any] | None] = ContextVar("WATCH", default=None)

# Options that Triton's JSON holds but that belong to the machine or the release that wrote it, not to the kernel.
_NOT_TAKEN = frozenset({"extern_libs", "arch", "backend_name", "ir_override", "base_arch", "warp_size"})


# Backends whose part of LLVM is prepared, see `Compiler.prepare_llvm`.
_PREPARED: set[str] = set()
_PRINTING = ("MLIR_ENABLE_DUMP", "MLIR_DUMP_PATH", "LLVM_IR_ENABLE_DUMP", "NVPTX_ENABLE_DUMP", "AMDGCN_ENABLE_DUMP")
_EMPTY = "module {\n  tt.func public @empty() attributes {noinline = false} {\n    tt.return\n  }\n}\n"


def installed_release() -> tuple[int, int] | None:
    """Minor release of the installed Triton as ``(3, 6)``; ``None`` when there is none. Imports nothing."""
    if importlib.util.find_spec("triton") is None:
        return None
    parts = importlib.metadata.version("triton").split(".")
    return int(parts[0]), int(parts[1])


def release() -> str:
    """Full version of the installed Triton, ``"3.6.0"``.

    Raises
    ------
    LoweringError
        Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise LoweringError(
            "lowering a level above PTX needs Triton's compiler, and triton is not installed: "
            'pip install "trlaunch[triton]", or give the .ptx or .cubin',
            stage="install",
        )
    return importlib.metadata.version("triton")


def release_number() -> tuple[int, int]:
    """Minor release of the installed Triton; raises as `release` does."""
    major, minor = release().split(".")[:2]
    return int(major), int(minor)


def load(module: str) -> Any:
    """A module of the installed Triton by its name below ``triton``: ``load("runtime.jit")``.

    Raises
    ------
    LoweringError
        Triton is not installed, or this release has no such module.
    """
    try:
        return importlib.import_module(f"triton.{module}")
    except ImportError as error:
        raise LoweringError(f"Triton {release()} cannot give triton.{module}: {error}", stage="install") from error


class _ActiveTarget:
    """Triton's active driver as the thread that compiles sees it; other threads see the driver that was there.

    From 3.5 on ``triton.language.target_info`` asks the active driver, not the target of the compilation, and
    answers False to everything where there is none; Gluon's first module does so in 3.4.
    """

    def __init__(self, target: Any, others: Callable[[], Any]) -> None:
        self._thread = threading.get_ident()
        self._others = others
        self._own = {
            "get_current_target": lambda: target,
            "get_current_device": lambda: 0,
            "get_current_stream": lambda _device: 0,
        }

    def __getattr__(self, name: str) -> Any:
        if threading.get_ident() == self._thread and name in self._own:
            return self._own[name]
        return getattr(self._others(), name)


def active_attribute(config: Any) -> str:
    """Where a ``DriverConfig`` keeps the active driver; from 3.5 on ``active`` is a property that makes one."""
    return "_active" if "_active" in vars(config) else "active"


@contextlib.contextmanager
def active_target(target: Any) -> Iterator[None]:
    """Answer questions about the current target with a ``GPUTarget`` while Python is compiled."""
    with LOCK:
        config = load("runtime.driver").driver
        attribute = active_attribute(config)
        saved = getattr(config, attribute)
        config.set_active(_ActiveTarget(target, lambda: saved if saved is not None else config.default))
        try:
            yield
        finally:
            setattr(config, attribute, saved)


class Compiler:
    """The stage functions of one backend for one target and one set of options.

    Parameters
    ----------
    target : Target
    options : mapping
        By Triton's names; those the release does not know are refused when `strict`, else left out.
    gluon : bool
        The source is Gluon: releases from 3.4 on build another list of stages for it.
    strict : bool

    Attributes
    ----------
    done : tuple of str, int and mapping, or None
        A stage that begins between two of its passes, how many of them are done, and what these wrote to arguments of
        theirs by position; such a stage runs pass by pass.
    """

    def __init__(
        self,
        target: Target,
        options: Mapping[str, Any],
        *,
        gluon: bool = False,
        strict: Mapping[str, Any] | None = None,
    ) -> None:
        self.release = release()
        self.target = target
        refuse_target(self.release, target)
        from triton.backends.compiler import GPUTarget
        from triton.compiler.compiler import make_backend

        arch: int | str = target.capability if target.backend == "cuda" else target.arch
        self.gpu_target = GPUTarget(target.backend, arch, target.warp_size)
        with _failing("backend"):
            self.backend = make_backend(self.gpu_target)
            known = self._option_names()
            for name in strict or {}:
                if name not in known:
                    raise LoweringError(
                        f"option {name!r}: Triton {self.release} has no such option for {target.backend}; "
                        f"it has {', '.join(sorted(known))}",
                        stage="options",
                    )
            taken = {k: v for k, v in options.items() if k in known and k not in _NOT_TAKEN}
            merged = {**taken, **(strict or {})}
            refuse_options(target, merged)
            self.options = self.backend.parse_options({k: _tuples(v) for k, v in merged.items() if v is not None})
        self.gluon = gluon
        self.done: tuple[str, int, Mapping[str, Any]] | None = None
        self._watch: Any = None
        self.stages: dict[str, Callable[[Any, dict[str, Any]], Any]] = {}
        self._add_stages(gluon)

    def with_backend(self, backend: Any) -> Compiler:
        """The same compiler with the stages of another backend object."""
        other = copy.copy(self)
        other.backend, other.stages = backend, {}
        other._add_stages(self.gluon)
        return other

    def _option_names(self) -> set[str]:
        # parse_options drops what it does not know in silence, so the dataclass behind it is asked first.
        # 3.9 warns where fusion is left to its default.
        return set(type(self.backend.parse_options({"enable_fp_fusion": True})).__dataclass_fields__)

    def _add_stages(self, gluon: bool) -> None:
        arguments: list[Any] = [self.stages, self.options]
        if len(inspect.signature(self.backend.add_stages).parameters) == 3:
            from triton.compiler.compiler import Language

            arguments.append(Language.GLUON if gluon else Language.TRITON)
        elif gluon:
            raise LoweringError(f"Triton {self.release} has no Gluon: expected 3.4 or later", stage="install")
        self.backend.add_stages(*arguments)

    def prepare_llvm(self) -> None:
        """Bring LLVM into the state in which a process has it that has compiled a kernel before; once a process.

        Stages set global options of LLVM that bear on the stages of the next kernel, and register code generators
        without which the stage after llir dies. So in 3.2 and 3.3 a process gives its first kernel other PTX than the
        same kernel later on: an empty one goes before it.
        """
        if self.target.backend in _PREPARED:
            return
        _PREPARED.add(self.target.backend)
        plain = Compiler(self.target, {"enable_fp_fusion": True})
        metadata = plain.first_metadata()
        with LOCK, _without(_PRINTING), _failing("llir"), captured_stderr():
            module: Any = plain.parse(_EMPTY, "ttir")
            for stage in plain.names()[:-1]:
                module = plain.stages[stage](module, metadata)

    def names(self) -> list[str]:
        """The stages in order: ``["ttir", "ttgir", "llir", "ptx", "cubin"]``."""
        return list(self.stages)

    # --- sources -----------------------------------------------------------------------------------------------------

    def context(self) -> Any:
        """A fresh MLIR context with the dialects loaded."""
        from triton._C.libtriton import ir

        context = ir.context()
        ir.load_dialects(context)
        self.backend.load_dialects(context)
        return context

    def parse(self, text: str, level: str) -> Any:
        """A module from TTIR or TTGIR text.

        Raises
        ------
        LoweringError
            The text does not parse; the compiler's message names the line.
        """
        from triton._C.libtriton import ir

        context = self.context()
        with tempfile.TemporaryDirectory() as folder, _failing("parse", level):
            path = Path(folder) / f"kernel.{level}"  # no release parses MLIR from a string
            path.write_text(text, encoding="utf-8")
            module = ir.parse_mlir_module(str(path), context)
        module.context = context
        return module

    def make_ir(self, source: Any) -> Any:
        """The first module of an ``ASTSource`` or a Gluon source."""
        context = self.context()
        arguments: dict[str, Any] = {"options": self.options, "context": context}
        parameters = inspect.signature(source.make_ir).parameters
        if "codegen_fns" in parameters:
            implementation = self.backend.get_codegen_implementation
            takes = len(inspect.signature(implementation).parameters)
            arguments["codegen_fns"] = implementation(self.options) if takes else implementation()
        if "module_map" in parameters:
            arguments["module_map"] = self.backend.get_module_map()
        if "target" in parameters:
            arguments["target"] = self.gpu_target
        with active_target(self.gpu_target), _failing("python"):
            module = source.make_ir(**arguments)
        module.context = context
        return module

    # --- running -----------------------------------------------------------------------------------------------------

    def first_metadata(self) -> dict[str, Any]:
        """What ``triton.compile`` puts in the metadata before the first stage, but for hash and environment."""
        stated: dict[str, Any] = {"target": self.gpu_target, **self.options.__dict__}
        if "triton_version" in self._own_keys():
            stated["triton_version"] = self.release
        return stated

    def _own_keys(self) -> set[str]:
        return {"triton_version"} if tuple(int(n) for n in self.release.split(".")[:2]) >= (3, 3) else set()

    def run(self, stage: str, module: Any, metadata: dict[str, Any]) -> Any:
        """One stage: a module for ttir and ttgir, text for llir, ptx and amdgcn, bytes for cubin and hsaco.

        Where passes are looked at, by `WATCH` or by ``MLIR_ENABLE_DUMP``, the stage runs pass by pass.

        Raises
        ------
        LoweringError
            The compiler failed; its message is in the text, and the pass where it is one of MLIR's.
        """
        self.prepare_llvm()
        if self._watch is None:
            self._watch = self._watching()
        return self._watch.run(stage, module, metadata) if self._watch else self.run_located(stage, module, metadata)

    def _watching(self) -> Any:
        """What runs the stages pass by pass; ``None`` where nobody looks."""
        factory = WATCH.get()
        if factory is not None:
            return factory(self)
        if os.environ.get("MLIR_ENABLE_DUMP"):
            from trlaunch.lowering.pass_files import Dump

            return Dump(self)
        if self.done is not None:
            from trlaunch.lowering.pass_recorder import Recorder

            return Recorder(self)
        return None

    def run_located(self, stage: str, module: Any, metadata: dict[str, Any]) -> Any:
        """One stage as the release runs it; where it fails the pass is looked for."""
        if isinstance(module, (str, bytes)):
            return self.run_whole(stage, module, metadata)
        before, known = str(module), dict(metadata)  # a stage works on the module in place
        try:
            return self.run_whole(stage, module, metadata)
        except LoweringError as error:
            from trlaunch.lowering.pass_recorder import located

            raise located(error, self, stage, before, known) from error

    def run_whole(self, stage: str, module: Any, metadata: dict[str, Any]) -> Any:
        """One stage as the release runs it, and no more."""
        with LOCK, _failing(stage):
            return self.stages[stage](module, metadata)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Without some environment variables."""
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """What is printed to the C stderr, by MLIR among others; one string when the block ends."""
    printed: list[str] = []
    with LOCK, tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            printed.append(file.read().decode(errors="replace"))


@contextlib.contextmanager
def _failing(stage: str, level: str | None = None) -> Iterator[None]:
    """Turn whatever Triton's compiler raises into a `LoweringError` with what it printed."""
    printed: list[str] = []
    shown = io.StringIO()  # 3.6 and later print the PTX that ptxas refused
    try:
        with captured_stderr() as printed, contextlib.redirect_stdout(shown):
            yield
    except LoweringError:
        raise
    except Exception as error:  # the compiler's own exceptions are of every kind, RuntimeError to KeyError
        said = "\n".join(text for text in (_reasons(error), *(p.strip() for p in printed)) if text)
        what = f"parsing {level} text" if level else f"stage {stage}"
        raise LoweringError(
            f"Triton {release()} failed at {what}: {said or type(error).__name__}",
            stage=stage,
            log="\n".join(filter(None, (said or repr(error), shown.getvalue().strip()))),
        ) from error
    else:
        sys.stdout.write(shown.getvalue())
        if printed and printed[0]:
            sys.stderr.write(printed[0])


def _reasons(error: BaseException | None) -> str:
    """Its message with those of its causes: up to 3.5 the first names only the line of the function."""
    said = ""
    while error is not None:
        text = str(error).strip()
        said += "" if text in said else f"\n{text}" if said else text
        error = error.__cause__
    return said
