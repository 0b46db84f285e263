"""Running the stage functions of the installed release pass by pass.

A stage function that makes a pass manager and adds passes to it gets one that holds each pass in a real pass manager of
its own; when it is run, they run one after another, and the module is looked at in between.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trlaunch.errors import LoweringError
from trlaunch.lowering.options import jsonable
from trlaunch.lowering.pass_copies import LIBTRITON, Copies
from trlaunch.lowering.pass_marker import Marker, own_options
from trlaunch.lowering.pass_names import Planned, elements, kernel_of, numbered
from trlaunch.lowering.pass_probe import NoModule, Probe, inner
from trlaunch.lowering.triton_compiler import LOCK, Compiler, captured_stderr

__all__ = ["PassRecord", "Recorder", "dump_switched", "located"]

# 3.3 and 3.4 run passes on a thread of their own, and the distinct attributes that these passes make are freed with it
# (seen in gdb: printing the module afterwards reads them): there the module must be printed before the thread ends.
_PRINTED_INSIDE = ("passes.llvmir.add_di_scope", "passes.llvmir.add_di_local_variable")
_PRINTED_INSIDE_RELEASES = ((3, 3), (3, 4))
_BANNER = re.compile(r"^// -----// IR Dump Before .*//----- //\n", re.M)
_DUMP, _DUMP_PATH = "MLIR_ENABLE_DUMP", "MLIR_DUMP_PATH"


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass, or another step that changes the module, after it has run.

    Attributes
    ----------
    index : int
        From 1, in the order they ran.
    stage : str
        ``"ttgir"``.
    name : str
        Argument of an MLIR pass, ``"tritongpu-coalesce"``; function of an LLVM-level step, ``"llvm.optimize_module"``;
        ``"python"`` for what the stage function did to the module itself, between two passes.
    occurrence : int
        From 1, over all stages from ttir on; with it the pass is called ``name#occurrence``.
    kind : str
        ``"mlir"``, ``"llvm"`` or ``"python"``.
    pipeline : str
        The pass with its options as MLIR prints them; of another step the call.
    function : str
        What the release's compiler called to add or run it: ``"passes.ttgpuir.add_coalesce"``.
    seconds : float
        Wall time, verification after the pass included, printing left out.
    before, text : str
        The module before and after.
    carried : mapping
        What a later start after this pass needs besides the text: metadata of the stages before, and what passes wrote
        to arguments of theirs.
    """

    index: int
    stage: str
    name: str
    occurrence: int
    kind: str
    pipeline: str
    function: str
    seconds: float
    before: str = field(repr=False)
    text: str = field(repr=False)
    carried: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)

    @property
    def label(self) -> str:
        """``"canonicalize#2"``."""
        return f"{self.name}#{self.occurrence}"

    @property
    def changed(self) -> bool:
        """Whether the module's text is another one after it."""
        return self.before != self.text


@dataclass(slots=True)
class _Step:
    """A pass as it was added: alone in a real pass manager."""

    manager: Any
    function: str
    name: str | None  # where the release tells before it runs
    arguments: tuple[Any, ...]
    inside: bool = False  # printed while it runs, see _PRINTED_INSIDE


class _PlannedOut(Exception):
    """All passes of a stage are known; what follows needs a real module."""


class Recorder:
    """The stages of a compiler, run pass by pass.

    Parameters
    ----------
    compiler : Compiler
    observer : callable, optional
        Takes the `PassRecord` of each step as soon as it has run.
    raw : list, optional
        Gets what the release prints under ``MLIR_ENABLE_DUMP=1``, a string a pass. Without it nothing is printed,
        whatever the environment says.

    Attributes
    ----------
    at : str or None
        The step that runs, or that failed: ``"tritongpu-pipeline#1"``.
    text : str
        The module before it.
    records : list of PassRecord
    """

    def __init__(
        self,
        compiler: Compiler,
        observer: Callable[[PassRecord], None] | None = None,
        raw: list[str] | None = None,
    ) -> None:
        self.observer = observer
        self.raw = raw
        self.at: str | None = None
        self.text = ""
        self.records: list[PassRecord] = []
        self.first_text: str | None = None
        self._copies = Copies(self._call)
        self._compiler = compiler.with_backend(self._copies.backend(compiler.backend))
        self._first = compiler.first_metadata()
        self._release = tuple(int(part) for part in compiler.release.split(".")[:2])
        self._planning: list[tuple[str, str, str]] | None = None
        self._plan: tuple[Planned, ...] | None = None
        self._probe: Any = None
        self._stage = ""
        self._position = 0
        self._skip = 0
        self._last: str | None = None
        self._metadata: dict[str, Any] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._others: dict[str, int] = {}

    # --- what the compiler does ---------------------------------------------------------------------------------------

    def run(self, stage: str, module: Any, metadata: dict[str, Any]) -> Any:
        """One stage, as `Compiler.run` does it, without the passes that the compiler has `done`.

        Raises
        ------
        LoweringError
            The compiler failed; `at` and `text` say where.
        """
        self.plan()
        with LOCK, dump_switched(self.raw is not None):
            self._stage, self._position, self._skip, self.at = stage, 0, 0, None
            self._metadata = self._news(metadata)
            self._state = {}
            if self._compiler.done is not None and self._compiler.done[0] == stage:
                _, self._skip, state = self._compiler.done
                self._state = {position: dict(written) for position, written in state.items()}
            self._last = str(module)
            if self.first_text is None:
                self.first_text = self._last
            try:
                made = self._compiler.run_whole(stage, module, metadata)
            except LoweringError as error:
                raise self._at(error) from error
            self._finish(metadata)
            return made

    def _finish(self, metadata: dict[str, Any]) -> None:
        """What comes after the last step of a stage has that stage's metadata as well."""
        if self.records and self.records[-1].stage == self._stage and self.records[-1].kind == "llvm":
            last = self.records[-1]
            self.records[-1] = replace(last, carried={**last.carried, "metadata": self._news(metadata)})

    def _news(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata that is not as it was before the first stage."""
        return jsonable({k: v for k, v in metadata.items() if k not in self._first or self._first[k] != v})

    def plan(self) -> tuple[Planned, ...]:
        """The MLIR passes of every stage, in order, without running any.

        Raises
        ------
        LoweringError
            The release cannot be asked.
        """
        if self._plan is not None:
            return self._plan
        with LOCK, dump_switched(self.raw is not None), tempfile.TemporaryDirectory() as folder:
            self._planning = []
            nothing = self._compiler.parse("module {\n}\n", "ttir")
            self._probe = Probe(nothing, self._real("ir"), self._real("passes"), Path(folder))
            try:
                for stage, function in self._compiler.stages.items():
                    self._stage = stage
                    with captured_stderr():
                        function(NoModule(nothing.context), dict(self._first))
            except _PlannedOut:
                pass
            finally:
                passes, self._planning, self._probe = self._planning, None, None
        self._plan = numbered(passes)
        return self._plan

    def _at(self, error: LoweringError) -> LoweringError:
        """The error with the pass that failed."""
        if self.at is None:
            return error
        return LoweringError(
            f"{error}\npass: {self.at}",
            stage=error.stage,
            pass_name=self.at.partition("#")[0],
            log=error.log,
            before=self._marker().line() + self.text,
        )

    def _marker(self) -> Marker:
        """Where the module stands when the next pass of the stage begins."""
        done = [p.label for p in self.plan() if p.stage == self._stage][: self._position]
        carried: dict[str, Any] = {"kernel": kernel_of(self.text), "metadata": self._metadata, "state": self._state}
        if self._compiler.gluon:
            carried["gluon"] = True
        return Marker(
            self._stage,
            done[-1] if done else None,
            self._compiler.release,
            self._compiler.target,
            own_options(self._compiler),
            {name: value for name, value in carried.items() if value},
        )

    def _real(self, name: str) -> Any:
        real = self._copies.real(name)
        if real is None:
            raise LoweringError(
                f"Triton {self._compiler.release}: its backend for {self._compiler.target} uses no {name!r} of "
                f"libtriton, so there is nothing to observe",
                stage="passes",
            )
        return real

    def _call(self, function: str, real: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """A call of a stage function into libtriton: adds a pass, is a step by itself, or is none of our business."""
        if function == "ir.pass_manager":
            return _Manager(self, real, *arguments)
        manager = next((a for a in (*arguments, *keywords.values()) if isinstance(a, _Manager)), None)
        if manager is not None:
            return self._add(manager, function, real, arguments, keywords)
        if self._planning is not None:
            if function.startswith("llvm."):
                raise _PlannedOut
            return real(*arguments, **keywords)
        module = next((a for a in arguments if _is_llvm(a)), None)
        if module is None and not function.startswith("llvm."):
            return real(*arguments, **keywords)
        before = None if module is None else str(module)
        started = time.perf_counter()
        result = real(*arguments, **keywords)
        seconds = time.perf_counter() - started
        after = _outcome(module, result, function)
        if after is not None:
            before = self._last if before is None else self._between(before)
            self._record(function, self._other(function), "llvm", function, function, seconds, before or "", after)
        return result

    # --- pass managers ------------------------------------------------------------------------------------------------

    def _add(
        self, manager: _Manager, function: str, real: Callable[..., Any], arguments: Any, keywords: dict[str, Any]
    ) -> Any:
        inside = function in _PRINTED_INSIDE and self._release in _PRINTED_INSIDE_RELEASES
        with dump_switched(inside or self.raw is not None):
            alone = manager.real()

        def add(to: Any) -> Any:
            given = [to if a is manager else a for a in arguments]
            return real(*given, **{k: to if v is manager else v for k, v in keywords.items()})

        result = add(alone)
        if self._planning is not None:
            found = self._probe.elements(alone, add)
            if found:
                self._planning.append((self._stage, *_joined(found)))
            return result
        name = None
        if hasattr(alone, "get_pipeline_str"):
            found = elements(inner(alone.get_pipeline_str()))
            if not found:  # an instrumentation point that nobody uses
                return result
            name = _joined(found)[0]
        if inside:
            self._real("passes").ttir.add_loop_unroll(
                alone
            )  # finds no loop in LLVM's dialect; what counts is its banner
        manager.steps.append(_Step(alone, function, name, tuple(a for a in arguments if a is not manager), inside))
        return result

    def _run(self, manager: _Manager, module: Any, arguments: tuple[Any, ...]) -> None:
        if self._planning is not None:
            return
        assert self._plan is not None
        passes = [p for p in self._plan if p.stage == self._stage]
        for step in manager.steps:
            planned = passes[self._position] if self._position < len(passes) else None
            if planned is None or step.name not in (None, planned.name):
                raise LoweringError(
                    f"Triton {self._compiler.release} adds the pass {step.name or step.function} at position "
                    f"{self._position} of {self._stage} for this module, where it lists "
                    f"{planned.label if planned else 'none'}: its passes cannot be told apart",
                    stage="passes",
                )
            if self._position < self._skip:
                self._restore(step, self._state.get(str(planned.position), {}))
                self._position += 1
                continue
            before = self._between(str(module))
            self.at, self.text = planned.label, before
            with self._printing(step.inside) as printed:
                started = time.perf_counter()
                step.manager.run(module, *arguments)
                seconds = time.perf_counter() - started
            after = _BANNER.split(printed[0])[-1].rstrip("\n") + "\n" if step.inside else str(module)
            written = _written(step.arguments)
            if written:
                self._state[str(planned.position)] = written
            self._position += 1
            self._record(
                planned.name,
                planned.occurrence,
                "mlir",
                planned.pipeline,
                step.function,
                seconds,
                before,
                after,
            )
            self.at = None
        manager.steps.clear()

    @contextlib.contextmanager
    def _printing(self, inside: bool) -> Iterator[list[str]]:
        if self.raw is None and not inside:
            yield []
            return
        with captured_stderr() as printed:
            yield printed
        if self.raw is not None:
            self.raw.extend(printed)

    @staticmethod
    def _restore(step: _Step, written: Mapping[str, Any]) -> None:
        for argument in step.arguments:
            for name, value in written.items():
                if hasattr(argument, name):
                    setattr(argument, name, value)

    # --- records ------------------------------------------------------------------------------------------------------

    def _between(self, text: str) -> str:
        """The module as the next step finds it; what changed since the last one is the stage function's own doing."""
        if self._last is not None and text != self._last:
            self._record("python", self._other("python"), "python", self._stage, self._stage, 0.0, self._last, text)
        return text

    def _other(self, name: str) -> int:
        self._others[name] = self._others.get(name, 0) + 1
        return self._others[name]

    def _record(
        self,
        name: str,
        occurrence: int,
        kind: str,
        pipeline: str,
        function: str,
        seconds: float,
        before: str,
        text: str,
    ) -> None:
        carried = {
            "position": self._position,
            "metadata": self._metadata,
            "state": copy.deepcopy(self._state),
        }
        record = PassRecord(
            len(self.records) + 1,
            self._stage,
            name,
            occurrence,
            kind,
            pipeline,
            function,
            seconds,
            before,
            text,
            carried,
        )
        self._last = text
        self.records.append(record)
        if self.observer is not None:
            self.observer(record)


class _Manager:
    """What a stage function takes for a pass manager."""

    def __init__(self, recorder: Recorder, real: Callable[..., Any], *arguments: Any) -> None:
        self.steps: list[_Step] = []
        self._recorder = recorder
        self._make = functools.partial(real, *arguments)
        self._debug = False

    def real(self) -> Any:
        manager = self._make()
        if self._debug:
            manager.enable_debug()
        return manager

    def enable_debug(self) -> Any:
        self._debug = True
        return self._make().enable_debug()

    def run(self, module: Any, *arguments: Any) -> None:
        self._recorder._run(self, module, arguments)


@contextlib.contextmanager
def dump_switched(on: bool) -> Iterator[None]:
    """Triton's own dump switched on, to stderr, or off, whatever the environment says."""
    with LOCK:
        saved = {name: os.environ.pop(name, None) for name in (_DUMP, _DUMP_PATH)}
        if on:
            os.environ[_DUMP] = "1"
        try:
            yield
        finally:
            os.environ.pop(_DUMP, None)
            os.environ.update({name: value for name, value in saved.items() if value is not None})


def located(
    error: LoweringError, compiler: Compiler, stage: str, before: str, metadata: dict[str, Any]
) -> LoweringError:
    """The error of a stage, with the pass that failed: the stage is run once more, pass by pass.

    Parameters
    ----------
    error : LoweringError
    compiler : Compiler
    stage : str
    before : str
        The module that the stage was given.
    metadata : dict
        As the stage was given it.
    """
    recorder = Recorder(compiler)
    try:
        recorder.run(stage, compiler.parse(before, stage), metadata)
    except LoweringError as again:
        return again if again.pass_name is not None else error
    return error


def _joined(found: list[tuple[str, str]]) -> tuple[str, str]:
    """One name for what one call added; it is one pass in every release so far."""
    return "+".join(name for name, _ in found), ",".join(text for _, text in found)


def _is_llvm(value: Any) -> bool:
    return type(value).__name__ == "module" and type(value).__module__.endswith("libtriton.llvm")


def _outcome(module: Any, result: Any, function: str) -> str | None:
    """Text after a call at LLVM level; ``None`` for one that only asks or prepares."""
    if module is not None:
        return str(module) if result is None else None
    if _is_llvm(result):
        return str(result)
    return result if isinstance(result, str) and function.startswith("llvm.") else None


def _written(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Numbers that an argument which is an object of libtriton holds: a pass may have written them."""
    found: dict[str, Any] = {}
    for argument in arguments:
        if type(argument).__module__.startswith(LIBTRITON):
            values = {n: getattr(argument, n) for n in dir(argument) if not n.startswith("_")}
            found |= {n: v for n, v in values.items() if isinstance(v, (bool, int, float, str))}
    return found
