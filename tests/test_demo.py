"""``examples/demo.py``, as ``make demo`` runs it, and that it can fail."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "examples" / "demo.py"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_it_agrees_with_numpy_and_every_wrong_launch_is_refused():
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[1], run_name='__main__')\n"
        "except SystemExit as exit: print('exit', exit.code, [m for m in ('torch', 'triton') if m in sys.modules])"
    )
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code, SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("exit 0 []\n")
    assert found.stdout.count("as NumPy") == 3
    assert found.stdout.count("refused, before the driver was called") == 3


def test_a_wrong_result_is_an_error(demo, capsys):
    right = demo.vector_add

    def wrong():
        case = right()
        case.expected = case.expected + np.float32(1)
        return case

    demo.vector_add = wrong
    assert demo.main() == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_wrong_launch_let_through_is_an_error(demo, capsys):
    def right(matmul_file, _):
        return [("nothing", matmul_file, json.loads(matmul_file.with_suffix(".json").read_text()))]

    demo.wrong_launches = right
    assert demo.main() == 1
    assert "launched, although it cannot be right" in capsys.readouterr().out


@pytest.mark.gpu
def test_on_a_gpu():
    found = subprocess.run([sys.executable, SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("cuda:0") >= 3
