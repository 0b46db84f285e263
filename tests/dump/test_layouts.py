"""Layouts of TTGIR against Triton's own conversion, which Gluon has from 3.6 on, and against what must hold of all."""

from __future__ import annotations

import contextlib
import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import corpus
from trlaunch import ArgumentError
from trlaunch.dump.choose import candidates
from trlaunch.dump.layouts import layout_of
from trlaunch.lowering.triton_compiler import installed_release
from trlaunch.mlir_types import split_tensor

SIZES = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128])


@st.composite
def blocked(draw, rank=None):
    """A blocked layout: fields as in the text."""
    rank = rank or draw(st.integers(1, 3))

    def factors(total):
        parts = [1] * rank
        while total > 1:
            parts[draw(st.integers(0, rank - 1))] *= 2
            total //= 2
        return parts

    return {
        "sizePerThread": factors(draw(st.sampled_from([1, 2, 8]))),
        "threadsPerWarp": factors(32),
        "warpsPerCTA": factors(draw(st.sampled_from([1, 4, 8]))),
        "order": draw(st.permutations(range(rank))),
    }


@st.composite
def mma(draw):
    version = draw(st.sampled_from([2, 3]))
    shape = [16, 8] if version == 2 else [16, draw(st.sampled_from([8, 16, 64])), 16]
    warps = draw(st.sampled_from([[4, 1], [2, 2], [1, 4], [8, 1]] if version == 2 else [[4, 1], [8, 1], [4, 2]]))
    return {"versionMajor": version, "versionMinor": 0, "warpsPerCTA": warps, "instrShape": shape}


def text_of(kind, fields):
    return f"#ttg.{kind}<{{{', '.join(f'{key} = {value}' for key, value in fields.items())}}}>"


@st.composite
def layouts(draw):
    """A layout as text, a function that makes it in Gluon, and the rank of its tensors."""
    kind = draw(st.sampled_from(["blocked", "mma", "slice", "slice mma", "dot", "dot blocked"]))
    if kind.startswith("slice"):
        fields = draw(mma()) if kind == "slice mma" else draw(blocked(draw(st.integers(2, 3))))
        inner = "nvidia_mma" if kind == "slice mma" else "blocked"
        rank = 2 if kind == "slice mma" else len(fields["order"])
        dim = draw(st.integers(0, rank - 1))
        text = f"#ttg.slice<{{dim = {dim}, parent = {text_of(inner, fields)}}}>"
        return text, lambda gl: gl.SliceLayout(dim, made(gl, inner, fields)), rank - 1
    if kind == "dot":
        fields, operand = {**draw(mma()), "versionMajor": 2, "instrShape": [16, 8]}, draw(st.integers(0, 1))
        width = draw(st.sampled_from([1, 2, 4]))
        text = f"#ttg.dot_op<{{opIdx = {operand}, parent = {text_of('nvidia_mma', fields)}, kWidth = {width}}}>"
        return text, lambda gl: gl.DotOperandLayout(operand, made(gl, "nvidia_mma", fields), width), 2
    if kind == "dot blocked":
        fields, operand = draw(blocked(2)), draw(st.integers(0, 1))
        text = f"#ttg.dot_op<{{opIdx = {operand}, parent = {text_of('blocked', fields)}}}>"
        return text, lambda gl: gl.DotOperandLayout(operand, made(gl, "blocked", fields), 0), 2
    fields = draw(mma()) if kind == "mma" else draw(blocked())
    name = "nvidia_mma" if kind == "mma" else "blocked"
    return text_of(name, fields), lambda gl: made(gl, name, fields), 2 if kind == "mma" else len(fields["order"])


def made(gl, kind, fields):
    if kind == "blocked":
        return gl.BlockedLayout(*(list(fields[k]) for k in ("sizePerThread", "threadsPerWarp", "warpsPerCTA", "order")))
    version = [fields["versionMajor"], fields["versionMinor"]]
    return gl.NVMMADistributedLayout(version, list(fields["warpsPerCTA"]), list(fields["instrShape"]))


@pytest.fixture
def builder(triton):
    """Gluon's builder, which converts layouts."""
    ir = importlib.import_module("triton._C.libtriton").ir
    bindings = importlib.import_module("triton._C.libtriton").gluon_ir
    context = ir.context()
    ir.load_dialects(context)
    importlib.import_module("triton._C.libtriton").nvidia.load_dialects(context)
    yield bindings.GluonOpBuilder(context)
    del context  # the builder does not keep it


@pytest.mark.since(3, 6)
def test_triton_has_the_same_layouts(builder):
    gl = importlib.import_module("triton.experimental.gluon.language")

    @settings(max_examples=300, deadline=None)
    @given(layouts(), st.lists(SIZES, min_size=3, max_size=3))
    def same(layout, sizes):
        text, make, rank = layout
        shape = tuple(sizes[:rank])
        theirs = builder.to_linear_layout(make(gl)._to_ir(builder), list(shape))
        ours = layout_of(shape, text, {})
        assert [list(b) for b in ours.bases["lane"]] == theirs.lane_bases, text
        assert [list(b) for b in ours.bases["warp"]] == theirs.warp_bases, text
        if installed_release() < (3, 9):  # which leaves some registers out that hold what another one holds
            assert [list(b) for b in ours.bases["register"]] == theirs.reg_bases, text
        registers = [list(b) for b in ours.without_copies().bases["register"]]
        assert registers == [b for b in theirs.reg_bases if any(b)], text

    same()


@settings(max_examples=100, deadline=None)
@given(layouts(), st.lists(SIZES, min_size=3, max_size=3))
def test_every_element_is_somewhere(layout, sizes):
    text, _, rank = layout
    shape = tuple(sizes[:rank])
    found = layout_of(shape, text, {})
    elements = found.elements()
    assert elements.shape == (found.threads, found.registers)
    np.testing.assert_array_equal(np.unique(elements), np.arange(np.prod(shape)))
    once = found.without_copies().elements()
    np.testing.assert_array_equal(np.unique(once), np.arange(np.prod(shape)))


def test_linear_layouts_and_aliases():
    bases = "register = [[0, 1], [8, 0]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]], warp = [[16, 0]], block = []"
    aliases = {
        "#linear": f"#ttg.linear<{{{bases}}}>",
        "#mma": "#ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [2, 1], instrShape = [16, 8]}>",
    }
    one, other = (layout_of((32, 8), name, aliases).elements() for name in ("#linear", "#mma"))
    np.testing.assert_array_equal(one, other)


def test_the_fragment_of_a_matrix_instruction_is_that_of_the_isa():
    # PTX ISA, mma.m16n8k16: c0, c1 in row groupID, columns 2 * threadID_in_group + 0 and 1; c2, c3 eight rows below.
    text = "#ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [1, 1], instrShape = [16, 8]}>"
    elements = layout_of((16, 8), text, {}).elements()
    for lane, register in itertools.product(range(32), range(4)):
        row, column = lane // 4 + 8 * (register // 2), 2 * (lane % 4) + register % 2
        assert elements[lane, register] == row * 8 + column


@pytest.mark.parametrize("release", ["3.0.0", "3.2.0", "3.6.0", "3.9.0"])
def test_every_layout_of_the_corpus_for_nvidia_is_known(release):
    seen = set()
    for case in corpus.cases():
        if case.release != release or not case.target.startswith("cuda") or case.options.get("num_ctas", 1) > 1:
            continue
        module, _, values = candidates(case.text("ttgir"))
        for value in values:
            tensor = split_tensor(value.stored)
            if tensor is None or tensor[2] is None or value.refused:
                continue
            layout = layout_of(tensor[0], tensor[2], module.aliases)
            assert len(np.unique(layout.elements())) == np.prod(tensor[0])
            seen.add(module.aliases.get(tensor[2], tensor[2]).partition("<")[0].rpartition(".")[2])
    assert seen >= {"blocked", "nvidia_mma", "slice"}


def test_what_is_not_known_is_refused():
    for text, message in (
        ("#ttg.amd_mfma<{version = 3}>", "is not one whose registers are known"),
        (
            "#ttg.nvidia_mma<{versionMajor = 5, versionMinor = 0, warpsPerCTA = [4, 1], instrShape = [16, 8]}>",
            "version 5",
        ),
        ("#ttg.blocked<{sizePerThread = [1, 1], order = [1, 0]}>", "does not fit the shape"),
        ("#ttg.slice<{dim = 7}>", "does not fit the shape"),
        ("#ttg.blocked<{CTAsPerCGA = [2, 1]}>", "over the CTAs of a cluster"),
        ("#a", "nested deeper than"),
        ("#nothing", "is not one whose registers are known"),
    ):
        with pytest.raises(ArgumentError, match=message):
            layout_of((8, 8), text, {"#a": "#ttg.slice<{dim = 0, parent = #a}>"})
    with pytest.raises(ArgumentError, match="expected powers of two"):
        layout_of((3, 8), "#blocked", {})


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="#ttg.blockedslice<{}>=[],0123 parentorder", max_size=60))
def test_damaged_layouts(text):
    with contextlib.suppress(ArgumentError):
        layout_of((8, 8), text, {})
