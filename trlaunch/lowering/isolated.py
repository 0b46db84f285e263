"""A stage in a process of its own: LLVM ends the process over IR text that it cannot read or select code for.

Seen in Triton 3.0 to 3.9 for LLIR with a single wrong letter: ``translate_to_asm`` calls ``report_fatal_error``. MLIR
raises instead, so the stages before need no such care.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from trlaunch.errors import LoweringError
from trlaunch.lowering.options import jsonable
from trlaunch.lowering.triton_compiler import Compiler, release
from trlaunch.target import Target

__all__ = ["run"]

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from trlaunch.lowering.isolated import _main; _main()"
)


def run(
    target: Target, base: Mapping[str, Any], asked: Mapping[str, Any], stage: str, text: str
) -> tuple[str, dict[str, Any]]:
    """Run one stage from text to text.

    Parameters
    ----------
    target : Target
    base, asked : mapping
        Options, as `Compiler` takes them.
    stage : str
        ``"ptx"`` or ``"amdgcn"``.
    text : str

    Returns
    -------
    tuple
        The text, and what the stage wrote to the metadata.

    Raises
    ------
    LoweringError
        The stage failed, or took the process with it; the compiler's message is in the text.
    """
    request = {
        "target": [target.backend, target.arch, target.suffix, target.warp_size],
        "base": jsonable(base),
        "asked": jsonable(asked),
        "stage": stage,
        "text": text,
    }
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(sys.path)],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode:
        # LLVM's message stands before the stack that it or faulthandler prints.
        first = re.split(r"\n(?:PLEASE submit a bug report|Stack dump|Fatal Python error)", said)[0].strip()
        raise LoweringError(
            f"Triton {release()} aborted at stage {stage}: {first or done.returncode}", stage=stage, log=said
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise LoweringError(answer["error"], stage=answer["stage"], log=answer["log"])
    return answer["text"], answer["metadata"]


def _main() -> None:
    """The other process: a request on stdin, the answer on stdout, where nothing else may be printed."""
    request = json.loads(sys.stdin.buffer.read())
    answer_to = os.dup(1)
    os.dup2(2, 1)
    stage: str = request["stage"]
    metadata: dict[str, Any] = {}
    try:
        compiler = Compiler(Target(*request["target"]), request["base"], strict=request["asked"])
        compiler.prepare_llvm()
        text = compiler.stages[stage](request["text"], metadata)
        answer = {"text": str(text), "metadata": jsonable(metadata)}
    except LoweringError as error:
        answer = {"error": str(error), "stage": error.stage, "log": error.log}
    except Exception as error:  # noqa: BLE001 -- as `Compiler.run` does, but that what LLVM prints is not held back
        message = f"Triton {release()} failed at stage {stage}: {error}"
        answer = {"error": message, "stage": stage, "log": repr(error)}
    with os.fdopen(answer_to, "w", encoding="utf-8") as stream:
        json.dump(answer, stream)
