"""Wrong launches: refused by name before the driver is called, and what the device would have made of each.

The cases are those that were found to fail, or to give wrong numbers without an error, on an H200: a block of another
size than the kernel was compiled for, and less dynamic shared memory than it uses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import trlaunch
from tests import corpus
from tests.gpu.launches import launch_of, put
from trlaunch.cuda.driver import CudaDriver

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]

# What is wrong, the kernel, what replaces its metadata, the rule that must refuse it, and a number it must name.
WRONG = {
    "matmul, half its block": ("matmul_kernel", {"num_warps": 2}, "block", "64 threads"),
    "matmul, twice its block": ("matmul_kernel", {"num_warps": 8}, "block", "256 threads"),
    "softmax, half its block": ("softmax_kernel", {"num_warps": 2}, "block", "64 threads"),
    "softmax, twice its block": ("softmax_kernel", {"num_warps": 8}, "block", "256 threads"),
    "matmul, no shared memory": ("matmul_kernel", {"shared": 0}, "shared", "0 bytes"),
    "matmul, 1 KiB shared": ("matmul_kernel", {"shared": 1024}, "shared", "1024"),
    "matmul, 16 KiB shared": ("matmul_kernel", {"shared": 16384}, "shared", "16384"),
}
EVERY = [(what, release) for what in WRONG for release in corpus.releases()]


@pytest.fixture
def no_launch(monkeypatch):
    """Loading or launching anything fails the test."""

    def called(*_):
        pytest.fail("the driver was called")

    for function in ("load", "launch"):
        monkeypatch.setattr(CudaDriver, function, called)


def refuse(kernel, case, rule, words):
    placed = put(launch_of(case), case)
    report = kernel.check(placed.launch.grid)
    assert [finding.rule for finding in report.errors] == [rule]
    assert words in report.errors[0].message
    with pytest.raises(trlaunch.CheckError, match=rule) as caught:
        kernel.launch(placed.launch.grid, *placed.arguments)
    assert words in str(caught.value)
    assert caught.value.report.errors == report.errors


@pytest.mark.parametrize("what,release", EVERY)
def test_it_is_refused_before_the_driver_is_called(what, release, no_launch, hopper):
    name, metadata, rule, words = WRONG[what]
    case = corpus.find(release, "cuda:90", name)
    refuse(trlaunch.Kernel.from_file(case.path("cubin"), case.metadata | metadata), case, rule, words)


@pytest.mark.parametrize("release", corpus.releases())
@pytest.mark.parametrize("shared", [0, 1024, 16384])
def test_less_shared_memory_than_the_metadata_says_is_refused(release, shared, no_launch, hopper):
    case = corpus.find(release, "cuda:90", "matmul_kernel")
    kernel = trlaunch.Kernel.from_file(case.path("cubin"), shared=shared)
    placed = put(launch_of(case), case)
    with pytest.raises(trlaunch.CheckError, match=f"shared={shared} bytes were given"):
        kernel.launch(placed.launch.grid, *placed.arguments)


@pytest.mark.parametrize("name,rule", [("cluster_kernel", "cluster"), ("matmul_kernel", "shared")])
def test_metadata_of_another_kernel_is_refused(name, rule, no_launch, hopper):
    case, other = (corpus.find("3.6.0", "cuda:90", n) for n in (name, "softmax_kernel"))
    kernel = trlaunch.Kernel.from_file(case.path("cubin"), other.metadata | {"name": case.kernel})
    assert rule in {finding.rule for finding in kernel.check(1).errors}
    placed = put(launch_of(case), case)
    with pytest.raises(trlaunch.CheckError, match=rule):
        kernel.launch(placed.launch.grid, *placed.arguments)


def of_device(job):
    what, release = job
    name, metadata, *_ = WRONG[what]
    return measure(release, name, {"metadata": metadata, "shared": None, "check": "warn"})


def measure(release, name, changes):
    """What `tests.gpu.outcome` prints, in a process of its own."""
    command = [sys.executable, "-m", "tests.gpu.outcome", release, name, json.dumps(changes)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "no end within 60 s"
    lines = result.stdout.strip().splitlines()
    return lines[-1] if lines else f"exit {result.returncode}: {result.stderr.strip()[-300:]}"


def test_every_refusal_was_called_for(hopper, report):
    """Let through with check="warn", each of them fails on the device or computes something wrong."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        found = dict(zip(EVERY, pool.map(of_device, EVERY), strict=True))
    for what in WRONG:
        outcomes: dict[str, list[str]] = {}
        for release in corpus.releases():
            outcomes.setdefault(found[what, release], []).append(release)
        for text, releases in outcomes.items():
            report(f"{what:26} {text:45} {' '.join(releases)}")
    harmless = [job for job, text in found.items() if text == "right"]
    assert harmless == []
    unknown = [text for text in found.values() if not text.startswith("CUDA_ERROR_") and text != "wrong numbers"]
    assert unknown == []


@pytest.mark.parametrize("release", ["3.0.0", "3.9.0"])
def test_the_judge_of_outcomes_finds_a_right_launch_right(release, hopper):
    for name in ("matmul_kernel", "softmax_kernel"):
        assert measure(release, name, {"metadata": {}, "shared": None, "check": "error"}) == "right"


def test_a_refused_launch_leaves_the_context_alive(hopper):
    changes = {"metadata": {"num_warps": 2}, "shared": None, "check": "error"}
    assert measure("3.0.0", "matmul_kernel", changes) == "refused by block"
