"""Launches captured in a CUDA graph and replayed on new data."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import trlaunch
from tests import corpus
from tests.gpu.bindings import cuda, driver
from tests.gpu.launches import launch_of, put

pytestmark = pytest.mark.gpu

MODES = ("GLOBAL", "THREAD_LOCAL", "RELAXED")


def capture(stream, body, mode="GLOBAL"):
    """What `body` queues on the stream, as an executable graph."""
    cuda("cuStreamBeginCapture", stream, getattr(driver.CUstreamCaptureMode, f"CU_STREAM_CAPTURE_MODE_{mode}"))
    try:
        body()
    finally:
        graph = cuda("cuStreamEndCapture", stream)
    executable = cuda("cuGraphInstantiate", graph, 0)
    cuda("cuGraphDestroy", graph)
    return executable


def replay(executable, stream):
    cuda("cuGraphLaunch", executable, stream)
    cuda("cuStreamSynchronize", stream)


@pytest.mark.parametrize("mode", MODES)
def test_a_captured_launch_works_on_new_data(mode, add, stream):
    n = 4096
    x, y, out = (trlaunch.empty(n, "fp32", "cuda:0") for _ in range(3))
    rng = np.random.default_rng(0)
    for array in (x, y, out):
        array.copy_from(np.zeros(n, np.float32))
    add.launch(4, x, y, out, n, stream=stream)  # loads the kernel, which a capture must not do
    cuda("cuStreamSynchronize", stream)
    executable = capture(stream, lambda: add.launch(4, x, y, out, n, stream=stream), mode)
    assert not out.numpy().any(), "the capture itself computed something"
    for _ in range(3):
        first, second = rng.random((2, n), dtype=np.float32)
        x.copy_from(first)
        y.copy_from(second)
        replay(executable, stream)
        np.testing.assert_array_equal(out.numpy(), first + second)
    cuda("cuGraphExecDestroy", executable)


def test_a_first_launch_inside_a_capture_loads_the_kernel_without_breaking_it(add, stream):
    n = 4096
    x, out = (trlaunch.asarray(np.ones(n, np.float32), device="cuda:0") for _ in range(2))
    executable = capture(stream, lambda: add.launch(4, x, x, out, n, stream=stream))
    replay(executable, stream)
    np.testing.assert_array_equal(out.numpy(), np.full(n, 2, np.float32))
    cuda("cuGraphExecDestroy", executable)


def test_a_chain_of_launches_is_replayed_in_order(add, stream):
    n = 4096
    x, out = (trlaunch.asarray(np.ones(n, np.float32), device="cuda:0") for _ in range(2))
    add.launch(4, x, x, trlaunch.empty(n, "fp32", "cuda:0"), n, stream=stream)

    def body():
        for _ in range(10):
            add.launch(4, x, out, out, n, stream=stream)

    executable = capture(stream, body)
    for _ in range(5):
        replay(executable, stream)
    np.testing.assert_array_equal(out.numpy(), np.full(n, 1 + 5 * 10, np.float32))
    cuda("cuGraphExecDestroy", executable)


@pytest.mark.parametrize("name", ["scratch_kernel", "tma_matmul_kernel", "cluster_matmul_kernel", "pdl_kernel"])
@pytest.mark.parametrize("release", ["3.4.0", "3.6.0"])
def test_scratch_descriptors_clusters_and_pdl_are_captured_too(name, release, hopper, stream):
    case = corpus.find(release, "cuda:90", name)
    kernel = trlaunch.Kernel.from_file(case.path("cubin"))
    placed = put(launch_of(case), case)
    kernel.launch(placed.launch.grid, *placed.arguments, stream=stream)
    cuda("cuStreamSynchronize", stream)
    executable = capture(stream, lambda: kernel.launch(placed.launch.grid, *placed.arguments, stream=stream))
    (output,) = placed.launch.expected
    for _ in range(3):
        array = placed.arrays[output]
        cuda("cuMemsetD8", array.address, 0, array.nbytes)
        cuda("cuCtxSynchronize")  # the default stream does not order this before the replay
        replay(executable, stream)
        assert placed.wrong() == ""
    cuda("cuGraphExecDestroy", executable)


def test_what_a_capture_needs_outlives_other_arrays_and_kernels(add, stream):
    n = 4096
    x, out = (trlaunch.asarray(np.ones(n, np.float32), device="cuda:0") for _ in range(2))
    add.launch(4, x, x, out, n, stream=stream)
    cuda("cuStreamSynchronize", stream)
    out.copy_from(np.zeros(n, np.float32))
    executable = capture(stream, lambda: add.launch(4, x, x, out, n, stream=stream))
    other = trlaunch.Kernel.from_file(add.artifact.path)
    other.launch(4, x, x, trlaunch.empty(n, "fp32", "cuda:0"), n)
    del other
    gc.collect()
    replay(executable, stream)
    np.testing.assert_array_equal(out.numpy(), np.full(n, 2, np.float32))
    cuda("cuGraphExecDestroy", executable)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_launch_inside_torchs_own_capture(add):
    torch = pytest.importorskip("torch")
    n = 4096
    x, y = torch.zeros(2, n, device="cuda").unbind()
    out = torch.zeros(n, device="cuda")
    add.launch(4, x, y, out, n)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        add.launch(4, x, y, out, n)
    x.fill_(3)
    y.copy_(torch.arange(n))
    graph.replay()
    assert torch.equal(out, torch.arange(n, device="cuda") + 3.0)
