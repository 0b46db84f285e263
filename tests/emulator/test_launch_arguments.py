"""Arguments of a launch as the debugger and the memory map see them."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.emulator.launching import entry
from trlaunch.driver import Buffer, PackedArguments
from trlaunch.emulator.arguments import arguments_of, array_of
from trlaunch.emulator.program import compile_program
from trlaunch.signature import Param, Signature

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"
TEXT = (
    HEADER + ".visible .entry k(.param .u64 a, .param .f32 b, .param .s32 c, .param .b16 d, .param .f64 e,"
    " .param .align 64 .b8 m[128])\n.maxntid 32\n{\nret;\n}\n"
)


def packed(buffers: tuple[Buffer, ...] = ()) -> PackedArguments:
    data = struct.pack("<QfiH6xd", 4096, 1.5, -7, 0xC049, -2.25)
    return PackedArguments(data.ljust(64, b"\0") + bytes(range(128)), buffers)


def test_values_by_the_types_of_the_ptx() -> None:
    found = arguments_of(compile_program(TEXT.encode(), "k"), packed())
    assert [a.name for a in found] == [f"parameter {i}" for i in range(6)]
    assert [a.value for a in found] == [4096, 1.5, -7, 0xC049, -2.25, bytes(range(128))]
    assert all(a.array is None for a in found)


def test_values_by_the_signature() -> None:
    program = compile_program(TEXT.encode(), "k")
    x = np.arange(12, dtype=np.uint16).reshape(3, 4)
    types = ("*bf16", "fp32", "u32", "bf16", "fp64", "tensordesc<fp16[64, 64]>")
    plain = arguments_of(program, packed())
    params = tuple(Param(a.index, name, kind, 0, 0) for a, name, kind in zip(plain, "abcdem", types, strict=True))
    buffer = Buffer(x.ctypes.data, x.nbytes, "a")
    found = arguments_of(program, packed((buffer,)), Signature(params, 192, ()))
    assert [a.name for a in found] == list("abcdem")
    assert [a.value for a in found] == [4096, 1.5, 2**32 - 7, -3.140625, -2.25, bytes(range(128))]
    assert found[0].dtype == "bf16"
    assert found[0].array is not None
    np.testing.assert_array_equal(found[0].array, np.arange(12, dtype=np.uint16))
    found[0].array[3] = 99
    assert x[0, 3] == 99  # in place


@pytest.mark.parametrize(
    "view", [np.s_[:, :], np.s_[1:, ::2], np.s_[2], np.s_[1:3, 1:4], np.s_[0, 0:1], np.s_[0:0]], ids=str
)
def test_arrays_have_the_shape_of_the_tensor(view: object) -> None:
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    x = whole[view]  # type: ignore[call-overload]
    steps = tuple(s // 4 for s in x.strides)
    extent = 4 * (1 + sum((n - 1) * s for n, s in zip(x.shape, steps, strict=True))) if x.size else 0
    buffer = Buffer(x.ctypes.data, extent, "x", False, "fp32", x.shape, steps)
    np.testing.assert_array_equal(array_of(buffer), x)


def test_memory_of_no_known_type_is_bytes() -> None:
    x = np.arange(5, dtype=np.uint8)
    assert array_of(Buffer(x.ctypes.data, 5, "x")).tolist() == [0, 1, 2, 3, 4]
    assert array_of(Buffer(x.ctypes.data, 5, "x"), "*i16").tolist() == [0x100, 0x302]
    scalar = np.array(7, np.int32)
    assert array_of(Buffer(scalar.ctypes.data, 4, "x", False, "i32")).shape == ()


def test_a_program_for_stepping_is_compiled_once() -> None:
    text = (HEADER + entry("", 1)).encode()
    plain = compile_program(text, "k")
    stepping = plain.variant(stepping=True, observed=False)
    assert plain is compile_program(text, "k")
    assert stepping is plain.variant(stepping=True, observed=False)
    assert plain is not stepping
    assert max(len(b.body) for b in stepping.blocks) == 1
