"""Triton's launch hooks, to which Proton listens, see trlaunch's launches; where they are differs by release."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from tests.corpus import find
from trlaunch import Kernel, hooks
from trlaunch.lowering.launch_hooks import triton_hooks
from trlaunch.lowering.triton_compiler import installed_release


@contextlib.contextmanager
def listening(enter, leave):
    """Have Triton call two functions at launches, as the release's own profiler arranges it."""
    if installed_release() >= (3, 5):
        from triton import knobs

        chains = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
        for chain, function in zip(chains, (enter, leave), strict=True):
            chain.add(function)
        yield
        for chain, function in zip(chains, (enter, leave), strict=True):
            chain.remove(function)
        return
    if installed_release() >= (3, 4):
        from triton import knobs

        owner = knobs.runtime
    else:
        from triton.compiler import CompiledKernel as owner  # noqa: N813
    owner.launch_enter_hook, owner.launch_exit_hook = enter, leave
    yield
    owner.launch_enter_hook = owner.launch_exit_hook = None


@pytest.fixture
def launch():
    kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("ptx"), device="emulator")
    x, out = np.ones(1024, np.float32), np.zeros(1024, np.float32)
    return lambda: kernel.launch(1, x, x, out, 1024)


def test_triton_s_hooks_see_a_launch(triton, launch):
    seen = []

    def enter(lazy):
        assert lazy.data["name"] == "add_kernel"
        seen.append(dict(lazy.get()))

    with listening(enter, lambda lazy: seen.append(lazy.get()["name"])):
        launch()
        assert seen == []
        with hooks.proton(lambda event: {"flops32": event.arguments["n_elements"], "bytes": 3 * 4096}):
            launch()
        with hooks.proton(lambda event: {"name": f"{event.name}<1024>"}):
            launch()
        with hooks.proton():
            launch()
        launch()
    plain = {"name": "add_kernel", "function": 0, "stream": 0}
    assert seen == [
        {**plain, "flops32": 1024, "bytes": 12288}, "add_kernel",
        {**plain, "name": "add_kernel<1024>"}, "add_kernel<1024>",
        plain, "add_kernel",
    ]  # fmt: skip


def test_nothing_is_called_where_nobody_listens(triton, launch):
    asked = []
    assert triton_hooks() == (None, None)
    with hooks.proton(lambda event: asked.append(event) or {}):
        launch()
    assert asked == []


def test_proton_s_own_hook_is_called(triton, launch, monkeypatch):
    """Without a GPU Proton's library counts nothing; which scopes it is told of is seen in front of it."""
    pytest.importorskip("triton.profiler", reason="this Triton has no Proton")
    told = []
    if installed_release() >= (3, 5):
        from triton.profiler.hooks import launch as module

        enter, leave, libproton = module.LaunchHook().enter, module.LaunchHook().exit, module.libproton
        # From 3.7 on it compiles kernels of its own that fetch metrics from the device.
        monkeypatch.setattr(module, "set_metric_kernels", lambda: None, raising=False)
        monkeypatch.setattr(libproton, "enter_op", lambda scope, name: told.append(("enter", name)))
        monkeypatch.setattr(libproton, "exit_op", lambda scope, name: told.append(("exit", name)))
        monkeypatch.setattr(libproton, "add_metrics", lambda scope, *metrics: told.append(dict(metrics[0])))
    else:
        from triton.profiler import hook

        enter, leave = hook.TritonHook.enter, hook.TritonHook.exit
        monkeypatch.setattr(hook, "enter_scope", lambda name, **more: told.append(("enter", name, more.get("metrics"))))
        monkeypatch.setattr(hook, "exit_scope", lambda **more: told.append(("exit", *more)))
    with listening(enter, leave), hooks.proton(lambda event: {"flops": 7}):
        launch()
    assert "add_kernel" in [entry[1] for entry in told if isinstance(entry, tuple) and entry[0] == "enter"]
    assert {"flops": 7} in [entry for item in told for entry in (item, *(item if isinstance(item, tuple) else ()))] or (
        installed_release() < (3, 3)  # which has no metric of that name
    )
    assert told[-1][0] == "exit"
