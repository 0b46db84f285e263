"""Plans for AMD: generated and explaining launches do the same, over the fake libamdhip64.

The cases are those of `tests.test_launching`, said for HIP by `tests.hip.as_cuda`, and what HIP alone has.
"""

from __future__ import annotations

import pytest

from tests.fakehip import FakeHip
from tests.hip.as_cuda import AsCuda
from tests.hip.test_launch_bytes import DEVICES
from tests.launcher import build_launcher
from tests.test_hooks import test_every_way_to_launch_passes_the_hooks_and_keeps_its_plan  # noqa: F401
from tests.test_launching import (  # noqa: F401  (tests, run over the fixtures below)
    EXPLAIN,
    SETUP,
    TORCH,
    Mode,
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


@pytest.fixture
def mode() -> Mode:
    return Mode("python", "1")


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


def test_the_native_launcher_leaves_them_to_the_explaining_path(fakehip, tmp_path):
    native = Mode("native", "0", f"import trlaunch\ntrlaunch.__path__.insert(0, {str(build_launcher(tmp_path))!r})\n")
    script = """
assert launching.MODE in ("native", "explain")
primary(0)
for name in ("add_kernel", "cooperative_kernel", "matmul_kernel"):
    case = find("3.6.0", "cuda:90", name)
    kernel = Kernel.from_file(case.path("cubin"))
    values = [array(BASE) if p.type.startswith("*") else p.value for p in case.params]
    bound = kernel.bind(grid=4)
    for _ in range(3):
        attempt(kernel, 4, *values)
        attempt(bound, *values)
        attempt(kernel, 4, *values[:-1])
"""
    _, long, short = hip_same(fakehip, native, script)
    assert long == short == 27


def test_what_a_native_plan_would_need_is_there(fakehip):
    recorded = fakehip.run(
        """
import ctypes, json, struct
from trlaunch import Kernel, Pointer
from trlaunch.hip.direct import DirectLaunch
from trlaunch.driver import LaunchConfig
from trlaunch.hip.image import read_image
from tests.corpus_hip import find
from tests.fakehip.inside import driver, hip

d = driver()
hip("hipSetDevice", 1)
case = find("3.6.0", "hip:gfx942", "matmul_kernel")
function = d.load(read_image(case.bytes("hsaco")), case.kernel, 1)
direct = DirectLaunch(d, function, LaunchConfig((4, 6, 1), (256, 1, 1), shared=8192, stream=3), 64)
at = direct.addresses
found = ctypes.c_int(-1)
assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(at.identify)(ctypes.addressof(found)) == 0
assert found.value == direct.current() == direct.primary == 1

# The owner of memory, as the native launcher asks cuPointerGetAttributes.
memory = d.allocate(64, 1)
kind, ordinal = ctypes.c_uint(), ctypes.c_int()
values = (ctypes.c_void_p * 2)(ctypes.addressof(kind), ctypes.addressof(ordinal))
ask = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)(at.owner)
for address in (memory, 64):
    assert ask(2, ctypes.addressof((ctypes.c_int * 2)(2, 9)), ctypes.addressof(values), address) == 0
    assert bool(kind.value) == (address == memory) == direct.owns(1)(address)
    assert not direct.owns(0)(address)

# A launch by addresses alone.
template, grid, stream = direct.template(), direct.grid_offset, direct.stream_offset
block = struct.unpack_from("3I", template, 12)
(shared,) = struct.unpack_from("I", template, 24)
assert struct.unpack_from("Q", template, stream) == (0,) and struct.unpack_from("3I", template, grid) == (4, 6, 1)
buffer = ctypes.create_string_buffer(bytes(range(64)), 64)
parameters = (ctypes.c_void_p * len(direct.offsets))(*(ctypes.addressof(buffer) + o for o in direct.offsets))
prototype = (ctypes.c_int, ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
launch = ctypes.CFUNCTYPE(*prototype)(getattr(at, "launch"))
assert launch(direct.entries()[1], 2, 3, 4, *block, shared, None, ctypes.addressof(parameters), None) == 0
print(json.dumps([direct.call, direct.native, bool(at.cooperative), bool(at.clusters), at.encode, at.push == at.pop]))
print(len(direct.offsets))
""",
        devices=DEVICES[1:2] * 2,
    )
    first, second = recorded.stdout.splitlines()
    assert first == '["hipModuleLaunchKernel", false, true, true, 0, true]'
    assert second == "11"
    launch = recorded.only("hipModuleLaunchKernel")
    assert (launch["grid"], launch["block"], launch["shared"]) == ([2, 3, 4], [256, 1, 1], 8192)
    assert (launch["device"], launch["misaligned"], launch.status) == (1, 0, 0)
    assert bytes.fromhex(launch["kernarg"]) == bytes(range(64))
