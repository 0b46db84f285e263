"""The argument language under the name that the commands know: see `trlaunch.arguments`."""

from __future__ import annotations

from trlaunch.arguments import DTYPES, GENERATORS, ArgumentSpec, UsageError, as_floats, parse_argument, parse_grid

__all__ = ["DTYPES", "GENERATORS", "ArgumentSpec", "UsageError", "as_floats", "parse_argument", "parse_grid"]
