"""TFLOP/s of attention in Triton, launched from each of its levels, beside Triton's own launch and torch.

fp16, all keys, heads of 64; the method is that of ``levels.py``. torch's is ``scaled_dot_product_attention`` with the
implementation that it chooses. Needs torch, Triton and an NVIDIA GPU::

    python benchmarks/attention.py --json attention.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import needs
from benchmarks.levels import attention, options, report

SHAPES = ((64, 1024), (32, 2048), (16, 4096))


def main() -> int:
    given = options(__doc__ or "")
    needs.packages("torch", "triton")
    needs.gpu()
    import torch

    torch.manual_seed(0)
    works = ((f"attention {batch}x{length}", attention(torch, batch, length)) for batch, length in SHAPES)
    return report(torch, works, given.rounds, given.json)


if __name__ == "__main__":
    sys.exit(main())
