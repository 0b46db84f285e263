"""Kernel functions that the tests compile; importing this needs Triton. What a release lacks fails when compiled."""

from __future__ import annotations

import triton
import triton.language as tl

# mypy: ignore-errors


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr = 128):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(out + i, tl.load(x + i, mask=mask) + tl.load(y + i, mask=mask), mask=mask)


@triton.jit
def softmax(out, x, row_stride, columns, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    row = tl.program_id(0) * row_stride
    values = tl.load(x + row + i, mask=i < columns, other=-float("inf")).to(tl.float32)
    values = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row + i, values / tl.sum(values, axis=0), mask=i < columns)


@triton.jit
def matmul(
    a, b, c, M, N, K, a_row, a_column, b_row, b_column, c_row, c_column,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = start + k < K
        left = tl.load(
            a + m[:, None] * a_row + (start + k)[None, :] * a_column,
            mask=(m[:, None] < M) & inside[None, :],
            other=0.0,
        )
        right = tl.load(
            b + (start + k)[:, None] * b_row + n[None, :] * b_column,
            mask=inside[:, None] & (n[None, :] < N),
            other=0.0,
        )
        total += tl.dot(left, right)
    tl.store(
        c + m[:, None] * c_row + n[None, :] * c_column,
        total.to(tl.float16),
        mask=(m[:, None] < M) & (n[None, :] < N),
    )


@triton.jit
def scaled(x, out, factor, shift, n, negate: tl.constexpr, BLOCK: tl.constexpr = 64):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    value = tl.load(x + i, mask=mask).to(tl.float32) * factor
    if shift is not None:
        value += tl.load(shift + i, mask=mask).to(tl.float32)
    if negate:
        value = -value
    tl.store(out + i, value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def chosen(flag, out, wide, BLOCK: tl.constexpr = 32):
    i = tl.arange(0, BLOCK)
    value = tl.where(flag, wide + i, i)
    tl.store(out + i, value.to(tl.int64))


@triton.jit(do_not_specialize=["n"])
def counted(out, n, BLOCK: tl.constexpr = 32):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, i * n)


@triton.jit
def nested(pair, out, BLOCK: tl.constexpr = 32):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(pair[0] + i) * pair[1][0] + pair[1][1])


@triton.jit
def named(pair, out, BLOCK: tl.constexpr = 32):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(pair.tensor + i) * pair.factor)


@triton.jit
def masked(condition, x, out, BLOCK: tl.constexpr = 32):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.where(tl.load(condition + i), tl.load(x + i), 0))


@triton.jit(noinline=True)
def _square(value):
    return value * value


@triton.jit
def squared(x, out, factor, BLOCK: tl.constexpr = 32):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) * _square(factor))


@triton.jit
def _twice(value):
    return value + value


@triton.jit
def applied(function: tl.constexpr, x, out, BLOCK: tl.constexpr = 32):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, function(tl.load(x + i)))


@triton.jit
def copied(source, out, row, M: tl.constexpr, N: tl.constexpr):
    block = source.load([0, 0])
    m, n = tl.arange(0, M), tl.arange(0, N)
    tl.store(out + m[:, None] * row + n[None, :], block)


@triton.jit
def refused(x, N: tl.constexpr):
    tl.static_assert(N % 2 == 0, "an even number of elements")
    tl.store(x + tl.arange(0, 16), N)


@triton.jit
def undefined(x):
    tl.store(x, no_such_name)  # noqa: F821


SCALE = tl.constexpr(3)


@triton.jit
def scaled_by_global(x, BLOCK: tl.constexpr = 32):
    tl.store(x + tl.arange(0, BLOCK), tl.arange(0, BLOCK) * SCALE)
