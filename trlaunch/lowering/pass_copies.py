"""Copies of a backend's functions that see stand-ins for libtriton, where the originals see libtriton.

Nothing of the user's Triton is replaced: a copied function has the code of the original and global names of its own.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

__all__ = ["LIBTRITON", "Copies", "StandIn"]

LIBTRITON = "triton._C."


class Copies:
    """Makes copies whose calls into libtriton, and into whatever else may add a pass, go through `call`.

    Parameters
    ----------
    call : callable
        Takes the name as the function wrote it (``"passes.ttir.add_combine"``), what it stands for, and the arguments.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._tables: dict[int, dict[str, Any]] = {}

    def backend(self, backend: Any) -> Any:
        """The backend with its own and its bases' functions copied."""
        kind: Any = type(backend)
        body: dict[str, Any] = {}
        for base in reversed(kind.__mro__[:-1]):
            for name, value in vars(base).items():
                function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
                if isinstance(function, types.FunctionType):
                    rebound = self._function(function)
                    body[name] = type(value)(rebound) if function is not value else rebound
        instrumentation = getattr(kind, "instrumentation", None)  # Proton's, up to Triton 3.8
        if instrumentation is not None:
            body["instrumentation"] = StandIn(instrumentation, "instrumentation", self._call)
        body.pop("__init__", None)
        own = type(kind)(kind.__name__, (kind,), body)
        for table in self._tables.values():
            for name, value in table.items():
                if value is kind:
                    table[name] = own
        copied = object.__new__(own)
        copied.__dict__.update(backend.__dict__)
        return copied

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        copied = types.FunctionType(
            function.__code__,
            self._names(function.__globals__),
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        copied.__kwdefaults__ = function.__kwdefaults__
        return copied

    def _names(self, names: dict[str, Any]) -> dict[str, Any]:
        """Global names of a module of the backend, with stand-ins for whatever may add a pass."""
        table = self._tables.get(id(names))
        if table is not None:
            return table
        table = self._tables[id(names)] = dict(names)
        for name, value in names.items():
            if isinstance(value, types.ModuleType):
                if value.__name__.startswith(LIBTRITON):
                    table[name] = StandIn(value, name, self._call)
            elif isinstance(value, types.FunctionType) and value.__globals__ is names:
                table[name] = self._function(value)
            elif isinstance(value, (types.FunctionType, functools.partial)):
                table[name] = functools.partial(self._call, name, value)
        return table

    def real(self, name: str) -> Any:
        """What a stand-in of that global name stands for; ``None`` where the functions know no such name."""
        found = (table.get(name) for table in self._tables.values())
        return next((value.real for value in found if isinstance(value, StandIn)), None)


class StandIn:
    """A part of libtriton whose functions are called through the recorder; types and constants are the real ones."""

    def __init__(self, real: Any, name: str, call: Callable[..., Any]) -> None:
        self.real = real
        self._name = name
        self._through = call

    def __getattr__(self, name: str) -> Any:
        value, full = getattr(self.real, name), f"{self._name}.{name}"
        if isinstance(value, types.ModuleType):
            return StandIn(value, full, self._through)
        if full != "ir.pass_manager" and (isinstance(value, type) or not callable(value)):
            return value
        return functools.partial(self._through, full, value)
