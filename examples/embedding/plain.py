"""Launch a Triton kernel with nothing but trlaunch: no framework."""

import sys
from pathlib import Path

import numpy as np

import trlaunch
from trlaunch import devices

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


def main() -> int:
    hopper = devices.get("cuda").properties(0).target.capability == 90
    kernel = trlaunch.Kernel.from_file(ARTIFACTS / ("cuda90/add_kernel.cubin" if hopper else "cuda80/add_kernel.ptx"))

    n = 98_432
    rng = np.random.default_rng(0)
    a, b = rng.random((2, n), dtype=np.float32)
    x, y, out = trlaunch.asarray(a), trlaunch.asarray(b), trlaunch.empty(n, "fp32")

    kernel.launch(-(-n // 1024), x, y, out, n)

    right = np.array_equal(out.numpy(), a + b)  # .numpy() waits for the launch
    print(f"plain: {kernel} on {x.device}: {'right' if right else 'WRONG'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
