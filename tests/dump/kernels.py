"""Kernel functions whose insides the tests look at; importing this needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl

import trlaunch.language as dl

# mypy: ignore-errors


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    total = tl.load(x + i, mask=mask, other=0.0) + tl.load(y + i, mask=mask, other=0.0)
    tl.store(out + i, total, mask=mask)


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n_elements, BLOCK: tl.constexpr):
    pass


@triton.jit
def add_on_grid(x, out, BLOCK: tl.constexpr):
    program = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    i = program * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) + 1)


@triton.jit
def transpose(x, out, M: tl.constexpr, N: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    block = tl.load(x + m[:, None] * N + n[None, :])
    tl.store(out + n[:, None] * M + m[None, :], tl.trans(block))


@triton.jit
def matmul(a, b, c, K, M: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, BLOCK_K)
    acc = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        left = tl.load(a + m[:, None] * K + (start + k)[None, :])
        right = tl.load(b + (start + k)[:, None] * N + n[None, :])
        acc = tl.dot(left, right, acc)
    tl.store(c + m[:, None] * N + n[None, :], acc)


@triton.jit
def softmax(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    most = tl.full((), -float("inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for start in range(0, columns, BLOCK):
        values = tl.load(x + row * columns + start + i, mask=start + i < columns, other=-float("inf"))
        higher = tl.maximum(most, tl.max(values, axis=0))
        powers = tl.exp(values - higher)
        total = total * tl.exp(most - higher) + tl.sum(powers, axis=0)
        most = higher
    for start in range(0, columns, BLOCK):
        values = tl.load(x + row * columns + start + i, mask=start + i < columns, other=-float("inf"))
        normalised = tl.exp(values - most) / total
        tl.store(out + row * columns + start + i, normalised, mask=start + i < columns)


@triton.jit
def log_sum_exp(x, out, BLOCK: tl.constexpr):
    values = tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    most = tl.max(values, axis=0)
    tl.store(out + tl.program_id(0), most + tl.log(tl.sum(tl.exp(values - most), axis=0)))


@triton.jit
def attention(q, k, v, out, length, scale, D: tl.constexpr, BLOCK: tl.constexpr):
    m, d, n = tl.arange(0, BLOCK), tl.arange(0, D), tl.arange(0, BLOCK)
    rows = tl.program_id(0) * BLOCK + m
    query = tl.load(q + rows[:, None] * D + d[None, :])
    most = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    for start in range(0, length, BLOCK):
        keys = tl.load(k + (start + n)[None, :] * D + d[:, None])
        scores = tl.dot(query, keys) * scale
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        factor = tl.exp(most - higher)
        total = total * factor + tl.sum(weights, 1)
        values = tl.load(v + (start + n)[:, None] * D + d[None, :])
        acc = acc * factor[:, None] + tl.dot(weights.to(tl.float16), values)
        most = higher
    tl.store(out + rows[:, None] * D + d[None, :], acc / total[:, None])


@triton.jit
def converted(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    tl.store(out + i, value.to(out.dtype.element_ty))


@triton.jit
def kinds(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    pointers = x + i
    value = tl.load(pointers)
    positive = value > 0
    tl.store(out + i, tl.where(positive, value.to(tl.float64), 0.0))


@triton.jit
def three_axes(x, out, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    a, b, c = tl.arange(0, A), tl.arange(0, B), tl.arange(0, C)
    i = a[:, None, None] * (B * C) + b[None, :, None] * C + c[None, None, :]
    tl.store(out + i, tl.load(x + i) * 2)


@triton.jit
def five_axes(x, out, N: tl.constexpr):
    value = tl.reshape(tl.load(x + tl.arange(0, N)), (2, 4, 2, 2, N // 32))
    tl.store(out + tl.arange(0, N), tl.reshape(value + 1, (N,)))


@triton.jit
def nested(x, out, rows, columns, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.int32)
    for row in range(1, rows + 1):
        for column in range(0, columns * row, 2):
            total += tl.load(x + i) * row + column
    tl.store(out + i, total)


@triton.jit
def counted_down(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    left = tl.load(x + tl.program_id(0))
    total = tl.zeros((BLOCK,), tl.int32)
    while left > 0:
        total += i * left
        left -= 1
    tl.store(out + tl.program_id(0) * BLOCK + i, total)


@triton.jit
def branched(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    program = tl.program_id(0)
    value = tl.load(x + i)
    if program % 2 == 0:
        value = value * 3 + program
    tl.store(out + program * BLOCK + i, value)


@triton.jit
def followed(links, out):
    at = tl.load(links + tl.program_id(0))
    steps = 0
    while at > 0:
        at = tl.load(links + at)
        steps += 1
    tl.store(out + tl.program_id(0), steps)


@triton.jit
def looked_into(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        part = tl.load(x + start + i)
        total += part * (1 + tl.program_id(0))
        dl.dump_grids(total, name="total")
    dl.dump(total > 0, 0, (1, 0, 0))
    dl.dump_boundary(tl.max(total, axis=0), name="most")
    tl.store(out + tl.program_id(0) * BLOCK + i, total)


@triton.jit
def not_looked_into(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        part = tl.load(x + start + i)
        total += part * (1 + tl.program_id(0))
    tl.store(out + tl.program_id(0) * BLOCK + i, total)


@triton.jit
def placed(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    program = tl.program_id(0)
    part = tl.load(x + i)
    for start in range(0, n, BLOCK):
        part = tl.load(x + start + i)
        dl.dump(part * 2, start, 1, name="part")
        dl.dump_grids(part.to(tl.int32), 64, name="grids")
    dl.dump_boundary(part, offset=2000)
    tl.store(out + program * BLOCK + i, part + program)
