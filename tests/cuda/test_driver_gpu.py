"""The CUDA driver on a real GPU: kernels written in PTX that report what the launch gave them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trlaunch.driver import Buffer, Function, LaunchConfig, PackedArguments
from trlaunch.errors import DriverError
from trlaunch.image import Image, ImageKernel
from trlaunch.target import Target

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]

HEADER = ".version 8.0\n.target sm_90\n.address_size 64\n"

# Copies its parameters to out; a 64-byte aligned structure is among them, as a tensor map would be.
COPY = "\n".join(f"    ld.param.u64 %v, [blob+{i}];\n    st.global.u64 [%o+{8 + i}], %v;" for i in range(0, 128, 8))
ECHO = f"""
.visible .entry echo(.param .u64 out, .param .u32 small, .param .align 64 .b8 blob[128], .param .u64 last) {{
    .reg .u64 %o, %v; .reg .u32 %s;
    ld.param.u64 %o, [out];
    ld.param.u32 %s, [small];
    st.global.u32 [%o], %s;
{COPY}
    ld.param.u64 %v, [last];
    st.global.u64 [%o+136], %v;
    ret;
}}
"""

# out[0..2] = CTAs of the cluster along x, y, z; out[3] = dynamic shared memory; out[4] += 1 by every thread.
REPORT = """
.visible .entry report(.param .u64 out) {
    .reg .u64 %o; .reg .u32 %v;
    ld.param.u64 %o, [out];
    mov.u32 %v, %cluster_nctaid.x; st.global.u32 [%o], %v;
    mov.u32 %v, %cluster_nctaid.y; st.global.u32 [%o+4], %v;
    mov.u32 %v, %cluster_nctaid.z; st.global.u32 [%o+8], %v;
    mov.u32 %v, %dynamic_smem_size; st.global.u32 [%o+12], %v;
    red.global.add.u32 [%o+16], 1;
    ret;
}
"""

# out[i] = scratch[i] = i + 1 through memory that the launch is given only for its own time.
THROUGH = """
.visible .entry through(.param .u64 out, .param .u64 scratch) {
    .reg .u64 %o, %s, %d; .reg .u32 %t, %v;
    ld.param.u64 %o, [out];
    ld.param.u64 %s, [scratch];
    mov.u32 %t, %tid.x;
    mul.wide.u32 %d, %t, 4;
    add.u64 %o, %o, %d;
    add.u64 %s, %s, %d;
    add.u32 %v, %t, 1;
    st.volatile.global.u32 [%s], %v;
    ld.volatile.global.u32 %v, [%s];
    red.global.add.u32 [%o], %v;
    ret;
}
"""

WILD = """
.visible .entry wild(.param .u64 p) {
    .reg .u64 %p;
    ld.param.u64 %p, [p];
    st.global.u32 [%p], 1;
    ret;
}
"""


def ptx(name: str, text: str) -> Image:
    target = Target.parse("cuda:90")
    return Image("ptx", target, (HEADER + text).encode(), {name: ImageKernel(name, (), 0)})


@pytest.fixture
def driver() -> Any:
    from trlaunch.cuda.driver import CudaDriver

    return CudaDriver.instance()


@pytest.fixture
def memory(driver: Any) -> Iterator[int]:
    address = driver.allocate(4096, 0)
    driver.clear(address, 4096, 0, 0)
    yield address
    driver.free(address, 0)


def read(driver: Any, address: int, count: int, dtype: str = "u4") -> list[int]:
    values = np.empty(count, dtype)
    driver.copy_to_host(memoryview(values).cast("B"), address, 0)
    result: list[int] = values.tolist()
    return result


def launch(driver: Any, function: Function, *values: int, **changes: Any) -> None:
    config = LaunchConfig(**{"grid": (1, 1, 1), "block": (32, 1, 1), **changes})
    driver.launch(function, config, PackedArguments(struct.pack(f"<{len(values)}Q", *values)))


def bindings(call: str, *args: Any) -> Any:
    from cuda.bindings import driver as cuda

    status, *results = getattr(cuda, call)(*args)
    assert status == 0, (call, status)
    return results[0] if results else None


@pytest.fixture
def stream(driver: Any) -> Iterator[int]:
    """A stream of the primary context, which is current for the length of the test."""
    bindings("cuCtxPushCurrent", bindings("cuDevicePrimaryCtxRetain", 0))
    made = bindings("cuStreamCreate", 1)
    yield int(made)
    bindings("cuStreamDestroy", made)
    bindings("cuCtxPopCurrent")
    bindings("cuDevicePrimaryCtxRelease", 0)


@pytest.mark.parametrize("level", ["cubin", "ptx"])
def test_vector_add_as_triton_compiled_it(driver: Any, level: str) -> None:
    data = (ROOT / "examples" / "artifacts" / "cuda90" / f"add_kernel.{level}").read_bytes()
    image = Image(level, Target.parse("cuda:90"), data, {"add_kernel": ImageKernel("add_kernel", (), 48)})
    function = driver.load(image, "add_kernel", 0)
    n = 5000
    x, y = np.random.default_rng(0).standard_normal((2, n), dtype="f4")
    addresses = [driver.allocate(4 * n, 0) for _ in range(3)]
    for address, host in zip(addresses, (x, y), strict=False):
        driver.copy_to_device(address, memoryview(host).cast("B"), 0)
    parameters = struct.pack("<QQQIxxxxQQ", *addresses, n, 0, 0)
    driver.launch(function, LaunchConfig((5, 1, 1), (128, 1, 1)), PackedArguments(parameters))
    driver.synchronize(0)
    out = np.empty(n, "f4")
    driver.copy_to_host(memoryview(out).cast("B"), addresses[2], 0)
    np.testing.assert_array_equal(out, x + y)
    resources = driver.resources(function)
    assert resources["registers"] > 0
    assert resources["binary_version"] == 90
    assert driver.occupancy(function, LaunchConfig((5, 1, 1), (128, 1, 1))) > 1
    for address in addresses:
        driver.free(address, 0)


def test_parameters_arrive_with_an_aligned_structure_among_them(driver: Any, memory: int) -> None:
    blob, last = bytes(range(128)), 0x0123456789ABCDEF
    # sm_90 has the parameters from 0x210 on in constant memory, and the structure at 0x240 there: ptxas aligns it so.
    data = struct.pack("<QI36x128sQ", memory, 77, blob, last)
    function = driver.load(ptx("echo", ECHO), "echo", 0)
    driver.launch(function, LaunchConfig((1, 1, 1), (1, 1, 1)), PackedArguments(data, [Buffer(memory, 4096, "out")]))
    back = bytes(read(driver, memory, 144, "u1"))
    assert back == struct.pack("<I4x128sQ", 77, blob, last)


@pytest.mark.parametrize("cluster", [(1, 1, 1), (2, 1, 1), (2, 2, 1), (8, 1, 1), (16, 1, 1)])
@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("cooperative", [False, True])
def test_attributes(driver: Any, memory: int, cluster: tuple[int, int, int], pdl: bool, cooperative: bool) -> None:
    function = driver.load(ptx("report", REPORT), "report", 0)
    changes = {"cluster": cluster, "pdl": pdl, "cooperative": cooperative, "shared": 1024}
    launch(driver, function, memory, grid=(16, 2, 1), **changes)
    assert read(driver, memory, 5) == [*cluster, 1024, 16 * 2 * 32]
    assert driver.occupancy(function, LaunchConfig((16, 2, 1), (32, 1, 1), cluster=cluster, shared=1024)) >= 1


def test_shared_memory_above_48_kib(driver: Any, memory: int) -> None:
    function = driver.load(ptx("report", REPORT), "report", 0)
    limit = driver.properties(0).max_shared_optin
    with pytest.raises(DriverError, match=str(limit + 1)):
        driver.prepare(function, limit + 1)
    driver.prepare(function, limit)
    launch(driver, function, memory, shared=limit)
    assert read(driver, memory, 4)[3] == limit


def test_capture_and_replay(driver: Any, memory: int, stream: int) -> None:
    """Launch, scratch and even a first load inside a capture; the graph does it all again at every replay."""
    from cuda.bindings import driver as cuda

    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
    warm = driver.load(ptx("report", REPORT), "report", 0)
    driver.free_scratch(driver.allocate_scratch(16, 16, 0, stream), 0, stream)
    bindings("cuStreamBeginCapture", stream, mode)
    function = driver.load(ptx("through", THROUGH + f"// {stream}"), "through", 0)
    scratch = driver.allocate_scratch(128, 128, 0, stream)
    launch(driver, function, memory, scratch, stream=stream)
    driver.free_scratch(scratch, 0, stream)
    launch(driver, warm, memory + 1024, stream=stream, cluster=(2, 1, 1), grid=(2, 1, 1))
    driver.free(driver.allocate(16, 0), 0)
    graph = bindings("cuStreamEndCapture", stream)
    assert read(driver, memory, 32) == [0] * 32
    executable = bindings("cuGraphInstantiate", graph, 0)
    for _ in range(3):
        bindings("cuGraphLaunch", executable, stream)
    driver.synchronize(0, stream)
    assert read(driver, memory, 32) == [3 * (i + 1) for i in range(32)]
    assert read(driver, memory + 1024, 5) == [2, 1, 1, 0, 3 * 64]
    bindings("cuGraphExecDestroy", executable)
    bindings("cuGraphDestroy", graph)


def test_threads(driver: Any, memory: int) -> None:
    function = driver.load(ptx("report", REPORT), "report", 0)
    failures: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for _ in range(1000):
                launch(driver, function, memory + 64 * n, block=(n + 1, 1, 1))
        except DriverError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    driver.synchronize(0)
    assert [read(driver, memory + 64 * n, 5)[4] for n in range(8)] == [1000 * (n + 1) for n in range(8)]


def test_contexts_are_left_as_they_were(driver: Any, memory: int) -> None:
    function = driver.load(ptx("report", REPORT), "report", 0)
    assert int(bindings("cuCtxGetCurrent")) == 0
    launch(driver, function, memory)
    assert int(bindings("cuCtxGetCurrent")) == 0
    assert driver.current_device() == 0
    primary = bindings("cuDevicePrimaryCtxRetain", 0)
    bindings("cuCtxPushCurrent", primary)
    launch(driver, function, memory)
    assert int(bindings("cuCtxGetCurrent")) == int(primary)
    bindings("cuCtxPopCurrent")
    bindings("cuDevicePrimaryCtxRelease", 0)
    assert read(driver, memory, 5)[4] == 64


def test_a_context_of_the_users_own(driver: Any) -> None:
    from tests.fakecuda.inside import user_context

    function = driver.load(ptx("report", REPORT), "report", 0)
    own = user_context(0)
    address = driver.allocate(64, 0)
    driver.clear(address, 64, 0, 0)
    driver.prepare(function, 65536)
    launch(driver, function, address, shared=65536)
    assert read(driver, address, 5) == [1, 1, 1, 65536, 32]
    assert int(bindings("cuCtxGetCurrent")) == int(own)
    assert driver.device_of_pointer(address) == 0
    driver.free(address, 0)
    bindings("cuCtxDestroy", own)
    assert int(bindings("cuCtxGetCurrent")) == 0
    del function  # the destroyed context's module is not touched


def test_whose_pointer_it_is(driver: Any, memory: int) -> None:
    scratch = driver.allocate_scratch(64, 64, 0, 0)
    bindings("cuCtxPushCurrent", bindings("cuDevicePrimaryCtxRetain", 0))
    host = np.zeros(4096, "u1")
    managed = int(bindings("cuMemAllocManaged", 64, 1))
    before = driver.device_of_pointer(host.ctypes.data)
    bindings("cuMemHostRegister", host.ctypes.data, host.nbytes, 0)
    pointers = [memory, memory + 4095, scratch, managed, host.ctypes.data]
    assert [driver.device_of_pointer(p) for p in pointers] == [0] * 5
    bindings("cuCtxPopCurrent")
    assert [driver.device_of_pointer(p) for p in pointers] == [0] * 5
    assert [before, driver.device_of_pointer(1), driver.device_of_pointer(2**63)] == [None] * 3
    bindings("cuMemHostUnregister", host.ctypes.data)
    assert driver.device_of_pointer(host.ctypes.data) is None
    bindings("cuMemFree", managed)
    driver.free_scratch(scratch, 0, 0)
    bindings("cuDevicePrimaryCtxRelease", 0)


def test_streams_wait_for_each_other(driver: Any, memory: int, stream: int) -> None:
    other = bindings("cuStreamCreate", 1)
    function = driver.load(ptx("report", REPORT), "report", 0)
    for _ in range(100):
        launch(driver, function, memory, grid=(64, 1, 1), stream=stream)
    driver.wait_for_stream(0, int(other), stream)
    driver.clear(memory + 16, 4, 0, int(other))
    driver.synchronize(0, int(other))
    assert read(driver, memory, 5)[4] == 0
    bindings("cuStreamDestroy", other)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_tensor_maps_are_encoded(driver: Any, memory: int, rank: int) -> None:
    asked = {
        "element_type": 6,
        "address": memory,
        "shape": [64, 4, 2, 2, 2][:rank],
        "strides": [128, 512, 1024, 2048][: rank - 1],
        "box": [64, 2, 1, 1, 1][:rank],
        "swizzle": 3 if rank > 1 else 0,
        "ordinal": 0,
    }
    maps = {driver.encode_tensor_map(**asked, nan_fill=False) for _ in range(50)}
    (encoded,) = maps
    assert len(encoded) == 128
    assert struct.pack("<Q", memory) in encoded  # the address is plain in its bytes
    assert driver.encode_tensor_map(**asked, nan_fill=True) not in maps
    with pytest.raises(DriverError, match="multiple of 16"):
        driver.encode_tensor_map(**asked | {"address": memory + 8}, nan_fill=False)


def test_the_compilers_log_is_told(driver: Any) -> None:
    with pytest.raises(DriverError, match="(?s)INVALID_PTX.*nonsense"):
        driver.load(ptx("k", ".visible .entry k() { nonsense; ret; }"), "k", 0)


def test_a_kernel_that_dies_is_told_once_and_the_process_ends_well() -> None:
    script = f"""
        import json, sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.cuda.test_driver_gpu import WILD, ptx, launch
        from trlaunch.cuda.driver import CudaDriver
        from trlaunch.errors import DriverError
        driver = CudaDriver.instance()
        function = driver.load(ptx("wild", WILD), "wild", 0)
        launch(driver, function, 1 << 52)
        errors = []
        for action in (lambda: driver.synchronize(0), lambda: launch(driver, function, 0)):
            try:
                action()
            except DriverError as error:
                errors.append([error.name, str(error)])
        del function
        print(json.dumps(errors))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    for name, message in json.loads(ended.stdout):
        assert name == "CUDA_ERROR_ILLEGAL_ADDRESS"
        assert "context is dead" in message
