"""The switch under `trlaunch.hooks`: how a launch comes to pass the hooks, and costs nothing while there are none.

A launch that goes by a plan asks nothing. While there is a hook no kernel has plans where launches look for them: they
are put aside, so that every launch takes the way through the interpreter, which asks for `around` and finds them here.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["around", "plans_of", "register", "seen_by_triton", "switch_off", "switch_on"]

around: Callable[..., Any] | None = None
"""What a launch without a plan goes through: called with kernel, launcher, grid, args, stream, device, named."""

_lock = threading.Lock()
_kernels: weakref.WeakSet[Any] = weakref.WeakSet()
_aside: weakref.WeakKeyDictionary[Any, Any] | None = None
"""The plans of each kernel while launches are hooked."""

seen_by_triton: weakref.WeakSet[Any] = weakref.WeakSet()
"""Kernels whose launches Triton's own hooks see already, as those of `trlaunch.patch_triton`."""


def register(kernel: Any, make: Callable[[bool], Any], fixed: bool) -> None:
    """Give a new kernel, which is complete but for it, an empty collection of plans."""
    with _lock:
        kernel._launches = make(fixed)
        _kernels.add(kernel)
        if _aside is not None:
            _aside[kernel] = make(fixed)


def plans_of(kernel: Any) -> Any:
    """The plans of a kernel, wherever they are."""
    aside = _aside
    return kernel._launches if aside is None else aside[kernel]


def switch_on(through: Callable[..., Any]) -> None:
    """Have every launch go through a function; see `around`."""
    global around, _aside
    with _lock:
        assert _aside is None
        aside: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        for kernel in list(_kernels):
            aside[kernel] = type(kernel._launches)(kernel._launches.fixed)
            _fill(aside[kernel], kernel)
        around, _aside = through, aside
        for kernel in list(_kernels):
            kernel._launches.forget()


def switch_off() -> None:
    """Have launches go by their plans again."""
    global around, _aside
    with _lock:
        assert _aside is not None
        around = _aside = None
        for kernel in list(_kernels):
            _fill(kernel._launches, kernel)


def _fill(plans: Any, kernel: Any) -> None:
    """Put the plans of a kernel's devices where its launches look for them."""
    for loaded in list(kernel._loaded.values()):
        if loaded.plan:
            plans.add(loaded.plan, not plans.fixed or loaded.device == kernel._given_device)
