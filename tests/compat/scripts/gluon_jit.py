"""The Gluon front end."""

import numpy as np
from arrays import rand, to_numpy, zeros
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from trlaunch import Kernel
from trlaunch.compat import triton_runner

triton_runner.configure_jit_backend()


@gluon.jit
def copy_kernel(x_ptr, output_ptr, n_elements, BLOCK_SIZE: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    offsets = gl.program_id(0) * BLOCK_SIZE + gl.arange(0, BLOCK_SIZE, layout=layout)
    mask = offsets < n_elements
    gl.store(output_ptr + offsets, gl.load(x_ptr + offsets, mask=mask), mask=mask)


if __name__ == "__main__":
    x, output = rand(1000), zeros(1000)
    kernel = copy_kernel[(8,)](x, output, 1000, BLOCK_SIZE=128, num_warps=4)
    assert isinstance(kernel, Kernel)
    np.testing.assert_array_equal(to_numpy(output), to_numpy(x))
    triton_runner.restore_jit_backend()
