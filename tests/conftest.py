"""Fixtures that several test folders share, and the one place where tests that need a GPU or a browser are skipped."""

from __future__ import annotations

import shutil
from functools import cache

import pytest

from tests.fakecuda import FakeCuda


@cache
def why_no_gpu() -> str:
    """Why tests marked ``gpu`` cannot run here; empty where a CUDA device answers.

    cuda-python is asked directly, so that a fault of trlaunch's own driver cannot skip the tests that would show it.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        return f"needs an NVIDIA GPU: {error}"
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # libcuda.so.1 is missing
        return f"needs an NVIDIA GPU: {error}"
    if status:
        return f"needs an NVIDIA GPU: cuInit returned {status.name}"
    status, count = driver.cuDeviceGetCount()
    return "" if not status and count else f"needs an NVIDIA GPU: {count} devices ({status.name})"


@cache
def why_no_amd() -> str:
    """Why tests marked ``amd`` cannot run here; empty where a HIP device answers. hip-python is asked directly."""
    try:
        from hip import hip
    except ImportError as error:
        return f"needs an AMD GPU: {error}"
    try:
        (status,) = hip.hipInit(0)
        if status:
            return f"needs an AMD GPU: hipInit returned {status.name}"
        status, count = hip.hipGetDeviceCount()
    except RuntimeError as error:  # libamdhip64.so is missing
        return f"needs an AMD GPU: {error}"
    return "" if not status and count else f"needs an AMD GPU: {count} devices ({status.name})"


@cache
def why_no_browser() -> str:
    """Why tests marked ``browser`` cannot run here; empty where there are Chromium and its driver."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(missing)} on the path" if missing else ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture is made, those of a whole module included."""
    for marker, reason in (("gpu", why_no_gpu), ("amd", why_no_amd), ("browser", why_no_browser)):
        if item.get_closest_marker(marker) and reason():
            pytest.skip(reason())


@pytest.fixture(scope="session")
def fakecuda(tmp_path_factory: pytest.TempPathFactory) -> FakeCuda:
    """The fake libcuda, built once; see `tests.fakecuda`."""
    return FakeCuda.build(tmp_path_factory.mktemp("fakecuda"))
