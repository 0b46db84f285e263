"""The HIP driver over the fake runtime: devices, modules, memory, streams, and every way to have none."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.fakehip import FakeHip
from tests.hip.test_launch_bytes import DEVICES

TWO = ("gfx942:sramecc+:xnack-", "gfx1100")
SETUP = """
import json, gc
import trlaunch
from trlaunch.driver import LaunchConfig, PackedArguments
from trlaunch.hip.image import read_image
from tests.corpus_hip import find
from tests.fakehip.inside import driver, hip

def image(release="3.6.0", target="hip:gfx942", kernel="add_kernel"):
    return read_image(find(release, target, kernel).bytes("hsaco"))

def refused(action):
    try:
        action()
    except trlaunch.TrlaunchError as error:
        print(type(error).__name__, error)
    else:
        print("nothing refused")

ARGUMENTS = PackedArguments(bytes(48))
CONFIG = LaunchConfig((2, 1, 1), (256, 1, 1))
"""


def run(fakehip: FakeHip, script: str, **options):
    return fakehip.run(SETUP + script, **{"devices": TWO, **options})


# --- none ------------------------------------------------------------------------------------------------------------


def test_missing_library_says_where_it_was_looked_for(fakehip, tmp_path):
    found = run(fakehip, "refused(driver)", found=False, env={"ROCM_PATH": str(tmp_path)})
    assert found.stdout.startswith("DeviceUnavailable libamdhip64.so could not be used: it was looked for in")
    assert "ROCM_PATH" in found.stdout
    assert "/opt/rocm" in found.stdout
    assert "cannot open shared object file" in found.stdout
    assert "/dev/kfd" in found.stdout or "amdgpu driver is loaded" in found.stdout


def test_library_without_development_files_is_found_by_its_version(fakehip, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libamdhip64.so.6").write_bytes(b"not a library")
    shutil.copy(fakehip.folder / "libamdhip64.so", tmp_path / "lib" / "libamdhip64.so.7")
    found = run(fakehip, "print(driver().device_count())", found=False, env={"ROCM_PATH": str(tmp_path)})
    assert found.stdout == "2\n"


def test_library_that_is_loaded_already_is_the_one_that_is_used(fakehip, tmp_path):
    """As torch's is: under another name, in a folder where nobody looks."""
    copy = tmp_path / "libamdhip64.so.9"
    shutil.copy(fakehip.folder / "libamdhip64.so", copy)
    found = run(
        fakehip,
        f"""
import ctypes
own = ctypes.CDLL({str(copy)!r})
driver()
hip("hipSetDevice", 1)
found = ctypes.c_int(-1)
own.hipGetDevice(ctypes.byref(found))
with open("/proc/self/maps") as maps:
    print(found.value, sum("libamdhip64" in line and "r-xp" in line for line in maps))
""",
    )
    assert found.stdout == "1 1\n"


def test_missing_hip_python_is_told_with_the_way_out(fakehip):
    found = run(fakehip, "import sys\nsys.modules['hip'] = None\nrefused(driver)")
    assert 'pip install "trlaunch[hip]"' in found.stdout
    assert found.stdout.startswith("DeviceUnavailable the HIP driver needs hip-python")


@pytest.mark.parametrize("status, words", [(100, "hipErrorNoDevice"), (101, "HIP_VISIBLE_DEVICES='7'")])
def test_no_device_says_so_with_the_variables_that_hide_devices(fakehip, status, words):
    found = run(fakehip, "refused(driver)", fail={"hipInit": status}, env={"HIP_VISIBLE_DEVICES": "7"})
    assert found.stdout.startswith("DeviceUnavailable no HIP device can be used: hipInit returned")
    assert words in found.stdout


def test_old_runtime_is_refused_by_version(fakehip):
    found = run(fakehip, "refused(driver)", version=50221153)
    assert "libamdhip64 is of HIP 5.2, and trlaunch needs 6.0 or newer" in found.stdout


def test_device_that_is_not_there_is_named(fakehip):
    found = run(fakehip, "refused(lambda: driver().properties(2))\nrefused(lambda: driver().allocate(1, 5))")
    assert "there is no hip:2: the runtime has 2 devices, hip:0 to hip:1" in found.stdout
    assert "there is no hip:5" in found.stdout


# --- devices ---------------------------------------------------------------------------------------------------------


def test_properties_of_every_architecture(fakehip):
    found = run(
        fakehip,
        """
for n in range(driver().device_count()):
    p = driver().properties(n)
    print(json.dumps([str(p.target), p.target.warp_size, p.max_shared, p.supports_clusters, p.name, p.max_grid]))
""",
        devices=DEVICES,
    )
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row[0] for row in rows] == [f"hip:{name}" for name in DEVICES]
    assert [row[1] for row in rows] == [64, 64, 64, 32, 32, 32]
    assert [row[2] for row in rows] == [65536, 65536, 163840, 65536, 65536, 327680]
    assert [row[3] for row in rows] == [False] * 5 + [True]
    assert rows[0][4:] == ["Fake gfx90a", [2147483647, 65536, 65536]]


def test_device_of_the_thread_is_current_again_behind_every_call(fakehip):
    recorded = run(
        fakehip,
        """
d = driver()
hip("hipSetDevice", 1)
f = d.load(image(), "add_kernel", 0)
d.launch(f, CONFIG, ARGUMENTS)
at = d.allocate(64, 0)
d.synchronize(0)
d.free(at, 0)
print(d.current_device(), d.resources(f)["max_threads"], d.occupancy(f, CONFIG), d.current_device())
refused(lambda: d.launch(f, LaunchConfig((0, 1, 1), (256, 1, 1)), ARGUMENTS))
print(d.current_device())
""",
    )
    lines = recorded.stdout.splitlines()
    assert lines[0] == "1 256 8 1"
    assert lines[1].startswith("DriverError hipModuleLaunchKernel returned hipErrorInvalidValue (1:")
    assert lines[-1] == "1"
    assert recorded.of("hipModuleLaunchKernel")[0]["device"] == 0
    assert all(
        c["device"] == 0 for c in recorded.of("hipModuleLoadData", "hipMalloc", "hipFree", "hipStreamSynchronize")
    )


def test_a_launch_on_the_current_device_asks_for_it_and_nothing_else(fakehip):
    recorded = run(
        fakehip,
        "d = driver()\nf = d.load(image(), 'add_kernel', 0)\nfor _ in range(3):\n    d.launch(f, CONFIG, ARGUMENTS)",
    )
    names = recorded.names()
    assert names[-6:] == ["hipGetDevice", "hipModuleLaunchKernel"] * 3
    assert names[-7] == "hipModuleGetFunction"


def test_same_bytes_are_loaded_once_a_device_and_unloaded_with_the_last_function(fakehip):
    recorded = run(
        fakehip,
        """
d = driver()
one, two = d.load(image(), "add_kernel", 0), d.load(image(), "add_kernel", 0)
assert one.handle is two.handle
other = d.load(image(target="hip:gfx1100"), "add_kernel", 1)
del one
gc.collect()
print("kept")
d.launch(two, CONFIG, ARGUMENTS)
del two
gc.collect()
d.synchronize(0)
""",
    )
    assert len(recorded.of("hipModuleLoadData")) == 2
    unloaded = recorded.only("hipModuleUnload")
    assert unloaded["module"] == recorded.of("hipModuleLoadData")[0]["module"]
    assert recorded.names().index("hipModuleUnload") > recorded.names().index("hipModuleLaunchKernel")


def test_image_for_another_device_or_setting_is_refused_by_the_runtime_with_advice(fakehip):
    found = run(
        fakehip,
        """
refused(lambda: driver().load(image(), "add_kernel", 1))
import dataclasses
data = bytearray(image().data)
data[49] = 0x07  # xnack on
refused(lambda: driver().load(dataclasses.replace(image(), data=bytes(data)), "add_kernel", 0))
refused(lambda: driver().load(dataclasses.replace(image(), format="cubin"), "add_kernel", 0))
refused(lambda: driver().load(image(), "sub_kernel", 0))
""",
    )
    first, second, third, fourth = (
        line for line in found.stdout.splitlines() if line.startswith(("DriverError", "ImageError"))
    )
    assert "hipErrorNoBinaryForGpu (209: no kernel image is available for execution on the device)" in first
    assert "the image is for another architecture, or for other xnack or sramecc settings, than the device" in first
    assert "209" in second
    assert third == "ImageError the HIP driver loads an hsaco, and this image is cubin"
    assert "no kernel 'sub_kernel' in this hsaco" in fourth


# --- statuses --------------------------------------------------------------------------------------------------------


def test_failure_names_call_status_and_launch_and_leaves_no_last_error(fakehip):
    found = run(
        fakehip,
        """
from hip import hip as bindings
d = driver()
f = d.load(image(), "add_kernel", 0)
refused(lambda: d.launch(f, CONFIG, ARGUMENTS))
refused(lambda: d.allocate(2**41, 0))
print(d.device_of_pointer(0x1234))
print(int(bindings.hipGetLastError()[0]))
""",
        fail={"hipModuleLaunchKernel": (719, 1)},
    )
    assert "DriverError hipModuleLaunchKernel returned hipErrorLaunchFailure (719:" in found.stdout
    assert "AMD_SERIALIZE_KERNEL=3 reports it at the launch that failed" in found.stdout
    assert "launching 'add_kernel' on hip:0 with LaunchConfig(grid=(2, 1, 1)" in found.stdout
    assert "hipMalloc returned hipErrorOutOfMemory (2:" in found.stdout
    assert "allocating 2199023255552 bytes on hip:0" in found.stdout
    assert found.stdout.splitlines()[-2:] == ["None", "0"]


def test_status_that_hip_python_does_not_know_is_reported_by_number(fakehip):
    found = run(
        fakehip,
        """
d = driver()
f = d.load(image(), "add_kernel", 0)
refused(lambda: d.launch(f, CONFIG, ARGUMENTS))
refused(lambda: d.synchronize(0))
""",
        fail={"hipModuleLaunchKernel": 4242, "hipStreamSynchronize": 4243},
    )
    assert (
        "hipModuleLaunchKernel returned hipError_4242 (4242: a status that this hip-python does not know"
        in found.stdout
    )
    assert "hipStreamSynchronize returned hipError_4243" in found.stdout


def test_numbers_out_of_range_are_argument_errors(fakehip):
    found = run(
        fakehip,
        """
d = driver()
f = d.load(image(), "add_kernel", 0)
refused(lambda: d.launch(f, LaunchConfig((2**32, 1, 1), (256, 1, 1)), ARGUMENTS))
refused(lambda: d.launch(f, LaunchConfig((1, 1, 1), (256, 1, 1), pdl=True), ARGUMENTS))
refused(lambda: d.launch(f, LaunchConfig((2**33, 1, 1), (256, 1, 1), cluster=(2, 1, 1)), ARGUMENTS))
refused(lambda: d.allocate(-1, 0))
refused(lambda: d.allocate_scratch(8, 3, 0, 0))
refused(lambda: d.encode_tensor_map(element_type=6, address=0, shape=(1,), strides=(), box=(1,), swizzle=0,
                                    nan_fill=False, ordinal=0))
""",
    )
    lines = found.stdout.splitlines()
    assert lines[0].startswith("ArgumentError a number in LaunchConfig(grid=(4294967296, 1, 1)")
    assert lines[1].endswith("add_kernel: HIP has no programmatic dependent launch (launch_pdl)")
    assert lines[2].startswith(("ArgumentError a number in", "DeviceUnavailable a launch in clusters"))
    assert lines[3] == "ArgumentError cannot allocate -1 bytes"
    assert lines[4].startswith("ArgumentError cannot allocate 8 bytes of scratch aligned to 3")
    assert lines[5].startswith("ArgumentError hip:0 has no tensor maps")


# --- memory and streams ----------------------------------------------------------------------------------------------


def test_memory_makes_the_round_trip_and_is_given_back(fakehip):
    recorded = run(
        fakehip,
        """
import numpy as np
a = trlaunch.asarray(np.arange(7, dtype=np.float32), device="hip:1")
print(a.numpy().tolist(), a.device, driver().device_of_pointer(a.address + 27), a.__dlpack_device__())
refused(lambda: driver().copy_to_host(memoryview(b"read-only"), a.address, 1))
driver().clear(a.address, 4 * 7, 1, 0)
print(a.numpy().sum(), hasattr(a, "__cuda_array_interface__"))
del a
""",
    )
    lines = recorded.stdout.splitlines()
    assert lines[0] == "[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0] hip:1 1 (10, 1)"
    assert lines[1] == "ArgumentError cannot copy from the device into read-only memory"
    assert lines[2] == "0.0 False"
    assert recorded.only("hipFree")["address"] == recorded.only("hipMalloc")["address"]


def test_scratch_comes_from_one_pool_a_device_that_keeps_its_memory(fakehip):
    recorded = run(
        fakehip,
        """
d = driver()
for ordinal in (0, 1, 1):
    at = d.allocate_scratch(100, 64, ordinal, 0)
    d.free_scratch(at, ordinal, 0)
""",
    )
    pools = recorded.of("hipMemPoolCreate")
    assert [(p["type"], p["location_type"], p["location"]) for p in pools] == [(1, 1, 0), (1, 1, 1)]
    assert [c["value"] for c in recorded.of("hipMemPoolSetAttribute")] == [2**64 - 1] * 2
    assert [c["device"] for c in recorded.of("hipMallocFromPoolAsync")] == [0, 1, 1]


def test_streams_wait_through_an_event_that_is_destroyed(fakehip):
    recorded = run(
        fakehip,
        """
import trlaunch.streams
d = driver()
one, two = hip("hipStreamCreate"), hip("hipStreamCreate")
print(json.dumps([trlaunch.streams.handle(one), int(one), int(two)]))
d.wait_for_stream(0, int(one), int(two))
d.wait_for_stream(0, int(one), int(one))
d.synchronize(0, int(one))
refused(lambda: d.synchronize(1, int(one)))
""",
    )
    handle, one, two = json.loads(recorded.stdout.splitlines()[0])
    assert handle == one
    created = recorded.only("hipEventCreateWithFlags")
    assert created["flags"] == 2
    assert recorded.only("hipEventRecord")["stream"] == two
    assert recorded.only("hipStreamWaitEvent")["stream"] == one
    assert recorded.only("hipEventDestroy")["event"] == created["event"]
    assert "check which device the stream belongs to" in recorded.stdout


def test_launches_from_many_threads_keep_their_bytes_apart(fakehip):
    recorded = run(
        fakehip,
        """
import threading
d = driver()
f = d.load(image(), "add_kernel", 0)
def work(n):
    for i in range(20):
        d.launch(f, LaunchConfig((n + 1, i + 1, 1), (256, 1, 1)), PackedArguments(bytes([n, i] * 24)))
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
""",
    )
    launches = recorded.of("hipModuleLaunchKernel")
    assert len(launches) == 160
    for launch in launches:
        n, i = launch["grid"][0] - 1, launch["grid"][1] - 1
        kernarg = bytes.fromhex(launch["kernarg"])
        expected = bytes([n, i] * 24)
        assert kernarg[:28] == expected[:28]
        assert kernarg[28:32] == bytes(4)  # no argument lies there
        assert kernarg[32:] == expected[32:]
