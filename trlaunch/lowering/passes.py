"""What each pass of the installed release does to a kernel, and starting again behind one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level, detect
from trlaunch.errors import ArtifactError, LoweringError
from trlaunch.lowering.options import target_of
from trlaunch.lowering.pass_files import changed_lines, unified, write
from trlaunch.lowering.pass_marker import Marker, own_options
from trlaunch.lowering.pass_names import kernel_of, squeezed
from trlaunch.lowering.pass_recorder import PassRecord, Recorder
from trlaunch.lowering.pass_start import Start, start_of
from trlaunch.lowering.triton_compiler import WATCH, Compiler
from trlaunch.target import Target

__all__ = ["PassRecord", "PassRun", "observe", "resume"]


@dataclass(frozen=True)
class PassRun(Sequence[PassRecord]):
    """The passes of one lowering, in order.

    Attributes
    ----------
    records : tuple of PassRecord
    input : str
        The module before the first, as the compiler prints it.
    artifact : Artifact
        What came out, with every level on the way beside it.
    start : Marker
        Release, target and options.
    """

    records: tuple[PassRecord, ...]
    input: str = field(repr=False)
    artifact: Artifact
    start: Marker = field(repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[PassRecord]:
        return iter(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def find(self, name: str) -> PassRecord:
        """The record of a pass by its name, ``"tritongpu-coalesce"``, ``"coalesce"`` or ``"canonicalize#2"``.

        Raises
        ------
        LoweringError
            No pass is called that, or several are.
        """
        bare, _, number = name.partition("#")
        found = [r for r in self if squeezed(r.name) == squeezed(bare)] or [
            r for r in self if r.name.endswith((f"-{bare}", f".{bare}"))
        ]
        if number:
            found = [r for r in found if str(r.occurrence) == number]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{r.label} ({r.stage})" for r in found)
            raise LoweringError(f"pass {name!r} ran several times: say which of {listed}", stage="passes")
        known = ", ".join(dict.fromkeys(r.name for r in self))
        raise LoweringError(f"no pass {name!r} ran; these did: {known}", stage="passes")

    def diff(self, name: str, *, locations: bool = False) -> str:
        """What a pass changed, as a unified diff; without source positions unless `locations`."""
        record = self.find(name)
        names = (f"before {record.label}", f"after {record.label}")
        return unified(record.before, record.text, names, locations=locations)

    def changes(self, record: PassRecord) -> str:
        """``"+12 -3"``, lines added and removed, source positions apart; ``""`` of a pass that changed nothing."""
        if not record.changed:
            return ""
        if record.function == "llvm.to_module" or record.function.startswith("llvm.translate"):
            return "translated"
        return "+{} -{}".format(*changed_lines(record.before, record.text))

    def table(self) -> str:
        """One line a pass: number, stage, pass, milliseconds, lines added and removed where it changed something."""
        rows = [("#", "stage", "pass", "ms", "changed")]
        for record in self:
            spent = f"{record.seconds * 1e3:.2f}"
            rows.append((str(record.index), record.stage, record.label, spent, self.changes(record)))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join(
            f"{n:>{widths[0]}}  {stage:{widths[1]}}  {name:{widths[2]}}  {ms:>{widths[3]}}  {lines}".rstrip()
            for n, stage, name, ms, lines in rows
        )

    def write(self, folder: str | Path) -> Path:
        """Write the module after each pass, numbered, with diffs and an index.

        ``00-input.mlir``, then ``NN-<pass>.mlir`` (``.ll`` for LLVM IR), each of which `resume` takes, and
        ``NN-<pass>.diff`` for those that changed something.

        Parameters
        ----------
        folder : path
            New, empty, or of an earlier call.

        Returns
        -------
        pathlib.Path
            ``index.txt`` in it.

        Raises
        ------
        ArtifactError
            The folder holds other files, or cannot be written.
        """
        return write(Path(folder), self.start, self.input, self.records, self._output)

    def _output(self, stage: str) -> str | None:
        level = Level(stage)
        found = self.artifact if self.artifact.level is level else self.artifact.sibling(level)
        return None if found is None or level.is_binary else found.text


def observe(
    artifact: Artifact | str | Path,
    to: Level | str | None = None,
    target: Target | str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    start_after: str | None = None,
    observer: Callable[[PassRecord], None] | None = None,
) -> PassRun:
    """Lower a kernel pass by pass.

    The release's own stage functions run, with pass managers that hold one pass each; what comes out is what `lower`
    gives. Nothing is taken from the cache.

    Parameters
    ----------
    artifact, target, options, name, start_after
        As for `trlaunch.lowering.lower`.
    to : Level or str, optional
        PTX by default, AMDGCN for an AMD target.
    observer : callable, optional
        Takes each record as soon as its pass has run.

    Returns
    -------
    PassRun

    Raises
    ------
    LoweringError
        As for `lower`; of a pass that failed `pass_name` tells, and the reproducer has the module before it.
    """
    start = start_of(artifact, start_after)
    if to is None:
        source = start.source if isinstance(start, Start) else start
        stated = start.marker.target if isinstance(start, Start) and start.marker else None
        to = Level.AMDGCN if target_of(source, target or stated).backend == "hip" else Level.PTX
    watched: list[_Watched] = []

    def watch(compiler: Compiler) -> _Watched:
        watched.append(_Watched(compiler, observer))
        return watched[-1]

    token = WATCH.set(watch)
    try:
        made = (
            start.lower(to, target, options, name)
            if isinstance(start, Start)
            else _lower(start, to, target, options, name)
        )
    finally:
        WATCH.reset(token)
    return watched[0].passes(made, start if isinstance(start, Start) else None)


def _lower(source: Artifact, to: Level | str, target: Any, options: Any, name: str | None) -> Artifact:
    from trlaunch.lowering.lower import lower

    return lower(source, to, target, options, name=name)


class _Watched:
    """Runs the stages of a compiler pass by pass, and keeps what came out."""

    def __init__(self, compiler: Compiler, observer: Callable[[PassRecord], None] | None) -> None:
        self._compiler = compiler
        self._recorder = Recorder(compiler, observer)
        self._stage: str | None = None

    def run(self, stage: str, module: Any, metadata: dict[str, Any]) -> Any:
        self._stage = self._stage or stage
        return self._recorder.run(stage, module, metadata)

    def passes(self, artifact: Artifact, start: Start | None) -> PassRun:
        compiler, recorder = self._compiler, self._recorder
        text = recorder.first_text or ""
        carried: dict[str, Any] = dict(start.marker.carried) if start is not None and start.marker is not None else {}
        kernel = artifact.metadata.name if artifact.metadata is not None else None
        carried |= {"kernel": kernel or kernel_of(text)}
        if compiler.gluon:
            carried["gluon"] = True
        after = start.after if start is not None else None
        first = Marker(self._stage or "", after, compiler.release, compiler.target, own_options(compiler), carried)
        return PassRun(tuple(recorder.records), text, artifact, first)


def resume(
    text_or_path: str | Path | Artifact,
    after: str | None = None,
    to: Level | str = Level.CUBIN,
    target: Target | str | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> Artifact:
    """Go on behind a pass with the module it left, edited or not.

    Parameters
    ----------
    text_or_path : str, pathlib.Path or Artifact
        MLIR text (anything of more than one line), or the file of one.
    after : str, optional
        The pass; left out, what the file says in its first line.
    to : Level or str
    target, options, name
        As for `trlaunch.lowering.lower`; left out, what the file says.

    Returns
    -------
    Artifact

    Raises
    ------
    LoweringError
        No pass or several are called `after`, or as for `lower`.
    ArtifactError
        There is no such file.
    """
    if isinstance(text_or_path, str) and "\n" in text_or_path:
        data = text_or_path.encode()
        text_or_path = Artifact.from_bytes(data, level=None if detect(data) else Level.TTGIR)
    source = text_or_path
    if after is None and isinstance(source, Artifact) and not source.text.startswith(("// trlaunch: ", "; trlaunch: ")):
        raise ArtifactError("the text does not say after which pass it was saved: expected after='tritongpu-coalesce'")
    start = start_of(source, after)
    return (
        start.lower(to, target, options, name) if isinstance(start, Start) else _lower(start, to, target, options, name)
    )
