"""Another level: ``python level_dir.py ttgir`` runs ``add_kernel.ttgir`` of this folder.

The function's body is not looked at; it only says which parameters there are.
"""

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
    folder = triton_runner.get_file_dir(__file__)
    source = {
        "ttir": {"ttir_dir": folder},
        "ttgir": {"ttgir_dir": folder},
        "llir": {"llir_dir": folder},
        "ptx": {"ptx_dir": folder},
        "cubin": {"cubin_dir": folder},
        "amdgcn": {"amdgcn_dir": folder},
        "hsaco": {"hsaco_dir": folder},
    }[sys.argv[1]]
    x, y, output = rand(1000), rand(1000), zeros(1000)
    grid = lambda meta: (triton.cdiv(1000, meta["BLOCK_SIZE"]),)  # noqa: E731
    add_kernel[grid](x, y, output, 1000, BLOCK_SIZE=256, **source)
    np.testing.assert_array_equal(to_numpy(output), to_numpy(x) + to_numpy(y))
