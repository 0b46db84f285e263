"""Arguments of a launch made from ``--arg``: arrays on the device, numbers, null pointers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

import trlaunch
from trlaunch.arguments import GENERATORS, ArgumentSpec, UsageError
from trlaunch.driver import Device

__all__ = ["ArgOption", "GridOption", "LaunchArgument", "in_order", "materialise"]

GridOption = Annotated[str, typer.Option("--grid", "-g", help="CTAs along x, y, z: 8,8.", metavar="X,Y,Z")]
ArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arg",
        "-a",
        help=f"An argument by name or position: M=512, eps=1e-5, a=rand:float16:512x512 (or {', '.join(GENERATORS)}), "
        "b=@weights.npy, p=null. Repeat it for each.",
        metavar="KEY=VALUE",
    ),
]


@dataclass(slots=True)
class LaunchArgument:
    """One argument of the launch: what was asked for and what it became."""

    key: str | int
    spec: ArgumentSpec
    before: npt.NDArray[Any] | None
    value: Any
    after: npt.NDArray[Any] | None = None

    @property
    def label(self) -> str:
        """Its name, or ``arg<position>``."""
        return self.key if isinstance(self.key, str) else f"arg{self.key}"


def materialise(kernel: trlaunch.Kernel, specs: Sequence[ArgumentSpec], device: Device) -> list[LaunchArgument]:
    """Make every argument, arrays on the device; positions become names where these are known."""
    names = [p.name for p in kernel.signature.user]
    arguments: list[LaunchArgument] = []
    for i, spec in enumerate(specs):
        key = spec.key
        if isinstance(key, int) and key < len(names):
            key = names[key] or key
        if any(a.key == key for a in arguments):
            raise UsageError(f"argument {spec.key}={spec.text}: {key} was given before")
        value = spec.value(default_seed=i)
        array = value if isinstance(value, np.ndarray) else None
        if array is not None:
            value = trlaunch.asarray(array, spec.type, device=device)
        elif value is None:
            value = trlaunch.Pointer(0)
        arguments.append(LaunchArgument(key, spec, array, value))
    return arguments


def in_order(arguments: Sequence[LaunchArgument]) -> tuple[list[Any], dict[str, Any]]:
    """The values by position and those by name, as a launch takes them."""
    by_position = {a.key: a.value for a in arguments if isinstance(a.key, int)}
    missing = sorted(set(range(len(by_position))) - by_position.keys())
    if missing:
        raise UsageError(f"argument {missing[0]} is missing: expected positions 0 to {max(by_position)} without a gap")
    named = {a.key: a.value for a in arguments if isinstance(a.key, str)}
    return [by_position[i] for i in range(len(by_position))], named
