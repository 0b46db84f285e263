"""``trlaunch.patch_triton``: Triton's own functions, launched by trlaunch while it is in place, and not after."""

from __future__ import annotations

import gc
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import trlaunch
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError
from trlaunch.kernel import Kernel
from trlaunch.lowering.triton_compiler import active_attribute, installed_release
from trlaunch.patch import TritonPatch, _Ordinal

RELEASE = installed_release() or (0, 0)
EMULATOR = Device("emulator")
COUNT = 1000
X = np.arange(COUNT, dtype=np.float32)


@pytest.fixture
def x(triton):
    return trlaunch.asarray(X, device="emulator")


@pytest.fixture
def add(kernels):
    """A function of Triton's of its own for each test: it keeps what it compiled."""
    return type(kernels.add)(kernels.add.fn)


@pytest.fixture
def launches(monkeypatch) -> list[tuple[Any, ...]]:
    """Grid and number of arguments of everything that trlaunch launched."""
    seen: list[tuple[Any, ...]] = []
    launch = Kernel.launch

    def recorded(self, grid, *args, **keywords):
        seen.append((self.name, tuple(grid), len(args)))
        return launch(self, grid, *args, **keywords)

    monkeypatch.setattr(Kernel, "launch", recorded)
    return seen


def empty() -> trlaunch.DeviceArray:
    return trlaunch.asarray(np.zeros_like(X), device="emulator")


def active() -> Any:
    from triton.runtime import driver

    return getattr(driver, active_attribute(driver))


def right(out: trlaunch.DeviceArray) -> None:
    np.testing.assert_array_equal(out.numpy(), X + X)


# --- what is launched through it -------------------------------------------------------------------------------------


def test_a_function_of_tritons(add, x, launches):
    out = empty()
    with trlaunch.patch_triton("emulator"):
        kernel = add[lambda meta: (-(-COUNT // meta["BLOCK"]),)](x, x, out, COUNT, BLOCK=256, num_warps=2)
    right(out)
    assert launches == [("add", (4, 1, 1), 4)]
    assert type(kernel).__name__ == "CompiledKernel"
    assert kernel.metadata.num_warps == 2


def test_arguments_that_are_compiled_in(kernels, x, launches):
    scaled = type(kernels.scaled)(kernels.scaled.fn)
    out = empty()
    with trlaunch.patch_triton("emulator"):
        scaled[(16,)](x, out, 2.5, None, COUNT, True)
        np.testing.assert_array_equal(out.numpy(), -2.5 * X)
        scaled[(16,)](x, out, 1, x, n=COUNT, negate=False)
        np.testing.assert_array_equal(out.numpy(), 2 * X)
    assert [count for _, _, count in launches] == [4, 4]


@pytest.mark.since(3, 3)
def test_tuples(kernels, launches):
    nested = type(kernels.nested)(kernels.nested.fn)
    x, out = (trlaunch.asarray(np.arange(32, dtype=np.float32), device="emulator") for _ in range(2))
    with trlaunch.patch_triton("emulator"):
        nested[(1,)]((x, (3, 1)), out)
    np.testing.assert_array_equal(out.numpy(), np.arange(32) * 3 + 1)
    assert launches == [("nested", (1, 1, 1), 3)]


def test_a_compiled_kernel_that_a_library_keeps(add, x, launches):
    out = empty()
    with trlaunch.patch_triton("emulator"):
        kernel = add[(8,)](x, x, empty(), COUNT)
        kernel[(8, 1, 1)](x, x, out, COUNT, *([128] if RELEASE >= (3, 3) else []))
    right(out)
    assert len(launches) == 2


def test_a_kernel_compiled_from_a_file(kernels, x, launches, tmp_path):
    import triton
    from triton.backends.compiler import GPUTarget

    text = Kernel.from_function(kernels.add, "*fp32", "*fp32", "*fp32", COUNT, target="cuda:80").artifact
    path = tmp_path / "add.ttgir"
    path.write_text(text.sibling(trlaunch.Level.TTGIR).text)
    out = empty()
    with trlaunch.patch_triton("emulator"):
        kernel = triton.compile(str(path), target=GPUTarget("cuda", 80, 32))
        kernel[(8, 1, 1)](x, x, out, COUNT)
    right(out)


def test_heuristics(triton, add, x):
    out = empty()
    with trlaunch.patch_triton("emulator"):
        triton.heuristics({"BLOCK": lambda _: 64})(add)[(16,)](x, x, out, COUNT)
    right(out)


@pytest.mark.since(3, 2)
def test_autotuning_without_a_gpu(triton, add, x, launches):
    out = empty()
    with trlaunch.patch_triton("emulator"):
        configs = [triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((64, 2), (256, 4))]
        tuned = triton.autotune(configs, key=["n"])(add)
        tuned[lambda meta: (-(-COUNT // meta["BLOCK"]),)](x, x, out, COUNT)
        right(out)
        timed = len(launches)
        assert timed >= 2 * 2 + 1
        tuned[lambda meta: (-(-COUNT // meta["BLOCK"]),)](x, x, out, COUNT)
        assert len(launches) == timed + 1
        ours = triton.autotune(configs, key=["n"])(trlaunch.jit(add, device="emulator"))
        ours[lambda meta: (-(-COUNT // meta["BLOCK"]),)](x, x, out, COUNT)
    assert tuned.best_config in configs


def test_hooks_around_a_launch(triton, add, x, launches, monkeypatch):
    seen = []
    if RELEASE >= (3, 4):
        runtime = triton.knobs.runtime
        monkeypatch.setattr(runtime, "launch_enter_hook", lambda data: seen.append(("enter", data.get()["name"])))
        monkeypatch.setattr(runtime, "launch_exit_hook", lambda data: seen.append(("exit", len(launches))))
    else:
        from triton.compiler import CompiledKernel

        enter = lambda data: seen.append(("enter", data.get()["name"]))  # noqa: E731
        monkeypatch.setattr(CompiledKernel, "launch_enter_hook", enter, raising=True)
        monkeypatch.setattr(CompiledKernel, "launch_exit_hook", lambda data: seen.append(("exit", len(launches))))
    with trlaunch.patch_triton("emulator"):
        add[(8,)](x, x, empty(), COUNT)
    assert seen == [("enter", "add"), ("exit", 1)]


# --- undoing it ------------------------------------------------------------------------------------------------------


def test_it_undoes_itself(add, x):
    before, variables = active(), dict(os.environ)
    with trlaunch.patch_triton("emulator") as patch:
        assert patch.active
        assert active() is not before
        with pytest.raises(ZeroDivisionError), trlaunch.patch_triton("emulator"):
            raise ZeroDivisionError
        assert patch.active
        add[(8,)](x, x, empty(), COUNT)
    assert not patch.active
    assert active() is before
    assert dict(os.environ) == variables
    del add
    gc.collect()  # 3.8 and later ask the driver that is active then to unload what was loaded


def test_start_and_stop(triton):
    before = active()
    patch = trlaunch.patch_triton("emulator")
    try:
        assert isinstance(patch, TritonPatch)
        ours = active()
        assert patch.start() is patch
        assert active() is ours
    finally:
        patch.stop()
    assert active() is before
    patch.stop()
    assert active() is before
    with patch:
        assert active() is not before
    assert active() is before


def test_a_driver_that_somebody_else_made_active_stays(triton):
    from triton.runtime import driver

    attribute, before = active_attribute(driver), active()
    theirs = SimpleNamespace()
    with trlaunch.patch_triton("emulator"):
        driver.set_active(theirs)
    try:
        assert active() is theirs
    finally:
        setattr(driver, attribute, before)


class RealDriver:
    """A driver as Triton's for CUDA is, for a GPU that is not there: it records what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.utils = SimpleNamespace(
            load_binary=self._load,
            unload_module=lambda module: self.asked.append(("unload", module)),
            get_device_properties=lambda device: {"max_shared_mem": 101376, "device": type(device)},
            fill_2d_tma_descriptor=lambda *_: "theirs",
        )
        self.launcher_cls = self._launcher
        self.get_current_stream = lambda device: 7

    def _load(self, name: str, data: bytes, shared: int, device: int) -> tuple[Any, ...]:
        self.asked.append(("load", name, type(device)))
        loaded = ("module", "handle", 16, 0, 1024)
        return loaded if RELEASE >= (3, 4) else loaded[:4]

    def _launcher(self, source: Any, metadata: Any) -> Any:
        return lambda *args: self.asked.append(("launch", args[:5], len(args)))

    def get_current_device(self) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 80, 32)

    def get_benchmarker(self) -> str:
        return "theirs"


@pytest.fixture
def real(triton, monkeypatch) -> Any:
    """Such a driver, active."""
    from triton.runtime import driver

    attribute, before = active_attribute(driver), active()
    found = RealDriver()
    driver.set_active(found)
    yield found
    gc.collect()  # from 3.8 on a kernel asks the active driver to unload it
    setattr(driver, attribute, before)


def test_over_a_driver_the_patch_is_one_of_its_class(real, monkeypatch):
    with trlaunch.patch_triton("cuda"):
        ours = active()
        assert isinstance(ours, RealDriver)
        assert ours is not real
        assert ours.get_current_stream(0) == 7
        assert ours.get_benchmarker() == "theirs"
        assert ours.utils.fill_2d_tma_descriptor() == "theirs"
        assert ours.utils.get_device_properties(_Ordinal(0)) == {"max_shared_mem": 101376, "device": int}
        assert ours.launcher_cls is not real.launcher_cls
        ours.utils.unload_module("module")
    assert active() is real
    assert real.asked == [("unload", "module")]


def test_a_patch_inside_another_is_over_the_same_driver(real):
    with trlaunch.patch_triton("cuda"):
        outer = active()
        with trlaunch.patch_triton("cuda"):
            inner = active()
            assert inner is not outer
            assert inner.get_current_stream(0) == 7
            assert inner.utils.fill_2d_tma_descriptor() == "theirs"
        assert active() is outer
    assert active() is real


@pytest.fixture
def sent(monkeypatch) -> list[tuple[Any, ...]]:
    """What trlaunch would launch on a GPU, as `Kernel.launch` is called."""
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Kernel, "launch", lambda self, grid, *args, **named: seen.append((grid, len(args), named)))
    limits = SimpleNamespace(max_threads_per_block=1024)
    monkeypatch.setattr("trlaunch.patch.get", lambda name: SimpleNamespace(properties=lambda ordinal: limits))
    return seen


def asked(driver: RealDriver) -> list[str]:
    return [entry[0] for entry in driver.asked]


def test_kernels_loaded_before_are_back_after(real, add, x, sent):
    def launch() -> Any:
        return add[(8,)](x, x, x, COUNT)

    launch()
    assert asked(real) == ["load", "launch"]
    with trlaunch.patch_triton("cuda"):
        kept = launch()
        function = kept.function
        launch()
        assert kept.function is function  # loaded once
    assert asked(real) == ["load", "launch"]
    assert sent == [((8, 1, 1), 4, {"stream": 7, "device": Device("cuda", 0)})] * 2
    launch()
    assert asked(real) == ["load", "launch", "launch"]
    # What a library kept from inside the block is launched by the driver of before, too.
    kept[(8, 1, 1)](x, x, x, COUNT, *([128] if RELEASE >= (3, 3) else []))
    assert asked(real) == ["load", "launch", "launch", "load", "launch"]
    assert real.asked[-1][1] == (8, 1, 1, 7, "handle")
    assert len(sent) == 2


def test_a_launcher_kept_from_inside_launches_as_before_the_patch(real, add, x, sent):
    """As the code that torch.compile makes does: it keeps ``run`` and ``function``, not the kernel."""
    with trlaunch.patch_triton("cuda"):
        kernel = add[(8,)](x, x, x, COUNT)
        run, function = kernel.run, kernel.function
    for _ in range(2):
        run(8, 1, 1, 5, function, kernel.packed_metadata, None, None, None, x, x, x, COUNT)
    assert asked(real) == ["load", "launch", "launch"]
    assert [entry[1] for entry in real.asked[1:]] == [(8, 1, 1, 5, "handle")] * 2
    assert len(sent) == 1


def test_ordinals_are_kept_apart_from_plain_numbers():
    assert _Ordinal(1) == _Ordinal(1) != _Ordinal(2)
    assert _Ordinal(1) != 1
    assert {1: "plain", _Ordinal(1): "ours"}[_Ordinal(1)] == "ours"
    assert [10, 20][_Ordinal(1)] == 20


# --- torch.compile ---------------------------------------------------------------------------------------------------


def test_the_static_launcher_of_torchinductor_is_off_meanwhile(triton, monkeypatch):
    config = ModuleType("torch._inductor.config")
    config.use_static_cuda_launcher = True
    for name, module in {"torch": ModuleType("torch"), "torch._inductor.config": config}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "torch._inductor", ModuleType("torch._inductor"))
    monkeypatch.setenv("TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER", "1")
    with trlaunch.patch_triton("emulator"):
        assert config.use_static_cuda_launcher is False
        assert os.environ["TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER"] == "0"
    assert config.use_static_cuda_launcher is True
    assert os.environ["TORCHINDUCTOR_USE_STATIC_CUDA_LAUNCHER"] == "1"


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_wrong_argument(triton):
    before = active()
    with pytest.raises(ArgumentError, match="check='loud'"):
        trlaunch.patch_triton("emulator", check="loud")
    with pytest.raises(trlaunch.DeviceUnavailable, match="device 'tpu'"):
        trlaunch.patch_triton("tpu")
    assert active() is before


def test_an_argument_that_does_not_fit_is_refused_by_name(add, x):
    with trlaunch.patch_triton("emulator"):
        kernel = add[(8,)](x, x, empty(), COUNT)
        with pytest.raises(ArgumentError, match="add, parameter 0 'x' .*: expected a tensor, found the int 5"):
            kernel[(8, 1, 1)](5, x, x, COUNT, *([128] if RELEASE >= (3, 3) else []))
