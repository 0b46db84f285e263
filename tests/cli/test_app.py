"""The command as a whole: help, version, usage, and the real process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trlaunch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("words", [("--help",), ("inspect", "--help"), ("check", "--help"), ("run", "--help")])
def test_help(cli, words):
    found = cli(*words)
    assert found.code == 0
    assert "Usage" in found.out


def test_version(cli):
    assert cli("--version").out.startswith(f"trlaunch {trlaunch.__version__} (launches: ")


def test_usage_errors_exit_with_2(cli, artifacts):
    assert cli("launch").code == 2
    assert cli("run", artifacts / "add_kernel.ptx").code == 2  # no --grid
    assert cli("inspect", artifacts / "absent.cubin").code == 2


def script() -> str:
    """What the installed ``trlaunch`` runs: the entry point that pyproject.toml states."""
    stated = re.search(r'^trlaunch = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert stated is not None
    return f"import sys; from {stated[1]} import {stated[2]}; sys.exit({stated[2]}())"


@pytest.mark.parametrize("command", [["-m", "trlaunch"], ["-c", script()]], ids=["module", "script"])
def test_the_process_writes_json_to_stdout_and_notes_to_stderr(command):
    folder = ROOT / "examples" / "artifacts" / "cuda80"
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, *command, "check", str(folder / "matmul_kernel.cubin"), "--json"]
    found = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["ok"] is True
    assert "note:" in found.stderr
