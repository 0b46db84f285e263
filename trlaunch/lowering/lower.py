"""From one level to a later one: the stages of the installed release, results kept by content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trlaunch import cache
from trlaunch.artifact import Artifact, Level
from trlaunch.errors import ArtifactError, LoweringError
from trlaunch.lowering import dialect
from trlaunch.lowering.options import jsonable, options_of, target_of
from trlaunch.lowering.progress import progress
from trlaunch.lowering.triton_compiler import Compiler, installed_release, release
from trlaunch.metadata import Metadata
from trlaunch.target import Target

__all__ = ["lower", "lower_source"]

_CUDA = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX, Level.CUBIN)
_HIP = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.AMDGCN, Level.HSACO)


def lower(
    artifact: Artifact | str | Path,
    to: Level | str,
    target: Target | str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> Artifact:
    """The same kernel at a later level.

    Parameters
    ----------
    artifact : Artifact or path
        TTIR, TTGIR, LLIR, PTX or AMDGCN text.
    to : Level or str
        A later level of the same backend.
    target : Target or str, optional
        Left out, the metadata's, else what the text states.
    options : mapping, optional
        Compile options by Triton's names, over those of the metadata beside the file and of the module itself.
    name : str, optional
        Kernel, where neither metadata nor text tells.

    Returns
    -------
    Artifact
        With the metadata the compiler wrote, and every level on the way beside it.

    Raises
    ------
    LoweringError
        There is no way from one level to the other, Triton is missing or is another release than the text needs, or
        the compiler failed.
    """
    source = artifact if isinstance(artifact, Artifact) else Artifact.from_file(artifact)
    to = _level(to)
    where = target_of(source, target)
    order = _HIP if where.backend == "hip" else _CUDA
    if source.level not in order or to not in order or order.index(to) <= order.index(source.level):
        raise LoweringError(
            f"there is no way from {source.level} to {to} for {where}: expected a later level of "
            f"{' -> '.join(map(str, order))}",
            stage="levels",
        )
    text = source.text
    _refuse_other_release(source, text)
    stem = name or _name(source) or "kernel"
    asked = dict(options or {})
    base = options_of(source)
    stated = source.metadata.raw if source.metadata is not None else {}
    key = cache.key(
        "lower", release(), str(where), str(source.level), str(to), text, stem, _stable(base), _stable(asked)
    )
    found = _cached(key, stem, to, order)
    if found is not None:
        return found
    compiler = Compiler(where, base, strict=asked)
    metadata = compiler.first_metadata()
    first = order.index(source.level) + 1
    if source.level in (Level.TTIR, Level.TTGIR):
        module = _reproducible(key, source, where, base, asked, lambda: compiler.parse(text, str(source.level)))
        if source.level is Level.TTGIR:
            metadata |= {k: stated[k] for k in ("cluster_dims", "tensordesc_meta") if k in stated}
            if "tensordesc_meta" not in metadata and hasattr(module, "get_tensordesc_metadata"):
                metadata["tensordesc_meta"] = module.get_tensordesc_metadata()
    else:
        module = text
        metadata = {**metadata, **{k: v for k, v in stated.items() if k != "target"}}
    files: dict[str, bytes] = {f"{stem}.{source.level}": source.data}
    with progress(f"lowering {source.label} for {where}") as say:
        for level in order[first : order.index(to) + 1]:
            say(str(level))
            stage_input = module
            module = _reproducible(
                key, source, where, base, asked, lambda s=level, m=stage_input: compiler.run(str(s), m, metadata)
            )
            files[f"{stem}.{level}"] = module if isinstance(module, bytes) else str(module).encode()
    return _finished(key, stem, to, files, metadata, source)


def lower_source(source: Any, to: Level | str, target: Target, options: Mapping[str, Any], *, gluon: bool) -> Artifact:
    """The kernel of a source object of Triton's (``ASTSource``, ``GluonASTSource``) at a level.

    The first stage runs anew each time: its text is Python's, and what that refers to is not in it. What follows is
    kept by the content that the first stage gives.
    """
    to = _level(to)
    compiler = Compiler(target, {}, gluon=gluon, strict=options)
    metadata = compiler.first_metadata()
    files: dict[str, bytes] = {}
    stem = source.name
    stages = compiler.names()
    if str(to) not in stages:
        raise LoweringError(
            f"there is no way from {stem} to {to} for {target}: expected one of {', '.join(stages)}", stage="levels"
        )
    key = ""
    with progress(f"compiling {stem} for {target}") as say:
        say("python")
        module = compiler.make_ir(source)
        before: Artifact | None = None
        for stage in stages[: stages.index(str(to)) + 1]:
            say(stage)
            if before is None:
                module = compiler.run(stage, module, metadata)
                module_text = str(module)
                key = cache.key(
                    "source", release(), str(target), str(to), stem, _stable(dict(options)), stage, module_text
                )
                found = _cached(key, stem, to, _HIP if target.backend == "hip" else _CUDA)
                if found is not None:
                    return found
            else:
                module = _reproducible(
                    key, before, target, {}, options, lambda s=stage, m=module: compiler.run(s, m, metadata)
                )
            data = module if isinstance(module, bytes) else str(module).encode()
            if stage in Level._value2member_map_:  # 3.9 calls Gluon's first stage glir, which is no level
                files[f"{stem}.{stage}"] = data
                before = Artifact(Level(stage), data)
            else:
                before = Artifact(Level.TTGIR, data)
    return _finished(key, stem, to, files, metadata, None)


def _level(value: Level | str) -> Level:
    try:
        return Level(value)
    except ValueError:
        raise LoweringError(f"level {value!r}: expected one of {', '.join(Level)}", stage="levels") from None


def _name(source: Artifact) -> str | None:
    if source.metadata is not None and source.metadata.name:
        return source.metadata.name
    return source.path.stem if source.path is not None else None


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


def _cached(key: str, stem: str, to: Level, order: tuple[Level, ...]) -> Artifact | None:
    data, stated = cache.get(key, f"{stem}.{to}"), cache.get(key, f"{stem}.json")
    if data is None or stated is None:
        return None
    beside: dict[Level, Path | bytes] = {}
    for level in order:
        text = cache.get(key, f"{stem}.{level}") if level is not to else None
        if text is not None:
            beside[level] = text
    return Artifact(to, data, None, Metadata.from_json(stated), beside)


def _finished(
    key: str, stem: str, to: Level, files: dict[str, bytes], metadata: dict[str, Any], source: Artifact | None
) -> Artifact:
    stated = jsonable(metadata)
    stated["hash"] = key
    stated.setdefault("name", stem)
    if stated["name"] is None:
        stated["name"] = stem
    cache.put(key, {**files, f"{stem}.json": json.dumps(stated).encode()})
    beside: dict[Level, Path | bytes] = dict(source.siblings) if source is not None else {}
    for file, data in files.items():
        beside[Level(file.rpartition(".")[2])] = data
    made = files.get(f"{stem}.{to}")
    if made is None:
        raise ArtifactError(f"{stem}: no {to} came out of the compiler")
    del beside[to]
    return Artifact(to, made, None, Metadata.from_dict(stated), beside)


def _reproducible(
    key: str, source: Artifact, target: Target, base: Mapping[str, Any], asked: Mapping[str, Any], work: Any
) -> Any:
    """Run one step; a failure of the compiler leaves a folder that repeats it."""
    try:
        return work()
    except LoweringError as error:
        if not error.log:
            raise
        folder = cache.path() / "reproducers" / key[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"kernel.{source.level}").write_bytes(source.data)
            (folder / "options.json").write_text(
                json.dumps(
                    {"target": str(target), "release": release(), "options": jsonable({**base, **asked})}, indent=1
                )
            )
            (folder / "error.log").write_text(error.log)
        except OSError as failure:
            raise LoweringError(
                f"{error} (no reproducer: {folder} cannot be written: {failure})", stage=error.stage, log=error.log
            ) from error
        raise LoweringError(
            f"{error}\nreproducer: {folder}",
            stage=error.stage,
            pass_name=error.pass_name,
            log=error.log,
            reproducer=folder,
        ) from error
