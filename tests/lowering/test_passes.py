"""The passes of the installed release: looked at one by one, written to files, and started behind each of them."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests import corpus
from trlaunch import cache
from trlaunch.artifact import Artifact, Level
from trlaunch.cli import app
from trlaunch.errors import ArtifactError, LoweringError
from trlaunch.lowering import lower
from trlaunch.lowering.pass_files import unified
from trlaunch.lowering.pass_marker import Marker, read_marker
from trlaunch.lowering.pass_names import elements, find, kernel_of, numbered
from trlaunch.lowering.pass_recorder import Recorder
from trlaunch.lowering.passes import observe, resume
from trlaunch.lowering.triton_compiler import Compiler, captured_stderr, installed_release
from trlaunch.target import Target

RELEASE = installed_release() or (3, 6)
CASES = [c for c in corpus.cases() if c.version == RELEASE and "ttir" in c.levels]
# Up to 3.8 Triton plans the CTAs of a cluster in an order of addresses: two runs give two results.
UNSTEADY = "cluster_matmul_kernel"
MATMULS = [c for c in CASES if c.name == "matmul_kernel"]
NOT_LEGAL = """module {
  tt.func public @bad(%p: !tt.ptr<f32> {tt.divisibility = 16 : i32}) attributes {noinline = false} {
    %i = tt.make_range {end = 128 : i32, start = 0 : i32} : tensor<128xi32>
    %f = arith.sitofp %i : tensor<128xi32> to tensor<128xf32>
    %g = math.atan2 %f, %f : tensor<128xf32>
    %s = tt.splat %p : !tt.ptr<f32> -> tensor<128x!tt.ptr<f32>>
    %q = tt.addptr %s, %i : tensor<128x!tt.ptr<f32>>, tensor<128xi32>
    tt.store %q, %g : tensor<128x!tt.ptr<f32>>
    tt.return
  }
}
"""


@pytest.fixture
def matmul(triton) -> corpus.Case:
    """Matmul for sm_80; a first one was compiled: up to 3.3 LLVM lays out the first of a process otherwise."""
    case = next(c for c in MATMULS if c.target == "cuda:80")
    lower(case.path("ttgir"), "ptx")
    return case


@pytest.fixture
def own_cache(triton, tmp_path, monkeypatch) -> Path:
    """An empty cache: nothing in it that another test has made."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(folder))
    return folder


def stated(artifact: Artifact) -> dict:
    return {k: v for k, v in artifact.metadata.raw.items() if k != "hash"}


def mlir(run):
    return [record for record in run if record.kind == "mlir"]


# --- looking at passes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if c.name != UNSTEADY], ids=str)
def test_what_comes_out_is_what_an_unobserved_run_gives(matmul, own_cache, case):
    run = observe(case.path("ttir"))
    made = lower(case.path("ttir"), "ptx")
    assert run.artifact.text == made.text
    assert stated(run.artifact) == stated(made)


# Up to 3.7 "Before Inliner (inline) (...)", from 3.8 on "Before InlinerPass: inline{...} (...)".
BANNER = re.compile(r"IR Dump Before \S+?(?: \((\S+)\)|: ([^ {]+)[^(]*)? \('[^']+' operation")


def test_names_are_those_of_the_banners_that_the_release_prints(matmul, monkeypatch):
    monkeypatch.setenv("MLIR_ENABLE_DUMP", "1")
    compiler = Compiler(Target.parse("cuda:80"), {})
    metadata = compiler.first_metadata()
    module = compiler.parse(matmul.text("ttir"), "ttir")
    printed = []
    for stage in ("ttir", "ttgir", "llir"):
        with captured_stderr() as lines:
            module = compiler.stages[stage](module, metadata)
        printed += [(stage, m[1] or m[2]) for m in BANNER.finditer(lines[0])]
    planned = [(p.stage, p.name) for p in Recorder(compiler).plan()]
    assert len(planned) > 35
    # A pass may run others inside; their banners come in between.
    rest = iter(printed)
    assert all(one in rest for one in planned)


def test_each_pass_prints_its_name_when_it_runs_alone(matmul):
    raw: list[str] = []
    compiler = Compiler(Target.parse("cuda:80"), {})
    recorder = Recorder(compiler, raw=raw)
    metadata = compiler.first_metadata()
    module = compiler.parse(matmul.text("ttir"), "ttir")
    for stage in ("ttir", "ttgir", "llir"):
        module = recorder.run(stage, module, metadata)
    names = [m[1] or m[2] for m in map(BANNER.search, raw) if m]
    assert names == [r.name for r in mlir(recorder.records)] == [p.name for p in recorder.plan()]


def test_passes_are_in_order_and_say_what_they_changed(matmul):
    seen = []
    run = observe(matmul.path("ttir"), observer=seen.append)
    assert tuple(seen) == run.records
    assert [r.index for r in run] == list(range(1, len(run) + 1))
    assert [r.stage for r in run] == sorted((r.stage for r in run), key=["ttir", "ttgir", "llir", "ptx"].index)
    assert all(one.text == two.before for one, two in zip(run.records, run.records[1:], strict=False))
    coalesce = run.find("coalesce")
    assert coalesce is run.find("tritongpu-coalesce")
    assert coalesce.changed
    assert coalesce.seconds > 0
    assert coalesce.function == "passes.ttgpuir.add_coalesce"
    # The first stage ran when the corpus was made, so its passes find nothing left to do.
    assert not any(r.changed for r in mlir(run) if r.stage == "ttgir" and r.name == "symbol-dce")
    level = {s: next(r for r in reversed(run.records) if r.stage == s).text for s in ("ttgir", "llir")}
    assert level["ttgir"] == run.artifact.sibling(Level.TTGIR).text
    assert level["llir"] == run.artifact.sibling(Level.LLIR).text
    assert "llvm.optimize_module" in {r.name for r in run if r.kind == "llvm"}


def test_what_the_stage_function_does_itself_is_a_step(matmul):
    run = observe(matmul.path("ttir"), options={"maxnreg": 64})
    steps = [r for r in run if r.kind == "python"]
    if RELEASE >= (3, 4):  # earlier ones set it in LLVM IR
        assert any("ttg.maxnreg" in r.text and "ttg.maxnreg" not in r.before for r in steps)
    assert ".maxnreg 64" in run.artifact.text


def test_nothing_of_triton_is_replaced_meanwhile(matmul):
    kind = type(Compiler(Target.parse("cuda:80"), {}).backend)
    names = kind.add_stages.__globals__  # up to 3.2 the module is not in sys.modules
    assert "passes" in names
    before, own = dict(names), dict(vars(kind))
    meanwhile = []

    def look(_record):
        meanwhile.append(all(names[n] is v for n, v in before.items()) and dict(vars(kind)) == own)

    observe(matmul.path("ttir"), observer=look)
    assert meanwhile
    assert all(meanwhile)


def test_other_threads_lower_unobserved(matmul, own_cache):
    others, seen = [], []

    def look(record):
        seen.append(record.stage)
        if record.name == "tritongpu-coalesce":
            thread = threading.Thread(target=lambda: others.append(lower(matmul.path("ptx"), "cubin")))
            thread.start()
            others.append(thread)

    run = observe(matmul.path("ttir"), observer=look)
    next(o for o in others if isinstance(o, threading.Thread)).join()
    assert len(seen) == len(run)
    assert any(isinstance(o, Artifact) for o in others)


def test_a_table_and_a_diff(matmul):
    run = observe(matmul.path("ttir"), "llir")
    lines = run.table().splitlines()
    assert len(lines) == 1 + len(run)
    record = run.find("tritongpu-accelerate-matmul")
    added, removed = (int(n) for n in re.search(r"accelerate-matmul#1 .*\+(\d+) -(\d+)$", run.table(), re.M).groups())
    diff = run.diff("accelerate-matmul")
    body = diff.splitlines()[2:]
    assert sum(line.startswith("+") for line in body) == added > 0
    assert sum(line.startswith("-") for line in body) == removed > 0
    assert any(line.startswith("+") and "mma" in line for line in body)
    assert "loc(" not in diff
    assert "loc(" in run.diff("accelerate-matmul", locations=True)
    assert record.text != record.before
    with pytest.raises(LoweringError, match="several times: say which of canonicalize#"):
        run.diff("canonicalize")
    with pytest.raises(LoweringError, match="no pass 'colaesce' ran; these did: convert-triton-to-tritongpu, "):
        run.diff("colaesce")


# --- starting behind a pass ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MATMULS, ids=str)
def test_starting_after_each_pass_gives_the_same(matmul, own_cache, tmp_path, case):
    options = {k: v for k, v in case.options.items() if k != "num_warps"}
    version = Compiler(Target.parse(case.target), {}).release
    start = Marker("ttir", None, version, Target.parse(case.target), options, {"kernel": case.kernel}).line()
    source = tmp_path / "matmul.mlir"
    source.write_text(start + case.text("ttir"))
    whole = lower(source, "ptx")
    run = observe(source)
    assert run.artifact.text == whole.text
    run.write(tmp_path / "out")
    assert {r.stage for r in mlir(run)} == {"ttir", "ttgir", "llir"}
    for record in mlir(run):
        (file,) = (tmp_path / "out").glob(f"{record.index:02d}-*.mlir")
        made = lower(file, "ptx")
        assert made.text == whole.text, record.label
        assert stated(made) == stated(whole), record.label


def test_starting_from_text_with_the_pass_named(matmul, own_cache):
    run = observe(matmul.path("ttir"))
    for record in mlir(run)[::6]:
        assert resume(record.text, record.label, "ptx", "cuda:80").text == run.artifact.text, record.label
        given = Artifact.from_bytes(record.text, level=Level.TTGIR) if "tt.func" in record.text else None
        if given is not None:
            made = lower(given, "ptx", "cuda:80", start_after=record.label)
            assert made.text == run.artifact.text, record.label


def test_an_edit_between_two_passes_reaches_the_result(matmul, tmp_path):
    run = observe(matmul.path("ttir"), "ttgir")
    run.write(tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*-tritongpu-coalesce.mlir")
    assert "0.000000e+00" in file.read_text()
    file.write_text(file.read_text().replace("0.000000e+00", "1.000000e+00"))
    made = lower(file, "ptx")
    assert made.text != lower(matmul.path("ttir"), "ptx").text
    assert "0f3F800000" in made.text  # 1.0 in PTX's hexadecimal form


def test_the_result_is_kept_by_text_and_pass(matmul, own_cache):
    run = observe(matmul.path("ttir"), "ttgir")
    record = run.find("tritongpu-coalesce")
    first = resume(record.text, "coalesce", "ptx", "cuda:80")
    held = len(cache.entries())
    again = resume(record.text, "coalesce", "ptx", "cuda:80")
    assert again.data == first.data
    assert len(cache.entries()) == held
    resume(record.text, "tritongpu-coalesce#1", "ptx", "cuda:80", {"num_stages": 1})
    assert len(cache.entries()) == held + 1


def test_options_and_target_are_those_of_the_saved_run(matmul, tmp_path):
    run = observe(matmul.path("ttir"), "ttgir", options={"num_stages": 2})
    run.write(tmp_path / "out")
    whole = lower(matmul.path("ttir"), "ptx", options={"num_stages": 2})
    (file,) = (tmp_path / "out").glob("*-tritongpu-coalesce.mlir")
    made = resume(file, to="ptx")
    assert made.text == whole.text
    assert stated(made) == stated(whole)
    assert made.metadata.raw["num_stages"] == 2


@pytest.mark.parametrize("case", [c for c in CASES if c.options.get("num_ctas", 1) > 1], ids=str)
def test_what_passes_write_elsewhere_than_into_the_module_is_carried(matmul, tmp_path, case):
    run = observe(case.path("ttir"))
    run.write(tmp_path / "out")
    # Up to 3.5 plan-cta writes the cluster's shape to an object of the stage function; 3.9 has no such pass.
    late = ("triton-nvidia-gpu-plan-cta", "tritongpu-reorder-instructions", "convert-scf-to-cf")
    chosen = [r for r in run if r.name in late]
    assert len(chosen) >= 2
    for record in chosen:
        (file,) = (tmp_path / "out").glob(f"{record.index:02d}-*.mlir")
        made = lower(file, "ptx")
        assert made.text == run.artifact.text
        assert made.metadata.raw.get("cluster_dims") == run.artifact.metadata.raw.get("cluster_dims")
        assert stated(made) == stated(run.artifact)


def test_a_finished_stage_goes_on_from_its_last_file(matmul, tmp_path):
    run = observe(matmul.path("ttir"))
    run.write(tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*-llvm.optimize_module.ll")
    made = lower(file, "ptx")
    assert made.text == run.artifact.text
    assert made.metadata.shared == run.artifact.metadata.shared
    (early,) = (tmp_path / "out").glob("*-llvm.to_module.ll")
    with pytest.raises(LoweringError, match="is llir, which Triton can read only when its stage is done"):
        lower(early, "ptx")
    assert lower(tmp_path / "out" / "00-input.mlir", "ptx").text == run.artifact.text


def test_which_pass_must_be_clear(matmul, tmp_path):
    text = observe(matmul.path("ttir"), "ttgir").find("tritongpu-coalesce").text
    with pytest.raises(LoweringError, match=r"'canonicalize' runs several times: say which of canonicalize#1 \(ttir\)"):
        resume(text, "canonicalize", "ptx", "cuda:80")
    with pytest.raises(LoweringError, match=r"no pass is called 'coalesc': near it are .*tritongpu-coalesce"):
        resume(text, "coalesc", "ptx", "cuda:80")
    with pytest.raises(LoweringError, match="no way from inside ttgir to ttir for cuda:80"):
        resume(text, "coalesce", "ttir", "cuda:80")
    with pytest.raises(ArtifactError, match="does not say after which pass"):
        resume(text, to="ptx", target="cuda:80")
    marked = Marker("ttgir", "tritongpu-coalesce#1", "3.99.0", Target.parse("cuda:80")).line() + text
    with pytest.raises(LoweringError, match=r"saved between passes of Triton 3\.99\.0"):
        resume(marked, to="ptx")
    here = f"{RELEASE[0]}.{RELEASE[1]}.0"
    other = Marker("ttgir", "tritongpu-coalesce#1", here, Target.parse("cuda:80")).line() + text
    with pytest.raises(LoweringError, match="says that it was saved after tritongpu-coalesce#1"):
        resume(other, "tritongpu-prefetch", "ptx")


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_passes(matmul, tmp_path):
    run = observe(matmul.path("ttir"))
    out = tmp_path / "out"
    index = run.write(out)
    assert index == out / "index.txt"
    files = sorted(p.name for p in out.iterdir())
    assert files[0] == "00-input.mlir"
    for record in run:
        (file,) = (p for p in out.glob(f"{record.index:02d}-*") if p.suffix != ".diff")
        first, _, text = file.read_text().partition("\n")
        assert text.rstrip("\n") == record.text.rstrip("\n")
        assert read_marker(first + "\n").after == record.label
        assert file.name in index.read_text()
        translated = record.function in ("llvm.to_module", "llvm.translate_to_asm")
        assert file.with_suffix(".diff").exists() == (record.changed and not translated)
    run.write(out)
    assert sorted(p.name for p in out.iterdir()) == files


def test_a_folder_of_something_else_is_left_alone(matmul, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="has files of something else"):
        observe(matmul.path("ttir"), "ttgir").write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("value", ["1", "matmul_kernel"])
def test_mlir_enable_dump_splits_into_files(matmul, own_cache, monkeypatch, capfd, value):
    whole = lower(matmul.path("ttir"), "ptx")
    capfd.readouterr()
    monkeypatch.setenv("MLIR_ENABLE_DUMP", value)
    made = lower(matmul.path("ttir"), "ptx")
    assert made.text == whole.text
    (folder,) = (own_cache / "dumps").iterdir()
    assert capfd.readouterr().err == f"MLIR_ENABLE_DUMP: {folder}\n"
    names = [p.name for p in folder.iterdir()]
    (coalesce,) = folder.glob("[0-9][0-9]-TritonGPUCoalesce.mlir")
    assert any(re.fullmatch(r"\d\d-Canonicalizer(Pass)?\.mlir", name) for name in names)
    assert "IR Dump Before TritonGPUCoalesce" in (folder / "all.mlir").read_text()
    monkeypatch.delenv("MLIR_ENABLE_DUMP")
    assert lower(coalesce, "ptx").text == whole.text


def test_mlir_enable_dump_of_another_kernel_writes_nothing(matmul, own_cache, monkeypatch, capfd):
    monkeypatch.setenv("MLIR_ENABLE_DUMP", "another_kernel")
    lower(matmul.path("ttir"), "ptx")
    assert not (own_cache / "dumps").exists()
    assert capfd.readouterr().err == ""


def test_mlir_dump_path_gets_the_release_s_own_dump(matmul, own_cache, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("MLIR_ENABLE_DUMP", "1")
    monkeypatch.setenv("MLIR_DUMP_PATH", str(tmp_path / "all.txt"))
    lower(matmul.path("ttir"), "ptx")
    (folder,) = (own_cache / "dumps").iterdir()
    assert (tmp_path / "all.txt").read_text() == (folder / "all.mlir").read_text()
    capfd.readouterr()


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [lower, observe])
def test_a_failing_pass_is_named_and_its_input_kept(matmul, own_cache, how):
    source = Artifact.from_bytes(NOT_LEGAL)
    with pytest.raises(LoweringError, match=r"pass: convert-triton-to-tritongpu#1") as failure:
        how(source, "ptx", "cuda:80")
    error = failure.value
    assert (error.stage, error.pass_name) == ("ttgir", "convert-triton-to-tritongpu")
    assert "math.atan2" in error.log
    before = error.reproducer / "before-convert-triton-to-tritongpu.mlir"
    assert before.read_text() == error.before
    with pytest.raises(LoweringError, match="pass: convert-triton-to-tritongpu#1"):
        lower(before, "ptx")


# --- names and markers, without a compiler ---------------------------------------------------------------------------


def test_a_pipeline_as_mlir_prints_it():
    text = (
        "builtin.module(any(cse,inline{default-pipeline=canonicalize max-iterations=4 },"
        "tt.func(licm,triton-licm{a=b,c}),unknown<mlir::(anonymous namespace)::Foo>))"
    )
    assert [name for name, _ in elements(text)] == ["cse", "inline", "licm", "triton-licm", "Foo"]
    assert elements(text)[1][1] == "inline{default-pipeline=canonicalize max-iterations=4 }"
    assert elements("any()") == []
    with pytest.raises(LoweringError, match="cannot be read"):
        elements("cse,{x}")


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[A-Za-z0-9]{1,6}){0,3}", fullmatch=True)
OPTIONS = st.lists(st.from_regex(r"[a-z]{1,4}=[a-z0-9,]{1,6}", fullmatch=True), max_size=3)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, OPTIONS), min_size=1, max_size=8), st.booleans())
def test_printed_pipelines_are_read_back(passes, nested):
    written = [name + ("{" + " ".join(options) + "}" if options else "") for name, options in passes]
    body = ",".join(f"tt.func({text})" if nested else text for text in written)
    assert elements(f"builtin.module({body})") == list(zip([n for n, _ in passes], written, strict=True))


@settings(deadline=None)
@given(st.text(alphabet="ab-_.{}()<>, =", max_size=30))
def test_any_pipeline_is_read_or_refused(text):
    try:
        found = elements(text)
    except LoweringError as error:
        assert error.stage == "passes"
    else:
        assert all(name in text for name, _ in found)


PLANNED = numbered(
    [
        ("ttir", "canonicalize", "canonicalize"),
        ("ttir", "cse", "cse"),
        ("ttgir", "tritongpu-coalesce", "tritongpu-coalesce"),
        ("ttgir", "triton-loop-aware-cse", "triton-loop-aware-cse"),
        ("ttgir", "canonicalize", "canonicalize"),
    ]
)


@pytest.mark.parametrize(
    ("wanted", "stage", "position", "label"),
    [
        ("tritongpu-coalesce", "ttgir", 0, "tritongpu-coalesce#1"),
        ("coalesce", "ttgir", 0, "tritongpu-coalesce#1"),
        ("TritonGPUCoalesce", "ttgir", 0, "tritongpu-coalesce#1"),
        ("cse", "ttir", 1, "cse#1"),  # the exact name comes before the end of a longer one
        ("loop-aware-cse", "ttgir", 1, "triton-loop-aware-cse#1"),
        ("canonicalize#2", "ttgir", 2, "canonicalize#2"),
    ],
)
def test_a_pass_is_found_by_what_a_user_calls_it(wanted, stage, position, label):
    found = find(PLANNED, wanted)
    assert (found.stage, found.position, found.label) == (stage, position, label)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("canonicalize", "several times: say which of canonicalize#1 (ttir), canonicalize#2 (ttgir)"),
        ("canonicalize#3", "there are 2 of them"),
        ("cse#x", "expected a number after '#'"),
        ("licm", "no pass is called 'licm': the passes are canonicalize, cse"),
        ("", "no pass is called ''"),
    ],
)
def test_an_unclear_pass_is_refused(wanted, message):
    with pytest.raises(LoweringError, match=re.escape(message)):
        find(PLANNED, wanted)


JSON = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@settings(deadline=None)  # the time is the machine's
@given(st.none() | NAMES.map(lambda name: name + "#2"), JSON, JSON, st.sampled_from(["//", ";"]))
def test_markers_are_read_back(after, options, carried, comment):
    marker = Marker("ttgir", after, "3.6.0", Target.parse("cuda:90"), options, carried)
    assert read_marker(marker.line(comment) + "module {}\n") == marker


@settings(deadline=None)
@given(st.text(max_size=60))
def test_a_damaged_marker_is_refused(rest):
    line = "// trlaunch: after cse#1 of ttir, triton 3.6.0, cuda:90, options " + rest.replace("\n", " ")
    try:
        found = read_marker(line)
    except LoweringError as error:
        assert "a marker that cannot be read" in str(error)
    else:
        assert found.after == "cse#1"
    assert read_marker("module {}\n// trlaunch: after") is None


def test_source_positions_are_no_difference():
    before = 'module {\n  %0 = tt.load %p : f32 loc(#loc3)\n} loc(#loc)\n#loc = loc("a.py":1:2)\n'
    after = 'module {\n  %0 = tt.load %p : f32 loc("x"(#loc7))\n} loc(#loc)\n#loc = loc("a (b).py":1:2)\n'
    assert unified(before, after, ("a", "b")) == ""
    assert "#loc7" in unified(before, after, ("a", "b"), locations=True)


def test_the_kernel_is_the_public_function():
    assert kernel_of("module {\n  tt.func public @k(%a: i32) {\n  }\n  tt.func private @f() {\n  }\n}") == "k"
    assert kernel_of('  llvm.func @"a b"(%a: i32) attributes {x} {\n') is None
    assert (
        kernel_of("  llvm.func internal @f() {\n  llvm.func @vprintf(!llvm.ptr) -> i32\n  llvm.func @k(%a: i32) {\n")
        == "k"
    )


# --- command line ----------------------------------------------------------------------------------------------------


def cli(*words: object):
    result = CliRunner().invoke(app, ["passes", *map(str, words)], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_command_lists_passes(matmul, tmp_path):
    found = cli(matmul.path("ttir"), "--target", "cuda:80", "-o", tmp_path / "out")
    assert found.exit_code == 0, found.stderr
    assert re.search(r"^ *\d+ +ttgir +tritongpu-coalesce#1 +[\d.]+ +\+\d+ -\d+ *$", found.stdout, re.M)
    assert (tmp_path / "out" / "index.txt").is_file()


def test_the_command_in_json(matmul):
    found = cli(matmul.path("ttir"), "--json", "--diff", "coalesce", "--option", "num_warps=8", "--to", "ttgir")
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["kernel"] == "matmul_kernel"
    assert told["target"] == "cuda:80"
    (coalesce,) = (p for p in told["passes"] if p["name"] == "tritongpu-coalesce#1")
    assert coalesce["changed"]
    assert coalesce["ms"] > 0
    assert "+++ after tritongpu-coalesce#1" in told["diff"]
    (convert,) = (p for p in told["passes"] if p["name"] == "convert-triton-to-tritongpu#1")
    assert "num-warps=8" in convert["pipeline"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--option", "num_warps"], 2, "expected NAME=VALUE"),
        (["--diff", "colaesce"], 1, "no pass 'colaesce' ran"),
        (["--option", "num_wraps=8"], 1, "has no such option"),
    ],
)
def test_the_command_refuses(matmul, words, code, message):
    found = cli(matmul.path("ttir"), *words)
    assert found.exit_code == code
    assert message in found.stderr
