"""Every kernel of the corpus on the GPU, as cubin and as PTX, against NumPy."""

from __future__ import annotations

import warnings

import pytest

import trlaunch
from tests import corpus
from tests.gpu.launches import launch_of, put
from trlaunch.cuda.assembler import choose, ptx_isa, ptx_version, strides_in_16_bytes
from trlaunch.errors import AssemblerMissing
from trlaunch.target import Target

pytestmark = pytest.mark.gpu

NATIVE = corpus.cases(target="cuda:90")
OLDER = corpus.cases(target="cuda:80")


def launched(kernel: trlaunch.Kernel, case: corpus.Case) -> str:
    """Launch on fresh arrays; what is wrong about the results, empty when nothing is."""
    placed = put(launch_of(case), case)
    kernel.launch(placed.launch.grid, *placed.arguments)
    return placed.wrong()


@pytest.mark.parametrize("case", NATIVE, ids=str)
def test_a_cubin_computes_what_numpy_does(case, hopper):
    kernel = trlaunch.Kernel.from_file(case.path("cubin"))
    assert launched(kernel, case) == ""
    assert launched(kernel, case) == ""  # nothing is left behind in scratch memory or cached descriptors


def test_a_folder_of_tritons_cache_is_launched_by_name(hopper):
    case = corpus.find("3.6.0", "cuda:90", "softmax_kernel")
    placed = put(launch_of(case), case)
    kernel = trlaunch.Kernel.from_cache(case.folder)
    names = [p.name for p in case.params]
    kernel.launch(placed.launch.grid, **dict(zip(names, placed.arguments, strict=True)))
    assert placed.wrong() == ""


@pytest.mark.parametrize("case", NATIVE, ids=str)
def test_ptx_for_this_gpu_is_assembled_and_right_or_refused_by_name(case, driver, hopper):
    check_ptx(case, driver, Target.parse("cuda:90a"))


@pytest.mark.parametrize("case", OLDER, ids=str)
def test_ptx_of_an_older_gpu_is_assembled_for_this_one(case, driver):
    check_ptx(case, driver, driver.properties(0).target)


def check_ptx(case, driver, target):
    """With a ptxas that reads this PTX, or a driver that does, the result is right; else the launch is refused."""
    version = ptx_version(case.text("ptx"))
    old = strides_in_16_bytes(case.text("ptx"))
    driver_version = driver.properties(0).driver_version
    kernel = trlaunch.Kernel.from_file(case.path("ptx"))
    try:
        choose(version, target, driver_version, newest=(12, 4) if old else None)
    except AssemblerMissing:
        if old:
            with pytest.raises(AssemblerMissing, match="it divides tensormap strides by 16"):
                launched(kernel, case)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", trlaunch.FallbackWarning)
            if version > (ptx_isa(driver_version) or version):
                with pytest.raises(trlaunch.CheckError, match="ptx-version"):
                    launched(kernel, case)
            elif any(param.is_tensor_map for param in kernel.signature.params):
                with pytest.raises(trlaunch.CheckError, match="parameters: the driver would compile this PTX"):
                    launched(kernel, case)
            else:
                assert launched(kernel, case) == ""
    else:
        assert launched(kernel, case) == ""
