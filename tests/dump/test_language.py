"""``trlaunch.language``: what a function marks is captured when it is asked for, and is nothing otherwise."""

from __future__ import annotations

import re

import numpy as np
import pytest

import trlaunch
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


def test_offsets_are_those_of_a_flat_buffer(kernels):
    x, out = RNG.integers(-50, 50, 96).astype(np.float32), np.zeros((3, 32), np.float32)
    kernel = Kernel.from_function(kernels.placed, x, out, 96, BLOCK=32, target="cuda:80", device="emulator", dump=True)
    run = kernel.launch(3, x, out, 96)
    assert run is not None
    assert sorted(run.dumps) == ["dump2", "grids", "part"]
    np.testing.assert_array_equal(run.dumps["part"].offset, [[0, 32, 64]])
    assert run.dumps["grids"].offset == 64
    assert run.dumps["dump2"].offset == 2000
    flat = np.zeros(2032, np.float32)
    flat[:96] = 2 * x  # one program, at the offset of each iteration
    flat[64 : 64 + 96] = np.tile(x[64:], 3)  # all programs, the last iteration over the others
    flat[2000:] = x[64:]
    np.testing.assert_array_equal(run.flat(), flat)
    assert run.flat(4096).shape == (4096,)
    with pytest.raises(ArgumentError, match="take elements 0 to 2032 of a flat buffer; it has 2000"):
        run.flat(2000)


def test_jit_with_marks_and_with_names(kernels):
    x, out, plain = RNG.standard_normal(192, dtype=np.float32), np.zeros((3, 64), np.float32), np.zeros(192, np.float32)
    marked = trlaunch.jit(device="emulator", dump=True)(kernels.looked_into)
    run = marked[(3,)](x, out, 192, BLOCK=64)
    assert sorted(run.dumps) == ["dump1", "most", "total"]
    np.testing.assert_array_equal(run.dumps["total"].values[:, -1], out)
    assert isinstance(marked.warmup(x, out, 192, BLOCK=64), Kernel)
    named = trlaunch.jit(device="emulator", dump=trlaunch.at(op="tt.load", label="part"))(kernels.not_looked_into)
    parts = named[(3,)](x, plain, 192, BLOCK=64).dumps["part"]
    np.testing.assert_array_equal(parts.values, np.broadcast_to(x.reshape(3, 64), (3, 3, 64)))
    assert plain.tobytes() == out.tobytes()
    without = trlaunch.jit(device="emulator", dump=False)(kernels.looked_into)
    assert isinstance(without[(3,)](x, plain, 192, BLOCK=64), Kernel)


def test_a_file_in_the_place_of_a_function(kernels, lowered, tmp_path):
    x, out = RNG.standard_normal(192, dtype=np.float32), np.zeros(192, np.float32)
    artifact = lowered(kernels.not_looked_into, "ttgir", x, out, 192, BLOCK=64)
    load = trlaunch.at(op="tt.load", nth=0, label="x")
    function = trlaunch.jit(use=artifact, device="emulator", dump=[load])(kernels.not_looked_into)
    dump = function[(1,)](x, out, 192, BLOCK=64).dumps["x"]
    assert "blocked" in dump.where.layout
    assert np.isin(dump.values, x).all()


def test_names_in_a_function_without_marks(kernels):
    x, out = RNG.standard_normal(192, dtype=np.float32), np.zeros((2, 64), np.float32)
    asked = [trlaunch.at(op="arith.addf", label="total")]
    kernel = Kernel.from_function(
        kernels.not_looked_into, x, out, 192, BLOCK=64, target="cuda:80", device="emulator", dump=asked
    )
    run = kernel.launch(2, x, out, 192)
    assert run is not None
    np.testing.assert_array_equal(run.dumps["total"].values[:, -1], out)
    assert str(kernel.level) == "ttir"


@pytest.mark.since(3, 2)
def test_kernels_of_code_that_cannot_be_edited(kernels):
    x, out = RNG.standard_normal(192, dtype=np.float32), np.zeros((3, 64), np.float32)
    function = type(kernels.not_looked_into)(kernels.not_looked_into.fn)  # of its own: it keeps what it compiled
    asked = trlaunch.at(op="arith.addf", nth=0, label="total")
    tensors = [trlaunch.asarray(array, device="emulator") for array in (x, out)]
    with trlaunch.patch_triton("emulator", dump={"not_looked_into": asked}) as patch:
        function[(3,)](*tensors, 192, BLOCK=64)
    dump = patch.runs["not_looked_into"].dumps["total"]
    assert "blocked" in dump.where.layout
    assert dump.values.shape == (3, 1, 1, 3, 64)
    np.testing.assert_array_equal(dump.values[:, 0, 0, -1], tensors[1].numpy())
