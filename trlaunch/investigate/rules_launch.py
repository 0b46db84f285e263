"""Rules over how the kernel was launched: what was refused, the audit, the status, warpgroups and register budgets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from trlaunch.investigate.cause import CAUSES, Cause
from trlaunch.investigate.evidence import Evidence

__all__ = ["RULES"]

#: Rule of the audit -> the cause it speaks for, and the symptoms that a launch shows which it would have refused
#: (measured on an H200, docs/investigate.md; "" is a kernel that ends and computes something wrong).
_AUDIT = {
    "block": (
        "block",
        ("illegal-instruction", "invalid-value", "launch-failed", "illegal-address", "hang", "barrier", "wgmma", ""),
    ),
    "shared": ("shared", ("illegal-address", "invalid-value", "launch-failed", "resources", "illegal-instruction")),
    "architecture": ("architecture", ("architecture", "image", "ptx", "illegal-instruction")),
    "metadata-target": ("architecture", ("architecture", "image", "illegal-instruction", "illegal-address")),
    "ptx-version": ("ptx", ("ptx",)),
    "cluster": ("cluster", ("cluster", "invalid-value", "illegal-address", "hang", "")),
    "cooperative": ("cooperative", ("cooperative", "hang")),
}
_ANY = ("configuration", ("illegal-address", "illegal-instruction", "invalid-value", "misaligned", "launch-failed", ""))

_WARPGROUP = 128  # threads: PTX ISA, "a warpgroup is four contiguous warps"
_REGISTERS = 65536  # of a multiprocessor, all capabilities from 5.0 on (CUDA C++ Programming Guide)
_WGMMA = re.compile(r"\bwgmma\.mma_async\b")
_WGMMA_SASS = re.compile(r"\b(?:[HIQ]GMMA|WARPGROUP)\b")
_SETMAXNREG = re.compile(r"\bsetmaxnreg\.(inc|dec)\.sync\.aligned\.u32\s+(\d+)")
_SETMAXNREG_SASS = re.compile(r"\bUSETMAXREG\b")


def refused(e: Evidence) -> Iterator[Cause]:
    """The launch was refused before the driver had it."""
    if e.outcome.status == "refused" and e.outcome.error is not None:
        yield Cause("refused", 1.0, (e.outcome.error.message,))


def audit(e: Evidence) -> Iterator[Cause]:
    """What the audit would have refused, had it not been told to warn."""
    shown = e.symptom or e.status_symptom or ""
    if e.outcome.status == "refused":
        return
    for finding in e.findings:
        rule, fits = _AUDIT.get(finding.rule, _ANY)
        if shown in fits:
            score = 0.975 if shown else 0.85
        else:
            score = 0.7
        facts = [f"the audit refuses it ({finding.rule}): {finding.message}"]
        if shown in fits and shown:
            facts.append(f"a launch that it refuses shows up as this: {_shown(e)}")
        yield Cause(rule, score, tuple(facts))


def status(e: Evidence) -> Iterator[Cause]:
    """Statuses that name their cause."""
    stated = e.status_symptom
    if stated in CAUSES and stated not in ("misaligned", "illegal-instruction", "assert", "race", "wgmma", "mbarrier"):
        yield Cause(stated, 0.6, (_shown(e),))
    if stated == "image":
        yield Cause("architecture", 0.6, (_shown(e),))


def warpgroup(e: Evidence) -> Iterator[Cause]:
    """Wgmma and setmaxnreg work on four aligned warps."""
    site = e.own_site
    threads = site.threads if site is not None else None
    if threads is None and e.blamed is not None:
        threads = math.prod(e.blamed.block)
    if threads is None and e.scene is not None:
        threads = e.scene.threads
    uses = len(_WGMMA.findall(e.ptx))
    at_it = site is not None and bool(_WGMMA_SASS.search(site.instruction) or _WGMMA.search(site.instruction))
    if threads is None or not (uses or at_it) or not threads % _WARPGROUP:
        return
    facts = [f"the block has {threads} threads, {threads / 32:g} warps: wgmma takes four at a time"]
    if uses:
        facts.append(f"the PTX has {uses} wgmma.mma_async")
    if at_it and site is not None:
        facts.append(f"it died at {site.instruction}")
    fits = e.symptom in ("illegal-instruction", "launch-failed", "hang")
    yield Cause("wgmma", (0.95 if at_it else 0.9) if fits else 0.5, tuple(facts))


def register_budget(e: Evidence) -> Iterator[Cause]:
    """The registers that warpgroups give and take must add up."""
    budgets = [(kind, int(n)) for kind, n in _SETMAXNREG.findall(e.ptx)]
    site = e.own_site
    at_it = site is not None and bool(_SETMAXNREG_SASS.search(site.instruction))
    if not budgets and not at_it:
        return
    if e.symptom not in ("illegal-instruction", "hang", "launch-failed"):
        return
    facts = ["the kernel gives and takes registers: " + ", ".join(f"{kind} to {n}" for kind, n in budgets)]
    score = 0.93 if at_it else 0.4
    wrong = [n for _, n in budgets if not 24 <= n <= 256 or n % 8]
    if wrong:
        score = 0.96
        facts.append(f"{wrong[0]} is no multiple of 8 from 24 to 256")
    scene = e.scene
    launched = scene.image.get("registers") if scene else None
    if launched and scene and scene.threads and budgets:
        groups = scene.threads // _WARPGROUP
        have = launched * groups
        low = [n for kind, n in budgets if kind == "dec"]
        high = [n for kind, n in budgets if kind == "inc"]
        if groups > 1 and low and high:
            need = max(high) + min(low) * (groups - 1)
            facts.append(
                f"{groups} warpgroups begin with {launched} registers a thread, {have} in all; one at {max(high)} and "
                f"the others at {min(low)} take {need}"
            )
            if need > have or have * _WARPGROUP > _REGISTERS:
                score = max(score, 0.9)
    if at_it and site is not None:
        facts.append(f"it died at {site.instruction}")
    yield Cause("setmaxnreg", score, tuple(facts))


def stack(e: Evidence) -> Iterator[Cause]:
    """The stack, where the kernel has a large one."""
    scene = e.scene
    local = scene.image.get("local_bytes") if scene else None
    if e.symptom == "stack":
        facts = [_shown(e)]
        if local:
            facts.append(f"a thread has {local} bytes of local memory before calls")
        yield Cause("stack", 0.95, tuple(facts))


def _shown(e: Evidence) -> str:
    died, site = e.died, e.own_site
    if site is not None and site.witness != "emulator":
        return f"{site.what}"
    if died is None:
        return "nothing"
    return f"{died.name} from {died.call}" if died.name and died.call else died.message.partition("\n")[0]


RULES = (refused, audit, status, warpgroup, register_budget, stack)
