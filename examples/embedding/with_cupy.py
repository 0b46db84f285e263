"""Launch a Triton kernel on CuPy arrays, on a CuPy stream."""

import sys
from pathlib import Path

import cupy
import numpy as np

import trlaunch

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


def main() -> int:
    hopper = cupy.cuda.Device().compute_capability == "90"
    kernel = trlaunch.Kernel.from_file(ARTIFACTS / ("cuda90/add_kernel.cubin" if hopper else "cuda80/add_kernel.ptx"))

    n = 98_432
    rng = np.random.default_rng(0)
    a, b = rng.random((2, n), dtype=np.float32)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x, y = cupy.asarray(a), cupy.asarray(b)
        out = cupy.empty_like(x)
        kernel.launch(-(-n // 1024), x, y, out, n, stream=stream)
        found = cupy.asnumpy(out)  # on the same stream, so after the launch

    right = np.array_equal(found, a + b)
    print(f"CuPy {cupy.__version__}: {kernel} on cuda:{out.device.id}: {'right' if right else 'WRONG'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
