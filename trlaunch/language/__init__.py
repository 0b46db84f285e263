"""For use inside ``@triton.jit`` and ``@gluon.jit`` functions: say which values a dump captures.

    import trlaunch.language as dl

    @triton.jit
    def kernel(...):
        ...
        dl.dump_grids(total, name="total")

They compile to nothing, except in ``trlaunch.Kernel.from_function(..., dump=True)``: there each leaves a mark in the
first level's text, which becomes a capture. The calling convention is triton-runner's, with a name added: every dump
has an array of its own, which knows its offset, and `trlaunch.Run.flat` puts them into one buffer of fp32 as
triton-runner does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from trlaunch.errors import ArgumentError

__all__ = ["MARK", "dump", "dump_boundary", "dump_grids", "marking"]

#: What the prefix of a marked ``tt.print`` begins with.
MARK = "trl_dump:"

#: Off, "as it is", or "fp32": what is marked is converted first.
_MARKING: ContextVar[str] = ContextVar("_MARKING", default="")


@contextlib.contextmanager
def marking(wanted: bool | str) -> Iterator[None]:
    """While it lasts, kernels that this thread compiles have marks in them; ``"fp32"``: of values converted to it."""
    token = _MARKING.set(wanted if isinstance(wanted, str) else "as it is" if wanted else "")
    try:
        yield
    finally:
        _MARKING.reset(token)


def dump(
    value: Any,
    offset: Any = 0,
    dump_grid: Any = None,
    name: Any = None,
    *,
    _builder: Any = None,
    _semantic: Any = None,
) -> None:
    """Capture a value in one program.

    Parameters
    ----------
    value : tensor or scalar
    offset : int or scalar
        Where it goes in a flat buffer (`trlaunch.Run.flat`), in elements; what the kernel computes, too.
    dump_grid : int or sequence of int, optional
        The program, by its coordinates in the grid; an int is the one along x. Left out, the first.
    name : str, optional
        Key in ``run.dumps``; left out, ``dump0``, ``dump1``, ... in the order of the code.
    """
    grid = _plain(dump_grid) or 0
    numbers = grid if isinstance(grid, tuple) else (grid,)
    if not 1 <= len(numbers) <= 3 or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ArgumentError(f"dump_grid={grid!r:.60}: expected an int or one to three, none negative")
    _mark(value, ".".join(map(str, numbers)), offset, name, _builder, _semantic)


def dump_boundary(
    value: Any,
    offset: Any = 0,
    name: Any = None,
    *,
    _builder: Any = None,
    _semantic: Any = None,
) -> None:
    """Capture a value in the last program along every axis; parameters as those of `dump`."""
    _mark(value, "last", offset, name, _builder, _semantic)


def dump_grids(
    value: Any,
    offset: Any = 0,
    name: Any = None,
    *,
    _builder: Any = None,
    _semantic: Any = None,
) -> None:
    """Capture a value in every program; parameters as those of `dump`."""
    _mark(value, "all", offset, name, _builder, _semantic)


def _plain(value: Any) -> Any:
    """A compile-time argument as Python's: Triton wraps it."""
    if type(value).__name__ == "constexpr":
        return _plain(value.value)
    if hasattr(value, "values") and type(value).__name__ == "tuple":
        return tuple(_plain(item) for item in value.values)
    return tuple(_plain(item) for item in value) if isinstance(value, (tuple, list)) else value


def _mark(value: Any, programs: str, offset: Any, name: Any, builder: Any, semantic: Any) -> None:
    wanted = _MARKING.get()
    if not wanted:
        return
    label = _plain(name)
    if label is not None and (not isinstance(label, str) or not label.replace("_", "a").replace(".", "a").isalnum()):
        raise ArgumentError(f"name={label!r:.60}: expected letters, digits, '_' and '.'")
    from trlaunch.lowering.triton_compiler import load

    core = load("language.core")
    passed = {"_builder": builder} if semantic is None else {"_semantic": semantic}  # the latter from 3.4 on
    if wanted == "fp32":
        value = core.cast(core.to_tensor(value, **passed), core.float32, **passed)
    constant = _plain(offset)
    if isinstance(constant, int):
        core.device_print(f"{MARK}{programs}:{label or ''}:{constant or ''}", value, **passed)
        return
    if not hasattr(constant, "handle") or getattr(constant.type, "is_block", bool)():
        raise ArgumentError(f"offset={constant!r:.60}: expected an int or a scalar of the kernel")
    core.device_print(f"{MARK}{programs}:{label or ''}:", value, constant, **passed)


# Triton calls what has this mark while it compiles (TRITON_BUILTIN in triton/language/core.py, all releases), where
# its module's name begins with Triton's (DependenciesFinder in triton/runtime/jit.py).
for _function in (dump, dump_boundary, dump_grids):
    setattr(_function, "__triton_builtin__", True)  # noqa: B010 -- functions have no such attribute for mypy
    _function.__module__ = "triton.language.trlaunch"
