"""Functions to kernels: what is compiled is what Triton's own launch compiles, and it runs."""

from __future__ import annotations

import importlib
import re
import threading
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import trlaunch
from tests.arrays import CupyLike, DlpackLike, TorchLike, storage
from tests.lowering.oracle import compiled, tensor
from trlaunch.artifact import Level
from trlaunch.errors import ArgumentError, CheckError, LoweringError
from trlaunch.kernel import Kernel
from trlaunch.lowering.triton_compiler import Compiler, active_attribute, installed_release

ALIGNED, OFF_BY_4 = 1 << 20, (1 << 20) + 4
RELEASE = installed_release() or (0, 0)


def ptx(kernel: Kernel) -> str:
    beside = kernel.artifact if kernel.level is Level.PTX else kernel.artifact.sibling(Level.PTX)
    assert beside is not None
    return beside.text


def without_call_numbers(text: str) -> str:
    """LLVM numbers calls through the whole process, in comments."""
    return re.sub(r"callseq \d+", "callseq", text)


def names(kernel: Kernel) -> list[str | None]:
    return [p.name for p in kernel.signature.user]


# --- the same as Triton ----------------------------------------------------------------------------------------------

f32, f16 = tensor("float32"), tensor("float16")
MATMUL = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32}

SAME: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "add": ("add", (f32, f32, f32, 1000), {}),
    "add-divisible": ("add", (f32, f32, f32, 1024), {"BLOCK": 256}),
    "add-one": ("add", (f32, f32, f32, 1), {}),
    "add-one-unaligned": ("add", (f32, f32, tensor("float32", OFF_BY_4), 1000), {}),
    "add-i64": ("add", (f32, f32, f32, 2**31 + 1), {}),
    "add-u64": ("add", (f32, f32, f32, 2**63 + 1), {}),
    "add-negative": ("add", (f32, f32, f32, -16), {}),
    "add-bf16": ("add", (*[tensor("bfloat16")] * 3, 77), {"num_warps": 8}),
    "add-i8": ("add", (*[tensor("int8")] * 3, 77), {}),
    "fp8": ("scaled", (tensor("float8_e5m2"), f16, 2.5, None, 77, False), {}),
    "softmax": ("softmax", (f32, f32, 1024, 1000, 1024), {"num_warps": 2}),
    "matmul": ("matmul", (f16, f16, f16, 64, 60, 32, 32, 1, 60, 1, 60, 1), MATMUL | {"num_stages": 2}),
    "matmul-maxnreg": ("matmul", (f16, f16, f16, 64, 64, 64, 64, 1, 64, 1, 64, 1), MATMUL | {"maxnreg": 64}),
    "none": ("scaled", (f16, f16, 2.5, None, 100, True), {}),
    "not-none": ("scaled", (f16, f16, 2.5, f32, 100, False), {"BLOCK": 32}),
    "integer-for-float": ("scaled", (f16, f16, 1, None, 100, False), {}),
    "bool": ("chosen", (True, tensor("int64"), 48), {}),
    "bool-and-one": ("chosen", (False, tensor("int64"), 1), {}),
    "not-specialised": ("counted", (tensor("int32"), 16), {}),
    "not-specialised-one": ("counted", (tensor("int32"), 1), {}),
    "bool-pointer": ("masked", (tensor("bool"), tensor("int32"), tensor("int32")), {}),
    "noinline": ("squared", (f32, f32, 1.5), {}),
}
Pair = namedtuple("Pair", "tensor factor")
if RELEASE >= (3, 3):
    SAME |= {
        "tuple": ("nested", ((f32, (3, 4.0)), f32), {}),
        "tuple-one": ("nested", ((f32, (1, 16)), f32), {}),
        "namedtuple": ("named", (Pair(f32, 2.0), f32), {}),
    }


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("case", SAME)
def test_the_ptx_is_that_of_tritons_own_launch(kernels, case, capability):
    name, args, keywords = SAME[case]
    function = getattr(kernels, name)
    expected = compiled(function, *args, capability=capability, **keywords)
    kernel = Kernel.from_function(function, *args, target=f"cuda:{capability}", **keywords)
    assert without_call_numbers(ptx(kernel)) == without_call_numbers(expected["ptx"])
    if case != "noinline":  # up to 3.3 the cubin holds the PTX, comments and all
        assert kernel.artifact.data == expected["cubin"]


def test_a_function_can_be_a_constexpr(kernels):
    args = (kernels._twice, f32, f32)
    if RELEASE < (3, 3):
        with pytest.raises(ArgumentError, match="is a function, which is no constexpr before Triton 3.3"):
            Kernel.from_function(kernels.applied, *args, target="cuda:80")
        return
    expected = compiled(kernels.applied, *args, capability=80)
    assert ptx(Kernel.from_function(kernels.applied, *args, target="cuda:80")) == expected["ptx"]


@pytest.mark.since(3, 4)
@pytest.mark.parametrize("capability", [80, 90])
def test_a_host_descriptor_is_specialised_as_tritons(kernels, capability):
    from triton.tools.tensor_descriptor import TensorDescriptor as TritonDescriptor

    block = [16, 32]
    theirs = TritonDescriptor(f16, [64, 64], [64, 1], block)
    expected = compiled(kernels.copied, theirs, f16, 32, *block, capability=capability)
    ours = trlaunch.TensorDescriptor(TorchLike(ALIGNED, (64, 64), "float16"), block_shape=block)
    for descriptor in (theirs, ours):
        kernel = Kernel.from_function(kernels.copied, descriptor, f16, 32, *block, target=f"cuda:{capability}")
        assert ptx(kernel) == expected["ptx"]
        assert kernel.metadata.tensor_descriptors or capability == 80


@pytest.mark.since(3, 5)
def test_target_info_answers_for_the_target_that_is_compiled_for(triton):
    function = importlib.import_module("tests.lowering.target_kernels").capability
    for capability in (80, 90):
        expected = compiled(function, tensor("int32"), capability=capability)
        kernel = Kernel.from_function(function, "*i32", target=f"cuda:{capability}")
        assert ptx(kernel) == expected["ptx"]
    out = np.zeros(1, np.int32)
    Kernel.from_function(function, out, device="emulator").launch(1, out)
    assert out[0] == 1
    Kernel.from_function(function, out, device="emulator", target="cuda:90").launch(1, out)
    assert out[0] == 3


@pytest.mark.since(3, 4)
@pytest.mark.parametrize("capability", [80, 90])
def test_a_gluon_function(triton, capability):
    function = importlib.import_module("tests.lowering.gluon_kernels").add
    expected = compiled(function, f32, f32, f32, 1000, 256, capability=capability)
    kernel = Kernel.from_function(function, f32, f32, f32, 1000, 256, target=f"cuda:{capability}")
    assert ptx(kernel) == expected["ptx"]
    x, out = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    kernel = Kernel.from_function(
        function, x, x, out, 1000, 256, target=f"cuda:{capability}", device="emulator", options={"num_warps": 4}
    )
    kernel.launch(4, x, x, out, 1000)
    np.testing.assert_array_equal(out, x + x)


# --- tensors of any framework ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [ALIGNED, OFF_BY_4])
def test_arrays_of_every_protocol_are_specialised_alike(kernels, address):
    expected = compiled(kernels.add, *[tensor("float32", address)] * 3, 1000, capability=80)
    for array in (TorchLike(address), CupyLike(address), DlpackLike(address)):
        kernel = Kernel.from_function(kernels.add, array, array, array, 1000, target="cuda:80")
        assert ptx(kernel) == expected["ptx"]


def test_numpy_trlaunch_and_names_of_dtypes(kernels):
    expected = compiled(kernels.add, f32, f32, f32, 1000, capability=80)["ptx"]
    address, keep = storage(4096)
    view = np.frombuffer(keep, np.float32, 1000, address - np.frombuffer(keep, np.uint8).ctypes.data)
    assert view.ctypes.data % 16 == 0
    own = trlaunch.empty(1000, "fp32", "emulator")
    for array in (view, own, np.dtype("float32"), "*fp32"):
        assert ptx(Kernel.from_function(kernels.add, array, array, array, 1000, target="cuda:80")) == expected
    half = Kernel.from_function(kernels.add, "*bf16", "*bf16", "*bf16", np.int32(1000), target="cuda:80")
    assert [p.type for p in half.signature.user] == ["*bf16", "*bf16", "*bf16", "i32"]


def test_numpy_scalars_are_numbers(kernels):
    one = Kernel.from_function(kernels.scaled, f16, f16, np.float32(2.5), None, np.int64(1), np.True_, target="cuda:80")
    assert names(one) == ["x", "out", "factor"]
    assert one.signature.user[2].type == "fp32"


# --- running ---------------------------------------------------------------------------------------------------------


def test_add_runs_with_defaults_and_by_name(kernels):
    x = np.arange(1000, dtype=np.float32)
    out = np.zeros_like(x)
    kernel = Kernel.from_function(kernels.add, x, x, out, n=1000, device="emulator", num_warps=2)
    assert kernel.threads == 64
    assert names(kernel) == ["x", "y", "out", "n"]
    kernel.launch(8, x, x, out=out, n=1000)
    np.testing.assert_array_equal(out, x + x)


def test_softmax_runs(kernels):
    x = np.random.default_rng(1).standard_normal((6, 100)).astype(np.float32)
    out = np.zeros_like(x)
    kernel = Kernel.from_function(kernels.softmax, out, x, 100, 100, BLOCK=128, device="emulator", grid=(6,))
    kernel.launch(6, out, x, 100, 100)
    shifted = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(out, shifted / shifted.sum(1, keepdims=True), rtol=1e-5)


def test_matmul_runs_with_a_stride_that_is_one(kernels):
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(shape).astype(np.float16) for shape in ((48, 40), (40, 36)))
    c = np.zeros((48, 36), np.float16)
    strides = (40, 1, 36, 1, 36, 1)
    kernel = Kernel.from_function(kernels.matmul, a, b, c, 48, 36, 40, *strides, device="emulator", **MATMUL)
    assert names(kernel) == ["a", "b", "c", "M", "N", "K", "a_row", "b_row", "c_row"]
    kernel.launch((2, 2), a, b, c, 48, 36, 40, 40, 36, 36)
    np.testing.assert_allclose(c, a.astype(np.float32) @ b.astype(np.float32), rtol=1e-2, atol=1e-2)


def test_none_and_bool_run(kernels):
    x = np.linspace(-1, 1, 100, dtype=np.float16)
    shift, out = np.ones(100, np.float32), np.zeros(100, np.float16)
    plain = Kernel.from_function(kernels.scaled, x, out, 2.0, None, 100, True, device="emulator")
    plain.launch(2, x, out, 2.0, 100)
    np.testing.assert_allclose(out, -2 * x.astype(np.float32), rtol=1e-3)
    shifted = Kernel.from_function(kernels.scaled, x, out, 2.0, shift, 100, False, device="emulator")
    shifted.launch(2, x, out, 2.0, shift, 100)
    np.testing.assert_allclose(out, 2 * x.astype(np.float32) + 1, rtol=1e-3, atol=1e-3)
    wide = np.zeros(32, np.int64)
    kernel = Kernel.from_function(kernels.chosen, True, wide, 2**40, device="emulator")
    kernel.launch(1, True, wide, 2**40)
    np.testing.assert_array_equal(wide, np.arange(32) + 2**40)
    kernel.launch(1, False, wide, 2**40)
    np.testing.assert_array_equal(wide, np.arange(32))


def test_a_function_that_is_called_and_not_inlined_runs(kernels):
    x, out = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    kernel = Kernel.from_function(kernels.squared, x, out, 1.5, device="emulator")
    kernel.launch(1, x, out, 1.5)
    np.testing.assert_array_equal(out, x * 2.25)


@pytest.mark.since(3, 3)
def test_tuples_run(kernels):
    x, out = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    pair = (x, (3, 1))
    kernel = Kernel.from_function(kernels.nested, pair, out, device="emulator")
    kernel.launch(1, x, 3, out)
    np.testing.assert_array_equal(out, 3 * x + 1)


@pytest.mark.since(3, 4)
def test_a_descriptor_runs(kernels):
    x, out = np.arange(64 * 64, dtype=np.float16).reshape(64, 64), np.zeros((16, 32), np.float16)
    descriptor = trlaunch.TensorDescriptor(x, block_shape=(16, 32))
    kernel = Kernel.from_function(kernels.copied, descriptor, out, 32, 16, 32, device="emulator")
    kernel.launch(1, descriptor, out, 32)
    np.testing.assert_array_equal(out, x[:16, :32])


def test_a_plain_function_is_taken_as_one_of_tritons(kernels):
    x = np.arange(100, dtype=np.float32)
    out = np.zeros_like(x)
    Kernel.from_function(kernels.add.fn, x, x, out, 100, device="emulator").launch(1, x, x, out, 100)
    np.testing.assert_array_equal(out, x + x)


def test_the_grid_is_audited(kernels):
    x = np.zeros(100, np.float32)
    ok = Kernel.from_function(kernels.add, x, x, x, 100, device="emulator", grid=lambda meta: (meta["BLOCK"] // 64,))
    assert ok.name == "add"
    with pytest.raises(CheckError, match="65536"):
        Kernel.from_function(kernels.add, x, x, x, 100, device="emulator", grid=(1, 65536))


# --- the cache -------------------------------------------------------------------------------------------------------


def test_what_follows_the_first_stage_is_kept(kernels, monkeypatch):
    stages: list[str] = []
    run = Compiler.run

    def recorded(self, stage, module, metadata):
        stages.append(stage)
        return run(self, stage, module, metadata)

    monkeypatch.setattr(Compiler, "run", recorded)
    first = Kernel.from_function(kernels.add, "*fp64", "*fp64", "*fp64", 12345, target="cuda:80")
    assert stages == ["ttir", "ttgir", "llir", "ptx", "cubin"]
    again = Kernel.from_function(kernels.add, "*fp64", "*fp64", "*fp64", 54321, target="cuda:80")
    assert stages[5:] == ["ttir"]
    assert again.artifact.data == first.artifact.data
    assert ptx(again) == ptx(first)
    assert again.signature == first.signature
    Kernel.from_function(kernels.add, "*fp64", "*fp64", "*fp64", 12345, target="cuda:80", num_stages=5)
    assert stages[6:] == ["ttir", "ttgir", "llir", "ptx", "cubin"]


# --- Triton's state --------------------------------------------------------------------------------------------------


def test_the_active_driver_is_as_before(kernels):
    from triton.runtime import driver

    attribute = active_attribute(driver)
    before = getattr(driver, attribute)
    Kernel.from_function(kernels.add, f32, f32, f32, 3, target="cuda:80")
    assert getattr(driver, attribute) is before
    with pytest.raises(LoweringError):
        Kernel.from_function(kernels.undefined, f32, target="cuda:80")
    assert getattr(driver, attribute) is before


def test_other_threads_see_the_driver_that_was_there(triton):
    from types import SimpleNamespace

    from triton.runtime import driver

    from trlaunch.lowering.triton_compiler import active_target

    seen = []
    attribute = active_attribute(driver)
    before = getattr(driver, attribute)
    driver.set_active(SimpleNamespace(get_current_target=lambda: "theirs", other=5))
    try:
        with active_target("ours"):
            thread = threading.Thread(target=lambda: seen.append(driver.active.get_current_target()))
            thread.start()
            thread.join()
            seen.append(driver.active.get_current_target())
            seen.append(driver.active.other)
        assert seen == ["theirs", "ours", 5]
        assert driver.active.get_current_target() == "theirs"
    finally:
        setattr(driver, attribute, before)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_what_is_no_function_is_refused(kernels):
    import triton

    tuned = triton.heuristics({"BLOCK": lambda _: 64})(kernels.add)
    with pytest.raises(ArgumentError, match=r"Heuristics around add: expected the .* function under it \(.fn\)"):
        Kernel.from_function(tuned, f32, f32, f32, 3, target="cuda:80")
    with pytest.raises(ArgumentError, match="int 5: expected a @triton.jit, @gluon.jit or plain Python function"):
        Kernel.from_function(5)


@pytest.mark.parametrize(
    ("args", "keywords", "message"),
    [
        ((f32, f32, f32), {}, "expected a value for 'n', found none"),
        ((f32, f32, f32, 3, 128, 5), {}, "expected at most 5 positional arguments, found 6"),
        ((f32, f32, f32, 3), {"x": f32}, "got 'x' both by position and by keyword"),
        ((f32, f32, object(), 3), {}, "cannot specialise it for .*out=a object"),
        (("*nosuch", f32, f32, 3), {}, "Triton has no name for its dtype"),
        ((np.zeros(3, np.complex64), f32, f32, 3), {}, "numpy.ndarray complex64 .*: Triton has no name for its dtype"),
    ],
)
def test_wrong_arguments_are_refused(kernels, args, keywords, message):
    with pytest.raises(ArgumentError, match=message):
        Kernel.from_function(kernels.add, *args, target="cuda:80", **keywords)


def test_an_option_that_the_release_does_not_have_is_refused(kernels):
    with pytest.raises(
        LoweringError, match=r"option 'num_warp': Triton .* has no such option for cuda; it has .*num_w"
    ):
        Kernel.from_function(kernels.add, f32, f32, f32, 3, target="cuda:80", num_warp=8)


def test_the_compilers_message_names_the_line(kernels):
    with pytest.raises(LoweringError, match=r"(?s)stage python: at 2:.*no_such_name") as failure:
        Kernel.from_function(kernels.undefined, f32, target="cuda:80")
    assert failure.value.stage == "python"
    with pytest.raises(LoweringError, match="an even number of elements"):
        Kernel.from_function(kernels.refused, f32, 3, target="cuda:80")


def test_a_failure_after_python_leaves_a_reproducer(kernels, monkeypatch):
    run = Compiler.run

    def failing(self, stage, module, metadata):
        if stage == "llir":
            raise LoweringError("stage llir: no", stage="llir", log="no")
        return run(self, stage, module, metadata)

    monkeypatch.setattr(Compiler, "run", failing)
    with pytest.raises(LoweringError, match="reproducer: ") as failure:
        Kernel.from_function(kernels.add, f32, f32, f32, 271828, target="cuda:80", num_warps=1)
    folder = failure.value.reproducer
    assert folder is not None
    assert "tt.func public @add" in (folder / "kernel.ttir").read_text()
    assert "'num_warps': 1" in (folder / "rerun.py").read_text()


def test_a_function_without_source_is_refused(triton):
    scope: dict[str, Any] = {}
    exec("def k(x):\n    pass\n", scope)
    with pytest.raises(LoweringError, match="k: Triton .* compiles functions from their source, which cannot be read"):
        Kernel.from_function(scope["k"], f32, target="cuda:80")


def test_without_triton_the_message_says_what_to_install(own_caches, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "triton.runtime.jit", None)
    with pytest.raises(LoweringError, match=r'pip install "trlaunch\[triton\]"'):
        Kernel.from_function(lambda x: None, f32)
