"""Gluon kernels; importing this needs Triton 3.4."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as ttgl

# mypy: ignore-errors


@gluon.jit
def add(x, y, out, n, BLOCK: ttgl.constexpr):
    layout: ttgl.constexpr = ttgl.BlockedLayout([1], [32], [4], [0])
    i = ttgl.program_id(0) * BLOCK + ttgl.arange(0, BLOCK, layout=layout)
    mask = i < n
    ttgl.store(out + i, ttgl.load(x + i, mask=mask) + ttgl.load(y + i, mask=mask), mask=mask)
