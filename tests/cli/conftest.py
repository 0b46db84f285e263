"""Fixtures of the command line's tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trlaunch.cli import app

ARTIFACTS = Path(__file__).resolve().parents[2] / "examples" / "artifacts"


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run ``trlaunch`` in this process, on the emulator unless a test names a device."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def call(*words: object) -> Outcome:
        result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200", "NO_COLOR": "1"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """A folder with the demo's kernels for sm_80."""
    folder = tmp_path / "artifacts"
    shutil.copytree(ARTIFACTS / "cuda80", folder)
    return folder
