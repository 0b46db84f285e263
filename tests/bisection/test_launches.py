"""Bisections over launches, on the emulator: the CTA, the block and the instruction that was planted."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import trlaunch
from tests.corpus import find
from trlaunch.bisection import Crashes, Differs, Hangs, Slower, Verdict, blocks, cells, first_bad, levels
from trlaunch.bisection.options import combinations
from trlaunch.bisection.oracles import difference
from trlaunch.bisection.ptx_edits import blocks_in_order, only_programs, stop_before
from trlaunch.cli import app
from trlaunch.emulator.ptx import parse, parse_body
from trlaunch.investigate.trial import Died, Outcome

#: CTA 5 alone goes into the block that traps, in the second of three blocks behind the loop.
PLANTED = """//
.version 8.0
.target sm_80
.address_size 64

.visible .entry planted(
	.param .u64 planted_param_0,
	.param .u32 planted_param_1
)
.maxntid 32, 1, 1
{
	.reg .pred %p<4>;
	.reg .b32 %r<12>;
	.reg .b64 %rd<4>;
	ld.param.u64 %rd1, [planted_param_0];
	ld.param.u32 %r1, [planted_param_1];
	mov.u32 %r2, %ctaid.x;
	mov.u32 %r3, 0;
	mov.u32 %r4, 0;
$LOOP:
	add.s32 %r4, %r4, %r2;
	add.s32 %r3, %r3, 1;
	setp.lt.s32 %p1, %r3, %r1;
	@%p1 bra $LOOP;
	setp.ne.s32 %p2, %r2, 5;
	@%p2 bra $FINE;
	mov.u32 %r7, 1;
	add.s32 %r8, %r7, %r4;
	trap;
$FINE:
	mul.wide.u32 %rd2, %r2, 4;
	add.s64 %rd3, %rd1, %rd2;
	st.global.b32 [%rd3], %r4;
	ret;
}
"""
TRAP = next(i for i, line in enumerate(PLANTED.split("\n"), 1) if "trap;" in line)


@pytest.fixture
def planted(tmp_path):
    file = tmp_path / "planted.ptx"
    file.write_text(PLANTED)
    return file


LAUNCH = {"grid": (4, 2), "args": [np.zeros(8, np.int32), 3], "device": "emulator", "signature": "*i32,i32"}


def by_row(file):
    """`planted` with the number of the CTA in a grid of two axes."""
    text = file.read_text().replace(
        "mov.u32 %r2, %ctaid.x;",
        "mov.u32 %r9, %ctaid.x;\n\tmov.u32 %r10, %ctaid.y;\n\tshl.b32 %r10, %r10, 2;\n\tadd.s32 %r2, %r9, %r10;",
    )
    file.write_text(text)
    return file


def test_the_cta_that_traps_is_found(planted):
    found = first_bad(cells.candidates(by_row(planted), Crashes(), **LAUNCH))
    assert found.found.label == "CTA (1, 1, 0)"  # the fifth, of four in a row
    assert found.trials <= 5
    assert "fault: trap" in found.conclusion


def test_the_block_and_the_instruction_that_trap_are_found(planted):
    launch = {**LAUNCH, "grid": 8}
    found = first_bad(blocks.candidates(planted, Crashes(), **launch))
    assert found.first is not None
    within = first_bad(blocks.instructions(planted, Crashes(), found.first, **launch))
    assert within.found.label == f"line {TRAP}: trap;"
    assert within.last_good == within.first - 1


def test_a_kernel_that_is_right_has_no_bad_part(planted):
    launch = {**LAUNCH, "grid": 5}
    assert first_bad(blocks.candidates(planted, Crashes(), **launch)).first is None
    assert first_bad(cells.candidates(planted, Crashes(), **launch)).first is None


def test_candidates_can_be_sent_to_other_processes(planted):
    for candidate in (*cells.candidates(planted, Crashes(), **LAUNCH), *blocks.candidates(planted, Hangs(), **LAUNCH)):
        assert pickle.loads(pickle.dumps(candidate.trial)).timeout == 60.0


def run_ptx(file, grid, count):
    kernel = trlaunch.Kernel.from_file(file, device="emulator", signature="*i32,i32")
    out = np.full(count, -1, np.int32)
    kernel.launch(grid, out, 3)
    return out


def test_only_the_programs_of_a_range_run(planted):
    planted.write_text(only_programs(PLANTED, 2, 4))
    assert run_ptx(planted, 8, 8).tolist() == [-1, -1, 6, 9, 12, -1, -1, -1]


def test_threads_return_where_they_are_stopped(planted):
    lines = PLANTED.split("\n")
    store = next(i for i, line in enumerate(lines, 1) if "st.global" in line)
    planted.write_text(stop_before(PLANTED, [store, TRAP]))
    assert run_ptx(planted, 8, 8).tolist() == [-1] * 8
    with pytest.raises(trlaunch.ArgumentError, match="line 1 of the PTX holds no instruction"):
        stop_before(PLANTED, [1])


@pytest.mark.parametrize("name", ["matmul_kernel", "softmax_kernel"])
def test_blocks_of_compiled_kernels_hold_each_instruction_once(name):
    text = find("3.6.0", "cuda:80", name).path("ptx").read_text()
    module = parse(text)
    body = parse_body(module, next(iter(module.functions.values())))
    wanted = sorted({s.line for s in body.statements if hasattr(s, "opcode")})
    found = [line for block in blocks_in_order(text) for line in block.lines]
    assert sorted(set(found)) == wanted
    assert len(set(found)) == len(found)
    assert all(str(block) for block in blocks_in_order(text))


def test_a_cluster_cannot_run_by_programs():
    with pytest.raises(trlaunch.ArgumentError, match="wait for each other"):
        cells.candidates(find("3.6.0", "cuda:90", "cluster_kernel").path("ptx"), Crashes(), grid=1)


def test_levels_need_company(tmp_path, planted):
    with pytest.raises(trlaunch.ArtifactError, match=r"planted\.ptx is alone"):
        levels.candidates(planted, Crashes(), grid=1)


def test_levels_are_tried_from_the_highest(tmp_path):
    case = find("3.6.0", "cuda:80", "add_kernel")
    for level in ("ptx", "cubin", "json"):
        shutil.copy(case.path("cubin").with_suffix(f".{level}"), tmp_path)
    rows = levels.candidates(tmp_path / "add_kernel.cubin", Crashes(), grid=1, device="emulator")
    assert [c.label for c in rows] == ["ptx", "cubin"]
    # No level below the one that is tried may be taken instead of being made.
    assert not any(name.endswith(".cubin") for name in rows[0].trial.trial.files)


def outcome(status="ok", **fields):
    died = None if status == "ok" else Died("Fault", "it died\nof this", kind="trap", ptx_line=7)
    return Outcome(status, died, **fields)


@pytest.mark.parametrize(
    ("oracle", "status", "state"),
    [
        (Crashes(), "ok", "good"), (Crashes(), "fault", "bad"), (Crashes(), "hang", "bad"),
        (Crashes(), "refused", "skip"), (Crashes(), "timeout", "skip"), (Crashes(), "killed", "bad"),
        (Hangs(), "hang", "bad"), (Hangs(), "fault", "skip"), (Hangs(), "ok", "good"),
        (Differs({}), "error", "bad"), (Differs({}), "refused", "skip"),
        (Slower(1.0), "fault", "skip"), (Slower(1.0), "ok", "skip"),
    ],
)  # fmt: skip
def test_oracles(oracle, status, state):
    assert oracle(outcome(status)).state == state


def test_differs_says_where():
    wanted = {"c": np.arange(6.0).reshape(2, 3)}
    assert Differs(wanted)(outcome(outputs={"c": wanted["c"] + 1e-4})).state == "good"
    found = {"c": wanted["c"].copy()}
    found["c"][1, 2] = 9
    verdict = Differs(wanted)(outcome(outputs=found))
    assert verdict.state == "bad"
    assert verdict.detail == "c: 1 of 6 elements differ, the first at [1, 2]: 9.0 instead of 5.0"
    assert verdict.values == {"max error": "4"}
    with pytest.raises(trlaunch.ArgumentError, match="'c', which is no output of the kernel: it has d"):
        Differs(wanted)(outcome(outputs={"d": found["c"]}))
    with pytest.raises(trlaunch.ArgumentError, match="expected the same"):
        Differs(wanted)(outcome(outputs={"c": np.zeros(3)}))


def test_nan_is_equal_to_nan_and_to_nothing_else():
    a = np.array([np.nan, np.inf, 1.0])
    assert difference(a, a, 0, 0)[0] == 0
    assert difference(a, np.array([0.0, np.inf, 1.0]), 1, 1)[0] == 1


def test_slower():
    assert Slower(0.5)(outcome(kernel_seconds=0.4)).state == "good"
    verdict = Slower(0.5)(outcome(kernel_seconds=0.6))
    assert verdict == Verdict("bad", "600.000 ms", {"kernel ms": 600.0})


def test_combinations():
    assert combinations({"num_warps": [2, 4], "num_stages": [1]}) == [
        {"num_warps": 2, "num_stages": 1},
        {"num_warps": 4, "num_stages": 1},
    ]
    with pytest.raises(trlaunch.ArgumentError, match="no options to choose from"):
        combinations({})


def invoke(*words):
    return CliRunner().invoke(app, ["bisect", *map(str, words)])


def test_the_commands(planted, tmp_path):
    arguments = ("--grid", "8", "--arg", "0=zeros:i32:8", "--arg", "1=3", "--devices", "emulator")
    arguments += ("--signature", "*i32,i32")
    done = invoke("cells", planted, *arguments, "--state", tmp_path / "state", "--out", tmp_path / "out.json")
    assert done.exit_code == 0, done.stderr
    assert "CTA (5, 0, 0) is the first bad one: fault: trap" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["first_label"] == "CTA (5, 0, 0)"
    again = invoke("cells", planted, *arguments, "--state", tmp_path / "state", "--json")
    assert json.loads(again.stdout)["trials"] == 0
    assert f"at PTX line {TRAP}" in done.stdout  # of the file as it is, not as it was edited
    assert invoke("cells", planted, *arguments[:-2]).exit_code == 1  # without the types nothing can be tried
    assert invoke("cells", planted, *arguments, "--devices", "nowhere").exit_code != 0
    (tmp_path / "garbage").write_bytes(bytes(range(128, 256)))
    done = invoke("cells", planted, *arguments, "--state", tmp_path / "garbage")
    assert "is no state of a bisection" in done.stderr
    done = invoke("blocks", planted, *arguments)
    assert f"line {TRAP}: trap;" in done.stdout
    assert invoke("blocks", planted, "--grid", "8", "--bad", "nonsense").exit_code == 2
    assert invoke("cells", planted, "--grid", "8", "--bad", "differs").exit_code == 2
    assert invoke("cells", planted, "--grid", "8", "--bad", "slower").exit_code == 2
    assert invoke("options", planted, "--grid", "8", "--vary", "num_warps").exit_code == 2
    assert invoke("releases", "nowhere.py:f", "--target", "cuda:80").exit_code == 2
    assert invoke("releases", planted, "--target", "cuda:80", "--python", "3.2.0=nowhere").exit_code == 2
