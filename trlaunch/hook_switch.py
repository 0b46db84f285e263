"""The switch under `trlaunch.hooks`: how a launch comes to pass the hooks, and costs nothing while there are none.

Nothing asks at a launch whether there is a hook. While there is one, the method ``launch`` of the class of kernels is
another function, and what bound callables look into for a kernel's plans is empty, so that they go to that method too.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["bindable", "register", "relaunch", "seen_by_triton", "switch_off", "switch_on"]

_lock = threading.Lock()
_kernels: weakref.WeakSet[Any] = weakref.WeakSet()
_parked: weakref.WeakKeyDictionary[Any, Any] | None = None
"""While launches are hooked: the plans that a kernel's bound callables look into, which are none."""
_original: Any = None

seen_by_triton: weakref.WeakSet[Any] = weakref.WeakSet()
"""Kernels whose launches Triton's own hooks see already, as those of `trlaunch.patch_triton`."""


def register(kernel: Any, make: Callable[[bool], Any], fixed: bool) -> None:
    """Give a new kernel, which is complete but for it, an empty collection of plans."""
    with _lock:
        kernel._launches = make(fixed)
        _kernels.add(kernel)
        if _parked is not None:
            _parked[kernel] = make(fixed)


def bindable(kernel: Any) -> Any:
    """The plans that a bound callable of a kernel looks into."""
    parked = _parked
    return kernel._launches if parked is None else parked[kernel]


def relaunch(kernel: Any, grid: Any, *args: Any, **named: Any) -> Any:
    """``kernel.launch``, whichever it is at this time."""
    return kernel.launch(grid, *args, **named)


def switch_on(kind: type, wrap: Callable[[Any], Any]) -> None:
    """Have every launch of kernels of a class go through ``wrap(launch)``."""
    global _parked, _original
    with _lock:
        assert _parked is None
        _original = vars(kind)["launch"]
        _parked = weakref.WeakKeyDictionary()
        kind.launch = wrap(_original)  # type: ignore[attr-defined]
        for kernel in list(_kernels):
            bound = kernel._launches
            kernel._launches = type(bound)(bound.fixed)
            _fill(kernel._launches, kernel)
            bound.forget()
            _parked[kernel] = bound


def switch_off(kind: type) -> None:
    """Have launches go where they went before."""
    global _parked, _original
    with _lock:
        assert _parked is not None
        kind.launch = _original  # type: ignore[attr-defined]
        parked, _parked, _original = _parked, None, None
        for kernel, bound in list(parked.items()):
            _fill(bound, kernel)
            kernel._launches = bound


def _fill(plans: Any, kernel: Any) -> None:
    """Put the plans of a kernel's devices where its launches look for them."""
    for loaded in list(kernel._loaded.values()):
        if loaded.plan:
            plans.add(loaded.plan, not plans.fixed or loaded.device == kernel._given_device)
