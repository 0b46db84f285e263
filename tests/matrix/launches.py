"""Launches of the matrix' kernels with NumPy arrays, and what NumPy says they must give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trlaunch.artifact import Artifact
from trlaunch.kernel import Kernel
from trlaunch.tensor_descriptor import TensorDescriptor

__all__ = ["LAUNCHES", "right"]

Launch = tuple[tuple[int, ...], Sequence[Any], np.ndarray, np.ndarray, float]  # grid, arguments, found, expected, error


def _random(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / 4).astype(dtype)


def _add() -> Launch:
    x, y = _random(4000), _random(4000, seed=1)
    out = np.zeros_like(x)
    return (4,), [x, y, out, x.size], out, x + y, 0.0


def _softmax() -> Launch:
    x = _random(12, 781) * 8
    out = np.zeros_like(x)
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return (12,), [out, x, 781, 781, 781], out, e / e.sum(axis=1, keepdims=True), 1e-6


def _layer_norm() -> Launch:
    x, weight, bias = _random(8, 1151), _random(1151, seed=1), _random(1151, seed=2)
    out, mean, rstd = np.zeros_like(x), np.zeros(8, np.float32), np.zeros(8, np.float32)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * weight + bias
    return (8,), [x, out, weight, bias, mean, rstd, 1151, 1151, 1e-5], out, expected, 1e-5


def _product() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    a, b = _random(128, 96 + 32, dtype=np.float16), _random(96 + 32, 128, dtype=np.float16, seed=1)
    return a, b, np.zeros((128, 128), np.float16), a.astype(np.float64) @ b.astype(np.float64)


def _matmul() -> Launch:
    a, b, c, expected = _product()
    return (2, 2), [a, b, c, 128, 128, 128, 128, 128, 128], c, expected, 4e-3


def _attention() -> Launch:
    q, k, v = (_random(2, 112, 64, dtype=np.float16, seed=i) * np.float16(4) for i in range(3))
    out = np.zeros_like(q)
    scores = q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1) / 8
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    expected = weights / weights.sum(axis=2, keepdims=True) @ v.astype(np.float64)
    return (2, 2), [q, k, v, out, 1 / 8, 112, 112 * 64], out, expected, 4e-3


def _host_tma() -> Launch:
    a, b, c, expected = _product()
    descriptors = [TensorDescriptor(x, block_shape=(64, 64)) for x in (a, b, c)]
    return (2, 2), [*descriptors, 128, 128, 128], c, expected, 4e-3


def _device_tma() -> Launch:
    a, b, c, expected = _product()
    return (2, 2), [a, b, c, 128, 128, 128], c, expected, 4e-3


LAUNCHES: dict[str, Callable[[], Launch]] = {
    "add": _add,
    "softmax": _softmax,
    "layer norm": _layer_norm,
    "matmul": _matmul,
    "flash attention": _attention,
    "TMA matmul, host descriptors": _host_tma,
    "TMA matmul, device descriptors": _device_tma,
}


def right(title: str, artifact: Artifact) -> str:
    """Run a kernel on the emulator: ``""`` where it gives what NumPy does, else what is wrong."""
    grid, arguments, found, expected, tolerance = LAUNCHES[title]()
    Kernel(artifact, device="emulator").launch(grid, *arguments)
    error = float(np.abs(found.astype(np.float64) - expected).max())
    return "" if error <= tolerance else f"off by {error:.2g}"
