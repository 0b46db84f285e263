"""A kernel that asks what it is compiled for; importing this needs Triton 3.5."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.target_info import cuda_capability_geq, is_cuda, is_hip

# mypy: ignore-errors


@triton.jit
def capability(out):
    value = 0
    if is_cuda():
        value += 1
    if cuda_capability_geq(9, 0):
        value += 2
    if is_hip():
        value += 4
    tl.store(out, value)
