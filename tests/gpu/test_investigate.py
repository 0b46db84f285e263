"""Launches that die on the device: each ends in a report whose first cause is right, and the caller goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import trlaunch
from tests.investigate.cases import CASES, ENDLESS, assemble, numbers, written
from trlaunch.investigate import Report, Trial, investigate_program, investigate_trial
from trlaunch.investigate.sanitizers import sanitize_trial

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
WORKERS = min(4, os.cpu_count() or 1)
TIMEOUT = 20.0


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """Every case, some at a time: each is in a process of its own anyway."""
    with ThreadPoolExecutor(WORKERS) as pool:
        made = pool.map(lambda case: investigate_trial(case.trial(device="cuda:0"), timeout=TIMEOUT), CASES)
        return dict(zip((case.name for case in CASES), made, strict=True))


@pytest.fixture
def still_launches(add, add_case):
    """The caller's process launches before and after the test."""

    def launch():
        x, y = (trlaunch.asarray(np.full(1024, n, np.float32), device="cuda:0") for n in (1, 2))
        out = trlaunch.empty(1024, "fp32", "cuda:0")
        add.launch(1, x, y, out, 1024)
        assert (out.numpy() == 3).all()

    launch()
    yield
    launch()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_first_cause_is_right(case, reports, hopper, still_launches, report):
    found = reports[case.name]
    report(f"{case.name:28} {found.status:8} {[(c.rule, c.score) for c in found.causes[:3]]}")
    assert found.cause is not None
    assert found.cause.rule in case.causes, str(found)
    assert found.status == case.statuses[1], str(found)


@pytest.mark.parametrize("name", ["misaligned pointer", "out of bounds", "null pointer", "TMA coordinate"])
def test_the_core_dump_names_the_instruction(name, reports, hopper):
    site = reports[name].evidence.own_site
    assert site is not None, str(reports[name])
    assert site.witness == "core dump"
    expected = "UTMALDG" if name == "TMA coordinate" else "LD"
    assert expected in site.instruction, str(reports[name])
    assert site.cta == (0, 0, 0)


def test_the_address_of_an_access_is_told_from_the_arguments(reports, hopper):
    site = reports["out of bounds"].evidence.own_site
    assert site is not None
    assert site.address is not None, str(reports["out of bounds"])
    assert site.address - site.spots[0].address in range(1 << 40, (1 << 40) + 1024)


STORE = "mov.u32 %r1, 7; st.global.u32 [%d1], %r1;"
LATE = {
    "wild-pointer": written(STORE, lambda: trlaunch.Pointer(0x7F1234567000)),
    "misaligned": written(STORE, lambda: np.zeros(257, np.uint8)[1:], "*u8"),
    "mbarrier": written("mov.u32 %r1, s; mbarrier.arrive.shared.b64 %d2, [%r1];", numbers, target="sm_90", shared=64),
}


@pytest.mark.parametrize("rule", LATE)
def test_a_fault_of_a_warp_that_has_exited_is_waited_for(rule, hopper):
    """The launch counts as done before the driver notices."""
    found = investigate_trial(LATE[rule](device="cuda:0"), timeout=TIMEOUT)
    assert found.cause is not None, str(found)
    assert found.cause.rule == rule, str(found)
    assert found.core is not None, str(found)


def test_a_silent_wrong_block_is_told_although_nothing_dies(hopper):
    from tests.investigate.cases import compiled

    trial = compiled("3.0.0", "softmax_kernel", {"num_warps": 2})(device="cuda:0")
    found = investigate_trial(trial, timeout=TIMEOUT)
    assert found.ok
    assert found.cause is not None
    assert found.cause.rule == "block"


def test_a_reproducer_runs(reports, tmp_path, hopper):
    folder = reports["out of bounds"].save(tmp_path / "repro")
    assert (folder / "core.nvcudmp").is_file()
    command = [sys.executable, str(folder / "reproduce.py")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "[out-of-bounds," in done.stdout
    here = subprocess.run(
        [*command, "--here"], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in here.stderr


def test_by_command(tmp_path, hopper):
    (tmp_path / "k.ptx").write_text(
        assemble("add.s64 %d1, %d1, 1099511627776; ld.global.u64 %d2, [%d1]; st.global.u64 [%d1], %d2;")
    )
    (tmp_path / "k.json").write_text(json.dumps({"num_warps": 1, "shared": 0, "name": "k"}))
    command = [sys.executable, "-m", "trlaunch", "investigate", str(tmp_path / "k.ptx"), "--grid", "1", "--json"]
    command += ["--arg", "0=zeros:u32:256", "--signature", "*u32", "--device", "cuda:0", "--timeout", "30"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["causes"][0]["rule"] == "out-of-bounds"


PROGRAM = """
import sys
import numpy as np
import trlaunch

store = "mov.u32 %r1, 7; st.global.u32 [%d1], %r1;"
bad = "add.s64 %d1, %d1, 1099511627776; ld.global.u32 %r1, [%d1]; add.u32 %r1, %r1, 1; st.global.u32 [%d1], %r1;"
from tests.investigate.cases import assemble
def kernel(name, body):
    text = assemble(body).replace(".entry k(", f".entry {name}(")
    return trlaunch.Kernel.from_bytes(text, {"num_warps": 1, "shared": 0, "name": name}, signature="*u32")
good, wrong = kernel("good", store), kernel("wrong", bad)
x = trlaunch.asarray(np.zeros(256, np.uint32), device="cuda:0")
for k in (good, good):
    k.launch(1, x)
x.numpy()
for k in (good, wrong, good, good):
    k.launch(1, x)
x.numpy()
"""


@pytest.mark.parametrize("core", ["none", "light"])
def test_an_error_is_blamed_on_the_launch_that_caused_it(core, tmp_path, hopper):
    """Four launches are queued before anything waits; the second of them is wrong."""
    (tmp_path / "program.py").write_text(PROGRAM)
    found = investigate_program(
        [sys.executable, "program.py"], timeout=60, core=core, replay=True, folder=tmp_path,
        environ={"PYTHONPATH": environment()["PYTHONPATH"]},
    )  # fmt: skip
    assert found.evidence.blamed is not None, str(found)
    assert (found.evidence.blamed.kernel, found.evidence.blamed.index) == ("wrong", 3), str(found)
    if core == "light":
        assert found.cause is not None
        assert found.cause.rule == "out-of-bounds", str(found)


def test_a_hung_program_is_ended(tmp_path, hopper):
    text = assemble("mov.u32 %r1, 0; " + ENDLESS)
    (tmp_path / "k.ptx").write_text(text)
    program = (
        "import numpy as np, trlaunch\n"
        "k = trlaunch.Kernel.from_file('k.ptx', {'num_warps': 1, 'shared': 0, 'name': 'k'}, signature='*u32')\n"
        "x = trlaunch.asarray(np.zeros(256, np.uint32), device='cuda:0')\n"
        "k.launch(1, x)\nx.numpy()\n"
    )
    (tmp_path / "program.py").write_text(program)
    found = investigate_program(
        [sys.executable, "program.py"], timeout=15, replay=False, folder=tmp_path,
        environ={"PYTHONPATH": environment()["PYTHONPATH"]},
    )  # fmt: skip
    assert found.status == "hang", str(found)
    assert found.evidence.blamed is not None
    assert found.evidence.blamed.kernel == "k"


def test_a_trial_can_be_run_by_any_executor(hopper):
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from trlaunch.investigate import run

    trial = Trial.of(
        trlaunch.Artifact.from_bytes(assemble("st.global.u64 [%d1], %d1;"), {"num_warps": 1, "shared": 0, "name": "k"}),
        grid=1, args=[np.zeros(256, np.uint32)], signature="*u32", device="cuda:0",
    )  # fmt: skip
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        outcomes = [f.result() for f in [pool.submit(run, trial, timeout=60) for _ in range(3)]]
    assert [o.status for o in outcomes] == ["ok"] * 3
    assert all(next(iter(o.outputs.values()))[0] for o in outcomes)


RACE = "mov.u32 %r2, %tid.x; shl.b32 %r3, %r2, 2; mov.u32 %r1, s; xor.b32 %r4, %r3, 128; add.u32 %r3, %r3, %r1;"
RACE += "add.u32 %r4, %r4, %r1; st.volatile.shared.u32 [%r3], %r2; ld.volatile.shared.u32 %r5, [%r4];"
RACE += "mul.wide.u32 %d2, %r2, 4; add.s64 %d1, %d1, %d2; st.global.u32 [%d1], %r5;"
# Thread 16 waits for a half of its warp that it is not in.
DIVERGENT = "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 16; vote.sync.ballot.b32 %r2, %p1, 0xffffffff;"
DIVERGENT += "setp.gt.u32 %p2, %r1, 16; @%p2 bra done; bar.warp.sync %r2; st.global.u32 [%d1], %r2; done:"
SANITIZED = {
    "memcheck": (
        written("add.s64 %d1, %d1, 1024; mov.u32 %r1, 7; st.global.u32 [%d1], %r1;", numbers), "out-of-bounds",
    ),
    "racecheck": (written(RACE, numbers, shared=256, warps=2), "race"),
    "synccheck": (
        written(DIVERGENT, numbers), "divergent",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tool", SANITIZED)
def test_compute_sanitizer_finds_it(tool, hopper, report):
    trial, rule = SANITIZED[tool]
    found = sanitize_trial(trial(device="cuda:0"), tool, timeout=100)
    report(f"compute-sanitizer {tool}: {found.status} {[(c.rule, c.score) for c in found.causes[:3]]}")
    assert not found.ok, str(found)
    assert found.cause is not None
    assert found.cause.rule == rule, str(found)
    assert found.evidence.sites[0].kernel == "k", str(found)


def test_compute_sanitizer_has_nothing_against_a_right_launch(hopper):
    trial = written("mov.u32 %r1, 7; st.global.u32 [%d1], %r1;", numbers)(device="cuda:0")
    found = sanitize_trial(trial, timeout=100)
    assert found.ok, str(found)
    assert found.causes == ()
