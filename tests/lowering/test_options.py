"""What a kernel was compiled with, from what lies beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import corpus
from trlaunch.artifact import Artifact, Level
from trlaunch.errors import LoweringError, TrlaunchError
from trlaunch.lowering.options import (
    jsonable,
    kernel_name,
    module_attributes,
    options_of,
    refuse_spent,
    target_of,
    warps_of,
)
from trlaunch.target import Target

CASES = corpus.cases(kernel="matmul_kernel") + corpus.cases(kernel="layer_norm_kernel")
SPECIALISED = "module {\n  tt.func public @f(%a: !tt.ptr<f32>) {\n    scf.for {\n    } {tt.warp_specialize}\n  }\n}\n"


def bare(case: corpus.Case, level: str) -> Artifact:
    """The text alone, without metadata and siblings."""
    return Artifact.from_bytes(case.text(level), level=level)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_text_alone_tells_what_the_metadata_does(case):
    stated = case.metadata
    ttgir, ptx = bare(case, "ttgir"), bare(case, "ptx")
    assert module_attributes(ttgir.text)["num-warps"] == str(stated["num_warps"])
    assert options_of(ttgir)["num_warps"] == stated["num_warps"]
    assert options_of(ttgir)["num_ctas"] == stated["num_ctas"]
    assert str(target_of(ttgir)) == case.target
    assert target_of(ptx).arch == case.target.partition(":")[2]
    assert warps_of(ptx) == stated["num_warps"]
    for level in case.levels:
        if level != "cubin":
            assert kernel_name(bare(case, level)) == case.kernel


@pytest.mark.parametrize("case", corpus.cases(level="llir"), ids=str)
def test_llir_states_its_threads(case):
    assert warps_of(bare(case, "llir")) == case.metadata["num_warps"]
    assert kernel_name(bare(case, "llir")) == case.kernel


def test_a_device_function_is_no_kernel():
    text = "define internal void @helper(ptr %0) {\n}\ndefine ptx_kernel void @k(ptr addrspace(1) %0) {\n}\n"
    assert kernel_name(Artifact.from_bytes(text)) == "k"
    two = text.replace("internal void", "ptx_kernel void")
    assert kernel_name(Artifact.from_bytes(two)) is None


def test_the_target_asked_for_comes_first():
    case = CASES[0]
    assert target_of(Artifact.from_file(case.path("ttir")), "cuda:75") == Target("cuda", "75")
    assert str(target_of(Artifact.from_file(case.path("ttir")))) == case.target
    with pytest.raises(LoweringError, match=r"does not say what it is for.*target='cuda:90'"):
        target_of(bare(case, "ttir"))


def test_the_suffix_of_ptx_is_kept():
    case = corpus.find("3.6.0", "cuda:90", "matmul_kernel")
    assert target_of(bare(case, "ptx")).sm == "sm_90a"


def test_num_warps_of_a_specialised_kernel_is_not_its_total():
    """A matmul for sm_100 of 4 warps that Triton specialised: the metadata states all 8."""
    metadata = {"num_warps": 8, "num_ctas": 1}
    alone = Artifact.from_bytes(SPECIALISED, metadata)
    assert "num_warps" not in options_of(alone)
    ttgir = 'module attributes {"ttg.num-ctas" = 1 : i32, "ttg.num-warps" = 4 : i32, "ttg.total-num-warps" = 8 : i32} {'
    beside = Artifact(alone.level, alone.data, None, alone.metadata, {Level.TTGIR: ttgir.encode()})
    assert options_of(beside)["num_warps"] == 4
    plain = SPECIALISED.replace("tt.warp_specialize", "tt.num_stages = 3 : i32")
    assert options_of(Artifact.from_bytes(plain, metadata))["num_warps"] == 8


def test_the_number_of_warps_is_spent_below_ttgir():
    case = corpus.find("3.6.0", "cuda:80", "matmul_kernel")
    ptx = Artifact.from_file(case.path("ptx"), {**case.metadata, "num_warps": 12})
    assert options_of(Artifact(Level.PTX, ptx.data, None, ptx.metadata)).get("num_warps") is None


def test_the_shape_of_clusters_is_planned_anew_from_ttir():
    case = corpus.find("3.2.0", "cuda:90", "cluster_matmul_kernel")
    assert case.metadata["cluster_dims"] == [1, 2, 1]
    assert "cluster_dims" not in options_of(Artifact.from_file(case.path("ttir")))
    assert options_of(Artifact.from_file(case.path("ttgir")))["cluster_dims"] == [1, 2, 1]


def test_options_that_come_too_late():
    ttgir = bare(corpus.find("3.6.0", "cuda:80", "matmul_kernel"), "ttgir")
    refuse_spent(ttgir, {"num_warps": 4, "enable_fp_fusion": False}, options_of(ttgir))
    with pytest.raises(LoweringError, match=r"num_warps=8 changes nothing from ttgir on: .* made with 4"):
        refuse_spent(ttgir, {"num_warps": 8}, options_of(ttgir))
    with pytest.raises(LoweringError, match="num_stages=2 changes nothing.*does not say"):
        refuse_spent(ttgir, {"num_stages": 2}, options_of(ttgir))
    ptx = bare(corpus.find("3.6.0", "cuda:80", "matmul_kernel"), "ptx")
    with pytest.raises(LoweringError, match="maxnreg=64 changes nothing from ptx on"):
        refuse_spent(ptx, {"maxnreg": 64}, {})


def test_metadata_as_json():
    assert jsonable({"target": Target("cuda", "90"), "a": (1, (2.0, None)), "b": {1: {3}}})["a"] == [1, [2.0, None]]


@given(st.text(max_size=200), st.sampled_from(["ttir", "ttgir", "llir", "ptx", "amdgcn"]))
def test_any_text_gives_values_or_a_refusal(text, level):
    artifact = Artifact(Level(level), text.encode("utf-8", "surrogatepass"))
    try:
        target_of(artifact)
        options_of(artifact)
        warps_of(artifact)
        kernel_name(artifact)
    except TrlaunchError:
        pass
