"""``trlaunch inspect FILE``: what a file says about its kernels. No device is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from trlaunch import Artifact, ArtifactError, Image, ImageKernel, Kernel, Level, SignatureError
from trlaunch.artifact import BUNDLE_MAGIC
from trlaunch.bundle import load
from trlaunch.cli.exits import reporting
from trlaunch.cli.options import File, Json, MetadataOption, NameOption, SignatureOption
from trlaunch.cli.output import facts, print_json, table
from trlaunch.code import Code
from trlaunch.image import nearest
from trlaunch.signature import from_func, from_llir

__all__ = ["inspect"]

_COLUMNS = ("index", "name", "type", "offset", "size", "role", "divisibility")
_FUNCTIONS = {
    Level.TTIR: re.compile(r"\btt\.func\s+public\s+@\"?([\w.$]+)\"?\("),
    Level.TTGIR: re.compile(r"\btt\.func\s+public\s+@\"?([\w.$]+)\"?\("),
    Level.LLIR: re.compile(r"^define\b[^\n@]*\b(?:ptx|amdgpu)_kernel\b[^\n@]*@\"?([\w.$]+)\"?\(", re.M),
}


def inspect(
    file: File,
    metadata: MetadataOption = None,
    name: NameOption = None,
    signature: SignatureOption = None,
    as_json: Json = False,
) -> None:
    """Show level, target, kernels, parameters, resources and metadata of a compiled kernel."""
    with reporting(as_json):
        described = [_describe(artifact, name, signature) for artifact in _artifacts(file, metadata, name)]
        if as_json:
            print_json(described[0] if len(described) == 1 else {"file": str(file), "entries": described})
        else:
            for i, one in enumerate(described):
                typer.echo("" if i else None, nl=bool(i))
                _show(one)


def _artifacts(file: Path, metadata: Path | None, name: str | None) -> Iterable[Artifact]:
    """The artifact that a file is; of a bundle every one, whatever device is at hand."""
    if file.is_dir():
        return [Artifact.from_cache(file, name)]
    with file.open("rb") as opened:
        is_bundle = opened.read(len(BUNDLE_MAGIC)) == BUNDLE_MAGIC
    return load(file).artifacts() if is_bundle and metadata is None else [Artifact.from_file(file, metadata)]


def _describe(artifact: Artifact, name: str | None, signature: str | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "file": str(artifact.path),
        "level": str(artifact.level),
        "siblings": sorted(str(level) for level in artifact.siblings),
        "metadata": None if artifact.metadata is None else dict(artifact.metadata.raw),
        "release": None if artifact.metadata is None else artifact.metadata.releases,
        "constants": dict(artifact.constants),
    }
    image = _image(artifact)
    if image is not None:
        described |= {"target": str(image.target), "toolchain": image.toolchain}
        entries = [image.kernel(name)] if name else list(image.kernels.values())
        described["kernels"] = [_image_kernel(artifact, entry, signature) for entry in entries]
    elif artifact.level in _FUNCTIONS:
        target = artifact.metadata.target if artifact.metadata else None
        described["target"] = None if target is None else str(target)
        described["kernels"] = _text_kernels(artifact, name)
    else:
        raise ArtifactError(
            f"{artifact.label} is {artifact.level}, which this version cannot look into: expected cubin, ptx, hsaco, "
            f"amdgcn, llir, ttgir or ttir"
        )
    return described


def _image(artifact: Artifact) -> Image | None:
    if artifact.level is Level.CUBIN:
        from trlaunch.cuda.image import read_image

        return read_image(artifact.data)
    if artifact.level is Level.HSACO:
        from trlaunch.hip.image import read_image as read_hsaco

        return read_hsaco(artifact.data)
    if artifact.level is Level.AMDGCN:
        return Code.of(artifact, None, None, None).image  # its assembler lays the arguments out
    if artifact.level is Level.PTX:
        from trlaunch.emulator.image import read_image as read_ptx

        return read_ptx(artifact.data)
    return None


def _image_kernel(artifact: Artifact, entry: ImageKernel, given: str | None) -> dict[str, Any]:
    """One kernel of a cubin or PTX; where its roles and types cannot be told, the bare layout and why."""
    described = asdict(entry)
    try:
        signature = Kernel(artifact, name=entry.name, signature=given).signature
    except SignatureError as error:
        described["note"] = str(error)
        return described
    described["params"] = [{column: getattr(p, column) for column in _COLUMNS} for p in signature]
    described["sources"] = list(signature.sources)
    if artifact.metadata is not None and artifact.metadata.name not in (None, entry.name):
        described["note"] = f"the metadata is of {artifact.metadata.name!r}"
    return described


def _text_kernels(artifact: Artifact, name: str | None) -> list[dict[str, Any]]:
    found = {n: n for n in _FUNCTIONS[artifact.level].findall(artifact.text)}
    if name is not None and name not in found:
        raise ArtifactError(f"no kernel {name!r} in {artifact.label}: {nearest(name, found)}")
    if not found:
        marks = "a define ptx_kernel or amdgpu_kernel" if artifact.level is Level.LLIR else "a public tt.func"
        raise ArtifactError(
            f"{artifact.label} is taken for {artifact.level} by its name, and holds no kernel: expected {marks}"
        )
    kernels = []
    for symbol in [name] if name else found:
        source = (
            from_llir(artifact.text, symbol)
            if artifact.level is Level.LLIR
            else from_func(artifact.text, symbol, str(artifact.level))
        )
        slots = source.slots if source else ()
        params = [
            {"index": i, "name": s.name, "type": s.type, "size": s.size, "divisibility": s.divisibility}
            for i, s in enumerate(slots)
        ]
        kernels.append({"name": symbol, "params": params})
    return kernels


def _show(described: dict[str, Any]) -> None:
    metadata = described["metadata"] or {}
    facts(
        [
            ("file", Path(described["file"]).name),
            ("level", described["level"]),
            ("target", described.get("target")),
            ("made by", described.get("toolchain")),
            ("beside it", ", ".join(described["siblings"])),
            ("metadata", f"Triton {described['release']}" if metadata else "none"),
            *((key, metadata[key]) for key in _SHOWN_METADATA if metadata.get(key)),
            ("compiled in", ", ".join(f"{key} = {value!r}" for key, value in described["constants"].items())),
        ]
    )
    for kernel in described["kernels"]:
        _show_kernel(kernel)


# What a launch depends on, where it is set.
_SHOWN_METADATA = (
    "num_warps",
    "num_ctas",
    "cluster_dims",
    "shared",
    "tmem_size",
    "global_scratch_size",
    "profile_scratch_size",
    "launch_cooperative_grid",
    "launch_pdl",
    "maxnreg",
    "hash",
)


def _show_kernel(kernel: dict[str, Any]) -> None:
    typer.echo()
    facts([("kernel", kernel["name"]), *_resources(kernel)])
    typer.echo()
    table(_COLUMNS, [[param.get(column) for column in _COLUMNS] for param in kernel["params"]])
    if "note" in kernel:
        typer.echo(f"note: {kernel['note']}")


def _resources(kernel: dict[str, Any]) -> Iterable[tuple[str, str | None]]:
    if "param_bytes" not in kernel:  # a text level
        return
    required, largest, cluster = kernel["required_block"], kernel["max_threads"], kernel["cluster"]
    own_shared = kernel["static_shared"] - kernel["reserved_shared"]
    yield "block", _shape(required, "exactly ") or _shape(largest, "at most ")
    yield "cluster", _shape(cluster, "")
    yield "wavefront", _text(kernel["wave_size"], "threads")
    accumulation, scalar = kernel["accumulation_registers"], kernel["scalar_registers"]
    yield (
        "registers",
        _text(kernel["registers"], "a thread")
        if scalar is None
        else f"{kernel['registers']} VGPRs a thread"
        + (f", of them {accumulation} AGPRs" if accumulation else "")
        + f"; {scalar} SGPRs a wavefront",
    )
    if scalar is not None:
        spilled = kernel["spilled_registers"], kernel["spilled_scalar_registers"]
        yield "spilled", f"{spilled[0]} VGPRs, {spilled[1]} SGPRs" if any(spilled) else "none"
    yield "local memory", _text(kernel["local_bytes"], "bytes a thread")
    yield "spill instructions", _text(kernel["spill_instructions"], "")
    yield "static shared", _text(own_shared, "bytes")
    dynamic = kernel["uses_dynamic_shared"]
    yield "dynamic shared", None if dynamic is None else "yes; the metadata says how much" if dynamic else "none"
    yield "line table", "yes" if kernel["has_line_table"] else "no"
    yield (
        "parameters",
        f"{kernel['param_bytes']} bytes"
        + (f", aligned to {kernel['param_align']}" if kernel["param_align"] else "")
        + (f", read from {', '.join(kernel['sources'])}" if "sources" in kernel else ""),
    )

    if kernel["implicit"]:
        kinds = [param["type"].removeprefix("hidden_") for param in kernel["implicit"]]
        yield "filled by the runtime", f"{len(kinds)}: {', '.join(kinds)}"


def _shape(shape: tuple[int, ...] | None, prefix: str) -> str | None:
    return None if shape is None else prefix + " x ".join(map(str, shape))


def _text(value: int | None, unit: str) -> str | None:
    return None if value is None else f"{value} {unit}".rstrip()
