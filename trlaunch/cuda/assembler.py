"""PTX -> cubin by NVIDIA's ptxas: which one, how it is called, and what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from trlaunch import cache
from trlaunch.cuda.toolkit import Tool, find_tools, searched
from trlaunch.errors import AssemblerError, AssemblerMissing
from trlaunch.target import Target

__all__ = [
    "Assembled",
    "Options",
    "Resources",
    "assemble",
    "choose",
    "find_assemblers",
    "parse_resources",
    "ptx_isa",
    "ptx_version",
    "strides_in_16_bytes",
]

_VARIABLE = "TRLAUNCH_PTXAS"

# Newest PTX ISA version that the ptxas of each CUDA release reads: release notes of the PTX ISA document; for 12.4,
# 12.8, 12.9, 13.0, 13.1, 13.3, 13.4 and 13.5 also ptxas itself ("Unsupported .version 9.9; current version is '9.5'").
_PTX_ISA: Mapping[tuple[int, int], tuple[int, int]] = {
    (11, 0): (7, 0),
    (11, 1): (7, 1),
    (11, 2): (7, 2),
    (11, 3): (7, 3),
    (11, 4): (7, 4),
    (11, 5): (7, 5),
    (11, 6): (7, 6),
    (11, 7): (7, 7),
    (11, 8): (7, 8),
    (12, 0): (8, 0),
    (12, 1): (8, 1),
    (12, 2): (8, 2),
    (12, 3): (8, 3),
    (12, 4): (8, 4),
    (12, 5): (8, 5),
    (12, 6): (8, 5),
    (12, 7): (8, 6),
    (12, 8): (8, 7),
    (12, 9): (8, 8),
    (13, 0): (9, 0),
    (13, 1): (9, 1),
    (13, 2): (9, 2),
    (13, 3): (9, 3),
    (13, 4): (9, 4),
    (13, 5): (9, 5),
}

_GLOBAL_STRIDE = "tensormap.replace.tile.global_stride"
_STRIDES_IN_16_BYTES = ((12, 4), (8, 4))  # the last CUDA release and PTX version that had them in these units

_PTX_VERSION = re.compile(r"^[ \t]*\.version[ \t]+(\d+)\.(\d+)", re.MULTILINE)
_LOC = re.compile(r"^[ \t]*\.loc[ \t]", re.MULTILINE)
_GPU_NAMES = re.compile(r"'(sm_\d+[af]?)'")
# "ptxas kernel.ptx, line 7; fatal   : Parsing error near ..."
_DIAGNOSTIC = re.compile(r", line (\d+); (?:error|fatal)\s*: (.*)")
_ENTRY = re.compile(r"Compiling entry function '([^']+)' for")
_FUNCTION = re.compile(r"Function properties for (\S+)")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_AMOUNT = re.compile(
    r"used (\d+) barriers|(\d+) bytes smem|(\d+) bytes cmem\[(\d+)\]|(\d+) bytes cumulative stack size"
)


@dataclass(frozen=True, slots=True)
class Options:
    """How PTX is assembled.

    Attributes
    ----------
    max_registers : int or None
        Upper limit of registers per thread (``--maxrregcount``).
    opt_level : int or None
        0 to 4; ptxas takes 3 when it is not told.
    line_info : bool or None
        Keep source lines; ``None`` leaves it to the PTX: ptxas keeps its ``.loc`` lines. ``-lineinfo`` is given where
        there are any, as Triton does.
    fmad : bool
        Let multiplications and additions be contracted (Triton's ``enable_fp_fusion``).
    extra : tuple of str
        Further arguments, as Triton's ``ptx_options`` are.
    timeout : float
        Seconds until ptxas is stopped.
    """

    max_registers: int | None = None
    opt_level: int | None = None
    line_info: bool | None = None
    fmad: bool = True
    extra: tuple[str, ...] = ()
    timeout: float = 600.0

    def arguments(self, ptx: str) -> list[str]:
        """Arguments of ptxas for this text, without architecture and files."""
        if self.line_info is None:
            lines = ["-lineinfo"] if _LOC.search(ptx) else []
        else:
            # -suppress-debug-info is ignored without -lineinfo (ptxas --help).
            lines = ["-lineinfo"] if self.line_info else ["-lineinfo", "-suppress-debug-info"]
        return [
            *lines,
            *([] if self.fmad else ["--fmad=false"]),
            *([] if self.opt_level is None else ["--opt-level", str(self.opt_level)]),
            *([] if self.max_registers is None else ["--maxrregcount", str(self.max_registers)]),
            *self.extra,
        ]


@dataclass(frozen=True, slots=True)
class Resources:
    """What ``ptxas -v`` says of one kernel. Sizes in bytes, per thread unless they are shared memory.

    Attributes
    ----------
    registers : int
    stack : int
        Stack frame, spilled registers included.
    spill_stores, spill_loads : int
        Bytes written and read by spills.
    barriers : int or None
        ``None`` where this version of ptxas does not say.
    shared : int
        Static shared memory.
    constant : mapping of int to int
        Bytes of each constant bank that is stated.
    """

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    barriers: int | None = None
    shared: int = 0
    constant: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assembled:
    """A cubin, and how it came about: `log` is what ptxas printed, `assembler` the ptxas that ran."""

    cubin: bytes
    log: str
    assembler: Tool
    resources: Mapping[str, Resources]
    cached: bool


def find_assemblers() -> list[Tool]:
    """Every ptxas at hand.

    ``TRLAUNCH_PTXAS`` names one to the exclusion of all others. Otherwise the places are, in this order: an installed
    triton (``ptxas``, ``ptxas-blackwell``), the ``nvidia-cuda-nvcc`` wheel, ``CUDA_HOME``, ``CUDA_PATH``, ``PATH``,
    ``/usr/local/cuda``. Triton is located, not imported.
    """
    return find_tools("ptxas", "ptxas-blackwell", variable=_VARIABLE)


def ptx_version(ptx: str) -> tuple[int, int]:
    """The ``.version`` of a PTX text.

    Raises
    ------
    AssemblerError
        There is none, so this is no PTX.
    """
    found = _PTX_VERSION.search(ptx)
    if found is None:
        line = ptx.strip().partition("\n")[0][:80]
        raise AssemblerError(f"expected PTX with a .version directive, found text starting with {line!r}")
    return int(found[1]), int(found[2])


def ptx_isa(release: tuple[int, int]) -> tuple[int, int] | None:
    """Newest PTX ISA version that a CUDA release reads; ``None`` for a release that is not known here."""
    return _PTX_ISA.get(release)


def strides_in_16_bytes(ptx: str) -> bool:
    """Whether a text was written for the ``tensormap.replace...global_stride`` of ptxas up to 12.4.

    Those stored the operand as it is, so that Triton 3.3 wrote strides divided by 16; from 12.8 on ptxas divides, as
    the PTX ISA says (SASS of one kernel of Triton 3.3.1 by ptxas 12.4, 12.8 and 12.9). Such a text assembled by a
    newer ptxas reads other memory, without an error.
    """
    return _GLOBAL_STRIDE in ptx and ptx_version(ptx) <= _STRIDES_IN_16_BYTES[1]


def choose(
    ptx_version: tuple[int, int],
    target: Target,
    driver_version: tuple[int, int] | None = None,
    *,
    newest: tuple[int, int] | None = None,
) -> Tool:
    """The newest ptxas whose cubins the driver loads and that knows this PTX and architecture.

    Parameters
    ----------
    ptx_version : tuple of int
        ``.version`` of the text.
    target : Target
    driver_version : tuple of int or None
        CUDA version of the driver. It loads cubins of its own major version, newer minor ones included (CUDA minor
        version compatibility), and of older ones. ``None`` where no driver is there to please.
    newest : tuple of int or None
        Newest CUDA release whose ptxas reads the text as it was meant (`strides_in_16_bytes`).

    Raises
    ------
    AssemblerMissing
        No ptxas qualifies: every one seen is listed with the reason, or the places that were searched.
    """
    seen = find_assemblers()
    if not seen:
        raise AssemblerMissing(
            f"no ptxas to assemble PTX for {target}: looked in {searched(_VARIABLE)}. "
            "Install one (pip install nvidia-cuda-nvcc), or set TRLAUNCH_PTXAS"
        )
    refused = []
    for tool in sorted(seen, key=lambda tool: tool.version or (0, 0), reverse=True):
        reason = _refusal(tool, ptx_version, target, driver_version)
        if not reason and newest is not None and (tool.version or newest) > newest:
            reason = (
                f"it divides tensormap strides by 16, which this PTX has done for ptxas up to {newest[0]}.{newest[1]}"
            )
        if not reason:
            return tool
        refused.append(f"  {tool}: {reason}")
    raise AssemblerMissing(
        f"none of the {len(seen)} ptxas found assembles PTX {ptx_version[0]}.{ptx_version[1]} for {target}"
        + (f" and a CUDA {driver_version[0]}.{driver_version[1]} driver" if driver_version else "")
        + ":\n"
        + "\n".join(refused)
    )


def _refusal(tool: Tool, ptx: tuple[int, int], target: Target, driver: tuple[int, int] | None) -> str:
    """Why `tool` will not do; empty when it will."""
    if tool.version is None:
        return tool.problem
    if driver is not None and tool.version[0] > driver[0]:
        return f"its cubins need a CUDA {tool.version[0]} driver"
    newest = ptx_isa(tool.version)
    if newest is not None and ptx > newest:
        return f"it reads PTX up to {newest[0]}.{newest[1]}"
    names = _gpu_names(tool)
    if names and target.sm not in names:
        return f"it does not know {target.sm}"
    return ""


@lru_cache(maxsize=64)
def _gpu_names(tool: Tool) -> frozenset[str]:
    """Architectures that ``ptxas --help`` lists for ``--gpu-name``; empty when it lists none."""
    try:
        done = subprocess.run([tool.path, "--help"], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(_GPU_NAMES.findall(done.stdout.decode("utf-8", "replace")))


def assemble(
    ptx: str | bytes,
    target: Target,
    *,
    options: Options | None = None,
    driver_version: tuple[int, int] | None = None,
) -> Assembled:
    """Assemble PTX; the result is kept in `trlaunch.cache` by text, ptxas build, architecture and options.

    Parameters
    ----------
    ptx : str or bytes
    target : Target
        Architecture to assemble for. PTX for ``sm_90a`` assembles for nothing else.
    options : Options, optional
    driver_version : tuple of int or None
        As for `choose`.

    Raises
    ------
    AssemblerMissing
        No ptxas is at hand that suits.
    AssemblerError
        This is no PTX, or ptxas refuses it: the message shows the PTX line, and ``log`` holds all it printed.
    """
    text = _decoded(ptx)
    options = options or Options()
    newest = _STRIDES_IN_16_BYTES[0] if strides_in_16_bytes(text) else None
    tool = choose(ptx_version(text), target, driver_version, newest=newest)
    arguments = options.arguments(text)
    key = cache.key("ptxas", tool.build, tool.path.name, target.sm, *arguments, text)
    cubin, log = cache.get(key, "cubin"), cache.get(key, "log")
    cached = cubin is not None and log is not None
    if cubin is None or log is None:
        cubin, log = _run(tool, text, target, arguments, options.timeout)
        cache.put(key, {"cubin": cubin, "log": log})
    printed = log.decode("utf-8", "replace")
    return Assembled(cubin, printed, tool, parse_resources(printed), cached)


def _decoded(ptx: str | bytes) -> str:
    if isinstance(ptx, str):
        return ptx
    try:
        # A PTX image that was embedded for the driver ends in a zero byte.
        return ptx.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise AssemblerError(f"expected PTX text, found bytes that are not UTF-8 at offset {error.start}") from error


def _run(tool: Tool, text: str, target: Target, arguments: Sequence[str], timeout: float) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory(prefix="trlaunch-ptxas-") as folder:
        source, output = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(text, encoding="utf-8", newline="\n")
        command = [str(tool.path), *arguments, "-v", f"--gpu-name={target.sm}", source.name, "-o", output.name]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=timeout, check=False)
        except OSError as error:
            raise AssemblerError(f"{tool} cannot be run: {error.strerror or error}") from error
        except subprocess.TimeoutExpired as error:
            raise AssemblerError(
                f"{tool} was stopped after {timeout:.0f} s (Options.timeout): {shlex.join(command)}",
                (error.stderr or b"").decode("utf-8", "replace"),
            ) from error
        log = done.stderr + done.stdout
        if done.returncode == 0 and output.is_file():
            return output.read_bytes(), log
    raise _rejection(tool, text, target, command, done.returncode, log.decode("utf-8", "replace"))


def _rejection(tool: Tool, text: str, target: Target, command: Sequence[str], status: int, log: str) -> AssemblerError:
    how = f"died of signal {-status}" if status < 0 else f"exited with {status}"
    message = f"{tool} {how} on this PTX for {target.sm}"
    diagnostics = [(int(number), reason.strip()) for number, reason in _DIAGNOSTIC.findall(log)]
    if diagnostics:
        number, reason = diagnostics[0]
        message += f": line {number}: {reason}"
        lines = text.splitlines()
        if 1 <= number <= len(lines):
            message += f"\n  {number} | {lines[number - 1].strip()[:200]}"
        if len(diagnostics) > 1:
            message += f"\n  and {len(diagnostics) - 1} more (see the log)"
    elif log.strip():
        message += f": {log.strip().partition(chr(10))[0]}"
    return AssemblerError(f"{message}\n  command: {shlex.join(command)}", log)


def parse_resources(log: str) -> dict[str, Resources]:
    """What ``ptxas -v`` printed, by kernel; empty when it was not asked for it.

    ptxas states the frame of a function under "Function properties for <name>", and what an entry uses as a whole in
    the "Used" line after "Compiling entry function '<name>'" (12.4 to 13.5).
    """
    frames: dict[str, tuple[int, int, int]] = {}
    used: dict[str, str] = {}
    entry = function = ""
    for line in log.splitlines():
        if found := _ENTRY.search(line):
            entry = function = found[1]
        elif found := _FUNCTION.search(line):
            function = found[1]
        elif found := _STACK.search(line):
            frames[function] = int(found[1]), int(found[2]), int(found[3])
        elif _USED.search(line):
            used[entry] = line
    resources = {}
    for name, line in used.items():
        registers = _USED.search(line)
        if not name or registers is None:
            continue
        frame, stores, loads = frames.get(name, (0, 0, 0))
        barriers, shared, stack = None, 0, frame
        constant: dict[int, int] = {}
        for amount in _AMOUNT.finditer(line):
            if amount[1]:
                barriers = int(amount[1])
            elif amount[2]:
                shared = int(amount[2])
            elif amount[3]:
                constant[int(amount[4])] = int(amount[3])
            else:
                stack = int(amount[5])
        resources[name] = Resources(int(registers[1]), stack, stores, loads, barriers, shared, constant)
    return resources
