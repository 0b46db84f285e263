"""The Python front end: ``@triton_runner.jit`` for ``@triton.jit``."""

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

import trlaunch.compat.triton_runner as triton_runner


@triton_runner.jit
def add_kernel(x_ptr, y_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = offsets < n_elements
    tl.store(output_ptr + offsets, tl.load(x_ptr + offsets, mask=mask) + tl.load(y_ptr + offsets, mask=mask), mask=mask)


def add(x, y):
    output = zeros(x.shape[0])
    n_elements = x.shape[0]
    grid = lambda meta: (triton.cdiv(n_elements, meta["BLOCK_SIZE"]),)  # noqa: E731
    add_kernel[grid](x, y, output, n_elements, BLOCK_SIZE=256, num_warps=4)
    return output


if __name__ == "__main__":
    x, y = rand(1000), rand(1000)
    triton_runner.color_print.blue_print("add_kernel, compiled from Python")
    np.testing.assert_array_equal(to_numpy(add(x, y)), to_numpy(x) + to_numpy(y))
    triton_runner.color_print.yellow_print("triton and numpy match")
