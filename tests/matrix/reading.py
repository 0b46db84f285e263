"""Whose text a release reads: every TTIR and TTGIR of the corpus, parsed and lowered to PTX by the release installed.

Run in the environment of one release, which prints one JSON document. A text is lowered in a process of its own, as
some end in an abort. `trlaunch.lowering.dialect` is judged by these results, so its refusal is set aside here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from typing import Any

from tests import corpus
from tests.matrix.forking import in_process, silenced


def code_of(ptx: str) -> str:
    """A digest of PTX without what names source files and lines."""
    kept = [line for line in ptx.splitlines() if not line.lstrip().startswith((".loc", ".file", "//", "$L__tmp"))]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def read_all(releases: tuple[str, ...] = ()) -> dict[str, Any]:
    """Lower the texts of some releases, all of them by default; a result for each of their texts."""
    lowering: Any = importlib.import_module("trlaunch.lowering.lower")  # the package has a function of that name
    from trlaunch.artifact import Artifact
    from trlaunch.lowering.triton_compiler import Compiler, release
    from trlaunch.target import Target

    Compiler(Target("cuda", "80"), {"enable_fp_fusion": True}).prepare_llvm()  # once, before the forks
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
                with silenced():
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
