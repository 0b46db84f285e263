"""Where NVIDIA's command-line tools are: in wheels, a CUDA installation, or on the path."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Tool", "find_tools", "newest", "searched"]

_RELEASE = re.compile(r"release (\d+)\.(\d+)(?:, V([\d.]+))?")
_SUFFIX = ".exe" if sys.platform == "win32" else ""
# A tool on a dead network mount must not stop a launch for ever.
_TIMEOUT = 30.0
# Where NVIDIA's installers put toolkits.
_LOCAL = Path("/usr/local")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of the CUDA toolkit.

    Attributes
    ----------
    path : Path
    version : tuple of int or None
        CUDA release, ``(12, 8)``; ``None`` when the program could not be asked.
    build : str
        Full version, ``"12.8.93"``.
    origin : str
        Where it was found, for people: ``"triton wheel"``, ``"CUDA_HOME"``.
    problem : str
        Why `version` is ``None``.
    """

    path: Path
    version: tuple[int, int] | None
    build: str
    origin: str
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.path.name} {self.build or 'of unknown version'} ({self.origin}: {self.path})"


def find_tools(*names: str, variable: str) -> list[Tool]:
    """Every program of one of these names, each file once, in the order of `searched`.

    Parameters
    ----------
    *names : str
        Program names, ``"ptxas"``, ``"ptxas-blackwell"``.
    variable : str
        Environment variable that names one program to use instead of all others.
    """
    chosen = os.environ.get(variable)
    if chosen:
        return [_ask(Path(chosen).expanduser(), variable)]
    found: dict[str, Tool] = {}
    for folder, origin in _folders():
        for name in names:
            file = folder / (name + _SUFFIX)
            if file.is_file():
                found.setdefault(os.path.realpath(file), _ask(file, origin))
    return list(found.values())


def newest(tools: list[Tool]) -> Tool | None:
    """The newest of `tools` that could be asked for its version; of equal ones, the first."""
    return max((tool for tool in tools if tool.version is not None), key=lambda t: t.version or (0, 0), default=None)


def searched(variable: str) -> str:
    """Where `find_tools` looks, for messages."""
    return f"{variable}, the triton package, the nvidia-* packages, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda"


def _folders() -> Iterator[tuple[Path, str]]:
    # find_spec of a top-level package does not import it.
    for root in _package("triton"):
        yield root / "backends" / "nvidia" / "bin", "triton wheel"
    # nvidia-cuda-nvcc: nvidia/cu13/bin from CUDA 13 on, nvidia/cuda_nvcc/bin before.
    for root in _package("nvidia"):
        for folder in sorted(root.glob("*/bin"), reverse=True):
            yield folder, "nvidia wheel"
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "bin", variable
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        if entry:
            yield Path(entry), "PATH"
    for folder in (_LOCAL / "cuda", *sorted(_LOCAL.glob("cuda-*"), reverse=True)):
        yield folder / "bin", str(folder)


def _package(name: str) -> list[Path]:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # a module of that name without a spec, as in __main__
        return []
    return [Path(entry) for entry in spec.submodule_search_locations or ()] if spec else []


def _ask(file: Path, origin: str) -> Tool:
    try:
        status = file.stat()
    except OSError as error:
        return Tool(file, None, "", origin, error.strerror or str(error))
    return _ask_version(file, origin, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _ask_version(file: Path, origin: str, _modified: int, _size: int) -> Tool:
    try:
        done = subprocess.run([file, "--version"], capture_output=True, timeout=_TIMEOUT, check=False)
    except OSError as error:
        return Tool(file, None, "", origin, f"cannot be run: {error.strerror or error}")
    except subprocess.TimeoutExpired:
        return Tool(file, None, "", origin, f"did not answer --version within {_TIMEOUT:.0f} s")
    text = done.stdout.decode("utf-8", "replace")
    release = _RELEASE.search(text)
    if release is None:
        line = (text + done.stderr.decode("utf-8", "replace")).strip().partition("\n")[0]
        return Tool(file, None, "", origin, f"--version said {line!r}, no CUDA release")
    version = int(release[1]), int(release[2])
    return Tool(file, version, release[3] or f"{version[0]}.{version[1]}", origin)
