"""Arrays of other libraries go in by every protocol they have, and trlaunch's own come out."""

from __future__ import annotations

import numpy as np
import pytest

import trlaunch
from tests import corpus

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

N = 98_432
GRID = 97


class OnlyDlpack:
    """A tensor that can do nothing but DLPack."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __dlpack__(self, **options):
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._tensor.__dlpack_device__()


class OnlyInterface:
    """A tensor that can do nothing but the CUDA array interface."""

    def __init__(self, tensor):
        self.__cuda_array_interface__ = tensor.__cuda_array_interface__
        self._tensor = tensor


@pytest.mark.parametrize("wrap", [lambda t: t, OnlyDlpack, OnlyInterface], ids=["itself", "DLPack", "interface"])
@pytest.mark.parametrize("framework", ["torch", "cupy", "trlaunch"])
def test_a_launch_takes_it(framework, wrap, add, driver):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, N), dtype=np.float32)
    if framework == "torch":
        torch = pytest.importorskip("torch")
        a, b = torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda()
        out = torch.zeros_like(a)
        torch.cuda.synchronize()
        add.launch(GRID, wrap(a), wrap(b), wrap(out), N)
        driver.synchronize(0)
        found = out.cpu().numpy()
    elif framework == "cupy":
        cupy = pytest.importorskip("cupy")
        a, b = cupy.asarray(x), cupy.asarray(y)
        out = cupy.zeros_like(a)
        add.launch(GRID, wrap(a), wrap(b), wrap(out), N)
        driver.synchronize(0)
        found = cupy.asnumpy(out)
    else:
        a, b = trlaunch.asarray(x, device="cuda:0"), trlaunch.asarray(y, device="cuda:0")
        out = trlaunch.empty(N, "fp32", "cuda:0")
        add.launch(GRID, wrap(a), wrap(b), wrap(out), N)
        found = out.numpy()
    np.testing.assert_array_equal(found, x + y)


def test_a_view_into_a_tensor_is_where_it_says(add, driver):
    torch = pytest.importorskip("torch")
    base = torch.arange(4 * 4096, dtype=torch.float32, device="cuda").reshape(4, 4096)
    out = torch.zeros_like(base)
    torch.cuda.synchronize()
    add.launch(4, base[1], base[2], out[3], 4096)
    add.launch(4, *map(OnlyDlpack, (base[1], base[2], out[1])), 4096)
    driver.synchronize(0)
    expected = base[1] + base[2]
    assert torch.equal(out[3], expected)
    assert torch.equal(out[1], expected)
    assert not out[0].any()


def test_bfloat16_of_torch(hopper):
    torch = pytest.importorskip("torch")
    case = corpus.find("3.6.0", "cuda:90", "matmul_kernel_bf16")
    n = 512
    a, b = (torch.randint(-128, 128, (n, n), device="cuda").to(torch.bfloat16) / 128 for _ in range(2))
    out = torch.empty_like(a)
    trlaunch.Kernel.from_file(case.path("cubin")).launch((8, 8), a, b, out, n, n, n, n, n, n)
    expected = a.cpu().double() @ b.cpu().double()
    torch.testing.assert_close(out.cpu().double(), expected, rtol=2**-7, atol=2e-3)


def test_torch_and_cupy_take_a_device_array_without_a_copy():
    values = np.arange(N, dtype=np.float32)
    own = trlaunch.asarray(values, device="cuda:0")
    torch, cupy = pytest.importorskip("torch"), pytest.importorskip("cupy")
    taken = {
        "torch, DLPack": torch.from_dlpack(own),
        "torch, interface": torch.as_tensor(own, device="cuda"),
        "cupy, DLPack": cupy.from_dlpack(own),
        "cupy, interface": cupy.asarray(own),
    }
    for how, tensor in taken.items():
        address = tensor.data_ptr() if how.startswith("torch") else tensor.data.ptr
        assert address == own.address, how
        host = tensor.cpu().numpy() if how.startswith("torch") else cupy.asnumpy(tensor)
        np.testing.assert_array_equal(host, values, err_msg=how)


def test_memory_handed_over_by_dlpack_outlives_the_device_array():
    torch = pytest.importorskip("torch")
    values = np.arange(N, dtype=np.float32)
    taken = torch.from_dlpack(trlaunch.asarray(values, device="cuda:0"))
    others = [trlaunch.asarray(np.zeros(N, np.float32), device="cuda:0") for _ in range(8)]
    np.testing.assert_array_equal(taken.cpu().numpy(), values)
    assert taken.data_ptr() not in {other.address for other in others}


def test_memory_of_the_host_is_refused(add):
    own = trlaunch.empty(N, "fp32", "cuda:0")
    with pytest.raises(trlaunch.ArgumentError, match=r"y_ptr.*in host memory; copy it to the device"):
        add.launch(GRID, own, np.zeros(N, np.float32), own, N)
    torch = pytest.importorskip("torch")
    with pytest.raises(trlaunch.ArgumentError, match=r"y_ptr.*in host memory; copy it to the device"):
        add.launch(GRID, own, torch.zeros(N), own, N)


def test_another_dtype_is_refused(add):
    torch = pytest.importorskip("torch")
    own = trlaunch.empty(N, "fp32", "cuda:0")
    with pytest.raises(trlaunch.ArgumentError, match=r"x_ptr.*tensor of fp32.*float16"):
        add.launch(GRID, torch.zeros(N, dtype=torch.float16, device="cuda"), own, own, N)


def test_an_address_that_the_kernel_was_not_specialised_for_is_refused(add):
    torch = pytest.importorskip("torch")
    base = torch.zeros(N + 1, device="cuda")
    with pytest.raises(trlaunch.ArgumentError, match=r"x_ptr.*multiple of 16.*4 past one"):
        add.launch(GRID, base[1:], base[:N], base[:N], N)


def test_raw_addresses_are_pointers_only_when_it_is_said(add, driver):
    x = trlaunch.asarray(np.ones(N, np.float32), device="cuda:0")
    out = trlaunch.empty(N, "fp32", "cuda:0")
    add.launch(GRID, trlaunch.Pointer(x.address), x, trlaunch.Pointer(out.address), N, device="cuda:0")
    np.testing.assert_array_equal(out.numpy(), np.full(N, 2, np.float32))
    with pytest.raises(trlaunch.ArgumentError, match=r"trlaunch\.Pointer"):
        add.launch(GRID, x.address, x, out, N)
