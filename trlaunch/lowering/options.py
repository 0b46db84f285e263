"""What a kernel was compiled with, read back from what lies beside it: target and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.errors import LoweringError
from trlaunch.target import Target

__all__ = ["module_attributes", "options_of", "target_of"]

# "ttg.num-warps" = 4 : i32, ttg.target = "cuda:90"; the dialect was called triton_gpu up to Triton 3.2.
_ATTRIBUTE = re.compile(
    r'"?(?:ttg|triton_gpu)\.(num-warps|num-ctas|threads-per-warp|maxnreg|target)"? = (?:"([^"]*)"|(\d+))'
)
_PTX_TARGET = re.compile(r"^[ \t]*\.target[ \t]+(sm_\d+[af]?)", re.M)
_AMDGCN_TARGET = re.compile(r'^[ \t]*\.amdgcn_target[ \t]+"[^"]*(gfx[0-9a-f]+)', re.M)
_LLIR_CPU = re.compile(r'"target-cpu"="(sm_\d+[af]?|gfx[0-9a-f]+)"')


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
    """
    options: dict[str, Any] = dict(artifact.metadata.raw) if artifact.metadata is not None else {}
    text = _ttgir(artifact)
    if text is not None:
        attributes = module_attributes(text)
        for attribute, option in (("num-warps", "num_warps"), ("num-ctas", "num_ctas"), ("maxnreg", "maxnreg")):
            if attribute in attributes:
                options[option] = int(attributes[attribute])
    elif artifact.level is Level.TTIR and "tt.warp_specialize" in artifact.text:
        options.pop("num_warps", None)
    return options


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
