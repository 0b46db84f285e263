"""How long the emulator takes, beside NumPy doing the same: median of repeats, warm, every check on.

    python benchmarks/emulator.py [--repeats N] [--release 3.6.0] [--json FILE]

The kernels are those of the test corpus, compiled for sm_80.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import corpus
from trlaunch.driver import Buffer, LaunchConfig, PackedArguments
from trlaunch.emulator.driver import EmulatorDriver
from trlaunch.emulator.image import read_image
from trlaunch.emulator.program import compile_program


@dataclass
class Result:
    """Times in milliseconds."""

    name: str
    load_ms: float
    median_ms: float
    best_ms: float
    numpy_ms: float
    ratio: float


def median_and_best(function: Callable[[], Any], repeats: int) -> tuple[float, float]:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), min(times)


def measure(
    name: str, case: corpus.Case, values: list[Any], grid: tuple[int, int, int], numpy: Callable[[], Any], repeats: int
) -> Result:
    text = case.bytes("ptx")
    start = time.perf_counter()
    compile_program(text, case.kernel)
    load = (time.perf_counter() - start) * 1e3
    image = read_image(text)
    kernel = image.kernel(case.kernel)
    data, buffers = bytearray(kernel.param_bytes), []
    for param, value in zip(kernel.params, values, strict=False):
        if isinstance(value, np.ndarray):
            buffers.append(Buffer(value.ctypes.data, value.nbytes, f"argument {param.index}"))
            value = value.ctypes.data
        raw = np.float32(value).tobytes() if isinstance(value, float) else int(value).to_bytes(param.size, "little")
        data[param.offset : param.offset + param.size] = raw
    driver = EmulatorDriver.instance()
    function = driver.load(image, case.kernel, 0)
    config = LaunchConfig(grid, (kernel.block_threads or 32, 1, 1), shared=case.metadata["shared"])
    arguments = PackedArguments(bytes(data), buffers)
    median, best = median_and_best(lambda: driver.launch(function, config, arguments), repeats)
    reference, _ = median_and_best(numpy, repeats)
    return Result(name, load, median, best, reference, median / reference)


def benchmarks(release: str, repeats: int) -> list[Result]:
    rng = np.random.default_rng(0)

    def normal(*shape: int, dtype: Any = np.float32) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    def case(name: str) -> corpus.Case:
        return corpus.find(release, "cuda:80", name)

    def softmax() -> Any:
        e = np.exp(rows - rows.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def layer_norm() -> Any:
        centred = wide - wide.mean(axis=1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * weight + bias

    x, y, out = normal(98432), normal(98432), np.zeros(98432, np.float32)
    rows = normal(1823, 781)
    softened = np.zeros_like(rows)
    wide, weight, bias = normal(1151, 1152), normal(1152), normal(1152)
    normed, mean, rstd = np.zeros_like(wide), np.zeros(1151, np.float32), np.zeros(1151, np.float32)
    norm_values = [wide, normed, weight, bias, mean, rstd, 1152, 1152, 1e-5]
    row_values = [softened, rows, 781, 781, 781]
    results = [
        measure("add 98432 fp32", case("add_kernel"), [x, y, out, 98432], (97, 1, 1), lambda: x + y, repeats),
        measure("softmax 1823x781", case("softmax_kernel"), row_values, (1823, 1, 1), softmax, repeats),
        measure("layer norm 1151x1152", case("layer_norm_kernel"), norm_values, (1151, 1, 1), layer_norm, repeats),
    ]
    n = 512
    kinds = {"fp16": np.float16, "bf16": np.uint16, "tf32": np.float32}
    for title, dtype in kinds.items():
        name = "matmul_kernel" if title == "fp16" else f"matmul_kernel_{title}"
        a, b = normal(n, n), normal(n, n)
        wide_a, wide_b = a, b
        if dtype == np.uint16:
            a, b = ((m.view(np.uint32) >> 16).astype(np.uint16) for m in (a, b))
        a, b, c = a.astype(dtype), b.astype(dtype), np.zeros((n, n), dtype)
        values = [a, b, c, n, n, n, n, n, n]
        results.append(
            measure(f"matmul 512^3 {title}", case(name), values, (8, 8, 1), lambda p=wide_a, q=wide_b: p @ q, repeats)
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--release", default="3.6.0")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    results = benchmarks(options.release, options.repeats)
    print(f"{'kernel':24}{'load ms':>10}{'median ms':>12}{'best ms':>10}{'NumPy ms':>10}{'ratio':>9}")
    for r in results:
        print(f"{r.name:24}{r.load_ms:10.1f}{r.median_ms:12.2f}{r.best_ms:10.2f}{r.numpy_ms:10.3f}{r.ratio:9.1f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
