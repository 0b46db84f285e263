"""Triton for the tests that need it: the one place where they are skipped, and where they meet its releases."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from trlaunch.lowering.triton_compiler import installed_release


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "since(major, minor): needs that release of Triton or a later one")


@pytest.fixture
def triton(request: pytest.FixtureRequest, own_caches: None) -> ModuleType:
    """The installed Triton; the test is skipped where there is none, or none as late as its mark ``since`` asks."""
    module = pytest.importorskip("triton", reason="needs Triton's compiler")
    mark = request.node.get_closest_marker("since")
    if mark is not None and installed_release() < mark.args:
        pytest.skip(f"needs Triton {mark.args[0]}.{mark.args[1]} or later, found {module.__version__}")
    return module


@pytest.fixture
def kernels(triton: ModuleType) -> ModuleType:
    """`tests.lowering.kernels`, which imports Triton."""
    return importlib.import_module("tests.lowering.kernels")


@pytest.fixture(scope="session")
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path_factory.mktemp("trlaunch")))
        # 3.9 warns that 3.10 will have another default.
        patch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
        yield patch


@pytest.fixture
def own_caches(_cache_folder: pytest.MonkeyPatch) -> None:
    """Triton's cache and trlaunch's in folders of this run."""
