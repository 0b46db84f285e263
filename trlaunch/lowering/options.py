"""What a kernel was compiled with, read back from what lies beside it: target and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.errors import LoweringError
from trlaunch.target import Target

__all__ = ["jsonable", "kernel_name", "module_attributes", "options_of", "refuse_spent", "target_of", "warps_of"]

# "ttg.num-warps" = 4 : i32, ttg.target = "cuda:90"; the dialect was called triton_gpu up to Triton 3.2.
_ATTRIBUTE = re.compile(
    r'"?(?:ttg|triton_gpu)\.(num-warps|num-ctas|threads-per-warp|maxnreg|target)"? = (?:"([^"]*)"|(\d+))'
)
_PTX_TARGET = re.compile(r"^[ \t]*\.target[ \t]+(sm_\d+[af]?)", re.M)
_AMDGCN_TARGET = re.compile(r'^[ \t]*\.amdgcn_target[ \t]+"[^"]*(gfx[0-9a-f]+)', re.M)
_LLIR_CPU = re.compile(r'"target-cpu"="(sm_\d+[af]?|gfx[0-9a-f]+)"')

# How each level writes a kernel. A device function that was not inlined is private, internal or no .entry.
_KERNEL = {
    Level.TTIR: re.compile(r'^\s*tt\.func (?:public )?@"?([\w.$]+)', re.M),
    Level.TTGIR: re.compile(r'^\s*tt\.func (?:public )?@"?([\w.$]+)', re.M),
    Level.LLIR: re.compile(r'^define (?!internal|private)(?:[\w()]+ )*void @"?([\w.$]+)', re.M),
    Level.PTX: re.compile(r"^\s*(?:\.visible\s+)?\.entry\s+([\w$]+)", re.M),
    Level.AMDGCN: re.compile(r"^\s*\.amdhsa_kernel\s+([\w$]+)", re.M),
}
# Threads of a CTA: PTX's performance directive, and what becomes it (an annotation up to LLVM 19, an attribute since).
_THREADS = {
    Level.PTX: re.compile(r"^\s*\.(?:reqntid|maxntid)\s+(\d+)", re.M),
    Level.LLIR: re.compile(r'"nvvm\.(?:reqntid|maxntid)"="(\d+)|!"(?:reqntid|maxntid)x", i32 (\d+)'),
}
# Options that have done their work when a level is reached: from there on they change nothing.
_SPENT = {
    Level.TTGIR: ("num_warps", "num_ctas", "num_stages"),
    Level.LLIR: ("num_warps", "num_ctas", "num_stages", "maxnreg", "cluster_dims"),
}
_BELOW = (Level.LLIR, Level.PTX, Level.AMDGCN)


def module_attributes(text: str) -> dict[str, str]:
    """Attributes of a TTGIR module by name: ``{"num-warps": "4", "target": "cuda:90"}``."""
    head = text.find("module")
    return {m[1]: m[2] if m[2] is not None else m[3] for m in _ATTRIBUTE.finditer(text[head : head + 2000])}


def target_of(artifact: Artifact, given: Target | str | None = None) -> Target:
    """The target asked for, else the metadata's, else what the text states.

    Raises
    ------
    LoweringError
        Nothing states one.
    """
    if given is not None:
        return given if isinstance(given, Target) else Target.parse(given)
    if artifact.metadata is not None and artifact.metadata.target is not None:
        return artifact.metadata.target
    stated = None
    if artifact.level is Level.TTGIR:
        stated = module_attributes(artifact.text).get("target")
    elif not artifact.level.is_binary:
        pattern = {Level.PTX: _PTX_TARGET, Level.AMDGCN: _AMDGCN_TARGET, Level.LLIR: _LLIR_CPU}.get(artifact.level)
        match = pattern.search(artifact.text) if pattern else None
        stated = match[1] if match else None
    if stated is None:
        raise LoweringError(
            f"{artifact.label} does not say what it is for and there is no metadata beside it: "
            f"expected target=, for example target='cuda:90'",
            stage="target",
        )
    return Target.parse(stated)


def options_of(artifact: Artifact) -> dict[str, Any]:
    """Compile options by Triton's names: the metadata's, and over them the module's own attributes.

    The metadata's ``num_warps`` is the total, that of warp specialisation included; the TTGIR has what was asked for.
    Where neither tells, the option is left out.
    """
    options: dict[str, Any] = dict(artifact.metadata.raw) if artifact.metadata is not None else {}
    text = _ttgir(artifact)
    if text is not None:
        attributes = module_attributes(text)
        for attribute, option in (("num-warps", "num_warps"), ("num-ctas", "num_ctas"), ("maxnreg", "maxnreg")):
            if attribute in attributes:
                options[option] = int(attributes[attribute])
    elif artifact.level in _BELOW or (artifact.level is Level.TTIR and "tt.warp_specialize" in artifact.text):
        options.pop("num_warps", None)
    if artifact.level is Level.TTIR:
        options.pop("cluster_dims", None)  # what came of num_ctas; the layout of the CTAs is planned anew
    return options


def refuse_spent(artifact: Artifact, asked: Mapping[str, Any], stated: Mapping[str, Any]) -> None:
    """Refuse options that would change nothing any more at this level.

    Raises
    ------
    LoweringError
        One of them is asked for, with another value than the level was made with.
    """
    spent = _SPENT.get(Level.LLIR if artifact.level in _BELOW else artifact.level, ())
    for name in spent:
        if name in asked and (name not in stated or asked[name] != stated[name]):
            made = f"was made with {stated[name]}" if name in stated else "does not say what it was made with"
            raise LoweringError(
                f"option {name}={asked[name]!r} changes nothing from {artifact.level} on: {artifact.label} {made}; "
                f"start from an earlier level, or leave it out",
                stage="options",
            )


def kernel_name(artifact: Artifact) -> str | None:
    """Symbol of the kernel: the metadata's, else the text's where it has one; ``None`` where it has several."""
    if artifact.metadata is not None and artifact.metadata.name:
        return artifact.metadata.name
    pattern = _KERNEL.get(artifact.level)
    found = set(pattern.findall(artifact.text)) if pattern else set()
    return found.pop() if len(found) == 1 else None


def warps_of(artifact: Artifact) -> int | None:
    """Warps of a CTA in total as LLIR or PTX for CUDA states them in threads; ``None`` where it does not."""
    pattern = _THREADS.get(artifact.level)
    found = {int(next(filter(None, m.groups()))) for m in pattern.finditer(artifact.text)} if pattern else set()
    return found.pop() // 32 if len(found) == 1 else None


def _ttgir(artifact: Artifact) -> str | None:
    if artifact.level is Level.TTGIR:
        return artifact.text
    beside = artifact.sibling(Level.TTGIR)
    return None if beside is None else beside.text


def jsonable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as Triton writes it to JSON: targets as objects, tuples as lists."""
    return {key: _plain(value) for key, value in metadata.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _plain(vars(value)) if hasattr(value, "__dict__") else str(value)
