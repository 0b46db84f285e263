"""The engine, against a linear scan."""

from __future__ import annotations

import functools
import json
import math
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trlaunch
from tests import corpus
from trlaunch.bisection import Candidate, Exceeds, Verdict, first_bad, sweep
from trlaunch.cuda.image import read_image


def judge(state, device):
    return Verdict(state, f"on {device}" if device else "")


def row(states):
    return [Candidate(f"c{i}", functools.partial(judge, state)) for i, state in enumerate(states)]


@given(good=st.integers(0, 40), bad=st.integers(0, 40), parallel=st.integers(1, 4))
@settings(deadline=None)
def test_the_first_bad_one_is_found_in_logarithmically_many_trials(good, bad, parallel):
    if not good + bad:
        return
    found = first_bad(row(["good"] * good + ["bad"] * bad), parallel=parallel)
    assert found.first == (good if bad else None)
    assert found.last_good == (good - 1 if good else None)
    inside = good + bad - 2
    if parallel == 1:
        assert found.trials <= 2 + math.ceil(math.log2(max(inside, 0) + 1))
    assert found.trials == len(found.verdicts)


@given(
    st.lists(st.sampled_from(["good", "skip"]), max_size=12), st.lists(st.sampled_from(["bad", "skip"]), max_size=12)
)
@settings(deadline=None)
def test_candidates_that_cannot_be_tried_are_passed_over(before, behind):
    states = before + behind
    if not states:
        return
    found = first_bad(row(states))
    bad = [i for i, s in enumerate(states) if s == "bad"]
    good = [i for i, s in enumerate(states) if s == "good"]
    if not bad:
        assert found.first is None
        return
    # Between the last good and the first bad one only such as cannot be tried may lie.
    assert found.first == bad[0]
    if good:
        assert found.last_good == good[-1]
        assert [c.label for c in found.skipped] == [f"c{i}" for i in range(good[-1] + 1, bad[0])]
        if found.skipped:
            assert "could not be tried" in found.conclusion
    else:
        assert found.last_good is None


def test_sixty_passes_take_at_most_eight_trials():
    for first in range(1, 61):
        found = first_bad(row(["good"] * first + ["bad"] * (61 - first)))
        assert found.first == first
        assert found.trials <= 8


def test_a_row_that_turns_good_again_is_told():
    found = first_bad(row(["bad", "good"]))
    assert found.first == 0
    assert "try all of it" in found.conclusion


def test_sweep_tries_all():
    found = sweep(row(["good", "bad", "good", "skip", "bad"]))
    assert (found.first, found.last_good, found.trials) == (1, 0, 5)
    assert "c1" in found.table()
    assert "<-- first bad" in found.table()
    assert sweep(row(["good"])).conclusion == "no candidate is bad"


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_executors_of_the_standard_library(executor):
    with executor(2) as pool:
        found = first_bad(row(["good"] * 9 + ["bad"] * 4), executor=pool, parallel=2)
    assert found.first == 9


def test_a_dask_cluster_runs_trials():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = first_bad(row(["good"] * 5 + ["bad"] * 6), executor=client.get_executor(), parallel=2)
    assert found.first == 5
    assert found.trials < 11


def test_devices_are_taken_in_turn():
    found = sweep(row(["good"] * 5), devices=("cuda:0", "cuda:1"))
    assert [v.detail for v in found.verdicts.values()] == [f"on cuda:{i % 2}" for i in range(5)]


def test_an_interrupted_search_goes_on_from_its_state(tmp_path):
    state = tmp_path / "deeper" / "state.jsonl"
    candidates = row(["good"] * 20 + ["bad"] * 12)
    seen = []

    def stop(candidate, verdict, done, estimate):
        seen.append((candidate.label, done, estimate))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first_bad(candidates, state=state, observer=stop)
    assert len(seen) == 4
    assert all(done <= estimate for _, done, estimate in seen)
    with state.open("a") as file:
        file.write('{"label": "c3", "sta')  # cut off while it was written
    found = first_bad(candidates, state=state)
    assert found.first == 20
    assert found.trials + 4 == len(found.verdicts)
    assert first_bad(candidates, state=state).trials == 0


def test_a_state_of_another_search_is_refused(tmp_path):
    state = tmp_path / "state"
    first_bad(row(["good", "bad"]), state=state)
    with pytest.raises(trlaunch.ArtifactError, match="state of a search over other candidates"):
        first_bad(row(["good", "bad", "bad"]), state=state)
    state.write_text("not json\n")
    with pytest.raises(trlaunch.ArtifactError, match="is no state of a bisection"):
        first_bad(row(["good", "bad"]), state=state)


def test_wrong_searches_are_refused():
    with pytest.raises(trlaunch.ArgumentError, match="no candidate to try"):
        first_bad([])
    with pytest.raises(trlaunch.ArgumentError, match="two candidates are called 'c0'"):
        first_bad([*row(["good"]), *row(["bad"])])
    with pytest.raises(trlaunch.ArgumentError, match="parallel=0"):
        first_bad(row(["good"]), parallel=0)


def test_a_search_as_json():
    document = first_bad(row(["good", "bad"])).to_dict()
    assert json.loads(json.dumps(document))["first_label"] == "c1"


def judge_registers(release, kernel, oracle, device):
    """The registers of a kernel as a release compiled it."""
    entry = read_image(corpus.find(release, "cuda:80", kernel).path("cubin").read_bytes()).kernel()
    return oracle.judge({"registers": entry.registers}, 0.0)


@pytest.mark.parametrize("kernel", ["softmax_kernel", "layer_norm_kernel", "scalars_kernel"])
def test_the_first_of_ten_releases_that_takes_more_registers(kernel):
    releases = corpus.releases()
    assert len(releases) == 10
    counts = [int(judge_registers(r, kernel, Exceeds("registers", 0), None).values["registers"]) for r in releases]
    oracle = Exceeds("registers", counts[0])
    row = [Candidate(r, functools.partial(judge_registers, r, kernel, oracle)) for r in releases]
    found = first_bad(row)
    grown = next(i for i, n in enumerate(counts) if n > counts[0])
    assert found.first == grown
    assert found.found.label == releases[grown]
    assert f"{counts[grown]} > {counts[0]}" in found.conclusion
    assert found.trials <= 6
