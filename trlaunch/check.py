"""Check: the audit before a launch, image against metadata against signature against device.

What a driver refuses with a bare ``INVALID_VALUE``, and what it does not refuse at all, is refused here by name.
Every rule is one function that yields findings; `audit` runs those that do not depend on the grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from trlaunch.check_amd import kernarg, registers, wave, work_items
from trlaunch.finding import Finding, Report, Subject
from trlaunch.shared_bound import shared_lower_bound
from trlaunch.target import Target

__all__ = ["Finding", "Report", "Subject", "audit", "audit_grid", "runs_on"]

# Largest parameter buffer of a CUDA kernel: 4 KiB, and 32,764 bytes from sm_70 on with CUDA 12.1 (CUDA C++
# Programming Guide, function parameters).
_PARAM_LIMIT = 32764
_PORTABLE_CLUSTER, _LARGEST_CLUSTER = 8, 16  # CUDA C++ Programming Guide, thread block clusters
_TMEM_COLUMNS = 512  # PTX ISA, tcgen05.alloc


def audit(subject: Subject) -> tuple[Finding, ...]:
    """Every finding that does not depend on the grid."""
    return tuple(finding for rule in _RULES for finding in rule(subject))


def runs_on(target: Target, device: Target, *, text: bool = False) -> str | None:
    """Why code for `target` does not run on a device, ``None`` when it does.

    Parameters
    ----------
    target, device : Target
    text : bool
        PTX, which is compiled for the device: any later capability will do.

    Notes
    -----
    HIP: code object compatibility of LLVM's AMDGPUUsage. An hsaco runs on its processor, and where it was compiled with
    xnack or sramecc on or off, on a device with that setting; without, on either.

    CUDA C++ Programming Guide, binary compatibility: a cubin runs on the same major capability with the same or a
    later minor; with suffix ``a`` on exactly its capability, with ``f`` on its family, its major from its minor on.
    """
    if target.backend != device.backend:
        return f"it is for {target.backend}"
    if target.backend == "hip":
        if target.arch != device.arch:
            return f"it runs on {target.arch} alone"
        missing = [setting for setting in _settings(target) if setting not in _settings(device)]
        return f"it needs {', '.join(missing)}" if missing else None
    if target.suffix == "a":
        return (
            None if target.capability == device.capability else f"sm_{target.arch}a code runs on sm_{target.arch} alone"
        )
    major, minor = divmod(target.capability, 10)
    device_major, device_minor = divmod(device.capability, 10)
    if text and not target.suffix:
        fits = device.capability >= target.capability
        return None if fits else f"PTX for sm_{target.arch} needs that capability or a later one"
    if major == device_major and device_minor >= minor:
        return None
    return f"a {target.sm} binary runs on capability {major}.{minor} and later minors of {major}"


def _settings(target: Target) -> list[str]:
    """``["sramecc+", "xnack-"]`` of ``hip:gfx90a:sramecc+:xnack-``."""
    return [setting for setting in target.suffix.split(":") if setting]


def _architecture(s: Subject) -> Iterator[Finding]:
    target, device = s.image.target, s.device.target
    stated = s.metadata.target if s.metadata else None
    source = s.source_target
    if stated is not None and (stated.backend, stated.arch) != (source.backend, source.arch):
        yield Finding(
            "metadata-target",
            "error",
            f"the artifact is for {source}, the metadata's target is {stated}",
            "the two are not of one compilation: give the JSON that was written with this file",
        )
    if s.device.device.driver == "emulator":
        yield Finding("architecture", "ok", f"PTX for {target.sm}, executed by the emulator")
        return
    reason = runs_on(target, device, text=s.image.format == "ptx")
    if reason:
        yield Finding(
            "architecture",
            "error",
            f"the {s.image.format} is for {target.sm if target.backend == 'cuda' else target}, "
            f"{s.device.device} ({s.device.name}) is {device}: {reason}",
            "compile for this device, or give the PTX of a lower architecture without suffix"
            if target.backend == device.backend == "cuda"
            else f"compile for {device}",
        )
    else:
        yield Finding("architecture", "ok", f"{target} on {device}")


def _name(s: Subject) -> Iterator[Finding]:
    stated = s.metadata.name if s.metadata else None
    if stated is not None and stated != s.entry.name:
        yield Finding(
            "name",
            "error",
            f"the kernel is {s.entry.name!r}, the metadata's name is {stated!r}",
            "give the JSON that was written with this file",
        )


def _hash(s: Subject) -> Iterator[Finding]:
    stated = s.metadata.hash if s.metadata else None
    folder = _cache_key(s.folder)
    if stated is not None and folder is not None and folder != stated.lower():
        yield Finding(
            "hash",
            "error",
            f"the cache folder is named for hash {folder[:16]}..., the metadata's hash is {stated[:16]}...",
            "the folder was put together from two compilations: recompile, or take the files out of it on purpose",
        )


def _cache_key(folder: str | None) -> str | None:
    """The hash that a Triton cache folder is named for: hexadecimal, or base32 without padding since 3.0."""
    if folder is None:
        return None
    if len(folder) == 64 and all(c in "0123456789abcdef" for c in folder):
        return folder
    if len(folder) == 52:
        try:
            import base64

            return base64.b32decode(folder + "====").hex()
        except ValueError:  # not base32, or not even ASCII
            return None
    return None


def _block(s: Subject) -> Iterator[Finding]:
    compiled, metadata = s.entry.block_threads, s.metadata
    directives = ("REQNTID", "MAX_THREADS")
    if s.image.format == "hsaco":
        directives = (".reqd_workgroup_size", ".max_flat_workgroup_size")
    directive = directives[0 if s.entry.required_block else 1]
    if s.threads is None:
        yield Finding(
            "block",
            "error",
            "neither the image nor metadata says how many threads a block has",
            "give Triton's JSON, or metadata={'num_warps': ...}",
        )
        return
    warps = ""
    if metadata is not None and metadata.num_warps is not None:
        warps = f" (num_warps {metadata.num_warps} x {s.image.target.warp_size})"
    if compiled is not None and s.threads != compiled:
        yield Finding(
            "block",
            "error",
            f"the launch has {s.threads} threads a block{warps}, the {s.image.format} was compiled for exactly "
            f"{compiled} ({directive})",
            "a Triton kernel runs with the block it was compiled for: give the JSON that was written with this file",
        )
    elif s.threads > s.device.max_threads_per_block:
        yield Finding(
            "block",
            "error",
            f"{s.threads} threads a block{warps}, {s.device.device} allows {s.device.max_threads_per_block}",
            "compile with fewer warps",
        )
    else:
        yield Finding(
            "block", "ok", f"{s.threads} threads{warps}" + (f", as compiled ({directive})" if compiled else "")
        )


def _parameters(s: Subject) -> Iterator[Finding]:
    params = s.signature.params
    for before, after in itertools.pairwise(params):
        if after.offset < before.offset + before.size:
            yield Finding(
                "parameters",
                "error",
                f"{after.label} at offset {after.offset} lies inside {before.label}, which ends at "
                f"{before.offset + before.size}",
                "the image is damaged",
            )
    end = max((p.offset + p.size for p in params), default=0)
    if end > s.signature.param_bytes:
        yield Finding(
            "parameters",
            "error",
            f"the parameters end at byte {end}, the image states a buffer of {s.signature.param_bytes}",
            "the image is damaged",
        )
    if s.image.format == "hsaco":
        yield from kernarg(s)
    elif s.signature.param_bytes > _PARAM_LIMIT:
        yield Finding(
            "parameters",
            "error",
            f"{s.signature.param_bytes} bytes of parameters, a CUDA kernel takes at most {_PARAM_LIMIT}",
            "pass the values in memory",
        )
    if s.driver_compiles and any(p.is_tensor_map for p in params):
        # ptxas aligns a map's address in constant memory, not its offset: the first lies at byte 48 on sm_90.
        yield Finding(
            "parameters",
            "error",
            "the driver would compile this PTX, and where it would lay out a CUtensorMap PTX does not say",
            "install ptxas (pip install nvidia-cuda-nvcc) to assemble it without the driver, or give the cubin",
        )
    user, hidden = len(s.signature.user), len(s.signature.hidden)
    sources = ", ".join(s.signature.sources)
    yield Finding("parameters", "ok", f"{user} + {hidden} hidden in {s.signature.param_bytes} bytes; {sources} agree")


def _shared(s: Subject) -> Iterator[Finding]:
    metadata, uses = s.metadata, s.entry.uses_dynamic_shared
    stated = metadata.shared if metadata else None
    if s.shared is None:
        yield Finding(
            "shared",
            "error" if uses is not False else "ok",
            "how much dynamic shared memory the kernel needs is stated by Triton's JSON alone, and there is none"
            if uses is not False
            else "the image uses no dynamic shared memory",
            "give the JSON, or shared=<bytes>" if uses is not False else "",
        )
        return
    found = False
    if s.shared_given and stated is not None and s.shared < stated:
        found = True
        yield Finding(
            "shared",
            "error",
            f"shared={s.shared} bytes were given, the metadata says that the kernel needs {stated}",
            "leave shared= out",
        )
    if uses and s.shared == 0:
        found = True
        yield Finding(
            "shared",
            "error",
            f"the {s.image.format} uses dynamic shared memory, the launch has 0 bytes of it"
            + ("" if s.shared_given else " (the metadata's shared)"),
            "give the JSON that was written with this file",
        )
    if uses is False and s.shared > 0:
        found = True
        yield Finding(
            "shared",
            "error" if not s.shared_given else "warning",
            f"the {s.image.format} uses no dynamic shared memory, the launch asks for {s.shared} bytes",
            "give the JSON that was written with this file",
        )
    bound = shared_lower_bound(s.ttgir) if s.ttgir else 0
    if bound > s.shared and not found:
        found = True
        yield Finding(
            "shared",
            "error",
            f"the TTGIR beside the {s.image.format} allocates {bound} bytes of shared memory at once, the launch has "
            f"{s.shared}",
            "give the JSON and the TTGIR that were written with this file",
        )
    own = s.entry.static_shared - s.entry.reserved_shared
    total = s.shared + own
    if total > s.device.max_shared_optin:
        found = True
        yield Finding(
            "shared",
            "error",
            f"{s.shared} bytes dynamic + {own} static = {total} bytes of shared memory a block, "
            f"{s.device.device} allows {s.device.max_shared_optin}",
            "compile with smaller tiles or fewer stages",
        )
    if not found:
        static = f" + {own} static" if own else ""
        alone = (
            ""
            if s.ttgir or not uses or s.shared_given
            else "; the metadata alone says so, there is no TTGIR to compare"
        )
        yield Finding("shared", "ok", f"{s.shared} bytes dynamic{static} of {s.device.max_shared_optin}{alone}")


def _cluster(s: Subject) -> Iterator[Finding]:
    stated = s.metadata.cluster if s.metadata else (1, 1, 1)
    compiled, size = s.entry.cluster, math.prod(stated)
    if compiled is not None and compiled != stated:
        yield Finding(
            "cluster",
            "error",
            f"the {s.image.format} was compiled for clusters of {compiled}, the metadata says {stated}",
            "give the JSON that was written with this file",
        )
    elif size > 1 and not s.device.supports_clusters:
        yield Finding(
            "cluster",
            "error",
            f"clusters of {stated}, {s.device.device} ({s.device.target}) has none",
            f"clusters need {'compute capability 9.0 or later' if s.device.target.backend == 'cuda' else 'gfx1250'}: "
            f"compile with num_ctas=1",
        )
    elif size > (s.entry.max_cluster or _LARGEST_CLUSTER):
        yield Finding(
            "cluster",
            "error",
            f"clusters of {size} CTAs, at most {s.entry.max_cluster or _LARGEST_CLUSTER} are possible",
        )
    elif size > _PORTABLE_CLUSTER:
        yield Finding("cluster", "note", f"clusters of {size} CTAs: more than {_PORTABLE_CLUSTER} is not portable")
    elif size > 1:
        yield Finding("cluster", "ok", f"clusters of {stated}")


def _tensor_memory(s: Subject) -> Iterator[Finding]:
    columns = s.metadata.tmem_size if s.metadata else 0
    if columns > _TMEM_COLUMNS:
        yield Finding(
            "tmem",
            "error",
            f"{columns} columns of tensor memory, an SM has {_TMEM_COLUMNS}",
            "compile with smaller tiles",
        )
    elif columns and s.device.target.backend == "cuda" and s.device.target.capability < 100:
        yield Finding(
            "tmem", "error", f"the kernel uses tensor memory, {s.device.target} has none", "compile for sm_100"
        )


def _scratch(s: Subject) -> Iterator[Finding]:
    metadata = s.metadata
    if metadata is None:
        return
    for role in ("global_scratch", "profile_scratch"):
        size, align = getattr(metadata, f"{role}_size"), getattr(metadata, f"{role}_align")
        present = any(p.role == role for p in s.signature.hidden)
        if align & (align - 1):
            yield Finding(
                "scratch", "error", f"{role}_align is {align}: expected a power of two", "the JSON is damaged"
            )
        if size and not present:
            yield Finding(
                "scratch",
                "error",
                f"the metadata's {role}_size is {size}, the {s.image.format} has no such parameter",
                "give the JSON that was written with this file",
            )
        elif size:
            yield Finding("scratch", "ok", f"{role}: {size} bytes a CTA, allocated for each launch")


def _ptx_version(s: Subject) -> Iterator[Finding]:
    version, driver = s.image.ptx_version, s.device.driver_version
    if not s.driver_compiles or version is None or driver is None:
        return
    from trlaunch.cuda.assembler import ptx_isa

    newest = ptx_isa(driver)  # the driver's compiler reads what the ptxas of its release reads
    if newest is not None and version > newest:
        yield Finding(
            "ptx-version",
            "error",
            f"PTX {version[0]}.{version[1]}, the driver (CUDA {driver[0]}.{driver[1]}) compiles up to "
            f"{newest[0]}.{newest[1]}",
            "install a newer ptxas (pip install nvidia-cuda-nvcc) to assemble it without the driver, or give the cubin",
        )


_RULES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    _architecture,
    _name,
    _hash,
    _block,
    wave,
    registers,
    _parameters,
    _shared,
    _cluster,
    _tensor_memory,
    _scratch,
    _ptx_version,
)


def audit_grid(
    subject: Subject, grid: tuple[int, int, int], cooperative: bool, occupancy: Callable[[], int] | None
) -> tuple[Finding, ...]:
    """The findings that depend on the grid.

    Parameters
    ----------
    grid : tuple of int
        CTAs along x, y, z, clusters multiplied in.
    cooperative : bool
    occupancy : callable, optional
        CTAs that fit on one multiprocessor at a time.
    """
    findings = []
    for axis, size, limit in zip("xyz", grid, subject.device.max_grid, strict=True):
        if size > limit:
            findings.append(
                Finding(
                    "grid",
                    "error",
                    f"{size} CTAs along {axis}, {subject.device.device} allows {limit}",
                    "put the large axis on x, or loop in the kernel",
                )
            )
    if subject.device.target.backend == "hip":
        findings += work_items(subject, grid[0])
    if cooperative and occupancy is not None and not findings:
        each = occupancy()
        limit, total = each * subject.device.multiprocessors, math.prod(grid)
        if total > limit:
            findings.append(
                Finding(
                    "cooperative",
                    "error",
                    f"a cooperative grid of {total} CTAs, {subject.device.device} holds {limit} at a time "
                    f"({each} on each of {subject.device.multiprocessors} multiprocessors)",
                    "launch a smaller grid: all of its CTAs must be resident",
                )
            )
        else:
            findings.append(Finding("cooperative", "ok", f"{total} CTAs of {limit} that fit at a time"))
    if not any(f.severity == "error" for f in findings):
        findings.insert(0, Finding("grid", "ok", f"{grid[0]} x {grid[1]} x {grid[2]} CTAs"))
    return tuple(findings)
