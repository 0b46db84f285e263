"""Kernels: where they come from, what they say of themselves, and launches on the emulator with the very same call."""

from __future__ import annotations

import ast
import json
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trlaunch
from tests.arrays import TorchLike
from tests.corpus import cases, find
from trlaunch import Kernel
from trlaunch.errors import (
    ArgumentError,
    ArtifactError,
    CheckError,
    DeviceUnavailable,
    FallbackWarning,
    ImageError,
    MetadataError,
    SignatureError,
    TrlaunchError,
)

ADD = find("3.6.0", "cuda:80", "add_kernel")
MATMUL = find("3.6.0", "cuda:80", "matmul_kernel")


def add_arguments(n=1000):
    x, y = np.random.default_rng(1).standard_normal((2, n)).astype(np.float32)
    return x, y, np.zeros_like(x)


def aligned(array):
    """The array at an address that is a multiple of 64: kernels are specialised for 16."""
    memory = np.zeros(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    out = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


def launch_add(kernel, **more):
    x, y, out = map(aligned, add_arguments(1024))
    block = dict(ADD.constexprs)["BLOCK"]
    kernel.launch(-(-1024 // block), x, y, out, 1024, **more)
    np.testing.assert_array_equal(out, x + y)


# --- sources ---------------------------------------------------------------------------------------------------------


def test_from_file_bytes_and_cache_give_the_same_kernel(tmp_path):
    made = [
        Kernel.from_file(ADD.path("ptx"), device="emulator"),
        Kernel.from_file(str(ADD.path("ptx")), ADD.path("json"), device="emulator"),
        Kernel.from_file(ADD.path("ptx"), ADD.metadata, name="add_kernel", device="emulator"),
        Kernel.from_bytes(ADD.bytes("ptx"), ADD.metadata, device="emulator"),
        Kernel.from_bytes(ADD.text("ptx"), ADD.path("json"), level="ptx", device="emulator"),
    ]
    folder = tmp_path / "cache"
    shutil.copytree(ADD.folder, folder)
    (folder / "case.json").unlink()
    made += [Kernel.from_cache(folder, level="ptx", device="emulator"), Kernel.from_cache(folder, device="emulator")]
    for kernel in made[:-1]:
        assert (kernel.name, str(kernel.level), str(kernel.target)) == ("add_kernel", "ptx", "cuda:80")
        launch_add(kernel)
    with pytest.warns(FallbackWarning, match="add_kernel.cubin needs a GPU: add_kernel.ptx beside it is executed"):
        launch_add(made[-1])


def test_what_a_kernel_says_of_itself():
    kernel = Kernel.from_file(MATMUL.path("cubin"), device="emulator")
    assert repr(kernel) == "trlaunch.Kernel('matmul_kernel', cubin, cuda:80)"
    assert (kernel.threads, kernel.shared, str(kernel.device)) == (128, MATMUL.metadata["shared"], "emulator")
    assert [p.name for p in kernel.signature.user] == [p.name for p in MATMUL.params]
    assert kernel.signature.sources[0] == "cubin"


def test_resources_on_the_emulator():
    kernel = Kernel.from_file(MATMUL.path("ptx"), device="emulator")
    found = kernel.resources()
    assert (found.threads, found.dynamic_shared) == (128, MATMUL.metadata["shared"])
    wrong = Kernel.from_file(MATMUL.path("ptx"), {**MATMUL.metadata, "num_warps": 2}, device="emulator")
    with pytest.raises(
        CheckError, match="matmul_kernel cannot run on emulator: block: the launch has 64 threads a block"
    ):
        wrong.resources()


# --- launches on the emulator ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(kernel="add_kernel", target="cuda:80"), ids=str)
def test_add_of_every_release_from_ptx(case):
    kernel = Kernel.from_file(case.path("ptx"), device="emulator")
    assert kernel.check((4, 1, 1)).ok
    launch_add(kernel)


def test_names_tuples_and_an_empty_grid():
    case = find("3.6.0", "cuda:80", "tuple_kernel")
    kernel = Kernel.from_file(case.path("ptx"), device="emulator")
    x, y, out = map(aligned, add_arguments(1024))
    grid = -(-1024 // case.constexprs["BLOCK"])
    kernel.launch((0, 1), (x, y), (2.0, 3), out, 1024)
    assert not out.any()
    kernel.launch(grid, (x, y), n_elements=1024, out_ptr=out, scales=(2.0, 3))
    np.testing.assert_allclose(out, x * 2 + y * 3 + 1, rtol=1e-6)


def test_wrong_launches_are_refused_on_the_emulator_too():
    kernel = Kernel.from_file(ADD.path("ptx"), {**ADD.metadata, "num_warps": 8}, device="emulator")
    with pytest.raises(CheckError) as caught:
        launch_add(kernel)
    assert [f.rule for f in caught.value.report.errors] == ["block"]
    assert not caught.value.report.ok
    assert "add_kernel was not launched on emulator: block: the launch has 256 threads a block" in str(caught.value)


def test_read_only_arrays_are_inputs_and_places_are_checked():
    kernel = Kernel.from_file(ADD.path("ptx"), device="emulator")
    x, y, out = map(aligned, add_arguments(1024))
    x.flags.writeable = False
    block = ADD.constexprs["BLOCK"]
    kernel.launch(-(-1024 // block), x, y, out, 1024)
    with pytest.raises(trlaunch.Fault, match="in 'out_ptr', which is read-only"):
        kernel.launch(-(-1024 // block), y, y, x, 1024)
    with pytest.raises(ArgumentError, match="a tensor in host memory"):
        kernel.launch(1, TorchLike(0x1000), y, out, 1024)


def test_cubin_without_ptx_beside_it_says_what_is_missing(tmp_path):
    for level in ("cubin", "json"):
        shutil.copy(ADD.path(level), tmp_path)
    kernel = Kernel.from_file(tmp_path / "add_kernel.cubin", signature=[p.type for p in ADD.params], device="emulator")
    with pytest.raises(ArtifactError) as caught:
        launch_add(kernel)
    assert (
        "add_kernel.cubin is a cubin and the emulator executes PTX: expected add_kernel.ptx beside it, found none"
        in str(caught.value)
    )
    assert "give the .ptx, or run on a GPU" in str(caught.value)


def test_device_arrays_choose_the_emulator_without_being_told():
    kernel = Kernel.from_file(ADD.path("ptx"))
    x, y, _ = add_arguments(1024)
    there = [trlaunch.asarray(a, device="emulator") for a in (x, y)]
    out = trlaunch.empty(1024, "fp32", "emulator")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel.launch(-(-1024 // ADD.constexprs["BLOCK"]), *there, out, 1024)
    np.testing.assert_array_equal(out.numpy(), x + y)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(), (1, 2, 3, 4), -1, (1, -1), 1.5, "4", None, (1, None), {}, object()])
def test_grids_that_are_none(grid):
    kernel = Kernel.from_file(ADD.path("ptx"), device="emulator")
    with pytest.raises(ArgumentError, match="expected an int or one to three ints, none negative"):
        kernel.launch(grid)
    if grid is not None:
        with pytest.raises(ArgumentError, match="expected an int or one to three ints"):
            kernel.check(grid)


@pytest.mark.parametrize("shared", [-1, 1.5, "0", True])
def test_shared_that_is_no_size(shared):
    with pytest.raises(ArgumentError, match="expected a number of bytes"):
        Kernel.from_file(ADD.path("ptx"), shared=shared)


def test_options_that_are_none():
    with pytest.raises(ArgumentError, match="check='off': expected 'error' or 'warn'"):
        Kernel.from_file(ADD.path("ptx"), check="off")
    with pytest.raises(DeviceUnavailable, match="device 'gpu' is not understood"):
        Kernel.from_file(ADD.path("ptx"), device="gpu")
    with pytest.raises(ImageError, match="no kernel 'mul' in this ptx: it holds 'add_kernel'"):
        Kernel.from_file(ADD.path("ptx"), name="mul")
    with pytest.raises(MetadataError, match="cannot be read"):
        Kernel.from_file(ADD.path("ptx"), "nowhere.json")
    with pytest.raises(
        SignatureError, match=r"add_kernel in add_kernel.cubin: .*contradict each other about parameter 0"
    ):
        Kernel.from_file(ADD.path("cubin"), signature=["i32", "*fp32", "*fp32", "i32"])


def test_contradicting_siblings_are_refused_at_once(tmp_path):
    shutil.copytree(ADD.folder, tmp_path, dirs_exist_ok=True)
    text = ADD.text("ttir").replace("%n_elements: i32", "%n_elements: i64")
    assert text != ADD.text("ttir")
    (tmp_path / "add_kernel.ttir").write_text(text)
    with pytest.raises(SignatureError) as caught:
        Kernel.from_file(tmp_path / "add_kernel.cubin")
    assert "ttir and " in str(caught.value)
    assert "about parameter 3 'n_elements': i64 takes 8 bytes, found 4; the files are not of one compilation" in str(
        caught.value
    )


def test_no_gpu_and_no_device_given_falls_back_to_the_emulator_and_says_so(fakecuda):
    recorded = fakecuda.run(
        """
        import json, warnings
        import numpy as np
        from trlaunch import Kernel
        from tests.corpus import find
        from tests.test_kernel import launch_add
        seen = []
        for level in ("ptx", "cubin"):
            kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path(level))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                launch_add(kernel)
            seen += [[w.category.__name__, w.filename, str(w.message)] for w in caught]
        print(json.dumps(seen))
        """,
        devices=(),
    )
    seen = recorded.json()
    assert [s[0] for s in seen] == ["FallbackWarning"] * 2  # that there is no GPU is said once
    assert {s[1].rpartition("/")[2] for s in seen} == {"test_kernel.py"}
    assert seen[0][2].startswith("no GPU, so the emulator is used (")
    assert seen[1][2] == "add_kernel.cubin needs a GPU: add_kernel.ptx beside it is executed by the emulator"


def test_one_kernel_on_cuda_and_the_emulator(fakecuda):
    recorded = fakecuda.run(
        """
        import json, warnings
        from trlaunch import Kernel, Pointer
        from tests.corpus import find
        from tests.test_kernel import launch_add
        warnings.simplefilter("ignore")
        kernel = Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("cubin"))
        launch_add(kernel, device="emulator")
        kernel.launch(7, Pointer(4096), Pointer(8192), Pointer(0), 16, device="cuda:0")
        launch_add(kernel, device="emulator")
        print(kernel.device)
        """,
        devices=(80,),
    )
    assert recorded.only("cuLaunchKernelEx")["grid"] == [7, 1, 1]
    assert recorded.stdout == "cuda:0\n"


def test_package_imports_nothing_heavy_for_a_launch_on_the_emulator(fakecuda):
    recorded = fakecuda.run(
        """
        import sys
        from trlaunch import Kernel
        from tests.corpus import find
        from tests.test_kernel import launch_add
        launch_add(Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("ptx"), device="emulator"))
        print(sorted({"torch", "triton", "cuda", "rich", "typer", "elftools"} & set(sys.modules)))
        """,
        devices=(),
    )
    assert ast.literal_eval(recorded.stdout) == []


# --- any input -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["cubin", "ptx"]), st.data())
def test_damaged_binaries_are_read_or_refused(level, data):
    content = bytearray(ADD.bytes(level))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        kernel = Kernel.from_bytes(bytes(content), ADD.metadata, device="emulator")
        str(kernel.check((1, 1, 1)) if level == "ptx" else kernel.signature.table())
    except TrlaunchError as error:
        assert str(error)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted(ADD.metadata)), st.none() | st.integers(-1, 300) | st.text(max_size=4) | st.booleans()
    )
)
def test_changed_metadata_is_checked_or_refused(changes):
    try:
        report = Kernel.from_file(ADD.path("ptx"), {**ADD.metadata, **changes}, device="emulator").check((1, 1, 1))
    except TrlaunchError as error:
        assert str(error)
    else:
        assert json.dumps(report.to_dict())
