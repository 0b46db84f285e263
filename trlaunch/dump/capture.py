"""A kernel with captures in it: its artifact, its extra parameter, and what one launch does for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.driver import Driver
from trlaunch.dump.plan import DEFAULT_LIMIT, Capture, Plan, Where, make_plan
from trlaunch.dump.read import Run, read
from trlaunch.dump.request import requests
from trlaunch.errors import ArgumentError
from trlaunch.image import ImageKernel
from trlaunch.signature import Param, Signature, Source

__all__ = ["Captures", "DumpBuffer", "dumpable", "instrument"]

_LEVELS = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX)


@dataclass(frozen=True, slots=True)
class Captures:
    """What was injected into an artifact.

    Attributes
    ----------
    artifact : Artifact
        With the captures in its text.
    captures : tuple of Capture
    index : int
        The place of the pointer among all parameters.
    names : tuple of str
        SSA names of the parameters before it, where counting iterations needs them.
    limit : int or None
        Bytes of the largest buffer.
    """

    artifact: Artifact
    captures: tuple[Capture, ...]
    index: int
    names: tuple[str, ...]
    limit: int | None

    def without(self, entry: ImageKernel) -> ImageKernel:
        """The kernel without the injected parameter, as everything that says something of its parameters knows it."""
        params = tuple(replace(p, index=i) for i, p in enumerate(self._left(entry.params)))
        return replace(entry, params=params)

    def source_without(self, source: Source, level: Level) -> Source:
        """A source of parameters, which has the injected one where it is of the injected level or a later one."""
        if level not in _LEVELS or _LEVELS.index(level) < _LEVELS.index(self.artifact.level):
            return source
        return replace(source, slots=tuple(self._left(source.slots)))

    def _left(self, items: Iterable[Any]) -> list[Any]:
        return [item for i, item in enumerate(items) if i != self.index]

    def signature(self, entry: ImageKernel, signature: Signature) -> Signature:
        """A signature made without the injected parameter, with it."""
        place = entry.params[self.index]
        pointer = Param(self.index, "dump", "*i8", place.offset, place.size, "dump", 16)
        params = list(signature.params)
        params.insert(self.index, pointer)
        return replace(signature, params=tuple(replace(p, index=i) for i, p in enumerate(params)))

    # --- a launch ----------------------------------------------------------------------------------------------------

    def buffer(self, grid: tuple[int, int, int], axes: int, signature: Signature, data: bytes) -> DumpBuffer:
        """The buffer for a launch with these packed arguments; `axes` are those of the grid that the caller gave."""
        arguments = {}
        for name, param in zip(self.names, signature.params, strict=False):
            if param.role == "user" and param.size <= 8 and not (param.type or "").startswith(("*", "fp", "bf")):
                raw = data[param.offset : param.offset + param.size]
                arguments[name] = int.from_bytes(raw, "little", signed=True)
        return DumpBuffer(make_plan(self.captures, grid, axes, arguments, self.limit))


@dataclass(slots=True)
class DumpBuffer:
    """The memory that one launch writes its dumps to."""

    plan: Plan
    driver: Driver | None = None
    ordinal: int = 0
    stream: int = 0
    address: int = 0

    def allocate(self, driver: Driver, ordinal: int, stream: int) -> int:
        """Its address, with the header in it, and zeros where nothing has been written yet."""
        self.driver, self.ordinal, self.stream = driver, ordinal, stream
        self.address = driver.allocate_scratch(self.plan.nbytes, 256, ordinal, stream)
        driver.clear(self.address, self.plan.cleared, ordinal, stream)
        driver.copy_to_device(self.address, memoryview(bytearray(self.plan.header)), ordinal, stream)
        return self.address

    def collect(self) -> Run:
        """Wait for the kernel and read what it wrote."""
        data = bytearray(self.plan.nbytes)
        if self.driver is not None:
            self.driver.copy_to_host(memoryview(data), self.address, self.ordinal, self.stream)
        return Run(read(self.plan, data))

    def empty(self) -> Run:
        """The dumps of a grid without programs."""
        return Run(read(self.plan, bytearray(self.plan.nbytes)))


def instrument(artifact: Artifact, dump: Any, name: str | None, limit: int | None = DEFAULT_LIMIT) -> Captures:
    """Put captures into an artifact.

    Raises
    ------
    ArgumentError
        The level has no text to put them in, or a value cannot be captured.
    """
    asked = None if dump is True else requests(dump)
    level = artifact.level
    _refuse_level(artifact)
    if asked is None and level not in (Level.TTIR, Level.TTGIR):
        raise ArgumentError(
            f"dump=True is for functions with trlaunch.language.dump in them, {artifact.label} is {level}"
        )
    stated = name or (artifact.metadata.name if artifact.metadata is not None else None)
    names: tuple[str, ...] = ()
    index = 0
    if level in (Level.TTIR, Level.TTGIR):
        from trlaunch.dump import ttir

        text, captures, names = ttir.inject(artifact.text, stated, asked)
        if _for_cuda(artifact):  # up to 3.1 e4nv is printed as the type that AMD's GPUs have
            captures = [replace(c, dtype="fp8e4nv") if c.dtype == "fp8e4b8" else c for c in captures]
        index = len(names)
    elif asked is not None:
        metadata = artifact.metadata
        if metadata is not None and math.prod(metadata.cluster) > 1:
            raise ArgumentError(
                f"dump: {artifact.label} runs in clusters of {metadata.cluster} CTAs, which are captured "
                f"at TTIR and TTGIR only: give one of these"
            )
        warps = metadata.num_warps if metadata is not None else None
        width = metadata.target.warp_size if metadata is not None and metadata.target is not None else 32
        threads = None if warps is None else warps * width
        from trlaunch.dump import llir, ptx

        if level is Level.LLIR:
            beside = artifact.sibling(Level.TTGIR) if Level.TTGIR in artifact.siblings else None
            ttgir = None if beside is None else beside.text
            text, captures, index = llir.inject(artifact.text, stated, asked, threads, ttgir)
        else:
            text, captures, index = ptx.inject(artifact.text, stated, asked, threads)
    siblings: Mapping[Level, Any] = {
        other: content
        for other, content in artifact.siblings.items()
        if other in _LEVELS and _LEVELS.index(other) < _LEVELS.index(level)
    }
    made = replace(artifact, data=text.encode(), siblings=siblings)
    return Captures(made, tuple(captures), index, names, limit)


def dumpable(artifact: Artifact, name: str | None = None) -> list[tuple[Where, str]]:
    """The values inside a kernel, in the order of the text, each with why it cannot be captured (nothing: it can).

    Raises
    ------
    ArgumentError
        The level has no text to put captures in.
    """
    _refuse_level(artifact)
    kernel = name or (artifact.metadata.name if artifact.metadata is not None else None)
    if artifact.level in (Level.TTIR, Level.TTGIR):
        from trlaunch.dump.choose import candidates

        return [(c.where, c.refused) for c in candidates(artifact.text, kernel)[2]]
    if artifact.level is Level.LLIR:
        from trlaunch.dump import llir

        return llir.dumpable(artifact.text, kernel)
    from trlaunch.dump import ptx

    return ptx.dumpable(artifact.text, kernel)


def _for_cuda(artifact: Artifact) -> bool:
    if artifact.metadata is not None and artifact.metadata.target is not None:
        return artifact.metadata.target.backend == "cuda"
    return 'target = "cuda:' in artifact.text


def _refuse_level(artifact: Artifact) -> None:
    if artifact.level in _LEVELS:
        return
    expected = [level for level in _LEVELS if level is not Level.PTX or artifact.level is Level.CUBIN]
    beside = [str(other) for other in _LEVELS if other in artifact.siblings]
    there = f"beside it there is {', '.join(beside)}: give that" if beside else "there is none of these beside it"
    raise ArgumentError(
        f"dump: {artifact.label} is {artifact.level}, which captures cannot be put into; expected "
        f"{', '.join(map(str, expected))}; {there}"
    )
