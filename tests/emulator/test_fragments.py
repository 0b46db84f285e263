"""How matrices are put together from registers: conversions exhaustively, layouts against each other."""

from __future__ import annotations

import numpy as np
import pytest

from trlaunch.emulator.instructions.fragments import even_and_odd, f16_to_f32, matrix_register, registers_to_rows

EVERY = np.arange(1 << 16, dtype=np.uint16)


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal bit by bit; of NaN only that they are."""
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found[~nan].view(np.uint32), expected[~nan].view(np.uint32))


def test_every_f16() -> None:
    expected = EVERY.view(np.float16).astype(np.float32)
    assert_same_bits(f16_to_f32(EVERY.copy()), expected)
    finite = np.isfinite(expected)  # without the numbers that take the longer way
    assert_same_bits(f16_to_f32(EVERY[finite]), expected[finite])
    assert f16_to_f32(EVERY[:0]).size == 0


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_every_pair(kind: str) -> None:
    other = np.random.default_rng(0).permutation(EVERY)
    words = EVERY.astype(np.uint32) | other.astype(np.uint32) << 16
    found = even_and_odd(words.reshape(64, -1), kind).reshape(64, 2, -1)
    for half, bits in ((0, EVERY), (1, other)):
        if kind == "f16":
            expected = bits.view(np.float16).astype(np.float32)
        else:
            expected = (bits.astype(np.uint32) << 16).view(np.float32)
        assert_same_bits(np.ascontiguousarray(found[:, half]).ravel(), expected)


@pytest.mark.parametrize("trans", [False, True])
def test_registers_and_rows(trans: bool) -> None:
    registers = np.random.default_rng(1).integers(0, 1 << 32, (4, 3, 64), dtype=np.uint32)
    rows = registers_to_rows(registers, trans)
    assert rows.shape == (3, 2, 4, 8)
    for k in range(4):
        np.testing.assert_array_equal(matrix_register(rows, k, trans), registers[k])
    # PTX ISA, ldmatrix: lane 4 g + t holds elements 2 t and 2 t + 1 of row g (of column g, if transposed).
    matrix = np.ascontiguousarray(rows[1, 0, 2]).view(np.uint16).reshape(8, 8)
    for lane in range(32):
        g, t = divmod(lane, 4)
        pair = matrix[2 * t : 2 * t + 2, g] if trans else matrix[g, 2 * t : 2 * t + 2]
        assert registers[2, 1, lane] == int(pair[0]) | int(pair[1]) << 16
