"""Contexts and devices: the caller's own context is used, no trace is left, several GPUs work."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import trlaunch
from tests.fakecuda.inside import user_context
from tests.gpu.bindings import cuda

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
N = 4096


def run(code, *arguments):
    """Run Python code in a process of its own; what it printed, as JSON."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_complete_launch_imports_no_framework_and_leaves_no_context(add):
    found = run(
        """
        import json, sys
        import numpy as np
        import trlaunch

        x = np.arange(4096, dtype=np.float32)
        a, b, out = trlaunch.asarray(x), trlaunch.asarray(x), trlaunch.empty(4096, "fp32")
        kernel = trlaunch.Kernel.from_file(sys.argv[1])
        kernel.launch(4, a, b, out, 4096)
        right = bool((out.numpy() == 2 * x).all())
        from cuda.bindings import driver
        frameworks = [m for m in ("torch", "triton", "cupy", "jax", "numba", "rich", "typer") if m in sys.modules]
        print(json.dumps({
            "right": right,
            "device": str(kernel.device),
            "frameworks": frameworks,
            "context": int(driver.cuCtxGetCurrent()[1]),
        }))
        """,
        str(add.artifact.path),
    )
    assert found == {"right": True, "device": "cuda:0", "frameworks": [], "context": 0}


def test_the_callers_own_context_is_used_and_stays_current(add):
    own = user_context(0)
    try:
        stream = int(cuda("cuStreamCreate", 1))  # a launch in any other context could not use it
        x, out = (trlaunch.asarray(np.ones(N, np.float32), device="cuda:0") for _ in range(2))
        for _ in range(3):
            add.launch(4, x, out, out, N, stream=stream)
        cuda("cuStreamSynchronize", stream)
        np.testing.assert_array_equal(out.numpy(), np.full(N, 4, np.float32))
        assert int(cuda("cuCtxGetCurrent")) == int(own)
        cuda("cuStreamDestroy", stream)
        del x, out
        gc.collect()
    finally:
        cuda("cuCtxDestroy", own)
    x, out = (trlaunch.asarray(np.ones(N, np.float32), device="cuda:0") for _ in range(2))
    add.launch(4, x, x, out, N)  # the kernel that was loaded there is loaded again where it runs now
    np.testing.assert_array_equal(out.numpy(), np.full(N, 2, np.float32))


def test_a_thread_without_a_context_launches_and_leaves_none(add):
    x, out = (trlaunch.asarray(np.ones(N, np.float32), device="cuda:0") for _ in range(2))
    seen = []

    def work():
        add.launch(4, x, x, out, N)
        seen.append(int(cuda("cuCtxGetCurrent")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]
    np.testing.assert_array_equal(out.numpy(), np.full(N, 2, np.float32))


def test_one_kernel_on_two_gpus(add, two_gpus):
    for device in ("cuda:1", "cuda:0", "cuda:1"):
        x, out = (trlaunch.asarray(np.ones(N, np.float32), device=device) for _ in range(2))
        add.launch(4, x, x, out, N)
        np.testing.assert_array_equal(out.numpy(), np.full(N, 2, np.float32))


def test_a_tensor_of_another_gpu_is_refused(add, two_gpus):
    x, y = (trlaunch.asarray(np.ones(N, np.float32), device=f"cuda:{i}") for i in range(2))
    with pytest.raises(trlaunch.ArgumentError, match=r"y_ptr.*on cuda:0, found .*cuda:1"):
        add.launch(4, x, y, x, N)


def test_a_device_that_is_not_there(add, driver):
    count = driver.device_count()
    with pytest.raises(trlaunch.DeviceUnavailable, match=f"there is no cuda:{count}"):
        trlaunch.empty(N, "fp32", f"cuda:{count}")
