"""Headers of bundles against the vendors' own headers, which every wheel of Triton carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import corpus, corpus_hip
from tests.bundle.programs import LANGUAGES, build
from trlaunch import Kernel
from trlaunch.bundle import header


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
