"""Hooks on a GPU: Proton's profile has trlaunch's launches by name and with their metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
import torch
import triton.profiler as proton
from tests.corpus import find
from trlaunch import Kernel, hooks

case = find("3.6.0", "cuda:90", "add_kernel")
(block,) = case.constexprs.values()
kernel = Kernel.from_file(case.path("cubin" if torch.cuda.get_device_capability() == (9, 0) else "ptx"))
n = 98432
x = torch.ones(n, device="cuda")
out = torch.empty_like(x)
grid = (-(-n // block),)
bound = kernel.bind(grid=grid)
bound(x, x, out, n)
torch.cuda.synchronize()

session = proton.start(sys.argv[1], hook="triton")
with hooks.proton(lambda launch: {"flops32": launch.arguments["n_elements"], "bytes": 12 * n}):
    for _ in range(10):
        kernel.launch(grid, x, x, out, n)
        bound(x, x, out, n)
torch.cuda.synchronize()
proton.finalize()
assert torch.equal(out, x + x)
"""


def nodes(tree):
    yield tree
    for child in tree.get("children", ()):
        yield from nodes(child)


def test_proton_counts_the_launches_with_their_metrics(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton.profiler", reason="this Triton has no Proton")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "profile")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in tmp_path.glob("profile*.hatchet")]
    assert found, sorted(p.name for p in tmp_path.iterdir())
    frames = [node for tree in found[0] if "frame" in tree for node in nodes(tree)]
    named = [node for node in frames if node["frame"]["name"] == "add_kernel"]
    assert named, [node["frame"]["name"] for node in frames]
    counted = [node["metrics"] for node in named if "flops32" in node["metrics"]]
    assert counted, [node["metrics"] for node in named]
    assert sum(m["flops32"] for m in counted) == 20 * 98432
    assert sum(m["bytes"] for m in counted) == 20 * 12 * 98432
    launches = sum(node["metrics"].get("count", 0) for node in frames)
    assert launches == 20, [(node["frame"]["name"], node["metrics"]) for node in frames]


def test_launches_by_plan_pass_the_hooks() -> None:
    import numpy as np

    import trlaunch
    from tests.corpus import find
    from trlaunch import Kernel, hooks

    case = find("3.6.0", "cuda:80", "add_kernel")
    (block,) = case.constexprs.values()
    kernel = Kernel.from_file(case.path("ptx"), device="cuda")
    n = 98432
    x, out = trlaunch.asarray(np.ones(n, np.float32), device="cuda"), trlaunch.empty(n, "fp32", "cuda")
    bound = kernel.bind(grid=(-(-n // block),))
    for _ in range(3):
        bound(x, x, out, n)
    seen = []
    with hooks.before(lambda launch: seen.append((launch.name, launch.stream, str(launch.device)))):
        for _ in range(5):
            bound(x, x, out, n)
    bound(x, x, out, n)
    assert seen == [("add_kernel", 0, "cuda:0")] * 5
    assert np.array_equal(out.numpy(), np.full(n, 2, np.float32))
