"""Fixtures of the investigation's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fakecuda import FakeCuda


@pytest.fixture(scope="session")
def fake_environment(fakecuda: FakeCuda) -> Callable[..., dict[str, str]]:
    """Environment of a process whose libcuda is the fake one: calls fail by name, ``cuLaunchKernelEx=700:3``."""

    def environment(fail: str = "") -> dict[str, str]:
        return {
            "LD_LIBRARY_PATH": str(fakecuda.folder),
            "FAKECUDA_DEVICES": "90",
            "FAKECUDA_DRIVER": "13000",
            "FAKECUDA_LOG": "/dev/null",
            "FAKECUDA_OPTIN": "0",
            "FAKECUDA_STATIC_SHARED": "0",
            "FAKECUDA_FAIL": fail,
        }

    return environment
