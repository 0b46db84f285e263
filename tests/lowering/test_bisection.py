"""Bisection over passes, options and the installed release, with Triton at hand."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import trlaunch
from tests import corpus
from trlaunch.bisection import Differs, Exceeds, Verdict, first_bad, levels, options, passes, releases, sweep
from trlaunch.cli import app
from trlaunch.lowering import lower
from trlaunch.lowering.passes import observe
from trlaunch.lowering.triton_compiler import installed_release

RELEASE = installed_release() or (3, 6)
SOURCE = corpus.FOLDER.parent / "kernels.py"
N = 64
PLANTED_PASS = "tritongpu-remove-layout-conversions"


@pytest.fixture
def matmul(triton):
    return next(
        c
        for c in corpus.cases(target="cuda:80", kernel="matmul_kernel")
        if c.version == RELEASE and c.name == "matmul_kernel"
    )


def launch():
    """One block of a matmul on the emulator, and what it should give."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((N, N)).astype(np.float16) for _ in range(2))
    out = np.zeros((N, N), np.float16)
    args = [a, b, out, N, N, N, N, N, N]
    return {"grid": (1, 1), "args": args, "device": "emulator"}, a.astype(np.float32) @ b.astype(np.float32)


def name_of_output(case):
    """The third tensor as outcomes call it: by name where the release writes names."""
    kernel = trlaunch.Kernel.from_file(case.path("ttgir"), device="emulator")
    return [p for p in kernel.signature if p.role == "user"][2].name or "arg2"


def plant(folder, case):
    """The modules of a lowering, of which one was edited by hand and those behind it follow from the edit."""
    run = observe(case.path("ttir"))
    run.write(folder)
    record = next(r for r in run if r.name == PLANTED_PASS)
    path = next(p for p in folder.iterdir() if re.match(rf"{record.index:02d}-", p.name) and p.suffix == ".mlir")
    text = path.read_text()
    edited = re.sub(r"(arith\.constant dense<)0\.000000e\+00(> : tensor<64x64xf32)", r"\g<1>1.000000e+00\2", text)
    assert edited != text
    path.write_text(edited)
    behind = observe(path)
    assert len(behind) == len(run) - record.index
    second = folder.with_name("behind")
    behind.write(second)
    for old in sorted(folder.iterdir()):
        number = re.match(r"(\d+)-", old.name)
        if number and int(number[1]) > record.index:
            other = next(p for p in second.iterdir() if re.match(rf"{int(number[1]) - record.index:02d}-", p.name)
                         and p.suffix == old.suffix)  # fmt: skip
            old.write_bytes(other.read_bytes())
    return record, len(run)


def test_a_planted_miscompile_is_found_in_eight_trials(matmul, tmp_path):
    folder = tmp_path / "passes"
    record, count = plant(folder, matmul)
    wanted, reference = launch()
    oracle = Differs({name_of_output(matmul): reference}, 2e-2, 2e-1)
    rows = passes.candidates(folder, oracle, **wanted)
    assert 36 < len(rows) <= count + 1
    found = first_bad(rows)
    assert found.found.label.startswith(f"{record.index:02d} "), found.table()
    assert found.trials <= 8
    assert not found.skipped
    assert "elements differ" in found.conclusion


def test_levels_with_an_edited_one(matmul, tmp_path):
    for level in ("ttir", "ttgir", "ptx", "json"):
        made = matmul.path("ptx").with_suffix(f".{level}")
        (tmp_path / made.name).write_bytes(made.read_bytes())
    ttgir = tmp_path / "matmul_kernel.ttgir"
    text = ttgir.read_text()
    edited = re.sub(r"(arith\.constant dense<)0\.000000e\+00(> : tensor<64x64xf32)", r"\g<1>1.000000e+00\2", text)
    assert edited != text
    ttgir.write_text(edited)
    wanted, reference = launch()
    oracle = Differs({name_of_output(matmul): reference}, 2e-2, 2e-1)
    found = sweep(levels.candidates(ttgir, oracle, **wanted))
    states = {c.label: found.verdicts[i].state for i, c in enumerate(found.candidates)}
    assert states == {"ttir": "good", "ttgir": "bad", "ptx": "good"}, found.table()


def test_options_are_compiled_each(matmul):
    wanted, reference = launch()
    oracle = Differs({name_of_output(matmul): reference}, 2e-2, 2e-1)
    rows = options.candidates(matmul.path("ttir"), oracle, {"num_warps": [2, 4], "num_stages": [2]}, **wanted)
    found = sweep(rows)
    assert [v.state for v in found.verdicts.values()] == ["good", "good"], found.table()
    assert [c.label for c in rows] == ["num_warps=2 num_stages=2", "num_warps=4 num_stages=2"]


def source():
    constants = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}
    types = ("*fp16", "*fp16", "*fp16", 512, 512, 512, 512, 1, 512, 1, 512, 1)
    return releases.Source(str(SOURCE), "cuda:80", "matmul_kernel", types, constants)


def test_a_release_compiles_what_it_compiles_itself(matmul, tmp_path):
    made = releases.build(source(), sys.executable, tmp_path / "build")
    again = lower(matmul.path("ttir"), "cubin", "cuda:80")
    assert made.resources["dynamic shared bytes"] == again.metadata.shared
    assert made.kernel == "matmul_kernel"


def test_builds_are_judged_by_a_limit(matmul, tmp_path):
    version = f"{RELEASE[0]}.{RELEASE[1]}"
    pythons = {f"{version}-{letter}": sys.executable for letter in "ab"}
    rows = releases.candidates(source(), Exceeds("registers"), tuple(pythons), pythons=pythons, keep=tmp_path)
    assert sweep(rows).first is None
    rows = releases.candidates(source(), Exceeds("registers", 1), tuple(pythons), pythons=pythons)
    verdict = rows[0].trial(None)
    assert verdict.state == "bad"
    assert re.match(r"\d+ > 1$", verdict.detail)
    assert verdict.values["registers"] == int(verdict.detail.split()[0])
    assert (tmp_path / f"{version}-a" / "matmul_kernel.cubin").exists()


def test_what_a_release_cannot_compile_is_passed_over(matmul, tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("import triton\nimport triton.language as tl\n@triton.jit\ndef f(p):\n    tl.no_such_thing(p)\n")
    at = releases.Source(str(bad), "cuda:80", "f", ("*fp32",))
    verdict = releases.candidates(at, Exceeds("registers", 8), ("x",), pythons={"x": sys.executable})[0].trial(None)
    assert verdict.state == "skip"
    assert "no_such_thing" in verdict.detail or "f" in verdict.detail
    missing = releases.Source(str(bad), "cuda:80", "g", ("*fp32",))
    verdict = releases.candidates(missing, Exceeds("registers", 8), ("x",), pythons={"x": sys.executable})[0].trial(
        None
    )
    assert verdict == Verdict("skip", "bad.py has no function 'g'", seconds=verdict.seconds)


def test_the_command_over_passes(matmul, tmp_path):
    folder = tmp_path / "passes"
    record, _ = plant(folder, matmul)
    wanted, reference = launch()
    np.savez(tmp_path / "reference.npz", **{name_of_output(matmul): reference})
    words = ["bisect", "passes", str(folder), "--grid", "1,1", "--devices", "emulator", "--json"]
    words += ["--reference", str(tmp_path / "reference.npz"), "--rtol", "2e-2", "--atol", "2e-1"]
    for i, value in enumerate(wanted["args"]):
        if isinstance(value, np.ndarray):
            np.save(tmp_path / f"{i}.npy", value)
            value = f"@{tmp_path / f'{i}.npy'}"
        words += ["--arg", f"{i}={value}"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["first_label"].startswith(f"{record.index:02d} ")
