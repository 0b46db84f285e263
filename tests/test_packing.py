"""Packing: values at the offsets of the image, and refusals that name the parameter, the expected and the found."""

from __future__ import annotations

import random
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import trlaunch
from tests.arrays import CupyLike, DlpackLike, TorchLike
from tests.corpus import find
from tests.oracle import INTEGERS, numpy_bytes, sample
from trlaunch.cuda.image import read_image
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError
from trlaunch.image import ImageKernel, ImageParam
from trlaunch.metadata import Metadata
from trlaunch.packing import Packer, describe, flatten
from trlaunch.scalars import SCALARS
from trlaunch.signature import assemble, from_caller, from_func, type_size
from trlaunch.tensor_descriptor import TensorDescriptor
from trlaunch.tensors import Pointer


class FakeDriver:
    """What packing asks a driver: whose memory an address is, and to wait for streams."""

    name = "cuda"

    def __init__(self, owners=None):
        self.owners = owners or {}
        self.waits = []

    def device_of_pointer(self, address):
        return self.owners.get(address, 0)

    def wait_for_stream(self, ordinal, stream, other):
        self.waits.append((ordinal, stream, other))


NO_HIDDEN = Metadata.from_dict({"hash": "00", "num_stages": 3})


def packer_of(types, metadata=NO_HIDDEN):
    """A packer for these types (by name or in order), laid out with natural alignment."""
    listed = list(types.values()) if isinstance(types, dict) else list(types)
    params, end = [], 0
    for i, type_name in enumerate(listed):
        size = type_size(type_name)
        end = -(-end // size) * size
        params.append(ImageParam(i, end, size))
        end += size
    entry = ImageKernel("k", tuple(params), end)
    return Packer("k", assemble(entry, "cubin", metadata, [from_caller(types, entry)]), metadata)


def pack(packer, *args, device="cuda:0", driver=None, stream=0, **named):
    return packer.pack(args, named, driver=driver or FakeDriver(), device=Device.parse(device), stream=stream)


def kernel_packer(release="3.6.0", name="add_kernel", target="cuda:90"):
    case = find(release, target, name)
    metadata = Metadata.from_dict(case.metadata)
    entry = read_image(case.bytes("cubin")).kernels[case.kernel]
    signature = assemble(entry, "cubin", metadata, [from_func(case.text("ttir"), case.kernel, "ttir")])
    return Packer(case.kernel, signature, metadata)


ADD = kernel_packer()
P = Pointer(0x1000)


# --- right values ----------------------------------------------------------------------------------------------------

type_names = st.sampled_from([*SCALARS, "*fp32", "*i8", "*"])


@given(st.lists(type_names, min_size=1, max_size=12), st.integers(0, 2**32), st.booleans(), st.integers(0, 12))
def test_random_signatures_and_values_equal_an_independent_layout(types, seed, by_name, positional):
    rng = random.Random(seed)
    values, expected = [], bytearray()
    for type_name in types:
        if type_name.startswith("*"):
            address = rng.randrange(2**64)
            values.append(Pointer(address))
            data = struct.pack("<Q", address)
        else:
            values.append(sample(type_name, rng))
            data = numpy_bytes(type_name, values[-1])
        expected += bytes(-len(expected) % len(data)) + data
    names = [f"p{i}" for i in range(len(types))]
    packer = packer_of(dict(zip(names, types, strict=True)) if by_name else types)
    if by_name:
        named = dict(zip(names[positional:], values[positional:], strict=True))
        found = pack(packer, *values[:positional], **named)
    else:
        found = pack(packer, *values)
    assert found.data == bytes(expected)


@given(st.lists(st.integers(-4, 4), min_size=6, max_size=6), st.data())
def test_tuples_however_nested_are_flattened(values, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, 6), max_size=3)))
    pieces = [values[a:b] for a, b in zip([0, *cuts], [*cuts, 6], strict=True)]
    nested = tuple(tuple(piece) if i % 2 else [tuple(piece)] for i, piece in enumerate(pieces))
    assert list(flatten(nested)) == values
    assert pack(packer_of(["i32"] * 6), *nested).data == struct.pack("<6i", *values)


def test_keyword_tuples_and_the_rest_by_position():
    packer = packer_of({"x": "*fp32", "scales.0": "fp32", "scales.1": "fp32", "n": "i32"})
    expected = struct.pack("<Qffi", 0x1000, 1.5, 2.5, 7)
    assert pack(packer, P, (1.5, 2.5), 7).data == expected
    assert pack(packer, P, n=7, scales=(1.5, 2.5)).data == expected
    assert pack(packer, n=7, scales=[1.5, 2.5], x=P).data == expected


def test_buffers_are_recorded_for_the_emulators_bounds():
    array = np.zeros((4, 8), np.float32)
    array.flags.writeable = False
    packed = pack(ADD, array, np.zeros(32, np.float32), Pointer(0x1000, 64), 16, device="emulator")
    assert [(b.address, b.nbytes, b.name, b.read_only) for b in packed.buffers] == [
        (array.ctypes.data, 128, "x_ptr", True),
        (packed.buffers[1].address, 128, "y_ptr", False),
        (0x1000, 64, "out_ptr", False),
    ]
    assert any(kept is array for kept in packed.keep)


def test_hidden_parameters_are_null_until_they_are_filled():
    packed = pack(ADD, P, P, P, 16)
    assert packed.data[-16:] == bytes(16)
    filled = ADD.fill_hidden(packed, {"profile_scratch": 0x2000})
    assert filled.data == packed.data[:-8] + struct.pack("<Q", 0x2000)
    assert ADD.fill_hidden(packed, {"global_scratch": 1, "profile_scratch": 2}).data[-16:] == struct.pack("<QQ", 1, 2)


def test_streams_of_array_interfaces_are_waited_for_once():
    driver = FakeDriver()
    pack(ADD, CupyLike(0x1000, stream=9), CupyLike(0x1000, stream=9), CupyLike(0x1000, stream=1), 16, driver=driver)
    assert driver.waits == [(0, 0, 9)]
    pack(ADD, CupyLike(0x1000, stream=9), P, P, 16, driver=driver, stream=9)
    assert len(driver.waits) == 1


def test_integers_without_a_sign_take_both_ranges_and_with_one_do_not():
    assert pack(kernel_packer(name="softmax_kernel"), P, P, 2**32 - 1, -1, 5).data[16:28] == b"\xff" * 8 + b"\5\0\0\0"
    with pytest.raises(
        ArgumentError, match=r"parameter 0 'n' \(u32\): expected a value of u32: -1 is outside 0 .. 42949"
    ):
        pack(packer_of({"n": "u32"}), -1)


def test_same_bytes_under_another_name_are_no_mismatch():
    for type_name, dtype in (("*i8", np.uint8), ("*u1", np.bool_), ("*fp8e5", np.uint8), ("*i64", np.uint64)):
        pack(packer_of([type_name]), np.zeros(4, dtype), device="emulator")
    pack(packer_of(["**fp32"]), np.zeros(4, np.int64), device="emulator")


def test_untyped_slots_take_what_their_value_tells():
    entry = ImageKernel("k", (ImageParam(0, 0, 8), ImageParam(1, 8, 8), ImageParam(2, 16, 4), ImageParam(3, 20, 4)), 24)
    packer = Packer("k", assemble(entry, "cubin", NO_HIDDEN, []), NO_HIDDEN)
    assert pack(packer, P, -5, 2.5, 7).data == struct.pack("<Qqfi", 0x1000, -5, 2.5, 7)
    with pytest.raises(
        ArgumentError, match=r"parameter 1 \(8 bytes of unknown type\): expected a value whose type tells"
    ):
        pack(packer, P, 2.5, 2.5, 7)


# --- wrong values ----------------------------------------------------------------------------------------------------

MATMUL = kernel_packer("3.5.1", "matmul_kernel")
GOOD = (P, P, P, 512, 512, 512, 512, 512, 512)
TILE = TensorDescriptor(TorchLike(16, (64, 64), "float16"), block_shape=(64, 64))


def refusal(packer, *args, **more) -> str:
    with pytest.raises(ArgumentError) as caught:
        pack(packer, *args, **more)
    return str(caught.value)


def replaced(index, value):
    return (*GOOD[:index], value, *GOOD[index + 1 :])


@pytest.mark.parametrize(
    "index,value,message",
    [
        (3, 2**32, "parameter 3 'M' (i32): expected a value of i32: 4294967296 is outside -2147483648 .. 4294967295"),
        (3, -(2**31) - 1, "parameter 3 'M' (i32): expected a value of i32: -2147483649 is outside"),
        (4, 512.0, "parameter 4 'N' (i32): expected an int for i32, found float 512.0"),
        (4, np.float32(1), "parameter 4 'N' (i32): expected an int for i32, found a numpy.float32 float32"),
        (4, "512", "parameter 4 'N' (i32): expected an int for i32, found str '512'"),
        (4, None, "parameter 4 'N' (i32): expected an int for i32, found NoneType None"),
        (4, np.zeros(1, np.int32), "a number, found a numpy.ndarray int32 (1,) on cpu; pass its value, .item()"),
        (4, np.zeros((8, 2), np.int32), "int32 (8, 2) on cpu; are the arguments in another order?"),
        (4, TorchLike(16, (), "int32"), "'N' (i32): expected a number, found a tests.TorchLike int32"),
        (5, 513, "parameter 5 'K' (i32): expected a multiple of 16, for which the kernel was specialised, found 513"),
        (0, 4096, "parameter 0 'a_ptr' (*fp16): expected a tensor, found the int 4096; a raw address is passed as"),
        (0, None, "a tensor, found None (Triton compiles None in as a constexpr: leave it out)"),
        (1, 1.5, "parameter 1 'b_ptr' (*fp16): expected a tensor or trlaunch.Pointer, found float 1.5"),
        (1, "b", "parameter 1 'b_ptr' (*fp16): expected a tensor or trlaunch.Pointer, found str 'b'"),
        (0, np.zeros(4, np.float16), "expected a tensor on cuda:0, found a numpy.ndarray float16 (4,)"),
        (0, TorchLike(16, dtype="float16", device="cpu"), "a tests.TorchLike float16 (1024,) on cpu in host"),
        (0, TorchLike(16, dtype="float16", device="cuda:1"), "on cuda:1; copy it, or launch with device='cuda:1'"),
        (0, TorchLike(16, dtype="float32"), "of fp16, found a tests.TorchLike float32 (1024,) on cuda:0 (fp32)"),
        (0, TorchLike(16, dtype="bfloat16"), "expected a tensor of fp16, found a tests.TorchLike bfloat16"),
        (0, TorchLike(0x1002, dtype="float16"), "an address that is a multiple of 16, for which the"),
        (0, TorchLike(0x1002, dtype="float16"), "found 0x1002, 2 past one; pass an aligned copy"),
        (0, Pointer(0x1008), "found 0x1008, 8 past one"),
        (2, CupyLike(0x7000, typestr="<f2"), "a tensor on cuda:0, found a tests.CupyLike (1024,) on cuda:1"),
        (2, CupyLike(0x8000, typestr="<f2"), "device memory of cuda:0, found 0x8000, which is not device memory"),
        (2, CupyLike("x"), "found a CupyLike that cannot be used: what it says of itself is malformed"),
        (2, DlpackLike(16, dtype="fp16", device=(10, 0)), "expected a tensor on cuda:0"),
        (0, TILE, "expected a decomposed descriptor of 2 axes to"),
        (3, TILE, "found a tensor descriptor"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_by_name(index, value, message):
    found = refusal(MATMUL, *replaced(index, value), driver=FakeDriver({0x7000: 1, 0x8000: None}))
    assert found.startswith(f"matmul_kernel, parameter {index} '")
    assert message in found


def test_emulator_takes_host_memory_of_known_extent_only():
    assert (
        "a tensor in host memory (the emulator runs it), found a tests.TorchLike float32 (1024,) on cuda:0"
        in refusal(ADD, TorchLike(16), P, P, 16, device="emulator")
    )
    backwards = np.zeros(64, np.float32)[::-1]
    assert "a tensor of known extent, found a numpy.ndarray" in refusal(ADD, backwards, P, P, 16, device="emulator")


def test_too_many_and_too_few():
    many = refusal(MATMUL, *GOOD, 1)
    assert many.startswith("matmul_kernel takes 9 arguments, 10 were given: int 1 is the first too many (constexpr arg")
    assert many.splitlines()[10].split() == ["8", "stride_cm", "i32", "44", "4", "user"]
    few = refusal(MATMUL, *GOOD[:5])
    assert few.startswith("matmul_kernel takes 9 arguments, parameter 5 'K' (i32) and what follows it are missing; it")
    assert refusal(kernel_packer("3.0.0"), P, P, n_elements=16).startswith(
        "add_kernel takes 4 arguments, parameter 2 (*fp32) and what follows it are missing (the parameters' names are "
        "not known: pass arguments by position)"
    )


def test_names():
    assert "has no parameter 'BLOCK_M' (constexprs are compiled in): expected one of a_ptr, b_ptr, c_ptr, M" in refusal(
        MATMUL, *GOOD, BLOCK_M=64
    )
    assert "matmul_kernel got 'M' both by position and by name" in refusal(MATMUL, *GOOD, M=512)
    assert "add_kernel has no known parameter names, 'n' was given" in refusal(kernel_packer("3.0.0"), P, P, P, 16, n=1)


@pytest.mark.parametrize("name", INTEGERS)
def test_every_integer_type_out_of_range(name):
    low, high = INTEGERS[name]
    for value in (low - 1, high + 1):
        assert f"parameter 0 ({name}): expected a value of {name}: {value} is outside {low} .. {high}" in refusal(
            packer_of([name]), value
        )


@pytest.mark.parametrize("name", SCALARS)
def test_every_scalar_type_refuses_what_is_no_number(name):
    for value in ("1", None, {}, object(), 1j, b"1", np.zeros(3)):
        assert f"parameter 0 ({name}): expected a" in refusal(packer_of([name]), value)
    assert "are missing" in refusal(packer_of([name]), [[]])


places = st.sampled_from(["cpu", "cuda:0", "cuda:1"])
interfaces = st.dictionaries(st.sampled_from(["data", "shape"]), st.integers())
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
    | st.builds(complex) | st.builds(object) | st.builds(Pointer, st.integers(0, 2**64 - 1))
    | st.builds(TorchLike, st.integers(), dtype=st.sampled_from(["float32", "int64"]), device=places)
    | st.builds(CupyLike, st.integers() | st.text(max_size=2), st.tuples(st.integers()), st.text(max_size=4))
    | st.builds(DlpackLike, st.integers(0, 2**63), device=st.tuples(st.integers(0, 20), st.integers(0, 3)))
    | st.builds(SimpleNamespace, __cuda_array_interface__=interfaces)
    | st.builds(np.array, st.lists(st.floats() | st.integers(-5, 5), max_size=3) | st.floats() | st.integers(-5, 5)),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.builds(TensorDescriptor, inner, inner, inner, inner, st.sampled_from(["zero", "nan", "x"])),
    max_leaves=8,
)  # fmt: skip


@given(
    st.lists(type_names, max_size=5),
    st.lists(anything, max_size=6),
    st.dictionaries(st.sampled_from(["p0", "p1", "p4", "q"]), anything, max_size=2),
    st.sampled_from(["cuda:0", "emulator"]),
)
@example(["fp32"], [10**400], {}, "cuda:0")
@example(["*fp32"], [TensorDescriptor(5, "ab", ["x"], 3)], {}, "cuda:0")
def test_any_arguments_are_packed_or_refused(types, args, named, device):
    packer = packer_of({f"p{i}": t for i, t in enumerate(types)})
    driver = FakeDriver()
    try:
        packed = packer.pack(args, named, driver=driver, device=Device.parse(device))
    except ArgumentError as error:
        assert str(error)
    else:
        assert len(packed.data) == packer.signature.param_bytes


def test_values_are_described_for_people():
    assert describe(1) == "int 1"
    assert describe("x" * 200) == "str '" + "x" * 59
    assert describe(np.zeros((2, 3), np.int8)).startswith("a numpy.ndarray int8 (2, 3)")  # NumPy 2 adds " on cpu"
    assert describe(TorchLike(0, (2,), "bfloat16", "cuda:1")) == "a tests.TorchLike bfloat16 (2,) on cuda:1"


def test_a_tuple_by_name_fills_no_other_parameter():
    kernel = trlaunch.Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("ptx"), device="emulator")
    x = np.ones(1024, np.float32)
    with pytest.raises(ArgumentError, match="add_kernel: 'x_ptr' takes 1 value, 2 were given by name"):
        kernel.launch(1, x_ptr=(x, x), out_ptr=x, n_elements=1024)
    with pytest.raises(ArgumentError, match=r"are missing \('n' was given, which it does not have\)"):
        kernel.launch(1, x, x, x, n=1024)
