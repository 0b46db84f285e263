"""The version, stated once; pyproject.toml reads it from here without importing the package."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
