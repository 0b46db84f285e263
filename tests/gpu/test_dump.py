"""Dumps on the GPU: what only Hopper has, and every level; lowered by the installed Triton."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import trlaunch
from tests import corpus
from tests.dump import hopper
from tests.lowering.conftest import _cache_folder, own_caches, triton
from trlaunch import at

__all__ = ["_cache_folder", "own_caches", "triton"]

pytestmark = pytest.mark.gpu

RNG = np.random.default_rng(8)


@pytest.fixture
def case(triton: Any, hopper: None) -> Any:
    def find(name: str) -> corpus.Case:
        return corpus.find(triton.__version__.split("+")[0], "cuda:90", name)

    return find


def operands(m: int, n: int, k: int) -> tuple[Any, Any]:
    return (RNG.standard_normal(shape).astype(np.float16) for shape in ((m, k), (k, n)))


@pytest.mark.parametrize("value", ["warp_group_dot", "warp_group_dot_wait", "argument"])
def test_the_accumulator_of_asynchronous_products(case, value):
    found = case("matmul_kernel")
    block, n, k = found.constexprs["BLOCK_K"], 128, 160
    a, b = operands(n, n, k)
    text = found.text("ttgir")
    if value == "argument":
        line = next(i for i, t in enumerate(text.splitlines(), 1) if " scf.for " in t)
        name = text.splitlines()[line - 1].partition("iter_args(")[2].partition(" =")[0]
        asked = at(name, line=line, label="acc")
    else:
        asked = at(op=f"ttng.{value}", nth=0, label="acc")
    args = (trlaunch.asarray(a), trlaunch.asarray(b))
    out, plain = trlaunch.empty((n, n), "fp16"), trlaunch.empty((n, n), "fp16")
    grid = (n // found.constexprs["BLOCK_M"], n // found.constexprs["BLOCK_N"])
    sizes = (n, n, k, k, n, n)
    run = trlaunch.Kernel.from_file(found.path("ttgir"), dump=asked).launch(grid, *args, out, *sizes)
    assert run is not None
    values = run.dumps["acc"].values
    assert values.shape == (*grid, k // block, 64, 64)
    before = 0 if value == "argument" else 1
    for i in range(k // block):
        stop = block * (i + before)
        expected = a[:, :stop].astype(np.float64) @ b[:stop].astype(np.float64)
        got = values[:, :, i].transpose(0, 2, 1, 3).reshape(n, n)
        np.testing.assert_allclose(got, expected, atol=2e-3, rtol=1e-3)
    trlaunch.Kernel.from_file(found.path("ttgir")).launch(grid, *args, plain, *sizes)
    assert out.numpy().tobytes() == plain.numpy().tobytes()


def test_tiles_that_the_tensor_memory_accelerator_loads(case):
    found = case("tma_matmul_kernel")
    n = 256
    a, b = operands(n, n, n)
    out = trlaunch.empty((n, n), "fp16")
    places = [trlaunch.TensorDescriptor(t, block_shape=(64, 64)) for t in (*map(trlaunch.asarray, (a, b)), out)]
    asked = [at(op="tt.descriptor_load", nth=0, label="a"), at(op="tt.descriptor_load", nth=1, label="b")]
    run = trlaunch.Kernel.from_file(found.path("ttir"), dump=asked).launch((4, 4), *places, n, n, n)
    assert run is not None
    tiles = a.reshape(4, 64, 4, 64).transpose(0, 2, 1, 3)  # row, k
    np.testing.assert_array_equal(run.dumps["a"].values, np.broadcast_to(tiles[:, None], (4, 4, 4, 64, 64)))
    tiles = b.reshape(4, 64, 4, 64).transpose(2, 0, 1, 3)  # column, k
    np.testing.assert_array_equal(run.dumps["b"].values, np.broadcast_to(tiles[None], (4, 4, 4, 64, 64)))
    np.testing.assert_allclose(out.numpy(), a.astype(np.float64) @ b.astype(np.float64), atol=0.1)


@pytest.mark.parametrize("name", ["matmul_kernel", "tma_matmul_kernel"])
def test_operands_of_wgmma_in_shared_memory(case, name):
    hopper.check_operands_in_shared_memory(case(name), None)


def test_a_tensor_restored_from_llvm_ir(case):
    found = case("add_kernel")
    n, block = 4096, found.constexprs["BLOCK"]
    x, y = (RNG.standard_normal(n, dtype=np.float32) for _ in range(2))
    out = trlaunch.empty(n, "fp32")
    name = next(line.split(" = ")[0].strip() for line in found.text("ttgir").splitlines() if " = arith.addf " in line)
    kernel = trlaunch.Kernel.from_file(found.path("llir"), dump=at(tensor=name, label="sum"))
    run = kernel.launch(n // block, trlaunch.asarray(x), trlaunch.asarray(y), out, n)
    assert run is not None
    np.testing.assert_array_equal(run.dumps["sum"].values, (x + y).reshape(-1, block))


def test_the_accumulator_of_wgmma_restored_from_llvm_ir(case):
    """Elements of the accumulator as they are converted, in the layout of the instruction."""
    found = case("matmul_kernel")
    n, k = 128, 160
    a, b = operands(n, n, k)
    out = trlaunch.empty((n, n), "fp16")
    text = found.text("ttgir")
    name = next(line.split(" = ")[0].strip() for line in text.splitlines() if " = arith.truncf " in line)
    kernel = trlaunch.Kernel.from_file(found.path("llir"), dump=at(tensor=name, label="half"))
    run = kernel.launch((2, 2), trlaunch.asarray(a), trlaunch.asarray(b), out, n, n, k, k, n, n)
    assert run is not None
    assert "mma" in run.dumps["half"].where.layout
    values = run.dumps["half"].values.transpose(0, 2, 1, 3).reshape(n, n)
    np.testing.assert_array_equal(values, out.numpy())


def test_a_flat_buffer_of_triton_runners(case):
    from trlaunch.compat import triton_runner

    found = case("add_kernel")
    n, block = 4096, found.constexprs["BLOCK"]
    x, y = (RNG.standard_normal(n, dtype=np.float32) for _ in range(2))
    out, buffer = trlaunch.empty(n, "fp32"), trlaunch.asarray(np.zeros(block, np.float32))
    stub = triton_runner.jit(importlib.import_module("tests.dump.kernels").add_kernel)
    name = next(line.split(" = ")[0].strip() for line in found.text("ttgir").splitlines() if " = arith.addf " in line)
    args = (trlaunch.asarray(x), trlaunch.asarray(y), out, n)
    stub[(n // block,)](*args, BLOCK=block, dump_tensor=buffer, dump_value=name, dump_grid=2, ttgir_dir=found.folder)
    np.testing.assert_array_equal(buffer.numpy(), (x + y)[2 * block : 3 * block])


@pytest.mark.parametrize("dtype", ["fp8e4nv", "fp8e5"])
def test_fp8(case, dtype):
    kernels = importlib.import_module("tests.dump.kernels")
    x = trlaunch.asarray(RNG.integers(0, 0x7B, 64).astype(np.uint8), dtype)
    out = trlaunch.empty(64, "fp32")
    kernel = trlaunch.Kernel.from_function(kernels.converted, x, out, BLOCK=64, dump=at(op="tt.load", label="x"))
    run = kernel.launch(1, x, out)
    assert run is not None
    np.testing.assert_array_equal(run.dumps["x"].values[0], x.numpy())
    np.testing.assert_array_equal(run.dumps["x"].floats[0], out.numpy())


def test_a_tile_in_registers_after_tma(case):
    found = case("scratch_kernel")
    n = 128
    x = RNG.standard_normal((n, n), dtype=np.float32)
    out = trlaunch.empty((n, n), "fp32")
    kernel = trlaunch.Kernel.from_file(found.path("ttgir"), dump=at(op="ttg.local_load", label="tile"))
    grid = (n // found.constexprs["BLOCK_M"], n // found.constexprs["BLOCK_N"])
    run = kernel.launch(grid, trlaunch.asarray(x), out, n, n)
    assert run is not None
    tiles = run.dumps["tile"].values
    np.testing.assert_array_equal(tiles.transpose(0, 2, 1, 3).reshape(n, n), x)
    np.testing.assert_array_equal(out.numpy(), x * 2)


@pytest.mark.parametrize("level", ["ttir", "ttgir", "llir", "ptx"])
def test_every_level_captures_the_same_sums(case, level):
    found = case("add_kernel")
    n = 4096
    x, y = (RNG.standard_normal(n, dtype=np.float32) for _ in range(2))
    out = trlaunch.empty(n, "fp32")
    text = found.text(level)
    if level == "ptx":
        count = sum("add.f32" in line or "add.rn.f32" in line for line in text.splitlines())
        asked = [at(op="add.f32", nth=i, dtype="fp32", label=str(i)) for i in range(count)]
    else:
        op = "fadd" if level == "llir" else "arith.addf"
        asked = [at(op=op, nth=i, label=str(i)) for i in range(text.count(f" = {op} "))]
    kernel = trlaunch.Kernel.from_file(found.path(level), dump=asked)
    run = kernel.launch(n // found.constexprs["BLOCK"], trlaunch.asarray(x), trlaunch.asarray(y), out, n)
    assert run is not None
    got = np.concatenate([dump.values.reshape(-1) for dump in run.dumps.values()])
    np.testing.assert_array_equal(np.sort(got), np.sort(x + y))
    np.testing.assert_array_equal(out.numpy(), x + y)
