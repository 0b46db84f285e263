"""The same kernels with the same inputs on the emulator and on a GPU, element by element.

    python benchmarks/emulator_vs_gpu.py [--release 3.6.0] [--device cuda] [--only PATTERN] [--json FILE]
                                         [--markdown FILE]
    python benchmarks/emulator_vs_gpu.py --emulator-only     # no GPU: only that every kernel runs

The kernels are those of the test corpus, as Triton compiled them: needs no Triton. The PTX of sm_80 is assembled by the
driver for the GPU at hand; of sm_90, the GPU runs the cubin where the corpus has one, else the PTX. The emulator runs
the PTX of the same compilation.

Of each array that a kernel writes: how many elements differ in any bit, the largest difference, and the largest in
units of the last place of the result's type. A row is right where that stays within the bound of its kernel: 0 for
integers and for chains of fp32 additions, products and fused ones; a few units where the hardware's approximations
(ex2, division, square roots) or the order of its sums differ from NumPy's. Exits with 1 if a row is not right or a
kernel did not run.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import trlaunch
from benchmarks import needs
from tests import corpus
from tests.emulator import archive
from trlaunch.kernel import Kernel


@dataclass
class Described:
    """An array that is passed as a descriptor of 64 x 64 blocks."""

    array: np.ndarray


@dataclass
class Run:
    """A kernel's grid, arguments and bound: units in the last place, or the relative error where it is below 1."""

    grid: tuple[int, ...]
    arguments: list[Any]
    bound: float = 0
    #: Distances below this are no errors, whatever the units: sums that nearly cancel.
    absolute: float = 0.0
    #: 16-bit integers are the bits of bfloat16.
    bf16: bool = False

    @property
    def allowed(self) -> str:
        """The bound in words."""
        if not self.bound:
            return "exact"
        text = f"{self.bound:g} ulp" if self.bound >= 1 else f"{self.bound:.1e} relative"
        return text + (f" or {self.absolute:g}" if self.absolute else "")


@dataclass(frozen=True)
class Compiled:
    """One kernel as it was compiled: its PTX for the emulator, and what the GPU loads."""

    name: str
    target: str
    level: str
    ptx: bytes
    binary: bytes
    metadata: dict[str, Any]
    make: Callable[[], Run]


@dataclass
class Row:
    """What came out for one array."""

    kernel: str
    target: str
    level: str
    array: int
    elements: int
    different: int
    largest: float
    units: float
    bound: str
    right: bool


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _product(dtype: Any, bound: float) -> Run:
    n = 256
    a, b = normal(n, n, dtype=dtype), normal(n, n, seed=1, dtype=dtype)
    return Run((4, 4), [a, b, np.zeros((n, n), dtype), *[n] * 6], bound, 1e-3)


def _bits(x: np.ndarray) -> np.ndarray:
    """The upper halves of fp32: bfloat16, rounded toward zero."""
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def _product_bf16() -> Run:
    n = 256
    a, b = _bits(normal(n, n)), _bits(normal(n, n, seed=1))
    return Run((4, 4), [a, b, np.zeros((n, n), np.uint16), *[n] * 6], 1, 1e-2, bf16=True)


def _specialised() -> Run:
    n = 256
    a, b = normal(n, n, dtype=np.float16), normal(n, n, seed=1, dtype=np.float16)
    return Run((4, 4), [Described(a), Described(b), np.zeros((n, n), np.float16), n, n], 1, 1e-3)


def _persistent() -> Run:
    return Run((6,), _tma().arguments, 1, 1e-3)


def _tma() -> Run:
    n = 256
    a, b = normal(n, n, dtype=np.float16), normal(n, n, seed=1, dtype=np.float16)
    return Run((4, 4), [Described(a), Described(b), Described(np.zeros((n, n), np.float16)), n, n, n], 1, 1e-3)


def _wide(kind: str) -> Callable[[], Run]:
    def run() -> Run:
        n = 128
        rng = np.random.default_rng(0)
        if kind == "int8":
            a, b = (rng.integers(-128, 128, (n, n)).astype(np.int8) for _ in range(2))
            return Run((2, 2), [a, b, np.zeros((n, n), np.int32), n, n, n])
        if kind in ("e4m3", "e5m2"):
            a, b = ((rng.integers(0, 68, (n, n)) + 128 * rng.integers(0, 2, (n, n))).astype(np.uint8) for _ in range(2))
            # The hardware keeps about 14 bits of a sum of fp8 products.
            return Run((2, 2), [a, b, np.zeros((n, n), np.float32), n, n, n], 2.0**-10, 2.0**-4)
        if kind in ("transposed", "fp16_8_warps"):
            a, b = normal(n, n), normal(n, n, seed=1)
            a, b = (_bits(a), _bits(b)) if kind == "transposed" else (a.astype(np.float16), b.astype(np.float16))
            return Run((2 if kind == "transposed" else 1, 2), [a, b, zeros(n, n), n, n, n], 2.0**-16, 1e-4)
        a, b = normal(n, n), normal(n, n, seed=1)
        bound, absolute = (0.0, 0.0) if kind == "ieee" else (2.0**-16, 1e-4)
        return Run((2, 2), [a, b, np.zeros((n, n), np.float32), n, n, n], bound, absolute)

    return run


def _softmax() -> Run:
    x = normal(200, 781) * 4
    return Run((200,), [np.zeros_like(x), x, 781, 781, 781], 16)


def _layer_norm() -> Run:
    x, weight, bias = normal(64, 1151), normal(1151, seed=1), normal(1151, seed=2)
    means = [np.zeros(64, np.float32), np.zeros(64, np.float32)]
    return Run((64,), [x, np.zeros_like(x), weight, bias, *means, 1151, 1151, 1e-5], 2.0**-18, 1e-6)


def _flash() -> Run:
    q, k, v = (normal(2, 128, 64, seed=i, dtype=np.float16) for i in range(3))
    return Run((2, 2), [q, k, v, np.zeros_like(q), 0.125, 128 * 64, 128], 4, 1e-3)


def _casts() -> Run:
    x = normal(512) * 100
    bits = [np.zeros(512, np.uint8), np.zeros(512, np.uint8), np.zeros(512, np.uint16), np.zeros(512, np.int32)]
    return Run((2,), [x, *bits, np.zeros(512, np.float32)])


def _atomics() -> Run:
    index = np.random.default_rng(0).integers(0, 100, 2000).astype(np.int32)
    # Sums of halves and quarters are exact in any order.
    x = np.round(normal(2000) * 4) / 4
    out = [np.zeros(100, np.float32), np.full(100, -9, np.float32), np.zeros(64, np.float16), np.zeros(4, np.int32)]
    return Run((8,), [index, x, *out, 2000])


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def _gather() -> Run:
    index = np.arange(1024, dtype=np.int32).reshape(32, 32) * 7 % 32
    return Run((1,), [normal(32, 32), index, zeros(32, 32)])


BOTH = ("80", "90")
CORPUS: dict[str, tuple[tuple[str, ...], Callable[[], Run]]] = {
    "add_kernel": (BOTH, lambda: Run((9,), [normal(9000), normal(9000, seed=1), zeros(9000), 9000])),
    "softmax_kernel": (BOTH, _softmax),
    "softmax_kernel_4096": (BOTH, lambda: Run((20,), [zeros(20, 4096), normal(20, 4096) * 4, 4096, 4096, 4096], 16)),
    "pdl_kernel": (("90",), lambda: Run((9,), [normal(9000), normal(9000, seed=1), zeros(9000), 9000])),
    "tuple_kernel": (
        BOTH,
        lambda: Run((3,), [normal(3000), normal(3000, seed=1), 0.5, 3, zeros(3000), 3000], 0),
    ),
    "matmul_kernel_bf16": (BOTH, _product_bf16),
    "layer_norm_kernel": (BOTH, _layer_norm),
    "matmul_kernel": (BOTH, lambda: _product(np.float16, 1)),
    "matmul_kernel_tf32": (BOTH, lambda: _product(np.float32, 2.0**-14)),
    "tma_matmul_kernel": (BOTH, _tma),
    "scratch_kernel": (("90",), lambda: Run((2, 2), [normal(112, 48), zeros(112, 48), 112, 48])),
}
MORE: dict[str, tuple[tuple[str, ...], Callable[[], Run]]] = {
    "noinline_kernel": (BOTH, lambda: Run((50,), [normal(50), normal(50, seed=1), zeros(50)])),
    "math_kernel": (BOTH, lambda: Run((2,), [normal(512) * 4, zeros(512), 512], 2.0**-20, 1e-6)),
    "math_kernel_f64": (
        BOTH,
        lambda: Run((2,), [normal(512, dtype=np.float64), zeros(512, dtype=np.float64), 512], 4, 1e-15),
    ),
    "histogram_kernel": (
        BOTH,
        lambda: Run((5,), [np.arange(5000, dtype=np.int32) * 7 % 128, zeros(128, dtype=np.int32), 5000]),
    ),
    "sort_kernel": (BOTH, lambda: Run((4,), [normal(4, 128), zeros(4, 128)])),
    "scan_kernel": (BOTH, lambda: Run((4,), [normal(4, 256), zeros(4, 256)])),
    "argmax_kernel": (BOTH, lambda: Run((9,), [normal(9, 512), zeros(9), zeros(9, dtype=np.int32)])),
    "philox_kernel": (BOTH, lambda: Run((4,), [zeros(1024, 4, dtype=np.int32), 1234])),
    "dropout_kernel": (BOTH, lambda: Run((3,), [normal(3000), zeros(3000), 3000, 0.25, 7], 2)),
    "atomics_kernel": (BOTH, _atomics),
    "gather_kernel": (BOTH, _gather),
    "casts_kernel": (("90",), _casts),
    "collatz_kernel": (BOTH, lambda: Run((40,), [np.arange(1, 41), zeros(40, dtype=np.int32), 40])),
    "flash_kernel": (BOTH, _flash),
    "flash_kernel_causal": (BOTH, _flash),
    **{f"matmul_kernel_{kind}": (BOTH, _wide(kind)) for kind in ("int8", "ieee", "tf32x3", "transposed")},
    "matmul_kernel_fp16_8_warps": (BOTH, _wide("fp16_8_warps")),
    "persistent_kernel": (("90",), _persistent),
    "specialised_kernel": (("90",), _specialised),
    **{f"matmul_kernel_{kind}": (("90",), _wide(kind)) for kind in ("e4m3", "e5m2")},
}


def outputs(kernel: Kernel, run: Run, device: str) -> list[np.ndarray]:
    """Launch with fresh copies of the arguments; every array as it is afterwards."""
    arguments, arrays = [], []
    for value in run.arguments:
        if isinstance(value, (np.ndarray, Described)):
            source = value.array if isinstance(value, Described) else value
            there = trlaunch.asarray(source, device=device)
            arrays.append(there)
            arguments.append(trlaunch.TensorDescriptor(there, block_shape=(64, 64)) if value is not source else there)
        else:
            arguments.append(value)
    kernel.launch(run.grid, *arguments)
    return [np.array(a.numpy()) for a in arrays]


def compare(found: np.ndarray, expected: np.ndarray, run: Run) -> tuple[int, float, float, bool]:
    """Elements that differ, the largest difference, that in units of the last place, and whether all is right."""
    different = int((found.view(f"u{found.itemsize}") != expected.view(f"u{found.itemsize}")).sum())
    if not different:
        return 0, 0.0, 0.0, True
    if run.bf16:
        found, expected = ((x.astype(np.uint32) << 16).view(np.float32) for x in (found, expected))
    a, b = found.astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    distance = np.where(same, 0.0, np.abs(a - b))
    if found.dtype.kind == "f":
        info = np.finfo(found.dtype)
        unit = np.maximum(np.spacing(np.abs(expected)), info.smallest_subnormal).astype(np.float64)
        unit *= 2.0**16 if run.bf16 else 1.0
    else:
        unit = np.ones(b.shape)
    units = distance / unit
    error = distance / np.maximum(np.abs(b), 1e-300) if run.bound < 1 else units
    right = bool(np.where(distance <= run.absolute, True, error <= run.bound).all())
    return different, float(np.nanmax(distance)), float(np.nanmax(units)), right


def kernels(release: str, only: str) -> list[Compiled]:
    """Every kernel that matches, as `release` compiled it."""
    found = []
    for name, (targets, make) in CORPUS.items():
        for target in targets:
            for case in corpus.cases(release, f"cuda:{target}", name):
                if name == "tma_matmul_kernel" and case.version < (3, 4):
                    continue
                level = "cubin" if target == "90" and "cubin" in case.levels else "ptx"
                ptx = case.bytes("ptx")
                found.append(Compiled(name, case.target, level, ptx, case.bytes(level), case.metadata, make))
    for name, (targets, make) in MORE.items():
        for target in targets:
            for case in archive.cases(name, target=f"cuda{target}"):
                if case.release == release:
                    text = case.ptx.encode()
                    found.append(Compiled(name, f"cuda:{target}", "ptx", text, text, case.metadata, make))
    return [item for item in found if fnmatch.fnmatch(item.name, only)]


def measure(item: Compiled, device: str) -> list[Row]:
    """Run a kernel on the emulator and on the device; a row per array that it writes."""
    run = item.make()
    emulator = Kernel.from_bytes(item.ptx, item.metadata, level="ptx", device="emulator")
    real = Kernel.from_bytes(item.binary, item.metadata, level=item.level, device=device) if device else emulator
    one, other = outputs(emulator, run, "emulator"), outputs(real, run, device or "emulator")
    given = [v.array if isinstance(v, Described) else v for v in run.arguments if not np.isscalar(v)]
    rows = []
    for at, (found, expected) in enumerate(zip(one, other, strict=True)):
        if found.tobytes() == expected.tobytes() == given[at].tobytes():
            continue  # an input
        different, largest, units, right = compare(found, expected, run)
        target = item.target.replace("cuda:", "sm_")
        rows.append(Row(item.name, target, item.level, at, found.size, different, largest, units, run.allowed, right))
    return rows


HEADINGS = ("kernel", "target", "from", "array", "elements", "different", "largest", "ulp", "bound")


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    numbers = f"{row.largest:.3g}", f"{row.units:.3g}"
    return (
        row.kernel, row.target, row.level, str(row.array), str(row.elements), str(row.different), *numbers,
        row.bound + ("" if row.right else "  WRONG"),
    )  # fmt: skip


def table(rows: list[Row]) -> str:
    """The rows for a terminal."""
    lines = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADINGS))]
    left = (0, 1, 2, len(HEADINGS) - 1)
    return "\n".join(
        "  ".join(c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def markdown(rows: list[Row]) -> str:
    """The rows as a table of a document."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", default="3.6.0")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="kernels by name, such as 'matmul*'")
    parser.add_argument("--emulator-only", action="store_true", help="compare the emulator with itself")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    if not options.emulator_only:
        needs.gpu(options.device)
    rows: list[Row] = []
    failed = []
    every = kernels(options.release, options.only)
    start = time.perf_counter()
    for item in every:
        try:
            rows += measure(item, "" if options.emulator_only else options.device)
        except trlaunch.TrlaunchError as error:
            failed.append(f"{item.name} for {item.target} ({item.level}): {error}")
    print(table(rows))
    for text in failed:
        print(f"did not run: {text}")
    wrong = sum(not row.right for row in rows)
    exact = sum(not row.different for row in rows)
    print(
        f"{len(every)} kernels in {time.perf_counter() - start:.1f} s, {len(failed)} did not run; {len(rows)} arrays:"
        f" {exact} equal bit by bit, {len(rows) - exact - wrong} within bounds, {wrong} wrong"
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(rows))
    return int(wrong > 0 or bool(failed) or not rows)


if __name__ == "__main__":
    sys.exit(main())
