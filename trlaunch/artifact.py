"""Artifact: one file's content at one level, with the metadata and the other levels that lie beside it."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trlaunch.errors import ArtifactError, FallbackWarning, MetadataError, warn
from trlaunch.metadata import Metadata
from trlaunch.records import dataclass, field

if TYPE_CHECKING:
    from trlaunch.driver import Device
    from trlaunch.signature import Source
    from trlaunch.target import Target

__all__ = ["BUNDLE_MAGIC", "Artifact", "Level"]

BUNDLE_MAGIC = b"\x89TRK\r\n\x1a\n"
"""How a bundle begins: a file of several levels and targets (`trlaunch.bundle`), of which an artifact is one."""


class Level(str, Enum):
    """The levels a kernel passes through, in the order of compilation."""

    PYTHON = "python"
    GLUON = "gluon"
    TTIR = "ttir"
    TTGIR = "ttgir"
    LLIR = "llir"
    PTX = "ptx"
    CUBIN = "cubin"
    AMDGCN = "amdgcn"
    HSACO = "hsaco"

    def __str__(self) -> str:
        return self.value

    @property
    def is_binary(self) -> bool:
        """Whether a file of this level is loaded by a driver as it is."""
        return self in (Level.CUBIN, Level.HSACO)


_EXTENSIONS: dict[str, Level] = {f".{level.value}": level for level in Level}
_EXTENSIONS[".py"] = Level.PYTHON  # and no file ends in .python or .gluon
_BINARY_FIRST = (Level.CUBIN, Level.HSACO, Level.PTX, Level.AMDGCN, Level.LLIR, Level.TTGIR, Level.TTIR)

# ELF machine numbers: the System V ABI registry of e_machine values.
_ELF_MACHINES = {190: Level.CUBIN, 224: Level.HSACO}
_FATBIN_MAGIC = b"\x50\xed\x55\xba"

# Patterns; the first match wins. TTIR and TTGIR differ by the module's attributes: TTIR may hold single TritonGPU
# operations. The
# dialect was called triton_gpu up to Triton 3.2 and is ttg from 3.3 on.
# Level, what must be in the text, and the mark itself, which is compiled only then.
_TEXT_MARKS = (
    (Level.AMDGCN, ".amdgcn_target", r"(?m)^[ \t]*\.amdgcn_target\b"),
    (Level.PTX, ".version", r"(?m)^[ \t]*\.version[ \t]+\d+\.\d+\s+\.target[ \t]+sm_\d+"),
    (Level.PTX, ".entry", r"(?m)^[ \t]*(?:\.visible[ \t]+)?\.entry\b"),
    (Level.TTGIR, "tt.func", r"\btt\.func\b"),  # refined to TTIR below
    (Level.LLIR, "define", r"(?m)^define\b.*\("),
    (Level.GLUON, "gluon", r"(?m)^[ \t]*@(?:\w+\.)?gluon\.jit\b|^[ \t]*from triton\.experimental import gluon\b"),
    (Level.PYTHON, "", r"(?m)^[ \t]*@(?:\w+\.)*jit\b|^[ \t]*import triton\b|^[ \t]*from triton\b"),
    # Saved between passes by trlaunch, in LLVM's dialect of MLIR.
    (Level.TTGIR, "// trlaunch: ", r"\A// trlaunch: (?:after|before) "),
)
_GPU_MODULE = r'"(?:ttg|triton_gpu)\.num-warps"\s*='


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file's content at one level.

    Attributes
    ----------
    level : Level
    data : bytes
    path : pathlib.Path or None
        Where it came from.
    metadata : Metadata or None
    siblings : mapping of Level to pathlib.Path or bytes
        The same kernel at other levels: files of the same stem in the same folder, or content at hand.
    parameters : Source or None
        The user's parameters as a bundle states them.
    constants : mapping
        The constexpr arguments that were compiled in, as far as a bundle says or a function was compiled here.
    """

    level: Level
    data: bytes = field(repr=False)
    path: Path | None = None
    metadata: Metadata | None = None
    siblings: Mapping[Level, Path | bytes] = field(default_factory=dict, repr=False)
    parameters: Source | None = field(default=None, repr=False)
    constants: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        metadata: str | Path | Mapping[str, Any] | Metadata | None = None,
        device: str | Device | None = None,
        target: Target | str | None = None,
    ) -> Artifact:
        """Read a file; its level is known by content first, by extension second.

        Parameters
        ----------
        path : path
        metadata : path, mapping, Metadata or None
            Triton's JSON; left out, ``<stem>.json`` beside the file is taken where it exists.
        device : str, optional
            Chooses the target where the file is a bundle of several; left out, the default device.
        target : str or Target, optional
            That one of the bundle's targets.

        Raises
        ------
        ArtifactError
            The file cannot be read or is none of the levels.
        MetadataError
            The metadata cannot be read.
        """
        path = _path(path)
        data = _read(path)
        if data.startswith(BUNDLE_MAGIC):
            return _bundled(data, path, metadata, device, target)
        beside = path.with_name(path.stem + ".json")
        if metadata is None and beside.is_file():
            metadata = beside
        siblings: dict[Level, Path | bytes] = {
            level: other
            for extension, level in _EXTENSIONS.items()
            if (other := path.with_name(path.stem + extension)) != path and other.is_file()
        }
        return cls(_level(data, path), data, path, _metadata(metadata), siblings)

    @classmethod
    def from_bytes(
        cls,
        data: bytes | bytearray | memoryview | str,
        metadata: str | Path | Mapping[str, Any] | Metadata | None = None,
        level: Level | str | None = None,
        device: str | Device | None = None,
        target: Target | str | None = None,
    ) -> Artifact:
        """Take content at hand; `level` only where the content does not tell, the others as for `from_file`."""
        if not isinstance(data, (str, bytes, bytearray, memoryview)):
            raise ArtifactError(f"expected the content of a file, bytes or text, found {type(data).__name__}")
        named = isinstance(data, str) and Path(data).suffix in _EXTENSIONS and "\n" not in data
        data = data.encode() if isinstance(data, str) else bytes(data)
        if data.startswith(BUNDLE_MAGIC):
            return _bundled(data, None, metadata, device, target)
        found = detect(data)
        if found is None and level is None:
            hint = "; a file is read by its name with from_file" if named else ""
            raise ArtifactError(
                f"content of no known level: {_look(data)}; expected one of {_names()}, or level=...{hint}"
            )
        if level is not None:
            level = _known(level)
            if found is not None and found is not level:
                raise ArtifactError(
                    f"content is {found}, level={level} was given: leave level out or give the right file"
                )
        return cls(level or found, data, None, _metadata(metadata))  # type: ignore[arg-type]

    @classmethod
    def from_cache(cls, directory: str | Path, name: str | None = None, level: Level | str | None = None) -> Artifact:
        """Take a kernel from a Triton cache folder (the one named by a hash, with ``<kernel>.json`` in it).

        Parameters
        ----------
        directory : path
        name : str, optional
            Kernel, where the folder holds several.
        level : Level or str, optional
            Which file to take; left out, the binary, else the lowest text level there is.
        """
        directory = _path(directory)
        if not directory.is_dir():
            raise ArtifactError(f"{str(directory)!r} is not a folder: expected a folder of Triton's cache")
        found = _kernels_in(directory)
        if not found:
            inner = sorted(p.name for p in directory.iterdir() if p.is_dir() and _kernels_in(p))
            hint = f"; it holds {len(inner)} cache folders ({', '.join(inner[:3])}, ...): give one" if inner else ""
            raise ArtifactError(f"no <kernel>.json in {str(directory)!r}: expected a folder of Triton's cache{hint}")
        if name is None:
            stem = next(iter(found)) if len(found) == 1 else None
        else:
            stem = next((s for s in (name, f"@{name}") if s in found), None)  # @name: compiled from a .ttir by Triton
        if stem is None:
            asked = "several kernels are" if name is None else f"kernel {name!r} is not"
            raise ArtifactError(f"{asked} in {str(directory)!r}: expected name=, one of {', '.join(sorted(found))}")
        wanted = _BINARY_FIRST if level is None else (_known(level),)
        for candidate in wanted:
            path = directory / f"{stem}.{candidate}"
            if path.is_file():
                return cls.from_file(path, found[stem])
        there = (
            ", ".join(sorted(p.suffix[1:] for p in directory.glob(f"{stem}.*") if p.suffix != ".json")) or "no level"
        )
        raise ArtifactError(f"{stem} in {str(directory)!r} has {there}: expected {' or '.join(map(str, wanted))}")

    @property
    def text(self) -> str:
        """The content as text.

        Raises
        ------
        ArtifactError
            The level is binary, or the content is not UTF-8.
        """
        if self.level.is_binary:
            raise ArtifactError(f"{self.label} is a {self.level}: it has no text")
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{self.label}: expected UTF-8 text, found byte {error.start} that is not") from None

    @property
    def label(self) -> str:
        """What to call it in messages: the file name, else its level."""
        return self.path.name if self.path else f"the {self.level} given"

    def sibling(self, level: Level) -> Artifact | None:
        """The same kernel at another level, read from beside the file; ``None`` where there is none."""
        path = self.siblings.get(level)
        if path is None or isinstance(path, bytes):
            return None if path is None else Artifact(level, path, None, self.metadata)
        data = _read(path)
        found = detect(data)
        if found is not level:
            raise ArtifactError(f"{path.name} beside {self.label} should be {level}, found {found or _look(data)}")
        return Artifact(level, data, path, self.metadata)


def detect(data: bytes) -> Level | None:
    """Level of some content, ``None`` when nothing tells.

    Raises
    ------
    ArtifactError
        The content is known and is no level: a fatbin, an ELF file for another machine.
    """
    if data[:4] == b"\x7fELF":
        if len(data) < 20:
            raise ArtifactError(f"an ELF file cut off after {len(data)} bytes")
        machine = struct.unpack_from(">H" if data[5] == 2 else "<H", data, 18)[0]
        if machine in _ELF_MACHINES:
            return _ELF_MACHINES[machine]
        raise ArtifactError(
            f"an ELF file for machine {machine}: expected 190 (EM_CUDA, a cubin) or 224 (EM_AMDGPU, hsaco)"
        )
    if data[:4] == _FATBIN_MAGIC:
        raise ArtifactError("a CUDA fatbin: expected a cubin; take it out with `cuobjdump -xelf all FILE`")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    for level, word, mark in _TEXT_MARKS:
        if word in text and re.search(mark, text):
            if level is Level.TTGIR:
                return Level.TTGIR if "num-warps" in text and re.search(_GPU_MODULE, text) else Level.TTIR
            return level
    return None


def _bundled(
    data: bytes, path: Path | None, metadata: Any, device: str | Device | None, target: Target | str | None
) -> Artifact:
    from trlaunch.bundle import Bundle, decode

    bundle = Bundle(path, decode(data, path.name if path else "the bundle"))
    if metadata is not None:
        raise ArtifactError(f"{bundle.label} holds its metadata: leave metadata= out")
    return bundle.artifact(device, target)


def _known(level: Level | str) -> Level:
    try:
        return Level(level)
    except ValueError:
        raise ArtifactError(f"level {level!r} does not exist: expected one of {_names()}") from None


def _kernels_in(directory: Path) -> dict[str, Path]:
    """The metadata of each kernel in a folder, by stem: a JSON with a file of some level beside it."""
    levels: dict[str, set[str]] = {}
    for path in directory.iterdir():
        levels.setdefault(path.stem, set()).add(path.suffix)
    return {
        stem: directory / f"{stem}.json"
        for stem, suffixes in sorted(levels.items())
        if ".json" in suffixes and not _EXTENSIONS.keys().isdisjoint(suffixes)
    }


def _level(data: bytes, path: Path) -> Level:
    found = detect(data)
    stated = _EXTENSIONS.get(path.suffix)
    if found is None:
        if stated is None or stated.is_binary:
            hint = "; it is the metadata of the file beside it: give that one" if _is_metadata(path) else ""
            raise ArtifactError(
                f"{path.name}: content of no known level ({_look(data)}); expected one of {_names()}{hint}"
            )
        return stated
    if stated not in (None, found) and {stated, found} != {Level.PYTHON, Level.GLUON}:
        warn(f"{path.name} is {found} by its content and is taken as that", FallbackWarning)
    return found


def _metadata(value: str | Path | Mapping[str, Any] | Metadata | None) -> Metadata | None:
    if value is None or isinstance(value, Metadata):
        return value
    if isinstance(value, (str, Path)):
        return Metadata.from_file(value)
    if isinstance(value, Mapping):
        return Metadata.from_dict(value)
    raise MetadataError(f"metadata is a {type(value).__name__}: expected a path, a mapping or trlaunch.Metadata")


def _is_metadata(path: Path) -> bool:
    return path.suffix == ".json" and any(path.with_suffix(extension).is_file() for extension in _EXTENSIONS)


def _path(value: Any) -> Path:
    try:
        return Path(value)
    except TypeError:
        raise ArtifactError(f"expected a path, a str or os.PathLike, found {type(value).__name__}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the name
        raise ArtifactError(f"{str(path)!r} is no file name: {error}") from None


def _look(data: bytes) -> str:
    return f"it begins with {data[:16]!r}" if data else "it is empty"


def _names() -> str:
    return ", ".join(level.value for level in Level)
