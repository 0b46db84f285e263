"""Signatures: what each source says, that they must agree, and that a disagreement shows both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import cases, find
from tests.oracle import layout
from trlaunch.cuda.image import read_image
from trlaunch.emulator.image import read_image as read_ptx
from trlaunch.errors import SignatureError, TrlaunchError
from trlaunch.image import ImageKernel, ImageParam
from trlaunch.metadata import Metadata
from trlaunch.scalars import SCALARS
from trlaunch.signature import (
    assemble,
    category,
    from_caller,
    from_func,
    from_llir,
    from_ptx,
    hidden_count,
    type_size,
)


def cubin(case) -> ImageKernel:
    return read_image(case.bytes("cubin")).kernels[case.kernel]


def sources(case):
    found = [from_func(case.text("ttgir"), case.kernel, "ttgir"), from_func(case.text("ttir"), case.kernel, "ttir")]
    if "llir" in case.levels:
        found.append(from_llir(case.text("llir"), case.kernel))
    return [*found, from_ptx(read_ptx(case.text("ptx")).kernels[case.kernel])]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_every_source_of_every_kernel_agrees(case):
    entry, metadata = cubin(case), Metadata.from_dict(case.metadata)
    found = sources(case)
    assert None not in found
    whole = assemble(entry, "cubin", metadata, found)
    assert whole.sources == ("cubin", *(s.label for s in found))
    assert [(p.index, p.offset, p.size) for p in whole] == [(p.index, p.offset, p.size) for p in entry.params]
    assert [p.size for p in whole] == [size for _, size in layout(case.text("ptx"), case.kernel)]
    assert [p.role for p in whole.hidden] == ["global_scratch", "profile_scratch"][: len(whole.hidden)]
    for source in found[:-1]:  # any one of them is enough; PTX knows no types but of numbers
        alone = assemble(entry, "cubin", metadata, [source])
        assert [p.size for p in alone.user] == [p.size for p in whole.user]
        assert all(p.type is not None for p in alone.user)
    if case.name != "tma_matmul_kernel":
        for param, known in zip(whole.user, case.params, strict=True):
            assert type_size(param.type) == param.size == type_size(known.type)
            assert (param.divisibility == 16) == known.divisible_by_16


@pytest.mark.parametrize("case", [*cases(kernel="scalars_kernel"), *cases(kernel="tuple_kernel")], ids=str)
def test_callers_types_alone_are_enough_and_tell_the_sign(case):
    entry = cubin(case)
    by_name = {p.name: p.type for p in case.params}
    in_order = [p.type for p in case.params]
    for given_signature in (by_name, in_order, ", ".join(in_order), {**by_name, "BLOCK": "constexpr"}):
        signature = assemble(entry, "cubin", None, [from_caller(given_signature, entry)])
        assert [p.type for p in signature.user] == in_order
        assert all(not p.signless for p in signature.user if category(p.type) == "integer")
        assert len(signature.hidden) == len(entry.params) - len(in_order)
    if case.name == "tuple_kernel":
        nested = {"sources": ("*fp32", "*fp32"), "scales": ("fp32", "i32", "constexpr"), "out_ptr": "*fp32", "n": "i32"}
        signature = assemble(entry, "cubin", None, [from_caller(nested, entry)])
        names = ["sources.0", "sources.1", "scales.0", "scales.1", "out_ptr", "n"]
        assert [p.name for p in signature.user] == names


@pytest.mark.parametrize("case", [c for c in cases(kernel="tma_matmul_kernel") if c.version >= (3, 4)], ids=str)
def test_callers_descriptors_take_the_slots_of_their_release(case):
    entry = cubin(case)
    given_signature = {p.name: p.type for p in case.params}
    signature = assemble(entry, "cubin", Metadata.from_dict(case.metadata), [from_caller(given_signature, entry)])
    flags = {(3, 4): 0, (3, 5): 1, (3, 6): 1}.get(case.version, 2)
    each = 5 if case.target == "cuda:90" else 9 + flags
    assert len(signature.user) == 3 * each + 3
    assert [p.name for p in signature.user[-3:]] == ["M", "N", "K"]
    names = [f"a_desc.{what}.{axis}" for what in ("shape", "stride") for axis in (0, 1)]
    assert [p.name for p in signature.user[each - 4 : each]] == names


def entry_of(*sizes: int) -> ImageKernel:
    params, end = [], 0
    for i, size in enumerate(sizes):
        end = -(-end // size) * size
        params.append(ImageParam(i, end, size))
        end += size
    return ImageKernel("k", tuple(params), end)


def func(arguments: str, label: str = "ttir"):
    return from_func(f"tt.func public @k({arguments})", "k", label)


NO_HIDDEN = Metadata.from_dict({"hash": "00", "num_stages": 3})


def test_disagreements_show_both_sides():
    entry = entry_of(8, 4)
    with pytest.raises(SignatureError) as caught:
        assemble(entry, "cubin", NO_HIDDEN, [func("%a: !tt.ptr<f32>, %b: i64")])
    assert str(caught.value).startswith(
        "ttir and cubin contradict each other about parameter 1: i64 takes 8 bytes, found 4; "
        "the files are not of one compilation"
    )
    for other, message in (
        ("%a: !tt.ptr<f16>, %b: i32", "ttir and ttgir contradict each other about parameter 0: *fp16 against *fp32"),
        ("%a: i64, %b: i32", "ttir and ttgir contradict each other about parameter 0: i64 against *fp32"),
        ("%a: !tt.ptr<f32>, %b: f32", "ttir and ttgir contradict each other about parameter 1: fp32 against i32"),
    ):
        with pytest.raises(SignatureError) as caught:
            assemble(entry, "cubin", NO_HIDDEN, [func("%a: !tt.ptr<f32>, %b: i32", "ttgir"), func(other)])
        assert message in str(caught.value)
    with pytest.raises(SignatureError, match="ttir has 1 parameters, the cubin has 2: expected the same kernel of the"):
        assemble(entry, "cubin", Metadata.from_dict({"hash": "", "num_stages": 1}), [func("%a: !tt.ptr<f32>")])


def test_a_named_parameter_is_named_in_the_contradiction():
    entry = entry_of(8, 4)
    found = [from_caller({"x": "*fp32", "n": "i32"}, entry), func("%x: !tt.ptr<f32>, %n: f32")]
    with pytest.raises(SignatureError, match="about parameter 1 'n': fp32 against i32"):
        assemble(entry, "cubin", NO_HIDDEN, found)


def test_signs_and_bytes_are_no_disagreement():
    entry = entry_of(8, 4, 1)
    found = [from_caller(["*u8", "u32", "u1"], entry), func("%a: !tt.ptr<i8>, %b: i32, %c: i1")]
    signature = assemble(entry, "cubin", NO_HIDDEN, found)
    assert [(p.type, p.signless) for p in signature] == [("*u8", True), ("u32", False), ("u1", False)]


def test_hidden_parameters():
    assert [hidden_count(Metadata.from_dict(c.metadata)) for c in cases(kernel="add_kernel", target="cuda:90")] == [
        0, 0, 0, 1, 1, 2, 2, 2, 2, 2,
    ]  # fmt: skip
    assert hidden_count(None) is hidden_count(Metadata.from_dict({"num_warps": 4})) is None
    hip = {"hash": "0", "num_stages": 2, "target": {"backend": "hip", "arch": "gfx942", "warp_size": 64}}
    assert hidden_count(Metadata.from_dict(hip)) == 0
    assert hidden_count(Metadata.from_dict({**hip, "triton_version": "3.4.0"})) == 1
    with pytest.raises(SignatureError, match="nothing tells how many of them are the hidden scratch pointers"):
        assemble(entry_of(8, 8, 8), "cubin", None, [])
    two = Metadata.from_dict(find("3.6.0", "cuda:90", "add_kernel").metadata)
    with pytest.raises(
        SignatureError, match=r"\(3.6.0\) means 2 trailing scratch pointers of 8 bytes; the cubin has.*8, 4"
    ):
        assemble(entry_of(8, 8, 4), "cubin", two, [])
    with pytest.raises(SignatureError, match="has 2 parameters and the metadata means 2 hidden ones, the cubin has 3"):
        assemble(entry_of(8, 8, 8), "cubin", two, [func("%a: i64, %b: i64")])


def test_without_types_the_image_alone_still_gives_slots():
    signature = assemble(entry_of(8, 4, 2), "cubin", NO_HIDDEN, [])
    assert [(p.type, p.size, p.label) for p in signature] == [
        (None, 8, "parameter 0 (8 bytes of unknown type)"),
        (None, 4, "parameter 1 (4 bytes of unknown type)"),
        (None, 2, "parameter 2 (2 bytes of unknown type)"),
    ]
    assert signature.table().splitlines()[1].split() == ["0", "-", "?", "0", "8", "user"]


def test_llvm_source():
    text = "define ptx_kernel void @k(ptr addrspace(1) %0, i32 %1, half %2, ptr byval([128 x i8]) align 64 %3) {"
    assert [(s.type, s.size) for s in from_llir(text, "k").slots] == [
        ("*", 8), ("i32", 4), ("fp16", 2), ("nvTmaDesc", 128),
    ]  # fmt: skip
    assert from_llir(text, "q") is None


WRONG_TYPES = (3, {"x": "float"}, ["*fp3"], "i32, int", {"x": None}, ["tensordesc<fp16>"], [("i32", 5)])


@pytest.mark.parametrize("bad", WRONG_TYPES)
def test_types_that_triton_does_not_have(bad):
    with pytest.raises(SignatureError, match="signature= (has .*expected a Triton type such as|is a int)"):
        from_caller(bad, entry_of(4))


def test_nested_pointers_and_unknown_types():
    slots = func("%a: !tt.ptr<!tt.ptr<f32>>, %b: !tt.ptr<index>, %c: index, %d: !tt.ptr<f32, 1>").slots
    assert [s.type for s in slots] == ["**fp32", "*", None, "*fp32"]


def test_repeated_names_are_numbered():
    text = '%a: i32 loc("s"(#loc)), %b: i32 loc("s"(#loc)), %c: i32 loc("t"(#loc))'
    assert [s.name for s in func(text).slots] == ["s", "s.1", "t"]


TYPES = [*SCALARS, "*fp16", "*", "**", "constexpr", "nvTmaDesc", "tensordesc<fp16[64, 64]>", "tensordesc<[>"]
values = st.recursive(
    st.sampled_from(TYPES) | st.text(max_size=6) | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner),
    max_leaves=6,
)


@given(st.lists(st.sampled_from([1, 2, 4, 8, 128]), max_size=8), values | st.dictionaries(st.text(max_size=3), values))
def test_any_signature_fits_the_image_or_is_refused(sizes, given_signature):
    entry = entry_of(*sizes)
    for metadata in (None, NO_HIDDEN, Metadata.from_dict(find("3.6.0", "cuda:90", "add_kernel").metadata)):
        try:
            signature = assemble(entry, "cubin", metadata, [from_caller(given_signature, entry)])
        except TrlaunchError as error:
            assert str(error)
        else:
            assert [(p.offset, p.size) for p in signature] == [(p.offset, p.size) for p in entry.params]
