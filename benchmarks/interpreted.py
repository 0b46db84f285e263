"""Kernels of the tests under Triton's own interpreter (``TRITON_INTERPRET=1``), for comparison with the emulator.

Needs Triton and torch, whose tensors the interpreter works on; the kernels' sources are those that the test corpus was
compiled from. Triton decides when a kernel is defined whether it is interpreted, so this module sets the variable
before it imports anything of Triton.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from trlaunch.tensor_descriptor import TensorDescriptor

__all__ = ["failures", "missing", "run"]

_FOLDER = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
_modules: dict[str, ModuleType] = {}


def missing() -> str:
    """What is not installed that the interpreter needs, in words; empty if nothing is."""
    names = [n for n in ("triton", "torch") if importlib.util.find_spec(n) is None]
    return f"no {' and no '.join(names)}" if names else ""


def failures() -> tuple[type[Exception], ...]:
    """What the interpreter raises for a kernel that it cannot run, such as on a NumPy that is too new for it."""
    from triton.runtime.errors import InterpreterError

    return (InterpreterError,)


def _kernel(source: str, name: str) -> Any:
    if source not in _modules:
        os.environ["TRITON_INTERPRET"] = "1"
        spec = importlib.util.spec_from_file_location(source, _FOLDER / f"{source}.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[source] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _modules[source] = module
    return getattr(_modules[source], name)


def _argument(value: Any) -> tuple[Any, Any]:
    """An argument as the interpreter takes it, and the tensor that it is over."""
    import torch

    if isinstance(value, TensorDescriptor):
        from triton.tools.tensor_descriptor import TensorDescriptor as Descriptor

        tensor = torch.from_numpy(np.array(value.tensor))
        return Descriptor.from_tensor(tensor, list(value.block_shape)), tensor
    if not isinstance(value, np.ndarray):
        return value, None
    tensor = torch.from_numpy(value.copy())
    if value.dtype == np.uint16:  # bfloat16's bits
        tensor = tensor.view(torch.bfloat16)
    return tensor, tensor


def run(
    source: str, name: str, values: list[Any], constexprs: Mapping[str, Any], grid: tuple[int, ...]
) -> tuple[float, float, list[np.ndarray]]:
    """Run a kernel once.

    Parameters
    ----------
    source : str
        Module of the kernel in ``tests/fixtures``.
    values : list
        The kernel's arguments but for `constexprs`.

    Returns
    -------
    milliseconds, processor_milliseconds : float
    arrays : list of ndarray
        What the arrays among the arguments hold afterwards; bfloat16 as bits.
    """
    import torch

    kernel = _kernel(source, name)
    made = [_argument(v) for v in values]
    names = [n for n in kernel.arg_names if n not in constexprs]
    arguments = {**dict(zip(names, (m[0] for m in made), strict=True)), **constexprs}
    start, busy = time.perf_counter(), time.process_time()
    kernel[grid](**arguments)
    elapsed, cpu = (time.perf_counter() - start) * 1e3, (time.process_time() - busy) * 1e3
    tensors = [m[1] for m in made if m[1] is not None]
    return elapsed, cpu, [(t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy() for t in tensors]
