"""Two kernels that a newer release of Triton compiles worse: what changed, and the older binary in its place.

::

    python examples/regressions/pin.py

On a GPU of sm_80 or later the PTX of each build is launched and timed; without one both run on the emulator. Their
results are compared with NumPy either way.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

import trlaunch

HERE = Path(__file__).resolve().parent


def attention(rng: np.random.Generator) -> tuple[tuple[int, ...], list[object], dict[int, np.ndarray]]:
    n, head, block, scale = 128, 64, 128, 0.125
    q, k, v, do = (rng.standard_normal((n, head)).astype(np.float16) for _ in range(4))
    scores = k.astype(np.float32) @ q.T.astype(np.float32) * scale
    lse = np.log2(np.exp2(scores).sum(axis=0)).astype(np.float32)
    p = np.exp2(scores - lse)
    delta = rng.standard_normal(n).astype(np.float32)
    dv = p @ do.astype(np.float32)
    dk = (p * (v.astype(np.float32) @ do.T.astype(np.float32) - delta)) @ q.astype(np.float32)
    out = [np.zeros((n, head), np.float32) for _ in range(2)]
    return (n // block,), [q, k, v, do, lse, delta, *out, head, n, scale], {6: dk, 7: dv}


def matmul(rng: np.random.Generator) -> tuple[tuple[int, ...], list[object], dict[int, np.ndarray]]:
    n = 128
    a, b = (rng.standard_normal((n, n)).astype(np.float16) for _ in range(2))
    wanted = a.astype(np.float32) @ b.astype(np.float32)
    return ((n // 64) ** 2,), [a, b, np.zeros((n, n), np.float16), n, n, n, n, n, n], {2: wanted}


def launch(folder: Path, make: object) -> str:
    """Launch one build; how far it is from NumPy, and how long it took."""
    file = next(folder.glob("*.ptx"))
    kernel = trlaunch.Kernel.from_file(file)
    grid, args, wanted = make(np.random.default_rng(0))  # type: ignore[operator]
    placed = [trlaunch.asarray(a, device=str(kernel.device)) if isinstance(a, np.ndarray) else a for a in args]
    kernel.launch(grid, *placed)
    worst = max(float(np.abs(placed[i].numpy().astype(np.float32) - want).max()) for i, want in wanted.items())
    start = time.perf_counter()
    for _ in range(count := 1 if kernel.device.driver == "emulator" else 200):
        kernel.launch(grid, *placed)
    placed[next(iter(wanted))].numpy()  # waits for them
    spent = (time.perf_counter() - start) / count
    right = "right" if worst < 0.1 else "WRONG"
    return f"{right} (error {worst:.2g}) on {kernel.device}, {spent * 1e6:.1f} us a launch, {kernel.shared} B shared"


def main() -> None:
    for name, old, new, make in (
        ("attention_backward_kv", "3.2.0", "3.3.1", attention),
        ("small_matmul", "3.1.0", "3.4.0", matmul),
    ):
        found = trlaunch.diff(HERE / name / old, HERE / name / new)
        print(f"== {name}, Triton {old} -> {new}")
        for pair in (*found.resources, *found.opcodes[:4]):
            if pair.differs:
                print(f"  {pair.name:<28} {pair.first!s:>8} {pair.second!s:>8}")
        grown = max(found.lines, key=lambda row: row.counts["sass"][1] - row.counts["sass"][0])
        print(f"  most instructions were added at {grown}: {grown.counts['sass'][0]} -> {grown.counts['sass'][1]}")
        for release in (new, old):
            print(f"  Triton {release}: {launch(HERE / name / release, make)}")


if __name__ == "__main__":
    main()
