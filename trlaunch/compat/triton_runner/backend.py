"""``configure_*_backend``: Triton's own decorators replaced until ``restore_*_backend``."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from trlaunch.compat.triton_runner.function import RunnerFunction, jit
from trlaunch.lowering.triton_compiler import load, release_number
from trlaunch.patch import patch_triton

__all__ = [
    "autotune",
    "configure_autotune_backend",
    "configure_jit_backend",
    "restore_autotune_backend",
    "restore_jit_backend",
]

_Undo = list[Callable[[], object]]

_jit_undo: _Undo = []
_autotune_undo: _Undo = []


def configure_jit_backend() -> None:
    """Make ``triton.jit`` and ``gluon.jit`` those of trlaunch, and call `trlaunch.patch_triton`.

    Functions decorated from now on take the keywords of `jit`'s; kernels of libraries and of ``torch.compile`` are
    launched by trlaunch, too. `restore_jit_backend` undoes it.

    Raises
    ------
    LoweringError
        Triton is not installed.
    """
    if _jit_undo:
        return
    _jit_undo.append(patch_triton().stop)
    _replace(_jit_undo, _triton(), "jit", jit)
    if release_number() >= (3, 4):
        gluon = load("experimental.gluon")
        _replace(_jit_undo, gluon, "jit", _over(gluon.jit))


def restore_jit_backend() -> None:
    """Undo `configure_jit_backend`; nothing happens where it was not called."""
    while _jit_undo:
        _jit_undo.pop()()


def configure_autotune_backend() -> None:
    """Make ``triton.autotune`` the one of this module; `restore_autotune_backend` undoes it."""
    if not _autotune_undo:
        _replace(_autotune_undo, _triton(), "autotune", autotune)


def restore_autotune_backend() -> None:
    """Undo `configure_autotune_backend`; nothing happens where it was not called."""
    while _autotune_undo:
        _autotune_undo.pop()()


def autotune(*args: Any, **keywords: Any) -> Any:
    """``triton.autotune``, which needs neither a GPU nor torch to time its configurations (Triton 3.3 and later)."""
    if release_number() >= (3, 3) and keywords.get("do_bench") is None:
        keywords["do_bench"] = _do_bench
    return load("runtime.autotuner").autotune(*args, **keywords)


def _do_bench(call: Callable[[], Any], **keywords: Any) -> Any:
    """Time a call by Triton's own means where they work, by the wall clock where they do not."""
    with patch_triton():
        bench = load("runtime.driver").driver.active.get_benchmarker()
    return bench(call, **keywords)


def _triton() -> Any:
    load("runtime.jit")
    return sys.modules["triton"]


def _replace(undo: _Undo, owner: Any, name: str, value: Any) -> None:
    undo.append(functools.partial(setattr, owner, name, getattr(owner, name)))
    setattr(owner, name, value)


def _over(gluon_jit: Callable[..., Any]) -> Callable[..., Any]:
    """``gluon.jit`` whose functions are those of `jit`."""

    def decorator(function: Any = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(decorator, **options)
        made: RunnerFunction = jit(gluon_jit(function, **{k: v for k, v in options.items() if v is not None}))
        made._renamed = options.get("repr") is not None
        return made

    return decorator
