"""Rules over addresses: null and wild pointers, accesses outside every argument, alignment, TMA."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trlaunch.investigate.carried import Spot
from trlaunch.investigate.cause import Cause
from trlaunch.investigate.evidence import NULL_PAGE, Evidence, Site, nearest

__all__ = ["RULES", "weight"]

_TMA = re.compile(r"\bUTMA(?:LDG|STG|REDG|PF)|\bcp\.(?:reduce\.)?async\.bulk\.(?:prefetch\.)?tensor\b")
_TMA_PTX = re.compile(r"^\s*(?:@!?%\w+\s+)?cp\.(?:reduce\.)?async\.bulk\.(?:prefetch\.)?tensor\b.*$", re.M)
_SHARED = re.compile(r"\b(?:LDS|STS|ATOMS|LDSM|STSM|SYNCS|REDS)\b|\b(?:ld|st|atom|red)\.(?:volatile\.)?shared")
_FAR = 1 << 32  # bytes from the nearest argument beyond which an address has nothing to do with it
_ELEMENTS = (1, 2, 4, 8)  # bytes: CUtensorMapDataType (cuda.h)
_ALIGNED = 16  # bytes: what Triton's vector accesses and TMA need at most


def accesses(e: Evidence) -> Iterator[Cause]:
    """An address that is known, against the arguments of that process."""
    for site in e.sites:
        if site.symptom != "illegal-address" or site.address is None:
            continue
        counts = weight(e, site)
        what = f"{site.witness}: access at {site.address:#x}"
        if _is_shared(site):
            yield Cause("shared-out-of-bounds", 0.9 * counts, (f"{site.witness}: {site.what}",))
            continue
        if site.what.startswith("read-only"):
            yield Cause("read-only", 0.96 * counts, (f"{site.witness}: {site.what}",))
            continue
        if site.address < NULL_PAGE:
            null = [label for label, address in e.addresses if not address]
            facts = [f"{what}, in the first {NULL_PAGE} bytes: null plus an offset"]
            if null:
                facts.append(f"{' and '.join(null)} {'are' if len(null) > 1 else 'is'} null")
            yield Cause("null-pointer", 0.97 * counts, tuple(facts))
            continue
        bare = [Spot(label, address, 1) for label, address in e.addresses if address >= NULL_PAGE]
        near, wild = nearest(site.address, site.spots, site.access or 1), nearest(site.address, bare)
        if wild is not None and (near is None or wild[1] < near[1]):
            yield Cause(
                "wild-pointer", 0.97 * counts, (f"{what}, {site.address - wild[0].address} bytes from {wild[0].label}",)
            )
        elif near is not None:
            facts = [f"{what}, {near[2]}"] if near[1] else [f"{what}, which lies in {near[2]}: freed, or read-only"]
            yield Cause("out-of-bounds", (0.96 if near[1] < _FAR else 0.85) * counts, tuple(facts))
        else:
            yield Cause("out-of-bounds", 0.8 * counts, (what,))


def pointers(e: Evidence) -> Iterator[Cause]:
    """Arguments that are bare addresses, where nobody knows the address that was accessed."""
    if e.symptom != "illegal-address" or any(s.symptom == "illegal-address" and s.address is not None for s in e.sites):
        return
    for label, address in e.addresses:
        if not address:
            yield Cause(
                "null-pointer", 0.88, (f"{label} is null, and an access failed at an address that is not known",)
            )
        else:
            yield Cause("wild-pointer", 0.87, (f"{label} is the bare address {address:#x}, and an access failed",))
    if not e.addresses:
        yield Cause("out-of-bounds", 0.5, ("an access failed at an address that is not known",))


def shared_window(e: Evidence) -> Iterator[Cause]:
    """Out-of-range addresses are those of shared memory and local memory."""
    site = e.own_site
    if site is None or site.address is not None or site.symptom != "illegal-address":
        return
    if _is_shared(site):
        facts = [f"{site.witness}: {site.what} at {site.instruction}"]
        if e.blamed is not None:
            facts.append(f"the block was launched with {e.blamed.shared} bytes of dynamic shared memory")
        yield Cause("shared-out-of-bounds", 0.9, tuple(facts))


def alignment(e: Evidence) -> Iterator[Cause]:
    """Addresses that are not a multiple of the access's size; TMA's rules."""
    for site in e.sites:
        if site.symptom != "misaligned":
            continue
        counts = weight(e, site)
        if _TMA.search(site.instruction):
            yield Cause("tma-coordinate", 0.97 * counts, (f"{site.witness}: {site.what}", site.instruction))
            continue
        facts = [f"{site.witness}: {site.what}"]
        if site.address is not None and site.access and site.address % site.access:
            over = site.address % site.access
            facts.append(f"{site.address:#x} is {over} past a multiple of the {site.access} bytes of the access")
        if site.address is not None and (near := nearest(site.address, site.spots, site.access or 1)):
            facts.append(f"{site.address:#x} is {near[2]}")
        yield Cause("misaligned", 0.95 * counts, (*facts, *_odd_arguments(e)))
    if e.symptom == "misaligned" and not any(s.symptom == "misaligned" for s in e.sites):
        odd = tuple(_odd_arguments(e))
        yield Cause("misaligned", 0.95 if odd else 0.9, ("the device reports a misaligned address", *odd))


def _odd_arguments(e: Evidence) -> Iterator[str]:
    spots = e.scene.spots if e.scene else e.blamed.buffers if e.blamed else ()
    for label, address in [*((s.label, s.address) for s in spots), *e.addresses]:
        if address % _ALIGNED:
            yield f"{label} begins at {address:#x}, {address % _ALIGNED} bytes past a multiple of {_ALIGNED}"


def tma(e: Evidence) -> Iterator[Cause]:
    """What the device makes of a wrong TMA copy is an illegal instruction."""
    if e.symptom != "illegal-instruction":
        return
    site = e.own_site
    if site is None or not _TMA.search(site.instruction):
        copies = _TMA_PTX.findall(e.ptx)
        if copies and site is None:
            yield Cause("tma-coordinate", 0.55, (f"the PTX has {len(copies)} tensor copies", copies[0].strip()))
        return
    facts = [f"{site.witness}: {site.what} at {site.instruction}"]
    coordinate, map_ = 0.93, 0.6
    if site.coordinates:
        innermost, sizes = site.coordinates[0], e.element_sizes or _ELEMENTS
        fits = [size for size in sizes if not innermost * size % _ALIGNED]
        facts.append(f"coordinates {', '.join(map(str, site.coordinates))}, innermost first")
        if not fits:
            coordinate = 0.97
            facts.append(f"{innermost} elements are no multiple of {_ALIGNED} bytes")
        elif len(fits) == len(sizes):  # the coordinate is right, whatever the element
            coordinate, map_ = 0.4, 0.85
    facts += [f"{name} = {value}" for name, value in site.operands[:6]]
    yield Cause("tma-coordinate", coordinate, tuple(facts))
    yield Cause("tensor-map", map_, tuple(facts[:2]))


def descriptors(e: Evidence) -> Iterator[Cause]:
    """A descriptor that the emulator could not accept."""
    for site in e.sites:
        if site.symptom == "tensor-map":
            yield Cause("tensor-map", 0.96 * weight(e, site), (f"{site.witness}: {site.what}",))


def unwritten(e: Evidence) -> Iterator[Cause]:
    """Reads of what nobody wrote."""
    for site in e.sites:
        if site.symptom == "uninitialised" and "mbarrier." in site.instruction:
            yield Cause("mbarrier", 0.96 * weight(e, site), (f"{site.witness}: {site.what}", site.instruction))
        elif site.symptom == "uninitialised":
            yield Cause("uninitialised", 0.9 * weight(e, site), (f"{site.witness}: {site.what}",))


def _is_shared(site: Site) -> bool:
    """Whether it is shared memory that was missed: by the instruction, or by the exception, which is of windows."""
    if _SHARED.search(site.instruction):
        return True
    words = ("shared address", "shared memory", "__shared__")
    return any(word in site.what for word in words) or ("Out-of-range" in site.what and "LDGSTS" in site.instruction)


#: What the device shows -> what the emulator finds in a launch that dies of it.
_COMPATIBLE = {
    "illegal-address": ("illegal-address", "address-space"),
    "misaligned": ("misaligned",),
    "illegal-instruction": (
        "misaligned",
        "tensor-map",
        "wgmma",
        "mbarrier",
        "barrier",
        "illegal-address",
        "uninitialised",
    ),
    "launch-failed": ("trap", "mbarrier", "assert", "barrier", "tensor-map", "illegal-address", "uninitialised"),
    "trap": ("trap", "assert"),
    "assert": ("assert",),
    "mbarrier": ("mbarrier",),
    "hang": ("hang", "barrier", "mbarrier", "uninitialised"),
}


def weight(e: Evidence, site: Site) -> float:
    """How much a witness counts: all when it is the device's own, or tells the same; little when it contradicts."""
    own = e.own_site
    if site is own or (own is None and e.symptom is None):
        return 1.0
    return 1.0 if site.symptom in (e.symptom, *_COMPATIBLE.get(e.symptom or "", ())) else 0.6


RULES = (accesses, pointers, shared_window, alignment, tma, descriptors, unwritten)
