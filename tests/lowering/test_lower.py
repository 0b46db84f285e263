"""Lowering texts by the installed release, against what ``triton.compile`` of that release gave."""

from __future__ import annotations

import importlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import corpus
from tests.matrix.forking import in_process, silenced
from trlaunch import cache
from trlaunch.artifact import Artifact, Level
from trlaunch.errors import AssemblerMissing, FallbackWarning, LoweringError
from trlaunch.kernel import Kernel
from trlaunch.lowering import lower
from trlaunch.lowering.triton_compiler import installed_release

ROOT = Path(__file__).parents[2]
RELEASE = installed_release() or (3, 6)
CASES = tuple(c for c in corpus.cases() if c.version == RELEASE)
PLAIN = ("add_kernel", "softmax_kernel", "layer_norm_kernel", "matmul_kernel")
# Up to 3.8 Triton plans the CTAs of a cluster in an order of addresses: two runs give two results.
UNSTEADY = "cluster_matmul_kernel"


def case(name: str = "add_kernel", target: str = "cuda:80") -> corpus.Case:
    return next(c for c in CASES if c.name == name and c.target == target)


def copied(case: corpus.Case, folder: Path, *levels: str) -> Path:
    """Files of a case in a folder of their own; the first one's path."""
    for level in levels:
        (folder / f"{case.kernel}.{level}").write_bytes(case.bytes(level))
    return folder / f"{case.kernel}.{levels[0]}"


def code(cubin: bytes) -> dict[str, bytes]:
    """The sections of instructions."""
    return {s.name: s.data() for s in ELFFile(io.BytesIO(cubin)).iter_sections() if s.name.startswith(".text")}


def entries() -> list[Path]:
    return [p for p in cache.path().glob("*") if len(p.name) == 64 or len(p.name) == 2]


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Path:
    """A cache of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(folder))
    return folder


# --- the same as triton.compile --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["ttir", "ttgir", "llir"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ptx_and_metadata_are_those_of_triton_compile(triton, case, level):
    if level not in case.levels or (case.name == UNSTEADY and level == "ttir"):
        assert case.levels  # the corpus keeps LLIR of three kernels of three releases
        return
    made = lower(case.path(level), "ptx")
    assert made.text == case.text("ptx")
    stated, expected = dict(made.metadata.raw), case.metadata
    for machine in ("hash", "extern_libs"):
        assert stated.pop(machine) is not None
        expected.pop(machine)
    assert stated == expected


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90"])
def test_cubin_has_the_same_instructions(triton, name, target):
    expected = code(case(name, target).bytes("cubin"))
    for level in ("ttir", "ptx"):
        made = lower(case(name, target).path(level), Level.CUBIN)
        assert code(made.data) == expected
        assert made.metadata.shared == case(name, target).metadata["shared"]


def test_without_metadata_the_module_tells(triton, tmp_path):
    source = copied(case("layer_norm_kernel"), tmp_path, "ttgir")
    made = lower(source, "ptx")
    assert made.text == case("layer_norm_kernel").text("ptx")
    assert made.metadata.num_warps == 8
    assert made.metadata.shared == case("layer_norm_kernel").metadata["shared"]
    assert made.metadata.name == "layer_norm_kernel"


def test_ttir_without_metadata_takes_what_is_asked(triton, tmp_path):
    source = copied(case(), tmp_path, "ttir")
    with pytest.raises(LoweringError, match="does not say what it is for"):
        lower(source, "ptx")
    made = lower(source, "ttgir", "cuda:80", {"num_warps": 8})
    assert '.num-warps" = 8' in made.text
    assert made.metadata.num_warps == 8
    assert made.metadata.name == "add_kernel"
    assert '.num-warps" = 4' in lower(source, "ttgir", "cuda:80").text


def test_options_asked_for_go_over_the_metadata(triton):
    made = lower(case().path("ttir"), "ptx", options={"num_warps": 8, "maxnreg": 64})
    assert made.metadata.num_warps == 8
    assert ".maxnreg" in made.text
    assert lower(made, "cubin").metadata.num_warps == 8


def test_another_target_than_the_metadata(triton):
    made = lower(case("softmax_kernel").path("ttir"), "cubin", "cuda:86")
    assert str(made.metadata.target) == "cuda:86"
    assert ".target sm_86" in made.sibling(Level.PTX).text
    assert made.metadata.raw.get("arch", "sm86") == "sm86"
    ptx = lower(case("softmax_kernel").path("ptx"), "cubin", "cuda:86")
    assert str(ptx.metadata.target) == "cuda:86"
    assert ptx.metadata.raw.get("arch", "sm86") == "sm86"


@pytest.mark.parametrize("source", corpus.cases(level="llir", release=CASES[0].release) or CASES[:1], ids=str)
def test_llir_without_metadata_states_only_what_is_known(triton, source, tmp_path):
    if "llir" in source.levels:
        path = copied(source, tmp_path, "llir")
    else:
        (tmp_path / "add_kernel.llir").write_text(lower(source.path("ttir"), "llir").text)
        path = tmp_path / "add_kernel.llir"
    made = lower(path, "ptx", source.target)
    assert made.text == source.text("ptx")
    assert made.metadata.num_warps == source.metadata["num_warps"]
    assert made.metadata.name == source.kernel
    assert made.metadata.shared is None
    assert "num_stages" not in made.metadata.raw


def test_a_cluster_without_metadata(triton, tmp_path):
    """Up to 3.5 only the metadata says how the CTAs of a cluster lie; later they lie along x."""
    source = case(UNSTEADY, "cuda:90")
    path = copied(source, tmp_path, "ttgir")
    if RELEASE >= (3, 6):
        assert lower(path, "ptx").metadata.cluster == (2, 1, 1)
        return
    with pytest.raises(LoweringError, match=r"clusters of 2 CTAs and does not say of which shape.*cluster_dims"):
        lower(path, "ptx")
    made = lower(path, "ptx", options={"cluster_dims": tuple(source.metadata["cluster_dims"])})
    assert made.text == source.text("ptx")
    assert made.metadata.cluster == tuple(source.metadata["cluster_dims"])


# --- what belongs to the result --------------------------------------------------------------------------------------


def test_siblings_are_the_way_and_the_start(triton, tmp_path):
    source = copied(case(), tmp_path, "ttgir", "ttir", "ptx", "cubin", "json")
    source.write_text(source.read_text().replace("arith.addf", "arith.mulf"))
    for again in range(2):  # made, and from the cache
        made = lower(source, "ptx")
        assert "mul" in made.text, again
        assert set(made.siblings) == {Level.TTGIR, Level.LLIR}
        assert "arith.mulf" in made.sibling(Level.TTGIR).text
        assert "fmul" in made.sibling(Level.LLIR).text


def test_llir_keeps_the_texts_that_name_its_parameters(triton, tmp_path):
    source = copied(case(), tmp_path, "ttgir", "ttir", "ptx", "json")
    text = lower(source, "llir").text
    (tmp_path / "add_kernel.llir").write_text(text)
    made = lower(tmp_path / "add_kernel.llir", "ptx")
    assert set(made.siblings) == {Level.TTIR, Level.TTGIR, Level.LLIR}
    assert made.text == case().text("ptx")


# --- cache -----------------------------------------------------------------------------------------------------------


def test_the_cache_serves_the_same_and_never_an_edited_file(triton, fresh, tmp_path):
    source = copied(case(), tmp_path, "ttir", "json")
    first = lower(source, "ptx")
    assert len(cache.entries()) == 1
    again = lower(source, "ptx")
    assert (again.data, again.metadata, again.siblings) == (first.data, first.metadata, first.siblings)
    assert len(cache.entries()) == 1
    source.write_text(source.read_text().replace("arith.addf", "arith.subf"))
    assert "sub.f32" in lower(source, "ptx").text or "sub.rn.f32" in lower(source, "ptx").text
    assert len(cache.entries()) == 2
    lower(source, "ptx", options={"num_warps": 8})
    assert len(cache.entries()) == 3
    source.with_suffix(".json").write_text(json.dumps({**case().metadata, "num_warps": 2}))
    assert lower(source, "ptx").metadata.num_warps == 2


def test_what_the_environment_changes_is_made_anew(triton, fresh, monkeypatch):
    with_lines = lower(case().path("ttir"), "ptx").text
    monkeypatch.setenv("TRITON_DISABLE_LINE_INFO", "1")
    without = lower(case().path("ttir"), "ptx").text
    assert ".loc" in with_lines
    assert ".loc" not in without


def test_always_compile_is_heeded(triton, fresh, monkeypatch):
    first = lower(case().path("ttir"), "ptx")
    compiler = importlib.import_module("trlaunch.lowering.lower").Compiler
    made = []
    monkeypatch.setattr(
        compiler, "__init__", lambda self, *a, _init=compiler.__init__, **k: made.append(_init(self, *a, **k))
    )
    assert lower(case().path("ttir"), "ptx").data == first.data
    assert not made
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    assert lower(case().path("ttir"), "ptx").data == first.data
    assert len(made) == 1


def _lowered(path: str) -> bytes:
    return lower(path, "cubin").data


def test_several_processes_at_once(triton, fresh):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.map(_lowered, [str(case("softmax_kernel").path("ttir"))] * 8)
    assert len(set(made)) == 1
    assert len(cache.entries()) == 1
    assert lower(case("softmax_kernel").path("ttir"), "cubin").data == made[0]


def test_a_cache_that_cannot_be_written(triton, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(FallbackWarning, match="cannot be written"):
        assert lower(case().path("ttir"), "ptx").text == case().text("ptx")
    broken = tmp_path / "broken.ttir"
    broken.write_text(case().text("ttir").replace("tt.return", "tt.retrun"))
    with pytest.raises(LoweringError, match=r"no reproducer: .* cannot be written") as caught:
        lower(broken, "ptx", "cuda:80")
    assert caught.value.reproducer is None


# --- refusals --------------------------------------------------------------------------------------------------------


def test_levels_backwards_and_unknown(triton):
    for level, to in (("ptx", "ttir"), ("ttir", "ttir"), ("ptx", "hsaco"), ("cubin", "ptx")):
        with pytest.raises(LoweringError, match=f"no way from {level} to {to} for cuda:80.*ttir -> ttgir") as caught:
            lower(case().path(level), to)
        assert caught.value.stage == "levels"
    with pytest.raises(LoweringError, match="level 'sass': expected one of python, "):
        lower(case().path("ttir"), "sass")


def test_an_option_that_the_release_does_not_have(triton):
    with pytest.raises(LoweringError, match=r"'num_warp': Triton 3\.\d+\.\d+ has no such option.*num_warps") as caught:
        lower(case().path("ttir"), "ptx", options={"num_warp": 8})
    assert caught.value.stage == "options"


@pytest.mark.parametrize("options", [{"num_ctas": 0}, {"num_ctas": 3}, {"num_ctas": 32}, {"num_ctas": 2}])
def test_clusters_that_abort_the_compiler(triton, options):
    with pytest.raises(LoweringError, match=f"num_ctas={options['num_ctas']}"):
        lower(case("matmul_kernel").path("ttir"), "ptx", options=options)


@pytest.mark.parametrize("target", ["cuda:60", "cuda:95", "cuda:130"])
def test_targets_that_abort_the_compiler(triton, target):
    with pytest.raises(LoweringError, match=f"cannot compile for {target}, it would abort.*90") as caught:
        lower(case("matmul_kernel").path("ttir"), "ptx", target)
    assert caught.value.stage == "target"


def test_blackwell_from_the_release_that_knows_it(triton):
    if RELEASE < (3, 3):
        with pytest.raises(LoweringError, match=r"cannot compile for cuda:100.*Triton 3\.3 can"):
            lower(case("matmul_kernel").path("ttir"), "cubin", "cuda:100")
        return
    for target in ("cuda:100", "cuda:120"):
        made = lower(case("matmul_kernel").path("ttir"), "cubin", target)
        assert str(made.metadata.target) == target


def test_text_of_another_release(triton):
    other = "3.2.0" if RELEASE >= (3, 3) else "3.6.0"
    text = corpus.find(other, "cuda:80", "matmul_kernel").path("ttgir")
    readers = (
        "the releases that can read all of it: 3.2"
        if other == "3.2.0"
        else "the releases that can read all of it: 3.5 to 3.9"
    )
    with pytest.raises(LoweringError, match=rf"was not written by Triton 3\.{RELEASE[1]}.*{readers}") as caught:
        lower(text, "ptx")
    assert caught.value.stage == "parse"


def test_ttgir_for_another_target(triton):
    with pytest.raises(LoweringError, match=r"is laid out for cuda:80 and cuda:90 was asked for.*start from the TTIR"):
        lower(case("matmul_kernel").path("ttgir"), "ptx", "cuda:90")


def test_warps_that_would_be_guessed(triton):
    text = case().text("ttir").replace("tt.return", "// {tt.warp_specialize}\n    tt.return")
    artifact = Artifact.from_bytes(text, {**case().metadata, "num_warps": 8})
    with pytest.raises(LoweringError, match=r"states only their total, 8: expected the \.ttgir beside it"):
        lower(artifact, "ttgir")
    assert '.num-warps" = 4' in lower(artifact, "ttgir", options={"num_warps": 4}).text


# --- failures of the compiler ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "old", "new", "to", "stage"),
    [
        ("ttir", "tt.return", "tt.retrun", "ptx", "parse"),
        ("ttgir", "tt.return", "", "cubin", "parse"),
        ("ptx", "ret;", "rett;", "cubin", "cubin"),
        ("llir", "ret void", "ret i32 %nothing", "ptx", "ptx"),
    ],
)
def test_a_failure_says_where_and_can_be_repeated(triton, fresh, tmp_path, capfd, level, old, new, to, stage):
    text = lower(case().path("ttir"), "llir").text if level == "llir" else case().text(level)
    assert old in text
    path = tmp_path / f"add_kernel.{level}"
    path.write_text(text.replace(old, new))
    path.with_suffix(".json").write_text(case().text("json"))
    with pytest.raises(LoweringError) as caught:
        lower(path, to)
    error = caught.value
    assert error.stage == stage
    assert f"Triton {triton.__version__} {'aborted' if level == 'llir' else 'failed'} at" in str(error)
    assert error.log
    assert str(error.reproducer) in str(error)
    assert error.reproducer.parent == fresh / "reproducers"
    assert (error.reproducer / f"kernel.{level}").read_bytes() == path.read_bytes()
    assert (error.reproducer / "error.log").read_text() == error.log
    assert capfd.readouterr() == ("", "")  # what the compiler printed is in the error
    again = subprocess.run(
        [sys.executable, error.reproducer / "rerun.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        check=False,
    )
    assert again.returncode == 1
    # Names of temporary files differ.
    assert f"trlaunch.errors.LoweringError: {str(error).splitlines()[0][:60]}" in again.stderr


def _outcome(artifact: Artifact) -> str:
    try:
        lower(artifact, "ttgir")
    except LoweringError as error:
        return f"refused at {error.stage}"
    return "lowered"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_text_is_refused_or_still_a_kernel(triton, data):
    """In a process of its own: a release may abort on what it cannot verify."""
    level = data.draw(st.sampled_from(["ttir", "ttgir"]))
    text = case("softmax_kernel").text(level)
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = data.draw(st.sampled_from([text[:at], text[:at] + "@@" + text[at:], text[:at] + text[at + 1 :]]))
    artifact = Artifact(
        Level(level), damaged.encode(), None, Artifact.from_file(case("softmax_kernel").path(level)).metadata
    )
    with silenced():
        how, value = in_process(lambda: _outcome(artifact))
    assert how == "done", (how, value)
    assert value in (
        "lowered",
        "refused at levels",
        "refused at parse",
        "refused at ttir",
        "refused at ttgir",
        "refused at target",
    )


# --- without Triton --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_triton(monkeypatch, fresh):
    """Triton is not installed as far as lowering sees; the assembler finds the tools of its wheel all the same."""
    module = importlib.import_module("trlaunch.lowering.triton_compiler")
    stand_in = SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None))
    monkeypatch.setattr(module, "importlib", stand_in)


def test_levels_above_ptx_need_triton(no_triton):
    for level, to in (("ttir", "ptx"), ("ttgir", "cubin")):
        with pytest.raises(LoweringError, match=r'triton is not installed: pip install "trlaunch\[triton\]"') as caught:
            lower(case().path(level), to)
        assert caught.value.stage == "install"


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90"])
def test_ptx_is_assembled_without_triton(no_triton, target):
    source = case("matmul_kernel", target)
    made = lower(source.path("ptx"), "cubin")
    assert made.level is Level.CUBIN
    assert str(made.metadata.target) == target
    assert made.metadata.shared == source.metadata["shared"]
    assert made.metadata.name == "matmul_kernel"
    assert Level.TTIR in made.siblings
    assert list(code(made.data)) == [".text.matmul_kernel"]
    assert Kernel(made).entry.block_threads in (128, None)


def test_ptx_alone_is_assembled_without_triton(no_triton, tmp_path):
    made = lower(copied(case("layer_norm_kernel"), tmp_path, "ptx"), "cubin")
    assert made.metadata.num_warps == 8
    assert made.metadata.shared is None
    assert made.metadata.name == "layer_norm_kernel"


def test_fusion_is_an_option_without_triton(no_triton):
    source = case("layer_norm_kernel").path("ptx")
    fused, split = lower(source, "cubin"), lower(source, "cubin", options={"enable_fp_fusion": False})
    assert code(fused.data) != code(split.data)
    assert split.metadata.fp_fusion is False
    with pytest.raises(
        LoweringError, match="'debug': without Triton, PTX is assembled with enable_fp_fusion and ptx_options"
    ):
        lower(source, "cubin", options={"debug": True})


def test_no_assembler_either(no_triton, monkeypatch):
    monkeypatch.setenv("TRLAUNCH_PTXAS", "/nonexistent/ptxas")
    with pytest.raises(AssemblerMissing):
        lower(case().path("ptx"), "cubin")
