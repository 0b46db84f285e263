"""Lines in colour, as triton-runner's scripts print their headings."""

from __future__ import annotations

import sys

__all__ = ["blue_print", "red_print", "yellow_print"]

_RED, _YELLOW, _BLUE = 31, 33, 34  # ECMA-48, "select graphic rendition"


def blue_print(text: object) -> None:
    """Print a line in blue; plain where stdout is no terminal."""
    _print(text, _BLUE)


def yellow_print(text: object) -> None:
    """Print a line in yellow; plain where stdout is no terminal."""
    _print(text, _YELLOW)


def red_print(text: object) -> None:
    """Print a line in red; plain where stdout is no terminal."""
    _print(text, _RED)


def _print(text: object, colour: int) -> None:
    line = f"\x1b[{colour}m{text}\x1b[0m" if sys.stdout.isatty() else str(text)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
