"""Each feature of triton-runner that its users have, as a script of theirs that runs after one changed import."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import trlaunch
from tests.corpus import cases
from trlaunch.compat import triton_runner
from trlaunch.compat.triton_runner.source import take
from trlaunch.compat.triton_runner.start_pass import label_of
from trlaunch.devices import default_device, get
from trlaunch.errors import ArgumentError, ArtifactError, CheckError, LoweringError, MetadataError, TrlaunchError
from trlaunch.lowering.pass_recorder import Recorder
from trlaunch.lowering.passes import observe
from trlaunch.lowering.triton_compiler import Compiler, installed_release
from trlaunch.target import Target

ROOT = Path(__file__).resolve().parents[2]
HIP = ROOT / "tests" / "fixtures" / "corpus_hip" / "3.6.0.zip"
RELEASE = installed_release() or (0, 0)

# Without a GPU the emulator is used, and the PTX beside a cubin; both say so.
pytestmark = pytest.mark.filterwarnings("ignore::trlaunch.errors.FallbackWarning")


# --- front ends ------------------------------------------------------------------------------------------------------


def test_python(folder, capsys):
    folder.run("python_jit.py")
    assert capsys.readouterr().out == "add_kernel, compiled from Python\ntriton and numpy match\n"


def test_a_script_in_a_process_of_its_own(folder):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, str(folder.path / "python_jit.py")]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "triton and numpy match" in found.stdout


@pytest.mark.since(3, 2)
def test_tritons_own_decorators(folder, triton):
    before = triton.jit, triton.autotune
    folder.run("patched.py")
    assert (triton.jit, triton.autotune) == before


@pytest.mark.since(3, 4)
def test_gluon(folder):
    gluon = importlib.import_module("triton.experimental.gluon")
    before = gluon.jit
    folder.run("gluon_jit.py")
    assert gluon.jit is before


def test_configuring_twice_is_undone_once(triton, own_caches, restored):
    before = triton.jit, triton.autotune
    for _ in range(2):
        triton_runner.configure_jit_backend()
        triton_runner.configure_autotune_backend()
    assert triton.jit is triton_runner.jit
    assert triton.autotune is triton_runner.autotune
    triton_runner.restore_jit_backend()
    triton_runner.restore_autotune_backend()
    assert (triton.jit, triton.autotune) == before


# --- another level ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["ttir", "ttgir", "llir", "ptx", "cubin"])
def test_a_level_in_a_folder(folder, only_files, level):
    folder.compile()
    # The emulator runs the PTX beside a cubin.
    only_files(level, "json", *(["ptx"] if level == "cubin" else []))
    folder.run("level_dir.py", level)


@pytest.mark.parametrize("level", ["ttir", "ttgir"])
def test_a_level_without_json(folder, only_files, level):
    folder.compile()
    only_files(level)
    folder.run("level_dir.py", level)


@pytest.mark.parametrize("level", ["ttir", "ttgir", "llir", "ptx"])
def test_a_level_as_text(folder, level):
    folder.compile()
    folder.run("inline_src.py", level)


@pytest.fixture
def stub(folder):
    """The function of ``level_dir.py``, and the folder with its levels; on the emulator."""
    folder.compile()
    function = folder.run("level_dir.py", name="stub")["add_kernel"]
    return triton_runner.jit(device="emulator")(function.fn), folder.path


def launch(function, **source):
    x, out = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    kernel = function[(4,)](x, x, out, 1000, BLOCK_SIZE=256, **source)
    np.testing.assert_array_equal(out, x + x)
    return kernel


def test_a_file_that_is_not_there(stub):
    function, path = stub
    with pytest.raises(ArtifactError, match=r"nowhere.add_kernel.ttgir' cannot be read"):
        launch(function, ttgir_dir=path / "nowhere")


def test_the_kernel_of_another_function_is_refused(stub):
    function, path = stub
    text = (path / "add_kernel.ttgir").read_text()
    with pytest.raises(ArtifactError, match="has the kernel sub_kernel, and the function is add_kernel"):
        launch(function, ttgir_src=text.replace("@add_kernel", "@sub_kernel"))
    renamed = triton_runner.jit(repr=lambda _: "sub_kernel", device="emulator")(function.fn)
    assert launch(renamed, ttgir_src=text.replace("@add_kernel", "@sub_kernel")).name == "sub_kernel"


def test_metadata_of_another_architecture_is_refused(stub):
    function, path = stub
    metadata = json.loads((path / "add_kernel.json").read_text())
    metadata["target"]["arch"] = 120
    with pytest.raises(CheckError, match="metadata-target"):
        launch(function, ptx_src=(path / "add_kernel.ptx").read_text(), metadata_json=metadata)


@pytest.mark.gpu
def test_a_cubin_of_another_architecture_is_refused(folder):
    for extension in ("cubin", "json"):
        data = cases(target=f"cuda:{80 if capability() >= 90 else 90}", kernel="add_kernel")[-1].bytes(extension)
        (folder.path / f"add_kernel.{extension}").write_bytes(data)
    with pytest.raises(CheckError, match="architecture"):
        folder.run("older_cubin.py")


def capability() -> int:
    """Of the device at hand."""
    device = default_device()
    return get(device.driver).properties(device.ordinal).target.capability


def test_a_level_of_another_name_is_refused(stub):
    function, path = stub
    with pytest.raises(ArtifactError, match="content is ttgir, level=ptx was given"):
        launch(function, ptx_src=(path / "add_kernel.ttgir").read_text())
    with pytest.raises(ArtifactError, match=r"ptx_src: add_kernel.ttgir is ttgir: expected ptx"):
        launch(function, ptx_src=path / "add_kernel.ttgir", metadata_json={})


def test_text_metadata_and_files_by_other_names(stub):
    function, path = stub
    (path / "edited.mlir").write_bytes((path / "add_kernel.ttgir").read_bytes())
    launch(function, ttgir_src=str(path / "edited.mlir"))
    kernel = launch(function, ptx_src=str(path / "add_kernel.ptx"))
    assert kernel.metadata.num_warps == 4
    launch(function, ptx_src=(path / "add_kernel.ptx").read_text(), metadata_json=kernel.metadata)
    with pytest.raises(ArtifactError, match="neither a file nor text"):
        launch(function, ttgir_src="nowhere.mlir")


def test_the_same_text_is_lowered_once(stub):
    function, path = stub
    text = (path / "add_kernel.ttgir").read_text()
    assert launch(function, ttgir_src=text) is launch(function, ttgir_src=text)
    os.utime(path / "add_kernel.ttgir", (1, 1))  # a file of this moment is read again: it may be being written
    os.utime(path / "add_kernel.json", (1, 1))
    assert launch(function, ttgir_dir=path) is launch(function, ttgir_dir=str(path))


def test_an_artifact_in_place_of_what_would_be_compiled(stub):
    function, path = stub
    artifact = trlaunch.Artifact.from_file(path / "add_kernel.ptx")
    kernel = launch(trlaunch.jit(use=artifact, device="emulator")(function.fn))
    assert kernel.artifact is artifact


@pytest.fixture
def amd_files(folder):
    """``add_kernel`` as Triton compiled it for the MI300."""
    with zipfile.ZipFile(HIP) as archive:
        for extension in ("amdgcn", "hsaco", "json"):
            name = f"add_kernel.{extension}"
            (folder.path / name).write_bytes(archive.read(f"gfx942/add_kernel/{name}"))


@pytest.mark.parametrize("level", ["hsaco", "amdgcn"])
def test_levels_of_amd_are_not_run_elsewhere(folder, amd_files, level):
    with pytest.raises(TrlaunchError, match=r"libamdhip64|hsaco|gfx942|hip-python"):
        folder.run("level_dir.py", level)


# --- keywords --------------------------------------------------------------------------------------------------------

PARAMETERS = ("x", "n")


def test_a_keyword_that_is_a_parameter_is_an_argument():
    assert take("f", ("ptx_dir",), {"ptx_dir": 3, "num_warps": 4}) == (None, {"ptx_dir": 3, "num_warps": 4})


def test_keywords_of_none_are_left_out():
    assert take("f", PARAMETERS, {"ttir_dir": None, "dump_tensor": None, "n": 1}) == (None, {"n": 1})


@pytest.mark.parametrize(
    "keywords,message",
    [
        ({"ttir_dir": "a", "ptx_src": "b"}, "ttir_dir= and ptx_src= both say what to run"),
        ({"start_pass": "coalesce"}, "start_pass= needs what to run beside it"),
        ({"metadata_json": {}}, "metadata_json= needs what to run beside it"),
        ({"ttgir_dir": 3}, "ttgir_dir=3: expected a folder"),
        ({"ttgir_src": b"x"}, "ttgir_src=b'x': expected text or a file"),
        ({"ptx_src": "a\n", "metadata_json": "{}"}, "metadata_json='{}': expected what Triton's JSON holds"),
    ],
)
def test_keywords_that_cannot_be(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        take("f", PARAMETERS, keywords)


# --- passes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "level,name,label",
    [
        ("ttir", "combine_ops", "triton-combine"),
        ("ttgir", "coalesce", "tritongpu-coalesce"),
        ("ttgir", "remove_layout_conversions_2", "tritongpu-remove-layout-conversions#2"),
        ("ttgir", "tritongpu-coalesce", "tritongpu-coalesce"),
        ("llir", "scf_to_cf", "convert-scf-to-cf"),
    ],
)
def test_starting_at_a_pass(folder, level, name, label):
    kernel = folder.compile()
    beside = kernel.artifact.sibling(trlaunch.Level.TTIR)
    run = observe(beside, trlaunch.Level.PTX)
    if level == "ttir":
        run = observe(folder.path / "add_kernel.ttir", trlaunch.Level.PTX, start_after="inline")
    run.write(folder.path / "passes")
    stem = f"{run.find(label).index:02d}-"
    (file,) = (p for p in (folder.path / "passes").glob(f"{stem}*") if p.suffix != ".diff")
    folder.run("start_pass.py", level, name, str(file))


def test_starting_at_a_pass_of_a_file_that_says_nothing_of_itself(folder):
    run = observe(folder.compile().artifact.sibling(trlaunch.Level.TTIR), trlaunch.Level.PTX)
    file = folder.path / "18-changed-TritonGPUCoalesce.mlir"
    file.write_text(f"// IR Dump After TritonGPUCoalesce\n\n{run.find('tritongpu-coalesce').text}")
    folder.run("start_pass.py", "ttgir", "coalesce", str(file))


def test_a_saved_pass_is_lowered_once(stub):
    function, path = stub
    text = observe(path / "add_kernel.ttir", trlaunch.Level.PTX).find("tritongpu-coalesce").text
    first = launch(function, ttgir_src=text, start_pass="coalesce", num_warps=4)
    assert launch(function, ttgir_src=text, start_pass="coalesce", num_warps=4) is first


def test_mlir_dumps_are_split(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLIR_ENABLE_DUMP", "1")
    folder.run("python_jit.py")
    names = [path.name for path in (tmp_path / "cache" / "dumps").rglob("*.mlir")]
    assert any(name.endswith("-TritonGPUCoalesce.mlir") for name in names), names
    assert "all.mlir" in names


# triton-runner 0.3.8 lists these for Triton 3.7 and compute capability 9.0, in this order.
NAMES = {
    "ttir": "inliner rewrite_tensor_pointer canonicalizer combine_ops reorder_broadcast cse symbol_dce loop_unroll",
    "ttgir": "convert_ttgpuir coalesce f32_dot_tc plan_cta remove_layout_conversions optimize_thread_locality "
    "accelerate_matmul remove_layout_conversions_2 optimize_dot_operands optimize_descriptor_encoding loop_aware_cse "
    "fuse_nested_loops canonicalizer_2 triton_licm canonicalizer_3 combine_tensor_select_and_if hopper_warpspec "
    "assign_latencies schedule_loops pipeline canonicalizer_tail loop_aware_cse_2 prefetch optimize_dot_operands_2 "
    "coalesce_async_copy optimize_tmem_layouts remove_layout_conversions_3 interleave_tmem reduce_data_duplication "
    "reorder_instructions loop_aware_cse_3 symbol_dce_2 fence_insertion sccp canonicalizer_final",
    "llir": "combine_tensor_select_and_if allocate_warp_groups scf_to_cf allocate_shared_memory "
    "allocate_tensor_memory allocate_global_scratch to_llvmir canonicalizer cse nvgpu_to_llvm "
    "warp_specialize_to_llvm canonicalizer_2 cse_2 symbol_dce",
}


@pytest.mark.since(3, 4)
@pytest.mark.parametrize("level", NAMES)
def test_triton_runners_names_of_passes(triton, own_caches, level):
    planned = Recorder(Compiler(Target.parse("cuda:90"), {})).plan()
    found = {}
    for name in NAMES[level].split():
        try:
            found[name] = label_of(planned, trlaunch.Level(level), name)
        except LoweringError:
            assert RELEASE != (3, 7), name
    assert len(set(found.values())) == len(found) > 5
    if RELEASE == (3, 7):
        order = [p.label for p in planned]
        assert list(found.values()) == sorted(found.values(), key=order.index)


def test_a_pass_that_is_not_there(triton, own_caches):
    planned = Recorder(Compiler(Target.parse("cuda:80"), {})).plan()
    with pytest.raises(LoweringError, match="no pass is called 'colaesce'"):
        label_of(planned, trlaunch.Level.TTGIR, "colaesce")
    with pytest.raises(LoweringError, match="no pass is called 'coalesce_7'"):
        label_of(planned, trlaunch.Level.TTGIR, "coalesce_7")


def test_ptx_has_no_passes(stub):
    function, path = stub
    with pytest.raises(LoweringError, match="there are no passes of ptx"):
        launch(function, ptx_dir=path, start_pass="coalesce")


# --- dumps -----------------------------------------------------------------------------------------------------------


def test_dumps_in_python(folder, capsys):
    folder.run("dump_python.py")
    assert capsys.readouterr().out == "dumps match\n"


@pytest.mark.parametrize("level", ["ttir", "ttgir"])
@pytest.mark.parametrize("program", [0, 3])
def test_a_dump_at_a_level(folder, level, program, capsys):
    folder.compile()
    text = (folder.path / f"add_kernel.{level}").read_text()
    line = next(line for line in text.splitlines() if " arith.addf " in line)
    before = {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()}
    folder.run("dump_level.py", level, line.partition("=")[0].strip(), str(program))
    assert capsys.readouterr().out == "triton and numpy match\n"
    assert {path.name: path.read_bytes() for path in folder.path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("level", ["ttir", "ttgir"])
def test_a_dump_of_integers_of_a_program_on_two_axes(stub, level):
    function, path = stub
    text = (path / f"add_kernel.{level}").read_text()
    name = next(line for line in text.splitlines() if " arith.muli " in line).partition("=")[0].strip()
    x, out, found = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32), np.zeros(1, np.float32)
    source = {f"{level}_src": text, "metadata_json": json.loads((path / "add_kernel.json").read_text())}
    function[(4, 2)](x, x, out, 1000, BLOCK_SIZE=256, dump_tensor=found, dump_value=name, dump_grid=(3, 1), **source)
    np.testing.assert_array_equal(found, [768])  # the program's first element, a scalar


def test_dumps_that_cannot_be_had(stub):
    function, path = stub
    enough, level = np.zeros(256, np.float32), {"ttgir_dir": path}
    for given, message in (
        ({"dump_value": "%13"}, "dump_value= needs dump_tensor=, the buffer"),
        ({"dump_grid": 1}, "dump_grid= needs dump_tensor=, the buffer"),
        ({"dump_tensor": 1.0}, "expected a tensor of float32"),
        ({"dump_tensor": np.zeros(256)}, "fp64: expected a tensor of float32"),
        ({"dump_tensor": np.zeros((256, 2), np.float32)[:, 0]}, "expected it contiguous"),
        ({"dump_tensor": enough}, "dump=True: the kernel has no trlaunch.language.dump"),
        ({"dump_tensor": enough, "dump_value": "%13"}, "dump_value= and dump_grid= are for ttir_dir= and ttgir_dir="),
        ({"dump_tensor": enough, **level}, "dump_value=None: expected the name of a value"),
        ({"dump_tensor": enough, "dump_value": "%nothing", **level}, "no value of the kernel matches"),
        ({"dump_tensor": enough, "dump_value": "%13", "dump_grid": -1, **level}, "dump_grid=-1: expected an int or"),
        ({"dump_tensor": enough, "dump_value": "%13", "ptx_dir": path}, "is for Python, TTIR and TTGIR"),
        ({"dump_tensor": enough, "start_pass": "coalesce", **level}, "start_pass= with dump_tensor="),
    ):
        with pytest.raises(ArgumentError, match=re.escape(message)):
            launch(function, **given)
    text = (path / "add_kernel.ttgir").read_text()
    name = next(line for line in text.splitlines() if " arith.addf " in line).partition("=")[0].strip()
    with pytest.raises(ArgumentError, match="dump_tensor= has 255 elements: expected at least 256 for %"):
        launch(function, dump_tensor=enough[:255], dump_value=name, **level)
    pointers = next(line for line in text.splitlines() if " tt.addptr " in line).partition("=")[0].strip()
    with pytest.raises(ArgumentError, match="which fp32 does not hold: expected numbers"):
        launch(function, dump_tensor=enough, dump_value=pointers, **level)


def test_a_buffer_too_small_for_all_programs(folder):
    script = folder.run("dump_python.py", name="dumps")
    function, x = triton_runner.jit(device="emulator")(script["add_kernel"].fn), np.zeros(1000, np.float32)
    with pytest.raises(ArgumentError, match=r"has 1000 elements: expected at least 1792 for a grid of \(4,\)"):
        function[(4,)](x, x, x.copy(), 1000, BLOCK_SIZE=256, dump_tensor=np.zeros(1000, np.float32))
    assert isinstance(function[(4,)](x, x, x.copy(), 1000, BLOCK_SIZE=256), trlaunch.Kernel)


# --- autotuning, cache, the rest -------------------------------------------------------------------------------------


@pytest.mark.since(3, 3)
def test_autotuning_over_cubins(folder):
    for block in (128, 512):
        inner = folder.path / "add_kernel_cache" / str(block)
        kernel = folder.compile(block, inner)
        constants = [(name, "*fp32", "D", False) for name in ("x_ptr", "y_ptr", "output_ptr")]
        constants += [("n_elements", "i32", "", False), ("BLOCK_SIZE", "constexpr", block, True)]
        metadata = dict(kernel.metadata.raw) | {"kernel_signature": str(tuple(constants))}
        (inner / "add_kernel.json").write_text(json.dumps(metadata))
    folder.run("autotune_cubin.py")


def test_constants_of_a_cubin_that_cannot_be_read(tmp_path):
    for text in ("(1, 2)", "__import__('os')", "(" * 500):
        (tmp_path / "f.json").write_text(json.dumps({"kernel_signature": text}))
        with pytest.raises(MetadataError, match="expected kernel_signature as a tuple"):
            take("f", PARAMETERS, {"autotune_cubin_dir": tmp_path})
    with pytest.raises(MetadataError, match="cannot be read"):
        take("g", PARAMETERS, {"autotune_cubin_dir": tmp_path})


def test_constants_of_a_cubin_by_tritons_json_are_the_configurations(tmp_path):
    (tmp_path / "f.json").write_text("{}")
    source, rest = take("f", PARAMETERS, {"autotune_cubin_dir": tmp_path, "BLOCK": 64, "num_warps": 4})
    assert source.path == tmp_path / "f.cubin"
    assert rest == {"BLOCK": 64}


def test_an_edited_file_is_not_served_stale(folder):
    folder.compile()
    folder.run("edited.py")


def test_launch_latency(folder, capsys):
    folder.run("launch_latency.py")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["0 arguments", "19 arguments"]


@pytest.mark.parametrize("release", ["3.1.0", "3.3.1", "3.8.0"])
def test_a_cubin_of_another_release(folder, release):
    (case,) = cases(release, f"cuda:{90 if capability() // 10 == 9 else 80}", "add_kernel")
    for extension in ("cubin", "ptx", "json"):
        (folder.path / f"add_kernel.{extension}").write_bytes(case.bytes(extension))
    folder.run("older_cubin.py")


def test_production_mode_changes_nothing(folder, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_RUNNER_PROD", "1")
    folder.run("python_jit.py")
    assert "triton and numpy match" in capsys.readouterr().out


# --- small things ----------------------------------------------------------------------------------------------------


def test_the_folder_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert triton_runner.get_file_dir("script.py") == str(tmp_path)
    assert triton_runner.get_file_dir(str(tmp_path / "a" / "script.py")) == str(tmp_path / "a")


def test_lines_are_coloured_on_a_terminal_alone(capsys, monkeypatch):
    triton_runner.color_print.red_print("plain")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    triton_runner.color_print.blue_print(3)
    triton_runner.color_print.yellow_print("x")
    assert capsys.readouterr().out == "plain\n\x1b[34m3\x1b[0m\n\x1b[33mx\x1b[0m\n"


def test_sizes_of_padded_tensors():
    utils = triton_runner.torch_utils
    tensor = np.zeros((1000, 65))
    assert utils.get_grid_dim(tensor.shape, (256, 64)) == (4, 2)
    assert utils.get_pad_n_elements(tensor, (256, 64)) == 1024 * 128
    assert utils.get_n_elements_with_grid((256, 64), (4, 2)) == 1024 * 128


def test_importing_needs_neither_triton_nor_torch():
    code = (
        "import sys; from trlaunch.compat import triton_runner; "
        "print([m for m in ('torch', 'triton') if m in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
