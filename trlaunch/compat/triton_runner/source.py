"""The launch keywords that say what runs instead of the function: ``ttgir_dir=``, ``ptx_src=``, ``start_pass=``, ..."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.compat.triton_runner.dumps import DUMPS, DumpRequest, take_dump
from trlaunch.errors import ArgumentError, ArtifactError, MetadataError
from trlaunch.lowering.options import jsonable
from trlaunch.metadata import Metadata

__all__ = ["Source", "autotuned", "take"]

_DIRS = {f"{level}_dir": level for level in Level if level not in (Level.PYTHON, Level.GLUON)}
_TEXTS = {f"{level}_src": level for level in _DIRS.values() if not level.is_binary}
_PASS, _METADATA, _AUTOTUNE = "start_pass", "metadata_json", "autotune_cubin_dir"


@dataclass(frozen=True, slots=True)
class Source:
    """What runs instead of the function.

    Attributes
    ----------
    keyword : str
        That named it: ``"ttgir_dir"``.
    level : Level
    path : pathlib.Path or None
        Its file.
    text : str or None
        Given inline.
    metadata : mapping, Metadata or None
        ``metadata_json``.
    start_pass : str or None
        The pass it was saved after.
    dump : DumpRequest or None
        The value to write to ``dump_tensor``, which is among the other keywords.
    """

    keyword: str
    level: Level
    path: Path | None
    text: str | None
    metadata: Mapping[str, Any] | Metadata | None
    start_pass: str | None
    dump: DumpRequest | None = None

    @property
    def is_plain_file(self) -> bool:
        """Whether it is a file with its JSON beside it, to start from as it is."""
        return self.path is not None and self.metadata is None and self.start_pass is None and self.dump is None

    def artifact(self) -> Artifact:
        """The content as it is now.

        Raises
        ------
        ArtifactError
            There is no such file, or its content is of another level.
        """
        if self.path is None:
            return Artifact.from_bytes(self.text or "", self.metadata, self.level)
        found = Artifact.from_file(self.path, self.metadata)
        if found.level is not self.level:
            raise ArtifactError(f"{self.keyword}: {found.label} is {found.level}: expected {self.level}")
        return found

    def known(self) -> Mapping[str, Any] | Metadata | None:
        """``metadata_json``, else the JSON beside the file."""
        if self.metadata is not None or self.path is None:
            return self.metadata
        beside = self.path.with_suffix(".json")
        return Metadata.from_file(beside) if beside.is_file() else None

    def content(self) -> str:
        """The text as it is now, of no level where it was saved between passes."""
        if self.path is None:
            return self.text or ""
        try:
            return self.path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{self.keyword}: {str(self.path)!r} cannot be read: {error}") from None


def take(name: str, parameters: Iterable[str], keywords: Mapping[str, Any]) -> tuple[Source | None, dict[str, Any]]:
    """Split the keywords of a launch into what runs and the rest.

    Parameters
    ----------
    name : str
        The function's, which is the file's without extension.
    parameters : iterable of str
        The function's; a keyword that is one of them is an argument.
    keywords : mapping

    Raises
    ------
    ArgumentError
        Two keywords name something to run, or one is left without another that it needs.
    """
    own = set(parameters)
    known = {*_DIRS, *_TEXTS, *DUMPS, _PASS, _METADATA, _AUTOTUNE} - own
    given = {key: value for key, value in keywords.items() if key in known and value is not None}
    rest = {key: value for key, value in keywords.items() if key not in known}
    dumps = {key: given.pop(key) for key in DUMPS if key in given}
    if _AUTOTUNE in given:
        given["cubin_dir"] = given.pop(_AUTOTUNE)
        rest = autotuned(name, Path(given["cubin_dir"]), rest)
    named = [key for key in given if key in _DIRS or key in _TEXTS]
    if len(named) > 1:
        raise ArgumentError(f"{name}: {'= and '.join(named)}= both say what to run: give one")
    if not named:
        for keyword in (_PASS, _METADATA):
            if keyword in given:
                raise ArgumentError(f"{name}: {keyword}= needs what to run beside it, for example ttgir_src=")
        if dumps:
            rest[DUMPS[0]], _ = take_dump(name, dumps, None)
        return None, rest
    keyword = named[0]
    value, start = given[keyword], given.get(_PASS)
    level, dump = _DIRS.get(keyword) or _TEXTS[keyword], None
    if dumps and start is not None:
        raise ArgumentError(
            f"{name}: {_PASS}= with {DUMPS[0]}=: there is no kernel to put the dump into: give one of them"
        )
    if dumps:
        rest[DUMPS[0]], dump = take_dump(name, dumps, level)
    metadata = _metadata(given.get(_METADATA))
    if keyword in _DIRS:
        path = Path(_path(keyword, value)) / f"{name}.{level}"
        return Source(keyword, level, path, None, metadata, start, dump), rest
    file = _file(_path(keyword, value))
    text = None if file is not None else os.fspath(value)
    return Source(keyword, level, file, text, metadata, start, dump), rest


def autotuned(name: str, folder: Path, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords with the constants a cubin was compiled with, and without options: it has its own.

    triton-runner writes ``kernel_signature`` to the JSON: a tuple of (name, type, specialisation or value, whether it
    was given by keyword) for each parameter, as text. Triton's own JSON has none; there the configuration says them.

    Raises
    ------
    MetadataError
        The JSON is missing or its signature is none.
    """
    metadata = Metadata.from_file(folder / f"{name}.json")
    rest = {k: v for k, v in keywords.items() if k not in ("num_warps", "num_stages", "num_ctas", "maxnreg")}
    text = metadata.raw.get("kernel_signature")
    if text is None:
        return rest
    try:
        return rest | {key: value for key, _, value, by_keyword in ast.literal_eval(str(text)) if by_keyword}
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise MetadataError(
            f"{folder / name}.json: expected kernel_signature as a tuple of (name, type, value, by keyword), "
            f"found {text!r:.80}: {error}"
        ) from None


def _path(keyword: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ArgumentError(f"{keyword}={value!r:.60}: expected {'a folder' if keyword in _DIRS else 'text or a file'}")
    return str(os.fspath(value))


def _file(text: str) -> Path | None:
    """The file that a text names; text of more than one line is content."""
    if "\n" in text:
        return None
    path = Path(text)
    if not path.is_file():
        raise ArtifactError(f"{text[:200]!r} is neither a file nor text of a level")
    return path


def _metadata(value: Any) -> Mapping[str, Any] | Metadata | None:
    """A mapping of what is one, of a named tuple (``CompiledKernel.metadata``), or `trlaunch.Metadata`."""
    if value is None or isinstance(value, Metadata):
        return value
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if not isinstance(value, Mapping):
        raise ArgumentError(f"metadata_json={value!r:.60}: expected what Triton's JSON holds, as a mapping")
    return jsonable(value)
