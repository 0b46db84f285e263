"""Scripts in triton-runner's manner, run in folders of their own."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lowering.conftest import _cache_folder, own_caches, pytest_configure, triton
from trlaunch.compat import triton_runner
from trlaunch.devices import default_device, get
from trlaunch.kernel import Kernel

__all__ = ["Folder", "_cache_folder", "own_caches", "pytest_configure", "triton"]

SCRIPTS = Path(__file__).parent / "scripts"


class Folder:
    """A folder with the scripts in it, and whatever files a test puts beside them."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._patch = patch
        for script in SCRIPTS.glob("*.py"):
            shutil.copy(script, path)

    def run(self, script: str, *arguments: str, name: str = "__main__") -> dict[str, Any]:
        """Run a script as ``python script.py arguments`` would; returns its global names."""
        path = str(self.path / script)
        self._patch.setattr(sys, "argv", [path, *arguments])
        return runpy.run_path(path, run_name=name)

    def compile(self, block: int = 256, folder: Path | None = None) -> Kernel:
        """Write ``add_kernel`` of ``python_jit.py`` at every level for the device at hand, JSON beside it."""
        function = self.run("python_jit.py", name="levels")["add_kernel"]
        device = default_device()
        target = get(device.driver).properties(device.ordinal).target
        kernel = Kernel.from_function(function, *["*fp32"] * 3, 1000, BLOCK_SIZE=block, target=target)
        write_levels(kernel, folder or self.path)
        return kernel


def write_levels(kernel: Kernel, folder: Path) -> None:
    """The files of a kernel, as Triton's cache folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact = kernel.artifact
    for level in (artifact.level, *artifact.siblings):
        found = artifact if level is artifact.level else artifact.sibling(level)
        (folder / f"{kernel.name}.{level}").write_bytes(found.data)
    (folder / f"{kernel.name}.json").write_text(json.dumps(dict(kernel.metadata.raw)))


@pytest.fixture
def folder(tmp_path: Path, triton: Any, monkeypatch: pytest.MonkeyPatch, restored: None) -> Folder:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "arrays", raising=False)
    return Folder(tmp_path, monkeypatch)


@pytest.fixture
def restored() -> Any:
    """Undo what a script left of `configure_jit_backend` and `configure_autotune_backend`."""
    yield
    triton_runner.restore_autotune_backend()
    triton_runner.restore_jit_backend()


@pytest.fixture
def only_files(folder: Folder) -> Callable[..., None]:
    """Leave no file of a kernel but those of some extensions."""

    def keep(*extensions: str) -> None:
        for file in folder.path.glob("add_kernel.*"):
            if file.suffix[1:] not in extensions:
                file.unlink()

    return keep
