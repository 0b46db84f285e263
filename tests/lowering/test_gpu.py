"""Functions, ``@trlaunch.jit`` and ``patch_triton`` on a GPU, with torch."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import trlaunch
from trlaunch.kernel import Kernel

pytestmark = pytest.mark.gpu
COUNT = 100_003


@pytest.fixture
def torch(triton):
    return pytest.importorskip("torch", reason="needs torch")


@pytest.fixture
def launches(monkeypatch) -> list[str]:
    """Names of the kernels that trlaunch launched."""
    seen: list[str] = []
    launch = Kernel.launch

    def recorded(self, *args: Any, **keywords: Any) -> None:
        seen.append(self.name)
        launch(self, *args, **keywords)

    monkeypatch.setattr(Kernel, "launch", recorded)
    return seen


def test_a_function_compiled_for_the_device_of_its_arguments(torch, kernels):
    x = torch.rand(COUNT, device="cuda")
    out = torch.empty_like(x)
    kernel = Kernel.from_function(kernels.add, x, x, out, COUNT, grid=lambda meta: (-(-COUNT // meta["BLOCK"]),))
    assert kernel.target.capability == torch.cuda.get_device_capability()[0] * 10
    kernel.launch(-(-COUNT // 128), x, x, out, COUNT)
    torch.testing.assert_close(out, x + x, rtol=0, atol=0)


def test_jit_launches_on_the_current_stream(torch, kernels):
    add = trlaunch.jit(kernels.add)
    x = torch.rand(COUNT, device="cuda")
    out = torch.empty_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        x.mul_(2)
        add[lambda meta: (-(-COUNT // meta["BLOCK"]),)](x, x, out, COUNT, BLOCK=512, num_warps=8)
        result = out - 2 * x
    torch.cuda.synchronize()
    assert not result.any()


def test_autotuning_above_jit(torch, triton, kernels):
    configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((128, 4), (1024, 8))]
    tuned = triton.autotune(configs, key=["n"])(trlaunch.jit(kernels.add))
    x = torch.rand(COUNT, device="cuda")
    out = torch.empty_like(x)
    tuned[lambda meta: (-(-COUNT // meta["BLOCK"]),)](x, x, out, COUNT)
    torch.testing.assert_close(out, x + x, rtol=0, atol=0)
    assert tuned.best_config in configs


def test_jit_of_a_matmul(torch, kernels):
    matmul = trlaunch.jit(kernels.matmul)
    a, b = (torch.randn(shape, device="cuda", dtype=torch.float16) for shape in ((300, 200), (200, 260)))
    c = torch.empty(300, 260, device="cuda", dtype=torch.float16)
    strides = (*a.stride(), *b.stride(), *c.stride())
    blocks = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}
    matmul[(5, 5)](a, b, c, 300, 260, 200, *strides, **blocks, num_stages=3)
    torch.testing.assert_close(c, a @ b, rtol=1e-2, atol=1e-2)


@pytest.mark.since(3, 4)
def test_jit_of_a_gluon_function(torch):
    add = trlaunch.jit(importlib.import_module("tests.lowering.gluon_kernels").add)
    x = torch.rand(COUNT, device="cuda")
    out = torch.empty_like(x)
    add[(-(-COUNT // 256),)](x, x, out, COUNT, BLOCK=256)
    torch.testing.assert_close(out, x + x, rtol=0, atol=0)


@pytest.mark.since(3, 4)
def test_jit_with_a_descriptor(torch, kernels):
    copied = trlaunch.jit(kernels.copied)
    x = torch.randn(64, 64, device="cuda", dtype=torch.float16)
    out = torch.empty(16, 32, device="cuda", dtype=torch.float16)
    copied[(1,)](trlaunch.TensorDescriptor(x, block_shape=(16, 32)), out, 32, 16, 32)
    assert torch.equal(out, x[:16, :32])


def test_a_function_of_tritons_under_the_patch(torch, kernels, launches):
    add = type(kernels.add)(kernels.add.fn)
    x = torch.rand(COUNT, device="cuda")

    def launch() -> Any:
        out = torch.zeros_like(x)
        kernel = add[lambda meta: (-(-COUNT // meta["BLOCK"]),)](x, x, out, COUNT, BLOCK=256)
        torch.testing.assert_close(out, x + x, rtol=0, atol=0)
        return kernel

    before = launch()
    with trlaunch.patch_triton():
        inside = launch()
        launch()
    assert launches == ["add", "add"]
    assert inside.n_regs == before.n_regs
    launch()
    assert len(launches) == 2


@pytest.mark.filterwarnings("default")  # torch's own, of what it uses itself
def test_torch_compile_under_the_patch(torch, launches):
    def softmax_of_gelu(x: Any) -> Any:
        return torch.softmax(torch.nn.functional.gelu(x) * 2 + 1, dim=-1)

    x = torch.randn(64, 1000, device="cuda")
    expected = softmax_of_gelu(x)
    torch.compiler.reset()
    with trlaunch.patch_triton(), torch._inductor.utils.fresh_cache():
        compiled = torch.compile(softmax_of_gelu)
        torch.testing.assert_close(compiled(x), expected)
        first = len(launches)
        assert first
        torch.testing.assert_close(compiled(x), expected)
        assert len(launches) > first
    inside = len(launches)
    torch.testing.assert_close(compiled(x), expected)  # with the launcher it keeps
    assert len(launches) == inside
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(softmax_of_gelu)(x), expected)
    assert len(launches) == inside


def test_an_operator_library_under_the_patch(torch, launches):
    operators = importlib.import_module("tests.lowering.operators")
    x, w = (torch.randn(shape, device="cuda", dtype=torch.float16) for shape in ((200, 300), (260, 300)))
    b, scale = torch.randn(260, device="cuda", dtype=torch.float16), torch.rand(300, device="cuda", dtype=torch.float16)
    with trlaunch.patch_triton():
        normed = operators.rms_norm(x, scale)
        y = operators.linear(normed, w, b, "relu")
    expected = torch.nn.functional.rms_norm(x.float(), (300,), scale.float(), 1e-6)
    torch.testing.assert_close(normed.float(), expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(y, torch.relu(torch.nn.functional.linear(normed, w, b)), rtol=1e-2, atol=2e-2)
    assert "rms_norm_kernel" in launches
    assert launches.count("linear_kernel") > 2  # both configurations were timed, the better one launched
