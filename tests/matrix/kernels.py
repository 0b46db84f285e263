"""Kernels of the matrix beyond those of the corpus; importing this needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl

# mypy: ignore-errors

RELEASE = tuple(int(part) for part in triton.__version__.split(".")[:2])


@triton.jit
def attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, scale, n_rows, head_stride,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """Flash attention forward: ``softmax(q @ k.T * scale) @ v``, a head for each program along y."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, HEAD)
    base = tl.program_id(1) * head_stride
    q = tl.load(q_ptr + base + rows[:, None] * HEAD + columns[None, :], mask=rows[:, None] < n_rows, other=0.0)
    largest = tl.zeros([BLOCK_M], dtype=tl.float32) - float("inf")
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    out = tl.zeros([BLOCK_M, HEAD], dtype=tl.float32)
    for start in range(0, n_rows, BLOCK_N):
        others = start + tl.arange(0, BLOCK_N)
        inside = others < n_rows
        k = tl.load(k_ptr + base + others[None, :] * HEAD + columns[:, None], mask=inside[None, :], other=0.0)
        scores = tl.where(inside[None, :], tl.dot(q, k) * (scale * 1.4426950408889634), -float("inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - new_largest[:, None])
        shrunk = tl.exp2(largest - new_largest)
        total = total * shrunk + tl.sum(weights, 1)
        v = tl.load(v_ptr + base + others[:, None] * HEAD + columns[None, :], mask=inside[:, None], other=0.0)
        out = tl.dot(weights.to(tl.float16), v, out * shrunk[:, None])
        largest = new_largest
    where = out_ptr + base + rows[:, None] * HEAD + columns[None, :]
    tl.store(where, (out / total[:, None]).to(tl.float16), mask=rows[:, None] < n_rows)


if RELEASE >= (3, 3):
    make_tensor_descriptor = tl.make_tensor_descriptor if RELEASE >= (3, 4) else tl._experimental_make_tensor_descriptor

    @triton.jit
    def device_tma_matmul_kernel(
        a_ptr, b_ptr, c_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
    ):
        """``c = a @ b`` over tensor descriptors that the kernel makes itself."""
        a = make_tensor_descriptor(a_ptr, shape=[M, K], strides=[K, 1], block_shape=[BLOCK_M, BLOCK_K])
        b = make_tensor_descriptor(b_ptr, shape=[K, N], strides=[N, 1], block_shape=[BLOCK_K, BLOCK_N])
        c = make_tensor_descriptor(c_ptr, shape=[M, N], strides=[N, 1], block_shape=[BLOCK_M, BLOCK_N])
        row = tl.program_id(0) * BLOCK_M
        column = tl.program_id(1) * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for k in range(0, K, BLOCK_K):
            total = tl.dot(a.load([row, k]), b.load([k, column]), total)
        c.store([row, column], total.to(tl.float16))


if RELEASE >= (3, 4):

    @triton.jit
    def specialised_matmul_kernel(
        a_desc, b_desc, c_desc, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
    ):
        """``c = a @ b`` with warps of their own for loads: the compiler adds them to those that are asked for."""
        row = tl.program_id(0) * BLOCK_M
        column = tl.program_id(1) * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for k in tl.range(0, K, BLOCK_K, warp_specialize=True):
            total = tl.dot(a_desc.load([row, k]), b_desc.load([k, column]), total)
        c_desc.store([row, column], total.to(tl.float16))
