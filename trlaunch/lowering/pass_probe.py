"""Asking a release which passes it has put into a pass manager."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trlaunch.lowering.pass_names import elements

__all__ = ["NoModule", "Probe", "inner"]

_REPRODUCER = "TRITON_REPRODUCER_PATH"


class NoModule:
    """Stands for the module while passes are listed: it has a context, and answers every question with nothing."""

    def __init__(self, context: Any) -> None:
        self.context = context

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_: "" if name.startswith("str") else None


class Probe:
    """Asks the release which passes a pass manager holds."""

    def __init__(self, nothing: Any, ir: Any, passes: Any, folder: Path) -> None:
        self._nothing = nothing
        self._ir = ir
        self._passes = passes
        self._file = folder / "pipeline.mlir"
        self._context = nothing.context

    def elements(self, manager: Any, add: Callable[[Any], Any]) -> list[tuple[str, str]]:
        """(argument, text with options) of each pass in `manager`; `add` puts the same into another one."""
        if hasattr(manager, "get_pipeline_str"):  # from Triton 3.3 on
            return elements(inner(manager.get_pipeline_str()))
        return elements(inner(self._reproducer(type(manager), add)))[1:]

    def _reproducer(self, manager_type: Any, add: Callable[[Any], Any]) -> str:
        """The pipeline as the reproducer has it, which is written before the first pass runs.

        The first pass here is the inliner, on a module that the verifier refuses after it: the pass asked about does
        not run, which on an empty module could abort the process.
        """
        self._nothing.set_attr("unprefixed", self._ir.builder(self._context).get_int32_attr(0))
        manager = manager_type(self._context)
        self._passes.common.add_inliner(manager)
        add(manager)
        saved = os.environ.get(_REPRODUCER)
        os.environ[_REPRODUCER] = str(self._file)
        try:
            with contextlib.suppress(RuntimeError):
                manager.run(self._nothing)
        finally:
            if saved is None:
                del os.environ[_REPRODUCER]
            else:
                os.environ[_REPRODUCER] = saved
        text = self._file.read_text()
        start = text.index('pipeline: "') + len('pipeline: "')
        return text[start : text.index('",\n', start)]


def _joined(found: list[tuple[str, str]]) -> tuple[str, str]:
    """One name for what one call added; it is one pass in every release so far."""
    return "+".join(name for name, _ in found), ",".join(text for _, text in found)


def inner(pipeline: str) -> str:
    """A pipeline without the anchors ``builtin.module(any(...))`` around it."""
    for anchor in ("builtin.module(", "any("):
        if pipeline.startswith(anchor) and pipeline.endswith(")"):
            pipeline = pipeline[len(anchor) : -1]
    return pipeline
