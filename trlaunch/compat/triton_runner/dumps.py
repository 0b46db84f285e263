"""``dump_tensor=``: launches that write values to a buffer of the caller's, as triton-runner's do.

In Python the function says what, by `language`; at TTIR and TTGIR ``dump_value=`` names a value and ``dump_grid=`` one
program. The buffer is flat and holds fp32; the value of the last iteration stays.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from trlaunch.artifact import Artifact, Level
from trlaunch.dump.flat import FLAT_PARAMETER, Flat, inject_flat
from trlaunch.dump.request import at
from trlaunch.errors import ArgumentError
from trlaunch.jit_function import Compiled, TrlaunchFunction, arguments_for
from trlaunch.kernel import Kernel
from trlaunch.lowering import specialize
from trlaunch.lowering.specialize import Bound
from trlaunch.packing import describe
from trlaunch.target import Target
from trlaunch.tensors import is_tensor, view

__all__ = ["DUMPS", "DumpRequest", "DumpingFunction", "dumping_artifact", "take_dump"]

#: What was put into kernels that were compiled from functions.
_FLATS: weakref.WeakKeyDictionary[Kernel, Flat] = weakref.WeakKeyDictionary()
TENSOR, VALUE, GRID = DUMPS = (FLAT_PARAMETER, "dump_value", "dump_grid")


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """``dump_value=`` and ``dump_grid=`` of a launch."""

    value: str
    program: tuple[int, ...]


def take_dump(name: str, given: Mapping[str, Any], level: Level | None) -> tuple[Any, DumpRequest | None]:
    """The buffer of a launch and what goes into it; no request: what the function marks.

    Parameters
    ----------
    name : str
        The function's.
    given : mapping
        Those of `DUMPS` that are given.
    level : Level, optional
        Of what runs instead of the function.

    Raises
    ------
    ArgumentError
        The keywords do not go together, or the buffer is not contiguous fp32.
    """
    tensor, value = given.get(TENSOR), given.get(VALUE)
    if tensor is None:
        raise ArgumentError(f"{name}: {next(iter(given))}= needs {TENSOR}=, the buffer that is written to")
    found = view(tensor) if is_tensor(tensor) else None
    if found is None or found.dtype != "fp32":
        raise ArgumentError(
            f"{TENSOR}={describe(tensor) if found is None else found.dtype}: expected a tensor of float32; "
            f"for other dtypes: trlaunch.Kernel.from_file(..., dump=[...])"
        )
    if found.extent is not None and found.extent != 4 * math.prod(found.shape):
        raise ArgumentError(f"{TENSOR}= has shape {found.shape} and strides {found.strides}: expected it contiguous")
    if level is None:
        if value is not None or given.get(GRID) is not None:
            raise ArgumentError(
                f"{name}: {VALUE}= and {GRID}= are for ttir_dir= and ttgir_dir=; a function says it itself: "
                f"triton_runner.language.dump(value, offset, dump_grid)"
            )
        return tensor, None
    if level not in (Level.TTIR, Level.TTGIR):
        raise ArgumentError(
            f"{name}: {TENSOR}= is for Python, TTIR and TTGIR, and what runs is {level}: "
            f"trlaunch.Kernel.from_file(..., dump=[...]) captures values of LLVM IR and PTX"
        )
    if not isinstance(value, str):
        raise ArgumentError(f"{name}: {VALUE}={value!r:.60}: expected the name of a value in the text, such as '%13'")
    program = given.get(GRID) or 0
    numbers = tuple(program) if isinstance(program, (tuple, list)) else (program,)
    if not 1 <= len(numbers) <= 3 or not all(type(n) is int and n >= 0 for n in numbers):
        raise ArgumentError(f"{GRID}={program!r:.60}: expected an int or one to three, none negative")
    return tensor, DumpRequest(value, numbers)


def dumping_artifact(artifact: Artifact, request: DumpRequest, tensor: Any) -> Artifact:
    """An artifact with the store of a value in it.

    Raises
    ------
    ArgumentError
        The value cannot be stored, or the buffer is too small for it.
    """
    name = artifact.metadata.name if artifact.metadata is not None else None
    flat = inject_flat(artifact.text, name, [at(request.value, programs=[request.program])])
    _check_size(tensor, flat, 1, request.value)
    return replace(artifact, data=flat.text.encode(), siblings={})


class DumpingFunction(TrlaunchFunction):
    """A function whose launches take ``dump_tensor=``."""

    def _compile(self, bound: Bound, level: Level, target: Target) -> Any:
        made = specialize.compile_function(bound, level, target, marked="fp32")
        flat = inject_flat(made.artifact.text, None, None)
        artifact = replace(made.artifact, data=flat.text.encode())
        types = {**made.types, TENSOR: "*fp32"}
        kernel = Kernel(artifact, signature=types, device=self._device, check=self._check)
        _FLATS[kernel] = flat
        return Compiled(kernel, made.types)

    def _from_source(self, bound: Bound) -> tuple[Kernel, list[Any], dict[str, Any]]:
        tensor, bound = _without_tensor(self, bound)
        kernel, positional, named = super()._from_source(bound)
        return kernel, [*positional, tensor], named

    def _from_content(self, content: Any, bound: Bound) -> tuple[Kernel, list[Any], dict[str, Any]]:
        tensor, bound = _without_tensor(self, bound)
        kernel = content.kernel(bound.options, self._device, self._check)
        params = [*self.params, SimpleNamespace(name=TENSOR, is_constexpr=False)]
        values = {**bound.values, TENSOR: tensor}
        return kernel, *arguments_for(kernel, kernel.artifact.label, params, values)

    def _launch(self, kernel: Kernel, shape: Any, positional: list[Any], stream: Any, named: dict[str, Any]) -> Any:
        flat = _FLATS.get(kernel)
        if flat is not None:
            sizes = (shape,) if hasattr(shape, "__index__") else tuple(shape)
            _check_size(positional[-1], flat, math.prod(sizes), f"a grid of {sizes}")
        return super()._launch(kernel, shape, positional, stream, named)


def _check_size(tensor: Any, flat: Flat, programs: int, what: str) -> None:
    needed, there = flat.elements(programs), math.prod(view(tensor).shape)
    if needed > there:
        raise ArgumentError(f"{TENSOR}= has {there} elements: expected at least {needed} for {what}")


def _without_tensor(function: Any, bound: Bound) -> tuple[Any, Bound]:
    options = dict(bound.options)
    tensor = options.pop(TENSOR)
    return tensor, Bound(function, bound.values, options)
