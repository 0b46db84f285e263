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


@pytest.mark.since(3, 4)
def test_marks_in_a_gluon_function(triton):
    kernels = importlib.import_module("tests.dump.gluon_kernels")
    x, out, plain = (np.random.default_rng(2).standard_normal(384, dtype=np.float32), *np.zeros((2, 384), np.float32))
    settings = {"BLOCK": 128, "target": "cuda:80", "device": "emulator"}
    run = Kernel.from_function(kernels.looked_into, x, out, dump=True, **settings).launch(3, x, out)
    assert run is not None
    np.testing.assert_array_equal(run.dumps["twice"].values, 2 * x.reshape(3, 128))
    np.testing.assert_array_equal(run.dumps["dump1"].values, x[None, 128:256])
    assert run.dumps["dump1"].offset == 16
    np.testing.assert_array_equal(run.dumps["positive"].values, x[None, 256:] > 0)
    assert "blocked" in run.dumps["twice"].where.layout
    Kernel.from_function(kernels.looked_into, x, plain, **settings).launch(3, x, plain)
    assert out.tobytes() == plain.tobytes()
