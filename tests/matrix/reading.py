"""Whose text a release reads: every TTIR and TTGIR of the corpus, parsed and lowered to PTX by the release installed.

Run in the environment of one release, which prints one JSON document. A text is lowered in a process of its own, as
some end in an abort. `trlaunch.lowering.dialect` is judged by these results, so its refusal is set aside here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests import corpus

PATIENCE = 120.0  # seconds


def in_process(work: Callable[[], Any], patience: float = PATIENCE) -> tuple[str, Any]:
    """Do some work in a fork.

    Returns
    -------
    tuple
        ``("done", value)``, ``("error", message)``, ``("died", how)`` or ``("stuck", seconds)``.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            outcome: tuple[str, Any] = ("done", work())
        except Exception as error:  # whatever it is, it is the result
            outcome = ("error", f"{type(error).__name__}: {error}")
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome, pipe)
        os._exit(0)
    os.close(write)
    data, end = b"", time.monotonic() + patience
    with os.fdopen(read, "rb") as pipe:
        while select.select([pipe], [], [], max(end - time.monotonic(), 0))[0]:
            chunk = os.read(pipe.fileno(), 1 << 20)
            if not chunk:
                break
            data += chunk
        else:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        killed = os.WTERMSIG(status)
        return ("stuck", patience) if killed == signal.SIGKILL else ("died", signal.Signals(killed).name)
    # A fatal error of LLVM's ends the process by exit(1).
    return pickle.loads(data) if data else ("died", f"exit {os.waitstatus_to_exitcode(status)}")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what MLIR prints before it aborts off the terminal."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def code_of(ptx: str) -> str:
    """A digest of PTX without what names source files and lines."""
    kept = [line for line in ptx.splitlines() if not line.lstrip().startswith((".loc", ".file", "//", "$L__tmp"))]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def read_all(releases: tuple[str, ...] = ()) -> dict[str, Any]:
    """Lower the texts of some releases, all of them by default; a result for each of their texts."""
    lowering: Any = importlib.import_module("trlaunch.lowering.lower")  # the package has a function of that name
    from trlaunch.artifact import Artifact
    from trlaunch.lowering.triton_compiler import release

    importlib.import_module("triton.compiler.compiler")  # once, before the forks
    lowering._refuse_other_release = lambda *_: None
    reader = release()
    own = {(c.target, c.name): code_of(c.text("ptx")) for c in corpus.cases(release=reader)}
    seen: dict[tuple[str, ...], tuple[str, Any]] = {}
    results = []
    for case in corpus.cases():
        if releases and case.release not in releases:
            continue
        for level in ("ttir", "ttgir"):
            key = (level, case.target, case.name, case.text(level))
            if key not in seen:
                with silence():
                    seen[key] = in_process(
                        lambda c=case, i=level: code_of(lowering.lower(Artifact.from_file(c.path(i)), "ptx").text)
                    )
            how, value = seen[key]
            results.append(
                {
                    "writer": case.release,
                    "target": case.target,
                    "case": case.name,
                    "level": level,
                    "how": how,
                    "message": None if how == "done" else " | ".join(str(value).splitlines()[:3])[:500],
                    "same": how == "done" and value == own.get((case.target, case.name)),
                }
            )
    return {"reader": reader, "results": results}


if __name__ == "__main__":
    json.dump(read_all(tuple(sys.argv[1:])), sys.stdout, indent=0)
