"""``python -m trlaunch``, and what the ``trlaunch`` script calls."""

from __future__ import annotations

import sys

__all__ = ["main"]

_NEEDED = ("typer", "rich")
_UNAVAILABLE = 3  # as in trlaunch.cli.exits, which cannot be imported here without typer


def main() -> None:
    """Run the command line; without the packages it needs, say in one line how to get them."""
    try:
        from trlaunch.cli import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        sys.stderr.write(f'the command line needs {error.name}: pip install "trlaunch[cli]"\n')
        sys.exit(_UNAVAILABLE)
    app()


if __name__ == "__main__":
    main()
