"""``triton_runner.language``: `trlaunch.language`, whose calls are those of triton-runner."""

from __future__ import annotations

from trlaunch.language import dump, dump_boundary, dump_grids

__all__ = ["dump", "dump_boundary", "dump_grids"]
