"""Dumps of values of LLVM IR, per thread."""

from __future__ import annotations

import numpy as np
import pytest

from trlaunch import ArgumentError, Kernel, at
from trlaunch.dump.llir import definitions

RNG = np.random.default_rng(4)


def captured(artifact, dump, grid, *args):
    run = Kernel(artifact, dump=dump, device="emulator").launch(grid, *args)
    assert run is not None
    return run.dumps


def test_values_of_an_add(kernels, lowered):
    n = 256
    x, y = (RNG.standard_normal(n, dtype=np.float32) for _ in range(2))
    out, plain = np.zeros_like(x), np.zeros_like(x)
    kernel = lowered(kernels.add, "llir", x, y, out, n, BLOCK=128)
    values = definitions(kernel.text)
    sums = [d for d in values if d.op == "fadd"]
    loads = [d for d in values if d.op == "call" and "ld.global" in kernel.text.split("\n")[d.line - 1]]
    asked = [at(d.name, label=f"sum{i}") for i, d in enumerate(sums)]
    asked += [at(op="icmp", nth=0, label="mask"), at(op="getelementptr", nth=0, label="address")]
    asked.append(at(loads[0].name, line=loads[0].line, label="loaded"))
    dumps = captured(kernel, asked, 2, x, y, out, n)
    got = np.stack([dumps[f"sum{i}"].values.reshape(2, 128, -1) for i in range(len(sums))], axis=-1)
    np.testing.assert_array_equal(np.sort(got.reshape(2, -1), axis=1), np.sort((x + y).reshape(2, 128), axis=1))
    assert dumps["sum0"].where.python.line > 0
    assert dumps["mask"].values.dtype == np.bool_
    assert dumps["mask"].values.all()
    assert dumps["address"].dtype == "*"
    first, size = dumps["address"].values, x.nbytes
    inside = [(first >= a.ctypes.data) & (first < a.ctypes.data + size) for a in (x, y, out)]
    assert any(part.all() for part in inside)
    assert np.isin(dumps["loaded"].values.view(np.float32), x).all()
    Kernel(kernel, device="emulator").launch(2, x, y, plain, n)
    assert out.tobytes() == plain.tobytes()


def test_iterations_are_counted_per_thread(kernels, lowered):
    links = np.array([5, 0, 4, 2, 7, 3, 0, 0], np.int32)  # 0 -> 5 -> 3 -> 2 -> 4 -> 7 -> 0; 1 -> 0
    out, plain = np.zeros(2, np.int32), np.zeros(2, np.int32)
    kernel = lowered(kernels.followed, "llir", links, out, num_warps=1)
    inside = [d for d in definitions(kernel.text) if d.loops and "ld.global" in kernel.text.split("\n")[d.line - 1]]
    assert len(inside) == 1
    with pytest.raises(ArgumentError, match="is not known before the launch .*keep=16"):
        captured(kernel, at(inside[0].name), 2, links, out)
    dump = captured(kernel, at(inside[0].name, keep=4, label="at"), 2, links, out)["at"]
    Kernel(kernel, device="emulator").launch(2, links, plain)
    np.testing.assert_array_equal(out, [5, 0])
    assert out.tobytes() == plain.tobytes()
    assert dump.values.shape == (2, 4, 32)
    np.testing.assert_array_equal(dump.values[0], np.broadcast_to([[3], [2], [4], [7]], (4, 32)))
    np.testing.assert_array_equal(dump.written, np.broadcast_to([[[True]], [[False]]], (2, 4, 32)))
    last = captured(kernel, at(inside[0].name, keep="last", label="at"), 2, links, out)["at"]
    np.testing.assert_array_equal(last.values, np.zeros((2, 32), np.int32))
    np.testing.assert_array_equal(last.written.all(-1), [True, False])
    phis = [at(d.name, keep=5) for d in definitions(kernel.text) if d.op == "phi" and d.loops]
    every = captured(kernel, phis, 2, links, out)
    assert any((d.values[0] == np.array([[5], [3], [2], [4], [7]])).all() for d in every.values())


def test_structs_are_axes(kernels, lowered):
    x, out = RNG.standard_normal(512, dtype=np.float32), np.zeros(512, np.float32)
    kernel = lowered(kernels.converted, "llir", x, out, BLOCK=512)
    structs = [d for d in definitions(kernel.text) if d.type == "{ i32, i32, i32, i32 }"]
    assert structs
    values = captured(kernel, at(structs[0].name, label="v"), 1, x, out)["v"].values
    assert values.shape == (1, 128, 4)
    np.testing.assert_array_equal(np.sort(values.view(np.float32).reshape(-1)), np.sort(x))


def test_what_matches_nothing_or_several_is_refused(kernels, lowered):
    x = np.zeros(128, np.float32)
    kernel = lowered(kernels.add, "llir", x, x, x.copy(), 128, BLOCK=128)
    for asked, message in (
        ("%nothing", "no values match"),
        (at(op="getelementptr"), "values match .*name= and line= choose"),
        (at(op="icmp", nth=99), "there is no number 99"),
        (at(op="fadd", dtype="fp32"), "dtype= for PTX"),
    ):
        with pytest.raises(ArgumentError, match=message):
            Kernel(kernel, dump=asked, device="emulator")
