"""An operator library as others write them: autotuned, with heuristics, behind functions that take torch tensors.

It knows nothing of trlaunch: ``tests/lowering/test_gpu.py`` runs it under ``trlaunch.patch_triton``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.autotune(
    configs=[
        triton.Config({"BLOCK_M": 32, "BLOCK_N": 32}),
        triton.Config({"BLOCK_M": 64, "BLOCK_N": 64}, num_stages=3),
    ],
    key=["M", "N", "K"],
)
@triton.heuristics({"EVEN_K": lambda arguments: arguments["K"] % 32 == 0})
@triton.jit
def linear_kernel(
    x_ptr, w_ptr, b_ptr, y_ptr, M, N, K, stride_xm, stride_xk, stride_wn, stride_wk, stride_ym, stride_yn,
    EVEN_K: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, 32)
    accumulator = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, 32):
        x_mask = rows[:, None] < M
        w_mask = columns[None, :] < N
        if not EVEN_K:
            x_mask = x_mask & (start + inner[None, :] < K)
            w_mask = w_mask & (start + inner[:, None] < K)
        x = tl.load(x_ptr + rows[:, None] * stride_xm + (start + inner)[None, :] * stride_xk, mask=x_mask, other=0.0)
        w = tl.load(w_ptr + columns[None, :] * stride_wn + (start + inner)[:, None] * stride_wk, mask=w_mask, other=0.0)
        accumulator = tl.dot(x, w, accumulator)
    accumulator += tl.load(b_ptr + columns, mask=columns < N, other=0.0)[None, :]
    if ACTIVATION == "relu":
        accumulator = tl.maximum(accumulator, 0.0)
    mask = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y_ptr + rows[:, None] * stride_ym + columns[None, :] * stride_yn, accumulator.to(tl.float16), mask=mask)


@triton.heuristics({"BLOCK": lambda arguments: triton.next_power_of_2(arguments["N"])})
@triton.jit
def rms_norm_kernel(x_ptr, w_ptr, y_ptr, N, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * N + offsets, mask=offsets < N, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x) / N + eps)
    w = tl.load(w_ptr + offsets, mask=offsets < N, other=0.0)
    tl.store(y_ptr + row * N + offsets, (x * scale * w).to(tl.float16), mask=offsets < N)


def linear(x: Any, weight: Any, bias: Any, activation: str = "") -> Any:
    """``activation(x @ weight.T + bias)`` in fp16."""
    (m, k), n = x.shape, weight.shape[0]
    y = torch.empty(m, n, device=x.device, dtype=x.dtype)

    def grid(meta: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(m, meta["BLOCK_M"]), triton.cdiv(n, meta["BLOCK_N"])

    linear_kernel[grid](x, weight, bias, y, m, n, k, *x.stride(), *weight.stride(), *y.stride(), ACTIVATION=activation)
    return y


def rms_norm(x: Any, weight: Any, eps: float = 1e-6) -> Any:
    """Rows divided by their root mean square, times `weight`."""
    y = torch.empty_like(x)
    rms_norm_kernel[(x.shape[0],)](x, weight, y, x.shape[1], eps)
    return y
