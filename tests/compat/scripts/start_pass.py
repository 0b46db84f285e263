"""Start at a pass: ``python start_pass.py ttgir coalesce FILE`` goes on with what that pass of that level left."""

import sys

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

from trlaunch.compat import triton_runner

level, name, file = sys.argv[1:]


@triton_runner.jit
def add_kernel(x_ptr, y_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    pass


if __name__ == "__main__":
    x, y, output = rand(1000), rand(1000), zeros(1000)
    grid = lambda meta: (triton.cdiv(1000, meta["BLOCK_SIZE"]),)  # noqa: E731
    add_kernel[grid](x, y, output, 1000, BLOCK_SIZE=256, start_pass=name, **{f"{level}_src": file})
    np.testing.assert_array_equal(to_numpy(output), to_numpy(x) + to_numpy(y))
