"""Device memory does not grow with the number of launches, arrays or kernels."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import trlaunch
from tests import corpus
from tests.gpu.bindings import cuda
from tests.gpu.launches import launch_of, put

pytestmark = pytest.mark.gpu

SLACK = 4 << 20  # bytes: what the driver rounds to, twice


def used():
    cuda("cuCtxSynchronize")
    free, total = cuda("cuMemGetInfo")
    return total - free


def test_twenty_thousand_launches(add, context):
    n = 4096
    x, out = (trlaunch.asarray(np.zeros(n, np.float32), device="cuda:0") for _ in range(2))
    for _ in range(100):
        add.launch(4, x, x, out, n)
    before = used()
    for _ in range(20_000):
        add.launch(4, x, x, out, n)
    assert used() - before <= SLACK


def test_launches_that_allocate_scratch(context, hopper):
    case = corpus.find("3.6.0", "cuda:90", "scratch_kernel")
    kernel = trlaunch.Kernel.from_file(case.path("cubin"))
    placed = put(launch_of(case), case)
    for _ in range(1500):  # more than the driver queues before a launch waits
        kernel.launch(placed.launch.grid, *placed.arguments)
    before = used()
    for _ in range(5000):
        kernel.launch(placed.launch.grid, *placed.arguments)
    assert used() - before <= SLACK
    assert placed.wrong() == ""


def test_arrays_are_freed(context):
    before = used()
    for _ in range(200):
        trlaunch.empty(16 << 20, "u8", "cuda:0")
    gc.collect()
    assert used() - before <= SLACK + (16 << 20)


def test_kernels_that_are_dropped_are_unloaded(context, add):
    data, metadata = add.artifact.data, add.metadata
    n = 4096
    x, out = (trlaunch.asarray(np.zeros(n, np.float32), device="cuda:0") for _ in range(2))

    def once():
        trlaunch.Kernel.from_bytes(data, metadata, level=add.level).launch(4, x, x, out, n)
        gc.collect()

    for _ in range(20):
        once()
    before = used()
    for _ in range(200):
        once()
    assert used() - before <= SLACK
