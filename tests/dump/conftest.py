"""Kernels at every level for the tests of dumps, compiled for sm_80 by the installed Triton and run by the emulator."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.lowering.conftest import _cache_folder, own_caches, pytest_configure, triton
from trlaunch.artifact import Artifact, Level
from trlaunch.target import Target

__all__ = ["_cache_folder", "own_caches", "pytest_configure", "triton"]


@pytest.fixture
def kernels(triton: ModuleType) -> ModuleType:
    """`tests.dump.kernels`, which imports Triton."""
    return importlib.import_module("tests.dump.kernels")


@pytest.fixture
def lowered(triton: ModuleType) -> Callable[..., Artifact]:
    """A function's kernel at a level: ``lowered(kernels.add, "ttgir", "*fp32", ..., BLOCK=128)``."""
    from trlaunch.lowering.specialize import bind, compile_function, jit_function

    def lower_to(function: Any, level: str, *args: Any, target: str = "cuda:80", **keywords: Any) -> Artifact:
        bound = bind(jit_function(function), args, keywords)
        return compile_function(bound, Level(level), Target.parse(target)).artifact

    return lower_to
