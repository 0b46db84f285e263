"""Where parameters lie: what a cubin says against what the driver says, above all about tensor descriptors."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import trlaunch
from tests import corpus
from tests.gpu.bindings import cuda, status
from tests.gpu.bindings import driver as bindings
from tests.gpu.launches import launch_of, put
from trlaunch.cuda.assembler import ptx_isa, ptx_version

pytestmark = pytest.mark.gpu

BY_VALUE = [case for case in corpus.cases(target="cuda:90", kernel="tma_matmul_kernel") if case.version >= (3, 2)]


def said_by_driver(data, name, count):
    """Offset and size of each parameter, as the driver has them for a loaded module."""
    module = cuda("cuModuleLoadData", data)
    function = cuda("cuModuleGetFunction", module, name.encode())
    layout = [tuple(map(int, cuda("cuFuncGetParamInfo", function, i))) for i in range(count)]
    assert status("cuFuncGetParamInfo", function, count), "the driver knows of one more parameter"
    cuda("cuModuleUnload", module)
    return layout


@pytest.mark.parametrize("case", corpus.cases(target="cuda:90"), ids=str)
def test_every_parameter_is_where_the_driver_has_it(case, context, hopper):
    params = trlaunch.Kernel.from_file(case.path("cubin")).signature.params
    found = said_by_driver(case.bytes("cubin"), case.kernel, len(params))
    assert found == [(p.offset, p.size) for p in params]


def test_where_the_drivers_compiler_puts_a_tensor_map(context, driver, hopper, report):
    """PTX does not say: the reason why such PTX is refused where there is no ptxas."""
    newest = ptx_isa(driver.properties(0).driver_version)
    for case in BY_VALUE:
        text = case.bytes("ptx")
        if newest is None or ptx_version(text.decode()) <= newest:
            count = len(trlaunch.Kernel.from_file(case.path("ptx")).signature.params)
            layout = said_by_driver(text + b"\0", case.kernel, count)
            assert layout[0][1] == 128
            report(f"{case}: the driver's compiler puts the first tensor map at byte {layout[0][0]}")


@pytest.mark.parametrize("case", BY_VALUE, ids=str)
def test_the_buffer_laid_out_as_the_cubin_says_is_what_the_driver_makes_of_single_arguments(
    case, context, driver, hopper, report, monkeypatch
):
    kernel = trlaunch.Kernel.from_file(case.path("cubin"))
    original, seen = driver.launch, []
    monkeypatch.setattr(type(driver), "launch", lambda _, *given: (seen.append(given), original(*given)))
    placed = put(launch_of(case), case)
    kernel.launch(placed.launch.grid, *placed.arguments)
    assert placed.wrong() == ""
    ((_, config, packed),) = seen

    # The same values through kernelParams, where the driver itself knows where each one goes.
    cuda("cuMemsetD8", placed.arrays[2].address, 0, placed.arrays[2].nbytes)
    module = cuda("cuModuleLoadData", case.bytes("cubin"))
    function = cuda("cuModuleGetFunction", module, kernel.name.encode())
    opt_in = bindings.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    cuda("cuFuncSetAttribute", function, opt_in, config.shared)
    params = kernel.signature.params
    values = [ctypes.create_string_buffer(packed.data[p.offset : p.offset + p.size], p.size) for p in params]
    pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    cuda("cuLaunchKernel", function, *config.grid, *config.block, config.shared, 0, ctypes.addressof(pointers), 0)
    cuda("cuCtxSynchronize")
    assert placed.wrong() == ""
    cuda("cuModuleUnload", module)
    report(f"{case}: the cubin has the first tensor map at byte {params[0].offset} of {kernel.signature.param_bytes}")


def test_reads_outside_the_tensor_give_zero(hopper):
    case = corpus.find("3.6.0", "cuda:90", "tma_matmul_kernel")
    n, inner = 512, 448  # the last block along K lies wholly outside the left operand
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 8, (n, n)).astype(np.float16) for _ in range(2))
    left, right, out = (trlaunch.asarray(matrix) for matrix in (a, b, np.zeros_like(a)))
    block = (64, 64)
    descriptors = [
        trlaunch.TensorDescriptor(left, (n, inner), (n, 1), block),
        trlaunch.TensorDescriptor(right, block_shape=block),
        trlaunch.TensorDescriptor(out, block_shape=block),
    ]
    trlaunch.Kernel.from_file(case.path("cubin")).launch((8, 8), *descriptors, n, n, n)
    product = a[:, :inner].astype(np.float64) @ b[:inner].astype(np.float64)
    np.testing.assert_allclose(out.numpy(), product, rtol=2**-10)
