"""Autotuning over compile options: of a TTIR file, and of a function with its constexprs."""

from __future__ import annotations

import numpy as np
import pytest

import trlaunch
from tests.corpus import cases
from trlaunch import autotune
from trlaunch.lowering.triton_compiler import installed_release

QUICK = {"warmup": 0.0, "rep": 0.0, "cache": False}
N = 2048


@pytest.fixture
def arrays():
    return np.arange(N, dtype=np.float32), np.ones(N, np.float32), np.zeros(N, np.float32)


def test_compile_options_of_a_text_level(triton, arrays):
    x, y, out = arrays
    case = next(c for c in cases(target="cuda:80", kernel="add_kernel") if c.version == installed_release())
    (block,) = case.constexprs.values()
    tuned = autotune(
        case.path("ttir"),
        options=[{"num_warps": 4}, {"num_warps": 8}, {"num_warps": 3}],
        reference=lambda arguments: {"out_ptr": x + y} if "out_ptr" in arguments else {"arg2": x + y},
        **QUICK,
    )
    tuned[(-(-N // block),)](x, y, out, N, device="emulator")
    assert np.array_equal(out, x + y)
    assert [r.status for r in tuned.report.results] == ["ok", "ok", "refused"]
    assert [c.label for c in tuned.candidates][:2] == ["add_kernel.ttir num_warps=4", "add_kernel.ttir num_warps=8"]
    threads = [tuned.candidates[i].kernel.threads for i in (0, 1)]
    assert threads == [128, 256]


def test_constexprs_and_options_of_a_function(triton, kernels, arrays):
    x, y, out = arrays
    function = trlaunch.jit(kernels.add, device="emulator")
    tuned = autotune(
        function,
        options=[{"BLOCK": 256, "num_warps": 4}, {"BLOCK": 512, "num_warps": 8}],
        key=["n"],
        grid=lambda c: (-(-N // c["BLOCK"]),),
        reference="first",
        **QUICK,
    )
    tuned(x, y, out, N)
    assert np.array_equal(out, x + y)
    assert [r.status for r in tuned.report.results] == ["ok", "ok"], str(tuned.report)
    assert tuned.report.key["n"] == N
    with pytest.raises(trlaunch.ArgumentError, match="isolated=True needs candidates that are files or kernels"):
        autotune(function, options=[{"BLOCK": 256}], isolated=True, **QUICK)
