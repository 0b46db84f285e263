"""A regression undone: the cubin that an older release compiled, run under the one that is installed."""

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

from trlaunch.compat import triton_runner


@triton_runner.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n_elements, BLOCK: tl.constexpr):
    pass


if __name__ == "__main__":
    x, y, output = rand(4096), rand(4096), zeros(4096)
    grid = lambda meta: (triton.cdiv(4096, meta["BLOCK"]),)  # noqa: E731
    kernel = add_kernel[grid](x, y, output, 4096, BLOCK=1024, cubin_dir=triton_runner.get_file_dir(__file__))
    np.testing.assert_array_equal(to_numpy(output), to_numpy(x) + to_numpy(y))
    print(kernel.metadata.release, triton.__version__)
