"""Levels above the hsaco become the hsaco that Triton made of them; needs a Triton whose kernels are in the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus_hip import ARCHITECTURES, cases
from trlaunch import Kernel
from trlaunch.errors import AssemblerMissing
from trlaunch.hip.assembler import choose
from trlaunch.lowering.triton_compiler import installed_release


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("level", ["ttir", "ttgir", "llir", "amdgcn"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_level_becomes_the_hsaco_of_triton(arch: str, level: str) -> None:
    version = installed_release()
    if version is None:
        pytest.skip("needs Triton")
    found = [c for c in cases(target=f"hip:{arch}", kernel="matmul_kernel") if c.version == version]
    for case in (c for c in found if level in c.levels):
        try:
            choose(case.text("amdgcn"), case.release)
        except AssemblerMissing as error:
            pytest.skip(str(error))
        metadata = case.metadata if level != "ttir" else None
        lowered = {"target": f"hip:{arch}"} if level != "amdgcn" else {}
        kernel = Kernel.from_bytes(case.bytes(level), metadata, level=level, **lowered)
        assert kernel.image.data == case.bytes("hsaco")
        assert kernel.shared == case.metadata["shared"]
        assert kernel.threads == case.metadata["num_warps"] * case.metadata["target"]["warp_size"]
        assert kernel.signature.params == Kernel.from_file(case.path("hsaco")).signature.params or level != "ttgir"
