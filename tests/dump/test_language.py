"""``trlaunch.language``: what a function marks is captured when it is asked for, and is nothing otherwise."""

from __future__ import annotations

import re

import numpy as np
import pytest

from trlaunch import ArgumentError, Kernel
from trlaunch import language as dl

RNG = np.random.default_rng(6)


def test_marked_values_are_captured(kernels):
    x, out, plain = (
        RNG.standard_normal(192, dtype=np.float32),
        np.zeros((3, 64), np.float32),
        np.zeros((3, 64), np.float32),
    )
    kernel = Kernel.from_function(
        kernels.looked_into, x, out, 192, BLOCK=64, target="cuda:80", device="emulator", dump=True
    )
    run = kernel.launch(3, x, out, 192)
    assert run is not None
    assert sorted(run.dumps) == ["dump1", "most", "total"]
    parts = x.reshape(3, 64)[None] * np.arange(1, 4, dtype=np.float32)[:, None, None]
    total = np.zeros((3, 64), np.float32)
    for i in range(3):
        total = total + parts[:, i]
        np.testing.assert_allclose(run.dumps["total"].values[:, i], total, rtol=1e-6, atol=1e-6)
    final = run.dumps["total"].values[:, -1]
    np.testing.assert_array_equal(out, final)
    np.testing.assert_array_equal(run.dumps["dump1"].values, final[1:2] > 0)
    np.testing.assert_array_equal(run.dumps["most"].values, final[2:].max(1))
    without = Kernel.from_function(kernels.looked_into, x, plain, 192, BLOCK=64, target="cuda:80", device="emulator")
    assert without.launch(3, x, plain, 192) is None
    assert plain.tobytes() == out.tobytes()


def test_without_a_dump_nothing_is_left(kernels):
    def ptx(function):
        x = np.zeros(192, np.float32)
        kernel = Kernel.from_function(function, x, x.copy(), 192, BLOCK=64, target="cuda:80", device="emulator")
        lines = (line.partition("//")[0].strip() for line in kernel.code.ready.text.split(".section")[0].splitlines())
        text = "\n".join(line for line in lines if line and not line.startswith((".loc", ".file", "$L__tmp")))
        return re.sub(r"\b(?:not_)?looked_into", "kernel", text)

    assert ptx(kernels.looked_into) == ptx(kernels.not_looked_into)


def test_a_function_without_marks_is_refused(kernels):
    x = np.zeros(192, np.float32)
    with pytest.raises(ArgumentError, match=r"dump=True: the kernel has no trlaunch.language.dump"):
        Kernel.from_function(kernels.not_looked_into, x, x.copy(), 192, BLOCK=64, target="cuda:80", dump=True)


def test_outside_of_a_kernel_they_do_nothing_and_refuse_what_is_no_grid():
    assert dl.dump(1.0) is None
    assert dl.dump_grids(1.0) is None
    assert dl.dump_boundary(1.0) is None
    with pytest.raises(ArgumentError, match="dump_grid=-1: expected an int or one to three"):
        dl.dump(1.0, 0, -1)
    with pytest.raises(ArgumentError, match="name='a b'"), dl.marking(True):
        dl.dump(1.0, name="a b")
