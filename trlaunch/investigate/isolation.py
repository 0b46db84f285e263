"""Isolation: a trial in a process of its own, under a time limit, so that what it breaks is its own.

After most faults a CUDA context answers every call with the same error, and a kernel that does not end never gives the
device back: only the end of its process helps. `run` takes a `Trial` and returns an `Outcome`, both picklable, so that
it can be submitted to any `concurrent.futures.Executor`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trlaunch.errors import ArgumentError
from trlaunch.finding import Finding
from trlaunch.investigate.arrays import load_arrays
from trlaunch.investigate.carried import Spot
from trlaunch.investigate.ring import SLOTS, VARIABLE, read_ring
from trlaunch.investigate.trial import Died, Launched, Outcome, Scene, Trial

__all__ = ["Ended", "environment", "launches_in", "outcome_in", "python_path", "run", "signal_name", "wait"]

_POLL = 0.02  # s
_NOISE = re.compile(
    r"  File |(?:Current thread|Thread) 0x|Extension modules: |Fatal Python error: |\[[\d:.]+\] coredump: | ?coredump: "
)
_KEPT_TEXT = 65536
#: Seconds that writing a core dump may take beyond the time limit, and that it may pause, or take to begin.
_CORE_SECONDS = 60.0
_CORE_PAUSES = 5.0
#: Errors that refuse a launch before the driver has it, by what trlaunch raises.
_BY_DRIVER = ("DriverError",)

#: CUDA_COREDUMP_GENERATION_FLAGS (CUDA-GDB manual, GPU core dump support): without the contents of memory.
_LIGHT = "skip_nonrelocated_elf_images,skip_global_memory,skip_shared_memory,skip_local_memory,skip_constbank_memory"


def environment(
    folder: Path, *, ring: int = 64, blocking: bool = False, core: str = "none", more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Environment of a process that is looked at.

    Parameters
    ----------
    folder : pathlib.Path
        Takes the rings, the images and the core dumps.
    ring : int
        Launches that are kept.
    blocking : bool
        Each launch waits for its kernel.
    core : {"none", "light", "full"}
        GPU core dump on an exception, and when one is asked for (`wait` asks a process that hangs).
    more : mapping of str to str, optional
        Set last.
    """
    found = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_COREDUMP", "CUDA_ENABLE_"))}
    found |= {VARIABLE: str(folder), SLOTS: str(ring), "PYTHONFAULTHANDLER": "1"}
    if blocking:
        # NVIDIA: CUDA C++ Programming Guide, environment variables. AMD: HIP documentation, 3 serialises both sides.
        found |= {"CUDA_LAUNCH_BLOCKING": "1", "HIP_LAUNCH_BLOCKING": "1", "AMD_SERIALIZE_KERNEL": "3"}
    if core != "none":
        found |= {
            "CUDA_ENABLE_COREDUMP_ON_EXCEPTION": "1",
            "CUDA_COREDUMP_FILE": str(folder / "core.%p.nvcudmp"),
            "CUDA_COREDUMP_SHOW_PROGRESS": "1",
            "CUDA_ENABLE_USER_TRIGGERED_COREDUMP": "1",
            "CUDA_COREDUMP_PIPE": str(folder / "corepipe.%p"),
        }
        if core == "light":
            found["CUDA_COREDUMP_GENERATION_FLAGS"] = _LIGHT
    return {**found, **(more or {})}


def python_path(more: Mapping[str, str]) -> str:
    """``PYTHONPATH`` with which a process imports what this one does, behind what `more` says."""
    return os.pathsep.join(filter(None, [more.get("PYTHONPATH"), str(Path(__file__).parents[2]), *sys.path]))


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended.

    Attributes
    ----------
    returncode : int or None
        ``None`` when the time limit ended it.
    seconds : float
    core : bytes or None
        The largest core dump that it left.
    stdout, stderr : str
        Their last 64 KiB.
    launches, phase
        Of the ring of the process that launched last.
    images : mapping of str to bytes
    problems : tuple of str
        What went wrong beside: a core dump over its limit.
    died : Died or None
        The first error that a launch of trlaunch raised in it.
    timed_out : bool
        Whether the time limit passed: such a process may have ended with the core dump that it was asked for.
    """

    returncode: int | None
    seconds: float
    core: bytes | None = field(repr=False)
    stdout: str
    stderr: str
    launches: tuple[Launched, ...]
    phase: str
    images: Mapping[str, bytes] = field(repr=False)
    problems: tuple[str, ...] = ()
    died: Died | None = None
    timed_out: bool = False

    @property
    def last_words(self) -> str:
        """The last line on stderr that is its own, neither of Python's fault handler nor of the driver's core dump."""
        said = [row.strip() for row in self.stderr.splitlines() if row.strip() and not _NOISE.match(row)]
        return said[-1] if said else ""


def run(trial: Trial, timeout: float = 60.0) -> Outcome:
    """Run a trial in a process of its own.

    Parameters
    ----------
    trial : Trial
    timeout : float
        Seconds until the process is ended: its start, the loading of the kernel, and the kernel.

    Returns
    -------
    Outcome

    Raises
    ------
    ArgumentError
        The time limit is not positive.
    """
    if not timeout > 0:
        raise ArgumentError(f"timeout={timeout!r}: expected seconds, more than 0")
    with tempfile.TemporaryDirectory(prefix="trlaunch-trial-") as name:
        folder = Path(name)
        trial.save(folder)
        env = environment(folder, ring=trial.ring, blocking=trial.blocking, core=trial.core, more=trial.environment)
        env["PYTHONPATH"] = python_path(trial.environment)
        command = [sys.executable, "-m", "trlaunch.investigate.worker", str(folder)]
        ended = wait(command, folder, env, timeout, core_limit=trial.core_limit)
        return outcome_in(folder, ended)


def wait(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str],
    timeout: float | None,
    *,
    core_limit: int = 1 << 30,
    echo: bool = False,
    cwd: str | None = None,
) -> Ended:
    """Run a command in a process group of its own, until it ends or its time is up.

    At the time limit a process with core dumps is asked for one first. Then the process and what it started are
    killed, and nothing else.

    Parameters
    ----------
    command : sequence of str
    folder : pathlib.Path
        Of `environment`.
    env : mapping of str to str
    timeout : float or None
        Seconds.
    core_limit : int
        Bytes of core dump above which the process is killed.
    echo : bool
        Its output is shown while it runs, too.
    cwd : str, optional
        Folder that it runs in.

    Raises
    ------
    ArgumentError
        The command cannot be started.
    """
    start = time.monotonic()
    out, err = folder / "stdout", folder / "stderr"
    problems: list[str] = []
    with out.open("wb") as stdout, err.open("wb") as stderr:
        try:
            process = subprocess.Popen(
                list(command), env=dict(env), stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL,
                start_new_session=True, cwd=cwd,
            )  # fmt: skip
        except OSError as error:
            raise ArgumentError(f"{command[0]!r} cannot be started: {error.strerror or error}") from None
        shown = _Echo(((out, sys.stdout), (err, sys.stderr)) if echo else ())
        try:
            returncode, timed_out = _watch(process, folder, start, timeout, core_limit, problems, shown)
        finally:
            _kill(process)
            shown.close()
    return Ended(
        returncode,
        time.monotonic() - start,
        _core(folder, core_limit),
        _tail(out),
        _tail(err),
        *launches_in(folder),
        {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".cubin", ".ptx", ".hsaco")},
        tuple(problems),
        _died(folder),
        timed_out,
    )


def _died(folder: Path) -> Died | None:
    first = min(folder.glob("*.died"), key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if first is None else Died.from_dict(json.loads(first.read_text()))


def _watch(
    process: subprocess.Popen[bytes],
    folder: Path,
    start: float,
    timeout: float | None,
    core_limit: int,
    problems: list[str],
    shown: _Echo,
) -> tuple[int | None, bool]:
    """Wait; the exit status, or ``None`` when the process must be killed, and whether its time had run out."""
    asked: float | None = None  # when a core dump was asked for
    last, grown = 0, start  # bytes of core dump, and when there were more than before
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL if time.monotonic() - start < 1 else 5 * _POLL), asked is not None
        shown.copy()
        now = time.monotonic()
        size = sum(p.stat().st_size for p in folder.glob("core.*"))
        if size > core_limit:
            problems.append(f"the core dump grew over its limit of {core_limit} bytes, and was not finished")
            return None, asked is not None
        if size > last:
            last, grown = size, now
        if timeout is None or now - start < timeout:
            continue
        if asked is None:
            asked = now
            if not _ask_for_core(folder) and not size:
                return None, True
        if now - asked > _CORE_SECONDS or now - max(asked, grown) > _CORE_PAUSES:
            return None, True


def _ask_for_core(folder: Path) -> bool:
    """Write to the pipe at which the CUDA driver waits for it (CUDA_ENABLE_USER_TRIGGERED_COREDUMP)."""
    asked = False
    for path in folder.glob("corepipe.*"):
        if not stat.S_ISFIFO(path.stat().st_mode):
            continue
        with contextlib.suppress(OSError):  # nobody reads it any more
            pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(pipe, b"1")
                asked = True
            finally:
                os.close(pipe)
    return asked


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process group, which is ours alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Echo:
    """Copies what was written to files, while they grow."""

    def __init__(self, pairs: Sequence[tuple[Path, Any]]) -> None:
        self._pairs = [(path.open("r", errors="replace"), stream) for path, stream in pairs]

    def copy(self) -> None:
        """What there is by now."""
        for file, stream in self._pairs:
            if text := file.read():
                stream.write(text)
                stream.flush()

    def close(self) -> None:
        """The rest."""
        self.copy()
        for file, _ in self._pairs:
            file.close()


def launches_in(folder: Path) -> tuple[tuple[Launched, ...], str]:
    """The ring of the process that launched last, and its phase; nothing when none launched."""
    found: tuple[tuple[Launched, ...], str] = (), ""
    for path in sorted(folder.glob("*.ring")):
        launches, phase = read_ring(path)
        if launches and (not found[0] or launches[-1].time > found[0][-1].time):
            found = launches, phase
    return found


def _core(folder: Path, limit: int) -> bytes | None:
    files = [p for p in folder.glob("core.*.nvcudmp") if 0 < p.stat().st_size <= limit]
    return max(files, key=lambda p: p.stat().st_size).read_bytes() if files else None


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _KEPT_TEXT))
        return file.read().decode("utf-8", "replace")


# --- the outcome -----------------------------------------------------------------------------------------------------


def outcome_in(folder: Path, ended: Ended) -> Outcome:
    """What became of the trial that was saved to a folder and run there."""
    state = _json(folder / "outcome.json")
    scene = _json(folder / "scene.json")
    error = None
    if state is not None and state["error"] is not None:
        error = Died.from_dict(state["error"])
    return Outcome(
        status=_status(state, error, ended),
        error=error or _crash(state, ended),
        scene=None if scene is None else _scene(scene),
        launches=ended.launches,
        phase=ended.phase,
        core=ended.core,
        images=ended.images,
        outputs=load_arrays(folder / "outputs.npz") if state is not None else {},
        dumps=load_arrays(folder / "dumps.npz") if state is not None else {},
        notes=(*(state["notes"] if state is not None else ()), *ended.problems),
        stdout=ended.stdout,
        stderr=ended.stderr,
        returncode=ended.returncode,
        seconds=ended.seconds,
        kernel_seconds=None if state is None else state["kernel_seconds"],
    )


def _status(state: Mapping[str, Any] | None, error: Died | None, ended: Ended) -> str:
    if state is not None:
        if error is None:
            return "ok"
        if error.type == "Fault":
            return "hang" if error.kind in ("deadlock", "hang") else "fault"
        return "error" if error.type in _BY_DRIVER else "refused"
    if ended.returncode is None or ended.timed_out:
        return "hang" if ended.launches and ended.phase else "timeout"
    return "fault" if ended.core is not None else "killed"


def _crash(state: Mapping[str, Any] | None, ended: Ended) -> Died | None:
    """What is known of a process that left no outcome."""
    if state is not None:
        return None
    if ended.returncode is None or ended.timed_out:
        return Died("TimeLimit", f"the process did not end within {ended.seconds:.1f} s")
    if ended.core is not None:
        return Died("CoreDump", "the driver ended the process once it had written a core dump", code=ended.returncode)
    last = f": {ended.last_words}" if ended.last_words else ""
    if ended.returncode < 0:
        name = signal_name(-ended.returncode)
        return Died("Signal", f"the process was ended by {name}{last}", name=name, code=-ended.returncode)
    return Died("Exit", f"the process ended with status {ended.returncode}{last}", code=ended.returncode)


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _scene(state: dict[str, Any]) -> Scene:
    state["spots"] = tuple(Spot(**spot) for spot in state["spots"])
    state["findings"] = tuple(Finding(**finding) for finding in state["findings"])
    state["parameters"] = tuple(state["parameters"])
    return Scene(**state)
