"""The kernels that `benchmarks/launch_latency.py` launches: they take as little of the GPU's time as can be."""

# ruff: noqa: ARG001
import triton
import triton.language as tl


@triton.jit
def none_kernel():
    pass


# What they store tells whether every argument arrived.
@triton.jit
def fourteen_kernel(
    t0, t1, t2, t3, t4, i0, i1, i2, i3, i4, i5, i6, i7, i8, c0: tl.constexpr, c1: tl.constexpr, c2: tl.constexpr,
    c3: tl.constexpr, c4: tl.constexpr,
):  # fmt: skip
    tl.store(t4, (i0 + 2 * i1 + 3 * i2 + 4 * i3 + 5 * i4 + 6 * i5 + 7 * i6 + 8 * i7 + 9 * i8).to(tl.float32))


@triton.jit
def nineteen_kernel(
    t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, i0, i1, i2, i3, i4, i5, i6, i7, i8,
):  # fmt: skip
    tl.store(t9, (i0 + 2 * i1 + 3 * i2 + 4 * i3 + 5 * i4 + 6 * i5 + 7 * i6 + 8 * i7 + 9 * i8).to(tl.float32))


@triton.jit
def fifty_eight_kernel(
    t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11, t12, t13, t14, t15, t16, t17, t18, t19, t20, t21, t22, t23,
    t24, t25, t26, t27, i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i14, i15, i16, i17, i18, i19,
    i20, i21, i22, i23, i24, i25, i26, i27, i28, i29,
):  # fmt: skip
    total = (
        i0 + 2 * i1 + 3 * i2 + 4 * i3 + 5 * i4 + 6 * i5 + 7 * i6 + 8 * i7 + 9 * i8 + 10 * i9 + 11 * i10 + 12 * i11 +
        13 * i12 + 14 * i13 + 15 * i14 + 16 * i15 + 17 * i16 + 18 * i17 + 19 * i18 + 20 * i19 + 21 * i20 + 22 * i21
        + 23 * i22 + 24 * i23 + 25 * i24 + 26 * i25 + 27 * i26 + 28 * i27 + 29 * i28 + 30 * i29
    )  # fmt: skip
    tl.store(t27, total.to(tl.float32))


@triton.jit
def descriptor_kernel(d, out, n):
    tl.store(out, tl.sum(d.load([0, 0]).to(tl.float32)) + n)


# For `benchmarks/cold_start.py`.
@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(out + offsets, tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask), mask=mask)
