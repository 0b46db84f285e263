"""The examples run to their end, and each imports its own framework alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
EMBEDDING = sorted((ROOT / "examples" / "embedding").glob("*.py"))
FRAMEWORKS = {
    "plain": None, "with_torch": "torch", "with_cupy": "cupy", "with_jax": "jax", "with_numba": "numba",
    "with_cuda_core": "cuda.core",
}  # fmt: skip

RUNNER = """
import runpy, sys
sys.path.insert(0, {folder!r})
try:
    runpy.run_path({script!r}, run_name="__main__")
finally:
    loaded = [m for m in ("triton", "torch", "cupy", "jax", "numba") if m in sys.modules]
    print("loaded:", *loaded, file=sys.stderr)
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def need(framework):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs {framework}")


def test_every_script_is_known():
    assert {script.stem for script in EMBEDDING} == set(FRAMEWORKS)


@pytest.mark.parametrize("script", EMBEDDING, ids=lambda path: path.stem)
def test_an_embedding(script):
    framework = FRAMEWORKS[script.stem]
    if framework:
        need(framework)
    result = run("-c", RUNNER.format(folder=str(script.parent), script=str(script)))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("\n") == 1
    assert "right" in result.stdout
    loaded = result.stderr.strip().splitlines()[-1].removeprefix("loaded:").split()
    assert set(loaded) <= {framework}


def test_the_demo():
    need("rich")
    result = run("examples/demo.py")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "cuda:0" in result.stdout
    assert result.stdout.count("as NumPy") == 3
    assert result.stdout.count("refused, before the driver was called") == 3
