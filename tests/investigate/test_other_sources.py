"""What an investigation may start from besides a file of PTX: kernels, folders, cubins alone, AMD binaries."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import trlaunch
from tests import corpus, corpus_hip
from tests.fakehip import FakeHip
from trlaunch.investigate import Trial, investigate_trial, launch_here, run

X = np.ones(1024, np.float32)


def test_a_kernel_brings_its_settings() -> None:
    path = corpus.path("3.6.0", "cuda:80", "add_kernel", "ptx")
    types = ["*fp32", "*fp32", "*fp32", "i32"]
    kernel = trlaunch.Kernel.from_file(path, device="emulator", signature=types, shared=0)
    trial = Trial.of(kernel, grid=2, args=[X, X, X], named={"n_elements": 4096})
    assert (trial.name, trial.device, trial.signature, trial.shared) == ("add_kernel", "emulator", types, 0)
    assert sorted(Path(name).suffix for name in trial.files) == [".cubin", ".json", ".llir", ".ptx", ".ttgir", ".ttir"]
    report = investigate_trial(trial, timeout=30)
    assert report.cause is not None
    assert report.cause.rule == "out-of-bounds"


def test_a_folder_of_the_cache_keeps_its_name(tmp_path: Path) -> None:
    """The audit compares the folder's name with the metadata's hash."""
    case = corpus.find("3.6.0", "cuda:80", "add_kernel")
    folder = tmp_path / ("0" * 64)
    shutil.copytree(case.folder, folder)
    trial = Trial.of(folder, grid=1, args=[X, X, X, 1024], device="emulator")
    assert trial.file == "add_kernel.cubin"
    outcome = run(trial, 30)
    assert outcome.ok
    assert outcome.scene is not None
    assert "hash" in [finding.rule for finding in outcome.scene.findings if finding.severity == "error"]
    assert any("add_kernel.ptx beside it" in note for note in outcome.notes)


def test_a_cubin_alone_has_no_witness(fake_environment) -> None:
    """Without the PTX there is the driver's status and the audit."""
    case = corpus.find("3.6.0", "cuda:90", "matmul_kernel")
    a = np.ones((64, 64), np.float16)
    trial = Trial.of(
        trlaunch.Artifact.from_bytes(case.bytes("cubin"), case.metadata | {"shared": 0}),
        grid=(1, 1), args=[a, a, a, 64, 64, 64, 64, 64, 64], device="cuda:0",
        environment=fake_environment("cuStreamSynchronize=700:2"),
    )  # fmt: skip
    report = investigate_trial(trial, timeout=30)
    assert report.evidence.witness is not None
    assert report.evidence.witness.status == "refused"
    assert report.cause is not None
    assert report.cause.rule == "shared", str(report)


@pytest.fixture(scope="module")
def fakehip(tmp_path_factory: pytest.TempPathFactory) -> FakeHip:
    return FakeHip.build(tmp_path_factory.mktemp("fakehip"))


@pytest.mark.parametrize("witness,rules", [("auto", []), ("always", ["out-of-bounds"]), ("never", [])])
def test_what_a_gpu_hides_is_found_on_request(witness: str, rules: list[str], fake_environment) -> None:
    """The fake driver executes nothing, as a GPU that reads past an array says nothing."""
    case = corpus.find("3.6.0", "cuda:90", "add_kernel")
    trial = Trial.of(case.path("cubin"), grid=2, args=[X, X, X, 2048], device="cuda:0", environment=fake_environment())
    report = investigate_trial(trial, timeout=30, witness=witness)
    assert report.ok
    assert [cause.rule for cause in report.causes] == rules
    assert ("It ran, but" in str(report)) == bool(rules)


def test_a_witness_of_another_name() -> None:
    trial = Trial.of(corpus.path("3.6.0", "cuda:80", "add_kernel", "ptx"), grid=1)
    with pytest.raises(trlaunch.ArgumentError, match="auto, always, never"):
        investigate_trial(trial, witness="maybe")


def test_an_amd_kernel(fakehip: FakeHip) -> None:
    case = corpus_hip.find("3.6.0", "hip:gfx942", "add_kernel")
    environment = {
        "LD_LIBRARY_PATH": str(fakehip.folder),
        "FAKEHIP_LOG": "/dev/null",
        "FAKEHIP_DEVICES": "gfx942:sramecc+:xnack-",
        "FAKEHIP_FAIL": "hipModuleLaunchKernel=700:0",
    }
    trial = Trial.of(case.path("hsaco"), grid=1, args=[X, X, X, 1024], device="hip:0", environment=environment)
    report = investigate_trial(trial, timeout=30)
    assert report.status == "error", str(report)
    assert report.evidence.died is not None
    assert (report.evidence.died.name, report.evidence.died.code) == ("hipErrorIllegalAddress", 700)
    assert report.evidence.replay is not None
    assert report.evidence.witness is None
    assert report.evidence.symptom == "illegal-address"
    assert report.cause is not None
    assert report.cause.rule == "out-of-bounds"


def test_a_trial_launches_in_this_process_too() -> None:
    path = corpus.path("3.6.0", "cuda:80", "add_kernel", "ptx")
    launch_here(Trial.of(path, grid=1, args=[X, X, X, 1024], device="emulator"))
    with pytest.raises(trlaunch.Fault):
        launch_here(Trial.of(path, grid=1, args=[X, X, None, 1024], device="emulator"))


def test_the_worker_is_a_program(tmp_path: Path) -> None:
    import subprocess

    path = corpus.path("3.6.0", "cuda:80", "add_kernel", "ptx")
    Trial.of(path, grid=1, args=[X, X, X, 1024], device="emulator").save(tmp_path)
    command = [sys.executable, "-W", "error", "-m", "trlaunch.investigate.worker", str(tmp_path)]
    root = Path(trlaunch.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {"scene.json", "outcome.json", "outputs.npz"} <= {path.name for path in tmp_path.iterdir()}
