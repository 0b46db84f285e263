"""A whole program under investigation: ``trlaunch investigate -- python train.py``.

The program gets a ring of trlaunch's launches and a GPU core dump, through its environment alone. Launches that others
make (Triton's own, torch's) are not in the ring; the core dump has them.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from trlaunch.errors import ArgumentError
from trlaunch.investigate import symptoms
from trlaunch.investigate.api import blame, sites_of
from trlaunch.investigate.causes import causes
from trlaunch.investigate.evidence import Evidence, Site
from trlaunch.investigate.isolation import Ended, environment, signal_name, wait
from trlaunch.investigate.report import Report
from trlaunch.investigate.sites import fault_site
from trlaunch.investigate.trial import Died, Outcome

__all__ = ["investigate_program"]


def investigate_program(
    command: Sequence[str],
    *,
    timeout: float | None = None,
    core: str = "light",
    replay: bool | None = None,
    kernel_dir: str | Path | None = None,
    folder: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    echo: bool = False,
    ring: int = 64,
) -> Report:
    """Run a program, and find out which of its launches died, of what.

    Parameters
    ----------
    command : sequence of str
        ``["python", "train.py"]``.
    timeout : float, optional
        Seconds until it counts as hung; left out, it may take as long as it likes.
    core : {"light", "full", "none"}
        The GPU core dump.
    replay : bool, optional
        Run it a second time, with each launch waited for, to verify which launch is to blame. Left out, only where
        the core dump does not tell.
    kernel_dir : path, optional
        Compiled kernels, such as Triton's cache: where the core dump's code is found at the other levels.
    folder : path, optional
        Where it runs; left out, here.
    environ : mapping of str to str, optional
        More environment variables.
    echo : bool
        Show its output while it runs.
    ring : int
        Launches that are kept.

    Returns
    -------
    Report

    Raises
    ------
    ArgumentError
        The program cannot be started.
    """
    if not command:
        raise ArgumentError("no command was given: expected for example ['python', 'train.py']")
    where = str(Path(folder or Path.cwd()).resolve())
    more = {**(environ or {}), "PYTHONUNBUFFERED": "1"}
    runs: list[Outcome] = []
    sites: list[Site] = []

    def once(blocking: bool) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="trlaunch-program-") as name:
            scratch = Path(name)
            env = environment(scratch, ring=ring, blocking=blocking, core=core, more=more)
            ended = wait(command, scratch, env, timeout, echo=echo and not blocking, cwd=where)
            outcome = _outcome(ended)
            if outcome.core is not None:
                sites.append(sites_of(outcome, _kernels(kernel_dir, scratch)))
        runs.append(outcome)
        return outcome

    first = once(blocking=False)
    faulted = fault_site(first, {})
    if faulted is not None:
        sites.append(faulted)
    second = None
    told = any(site.kernel for site in sites)
    if first.status not in ("ok", "exit") and (replay or (replay is None and not told and first.launches)):
        second = once(blocking=True)
    blamed, blamed_by = blame(first, second)
    site = next((s for s in sites if s.kernel), sites[0] if sites else None)
    if site is not None and site.witness == "core dump" and site.kernel and second is None:
        launch = next((x for x in reversed(first.launches) if x.kernel == site.kernel), None)
        blamed = launch
        blamed_by = (
            "the core dump names its kernel" if launch else "the core dump's kernel was not launched by trlaunch"
        )
        if launch is not None:
            site = replace(site, spots=launch.buffers)
    evidence = Evidence(
        outcome=first,
        replay=second,
        sites=(site,) if site is not None else (),
        blamed=blamed,
        blamed_by=blamed_by,
        texts=_texts(first, blamed.image if blamed else ""),
    )
    return Report(evidence, causes(evidence), tuple(command), where)


def _kernels(kernel_dir: str | Path | None, scratch: Path) -> Path | None:
    """Where compiled kernels lie: the folder given, Triton's cache, else those that were loaded through trlaunch."""
    if kernel_dir is not None:
        return Path(kernel_dir)
    cache = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    if cache.is_dir():
        return cache
    return scratch if any(scratch.glob("*.cubin")) else None


def _outcome(ended: Ended) -> Outcome:
    error: Died | None = None
    if ended.returncode is None or ended.timed_out:
        status = "hang" if ended.phase or ended.launches else "timeout"
        error = Died("TimeLimit", f"the program did not end within {ended.seconds:.1f} s")
    elif ended.returncode == 0 and ended.core is None:
        status = "ok"
    else:
        error = _driver_error(ended)
        status = "error" if error is not None else "killed" if _crashed(ended.returncode) else "exit"
        if ended.core is not None or (error is not None and error.type == "Fault"):
            status = "hang" if error is not None and error.kind in ("deadlock", "hang") else "fault"
        error = error or Died("Exit", _ended(ended), code=ended.returncode)
    return Outcome(
        status=status,
        error=error,
        launches=ended.launches,
        phase=ended.phase,
        core=ended.core,
        images=ended.images,
        notes=ended.problems,
        stdout=ended.stdout,
        stderr=ended.stderr,
        returncode=ended.returncode,
        seconds=ended.seconds,
    )


#: Signals of which processes die; a shell exits with 128 and the signal that its command died of (POSIX, Shell Command
#: Language, 2.8.2).
_CRASHES = (
    signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV,
    signal.SIGSYS,
)  # fmt: skip


def _crashed(status: int | None) -> bool:
    """Whether a signal ended it, or what a shell ran for it; else it ended by itself."""
    return status is None or status < 0 or status - 128 in _CRASHES


def _ended(ended: Ended) -> str:
    if ended.core is not None:
        return "the driver ended the program once it had written a core dump"
    how = f"with status {ended.returncode}"
    if ended.returncode is not None and ended.returncode < 0:
        how = f"by {signal_name(-ended.returncode)}"
    return f"the program ended {how}" + (f": {ended.last_words}" if ended.last_words else "")


def _driver_error(ended: Ended) -> Died | None:
    """What trlaunch raised first, else what the program printed of an error of the device."""
    return ended.died or symptoms.printed(ended.stderr)


def _texts(outcome: Outcome, image: str) -> dict[str, str]:
    return {"ptx": outcome.images[image].decode("utf-8", "replace")} if image.endswith(".ptx") else {}
