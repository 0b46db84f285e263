"""Which releases of Triton can read a piece of TTIR or TTGIR, as its text tells.

MLIR has no version marks, and a release fails on another's text with a parser error or, worse, reads it otherwise.
Each mark was measured: every text of the corpus was given to every release to parse and to lower. The results are in
``docs/compatibility.md``; which operations a release knows is in `trlaunch.lowering.operations`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trlaunch.lowering.operations import DIALECTS, OPERATIONS

__all__ = ["RELEASES", "Mark", "describe", "marks", "readers"]

# The minor releases that there are, oldest first.
RELEASES = tuple((3, minor) for minor in range(10))


@dataclass(frozen=True, slots=True)
class Mark:
    """Something in a text that only some releases print.

    Attributes
    ----------
    what : str
        For messages.
    first, last : tuple of int
        The oldest and the newest minor release that reads it.
    """

    what: str
    first: tuple[int, int]
    last: tuple[int, int]


_OLDEST, _NEWEST = RELEASES[0], RELEASES[-1]
# A dialect's operations, attributes and types: ttg.barrier, #ttg.blocked, !ttg.memdesc.
_DIALECT = re.compile(rf"(?<![\w.$%@\"/-])[#!]?({'|'.join(DIALECTS)})\.[a-z]|\"({'|'.join(DIALECTS)})\.[a-z]")
_OPERATION = re.compile(rf"(?:^\s*|= )\"?((?:{'|'.join(DIALECTS)})\.[a-z][\w.]*)", re.M)
_SYNTAX = tuple(
    (re.compile(pattern), Mark(what, first, last))
    for what, first, last, pattern in (
        ("a memdesc without memory space", _OLDEST, (3, 1), r"!tt\.memdesc<[^<>,]*, #\w+(?:, mutable)?>"),
        ("a memdesc in #triton_gpu.shared_memory", (3, 2), (3, 2), r"!tt\.memdesc<[^<>]*#triton_gpu\.shared_memory"),
        ("tt.reshape without allow_reorder", (3, 2), _NEWEST, r"\btt\.reshape %[\w.]+ :"),
        (
            "a descriptor load or store by pointer",
            _OLDEST,
            (3, 2),
            r"\btt\.experimental_descriptor_(?:load|store) .*: !tt\.ptr<",
        ),
        ("tt.nv_tma_desc", (3, 2), (3, 3), r"\btt\.nv_tma_desc\b"),
        ("a TMA copy by pointer", _OLDEST, (3, 3), r"\.async_tma_copy_\w+ .*: !tt\.ptr<"),
        ("a TMA copy by descriptor", (3, 4), _NEWEST, r"\.async_tma_copy_\w+ .*: !tt\.tensordesc<"),
        ("the type !tt.tensordesc<tensor<...>>", (3, 3), (3, 7), r"!tt\.tensordesc<tensor<"),
        ("the type !tt.tensordesc<64x64x...>", (3, 8), _NEWEST, r"!tt\.tensordesc<\d"),
        (
            "an allocation shape on memdesc_index",
            (3, 5),
            (3, 5),
            r"\bttg\.memdesc_index .*-> !ttg\.memdesc<.*, \d+x[\dx]+>",
        ),
        ("CTA layouts as CTAsPerCGA", _OLDEST, (3, 5), r"\bCTAsPerCGA = "),
        ("CTA layouts as CGALayout", (3, 6), _NEWEST, r"\bCGALayout = "),
        ("cacheModifier or evictionPolicy", _OLDEST, (3, 8), r"\b(?:cacheModifier|evictionPolicy) = \w"),
        ("#tt.cache_policy", (3, 9), _NEWEST, r"#tt\.cache_policy<"),
        (
            "tensor memory without colStride",
            (3, 3),
            (3, 5),
            r"#ttng\.tensor_memory_encoding<[^>]*unpacked = (?:true|false)>",
        ),
        ("tensor memory with colStride", (3, 6), _NEWEST, r"#ttng\.tensor_memory_encoding<[^>]*colStride"),
        ("amd_mfma with versionMajor", _OLDEST, (3, 4), r"amd_mfma<\{versionMajor"),
        (
            "amd_mfma with a 2-D instrShape",
            (3, 5),
            (3, 5),
            r"amd_mfma<\{version = \d+, [^}]*instrShape = \[\d+, \d+\]",
        ),
        (
            "amd_mfma with a 3-D instrShape",
            (3, 6),
            _NEWEST,
            r"amd_mfma<\{version = \d+, [^}]*instrShape = \[\d+, \d+, \d+\]",
        ),
        ("the layout amd_rotating_shared", (3, 4), _NEWEST, r"amd_rotating_shared"),
        ("amd_wmma with ctaLayout", (3, 7), _NEWEST, r"amd_wmma<\{[^}]*ctaLayout"),
    )
)


def marks(text: str) -> list[Mark]:
    """The marks found in TTIR or TTGIR text: dialects, operations, and how something is written."""
    dialects = {m[1] or m[2] for m in _DIALECT.finditer(text)}
    found = [Mark(f"the dialect {name}", *DIALECTS[name]) for name in DIALECTS if name in dialects and name != "tt"]
    known = sorted({name for m in _OPERATION.finditer(text) if (name := m[1]) in OPERATIONS})
    found += [Mark(f"the operation {name}", *OPERATIONS[name]) for name in known]
    return found + [mark for pattern, mark in _SYNTAX if pattern.search(text)]


def readers(text: str) -> tuple[tuple[int, int], ...]:
    """The releases that can read the text; all of them when nothing in it tells."""
    found = marks(text)
    return tuple(r for r in RELEASES if all(mark.first <= r <= mark.last for mark in found))


def describe(releases: tuple[tuple[int, int], ...]) -> str:
    """``"3.3 to 3.5"``, ``"3.8 and 3.9"``, ``"none"``."""
    if not releases:
        return "none"
    names = [f"{major}.{minor}" for major, minor in releases]
    return names[0] if len(names) == 1 else f"{names[0]} {'and' if len(names) == 2 else 'to'} {names[-1]}"
