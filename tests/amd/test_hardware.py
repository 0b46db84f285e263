"""The corpus on an AMD GPU: every kernel that was compiled for the device at hand, its results against NumPy.

``pytest -m amd tests/amd``; docs/amd.md says what is needed. The kernels are those of all releases of Triton.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

import trlaunch
from tests.corpus_hip import Case, cases, releases
from tests.oracle import bfloat16, sample
from trlaunch import Kernel
from trlaunch.devices import get

pytestmark = pytest.mark.amd

DEVICE = "hip:0"


def compiled(kernel: str, release: str) -> Case:
    """The case for this device, or skip: not every release compiled every kernel for every architecture."""
    arch = get("hip").properties(0).target.arch
    found = cases(release, f"hip:{arch}", kernel)
    if not found:
        pytest.skip(f"Triton {release} has no {kernel} for {arch} in the corpus")
    return found[0]


def array(values: np.ndarray) -> trlaunch.DeviceArray:
    return trlaunch.asarray(values, device=DEVICE)


@pytest.fixture(params=["hsaco", "amdgcn"])
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def kernel_of(case: Case, level: str = "hsaco") -> Kernel:
    try:
        kernel = Kernel.from_file(case.path(level), device=DEVICE)
    except trlaunch.AssemblerMissing as error:
        pytest.skip(str(error))
    assert kernel.check().ok, str(kernel.check())
    return kernel


@pytest.mark.parametrize("release", releases())
def test_vector_add(release: str, level: str) -> None:
    kernel = kernel_of(compiled("add_kernel", release), level)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(98432, np.float32) for _ in range(2))
    out = array(np.full(98432 + 64, 7, np.float32))
    kernel.launch((98432 + 1023) // 1024, array(x), array(y), out, 98432)
    found = out.numpy()
    np.testing.assert_array_equal(found[:98432], x + y)
    assert (found[98432:] == 7).all()


@pytest.mark.parametrize("release", releases())
def test_softmax(release: str) -> None:
    kernel = kernel_of(compiled("softmax_kernel", release))
    x = np.random.default_rng(1).standard_normal((64, 781), np.float32)
    out = array(np.zeros_like(x))
    kernel.launch(64, out, array(x), 781, 781, 781)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    np.testing.assert_allclose(out.numpy(), e / e.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("release", releases())
def test_matmul(release: str, level: str) -> None:
    kernel = kernel_of(compiled("matmul_kernel", release), level)
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal((512, 512), np.float32).astype(np.float16) for _ in range(2))
    c = array(np.zeros((512, 512), np.float16))
    kernel.launch((8, 8), array(a), array(b), c, *([512] * 6))
    expected = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_allclose(c.numpy().astype(np.float32), expected, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("release", releases())
def test_every_scalar_arrives(release: str) -> None:
    case = compiled("scalars_kernel", release)
    kernel = kernel_of(case)
    rng = random.Random(release)
    for _ in range(8):
        given = {p.name[2:]: sample(p.type, rng) for p in case.params if p.name.startswith("x_")}
        out = {p.name[4:]: trlaunch.empty(1, p.type[1:], DEVICE) for p in case.params if p.name.startswith("out_")}
        kernel.launch(1, *(given[p.name[2:]] if p.name.startswith("x_") else out[p.name[4:]] for p in case.params))
        for name, value in given.items():
            found = out[name].numpy()[0]
            if name == "bf16":
                assert int(found) == bfloat16(value)
            elif name in ("i1", "u1"):
                assert bool(found) == bool(value)
            else:
                with np.errstate(over="ignore"):
                    assert found == np.array(value).astype(found.dtype)


@pytest.mark.parametrize("release", releases())
def test_tuples(release: str) -> None:
    kernel = kernel_of(compiled("tuple_kernel", release))
    rng = np.random.default_rng(3)
    x, y = (rng.standard_normal(98432, np.float32) for _ in range(2))
    out = array(np.zeros_like(x))
    kernel.launch(97, (array(x), array(y)), (2.5, -3), out, 98432)
    np.testing.assert_allclose(out.numpy(), x * np.float32(2.5) + y * np.float32(-3) + 1, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("release", releases())
def test_cooperative_grid_waits_for_all_of_itself(release: str) -> None:
    kernel = kernel_of(compiled("cooperative_kernel", release))
    x = np.random.default_rng(4).random(98432, np.float32)
    out = array(np.zeros_like(x))
    kernel.launch(97, array(x), array(np.zeros(128, np.float32)), array(np.zeros(1, np.int32)), out, 98432)
    np.testing.assert_allclose(out.numpy(), x / x.sum(dtype=np.float64), rtol=1e-4)


@pytest.mark.parametrize("release", releases())
def test_descriptors_in_their_parts(release: str) -> None:
    kernel = kernel_of(compiled("tma_matmul_kernel", release))
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal((512, 512), np.float32).astype(np.float16) for _ in range(2))
    c = array(np.zeros((512, 512), np.float16))
    one, two, three = (trlaunch.TensorDescriptor(t, block_shape=[64, 64]) for t in (array(a), array(b), c))
    kernel.launch((8, 8), one, two, three, 512, 512, 512)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_allclose(c.numpy().astype(np.float32), expected, rtol=2e-2, atol=5e-2)


def test_what_the_runtime_says_is_what_the_image_says() -> None:
    kernel = kernel_of(compiled("matmul_kernel", "3.6.0"))
    stated = kernel.resources()
    assert stated.threads == kernel.entry.block_threads
    assert stated.dynamic_shared == kernel.shared
    assert stated.ctas_per_multiprocessor is not None
    assert stated.ctas_per_multiprocessor >= 1


def test_streams_are_ordered() -> None:
    from hip import hip

    kernel, driver = kernel_of(compiled("add_kernel", "3.6.0")), get("hip")
    streams = []
    for _ in range(2):
        status, stream = hip.hipStreamCreate()
        assert status == 0
        streams.append(int(stream))
    total = array(np.zeros(98432, np.float32))
    one = array(np.ones(98432, np.float32))
    for stream, other in itertools.islice(itertools.cycle([(streams[0], streams[1]), (streams[1], streams[0])]), 20):
        driver.wait_for_stream(0, stream, other)
        kernel.launch(97, total, one, total, 98432, stream=stream)
    driver.synchronize(0, streams[0])
    driver.synchronize(0, streams[1])
    assert (total.numpy() == 20).all()


def test_wrong_launches_are_refused_and_leave_the_device_alive() -> None:
    case = compiled("matmul_kernel", "3.6.0")
    matrix = array(np.zeros((512, 512), np.float16))
    wrong = Kernel.from_file(case.path("hsaco"), {**case.metadata, "num_warps": 8}, device=DEVICE)
    with pytest.raises(trlaunch.CheckError):
        wrong.launch(1, matrix, matrix, matrix, *([512] * 6))
    with pytest.raises(trlaunch.ArgumentError):
        kernel_of(case).launch(1, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    test_vector_add("3.6.0", "hsaco")
