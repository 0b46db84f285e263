"""Another level as text: ``python inline_src.py ttgir``; what is below TTGIR needs ``metadata_json``."""

import json
import sys
from pathlib import Path

import numpy as np
import triton
import triton.language as tl
from arrays import rand, to_numpy, zeros

from trlaunch.compat import triton_runner

level = sys.argv[1]
folder = Path(triton_runner.get_file_dir(__file__))
text = (folder / f"add_kernel.{level}").read_text()


@triton_runner.jit
def add_kernel(x_ptr, y_ptr, output_ptr, n_elements, BLOCK_SIZE: tl.constexpr):
    pass


if __name__ == "__main__":
    x, y, output = rand(1000), rand(1000), zeros(1000)
    source = {f"{level}_src": text}
    if level in ("llir", "ptx"):
        source["metadata_json"] = json.loads((folder / "add_kernel.json").read_text())
    grid = lambda meta: (triton.cdiv(1000, meta["BLOCK_SIZE"]),)  # noqa: E731
    add_kernel[grid](x, y, output, 1000, BLOCK_SIZE=256, **source)
    np.testing.assert_array_equal(to_numpy(output), to_numpy(x) + to_numpy(y))
