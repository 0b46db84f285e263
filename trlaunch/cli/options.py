"""Options that several commands share, and how they become a kernel."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import trlaunch
from trlaunch.arguments import ArgumentSpec, UsageError

__all__ = [
    "CompileOption",
    "DeviceOption",
    "File",
    "Json",
    "MetadataOption",
    "NameOption",
    "SignatureOption",
    "TargetOption",
    "compile_options",
    "open_kernel",
    "split_arguments",
]

File = Annotated[
    Path,
    typer.Argument(exists=True, help="A compiled kernel (cubin, PTX, ...), or a folder of Triton's cache."),
]
MetadataOption = Annotated[
    Path | None,
    typer.Option(
        "--metadata", "-m", exists=True, dir_okay=False, help="Triton's JSON; by default the one beside FILE."
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="The kernel, where FILE holds several.", show_default=False)
]
SignatureOption = Annotated[
    str | None,
    typer.Option(
        "--signature",
        help='Types of the arguments, where no text level states them: "*fp32,*fp32,i32".',
        metavar="TYPES",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", "-d", help="cuda, cuda:1, hip or emulator; by default the GPU, else the emulator."),
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", "-t", help="cuda:90; by default what FILE or its metadata says."),
]
CompileOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="A compile option by Triton's name: num_warps=8. Repeatable.", metavar="NAME=VALUE"),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of tables.")]


_WORDS = {"true": True, "false": False, "none": None}


def compile_options(texts: Sequence[str] | None, option: str = "--option") -> dict[str, Any]:
    """``["num_warps=8"]`` as names and Python values; what is no number, word or tuple of numbers stays text.

    Raises
    ------
    UsageError
        One has no ``=``, or one name comes twice.
    """
    options: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {text!r}: expected NAME=VALUE, for example num_warps=8")
        if name in options:
            raise UsageError(f"{option} {name} is given twice")
        try:
            options[name] = _WORDS[value.lower()] if value.lower() in _WORDS else ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def open_kernel(
    file: Path,
    metadata: Path | None,
    name: str | None,
    signature: str | None,
    device: str | None,
    dump: Sequence[trlaunch.At] = (),
) -> trlaunch.Kernel:
    """The kernel that the shared options name."""
    wanted = tuple(dump) or None
    if file.is_dir():
        return trlaunch.Kernel.from_cache(file, name=name, signature=signature, device=device, dump=wanted)
    return trlaunch.Kernel.from_file(file, metadata, name=name, signature=signature, device=device, dump=wanted)


def split_arguments(specs: list[ArgumentSpec]) -> tuple[list[ArgumentSpec], dict[str, ArgumentSpec]]:
    """Arguments in order, and those by name.

    Raises
    ------
    UsageError
        One is given twice, or a position is left out.
    """
    by_position = {spec.key: spec for spec in specs if isinstance(spec.key, int)}
    named = {spec.key: spec for spec in specs if isinstance(spec.key, str)}
    if len(by_position) + len(named) != len(specs):
        raise UsageError("an argument was given twice")
    if missing := sorted(set(range(len(by_position))) - by_position.keys()):
        raise UsageError(f"argument {missing[0]} is missing: expected positions from 0 without a gap")
    return [by_position[i] for i in range(len(by_position))], named
