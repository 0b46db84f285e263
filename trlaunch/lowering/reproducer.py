"""A failure of the compiler, kept so that it can be repeated: the text, its options and a script."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trlaunch import cache
from trlaunch.artifact import Artifact, Level
from trlaunch.errors import LoweringError
from trlaunch.lowering.options import jsonable
from trlaunch.lowering.triton_compiler import release
from trlaunch.target import Target

__all__ = ["reproducible"]

_SCRIPT = '''"""Repeat the failure: python {name}, with Triton {release} and trlaunch installed."""

from pathlib import Path

from trlaunch.artifact import Artifact
from trlaunch.lowering import lower

artifact = Artifact.from_file(Path(__file__).with_name("kernel.{level}"), {metadata!r})
lower(artifact, {to!r}, {target!r}, {options!r})
'''


@contextlib.contextmanager
def reproducible(
    key: str, source: Artifact, to: Level, target: Target, base: Mapping[str, Any], asked: Mapping[str, Any]
) -> Iterator[None]:
    """Where the compiler fails, leave a folder that repeats it and name it in the error.

    The folder is ``reproducers/<key>`` in the cache: the text, ``rerun.py`` and ``error.log``.
    """
    try:
        yield
    except LoweringError as error:
        if not error.log:
            raise
        folder = cache.path() / "reproducers" / key[:16]
        script = _SCRIPT.format(
            name="rerun.py",
            release=release(),
            level=source.level,
            metadata=jsonable(base),
            to=str(to),
            target=str(target),
            options=jsonable(asked),
        )
        # A module between two passes says itself where it is; lowering it runs into the failure at once.
        between = {} if error.before is None else {f"before-{error.pass_name}.mlir": error.before.encode()}
        try:
            _write(folder, {**between, f"kernel.{source.level}": source.data, "rerun.py": script.encode()}, error.log)
        except OSError as failure:
            raise LoweringError(
                f"{error} (no reproducer: {folder} cannot be written: {failure})",
                stage=error.stage,
                pass_name=error.pass_name,
                log=error.log,
            ) from error
        raise LoweringError(
            f"{error}\nreproducer: {folder}",
            stage=error.stage,
            pass_name=error.pass_name,
            log=error.log,
            reproducer=folder,
            before=error.before,
        ) from error


def _write(folder: Path, files: Mapping[str, bytes], log: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "error.log").write_text(log, encoding="utf-8")
