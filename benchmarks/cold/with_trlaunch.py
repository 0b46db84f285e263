"""``benchmarks/cold_start.py``: one launch from a cubin, by trlaunch."""

import sys

import numpy as np

import trlaunch

kernel = trlaunch.Kernel.from_file(sys.argv[1])
n = 1 << 20
x, y = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
a, b, out = (trlaunch.asarray(v, device="cuda:0") for v in (x, y, np.zeros(n, np.float32)))
kernel.launch(n // 1024, a, b, out, n)
print(np.array_equal(out.numpy(), x + y), flush=True)
