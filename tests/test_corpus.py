"""The corpus is what its script says it is, carries nothing of the machine that made it, and is up to date."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
import zipfile
from pathlib import Path

import pytest

from tests.corpus import FOLDER, Case, Param, cases, find, path, releases

FIXTURES = FOLDER.parent
EXAMPLES = FIXTURES.parent.parent / "examples" / "artifacts"
RELEASES = ("3.0.0", "3.1.0", "3.2.0", "3.3.1", "3.4.0", "3.5.1", "3.6.0", "3.7.1", "3.8.0", "3.9.0")


@pytest.fixture(scope="module")
def generate():
    """The script as a module; Triton is imported only where it compiles."""
    spec = importlib.util.spec_from_file_location("generate", FIXTURES / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["generate"]


def archive(release: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(FOLDER / f"{release}.zip")


def test_every_release_has_an_archive():
    assert releases() == RELEASES


@pytest.mark.parametrize("release", RELEASES)
def test_archive_is_whole_sorted_small_and_without_times(release):
    assert (FOLDER / f"{release}.zip").stat().st_size < 400 * 1024
    with archive(release) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == sorted(opened.namelist())
        assert {entry.date_time for entry in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("release", RELEASES)
def test_archive_holds_what_the_script_compiles(release, generate):
    expected = {}
    for case in generate.cases(generate.release_of(release)):
        for capability in case.targets:
            keeps_llir = release in generate.LLIR_RELEASES and case.name in generate.LLIR_CASES
            levels = [level for level in generate.LEVELS if level != "llir" or keeps_llir]
            folder = f"cuda{capability}/{case.name}"
            files = {f"{folder}/{case.function}.{ending}" for ending in (*levels, "json")}
            expected |= dict.fromkeys(files | {f"{folder}/case.json"}, case)
    with archive(release) as opened:
        assert set(opened.namelist()) == set(expected)
        for name in (n for n in expected if n.endswith("/case.json")):
            described = json.loads(opened.read(name))
            assert described["params"] == generate.specialise(expected[name].arguments).params
            assert described["options"] == expected[name].options


@pytest.mark.parametrize("release", RELEASES)
def test_no_absolute_path_in_any_artifact(release, generate):
    with archive(release) as opened:
        for name in opened.namelist():
            assert generate.ABSOLUTE_PATH.findall(opened.read(name)) == [], name


@pytest.mark.parametrize(
    "text",
    [
        b'.file 1 "/home/me/kernels.py"',
        b"\0/tmp/tmpabc/matmul.ptx\0",
        b'["libdevice", "/usr/lib/python3/site-packages/libdevice.10.bc"]',
        b'loc("/opt/triton/language/standard.py":290:36)',
    ],
)
def test_absolute_paths_would_be_seen(text, generate):
    with pytest.raises(SystemExit, match="absolute path"):
        generate.refuse_absolute_paths({"file": text})


def test_relative_paths_and_comments_are_not_taken_for_absolute(generate):
    text = b'.file 2 "triton/language/standard.py"\n// kernels.py:27:0 @[ kernels.py:3 ]\n a / b\n'
    generate.refuse_absolute_paths({"file": text})


@pytest.mark.parametrize("case", cases(), ids=str)
def test_files_of_a_case_agree(case: Case):
    metadata = case.metadata
    assert metadata["name"] == case.kernel
    assert metadata["target"] == {"backend": "cuda", "arch": int(case.target[5:]), "warp_size": 32}
    assert metadata.get("triton_version", case.release) == case.release
    assert [Path(library).name for _, library in metadata["extern_libs"]] == [p for _, p in metadata["extern_libs"]]
    for option, value in case.options.items():
        assert metadata[option] == value
    assert f".entry {case.kernel}(" in case.text("ptx")
    assert f"tt.func public @{case.kernel}(" in case.text("ttir")
    assert f"tt.func public @{case.kernel}(" in case.text("ttgir")
    assert case.path("cubin").read_bytes()[:4] == b"\x7fELF"


def expand(case: Case, param: Param) -> list[str]:
    """The MLIR types of the ``tt.func`` arguments that one launch parameter becomes."""
    if not param.type.startswith("tensordesc"):
        return [mlir_type(param.type)]
    element, rank = param.type[11:].split("[")[0], param.type.count(",") + 1
    shape_and_strides = ["i32"] * rank + ["i64"] * rank
    if case.target == "cuda:90":
        return ["!tt.tensordesc", *shape_and_strides]
    flags = 0 if case.version < (3, 5) else 1 if case.version < (3, 7) else 2
    return [mlir_type(f"*{element}"), *["i64"] * rank * 2, *["i1"] * flags, *shape_and_strides]


def mlir_type(triton: str) -> str:
    if triton == "nvTmaDesc":
        return "!tt.ptr<i8, 0>"
    if triton.startswith("*"):
        return f"!tt.ptr<{mlir_type(triton[1:])}>"
    return re.sub(r"^u(?=\d)", "i", re.sub(r"^fp(?=\d)", "f", triton))


@pytest.mark.parametrize("case", cases(), ids=str)
def test_params_are_the_arguments_of_the_function(case: Case):
    declared = re.search(r"tt\.func public @\w+\((.*)\) attributes", case.text("ttir"))[1]
    arguments = re.findall(r"%[\w.]+: (!tt\.tensordesc|!tt\.ptr<[^>]*>|\w+)", declared)
    assert arguments == [type_ for param in case.params for type_ in expand(case, param)]
    if case.version >= (3, 5):  # argument locations carry the Python names, from 3.8 down to the element of a tuple
        named = re.findall(r'loc\("([\w.]+)"\(', declared)
        expected = [p.name if case.version >= (3, 8) else p.name.split(".")[0] for p in case.params]
        assert [name for name in dict.fromkeys(named) if not re.search(r"_desc\.", name)] == list(
            dict.fromkeys(expected)
        )


@pytest.mark.parametrize("case", cases(), ids=str)
def test_line_numbers_are_those_of_the_kernels_today(case: Case):
    lines = (FIXTURES / "kernels.py").read_text().splitlines()
    numbers = [int(n) for n in re.findall(r'loc\("kernels\.py":(\d+):', case.text("ttir"))]
    starts = [i for i, line in enumerate(lines, 1) if line.strip().startswith(f"def {case.kernel}(")]
    assert set(starts) & set(numbers), "kernels.py changed: run generate.py with every release"
    assert f'"kernels.py":{numbers[0]}:' in case.text("ttir")
    assert max(numbers) <= len(lines)


def test_cases_are_chosen_by_every_field():
    chosen = cases("3.6.0", "cuda:80", "matmul_kernel")
    assert [str(case) for case in chosen] == ["3.6.0-cuda80-matmul_kernel"]
    assert {case.release for case in cases(target="cuda:90", kernel="add_kernel")} == set(RELEASES)
    assert {case.release for case in cases(level="llir")} == {"3.2.0", "3.6.0", "3.9.0"}
    assert (
        path("3.6.0", "cuda:80", "add_kernel", "cubin") == chosen[0].folder.parent / "add_kernel" / "add_kernel.cubin"
    )


def test_what_is_not_there_is_said():
    with pytest.raises(LookupError, match=r"no tuple_kernel of Triton 3\.0\.0 for cuda:90"):
        find("3.0.0", "cuda:90", "tuple_kernel")
    with pytest.raises(FileNotFoundError, match="has no llir"):
        path("3.0.0", "cuda:90", "add_kernel", "llir")


def test_tuples_are_flattened_and_constants_left_out():
    names = [p.name for p in find("3.9.0", "cuda:80", "tuple_kernel").params]
    assert names == ["sources.0", "sources.1", "scales.0", "scales.1", "out_ptr", "n_elements"]


def test_examples_are_files_of_the_corpus(generate):
    expected = {
        f"{target}/{name}.{level}"
        for target, names in generate.EXAMPLES.items()
        for name in names
        for level in (*generate.EXAMPLE_LEVELS, "json")
    }
    assert {str(file.relative_to(EXAMPLES)) for file in EXAMPLES.rglob("*.*")} == expected
    with archive("3.6.0") as opened:
        for name in expected:
            target, file = name.split("/")
            assert (EXAMPLES / name).read_bytes() == opened.read(f"{target}/{file.split('.')[0]}/{file}")


def test_the_writer_gives_the_same_bytes_again(tmp_path, generate):
    with archive("3.6.0") as opened:
        files = {name: opened.read(name) for name in reversed(opened.namelist())}
    generate.write_zip(tmp_path / "again.zip", files)
    with zipfile.ZipFile(io.BytesIO((tmp_path / "again.zip").read_bytes())) as again, archive("3.6.0") as opened:
        assert [(e.filename, e.CRC, e.date_time, e.external_attr) for e in again.infolist()] == [
            (e.filename, e.CRC, e.date_time, e.external_attr) for e in opened.infolist()
        ]
