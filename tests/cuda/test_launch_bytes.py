"""What reaches ``cuLaunchKernelEx``: parameter bytes, attributes, streams, scratch, for kernels of every release.

The kernels are the corpus's; libcuda is the fake one. The oracle of a buffer is the ``.param`` list of the PTX beside
the binary, laid out by `tests.oracle`, and NumPy's bytes.
"""

from __future__ import annotations

import json
import random
import struct

import pytest

from tests.corpus import cases, find, releases
from tests.oracle import SM_90_BASE, bfloat16, buffer, layout, numpy_bytes, sample

RELEASES = releases()
SETS = 6  # of values for every scalars_kernel
BASE = 0x7F40_0000_0000

SETUP = """
import json, random, struct, threading, warnings
import trlaunch
from trlaunch import Kernel, Pointer, TensorDescriptor
from tests.arrays import CupyLike, DlpackLike, TorchLike
from tests.corpus import cases, find, releases
from tests.fakecuda.inside import cuda, driver

DEVICE = {"cuda:90": "cuda:0", "cuda:80": "cuda:1"}
BASE = 0x7F40_0000_0000

def streams(count):
    driver()  # initialises libcuda
    cuda("cuCtxSetCurrent", cuda("cuDevicePrimaryCtxRetain", 0))
    return [int(cuda("cuStreamCreate", 0)) for _ in range(count)]
"""


def run(fakecuda, script, **options):
    return fakecuda.run(SETUP + script, **{"devices": (90, 80), **options})


def values_of(case, number):
    """Deterministic values for the parameters of scalars_kernel: (type, value), pointers as addresses."""
    rng = random.Random(f"{case} {number}")
    values = []
    for param in case.params:
        if param.type.startswith("*"):
            values.append((param.type, BASE + 16 * rng.randrange(2**24)))
        else:
            values.append((param.type, sample(param.type, rng)))
    return values


def value_bytes(type_name, value):
    return struct.pack("<Q", value) if type_name.startswith("*") else numpy_bytes(type_name, value)


SCALAR_CASES = cases(kernel="scalars_kernel")


@pytest.fixture(scope="module")
def scalar_launches(fakecuda):
    recorded = run(
        fakecuda,
        """
        from tests.cuda.test_launch_bytes import SETS, values_of
        for case in cases(kernel="scalars_kernel"):
            kernel = Kernel.from_file(case.path("cubin"), device=DEVICE[case.target])
            for number in range(SETS):
                values = [Pointer(v) if t.startswith("*") else v for t, v in values_of(case, number)]
                kernel.launch(1, *values)
        """.replace("\n        ", "\n"),
    )
    launches = recorded.of("cuLaunchKernelEx")
    assert len(launches) == SETS * len(SCALAR_CASES)
    return {str(case): launches[SETS * i : SETS * (i + 1)] for i, case in enumerate(SCALAR_CASES)}


@pytest.mark.parametrize("case", SCALAR_CASES, ids=str)
def test_every_scalar_type_of_every_release(case, scalar_launches):
    slots = layout(case.text("ptx"), case.kernel)
    hidden = {(3, 0): 0, (3, 1): 0, (3, 2): 0, (3, 3): 1, (3, 4): 1}.get(case.version, 2)
    assert len(slots) == len(case.params) + hidden
    assert {t for t, _ in values_of(case, 0) if not t.startswith("*")} >= {"i8", "u64", "fp16", "bf16", "fp32", "fp64"}
    for number, launch in enumerate(scalar_launches[str(case)]):
        expected = buffer(slots, [value_bytes(t, v) for t, v in values_of(case, number)])
        found = bytes.fromhex(launch["parameters"])
        assert found[: len(expected)] == expected
        assert not any(found[len(expected) :])
        assert launch["misalignment"] == 0
        assert (launch["grid"], launch["block"]) == ([1, 1, 1], [32, 1, 1])
        assert (launch["shared"], launch["attributes"], launch["stream"]) == (0, {}, 0)


def test_float_for_bfloat16_is_rounded_to_nearest_even_not_truncated(scalar_launches):
    assert bfloat16(1.005859375) == 0x3F81  # Triton's launcher would pass 0x3f80
    seen = {v for case in SCALAR_CASES for n in range(SETS) for t, v in values_of(case, n) if t == "bf16"}
    truncated = {
        v for v in seen if struct.unpack("<I", struct.pack("<f", max(min(v, 3e38), -3e38)))[0] >> 16 != bfloat16(v)
    }
    assert truncated, "no value of the sets tells rounding from truncation"


def test_tuples_are_flattened_and_names_work(fakecuda):
    recorded = run(
        fakecuda,
        """
names = 0
for case in cases(kernel="tuple_kernel"):
    kernel = Kernel.from_file(case.path("cubin"), device=DEVICE[case.target])
    x, y, out = (Pointer(BASE + 4096 * i) for i in range(3))
    kernel.launch((7, 5, 3), (x, y), (2.5, -3), out, 98432)
    if kernel.signature.user[0].name:
        names += 1
        kernel.launch((7, 5, 3), (x, y), n_elements=98432, out_ptr=out, scales=[2.5, -3])
print(names)
""",
    )
    tuple_cases = cases(kernel="tuple_kernel")
    assert int(recorded.stdout) == sum(case.version >= (3, 5) for case in tuple_cases) > 0
    launches = iter(recorded.of("cuLaunchKernelEx"))
    for case in tuple_cases:
        expected = buffer(
            layout(case.text("ptx"), case.kernel),
            [
                *(struct.pack("<Q", BASE + 4096 * i) for i in range(2)),
                struct.pack("<f", 2.5),
                struct.pack("<i", -3),
                struct.pack("<Q", BASE + 8192),
                struct.pack("<i", 98432),
            ],
        )
        for _ in range(2 if case.version >= (3, 5) else 1):
            launch = next(launches)
            assert bytes.fromhex(launch["parameters"]) == expected
            assert launch["grid"] == [7, 5, 3]


@pytest.fixture(scope="module")
def attribute_launches(fakecuda):
    recorded = run(
        fakecuda,
        """
names = ("cluster_kernel", "cluster_matmul_kernel", "cooperative_kernel", "pdl_kernel")
for case in [c for n in names for c in cases(kernel=n)] + list(cases(kernel="matmul_kernel", target="cuda:90")):
    kernel = Kernel.from_file(case.path("cubin"), device=DEVICE[case.target])
    values = [Pointer(BASE) if p.type.startswith("*") else p.value for p in case.params]
    kernel.launch((4, 6), *values)
""",
    )
    names = ("cluster_kernel", "cluster_matmul_kernel", "cooperative_kernel", "pdl_kernel")
    order = [c for name in names for c in cases(kernel=name)] + list(cases(kernel="matmul_kernel", target="cuda:90"))
    launches = recorded.of("cuLaunchKernelEx")
    assert len(order) == len(launches)
    return list(zip(order, launches, strict=True))


def test_cluster_launches_multiply_the_grid_and_state_the_cluster(attribute_launches):
    found = [(c, call) for c, call in attribute_launches if c.name.startswith("cluster")]
    assert {c.version for c, _ in found} == {c.version for c in cases(kernel="cluster_matmul_kernel")}
    shapes = set()
    for case, launch in found:
        cluster = case.metadata.get("cluster_dims") or [2, 1, 1]
        shapes.add((case.version, tuple(cluster)))
        assert launch["grid"] == [4 * cluster[0], 6 * cluster[1], cluster[2]]
        # CU_CLUSTER_SCHEDULING_POLICY_SPREAD is 1 (cuda.h)
        assert launch["attributes"] == {"CLUSTER_DIMENSION": cluster, "CLUSTER_SCHEDULING_POLICY_PREFERENCE": 1}
        assert launch.status == 0
    assert ((3, 2), (1, 2, 1)) in shapes
    assert ((3, 9), (2, 1, 1)) in shapes


def test_cooperative_and_pdl_launches_carry_their_attribute_alone(attribute_launches):
    expected = {"cooperative_kernel": {"COOPERATIVE": 1}, "pdl_kernel": {"PROGRAMMATIC_STREAM_SERIALIZATION": 1}}
    expected["matmul_kernel"] = {}
    found = [(c, call) for c, call in attribute_launches if c.name in expected]
    assert {c.name for c, _ in found} == set(expected)
    for case, launch in found:
        assert launch["attributes"] == expected[case.name], str(case)
        assert launch["grid"] == [4, 6, 1]
        assert launch["shared"] == case.metadata["shared"]
        assert launch["block"] == [32 * case.metadata["num_warps"], 1, 1]


# --- descriptors -----------------------------------------------------------------------------------------------------

TMA = """
def descriptor(address, rows, cols, block, **more):
    tensor = TorchLike(address, (rows, cols), "float16", device)
    return TensorDescriptor(tensor, (rows, cols), (cols, 1), block, **more)

A, B, C = 0x7F00_0000_0000, 0x7F10_0000_0000, 0x7F20_0000_0000
M, N, K = 512, 256, 64
"""
MATRICES = ((0x7F00_0000_0000, 512, 64), (0x7F10_0000_0000, 64, 256), (0x7F20_0000_0000, 512, 256))


def test_native_descriptors_are_encoded_once_and_lie_where_the_cubin_says(fakecuda):
    found = [c for c in cases(kernel="tma_matmul_kernel", target="cuda:90") if c.version >= (3, 4)]
    assert len(found) == 6
    recorded = run(
        fakecuda,
        TMA
        + """
device = "cuda:0"
for case in cases(kernel="tma_matmul_kernel", target="cuda:90"):
    if case.version < (3, 4):
        continue
    kernel = Kernel.from_file(case.path("cubin"))
    for base in (A, A, A + 0x1000):
        block = [64, 64]
        a, b, c = descriptor(base, M, K, block), descriptor(B, K, N, block), descriptor(C, M, N, block)
        kernel.launch((8, 4), a, b, c, M, N, K)
""",
    )
    calls = iter(recorded.of("cuTensorMapEncodeTiled", "cuLaunchKernelEx"))
    for case in found:
        slots = layout(case.text("ptx"), case.kernel, SM_90_BASE)
        assert slots[0] == (48, 128)
        metas = case.metadata["tensordesc_meta"]
        maps = []
        for launch_number in range(3):
            encoded = [next(calls) for _ in range((3, 0, 1)[launch_number])]
            launch = next(calls)
            assert launch.name == "cuLaunchKernelEx"
            bases = [(MATRICES[0][0] + 0x1000, *MATRICES[0][1:])] if launch_number == 2 else MATRICES
            for call, (address, rows, cols), meta in zip(encoded, bases, metas, strict=False):
                assert call["address"] == address
                assert call["shape"] == [cols, rows]
                assert call["strides"] == [2 * cols]
                assert call["box"] == meta["block_size"][::-1]
                assert call["element_strides"] == [1, 1]
                # CU_TENSOR_MAP_DATA_TYPE_FLOAT16, INTERLEAVE_NONE, L2_PROMOTION_L2_128B, OOB_FILL_NONE (cuda.h)
                assert (call["element_type"], call["interleave"], call["l2_promotion"], call["oob_fill"]) == (
                    6,
                    0,
                    2,
                    0,
                )
                assert call["swizzle"] == meta["swizzle"] == 3  # SWIZZLE_128B
            fresh = [as_passed(c["map"], 2 * r * n) for c, (_, r, n) in zip(encoded, bases, strict=False)]
            maps = [fresh[0], *maps[1:]] if launch_number == 2 else fresh or maps
            values = []
            for encoded_map, (_, rows, cols) in zip(maps, MATRICES, strict=True):
                values += [encoded_map, *(struct.pack("<i", n) for n in (rows, cols))]
                values += [struct.pack("<q", n) for n in (cols, 1)]
            values += [struct.pack("<i", n) for n in (512, 256, 64)]
            expected = buffer(slots, values)
            assert bytes.fromhex(launch["parameters"])[: len(expected)] == expected
            assert launch["shared"] == case.metadata["shared"] > 48 * 1024
    assert next(calls, None) is None
    # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES is 8 (cuda.h): asked for once a kernel, before its first launch.
    allowed = [c for c in recorded.of("cuFuncSetAttribute") if c["attribute"] == 8]
    assert len(allowed) == len(found)
    assert all(c["value"] >= 49176 and c.status == 0 for c in allowed)


def as_passed(encoded: str, nbytes: int) -> bytes:
    """The map as drivers up to 13.1 need it: bit 21 of the second word is cleared for tensors under 128 KiB."""
    data = bytearray.fromhex(encoded)
    if nbytes < 128 * 1024:
        data[10] &= ~(1 << 5)
    return bytes(data)


def test_small_tensor_bit_is_left_alone_for_large_tensors_and_newer_drivers(fakecuda):
    script = (
        TMA
        + """
device = "cuda:0"
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "tma_matmul_kernel").path("cubin"))
for i in range(24):
    at = A + i * 2**24
    kernel.launch(1, *(descriptor(at, rows, 256, [64, 64]) for rows in (256, 64, 128)), 128, 256, 128)
"""
    )
    for version, largest in ((13010, 128 * 1024), (13020, 0)):
        recorded = run(fakecuda, script, driver_version=version)
        encoded, changed = recorded.of("cuTensorMapEncodeTiled"), 0
        for i, launch in enumerate(recorded.of("cuLaunchKernelEx")):
            data = bytes.fromhex(launch["parameters"])
            slots = layout(find("3.6.0", "cuda:90", "tma_matmul_kernel").text("ptx"), "tma_matmul_kernel", SM_90_BASE)
            for call, (offset, size) in zip(encoded[3 * i : 3 * i + 3], slots[0:15:5], strict=True):
                raw = bytearray.fromhex(call["map"])
                nbytes = 2 * call["shape"][0] * call["shape"][1]
                if nbytes < largest:
                    changed += raw[10] >> 5 & 1
                    raw[10] &= ~(1 << 5)
                assert data[offset : offset + size] == bytes(raw)
        assert (changed > 0) == (largest > 0)


def test_padding_and_tf32_reach_the_encoding(fakecuda):
    recorded = run(
        fakecuda,
        TMA
        + """
device = "cuda:0"
kernel = Kernel.from_file(find("3.9.0", "cuda:90", "tma_matmul_kernel").path("cubin"))
one, two = descriptor(A, M, K, [64, 64], padding="nan"), descriptor(B, K, N, [64, 64])
kernel.launch(1, one, two, descriptor(C, M, N, [64, 64]), M, N, K)
try:
    kernel.launch(1, descriptor(A, M, K, [64, 64], round_f32_to_tf32=True), two, two, M, N, K)
except trlaunch.ArgumentError as error:
    print(error)
""",
    )
    assert [c["oob_fill"] for c in recorded.of("cuTensorMapEncodeTiled")] == [1, 0, 0]  # NAN_REQUEST_ZERO_FMA
    assert "round_f32_to_tf32 on a descriptor of fp16: expected fp32" in recorded.stdout


def test_descriptors_of_3_2_and_3_3_are_the_map_alone(fakecuda):
    recorded = run(
        fakecuda,
        TMA
        + """
device = "cuda:0"
for release in ("3.2.0", "3.3.1"):
    kernel = Kernel.from_file(find(release, "cuda:90", "tma_matmul_kernel").path("cubin"))
    kernel.launch(1, *(descriptor(at, 512, 512, [64, 64]) for at in (A, B, C)), 512, 512, 512)
    kernel.launch(1, bytes(range(128)), bytearray(128), memoryview(b"x" * 128), 512, 512, 512)
""",
    )
    encoded, launches = recorded.of("cuTensorMapEncodeTiled"), recorded.of("cuLaunchKernelEx")
    assert len(encoded) == 6
    for i, release in enumerate(("3.2.0", "3.3.1")):
        case = find(release, "cuda:90", "tma_matmul_kernel")
        assert all((c["swizzle"], c["box"], c["element_type"]) == (3, [64, 64], 6) for c in encoded)
        slots, sizes = layout(case.text("ptx"), case.kernel, SM_90_BASE), [struct.pack("<i", 512)] * 3
        for launch, maps in (
            (launches[2 * i], [bytes.fromhex(c["map"]) for c in encoded[3 * i : 3 * i + 3]]),
            (launches[2 * i + 1], [bytes(range(128)), bytes(128), b"x" * 128]),
        ):
            expected = buffer(slots, [*maps, *sizes])
            assert bytes.fromhex(launch["parameters"])[: len(expected)] == expected


def test_ptx_is_launched_with_the_offsets_of_what_ptxas_made_of_it(fakecuda, tmp_path):
    recorded = run(
        fakecuda,
        TMA
        + """
device = "cuda:0"
for level in ("cubin", "ptx"):
    kernel = Kernel.from_file(find("3.6.0", "cuda:90", "tma_matmul_kernel").path(level))
    block = [64, 64]
    kernel.launch(1, descriptor(A, M, K, block), descriptor(B, K, N, block), descriptor(C, M, N, block), M, N, K)
    print(level, [p.offset for p in kernel.signature][:3])
""",
        env={"TRLAUNCH_CACHE_DIR": str(tmp_path)},
    )
    assert recorded.stdout.splitlines() == ["cubin [48, 176, 180]", "ptx [0, 128, 132]"]
    assert [c["format"] for c in recorded.of("cuModuleLoadDataEx")] == ["elf", "elf"]
    cubin, ptx = recorded.of("cuLaunchKernelEx")
    assert (cubin["parameters"], cubin["shared"]) == (ptx["parameters"], ptx["shared"])
    assert bytes.fromhex(cubin["parameters"])[:48] == bytes(48)


def test_descriptors_of_3_0_are_passed_by_the_address_of_a_map_on_the_device(fakecuda):
    recorded = run(
        fakecuda,
        TMA
        + """
device = "cuda:0"
kernel = Kernel.from_file(find("3.0.0", "cuda:90", "tma_matmul_kernel").path("cubin"))
maps = [descriptor(at, 512, 512, [64, 64]).on_device() for at in (A, B, C)]
try:
    kernel.launch(1, *(descriptor(at, 512, 512, [64, 64]) for at in (A, B, C)), 512, 512, 512)
except trlaunch.ArgumentError as error:
    assert str(error).endswith("Triton 3.0 and 3.1 take its address: pass descriptor.on_device()"), error
else:
    raise AssertionError("the descriptor was taken")
kernel.launch(1, *maps, 512, 512, 512)
print(json.dumps([[m.address for m in maps], [m.numpy().tobytes().hex() for m in maps]]))
""",
    )
    case = find("3.0.0", "cuda:90", "tma_matmul_kernel")
    addresses, stored = recorded.json()
    values = [struct.pack("<Q", a) for a in addresses] + [struct.pack("<i", 512)] * 3
    launch = recorded.only("cuLaunchKernelEx")
    assert bytes.fromhex(launch["parameters"]) == buffer(layout(case.text("ptx"), case.kernel), values)
    encoded = [c["map"] for c in recorded.of("cuTensorMapEncodeTiled")]
    assert stored == encoded


DECOMPOSED = {"3.4.0": 0, "3.5.1": 1, "3.6.0": 1, "3.7.1": 2, "3.8.0": 2, "3.9.0": 2}


def test_decomposed_descriptors_have_the_flags_of_their_release(fakecuda):
    recorded = run(
        fakecuda,
        TMA
        + """
device, refused = "cuda:1", []
for case in cases(kernel="tma_matmul_kernel", target="cuda:80"):
    kernel = Kernel.from_file(case.path("cubin"))
    block = [64, 64]
    kernel.launch((8, 4), descriptor(A, M, K, block), descriptor(B, K, N, block), descriptor(C, M, N, block), M, N, K)
    try:
        kernel.launch((8, 4), descriptor(A, M, K, block, padding="nan"), descriptor(B, K, N, block),
                      descriptor(C, M, N, block), M, N, K)
    except trlaunch.ArgumentError as error:
        refused.append([case.release, str(error)])
print(json.dumps(refused))
""",
    )
    launches = iter(recorded.of("cuLaunchKernelEx"))
    assert not recorded.of("cuTensorMapEncodeTiled")
    refused = dict(recorded.json())
    assert set(refused) == {"3.4.0"}
    assert "expected a descriptor without padding='nan': this release of Triton cannot pass it" in refused["3.4.0"]
    found = cases(kernel="tma_matmul_kernel", target="cuda:80")
    assert [c.release for c in found] == list(DECOMPOSED)
    for case in found:
        slots = layout(case.text("ptx"), case.kernel)
        for nan in (False, True) if case.release != "3.4.0" else (False,):
            values = []
            for number, (address, rows, cols) in enumerate(MATRICES):
                values += [struct.pack("<Q", address), *(struct.pack("<q", n) for n in (rows, cols, cols, 1))]
                values += [bytes([nan and number == 0]), b"\0"][: DECOMPOSED[case.release]]
                values += [struct.pack("<i", n) for n in (rows, cols)] + [struct.pack("<q", n) for n in (cols, 1)]
            values += [struct.pack("<i", n) for n in (512, 256, 64)]
            expected = buffer(slots, values)
            assert bytes.fromhex(next(launches)["parameters"])[: len(expected)] == expected, str(case)


# --- scratch, shared memory, streams ---------------------------------------------------------------------------------


def test_scratch_is_allocated_aligned_filled_in_and_freed_in_stream_order(fakecuda):
    found = cases(kernel="scratch_kernel")
    recorded = run(
        fakecuda,
        """
(stream,) = streams(1)
for case in cases(kernel="scratch_kernel"):
    kernel = Kernel.from_file(case.path("cubin"), device="cuda:0")
    kernel.launch((3, 5), Pointer(BASE), Pointer(BASE + 4096), 512, 512, stream=stream)
    kernel.launch((1, 1), Pointer(BASE), Pointer(BASE + 4096), 512, 512)
print(stream)
""",
    )
    stream = int(recorded.stdout)
    calls = iter(recorded.of("cuMemAllocFromPoolAsync", "cuMemsetD8Async", "cuLaunchKernelEx", "cuMemFreeAsync"))
    for case in found:
        metadata = case.metadata
        slots = layout(case.text("ptx"), case.kernel)
        hidden = 1 if case.version <= (3, 4) else 2
        assert len(slots) == 4 + hidden
        for ctas, where in ((15, stream), (1, 0)):
            allocated, launch, freed = (next(calls) for _ in range(3))
            names = [call.name for call in (allocated, launch, freed)]
            assert names == ["cuMemAllocFromPoolAsync", "cuLaunchKernelEx", "cuMemFreeAsync"]
            assert allocated["size"] == ctas * metadata["global_scratch_size"]
            assert allocated["address"] % metadata["global_scratch_align"] == 0
            assert freed["address"] == allocated["address"]
            assert {allocated["stream"], launch["stream"], freed["stream"]} == {where}
            values = [struct.pack("<Q", BASE + n) for n in (0, 4096)] + [struct.pack("<i", 512)] * 2
            values += [struct.pack("<Q", allocated["address"])]  # and null for the profiler's
            assert bytes.fromhex(launch["parameters"]) == buffer(slots, values)
    assert next(calls, None) is None


def test_profile_scratch_is_allocated_and_cleared(fakecuda):
    recorded = run(
        fakecuda,
        """
case = find("3.6.0", "cuda:90", "add_kernel")
metadata = {**case.metadata, "profile_scratch_size": 48, "profile_scratch_align": 16}
kernel = Kernel.from_file(case.path("cubin"), metadata, device="cuda:0")
kernel.launch(10, Pointer(BASE), Pointer(BASE), Pointer(BASE), 16)
""",
    )
    allocated, cleared = recorded.only("cuMemAllocFromPoolAsync"), recorded.only("cuMemsetD8Async")
    assert (allocated["size"], cleared["size"], cleared["value"]) == (480, 480, 0)
    assert cleared["address"] == allocated["address"]
    data = bytes.fromhex(recorded.only("cuLaunchKernelEx")["parameters"])
    assert data[-16:] == struct.pack("<QQ", 0, allocated["address"])
    assert recorded.names().index("cuMemsetD8Async") < recorded.names().index("cuLaunchKernelEx")


def test_scratch_is_given_back_when_the_launch_fails(fakecuda):
    recorded = run(
        fakecuda,
        """
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "scratch_kernel").path("cubin"), device="cuda:0")
try:
    kernel.launch((1, 1), Pointer(BASE), Pointer(BASE), 512, 512)
except trlaunch.DriverError as error:
    print(error.call, error.name)
""",
        fail={"cuLaunchKernelEx": 1},
    )
    assert recorded.stdout == "cuLaunchKernelEx CUDA_ERROR_INVALID_VALUE\n"
    assert recorded.only("cuMemFreeAsync")["address"] == recorded.only("cuMemAllocFromPoolAsync")["address"]


def test_streams_of_every_kind_reach_the_launch(fakecuda):
    recorded = run(
        fakecuda,
        """
handles = streams(4)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
class Protocol:
    def __init__(self, handle): self.handle_ = handle
    def __cuda_stream__(self): return (0, self.handle_)
class Torch:
    def __init__(self, handle): self.cuda_stream = handle
class Cupy:
    def __init__(self, handle): self.ptr = handle
for make, handle in zip((Protocol, Torch, Cupy, int), handles):
    kernel.launch(1, Pointer(BASE), Pointer(BASE), Pointer(BASE), 16, stream=make(handle))
kernel.launch(1, Pointer(BASE), Pointer(BASE), Pointer(BASE), 16)
print(json.dumps(handles))
""",
    )
    assert [c["stream"] for c in recorded.of("cuLaunchKernelEx")] == [*recorded.json(), 0]


def test_launch_waits_for_the_stream_that_an_array_interface_names(fakecuda):
    recorded = run(
        fakecuda,
        """
mine, theirs = streams(2)
at = cuda("cuMemAlloc", 4096)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
array = lambda stream: CupyLike(int(at), stream=stream)
kernel.launch(1, array(theirs), array(theirs), array(None), 16, stream=mine)
kernel.launch(1, array(mine), array(mine), array(mine), 16, stream=mine)
kernel.launch(1, array(1), array(None), array(1), 16)  # 1 is the protocol's name of the default stream
print(json.dumps([mine, theirs]))
""",
    )
    mine, theirs = recorded.json()
    work = recorded.of("cuEventRecord", "cuStreamWaitEvent", "cuLaunchKernelEx")
    assert [c.name for c in work] == ["cuEventRecord", "cuStreamWaitEvent", *["cuLaunchKernelEx"] * 3]
    assert (work[0]["stream"], work[1]["stream"]) == (theirs, mine)
    assert work[0]["event"] == work[1]["event"]


# --- whose arrays ----------------------------------------------------------------------------------------------------


def test_arrays_of_every_protocol_give_their_address_and_choose_the_device(fakecuda):
    recorded = run(
        fakecuda,
        """
one, two = ([driver().allocate(65536, ordinal) for _ in range(3)] for ordinal in (0, 1))
kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("cubin"))
hopper = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
exported = [DlpackLike(a, device=(2, 1)) for a in two]
def views(addresses, ordinal):
    yield [TorchLike(a, device=f"cuda:{ordinal}") for a in addresses]
    yield [CupyLike(a) for a in addresses]
    yield [DlpackLike(a, device=(2, ordinal)) for a in addresses]
    x, y, out = addresses
    yield [TorchLike(x, device=f"cuda:{ordinal}"), CupyLike(y), DlpackLike(out, device=(2, ordinal))]
    yield [CupyLike(0, (0,)), CupyLike(addresses[1]), CupyLike(addresses[2])]
for arrays in views(two, 1):
    kernel.launch(1, *arrays, 1024)
for arrays in views(one, 0):
    hopper.launch(1, *arrays, 1024)
kernel.launch(1, *exported, 1024)
context = [int(cuda("cuDevicePrimaryCtxRetain", i)) for i in (0, 1)]
print(json.dumps([one, two, context, [e.streams for e in exported]]))
""",
    )
    one, two, contexts, streams = recorded.json()
    launches = recorded.of("cuLaunchKernelEx")
    assert len(launches) == 11
    for i, launch in enumerate(launches):
        addresses = one if 5 <= i < 10 else two
        expected = [0, *addresses[1:]] if i in (4, 9) else addresses
        assert list(struct.unpack_from("<QQQi", bytes.fromhex(launch["parameters"]))) == [*expected, 1024]
        assert launch["context"] == contexts[0 if 5 <= i < 10 else 1]
    # The protocol's number for the legacy default stream is 1; a device that is asked about must not be 0.
    assert all(set(asked) == {1} for asked in streams)


def test_device_arrays_and_their_dlpack_export(fakecuda):
    recorded = run(
        fakecuda,
        """
import numpy as np
kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("cubin"))
x = trlaunch.asarray(np.arange(64, dtype=np.float32), device="cuda:1")
y = trlaunch.empty(64, "float32", "cuda:1")
kernel.launch(1, x, y, y, 64)
again = trlaunch.asarray(x.numpy() * 2, device="cuda:1")
assert (again.numpy() == 2 * np.arange(64)).all()
assert x.__dlpack_device__() == (2, 1) and x.__cuda_array_interface__["data"] == (x.address, False)
kernel.launch(1, x, CupyLike(y.address), DlpackLike(y.address, device=(2, 1)), 64)
print(json.dumps([x.address, y.address]))
del x, y, again
""",
    )
    x, y = recorded.json()
    for launch in recorded.of("cuLaunchKernelEx"):
        assert struct.unpack_from("<QQQi", bytes.fromhex(launch["parameters"])) == (x, y, y, 64)
    freed = [call["address"] for call in recorded.of("cuMemFree")]
    assert {x, y} <= set(freed)
    assert len(freed) == 3


# --- several kernels, devices, threads -------------------------------------------------------------------------------


def test_one_kernel_on_two_devices_loads_once_on_each(fakecuda):
    recorded = run(
        fakecuda,
        """
kernel = Kernel.from_file(find("3.9.0", "cuda:80", "softmax_kernel").path("cubin"))
args = (Pointer(BASE), Pointer(BASE), 781, 781, 781)
for ordinal in (0, 1, 0, 1):
    kernel.launch(4, *args, device=f"cuda:{ordinal}")
print(json.dumps([int(cuda("cuDevicePrimaryCtxRetain", i)) for i in (0, 1)]))
""",
        devices=(80, 86),
    )
    contexts = recorded.json()
    assert [c["context"] for c in recorded.of("cuModuleLoadDataEx")] == contexts
    assert [c["context"] for c in recorded.of("cuLaunchKernelEx")] == contexts * 2
    assert {c["parameters"] for c in recorded.of("cuLaunchKernelEx")} == {
        recorded.of("cuLaunchKernelEx")[0]["parameters"]
    }


def test_eight_threads_share_two_kernels_without_mixing_arguments(fakecuda):
    recorded = run(
        fakecuda,
        """
add = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"), device="cuda:0")
softmax = Kernel.from_file(find("3.2.0", "cuda:90", "softmax_kernel").path("cubin"), device="cuda:0")
start = threading.Barrier(8)
def work(number):
    start.wait()
    for i in range(50):
        p = [Pointer(BASE + (number << 32) + 4096 * i + 16 * j) for j in range(3)]
        add.launch(number + 1, *p, 16 * (i + 1))
        softmax.launch((1, number + 1), p[0], p[1], number, i, 1000 * number + i)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for t in threads: t.start()
for t in threads: t.join()
""",
    )
    launches = recorded.of("cuLaunchKernelEx")
    assert len(launches) == 800
    assert len({c.thread for c in launches}) == 8
    seen = set()
    for launch in launches:
        data = bytes.fromhex(launch["parameters"])
        if launch["function"] == "add_kernel":
            x, y, out, n = struct.unpack_from("<QQQi", data)
            number, i = (x - BASE) >> 32, n // 16 - 1
            assert launch["grid"] == [number + 1, 1, 1]
            assert (y, out) == (x + 16, x + 32)
        else:
            out, x, number, i, total = struct.unpack_from("<QQiii", data)
            assert launch["grid"] == [1, number + 1, 1]
            assert total == 1000 * number + i
            assert x == out + 16
            assert out == BASE + (number << 32) + 4096 * i
        seen.add((launch["function"], number, i))
    assert len(seen) == 800
    assert len({c["hash"] for c in recorded.of("cuModuleLoadDataEx")}) == 2


def test_empty_grid_checks_the_arguments_and_launches_nothing(fakecuda):
    recorded = run(
        fakecuda,
        """
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"), device="cuda:0")
kernel.launch((4, 0), Pointer(BASE), Pointer(BASE), Pointer(BASE), 16)
try:
    kernel.launch((4, 0), Pointer(BASE), Pointer(BASE), Pointer(BASE), 1.5)
except trlaunch.ArgumentError as error:
    print(error)
""",
    )
    assert "expected an int for i32, found float 1.5" in recorded.stdout
    assert not recorded.of("cuLaunchKernelEx", "cuModuleLoadDataEx")


def test_neither_torch_nor_triton_is_imported(fakecuda):
    recorded = run(
        fakecuda,
        """
import sys
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "matmul_kernel").path("cubin"), device="cuda:0")
kernel.launch(1, Pointer(BASE), Pointer(BASE), Pointer(BASE), 512, 512, 512, 512, 512, 512)
print(json.dumps(sorted({"torch", "triton", "rich", "typer"} & set(sys.modules))))
""",
    )
    assert recorded.json() == []
    recorded.only("cuLaunchKernelEx")


def test_resources_come_from_the_driver_and_the_image(fakecuda):
    recorded = run(
        fakecuda,
        """
out = []
for name in ("matmul_kernel", "cluster_matmul_kernel"):
    kernel = Kernel.from_file(find("3.2.0", "cuda:90", name).path("cubin"), device="cuda:0")
    r = kernel.resources()
    out.append([r.registers, r.local_bytes, r.dynamic_shared, r.threads, r.ctas_per_multiprocessor])
print(json.dumps(out))
""",
    )
    # Registers and local bytes are what the fake driver says of every kernel, the rest is the metadata's.
    assert recorded.json() == [[32, 8, 24576, 128, 9], [32, 8, 18432, 128, 1]]
    assert recorded.only("cuOccupancyMaxActiveClusters")["grid"] == [1, 2, 1]
    assert json.dumps(recorded.only("cuOccupancyMaxActiveClusters")["attributes"]["CLUSTER_DIMENSION"]) == "[1, 2, 1]"
