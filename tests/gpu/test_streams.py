"""Streams and threads: a launch is ordered as the caller says, whatever makes the stream."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import trlaunch
from tests.gpu.bindings import NOT_READY, cuda, status
from trlaunch import streams

pytestmark = [
    pytest.mark.gpu,
    # What frameworks warn about on import is not ours to fail on.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

N = 1 << 20
GRID = N // 1024
DELAY = 0.05  # seconds: longer than any launch takes to be queued


def ones():
    return trlaunch.asarray(np.ones(N, np.float32), device="cuda:0")


def test_launches_on_one_stream_do_not_wait_for_another(add, make_stream, spin):
    slow, fast = make_stream(), make_stream()
    x, out = ones(), ones()
    add.launch(GRID, x, x, out, N, stream=fast)
    spin(0.001, slow)
    cuda("cuCtxSynchronize")
    spin(1.0, slow)
    add.launch(GRID, x, out, out, N, stream=fast)
    cuda("cuStreamSynchronize", fast)
    assert status("cuStreamQuery", slow) == NOT_READY
    cuda("cuStreamSynchronize", slow)
    np.testing.assert_array_equal(out.numpy(), np.full(N, 3, np.float32))


def test_an_event_orders_two_streams(add, make_stream, spin):
    first, second = make_stream(), make_stream()
    x, middle, out = ones(), ones(), ones()
    add.launch(GRID, x, x, out, N, stream=second)
    cuda("cuCtxSynchronize")
    event = cuda("cuEventCreate", 0)
    spin(DELAY, first)
    add.launch(GRID, x, x, middle, N, stream=first)
    cuda("cuEventRecord", event, first)
    cuda("cuStreamWaitEvent", second, event, 0)
    add.launch(GRID, middle, middle, out, N, stream=second)
    cuda("cuStreamSynchronize", second)
    np.testing.assert_array_equal(out.numpy(), np.full(N, 4, np.float32))
    cuda("cuEventDestroy", event)


def test_two_streams_interleaved(add, make_stream):
    both = make_stream(), make_stream()
    x, sums = ones(), (ones(), ones())
    cuda("cuCtxSynchronize")
    for i in range(500):
        add.launch(GRID, x, sums[i % 2], sums[i % 2], N, stream=both[i % 2])
    cuda("cuCtxSynchronize")
    for total in sums:
        np.testing.assert_array_equal(total.numpy(), np.full(N, 251, np.float32))


def test_eight_threads_launch_one_kernel_a_thousand_times_each(add, make_stream, driver):
    threads, launches, n = 8, 1000, 98_432
    own = [make_stream() for _ in range(threads)]
    steps = [trlaunch.asarray(np.full(n, i + 1, np.float32), device="cuda:0") for i in range(threads)]
    sums = [trlaunch.asarray(np.zeros(n, np.float32), device="cuda:0") for _ in range(threads)]
    start = threading.Barrier(threads)

    def work(i):
        start.wait()
        for _ in range(launches):  # the first launch of the kernel is a race as well
            add.launch(97, steps[i], sums[i], sums[i], n, stream=own[i])
        driver.synchronize(0, own[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, total in enumerate(sums):
        np.testing.assert_array_equal(total.numpy(), np.full(n, (i + 1) * launches, np.float32))


def test_torchs_current_stream_is_the_default(add, spin):
    torch = pytest.importorskip("torch")
    x, out = torch.zeros(N, device="cuda"), torch.zeros(N, device="cuda")
    add.launch(GRID, x, x, out, N)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        spin(DELAY, stream)
        x.fill_(1)
        add.launch(GRID, x, x, out, N)  # on any other stream it would read zeros
    stream.synchronize()
    assert torch.equal(out, torch.full_like(out, 2))


def test_a_stream_that_is_given_wins_over_torchs(add, spin):
    torch = pytest.importorskip("torch")
    x, out = torch.ones(N, device="cuda"), torch.zeros(N, device="cuda")
    add.launch(GRID, x, x, out, N)
    torch.cuda.synchronize()
    out.zero_()
    torch.cuda.synchronize()
    other = torch.cuda.Stream()
    spin(DELAY, other)
    add.launch(GRID, x, x, out, N, stream=other)
    assert not other.query()
    other.synchronize()
    assert torch.equal(out, torch.full_like(out, 2))


def test_a_cupy_array_is_waited_for_on_its_own_stream(add, spin, driver):
    cupy = pytest.importorskip("cupy")
    x, out = cupy.zeros(N, cupy.float32), cupy.zeros(N, cupy.float32)
    add.launch(GRID, x, x, out, N)
    cupy.cuda.Device().synchronize()
    producer = cupy.cuda.Stream(non_blocking=True)
    with producer:
        x.fill(0)  # CuPy compiles it now
        producer.synchronize()
        spin(DELAY, producer)
        x.fill(1)
        add.launch(GRID, x, x, out, N, stream=0)  # the array names its stream; the launch waits for it
    driver.synchronize(0)
    assert bool((out == 2).all())


def torch_stream():
    return pytest.importorskip("torch").cuda.Stream()


def cupy_stream():
    return pytest.importorskip("cupy").cuda.Stream(non_blocking=True)


def cuda_core_stream():
    device = pytest.importorskip("cuda.core").Device(0)
    device.set_current()
    return device.create_stream()


def numba_stream():
    return pytest.importorskip("numba.cuda").stream()


@pytest.mark.parametrize("make", [torch_stream, cupy_stream, cuda_core_stream, numba_stream])
def test_streams_of_every_framework(make, add, spin, context):
    stream = make()
    x, out = ones(), ones()
    add.launch(GRID, x, x, out, N)
    spin(0.0, stream)
    cuda("cuCtxSynchronize")
    out.copy_from(np.zeros(N, np.float32))
    spin(DELAY, stream)
    add.launch(GRID, x, x, out, N, stream=stream)
    handle = streams.handle(stream)
    assert status("cuStreamQuery", handle) == NOT_READY, "the stream should be busy for as long as it was told to be"
    cuda("cuStreamSynchronize", handle)
    np.testing.assert_array_equal(out.numpy(), np.full(N, 2, np.float32))
