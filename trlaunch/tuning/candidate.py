"""Candidates: kernels, files, artifacts, folders of them, functions, each with options."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError
from trlaunch.jit_function import TrlaunchFunction, jit
from trlaunch.kernel import Kernel

__all__ = ["Candidate", "candidates_of"]

#: Of the levels of one kernel in a folder the first of these is the candidate.
_LEVELS = (".trk", *(f".{level}" for level in (Level.CUBIN, Level.HSACO, Level.PTX, Level.AMDGCN, Level.LLIR)),
           *(f".{level}" for level in (Level.TTGIR, Level.TTIR)))  # fmt: skip

_SOURCES = (Kernel, Artifact, str, Path)
"""What is a candidate without being compiled for each launch's arguments."""


@dataclass(frozen=True)
class Candidate:
    """One of the kernels to choose from.

    Indexed by a name it gives a constant, a compile option, or an entry of the metadata, in this order, so that a grid
    can be computed as in Triton: ``lambda c: (cdiv(n, c["BLOCK"]),)``.

    Parameters
    ----------
    source : Kernel, path, Artifact or function
        A function is one of ``@triton.jit`` or `trlaunch.jit`; its constexprs are among the options.
    label : str, optional
        What to call it; left out, the file's name and the options.
    options : mapping, optional
        Compile options, for levels above PTX and functions.
    constants : mapping, optional
        Constexpr arguments that were compiled in, over those that a bundle states.
    grid : int, sequence of int or callable, optional
        Over the tuner's.
    """

    source: Any
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    grid: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, _SOURCES) and not hasattr(self.source, "fn") and not callable(self.source):
            raise ArgumentError(
                f"Candidate({self.source!r:.60}): expected a kernel, a file, an artifact or a function of Triton"
            )
        for name, given in (("options", self.options), ("constants", self.constants)):
            if not isinstance(given, Mapping):
                raise ArgumentError(f"Candidate: {name}={given!r:.60}: expected a mapping, for example {{'BLOCK': 64}}")

    def __getitem__(self, name: str) -> Any:
        raw = {} if self.is_function or self.kernel.metadata is None else self.kernel.metadata.raw
        bundled = {} if self.is_function else self.kernel.artifact.constants
        for known in (self.constants, bundled, self.options, raw):
            if name in known:
                return known[name]
        known_names = sorted({*self.constants, *bundled, *self.options})
        raise ArgumentError(
            f"candidate {self.label!r} has no {name!r}: expected constants={{{name!r}: ...}} of a Candidate or of its "
            f"bundle, a compile option, or a field of its metadata; it has {', '.join(known_names) or 'no constants'}"
        )

    @property
    def is_function(self) -> bool:
        """Whether it is compiled for each launch's arguments."""
        return not isinstance(self.source, _SOURCES)

    @functools.cached_property
    def kernel(self) -> Kernel:
        """The kernel, opened at first use; functions have one for each specialisation.

        Raises
        ------
        TrlaunchError
            It cannot be opened; a tuner counts the candidate as refused.
        """
        if isinstance(self.source, Kernel):
            if self.options:
                raise ArgumentError(f"{self.label}: options are for files, artifacts and functions, found a kernel")
            return self.source
        artifact = self.source if isinstance(self.source, Artifact) else Artifact.from_file(self.source)
        return Kernel(artifact, options=dict(self.options) or None)

    @functools.cached_property
    def function(self) -> TrlaunchFunction:
        """The function, launched by trlaunch."""
        return self.source if isinstance(self.source, TrlaunchFunction) else jit(self.source)

    @property
    def device(self) -> Device | None:
        """The device that a kernel or a function was made with."""
        if isinstance(self.source, Kernel):
            return self.source._given_device
        return self.function._device if self.is_function else None

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of the arguments, ``"arg0"`` where they are not known; a tuple or a descriptor is one."""
        if self.is_function:
            return [name for name in inspect.signature(self.function.fn).parameters if name not in self.options]
        user = self.kernel.signature.user
        return list(dict.fromkeys((p.name or f"arg{i}").partition(".")[0] for i, p in enumerate(user)))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of what would be run: content, metadata, options and constants."""
        made = hashlib.sha256()
        if self.is_function:
            made.update(f"function {self.function.cache_key}".encode())
        else:
            kernel = self.kernel
            raw = {} if kernel.metadata is None else dict(kernel.metadata.raw)
            made.update(kernel.image.data)
            made.update(json.dumps([kernel.name, kernel.shared, raw], sort_keys=True, default=str).encode())
        made.update(json.dumps([dict(self.options), dict(self.constants)], sort_keys=True, default=str).encode())
        return made.hexdigest()

    def launch(self, grid: Any, args: Sequence[Any], named: Mapping[str, Any], stream: Any, device: Any) -> Any:
        """Launch on a grid that was settled."""
        if self.is_function:
            return self.function.run(*args, grid=grid, stream=stream, **{**named, **self.options})
        return self.kernel.launch(grid, *args, stream=stream, device=device, **named)

    def settled_grid(self, grid: Any) -> Any:
        """The grid of this candidate: its own, else `grid`, computed where it is a function of the candidate."""
        found = self.grid if self.grid is not None else grid
        if found is None:
            raise ArgumentError(f"candidate {self.label!r} has no grid: expected grid= of the launch or of the tuner")
        return found(self) if callable(found) else found


def candidates_of(given: Any, options: Sequence[Mapping[str, Any]] | None) -> list[Candidate]:
    """What `trlaunch.autotune` was given, one by one.

    Raises
    ------
    ArgumentError
        There is none, two have one label, or something cannot be a candidate.
    """
    found = list(_expanded(given))
    if options is not None:
        if not options or not all(isinstance(entry, Mapping) for entry in options):
            raise ArgumentError(f"options={options!r:.60}: expected mappings of compile options, at least one")
        found = [replace(c, label=f"{c.label} {_shown(o)}", options={**c.options, **o}) for c in found for o in options]
    if not found:
        raise ArgumentError("no candidate: expected kernels, files, artifacts, a folder of kernels, or a function")
    seen: set[str] = set()
    for i, candidate in enumerate(found):
        label = candidate.label or _label(candidate.source)
        if label in seen:
            label = _place(candidate.source) or label
        label = label if label not in seen else f"{label} #{i}"
        seen.add(label)
        found[i] = replace(candidate, label=label)
    return found


def _expanded(given: Any) -> Iterator[Candidate]:
    if isinstance(given, Candidate):
        yield given if given.label else replace(given, label=_label(given.source, given.options))
    elif isinstance(given, Mapping):
        for label, source in given.items():
            for candidate in _expanded(source):
                yield replace(candidate, label=str(label))
    elif isinstance(given, (str, Path)):
        path = Path(given)
        yield from _folder(path) if path.is_dir() else [Candidate(path, path.name)]
    elif isinstance(given, (Kernel, Artifact, TrlaunchFunction)) or _is_function(given):
        yield Candidate(given, _label(given))
    elif isinstance(given, Sequence):
        for item in given:
            yield from _expanded(item)
    else:
        raise ArgumentError(
            f"{given!r:.60} cannot be a candidate: expected a kernel, a file, an artifact, a folder of kernels, a "
            f"function, a trlaunch.Candidate, or a sequence of these"
        )


def _folder(folder: Path) -> Iterator[Candidate]:
    """Of each kernel in a folder and those below it the level closest to the device."""
    best: dict[Path, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in _LEVELS):
        stem = path.with_suffix("")
        if stem not in best or _LEVELS.index(path.suffix) < _LEVELS.index(best[stem].suffix):
            best[stem] = path
    if not best:
        raise ArgumentError(f"no kernel in {str(folder)!r}: expected files that end in {', '.join(_LEVELS)}")
    for path in best.values():
        yield Candidate(path, path.relative_to(folder).as_posix())


def _is_function(given: Any) -> bool:
    return inspect.isfunction(given) or (hasattr(given, "fn") and inspect.isfunction(given.fn))


def _label(source: Any, options: Mapping[str, Any] | None = None) -> str:
    if isinstance(source, Kernel):
        name = source.artifact.path.name if source.artifact.path else source.name
    elif isinstance(source, Artifact):
        name = source.label
    elif isinstance(source, (str, Path)):
        name = Path(source).name
    else:
        name = getattr(getattr(source, "fn", source), "__name__", str(source))
    return f"{name} {_shown(options)}".rstrip() if options else name


def _place(source: Any) -> str | None:
    """The path of a file or of what was made from one."""
    path = source.artifact.path if isinstance(source, Kernel) else getattr(source, "path", source)
    return path.as_posix() if isinstance(path, Path) else None


def _shown(options: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())
