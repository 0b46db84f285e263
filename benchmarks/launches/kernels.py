"""The kernels that `benchmarks/launch_latency.py` launches: they take as little of the GPU's time as can be."""

# ruff: noqa: ARG001
import triton
import triton.language as tl


@triton.jit
def none_kernel():
    pass


# What it stores tells whether every argument arrived.
@triton.jit
def fourteen_kernel(
    t0,
    t1,
    t2,
    t3,
    t4,
    i0,
    i1,
    i2,
    i3,
    i4,
    i5,
    i6,
    i7,
    i8,
    c0: tl.constexpr,
    c1: tl.constexpr,
    c2: tl.constexpr,
    c3: tl.constexpr,
    c4: tl.constexpr,
):
    tl.store(t4, (i0 + 2 * i1 + 3 * i2 + 4 * i3 + 5 * i4 + 6 * i5 + 7 * i6 + 8 * i7 + 9 * i8).to(tl.float32))
