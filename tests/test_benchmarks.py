"""The benchmarks as scripts: their options, and what they say where they cannot run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import trlaunch
from trlaunch.devices import get

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(p.name for p in (ROOT / "benchmarks").glob("*.py") if "__main__" in p.read_text())
NEED_A_GPU = ["bank_conflicts.py", "emulator_vs_gpu.py", "launch_latency.py", "memory.py", "cold_start.py"]
NEED_TRITON = ["attention.py", "matmul.py", "levels.py", "dump.py"]


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, f"benchmarks/{script}", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def gpu():
    try:
        return bool(get("cuda").properties(0))
    except trlaunch.DeviceUnavailable:
        return False


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_has_options_and_writes_json(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout


@pytest.mark.parametrize("script", NEED_A_GPU + NEED_TRITON)
def test_a_benchmark_that_cannot_run_says_so_in_one_line(script, tmp_path):
    if gpu():
        pytest.skip("there is a GPU")
    done = run(script, "--json", str(tmp_path / "found.json"))
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{script} needs ")
    assert "emulator'" not in done.stderr
    if script in NEED_TRITON and importlib.util.find_spec("triton") is None:
        assert "no triton: pip install" in done.stderr
    assert not list(tmp_path.iterdir())


def test_import_times_are_written(tmp_path):
    file = tmp_path / "found.json"
    done = run("import_time.py", "--runs", "1", "--json", str(file))
    assert done.returncode in (0, 1), done.stderr
    assert set(json.loads(file.read_text())) == {"python", "runs", "budget", "seconds"}


def test_make_bench_goes_on_and_names_what_cannot_run(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nexit "$(cat "$1")"\n')
    python.chmod(0o755)
    (tmp_path / ".dev").touch()
    scripts = []
    for code in (2, 0, 1, 0):
        scripts.append(str(tmp_path / f"{len(scripts)}.py"))
        Path(scripts[-1]).write_text(str(code))
    command = ["make", "bench", "-o", f"{tmp_path}/.dev", f"VENV={tmp_path}"]
    outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}  # `make test` runs this
    done = subprocess.run(
        [*command, f"BENCHMARKS={' '.join(scripts)}"],
        cwd=ROOT, env=outside, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    expected = [f"== {script}" for script in scripts] + [f"cannot run here: {scripts[0]}", f"failed: {scripts[2]}"]
    assert done.stdout.splitlines() == expected
    done = subprocess.run(
        [*command, f"BENCHMARKS={scripts[0]} {scripts[1]}"],
        cwd=ROOT, env=outside, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == f"cannot run here: {scripts[0]}"
