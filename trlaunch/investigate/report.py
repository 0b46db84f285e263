"""Report: what died, where, with which operands, on which line of each level, and the likeliest causes in order."""

from __future__ import annotations

import json
import platform
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trlaunch._version import __version__
from trlaunch.errors import ArgumentError
from trlaunch.investigate.cause import Cause
from trlaunch.investigate.evidence import Evidence, Site
from trlaunch.investigate.symptoms import MEANINGS
from trlaunch.investigate.trial import STATUSES, Outcome, as_plain

__all__ = ["Report", "versions"]

_WIDTH = 110
_LABEL = 12
_SHOWN = 5  # causes in the text; JSON has all

_SCRIPT = '''"""{title}

    python reproduce.py          in a process of its own, with the report
    python reproduce.py --here   in this process: for a debugger, or under compute-sanitizer

It needs trlaunch alone. What the kernel was given is in trial/: its files, the arguments by value, the settings.
"""

import sys
from pathlib import Path

from trlaunch.investigate import Trial, investigate_trial, launch_here

trial = Trial.load(Path(__file__).with_name("trial"))
if "--here" in sys.argv[1:]:
    launch_here(trial)
else:
    print(investigate_trial(trial))
'''

_PROGRAM_SCRIPT = '''"""{title}

    python reproduce.py

It runs the program again, in the folder that it ran in, and prints the report. images/ has the kernels that it loaded.
"""

from trlaunch.investigate import investigate_program

print(investigate_program({command!r}, folder={folder!r}))
'''

#: Packages whose versions matter to a kernel.
_PACKAGES = ("trlaunch", "numpy", "cuda-python", "cuda-bindings", "hip-python", "triton", "torch", "nvidia-cuda-nvcc")


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a launch or a program, and why.

    Attributes
    ----------
    evidence : Evidence
        Everything it is drawn from: the runs, where it died, what the files say.
    causes : tuple of Cause
        The likeliest first.
    command : tuple of str
        Of a program; empty for a launch.
    folder : str
        That the program ran in.
    """

    evidence: Evidence
    causes: tuple[Cause, ...]
    command: tuple[str, ...] = ()
    folder: str = ""

    @property
    def status(self) -> str:
        """One of `trlaunch.investigate.STATUSES`."""
        return self.evidence.outcome.status

    @property
    def ok(self) -> bool:
        """Whether nothing died."""
        return self.evidence.outcome.ok

    @property
    def cause(self) -> Cause | None:
        """The likeliest."""
        return self.causes[0] if self.causes else None

    @property
    def kernel(self) -> str | None:
        """Name of the kernel that is to blame."""
        e = self.evidence
        own = e.own_site
        if own is not None and own.kernel:
            return own.kernel
        if e.blamed is not None:
            return e.blamed.kernel
        return e.scene.kernel if e.scene else None

    @property
    def core(self) -> bytes | None:
        """The GPU core dump."""
        runs = (self.evidence.replay, self.evidence.outcome)
        return next((o.core for o in runs if o is not None and o.core is not None), None)

    @property
    def title(self) -> str:
        """The report in a line."""
        e = self.evidence
        what = self.kernel or (self.command[0] if self.command else "the launch")
        where = ""
        if self.status == "exit":
            return f"the program ended with status {e.outcome.returncode}; no kernel died"
        if e.scene is not None:
            name = f" ({e.scene.device_name})" if e.scene.device_name not in ("", e.scene.device) else ""
            where = f" on {e.scene.device}{name}"
        elif e.blamed is not None:
            where = f" on {e.blamed.device}"
        verb = {
            "ok": "ran to its end",
            "refused": "was refused",
            "error": "failed",
            "fault": "died",
            "hang": "did not end",
            "killed": "took its process along",
            "timeout": "was not reached within the time limit",
        }[self.status]
        symptom = e.symptom
        meaning = f": {MEANINGS[symptom]}" if symptom in MEANINGS and symptom != "hang" else ""
        return f"{what} {verb}{where}{meaning}"

    def __str__(self) -> str:
        return "\n".join(_text(self))

    def to_json(self) -> dict[str, Any]:
        """Everything but bytes and arrays, for JSON."""
        e = self.evidence
        return {
            "title": self.title,
            "status": self.status,
            "kernel": self.kernel,
            "symptom": e.symptom,
            "causes": [cause.to_dict() for cause in self.causes],
            "sites": [as_plain(site) for site in e.sites],
            "blamed": as_plain(e.blamed),
            "blamed_by": e.blamed_by,
            "error": as_plain(e.died),
            "outcome": e.outcome.to_dict(),
            "replay": None if e.replay is None else e.replay.to_dict(),
            "witness": None if e.witness is None else e.witness.to_dict(),
            "command": list(self.command),
            "versions": versions(),
        }

    def save(self, folder: str | Path) -> Path:
        """Write a folder with which somebody else can look at this.

        It holds the report as text and JSON, the core dump, the versions, and what ran: of a launch the files and the
        arguments by value, with a script ``reproduce.py`` that needs trlaunch alone; of a program its command and the
        kernels that it loaded.

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        ArgumentError
            The folder cannot be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _save(self, folder)
        except OSError as error:
            raise ArgumentError(f"the report cannot be saved to {str(folder)!r}: {error.strerror or error}") from None
        return folder

    def html(self, path: str | Path) -> Path:
        """Write the report as one HTML file: the levels side by side, the faulting line marked.

        Returns
        -------
        pathlib.Path
            The file.
        """
        from trlaunch.investigate.html import write

        return write(self, Path(path))


def versions() -> dict[str, str]:
    """Of what runs a kernel: Python, the platform, and the packages that are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "trlaunch": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _save(report: Report, folder: Path) -> None:
    (folder / "report.txt").write_text(f"{report}\n")
    (folder / "report.json").write_text(json.dumps(report.to_json(), indent=1, default=str))
    (folder / "versions.json").write_text(json.dumps(versions(), indent=1))
    if report.core is not None:
        (folder / "core.nvcudmp").write_bytes(report.core)
    images = {**report.evidence.outcome.images}
    if images:
        (folder / "images").mkdir(exist_ok=True)
        for name, data in images.items():
            (folder / "images" / name).write_bytes(data)
    title = report.title.replace("\\", "/").replace('"""', "'''")
    if report.evidence.trial is not None:
        report.evidence.trial.save(folder / "trial")
        script = _SCRIPT.format(title=title)
    else:
        script = _PROGRAM_SCRIPT.format(title=title, command=list(report.command), folder=report.folder)
    (folder / "reproduce.py").write_text(script)


# --- the text --------------------------------------------------------------------------------------------------------


def _text(report: Report) -> Iterator[str]:
    e = report.evidence
    yield report.title
    if e.died is not None and e.died.type != "Fault" and report.status != "refused":
        yield from _row("error", _first_lines(e.died.message, 2))
    if e.blamed is not None:
        yield from _row("blamed", f"{e.blamed}" + (f"; {e.blamed_by}" if e.blamed_by else ""))
    elif e.blamed_by:
        yield from _row("blamed", e.blamed_by)
    for site in e.sites:
        yield ""
        yield from _site(site)
    yield ""
    yield from _causes(report)
    spots = e.own_site.spots if e.own_site is not None else e.scene.spots if e.scene is not None else ()
    if spots or e.addresses:
        yield ""
        yield "Arguments in memory"
        width = max(len(label) for label in [*(s.label for s in spots), *(label for label, _ in e.addresses)])
        for spot in spots:
            end = spot.address + spot.nbytes
            yield f"  {spot.label:<{width}}  {spot.address:#014x} to {end:#014x}  {spot.nbytes} bytes"
        for label, address in e.addresses:
            yield f"  {label:<{width}}  {'null' if not address else f'{address:#014x}, a bare address'}"
    weak = [f for f in e.scene.findings if f.severity in ("warning", "note")] if e.scene is not None else []
    if weak:
        yield ""
        yield "The audit notes"
        for finding in weak:
            yield from _row(finding.rule, finding.message)
    yield from _runs(report)


def _site(site: Site) -> Iterator[str]:
    yield f"Where, by the {site.witness}" if site.witness != "compute-sanitizer" else f"Where, by {site.witness}"
    yield from _row("what", site.what)
    if site.cta is not None:
        more = f", {site.lanes} threads there" if site.lanes > 1 else ""
        thread = f" thread {_tuple(site.thread)}" if site.thread is not None else ""
        yield from _row("who", f"block {_tuple(site.cta)}{thread}{more}")
    if site.launch:
        yield from _row("launched", site.launch)
    for line in site.lines:
        where = line.file if line.line is None else f"{line.file}:{line.line}"
        yield from _row(line.level, f"{where}  {line.text.strip()}" if line.text.strip() else where)
    if site.instruction and not site.lines:
        yield from _row("at", site.instruction)
    for name, value in site.operands:
        yield from _row("operand", f"{name} = {value}")
    for note in site.notes:
        yield from _row("note", note)


def _causes(report: Report) -> Iterator[str]:
    if not report.causes:
        if report.status == "exit":
            yield "No kernel died: the program ended by itself."
        else:
            yield "Nothing died, and the audit has nothing against the launch." if report.ok else "No cause is known."
        return
    yield "Likely causes" if not report.ok else "It ran, but"
    for number, cause in enumerate(report.causes[:_SHOWN], 1):
        yield f"  {number}. {cause.title}  [{cause.rule}, {cause.score:.2f}]"
        for fact in cause.facts:
            lines = [line for part in fact.splitlines() for line in textwrap.wrap(part, _WIDTH - 7) or [""]]
            yield from (f"       {'- ' if i == 0 else '  '}{line}" for i, line in enumerate(lines[:12]))
        yield from (
            f"       {'try: ' if i == 0 else '     '}{line}"
            for i, line in enumerate(textwrap.wrap(cause.advice, _WIDTH - 12))
        )
    if len(report.causes) > _SHOWN:
        rest = ", ".join(f"{c.rule} {c.score:.2f}" for c in report.causes[_SHOWN:])
        yield f"  less likely: {rest}"


def _runs(report: Report) -> Iterator[str]:
    e = report.evidence
    yield ""
    yield "Runs"
    for name, outcome in (("first", e.outcome), ("replay", e.replay), ("emulator", e.witness)):
        if outcome is not None:
            yield from _row(name, _run(outcome))
    for note in dict.fromkeys(note for o in (e.outcome, e.replay, e.witness) if o is not None for note in o.notes):
        yield from _row("note", note)


def _run(outcome: Outcome) -> str:
    text = f"{outcome.status} ({STATUSES[outcome.status]}) after {outcome.seconds:.1f} s"
    if outcome.core is not None:
        text += f", core dump of {len(outcome.core) / 1e6:.1f} MB"
    error = outcome.error
    if error is not None:
        text += (
            f"; {error.name} from {error.call}" if error.call else f"; {error.kind or error.message.splitlines()[0]}"
        )
    return text


def _row(label: str, text: str) -> Iterator[str]:
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, _WIDTH - _LABEL) or [""]] or [""]
    for i, line in enumerate(lines):
        yield f"  {label if i == 0 else '':<{_LABEL - 2}}{line}"


def _first_lines(text: str, count: int) -> str:
    return "\n".join(text.splitlines()[:count])


def _tuple(index: Sequence[int] | None) -> str:
    return "?" if index is None else f"({','.join(map(str, index))})"
