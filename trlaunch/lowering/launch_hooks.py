"""Triton's launch hooks, to which Proton listens, wherever the installed release keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trlaunch.errors import LoweringError

__all__ = ["lazy_metadata", "triton_hooks"]


def lazy_metadata(values: dict[str, Any]) -> Any:
    """What Triton gives its hooks: a mapping to which functions are added that are called when it is asked for.

    Raises
    ------
    LoweringError
        Triton is not installed.
    """
    return _compiler().LazyDict(values)


def triton_hooks() -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
    """What Triton calls before and after a launch at this time, ``None`` for nothing.

    From 3.5 on these are chains of functions, in 3.4 single ones beside them, before that attributes of
    ``CompiledKernel``.

    Raises
    ------
    LoweringError
        Triton is not installed.
    """
    owner: Any
    try:
        from triton import knobs

        owner = knobs.runtime
    except ImportError:
        owner = _compiler().CompiledKernel
    enter, leave = (_of(owner, name) for name in ("launch_enter_hook", "launch_exit_hook"))
    return enter, leave


def _of(owner: Any, name: str) -> Callable[[Any], Any] | None:
    found: Callable[[Any], Any] | None = getattr(owner, name, None)
    return None if getattr(found, "calls", True) == [] else found


def _compiler() -> Any:
    try:
        from triton import compiler
    except ImportError as error:
        raise LoweringError(
            f"Triton's launch hooks need Triton ({error}): pip install triton", stage="install"
        ) from None
    return compiler
