"""A dump from a level: ``python dump_level.py ttir``, which this version refuses."""

import sys

import triton
import triton.language as tl
from arrays import rand, zeros

from trlaunch.compat import triton_runner

level = sys.argv[1]


@triton_runner.jit
def add_kernel(x_ptr, y_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    pass


if __name__ == "__main__":
    x, y, output, dump_tensor = rand(1000), rand(1000), zeros(1000), zeros(256)
    grid = lambda meta: (triton.cdiv(1000, meta["BLOCK_SIZE"]),)  # noqa: E731
    add_kernel[grid](
        x,
        y,
        output,
        1000,
        BLOCK_SIZE=256,
        dump_tensor=dump_tensor,
        dump_value="%13",
        dump_grid=1,
        **{f"{level}_dir": triton_runner.get_file_dir(__file__)},
    )
