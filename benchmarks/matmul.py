"""TFLOP/s of a matrix product in Triton, launched from each of its levels, beside Triton's own launch and torch.

Square matrices of fp16 with fp32 accumulation, by pointers and by TMA; the method is that of ``levels.py``. torch's
product is the one of its BLAS. Needs torch, Triton and an NVIDIA GPU::

    python benchmarks/matmul.py --json matmul.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import needs
from benchmarks.levels import options, products, report

SIZES = (2048, 4096, 8192)


def main() -> int:
    given = options(__doc__ or "")
    needs.packages("torch", "triton")
    needs.gpu()
    import torch

    torch.manual_seed(0)
    works = ((f"{work.name} {size}", work) for size in SIZES for work in products(torch, size))
    return report(torch, works, given.rounds, given.json)


if __name__ == "__main__":
    sys.exit(main())
