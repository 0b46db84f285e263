"""Calls of what the CUDA runtime has: ``vprintf`` and ``__assertfail``; device functions are put in their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trlaunch.emulator.instructions.base import Suffixes, emits, refuse
from trlaunch.emulator.syntax import Group, Instruction, Symbol

if TYPE_CHECKING:
    from trlaunch.emulator.codegen import Emitter

__all__: list[str] = []


@emits("call")
def call(c: Emitter, i: Instruction, s: Suffixes) -> None:
    """Print a line per lane, or fail."""
    s.drop("uni")
    s.finish()
    names = [o.name for o in i.operands if isinstance(o, Symbol)]
    groups = [o.items for o in i.operands if isinstance(o, Group)]
    name = names[0] if names else "an address in a register"
    if name == "vprintf" and groups and len(groups[-1]) == 2:
        template, buffer = (_argument(c, g, 8) for g in groups[-1])
        c.line(f"S.print({template}, {buffer}, {c.mask()}, {c.site})")
        if len(groups) == 2:
            (result,) = groups[0]
            c.line(f"S.local.store({_place(c, result)}, {c.constant('u4', 1)}, {c.mask()}, 4, {c.site})")
        return None
    if name == "__assertfail" and groups and len(groups[-1]) == 5:
        message, file, line, function, _ = groups[-1]
        strings = ", ".join(_argument(c, g, 8) for g in (message, file, function))
        return c.line(f"S.fail([{strings}], {_argument(c, line, 4)}, {c.mask()}, {c.site})")
    raise refuse(f"a call of {name} is not executed: this module has no body for it")


def _place(c: Emitter, operand: object) -> str:
    if not isinstance(operand, Symbol) or operand.name not in c.layout.locals:
        raise refuse("arguments of a call that are not .param variables are not executed")
    return c.constant("u8", c.layout.locals[operand.name])


def _argument(c: Emitter, operand: object, size: int) -> str:
    return c.temp(f"S.local.load({_place(c, operand)}, {c.mask()}, {size}, {c.site})")
