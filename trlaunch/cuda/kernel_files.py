"""The files beside the cubin that died: found by the code they hold, and the line of each level that it came from.

Lines are joined by the source line that every level carries (`trlaunch.source_lines`): the PTX line of an instruction
is known exactly, from the cubin's own table, the lines of the levels above it are those that came from the same source
line; of several, the first whose operation does what the instruction does.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trlaunch.artifact import Artifact, Level
from trlaunch.cuda.disassembler import SourceLine
from trlaunch.cuda.module_image import ModuleImage
from trlaunch.errors import ArtifactError, ImageError, MetadataError
from trlaunch.source_lines import Chain, Line, chains

if TYPE_CHECKING:
    from trlaunch.cuda.fault_site import Site

__all__ = ["KernelFiles", "LevelLine", "LevelText"]

_LEVELS = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX)
# How an operation that does what an instruction does is called at the levels above, by the start of the mnemonic; the
# longest start counts.
_OPERATIONS = {
    "LDG": ("tt.load", "tt.gather", "ld.global", "load"),
    "LD": ("tt.load", "ld.", "load"),
    "STG": ("tt.store", "tt.scatter", "st.global", "store"),
    "ST": ("tt.store", "st.", "store"),
    "LDGSTS": ("async_copy_global_to_local", "cp.async", "tt.load"),
    "UTMALDG": ("async_tma_copy_global_to_local", "descriptor_load", "descriptor_gather", "cp.async.bulk.tensor"),
    "UTMASTG": ("async_tma_copy_local_to_global", "descriptor_store", "descriptor_scatter", "cp.async.bulk.tensor"),
    "LDS": ("local_load", "ld.shared", "convert_layout", "tt.reduce", "tt.scan", "load"),
    "STS": ("local_store", "local_alloc", "st.shared", "convert_layout", "tt.reduce", "tt.scan", "store"),
    "LDSM": ("local_load", "ldmatrix", "tt.dot"),
    "ATOM": ("tt.atomic", "atom.", "atomicrmw", "cmpxchg"),
    "RED": ("tt.atomic", "red.", "atom.", "atomicrmw"),
    "SYNCS": ("mbarrier", "barrier"),
    "HGMMA": ("warp_group_dot", "wgmma", "tt.dot"),
    "HMMA": ("tt.dot", "mma.sync"),
    "BPT": ("tt.assert", "trap", "assert"),
    "CALL": ("tt.assert", "__assertfail", "call"),
}


@dataclass(frozen=True, slots=True)
class LevelLine:
    """A line of a level that an instruction came from.

    Attributes
    ----------
    level : str
        ``"python"``, ``"ttir"``, ``"ttgir"``, ``"llir"``, ``"ptx"``.
    file : str
        Of Python the file as the compiler named it; of the others the path of the file, or nothing for the PTX that
        the cubin itself holds.
    line : int
        From 1.
    text : str
        The line, where the file is at hand.
    others : tuple of int
        More lines that came from the same source line.
    inlined_at : tuple of str
        ``file:line`` of the calls that the line was inlined at, innermost first.
    """

    level: str
    file: str
    line: int
    text: str = ""
    others: tuple[int, ...] = ()
    inlined_at: tuple[str, ...] = ()

    def __str__(self) -> str:
        at = "".join(f", inlined at {place}" for place in self.inlined_at)
        return f"{self.level} {Path(self.file).name or 'in the cubin'}:{self.line}{at}"


@dataclass(frozen=True, slots=True)
class LevelText:
    """The text of a level with the source lines of its lines."""

    level: Level
    path: Path | None
    text: str = field(repr=False)
    chains: tuple[Chain, ...] = field(repr=False)

    @property
    def lines(self) -> list[str]:
        """Its lines."""
        return self.text.split("\n")


class KernelFiles:
    """Finds the files of a kernel under a folder.

    Parameters
    ----------
    folder : path or None
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._matches: dict[tuple[int, str], tuple[Artifact | None, str]] = {}
        self._texts: dict[tuple[int, str], dict[Level, LevelText]] = {}

    def artifact(self, site: Site) -> Artifact | None:
        """The cubin of the folder that holds the code of a site."""
        return self._match(site)[0]

    def notes(self, site: Site) -> tuple[str, ...]:
        """Why levels are missing, where a folder was given."""
        note = self._match(site)[1]
        return (note,) if note else ()

    def texts(self, site: Site) -> dict[Level, LevelText]:
        """The text levels beside the cubin; without a folder only the PTX that the cubin itself holds."""
        if site.image is None or site.function is None:
            return {}
        key = (id(site.image), site.function)
        if key not in self._texts:
            self._texts[key] = dict(self._read(site))
        return self._texts[key]

    def _read(self, site: Site) -> Iterator[tuple[Level, LevelText]]:
        artifact = self.artifact(site)
        for level in _LEVELS:
            sibling = None if artifact is None else artifact.siblings.get(level)
            if sibling is not None:
                path = sibling if isinstance(sibling, Path) else None
                text = (sibling if isinstance(sibling, bytes) else sibling.read_bytes()).decode("utf-8", "replace")
                try:
                    yield level, LevelText(level, path, text, tuple(chains(level, text)))
                except ArtifactError:  # MLIR of a release whose text is not known: shown, not joined
                    yield level, LevelText(level, path, text, ((),) * (text.count("\n") + 1))
            elif level is Level.PTX and site.image is not None and any(site.image.ptx):
                text = "\n".join(site.image.ptx)
                yield level, LevelText(level, None, text, tuple(chains(level, text)))

    def lines(self, site: Site) -> tuple[LevelLine, ...]:
        """The line of each level, Python first."""
        found = []
        texts = self.texts(site)
        ptx = texts.get(Level.PTX)
        chain = _chain(site.source)
        if site.ptx_line is not None and ptx is not None and site.ptx_line <= len(ptx.chains):
            # The PTX at hand has the lines of the PTX in the cubin, comments and directives included.
            chain = ptx.chains[site.ptx_line - 1] or chain
        if chain:
            found.append(self._python(site, chain))
        for level, text in texts.items():
            if level is Level.PTX:
                if site.ptx_line is not None:
                    shown = text.lines[site.ptx_line - 1].strip() if site.ptx_line <= len(text.lines) else site.ptx
                    found.append(LevelLine("ptx", str(text.path or ""), site.ptx_line, shown or ""))
                continue
            matching = _matching(text, chain)
            if matching:
                line = _likeliest(text, matching, site)
                others = tuple(other for other in matching if other != line)
                found.append(LevelLine(str(level), str(text.path or ""), line, text.lines[line - 1].strip(), others))
        return tuple(found)

    def _python(self, site: Site, chain: Chain) -> LevelLine:
        # The kernel's own line is the one to look at; what was inlined into it is library code.
        own, inlined = chain[0], chain[1:]
        path = next((str(path) for path in self._places(own.file, site)), own.file)
        text = linecache.getline(path, own.line).strip()
        return LevelLine("python", path, own.line, text, (), tuple(str(line) for line in inlined))

    def _places(self, file: str, site: Site) -> Iterator[Path]:
        """Where a Python file may lie: as the compiler saw it, or beside the kernel."""
        artifact = self.artifact(site)
        folders = [self._folder] if self._folder is not None else []
        if artifact is not None and artifact.path is not None:
            folders.append(artifact.path.parent)
        candidates = [Path(file), *(folder / Path(file).name for folder in folders if folder is not None)]
        return (path for path in candidates if path.is_file())

    def _match(self, site: Site) -> tuple[Artifact | None, str]:
        if self._folder is None or site.image is None or site.function is None:
            return None, ""
        function = site.image.function(site.function)
        name = site.function if function is None else site.image.main(function).name
        key = (id(site.image), name)
        if key not in self._matches:
            self._matches[key] = self._search(site.image, name)
        return self._matches[key]

    def _search(self, image: ModuleImage, name: str) -> tuple[Artifact | None, str]:
        """The cubin under the folder whose function of this name has the same code."""
        assert self._folder is not None
        if not self._folder.exists():
            raise ArtifactError(f"expected a folder with compiled kernels, found nothing at {self._folder}")
        root = self._folder if self._folder.is_dir() else self._folder.parent
        files = sorted(root.rglob("*.cubin"), key=lambda file: (file.stem != name, str(file)))
        differing = None
        for file in files:
            try:
                data = file.read_bytes()
                if name.encode() not in data:
                    continue  # a cache has thousands of others
                other = ModuleImage(data)
                same = image.same_code(other, name)
            except (ImageError, OSError):
                continue  # no kernel that could have died
            if same:
                try:
                    return Artifact.from_file(file), ""
                except (ArtifactError, MetadataError) as error:
                    return None, f"{file} is the kernel that died, but what is beside it cannot be read: {error}"
            if other.function(name) is not None:
                differing = differing or file
        if differing is not None:
            return None, f"{differing} has a kernel {name!r}, but with other code than the one that died"
        return None, f"none of {len(files)} cubins under {root} has a kernel {name!r}"


def _chain(source: SourceLine | None) -> Chain:
    found = []
    while source is not None:
        found.append(Line(source.file, source.line))
        source = source.inlined_at
    return tuple(found)


def _matching(text: LevelText, chain: Chain) -> list[int]:
    """The lines of a level that came from the same source line: the whole chain, else the kernel's own line."""
    wanted = _names(chain)
    named = [(i, _names(other)) for i, other in enumerate(text.chains, 1) if other]
    whole = [i for i, names in named if names == wanted]
    return whole or [i for i, names in named if names[-1:] == wanted[-1:]]


def _names(chain: Sequence[Line]) -> list[tuple[str, int]]:
    return [(line.name, line.line) for line in chain]


def _likeliest(text: LevelText, matching: list[int], site: Site) -> int:
    opcode = site.instruction.opcode if site.instruction is not None else ""
    start = max((key for key in _OPERATIONS if opcode.startswith(key)), key=len, default="")
    lines = text.lines
    for word in _OPERATIONS.get(start, ()):
        for number in matching:
            if word in lines[number - 1]:
                return number
    return matching[0]
