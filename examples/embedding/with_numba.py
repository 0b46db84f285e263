"""Launch a Triton kernel on the device arrays of numba-cuda, on one of its streams."""

import sys
from pathlib import Path

import numba
import numpy as np
from numba import cuda

import trlaunch

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


def main() -> int:
    hopper = tuple(cuda.get_current_device().compute_capability) == (9, 0)
    kernel = trlaunch.Kernel.from_file(ARTIFACTS / ("cuda90/add_kernel.cubin" if hopper else "cuda80/add_kernel.ptx"))

    n = 98_432
    rng = np.random.default_rng(0)
    a, b = rng.random((2, n), dtype=np.float32)
    stream = cuda.stream()
    x, y = cuda.to_device(a, stream=stream), cuda.to_device(b, stream=stream)
    out = cuda.device_array(n, np.float32, stream=stream)
    kernel.launch(-(-n // 1024), x, y, out, n, stream=stream)
    found = out.copy_to_host(stream=stream)
    stream.synchronize()

    right = np.array_equal(found, a + b)
    print(f"Numba {numba.__version__}: {kernel} on cuda:0: {'right' if right else 'WRONG'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
