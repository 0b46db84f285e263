"""The tuner on the emulator: what is tried, compared, chosen, kept."""

from __future__ import annotations

import io
import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import trlaunch
from tests.corpus import find
from trlaunch import ArgumentError, Candidate, Kernel, TuningError, autotune
from trlaunch.arguments import UsageError
from trlaunch.cli import app
from trlaunch.cli.formula import parse_formulas
from trlaunch.tuning import Report, Result
from trlaunch.tuning.arrays import difference
from trlaunch.tuning.autotuner import _first
from trlaunch.tuning.timing import Times

N = 4096
QUICK = {"warmup": 0.0, "rep": 0.0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))


def ptx(name, target="cuda:80"):
    return find("3.6.0", target, name).path("ptx")


@pytest.fixture
def arrays():
    return np.arange(N, dtype=np.float32), np.ones(N, np.float32), np.zeros(N, np.float32)


BLOCK = next(iter(find("3.6.0", "cuda:80", "add_kernel").constexprs.values()))
GRID = N // BLOCK

SUBTRACTS = ("add.f32", "sub.f32")


def edited(path, tmp_path, name, change):
    """A copy of add_kernel with another text, and the JSON beside it."""
    made = tmp_path / f"{name}.ptx"
    made.write_text(change(path.read_text()))
    made.with_suffix(".json").write_text(path.with_suffix(".json").read_text())
    for level in ("ttir", "ttgir"):
        made.with_suffix(f".{level}").write_text(path.with_suffix(f".{level}").read_text())
    return made


def subtracting(text):
    assert SUBTRACTS[0] in text
    return text.replace(*SUBTRACTS)


def overrunning(text):
    """The output's address moved by 16 MB."""
    stored = re.findall(r"st\.global\.v4\.b32 \[ (%rd\d+)", text)
    assert stored, text
    lines = []
    for line in text.splitlines():
        if "st.global" in line and stored[0] in line:
            lines.append(f"\tadd.s64 {stored[0]}, {stored[0]}, 16777216;")
        lines.append(line)
    return "\n".join(lines) + "\n"


def test_the_fastest_of_those_that_are_right_is_launched(arrays, tmp_path):
    x, y, out = arrays
    tuned = autotune(
        {
            "right": ptx("add_kernel"),
            "wrong": edited(ptx("add_kernel"), tmp_path, "wrong", subtracting),
            "other": ptx("softmax_kernel"),
            "gone": tmp_path / "none.ptx",
        },
        reference=lambda arguments: {"out_ptr": arguments["x_ptr"] + arguments["y_ptr"]},
        **QUICK,
    )
    tuned[(GRID,)](x, y, out, N, device="emulator")
    assert np.array_equal(out, x + y)
    report = tuned.report
    assert report.best == "right"
    assert {r.label: r.status for r in report.results} == {
        "right": "ok", "wrong": "wrong", "other": "refused", "gone": "refused",
    }  # fmt: skip
    by_label = {r.label: r for r in report.results}
    assert by_label["right"].error == 0
    assert by_label["right"].times.runs >= 1
    assert by_label["wrong"].error == 2
    assert "out_ptr differs by up to 2" in by_label["wrong"].message
    assert "cannot be read" in by_label["gone"].message
    shown = str(report)
    assert shown.splitlines()[0].split()[:3] == ["candidate", "status", "ms"]
    assert json.dumps(report.to_dict())


def test_the_first_candidate_or_one_that_is_named_is_the_reference(arrays, tmp_path):
    x, y, out = arrays
    files = {"wrong": edited(ptx("add_kernel"), tmp_path, "wrong", subtracting), "right": ptx("add_kernel")}
    for reference, best in (("right", "right"), ("first", "wrong")):
        tuned = autotune(files, reference=reference, grid=GRID, **QUICK)
        tuned(x, y, out, N, device="emulator")
        assert tuned.report.best == best
        assert [r.label for r in tuned.report.results] == ["wrong", "right"]
    with pytest.raises(ArgumentError, match="expected 'first' or one of wrong, right"):
        autotune(files, reference="left", grid=GRID, **QUICK)(x, y, out, N, device="emulator")
    files["gone"] = tmp_path / "none.ptx"
    with pytest.raises(TuningError, match="the reference gone cannot be used: refused"):
        autotune(files, reference="gone", grid=GRID, **QUICK)(x, y, out, N, device="emulator")


def test_a_key_that_is_met_again_is_not_measured_again(arrays, monkeypatch):
    x, y, out = arrays
    measured = []
    original = Kernel.launch

    def launch(self, grid, *args, **named):
        measured.append(args[3])
        return original(self, grid, *args, **named)

    monkeypatch.setattr(Kernel, "launch", launch)
    files = [ptx("add_kernel"), ptx("add_kernel", "cuda:90")]
    tuned = autotune(files, key=["n_elements"], grid=lambda c: (-(-N // BLOCK),), **QUICK)
    tuned(x, y, out, N, device="emulator")
    first = len(measured)
    assert first > 2
    tuned(x, y, out, N, device="emulator")
    assert len(measured) == first + 1
    tuned(x, y, out, N - 16, device="emulator")
    assert len(measured) > first + 3
    assert len(tuned.reports) == 2
    # Another process, or another tuner, finds it in the cache.
    measured.clear()
    again = autotune([*map(Kernel.from_file, files)], key=["n_elements"], grid=GRID, **QUICK)
    again(x, y, out, N, device="emulator")
    assert len(measured) == 1
    assert again.report.cached
    first_report = next(iter(tuned.reports.values()))
    assert again.report.best == first_report.best
    assert again.report.results == first_report.results
    # Other content, or another reference, does not.
    measured.clear()
    autotune(files[:1], key=["n_elements"], grid=GRID, **QUICK)(x, y, out, N, device="emulator")
    assert len(measured) > 1
    measured.clear()
    autotune(files, key=["n_elements"], grid=GRID, cache=False, **QUICK)(x, y, out, N, device="emulator")
    assert len(measured) > 1


def test_a_damaged_choice_is_measured_again(arrays, tmp_path):
    x, y, out = arrays
    autotune(ptx("add_kernel"), grid=GRID, **QUICK)(x, y, out, N, device="emulator")
    (choice,) = (tmp_path / "cache").rglob("choice.json")
    choice.write_text('{"best": 7}')
    tuned = autotune(ptx("add_kernel"), grid=GRID, **QUICK)
    tuned(x, y, out, N, device="emulator")
    assert not tuned.report.cached


def test_arguments_are_put_back_and_set_to_zero_before_each_run(tmp_path):
    kernel = Kernel.from_file(ptx("add_kernel"), device="emulator")
    x, y = np.arange(N, dtype=np.float32), np.ones(N, np.float32)
    seen = []
    original = kernel.launch

    def launch(grid, *args, **named):
        seen.append((x[1], y[1]))
        return original(grid, *args, **named)

    kernel.launch = launch  # in place: x += y
    y[:] = 5
    tuned = autotune(kernel, grid=GRID, restore=["x_ptr"], reset_to_zero=["y_ptr"], cache=False, warmup=0, rep=30)
    tuned(x, y, x, N)
    assert len(seen) > 2
    assert set(seen) == {(1.0, 0.0)}
    assert x[1] == 1.0
    with pytest.raises(ArgumentError, match="restore: 'n_elements' is no tensor"):
        autotune(kernel, grid=GRID, restore=["n_elements"], cache=False)(x, y, x, N)


def test_a_fault_is_a_result_and_isolation_keeps_it_away(arrays, tmp_path):
    x, y, out = arrays
    files = {"dies": edited(ptx("add_kernel"), tmp_path, "dies", overrunning), "lives": ptx("add_kernel")}
    here = autotune(files, grid=GRID, cache=False, **QUICK)
    here(x, y, out, N, device="emulator")
    assert [r.status for r in here.report.results] == ["fault", "ok"]
    out[:] = 0
    apart = autotune(files, grid=GRID, cache=False, isolated=True, reference=lambda a: {"out_ptr": x + y}, **QUICK)
    assert apart.choose(None, x, y, out, N, device="emulator").label == "lives"
    assert [r.status for r in apart.report.results] == ["fault", "ok"]
    assert all(tuned.report.results[0].message.startswith("out-of-bounds") for tuned in (here, apart))


def test_isolation_knows_the_signature_of_a_bundle(arrays, tmp_path):
    x, y, out = arrays
    path = Kernel.from_file(ptx("add_kernel")).save(tmp_path / "k.trk", constants={"BLOCK": BLOCK})
    tuned = autotune(path, grid=lambda c: -(-N // c["BLOCK"]), isolated=True, cache=False, reference="first", **QUICK)
    tuned(x, y, out, N, device="emulator")
    assert np.array_equal(out, x + y)


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("nameless_first", [False, True])
def test_outputs_of_a_candidate_without_names_are_compared_by_position(arrays, tmp_path, isolated, nameless_first):
    x, y, out = arrays
    nameless = []
    for name, change in (("wrong", subtracting), ("right", str)):
        nameless.append(edited(ptx("add_kernel"), tmp_path, name, change))
        for level in ("ttir", "ttgir"):
            nameless[-1].with_suffix(f".{level}").unlink()
    assert Kernel.from_file(nameless[0]).signature.user[0].name is None
    files = [nameless[1], nameless[0], ptx("add_kernel")] if nameless_first else [ptx("add_kernel"), *nameless]
    tuned = autotune(files, grid=GRID, cache=False, isolated=isolated, reference="first", **QUICK)
    tuned(x, y, out, N, device="emulator")
    verdicts = {r.label: (r.status, r.message) for r in tuned.report.results}
    name = "arg2" if nameless_first else "out_ptr"
    status, message = verdicts.pop("wrong.ptx")
    assert (status, message.startswith(f"{name} differs by up to")) == ("wrong", True), message
    assert set(verdicts.values()) == {("ok", "")}


def test_a_choice_of_another_isolation_is_not_taken(arrays):
    def cached(**settings):
        tuned = autotune(ptx("add_kernel"), grid=GRID, **settings, **QUICK)
        tuned.choose(None, *arrays, N, device="emulator")
        return tuned.report.cached

    assert [cached(), cached(isolated=True), cached(isolated=True), cached()] == [False, False, True, True]


def test_nothing_that_can_be_used_is_an_error_with_the_table(arrays, tmp_path):
    with pytest.raises(TuningError, match="none of 2 candidates can be used") as caught:
        autotune([ptx("softmax_kernel"), tmp_path / "none.ptx"], grid=1, **QUICK)(*arrays, N, device="emulator")
    assert [r.status for r in caught.value.report.results] == ["refused", "refused"]
    assert "none.ptx" in str(caught.value)


# --- candidates ------------------------------------------------------------------------------------------------------


def test_a_folder_has_a_candidate_for_each_kernel(tmp_path):
    for i, target in enumerate(("cuda:80", "cuda:90")):
        case = find("3.6.0", target, "add_kernel")
        (tmp_path / f"hash{i}").mkdir()
        for level in ("cubin", "json", "ptx", "ttir"):
            (tmp_path / f"hash{i}" / f"add_kernel.{level}").write_bytes(case.path(level).read_bytes())
    tuned = autotune(tmp_path)
    assert [c.label for c in tuned.candidates] == ["hash0/add_kernel.cubin", "hash1/add_kernel.cubin"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match="no kernel in .*empty"):
        autotune(tmp_path / "empty")


def test_candidates_of_every_kind_have_labels():
    kernel = Kernel.from_file(ptx("add_kernel"))
    given = [kernel, kernel.artifact, str(ptx("add_kernel")), Candidate(kernel, "mine", constants={"BLOCK": 3})]
    tuned = autotune(given)
    assert [c.label for c in tuned.candidates][-1] == "mine"
    assert len({c.label for c in tuned.candidates}) == 4
    mine = tuned.candidates[-1]
    assert (mine["BLOCK"], mine["num_warps"]) == (3, 4)
    with pytest.raises(ArgumentError, match="'mine' has no 'BLOCK_M'"):
        mine["BLOCK_M"]
    assert len({c.digest for c in tuned.candidates[:3]}) == 1
    assert mine.digest != tuned.candidates[0].digest


@pytest.mark.parametrize(
    "settings,expected",
    [
        ({"candidates": []}, "no candidate"),
        ({"candidates": 3}, "3 cannot be a candidate"),
        ({"key": "n"}, "expected names of arguments"),
        ({"key": 3}, "key=3: expected names of arguments"),
        ({"key": ["n", 3]}, "expected names of arguments"),
        ({"restore": 3}, "restore=3: expected names of arguments"),
        ({"reset_to_zero": len}, "reset_to_zero=.*: expected names of arguments"),
        ({"rep": -1}, "rep=-1: expected a number that is not negative"),
        ({"options": []}, "expected mappings of compile options"),
    ],
)
def test_settings_that_are_not_understood(settings, expected):
    with pytest.raises(ArgumentError, match=expected):
        autotune(**{"candidates": ptx("add_kernel"), **settings})


@pytest.mark.parametrize(
    "given,expected",
    [
        ({"source": None}, r"Candidate\(None\): expected a kernel, a file, an artifact or a function"),
        ({"source": 3}, r"Candidate\(3\): expected a kernel"),
        ({"source": "a.ptx", "constants": 3}, "constants=3: expected a mapping"),
        ({"source": "a.ptx", "options": ["num_warps"]}, "options=.*: expected a mapping"),
    ],
)
def test_candidates_that_are_none(given, expected):
    with pytest.raises(ArgumentError, match=expected):
        Candidate(**given)


@pytest.mark.parametrize(
    "reference,expected",
    [
        (lambda arguments: None, "gave NoneType None: expected arrays by argument name; return what"),
        (lambda arguments: "first", "gave str 'first': expected arrays by argument name"),
        (lambda arguments: {}, "nothing would be compared: expected arrays by argument name"),
        ({}, "nothing would be compared: expected arrays by argument name"),
        ({"out_ptr": [1, 2]}, r"reference\['out_ptr'\] is a list: expected an array or a tensor"),
        ({"out_ptr": None}, r"reference\['out_ptr'\] is NoneType None: expected an array"),
    ],
)
def test_a_reference_that_compares_nothing_is_refused(arrays, reference, expected):
    with pytest.raises(ArgumentError, match=expected):
        autotune(ptx("add_kernel"), reference=reference, grid=GRID, **QUICK)(*arrays, N, device="emulator")


def test_a_reference_of_another_shape_is_told_by_both(arrays):
    tuned = autotune(ptx("add_kernel"), reference={"out_ptr": np.zeros(3, np.float32)}, grid=GRID, **QUICK)
    with pytest.raises(TuningError, match=rf"out_ptr has the shape \({N},\), the reference \(3,\)"):
        tuned(*arrays, N, device="emulator")


def test_what_a_table_says_of_an_error_is_a_whole_statement():
    assert _first(ArgumentError("one line; to the end. The slots are")) == "one line; to the end. The slots are"
    assert _first(ArgumentError("found 3; give signature=. The slots are\n#  name\n")) == "found 3; give signature="
    assert _first(ArgumentError("2 are missing; it takes\n# name")) == "2 are missing"
    assert _first(ArgumentError("a whole one.\nanother")) == "a whole one."
    assert _first(ArgumentError("cannot be launched on this grid:\n- x")) == "cannot be launched on this grid"


def test_keys_and_references_that_are_not_understood(arrays):
    x, y, out = arrays
    with pytest.raises(ArgumentError, match="key 'n' is no argument of this launch"):
        autotune(ptx("add_kernel"), key=["n"], grid=1)(x, y, out, N, device="emulator")
    with pytest.raises(ArgumentError, match="has no grid"):
        Candidate(ptx("add_kernel"), "c").settled_grid(None)
    with pytest.raises(ArgumentError, match="reference has 'z_ptr', which is no tensor"):
        autotune(ptx("add_kernel"), reference={"z_ptr": x}, grid=1)(x, y, out, N, device="emulator")
    with pytest.raises(ArgumentError, match="key= gave .*: expected what JSON can hold"):
        autotune(ptx("add_kernel"), key=lambda a: a["x_ptr"], grid=1)(x, y, out, N, device="emulator")
    tuned = autotune(ptx("add_kernel"), key=lambda a: a["n_elements"] // 1000, grid=GRID, cache=False, **QUICK)
    for n in (N, N - 16, 32):
        tuned(x, y, out, n, device="emulator")
    assert [report.key["key"] for report in tuned.reports.values()] == [4, 0]


def test_a_bar_is_shown_when_asked_for(arrays, monkeypatch):
    x, y, out = arrays
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    autotune(ptx("add_kernel"), grid=GRID, cache=False, **QUICK)(x, y, out, N, device="emulator")
    assert terminal.getvalue() == ""
    autotune(ptx("add_kernel"), grid=GRID, cache=False, show=True, **QUICK)(x, y, out, N, device="emulator")
    assert "tuning" in terminal.getvalue()


# --- parts -----------------------------------------------------------------------------------------------------------


def test_floats_agree_within_the_tolerance_and_the_rest_to_the_bit():
    a = np.array([1.0, np.nan, np.inf], np.float32)
    assert difference(a, a, "fp32", 0, 0) == (True, 0.0)
    assert difference(a, np.array([1.005, np.nan, np.inf]), "fp32", 0.01, 0)[0]
    assert not difference(a, np.array([1.1, np.nan, np.inf]), "fp32", 0.01, 0)[0]
    assert not difference(a, np.array([1.0, 2.0, np.inf]), "fp32", 1, 1)[0]
    one, nearly = np.array([0x3F80], np.uint16), np.array([0x3F81], np.uint16)  # bfloat16 1.0 and 1.0078125
    assert difference(one, nearly, "bf16", 0.01, 0) == (True, 0.0078125)
    assert difference(one, np.array([1.0], np.float32), "bf16", 0, 0) == (True, 0.0)
    assert difference(one, nearly, "fp8e5", 1, 1) == (False, 1.0)
    assert difference(a, a[:2], "fp32", 1, 1) == (False, float("inf"))


def test_the_least_median_wins():
    results = [Result(name, "", "ok", Times.of(t)) for name, t in (("a", [3.0, 1.0, 2.0]), ("b", [1.9, 1.9, 9.0]))]
    results.append(Result("c", "", "wrong", Times.of([0.1])))
    assert Report.of({}, "device", results).best == "b"
    assert Report.of({}, "device", results[2:]).best is None


@pytest.mark.parametrize(
    "text,expected",
    [("8", (8,)), ("cdiv(n,B),2", (5, 2)), ("max(n-9*B, 1)*min(B,3) % 7, 1, n//B", (3, 1, 4))],
)
def test_grids_are_formulas(text, expected):
    assert tuple(f.value({"n": 65, "B": 16}) for f in parse_formulas(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.b",
        "__import__('os')",
        "1,2,3,4",
        "f(2)",
        "2**9",
        "cdiv(1)",
        "1/2",
        "0",
        "n",
        "8//0",
        "(" * 300,
        "1.5",
        "x" * 300,
    ],
)
def test_other_formulas_are_refused(text):
    with pytest.raises(UsageError):
        [f.value({"n": "text"}.__getitem__) for f in parse_formulas(text)]


@given(
    st.one_of(
        st.text(max_size=30),
        st.text("0123456789nB+-*/%(), cdivmax", max_size=40),
        st.lists(
            st.sampled_from(["n", "B", "7", "+", "*", "//", "(", ")", ",", "cdiv(", "max(", "-"]), max_size=12
        ).map("".join),
    )
)
def test_any_text_is_a_grid_or_refused(text):
    try:
        sizes = [f.value({"n": 65, "B": 16}.__getitem__) for f in parse_formulas(text) if set(f.names) <= {"n", "B"}]
    except UsageError as error:
        assert "grid" in str(error)
    else:
        assert all(0 < size < 2**31 for size in sizes)


# --- the command -----------------------------------------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(app, ["tune", *map(str, arguments)], env={"COLUMNS": "200"})


ADD = ["-a", f"x_ptr=rand:float32:{N}", "-a", f"y_ptr=ones:float32:{N}", "-a", f"out_ptr=zeros:float32:{N}",
       "-a", f"n_elements={N}", "--device", "emulator", "--rep", "0", "--warmup", "0"]  # fmt: skip


def test_the_command_shows_the_table_and_the_choice(tmp_path):
    good = ptx("add_kernel")
    wrong = edited(good, tmp_path, "wrong", subtracting)
    grid = ["--grid", f"cdiv(n_elements,{BLOCK})"]
    done = command(good, wrong, *grid, *ADD, "--reference", "first")
    assert done.exit_code == 0, done.output
    assert "best" in done.stdout
    assert "wrong.ptx: out_ptr differs by up to" in done.stdout
    shown = json.loads(command(good, wrong, *grid, *ADD, "--reference", "first", "--json").stdout)
    assert shown["best"] == "add_kernel.ptx"
    assert shown["cached"] is True
    np.save(tmp_path / "expected.npy", np.zeros(N, np.float32))
    done = command(good, *grid, *ADD, "--reference", f"out_ptr=@{tmp_path / 'expected.npy'}")
    assert done.exit_code == 1
    assert "none can be used" in done.stdout


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--key", "zz", "expected one of x_ptr, y_ptr, out_ptr, n_elements"),
        ("--restore", "n_elements", "expected one of x_ptr, y_ptr, out_ptr"),
        ("--reset-to-zero", "zz", "expected one of x_ptr, y_ptr, out_ptr"),
        ("--reference", "zz", "expected one of first, add_kernel.ptx"),
        ("--reference", "zz=@zeros.npy", "expected one of x_ptr, y_ptr, out_ptr"),
    ],
)
def test_the_command_says_which_names_there_are(tmp_path, monkeypatch, option, value, message):
    monkeypatch.chdir(tmp_path)
    np.save("zeros.npy", np.zeros(N, np.float32))
    done = command(ptx("add_kernel"), "--grid", GRID, *ADD, option, value)
    assert done.exit_code == 2
    assert f"{option} {value.partition('=')[0]!r}: {message}" in done.stderr


def test_the_command_computes_grids_with_the_constants_of_bundles(tmp_path):
    Kernel.from_file(ptx("add_kernel")).save(tmp_path / "a.trk", constants={"BLOCK": BLOCK})
    done = command(tmp_path, "--grid", "cdiv(n_elements,BLOCK)", *ADD, "--json", "--fresh", "--isolated")
    assert done.exit_code == 0, done.output
    assert [r["status"] for r in json.loads(done.stdout)["results"]] == ["ok"]
    done = command(tmp_path, "--grid", "cdiv(n_elements,BLOCK_M)", *ADD)
    assert done.exit_code == 1
    assert "has no 'BLOCK_M'" in done.output
    assert "it has BLOCK\n" in done.output


def test_the_command_lists_the_arguments_where_a_grid_names_none():
    done = command(ptx("add_kernel"), "--grid", "cdiv(n,1024)", *ADD)
    assert done.exit_code == 1
    assert "--grid 'n': expected one of n_elements; candidate 'add_kernel.ptx' has no 'n'" in done.output
    assert "num_warps" not in done.output


@pytest.mark.parametrize(
    "more,expected",
    [
        (["--grid", "a.b"], "expected numbers, names"),
        (["--grid", "1", "-a", "n_elements=2"], "was given before"),
        (["--grid", "1", "--reference", "out_ptr=3"], "expected NAME=@FILE.npy"),
        (["--grid", "1", "--options", "num_warps"], "--options 'num_warps': expected NAME=VALUE"),
    ],
)
def test_the_command_says_what_is_wrong(more, expected):
    done = command(ptx("add_kernel"), *ADD, *more)
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert trlaunch.TuningError is TuningError
