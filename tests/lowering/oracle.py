"""What Triton's own launch would compile: ``JITFunction.run`` with a driver that only knows a target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from trlaunch.lowering.triton_compiler import active_attribute

__all__ = ["Like", "compiled", "only_target", "tensor"]


@dataclass(frozen=True)
class _Dtype:
    """Prints as torch's dtype does; Triton's descriptor asks for the other two."""

    text: str
    itemsize: int = 2
    is_floating_point: bool = True

    def __str__(self) -> str:
        return f"torch.{self.text}"


@dataclass(frozen=True)
class Like:
    """What Triton asks of a tensor."""

    dtype: _Dtype
    address: int = 1 << 20
    shape: tuple[int, ...] = (64, 64)
    device: Any = field(default_factory=lambda: SimpleNamespace(type="cuda", index=0))

    def data_ptr(self) -> int:
        return self.address

    def stride(self) -> tuple[int, ...]:
        return (self.shape[1], 1)


def tensor(dtype: str, address: int = 1 << 20) -> Like:
    return Like(_Dtype(dtype), address)


@contextlib.contextmanager
def only_target(capability: int) -> Iterator[None]:
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    attribute = active_attribute(driver)
    saved = getattr(driver, attribute)
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", capability, 32),
            get_current_device=lambda: capability,  # Triton keeps the target of a device
            get_current_stream=lambda _device: 0,
        )
    )
    try:
        yield
    finally:
        setattr(driver, attribute, saved)


def compiled(function: Any, *args: Any, capability: int, **keywords: Any) -> dict[str, Any]:
    """The text of every level, as Triton's launch makes it."""
    with only_target(capability):
        kernel = function.warmup(*args, grid=(1,), **keywords)
    return dict(kernel.asm)
