"""Autotuning over binaries: one folder a cubin beside this file, with the JSON that triton-runner writes."""

from pathlib import Path

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

from trlaunch.compat import triton_runner

cache_dir = Path(triton_runner.get_file_dir(__file__)) / "add_kernel_cache"

triton_runner.configure_autotune_backend()


@triton.autotune(
    configs=[triton.Config({"autotune_cubin_dir": str(p)}) for p in sorted(cache_dir.iterdir())],
    key=["n_elements"],
)
@triton_runner.jit
def add_kernel(x_ptr, y_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    pass


if __name__ == "__main__":
    x, y, output = rand(1000), rand(1000), zeros(1000)
    grid = lambda meta: (triton.cdiv(1000, meta["BLOCK_SIZE"]),)  # noqa: E731
    add_kernel[grid](x, y, output, 1000)
    np.testing.assert_array_equal(to_numpy(output), to_numpy(x) + to_numpy(y))
    chosen = Path(add_kernel.best_config.kwargs["autotune_cubin_dir"])
    assert chosen.parent == cache_dir
    triton_runner.restore_autotune_backend()
