"""What the driver says of a kernel against what its image says, and the limit of shared memory."""

from __future__ import annotations

import numpy as np
import pytest

import trlaunch
from tests import corpus
from tests.gpu.bindings import cuda
from tests.gpu.bindings import driver as bindings
from tests.gpu.launches import launch_of, put

pytestmark = pytest.mark.gpu

NATIVE = corpus.cases(target="cuda:90")

# Writes backwards what each thread put into shared memory, 1,024 static bytes of it and `bytes` dynamic ones.
STATIC = """
.version 7.8
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry reverse(.param .u64 out, .param .u32 bytes)
.reqntid 256, 1, 1
{
    .shared .align 4 .b8 own[1024];
    .reg .b32 %r<12>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [bytes];
    mov.u32 %r2, %tid.x;
    shl.b32 %r3, %r2, 2;
    mov.u32 %r4, own;
    add.s32 %r5, %r4, %r3;
    st.shared.u32 [%r5], %r2;
    mov.u32 %r6, dynamic;
    add.s32 %r6, %r6, %r1;
    sub.s32 %r7, %r6, %r3;
    st.shared.u32 [%r7+-4], %r2;
    bar.sync 0;
    xor.b32 %r8, %r3, 1020;
    add.s32 %r9, %r4, %r8;
    ld.shared.u32 %r10, [%r9];
    sub.s32 %r7, %r6, %r8;
    ld.shared.u32 %r11, [%r7+-4];
    mad.lo.s32 %r10, %r10, 1000, %r11;
    cvt.u64.u32 %rd2, %r3;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r10;
    ret;
}
"""


@pytest.mark.parametrize("case", NATIVE, ids=str)
def test_registers_and_memory_are_what_the_cubin_says(case, hopper):
    kernel = trlaunch.Kernel.from_file(case.path("cubin"))
    resources, entry = kernel.resources(), kernel.entry
    assert resources.registers == entry.registers
    assert resources.local_bytes == entry.local_bytes
    # Whether the driver counts the bytes it keeps for itself is its own affair; nothing else may differ.
    assert resources.static_shared in (entry.static_shared, entry.static_shared - entry.reserved_shared)
    assert resources.dynamic_shared == case.metadata["shared"]
    assert resources.threads == case.metadata["num_warps"] * 32
    assert resources.ctas_per_multiprocessor is not None
    assert 1 <= resources.ctas_per_multiprocessor <= 32


def test_what_the_driver_counts_as_static_shared_memory(driver, hopper, report):
    attribute = bindings.CUdevice_attribute
    names = (
        "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
        "RESERVED_SHARED_MEMORY_PER_BLOCK",
        "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR",
    )
    limits = [cuda("cuDeviceGetAttribute", getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), 0) for name in names]
    report("shared memory of cuda:0: " + ", ".join(f"{n} {v}" for n, v in zip(names, limits, strict=True)))
    seen = {}
    for case in NATIVE:
        kernel = trlaunch.Kernel.from_file(case.path("cubin"))
        seen.setdefault(
            (kernel.resources().static_shared, kernel.entry.static_shared, kernel.entry.reserved_shared), case
        )
    for (said, static, reserved), case in seen.items():
        report(
            f"static shared memory: the driver says {said}, the cubin {static} with {reserved} reserved ({case}, ...)"
        )
    assert limits[0] == driver.properties(0).max_shared_optin


def test_a_launch_with_all_the_shared_memory_there_is(driver, hopper):
    case = corpus.find("3.6.0", "cuda:90", "matmul_kernel")
    most = driver.properties(0).max_shared_optin
    placed = put(launch_of(case), case)
    kernel = trlaunch.Kernel.from_file(case.path("cubin"), shared=most)
    assert kernel.check(placed.launch.grid).ok
    kernel.launch(placed.launch.grid, *placed.arguments)
    assert placed.wrong() == ""
    assert kernel.resources().ctas_per_multiprocessor == 1


def test_one_byte_more_is_refused_and_the_driver_would_refuse_it_too(driver, hopper):
    case = corpus.find("3.6.0", "cuda:90", "matmul_kernel")
    more = driver.properties(0).max_shared_optin + 1
    placed = put(launch_of(case), case)
    with pytest.raises(trlaunch.CheckError, match=f"{more} bytes of shared memory a block"):
        trlaunch.Kernel.from_file(case.path("cubin"), shared=more).launch(placed.launch.grid, *placed.arguments)
    lenient = trlaunch.Kernel.from_file(case.path("cubin"), shared=more, check="warn")
    with pytest.warns(trlaunch.CheckWarning), pytest.raises(trlaunch.DriverError, match="INVALID_VALUE"):
        lenient.launch(placed.launch.grid, *placed.arguments)


def reverse(shared, check="error"):
    return trlaunch.Kernel.from_bytes(
        STATIC, {"num_warps": 8}, shared=shared, signature=["*i32", "i32"], device="cuda:0", check=check
    )


def test_static_shared_memory_counts_against_the_limit(driver):
    most = driver.properties(0).max_shared_optin - 1024
    out = trlaunch.empty(256, "i32", "cuda:0")
    reverse(most).launch(1, out, most)
    np.testing.assert_array_equal(out.numpy(), np.arange(256)[::-1] * 1001)
    with pytest.raises(trlaunch.CheckError, match=rf"{most + 1} bytes dynamic \+ 1024 static"):
        reverse(most + 1).launch(1, out, most + 1)
    with pytest.warns(trlaunch.CheckWarning), pytest.raises(trlaunch.DriverError, match="INVALID_VALUE"):
        reverse(most + 1, "warn").launch(1, out, most + 1)
