"""A dump from inside a kernel, which this version refuses."""

import triton.language as tl
from arrays import rand, zeros

import trlaunch.compat.triton_runner.language as dl
from trlaunch.compat import triton_runner


@triton_runner.jit
def add_kernel(x_ptr, output_ptr, BLOCK_SIZE: tl.constexpr):
    offsets = tl.arange(0, BLOCK_SIZE)
    x = tl.load(x_ptr + offsets)
    dl.dump(x)
    tl.store(output_ptr + offsets, x)


if __name__ == "__main__":
    add_kernel[(1,)](rand(128), zeros(128), BLOCK_SIZE=128)
