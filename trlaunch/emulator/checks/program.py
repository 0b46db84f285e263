"""``python -m trlaunch.emulator.checks.program SCRIPT [ARGUMENTS]``: a Python program whose launches are all checked.

``trlaunch sanitize`` starts it. Launches that name a GPU go to the emulator, and where Triton is installed its kernels
are launched by trlaunch (`trlaunch.patch_triton`). What to check is in the environment (`trlaunch.emulator.settings`).
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

__all__ = ["main"]


def _to_the_emulator() -> None:
    """Have every device be the emulator."""
    from trlaunch import driver

    original = driver.Device.parse.__func__  # type: ignore[attr-defined]

    def parse(cls: type[driver.Device], text: str | driver.Device) -> driver.Device:
        """As `Device.parse`, of the emulator."""
        original(cls, text)  # says what is wrong with it
        return driver.Device("emulator")

    driver.Device.parse = classmethod(parse)  # type: ignore[method-assign, assignment]
    sys.meta_path.insert(0, _BehindTriton())


class _BehindTriton(MetaPathFinder):
    """Patches Triton once it has been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        """Triton's own, with a loader that does so."""
        if name != "triton" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        found = find_spec(name)
        if found is not None and found.loader is not None:
            loader = found.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                import trlaunch

                trlaunch.patch_triton("emulator")

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return found


def main(arguments: list[str]) -> None:
    """Run ``script.py ...``, ``-m module ...`` or ``-c code ...``."""
    _to_the_emulator()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path[0] = ""
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
