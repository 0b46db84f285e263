"""Triton's sm_90 kernels of every release against NumPy: wgmma, tensor copies, mbarriers, device descriptors."""

from __future__ import annotations

import math

import numpy as np
import pytest

import trlaunch
from tests import corpus
from tests.emulator.test_kernels import from_bf16, normal, run, to_bf16
from trlaunch.errors import Fault
from trlaunch.kernel import Kernel


def cases(*names: str) -> list[corpus.Case]:
    return [c for c in corpus.cases(target="cuda:90", level="ptx") if c.name in names]


def test_the_corpus_has_every_release() -> None:
    for name in ("matmul_kernel", "matmul_kernel_bf16", "matmul_kernel_tf32", "tma_matmul_kernel"):
        assert len(cases(name)) == 10
    assert len(cases("scratch_kernel")) == 7


@pytest.mark.parametrize("case", cases("matmul_kernel", "matmul_kernel_bf16"), ids=str)
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


@pytest.mark.parametrize("case", cases("matmul_kernel_tf32"), ids=str)
def test_matmul_tf32(case: corpus.Case) -> None:
    m, n, k = 64, 128, 80
    a, b, c = normal(m, k), normal(k, n, seed=1), np.zeros((m, n), np.float32)
    run(case, [a, b, c, m, n, k, k, n, n], (1, 2), read_only=(0, 1))
    bound = (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)) * 2.0**-9
    assert (np.abs(c - a.astype(np.float64) @ b.astype(np.float64)) <= bound).all()


@pytest.mark.parametrize("case", cases("tma_matmul_kernel"), ids=str)
def test_matmul_on_host_descriptors(case: corpus.Case) -> None:
    """By value as a type (3.4 on), as 128 bytes (3.2, 3.3) and through a pointer (3.0, 3.1); the edges are cut off."""
    m, n, k = 112, 144, 208
    a, b, c = normal(m, k).astype(np.float16), normal(k, n, seed=1).astype(np.float16), np.zeros((m, n), np.float16)
    descriptors = [trlaunch.TensorDescriptor(x, block_shape=(64, 64)) for x in (a, b, c)]
    if case.version < (3, 2):
        # The kernel gets the map alone: the arrays it names have to be the emulator's own.
        there = [trlaunch.asarray(x, device="emulator") for x in (a, b, c)]
        descriptors = [trlaunch.TensorDescriptor(x, block_shape=(64, 64)).on_device("emulator") for x in there]
    Kernel.from_file(case.path("ptx"), device="emulator").launch((2, 3), *descriptors, m, n, k)
    if case.version < (3, 2):
        c = np.array(there[2].numpy())
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=2**-10, atol=1e-3)


@pytest.mark.parametrize("case", cases("scratch_kernel"), ids=str)
def test_descriptors_made_by_the_kernel(case: corpus.Case) -> None:
    m, n = 112, 48
    x, out = normal(m, n), np.full((m, n), math.nan, np.float32)
    Kernel.from_file(case.path("ptx"), device="emulator").launch((2, 2), x, out, m, n)
    np.testing.assert_array_equal(out, x * 2)


def small(case: corpus.Case) -> tuple[tuple[int, ...], list]:
    """A grid of one CTA and arguments for it."""
    if case.name == "scratch_kernel":
        return (1,), [*(trlaunch.asarray(normal(64, 32), device="emulator") for _ in range(2)), 64, 32]
    there = [trlaunch.asarray(normal(64, 64).astype(np.float16), device="emulator") for _ in range(3)]
    maps = [trlaunch.TensorDescriptor(a, block_shape=(64, 64)) for a in there]
    passed = [m.on_device("emulator") for m in maps] if case.version < (3, 2) else maps
    # What a map in memory points to has to live as long as the launch.
    ALIVE[:] = there
    return (1, 1), [*passed, 64, 64, 64]


ALIVE: list = []


@pytest.mark.parametrize("case", cases("tma_matmul_kernel", "scratch_kernel"), ids=str)
def test_a_wait_that_is_dropped_is_found(case: corpus.Case) -> None:
    """Each ``try_wait`` in turn becomes a predicate that is always true."""
    text = case.text("ptx")
    waits = [line for line in text.splitlines() if line.strip().startswith("mbarrier.try_wait")]
    assert waits
    for wait in waits:
        predicate = wait.split()[1].rstrip(",")
        broken = text.replace(wait, f"setp.eq.u32 {predicate}, 0, 0;", 1)
        grid, values = small(case)
        kernel = Kernel.from_bytes(broken.encode(), case.metadata, level="ptx", device="emulator")
        with pytest.raises(Fault, match="nothing has written yet") as caught:
            kernel.launch(grid, *values)
        assert caught.value.kind == "uninitialised"
