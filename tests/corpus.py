"""The compiled kernels under ``tests/fixtures/corpus``, as small objects that tests loop over.

Archives are read as they are asked for and unpacked once a session into a temporary folder, laid out as Triton's own
cache folder is: ``<kernel>.<level>`` and ``<kernel>.json`` side by side.

    for case in cases(target="cuda:80", kernel="matmul_kernel"):
        image = read_image(case.path("cubin"))
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FOLDER", "Case", "Param", "cases", "find", "path", "releases"]

FOLDER = Path(__file__).parent / "fixtures" / "corpus"


@dataclass(frozen=True)
class Param:
    """One value passed at a launch, tuples already flattened.

    Attributes
    ----------
    name : str
        The Python parameter; an element of a tuple is ``name.index``.
    type : str
        Triton's spelling: ``*fp16``, ``i32``, ``u1``, ``tensordesc<fp16[64, 64]>``.
    divisible_by_16 : bool
        The kernel was compiled for values (of a pointer: addresses) that are multiples of 16.
    value : int or None
        The number Triton specialised on, which is one the kernel is right for.
    """

    name: str
    type: str
    divisible_by_16: bool
    value: int | None = None


@dataclass(frozen=True)
class Case:
    """One kernel compiled by one release for one target.

    Attributes
    ----------
    release, target : str
        ``"3.6.0"``, ``"cuda:80"``.
    name : str
        The case: ``matmul_kernel_bf16``.
    kernel : str
        The function, which is also the stem of every file: ``matmul_kernel``.
    levels : tuple of str
        The levels there are files of.
    params : tuple of Param
        What a launch passes, in order; constexprs and arguments specialised on 1 are not among them.
    constexprs : Mapping
        The value of each constant by Python parameter; of a tuple's element by ``name.index``.
    options : Mapping
        The compile options that were not left at their default.
    grid : str
        The launch grid as a formula over params and constexprs.
    descriptors : Mapping
        For each tensor-descriptor parameter its ``dtype``, ``block`` and ``swizzle`` bytes.
    """

    release: str
    target: str
    name: str
    kernel: str
    levels: tuple[str, ...]
    params: tuple[Param, ...] = field(repr=False)
    constexprs: Mapping[str, Any] = field(repr=False, hash=False)
    options: Mapping[str, Any] = field(repr=False, hash=False)
    grid: str = field(repr=False)
    descriptors: Mapping[str, Mapping[str, Any]] = field(repr=False, hash=False)

    def __str__(self) -> str:
        return f"{self.release}-{self.target.replace(':', '')}-{self.name}"

    @property
    def version(self) -> tuple[int, int]:
        """The release as numbers that compare: ``(3, 6)``."""
        major, minor = self.release.split(".")[:2]
        return int(major), int(minor)

    @property
    def folder(self) -> Path:
        """The unpacked files of this case; do not write here."""
        return _unpack(self.release) / self.target.replace(":", "") / self.name

    def path(self, level: str) -> Path:
        """The file of one level, or ``"json"``."""
        file = self.folder / f"{self.kernel}.{level}"
        if not file.is_file():
            raise FileNotFoundError(f"{self} has no {level}, only {', '.join(self.levels)}")
        return file

    def text(self, level: str) -> str:
        return self.path(level).read_text()

    def bytes(self, level: str) -> bytes:
        return self.path(level).read_bytes()

    @property
    def metadata(self) -> dict[str, Any]:
        """Triton's metadata, parsed anew at each call."""
        parsed: dict[str, Any] = json.loads(self.text("json"))
        return parsed


def releases() -> tuple[str, ...]:
    """The releases there is an archive of, oldest first."""
    return tuple(sorted((p.stem for p in FOLDER.glob("*.zip")), key=lambda r: [int(n) for n in r.split(".")]))


def cases(
    release: str | None = None, target: str | None = None, kernel: str | None = None, level: str | None = None
) -> tuple[Case, ...]:
    """Every case that matches; what is left out matches everything.

    ``kernel`` is the name of the case: ``"matmul_kernel"`` does not bring ``"matmul_kernel_bf16"``.
    ``level`` leaves out the cases without a file of it.
    """
    return tuple(
        case
        for name in ([release] if release else releases())
        for case in _index(name)
        if target in (None, case.target) and kernel in (None, case.name) and (level is None or level in case.levels)
    )


def find(release: str, target: str, kernel: str) -> Case:
    """The one case of this release, target and name."""
    found = cases(release, target, kernel)
    if not found:
        raise LookupError(f"the corpus has no {kernel} of Triton {release} for {target}")
    return found[0]


def path(release: str, target: str, kernel: str, level: str) -> Path:
    """The file of one level of one case; ``level`` may be ``"json"``."""
    return find(release, target, kernel).path(level)


@cache
def _index(release: str) -> tuple[Case, ...]:
    found = []
    with zipfile.ZipFile(FOLDER / f"{release}.zip") as archive:
        files = archive.namelist()
        for description in (n for n in files if n.endswith("/case.json")):
            folder, name = description.split("/")[:2]
            info = json.loads(archive.read(description))
            stem = f"{folder}/{name}/{info['kernel']}."
            found.append(
                Case(
                    release=release,
                    target=f"cuda:{folder.removeprefix('cuda')}",
                    name=name,
                    kernel=info["kernel"],
                    levels=tuple(n.removeprefix(stem) for n in files if n.startswith(stem) and not n.endswith(".json")),
                    params=tuple(p for described in info["params"] for p in _flatten(described["name"], described)),
                    constexprs=MappingProxyType(info["constexprs"]),
                    options=MappingProxyType(info["options"]),
                    grid=info["grid"],
                    descriptors=MappingProxyType(info.get("descriptors", {})),
                )
            )
    return tuple(found)


def _flatten(name: str, described: Any) -> list[Param]:
    if isinstance(described, list):
        return [p for i, part in enumerate(described) if part for p in _flatten(f"{name}.{i}", part)]
    if "tuple" in described:
        return _flatten(name, described["tuple"])
    return [Param(name, described["type"], described["divisible_by_16"], described.get("value"))]


@cache
def _unpack(release: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"trlaunch-corpus-{release}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(FOLDER / f"{release}.zip") as archive:
        archive.extractall(folder)
    return folder
