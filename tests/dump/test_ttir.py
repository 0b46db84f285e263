"""Dumps at TTIR and TTGIR against NumPy; outputs with and without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trlaunch
from trlaunch import ArgumentError, Kernel, at

LEVELS = pytest.mark.parametrize("level", ["ttir", "ttgir"])
RNG = np.random.default_rng(5)


def captured(artifact: Any, dump: Any, grid: Any, *args: Any, **named: Any) -> dict[str, trlaunch.Dump]:
    run = Kernel(artifact, dump=dump, device="emulator").launch(grid, *args, **named)
    assert run is not None
    return dict(run.dumps)


def line_of(module: Any, snippet: str) -> int:
    """Line of a piece of a module's source."""
    text = Path(module.__file__).read_text()
    assert text.count(snippet) == 1
    return text[: text.index(snippet)].count("\n") + 1


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape, dtype=np.float32)


@LEVELS
def test_add_every_program_and_the_boundary(kernels, lowered, level):
    n = 300
    x, y, out, plain = floats(n), floats(n), np.zeros(n, np.float32), np.zeros(n, np.float32)
    kernel = lowered(kernels.add, level, x, y, out, n, BLOCK=128)
    dumps = captured(
        kernel, [at(op="arith.addf", label="sum"), at(op="arith.cmpi", nth=0, label="mask")], 3, x, y, out, n
    )
    expected = np.zeros(384, np.float32)
    expected[:n] = x + y
    np.testing.assert_array_equal(dumps["sum"].values, expected.reshape(3, 128))
    np.testing.assert_array_equal(dumps["mask"].values, (np.arange(384) < n).reshape(3, 128))
    assert dumps["mask"].dtype == "i1"
    assert dumps["sum"].written.all()
    Kernel(kernel, device="emulator").launch(3, x, y, plain, n)
    assert out.tobytes() == plain.tobytes()


@LEVELS
def test_all_axes_of_a_grid(kernels, lowered, level):
    grid, x = (2, 3, 2), np.arange(12 * 32, dtype=np.int32)
    out = np.zeros_like(x)
    kernel = lowered(kernels.add_on_grid, level, x, out, BLOCK=32)
    load = at(op="tt.load", label="x")
    np.testing.assert_array_equal(captured(kernel, load, grid, x, out)["x"].values, x.reshape(2, 3, 2, 32))
    np.testing.assert_array_equal(out, x + 1)
    some = at(op="tt.load", label="x", programs=[(1, 2, 1), (0, 1, 0)])
    picked = captured(kernel, some, grid, x, out)["x"].values
    np.testing.assert_array_equal(picked, x.reshape(2, 3, 2, 32)[[1, 0], [2, 1], [1, 0]])
    with pytest.raises(ArgumentError, match=r"program \(2, 0, 0\) is outside of the grid \(2, 3, 2\)"):
        captured(kernel, at(op="tt.load", programs=[(2, 0, 0)]), grid, x, out)


@LEVELS
def test_transpose(kernels, lowered, level):
    x, out = floats(16, 32), np.zeros((32, 16), np.float32)
    kernel = lowered(kernels.transpose, level, x, out, M=16, N=32)
    dumps = captured(
        kernel, [at(op="tt.trans", label="t"), at(op="tt.load", label="x", part=[slice(3, 7), None])], 1, x, out
    )
    np.testing.assert_array_equal(dumps["t"].values[0], x.T)
    np.testing.assert_array_equal(dumps["x"].values[0], x[3:7])
    np.testing.assert_array_equal(out, x.T)


@LEVELS
@pytest.mark.parametrize("dtype", ["float16", "bf16"])
def test_accumulator_of_every_iteration(kernels, lowered, level, dtype):
    K, block = 96, 32
    a, b = floats(32, K).astype(np.float16), floats(K, 32).astype(np.float16)
    left = a if dtype == "float16" else trlaunch.asarray(a.astype(np.float32), "bf16", device="emulator")
    right = b if dtype == "float16" else trlaunch.asarray(b.astype(np.float32), "bf16", device="emulator")
    if dtype == "bf16":
        a, b = ((m.numpy().astype(np.uint32) << 16).view(np.float32) for m in (left, right))
    out, plain = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.float32)
    kernel = lowered(kernels.matmul, level, left, right, out, K, M=32, N=32, BLOCK_K=block)
    text = kernel.text
    dots = text.count(" = tt.dot ")
    values = captured(kernel, at(op="tt.dot", nth=dots - 1, label="acc"), 1, left, right, out, K)["acc"].values
    assert values.shape == (1, 3, 32, 32)
    for i in range(3):
        stop = block * (i + 1)
        expected = a[:, :stop].astype(np.float64) @ b[:stop].astype(np.float64)
        np.testing.assert_allclose(values[0, i], expected, rtol=1e-4, atol=1e-4)
    Kernel(kernel, device="emulator").launch(1, left, right, plain, K)
    np.testing.assert_array_equal(out, values[0, -1])
    assert out.tobytes() == plain.tobytes()


@LEVELS
def test_softmax_in_a_loop(kernels, lowered, level):
    rows, columns, block = 3, 200, 64
    x, out = floats(rows, columns), np.zeros((rows, columns), np.float32)
    kernel = lowered(kernels.softmax, level, x, out, columns, BLOCK=block)
    asked = [
        at(op="arith.maxnumf", python_line=line_of(kernels, "higher = tl.maximum(most, tl.max(values"), label="max"),
        at(op="math.exp", python_line=line_of(kernels, "powers = tl.exp"), label="exp"),
        at(op="tt.reduce", nth=1, label="sum"),
        at(op="arith.divf", label="normalised"),
    ]
    dumps = captured(kernel, asked, rows, x, out, columns)
    padded = np.full((rows, 256), -np.inf, np.float32)
    padded[:, :columns] = x
    blocks = padded.reshape(rows, 4, block)
    most = np.maximum.accumulate(blocks.max(-1), axis=1)
    powers = np.exp(blocks - most[..., None])
    np.testing.assert_allclose(dumps["sum"].values, powers.sum(-1), rtol=1e-5)
    expected = np.exp(padded - x.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(dumps["normalised"].values, expected.reshape(rows, 4, block), rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(dumps["max"].values, most)
    np.testing.assert_allclose(dumps["exp"].values, powers, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(out, expected[:, :columns], rtol=1e-5)


@LEVELS
def test_log_sum_exp(kernels, lowered, level):
    x, out = floats(4, 128), np.zeros(4, np.float32)
    kernel = lowered(kernels.log_sum_exp, level, x, out, BLOCK=128)
    dumps = captured(
        kernel, [at(op="tt.reduce", nth=0, label="max"), at(op="tt.reduce", nth=1, label="sum")], 4, x, out
    )
    np.testing.assert_array_equal(dumps["max"].values, x.max(1))
    np.testing.assert_allclose(dumps["sum"].values, np.exp(x - x.max(1, keepdims=True)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(out, x.max(1) + np.log(dumps["sum"].values), rtol=1e-6)


@LEVELS
def test_attention(kernels, lowered, level):
    length, d, block = 64, 16, 32
    q, k, v = (floats(length, d).astype(np.float16) for _ in range(3))
    out = np.zeros((length, d), np.float32)
    kernel = lowered(kernels.attention, level, q, k, v, out, length, 0.25, D=d, BLOCK=block)
    dumps = captured(kernel, at(op="arith.divf", label="out"), 2, q, k, v, out, length, 0.25)
    scores = q.astype(np.float64) @ k.astype(np.float64).T * 0.25
    weights = np.exp(scores - scores.max(1, keepdims=True))
    expected = weights / weights.sum(1, keepdims=True) @ v
    np.testing.assert_allclose(dumps["out"].values.reshape(length, d), expected, atol=2e-3)
    np.testing.assert_array_equal(dumps["out"].values.reshape(length, d), out)


@LEVELS
@pytest.mark.parametrize("dtype", ["i8", "i16", "i32", "i64", "fp16", "bf16", "fp32", "fp64", "fp8e5", "fp8e4nv"])
def test_every_dtype(kernels, lowered, level, dtype):
    source = RNG.integers(-100, 100, 64)
    if dtype.startswith("fp8"):
        x = trlaunch.asarray(RNG.integers(0, 0x7B, 64).astype(np.uint8), dtype, device="emulator")
    else:
        x = trlaunch.asarray(source.astype(np.float64 if "f" in dtype else np.int64), dtype, device="emulator")
    out = np.zeros(64, np.float32)
    target = "cuda:90" if dtype == "fp8e4nv" else "cuda:80"
    kernel = lowered(kernels.converted, level, x, out, BLOCK=64, target=target)
    dump = captured(kernel, at(op="tt.load", label="x"), 1, x, out)["x"]
    assert dump.dtype == dtype
    np.testing.assert_array_equal(dump.values[0], x.numpy())
    np.testing.assert_array_equal(dump.floats[0].astype(np.float32), out)


@LEVELS
def test_pointers_and_booleans(kernels, lowered, level):
    x, out = floats(64), np.zeros(64, np.float64)
    kernel = lowered(kernels.kinds, level, x, out, BLOCK=64)
    dumps = captured(kernel, [at(op="tt.addptr", nth=0, label="p"), at(op="arith.cmpf", label="positive")], 1, x, out)
    assert dumps["p"].dtype == "*"
    np.testing.assert_array_equal(dumps["p"].values[0], x.ctypes.data + 4 * np.arange(64, dtype=np.uint64))
    np.testing.assert_array_equal(dumps["positive"].values[0], x > 0)
    assert dumps["positive"].values.dtype == np.bool_


@LEVELS
def test_three_axes(kernels, lowered, level):
    x, out = np.arange(4 * 8 * 16, dtype=np.int32).reshape(4, 8, 16), np.zeros((4, 8, 16), np.int32)
    kernel = lowered(kernels.three_axes, level, x, out, A=4, B=8, C=16)
    np.testing.assert_array_equal(captured(kernel, at(op="tt.load", label="x"), 1, x, out)["x"].values[0], x)


@LEVELS
def test_five_axes(kernels, lowered, level):
    x, out = np.arange(256, dtype=np.int32), np.zeros(256, np.int32)
    kernel = lowered(kernels.five_axes, level, x, out, N=256)
    shape = (2, 4, 2, 2, 8)
    dump = captured(kernel, at(op="tt.reshape", nth=0, label="v"), 1, x, out)["v"]
    np.testing.assert_array_equal(dump.values[0], x.reshape(shape))


@LEVELS
def test_nested_loops_with_every_iteration(kernels, lowered, level):
    rows, columns = 3, 4
    x, out, plain = np.arange(32, dtype=np.int32), np.zeros(32, np.int32), np.zeros(32, np.int32)
    kernel = lowered(kernels.nested, level, x, out, rows, columns, BLOCK=32)
    inner = [line for line in kernel.text.splitlines() if " arith.addi " in line and "tensor<32xi32" in line]
    asked = at(op="arith.addi", nth=-1 + sum(" = arith.addi " in line for line in kernel.text.splitlines()), label="t")
    assert inner
    Kernel(kernel, device="emulator").launch(1, x, plain, rows, columns)
    loops = captured(kernel, asked, 1, x, out, rows, columns)["t"]
    model, total = np.zeros((rows, rows * columns // 2, 32), np.int32), np.zeros(32, np.int32)
    written = np.zeros((rows, rows * columns // 2), bool)
    for row in range(1, rows + 1):
        for j, column in enumerate(range(0, columns * row, 2)):
            total = total + x * row + column
            model[row - 1, j], written[row - 1, j] = total, True
    np.testing.assert_array_equal(loops.values[0], model)
    np.testing.assert_array_equal(loops.written[0], written)
    assert out.tobytes() == plain.tobytes()
    np.testing.assert_array_equal(out, total)
    two = captured(kernel, at(op="arith.addi", nth=asked.nth, keep=2, label="t"), 1, x, out, rows, columns)["t"]
    np.testing.assert_array_equal(two.values[0], model[:2, :2])
    last = captured(kernel, at(op="arith.addi", nth=asked.nth, keep="last", label="t"), 1, x, out, rows, columns)["t"]
    np.testing.assert_array_equal(last.values[0], total)


@LEVELS
def test_a_while_loop_is_counted_as_it_runs(kernels, lowered, level):
    x, out = np.array([3, 0, 5], np.int32), np.zeros((3, 32), np.int32)
    kernel = lowered(kernels.counted_down, level, x, out, BLOCK=32)
    asked = {"op": "arith.addi", "nth": kernel.text.split("scf.while")[0].count(" = arith.addi ")}
    body = kernel.text.split("} do {")[1]
    first = next(line for line in body.splitlines() if " = arith.addi " in line)
    assert "tensor<32xi32" in first
    with pytest.raises(ArgumentError, match=r"how often the scf.while in line \d+ runs is not known .*keep=16"):
        captured(kernel, at(**asked), 3, x, out)
    dump = captured(kernel, at(**asked, keep=6, label="t"), 3, x, out)["t"]
    np.testing.assert_array_equal(dump.written.sum(1), x)
    i = np.arange(32)
    for program, n in enumerate(x):
        total = np.cumsum([i * left for left in range(n, 0, -1)], axis=0) if n else np.zeros((0, 32))
        np.testing.assert_array_equal(dump.values[program, :n], total)
    np.testing.assert_array_equal(out, [i * (n * (n + 1) // 2) for n in x])


@LEVELS
def test_a_branch_is_marked_where_it_was_not_taken(kernels, lowered, level):
    x, out = np.arange(32, dtype=np.int32), np.zeros((4, 32), np.int32)
    kernel = lowered(kernels.branched, level, x, out, BLOCK=32)
    dump = captured(
        kernel, at(op="arith.muli", nth=kernel.text.split("scf.if")[0].count(" arith.muli "), label="v"), 4, x, out
    )["v"]
    np.testing.assert_array_equal(dump.written, [True, False, True, False])
    np.testing.assert_array_equal(dump.values[0], x * 3)
    assert not dump.values[1].any()


@LEVELS
def test_arguments_of_the_function_and_of_blocks(kernels, lowered, level):
    x, out = np.arange(32, dtype=np.int32), np.zeros(32, np.int32)
    kernel = lowered(kernels.nested, level, x, out, 3, 4, BLOCK=32)
    from trlaunch.mlir_text import parse

    function = parse(kernel.text).function()
    rows = function.blocks[0].arguments[2].name
    outer = next(o for o in function.walk() if o.name == "scf.for")
    carried = outer.blocks[0].arguments[1].name
    line = outer.line
    dumps = captured(
        kernel,
        [at(rows, op="argument", line=function.line, label="rows"), at(carried, line=line, label="c")],
        2,
        x,
        out,
        3,
        4,
    )
    np.testing.assert_array_equal(dumps["rows"].values, [3, 3])
    assert dumps["c"].values.shape == (2, 3, 32)
    assert not dumps["c"].values[:, 0].any()
    np.testing.assert_array_equal(dumps["c"].values[0, 1], x * 2 + 2)


@LEVELS
def test_the_size_is_refused_with_the_sum(kernels, lowered, level):
    x, out = floats(128), np.zeros(128, np.float32)
    artifact = lowered(kernels.add, level, x, x, out, 128, BLOCK=128)
    kernel = Kernel(artifact, dump=at(op="arith.addf", label="sum"), dump_limit=1 << 20, device="emulator")
    message = (
        r"the dump takes 2\.\d MiB, the limit is 1\.0 MiB \(sum: 4096 programs x 512 bytes = 2\.0 MiB\): .*programs="
    )
    with pytest.raises(ArgumentError, match=message):
        kernel.launch(4096, x, x, out, 128)
    assert not out.any()


@LEVELS
def test_what_matches_nothing_or_several_is_refused(kernels, lowered, level):
    x = floats(128)
    artifact = lowered(kernels.add, level, x, x, x.copy(), 128, BLOCK=128)
    for asked, message in (
        ("%nothing", "no value of the kernel matches; `trlaunch values` lists them"),
        (at(op="tt.load"), "2 values match .*: add line= or nth="),
        (at(op="tt.load", nth=2), "2 values match, there is no number 2"),
        (at(op="arith.addf", dtype="fp32"), "dtype= is for PTX"),
        (at(op="arith.addf", part=[None, None]), "part= does not fit the shape"),
    ):
        with pytest.raises(ArgumentError, match=message):
            Kernel(artifact, dump=asked, device="emulator")
