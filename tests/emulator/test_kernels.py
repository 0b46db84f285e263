"""Triton's kernels of every release for sm_80, and those for sm_90 that need nothing newer, against NumPy."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from tests import corpus
from tests.emulator.launching import launch
from trlaunch.errors import Fault

RELEASES = len(corpus.releases())


def cases(*names: str, targets: tuple[str, ...] = ("cuda:80", "cuda:90")) -> list[corpus.Case]:
    return [c for c in corpus.cases(level="ptx") if c.name in names and c.target in targets]


def run(case: corpus.Case, values: list, grid: tuple[int, ...], **settings) -> None:
    launch(case.bytes("ptx"), values, kernel=case.kernel, grid=grid, shared=case.metadata["shared"], **settings)


def normal(*shape: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def test_the_corpus_has_every_release() -> None:
    assert RELEASES == 10
    for name in ("add_kernel", "softmax_kernel", "layer_norm_kernel", "matmul_kernel", "matmul_kernel_tf32"):
        assert len(cases(name, targets=("cuda:80",))) == RELEASES


@pytest.mark.parametrize("case", cases("add_kernel", "pdl_kernel"), ids=str)
def test_add(case: corpus.Case) -> None:
    n = 9000
    x, y, out = normal(n), normal(n, seed=1), np.full(n + 8, 7, np.float32)
    run(case, [x, y, out[:n], n], (9,), read_only=(0, 1))
    np.testing.assert_array_equal(out[:n], x + y)
    assert (out[n:] == 7).all()


@pytest.mark.parametrize("case", cases("softmax_kernel", "softmax_kernel_4096"), ids=str)
def test_softmax(case: corpus.Case) -> None:
    columns = 4096 if case.name.endswith("4096") else 781
    x = normal(40, columns) * 4
    x[3, 5] = -math.inf
    out = np.zeros_like(x)
    run(case, [out, x, columns, columns, columns], (40,), read_only=(1,))
    e = np.exp(x - x.max(axis=1, keepdims=True), dtype=np.float64)
    np.testing.assert_allclose(out, e / e.sum(axis=1, keepdims=True), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("case", cases("layer_norm_kernel"), ids=str)
def test_layer_norm(case: corpus.Case) -> None:
    rows, columns, eps = 30, 1151, 1e-5
    x, weight, bias = normal(rows, columns), normal(columns, seed=1), normal(columns, seed=2)
    out, mean, rstd = np.zeros_like(x), np.zeros(rows, np.float32), np.zeros(rows, np.float32)
    run(case, [x, out, weight, bias, mean, rstd, columns, columns, eps], (rows,), read_only=(0, 2, 3))
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps)
    np.testing.assert_allclose(out, centred * scale * weight + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mean, wide.mean(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rstd, scale[:, 0], rtol=1e-5)


@pytest.mark.parametrize("case", cases("matmul_kernel", "matmul_kernel_bf16", targets=("cuda:80",)), ids=str)
def test_matmul_16_bits(case: corpus.Case) -> None:
    m, n, k = 96, 160, 112
    a, b = normal(m, k), normal(k, n, seed=1)
    if case.name.endswith("bf16"):
        a, b, c = to_bf16(a), to_bf16(b), np.zeros((m, n), np.uint16)
        exact = from_bf16(a).astype(np.float64) @ from_bf16(b)
    else:
        a, b, c = a.astype(np.float16), b.astype(np.float16), np.zeros((m, n), np.float16)
        exact = a.astype(np.float64) @ b.astype(np.float64)
    run(case, [a, b, c, m, n, k, k, n, n], (2, 3), read_only=(0, 1))
    found = from_bf16(c) if c.dtype == np.uint16 else c.astype(np.float64)
    np.testing.assert_allclose(found, exact, rtol=2**-8 if c.dtype == np.uint16 else 2**-11, atol=2e-5)


@pytest.mark.parametrize("case", cases("matmul_kernel_tf32", targets=("cuda:80",)), ids=str)
def test_matmul_tf32(case: corpus.Case) -> None:
    m, n, k = 64, 128, 80
    a, b, c = normal(m, k), normal(k, n, seed=1), np.zeros((m, n), np.float32)
    run(case, [a, b, c, m, n, k, k, n, n], (1, 2), read_only=(0, 1))
    # 10 bits of fraction: each product is off by at most 2**-10 of itself.
    bound = (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)) * 2.0**-9.9
    assert (np.abs(c - a.astype(np.float64) @ b.astype(np.float64)) <= bound).all()


@pytest.mark.parametrize("case", cases("tma_matmul_kernel", targets=("cuda:80",)), ids=str)
def test_matmul_on_descriptors_taken_apart(case: corpus.Case) -> None:
    m, n, k = 100, 136, 64
    a, b, c = normal(m, k).astype(np.float16), normal(k, n, seed=1).astype(np.float16), np.zeros((m, n), np.float16)
    flags = [] if case.version < (3, 5) else [0] if case.version < (3, 7) else [0, 0]
    values: list = []
    for x in (a, b, c):
        shape = list(x.shape)
        strides = [x.shape[1], 1]
        values += [x, *shape, *strides, *flags, *shape, *strides]
    run(case, [*values, m, n, k], (2, 3), read_only=(0,))
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=2**-10, atol=1e-3)


@pytest.mark.parametrize("case", cases("scalars_kernel"), ids=str)
def test_every_scalar_type_arrives(case: corpus.Case) -> None:
    numbers = {
        "i1": (1, np.int8), "i8": (-5, np.int8), "i16": (-300, np.int16), "i32": (-70000, np.int32),
        "i64": (-(1 << 40), np.int64), "u8": (200, np.uint8), "u16": (60000, np.uint16), "u32": (4000000000, np.uint32),
        "u64": (1 << 63, np.uint64), "fp16": (struct.pack("<e", 1.5), np.float16), "bf16": (0x4049, np.uint16),
        "fp32": (2.5, np.float32), "fp64": (-1e300, np.float64),
    }  # fmt: skip
    stored = {name: np.zeros(1, dtype) for name, (_, dtype) in numbers.items()}
    values = []
    for param in case.params:
        role, kind = param.name.split("_")
        values.append(stored[kind] if role == "out" else numbers[kind][0])
    run(case, values, (1,))
    for kind, (value, dtype) in numbers.items():
        expected = np.frombuffer(value, dtype)[0] if isinstance(value, bytes) else dtype(value)
        assert stored[kind][0] == expected, kind


@pytest.mark.parametrize("case", cases("tuple_kernel"), ids=str)
def test_tuple(case: corpus.Case) -> None:
    n = 3000
    x, y, out = normal(n), normal(n, seed=1), np.zeros(n, np.float32)
    run(case, [x, y, 0.5, 3, out, n], (3,))
    np.testing.assert_allclose(out, x * np.float32(0.5) + y * 3 + 1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", cases("cooperative_kernel"), ids=str)
def test_cooperative_grid_barrier(case: corpus.Case) -> None:
    n = 20 * 1024 - 100
    x = np.abs(normal(n))
    partial, arrived, out = np.zeros(20, np.float32), np.zeros(1, np.int32), np.zeros(n, np.float32)
    run(case, [x, partial, arrived, out, n], (20,), cooperative=True)
    assert arrived[0] == 20
    np.testing.assert_allclose(out, x / x.sum(dtype=np.float64), rtol=1e-5)


def test_a_grid_barrier_without_a_cooperative_launch_is_a_deadlock() -> None:
    case = corpus.find("3.6.0", "cuda:80", "cooperative_kernel")
    ctas = 600  # more than run in one chunk
    n = ctas * 1024
    x, partial, arrived, out = normal(n), np.zeros(ctas, np.float32), np.zeros(1, np.int32), np.zeros(n, np.float32)
    with pytest.raises(Fault, match="cooperative") as caught:
        run(case, [x, partial, arrived, out, n], (ctas,))
    assert caught.value.kind == "deadlock"
