"""What code run by `tests.fakehip.FakeHip.run` often needs; imported in that process."""

from __future__ import annotations

import ctypes
from typing import Any

from trlaunch.hip.driver import HipDriver

__all__ = ["driver", "fail", "hip"]


def driver() -> HipDriver:
    """The HIP driver of this process."""
    return HipDriver.instance()


def hip(call: str, *args: Any) -> Any:
    """Call a function of ``hip.hip`` as a user would, and return its result."""
    from hip import hip as bindings

    status, *results = getattr(bindings, call)(*args)
    assert status == 0, (call, status)
    return results[0] if results else None


def fail(call: str, status: int, nth: int = 0) -> None:
    """Make the n-th next call of that name fail (0: every one); status 0 heals it."""
    ctypes.CDLL("libamdhip64.so").fakehip_fail(call.encode(), status, nth)
