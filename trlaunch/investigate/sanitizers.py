"""NVIDIA's compute-sanitizer over a launch or a program, its findings read into the report of an investigation.

The text it prints is described in the Compute Sanitizer manual: every line begins with ``=========``; a finding begins
at the margin, and what belongs to it is indented. Findings are separated by empty lines.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trlaunch.cuda.toolkit import find_tools, searched
from trlaunch.errors import ArgumentError, AssemblerMissing
from trlaunch.investigate.carried import Spot
from trlaunch.investigate.causes import causes
from trlaunch.investigate.evidence import Evidence, Line, Site
from trlaunch.investigate.isolation import Ended, environment, outcome_in, python_path, wait
from trlaunch.investigate.report import Report
from trlaunch.investigate.trial import Died, Outcome, Trial

__all__ = ["TOOLS", "SanitizerFinding", "parse_findings", "sanitize_program", "sanitize_trial", "tool_name"]

#: The tools of compute-sanitizer, and what each looks for.
TOOLS = {
    "memcheck": "accesses out of bounds or misaligned, and errors of the device",
    "racecheck": "accesses to shared memory that no barrier orders",
    "initcheck": "reads of global memory that nothing has written",
    "synccheck": "barriers that not all threads reach",
}

_VARIABLE = "TRLAUNCH_COMPUTE_SANITIZER"
_PREFIX = re.compile(r"=========(?: (.*))?$")

#: First words of a finding -> its symptom; first match wins. What is not here is a line about the run.
_KINDS = (
    (re.compile(r"Invalid __(\w+)__ (?:read|write|atomic|access)"), "illegal-address"),
    (re.compile(r"(?:Invalid|Illegal) .*(?:access|address)"), "illegal-address"),
    (re.compile(r"Uninitialized __(\w+)__ memory read"), "uninitialised"),
    (re.compile(r"Uninitialized access"), "uninitialised"),
    (re.compile(r"(?:Error|Warning|WARN|ERROR):? ?:? ?Race reported"), "race"),
    (re.compile(r"(?:Error|Warning|WARN|ERROR):? ?:? ?(?:\(.*\) ?)?Potential \w+ hazard"), "race"),
    (re.compile(r"Barrier error detected"), "barrier"),
    (re.compile(r"Malloc/Free [Ee]rror|Invalid (?:malloc|free)"), "illegal-address"),
    (re.compile(r"(?:Warp )?Misaligned"), "misaligned"),
    (re.compile(r"(?:Warp )?Illegal [Ii]nstruction"), "illegal-instruction"),
    (re.compile(r"(?:Device )?[Ss]tack [Oo]verflow"), "stack"),
    (re.compile(r"(?:Device|Warp) [Aa]ssert"), "assert"),
)
_STATUS = re.compile(r"Program hit (\w+) \(error (\d+)\) due to (.*?) on CUDA API call to (\w+)")
# "at k(float *)+0x40 in k.py:21" of 2023 and later, "at 0x40 in k.py:21:k(float *)" and "at 0x40 in k" before.
_PLACE = r"(?P<function>\S.*?)\+(?P<offset>0x[0-9a-f]+)(?: in (?P<file>.+?):(?P<line>\d+))?"
_AT = re.compile(rf"\bat {_PLACE}\s*$")
_AT_BEFORE = re.compile(r"\bat (?P<offset>0x[0-9a-f]+) in (?:(?P<file>[^:]+):(?P<line>\d+):)?(?P<function>\S.*?)\s*$")
_ACCESS = re.compile(rf"\b\w+ access(?: by Thread \(\d+,\d+,\d+\))? at {_PLACE}(?:\s|$)")
#: A C++ function is printed with its return type and parameters.
_NAME = re.compile(r"([\w$.:~@]+(?:<.*>)?)(?:\(.*\))?$")
_THREAD = re.compile(r"\bby thread \((\d+),(\d+),(\d+)\) in block \((\d+),(\d+),(\d+)\)")
_ADDRESS = re.compile(r"\b(?:Address|Access to) (0x[0-9a-f]+)")
_SIZE = re.compile(r"\bof size (\d+)(?: bytes)?")
#: Statuses of the device's own errors; others are a program's questions to the driver, answered with no.
_DEVICE = frozenset({214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719})
_SHOWN = 20  # findings a report keeps


@dataclass(frozen=True, slots=True)
class SanitizerFinding:
    """One finding of compute-sanitizer.

    Attributes
    ----------
    symptom : str
        Of `trlaunch.investigate.symptoms`.
    what : str
        Its first line.
    details : tuple of str
        The lines that belong to it.
    function : str or None
    offset : int or None
        Of the SASS instruction in the function, in bytes.
    file : str or None
    line : int or None
        Of the source, where the kernel has a line table.
    thread, block : tuple of int or None
    address, size : int or None
    """

    symptom: str
    what: str
    details: tuple[str, ...] = ()
    function: str | None = None
    offset: int | None = None
    file: str | None = None
    line: int | None = None
    thread: tuple[int, ...] | None = None
    block: tuple[int, ...] | None = None
    address: int | None = None
    size: int | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """The same for findings of other threads at the same place."""
        return self.symptom, self.what, self.function, self.offset

    def site(self, spots: Sequence[Spot], lanes: int = 1) -> Site:
        """The finding as a place where a kernel died."""
        lines = []
        if self.function is not None and self.offset is not None:
            lines.append(Line("sass", f"{self.function}+{self.offset:#x}", None))
        if self.file is not None:
            lines.append(Line("python", self.file, self.line))
        wanted = [
            text
            for text in self.details
            if not text.startswith(("at ", "by thread", "Saved host", "Host Frame", "Device Frame"))
        ]
        return Site(
            witness="compute-sanitizer",
            symptom=self.symptom,
            what="; ".join([self.what, *wanted[:3]]),
            kernel=self.function,
            cta=self.block,
            thread=self.thread,
            address=self.address if "__global__" in self.what else None,
            access=self.size,
            lines=tuple(lines),
            lanes=lanes,
            spots=tuple(spots),
        )


def parse_findings(text: str) -> tuple[list[SanitizerFinding], Died | None]:
    """The findings in what compute-sanitizer printed, and the status that a driver call of the program returned.

    Lines that are not its own (without ``=========``) are passed over, and so are records that it is not known to
    print.
    """
    found: list[SanitizerFinding] = []
    died = None
    for head, details in _records(text):
        status = _STATUS.search(head)
        if status is not None and died is None and int(status[2]) in _DEVICE:
            died = Died("DriverError", head, call=status[4], name=status[1], code=int(status[2]))
        symptom = next((symptom for pattern, symptom in _KINDS if pattern.match(head)), None)
        if symptom is not None:
            found.append(_finding(symptom, head, details))
    return found, died


def _records(text: str) -> Iterator[tuple[str, list[str]]]:
    head, details = "", list[str]()
    for row in text.splitlines():
        match = _PREFIX.match(row.rstrip())
        if match is None:
            continue
        content = match[1] or ""
        if not content.strip() or not content.startswith(" "):
            if head:
                yield head, details
            head, details = content.strip(), []
        elif head:
            details.append(content.strip())
    if head:
        yield head, details


def _finding(symptom: str, head: str, details: list[str]) -> SanitizerFinding:
    whole = "\n".join([head, *details])
    forms = (_ACCESS, _AT_BEFORE, _AT)
    at = next((m for row in [head, *details] for form in forms if (m := form.search(row))), None)
    thread = _THREAD.search(whole)
    address = _ADDRESS.search(whole)
    size = _SIZE.search(head)
    if "is misaligned" in whole:
        symptom = "misaligned"
    numbers = tuple(map(int, thread.groups())) if thread else ()
    return SanitizerFinding(
        symptom,
        head,
        tuple(details),
        function=_name(at["function"]) if at else None,
        offset=int(at["offset"], 16) if at else None,
        file=at["file"] if at else None,
        line=int(at["line"]) if at and at["line"] else None,
        thread=numbers[:3] or None,
        block=numbers[3:] or None,
        address=int(address[1], 16) if address else None,
        size=int(size[1]) if size else None,
    )


def _name(text: str) -> str:
    """``void other<float>(float *)`` is ``other<float>``; what numba and others put before ``::`` stays."""
    found = _NAME.search(text)
    return found[1] if found else text


# --- running it ------------------------------------------------------------------------------------------------------


def tool_name(text: str) -> str:
    """The tool in ``compute-sanitizer`` (memcheck) or ``compute-sanitizer:racecheck``.

    Raises
    ------
    ArgumentError
        There is no such tool.
    """
    head, colon, tool = text.partition(":")
    if head != "compute-sanitizer" or (colon and tool not in TOOLS):
        raise ArgumentError(f"tool {text!r}: expected compute-sanitizer, or compute-sanitizer: with {', '.join(TOOLS)}")
    return tool or "memcheck"


def sanitize_trial(trial: Trial, tool: str = "memcheck", *, timeout: float = 300.0) -> Report:
    """Run a trial under compute-sanitizer.

    Parameters
    ----------
    trial : Trial
        On a CUDA device.
    tool : str
        One of `TOOLS`.
    timeout : float
        Seconds; under the tool a kernel takes many times as long.

    Returns
    -------
    Report
        Its causes are drawn from the findings; ``.ok`` when there are none.

    Raises
    ------
    AssemblerMissing
        compute-sanitizer is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="trlaunch-sanitize-") as name:
        folder = Path(name)
        trial.save(folder)
        env = environment(folder, ring=trial.ring, more=trial.environment)
        env["PYTHONPATH"] = python_path(trial.environment)
        command = [sys.executable, "-m", "trlaunch.investigate.worker", str(folder)]
        ended, text = _under(command, tool, folder, env, timeout, None, False)
        outcome = outcome_in(folder, ended)
    return _report(outcome, text, trial=trial)


def sanitize_program(
    command: Sequence[str],
    tool: str = "memcheck",
    *,
    timeout: float | None = None,
    folder: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    echo: bool = False,
) -> Report:
    """Run a program under compute-sanitizer; as `sanitize_trial`.

    Raises
    ------
    AssemblerMissing
        compute-sanitizer is not installed.
    ArgumentError
        The program cannot be started.
    """
    where = str(Path(folder or Path.cwd()).resolve())
    with tempfile.TemporaryDirectory(prefix="trlaunch-sanitize-") as name:
        scratch = Path(name)
        env = environment(scratch, more=environ)
        ended, text = _under(command, tool, scratch, env, timeout, where, echo)
    status = "timeout" if ended.returncode is None else "ok" if ended.returncode == 0 else "killed"
    error = ended.died or (None if status == "ok" else Died("Exit", f"the program ended with {ended.returncode}"))
    outcome = Outcome(
        status,
        error,
        launches=ended.launches,
        phase=ended.phase,
        images=ended.images,
        stdout=ended.stdout,
        stderr=ended.stderr,
        returncode=ended.returncode,
        seconds=ended.seconds,
    )
    return _report(outcome, text, command=tuple(command), folder=where)


def _under(
    command: Sequence[str],
    tool: str,
    folder: Path,
    env: Mapping[str, str],
    timeout: float | None,
    cwd: str | None,
    echo: bool,
) -> tuple[Ended, str]:
    """Run a command under a tool of compute-sanitizer; how it ended, and what the tool said."""
    if tool not in TOOLS:
        raise ArgumentError(f"tool {tool!r} of compute-sanitizer: expected one of {', '.join(TOOLS)}")
    programs = find_tools("compute-sanitizer", variable=_VARIABLE)
    if not programs:
        raise AssemblerMissing(
            f"compute-sanitizer was not found in {searched(_VARIABLE)}: install the CUDA toolkit, or check on the "
            f"emulator (--tool emulator)"
        )
    log = folder / "sanitizer.log"
    under = [str(programs[0].path), "--tool", tool, "--log-file", str(log), "--target-processes", "all"]
    under += ["--print-limit", "200", "--show-backtrace", "no"]
    ended = wait([*under, *command], folder, env, timeout, cwd=cwd, echo=echo)
    text = log.read_text(errors="replace") if log.exists() else ended.stdout + ended.stderr
    return ended, text


def _report(
    outcome: Outcome,
    text: str,
    trial: Trial | None = None,
    command: tuple[str, ...] = (),
    folder: str = "",
) -> Report:
    findings, died = parse_findings(text)
    spots = outcome.last.buffers if outcome.last else outcome.scene.spots if outcome.scene else ()
    groups: dict[tuple[object, ...], list[SanitizerFinding]] = {}
    for finding in findings:
        groups.setdefault(finding.key, []).append(finding)
    sites = tuple(every[0].site(spots, len(every)) for every in list(groups.values())[:_SHOWN])
    error = outcome.error if outcome.error is not None and outcome.error.type == "DriverError" else died
    if sites and outcome.status != "refused":
        outcome = replace(outcome, status="fault", error=error or outcome.error)
    blamed = outcome.last
    if sites and sites[0].kernel is not None:
        blamed = next((x for x in reversed(outcome.launches) if x.kernel == sites[0].kernel), blamed)
    evidence = Evidence(
        outcome=outcome,
        trial=trial,
        sites=sites,
        blamed=blamed if sites else None,
        blamed_by="compute-sanitizer names its kernel" if sites else "",
    )
    return Report(evidence, causes(evidence), command, folder)
