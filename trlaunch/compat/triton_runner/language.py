"""``triton_runner.language``: the names are here, and a kernel that uses one is refused when it is compiled."""

from __future__ import annotations

from typing import Any, NoReturn

from trlaunch.errors import ArgumentError

__all__ = ["dump", "dump_boundary", "dump_grids", "refuse_dumps"]


def refuse_dumps(what: str) -> NoReturn:
    """Raise `ArgumentError`: this version captures no values from inside a kernel."""
    raise ArgumentError(f"{what}: dumps are not part of this version of trlaunch; leave it out")


def dump(*_values: Any, **_options: Any) -> NoReturn:
    """Refused; see `refuse_dumps`."""
    refuse_dumps("language.dump")


def dump_boundary(*_values: Any, **_options: Any) -> NoReturn:
    """Refused; see `refuse_dumps`."""
    refuse_dumps("language.dump_boundary")


def dump_grids(*_values: Any, **_options: Any) -> NoReturn:
    """Refused; see `refuse_dumps`."""
    refuse_dumps("language.dump_grids")


# Triton calls what has this mark while it compiles; anything else of Python's it refuses in words of its own
# (TRITON_BUILTIN in triton/language/core.py, all releases).
for _function in (dump, dump_boundary, dump_grids):
    setattr(_function, "__triton_builtin__", True)  # noqa: B010 -- functions have no such attribute for mypy
