"""Kernels for AMD from file to launch: the audit, tensors of ROCm, devices, and an unmodified cache folder."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import trlaunch
from tests.corpus_hip import Case, cases, find, hidden
from tests.hip.test_launch_bytes import DEVICES, SETUP, slots
from tests.oracle import buffer
from trlaunch import ArtifactError, Kernel, SignatureError, Target
from trlaunch.check import runs_on
from trlaunch.hip.note import MACHINES, vector_registers, wave_size

MATMUL = find("3.6.0", "hip:gfx942", "matmul_kernel")


def run(fakehip, script, **options):
    return fakehip.run(SETUP + script, **{"devices": DEVICES, **options})


REFUSED = """
def refused(action):
    try:
        action()
    except trlaunch.TrlaunchError as error:
        print(type(error).__name__, " | ".join(str(error).splitlines()))
    else:
        print("nothing refused")
case = find("3.6.0", "hip:gfx942", "matmul_kernel")
values = [Pointer(BASE) if p.type.startswith("*") else p.value for p in case.params]
"""


# --- an unmodified cache folder --------------------------------------------------------------------------------------


@pytest.fixture
def cache_folder(tmp_path: Path) -> Path:
    """What Triton's cache holds of the MI300 matmul: a folder named for the metadata's hash, in base32."""
    import base64

    name = base64.b32encode(bytes.fromhex(MATMUL.metadata["hash"])).decode().rstrip("=")
    folder = tmp_path / name
    shutil.copytree(MATMUL.folder, folder, ignore=shutil.ignore_patterns("case.json"))
    files = {p.name: str(p) for p in folder.iterdir()}
    (folder / "__grp__matmul_kernel.json").write_text(json.dumps({"child_paths": files}))
    return folder


def cli(fakehip, *arguments: str, **options):
    return run(
        fakehip,
        f"import sys\nfrom trlaunch.__main__ import main\nsys.argv[1:] = {list(arguments)!r}\nmain()",
        **options,
    )


def test_mi300_matmul_of_a_cache_folder_goes_through_inspect_check_and_launch(newest_hip, cache_folder):
    shown = cli(newest_hip, "inspect", str(cache_folder), check=False)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"target\s+hip:gfx942", shown.stdout)
    assert re.search(r"wavefront\s+64 threads", shown.stdout)
    assert re.search(r"registers\s+\d+ VGPRs a thread, of them 16 AGPRs; \d+ SGPRs a wavefront", shown.stdout)
    assert re.search(r"shared\s+8192", shown.stdout)
    assert not shown.calls  # no device is asked
    checked = cli(newest_hip, "check", str(cache_folder), check=False, devices=("gfx942:sramecc+:xnack-",))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "error" not in checked.stdout
    recorded = run(
        newest_hip,
        f"""
kernel = Kernel.from_cache({str(cache_folder)!r})
M = N = K = 512
a, b, c = (trlaunch.empty((512, 512), "fp16", "hip") for _ in range(3))
kernel.launch((8, 8), a, b, c, M, N, K, 512, 512, 512)
print(kernel.device, kernel.level, kernel.resources().registers)
""",
        devices=("gfx942:sramecc+:xnack-",),
    )
    assert recorded.stdout.startswith("hip:0 hsaco ")
    launch = recorded.only("hipModuleLaunchKernel")
    addresses = [c["address"] for c in recorded.of("hipMalloc")]
    values = [struct.pack("<Q", at) for at in addresses] + [struct.pack("<i", 512)] * 6
    assert bytes.fromhex(launch["kernarg"]) == buffer(slots(MATMUL), values)
    assert (launch["grid"], launch["block"], launch["shared"]) == ([8, 8, 1], [256, 1, 1], 8192)


# --- devices ---------------------------------------------------------------------------------------------------------


def test_kernel_for_amd_without_an_amd_gpu_says_so_and_never_falls_back(newest_hip):
    recorded = run(
        newest_hip, REFUSED + "refused(lambda: Kernel.from_file(case.path('hsaco')).launch(1, *values))", devices=()
    )
    assert recorded.stdout.startswith("DeviceUnavailable no HIP device can be used")


def test_emulator_refuses_code_for_amd_by_name():
    with pytest.raises(ArtifactError, match="is for hip:gfx942 and the emulator executes PTX alone"):
        Kernel.from_file(MATMUL.path("hsaco"), device="emulator").check()


def test_default_device_is_the_amd_gpu_where_there_is_no_other(newest_hip):
    recorded = run(
        newest_hip,
        """
from trlaunch.devices import default_device
hip_driver = driver()
hip("hipSetDevice", 1)
print(default_device(), default_device("hip"), trlaunch.empty(4, "fp32").device)
""",
        env={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert recorded.stdout.split() == ["hip:1"] * 3


# --- the audit -------------------------------------------------------------------------------------------------------


def test_missing_json_is_refused_for_its_lds_unless_shared_is_given(newest_hip, tmp_path):
    shutil.copy(MATMUL.path("hsaco"), tmp_path / "k.hsaco")
    recorded = run(
        newest_hip,
        REFUSED
        + f"""
types = ["*fp16"] * 3 + ["i32"] * 6
for more in ({{}}, {{"shared": 8192}}):
    kernel = Kernel.from_file({str(tmp_path / "k.hsaco")!r}, signature=types, device="hip:1", **more)
    refused(lambda: kernel.launch(1, *values))
""",
    )
    first, second = recorded.stdout.splitlines()
    assert (
        "how much dynamic shared memory the kernel needs is stated by Triton's JSON alone, and there is none" in first
    )
    assert "give the JSON, or shared=<bytes>" in first
    assert second == "nothing refused"
    assert recorded.only("hipModuleLaunchKernel")["shared"] == 8192
    assert recorded.only("hipModuleLaunchKernel")["block"] == [256, 1, 1]


@pytest.mark.parametrize(
    "change, device, rule, words",
    [
        ({}, "hip:3", "architecture", "hip:3 (Fake gfx1100) is hip:gfx1100: it runs on gfx942"),
        ({"num_warps": 8}, "hip:1", "block", "compiled for exactly 256 (.max_flat_workgroup_size)"),
        ({"shared": 70000}, "hip:1", "shared", "70000 bytes dynamic + 0 static = 70000 bytes of shared memory a block"),
        ({"shared": 16}, "hip:1", "shared", "the TTGIR beside the hsaco allocates"),
        ({"target": {"backend": "hip", "arch": "gfx942", "warp_size": 32}}, "hip:1", "wave", "warp_size is 32"),
        ({"target": {"backend": "hip", "arch": "gfx90a", "warp_size": 64}}, "hip:1", "metadata-target", "hip:gfx90a"),
        ({"num_ctas": 2}, "hip:1", "cluster", "hip:1 (hip:gfx942:sramecc+:xnack-) has none"),
        ({"name": "other"}, "hip:1", "name", "the metadata's name is 'other'"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_by_rule(newest_hip, change, device, rule, words):
    recorded = run(
        newest_hip,
        REFUSED
        + f"""
metadata = {{**case.metadata, **{change!r}}}
kernel = Kernel.from_file(case.path("hsaco"), metadata, device={device!r})
report = kernel.check()
print(json.dumps([[f.rule, f.message] for f in report.errors]))
refused(lambda: kernel.launch(1, *values))
""",
    )
    first, second = recorded.stdout.splitlines()
    assert any(found == rule and words in message for found, message in json.loads(first)), first
    assert second.startswith("CheckError")
    assert not recorded.of("hipModuleLaunchKernel", "hipDrvLaunchKernelEx")


def test_grids_beyond_32_bits_of_work_items_are_refused(newest_hip):
    recorded = run(
        newest_hip,
        REFUSED
        + """
kernel = Kernel.from_file(case.path("hsaco"), device="hip:1")
refused(lambda: kernel.launch(2**24, *values))
refused(lambda: kernel.launch(2**24 - 1, *values))
refused(lambda: kernel.launch((1, 65537), *values))
""",
    )
    lines = recorded.stdout.splitlines()
    assert "16777216 CTAs of 256 threads are 4294967296 along x, HIP counts them in 32 bits" in lines[0]
    assert lines[1] == "nothing refused"
    assert "65537 CTAs along y, hip:1 allows 65536" in lines[2]
    assert len(recorded.of("hipModuleLaunchKernel")) == 1


@pytest.mark.parametrize(
    "code, device, reason",
    [
        ("hip:gfx90a", "hip:gfx90a:sramecc+:xnack-", None),
        ("hip:gfx90a:xnack-", "hip:gfx90a:sramecc+:xnack-", None),
        ("hip:gfx90a:xnack+", "hip:gfx90a:sramecc+:xnack-", "it needs xnack+"),
        ("hip:gfx90a:sramecc-:xnack+", "hip:gfx90a:sramecc+:xnack-", "it needs sramecc-, xnack+"),
        ("hip:gfx942", "hip:gfx90a", "it runs on gfx942 alone"),
        ("hip:gfx942", "cuda:90", "it is for hip"),
        ("cuda:90", "hip:gfx942", "it is for cuda"),
    ],
)
def test_code_objects_run_on_their_processor_and_settings(code, device, reason):
    assert runs_on(Target.parse(code), Target.parse(device)) == reason


def test_ptx_and_cubins_are_refused_on_amd_and_hsacos_on_nvidia(newest_hip):
    from tests import corpus

    cuda = corpus.find("3.6.0", "cuda:80", "add_kernel")
    recorded = run(
        newest_hip,
        f"""
for level in ("ptx", "cubin"):
    report = Kernel.from_file({str(cuda.folder)!r} + "/add_kernel." + level, device="hip:0").check()
    print([f.message for f in report.errors if f.rule == "architecture"][0])
""",
    )
    for line in recorded.stdout.splitlines():
        assert line.endswith("hip:0 (Fake gfx90a) is hip:gfx90a:sramecc+:xnack-: it is for cuda")


def test_vector_registers_of_the_corpus_fit_and_the_table_knows_every_machine():
    for name in MACHINES.values():
        for wave in {wave_size(name), 64}:
            file = vector_registers(name, wave)
            assert file.addressable <= file.total
            assert file.total % file.granule == 0
    from trlaunch.hip.image import read_image

    for case in cases():
        kernel = read_image(case.bytes("hsaco")).kernel()
        assert kernel.registers is not None
        assert kernel.registers <= vector_registers(case.arch, kernel.wave_size or 0).addressable


# --- tensors ---------------------------------------------------------------------------------------------------------


def test_tensors_of_rocm_are_addresses_on_hip_devices(newest_hip):
    """DLPack's kDLROCM, CuPy for ROCm, and torch, whose device is called cuda although it is HIP's."""
    case = find("3.6.0", "hip:gfx942", "add_kernel")
    recorded = run(
        newest_hip,
        """
import sys, types
case = find("3.6.0", "hip:gfx942", "add_kernel")
kernel = Kernel.from_file(case.path("hsaco"))
driver()
hip("hipSetDevice", 1)
memory = driver().allocate(4096, 1)
dlpack = DlpackLike(memory, device=(10, 1))
kernel.launch(1, dlpack, dlpack, dlpack, 1024)
print(dlpack.streams[-1], kernel.device)
cupy = CupyLike(memory)
kernel.launch(1, cupy, cupy, cupy, 1024)

torch = types.ModuleType("torch")
torch.version, torch.dtype = types.SimpleNamespace(hip="6.4.43484"), type("dtype", (), {})
torch.Tensor = type("Tensor", (TorchLike,), {"is_cuda": True, "__module__": "torch"})
torch._C = types.SimpleNamespace(_cuda_getCurrentRawStream=lambda ordinal: int(streams[ordinal]))
sys.modules["torch"] = torch
class device(type(TorchLike(0).device)):
    pass
device.__module__ = "torch"
streams = {0: 0, 1: hip("hipStreamCreate")}
tensor = torch.Tensor(memory)
tensor.device = device("cuda", 1)
kernel.launch(1, tensor, tensor, tensor, 1024)
print(int(streams[1]))
elsewhere = torch.Tensor(memory)
elsewhere.device = device("cuda", 0)
for values in ((elsewhere,) * 3, (tensor, tensor, elsewhere)):
    try:
        kernel.launch(1, *values, 1024)
    except trlaunch.TrlaunchError as error:
        print(str(error).splitlines()[0])
""",
    )
    lines = recorded.stdout.splitlines()
    assert lines[0] == "0 hip:1"
    launches = recorded.of("hipModuleLaunchKernel")
    memory = recorded.only("hipMalloc")["address"]
    expected = buffer(slots(case), [struct.pack("<Q", memory)] * 3 + [struct.pack("<i", 1024)])
    assert [bytes.fromhex(launch["kernarg"]) for launch in launches] == [expected] * 3
    assert [launch["stream"] for launch in launches] == [0, 0, int(lines[1])]
    assert "the hsaco is for hip:gfx942, hip:0 (Fake gfx90a) is hip:gfx90a" in lines[2]
    assert "expected a tensor on hip:1" in lines[3]
    assert "on hip:0; copy it, or launch with device='hip:0'" in lines[3]


def test_host_memory_is_refused_with_the_parameters_name(newest_hip):
    recorded = run(
        newest_hip,
        REFUSED
        + """
import numpy as np
kernel = Kernel.from_file(case.path("hsaco"), device="hip:1")
host = np.zeros((512, 512), np.float16)
refused(lambda: kernel.launch(1, host, host, host, *values[3:]))
refused(lambda: kernel.launch(1, CupyLike(0x1000, (4, 4), "<f2"), *values[1:]))
""",
    )
    first, second = recorded.stdout.splitlines()
    assert "matmul_kernel, parameter 0 'a_ptr' (*fp16): expected a tensor on hip:1" in first
    assert "expected device memory of hip:1, found 0x1000, which is not device memory" in second


# --- what the image alone says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(kernel="add_kernel"), ids=str)
def test_hidden_arguments_are_told_from_the_users(case: Case, tmp_path: Path):
    shutil.copy(case.path("hsaco"), tmp_path / "k.hsaco")
    shutil.copy(case.path("json"), tmp_path / "k.json")
    kernel = Kernel.from_file(tmp_path / "k.hsaco")
    assert len(kernel.signature.user) == len(case.params)
    assert [p.role for p in kernel.signature.hidden] == ["global_scratch", "profile_scratch"][: hidden(case)]


def test_arguments_of_the_runtime_are_no_parameters():
    case = find("3.9.0", "hip:gfx950", "matmul_kernel")
    kernel = Kernel.from_file(case.path("hsaco"))
    assert len(kernel.entry.implicit) == 20
    assert all(p.type and p.type.startswith("hidden_") for p in kernel.entry.implicit)
    assert len(kernel.signature) == len(case.params) + 2
    assert kernel.signature.param_bytes == kernel.entry.implicit[0].offset == 64


@pytest.mark.parametrize("release", ["3.8.0", "3.9.0"])
def test_descriptors_that_gfx1250_takes_by_value_are_refused(release):
    case = find(release, "hip:gfx1250", "tma_matmul_kernel")
    words = r"parameter 0 'a_desc' is a tensor descriptor of gfx1250, 48 bytes by value, which trlaunch cannot make"
    with pytest.raises(SignatureError, match=words):
        Kernel.from_file(case.path("hsaco"))


def test_public_names_work_without_hip_python():
    code = "import sys; sys.modules['hip'] = None; import trlaunch; print(trlaunch.Target.parse('gfx942'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "hip:gfx942\n"
    assert trlaunch.Target.parse("hip:gfx90a:xnack+").suffix == ":xnack+"
