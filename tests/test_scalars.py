"""Scalars become the bytes that NumPy (and for bfloat16 exact arithmetic) gives them."""

from __future__ import annotations

import decimal
import math
import random
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.oracle import INTEGERS, bfloat16, numpy_bytes
from trlaunch.scalars import SCALARS, bfloat16_bits, from_llvm, from_mlir

FLOATS = {"fp16": np.float16, "fp32": np.float32, "fp64": np.float64}
doubles = st.one_of(
    st.floats(allow_nan=False),
    st.floats(width=32, allow_nan=False),
    st.floats(width=16, allow_nan=False),
    # Around ties of bfloat16, closer than fp32 can tell.
    st.builds(
        lambda bits, sign, nudge: (
            sign * math.ldexp(struct.unpack("<f", struct.pack("<I", bits << 15))[0], 0) * (1 + nudge * 2.0**-40)
        ),
        st.integers(0, 0x7F80 << 1),
        st.sampled_from((1, -1)),
        st.sampled_from((-1, 0, 1)),
    ).filter(lambda value: not math.isnan(value)),
)


def test_table_has_every_type_with_its_size():
    sizes = {name: scalar.size for name, scalar in SCALARS.items()}
    assert sizes == {
        **{name: int(name[1:]) // 8 for name in INTEGERS if name[1:] != "1"},
        "i1": 1, "u1": 1, "fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8,
        "fp8e4nv": 1, "fp8e5": 1, "fp8e4b15": 1, "fp8e4b8": 1, "fp8e5b16": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_at_their_limits(name):
    low, high = INTEGERS[name]
    for value in (low, high, 0, 1):
        assert SCALARS[name].pack(value) == numpy_bytes(name, value)
    for value in (low - 1, high + 1):
        with pytest.raises(OverflowError, match=rf"{value} is outside {low} .. {high}"):
            SCALARS[name].pack(value)


@given(st.sampled_from(sorted(INTEGERS)), st.integers(-(2**70), 2**70))
def test_any_integer_round_trips_or_overflows(name, value):
    low, high = INTEGERS[name]
    try:
        data = SCALARS[name].pack(value)
    except OverflowError:
        assert not low <= value <= high
        return
    assert low <= value <= high
    assert int.from_bytes(data, "little", signed=low < 0) == value


@given(st.sampled_from(["i8", "i16", "i32", "i64"]), st.integers(-(2**70), 2**70))
def test_signless_integers_take_both_ranges(name, value):
    low, high = INTEGERS[name][0], INTEGERS["u" + name[1:]][1]
    try:
        data = SCALARS[name].pack(value, signless=True)
    except OverflowError:
        assert not low <= value <= high
        return
    assert (int.from_bytes(data, "little") - value) % 2 ** (8 * len(data)) == 0


def test_numpy_and_other_integers():
    for kind in (np.int8, np.uint8, np.int64, np.uint64):
        assert SCALARS["i32"].pack(kind(7)) == b"\7\0\0\0"
    for value in (True, np.True_, np.bool_(True), 1, np.uint8(1)):
        assert SCALARS["i1"].pack(value) == SCALARS["u1"].pack(value) == b"\1"


@pytest.mark.parametrize(
    "value", [1.0, np.float32(1), np.float64(2), "1", b"1", None, 1j, [1], np.array([1, 2]), Fraction(1)]
)
@pytest.mark.parametrize("name", ["i1", "u8", "i32", "i64", "fp8e5"])
def test_integers_take_no_float_and_nothing_else(name, value):
    with pytest.raises(TypeError):
        SCALARS[name].pack(value)


@given(st.sampled_from(sorted(FLOATS)), doubles)
def test_floats_are_numpys(name, value):
    with np.errstate(over="ignore"):
        assert SCALARS[name].pack(value) == FLOATS[name](value).tobytes()


@given(doubles)
@example(1.0 + 2.0**-8)  # a tie: to even
@example(1.0 + 3 * 2.0**-8)
@example(1.0 + 2.0**-8 + 2.0**-40)  # rounds to a tie in fp32 first: rounding twice would go down
@example(1.0 + 3 * 2.0**-8 - 2.0**-40)
@example(-(1.0 + 2.0**-8 + 2.0**-52))
@example(3.3961775292304e38)  # the first that becomes infinite
@example(3.396177529230401e38)
@example(2.0**-134)  # half of the smallest subnormal: to zero
@example(2.0**-134 * (1 + 2.0**-52))
@example(2.0**-133)
@example(5e-324)
@example(-0.0)
def test_bfloat16_is_rounded_once_to_nearest_even(value):
    assert bfloat16_bits(value) == bfloat16(value)
    assert SCALARS["bf16"].pack(value) == bfloat16(value).to_bytes(2, "little")


def test_bfloat16_oracle_and_package_agree_on_every_value_and_every_tie():
    rng = random.Random(1)
    for bits in [*range(0, 0x7F80, 7), 0x7F7F, 0, 1, 0x80, 0x7F]:
        (low,) = struct.unpack("<f", struct.pack("<I", bits << 16))
        (high,) = struct.unpack("<f", struct.pack("<I", bits + 1 << 16)) if bits < 0x7F7F else (2.0**128,)
        tie = (low + high) / 2  # exact in double
        expected = (bits, bits if bits % 2 == 0 else bits + 1, bits, bits + 1)
        found = (low, tie, math.nextafter(tie, 0), math.nextafter(tie, math.inf))
        assert tuple(map(bfloat16_bits, found)) == expected
        sign = rng.choice((0, 1))
        assert bfloat16_bits(-tie if sign else tie) == expected[1] | sign << 15


def test_rounding_twice_would_be_wrong_for_these():
    for value in (1.0 + 2.0**-8 + 2.0**-40, 1.0 + 3 * 2.0**-8 - 2.0**-40):
        bits = struct.unpack("<I", struct.pack("<f", value))[0]
        twice = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        assert twice != bfloat16(value) == bfloat16_bits(value)


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp32", "fp64"])
def test_nan_stays_one_with_its_sign(name):
    for sign in (1, -1):
        data = SCALARS[name].pack(math.copysign(math.nan, sign))
        bits = int.from_bytes(data, "little")
        width, fraction = 8 * len(data), {"fp16": 10, "bf16": 7, "fp32": 23, "fp64": 52}[name]
        exponent = (1 << width - 1 - fraction) - 1
        assert bits >> fraction & exponent == exponent
        assert bits & (1 << fraction) - 1
        assert bits >> width - 1 == (sign < 0)


def test_floats_take_numbers_of_other_kinds():
    for value in (1, True, np.float16(1), np.float32(1), np.int32(1), Fraction(1), decimal.Decimal(1)):
        assert SCALARS["fp32"].pack(value) == struct.pack("<f", 1)
    with pytest.raises(OverflowError, match="too large for a float"):
        SCALARS["fp64"].pack(10**400)


@pytest.mark.parametrize("value", ["1.5", b"1", 1j, None, [1.0], {}, np.array([1.0, 2.0])])
@pytest.mark.parametrize("name", ["fp16", "bf16", "fp32", "fp64"])
def test_floats_take_nothing_else(name, value):
    with pytest.raises(TypeError):
        SCALARS[name].pack(value)


@given(st.sampled_from(["fp8e4nv", "fp8e5", "fp8e4b15", "fp8e4b8", "fp8e5b16"]), st.integers(-5, 300))
def test_fp8_is_its_byte(name, value):
    if 0 <= value <= 255:
        assert SCALARS[name].pack(value) == bytes([value])
    else:
        with pytest.raises(OverflowError):
            SCALARS[name].pack(value)


def test_names_of_mlir_and_llvm():
    assert [from_mlir(t) for t in ("i1", "i64", "f16", "bf16", "f32", "f64", "f8E4M3FN", "f8E5M2")] == [
        "i1", "i64", "fp16", "bf16", "fp32", "fp64", "fp8e4nv", "fp8e5",
    ]  # fmt: skip
    assert [from_llvm(t) for t in ("i1", "i32", "half", "bfloat", "float", "double")] == [
        "i1", "i32", "fp16", "bf16", "fp32", "fp64",
    ]  # fmt: skip
    assert from_mlir("index") is from_mlir("i128") is from_llvm("ptr") is from_llvm("x86_fp80") is None
