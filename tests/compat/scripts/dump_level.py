"""The value of one program, from a file of a level: ``python dump_level.py ttir %13 1``."""

import sys

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

from trlaunch.compat import triton_runner


@triton_runner.jit
def add_kernel(x_ptr, y_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    pass


if __name__ == "__main__":
    level, value, program = sys.argv[1], sys.argv[2], int(sys.argv[3])
    n, block = 1000, 256
    x, y, output, dump_tensor = rand(n), rand(n), zeros(n), zeros(block)
    grid = lambda meta: (triton.cdiv(n, meta["BLOCK_SIZE"]),)  # noqa: E731
    add_kernel[grid](
        x,
        y,
        output,
        n,
        BLOCK_SIZE=block,
        dump_tensor=dump_tensor,
        dump_value=value,
        dump_grid=program,
        **{f"{level}_dir": triton_runner.get_file_dir(__file__)},
    )
    total = to_numpy(x) + to_numpy(y)
    np.testing.assert_array_equal(to_numpy(output), total)
    expected = np.zeros(block, np.float32)
    part = total[program * block : (program + 1) * block]
    expected[: len(part)] = part
    np.testing.assert_array_equal(to_numpy(dump_tensor), expected)
    print("triton and numpy match")
