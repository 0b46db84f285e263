"""Launches that die on the emulator: each ends in a report whose first cause is right."""

from __future__ import annotations

import numpy as np
import pytest

import trlaunch
from tests.investigate.cases import CASES, ENDLESS, Case, assemble, compiled
from trlaunch.artifact import Artifact
from trlaunch.investigate import Trial, investigate_trial

SECONDS = 2.0
DEAD = [case for case in CASES if case.statuses[0] != "hang"]


@pytest.mark.parametrize("case", DEAD, ids=str)
def test_the_first_cause_is_right(case: Case) -> None:
    report = investigate_trial(case.trial(device="emulator"), timeout=30)
    assert report.status == case.statuses[0], str(report)
    assert report.cause is not None
    assert report.cause.rule in case.causes, str(report)
    site = report.evidence.own_site
    assert site is not None
    assert site.witness == "emulator"
    assert any(line.level == "ptx" for line in site.lines)
    assert report.evidence.blamed is not None
    assert report.kernel == report.evidence.blamed.kernel


def test_a_loop_that_does_not_end_is_told_with_its_line() -> None:
    artifact = Artifact.from_bytes(assemble("mov.u32 %r1, 0;\n    " + ENDLESS), {"num_warps": 1, "shared": 0})
    trial = Trial.of(artifact, grid=1, args=[np.zeros(1, np.uint32)], signature="*u32", device="emulator")
    report = investigate_trial(trial, timeout=SECONDS)
    assert report.status == "hang"
    assert report.cause is not None
    assert report.cause.rule == "endless-loop", str(report)
    assert report.evidence.outcome.returncode is None
    assert report.evidence.outcome.phase == "launching"
    assert "again" in report.evidence.sites[0].instruction


def test_threads_that_wait_for_ever_are_told_from_a_loop() -> None:
    body = "mov.u32 %r1, s; mbarrier.init.shared.b64 [%r1], 2; bar.sync 0; again:"
    body += "mbarrier.try_wait.parity.shared.b64 %p1, [%r1], 0; @!%p1 bra again;"
    text = assemble(body, target="sm_90", shared=64)
    trial = Trial.of(
        Artifact.from_bytes(text, {"num_warps": 1, "shared": 0}),
        grid=1, args=[np.zeros(1, np.uint32)], signature="*u32", device="emulator",
    )  # fmt: skip
    report = investigate_trial(trial, timeout=30)
    assert report.status == "hang", str(report)
    assert report.cause is not None
    assert report.cause.rule == "deadlock", str(report)


def test_lines_of_all_levels_are_told() -> None:
    from tests import corpus

    case = corpus.find("3.6.0", "cuda:80", "add_kernel")
    x = [np.ones(1000, np.float32) for _ in range(3)]
    report = trlaunch.investigate(case.path("ptx"), grid=2, args=[*x, 2000], device="emulator", timeout=30)
    site = report.evidence.own_site
    assert site is not None
    assert list(dict.fromkeys(line.level for line in site.lines)) == ["ptx", "llir", "ttgir", "ttir", "python"]
    by_level = {line.level: line for line in site.lines}
    assert "ld.global" in by_level["ptx"].text
    assert "tt.load" in by_level["ttgir"].text
    for line in site.lines[:-1]:
        assert line.line is not None
        assert case.text(line.level).split("\n")[line.line - 1] == line.text
    assert "96 bytes past the end of x_ptr" in str(report)


def test_a_launch_that_goes_well_has_no_cause() -> None:
    x = [np.ones(1024, np.float32) for _ in range(3)]
    from tests import corpus

    path = corpus.path("3.6.0", "cuda:80", "add_kernel", "ptx")
    report = trlaunch.investigate(path, grid=1, args=[*x, 1024], device="emulator", timeout=30)
    assert report.ok
    assert report.causes == ()
    assert (report.evidence.outcome.outputs["out_ptr"] == 2).all()


def test_what_trlaunch_refuses_is_told_in_its_words() -> None:
    trial = compiled("3.6.0", "matmul_kernel", {"shared": 0})(device="emulator", check="error")
    report = investigate_trial(trial, timeout=30)
    assert report.status == "refused"
    assert report.cause is not None
    assert (report.cause.rule, report.cause.score) == ("refused", 1.0)
    assert "0 bytes" in report.cause.facts[0]


def test_the_module_is_the_function_whichever_came_first() -> None:
    import importlib

    module = importlib.import_module("trlaunch.investigate")
    assert trlaunch.investigate is module
    assert callable(module)
    with pytest.raises(trlaunch.ArgumentError, match="no setting of a trial"):
        trlaunch.investigate(Artifact.from_bytes(assemble("")), grid=1, colour="red")
