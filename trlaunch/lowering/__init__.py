"""Lowering: an artifact of one level -> the same kernel at a later level, by the installed release of Triton."""

from __future__ import annotations

from trlaunch.lowering.lower import lower, lower_source

__all__ = ["lower", "lower_source"]
