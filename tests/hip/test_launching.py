"""Plans for AMD: native, generated and explaining launches do the same, over the fake libamdhip64.

The cases are those of `tests.test_launching`, said for HIP by `tests.hip.as_cuda`, and what HIP alone has.
"""

# ruff: noqa: F811  (fixtures that are imported)

from __future__ import annotations

import pytest

from tests.fakehip import FakeHip
from tests.hip.as_cuda import AsCuda
from tests.test_hooks import test_every_way_to_launch_passes_the_hooks_and_keeps_its_plan  # noqa: F401
from tests.test_launching import (  # noqa: F401  (tests, run over the fixtures below)
    EXPLAIN,
    SETUP,
    TORCH,
    mode,
    same,
    test_a_kernel_is_unloaded_with_its_last_reference,
    test_arrays_with_the_cuda_array_interface,
    test_every_device_and_context,
    test_scalars_of_every_type,
    test_scratch_is_allocated_and_given_back_around_each_launch,
    test_statuses_of_the_driver_are_raised_alike,
    test_threads_share_a_kernel,
    test_torch_tensors_are_checked_and_bring_their_stream,
    test_whatever_is_wrong_is_explained_alike,
)


@pytest.fixture
def fakecuda(fakehip: FakeHip) -> AsCuda:
    return AsCuda(fakehip, TORCH)


def hip_same(fakehip, mode, script, **options):
    """As `same`, of a script that speaks of HIP."""
    return same(AsCuda(fakehip, TORCH), mode, script, **options)


def test_each_of_the_calls_that_launch(fakehip, mode):
    """Cooperative grids, clusters (where hip-python has them), and what is neither."""
    script = """
primary(0)
for name in ("cooperative_kernel", "cluster_kernel", "matmul_kernel"):
    for case in cases(kernel=name, target="hip:gfx1250"):
        kernel = Kernel.from_file(case.path("hsaco"))
        values = [Pointer(BASE) if p.type.startswith("*") else p.value for p in case.params]
        for grid in ((4, 6), (4, 6), 3, (4, 6), 100000, 100000, (1, 40000)):
            attempt(kernel, grid, *values)
"""
    lines, long, short = hip_same(fakehip, mode, script, devices=(125,))
    assert short < long - 20
    assert sum(line == "None" for line in lines) > 25  # hip-python 6.4 has no clusters


def test_descriptors_in_their_parts_are_left_to_the_explaining_path(fakehip, mode):
    _, long, short = hip_same(
        fakehip,
        mode,
        """
primary(0)
for release in ("3.4.0", "3.6.0", "3.9.0"):
    kernel = Kernel.from_file(find(release, "cuda:90", "tma_matmul_kernel").path("cubin"))
    values = [TensorDescriptor(TorchLike(BASE, (512, 512), "float16", "hip:0"), block_shape=[64, 64])] * 3
    for _ in range(3):
        attempt(kernel, 4, *values, 512, 512, 512)
        attempt(kernel, 4, *values[:2], None, 512, 512, 512)
""",
    )
    assert long == short == 18


def test_a_grid_beyond_32_bits_of_work_items_is_left_to_the_audit(fakehip, mode):
    lines, _, short = hip_same(
        fakehip,
        mode,
        """
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "matmul_kernel").path("cubin"))
values = [Pointer(BASE)] * 3 + [512] * 6
for grid in (1, 2**24 - 1, 2**24, (1, 65536), (1, 65537), 2**24 - 1):
    attempt(kernel, grid, *values)
""",
    )
    assert [line.partition(" ")[0] for line in lines] == ["None", "None", "CheckError", "None", "CheckError", "None"]
    assert "HIP counts them in 32 bits" in lines[2]
    assert short == 3


def test_statuses_that_no_one_knows_and_those_of_every_call(fakehip, mode):
    lines, long, short = hip_same(
        fakehip,
        mode,
        """
from hip import hip as bindings
primary(0)
for name in ("add_kernel", "cooperative_kernel"):
    case = find("3.6.0", "cuda:90", name)
    kernel = Kernel.from_file(case.path("cubin"))
    values = [Pointer(BASE) if p.type.startswith("*") else p.value for p in case.params]
    for status in (0, 719, 4242):
        for call in ("cuLaunchKernelEx", "cuCtxGetId"):
            fail(call, status)
            attempt(kernel, 4, *values)
            print("left behind:", int(bindings.hipGetLastError()[0]))
            fail(call, 0)
""",
    )
    assert sum(line.startswith("DriverError") for line in lines) == 8
    assert sum("hipError_4242 (4242: a status that this hip-python does not know" in line for line in lines) == 4
    assert {line for line in lines if line.startswith("left behind")} == {"left behind: 0"}
    assert (long, short) == (12, 2)


def test_a_failure_that_passes_is_raised_and_not_left_behind(fakehip, mode):
    lines, _, _ = hip_same(
        fakehip,
        mode,
        """
from hip import hip as bindings
from tests.fakehip.inside import fail as fail_once
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
for n in (0, 1):
    arrays = [array(BASE + 4096 * i, f"hip:{n}") for i in range(3)]
    attempt(kernel, 4, *arrays, 1024)
    for call in ("hipGet" + "Device", "hipSetDevice"):
        fail_once(call, 101, 1)
        attempt(kernel, 4, *arrays, 1024)
        fail_once(call, 0)
        print("left behind:", int(bindings.hipGetLastError()[0]))
""",
        devices=(90, 90),
    )
    assert sum("(101: " in line for line in lines) == 3  # no device is set where it is the thread's own
    assert {line for line in lines if line.startswith("left behind")} == {"left behind: 0"}


def test_a_launch_elsewhere_sets_the_device_and_sets_it_back(fakehip, mode):
    script = """
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
arrays = [array(BASE + 4096 * i, "hip:1") for i in range(3)]
for _ in range(3):
    kernel.launch(4, *arrays, 1024)
print(explained)
"""
    for each, count in ((EXPLAIN, 3), (mode, 1)):
        recorded = AsCuda(fakehip, TORCH).run(each.prefix + SETUP + script, env=each.env)
        assert recorded.stdout == f"{count}\n"
        assert [c.name for c in recorded.calls if c.name in ("hipSetDevice", "cuLaunchKernelEx")][-9:] == [
            "hipSetDevice", "cuLaunchKernelEx", "hipSetDevice",
        ] * 3  # fmt: skip
        assert [c["device"] for c in recorded.of("cuLaunchKernelEx")] == [1] * 3
        assert recorded.calls[-1]["wanted"] == 0


def test_torch_for_another_vendor_is_no_torch_for_amd(fakehip, mode):
    """A CUDA build of torch beside an AMD GPU: its tensors are on cuda:0, which is not hip:0."""
    recorded = {}
    for each in (EXPLAIN, mode):
        script = """
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
arrays = [array(BASE + 4096 * i) for i in range(3)]
tensor = Tensor(BASE)
tensor.device = types.SimpleNamespace(type="cu" + "da", index=0)
torch.version = types.SimpleNamespace(hip=None)
for _ in range(3):
    attempt(kernel, 4, *arrays, 1024)
    attempt(kernel, 4, arrays[0], tensor, arrays[2], 1024)
"""
        recorded[each.name] = AsCuda(fakehip, TORCH).run(each.prefix + SETUP + TORCH + script, env=each.env).stdout
    assert recorded["explain"] == recorded[mode.name]
    assert recorded["explain"].count("expected a tensor on hip:0") == 3
