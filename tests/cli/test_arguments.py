"""The argument language of ``trlaunch run``."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trlaunch.arguments import DTYPES, ArgumentSpec, UsageError, as_floats, parse_argument, parse_grid
from trlaunch.scalars import SCALARS


def test_every_scalar_type_has_an_array_type_of_its_size():
    assert set(DTYPES) == set(SCALARS)
    for name, dtype in DTYPES.items():
        assert dtype.itemsize == SCALARS[name].size


@pytest.mark.parametrize(
    "text,value",
    [
        ("M=512", 512),
        ("M=-3", -3),
        ("M=0x10", 16),
        ("alpha=1.5", 1.5),
        ("alpha=-1e-3", -1e-3),
        ("alpha=inf", float("inf")),
        ("flag=true", True),
        ("flag=False", False),
        ("n=18446744073709551616", 2**64),
    ],
)
def test_plain_scalars_keep_their_python_type(text, value):
    found = parse_argument(text).value()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text,dtype", [("a=3:i64", "int64"), ("a=3:uint8", "uint8"), ("a=3:fp16", "float16"), ("a=true:i1", "bool")]
)
def test_typed_scalars_are_numpy_scalars(text, dtype):
    value = parse_argument(text).value()
    assert value.dtype == np.dtype(dtype)
    assert value == 3 or value is np.True_


@pytest.mark.parametrize("kind,fill", [("zeros", 0), ("ones", 1)])
@pytest.mark.parametrize("dtype", ["float16", "fp32", "float64", "i8", "uint64", "bool"])
def test_constant_arrays(kind, fill, dtype):
    array = parse_argument(f"a={kind}:{dtype}:3x5").value()
    assert array.shape == (3, 5)
    assert (array == fill).all()


def test_full_takes_its_value_and_bfloat16_holds_bits():
    assert (parse_argument("a=full:float32:4:2.5").value() == np.float32(2.5)).all()
    spec = parse_argument("a=full:bfloat16:4:2.5")
    array = spec.value()
    assert array.dtype == np.uint16
    assert (as_floats(array, spec.type) == 2.5).all()
    assert (parse_argument("a=full:fp8e4nv:4:0x38").value() == 0x38).all()
    assert np.isinf(parse_argument("a=full:float16:4:1e9").value()).all()


def test_random_arrays_repeat_by_seed_and_differ_by_position():
    spec = parse_argument("a=rand:float16:64x64")
    first, again, other = spec.value(1), spec.value(1), spec.value(2)
    assert (first == again).all()
    assert (first != other).any()
    assert first.dtype == np.float16
    assert 0 <= first.min() < first.max() <= 1
    seeded = parse_argument("a=randn:float32:1000:7")
    assert (seeded.value(1) == seeded.value(2)).all()
    assert abs(float(seeded.value().mean())) < 0.2


def test_arange_counts_in_row_order():
    assert (parse_argument("a=arange:int32:2x3").value() == [[0, 1, 2], [3, 4, 5]]).all()


@given(st.integers(-(2**31), 2**31 - 1))
def test_integers_round_trip(value):
    assert parse_argument(f"x={value}").value() == value
    assert parse_argument(f"x={value}:i32").value() == value


@given(st.floats(width=64))
def test_floats_round_trip(value):
    found = parse_argument(f"x={value!r}").value()
    assert struct.pack("<d", found) == struct.pack("<d", value) or (found != found and value != value)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 2**40))
def test_generated_arrays_have_the_shape_and_type_stated(dtype, shape, seed):
    text = "x".join(map(str, shape))
    array = parse_argument(f"a=zeros:{dtype}:{text}").value()
    assert array.shape == tuple(shape)
    assert array.dtype == DTYPES[dtype]
    if dtype in ("fp16", "bf16", "fp32", "fp64"):
        assert parse_argument(f"a=randn:{dtype}:{text}:{seed}").value().shape == tuple(shape)


@given(st.floats(width=32, allow_nan=False))
def test_bfloat16_arrays_and_scalars_round_alike(value):
    bits = int.from_bytes(SCALARS["bf16"].pack(value), "little")
    assert parse_argument(f"a=full:bf16:1:{value!r}").value()[0] == bits


# Pieces of the language put together at random reach deeper than random text.
_PIECES = st.sampled_from(
    ["a", "0", "=", ":", "@", "x", "rand", "full", "zeros", "float16", "bf16", "i32", "512", "-1", "1.5", "nan", "null"]
)


@given(st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=8).map("".join)))
@settings(max_examples=500)
def test_any_text_is_read_or_refused(text):
    try:
        spec = parse_argument(text)
    except UsageError as error:
        assert str(error)
    else:
        assert isinstance(spec, ArgumentSpec)
        assert text.endswith(spec.text)


@pytest.mark.parametrize(
    "text,message",
    [
        ("M", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("M=", "NAME=VALUE"),
        ("a=rand", "rand:DTYPE:SHAPE"),
        ("a=rand:float16", "rand:DTYPE:SHAPE"),
        ("a=full:float16:3", "full:DTYPE:SHAPE:VALUE"),
        ("a=zeros:float16:3:1", "zeros:DTYPE:SHAPE"),
        ("a=rand:float17:3", "float17"),
        ("a=rand:int32:3", "fp16, bf16, fp32, fp64"),
        ("a=rand:float16:3,3", "512x512"),
        ("a=rand:float16:3:-1", "seed"),
        ("a=rand:float16:999999999x999999999", "GiB"),
        ("a=full:i8:3:200", "outside -128 .. 127"),
        ("a=full:i8:3:1.5", "expected an integer"),
        ("M=300:i8", "outside"),
        ("M=1:2:3", "NUMBER:TYPE"),
        ("x=1:bf16", "leave the type out"),
        ("x=banana", "no number and no generator"),
        ("x=" + "9" * 200, "200 characters"),
        ("a=@", "file after @"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        parse_argument(text)


def test_npy_files(tmp_path: Path):
    array = np.arange(12, dtype=np.float16).reshape(3, 4).T
    np.save(tmp_path / "a.npy", array)
    found = parse_argument(f"a=@{tmp_path / 'a.npy'}").value()
    assert (found == array).all()
    assert found.flags.c_contiguous
    np.save(tmp_path / "bits.npy", np.zeros(3, np.uint16))
    spec = parse_argument(f"a=@{tmp_path / 'bits.npy'}:bfloat16")
    assert spec.type == "bf16"
    assert spec.value().dtype == np.uint16
    with pytest.raises(UsageError, match="expected float32 for fp32"):
        parse_argument(f"a=@{tmp_path / 'bits.npy'}:fp32").value()
    with pytest.raises(UsageError, match="cannot be read"):
        parse_argument("a=@no/such/file.npy").value()
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UsageError, match="no .npy file of numbers"):
        parse_argument(f"a=@{tmp_path / 'o.npy'}").value()
    np.save(tmp_path / "c.npy", np.zeros(3, complex))
    with pytest.raises(UsageError, match="complex128"):
        parse_argument(f"a=@{tmp_path / 'c.npy'}").value()


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(6, dtype=np.int16))
    return file.getvalue()


@given(st.integers(0, len(_npy()) - 1), st.binary(max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_npy_files_are_refused(tmp_path: Path, at, patch):
    data = _npy()
    path = tmp_path / "damaged.npy"
    path.write_bytes(data[:at] + patch + data[at + len(patch) :] if patch else data[:at])
    try:
        assert isinstance(parse_argument(f"a=@{path}").value(), np.ndarray)
    except UsageError as error:
        assert "damaged.npy" in str(error)


@pytest.mark.parametrize("text,grid", [("8", (8,)), ("8,4", (8, 4)), ("1, 2,3", (1, 2, 3))])
def test_grids(text, grid):
    assert parse_grid(text) == grid


@pytest.mark.parametrize("text", ["", "0", "8,0", "-1", "8x8", "1,2,3,4", "a", "99999999999"])
def test_wrong_grids(text):
    with pytest.raises(UsageError, match="one to three positive integers"):
        parse_grid(text)


@given(st.text(max_size=20))
def test_any_grid_text_is_read_or_refused(text):
    try:
        assert all(size > 0 for size in parse_grid(text))
    except UsageError as error:
        assert "grid" in str(error)
