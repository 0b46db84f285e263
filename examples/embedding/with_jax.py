"""Launch a Triton kernel on JAX arrays.

A JAX array never changes: XLA may share its buffer with other arrays or keep its value. So a kernel reads JAX arrays
and writes one of trlaunch's, which JAX then takes over by DLPack without a copy.
"""

import sys
from pathlib import Path

import jax
import numpy as np

import trlaunch
from trlaunch import devices

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


def main() -> int:
    hopper = devices.get("cuda").properties(0).target.capability == 90
    kernel = trlaunch.Kernel.from_file(ARTIFACTS / ("cuda90/add_kernel.cubin" if hopper else "cuda80/add_kernel.ptx"))

    n = 98_432
    x, y = jax.random.uniform(jax.random.key(0), (2, n))
    x, y = jax.block_until_ready((x, y))  # JAX computes on streams of its own, which a launch cannot see

    out = trlaunch.empty(n, "fp32", "cuda:0")
    kernel.launch(-(-n // 1024), x, y, out, n)
    total = jax.dlpack.from_dlpack(out)  # JAX's work on it comes after the launch; do not write to `out` from here on

    right = np.array_equal(np.asarray(total * 1), np.asarray(x) + np.asarray(y))
    print(f"JAX {jax.__version__}: {kernel} on {total.device}: {'right' if right else 'WRONG'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
