"""NVIDIA's tools, as oracles: found like trlaunch finds them; a test that needs a missing one is skipped here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from trlaunch.cuda.assembler import find_assemblers
from trlaunch.cuda.toolkit import Tool, find_tools, newest


class Oracle:
    """One tool, run for its standard output."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run([self.tool.path, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{self.tool} {arguments}: {done.stderr}"
        return done.stdout


def _newest(name: str) -> Oracle:
    tool = newest(find_tools(name, variable=f"TRLAUNCH_{name.upper()}"))
    if tool is None:
        pytest.skip(f"no {name}: pip install nvidia-cuda-{'nvcc' if name == 'ptxas' else name}")
    return Oracle(tool)


@pytest.fixture(scope="session")
def cuobjdump() -> Oracle:
    return _newest("cuobjdump")


@pytest.fixture(scope="session")
def nvdisasm() -> Oracle:
    return _newest("nvdisasm")


@pytest.fixture(scope="session")
def ptxas() -> Oracle:
    return _newest("ptxas")


@pytest.fixture(scope="session")
def every_ptxas() -> list[Tool]:
    """One ptxas of each build at hand; TRLAUNCH_TEST_PTXAS may list more, separated as PATH is."""
    more = [p for p in os.environ.get("TRLAUNCH_TEST_PTXAS", "").split(os.pathsep) if p]
    found = find_assemblers()
    with pytest.MonkeyPatch.context() as patch:
        for path in more:
            patch.setenv("TRLAUNCH_PTXAS", path)
            found += find_assemblers()
    builds = {tool.build: tool for tool in found if tool.version is not None}
    if not builds:
        pytest.skip("no ptxas: pip install nvidia-cuda-nvcc")
    return list(builds.values())


@pytest.fixture(scope="session")
def readelf() -> Oracle:
    """GNU readelf of binutils."""
    path = shutil.which("readelf")
    if path is None:
        pytest.skip("no readelf: install binutils")
    return Oracle(Tool(Path(path), None, "", "PATH"))
