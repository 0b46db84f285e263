"""The audit before a launch: what is wrong is refused by name before the driver is called, what is right is not."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections import Counter

import pytest

from tests.corpus import cases, find, releases
from trlaunch.check import Finding, Report, Subject, audit, audit_grid, runs_on
from trlaunch.cuda.image import read_image
from trlaunch.driver import Device, DeviceProperties
from trlaunch.metadata import Metadata
from trlaunch.signature import assemble, from_func
from trlaunch.target import Target

RELEASES = releases()
NO_PTXAS = {"TRLAUNCH_PTXAS": "/nonexistent/ptxas"}  # names one ptxas to the exclusion of all others

SETUP = """
import json, shutil, tempfile, warnings
from pathlib import Path
import trlaunch
from trlaunch import CheckError, Kernel, Pointer, TrlaunchError
from tests.corpus import cases, find, releases

BASE = 0x7F40_0000_0000
refused = []

def values(case):
    return [Pointer(BASE) if p.type.startswith("*") else 1.5 if p.type == "fp32" else p.value for p in case.params]

def attempt(tag, case, *, level="cubin", metadata=None, grid=(1, 1), path=None, args=None, device="cuda:0", **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", trlaunch.FallbackWarning)
        try:
            kernel = Kernel.from_file(path or case.path(level), metadata, device=device, **more)
            kernel.launch(grid, *(values(case) if args is None else args))
        except TrlaunchError as error:
            rules = sorted({f.rule for f in error.report.errors}) if isinstance(error, CheckError) else []
            refused.append([tag, case.release, case.name, level, type(error).__name__, rules, str(error)])
        else:
            refused.append([tag, case.release, case.name, level, None, [], "launched"])
"""


@dataclasses.dataclass(frozen=True)
class Refused:
    tag: str
    release: str
    kernel: str
    level: str
    error: str | None
    rules: list[str]
    message: str


def attempts(fakecuda, script, **options):
    recorded = fakecuda.run(SETUP + script + "\nprint(json.dumps(refused))\n", **options)
    return [Refused(*entry) for entry in recorded.json()], recorded


# --- the measured table ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrong_launches(fakecuda):
    """Every wrong launch that was measured on a GPU (block and shared memory), for both levels of every release."""
    return attempts(
        fakecuda,
        """
for release in releases():
    for name in ("matmul_kernel", "softmax_kernel", "softmax_kernel_4096"):
        case = find(release, "cuda:90", name)
        good = case.metadata
        for level in ("cubin", "ptx"):
            for warps in (1, 2, 3, 5, 8, 32):
                attempt(f"warps {warps}", case, level=level, metadata={**good, "num_warps": warps})
            for shared in (0, 1024, 16384) if name == "matmul_kernel" else (0,):
                attempt(f"shared={shared}", case, level=level, shared=shared)
                attempt(f"JSON shared {shared}", case, level=level, metadata={**good, "shared": shared})
""",
        env=NO_PTXAS,
    )


def test_every_measured_wrong_launch_is_refused_before_the_driver_is_called(wrong_launches):
    refused, recorded = wrong_launches
    assert not recorded.of("cuLaunchKernelEx", "cuModuleLoadDataEx")
    assert Counter((r.release, r.kernel) for r in refused) == {
        (release, name): 24 if name == "matmul_kernel" else 16
        for release in RELEASES
        for name in ("matmul_kernel", "softmax_kernel", "softmax_kernel_4096")
    }
    assert {r.error for r in refused} == {"CheckError"}


def test_wrong_blocks_say_both_numbers_and_where_they_come_from(wrong_launches):
    found = [r for r in wrong_launches[0] if r.tag.startswith("warps")]
    assert len(found) == 10 * 3 * 2 * 6
    for r in found:
        warps = int(r.tag.split()[1])
        directive = "MAX_THREADS" if r.release in ("3.0.0", "3.1.0") else "REQNTID"
        assert "block" in r.rules
        assert (
            f"block: the launch has {32 * warps} threads a block (num_warps {warps} x 32), the {r.level} was compiled "
            f"for exactly 128 ({directive}); a Triton kernel runs with the block it was compiled for: "
            f"give the JSON that was written with this file" in r.message
        )
        assert r.message.startswith(f"{find(r.release, 'cuda:90', r.kernel).kernel} was not launched on cuda:0: ")


def test_too_little_shared_memory_says_both_numbers(wrong_launches):
    found = [r for r in wrong_launches[0] if "shared" in r.tag]
    assert {r.tag for r in found} == {f"{how}{n}" for how in ("shared=", "JSON shared ") for n in (0, 1024, 16384)}
    for r in found:
        given = int(r.tag.rpartition(" " if "JSON" in r.tag else "=")[2])
        stated = find(r.release, "cuda:90", r.kernel).metadata["shared"]
        assert "shared" in r.rules
        if r.tag.startswith("shared="):
            expected = (
                f"shared={given} bytes were given, the metadata says that the kernel needs {stated}; leave shared="
            )
        elif given == 0:
            expected = f"the {r.level} uses dynamic shared memory, the launch has 0 bytes of it (the metadata's shared)"
        else:
            expected = (
                f"the TTGIR beside the {r.level} allocates 24576 bytes of shared memory at once, the launch has {given}"
            )
        assert expected in r.message


def test_ptx_newer_than_the_driver_without_ptxas_is_refused_with_the_way_out(fakecuda):
    refused, recorded = attempts(
        fakecuda,
        """
for release in releases():
    for name in ("matmul_kernel", "softmax_kernel"):
        attempt("ptx", find(release, "cuda:90", name), level="ptx")
""",
        env=NO_PTXAS,
        driver_version=13000,
    )
    for r in refused:
        if r.release != "3.9.0":
            assert r.error is None
            continue
        assert r.rules == ["ptx-version"]
        assert "ptx-version: PTX 9.4, the driver (CUDA 13.0) compiles up to 9.0; install a newer ptxas" in r.message
        assert "or give the cubin" in r.message
    assert len(recorded.of("cuLaunchKernelEx")) == 18
    assert {c["format"] for c in recorded.of("cuModuleLoadDataEx")} == {"text"}


def test_old_driver_refuses_every_ptx_it_cannot_compile(fakecuda):
    refused, recorded = attempts(
        fakecuda,
        'for release in releases():\n    attempt("ptx", find(release, "cuda:80", "add_kernel"), level="ptx")',
        env=NO_PTXAS,
        devices=(80,),
        driver_version=12040,
    )
    # PTX 8.4 up to 3.3, 8.7 up to 3.7, 8.8 then; CUDA 12.4 compiles 8.4.
    assert [r.release for r in refused if r.error is None] == ["3.0.0", "3.1.0", "3.2.0", "3.3.1"]
    assert all(r.rules == ["ptx-version"] for r in refused if r.error)
    assert len(recorded.of("cuLaunchKernelEx")) == 4


# --- pairs that do not belong together -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torn_pairs(fakecuda):
    refused, recorded = attempts(
        fakecuda,
        """
import base64
for release in releases():
    matmul, add = find(release, "cuda:90", "matmul_kernel"), find(release, "cuda:90", "add_kernel")
    attempt("other kernel", matmul, metadata=add.path("json"))
    attempt("other target", matmul, metadata=find(release, "cuda:80", "matmul_kernel").path("json"))
    attempt("device too new", find(release, "cuda:80", "add_kernel"))
    attempt("device too old", add, device="cuda:1")
    attempt("unknown symbol", matmul, name="matmul_kernal")
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder, "matmul_kernel.cubin")
        shutil.copy(matmul.path("cubin"), alone)
        attempt("no JSON", matmul, path=alone, signature=[p.type for p in matmul.params])
        attempt("nothing beside", matmul, path=alone)
        for tag, key in (("torn folder", "ab" * 32), ("own folder", matmul.metadata["hash"])):
            for named in (key, base64.b32encode(bytes.fromhex(key)).decode().rstrip("=")):
                cache = Path(folder, named)
                cache.mkdir()
                for level in ("json", "cubin", "ttir", "ttgir"):
                    shutil.copy(matmul.path(level), cache)
                attempt(tag, matmul, path=cache / "matmul_kernel.cubin")
for one, other in (("3.2.0", "3.6.0"), ("3.6.0", "3.4.0"), ("3.4.0", "3.1.0"), ("3.3.1", "3.9.0")):
    case = find(one, "cuda:90", "matmul_kernel")
    attempt("other release " + other, case, metadata=find(other, "cuda:90", "matmul_kernel").path("json"))
""",
        devices=(90, 80),
    )
    own = [r for r in refused if r.tag == "own folder"]
    assert len(own) == 20
    assert {r.error for r in own} == {None}
    assert len(recorded.of("cuLaunchKernelEx")) == 20
    return [r for r in refused if r.tag != "own folder"]


def tagged(found, tag):
    chosen = [r for r in found if r.tag == tag]
    assert [r.release for r in chosen][:: len(chosen) // 10] == list(RELEASES)
    assert all(r.error is not None for r in chosen)
    return chosen


def test_json_of_another_kernel(torn_pairs):
    for r in tagged(torn_pairs, "other kernel"):
        assert r.error == "CheckError"
        assert {"name", "shared"} <= set(r.rules)
        assert "name: the kernel is 'matmul_kernel', the metadata's name is 'add_kernel'; give the JSON" in r.message


def test_json_of_another_target(torn_pairs):
    for r in tagged(torn_pairs, "other target"):
        assert "metadata-target" in r.rules
        assert "metadata-target: the artifact is for cuda:90" in r.message
        assert "the metadata's target is cuda:80; the two are not of one compilation" in r.message


def test_wrong_architecture(torn_pairs):
    for r in tagged(torn_pairs, "device too new"):
        assert r.rules == ["architecture"]
        assert "the cubin is for sm_80, cuda:0 (Fake GPU 0 (sm_90)) is cuda:90: a sm_80 binary runs on" in r.message
    for r in tagged(torn_pairs, "device too old"):
        assert r.rules == ["architecture"]
        assert "cuda:1 (Fake GPU 1 (sm_80)) is cuda:80" in r.message
        assert "compile for this device, or give the PTX of a lower architecture without suffix" in r.message


def test_unknown_symbol_shows_the_nearest(torn_pairs):
    for r in tagged(torn_pairs, "unknown symbol"):
        assert r.error == "ImageError"
        assert "no kernel 'matmul_kernal' in this cubin: it holds 'matmul_kernel'" in r.message


def test_missing_json(torn_pairs):
    for r in tagged(torn_pairs, "no JSON"):
        assert r.error == "CheckError"
        assert r.rules == ["shared"]
        assert "stated by Triton's JSON alone, and there is none; give the JSON, or shared=<bytes>" in r.message
    for r in tagged(torn_pairs, "nothing beside"):
        assert r.error == "SignatureError"
        assert "nothing tells how many of them are the hidden scratch pointers" in r.message
        assert "give Triton's JSON, or signature=" in r.message


def test_torn_cache_folder(torn_pairs):
    for r in tagged(torn_pairs, "torn folder"):
        stated = find(r.release, "cuda:90", "matmul_kernel").metadata["hash"]
        assert r.rules == ["hash"]
        assert (
            f"the cache folder is named for hash {('ab' * 32)[:16]}..., the metadata's hash is {stated[:16]}"
            in r.message
        )
        assert "the folder was put together from two compilations" in r.message


def test_json_of_another_release_has_another_number_of_hidden_parameters(torn_pairs):
    found = [r for r in torn_pairs if r.tag.startswith("other release")]
    assert len(found) == 4
    for r in found:
        assert r.error == "SignatureError"
        assert "the same kernel of the same compilation" in r.message


def test_clusters_grids_cooperative_launches_tensor_memory_and_scratch(fakecuda):
    refused, recorded = attempts(
        fakecuda,
        """
cluster, cooperative = find("3.6.0", "cuda:90", "cluster_matmul_kernel"), find("3.6.0", "cuda:90", "cooperative_kernel")
add, matmul = find("3.6.0", "cuda:90", "add_kernel"), find("3.6.0", "cuda:90", "matmul_kernel")
good = add.metadata
attempt("cluster shape", cluster, metadata={**cluster.metadata, "num_ctas": 4})
attempt("cluster of one", cluster, metadata={**cluster.metadata, "num_ctas": 1})
attempt("grid y", add, grid=(1, 65536))
attempt("grid z", add, grid=(1, 1, 65536))
attempt("grid x", add, grid=(2**31,))
attempt("cluster multiplies", cluster, grid=(2**30,))
attempt("cooperative", cooperative, grid=(132 * 16 + 1,))
attempt("cooperative fits", cooperative, grid=(132 * 16,))
attempt("tmem", matmul, metadata={**matmul.metadata, "tmem_size": 128})
attempt("tmem too large", matmul, metadata={**matmul.metadata, "tmem_size": 1024})
attempt("shared too large", matmul, metadata={**matmul.metadata, "shared": 232449})
attempt("shared in vain", add, metadata={**good, "shared": 1024})
attempt("scratch alignment", add, metadata={**good, "global_scratch_size": 8, "global_scratch_align": 24})
attempt("scratch alignment too large", add, metadata={**good, "global_scratch_size": 8, "global_scratch_align": 512})
""",
    )
    by = {r.tag: r for r in refused}
    assert len(recorded.of("cuLaunchKernelEx")) == 1
    assert by.pop("cooperative fits").error is None
    expected = {
        "cluster shape": ("cluster", "was compiled for clusters of (2, 1, 1), the metadata says (4, 1, 1)"),
        "cluster of one": ("cluster", "was compiled for clusters of (2, 1, 1), the metadata says (1, 1, 1)"),
        "grid y": ("grid", "65536 CTAs along y, cuda:0 allows 65535; put the large axis on x"),
        "grid z": ("grid", "65536 CTAs along z, cuda:0 allows 65535"),
        "grid x": ("grid", "2147483648 CTAs along x, cuda:0 allows 2147483647"),
        "cluster multiplies": ("grid", "2147483648 CTAs along x, cuda:0 allows 2147483647"),
        "cooperative": (
            "cooperative",
            "a cooperative grid of 2113 CTAs, cuda:0 holds 2112 at a time (16 on each of 132",
        ),
        "tmem": ("tmem", "the kernel uses tensor memory, cuda:90 has none; compile for sm_100"),
        "tmem too large": ("tmem", "1024 columns of tensor memory, an SM has 512"),
        "shared too large": (
            "shared",
            "232449 bytes of shared memory a block, cuda:0 allows 232448; compile with smaller",
        ),
        "shared in vain": ("shared", "the cubin uses no dynamic shared memory, the launch asks for 1024 bytes"),
        "scratch alignment": ("scratch", "global_scratch_align is 24: expected a power of two; the JSON is damaged"),
    }
    for tag, (rule, message) in expected.items():
        assert by[tag].rules == [rule], tag
        assert message in by[tag].message
    last = by["scratch alignment too large"]
    assert last.error is not None
    assert "512" in last.message
    assert set(by) == {*expected, last.tag}


def test_cluster_of_another_shape_without_compiled_clusters_is_held_against_the_device(fakecuda):
    # Up to 3.5 the binary does not state its cluster.
    refused, recorded = attempts(
        fakecuda,
        """
add = find("3.2.0", "cuda:80", "add_kernel")
attempt("none", add, metadata={**add.metadata, "num_ctas": 2, "cluster_dims": [2, 1, 1]})
""",
        devices=(80,),
    )
    assert refused[0].rules == ["cluster"]
    assert (
        "clusters of (2, 1, 1), cuda:0 (cuda:80) has none; clusters need compute capability 9.0" in refused[0].message
    )
    assert not recorded.of("cuLaunchKernelEx")


# --- check="warn", and no false alarm --------------------------------------------------------------------------------


def test_warn_lets_a_wrong_launch_through_and_says_so_at_the_callers_line(fakecuda):
    recorded = fakecuda.run(
        SETUP
        + """
import trlaunch.cuda.image, trlaunch.emulator.image
case = find("3.6.0", "cuda:90", "softmax_kernel")
kernel = Kernel.from_file(case.path("cubin"), {**case.metadata, "num_warps": 2}, device="cuda:0", check="warn")
report = kernel.check((4,))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    kernel.launch((4,), *values(case))
    kernel.launch((4,), *values(case))
print(json.dumps([[w.category.__name__, w.filename, str(w.message)] for w in seen] + [report.ok]))
"""
    )
    (warning, ok) = recorded.json()
    assert warning[:2] == ["CheckWarning", "<string>"]
    assert "block: the launch has 64 threads a block (num_warps 2 x 32)" in warning[2]
    assert ok is False
    assert [c["block"] for c in recorded.of("cuLaunchKernelEx")] == [[64, 1, 1]] * 2


@pytest.fixture(scope="module")
def right_launches(fakecuda):
    recorded = fakecuda.run(
        SETUP
        + """
DEVICE, out = {"cuda:90": "cuda:0", "cuda:80": "cuda:1"}, []
warnings.simplefilter("ignore", trlaunch.FallbackWarning)
for case in cases():
    for level in ("cubin", "ptx"):
        kernel = Kernel.from_file(case.path(level), device=DEVICE[case.target])
        try:
            report = kernel.check((2, 1, 1))
        except trlaunch.AssemblerError as error:
            out.append([str(case), level, False, ["assembler"], str(error), [], 0])
            continue
        out.append([str(case), level, report.ok, [f.rule for f in report.errors], str(report),
                    [[p.name, p.type, p.size] for p in kernel.signature.user], len(kernel.signature.hidden)])
print(json.dumps(out))
""",
        devices=(90, 80),
        driver_version=13000,
        env=NO_PTXAS,
    )
    assert not recorded.of("cuLaunchKernelEx")
    return recorded.json()


def test_no_false_alarm_about_any_compiled_kernel(right_launches):
    assert len(right_launches) == 2 * len(cases()) > 400
    for name, level, ok, rules, report, *_ in right_launches:
        if level == "cubin":
            assert ok, report
        elif name == "3.3.1-cuda90-scratch_kernel":  # PTX that newer compilers misread, the driver's too
            assert rules == ["assembler"], report
        elif name.startswith("3.9.0-cuda90"):  # newer than the driver, and no ptxas
            assert "ptx-version" in rules, report
        elif "-cuda90-tma_matmul" in name and not name.startswith(("3.0", "3.1")):
            assert rules == ["parameters"], report
            assert "where it would lay out a CUtensorMap PTX does not say" in report
        else:
            assert ok, report


def test_signature_of_every_compiled_kernel_is_what_was_compiled(right_launches):
    by = {(name, level): (user, hidden) for name, level, _, _, _, user, hidden in right_launches}
    for case in cases():
        hidden = {(3, 0): 0, (3, 1): 0, (3, 2): 0, (3, 3): 1, (3, 4): 1}.get(case.version, 2)
        assert by[str(case), "cubin"][1] == hidden
        if str(case) != "3.3.1-cuda90-scratch_kernel":
            assert by[str(case), "ptx"] == by[str(case), "cubin"]
        if case.name == "tma_matmul_kernel":
            continue  # descriptors take several slots: tests/cuda/test_launch_bytes.py
        user = by[str(case), "cubin"][0]
        assert len(user) == len(case.params)
        for (name, type_name, _), param in zip(user, case.params, strict=True):
            expected = param.type.lstrip("*").replace("u", "i")  # MLIR has no signs
            assert type_name.lstrip("*") == expected, (str(case), param)
            assert type_name.startswith("*") == param.type.startswith("*")
            assert name is None or name.partition(".")[0] == param.name.partition(".")[0]
            assert (name is not None) == (case.version >= (3, 5))


# --- rules by themselves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target,device,text,runs",
    [
        ("sm_80", "sm_80", False, True),
        ("sm_80", "sm_86", False, True),
        ("sm_86", "sm_80", False, False),
        ("sm_80", "sm_90", False, False),
        ("sm_80", "sm_90", True, True),
        ("sm_90", "sm_80", True, False),
        ("sm_90a", "sm_90", False, True),
        ("sm_90a", "sm_100", False, False),
        ("sm_90a", "sm_100", True, False),
        ("sm_100a", "sm_103", False, False),
        ("sm_100f", "sm_103", False, True),
        ("sm_100f", "sm_103", True, True),
        ("sm_100f", "sm_120", True, False),
        ("sm_103f", "sm_100", False, False),
        ("sm_120", "sm_121", False, True),
        ("gfx942", "gfx942", False, True),
        ("gfx942", "gfx90a", False, False),
        ("gfx942", "sm_90", False, False),
    ],
)
def test_which_code_runs_where(target, device, text, runs):
    reason = runs_on(Target.parse(target), Target.parse(device), text=text)
    assert (reason is None) == runs
    assert reason is None or reason.strip()


def subject(case, **changes):
    image = read_image(case.bytes("cubin"))
    metadata = Metadata.from_dict(case.metadata)
    entry = image.kernels[case.kernel]
    signature = assemble(entry, "cubin", metadata, [from_func(case.text("ttir"), case.kernel, "ttir")])
    device = DeviceProperties(
        Device("cuda"),
        "GPU",
        Target.parse("sm_90"),
        max_shared_optin=232448,
        supports_clusters=True,
        multiprocessors=132,
    )
    made = Subject(
        image=image, entry=entry, source_target=image.target, metadata=metadata, signature=signature, device=device,
        shared=metadata.shared, threads=32 * metadata.num_warps,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def errors(findings):
    return {f.rule: f.message for f in findings if f.severity == "error"}


MATMUL = find("3.6.0", "cuda:90", "matmul_kernel")


def test_block_larger_than_the_device_allows():
    made = subject(MATMUL)
    entry = dataclasses.replace(made.entry, required_block=(2048, 1, 1))
    assert "2048 threads a block" in errors(audit(dataclasses.replace(made, entry=entry, threads=2048)))["block"]


def test_nothing_states_the_block():
    made = subject(MATMUL)
    entry = dataclasses.replace(made.entry, required_block=None, max_threads=None)
    assert (
        "how many threads a block has" in errors(audit(dataclasses.replace(made, entry=entry, threads=None)))["block"]
    )


def test_static_shared_memory_counts_against_the_limit_and_the_drivers_own_does_not():
    made = subject(MATMUL)
    room = 232448 - made.shared
    for own, fits in ((room, True), (room + 1, False)):
        entry = dataclasses.replace(made.entry, static_shared=1024 + own, reserved_shared=1024)
        assert ("shared" in errors(audit(dataclasses.replace(made, entry=entry)))) is not fits


def test_parameters_that_overlap_or_leave_the_buffer():
    made = subject(MATMUL)
    params = list(made.signature.params)
    params[1] = dataclasses.replace(params[1], offset=4)
    broken = dataclasses.replace(made.signature, params=tuple(params))
    assert (
        "parameter 1 'b_ptr' (*fp16) at offset 4 lies inside parameter 0 'a_ptr' (*fp16), which ends at 8"
        in (errors(audit(dataclasses.replace(made, signature=broken)))["parameters"])
    )
    cut = dataclasses.replace(made.signature, param_bytes=40)
    assert "the image states a buffer of 40" in errors(audit(dataclasses.replace(made, signature=cut)))["parameters"]


@pytest.mark.parametrize("folder", ["x" * 52, "é" * 52, "A" * 52, "0" * 64, "cuda90", "", "a" * 52, "1" * 52])
def test_any_folder_name_is_read(folder):
    key = None
    if folder == "A" * 52:
        key = base64.b32decode(folder + "====").hex()
    elif len(folder) == 64:
        key = folder
    found = errors(audit(subject(MATMUL, folder=folder)))
    assert ("hash" in found) == (key is not None)


def test_clusters_beyond_what_is_portable_or_possible():
    made = subject(MATMUL)
    for ctas, severity in ((8, "ok"), (16, "note")):
        metadata = dataclasses.replace(made.metadata, num_ctas=ctas, cluster=(ctas, 1, 1))
        entry = dataclasses.replace(made.entry, cluster=None)
        found = audit(dataclasses.replace(made, metadata=metadata, entry=entry))
        assert [f.severity for f in found if f.rule == "cluster"] == [severity]
    limited = dataclasses.replace(entry, max_cluster=8)
    found = errors(audit(dataclasses.replace(made, metadata=metadata, entry=limited)))
    assert "clusters of 16 CTAs, at most 8 are possible" in found["cluster"]


def test_cooperative_occupancy_is_asked_only_when_the_grid_is_possible():
    asked = []
    made = subject(MATMUL)

    def occupancy():
        asked.append(1)
        return 2

    assert "grid" in errors(audit_grid(made, (1, 70000, 1), True, occupancy))
    assert not asked
    assert errors(audit_grid(made, (264, 1, 1), True, occupancy)) == {}
    assert "a cooperative grid of 265 CTAs" in errors(audit_grid(made, (265, 1, 1), True, occupancy))["cooperative"]
    assert errors(audit_grid(made, (10**6, 1, 1), False, occupancy)) == {}
    assert len(asked) == 2


def test_report_prints_and_serialises():
    report = Report("k (cubin) on cuda:0", (Finding("a", "ok", "fine"), Finding("b", "error", "bad", "do this")))
    assert not report.ok
    assert str(report) == "k (cubin) on cuda:0\n  ok      a: fine\n  error   b: bad; do this"
    assert json.loads(json.dumps(report.to_dict())) == {
        "title": "k (cubin) on cuda:0",
        "ok": False,
        "findings": [
            {"rule": "a", "severity": "ok", "message": "fine", "hint": ""},
            {"rule": "b", "severity": "error", "message": "bad", "hint": "do this"},
        ],
    }
