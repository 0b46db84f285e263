"""How each case of the corpus is launched, and what NumPy says it computes.

A `Launch` holds host arrays; `put` makes device arguments of them with `trlaunch.asarray`, so that nothing here needs a
framework, and `wrong` compares what came back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import trlaunch
from tests.corpus import Case

__all__ = ["Host", "Launch", "Placed", "launch_of", "put"]


@dataclass(frozen=True)
class Host:
    """A host array with what NumPy cannot say: bf16, or the block of the descriptor that it is passed as."""

    array: np.ndarray
    dtype: str | None = None
    block: tuple[int, ...] = ()


@dataclass(frozen=True)
class Launch:
    """One launch.

    Attributes
    ----------
    grid : tuple of int
    arguments : list
        In order: host arrays, `Host`, numbers, tuples.
    expected : dict of int to ndarray
        By position among the leaves of `arguments`, what it must hold afterwards.
    rtol, atol : float
        As for `numpy.allclose`; both 0 ask for the very bits.
    """

    grid: tuple[int, ...]
    arguments: list[Any]
    expected: dict[int, np.ndarray]
    rtol: float = 0.0
    atol: float = 0.0


@dataclass(frozen=True)
class Placed:
    """A launch whose arrays are on a device."""

    launch: Launch
    arguments: list[Any]
    arrays: dict[int, trlaunch.DeviceArray]
    keep: list[Any]

    def wrong(self) -> str:
        """What is wrong about the results, empty when nothing is."""
        for index, expected in self.launch.expected.items():
            found = self.arrays[index].numpy()
            if self.arrays[index].dtype == "bf16":
                found = (found.astype(np.uint32) << np.uint32(16)).view(np.float32)
            if self.launch.rtol or self.launch.atol:
                close = np.isclose(found, expected, rtol=self.launch.rtol, atol=self.launch.atol)
            else:
                close = found == expected.astype(found.dtype)
            if not close.all():
                at = np.unravel_index(np.argmin(close), close.shape)
                return (
                    f"argument {index}: {(~close).sum()} of {close.size} elements differ, the first at "
                    f"{tuple(map(int, at))}: {found[at]!r} instead of {expected[at]!r}"
                )
        return ""


def launch_of(case: Case) -> Launch:
    """Arguments and expected results of a case of the corpus."""
    return _KERNELS[case.kernel](case)


def put(launch: Launch, case: Case, device: str = "cuda:0") -> Placed:
    """The arguments of a launch on a device, as this release of Triton takes them."""
    arrays: dict[int, trlaunch.DeviceArray] = {}
    keep: list[Any] = []
    leaves = 0

    def one(value: Any) -> Any:
        nonlocal leaves
        if isinstance(value, tuple):
            return tuple(one(part) for part in value)
        index, leaves = leaves, leaves + 1
        host = Host(value) if isinstance(value, np.ndarray) else value
        if not isinstance(host, Host):
            return value
        arrays[index] = trlaunch.asarray(host.array, host.dtype, device)
        if not host.block:
            return arrays[index]
        descriptor = trlaunch.TensorDescriptor(arrays[index], block_shape=host.block)
        keep.append(descriptor)
        return descriptor.on_device() if case.version < (3, 2) else descriptor

    return Placed(launch, [one(value) for value in launch.arguments], arrays, keep)


def _add(case: Case) -> Launch:
    rng = np.random.default_rng(0)
    n = 98_432
    x, y = rng.standard_normal((2, n), dtype=np.float32)
    grid = (-(-n // case.constexprs["BLOCK"]),)
    return Launch(grid, [x, y, np.zeros_like(x), n], {2: x + y})


def _softmax(case: Case) -> Launch:
    rows, columns = (64, 4096) if case.constexprs["BLOCK"] == 4096 else (223, 781)
    x = np.random.default_rng(1).standard_normal((rows, columns), dtype=np.float32)
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    arguments = [np.zeros_like(x), x, columns, columns, columns]
    return Launch((rows,), arguments, {0: e / e.sum(axis=1, keepdims=True)}, rtol=1e-5)


def _layer_norm(_: Case) -> Launch:
    rows, columns, eps = 129, 1151, 1e-5
    rng = np.random.default_rng(2)
    x = rng.standard_normal((rows, columns), dtype=np.float32) * 3 + 1
    weight, bias = rng.standard_normal((2, columns), dtype=np.float32)
    mean = x.mean(axis=1, dtype=np.float64)
    rstd = 1 / np.sqrt(x.var(axis=1, dtype=np.float64) + eps)
    y = (x - mean[:, None]) * rstd[:, None] * weight + bias
    outputs = np.zeros_like(x), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    arguments = [x, outputs[0], weight, bias, outputs[1], outputs[2], columns, columns, eps]
    return Launch((rows,), arguments, {1: y, 4: mean, 5: rstd}, rtol=1e-4, atol=1e-5)


def _operands(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Two 512 x 512 matrices whose elements fp16, bf16 and tf32 hold exactly."""
    whole = np.random.default_rng(3).integers(-128, 128, (2, 512, 512))
    a, b = (whole / 128).astype(dtype)
    return a, b


def _matmul(case: Case) -> Launch:
    n, element = 512, case.params[0].type
    a, b = _operands("float16" if element == "*fp16" else "float32")
    expected = a.astype(np.float64) @ b.astype(np.float64)
    grid = tuple(-(-n // case.constexprs[block]) for block in ("BLOCK_M", "BLOCK_N"))
    # Operands are exact, so what is left is the accumulation and the rounding of the result.
    rtol = {"*fp16": 2**-10, "*bf16": 2**-7, "*fp32": 1e-5}[element]
    matrices = [Host(array, element.lstrip("*")) for array in (a, b, np.zeros_like(a))]
    return Launch(grid, [*matrices, n, n, n, n, n, n], {2: expected}, rtol, atol=2e-3)


def _tma_matmul(case: Case) -> Launch:
    n = 512
    a, b = _operands("float16")
    expected = a.astype(np.float64) @ b.astype(np.float64)
    blocks = [tuple(case.descriptors[name]["block"]) for name in ("a_desc", "b_desc", "c_desc")]
    matrices = [Host(array, block=block) for array, block in zip((a, b, np.zeros_like(a)), blocks, strict=True)]
    grid = tuple(-(-n // case.constexprs[block]) for block in ("BLOCK_M", "BLOCK_N"))
    return Launch(grid, [*matrices, n, n, n], {2: expected}, rtol=2**-10, atol=2e-3)


_SCALARS = {
    "i1": True, "i8": -101, "i16": -30_001, "i32": -2_000_000_001, "i64": -(2**62) - 3,
    "u8": 201, "u16": 65_001, "u32": 4_000_000_001, "u64": 2**64 - 5,
    "fp16": 1 / 3, "bf16": 1 / 3, "fp32": np.pi, "fp64": np.pi,
}  # fmt: skip
# 1/3 is 0x3EAAAAAB in fp32: rounding to nearest bf16 goes up, truncation would not.
_THIRD_BF16 = np.array([0x3EAB0000], np.uint32).view(np.float32)


def _scalars(case: Case) -> Launch:
    dtypes = {"i1": "int8", "fp16": "float16", "bf16": "float32", "fp32": "float32", "fp64": "float64"}
    arguments: list[Any] = []
    expected = {}
    for index, param in enumerate(case.params):
        kind, name = param.name.split("_")
        if kind == "x":
            arguments.append(_SCALARS[name])
            continue
        dtype = np.dtype(dtypes.get(name, name.replace("i", "int").replace("u", "uint")))
        arguments.append(Host(np.zeros(1, dtype), "bf16" if name == "bf16" else None))
        expected[index] = _THIRD_BF16 if name == "bf16" else np.array([_SCALARS[name]]).astype(dtype)
    return Launch((1,), arguments, expected)


def _tuple(case: Case) -> Launch:
    rng = np.random.default_rng(4)
    n = 98_432
    x, y = rng.standard_normal((2, n), dtype=np.float32)
    expected = x.astype(np.float64) * 0.5 + y.astype(np.float64) * 3 + 1
    grid = (-(-n // case.constexprs["BLOCK"]),)
    return Launch(grid, [(x, y), (0.5, 3), np.zeros_like(x), n], {4: expected}, rtol=1e-5, atol=1e-6)


def _cooperative(case: Case) -> Launch:
    n = 98_432
    x = np.random.default_rng(5).random(n, dtype=np.float32)
    blocks = -(-n // case.constexprs["BLOCK"])
    partial, arrived = np.zeros(case.constexprs["BLOCKS"], np.float32), np.zeros(1, np.int32)
    expected = x / x.sum(dtype=np.float64)
    arguments = [x, partial, arrived, np.zeros_like(x), n]
    return Launch((blocks,), arguments, {2: np.array([blocks]), 3: expected}, rtol=1e-5)


def _scratch(case: Case) -> Launch:
    n = 512
    x = np.random.default_rng(6).standard_normal((n, n), dtype=np.float32)
    grid = tuple(n // case.constexprs[block] for block in ("BLOCK_M", "BLOCK_N"))
    return Launch(grid, [x, np.zeros_like(x), n, n], {1: x * 2})


_KERNELS: dict[str, Callable[[Case], Launch]] = {
    "add_kernel": _add,
    "pdl_kernel": _add,
    "softmax_kernel": _softmax,
    "layer_norm_kernel": _layer_norm,
    "matmul_kernel": _matmul,
    "tma_matmul_kernel": _tma_matmul,
    "scalars_kernel": _scalars,
    "tuple_kernel": _tuple,
    "cooperative_kernel": _cooperative,
    "scratch_kernel": _scratch,
}
