"""PTX where there is no ptxas: the driver's own compiler is used, says so, and is not given what it cannot read."""

from __future__ import annotations

import pytest

import trlaunch
from tests import corpus
from tests.gpu.launches import launch_of, put
from trlaunch.cuda import assembler
from trlaunch.cuda.assembler import ptx_isa, ptx_version

pytestmark = pytest.mark.gpu

CASES = [
    case
    for target in ("cuda:80", "cuda:90")
    for name in ("add_kernel", "matmul_kernel", "tma_matmul_kernel")
    for case in corpus.cases(target=target, kernel=name)
    if name != "tma_matmul_kernel" or case.release in ("3.0.0", "3.2.0", "3.6.0", "3.9.0")
]


@pytest.fixture
def no_ptxas(monkeypatch):
    monkeypatch.setattr(assembler, "find_assemblers", list)


def refusals(kernel, version, driver):
    """Rules that must refuse PTX which the driver would compile."""
    newest = ptx_isa(driver.properties(0).driver_version)
    # PTX does not say where a CUtensorMap lies that is passed by value, and the driver's compiler is not asked.
    by_value = any(param.is_tensor_map for param in kernel.signature.params)
    too_new = newest is not None and version > newest
    return ["parameters"] * by_value + ["ptx-version"] * too_new


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_driver_compiles_it_or_the_check_says_why_not(case, no_ptxas, driver, request):
    if case.target == "cuda:90":
        request.getfixturevalue("hopper")
    placed = put(launch_of(case), case)
    kernel = trlaunch.Kernel.from_file(case.path("ptx"))
    reasons = refusals(kernel, ptx_version(case.text("ptx")), driver)
    with pytest.warns(trlaunch.FallbackWarning, match="the driver's own compiler is used"):
        report = kernel.check(placed.launch.grid)
    assert [finding.rule for finding in report.errors] == reasons
    if reasons:
        with pytest.raises(trlaunch.CheckError, match=reasons[0]):
            kernel.launch(placed.launch.grid, *placed.arguments)
    else:
        kernel.launch(placed.launch.grid, *placed.arguments)
        assert placed.wrong() == ""


def test_ptx_newer_than_the_driver_would_be_refused_by_it(no_ptxas, driver, hopper):
    """What the rule prevents, so that it is not kept longer than it is true."""
    version = driver.properties(0).driver_version
    newest = ptx_isa(version)
    newer = [case for case in corpus.cases(target="cuda:90", kernel="add_kernel") if newest]
    newer = [case for case in newer if ptx_version(case.text("ptx")) > newest]
    for case in newer:
        placed = put(launch_of(case), case)
        kernel = trlaunch.Kernel.from_file(case.path("ptx"), check="warn")
        with (
            pytest.warns((trlaunch.FallbackWarning, trlaunch.CheckWarning)),
            pytest.raises(trlaunch.DriverError, match="UNSUPPORTED_PTX_VERSION"),
        ):
            kernel.launch(placed.launch.grid, *placed.arguments)
    assert newer or version >= (13, 4), "the corpus has PTX 9.4, which CUDA 13.4 is the first to read"


def test_the_drivers_log_comes_with_its_refusal(no_ptxas, driver):
    broken = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n    call absent;\n    ret;\n}\n"
    kernel = trlaunch.Kernel.from_bytes(broken, {"num_warps": 1, "shared": 0}, signature=[], device="cuda:0")
    with pytest.warns(trlaunch.FallbackWarning), pytest.raises(trlaunch.DriverError, match=r"(?s)PTX.*absent"):
        kernel.launch(1)
