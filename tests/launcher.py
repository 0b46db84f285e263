"""The native launcher, built for a test from the source at hand, whatever is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

__all__ = ["build_launcher", "compile_c"]

SOURCE = Path(__file__).parents[1] / "trlaunch" / "native" / "launcher.c"


def compile_c(source: Path, output: Path, *flags: str) -> None:
    """Make a shared library, every warning an error."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the tests of the native launcher need a C compiler: install gcc, or set CC"
    command = [compiler, "-std=c11", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", *flags, "-o", output, source]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr


def build_launcher(folder: Path) -> Path:
    """Build ``_launcher`` into a folder, which is returned."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    compile_c(SOURCE, folder / f"_launcher{suffix}", f"-I{sysconfig.get_paths()['include']}", "-fvisibility=hidden")
    return folder
