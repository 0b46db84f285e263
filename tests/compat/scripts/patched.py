"""``configure_jit_backend()`` and ``configure_autotune_backend()``: Triton's own decorators, launched by trlaunch."""

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

from trlaunch import Kernel
from trlaunch.compat import triton_runner

triton_runner.configure_jit_backend()
triton_runner.configure_autotune_backend()


@triton.autotune(
    configs=[triton.Config({"BLOCK_SIZE": size}, num_warps=4) for size in (128, 512)],
    key=["n_elements"],
)
@triton.jit
def scale_kernel(x_ptr, output_ptr, n_elements, factor, BLOCK_SIZE: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = offsets < n_elements
    tl.store(output_ptr + offsets, tl.load(x_ptr + offsets, mask=mask) * factor, mask=mask)


if __name__ == "__main__":
    x, output = rand(1000), zeros(1000)
    grid = lambda meta: (triton.cdiv(1000, meta["BLOCK_SIZE"]),)  # noqa: E731
    kernel = scale_kernel[grid](x, output, 1000, 2.0)
    assert isinstance(kernel, Kernel)
    assert scale_kernel.best_config.kwargs["BLOCK_SIZE"] in (128, 512)
    np.testing.assert_array_equal(to_numpy(output), to_numpy(x) * 2)
    triton_runner.restore_autotune_backend()
    triton_runner.restore_jit_backend()
