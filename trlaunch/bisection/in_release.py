"""Run by the Python of one release of Triton: compile a kernel, and leave every level and the metadata in a folder.

``python -m trlaunch.bisection.in_release REQUEST``, a JSON file; what goes wrong is written to ``error.json`` beside
it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.errors import ArgumentError, TrlaunchError
from trlaunch.target import Target

__all__ = ["build", "main"]


def build(request: dict[str, Any], folder: Path) -> None:
    """Compile what a request says into a folder.

    Parameters
    ----------
    request : dict
        The fields of `trlaunch.bisection.releases.Source`, by their names; ``source`` is its path.
    folder : pathlib.Path
    """
    path, target = Path(request["source"]), Target.parse(request["target"])
    binary = Level.HSACO if target.backend == "hip" else Level.CUBIN
    if path.suffix == ".py":
        from trlaunch.lowering.specialize import bind, compile_function, jit_function

        function = jit_function(_function(path, request["function"]))
        bound = bind(function, request["arguments"], {**request["constants"], **request["options"]})
        artifact = compile_function(bound, binary, target).artifact
    else:
        from trlaunch.lowering import lower

        artifact = lower(path, binary, target, request["options"])
    name = artifact.metadata.name if artifact.metadata and artifact.metadata.name else path.stem
    _write(artifact, name, folder)


def _function(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ArgumentError(f"{path.name} has no function {name!r}")
    return getattr(module, name)


def _write(artifact: Artifact, stem: str, folder: Path) -> None:
    files: dict[Level, bytes] = {artifact.level: artifact.data}
    for level in artifact.siblings:
        other = artifact.sibling(level)
        if other is not None:
            files[level] = other.data
    for level, data in files.items():
        (folder / f"{stem}.{level}").write_bytes(data)
    raw = dict(artifact.metadata.raw) if artifact.metadata else {}
    (folder / f"{stem}.json").write_text(json.dumps(raw, default=str))


def main(path: str) -> int:
    """Run the request in a file."""
    file = Path(path)
    try:
        build(json.loads(file.read_text()), file.parent)
    except TrlaunchError as error:
        said = {"type": type(error).__name__, "message": str(error)}
        (file.parent / "error.json").write_text(json.dumps(said))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
