"""One build of a kernel as it is compared: metadata, resources, machine code and texts, each with its source lines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.comparison.normal import SASS, expanded
from trlaunch.errors import ArtifactError, AssemblerError, AssemblerMissing
from trlaunch.image import Image, ImageKernel
from trlaunch.source_lines import Line, chains, own_line

__all__ = ["Build", "Code", "read"]

TEXTS = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX, Level.AMDGCN)

# What Triton writes that names the build and not the kernel.
_NAMES_OF_BUILDS = ("hash", "triton_version", "name")


@dataclass(frozen=True, slots=True)
class Code:
    """The lines of one level that hold code, each with the kernel's own source line where it is known."""

    lines: tuple[str, ...]
    sources: tuple[Line | None, ...]

    def by_line(self) -> Mapping[tuple[str, int], list[str]]:
        """Lines of code by file name and line of the source; code of no line is left out."""
        found: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
        for text, source in zip(self.lines, self.sources, strict=True):
            if source is not None:
                found[source.name, source.line].append(text)
        return found


@dataclass(slots=True)
class Build:
    """One build.

    Attributes
    ----------
    label : str
        What to call it.
    artifact : Artifact
    kernel : str or None
        Symbol, where there is a binary.
    metadata : mapping
        Triton's JSON without what names the build.
    resources : mapping
        What the binary says it uses; empty without one.
    code : mapping of str to Code
        By level; `SASS` for the disassembly.
    opcodes : Counter
        Mnemonics of the disassembly with their modifiers.
    notes : list of str
        What could not be had, and why.
    """

    label: str
    artifact: Artifact
    kernel: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, int] = field(default_factory=dict)
    code: dict[str, Code] = field(default_factory=dict)
    opcodes: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def read(source: str | Path | Artifact, *, name: str | None = None, label: str | None = None) -> Build:
    """Read one build with all levels beside it.

    Parameters
    ----------
    source : path or Artifact
        A file of any level, or a folder of Triton's cache.
    name : str, optional
        The kernel, where there are several.
    label : str, optional
        Left out, the path.

    Raises
    ------
    ArtifactError, MetadataError, ImageError
        A file cannot be read.
    """
    artifact = source if isinstance(source, Artifact) else _open(Path(source), name)
    build = Build(label or str(artifact.path or artifact.label), artifact)
    levels = {artifact.level: artifact}
    for level in artifact.siblings:
        other = artifact.sibling(level)
        if other is not None:
            levels[level] = other
    if artifact.metadata is not None:
        build.metadata = {k: v for k, v in artifact.metadata.raw.items() if k not in _NAMES_OF_BUILDS}
    binary = levels.get(Level.CUBIN) or levels.get(Level.HSACO)
    if binary is not None:
        _read_binary(build, binary, name)
    else:
        build.notes.append("there is no binary beside it: registers, spills and machine code are not known")
    for level in TEXTS:
        if level in levels:
            build.code[level] = _text(level, levels[level].text, build.notes)
    return build


def _open(path: Path, name: str | None) -> Artifact:
    return Artifact.from_cache(path, name) if path.is_dir() else Artifact.from_file(path)


def _read_binary(build: Build, binary: Artifact, name: str | None) -> None:
    image, instructions = _image(binary), None
    metadata = build.artifact.metadata
    if name is None and metadata is not None:
        name = metadata.name
        if name is not None and name not in image.kernels and len(image.kernels) == 1:
            build.notes.append(f"the metadata is of {name!r}, the binary of {next(iter(image.kernels))!r}")
            name = None
    entry = image.kernel(name)
    build.kernel = entry.name
    build.resources = _resources(entry, build)
    try:
        instructions = _disassembled(binary, entry.name)
    except AssemblerMissing as error:
        build.notes.append(f"no machine code is compared: {error}")
        return
    except AssemblerError as error:
        build.notes.append(f"its machine code could not be disassembled: {error}")
        return
    # What stands behind the last instruction that can be reached fills the section.
    while instructions and instructions[-1][0].split(" ")[0] in ("NOP", "s_code_end"):
        instructions.pop()
    build.code[SASS] = Code(tuple(text for text, _ in instructions), tuple(line for _, line in instructions))
    build.opcodes = Counter(text.split(" ")[1 if text.startswith("@") else 0] for text, _ in instructions)
    build.resources = {**build.resources, "instructions": len(instructions)}


def _image(binary: Artifact) -> Image:
    if binary.level is Level.CUBIN:
        from trlaunch.cuda.image import read_image

        return read_image(binary.data)
    from trlaunch.hip.image import read_image as read_hsaco

    return read_hsaco(binary.data)


def _disassembled(binary: Artifact, kernel: str) -> list[tuple[str, Line | None]]:
    if binary.level is Level.CUBIN:
        from trlaunch.cuda.disassembler import disassemble

        found = []
        for instruction in disassemble(binary.data, kernel):
            source = instruction.source
            while source is not None and source.inlined_at is not None:
                source = source.inlined_at
            text = (f"@{instruction.predicate} " if instruction.predicate else "") + instruction.text
            found.append((text, Line(source.file, source.line) if source else None))
        return found
    from trlaunch.hip.disassembler import disassemble as disassemble_hsaco

    return [
        (i.text, Line(i.source.file, i.source.line) if i.source else None)
        for i in disassemble_hsaco(binary.data, kernel)
    ]


def _resources(entry: ImageKernel, build: Build) -> dict[str, int]:
    metadata = build.artifact.metadata
    rows: dict[str, int | None] = {
        "registers": entry.registers,
        "scalar registers": entry.scalar_registers,
        "accumulation registers": entry.accumulation_registers,
        "spill instructions": entry.spill_instructions,
        "spilled registers": entry.spilled_registers,
        "spilled scalar registers": entry.spilled_scalar_registers,
        "local bytes": entry.local_bytes,
        "static shared bytes": entry.static_shared,
        "dynamic shared bytes": metadata.shared if metadata else None,
        "parameter bytes": entry.param_bytes,
        "threads": entry.block_threads,
    }
    return {name: value for name, value in rows.items() if value is not None}


def _text(level: Level, text: str, notes: list[str]) -> Code:
    lines = text.split("\n")
    try:
        found = chains(level, text)
    except ArtifactError as error:
        notes.append(f"its {level} is compared without source lines: {error}")
        found = [()] * len(lines)
    if level in (Level.TTIR, Level.TTGIR):
        lines = expanded(lines)
    pairs = [(line, own_line(chain)) for line, chain in zip(lines, found, strict=True) if _is_code(level, line)]
    return Code(tuple(line for line, _ in pairs), tuple(source for _, source in pairs))


def _is_code(level: Level, line: str) -> bool:
    bare = line.strip()
    if not bare or bare in ("{", "}", "(", ")"):
        return False
    if level in (Level.TTIR, Level.TTGIR):
        return not bare.startswith(("#", "//"))
    if level is Level.LLIR:
        return not bare.startswith((";", "!", "source_filename", "target "))
    if level is Level.PTX:
        return not bare.startswith(("//", ".loc", ".file", ".section", ".b8", ".b32", ".b64", ".b16"))
    return not bare.startswith((";", ".", "//"))
