"""Launch a Triton kernel on torch tensors, on torch's current stream. Triton itself is not imported."""

import sys
from pathlib import Path

import numpy as np
import torch

import trlaunch

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


def main() -> int:
    hopper = torch.cuda.get_device_capability() == (9, 0)
    kernel = trlaunch.Kernel.from_file(ARTIFACTS / ("cuda90/add_kernel.cubin" if hopper else "cuda80/add_kernel.ptx"))

    n = 98_432
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x, y = torch.rand(2, n, device="cuda").unbind()
        out = torch.empty_like(x)
        kernel.launch(-(-n // 1024), x, y, out, n)  # queued on `stream`, behind torch.rand
        found = out.cpu().numpy()

    right = np.array_equal(found, x.cpu().numpy() + y.cpu().numpy())
    print(f"torch {torch.__version__}: {kernel} on {out.device}: {'right' if right else 'WRONG'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
