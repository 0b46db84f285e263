"""The comment line by which a saved module knows which pass it comes after.

::

    // trlaunch: after tritongpu-coalesce#1 of ttgir, triton 3.6.0, cuda:90, options {"num_warps": 8}, carried {...}

``before ttir`` instead of ``after ... of ...`` is the input of a stage. LLVM IR has ``;`` for ``//``. The options are
those that differ from the release's defaults; `carried` holds what the text cannot: the kernel's name, metadata of
earlier stages, and what passes wrote elsewhere than into the module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trlaunch.errors import LoweringError
from trlaunch.lowering.options import jsonable
from trlaunch.lowering.triton_compiler import Compiler, installed_release
from trlaunch.target import Target

__all__ = ["Marker", "own_options", "read_marker"]

_LINE = re.compile(
    r"(?://|;) trlaunch: (?:after (?P<after>\S+) of|before) (?P<stage>\w+), triton (?P<release>[\w.+]+), "
    r"(?P<target>\S+), options (?P<rest>\{.*)"
)


@dataclass(frozen=True, slots=True)
class Marker:
    """Where a saved module stands.

    Attributes
    ----------
    stage : str
        The stage that goes on with it.
    after : str or None
        The pass it was saved after, ``"tritongpu-coalesce#1"``; ``None`` before the first.
    release : str
        Full version of the Triton that ran.
    target : Target
    options : mapping
        Compile options by Triton's names.
    carried : mapping
        ``kernel``, ``gluon``, ``metadata``, ``state``; ``output``: the text is that of the level `stage`, finished.
    """

    stage: str
    after: str | None
    release: str
    target: Target
    options: Mapping[str, Any] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)

    def line(self, comment: str = "//") -> str:
        """The comment, with its line end."""
        where = f"before {self.stage}" if self.after is None else f"after {self.after} of {self.stage}"
        options, carried = (json.dumps(jsonable(m), sort_keys=True) for m in (self.options, self.carried))
        return (
            f"{comment} trlaunch: {where}, triton {self.release}, {self.target}, options {options}, carried {carried}\n"
        )

    def refuse_other_release(self, label: str) -> None:
        """Raise `LoweringError` unless the installed release is the one that wrote it, patches apart."""
        wrote = tuple(int(part) for part in self.release.split(".")[:2])
        if installed_release() not in (None, wrote):
            major, minor = installed_release() or (0, 0)
            raise LoweringError(
                f"{label} was saved between passes of Triton {self.release}, and {major}.{minor} is installed, whose "
                f"passes are others: expected Triton {wrote[0]}.{wrote[1]}",
                stage="parse",
            )


def read_marker(text: str) -> Marker | None:
    """The marker in the first line of a text; ``None`` when there is none.

    Raises
    ------
    LoweringError
        The line begins as a marker and is damaged.
    """
    first = text.partition("\n")[0]
    if not first.startswith(("// trlaunch: ", "; trlaunch: ")):
        return None
    match = _LINE.fullmatch(first.rstrip())
    try:
        if match is None:
            raise ValueError("its form")
        decoder = json.JSONDecoder()
        options, end = decoder.raw_decode(match["rest"])
        rest = match["rest"][end:]
        if not rest.startswith(", carried "):
            raise ValueError("no ', carried {...}'")
        carried = json.loads(rest.removeprefix(", carried "))
        if not isinstance(carried, dict):
            raise ValueError("carried is no object")
    except (ValueError, RecursionError) as error:
        raise LoweringError(
            f"the first line is a marker that cannot be read ({error}): expected '// trlaunch: after PASS#N of STAGE, "
            f"triton VERSION, TARGET, options {{...}}, carried {{...}}'; delete it and say start_after=",
            stage="parse",
        ) from None
    return Marker(match["stage"], match["after"], match["release"], Target.parse(match["target"]), options, carried)


def own_options(compiler: Compiler) -> dict[str, Any]:
    """The options of a compiler that are not the release's defaults for its target."""
    defaults = vars(compiler.backend.parse_options({}))
    return {name: value for name, value in vars(compiler.options).items() if value != defaults.get(name)}
