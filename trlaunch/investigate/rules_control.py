"""Rules over what threads did: asserts, traps, barriers, loops that do not end, and processes that died."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trlaunch.investigate.cause import Cause
from trlaunch.investigate.evidence import Evidence
from trlaunch.investigate.rules_memory import weight

__all__ = ["RULES"]

# The driver prints a failed assert: "<file>:<line>: <function>: block: [0,0,0], thread: [0,0,0] Assertion `x` failed."
_ASSERTION = re.compile(r"^.*\bAssertion\b.*\bfailed\b.*$", re.M)
_TRAP = re.compile(r"^\s*(?:@!?%\w+\s+)?trap\s*;", re.M)
_TRAP_SASS = re.compile(r"\bBPT\.TRAP\b")
_SYNCS = re.compile(r"\bSYNCS\b")
_MBARRIER = re.compile(r"^\s*(?:@!?%\w+\s+)?mbarrier\.(?!init|inval)[\w.:]+", re.M)
_MBARRIER_INIT = re.compile(r"\bmbarrier\.init\b")
_WAITS = re.compile(r"\b(?:BAR|SYNCS|WARPSYNC|BSYNC|DEPBAR|NANOSLEEP|ACQBULK|WARPGROUP\.DEPBAR|UCGABAR_WAIT|CCTL)\b")
_WAITS_PTX = re.compile(r"\b(?:mbarrier\.(?:try_wait|test_wait)|bar(?:rier)?\.\w*sync|barrier\.cluster\.wait)\b")
_POLLS = re.compile(r"\b(?:atom|ld\.acquire|ld\.volatile|ld\.relaxed)\b|\b(?:ATOM|ATOMG)\b")


def asserts(e: Evidence) -> Iterator[Cause]:
    """A failed assert has its own status, and its text on stderr."""
    texts = [m.strip() for m in _ASSERTION.findall(e.said)]
    if e.symptom == "assert" or e.status_symptom == "assert":
        yield Cause("assert", 0.98, tuple(dict.fromkeys(texts))[:3] or ("the device reports a failed assert",))
    for site in e.sites:
        if site.symptom == "assert" and site.witness == "emulator":
            yield Cause("assert", 0.98 * weight(e, site), (f"{site.witness}: {site.what}",))


def traps(e: Evidence) -> Iterator[Cause]:
    """A trap is a launch failure without an exception."""
    if e.status_symptom == "assert":  # a failed assert ends in a trap, too
        return
    in_text = len(_TRAP.findall(e.ptx))
    for site in e.sites:
        if site.symptom != "trap":
            continue
        facts = [f"{site.witness}: {site.what}"]
        if in_text:
            facts.append(f"the PTX has {in_text} trap{'s' if in_text > 1 else ''}")
        yield Cause("trap", 0.96 * weight(e, site), tuple(facts))
    silent = e.own_site is None or e.own_site.symptom in (None, "trap")
    if e.status_symptom == "launch-failed" and silent:
        own = e.own_site
        facts = ["the device reports a launch failure without an exception"]
        if in_text:
            facts.append(f"the PTX has {in_text} trap{'s' if in_text > 1 else ''}")
        score = 0.7 if in_text else 0.4
        if own is not None:  # a core dump without an exception is what a trap leaves
            facts.append(f"{own.witness}: {own.what}" + (f", at {own.instruction}" if own.instruction else ""))
            score = 0.95 if _TRAP_SASS.search(own.instruction) else 0.9 if in_text else 0.8
        yield Cause("trap", score, tuple(facts))


def mbarriers(e: Evidence) -> Iterator[Cause]:
    """Operations on barriers in shared memory."""
    for site in e.sites:
        if site.symptom == "mbarrier":
            yield Cause("mbarrier", 0.97 * weight(e, site), (f"{site.witness}: {site.what}", site.instruction))
    own = e.own_site
    if own is not None and own.symptom == "illegal-instruction" and _SYNCS.search(own.instruction):
        yield Cause("mbarrier", 0.95, (f"{own.witness}: {own.what} at {own.instruction}",))
    uses, inits = _MBARRIER.findall(e.ptx), len(_MBARRIER_INIT.findall(e.ptx))
    if uses and not inits and e.symptom in ("illegal-instruction", "launch-failed", "mbarrier", "hang"):
        yield Cause("mbarrier", 0.92, (f"the PTX has {uses[0].strip()} and no mbarrier.init",))


def hangs(e: Evidence) -> Iterator[Cause]:
    """A kernel that does not end waits, or goes round."""
    if e.outcome.status != "hang":
        return
    own = e.own_site
    limit = e.outcome.error.message if e.outcome.error else "the kernel did not end within the time limit"
    for site in e.sites:
        if site.symptom != "hang" or site.witness != "emulator":
            continue
        deadlock = site.what.startswith("deadlock")
        yield Cause("deadlock" if deadlock else "endless-loop", 0.96, (f"{site.witness}: {site.what}",))
    facts = [limit]
    if own is not None and own.witness != "emulator":
        waits = bool(_WAITS.search(own.instruction))
        facts.append(f"it was stopped at {own.instruction or own.what}")
        yield Cause("deadlock" if waits else "endless-loop", 0.85, tuple(facts))
        yield Cause("slow", 0.3, (limit,))
        return
    if any(s.symptom == "hang" for s in e.sites):
        return
    waits = bool(_WAITS_PTX.search(e.ptx))
    branches = bool(re.search(r"^\s*(?:@!?%\w+\s+)?bra(?:\.uni)?\s", e.ptx, re.M))
    if waits or _POLLS.search(e.ptx):
        facts.append("the PTX waits at barriers or polls memory")
        yield Cause("deadlock", 0.7, tuple(facts))
    yield Cause("endless-loop", 0.8 if branches and not waits else 0.6, (limit,))
    yield Cause("slow", 0.3, (limit,))


def divergence(e: Evidence) -> Iterator[Cause]:
    """The emulator's own checks of barriers and warpgroups."""
    for site in e.sites:
        if site.symptom == "barrier":
            yield Cause("divergent", 0.94 * weight(e, site), (f"{site.witness}: {site.what}",))
        if site.symptom == "wgmma":
            yield Cause("wgmma", 0.96 * weight(e, site), (f"{site.witness}: {site.what}",))
        if site.symptom == "race":
            yield Cause("race", 0.9 * weight(e, site), (f"{site.witness}: {site.what}",))


def processes(e: Evidence) -> Iterator[Cause]:
    """What happened to the process, where no launch is to blame."""
    error = e.outcome.error
    if e.outcome.status == "timeout":
        yield Cause("not-started", 0.8, (error.message if error else "the time limit",))
    if e.outcome.status == "killed" and error is not None and not e.outcome.launches:
        yield Cause("host-crash", 0.8, (error.message,))
    elif e.outcome.status == "killed" and error is not None:
        yield Cause("host-crash", 0.6, (error.message, f"it died after {e.outcome.launches[-1]}"))


def unexplained(e: Evidence) -> Iterator[Cause]:
    """Illegal instructions that no rule explains."""
    own = e.own_site
    if e.symptom == "illegal-instruction":
        facts = [f"{own.witness}: {own.what} at {own.instruction}"] if own is not None else ["the device reports one"]
        yield Cause("illegal-instruction", 0.5, tuple(facts))


RULES = (asserts, traps, mbarriers, hangs, divergence, processes, unexplained)
