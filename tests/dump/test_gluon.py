"""Dumps of a Gluon kernel's TTGIR."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from trlaunch import Kernel, at


@pytest.mark.since(3, 4)
def test_values_of_a_gluon_kernel(triton, lowered):
    kernels = importlib.import_module("tests.lowering.gluon_kernels")
    x, y = np.random.default_rng(1).standard_normal((2, 384), dtype=np.float32)
    out, plain = np.zeros_like(x), np.zeros_like(x)
    artifact = lowered(kernels.add, "ttgir", x, y, out, 384, BLOCK=128)
    asked = [at(op="tt.load", nth=0, label="x"), at(op="arith.addf", label="sum")]
    run = Kernel(artifact, dump=asked, device="emulator").launch(3, x, y, out, 384)
    assert run is not None
    np.testing.assert_array_equal(run.dumps["x"].values, x.reshape(3, 128))
    np.testing.assert_array_equal(run.dumps["sum"].values, (x + y).reshape(3, 128))
    assert "blocked" in run.dumps["x"].where.layout
    Kernel(artifact, device="emulator").launch(3, x, y, plain, 384)
    assert out.tobytes() == plain.tobytes()
