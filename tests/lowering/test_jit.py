"""``@trlaunch.jit``: launches as Triton's decorator does, and files in place of what would be compiled."""

from __future__ import annotations

import importlib
import inspect
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trlaunch
from tests.lowering.oracle import compiled, tensor
from trlaunch.artifact import Level
from trlaunch.errors import ArgumentError, ArtifactError, CheckError, FallbackWarning, LoweringError
from trlaunch.kernel import Kernel
from trlaunch.lowering.triton_compiler import installed_release

RELEASE = installed_release() or (0, 0)
X = np.arange(1000, dtype=np.float32)


@pytest.fixture
def add(kernels):
    """A function of its own for each test: it keeps what it compiled."""
    return trlaunch.jit(device="emulator")(kernels.add.fn)


def out() -> np.ndarray[Any, Any]:
    return np.zeros_like(X)


# --- launching -------------------------------------------------------------------------------------------------------


def test_a_callable_grid_is_given_the_arguments(add):
    seen: dict[str, Any] = {}
    result = out()

    def grid(meta):
        seen.update(meta)
        return (-(-1000 // meta["BLOCK"]),)

    kernel = add[grid](X, X, result, 1000, BLOCK=256, num_warps=2, num_stages=1)
    np.testing.assert_array_equal(result, X + X)
    assert isinstance(kernel, Kernel)
    assert kernel.threads == 64
    assert list(seen) == ["x", "y", "out", "n", "BLOCK"]
    assert seen["n"] == 1000
    assert seen["out"] is result


@pytest.mark.parametrize("grid", [8, (8,), [8, 1], (8, 1, 1)])
def test_grids_of_every_shape(add, grid):
    result = out()
    add[grid](X, X, result, 1000)
    np.testing.assert_array_equal(result, X + X)


def test_constexprs_by_position_by_keyword_and_by_default_are_one_kernel(add):
    kernels_ = [
        add[(8,)](X, X, out(), 1000),
        add[(8,)](X, X, out(), 1000, 128),
        add[(8,)](X, X, n=1000, out=out(), BLOCK=128),
    ]
    assert len(set(map(id, kernels_))) == 1


def test_what_triton_would_specialise_apart_is_compiled_apart(add):
    memory = np.zeros(2000, np.float32)
    memory = memory[(-memory.ctypes.data % 16) // 4 :]
    aligned, off = memory[:1000], memory[1:1001]
    first = add[(8,)](aligned, aligned, aligned, 1000)
    assert add[(8,)](aligned, aligned, aligned, 997) is first
    assert add[(8,)](aligned, aligned, aligned, np.int32(999)) is first
    others = [
        add[(8,)](off, aligned, aligned, 1000),
        add[(8,)](aligned, aligned, aligned, 992),
        add[(1,)](aligned, aligned, aligned, 1),
        add[(8,)](aligned, aligned, aligned, 1000, BLOCK=64),
        add[(8,)](aligned, aligned, aligned, 1000, num_warps=1),
        add[(8,)](*[np.zeros(1000, np.float64)] * 3, 1000),
        add.warmup(aligned, aligned, aligned, 2**40),
    ]
    assert len({id(kernel) for kernel in (first, *others)}) == 8


def test_a_parameter_that_is_not_specialised_is_compiled_once(kernels):
    counted = trlaunch.jit(kernels.counted.fn, device="emulator", do_not_specialize=["n"])
    results = []
    for n in (1, 5, 16):
        result = np.zeros(32, np.int32)
        results.append(counted[(1,)](result, n))
        np.testing.assert_array_equal(result, np.arange(32) * n)
    assert len(set(map(id, results))) == 1


def test_constants_that_compare_equal_are_compiled_apart(kernels):
    scaled = trlaunch.jit(kernels.scaled, device="emulator")
    x = np.ones(64, np.float32)
    a = scaled.warmup(x, x, 1.0, None, 64, negate=1)
    assert scaled.warmup(x, x, 1.0, None, 64, negate=True) is not a
    assert scaled.warmup(x, x, 2.0, None, 64, negate=1) is a


def test_a_warmup_with_dtypes_is_the_kernel_that_is_launched(add):
    kernel = add.warmup(*[np.dtype("float32")] * 3, 1000)
    memory = np.zeros(2000, np.float32)
    aligned = memory[(-memory.ctypes.data % 16) // 4 :][:1000]
    assert kernel.artifact.data == add[(8,)](aligned, aligned, aligned, 1000).artifact.data


def test_trlaunchs_arrays(kernels):
    add = trlaunch.jit(kernels.add)
    x, result = trlaunch.asarray(X, device="emulator"), trlaunch.empty(1000, "fp32", "emulator")
    add[(8,)](x, x, result, 1000)
    np.testing.assert_array_equal(result.numpy(), X + X)


def test_hooks_run_before_a_launch(add):
    seen = []
    add.add_pre_run_hook(lambda *args, **keywords: seen.append((len(args), sorted(keywords))))
    add[(8,)](X, X, out(), n=1000, BLOCK=128)
    assert seen == [(3, ["BLOCK", "n"])]


@pytest.mark.since(3, 3)
def test_tuples(kernels):
    nested = trlaunch.jit(kernels.nested, device="emulator")
    x, result = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    nested[(1,)]((x, (3, 1)), result)  # the 1 is compiled in
    np.testing.assert_array_equal(result, 3 * x + 1)
    nested[(1,)]((x, (2, 5)), result)
    np.testing.assert_array_equal(result, 2 * x + 5)
    named = trlaunch.jit(kernels.named, device="emulator")
    from collections import namedtuple

    named[(1,)](namedtuple("Pair", "tensor factor")(x, 4.0), result)
    np.testing.assert_array_equal(result, 4 * x)


@pytest.mark.since(3, 4)
def test_descriptors(kernels):
    copied = trlaunch.jit(kernels.copied, device="emulator")
    x, result = np.arange(64 * 64, dtype=np.float16).reshape(64, 64), np.zeros((16, 32), np.float16)
    first = copied[(1,)](trlaunch.TensorDescriptor(x, block_shape=(16, 32)), result, 32, 16, 32)
    np.testing.assert_array_equal(result, x[:16, :32])
    again = copied[(1,)](trlaunch.TensorDescriptor(x + x, block_shape=(16, 32)), result, 32, 16, 32)
    assert again is first
    np.testing.assert_array_equal(result, (x + x)[:16, :32])


@pytest.mark.since(3, 4)
def test_a_gluon_function(triton):
    function = importlib.import_module("tests.lowering.gluon_kernels").add
    add = trlaunch.jit(device="emulator")(function)
    result = out()
    add[(4,)](X, X, result, 1000, BLOCK=256)
    np.testing.assert_array_equal(result, X + X)
    assert add.is_gluon()


# --- one of Triton's functions ---------------------------------------------------------------------------------------


def test_it_is_one_of_tritons_functions_and_others_call_it(kernels, monkeypatch):
    from triton.runtime.jit import JITFunction

    helper = trlaunch.jit(kernels._twice)
    assert isinstance(helper, JITFunction)
    assert isinstance(helper, trlaunch.TrlaunchFunction)
    assert helper.arg_names == ["value"]
    assert helper.fn is kernels._twice.fn
    assert repr(helper) == "trlaunch.jit(tests.lowering.kernels:_twice)"
    if RELEASE >= (3, 3):
        applied = trlaunch.jit(kernels.applied, device="emulator")
        x, result = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
        applied[(1,)](helper, x, result)
        np.testing.assert_array_equal(result, x + x)


def test_triton_compiles_it_as_it_would_its_own(kernels):
    f32 = tensor("float32")
    expected = compiled(kernels.add, f32, f32, f32, 1000, capability=80)["ptx"]
    ours = trlaunch.jit(kernels.add)
    assert (
        Kernel.from_function(ours, f32, f32, f32, 1000, target="cuda:80").artifact.sibling(Level.PTX).text == expected
    )


def test_a_decorated_function_is_decorated_again(kernels, add):
    twice = trlaunch.jit(add, device="emulator", check="warn")
    result = out()
    twice[(8,)](X, X, result, 1000)
    np.testing.assert_array_equal(result, X + X)


def test_heuristics_above_it(triton, add):
    tuned = triton.heuristics({"BLOCK": lambda args: 64 if args["n"] < 2000 else 128})(add)
    result = out()
    tuned[lambda meta: (-(-1000 // meta["BLOCK"]),)](X, X, result, 1000)
    np.testing.assert_array_equal(result, X + X)


def once(fn, quantiles):
    fn()
    return [1.0] * len(quantiles)


def autotuned(triton, configs, function, **keywords):
    """``triton.autotune`` above a function; 3.0 to 3.2 import torch in it, and 3.3 on take a benchmark function."""
    assert "do_bench" in inspect.signature(triton.autotune).parameters
    return triton.autotune(configs, key=["n"], do_bench=once, **keywords)(function)


@pytest.mark.since(3, 3)
def test_autotuning_above_it(triton, add):
    seen = []
    configs = [
        triton.Config({"BLOCK": 64}, num_warps=1),
        triton.Config({"BLOCK": 256}, num_warps=8, pre_hook=lambda args: seen.append(args["n"])),
    ]
    tuned = autotuned(triton, configs, add)
    for n in (1000, 500):
        result = out()
        tuned[lambda meta, n=n: (-(-n // meta["BLOCK"]),)](X, X, result, n)
        np.testing.assert_array_equal(result[:n], (X + X)[:n])
        assert not result[n:].any()
    assert seen == [1000, 500]
    assert tuned.best_config in configs
    assert {compiled_.kernel.threads for compiled_ in add._compiled.values()} == {32, 256}


@pytest.mark.since(3, 3)
def test_autotuning_leaves_out_what_does_not_compile_or_fit(triton, kernels):
    refused = trlaunch.jit(kernels.refused, device="emulator")
    configs = [triton.Config({"N": 3}), triton.Config({"N": 4})]
    tuned = triton.autotune(configs, key=[], do_bench=once)(refused)
    x = np.zeros(16, np.int32)
    tuned[(1,)](x)
    assert (x == 4).all()
    assert tuned.best_config is configs[1]
    with pytest.raises(LoweringError, match="an even number of elements"):
        refused[(1,)](x, 3)
    add = trlaunch.jit(kernels.matmul, device="emulator")
    a = np.zeros((256, 256), np.float16)
    large = {"BLOCK_M": 256, "BLOCK_N": 256, "BLOCK_K": 256}
    arguments = (a, a, a, 256, 256, 256, 256, 1, 256, 1, 256, 1)
    from triton.runtime.errors import OutOfResources

    with pytest.raises(CheckError, match="shared") as failure:
        add[(1, 1)](*arguments, **large, num_warps=16)
    assert isinstance(failure.value, OutOfResources)
    assert str(failure.value).startswith("matmul was not launched on emulator")
    assert failure.value.report.errors


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def levels(kernels, tmp_path) -> Path:
    """The kernel at every level, with its JSON, in a folder: ``add.ttir``, ``add.ttgir``, ..."""
    import json

    kernel = Kernel.from_function(kernels.add, X, X, X, 1000, target="cuda:80")
    for level in (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX):
        (tmp_path / f"add.{level}").write_text(kernel.artifact.sibling(level).text)
    (tmp_path / "add.json").write_text(json.dumps(dict(kernel.metadata.raw)))
    return tmp_path


def edited(folder: Path, level: str) -> Path:
    """The file with its addition made a subtraction or a multiplication, in a folder of its own."""
    own = folder / f"edited-{level}"
    own.mkdir()
    text = (folder / f"add.{level}").read_text()
    old, new = {
        "ttir": ("arith.addf", "arith.subf"),
        "ttgir": ("arith.addf", "arith.subf"),
        "llir": ("fadd float", "fsub float"),
        "ptx": ("add.f32", "sub.f32"),
    }[level]
    assert old in text
    path = own / f"add.{level}"
    path.write_text(text.replace(old, new))
    (own / "add.json").write_bytes((folder / "add.json").read_bytes())
    return path


@pytest.mark.parametrize("level", ["ttir", "ttgir", "llir", "ptx"])
def test_an_edited_file_runs_instead(kernels, levels, level):
    path = edited(levels, level)
    add = trlaunch.jit(use=path, device="emulator")(kernels.add)
    result = out()
    add[(8,)](X + X, X, result, n=1000, BLOCK=128)
    np.testing.assert_array_equal(result, X)
    assert add.warmup(X, X, result, 1000).artifact.path == path


def test_an_edited_file_is_read_again(kernels, levels):
    path = edited(levels, "ptx")
    add = trlaunch.jit(use=str(path), device="emulator")(kernels.add)
    result = out()
    first = add[(8,)](X + X, X, result, 1000)
    np.testing.assert_array_equal(result, X)
    path.write_text(path.read_text().replace("sub.f32", "mul.f32"))  # of the same size, within the clock's tick
    add[(8,)](X, X, result, 1000)
    np.testing.assert_array_equal(result, X * X)
    old = time.time() - 60
    for file in (path, path.with_suffix(".json")):
        os.utime(file, (old, old))
    kept = add.warmup(X, X, result, 1000)
    assert kept is not first
    assert add.warmup(X, X, result, 1000) is kept
    os.utime(path, (old + 1, old + 1))
    assert add.warmup(X, X, result, 1000) is not kept


def test_options_apply_to_ttir_and_else_are_reported(kernels, levels):
    ttir = trlaunch.jit(use=levels / "add.ttir", device="emulator")(kernels.add)
    assert ttir.warmup(X, X, X, 1000, num_warps=8).threads == 256
    ttgir = trlaunch.jit(use=levels / "add.ttgir", device="emulator")(kernels.add)
    with pytest.warns(FallbackWarning, match=r"num_warps=8 does not apply: add.ttgir has 4"):
        assert ttgir.warmup(X, X, X, 1000, num_warps=8).threads == 128
    assert ttgir.warmup(X, X, X, 1000, num_warps=4).threads == 128


def test_arguments_that_the_file_has_compiled_in(kernels, tmp_path):
    one = Kernel.from_function(kernels.add, X, X, X, 1, target="cuda:80")
    path = tmp_path / "add.ttir"
    path.write_text(one.artifact.sibling(Level.TTIR).text)
    add = trlaunch.jit(use=path, device="emulator")(kernels.add)
    result = out()
    add[(1,)](X + 1, X, result, 1)
    assert result[0] == 1
    assert not result[1:].any()
    with pytest.raises(ArgumentError, match=r"compiled for n = 1 or None, found 1000|takes 3 arguments, 4 were given"):
        add[(8,)](X, X, result, 1000)


def test_a_file_that_is_missing(kernels, tmp_path, monkeypatch):
    add = trlaunch.jit(use="no.ttgir", device="emulator")(kernels.add)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=f"use='no.ttgir': '{tmp_path}/no.ttgir' cannot be read"):
        add[(8,)](X, X, X, 1000)
    add = trlaunch.jit(use="kernels.py", device="emulator")(kernels.add)
    with pytest.raises(ArtifactError, match=r"there is one beside the function: use='.*tests/lowering/kernels.py'"):
        add[(8,)](X, X, X, 1000)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_an_unknown_keyword_is_refused(add):
    with pytest.raises(LoweringError, match="option 'num_wraps'.*num_warps"):
        add[(8,)](X, X, X, 1000, num_wraps=4)


def test_a_missing_argument_is_refused(add):
    with pytest.raises(ArgumentError, match=r"add\(x, y, out, n, BLOCK.*: expected a value for 'n', found none"):
        add[(8,)](X, X, X)


def test_a_global_that_changed_is_refused(kernels, monkeypatch):
    function = trlaunch.jit(kernels.scaled_by_global, device="emulator")
    x = np.zeros(32, np.int32)
    function[(1,)](x)
    np.testing.assert_array_equal(x, np.arange(32) * 3)
    if not function.used_global_vals:  # collected by cache_key, which every launch asks
        raise AssertionError
    monkeypatch.setattr(kernels, "SCALE", type(kernels.SCALE)(4))
    with pytest.raises(LoweringError, match=r"was compiled with SCALE = .*3.*, which is now .*4"):
        function[(1,)](x)


def test_an_autotuner_under_it_is_refused(triton, kernels):
    tuned = triton.heuristics({"BLOCK": lambda _: 64})(kernels.add)
    with pytest.raises(ArgumentError, match=r"@trlaunch.jit above Heuristics: .*put it under @triton.autotune"):
        trlaunch.jit(tuned)


def test_tritons_options_go_with_a_plain_function(kernels):
    with pytest.raises(ArgumentError, match="debug: add was made by a jit of Triton's already"):
        trlaunch.jit(debug=True)(kernels.add)
    with pytest.raises(ArgumentError, match="check='loud'"):
        trlaunch.jit(check="loud")(kernels.add)
