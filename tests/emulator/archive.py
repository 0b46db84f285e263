"""The kernels of ``tests/fixtures/corpus_emulator``, which only the emulator's tests run."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.emulator.launching import launch

__all__ = ["Case", "cases"]

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "corpus_emulator"


@dataclass(frozen=True)
class Case:
    """One kernel as one release compiled it."""

    release: str
    target: str
    name: str
    ptx: str
    metadata: dict[str, Any]
    constexprs: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.release}-{self.target}-{self.name}"

    def run(self, values: list[Any], grid: tuple[int, ...], **settings: Any) -> None:
        """Launch with the kernel's parameters in order; the scratch pointers behind them are null."""
        launch(self.ptx, values, kernel=self.metadata["name"], grid=grid, shared=self.metadata["shared"], **settings)


@cache
def _read() -> tuple[Case, ...]:
    found = []
    for file in sorted(FOLDER.glob("*.zip")):
        with zipfile.ZipFile(file) as archive:
            for described in sorted(n for n in archive.namelist() if n.endswith("/case.json")):
                target, name = described.split("/")[:2]
                info = json.loads(archive.read(described))
                stem = f"{target}/{name}/{info['kernel']}"
                metadata = json.loads(archive.read(f"{stem}.json"))
                text = archive.read(f"{stem}.ptx").decode()
                found.append(Case(file.stem, target, name, text, metadata, info["constexprs"]))
    return tuple(found)


def cases(*names: str, target: str | None = None) -> list[Case]:
    """The cases with one of these names, or all."""
    return [c for c in _read() if (not names or c.name in names) and target in (None, c.target)]
