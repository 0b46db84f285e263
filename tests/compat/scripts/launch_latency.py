"""Launch latency with 0 and with 19 arguments, of trlaunch."""

import statistics
import time

import triton.language as tl
from arrays import zeros

from trlaunch.compat import triton_runner


@triton_runner.jit
def nop_kernel():
    pass


@triton_runner.jit
def nop_with_args_kernel(
    t1, t2, t3, t4, t5, i1, i2, i3, i4, i5, i6, i7, i8, i9,
    c1: tl.constexpr, c2: tl.constexpr, c3: tl.constexpr, c4: tl.constexpr, c5: tl.constexpr,
):  # fmt: skip
    pass


def latency(launch):
    launch()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        launch()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


if __name__ == "__main__":
    arguments = [*(zeros(16) for _ in range(5)), *range(1, 10), 32, False, True, 64, 128]
    assert len(arguments) == 19
    print(f"0 arguments: {latency(nop_kernel[(1,)]):.1f} us")
    print(f"19 arguments: {latency(lambda: nop_with_args_kernel[(1,)](*arguments)):.1f} us")
