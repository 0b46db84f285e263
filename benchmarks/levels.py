"""Every level of every kernel on a GPU: right against torch, and as fast as Triton's own launch of the same kernel.

A kernel is compiled by Triton once; its texts and binary are written to files and launched by trlaunch from each,
beside the Python function itself. Times are of the kernel alone: launches are captured in a CUDA graph and replayed,
Triton's and trlaunch's in turns within one run; ratios are those of one round, medians over the rounds. Needs torch,
Triton and an NVIDIA GPU.

    python benchmarks/levels.py [--rounds 41] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import needs
from benchmarks.rounds import ratio

LEVELS = ("ttir", "ttgir", "llir", "ptx", "cubin")
LAUNCHES = 10  # in one graph


@dataclass
class Work:
    """One kernel, its arguments and what it should give."""

    name: str
    function: Any
    grid: tuple[int, ...]
    arguments: list[Any]
    constants: dict[str, Any]
    options: dict[str, int]
    result: Any
    expected: Any
    tolerance: float
    gluon: bool = False
    flops: float = 0
    library: Callable[[], Any] | None = None  # the same by torch


def works(torch: Any) -> list[Work]:
    """The kernels and their data."""
    from benchmarks.level_kernels import kernels

    torch.manual_seed(0)

    def rand(*shape: int, dtype: Any = torch.float32) -> Any:
        return torch.randn(*shape, device="cuda", dtype=torch.float32).to(dtype)

    made = []
    n = 1 << 26
    x, y, out = rand(n), rand(n), torch.empty(n, device="cuda")
    add = ((n // 1024,), [x, y, out, n], {"BLOCK": 1024}, {"num_warps": 4}, out, x + y, 0.0)
    made.append(Work("add", kernels.add_kernel, *add))
    try:
        from benchmarks.level_kernels import gluon_kernels

        made.append(Work("gluon add", gluon_kernels.add_kernel, *add, gluon=True))
    except ImportError:
        print("not run: gluon (this Triton has none)")
    rows, columns = 8192, 4096
    x, out = rand(rows, columns), torch.empty(rows, columns, device="cuda")
    made.append(
        Work(
            "softmax", kernels.softmax_kernel, (rows,), [out, x, columns, columns], {"BLOCK": 4096}, {"num_warps": 8},
            out, torch.softmax(x, 1), 1e-6,
        )
    )  # fmt: skip
    w, b, out = rand(columns), rand(columns), torch.empty(rows, columns, device="cuda")
    made.append(
        Work(
            "layer norm", kernels.layer_norm_kernel, (rows,), [out, x, w, b, columns, columns, 1e-5], {"BLOCK": 4096},
            {"num_warps": 8}, out, torch.nn.functional.layer_norm(x, (columns,), w, b, 1e-5), 1e-4,
        )
    )  # fmt: skip
    made += [*products(torch, 4096), attention(torch, 32, 2048)]
    return made


def normal(torch: Any, *shape: int, dtype: str = "float32") -> Any:
    """A tensor of standard normal numbers."""
    return torch.randn(*shape, device="cuda", dtype=torch.float32).to(getattr(torch, dtype))


def products(torch: Any, m: int) -> list[Work]:
    """Square matrices of fp16, by pointers and by TMA."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    from benchmarks.level_kernels import kernels

    a, b = (normal(torch, m, m, dtype="float16") for _ in range(2))
    c, d = (torch.empty(m, m, device="cuda", dtype=torch.float16) for _ in range(2))
    tiles = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}
    options = {"num_warps": 8, "num_stages": 3}
    product = (a.double() @ b.double()).float()
    grid, flops = (m // 128, m // 128), 2.0 * m**3
    out = torch.empty_like(c)

    def library() -> None:
        torch.matmul(a, b, out=out)

    made = [
        Work(
            "matmul", kernels.matmul_kernel, grid, [a, b, c, m, m, m, m], tiles, options, c, product, 1e-3,
            flops=flops, library=library,
        )
    ]  # fmt: skip
    if torch.cuda.get_device_capability()[0] >= 9:
        descriptors = [
            TensorDescriptor.from_tensor(t, list(s)) for t, s in ((a, (128, 64)), (b, (64, 128)), (d, (128, 128)))
        ]
        made.append(
            Work(
                "TMA matmul", kernels.tma_matmul_kernel, grid, [*descriptors, m], tiles, options, d, product, 1e-3,
                flops=flops, library=library,
            )
        )  # fmt: skip
    return made


def attention(torch: Any, batch: int, length: int, depth: int = 64) -> Work:
    """Attention over all of `length` keys, fp16, one head of `depth` for each of `batch`."""
    from benchmarks.level_kernels import kernels

    q, k, v = (normal(torch, batch, length, depth, dtype="float16") for _ in range(3))
    o, scale = torch.empty_like(q), 1.44269504 / depth**0.5  # log2(e): the kernel uses exp2
    attend = torch.nn.functional.scaled_dot_product_attention
    heads = [t.view(1, batch, length, depth) for t in (q, k, v)]  # flash attention wants batch and heads
    return Work(
        "attention", kernels.attention_kernel, (length // 128, batch), [q, k, v, o, length, scale],
        {"BLOCK_M": 128, "BLOCK_N": 64, "HEAD": depth}, {"num_warps": 8, "num_stages": 3}, o,
        attend(q.float(), k.float(), v.float()), 1e-3,
        flops=4.0 * batch * length**2 * depth, library=lambda: attend(*heads),
    )  # fmt: skip


def write_levels(compiled: Any, name: str, folder: Path) -> Path:
    """The files of a Triton cache folder, from a kernel compiled in this process; their stem."""
    stem = folder / name
    for level in LEVELS:
        if level in compiled.asm:
            data = compiled.asm[level]
            stem.with_suffix(f".{level}").write_bytes(data if isinstance(data, bytes) else str(data).encode())
    metadata = {key: getattr(compiled.metadata, key) for key in compiled.metadata._fields}
    stem.with_suffix(".json").write_text(json.dumps(metadata, default=vars))
    return stem


def runtime_arguments(work: Work, compiled: Any) -> list[Any]:
    """What is left of the arguments when those that were specialised to 1 are gone."""
    signature = list(compiled.src.signature.values())
    return [value for value, kind in zip(work.arguments, signature, strict=False) if kind != "constexpr"]


def graph_of(torch: Any, launch: Callable[[], None]) -> Any:
    """A graph of several launches, after one outside it."""
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES):
            launch()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def times(torch: Any, graphs: dict[str, Any], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds a launch, and how often Triton's time that is: medians over rounds.

    In each round every graph is replayed once, in another order at random, and is compared with Triton's replay of the
    same round: a card at its power limit slows down while it works. For the same reason it rests as long as it worked.
    """
    found: dict[str, list[float]] = {name: [] for name in graphs}
    names, shuffle = list(graphs), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            graphs[name].replay()
            end.record()
            end.synchronize()
            spent = begin.elapsed_time(end)  # ms
            found[name].append(spent * 1000 / LAUNCHES)
            time.sleep(spent / 1000)
    ratios = {name: ratio(values, found["triton"]) for name, values in found.items()}
    return {name: statistics.median(values) for name, values in found.items()}, ratios


def measure(torch: Any, work: Work, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """One kernel at every level."""
    import trlaunch

    compiled = work.function[work.grid](*work.arguments, **work.constants, **work.options)
    stem = write_levels(compiled, work.function.__name__, folder / work.name.replace(" ", "_"))
    values = runtime_arguments(work, compiled)

    def check() -> float:
        error = (work.result.float() - work.expected.float()).norm() / work.expected.float().norm()
        work.result.zero_()
        return float(error)

    graphs, errors = {}, {"triton": check()}
    graphs["triton"] = graph_of(
        torch, lambda: compiled[work.grid + (1,) * (3 - len(work.grid))](*work.arguments, *work.constants.values())
    )
    launchers: dict[str, Callable[[], Any]] = {}
    function = trlaunch.jit(work.function)
    launchers["gluon" if work.gluon else "python"] = lambda: function[work.grid](
        *work.arguments, **work.constants, **work.options
    )
    for level in LEVELS:
        if stem.with_suffix(f".{level}").is_file():
            kernel = trlaunch.Kernel.from_file(stem.with_suffix(f".{level}"))
            launchers[level] = lambda kernel=kernel: kernel.launch(work.grid, *values)
    for name, launch in launchers.items():
        launch()
        torch.cuda.synchronize()
        errors[name] = check()
        graphs[name] = graph_of(torch, launch)
    if work.library is not None:
        graphs["torch"] = graph_of(torch, work.library)
        errors["torch"] = 0.0  # what the others are compared with was computed by it, in more digits
    medians, ratios = times(torch, graphs, rounds)
    return [
        {
            "kernel": work.name, "level": name, "us": medians[name], "ratio": ratios[name],
            "error": errors[name], "right": errors[name] <= work.tolerance,
            "tflops": work.flops / medians[name] / 1e6,
        }
        for name in graphs
    ]  # fmt: skip


def report(torch: Any, given: Iterable[tuple[str, Work]], rounds: int, json_file: Path | None) -> int:
    """Measure, print and write; 1 when a result is wrong, else 0."""
    import triton

    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}, Triton {triton.__version__}")
    print(f"{'kernel':<18} {'level':<8} {'us':>9} {'TFLOP/s':>8} {'of Triton':>9} {'error':>9}")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for label, work in given:
            folder = Path(temporary)
            (folder / work.name.replace(" ", "_")).mkdir(exist_ok=True)
            for row in measure(torch, work, rounds, folder):
                rows.append(row | {"kernel": label})
                rate = f"{row['tflops']:8.1f}" if work.flops else f"{'':8}"
                mark = "" if row["right"] else "  WRONG"
                figures = f"{row['us']:>9.2f} {rate} {row['ratio']:>9.4f} {row['error']:>9.1e}"
                print(f"{label:<18} {row['level']:<8} {figures}{mark}")
    ours = [row for row in rows if row["level"] not in ("triton", "torch")]
    worst = max(ours, key=lambda row: abs(row["ratio"] - 1))
    wrong = sum(not row["right"] for row in rows)
    print(
        f"furthest from Triton's time: {worst['kernel']} {worst['level']} {worst['ratio']:.4f}; wrong results: {wrong}"
    )
    if json_file:
        json_file.write_text(json.dumps(rows, indent=1))
    return 1 if wrong else 0


def options(description: str) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> int:
    given = options(__doc__ or "")
    needs.packages("torch", "triton")
    needs.gpu()
    import torch

    return report(torch, ((work.name, work) for work in works(torch)), given.rounds, given.json)


if __name__ == "__main__":
    sys.exit(main())
