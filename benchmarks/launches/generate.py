"""Compile `kernels.py` with the Triton release of this environment (no GPU, no torch) into the files beside it.

``python benchmarks/launches/generate.py`` with Triton 3.6.0 writes the same bytes as are kept here.
"""

from __future__ import annotations

import linecache
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "fixtures"))

from generate import Case, compile_case, forget_library_paths, refuse_absolute_paths  # noqa: E402


def arguments(tensors: int, ints: int, constants: int = 0) -> dict[str, Any]:
    return (
        {f"t{i}": "*fp32" for i in range(tensors)}
        | {f"i{i}": "i32" for i in range(ints)}
        | {f"c{i}": i for i in range(constants)}
    )


CASES = [
    Case("none_kernel", "none_kernel", {}, "(1, 1, 1)"),
    Case("fourteen_kernel", "fourteen_kernel", arguments(5, 9, 5), ""),
    Case("nineteen_kernel", "nineteen_kernel", arguments(10, 9), ""),
    Case("fifty_eight_kernel", "fifty_eight_kernel", arguments(28, 30), ""),
    Case("descriptor_kernel", "descriptor_kernel", {"d": "tensordesc<fp16[16, 32]>", "out": "*fp32", "n": "i32"}, ""),
    Case(
        "add_kernel",
        "add_kernel",
        {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": ("i32", 1 << 20), "BLOCK": 1024},
        "",
    ),
]
LEVELS = {90: ("cubin", "ttir", "json"), 80: ("ptx", "ttir", "json")}


def main() -> None:
    import triton

    source = "kernels.py"
    text = (HERE / source).read_text()
    kernels = types.ModuleType("kernels")
    kernels.__file__ = source
    sys.modules["kernels"] = kernels
    linecache.cache[source] = (len(text), None, text.splitlines(keepends=True), source)
    exec(compile(text, source, "exec"), kernels.__dict__)
    forget_library_paths()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)  # ptxas writes the time of a source file that it finds into the line table
        for capability, levels in LEVELS.items():
            for case in CASES:
                files = compile_case(case, getattr(kernels, case.function), capability, triton.__version__)
                refuse_absolute_paths(files)
                for level in levels:
                    name = f"{case.function}.{level}"
                    (HERE / f"cuda{capability}").mkdir(exist_ok=True)
                    (HERE / f"cuda{capability}" / name).write_bytes(files[name])
        os.chdir(HERE)


if __name__ == "__main__":
    main()
