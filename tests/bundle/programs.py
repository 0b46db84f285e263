"""C programs that include headers of `trlaunch.bundle`, compiled as C99 and C++17 with every warning an error."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.oracle import numpy_bytes

__all__ = ["LANGUAGES", "build", "compiled", "cuda_include", "literal"]

LANGUAGES = {"c": ("CC", "gcc", "c99"), "c++": ("CXX", "g++", "c++17")}


def build(output: Path, source: Path, language: str, libraries: Sequence[str] = (), flags: Sequence[str] = ()) -> Path:
    """Compile and link a program."""
    done = compiled(output, source, language, libraries, flags)
    assert done.returncode == 0, done.stderr
    return output


def compiled(
    output: Path, source: Path, language: str, libraries: Sequence[str] = (), flags: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """What the compiler says."""
    variable, compiler, standard = LANGUAGES[language]
    found = os.environ.get(variable) or shutil.which(compiler)
    assert found, f"the tests of headers need {compiler}: install it, or set {variable}"
    command = [
        found,
        f"-std={standard}",
        "-x",
        language,
        "-O1",
        "-pthread",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
    ]
    return subprocess.run(
        [*command, *flags, "-o", str(output), str(source), "-x", "none", *libraries, "-ldl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def cuda_include() -> Path:
    """The folder of cuda.h that the package nvidia-cuda-runtime brings, or that of a toolkit."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place, name, "include") for place in (spec.submodule_search_locations if spec else ()) or ()
               for name in ("cu13", "cuda_runtime")]  # fmt: skip
    folders += [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "include")]
    found = next((f for f in folders if (f / "cuda.h").is_file()), None)
    assert found, "the tests of headers need cuda.h: pip install nvidia-cuda-runtime"
    return found


def literal(type_name: str, value: Any) -> str:
    """A C expression for a value, by NumPy's bytes; pointers by their address."""
    if type_name.startswith("*"):
        return f"POINTER(0x{value:x})"
    bits = int.from_bytes(numpy_bytes(type_name, value), "little")
    if type_name in ("fp32", "fp64"):
        return f"real{type_name[2:]}(0x{bits:x}ULL)"
    size = {"i1": 8, "u1": 8, "fp16": 16, "bf16": 16}.get(type_name) or int("".join(filter(str.isdigit, type_name[:4])))
    if type_name.startswith("fp8"):
        size = 8
    return f"(uint{size}_t)0x{bits:x}ULL" if not type_name.startswith("i") else f"(int{size}_t)0x{bits:x}ULL"
