"""A file that is edited between two launches of one process is not served stale."""

from pathlib import Path

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

from trlaunch.compat import triton_runner

folder = Path(triton_runner.get_file_dir(__file__))
file = folder / "add_kernel.ttgir"


@triton_runner.jit
def add_kernel(x_ptr, y_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    pass


def run(x, y):
    output = zeros(1000)
    grid = lambda meta: (triton.cdiv(1000, meta["BLOCK_SIZE"]),)  # noqa: E731
    add_kernel[grid](x, y, output, 1000, BLOCK_SIZE=256, ttgir_dir=str(folder))
    return to_numpy(output)


if __name__ == "__main__":
    x, y = rand(1000), rand(1000)
    np.testing.assert_array_equal(run(x, y), to_numpy(x) + to_numpy(y))
    file.write_text(file.read_text().replace("arith.addf", "arith.mulf"))
    np.testing.assert_array_equal(run(x, y), to_numpy(x) * to_numpy(y))
