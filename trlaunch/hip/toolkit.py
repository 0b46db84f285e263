"""Where LLVM's tools for AMD GPUs are: in ROCm, in wheels, or on the path."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Tool", "find_tools", "newest", "run", "searched"]

# "Debian LLVM version 22.1.8", "clang version 22.1.8", "LLD 22.1.8 (compatible with GNU linkers)"
_VERSION = re.compile(r"\b(?:LLVM version|clang version|LLD) (\d+)\.(\d+)(\.\d+)?")
_TIMEOUT = 30.0
# Where Debian and Ubuntu put the LLVMs of several versions.
_SYSTEM = Path("/usr/lib")
_OPT = Path("/opt")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of LLVM.

    Attributes
    ----------
    name : str
        ``"llvm-mc"``, ``"clang"``, ``"ld.lld"``, ``"llvm-objdump"``; ``"triton"`` for its own, in this process.
    command : tuple of str
        How it is called; ziglang is one program with LLVM's as subcommands.
    version : tuple of int or None
        LLVM's (Triton's), ``(22, 1)``; ``None`` when the program could not be asked.
    build : str
        Full version, ``"22.1.8"``.
    origin : str
        Where it was found, for people: ``"ROCM_PATH"``, ``"ziglang wheel"``.
    problem : str
        Why `version` is ``None``.
    """

    name: str
    command: tuple[str, ...]
    version: tuple[int, int] | None
    build: str
    origin: str
    problem: str = ""

    @property
    def folder(self) -> Path:
        """The folder that the program lies in."""
        return Path(self.command[0]).parent

    def __str__(self) -> str:
        where = f"{self.origin}: {' '.join(self.command)}" if self.command else self.origin
        return f"{self.name} {self.build or 'of unknown version'} ({where})"


def find_tools(*names: str, variable: str) -> list[Tool]:
    """Every program of one of these names, each file once, in the order of `searched`.

    Parameters
    ----------
    *names : str
        Program names, ``"llvm-mc"``, ``"clang"``; they are found with a version behind them too (``llvm-mc-22``).
    variable : str
        Environment variable that names one program to use instead of all others.
    """
    chosen = os.environ.get(variable)
    if chosen:
        path = Path(chosen).expanduser()
        named = next((name for name in names if path.name.startswith(name)), names[0])
        return [_ask(named, (str(path),), variable)]
    found: dict[str, Tool] = {}
    for folder, origin in _folders():
        for name in names:
            for file in (folder / name, *sorted(folder.glob(f"{name}-[0-9]*"), key=_suffix, reverse=True)):
                if file.is_file() and re.fullmatch(rf"{re.escape(name)}(-\d+)?", file.name):
                    found.setdefault(f"{name} {os.path.realpath(file)}", _ask(name, (str(file),), origin))
    for root in _package("ziglang"):
        for name in names:
            if name in ("clang", "ld.lld") and (root / "zig").is_file():
                found[f"{name} {root}"] = _ask(name, (str(root / "zig"), name), "ziglang wheel")
    return list(found.values())


def newest(tools: list[Tool]) -> Tool | None:
    """The newest of `tools` that could be asked for its version; of equal ones, the first."""
    return max((tool for tool in tools if tool.version is not None), key=lambda t: t.version or (0, 0), default=None)


def searched(variable: str) -> str:
    """Where `find_tools` looks, for messages."""
    return f"{variable}, ROCM_PATH, HIP_PATH, the rocm-sdk and ziglang packages, PATH, /opt/rocm and /usr/lib/llvm-*"


def run(tool: Tool, *arguments: str, folder: str, timeout: float = 300.0) -> subprocess.CompletedProcess[bytes]:
    """Run a tool in a folder; raises what `subprocess.run` does."""
    command = [*tool.command, *arguments]
    # ziglang keeps a cache beside the user's files unless it is told where.
    env = os.environ | {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=timeout, check=False)


def _folders() -> Iterator[tuple[Path, str]]:
    for variable in ("ROCM_PATH", "HIP_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "llvm" / "bin", variable
            yield Path(os.environ[variable]) / "lib" / "llvm" / "bin", variable
    for root in _package("_rocm_sdk_core"):
        yield root / "lib" / "llvm" / "bin", "rocm-sdk wheel"
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        if entry:
            yield Path(entry), "PATH"
    for folder in (_OPT / "rocm", *sorted(_OPT.glob("rocm-*"), reverse=True)):
        yield folder / "llvm" / "bin", str(folder)
    for folder in sorted(_SYSTEM.glob("llvm-*"), key=_suffix, reverse=True):
        yield folder / "bin", str(folder)


def _suffix(path: Path) -> int:
    number = re.search(r"-(\d+)", path.name)
    return int(number[1]) if number else 0


def _package(name: str) -> list[Path]:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # a module of that name without a spec, as in __main__
        return []
    return [Path(entry) for entry in spec.submodule_search_locations or ()] if spec else []


def _ask(name: str, command: tuple[str, ...], origin: str) -> Tool:
    try:
        status = Path(command[0]).stat()
    except OSError as error:
        return Tool(name, command, None, "", origin, error.strerror or str(error))
    return _ask_version(name, command, origin, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _ask_version(name: str, command: tuple[str, ...], origin: str, _modified: int, _size: int) -> Tool:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, timeout=_TIMEOUT, check=False)
    except OSError as error:
        return Tool(name, command, None, "", origin, f"cannot be run: {error.strerror or error}")
    except subprocess.TimeoutExpired:
        return Tool(name, command, None, "", origin, f"did not answer --version within {_TIMEOUT:.0f} s")
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    found = _VERSION.search(said)
    if found is None:
        line = said.strip().partition("\n")[0]
        return Tool(name, command, None, "", origin, f"--version said {line!r}, no version of LLVM")
    return Tool(name, command, (int(found[1]), int(found[2])), f"{found[1]}.{found[2]}{found[3] or ''}", origin)
