"""Tensors put back from the values of LLVM IR that are their registers, against the same values of the TTGIR."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.dump.test_every_value import HALF
from tests.dump.test_ttir import captured, floats
from trlaunch import ArgumentError, Kernel, at
from trlaunch.artifact import Level
from trlaunch.dump.choose import candidates
from trlaunch.dump.layouts import layout_of
from trlaunch.mlir_types import split_tensor

CASES = {
    "add": ("arith.addf", (3,), lambda: (floats(1000), floats(1000), np.zeros(1000, np.float32), 1000), {"BLOCK": 512}),
    "converted": ("tt.load", (1,), lambda: (floats(512).astype(HALF), np.zeros(512, np.float32)), {"BLOCK": 512}),
    "softmax": ("arith.subf", (2,), lambda: (floats(2, 200), np.zeros((2, 200), np.float32), 200), {"BLOCK": 64}),
    "attention": (
        "arith.divf",
        (2,),
        lambda: (*(floats(64, 16).astype(HALF) for _ in range(3)), np.zeros((64, 16), np.float32), 64, 0.25),
        {"D": 16, "BLOCK": 32},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_tensor_is_put_back_into_its_shape(kernels, lowered, name):
    op, grid, make, constants = CASES[name]
    args = make()
    llir = lowered(getattr(kernels, name), "llir", *args, **constants)
    ttgir = llir.sibling(Level.TTGIR)
    chosen = [c for c in candidates(ttgir.text)[2] if c.where.op == op and "tensor" in c.where.type][-1]
    asked = at(chosen.where.name, line=chosen.where.line, op=op)
    got = captured(llir, at(tensor=asked, keep=4, label="x"), grid, *args)["x"]
    want = captured(ttgir, at(asked.name, line=asked.line, op=op, keep=4, label="x"), grid, *args)["x"]
    assert got.dtype == want.dtype
    assert got.values.shape == want.values.shape
    assert (got.where.type, got.where.layout) == (want.where.type, want.where.layout)
    np.testing.assert_array_equal(got.written, want.written)
    np.testing.assert_array_equal(got.values, want.values)
    assert np.count_nonzero(got.values) > got.values.size // 4


def test_every_kind_of_layout(kernels, lowered):
    """Blocked, slices of matrix products, and the products' own: all tensors of an attention that can be found."""
    _, grid, make, constants = CASES["attention"]
    args = make()
    llir = lowered(kernels.attention, "llir", *args, **constants)
    ttgir = llir.sibling(Level.TTGIR)
    ops = ("math.exp", "arith.subf", "arith.mulf", "arith.addf", "arith.truncf", "arith.divf", "arith.maxnumf")
    found = set()
    module, _, values = candidates(ttgir.text)
    for value in values:
        where = value.where
        tensor = split_tensor(where.type)
        if value.refused or tensor is None or where.op not in ops:
            continue
        layout = tensor[2] or ""
        inner = re.findall(r"#mma\w*|#blocked\w*", layout) or [layout]
        kind = module.aliases.get(inner[0], inner[0]).partition("<")[0].rpartition(".")[2]
        kind = ("slice of " if "slice" in layout else "") + kind
        if kind in found:
            continue
        asked = at(where.name, line=where.line, op=where.op)
        try:
            got = captured(llir, at(tensor=asked, keep=4, label="x"), grid, *args)["x"]
        except ArgumentError as error:
            assert "values of LLVM IR match" in str(error) or "of that place in Python" in str(error)
            continue
        want = captured(ttgir, at(where.name, line=where.line, op=where.op, keep=4, label="x"), grid, *args)["x"]
        np.testing.assert_array_equal(got.values, want.values, where.type)
        found.add(kind)
    assert found >= {"nvidia_mma", "slice of nvidia_mma"}


def test_what_cannot_be_put_back_is_refused_with_the_counts(kernels, lowered):
    x = floats(300)
    llir = lowered(kernels.add, "llir", x, x, x.copy(), 300, BLOCK=512)
    where = next(c.where for c in candidates(llir.sibling(Level.TTGIR).text)[2] if c.where.op == "arith.addf")
    pointer = next(c.where for c in candidates(llir.sibling(Level.TTGIR).text)[2] if c.where.op == "tt.splat")
    alone = Kernel(llir, device="emulator").artifact
    without = type(alone)(alone.level, alone.data, None, alone.metadata, {})
    for artifact, asked, message in (
        (llir, at(tensor="%nothing"), "no value of the kernel matches"),
        (without, at(tensor=where.name), "tensor= needs the TTGIR beside the LLVM IR"),
        (
            llir,
            at(tensor=where.name, op="fmul"),
            "has 4 registers of 32 bits a thread, and 0, 0 values of LLVM IR match",
        ),
        (llir, at(tensor=where.name, dtype="fp32"), "part= and dtype= do not go with tensor="),
        (llir, at(tensor=pointer.name), "tt.splat is not lowered element by element"),
        (llir.sibling(Level.TTGIR), at("%x", tensor=where.name), "tensor= is for LLVM IR"),
        (
            llir.sibling(Level.PTX) if Level.PTX in llir.siblings else llir.sibling(Level.TTIR),
            at(tensor="%x"),
            "tensor=",
        ),
    ):
        with pytest.raises(ArgumentError, match=re.escape(message)):
            Kernel(artifact, dump=asked, device="emulator")


def test_values_chosen_by_line(kernels, lowered):
    """What the caller says chooses the values: here those of one line of Python, by their instruction."""
    x, y = floats(512), floats(512)
    out = np.zeros_like(x)
    llir = lowered(kernels.add, "llir", x, y, out, 512, BLOCK=512)
    where = next(c.where for c in candidates(llir.sibling(Level.TTGIR).text)[2] if c.where.op == "arith.addf")
    asked = at(tensor=where.name, op="fadd", python_line=where.python.line, label="x")
    np.testing.assert_array_equal(captured(llir, asked, 1, x, y, out, 512)["x"].values[0], x + y)
    module = candidates(llir.sibling(Level.TTGIR).text)[0]
    shape, _, encoding = split_tensor(where.type)
    assert layout_of(shape, encoding, module.aliases).registers == 4
