"""triton-runner's interface: ``from trlaunch.compat import triton_runner`` in place of ``import triton_runner``.

The names and keywords are those of triton-runner 0.3.8, as its README and its wheel have them. What runs is
`trlaunch.jit`, `trlaunch.patch_triton` and Triton's own autotuner; docs/migration.md says what differs.
"""

from __future__ import annotations

from pathlib import Path

from trlaunch.compat.triton_runner import color_print, language, torch_utils
from trlaunch.compat.triton_runner.backend import (
    autotune,
    configure_autotune_backend,
    configure_jit_backend,
    restore_autotune_backend,
    restore_jit_backend,
)
from trlaunch.compat.triton_runner.function import RunnerFunction, jit

__all__ = [
    "RunnerFunction",
    "autotune",
    "color_print",
    "configure_autotune_backend",
    "configure_jit_backend",
    "get_file_dir",
    "jit",
    "language",
    "restore_autotune_backend",
    "restore_jit_backend",
    "torch_utils",
]


def get_file_dir(file: str) -> str:
    """Absolute folder of a file: ``get_file_dir(__file__)``."""
    return str(Path(file).absolute().parent)
