"""How long the emulator takes, beside Triton's interpreter and NumPy doing the same.

    python benchmarks/emulator.py [--repeats N] [--release 3.6.0] [--only PATTERN] [--no-interpreter] [--json FILE]

Per kernel: the time to read and compile its PTX; of a warm launch with memory checks on the median and the best of the
repeats, and the processor time of one; one run of the same kernel on the same inputs under ``TRITON_INTERPRET=1``,
where Triton and torch are installed, its processor time, how many times the emulator's that is, and the largest
difference between the two results; and NumPy. The kernels are those of the test corpus and of the emulator's own,
compiled for sm_80 and, where it says so, sm_90. The row of one CTA shows what a launch costs that does next to nothing.
Last, the most memory of the process, without the interpreter.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import interpreted
from tests import corpus
from tests.emulator import archive
from trlaunch.driver import Buffer, LaunchConfig, PackedArguments
from trlaunch.emulator.driver import EmulatorDriver
from trlaunch.emulator.image import read_image
from trlaunch.emulator.program import compile_program
from trlaunch.kernel import Kernel
from trlaunch.tensor_descriptor import TensorDescriptor


@dataclass
class Result:
    """Times in milliseconds."""

    name: str
    load_ms: float
    median_ms: float
    best_ms: float
    cpu_ms: float
    numpy_ms: float
    interpreter_ms: float | None = None
    interpreter_cpu_ms: float | None = None
    difference: float | None = None


@dataclass
class Row:
    """What is measured for one name, and what is interpreted later."""

    result: Result
    case: corpus.Case | archive.Case
    values: list[Any]
    grid: tuple[int, int, int]


def timed(function: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Median, best, and median of the processor time."""
    function()
    times, cpu = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter(), time.process_time()
        function()
        cpu.append((time.process_time() - busy) * 1e3)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), min(times), statistics.median(cpu)


def measure(
    name: str,
    case: corpus.Case | archive.Case,
    values: list[Any],
    grid: tuple[int, int, int],
    numpy: Callable[[], Any],
    repeats: int,
) -> Row | None:
    if not fnmatch.fnmatch(name, ONLY[0]):
        return None
    text, metadata = (case.ptx.encode(), case.metadata) if isinstance(case, archive.Case) else (
        case.bytes("ptx"), case.metadata)  # fmt: skip
    entry = metadata["name"]
    start = time.perf_counter()
    compile_program(text, entry)
    load = (time.perf_counter() - start) * 1e3
    if any(isinstance(v, TensorDescriptor) for v in values):
        whole = Kernel.from_bytes(text, metadata, level="ptx", device="emulator")
        found = result(name, load, lambda: whole.launch(grid, *values), numpy, repeats)
        return Row(found, case, values, grid)
    image = read_image(text)
    kernel = image.kernel(entry)
    data, buffers = bytearray(kernel.param_bytes), []
    for param, value in zip(kernel.params, values, strict=False):
        if isinstance(value, np.ndarray):
            buffers.append(Buffer(value.ctypes.data, value.nbytes, f"argument {param.index}"))
            value = value.ctypes.data
        raw = np.float32(value).tobytes() if isinstance(value, float) else int(value).to_bytes(param.size, "little")
        data[param.offset : param.offset + param.size] = raw
    driver = EmulatorDriver.instance()
    function = driver.load(image, entry, 0)
    config = LaunchConfig(grid, (kernel.block_threads or 32, 1, 1), shared=metadata["shared"])
    arguments = PackedArguments(bytes(data), buffers)
    found = result(name, load, lambda: driver.launch(function, config, arguments), numpy, repeats)
    return Row(found, case, values, grid)


def result(name: str, load: float, launch: Callable[[], Any], numpy: Callable[[], Any], repeats: int) -> Result:
    return Result(name, load, *timed(launch, repeats), timed(numpy, repeats)[0])


def interpret(row: Row) -> None:
    """Run the row's kernel under Triton's interpreter; the arrays of the row hold what the emulator made of them."""
    source = "kernels" if isinstance(row.case, corpus.Case) else "kernels_emulator"
    values = [TensorDescriptor(v.tensor, block_shape=v.block_shape) if isinstance(v, TensorDescriptor) else v
              for v in row.values]  # fmt: skip
    try:
        elapsed, cpu, arrays = interpreted.run(source, row.case.metadata["name"], values, row.case.constexprs, row.grid)
    except interpreted.failures() as error:
        print(f"TRITON_INTERPRET=1 cannot run {row.result.name}: {error}")
        return
    bases = [v.tensor if isinstance(v, TensorDescriptor) else v for v in row.values]
    row.result.interpreter_ms, row.result.interpreter_cpu_ms = elapsed, cpu
    row.result.difference = max(
        float(np.abs(wide(x) - wide(y)).max())
        for x, y in zip((b for b in bases if isinstance(b, np.ndarray)), arrays, strict=True)
    )


def wide(x: Any) -> Any:
    """Values in fp64; 16-bit integers are the bits of bfloat16."""
    return ((x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x).astype(np.float64)


#: Pattern of the rows to measure.
ONLY = ["*"]


def benchmarks(release: str, repeats: int) -> list[Row]:
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
    few = [normal(1024), normal(1024), np.zeros(1024, np.float32), 1024]
    results = [
        measure("add of one CTA", case("add_kernel"), few, (1, 1, 1), lambda: few[0] + few[1], repeats),
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
    results += hopper(release, repeats, normal)
    return [row for row in results if row is not None]


def hopper(release: str, repeats: int, normal: Callable[..., Any]) -> list[Row | None]:
    """The rows of sm_90, and flash attention on both."""
    n = 512
    a, b, c = normal(n, n, dtype=np.float16), normal(n, n, dtype=np.float16), np.zeros((n, n), np.float16)
    wide = a.astype(np.float32), b.astype(np.float32)
    maps = [TensorDescriptor(x, block_shape=(64, 64)) for x in (a, b, c)]

    def product() -> Any:
        return wide[0] @ wide[1]

    def more(name: str, target: str = "cuda90") -> archive.Case:
        return next(k for k in archive.cases(name, target=target) if k.release == release)

    def find(name: str) -> corpus.Case:
        return corpus.find(release, "cuda:90", name)

    results = [
        measure("matmul 512^3 wgmma", find("matmul_kernel"), [a, b, c, *[n] * 6], (8, 8, 1), product, repeats),
        measure("matmul 512^3 TMA", find("tma_matmul_kernel"), [*maps, n, n, n], (8, 8, 1), product, repeats),
    ]
    if release not in {k.release for k in archive.cases()}:
        return results
    if archive.cases("specialised_kernel") and release != "3.2.0":
        values = [*maps[:2], c, n, n]
        results.append(
            measure("matmul 512^3 specialised", more("specialised_kernel"), values, (8, 8, 1), product, repeats)
        )
    heads, context = 4, 512
    q, k, v = (normal(heads, context, 64, dtype=np.float16) for _ in range(3))
    out = np.zeros_like(q)

    def attention() -> Any:
        score = q.astype(np.float32) @ k.astype(np.float32).transpose(0, 2, 1) / 8
        weight = np.exp(score - score.max(axis=2, keepdims=True))
        return weight / weight.sum(axis=2, keepdims=True) @ v.astype(np.float32)

    for target in ("cuda80", "cuda90"):
        values = [q, k, v, out, 0.125, context * 64, context]
        title = f"flash 4x512x64 {target.replace('cuda', 'sm_')}"
        results.append(measure(title, more("flash_kernel", target), values, (8, 4, 1), attention, repeats))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--release", default="3.6.0")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="rows by name, such as 'matmul*'")
    parser.add_argument("--no-interpreter", action="store_true", help="leave TRITON_INTERPRET=1 out")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    ONLY[0] = options.only
    rows = benchmarks(options.release, options.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    missing = "not asked for" if options.no_interpreter else interpreted.missing()
    if missing:
        print(f"TRITON_INTERPRET=1: {missing}")
    mine = f"{'kernel':26}{'load ms':>9}{'median ms':>11}{'best ms':>9}{'CPU ms':>9}"
    print(f"{mine}{'interpreter ms':>16}{'CPU ms':>9}{'times':>8}{'difference':>12}{'NumPy ms':>10}")
    for row in rows:
        r = row.result
        shown = f"{'-':>16}{'-':>9}{'-':>8}{'-':>12}"
        if not missing:
            interpret(row)
        if r.interpreter_cpu_ms is not None:
            times = r.interpreter_cpu_ms / r.cpu_ms
            shown = f"{r.interpreter_ms:16.0f}{r.interpreter_cpu_ms:9.0f}{times:8.1f}{r.difference:12.2g}"
        print(f"{r.name:26}{r.load_ms:9.1f}{r.median_ms:11.2f}{r.best_ms:9.2f}{r.cpu_ms:9.2f}{shown}{r.numpy_ms:10.3f}")
    print(f"peak memory of the process: {peak:.0f} MB")
    if options.json:
        found = {
            "release": options.release,
            "repeats": options.repeats,
            "peak_mb": peak,
            "interpreter": missing or "run",
        }
        options.json.write_text(json.dumps(found | {"kernels": [asdict(row.result) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
