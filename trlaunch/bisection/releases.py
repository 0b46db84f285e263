"""Over releases of Triton: the same source compiled by each, in an environment of its own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trlaunch.bisection.engine import Candidate, Verdict
from trlaunch.bisection.oracles import Exceeds, Launch, Oracle
from trlaunch.comparison.build import Build, read
from trlaunch.errors import ArgumentError, LoweringError
from trlaunch.investigate.trial import Trial

__all__ = ["RELEASES", "Source", "build", "candidates", "environment"]

#: The releases that trlaunch knows, oldest first.
RELEASES = ("3.0.0", "3.1.0", "3.2.0", "3.3.1", "3.4.0", "3.5.1", "3.6.0", "3.7.1", "3.8.0", "3.9.0")
#: What trlaunch needs to compile; releases up to 3.2 import setuptools, and declare filelock.
_PACKAGES = ("numpy>=1.24", "pyelftools>=0.31", "msgpack>=1.0", "platformdirs>=4.0", "setuptools<80", "filelock")
_INSTALL_SECONDS = 1800
_SHOWN = ("registers", "spill instructions", "dynamic shared bytes", "instructions")


@dataclass(frozen=True, slots=True)
class Source:
    """What each release compiles.

    Attributes
    ----------
    path : str
        A Python file with a ``@triton.jit`` or ``@gluon.jit`` function, or text of a level.
    target : str
        ``"cuda:80"``.
    function : str
        In the Python file.
    arguments : tuple
        In order, constants apart: ``"*fp16"`` for an aligned tensor, or a number, as `Kernel.from_function` takes them.
    constants : mapping of str to object
        Constexprs by name.
    options : mapping of str to object
    """

    path: str
    target: str
    function: str = ""
    arguments: tuple[Any, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment(release: str, folder: str | Path | None = None) -> Path:
    """The Python of a virtual environment with a release of Triton, made where there is none.

    Parameters
    ----------
    release : str
    folder : path, optional
        Where environments are kept: ``releases`` in trlaunch's cache. A wheel of Triton is 200 MB and more, and an
        environment 500 MB to 1 GB.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    LoweringError
        pip cannot install it here; what it said is in ``log``.
    """
    from trlaunch import cache

    base = Path(folder) if folder is not None else cache.path() / "releases"
    place = base / release
    python, ready = place / "bin" / "python", place / ".ready"
    if ready.exists():
        return python
    with _locked(place):
        if ready.exists():
            return python
        _run([sys.executable, "-m", "venv", str(place)], release)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--no-deps", f"triton=={release}"], release)
        _run([*pip, *_PACKAGES], release)
        ready.touch()
    return python


def _run(command: Sequence[str], release: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoweringError(f"no environment of Triton {release}: {error}", stage="install") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise LoweringError(
            f"no environment of Triton {release} can be made for this Python ({sys.version.partition(' ')[0]}): "
            f"{said[-1] if said else done.returncode}",
            stage="install",
            log=done.stderr,
        )


def build(source: Source, python: str | Path, folder: str | Path, timeout: float = 600.0) -> Build:
    """Compile with the Triton of a Python, and read what came out.

    Parameters
    ----------
    source : Source
    python : path
        Of an environment with Triton, NumPy and what trlaunch needs.
    folder : path
        Takes the levels.
    timeout : float
        Seconds.

    Raises
    ------
    LoweringError
        The release cannot compile it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    request = folder / "request.json"
    request.write_text(
        json.dumps(
            {
                "source": str(Path(source.path).resolve()),
                "target": source.target,
                "function": source.function,
                "arguments": list(source.arguments),
                "constants": dict(source.constants),
                "options": dict(source.options),
            }
        )
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [str(python), "-m", "trlaunch.bisection.in_release", str(request)]
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder
        )
    except OSError as error:
        raise ArgumentError(f"{str(python)!r} cannot be run: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise LoweringError(f"the compiler did not end within {timeout:.0f} s", stage="compile") from None
    if done.returncode:
        problem = folder / "error.json"
        if problem.exists():
            said = json.loads(problem.read_text())["message"]
        else:
            last = done.stderr.strip().splitlines()[-1:]
            how = f"died of signal {-done.returncode}" if done.returncode < 0 else f"exited with {done.returncode}"
            said = f"the compiler {how}: {last[0] if last else 'it said nothing'}"
        raise LoweringError(str(said), stage="compile", log=done.stderr)
    return read(folder)


@dataclass(frozen=True, slots=True)
class _InRelease:
    """The trial of a release: compile; then judge the build, or launch it."""

    source: Source
    release: str
    python: str | None
    environments: str | None
    keep: str | None
    oracle: Exceeds | Oracle
    launch: Mapping[str, Any] | None
    timeout: float

    def __call__(self, device: str | None) -> Verdict:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="trlaunch-release-") as name:
            folder = Path(self.keep) / self.release if self.keep else Path(name)
            try:
                made = build(
                    self.source, self.python or environment(self.release, self.environments), folder, self.timeout
                )
            except LoweringError as error:
                return Verdict("skip", str(error).partition("\n")[0], seconds=time.monotonic() - start)
            if isinstance(self.oracle, Exceeds):
                return self.oracle.judge(made.resources, time.monotonic() - start, _SHOWN)
            trial = Trial.of(made.artifact, **(self.launch or {}))
            verdict = Launch(trial, self.oracle, self.timeout)(device)
            values = {n: made.resources[n] for n in _SHOWN[:3] if n in made.resources}
            return Verdict(verdict.state, verdict.detail, {**values, **verdict.values}, time.monotonic() - start)


def candidates(
    source: Source,
    oracle: Exceeds | Oracle,
    releases: Sequence[str] = RELEASES,
    *,
    pythons: Mapping[str, str | Path] | None = None,
    environments: str | Path | None = None,
    keep: str | Path | None = None,
    timeout: float = 600.0,
    **launch: Any,
) -> list[Candidate]:
    """The kernel as each release compiles it, oldest first.

    Parameters
    ----------
    source : Source
    oracle : Exceeds or callable
        `Exceeds` judges the build and launches nothing; without a limit, that of the first release that compiles it.
        Another oracle judges a launch.
    releases : sequence of str
    pythons : mapping of str to path, optional
        Interpreters of releases that are installed already; the others get an environment when they are tried.
    environments : path, optional
        Where those are made, as for `environment`.
    keep : path, optional
        Folder in which the builds stay, one folder for each release.
    timeout : float
        Seconds to compile, and to launch.
    **launch
        ``grid=``, ``args=``, ``named=`` and settings of the trial, where the oracle judges a launch.

    Raises
    ------
    ArgumentError
        An oracle of launches is given without a grid, or no release can compile the kernel to set the limit.
    """
    if not isinstance(oracle, Exceeds) and "grid" not in launch:
        raise ArgumentError("this oracle judges a launch: give grid= and args=, or Exceeds('registers') for builds")

    def at(release: str, judge: Exceeds | Oracle) -> _InRelease:
        python = (pythons or {}).get(release)
        return _InRelease(
            source,
            release,
            None if python is None else str(python),
            None if environments is None else str(environments),
            None if keep is None else str(keep),
            judge,
            launch or None,
            timeout,
        )

    if isinstance(oracle, Exceeds) and oracle.limit is None:
        oracle = _limited(oracle, [(release, at(release, Exceeds(oracle.what, sys.maxsize))) for release in releases])
    return [Candidate(f"triton {release}", at(release, oracle)) for release in releases]


def _limited(oracle: Exceeds, trials: Sequence[tuple[str, _InRelease]]) -> Exceeds:
    """The oracle with what the oldest release that compiles the kernel makes as its limit."""
    said = ""
    for release, trial in trials:
        verdict = trial(None)
        if verdict.state == "good":
            return Exceeds(oracle.what, int(verdict.values[oracle.what]))
        said = said or f"{release}: {verdict.detail}"
    raise ArgumentError(f"no release compiles the kernel, so that there is no limit for {oracle.what!r}: {said}")
