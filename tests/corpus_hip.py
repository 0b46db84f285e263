"""The kernels compiled for AMD under ``tests/fixtures/corpus_hip``, as the objects of `tests.corpus`.

for case in cases(target="hip:gfx942", kernel="matmul_kernel"):
    image = read_image(case.bytes("hsaco"))
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from tests import corpus

__all__ = ["ARCHITECTURES", "FOLDER", "Case", "cases", "find", "hidden", "releases"]

FOLDER = Path(__file__).parent / "fixtures" / "corpus_hip"
ARCHITECTURES = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1200", "gfx1250")


@dataclass(frozen=True)
class Case(corpus.Case):
    """One kernel compiled by one release for one AMD target, ``"hip:gfx942"``."""

    @property
    def arch(self) -> str:
        return self.target.partition(":")[2]

    @property
    def folder(self) -> Path:
        return _unpack(self.release) / self.arch / self.name


def releases() -> tuple[str, ...]:
    """The releases there is an archive of, oldest first."""
    return tuple(sorted((p.stem for p in FOLDER.glob("*.zip")), key=lambda r: [int(n) for n in r.split(".")]))


def cases(release: str | None = None, target: str | None = None, kernel: str | None = None) -> tuple[Case, ...]:
    """Every case that matches; what is left out matches everything."""
    return tuple(
        case
        for name in ([release] if release else releases())
        for case in _index(name)
        if target in (None, case.target) and kernel in (None, case.name)
    )


def find(release: str, target: str, kernel: str) -> Case:
    """The one case of this release, target and name."""
    found = cases(release, target, kernel)
    if not found:
        raise LookupError(f"the corpus has no {kernel} of Triton {release} for {target}")
    return found[0]


def hidden(case: corpus.Case) -> int:
    """Scratch pointers behind the user's parameters: none up to 3.2, one in 3.3 and 3.4, two from 3.5 on."""
    return 0 if case.version < (3, 3) else 1 if case.version < (3, 5) else 2


@cache
def _index(release: str) -> tuple[Case, ...]:
    found = []
    with zipfile.ZipFile(FOLDER / f"{release}.zip") as archive:
        files = archive.namelist()
        for description in (n for n in files if n.endswith("/case.json")):
            arch, name = description.split("/")[:2]
            info = json.loads(archive.read(description))
            stem = f"{arch}/{name}/{info['kernel']}."
            found.append(
                Case(
                    release=release,
                    target=f"hip:{arch}",
                    name=name,
                    kernel=info["kernel"],
                    levels=tuple(n.removeprefix(stem) for n in files if n.startswith(stem) and not n.endswith(".json")),
                    params=tuple(
                        p for described in info["params"] for p in corpus._flatten(described["name"], described)
                    ),
                    constexprs=MappingProxyType(info["constexprs"]),
                    options=MappingProxyType(info["options"]),
                    grid=info["grid"],
                    descriptors=MappingProxyType(info.get("descriptors", {})),
                )
            )
    return tuple(found)


@cache
def _unpack(release: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"trlaunch-corpus-hip-{release}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(FOLDER / f"{release}.zip") as archive:
        archive.extractall(folder)
    return folder
