"""Investigations of kernels that Triton compiles: from a function, and from TTGIR with options."""

from __future__ import annotations

import numpy as np

import trlaunch
from tests.lowering.test_lower import case, copied
from trlaunch.investigate import Trial, investigate_trial

X = np.ones(1000, np.float32)


def test_a_function_is_told_with_its_own_line(kernels, own_caches) -> None:
    kernel = trlaunch.Kernel.from_function(
        kernels.add, "*fp32", "*fp32", "*fp32", 1000, target="cuda:80", options={"num_warps": 2}, device="emulator"
    )
    trial = Trial.of(kernel, grid=10, args=[X, X, X, 2000])
    assert any(name.endswith(".ttir") for name in trial.files)
    report = investigate_trial(trial, timeout=60)
    assert report.cause is not None
    assert report.cause.rule == "out-of-bounds", str(report)
    assert report.evidence.outcome.scene is not None
    assert report.evidence.outcome.scene.threads == 64
    python = next(line for line in report.evidence.sites[0].lines if line.level == "python")
    assert python.file == "kernels.py"
    assert "tl.load" in python.text


def test_ttgir_is_lowered_in_the_trial(tmp_path, triton, own_caches) -> None:
    path = copied(case(), tmp_path, "ttgir", "json")
    trial = Trial.of(path, grid=2, args=[X, X, X, 2000], device="emulator")
    assert sorted(trial.files) == ["add_kernel.json", "add_kernel.ttgir"]
    report = investigate_trial(trial, timeout=60)
    assert report.cause is not None
    assert report.cause.rule == "out-of-bounds", str(report)
    levels = {line.level for line in report.evidence.sites[0].lines}
    assert {"ptx", "ttgir", "python"} <= levels
