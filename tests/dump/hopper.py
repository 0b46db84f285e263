"""Kernels of the corpus for sm_90 whose matrix products read shared memory; on the emulator and on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

import trlaunch
from trlaunch import Kernel, at
from trlaunch.mlir_text import parse

__all__ = ["RNG", "check_operands_in_shared_memory", "product"]

RNG = np.random.default_rng(8)


def product(found: Any) -> tuple[Any, list[str]]:
    """The first asynchronous product of a kernel and its two operands in shared memory."""
    function = parse(found.text("ttgir")).function()
    dot = next(o for o in function.walk() if o.name.endswith((".warp_group_dot", ".dot_async")))
    return dot, dot.operands[:2]


def check_operands_in_shared_memory(found: Any, device: str | None) -> None:
    """What ``cp.async`` and TMA brought to shared memory, tile by tile, as the tensor cores read it."""
    with_tma = found.name == "tma_matmul_kernel"
    tile, n, k = found.constexprs["BLOCK_K"], 128, found.constexprs["BLOCK_K"] * 4
    a, b = (RNG.standard_normal(shape).astype(np.float16) for shape in ((n, k), (k, n)))
    out = trlaunch.empty((n, n), "fp16", device=device)
    args: list[Any] = [trlaunch.asarray(m, device=device) for m in (a, b)]
    args.append(out)
    sizes: list[Any] = [n, n, k, k, n, n]
    if with_tma:
        shapes = ((64, tile), (tile, 64), (64, 64))
        args = [trlaunch.TensorDescriptor(t, block_shape=shape) for t, shape in zip(args, shapes, strict=True)]
        sizes = [n, n, k]
    dot, operands = product(found)
    asked = [at(name, after=dot.line, label=key) for name, key in zip(operands, "ab", strict=True)]
    run = Kernel.from_file(found.path("ttgir"), dump=asked, device=device).launch((2, 2), *args, *sizes)
    assert run is not None
    rows = a.reshape(2, 64, k // tile, tile).transpose(0, 2, 1, 3)
    columns = b.reshape(k // tile, tile, 2, 64).transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(run.dumps["a"].values, np.broadcast_to(rows[:, None], (2, 2, k // tile, 64, tile)))
    np.testing.assert_array_equal(run.dumps["b"].values, np.broadcast_to(columns[None], (2, 2, k // tile, tile, 64)))
    assert "memdesc" in run.dumps["a"].where.type
    np.testing.assert_allclose(out.numpy(), a.astype(np.float64) @ b.astype(np.float64), atol=0.1)
