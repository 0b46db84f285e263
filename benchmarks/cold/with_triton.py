"""``benchmarks/cold_start.py``: one launch of the same kernel by Triton's JIT, compiled before."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "launches"))
from kernels import add_kernel

n = 1 << 20
x, y = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
a, b, out = (torch.from_numpy(v).cuda() for v in (x, y, np.zeros(n, np.float32)))
add_kernel[(n // 1024,)](a, b, out, n, BLOCK=1024)
print(np.array_equal(out.cpu().numpy(), x + y), flush=True)
