"""Arguments by value: what arrives in another process is what the caller's launch would have been given."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trlaunch
from trlaunch.arguments import parse_argument
from trlaunch.driver import Device
from trlaunch.investigate.carried import Address, Carried, Number, Tensor, carry, labels
from trlaunch.tensors import view

EMULATOR = Device("emulator")


def arrived(carried: Carried) -> Carried:
    """Through JSON, as a trial's folder has it."""
    return Carried.from_dict(json.loads(json.dumps(carried.to_dict())), [r.data for r in carried.regions])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.sampled_from(["uint8", "int16", "float16", "float32", "int64"]),
    st.lists(st.sampled_from([slice(None), slice(1, None), slice(None, None, 2)]), min_size=3, max_size=3),
    st.booleans(),
)
def test_a_view_arrives_with_its_strides(shape: list[int], dtype: str, cuts: list[slice], turned: bool) -> None:
    whole = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    part = whole[tuple(cuts[: len(shape)])]
    part = part.T if turned else part
    if not part.size:
        return
    put = arrived(carry([part])).put(EMULATOR)
    there, here = view(put.args[0]), view(part)
    assert (there.shape, there.strides, there.dtype) == (here.shape, here.strides, here.dtype)
    (out,) = put.read().values()
    np.testing.assert_array_equal(out, part)


def test_memory_that_overlaps_overlaps_there() -> None:
    whole = np.arange(64, dtype=np.uint8)
    carried = arrived(carry([whole[:40], whole[24:], np.zeros(4, np.uint8)]))
    assert len(carried.regions) == 2
    put = carried.put(EMULATOR)
    first, second = (view(argument) for argument in put.args[:2])
    assert second.address - first.address == 24


def test_a_misaligned_address_is_as_misaligned_there() -> None:
    whole = np.zeros(64, np.uint8)
    part = whole[1 - whole.ctypes.data % 16 :][:32]
    put = arrived(carry([part])).put(EMULATOR)
    assert view(put.args[0]).address % 16 == 1
    assert put.spots[0].nbytes == 32


@pytest.mark.parametrize(
    "value,expected",
    [
        (None, Address(0)),
        ("null", Address(0)),
        (7, Number(7)),
        (True, Number(True)),
        (2.5, Number(2.5)),
        (np.float16(1.5), Number(1.5, "fp16")),
        ("512:i64", Number(512, "i64")),
        (trlaunch.Pointer(0xDEAD0000), Address(0xDEAD0000)),
        (parse_argument("x=0x10"), Number(16)),
    ],
)
def test_what_a_value_becomes(value: object, expected: object) -> None:
    assert arrived(carry([value], {"x": value})) == Carried((expected,), {"x": expected})


def test_infinities_and_nan_arrive() -> None:
    values = arrived(carry([float("inf"), float("nan"), -0.0])).put(EMULATOR).args
    assert values[0] == float("inf")
    assert np.isnan(values[1])
    assert str(values[2]) == "-0.0"


def test_specifications_are_generated_there_as_the_command_line_does() -> None:
    put = arrived(carry(["rand:fp32:4x5", "rand:fp32:4x5", "full:bf16:3:1.5"])).put(EMULATOR)
    first, second, third = put.read().values()
    np.testing.assert_array_equal(first, parse_argument("0=rand:fp32:4x5").value(0))
    np.testing.assert_array_equal(second, parse_argument("0=rand:fp32:4x5").value(1))
    assert (third == 0x3FC0).all()


def test_descriptors_and_tuples_arrive() -> None:
    matrix = np.arange(64, dtype=np.float16).reshape(8, 8)
    descriptor = trlaunch.TensorDescriptor(matrix, block_shape=(4, 8), padding="nan")
    put = arrived(carry([descriptor, (matrix, 3)])).put(EMULATOR)
    there, (tensor, number) = put.args
    resolved = there.resolve()
    assert (resolved.shape, resolved.strides, resolved.block, resolved.nan) == ((8, 8), (8, 1), (4, 8), True)
    assert (resolved.base.address, number) == (view(tensor).address, 3)


def test_memory_of_the_emulator_is_carried_from_its_address() -> None:
    array = trlaunch.asarray(np.arange(8, dtype=np.int32), device="emulator")
    with pytest.raises(trlaunch.ArgumentError, match="of unknown extent"):
        carry([trlaunch.Pointer(array.address)])
    carried = carry([trlaunch.Pointer(array.address, 16), array])
    assert len(carried.regions) == 1
    assert carried.regions[0].data == array.numpy().tobytes()


def test_what_cannot_be_carried_is_refused() -> None:
    with pytest.raises(trlaunch.ArgumentError, match="a complex cannot be carried"):
        carry([1j])
    with pytest.raises(trlaunch.TrlaunchError, match="no number and no generator"):
        carry(["blue"])


def test_labels_are_the_parameters_names_where_these_are_known() -> None:
    tensor = Tensor(0, 0, "fp32", (1,), (1,), 4)
    values = carry([(1, 2), None]).positional
    assert labels((*values, tensor), ["t.0", "t.1", "p", None]) == ["t", "p", "arg2"]
    descriptor = carry([trlaunch.TensorDescriptor(np.zeros((8, 8), np.float16), block_shape=(8, 8))]).positional
    assert labels((tensor, *descriptor, tensor), ["a", "b", "c", "d"]) == ["a", "b", "arg2"]
