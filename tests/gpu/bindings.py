"""The driver API as a user of cuda-python calls it, to set up what trlaunch meets and to judge what it did."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver

__all__ = ["NOT_READY", "cuda", "driver", "status"]

NOT_READY = driver.CUresult.CUDA_ERROR_NOT_READY
"""What ``cuStreamQuery`` says of a stream that has work left."""


def status(call: str, *arguments: Any) -> driver.CUresult:
    """Call a function and return its status, whatever it is."""
    return getattr(driver, call)(*arguments)[0]


def cuda(call: str, *arguments: Any) -> Any:
    """Call a function of ``cuda.bindings.driver``; its result, its results as a tuple, or ``None``."""
    returned, *results = getattr(driver, call)(*arguments)
    assert not returned, f"{call}: {returned.name}"
    return results[0] if len(results) == 1 else tuple(results) or None
