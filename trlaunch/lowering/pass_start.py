"""Starting between two passes: from a module that a pass left, saved by trlaunch or named by the user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trlaunch import cache
from trlaunch.artifact import Artifact, Level, detect
from trlaunch.errors import ArtifactError, LoweringError
from trlaunch.lowering import dialect
from trlaunch.lowering.options import jsonable, options_of, target_of
from trlaunch.lowering.pass_marker import Marker, own_options, read_marker
from trlaunch.lowering.pass_names import find, kernel_of
from trlaunch.lowering.pass_recorder import Recorder
from trlaunch.lowering.progress import progress
from trlaunch.lowering.triton_compiler import WATCH, Compiler, installed_release
from trlaunch.metadata import Metadata
from trlaunch.target import Target

__all__ = ["Start", "start_of"]

_CUDA = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX, Level.CUBIN)
_HIP = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.AMDGCN, Level.HSACO)
_MARKS = ("// trlaunch: ", "; trlaunch: ")


@dataclass(frozen=True)
class Start:
    """A module between two passes, and where that is.

    Attributes
    ----------
    source : Artifact
    marker : Marker or None
        What the text itself says.
    after : str or None
        The pass that the user or the marker names; ``None`` before the first pass of the marker's stage.
    """

    source: Artifact
    marker: Marker | None
    after: str | None

    def lower(
        self,
        to: Level | str,
        target: Target | str | None = None,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> Artifact:
        """Run the rest of the stage and the stages after it; parameters and errors are those of `lower`."""
        source, marker = self.source, self.marker
        where = target_of(source, target or (marker.target if marker else None))
        order = _HIP if where.backend == "hip" else _CUDA
        try:
            to = Level(to)
        except ValueError:
            raise LoweringError(f"level {to!r}: expected one of {', '.join(order)}", stage="levels") from None
        base = options_of(source) if marker is None else dict(marker.options)
        gluon = marker is not None and bool(marker.carried.get("gluon"))
        compiler = Compiler(where, base, gluon=gluon, strict=options)
        stage, skip = self._place(Recorder(compiler))
        if to not in order or order.index(to) < order.index(Level(stage)):
            raise LoweringError(
                f"there is no way from inside {stage} to {to} for {where}: expected one of "
                f"{', '.join(order[order.index(Level(stage)) :])}",
                stage="levels",
            )
        stem = name or self.kernel or "kernel"
        stages = order[order.index(Level(stage)) : order.index(to) + 1]
        stated = json.dumps([jsonable(own_options(compiler)), jsonable(base)], sort_keys=True)
        key = cache.key("between", compiler.release, str(where), source.text, stage, skip, str(to), stem, stated)
        if WATCH.get() is None:
            found = _cached(key, stages)
            if found is not None:
                return found
        compiler.done = (stage, skip, marker.carried.get("state", {}) if marker else {})
        metadata = compiler.first_metadata() | self._known(base)
        module: Any = compiler.parse(source.text, str(source.level))
        if "tensordesc_meta" not in metadata and stage == "llir" and "tt.func" in source.text:
            ask = getattr(module, "get_tensordesc_metadata", None)  # from 3.4 on
            if ask is not None:
                metadata["tensordesc_meta"] = ask()
        made: dict[Level, bytes] = {}
        with progress(f"lowering {source.label} for {where}") as say:
            for level in stages:
                say(str(level))
                module = compiler.run(str(level), module, metadata)
                made[level] = module if isinstance(module, bytes) else str(module).encode()
        metadata["name"] = metadata.get("name") or stem
        stated_metadata = json.dumps({**jsonable(metadata), "hash": key})
        cache.put(key, {"kernel.json": stated_metadata.encode(), **{f"kernel.{n}": data for n, data in made.items()}})
        return _artifact(made, Metadata.from_json(stated_metadata))

    @property
    def kernel(self) -> str | None:
        """The kernel's name, where marker or text tells."""
        if self.marker is not None and "kernel" in self.marker.carried:
            return str(self.marker.carried["kernel"])
        return kernel_of(self.source.text)

    def _known(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata that the stages before this one would have written."""
        if self.marker is not None:
            return dict(self.marker.carried.get("metadata", {}))
        return {name: base[name] for name in ("cluster_dims", "tensordesc_meta") if name in base}

    def _place(self, recorder: Recorder) -> tuple[str, int]:
        """The stage, and how many of its passes are done."""
        if self.after is None:
            assert self.marker is not None
            return self.marker.stage, 0
        done = find(recorder.plan(), self.after)
        said = self.marker.after if self.marker is not None else None
        if said is not None and find(recorder.plan(), said) != done:
            raise LoweringError(
                f"start_after={self.after!r}, and {self.source.label} says that it was saved after {said}: leave "
                f"start_after out, or delete the first line",
                stage="passes",
            )
        return done.stage, done.position + 1


def start_of(artifact: Artifact | str | Path, start_after: str | None = None) -> Start | Artifact:
    """Where a text stands: a `Start`, or an `Artifact` that is of a level and has no place between passes.

    Parameters
    ----------
    artifact : Artifact or path
    start_after : str, optional

    Raises
    ------
    ArtifactError
        The file cannot be read, or is of no level.
    LoweringError
        The text is of another release, or is LLVM IR in the middle of its stage, which Triton cannot read.
    """
    source = artifact if isinstance(artifact, Artifact) else _opened(Path(artifact), start_after)
    marker = None if source.level.is_binary else read_marker(source.text)
    if marker is not None:
        marker.refuse_other_release(source.label)
    elif start_after is None:
        return source
    if source.level in (Level.TTIR, Level.TTGIR):
        if marker is None:
            _refuse_other_release(source)
        return Start(source, marker, start_after or (marker.after if marker else None))
    if marker is None or start_after is not None or not marker.carried.get("output"):
        raise LoweringError(
            f"{source.label} is {source.level}, which Triton can read only when its stage is done: expected a module "
            f"saved after an MLIR pass, or the finished .{source.level}",
            stage="levels",
        )
    metadata = {**jsonable(marker.options), **marker.carried.get("metadata", {})}
    metadata |= {"name": marker.carried.get("kernel"), "target": _plain(marker.target)}
    return Artifact(source.level, source.data, source.path, source.metadata or Metadata.from_dict(metadata))


def _plain(target: Target) -> dict[str, Any]:
    arch: int | str = target.capability if target.backend == "cuda" else target.arch
    return {"backend": target.backend, "arch": arch, "warp_size": target.warp_size}


def _opened(path: Path, start_after: str | None) -> Artifact:
    """A file; a module in LLVM's dialect is of no level by its content."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    if start_after is None and not data.startswith(tuple(mark.encode() for mark in _MARKS)):
        return Artifact.from_file(path)
    beside = path.with_suffix(".json")
    level = None if detect(data) else Level.TTGIR
    return replace(Artifact.from_bytes(data, beside if beside.is_file() else None, level), path=path)


def _refuse_other_release(source: Artifact) -> None:
    installed, able = installed_release(), dialect.readers(source.text)
    if installed is not None and installed not in able:
        raise LoweringError(
            f"{source.label} was not written by Triton {installed[0]}.{installed[1]}, which is installed; the releases "
            f"that can read it: {dialect.describe(able)}",
            stage="parse",
        )


def _cached(key: str, stages: tuple[Level, ...]) -> Artifact | None:
    stated = cache.get(key, "kernel.json")
    texts = {level: cache.get(key, f"kernel.{level}") for level in stages}
    made = {level: data for level, data in texts.items() if data is not None}
    return None if stated is None or len(made) < len(stages) else _artifact(made, Metadata.from_json(stated))


def _artifact(made: Mapping[Level, bytes], metadata: Metadata) -> Artifact:
    last = list(made)[-1]
    return Artifact(last, made[last], None, metadata, {level: made[level] for level in made if level is not last})
