"""Bisection: which pass, release, option, level, program or block of PTX it is that makes a kernel go wrong.

One engine (`engine.py`) runs candidates until the first bad one is known, or all of them; what a candidate is, is said
by one module each: `passes`, `releases`, `options`, `levels`, `cells`, `blocks`. `oracles.py` says what bad means.
"""

from __future__ import annotations

import importlib
from typing import Any

# Name -> module; loaded on first use, since some import what only their kind of candidate needs.
_MODULES = {
    "Candidate": "engine",
    "Search": "engine",
    "Verdict": "engine",
    "first_bad": "engine",
    "sweep": "engine",
    "Crashes": "oracles",
    "Differs": "oracles",
    "Exceeds": "oracles",
    "Hangs": "oracles",
    "Slower": "oracles",
    "blocks": "blocks",
    "cells": "cells",
    "levels": "levels",
    "options": "options",
    "passes": "passes",
    "releases": "releases",
}
__all__ = [
    "Candidate",
    "Crashes",
    "Differs",
    "Exceeds",
    "Hangs",
    "Search",
    "Slower",
    "Verdict",
    "first_bad",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'trlaunch.bisection' has no attribute {name!r}")
    module = importlib.import_module(f"trlaunch.bisection.{_MODULES[name]}")
    return module if name == _MODULES[name] else getattr(module, name)
