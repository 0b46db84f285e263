"""Two whole caches of Triton: which kernels belong together, and what each pair differs in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.comparison.build import read
from trlaunch.comparison.difference import Difference
from trlaunch.errors import ArtifactError, TrlaunchError

__all__ = ["CacheDifference", "diff_caches", "is_cache"]

_PUBLIC = re.compile(r"tt\.func\s+public\s+@[^(]*\((.*)")
_TYPE = re.compile(r"%[\w.]+: ((?:!?[\w.]+(?:<[^{]*?>)?))")

# What tells the variants of one kernel apart, beside the types of its arguments.
_OPTIONS = ("num_warps", "num_stages", "num_ctas", "target")


@dataclass(slots=True)
class CacheDifference:
    """Kernels of two caches.

    Attributes
    ----------
    pairs : mapping of str to Difference
        By kernel, with the options where there are several variants of it.
    only_first, only_second : list of str
        Kernels that the other has nothing of.
    unpaired : list of str
        Variants of which each cache has several that look alike, with the reason.
    unread : list of str
        Folders whose files could not be read, with the error.
    """

    pairs: dict[str, Difference] = field(default_factory=dict)
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    unpaired: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "pairs": {name: pair.to_dict() for name, pair in self.pairs.items()},
            "only_first": self.only_first,
            "only_second": self.only_second,
            "unpaired": self.unpaired,
            "unread": self.unread,
        }


def is_cache(path: str | Path) -> bool:
    """Whether a folder holds folders of kernels, and no kernel itself."""
    path = Path(path)
    return path.is_dir() and not any(path.glob("*.json")) and any(path.glob("*/*.json"))


def diff_caches(first: str | Path, second: str | Path, *, name: str | None = None) -> CacheDifference:
    """What the kernels of two caches differ in.

    Kernels belong together that have the same name, types of arguments, target and options; where each cache has one
    kernel of a name, its name is enough.

    Parameters
    ----------
    first, second : path
        Caches: folders of the folders that Triton names by a hash.
    name : str, optional
        Kernels of this name alone.

    Raises
    ------
    ArtifactError
        There is no kernel in one of them.
    """
    found = CacheDifference()
    sides = [_kernels(Path(folder), name, found.unread) for folder in (first, second)]
    for side, folder in zip(sides, (first, second), strict=True):
        if not side:
            asked = f"no kernel {name!r}" if name else "no folder of a kernel"
            raise ArtifactError(f"{asked} in {str(folder)!r}: expected a cache of Triton, ~/.triton/cache")
    a, b = sides
    found.only_first = sorted(a.keys() - b.keys())
    found.only_second = sorted(b.keys() - a.keys())
    for kernel in sorted(a.keys() & b.keys()):
        _pair(kernel, a[kernel], b[kernel], found)
    return found


def _pair(kernel: str, a: list[Artifact], b: list[Artifact], found: CacheDifference) -> None:
    if len(a) == len(b) == 1:
        found.pairs[kernel] = Difference(read(a[0]), read(b[0]))
        return
    keyed: list[Mapping[str, list[Artifact]]] = [_by_variant(a), _by_variant(b)]
    for variant in sorted(keyed[0].keys() | keyed[1].keys()):
        sides = [side.get(variant, []) for side in keyed]
        label = f"{kernel} {variant}"
        if len(sides[0]) == len(sides[1]) == 1:
            found.pairs[label] = Difference(read(sides[0][0]), read(sides[1][0]))
        elif not sides[1]:
            found.only_first.append(label)
        elif not sides[0]:
            found.only_second.append(label)
        else:
            counts = f"{len(sides[0])} in the first, {len(sides[1])} in the second"
            found.unpaired.append(f"{label}: {counts}, which differ in constants only: compare two folders by name")


def _by_variant(artifacts: list[Artifact]) -> Mapping[str, list[Artifact]]:
    found: defaultdict[str, list[Artifact]] = defaultdict(list)
    for artifact in artifacts:
        found[_variant(artifact)].append(artifact)
    return found


def _variant(artifact: Artifact) -> str:
    """Types of the arguments and options, in words."""
    metadata = artifact.metadata
    options = [f"{key}={metadata.raw[key]}" for key in _OPTIONS if metadata and key in metadata.raw and key != "target"]
    if metadata is not None and metadata.target is not None:
        options.append(str(metadata.target))
    ttir = artifact if artifact.level is Level.TTIR else artifact.sibling(Level.TTIR)
    heading = _PUBLIC.search(ttir.text) if ttir is not None else None
    types = ", ".join(_TYPE.findall(heading[1])) if heading else "?"
    return f"({types}) {' '.join(options)}".strip()


def _kernels(folder: Path, name: str | None, unread: list[str]) -> dict[str, list[Artifact]]:
    found: defaultdict[str, list[Artifact]] = defaultdict(list)
    for inner in sorted(p for p in folder.iterdir() if p.is_dir()):
        stems = {p.stem for p in inner.glob("*.json") if not p.stem.startswith("__grp__")}
        for stem in sorted(stems):
            if name is None or stem == name:
                try:
                    found[stem].append(Artifact.from_cache(inner, stem))
                except TrlaunchError as error:
                    unread.append(f"{inner.name}: {error}")
    return dict(found)
