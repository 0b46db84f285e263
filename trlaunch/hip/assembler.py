"""AMDGCN -> hsaco by LLVM, whichever there is: which one can read the text, how it is called, and what it says.

Triton writes the text with an LLVM of its own, ahead of every release of LLVM. What reads what was found by assembling
the text of Triton 3.0 to 3.9 for six architectures with Triton 3.5 to 3.9, LLVM 14, 16, 19, 20 and 22.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trlaunch import cache
from trlaunch.errors import AssemblerError, AssemblerMissing, LoweringError
from trlaunch.hip.note import wave_size
from trlaunch.hip.toolkit import Tool, find_tools, run, searched
from trlaunch.target import Target

__all__ = ["Assembled", "assemble", "choose", "find_assemblers", "text_target"]

_VARIABLE = "TRLAUNCH_AMDGPU_ASSEMBLER"
_LINKER_VARIABLE = "TRLAUNCH_LLD"
_TRIPLE = "amdgcn-amd-amdhsa"

OLDEST_LLVM = (19, 0)
"""The first release of LLVM that was tried and knows gfx942 and gfx1200."""

OLDEST_TRITON = (3, 5)
"""The first release of Triton that links in its own process."""

_TARGET = re.compile(r'^[ \t]*\.amdgcn_target[ \t]+"([^"]*)"', re.M)
_ARCH = re.compile(r"gfx[0-9a-f]+")
_FEATURES = re.compile(r":(xnack|sramecc)([+-])")
# Triton 3.9 names the triple amdgpu9.42-amd-amdhsa-unknown; LLVM up to 22 and Triton up to 3.8 know it as amdgcn.
_NEW_TRIPLE = re.compile(r'^([ \t]*\.amdgcn_target[ \t]+")amdgpu[\w.]*-amd-amdhsa-unknown-(gfx[0-9a-f:+-]*")', re.M)
# Triton 3.8 and 3.9, from gfx11 on: a function in an expression, which no released LLVM has.
_PREFETCH_EXPRESSION = re.compile(r"^[ \t]*\.amdhsa_inst_pref_size[ \t]+.*\binstprefsize\(", re.M)
# Triton 3.4 and later, from gfx11 on: LLVM 20 does not know the directive, 22 does.
_PREFETCH = re.compile(r"^[ \t]*\.amdhsa_inst_pref_size\b", re.M)
# "kernel.s:12:5: error: invalid instruction"
_DIAGNOSTIC = re.compile(r":(\d+):\d+: (?:fatal )?error: (.*)")
_CPU = re.compile(r"^\s+(gfx[0-9a-f]+)\b", re.M)


@dataclass(frozen=True, slots=True)
class Assembled:
    """An hsaco, and how it came about: `log` is what the tools printed, `assembler` the one that ran."""

    hsaco: bytes
    log: str
    assembler: Tool
    cached: bool


@dataclass(frozen=True, slots=True)
class _Text:
    """What decides who can read a text.

    Attributes
    ----------
    target : Target
    release : tuple of int or None
        Minor release of Triton that wrote it, where that is known.
    """

    text: str
    target: Target
    release: tuple[int, int] | None

    @classmethod
    def of(cls, text: str, release: str | None) -> _Text:
        target = text_target(text)
        known = re.match(r"(\d+)\.(\d+)", release or "")
        number = (int(known[1]), int(known[2])) if known else None
        if number is None and _NEW_TRIPLE.search(text):
            number = (3, 9)
        elif number is None and _PREFETCH_EXPRESSION.search(text):
            number = (3, 8)
        return cls(text, target, number)

    @property
    def is_gfx9(self) -> bool:
        return wave_size(self.target.arch) == 64

    def old_triple(self) -> str:
        """The text with the name of the target that every LLVM knows; it says nothing that ``-mcpu`` does not."""
        return _NEW_TRIPLE.sub(rf"\g<1>{_TRIPLE}--\g<2>", self.text)


def text_target(text: str) -> Target:
    """What an AMDGCN text is for, by its ``.amdgcn_target``.

    Raises
    ------
    AssemblerError
        There is none, so this is no AMDGCN.
    """
    found = _TARGET.search(text)
    arch = _ARCH.findall(found[1]) if found else []
    if found is None or not arch:
        line = text.strip().partition("\n")[0][:80]
        raise AssemblerError(f"expected AMDGCN with an .amdgcn_target directive, found text starting with {line!r}")
    suffix = "".join(f":{name}{sign}" for name, sign in _FEATURES.findall(found[1]))
    return Target("hip", arch[-1], suffix, wave_size(arch[-1]))


def find_assemblers() -> list[Tool]:
    """Every assembler at hand, an installed Triton first.

    ``TRLAUNCH_AMDGPU_ASSEMBLER`` names one (a clang or llvm-mc) to the exclusion of all others. Otherwise the places
    are, in this order: an installed triton, ``ROCM_PATH``, ``HIP_PATH``, the ``rocm-sdk`` packages, ``PATH``,
    ``/opt/rocm``, ``/usr/lib/llvm-*``, the ``ziglang`` package. Triton is not imported.
    """
    tools = find_tools("llvm-mc", "clang", variable=_VARIABLE)
    if os.environ.get(_VARIABLE):
        return tools
    return [*_triton(), *tools]


def _triton() -> list[Tool]:
    from trlaunch.lowering.triton_compiler import installed_release, release

    version = installed_release()
    return [] if version is None else [Tool("triton", (), version, release(), "in this process")]


def choose(text: str, release: str | None = None) -> tuple[Tool, Tool | None]:
    """The assembler that reads a text as it was meant, and the linker to go with it.

    The Triton that wrote it gives the same bytes again and comes first; then LLVM, the newest first; then a Triton of
    another release.

    Parameters
    ----------
    text : str
    release : str or None
        The release of Triton that wrote it (the metadata's); what the text itself tells is used without it.

    Returns
    -------
    assembler, linker : Tool, Tool or None
        Triton links by itself.

    Raises
    ------
    AssemblerMissing
        No assembler qualifies: every one seen is listed with the reason, or the places that were searched.
    """
    source = _Text.of(text, release)
    seen = find_assemblers()
    if not seen:
        raise AssemblerMissing(
            f"no assembler for {source.target}: looked for the triton package, and for llvm-mc and clang in "
            f"{searched(_VARIABLE)}. Install one (pip install ziglang), or set {_VARIABLE}"
        )
    refused = []
    linker = None
    for tool in sorted(seen, key=lambda tool: _rank(tool, source), reverse=True):
        reason = _refusal(tool, source)
        if not reason and tool.name != "triton":
            linker, reason = _linker(tool)
        if not reason:
            return tool, linker
        refused.append(f"  {tool}: {reason}")
    wrote = f" of Triton {source.release[0]}.{source.release[1]}" if source.release else ""
    raise AssemblerMissing(
        f"none of the {len(seen)} assemblers found reads this text{wrote} for {source.target}:\n" + "\n".join(refused)
    )


def _rank(tool: Tool, source: _Text) -> tuple[int, tuple[int, int]]:
    if tool.name != "triton":
        return 1, tool.version or (0, 0)
    return (2 if tool.version == source.release else 0), tool.version or (0, 0)


def _refusal(tool: Tool, source: _Text) -> str:
    """Why `tool` will not do; empty when it will."""
    if tool.version is None:
        return tool.problem
    return _triton_refusal(tool.version, source) if tool.name == "triton" else _llvm_refusal(tool, source)


def _triton_refusal(version: tuple[int, int], source: _Text) -> str:
    if version < OLDEST_TRITON:
        return f"it cannot link: expected Triton {OLDEST_TRITON[0]}.{OLDEST_TRITON[1]} or later"
    if source.is_gfx9 or version == source.release:
        return ""
    # From gfx10 on, 16-bit registers, wait counts and the prefetch size are written otherwise by each release from 3.7.
    if version >= (3, 7) or (source.release or (3, 0)) >= (3, 7):
        wrote = f"Triton {source.release[0]}.{source.release[1]}" if source.release else "a Triton that is not known"
        return (
            f"the text was written by {wrote}, and for {source.target.arch} each release from 3.7 on reads its own only"
        )
    if source.target.arch.startswith("gfx125") and version < (3, 6):
        return f"it does not know all of {source.target.arch}"
    return ""


def _llvm_refusal(tool: Tool, source: _Text) -> str:
    version = tool.version or (0, 0)
    if version < OLDEST_LLVM:
        return f"it is too old: expected LLVM {OLDEST_LLVM[0]} or later"
    if _PREFETCH_EXPRESSION.search(source.text):
        return "it does not know instprefsize(), which Triton 3.8 and later write from gfx11 on: install that Triton"
    if _PREFETCH.search(source.text) and version < (21, 0):
        return "it does not know .amdhsa_inst_pref_size: expected LLVM 21 or later"
    cpus = _cpus(tool)
    if source.target.arch not in cpus:
        return f"it does not know {source.target.arch}" if cpus else "it was built without AMD GPUs"
    return ""


def _linker(assembler: Tool) -> tuple[Tool | None, str]:
    """The ld.lld to go with an assembler, else why there is none: that of its folder, else the newest."""
    tools = [t for t in find_tools("ld.lld", variable=_LINKER_VARIABLE) if (t.version or (0, 0)) >= OLDEST_LLVM]
    beside = [t for t in tools if t.folder == assembler.folder and t.version == assembler.version]
    chosen = next(iter(beside), None) or max(tools, key=lambda t: t.version or (0, 0), default=None)
    if chosen is None:
        return (
            None,
            f"there is no ld.lld {OLDEST_LLVM[0]} or later to link with: looked in {searched(_LINKER_VARIABLE)}",
        )
    return chosen, ""


@lru_cache(maxsize=64)
def _cpus(tool: Tool) -> frozenset[str]:
    """Processors that a tool lists for AMD GPUs; empty when it lists none."""
    if tool.name == "clang":
        arguments = (f"--target={_TRIPLE}", "--print-supported-cpus")
    else:
        arguments = (f"-triple={_TRIPLE}", "-mcpu=help")
    try:
        done = subprocess.run(
            [*tool.command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(_CPU.findall((done.stdout + done.stderr).decode("utf-8", "replace")))


def assemble(text: str | bytes, *, release: str | None = None) -> Assembled:
    """Assemble and link AMDGCN; the result is kept in `trlaunch.cache` by text and tools.

    Parameters
    ----------
    text : str or bytes
        What it is for, it says itself.
    release : str or None
        As for `choose`.

    Raises
    ------
    AssemblerMissing
        No assembler is at hand that suits.
    AssemblerError
        This is no AMDGCN, or the assembler refuses it: the message shows the line, and ``log`` holds all it printed.
    """
    text = _decoded(text)
    source = _Text.of(text, release)
    tool, linker = choose(text, release)
    key = cache.key("amdgcn", tool.name, tool.build, linker.build if linker else "", str(source.target), text)
    hsaco, log = cache.get(key, "hsaco"), cache.get(key, "log")
    cached = hsaco is not None and log is not None
    if hsaco is None or log is None:
        hsaco, log = _in_process(source) if linker is None else _run(tool, linker, source)
        cache.put(key, {"hsaco": hsaco, "log": log})
    return Assembled(hsaco, log.decode("utf-8", "replace"), tool, cached)


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise AssemblerError(f"expected AMDGCN text, found bytes that are not UTF-8 at offset {error.start}") from error


def _in_process(source: _Text) -> tuple[bytes, bytes]:
    """By the stage function of the installed Triton."""
    from trlaunch.lowering.triton_compiler import Compiler

    try:
        compiler = Compiler(source.target, {})
        own = int(compiler.release.split(".")[1]) >= 9
        made = compiler.run("hsaco", source.text if own else source.old_triple(), {})
    except LoweringError as error:
        raise AssemblerError(str(error), error.log) from error
    return bytes(made), b""


def _run(tool: Tool, linker: Tool, source: _Text) -> tuple[bytes, bytes]:
    features = [f"{sign}{name}" for name, sign in _FEATURES.findall(source.target.suffix)]
    if tool.name == "clang":
        arguments = [f"--target={_TRIPLE}", f"-mcpu={source.target.arch}", "-c", "-x", "assembler"]
        arguments += [f"-m{'' if f[0] == '+' else 'no-'}{f[1:]}" for f in features]
    else:
        arguments = [f"-triple={_TRIPLE}", f"-mcpu={source.target.arch}", "-filetype=obj"]
        arguments += [f"-mattr={','.join(features)}"] if features else []
    with tempfile.TemporaryDirectory(prefix="trlaunch-amdgcn-") as folder:
        Path(folder, "kernel.s").write_text(source.old_triple(), encoding="utf-8", newline="\n")
        log = _step(tool, [*arguments, "kernel.s", "-o", "kernel.o"], folder, source)
        log += _step(linker, ["-shared", "kernel.o", "-o", "kernel.hsaco"], folder, source)
        return Path(folder, "kernel.hsaco").read_bytes(), log


def _step(tool: Tool, arguments: Sequence[str], folder: str, source: _Text) -> bytes:
    try:
        done = run(tool, *arguments, folder=folder)
    except OSError as error:
        raise AssemblerError(f"{tool} cannot be run: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise AssemblerError(f"{tool} was stopped after {error.timeout:.0f} s") from error
    log = done.stderr + done.stdout
    if done.returncode == 0 and Path(folder, arguments[-1]).is_file():
        return log
    printed = log.decode("utf-8", "replace")
    status = done.returncode
    how = f"died of signal {-status}" if status < 0 else f"exited with {status}"
    message = f"{tool} {how} on this text for {source.target}"
    diagnostics = [(int(number), reason.strip()) for number, reason in _DIAGNOSTIC.findall(printed)]
    if diagnostics:
        number, reason = diagnostics[0]
        message += f": line {number}: {reason}"
        lines = source.text.splitlines()
        if 1 <= number <= len(lines):
            message += f"\n  {number} | {lines[number - 1].strip()[:200]}"
        if len(diagnostics) > 1:
            message += f"\n  and {len(diagnostics) - 1} more (see the log)"
    elif printed.strip():
        message += f": {printed.strip().partition(chr(10))[0]}"
    raise AssemblerError(message, printed)
