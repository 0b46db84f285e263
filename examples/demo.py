"""Launch three Triton kernels without Triton, compare them with NumPy, then show wrong launches being refused.

Runs on the first NVIDIA GPU, or on the emulator where there is none. Exits with 1 when a result is wrong, or when a
wrong launch is let through.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import trlaunch
from trlaunch import devices

ARTIFACTS = Path(__file__).parent / "artifacts"


@dataclass
class Case:
    """One launch: the kernel's file, its grid, its arguments in order, and what NumPy says `output` must hold."""

    title: str
    file: str
    grid: tuple[int, ...]
    arguments: list[Any]
    output: int
    expected: np.ndarray
    tolerance: float
    repeats: int = field(default=5)


def vector_add() -> Case:
    rng = np.random.default_rng(0)
    n = 98_432
    x, y = rng.random(n, dtype=np.float32), rng.random(n, dtype=np.float32)
    return Case("vector add, 98,432 fp32", "add_kernel", (-(-n // 1024),), [x, y, np.zeros_like(x), n], 2, x + y, 0.0)


def softmax() -> Case:
    rows, columns = 1823, 781
    x = np.random.default_rng(1).standard_normal((rows, columns), dtype=np.float32)
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    arguments = [np.zeros_like(x), x, columns, columns, columns]
    return Case("softmax, 1823 x 781 fp32", "softmax_kernel", (rows,), arguments, 0, e / e.sum(axis=1)[:, None], 1e-6)


def matmul() -> Case:
    n = 512
    rng = np.random.default_rng(2)
    a, b = ((rng.random((n, n), dtype=np.float32) - 0.5).astype(np.float16) for _ in range(2))
    arguments = [a, b, np.zeros_like(a), n, n, n, n, n, n]
    expected = a.astype(np.float64) @ b.astype(np.float64)
    return Case("matmul, 512 x 512 x 512 fp16", "matmul_kernel", (n // 64, n // 64), arguments, 2, expected, 1e-2)


def choose() -> tuple[trlaunch.Device, str, str]:
    """The device, and which folder and level of the artifacts suit it."""
    try:
        cuda = devices.get("cuda")
        if cuda.device_count() > 0:
            capability = cuda.properties(0).target.capability
            # A cubin runs on the major revision it was built for; the PTX of an older one runs on every newer one.
            folder = "cuda90" if capability == 90 else "cuda80"
            level = "cubin" if capability == 90 or capability // 10 == 8 else "ptx"
            return trlaunch.Device("cuda", 0), folder, level
    except trlaunch.DeviceUnavailable as error:
        print(f"No NVIDIA GPU, so the kernels' PTX runs on the emulator.\n({error})\n")
    return trlaunch.Device("emulator"), "cuda80", "ptx"


def run(case: Case, device: trlaunch.Device, file: Path) -> tuple[trlaunch.Kernel, float, float]:
    """Launch on arrays of the device; the kernel, the best time in seconds and the largest absolute error."""
    kernel = trlaunch.Kernel.from_file(file, device=device)
    arguments = [trlaunch.asarray(a, device=device) if isinstance(a, np.ndarray) else a for a in case.arguments]
    times = []
    for _ in range(case.repeats):
        start = time.perf_counter()
        kernel.launch(case.grid, *arguments)
        devices.get(device.driver).synchronize(device.ordinal)
        times.append(time.perf_counter() - start)
    error = np.abs(arguments[case.output].numpy().astype(np.float64) - case.expected).max()
    return kernel, min(times), float(error)


def wrong_launches(matmul_file: Path, add_file: Path) -> list[tuple[str, Path, dict[str, Any]]]:
    """Launches that a driver takes and that then fail or give wrong numbers: what was done, the file, its metadata."""
    own = json.loads(matmul_file.with_suffix(".json").read_text())
    other = json.loads(add_file.with_suffix(".json").read_text())
    return [
        ("the matmul with half its warps", matmul_file, own | {"num_warps": own["num_warps"] // 2}),
        ("the matmul without its shared memory", matmul_file, own | {"shared": 0}),
        ("the matmul with the vector add's metadata", matmul_file, other),
    ]


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 120)
    device, folder, level = choose()
    table = Table("kernel", "driver", "level", "grid", "registers", "shared", "time", "largest error", "", box=None)
    failed = False
    cases: list[Callable[[], Case]] = [vector_add, softmax, matmul]
    for make in cases:
        case = make()
        kernel, seconds, error = run(case, device, ARTIFACTS / folder / f"{case.file}.{level}")
        wrong = not error <= case.tolerance  # a NaN is wrong too
        failed |= wrong
        resources = kernel.resources(device)
        table.add_row(
            case.title,
            str(device),
            str(kernel.level),
            " x ".join(map(str, case.grid)),
            str(resources.registers or "-"),
            f"{resources.dynamic_shared + resources.static_shared:,} B",
            f"{seconds * 1e3:.3f} ms",
            f"{error:.2e}",
            f"[red]WRONG, at most {case.tolerance:g}[/]" if wrong else "[green]as NumPy[/]",
        )
    console.print(table)

    files = [ARTIFACTS / folder / f"{name}.{level}" for name in ("matmul_kernel", "add_kernel")]
    arguments = [trlaunch.asarray(a, device=device) if isinstance(a, np.ndarray) else a for a in matmul().arguments]
    for what, file, metadata in wrong_launches(*files):
        console.print(f"\nWrong on purpose: {what}", style="bold")
        try:
            trlaunch.Kernel.from_file(file, metadata, device=device).launch((8, 8), *arguments)
        except trlaunch.TrlaunchError as error:
            console.print(f"refused, before the driver was called: {error}", markup=False, highlight=False)
        else:
            console.print("launched, although it cannot be right", style="red")
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
