"""Compile both kernels with the Triton of this environment: ``python build.py`` writes ``<kernel>/<release>/``.

Needs trlaunch and a release of Triton, no GPU. docs/diff.md compares what 3.2.0 and 3.3.1 make of the one, and 3.1.0
and 3.4.0 of the other.
"""

from __future__ import annotations

import json
import linecache
import sys
import types
from pathlib import Path

import triton

from trlaunch.artifact import Level
from trlaunch.lowering.specialize import bind, compile_function, jit_function
from trlaunch.target import Target

HERE = Path(__file__).resolve().parent
NAME = "kernels.py"
LEVELS = (Level.TTIR, Level.TTGIR, Level.PTX)
CASES = {
    "attention_backward_kv": (
        ["*fp16"] * 4 + ["*fp32"] * 4 + [64, 1024, 0.125],
        {"BLOCK_M": 32, "BLOCK_N": 128, "HEAD": 64},
        {"num_warps": 4, "num_stages": 5},
    ),
    "small_matmul": (
        ["*fp16"] * 3 + [512] * 6,
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64, "GROUP": 8},
        {"num_warps": 4, "num_stages": 4},
    ),
}


def kernels() -> types.ModuleType:
    """The module, whose file has no folder: compilers write its path into what they make."""
    text = (HERE / NAME).read_text()
    linecache.cache[NAME] = (len(text), None, text.splitlines(keepends=True), NAME)
    module = types.ModuleType("kernels")
    module.__file__ = NAME
    exec(compile(text, NAME, "exec"), module.__dict__)  # noqa: S102
    return module


def forget_paths() -> None:
    """Give Triton's own functions (``tl.cdiv``) the name of their file from the package on, for the same reason."""
    root = f"{Path(triton.__file__).resolve().parents[1]}/"
    for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == "triton"]:
        for value in [v for v in vars(module).values() if isinstance(v, triton.JITFunction)]:
            code = value.fn.__code__
            value.fn.__code__ = code.replace(co_filename=code.co_filename.removeprefix(root))


def main() -> None:
    module = kernels()
    forget_paths()
    for name, (arguments, constants, options) in CASES.items():
        bound = bind(jit_function(getattr(module, name)), arguments, {**constants, **options})
        made = compile_function(bound, Level.CUBIN, Target.parse("cuda:80")).artifact
        folder = HERE / name / triton.__version__
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.cubin").write_bytes(made.data)
        for level in LEVELS:
            (folder / f"{name}.{level}").write_bytes(made.sibling(level).data)
        metadata = dict(made.metadata.raw)
        metadata["extern_libs"] = [[library, Path(path).name] for library, path in metadata.get("extern_libs", [])]
        (folder / f"{name}.json").write_text(json.dumps(metadata, indent=1) + "\n")
        print(f"{name} by Triton {triton.__version__}: {metadata['shared']} bytes of shared memory")


if __name__ == "__main__":
    main()
