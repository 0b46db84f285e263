"""The fake libamdhip64 under every hip-python at hand, and LLVM's tools as oracles."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakehip import FakeHip, pythons
from trlaunch.hip.toolkit import Tool, find_tools, newest


class Oracle:
    """One tool, run for its standard output."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{self.command} {arguments}: {done.stderr}"
        return done.stdout


def llvm(name: str, oldest: tuple[int, int] = (19, 0)) -> Tool:
    tool = newest(find_tools(name, variable=f"TRLAUNCH_{name.upper().replace('-', '_')}"))
    if tool is None or (tool.version or (0, 0)) < oldest:
        pytest.skip(f"no {name} {oldest[0]} or newer: apt install llvm-22")
    return tool


@pytest.fixture(scope="session")
def llvm_readelf() -> Oracle:
    return Oracle(llvm("llvm-readelf").command)


@pytest.fixture(scope="session")
def llvm_objdump() -> Oracle:
    return Oracle(llvm("llvm-objdump", (22, 0)).command)


@pytest.fixture(scope="session")
def readelf() -> Oracle:
    """GNU readelf of binutils."""
    path = shutil.which("readelf")
    if path is None:
        pytest.skip("no readelf: install binutils")
    return Oracle((path,))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> FakeHip:
    return FakeHip.build(tmp_path_factory.mktemp("fakehip"))


@pytest.fixture(scope="session", params=list(pythons()) or ["none"])
def fakehip(request: pytest.FixtureRequest, library: FakeHip) -> FakeHip:
    """The fake libamdhip64 under one release of hip-python; see `tests.fakehip`."""
    if not pythons():
        pytest.skip("no hip-python: pip install hip-python")
    return FakeHip(library.folder, pythons()[request.param])


@pytest.fixture(scope="session")
def newest_hip(library: FakeHip) -> FakeHip:
    """The fake libamdhip64 under the first release of hip-python alone, where no release can differ."""
    if not pythons():
        pytest.skip("no hip-python: pip install hip-python")
    return FakeHip(library.folder, next(iter(pythons().values())))
