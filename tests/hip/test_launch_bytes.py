"""What reaches ``hipModuleLaunchKernel``: kernarg bytes, grid, block, LDS, scratch, for kernels of every release.

The kernels are the corpus's; libamdhip64 is the fake one, which lays the arguments out by the note of the hsaco that it
was given. The oracle of a kernarg segment is the metadata in the AMDGCN text beside the hsaco, and NumPy's bytes.
"""

from __future__ import annotations

import random
import re
import struct

import pytest

from tests.corpus_hip import ARCHITECTURES, cases, find, hidden, releases
from tests.oracle import buffer, numpy_bytes, sample

RELEASES = releases()
SETS = 3  # of values for every scalars_kernel
BASE = 0x7F40_0000_0000
DEVICES = (
    "gfx90a:sramecc+:xnack-",
    "gfx942:sramecc+:xnack-",
    "gfx950:sramecc+:xnack-",
    "gfx1100",
    "gfx1200",
    "gfx1250",
)

SETUP = """
import json
import trlaunch
from trlaunch import Kernel, Pointer, TensorDescriptor
from tests.arrays import CupyLike, DlpackLike, TorchLike
from tests.corpus_hip import ARCHITECTURES, cases, find, releases
from tests.fakehip.inside import driver, hip

BASE = 0x7F40_0000_0000

def on(case):
    return f"hip:{ARCHITECTURES.index(case.arch)}"
"""


def run(fakehip, script, **options):
    return fakehip.run(SETUP + script, **{"devices": DEVICES, **options})


def slots(case):
    """Offset and size of each argument that a launcher passes, from the metadata in the AMDGCN text."""
    text = case.text("amdgcn")
    arguments = text[text.index(".args:") : text.index(".group_segment_fixed_size:")]
    found = []
    for part in re.split(r"\n\s+- ", arguments)[1:]:
        fields = dict(re.findall(r"(\.\w+):\s+(\S+)", part))
        if not fields[".value_kind"].startswith("hidden_"):
            found.append((int(fields[".offset"]), int(fields[".size"])))
    return found


def natural(sizes):
    """The amdhsa layout: every argument at a multiple of its size."""
    end, laid = 0, []
    for size in sizes:
        start = -(-end // size) * size
        laid.append((start, size))
        end = start + size
    return laid


def values_of(case, number):
    """Deterministic values for the parameters of scalars_kernel: (type, value), pointers as addresses."""
    rng = random.Random(f"{case} {number}")
    return [
        (p.type, BASE + 16 * rng.randrange(2**24) if p.type.startswith("*") else sample(p.type, rng))
        for p in case.params
    ]


def value_bytes(type_name, value):
    return struct.pack("<Q", value) if type_name.startswith("*") else numpy_bytes(type_name, value)


SCALAR_CASES = cases(kernel="scalars_kernel")


def test_every_scalar_type_of_every_release_lies_where_the_note_says(fakehip):
    recorded = run(
        fakehip,
        """
from tests.hip.test_launch_bytes import SETS, values_of
for case in cases(kernel="scalars_kernel"):
    kernel = Kernel.from_file(case.path("hsaco"), device=on(case))
    for number in range(SETS):
        values = [Pointer(v) if t.startswith("*") else v for t, v in values_of(case, number)]
        kernel.launch(1, *values)
""",
    )
    launches = iter(recorded.of("hipModuleLaunchKernel"))
    assert {c.release for c in SCALAR_CASES} == set(RELEASES)
    assert {c.arch for c in SCALAR_CASES} == set(ARCHITECTURES)
    for case in SCALAR_CASES:
        where = slots(case)
        assert where == natural([size for _, size in where])
        assert len(where) == len(case.params) + hidden(case)
        types = {t for t, _ in values_of(case, 0)}
        assert types >= {"i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "fp16", "bf16", "fp32", "fp64"}
        for number in range(SETS):
            launch = next(launches)
            expected = buffer(where, [value_bytes(t, v) for t, v in values_of(case, number)])
            assert bytes.fromhex(launch["kernarg"]) == expected
            assert (launch["arguments"], launch["misaligned"], launch.status) == (len(where), 0, 0)
            warp = case.metadata["target"]["warp_size"]
            assert (launch["grid"], launch["block"]) == ([1, 1, 1], [warp, 1, 1])
            assert (launch["shared"], launch["stream"]) == (0, 0)
    assert next(launches, None) is None


def test_tuples_are_flattened_and_names_work(fakehip):
    recorded = run(
        fakehip,
        """
names = 0
for case in cases(kernel="tuple_kernel"):
    kernel = Kernel.from_file(case.path("hsaco"), device=on(case))
    x, y, out = (Pointer(BASE + 4096 * i) for i in range(3))
    kernel.launch((7, 5, 3), (x, y), (2.5, -3), out, 98432)
    if kernel.signature.user[0].name:
        names += 1
        kernel.launch((7, 5, 3), (x, y), n_elements=98432, out_ptr=out, scales=[2.5, -3])
print(names)
""",
    )
    found = cases(kernel="tuple_kernel")
    assert int(recorded.stdout) == sum(case.version >= (3, 5) for case in found) > 0
    launches = iter(recorded.of("hipModuleLaunchKernel"))
    for case in found:
        values = [
            *(struct.pack("<Q", BASE + 4096 * i) for i in range(2)),
            struct.pack("<f", 2.5),
            struct.pack("<i", -3),
            struct.pack("<Q", BASE + 8192),
            struct.pack("<i", 98432),
        ]
        for _ in range(2 if case.version >= (3, 5) else 1):
            launch = next(launches)
            assert bytes.fromhex(launch["kernarg"]) == buffer(slots(case), values)
            assert launch["grid"] == [7, 5, 3]


def test_descriptors_are_passed_in_their_parts(fakehip):
    """A pointer, shape and strides, flags by release, shape and strides again; sizes as in the note."""
    found = [c for c in cases(kernel="tma_matmul_kernel") if c.arch != "gfx1250"]
    assert {c.version for c in found} == {(3, minor) for minor in range(4, 10)}
    recorded = run(
        fakehip,
        """
A, B, C = 0x7F00_0000_0000, 0x7F10_0000_0000, 0x7F20_0000_0000
for case in cases(kernel="tma_matmul_kernel"):
    if case.arch == "gfx1250":
        continue
    def descriptor(address, rows, cols, **more):
        tensor = TorchLike(address, (rows, cols), "float16", on(case))
        return TensorDescriptor(tensor, (rows, cols), (cols, 1), [64, 64], **more)
    kernel = Kernel.from_file(case.path("hsaco"))
    padding = {"padding": "nan"} if case.version >= (3, 5) else {}
    a, b, c = descriptor(A, 512, 64, **padding), descriptor(B, 64, 256), descriptor(C, 512, 256)
    kernel.launch((8, 4), a, b, c, 512, 256, 64)
""",
    )
    launches = recorded.of("hipModuleLaunchKernel")
    assert len(launches) == len(found)
    for case, launch in zip(found, launches, strict=True):
        flags = 0 if case.version == (3, 4) else 1 if case.version < (3, 7) else 2
        values = []
        for number, (address, rows, cols) in enumerate(
            ((0x7F00_0000_0000, 512, 64), (0x7F10_0000_0000, 64, 256), (0x7F20_0000_0000, 512, 256))
        ):
            values += [struct.pack("<Q", address), *(struct.pack("<q", n) for n in (rows, cols, cols, 1))]
            values += [bytes([number == 0]), b"\0"][:flags]
            values += [struct.pack("<i", rows), struct.pack("<i", cols), struct.pack("<q", cols), struct.pack("<q", 1)]
        values += [struct.pack("<i", n) for n in (512, 256, 64)]
        where = slots(case)
        assert len(where) == len(values) + 2 - (case.version == (3, 4))
        assert bytes.fromhex(launch["kernarg"]) == buffer(where, values), str(case)
        assert launch["shared"] == case.metadata["shared"] > 0


def test_grid_block_and_lds_come_from_the_metadata(fakehip):
    recorded = run(
        fakehip,
        """
for case in cases(kernel="matmul_kernel"):
    kernel = Kernel.from_file(case.path("hsaco"), device=on(case))
    kernel.launch((4, 6), *(Pointer(BASE) if p.type.startswith("*") else p.value for p in case.params))
""",
    )
    launches = recorded.of("hipModuleLaunchKernel")
    found = cases(kernel="matmul_kernel")
    assert {c.arch for c in found} == set(ARCHITECTURES)
    for case, launch in zip(found, launches, strict=True):
        metadata = case.metadata
        assert launch["grid"] == [4, 6, 1]
        assert launch["block"] == [metadata["num_warps"] * metadata["target"]["warp_size"], 1, 1]
        assert launch["shared"] == metadata["shared"]
        assert launch.status == 0
    assert any(c.metadata["shared"] > 0 for c in found)


def test_cooperative_launches_have_their_own_call(fakehip):
    recorded = run(
        fakehip,
        """
for case in cases(kernel="cooperative_kernel"):
    kernel = Kernel.from_file(case.path("hsaco"), device=on(case))
    kernel.launch(97, *(Pointer(BASE) if p.type.startswith("*") else p.value for p in case.params))
""",
    )
    launches = recorded.of("hipModuleLaunchCooperativeKernel")
    found = cases(kernel="cooperative_kernel")
    assert {c.version for c in found} == {(3, minor) for minor in range(3, 10)}
    assert not recorded.of("hipModuleLaunchKernel")
    for case, launch in zip(found, launches, strict=True):
        values = [
            struct.pack("<Q", BASE) if p.type.startswith("*") else struct.pack("<i", p.value) for p in case.params
        ]
        assert bytes.fromhex(launch["kernarg"]) == buffer(slots(case), values)


CLUSTERS = """
for case in cases(target="hip:gfx1250", kernel="cluster_kernel"):
    kernel = Kernel.from_file(case.path("hsaco"), device=on(case))
    try:
        kernel.launch((4, 6), Pointer(BASE), Pointer(BASE), Pointer(BASE), 98432)
    except trlaunch.DeviceUnavailable as error:
        print(error)
"""


def test_clusters_multiply_the_grid_and_are_stated(fakehip):
    recorded = run(fakehip, CLUSTERS)
    found = cases(kernel="cluster_kernel")
    assert len(found) == 2
    if recorded.stdout:  # hip-python 6.4
        assert recorded.stdout.count("needs hipDrvLaunchKernelEx, which this hip-python does not have") == len(found)
        assert not recorded.of("hipDrvLaunchKernelEx")
        return
    for case, launch in zip(found, recorded.of("hipDrvLaunchKernelEx"), strict=True):
        assert case.metadata["num_ctas"] == 2
        assert launch["grid"] == [8, 6, 1]
        assert launch["attributes"] == {"cluster": [2, 1, 1]}
        values = [*([struct.pack("<Q", BASE)] * 3), struct.pack("<i", 98432)]
        assert bytes.fromhex(launch["kernarg"]) == buffer(slots(case), values)
        assert launch.status == 0


@pytest.mark.parametrize("release, roles", [("3.2.0", 0), ("3.4.0", 1), ("3.6.0", 2), ("3.9.0", 2)])
def test_scratch_is_allocated_ordered_and_passed_behind_the_arguments(fakehip, release, roles):
    """The sizes are put into the JSON: no kernel of the corpus needs scratch on AMD."""
    case = find(release, "hip:gfx942", "add_kernel")
    recorded = run(
        fakehip,
        f"""
case = find({release!r}, "hip:gfx942", "add_kernel")
metadata = case.metadata
for key in ("global_scratch", "profile_scratch"):
    if key + "_size" in metadata:
        metadata[key + "_size"], metadata[key + "_align"] = (256 if key[0] == "g" else 64), 128
kernel = Kernel.from_file(case.path("hsaco"), metadata, device=on(case))
driver()  # initialises the runtime
hip("hipSetDevice", 1)
stream = hip("hipStreamCreate")
kernel.launch((3, 2), Pointer(BASE), Pointer(BASE), Pointer(BASE), 98432, stream=stream)
print(json.dumps([int(stream), [k for k in ("global_scratch_size", "profile_scratch_size") if metadata.get(k)]]))
""",
    )
    stream, sized = recorded.json()
    launch = recorded.only("hipModuleLaunchKernel")
    assert launch["stream"] == stream
    where = slots(case)
    assert len(where) == 4 + roles == 4 + hidden(case)
    kernarg = bytes.fromhex(launch["kernarg"])
    pointers = [int.from_bytes(kernarg[offset : offset + 8], "little") for offset, _ in where[4:]]
    allocated = {c["size"]: c["address"] for c in recorded.of("hipMallocFromPoolAsync")}
    expected = [
        allocated[{"global_scratch": 256, "profile_scratch": 64}[role] * 6] if f"{role}_size" in sized else 0
        for role in ("global_scratch", "profile_scratch")[:roles]
    ]
    assert pointers == expected
    assert len(allocated) == len(sized)
    work = [c.name for c in recorded.calls if c.name in (*SCRATCH, "hipModuleLaunchKernel")]
    clears = ["hipMemsetD8Async"] if "profile_scratch_size" in sized else []
    assert work == ["hipMallocFromPoolAsync"] * len(sized) + clears + ["hipModuleLaunchKernel"] + [
        "hipFreeAsync"
    ] * len(sized)
    assert all(c["stream"] == stream and c.status == 0 for c in recorded.of(*SCRATCH))


SCRATCH = ("hipMallocFromPoolAsync", "hipMemsetD8Async", "hipFreeAsync")


def test_every_hsaco_of_the_corpus_is_checked_and_launched(newest_hip):
    """Nothing but the files: the arguments' types, the LDS and the block come from what lies beside them."""
    recorded = run(
        newest_hip,
        """
launched = 0
for case in cases():
    if case.name == "tma_matmul_kernel" or case.name == "scalars_kernel":
        continue
    kernel = Kernel.from_file(case.path("hsaco"), device=on(case))
    report = kernel.check((2, 2))
    assert report.ok, str(report)
    assert not [f for f in report.findings if f.severity == "warning"], str(report)
    values = [Pointer(BASE) if p.type.startswith("*") else p.value if p.value is not None else 1.5 for p in case.params]
    kernel.launch((2, 2), *values)
    launched += 1
print(launched)
""",
    )
    calls = recorded.of("hipModuleLaunchKernel", "hipModuleLaunchCooperativeKernel", "hipDrvLaunchKernelEx")
    assert len(calls) == int(recorded.stdout) > 150
    assert all(call.status == 0 for call in calls)
