"""What a PTX module says about itself, as an `Image`; the twin of ``trlaunch.cuda.image`` for PTX text."""

from __future__ import annotations

from trlaunch.emulator.ptx import parse
from trlaunch.emulator.syntax import Function, Module, Variable
from trlaunch.errors import EmulatorError, TrlaunchError
from trlaunch.image import Image, ImageKernel, ImageParam
from trlaunch.target import Target

__all__ = ["align_up", "param_layout", "reachable", "read_image", "shared_layout"]


def read_image(text: bytes | str) -> Image:
    """Read the header of a PTX module: every kernel's parameters, block and shared memory.

    Any PTX of Triton's can be read, whether or not the emulator executes it: instructions are not looked at.

    Parameters
    ----------
    text : bytes or str
        The PTX text.

    Raises
    ------
    EmulatorError
        The text is not PTX; the message names the line.
    """
    module = parse(text)
    try:
        target = Target.parse(module.target)
    except TrlaunchError:
        raise EmulatorError(f"PTX .target {module.target!r} is not understood: expected sm_<capability>") from None
    kernels = {f.name: _kernel(module, f) for f in module.functions.values() if f.entry and f.stop}
    return Image(
        format="ptx",
        target=target,
        data=text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogateescape"),
        kernels=kernels,
        toolchain=f"PTX {module.version[0]}.{module.version[1]} for {module.target}",
        ptx_version=module.version,
    )


def _kernel(module: Module, function: Function) -> ImageKernel:
    params, total = param_layout(function)
    cluster = function.directives.get("reqnctapercluster")
    reached = reachable(module, function)
    names = frozenset().union(*(f.names for f in reached))
    return ImageKernel(
        name=function.name,
        params=params,
        param_bytes=total,
        required_block=_shape(function.directives.get("reqntid")),
        max_threads=_shape(function.directives.get("maxntid")),
        cluster=_shape(cluster),
        static_shared=shared_layout(module, function)[1],
        uses_dynamic_shared=any(v.space == "shared" and v.size is None and v.name in names
                                for v in module.variables.values()),
        has_line_table=any(f.has_loc for f in reached),
    )  # fmt: skip


def _shape(values: tuple[int, ...] | None) -> tuple[int, int, int] | None:
    if not values:
        return None
    x, y, z = (*values, 1, 1)[:3]
    return x, y, z


def param_layout(function: Function) -> tuple[tuple[ImageParam, ...], int]:
    """Offset and size of each parameter, in bytes, and the size of the parameter buffer.

    Each parameter lies at the next multiple of its alignment: that of its type unless ``.align`` says more.
    """
    at, out = 0, []
    for index, param in enumerate(function.params):
        at = align_up(at, param.align)
        out.append(ImageParam(index, at, param.size, param.type))
        at += param.size
    return tuple(out), at


def shared_layout(module: Module, function: Function) -> tuple[dict[str, int], int]:
    """Shared-memory offset of each variable that the function reaches, and where dynamic shared memory begins.

    Static variables come first, in the order of the text; every ``extern`` array lies behind them.
    """
    reached = reachable(module, function)
    names = frozenset().union(*(f.names for f in reached))
    static = [v for v in module.variables.values() if v.space == "shared" and v.name in names]
    static += [v for f in reached for v in f.variables]
    offsets: dict[str, int] = {}
    at = 0
    dynamic: list[Variable] = []
    for variable in static:
        if variable.size is None:
            dynamic.append(variable)
            continue
        at = align_up(at, variable.align)
        offsets[variable.name] = at
        at += variable.size
    size = at
    for variable in dynamic:
        offsets[variable.name] = align_up(size, max(v.align for v in dynamic))
    return offsets, size


def reachable(module: Module, function: Function) -> list[Function]:
    """The function and every device function of the module that it calls, directly or not."""
    found, todo = {function.name: function}, [function]
    while todo:
        for name in todo.pop().names:
            callee = module.functions.get(name)
            if callee is not None and name not in found:
                found[name] = callee
                todo.append(callee)
    return list(found.values())


def align_up(value: int, align: int) -> int:
    """The next multiple of `align`."""
    return -(-value // align) * align
