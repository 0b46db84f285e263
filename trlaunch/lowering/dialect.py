"""Which releases of Triton can read a piece of TTIR or TTGIR, as its text tells.

MLIR has no version marks, and a release fails on another's text with a parser error or, worse, reads it otherwise.
Each mark below was seen in what the releases from 3.0 to 3.9 print.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
_MARKS = tuple(
    (re.compile(pattern), Mark(what, first, last))
    for what, first, last, pattern in (
        ("the dialect name triton_gpu", _OLDEST, (3, 2), r"#triton_gpu\b|\btriton_gpu\.|\btriton_nvidia_gpu\."),
        ("the dialect name ttg", (3, 3), _NEWEST, r"#ttg\.|\bttg\.|\bttng\.|!ttg\."),
        ("the type !tt.memdesc", _OLDEST, (3, 2), r"!tt\.memdesc<"),
        ("tt.nv_tma_desc", (3, 2), (3, 3), r"\bnv_tma_desc\b"),
        ("tt.experimental_descriptor_load", _OLDEST, (3, 3), r"\btt\.experimental_descriptor_(?:load|store)\b"),
        ("the type !tt.tensordesc<tensor<...>>", (3, 3), (3, 7), r"!tt\.tensordesc<tensor<"),
        ("the type !tt.tensordesc<64x64x...>", (3, 8), _NEWEST, r"!tt\.tensordesc<\d"),
        ("the layout #ttg.linear", (3, 3), _NEWEST, r"#ttg\.linear<"),
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
        ("the module attribute ttng.two-ctas", (3, 9), _NEWEST, r'"ttng\.two-ctas"'),
    )
)


def marks(text: str) -> list[Mark]:
    """The marks found in TTIR or TTGIR text."""
    return [mark for pattern, mark in _MARKS if pattern.search(text)]


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
