"""What the GPU tests share: a context, streams, a kernel that takes its time, and tables at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import trlaunch
from tests import corpus
from tests.gpu.bindings import cuda
from trlaunch.devices import get
from trlaunch.driver import Driver

REPORT = pytest.StashKey[list[str]]()

SPIN = """
.version 7.0
.target sm_80
.address_size 64
.visible .entry spin(.param .u64 nanoseconds)
.reqntid 32, 1, 1
{
    .reg .u64 %rd<4>;
    .reg .pred %p<2>;
    ld.param.u64 %rd1, [nanoseconds];
    mov.u64 %rd2, %globaltimer;
again:
    mov.u64 %rd3, %globaltimer;
    sub.u64 %rd3, %rd3, %rd2;
    setp.lt.u64 %p1, %rd3, %rd1;
    @%p1 bra again;
    ret;
}
"""


@pytest.fixture
def driver() -> Driver:
    return get("cuda")


@pytest.fixture
def context() -> Iterator[Any]:
    """The primary context of the first device, current while the test runs."""
    device = cuda("cuDeviceGet", 0)
    primary = cuda("cuDevicePrimaryCtxRetain", device)
    cuda("cuCtxPushCurrent", primary)
    yield primary
    cuda("cuCtxSynchronize")
    cuda("cuCtxPopCurrent")
    cuda("cuDevicePrimaryCtxRelease", device)


@pytest.fixture
def make_stream(context: Any) -> Iterator[Callable[[], int]]:
    """Make streams that the default stream does not wait for; they end with the test."""
    made = []

    def make() -> int:
        non_blocking = 1
        made.append(int(cuda("cuStreamCreate", non_blocking)))
        return made[-1]

    yield make
    for stream in made:
        cuda("cuStreamSynchronize", stream)
        cuda("cuStreamDestroy", stream)


@pytest.fixture
def stream(make_stream: Callable[[], int]) -> int:
    return make_stream()


@pytest.fixture(scope="session")
def spin() -> Callable[[float, Any], None]:
    """Keep a stream busy: ``spin(seconds, stream)`` returns at once."""
    kernel = trlaunch.Kernel.from_bytes(SPIN, {"num_warps": 1, "shared": 0}, signature=["i64"], device="cuda:0")

    def busy(seconds: float, stream: Any) -> None:
        kernel.launch(1, int(seconds * 1e9), stream=stream)

    return busy


@pytest.fixture
def hopper(driver: Driver) -> None:
    """The test runs code for sm_90 alone."""
    target = driver.properties(0).target
    if target.capability != 90:
        pytest.skip(f"needs compute capability 9.0, cuda:0 has {target}")


@pytest.fixture
def two_gpus(driver: Driver) -> None:
    if driver.device_count() < 2:
        pytest.skip("needs two GPUs")


@pytest.fixture
def add_case(driver: Driver) -> corpus.Case:
    """The vector add of Triton 3.6, for the GPU at hand where the corpus has it."""
    return corpus.find("3.6.0", "cuda:90" if driver.properties(0).target.capability == 90 else "cuda:80", "add_kernel")


@pytest.fixture
def add(add_case: corpus.Case, driver: Driver) -> trlaunch.Kernel:
    """``add(x, y, out, n)`` for fp32 and an n that is a multiple of 16, freshly read."""
    level = "cubin" if driver.properties(0).target.capability in (80, 86, 89, 90) else "ptx"
    return trlaunch.Kernel.from_file(add_case.path(level))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line at the end of the run."""
    return request.config.stash.setdefault(REPORT, []).append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    lines = config.stash.get(REPORT, [])
    if lines:
        terminalreporter.section("measured on the device")
        for line in lines:
            terminalreporter.write_line(line)
