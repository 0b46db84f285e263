"""From one level to a later one: the stages of the installed release, results kept by content."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trlaunch import cache
from trlaunch._version import __version__
from trlaunch.artifact import Artifact, Level
from trlaunch.errors import LoweringError
from trlaunch.lowering import dialect, isolated
from trlaunch.lowering.options import (
    jsonable,
    kernel_name,
    module_attributes,
    options_of,
    refuse_spent,
    target_of,
    warps_of,
)
from trlaunch.lowering.pass_start import Start, start_of
from trlaunch.lowering.progress import progress
from trlaunch.lowering.reproducer import reproducible
from trlaunch.lowering.triton_compiler import WATCH, Compiler, installed_release, release
from trlaunch.metadata import Metadata
from trlaunch.target import Target

__all__ = ["lower", "lower_source"]

_CUDA = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX, Level.CUBIN)
_HIP = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.AMDGCN, Level.HSACO)
_MODULES = (Level.TTIR, Level.TTGIR)

# What metadata says of the machine and the release rather than of the kernel: never carried over to a result.
_OF_THE_COMPILER = ("target", "extern_libs", "arch", "backend_name", "warp_size")
# What is known of a kernel that comes as LLIR or PTX without metadata: what the compiler goes on with.
_KNOWN_BELOW = (*_OF_THE_COMPILER, "triton_version", "enable_fp_fusion", "ptx_version", "ptx_options")

# Environment variables that change what the compiler makes, as releases from 3.0 to 3.9 read them, by how they begin;
# the second list says only where files lie.
_ENVIRONMENT = ("TRITON_", "MLIR_", "LLVM_", "DISABLE_", "ALLOW_", "NVPTX_", "AMDGCN_", "PTXAS_", "USE_IR_LOC")
_PLACES = ("TRITON_CACHE_DIR", "TRITON_HOME", "TRITON_DUMP_DIR", "TRITON_OVERRIDE_DIR", "TRITON_ALWAYS_COMPILE")
_FILE = "kernel"  # stem in the cache: symbols have characters that file names should not


def lower(
    artifact: Artifact | str | Path,
    to: Level | str,
    target: Target | str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    start_after: str | None = None,
) -> Artifact:
    """The same kernel at a later level.

    The installed release of Triton does the work, whatever the levels. PTX to cubin is the one step that needs no
    Triton: where it is not installed, `trlaunch.cuda.assembler` chooses a ptxas, with the same arguments.

    Parameters
    ----------
    artifact : Artifact or path
        TTIR, TTGIR, LLIR, PTX or AMDGCN text.
    to : Level or str
        A later level of the same backend.
    target : Target or str, optional
        Left out, the metadata's, else what the text states. TTGIR is laid out for one target and takes no other.
    options : mapping, optional
        Compile options by Triton's names, over those of the metadata beside the file and of the module itself.
    name : str, optional
        Kernel, where neither metadata nor text tells.
    start_after : str, optional
        `artifact` is the module as this pass left it, ``"tritongpu-coalesce"`` or ``"canonicalize#2"``: its stage goes
        on behind it. A module that `trlaunch.lowering.passes` saved says so itself.

    Returns
    -------
    Artifact
        With the metadata the compiler wrote, and every level on the way beside it. Metadata of a kernel that came as
        LLIR or PTX without any holds only what the text and the compiler tell: not the shared memory.

    Raises
    ------
    LoweringError
        There is no way from one level to the other, Triton is missing or is another release than the text needs, an
        option is unknown or comes too late, or the compiler failed.
    """
    source = start_of(artifact, start_after)
    if isinstance(source, Start):
        return source.lower(to, target, options, name)
    to = _level(to)
    where = target_of(source, target)
    order = _HIP if where.backend == "hip" else _CUDA
    if source.level not in order or to not in order or order.index(to) <= order.index(source.level):
        raise LoweringError(
            f"there is no way from {source.level} to {to} for {where}: expected a later level of "
            f"{' -> '.join(map(str, order))}",
            stage="levels",
        )
    asked = dict(options or {})
    base = options_of(source)
    refuse_spent(source, asked, _stated(source) | (base if source.level is Level.TTGIR else {}))
    if source.level is Level.PTX and to is Level.CUBIN and installed_release() is None:
        return _assembled(source, where, asked, name)
    full = release()
    text = source.text
    _refuse_other_release(source, text)
    _refuse_other_target(source, text, where)
    _refuse_guess(source, base, asked)
    levels = order[order.index(source.level) + 1 : order.index(to) + 1]
    work = _Work(source, where, base, asked, name)
    key = cache.key("lower", *_toolchain(full), str(where), str(source.level), str(to), text, *work.stable())
    found = _cached(key, levels, source)
    if found is not None:
        return found
    with reproducible(key, source, to, where, base, asked), progress(f"lowering {source.label} for {where}") as say:
        files, metadata = work.run(levels, say)
    return _finished(key, files, metadata, source)


@dataclass(frozen=True, slots=True)
class _Work:
    """One text on its way down: `base` are the options it came with, `asked` those of the call."""

    source: Artifact
    target: Target
    base: Mapping[str, Any]
    asked: Mapping[str, Any]
    name: str | None

    def stable(self) -> tuple[str, str, str]:
        """What the result depends on besides text, target and levels."""
        return _stable(self.base), _stable(self.asked), self.name or ""

    def run(self, levels: tuple[Level, ...], say: Any) -> tuple[dict[Level, bytes], dict[str, Any]]:
        """The text at each of the levels, and the metadata."""
        source = self.source
        compiler = Compiler(self.target, self.base, strict=self.asked)
        metadata = compiler.first_metadata()
        if source.level in _MODULES:
            module = compiler.parse(source.text, str(source.level))
            if source.level is Level.TTGIR:
                metadata |= self._beside_the_module(compiler, module)
        else:
            module = source.text
            metadata = self._without_a_module(metadata)
        made: dict[Level, bytes] = {}
        for level in levels:
            say(str(level))
            if source.level is Level.LLIR and level is levels[0] and WATCH.get() is None:
                module, written = isolated.run(self.target, self.base, self.asked, str(level), source.text)
                metadata |= written
            else:
                module = compiler.run(str(level), module, metadata)
            made[level] = _bytes(module)
        metadata["name"] = metadata.get("name") or kernel_name(source) or self.name
        if metadata["name"] is None:
            raise LoweringError(
                f"{source.label} does not say which kernel it is: expected name=, or metadata beside it", stage="levels"
            )
        return made, metadata

    def _beside_the_module(self, compiler: Compiler, module: Any) -> dict[str, Any]:
        """What the TTGIR stage would have put into the metadata."""
        stated: dict[str, Any] = {}
        if hasattr(module, "get_tensordesc_metadata"):
            stated["tensordesc_meta"] = module.get_tensordesc_metadata()
        if hasattr(compiler.options, "cluster_dims"):  # up to 3.5; later ones lay the CTAs of a cluster along x
            cluster = self.asked.get("cluster_dims", self.base.get("cluster_dims"))
            num_ctas = compiler.options.num_ctas
            if cluster is None and num_ctas > 1:
                raise LoweringError(
                    f"{self.source.label} is for clusters of {num_ctas} CTAs and does not say of which shape: expected "
                    f"its metadata, or options={{'cluster_dims': ({num_ctas}, 1, 1)}} or the like",
                    stage="options",
                )
            if cluster is not None:
                stated["cluster_dims"] = tuple(cluster)
        return stated

    def _without_a_module(self, first: dict[str, Any]) -> dict[str, Any]:
        """Metadata of LLIR or PTX: what was stated beside it, else only what is known."""
        stated = _stated(self.source)
        warps = warps_of(self.source)
        if not stated:
            known = {k: v for k, v in first.items() if k in _KNOWN_BELOW or k in self.asked}
            return known if warps is None else known | {"num_warps": warps}
        kept = {k: v for k, v in stated.items() if k not in (*_OF_THE_COMPILER, *self.asked)}
        return {**first, "num_warps": warps, **kept}


def lower_source(source: Any, to: Level | str, target: Target, options: Mapping[str, Any], *, gluon: bool) -> Artifact:
    """The kernel of a source object of Triton's (``ASTSource``, ``GluonASTSource``) at a level.

    The first stage runs anew each time: its text is Python's, and what that refers to is not in it. What follows is
    kept by the content that the first stage gives.
    """
    to = _level(to)
    compiler = Compiler(target, {}, gluon=gluon, strict=options)
    metadata = compiler.first_metadata()
    stages = compiler.names()
    if str(to) not in stages:
        raise LoweringError(
            f"there is no way from {source.name} to {to} for {target}: expected one of {', '.join(stages)}",
            stage="levels",
        )
    stages = stages[: stages.index(str(to)) + 1]
    with progress(f"compiling {source.name} for {target}") as say:
        say("python")
        module = compiler.run(stages[0], compiler.make_ir(source), metadata)
        text = str(module)
        key = cache.key(
            "source", *_toolchain(release()), str(target), str(to), source.name, _stable(options), stages[0], text
        )
        levels = tuple(Level(s) for s in stages if s != "glir")  # the first module of 3.9's Gluon, no level of its own
        found = _cached(key, levels, None)
        if found is not None:
            return found
        made = {} if stages[0] == "glir" else {Level(stages[0]): text.encode()}
        first = Artifact(next(iter(made), Level.TTGIR), text.encode())
        with reproducible(key, first, to, target, {}, options):
            for stage in stages[1:]:
                say(stage)
                module = compiler.run(stage, module, metadata)
                made[Level(stage)] = _bytes(module)
    metadata["name"] = metadata.get("name") or source.name
    return _finished(key, made, metadata, None)


def _bytes(module: Any) -> bytes:
    return module if isinstance(module, bytes) else str(module).encode()


def _level(value: Level | str) -> Level:
    try:
        return Level(value)
    except ValueError:
        raise LoweringError(f"level {value!r}: expected one of {', '.join(Level)}", stage="levels") from None


def _stated(source: Artifact) -> dict[str, Any]:
    return dict(source.metadata.raw) if source.metadata is not None else {}


def _stable(options: Mapping[str, Any]) -> str:
    return json.dumps(jsonable(options), sort_keys=True)


def _refuse_other_release(source: Artifact, text: str) -> None:
    installed = installed_release()
    if source.level not in (Level.TTIR, Level.TTGIR) or installed is None:
        return
    able = dialect.readers(text)
    if installed not in able:
        reasons = [
            f"{m.what} ({dialect.describe(tuple(r for r in dialect.RELEASES if m.first <= r <= m.last))})"
            for m in dialect.marks(text)
            if not m.first <= installed <= m.last
        ]
        raise LoweringError(
            f"{source.label} was not written by Triton {installed[0]}.{installed[1]}, which is installed: it has "
            f"{', '.join(reasons)}; the releases that can read all of it: {dialect.describe(able)}",
            stage="parse",
        )


def _refuse_other_target(source: Artifact, text: str, target: Target) -> None:
    stated = module_attributes(text).get("target") if source.level is Level.TTGIR else None
    if stated is None:
        return
    made = Target.parse(stated)
    if (made.backend, made.arch) != (target.backend, target.arch):
        raise LoweringError(
            f"{source.label} is laid out for {made} and {target} was asked for: leave it out, or start from the TTIR",
            stage="target",
        )


def _refuse_guess(source: Artifact, base: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if source.level in _MODULES and "tt.func" not in source.text:
        raise LoweringError(f"{source.label} holds no kernel: expected a tt.func in its module", stage="parse")
    if source.level is Level.TTIR and "num_warps" in _stated(source) and not {"num_warps"} & (base.keys() | asked):
        total = _stated(source)["num_warps"]
        raise LoweringError(
            f"{source.label} specialises warps and its metadata states only their total, {total}: expected the .ttgir "
            f"beside it, or options={{'num_warps': ...}} as the kernel was compiled with",
            stage="options",
        )


def _toolchain(full: str) -> tuple[str, ...]:
    """What besides text and options decides the result: releases, the environment, an assembler of the user's own."""
    chosen = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_ENVIRONMENT) and name not in _PLACES
    }
    tools = [
        f"{value}:{status.st_size}:{status.st_mtime_ns}"
        for name, value in chosen.items()
        if name.endswith("_PATH") and (tool := Path(value)).is_file() and (status := tool.stat())
    ]
    return __version__, full, json.dumps(chosen), *tools


def _assembled(source: Artifact, target: Target, asked: Mapping[str, Any], name: str | None) -> Artifact:
    """PTX to cubin without Triton."""
    from trlaunch.cuda.assembler import Options, assemble

    known = ("enable_fp_fusion", "ptx_options")
    for option in asked:
        if option not in known:
            raise LoweringError(
                f"option {option!r}: without Triton, PTX is assembled with {' and '.join(known)} alone", stage="options"
            )
    stated = {k: v for k, v in _stated(source).items() if k not in _OF_THE_COMPILER} | dict(asked)
    fusion, extra = stated.get("enable_fp_fusion", True), stated.get("ptx_options") or ""
    written = target_of(Artifact(Level.PTX, source.data, source.path))
    exact = written if written.arch == target.arch else target  # sm_90a assembles for nothing else
    made = assemble(source.text, exact, options=Options(fmad=bool(fusion), extra=tuple(extra.split())))
    warps = warps_of(source)
    metadata: dict[str, Any] = {"num_warps": warps} if warps is not None else {}
    metadata |= stated
    metadata["target"] = {"backend": "cuda", "arch": target.capability, "warp_size": target.warp_size}
    metadata["name"] = kernel_name(source) or name
    key = cache.key("assembled", str(target), made.cubin, source.text, _stable(metadata))
    return _finished(key, {Level.CUBIN: made.cubin}, metadata, source)


def _cached(key: str, levels: tuple[Level, ...], source: Artifact | None) -> Artifact | None:
    if WATCH.get() is not None or os.environ.get("TRITON_ALWAYS_COMPILE", "0") not in ("", "0"):
        return None
    stated = cache.get(key, f"{_FILE}.json")
    texts = {level: cache.get(key, f"{_FILE}.{level}") for level in levels}
    made = {level: data for level, data in texts.items() if data is not None}
    if stated is None or len(made) < len(levels):
        return None
    return _artifact(made, Metadata.from_json(stated), source)


def _finished(key: str, made: dict[Level, bytes], metadata: dict[str, Any], source: Artifact | None) -> Artifact:
    stated = jsonable(metadata)
    stated["hash"] = key
    files = {f"{_FILE}.{level}": data for level, data in made.items()}
    cache.put(key, {**files, f"{_FILE}.json": json.dumps(stated).encode()})
    return _artifact(made, Metadata.from_dict(stated), source)


def _artifact(made: Mapping[Level, bytes], metadata: Metadata, source: Artifact | None) -> Artifact:
    """The last level made, with those that belong to it: on the way, and where it started.

    A file beside the source may be older than an edit of the source, so later levels are not handed on. Earlier ones
    are where the source itself does not tell names and types of the parameters: LLIR and what comes after it.
    """
    beside: dict[Level, Path | bytes] = {}
    if source is not None:
        if source.level not in _MODULES:
            beside = {level: text for level, text in source.siblings.items() if level in _MODULES}
        beside[source.level] = source.data
    last = list(made)[-1]
    beside |= {level: data for level, data in made.items() if level is not last}
    return Artifact(last, made[last], None, metadata, beside)
