"""Trials in processes of their own: every status, the time limit, executors, what is killed and what is not."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import trlaunch
from tests.investigate.cases import ENDLESS, assemble
from trlaunch.artifact import Artifact
from trlaunch.investigate import STATUSES, Outcome, Trial, run
from trlaunch.investigate.isolation import environment, wait


def add_one(body: str = "", **settings: object) -> Trial:
    """Adds 1 to each of 32 integers."""
    text = assemble(
        body
        or "mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d1, %d2; ld.global.u32 %r2, [%d2];"
        "add.u32 %r2, %r2, 1; st.global.u32 [%d2], %r2;"
    )
    artifact = Artifact.from_bytes(text, {"num_warps": 1, "shared": 0})
    given = {"device": "emulator", "signature": "*u32", **settings}
    return Trial.of(artifact, grid=1, args=[np.arange(32, dtype=np.uint32)], **given)


def test_outputs_come_back_and_the_callers_arrays_are_as_they_were() -> None:
    trial = add_one(repeat=3)
    outcome = run(trial, 30)
    assert outcome.ok
    assert outcome.status in STATUSES
    (out,) = outcome.outputs.values()
    assert (out == np.arange(32) + 3).all()
    assert [launch.index for launch in outcome.launches] == [0, 1, 2]
    assert {launch.state for launch in outcome.launches} == {"queued"}
    assert outcome.scene is not None
    assert outcome.scene.threads == 32
    assert outcome.kernel_seconds is not None
    assert 0 < outcome.kernel_seconds < outcome.seconds
    assert next(iter(outcome.images.values())) == trial.files[trial.file]


def test_trials_and_outcomes_survive_pickling_and_a_folder(tmp_path: Path) -> None:
    trial = add_one(options={"num_warps": 1}, environment={"A": "b"}, core="light")
    assert pickle.loads(pickle.dumps(trial)) == trial
    assert Trial.load(trial.save(tmp_path)) == trial
    outcome = run(add_one("trap;"), 30)
    assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_any_executor_runs_trials() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run, trial, timeout=30) for trial in (add_one(), add_one("trap;"))]
        assert [future.result().status for future in futures] == ["ok", "fault"]


def test_a_hang_is_ended_and_reported_as_one() -> None:
    start = time.monotonic()
    outcome = run(add_one("mov.u32 %r1, 0; " + ENDLESS), 1.5)
    assert time.monotonic() - start < 20
    assert outcome.status == "hang"
    assert outcome.last is not None
    assert (outcome.last.kernel, outcome.last.state) == ("k", "launching")
    assert outcome.error is not None
    assert "did not end within" in outcome.error.message


def test_a_time_limit_before_the_launch_is_no_hang() -> None:
    outcome = run(add_one(), 0.05)
    assert outcome.status == "timeout"
    assert outcome.launches == ()


def test_a_process_that_dies_is_told_by_its_signal(tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    outcome = run(add_one(environment={"PYTHONPATH": str(tmp_path)}), 30)
    assert outcome.status == "killed"
    assert outcome.error is not None
    assert outcome.error.name == "SIGSEGV"
    assert outcome.returncode == -signal.SIGSEGV


def test_only_the_process_group_of_the_trial_is_ended(tmp_path: Path) -> None:
    """What the process started ends with it; a sibling of ours does not."""
    child = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    child += "print(p.pid, flush=True); time.sleep(60)"
    other = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        ended = wait([sys.executable, "-c", child], tmp_path, environment(tmp_path), 2)
        assert ended.returncode is None
        grandchild = int(ended.stdout)
        deadline = time.monotonic() + 10
        while _alive(grandchild) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _alive(grandchild)
        assert os.waitpid(other, os.WNOHANG) == (0, 0)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_core_dump_over_its_limit_ends_the_process(tmp_path: Path) -> None:
    env = environment(tmp_path, core="light")
    child = "import os, time; name = os.environ['CUDA_COREDUMP_FILE'].replace('%p', str(os.getpid()));"
    child += "open(name, 'wb').write(bytes(5000)); time.sleep(60)"
    ended = wait([sys.executable, "-c", child], tmp_path, env, 60, core_limit=1000)
    assert ended.returncode is None
    assert ended.core is None
    assert "limit of 1000 bytes" in ended.problems[0]
    assert ended.seconds < 30


def test_a_hung_process_is_asked_for_a_core_dump(tmp_path: Path) -> None:
    """The driver waits at a pipe; who writes to it gets a dump."""
    env = environment(tmp_path, core="light")
    child = """
import os, time
path, pid = os.environ["CUDA_COREDUMP_PIPE"].replace("%p", str(os.getpid())), str(os.getpid())
os.mkfifo(path)
pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
while True:
    try:
        if os.read(pipe, 1):
            break
    except BlockingIOError:
        pass
    time.sleep(0.05)
open(os.environ["CUDA_COREDUMP_FILE"].replace("%p", pid), "wb").write(b"a dump")
"""
    ended = wait([sys.executable, "-c", child], tmp_path, env, 2)
    assert ended.core == b"a dump"
    assert ended.returncode == 0


def test_the_environment_has_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_ENABLE_COREDUMP_ON_EXCEPTION", "1")
    plain = environment(tmp_path)
    assert not [name for name in plain if name.startswith(("CUDA_COREDUMP", "CUDA_ENABLE_", "CUDA_LAUNCH"))]
    asked = environment(tmp_path, blocking=True, core="light", more={"X": "y"})
    assert asked["CUDA_LAUNCH_BLOCKING"] == asked["HIP_LAUNCH_BLOCKING"] == "1"
    assert "skip_global_memory" in asked["CUDA_COREDUMP_GENERATION_FLAGS"]
    assert asked["X"] == "y"
    assert "CUDA_COREDUMP_GENERATION_FLAGS" not in environment(tmp_path, core="full")


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"check": "maybe"}, "'warn' or 'error'"),
        ({"core": "huge"}, "one of none, light, full"),
        ({"repeat": 0}, "positive"),
        ({"blue": 1}, "no setting of a trial"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, object], message: str) -> None:
    with pytest.raises(trlaunch.ArgumentError, match=message):
        add_one(**settings)


def test_a_time_limit_must_be_positive() -> None:
    with pytest.raises(trlaunch.ArgumentError, match="more than 0"):
        run(add_one(), 0)


def test_a_folder_without_a_trial(tmp_path: Path) -> None:
    with pytest.raises(trlaunch.ArtifactError, match="no trial"):
        Trial.load(tmp_path)
    (tmp_path / "trial.json").write_text('{"grid": 1}')
    with pytest.raises(trlaunch.ArtifactError, match="no trial"):
        Trial.load(tmp_path)


def test_the_context_of_the_caller_is_untouched(fake_environment) -> None:
    """A driver whose context dies in the trial does not show in this process, and the trial says how it died."""
    from tests.investigate.cases import CASES

    trial = CASES[0].trial(device="cuda:0", environment=fake_environment("cuStreamSynchronize=715:4"))
    outcome: Outcome = run(trial, 30)
    assert outcome.status == "error"
    assert outcome.error is not None
    assert (outcome.error.call, outcome.error.name, outcome.error.code) == (
        "cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_INSTRUCTION", 715,
    )  # fmt: skip
    assert outcome.phase == "waiting"
    assert run(add_one(), 30).ok
