"""Headers of bundles against the vendors' own headers, which every wheel of Triton carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import corpus, corpus_hip
from tests.bundle.programs import LANGUAGES, build
from trlaunch import Kernel
from trlaunch.bundle import header, load


@pytest.mark.parametrize("language", LANGUAGES)
def test_cuda_h_and_the_header_go_together(triton, tmp_path, language):
    case = corpus.find("3.6.0", "cuda:90", "tma_matmul_kernel")
    compiled(
        tmp_path,
        language,
        header(Kernel.from_file(case.path("cubin"))),
        Path(triton.__file__).parent / "backends" / "nvidia" / "include",
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_hip_runtime_api_h_and_the_header_go_together(triton, tmp_path, language):
    case = corpus_hip.find("3.6.0", "hip:gfx942", "cooperative_kernel")
    compiled(
        tmp_path,
        language,
        header(Kernel.from_file(case.path("hsaco"))),
        Path(triton.__file__).parent / "backends" / "amd" / "include",
    )


def compiled(folder, language, text, include):
    (folder / "k.h").write_text(text)
    (folder / "k.c").write_text('#include "k.h"\nint main(void) { return 0; }\n')
    build(folder / "k.o", folder / "k.c", language, flags=["-c", "-isystem", str(include)])


def test_what_a_function_was_compiled_with_is_in_its_bundle_and_header(triton, kernels, tmp_path):
    kernel = Kernel.from_function(
        kernels.scaled, "*fp32", "*fp32", 2.5, None, 1024, negate=True, target="cuda:80", options={"num_warps": 2}
    )
    constants = kernel.artifact.constants
    assert (constants["negate"], constants["BLOCK"], constants["shift"]) == (True, 64, None)
    path = kernel.save(tmp_path / "k.trk", constants={"more": "said"})
    assert load(path).entries[0].constants == {**constants, "more": "said"}
    again = Kernel.from_file(path)
    assert [p.type for p in again.signature.user] == [p.type for p in kernel.signature.user]
    if again.image.format == "cubin":
        assert " *   BLOCK = 64\n" in header(again)
