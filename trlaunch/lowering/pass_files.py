"""Writing what passes did to a folder, and what ``MLIR_ENABLE_DUMP`` asks for to the cache's."""

from __future__ import annotations

import difflib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trlaunch import cache
from trlaunch.errors import ArtifactError
from trlaunch.lowering.options import jsonable
from trlaunch.lowering.pass_marker import Marker, own_options
from trlaunch.lowering.pass_names import kernel_of
from trlaunch.lowering.pass_recorder import PassRecord, Recorder, dump_switched
from trlaunch.lowering.triton_compiler import Compiler

__all__ = ["Dump", "changed_lines", "class_names", "marker_of", "unified", "write"]

_VARIABLE, _PATH_VARIABLE = "MLIR_ENABLE_DUMP", "MLIR_DUMP_PATH"
_ON, _OFF = ("1", "true", "on"), ("", "0", "false", "off")
# Up to 3.7 "Before Inliner (inline) (...)", from 3.8 on "Before InlinerPass: inline{...} (...)".
_BANNER = re.compile(r"^// -----// IR Dump Before ([\w:<>()\s]+?)(?::| \()", re.M)
# ` loc(#loc12)`, ` loc("x"(#loc))`, ` loc("file":1:2)`, and the lines that define aliases.
_LOCATION = re.compile(
    r'^#loc\d* = loc\(.*\)\n|\s?\bloc\((?:"(?:[^"\\]|\\.)*"|[^()"]|\((?:"(?:[^"\\]|\\.)*"|[^()"])*\))*\)', re.M
)
_LLVM_LOCATION = re.compile(r"^!\d+ = (?:distinct )?!DI.*\n|,? !dbg !\d+", re.M)


def without_locations(text: str) -> str:
    """MLIR or LLVM IR without what it says about source positions, whose numbering every pass changes."""
    return _LLVM_LOCATION.sub("", _LOCATION.sub("", text))


def unified(before: str, after: str, names: tuple[str, str], *, locations: bool = False) -> str:
    """A unified diff; ``""`` when nothing differs.

    Parameters
    ----------
    before, after : str
    names : tuple of str
        Of the two sides, for the header.
    locations : bool
        Keep source positions; they are left out otherwise.
    """
    old, new = ((text if locations else without_locations(text)).splitlines() for text in (before, after))
    lines = difflib.unified_diff(old, new, *names, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def changed_lines(before: str, after: str) -> tuple[int, int]:
    """Lines added and removed by the unified diff without source positions."""
    body = unified(before, after, ("a", "b")).splitlines()[2:]
    return sum(line.startswith("+") for line in body), sum(line.startswith("-") for line in body)


def marker_of(start: Marker, record: PassRecord, *, output: bool = False) -> Marker:
    """Where the text after a record stands.

    Parameters
    ----------
    start : Marker
        Of the input: release, target, options and what it carried.
    record : PassRecord
    output : bool
        It is the finished text of its stage.
    """
    carried = {k: v for k, v in start.carried.items() if k in ("kernel", "gluon")}
    carried |= {k: v for k, v in record.carried.items() if k in ("metadata", "state", "position") and v}
    if output:
        carried["output"] = True
    return Marker(record.stage, record.label, start.release, start.target, start.options, carried)


def write(
    folder: Path,
    start: Marker,
    first_text: str,
    records: Sequence[PassRecord],
    outputs: Callable[[str], str | None],
    names: Sequence[str] | None = None,
) -> Path:
    """Write ``00-input``, a file after each pass, a diff for each that changed something, and an index.

    Parameters
    ----------
    folder : pathlib.Path
        Made if need be; it must be empty or hold what an earlier call wrote.
    start : Marker
    first_text : str
    records : sequence of PassRecord
    outputs : callable
        Text that a stage came out with, ``None`` for one that did not run.
    names : sequence of str, optional
        What to call each record's file; left out, the pass's argument.

    Returns
    -------
    pathlib.Path
        The index.
    """
    index = folder / "index.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if index.exists():
            for old in [*folder.glob("[0-9][0-9]-*"), *folder.glob("[0-9][0-9][0-9]-*")]:
                old.unlink()
        elif any(folder.iterdir()):
            raise ArtifactError(f"{folder} has files of something else: expected a new or empty folder")
        (folder / "00-input.mlir").write_text(start.line() + first_text)
        previous, rows = "00-input.mlir", ["  # stage  pass  changed  +/-  ms  file", "  0  00-input.mlir"]
        for i, record in enumerate(records):
            stem = f"{record.index:02d}-{_safe(names[i] if names else record.name)}"
            file = f"{stem}.{_extension(record)}"
            marker = marker_of(start, record, output=record.text == outputs(record.stage))
            text = record.text if record.text.endswith("\n") else record.text + "\n"
            (folder / file).write_text(marker.line(";" if file.endswith(".ll") else "//") + text)
            lines = "-"
            if record.changed and _extension(record) == previous.rpartition(".")[2]:
                difference = unified(record.before, record.text, (previous, file))
                (folder / f"{stem}.diff").write_text(difference)
                lines = "+{} -{}".format(*changed_lines(record.before, record.text))
            state = "changed" if record.changed else "same"
            spent = f"{record.seconds * 1e3:.2f}"
            rows.append(f"{record.index:3d} {record.stage}  {record.label}  {state}  {lines}  {spent}  {file}")
            previous = file
        index.write_text(f"Triton {start.release}, {start.target}\n" + "\n".join(rows) + "\n")
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error}") from error
    return index


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def _extension(record: PassRecord) -> str:
    if record.kind == "llvm":
        return "ll" if record.stage == "llir" else "s"
    return "mlir" if "\ntarget triple" not in record.text[:400] else "ll"


# --- MLIR_ENABLE_DUMP ------------------------------------------------------------------------------------------------


class Dump:
    """Runs the stages of a compiler as ``MLIR_ENABLE_DUMP`` asks: a folder in the cache has the module after each pass.

    The folder is ``dumps/<key>``, named on stderr when it is first written; ``all.mlir`` in it is what the release
    printed. As in Triton, a value that is not ``1``, ``true`` or ``on`` is the name of the one kernel to dump.

    Parameters
    ----------
    compiler : Compiler
    """

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._raw: list[str] = []
        self._recorder = Recorder(compiler, raw=self._raw)
        self._outputs: dict[str, str] = {}
        self._first: tuple[str, str] | None = None  # stage and text that the lowering began with
        self._kernel: str | None = None
        self._folder: Path | None = None
        self._printed = 0

    def run(self, stage: str, module: Any, metadata: dict[str, Any]) -> Any:
        """One stage, as `Compiler.run` does it."""
        if self._first is None:
            self._first = stage, str(module)
            self._kernel = kernel_of(self._first[1])
        if not _asked(self._kernel):
            with dump_switched(False):
                return self._compiler.run_located(stage, module, metadata)
        try:
            made = self._recorder.run(stage, module, metadata)
            if not isinstance(made, bytes):
                self._outputs[stage] = str(made)
            return made
        finally:
            self._write(self._first)

    def _write(self, first: tuple[str, str]) -> None:
        if not self._recorder.records:
            return
        stage, text = first
        release, target = self._compiler.release, self._compiler.target
        own = own_options(self._compiler)
        key = cache.key("dump", release, str(target), stage, text, repr(sorted(jsonable(own).items())))
        carried = {"kernel": self._kernel} if self._kernel else {}
        start = Marker(
            stage, None, release, target, own, {**carried, **({"gluon": True} if self._compiler.gluon else {})}
        )
        folder = cache.path() / "dumps" / key[:16]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="tmp-") as temporary:
                inner = Path(temporary) / "dump"
                records = self._recorder.records
                write(inner, start, text, records, self._outputs.get, class_names(records, self._raw))
                (inner / "all.mlir").write_text("".join(self._raw))
                if folder.is_dir():
                    folder.rename(Path(temporary) / "old")
                inner.rename(folder)
            self._follow()
        except OSError as error:
            raise ArtifactError(f"{_VARIABLE}: the dump cannot be written to {folder}: {error}") from error
        if self._folder != folder:
            self._folder = folder
            sys.stderr.write(f"{_VARIABLE}: {folder}\n")

    def _follow(self) -> None:
        """Append what is new to ``MLIR_DUMP_PATH``, where the release would have written it."""
        path = os.environ.get(_PATH_VARIABLE)
        if path:
            with Path(path).open("a") as file:
                file.writelines(self._raw[self._printed :])
        self._printed = len(self._raw)


def _asked(kernel: str | None) -> bool:
    value = os.environ.get(_VARIABLE, "")
    return value.lower() in _ON or (value.lower() not in _OFF and value == kernel)


def class_names(records: Sequence[PassRecord], raw: Sequence[str]) -> list[str]:
    """Names of the passes' classes, as the banners of MLIR's dump have them; other steps keep theirs.

    Parameters
    ----------
    records : sequence of PassRecord
    raw : sequence of str
        What each MLIR pass printed, in order.
    """
    printed = iter(raw)
    names = []
    for record in records:
        banner = _BANNER.search(next(printed, "")) if record.kind == "mlir" else None
        names.append(banner[1] if banner else record.name)
    return names
