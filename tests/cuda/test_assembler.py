"""Which ptxas is taken, how it is called, and what becomes of its answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus import Case, cases, find
from tests.cuda import ptx
from tests.cuda.conftest import Oracle
from trlaunch import cache
from trlaunch.cuda import assembler, toolkit
from trlaunch.cuda.assembler import (
    Options,
    assemble,
    choose,
    find_assemblers,
    parse_resources,
    ptx_isa,
    ptx_version,
    strides_in_16_bytes,
)
from trlaunch.cuda.image import read_image
from trlaunch.cuda.toolkit import Tool
from trlaunch.errors import AssemblerError, AssemblerMissing
from trlaunch.target import Target

SM90 = Target("cuda", "90")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without any CUDA tool."""
    for variable in ("TRLAUNCH_PTXAS", "CUDA_HOME", "CUDA_PATH", "PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(toolkit, "find_spec", {}.get)
    monkeypatch.setattr(toolkit, "_LOCAL", Path("/nonexistent"))
    return monkeypatch


def fake(path: Path, version: str, *, says: str = "", exits: int = 0, writes: bool = True) -> Path:
    """A program that answers as ptxas of `version` does, knows sm_80 to sm_90a, and "assembles" by copying."""
    major, minor = version.split(".")[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {major}.{minor}, V{version}"; exit 0;;
--help) echo "Allowed values for this option:  'sm_80','sm_90','sm_90a'."; exit 0;;
esac
printf '%b' {says!r} >&2
echo "$@" >> "{path}.calls"
while [ $# -gt 1 ]; do [ "$1" = -o ] && out=$2; shift; done
{'cp kernel.ptx "$out"' if writes else ":"}
exit {exits}
"""
    )
    path.chmod(0o755)
    return path


def calls(path: Path) -> list[str]:
    file = Path(f"{path}.calls")
    return file.read_text().splitlines() if file.exists() else []


def test_places_are_searched_in_order(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, version in [("triton/backends/nvidia/bin/ptxas", "12.4.1"),
                          ("triton/backends/nvidia/bin/ptxas-blackwell", "12.8.61"),
                          ("nvidia/cu13/bin/ptxas", "13.0.88"), ("nvidia/cuda_nvcc/bin/ptxas", "12.6.1"),
                          ("home/bin/ptxas", "12.1.1"), ("path/bin/ptxas", "12.2.1"), ("onpath/ptxas", "12.3.1"),
                          ("local/cuda/bin/ptxas", "12.5.1")]:  # fmt: skip
        fake(tmp_path / name, version)
    specs = {name: type("Spec", (), {"submodule_search_locations": [str(tmp_path / name)]})
             for name in ("triton", "nvidia")}  # fmt: skip
    nowhere.setattr(toolkit, "find_spec", specs.get)
    nowhere.setattr(toolkit, "_LOCAL", tmp_path / "local")
    nowhere.setenv("CUDA_HOME", str(tmp_path / "home"))
    nowhere.setenv("CUDA_PATH", str(tmp_path / "path"))
    nowhere.setenv("PATH", f"{tmp_path / 'onpath'}:/usr/bin:/bin")
    found = [(tool.origin, tool.build) for tool in find_assemblers()]
    assert found[:4] == [("triton wheel", "12.4.1"), ("triton wheel", "12.8.61"), ("nvidia wheel", "12.6.1"),
                         ("nvidia wheel", "13.0.88")]  # fmt: skip
    assert found[4:7] == [("CUDA_HOME", "12.1.1"), ("CUDA_PATH", "12.2.1"), ("PATH", "12.3.1")]
    assert found[7:] == [(str(tmp_path / "local/cuda"), "12.5.1")]
    nowhere.setenv("TRLAUNCH_PTXAS", str(tmp_path / "home/bin/ptxas"))
    assert [(tool.origin, tool.build) for tool in find_assemblers()] == [("TRLAUNCH_PTXAS", "12.1.1")]


def test_one_file_is_found_once(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(tmp_path / "cuda-12.4/bin/ptxas", "12.4.1")
    (tmp_path / "cuda").symlink_to(tmp_path / "cuda-12.4")
    nowhere.setattr(toolkit, "_LOCAL", tmp_path)
    nowhere.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    nowhere.setenv("PATH", "/usr/bin:/bin")
    assert [tool.origin for tool in find_assemblers()] == ["CUDA_HOME"]


def test_version_is_asked_again_when_the_file_changes(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = fake(tmp_path / "ptxas", "12.4.1")
    nowhere.setenv("TRLAUNCH_PTXAS", str(path))
    nowhere.setenv("PATH", "/usr/bin:/bin")
    assert find_assemblers()[0].version == (12, 4)
    fake(path, "13.0.88")
    os.utime(path, ns=(1, 1))
    assert find_assemblers()[0].version == (13, 0)


def test_triton_is_located_and_not_imported(tmp_path: Path) -> None:
    """In a process of its own, with a triton that fails when it is imported."""
    fake(tmp_path / "triton/backends/nvidia/bin/ptxas", "12.4.1")
    (tmp_path / "triton/__init__.py").write_text("raise RuntimeError('imported')")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from trlaunch.cuda.assembler import find_assemblers\n"
        "print(find_assemblers()[0].origin, 'triton' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRLAUNCH_PTXAS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["triton", "wheel", "False"]


def test_newest_that_the_driver_loads(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version in ("12.4.99", "12.9.86", "13.1.80", "11.8.89"):
        fake(tmp_path / f"cuda-{version}/bin/ptxas", version)
    nowhere.setattr(toolkit, "_LOCAL", tmp_path)
    nowhere.setenv("PATH", "/usr/bin:/bin")
    assert choose((8, 4), SM90).build == "13.1.80"
    assert choose((8, 4), SM90, (13, 0)).build == "13.1.80"
    assert choose((8, 4), SM90, (12, 2)).build == "12.9.86"
    assert choose((7, 8), SM90, (11, 0)).build == "11.8.89"
    with pytest.raises(AssemblerMissing) as caught:
        choose((9, 0), Target("cuda", "90"), (12, 2))
    message = str(caught.value)
    assert "none of the 4 ptxas found assembles PTX 9.0 for cuda:90 and a CUDA 12.2 driver" in message
    assert re.search(r"ptxas 13\.1\.80 \(.*\): its cubins need a CUDA 13 driver", message)
    assert re.search(r"ptxas 12\.9\.86 \(.*\): it reads PTX up to 8\.8", message)
    assert re.search(r"ptxas 12\.4\.99 \(.*\): it reads PTX up to 8\.4", message)
    with pytest.raises(AssemblerMissing, match="it does not know sm_100a"):
        choose((8, 0), Target("cuda", "100", "a"))


def test_no_ptxas_at_all_is_told_apart(nowhere: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssemblerMissing, match="looked in TRLAUNCH_PTXAS, the triton package.*nvidia-cuda-nvcc"):
        assemble(ptx.module(ptx.PLAIN), SM90)


@pytest.mark.parametrize(
    "prepare, reason",
    [
        (lambda path: path.parent.mkdir(exist_ok=True), "No such file"),
        (lambda path: path.write_text("#!/bin/sh\necho hello\n"), "cannot be run: Permission denied"),
        (lambda path: (path.write_text("#!/bin/sh\necho hello\n"), path.chmod(0o755)), "--version said 'hello'"),
        (lambda path: (path.write_bytes(b"\x7fELF junk"), path.chmod(0o755)), "cannot be run: Exec format error"),
    ],
    ids=["missing", "not executable", "no version", "no program"],
)
def test_unusable_ptxas_is_named_with_its_reason(
    prepare: object, reason: str, nowhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepare(tmp_path / "ptxas")
    nowhere.setenv("TRLAUNCH_PTXAS", str(tmp_path / "ptxas"))
    nowhere.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(AssemblerMissing, match=f"unknown version.*{re.escape(reason)}"):
        choose((8, 0), SM90)


def test_isa_table_agrees_with_ptxas(every_ptxas: list[Tool], tmp_path: Path) -> None:
    source = tmp_path / "in.ptx"
    source.write_text(ptx.module(version="99.0"))
    for tool in every_ptxas:
        done = subprocess.run(
            [tool.path, "-arch=sm_80", source, "-o", tmp_path / "out"],
            capture_output=True,
            text=True,
            check=False,
        )
        major, minor = re.search(r"current version is '(\d+)\.(\d+)'", done.stderr).groups()
        assert ptx_isa(tool.version) in (None, (int(major), int(minor)))


def test_assembled_like_ptxas_does(every_ptxas: list[Tool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = ptx.module(ptx.spilling(), ptx.STATIC_SHARED, ptx.through_shared("shared", "fixed"))
    (tmp_path / "in.ptx").write_text(text)
    for tool in every_ptxas:
        monkeypatch.setenv("TRLAUNCH_PTXAS", str(tool.path))
        result = assemble(text, SM90)
        done = subprocess.run(
            [tool.path, "-v", "-arch=sm_90", "in.ptx", "-o", "out.cubin"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0
        assert result.cubin == (tmp_path / "out.cubin").read_bytes()
        assert result.assembler.build == tool.build
        image = read_image(result.cubin)
        assert set(image.kernels) == set(result.resources) == {"spilling", "shared"}
        for name, resources in result.resources.items():
            kernel = image.kernel(name)
            assert (resources.registers, resources.stack) == (kernel.registers, kernel.local_bytes)
            assert resources.shared == kernel.static_shared - kernel.reserved_shared
            assert (resources.spill_stores > 0) is (resources.spill_loads > 0) is (name == "spilling")
            assert resources.barriers == (None if tool.version < (12, 8) else 1)


@pytest.mark.parametrize("case", cases(kernel="matmul_kernel", level="ptx"), ids=str)
def test_triton_ptx_gives_tritons_kernel(case: Case, every_ptxas: list[Tool], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same CUDA release makes the very same cubin out of the PTX that Triton kept; others, the same signature."""
    if "cubin" not in case.levels:
        pytest.fail(f"{case} has PTX but no cubin")
    theirs = read_image(case.bytes("cubin"))
    options = Options(fmad=bool(case.metadata["enable_fp_fusion"]))
    for tool in every_ptxas:
        monkeypatch.setenv("TRLAUNCH_PTXAS", str(tool.path))
        try:
            ours = read_image(assemble(case.text("ptx"), theirs.target, options=options).cubin)
        except AssemblerMissing:
            continue  # this ptxas is older than the PTX
        assert ours.target == theirs.target
        mine, other = ours.kernel(), theirs.kernel()
        assert (mine.name, mine.params, mine.block_threads) == (other.name, other.params, other.block_threads)
        assert mine.uses_dynamic_shared == other.uses_dynamic_shared
        assert mine.has_line_table == other.has_line_table
        if f"CUDA {tool.version[0]}.{tool.version[1]}" in theirs.toolchain:
            assert ours.data == theirs.data


def test_options_reach_ptxas(ptxas: Oracle) -> None:
    text = ptx.module(ptx.through_shared("k"))
    wide = ptx.module(ptx.spilling().replace(".maxnreg 24", ""))
    assert assemble(wide, SM90).resources["spilling"].registers > 32
    assert assemble(wide, SM90, options=Options(max_registers=32, extra=("--allow-expensive-optimizations", "true")))
    limited = ptx.module(ptx.spilling().replace(".maxntid 128 .maxnreg 24", ""))
    assert assemble(limited, SM90, options=Options(max_registers=32)).resources["spilling"].registers <= 32
    assert assemble(text, SM90, options=Options(opt_level=0)).cubin != assemble(text, SM90).cubin
    fused = ptx.module(
        ".visible .entry k(.param .u64 p) { .reg .b64 %a; .reg .f32 %f<5>; ld.param.u64 %a, [p]; "
        "ld.global.f32 %f1, [%a]; ld.global.f32 %f2, [%a+4]; mul.f32 %f3, %f1, %f2; add.f32 %f4, %f3, %f1; "
        "st.global.f32 [%a], %f4; ret; }"
    )
    assert assemble(fused, SM90, options=Options(fmad=False)).cubin != assemble(fused, SM90).cubin
    lined = ptx.module('.file 1 "a.py"', ptx.PLAIN.replace("  ret;", "  .loc 1 7 0\n  ret;"))
    assert read_image(assemble(lined, SM90).cubin).kernel().has_line_table
    assert not read_image(assemble(lined, SM90, options=Options(line_info=False)).cubin).kernel().has_line_table
    assert not read_image(assemble(text, SM90).cubin).kernel().has_line_table


def test_rejected_ptx_shows_its_line(ptxas: Oracle) -> None:
    text = ptx.module(".visible .entry k()", "{", "  add.u99 %r1, %r2, %r3;", "  ret;", "}")
    with pytest.raises(AssemblerError, match=r"line 6: .*\n  6 \| add\.u99 %r1, %r2, %r3;") as caught:
        assemble(text, SM90)
    assert "Ptx assembly aborted due to errors" in caught.value.log
    assert not isinstance(caught.value, AssemblerMissing)
    assert "trlaunch-ptxas" not in str(caught.value) + caught.value.log  # no path of the temporary folder
    assert cache.entries() == []


def test_ptx_for_another_architecture_is_rejected(ptxas: Oracle) -> None:
    with pytest.raises(AssemblerError, match="for sm_80"):
        assemble(ptx.module(ptx.PLAIN, target="sm_90a"), Target("cuda", "80"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected PTX with a .version directive, found text starting with ''"),
        ("define void @k()", "found text starting with 'define void @k"),
        (b"\x7fELF\xff\xfe", "not UTF-8 at offset 4"),
        ("// .version 8.0\n", "expected PTX with a .version directive"),
    ],
)
def test_other_input_is_named(text: str | bytes, message: str) -> None:
    with pytest.raises(AssemblerError, match=re.escape(message)):
        assemble(text, SM90)


def test_version_directive_is_found() -> None:
    assert ptx_version("//\n// Generated by LLVM\n//\n\n.version 8.4\n.target sm_90a\n") == (8, 4)


def test_bytes_with_a_terminator_are_text(ptxas: Oracle) -> None:
    text = ptx.module(ptx.PLAIN)
    assert assemble(text.encode() + b"\0", SM90).cubin == assemble(text, SM90).cubin


def test_result_is_kept_by_content(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = fake(tmp_path / "bin/ptxas", "12.4.99", says="ptxas info    : 0 bytes gmem\n")
    nowhere.setenv("TRLAUNCH_PTXAS", str(path))
    nowhere.setenv("PATH", "/usr/bin:/bin")
    text = ptx.module(ptx.PLAIN)
    first, second = assemble(text, SM90), assemble(text, SM90)
    assert (first.cached, second.cached) == (False, True)
    assert first.cubin == second.cubin == text.encode()
    assert first.log == second.log == "ptxas info    : 0 bytes gmem\n"
    assert len(calls(path)) == 1
    assert "--gpu-name=sm_90 " in calls(path)[0]
    for changed in (
        lambda: assemble(text + "\n", SM90),
        lambda: assemble(text, Target("cuda", "90", "a")),
        lambda: assemble(text, SM90, options=Options(max_registers=32)),
        lambda: assemble(text, SM90, options=Options(fmad=False)),
    ):
        before = len(calls(path))
        assert not changed().cached
        assert len(calls(path)) == before + 1
    fake(path, "12.5.1")
    os.utime(path, ns=(2, 2))
    assert not assemble(text, SM90).cached
    assert len(cache.entries()) == 6


@pytest.mark.parametrize(
    "tool, message",
    [
        ({"exits": 3}, r"ptxas 12\.4\.99 \(.*\) exited with 3 on this PTX for sm_90"),
        ({"exits": 0, "writes": False}, "exited with 0 on this PTX"),
        ({"exits": 255, "says": "ptxas fatal   : something internal"}, "exited with 255 .*: ptxas fatal .*internal"),
        ({"exits": 255, "says": "ptxas x.ptx, line 99999; fatal   : far"}, "line 99999: far\n  command"),
    ],
)
def test_failing_ptxas(tool: dict[str, object], message: str, nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere.setenv("TRLAUNCH_PTXAS", str(fake(tmp_path / "ptxas", "12.4.99", **tool)))
    nowhere.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(AssemblerError, match=message) as caught:
        assemble(ptx.module(ptx.PLAIN), SM90)
    assert caught.value.log == tool.get("says", "")


def test_crash_and_endless_run(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = fake(tmp_path / "ptxas", "12.4.99")
    nowhere.setenv("TRLAUNCH_PTXAS", str(path))
    nowhere.setenv("PATH", "/usr/bin:/bin")
    script = path.read_text()
    path.write_text(script.replace('exit 0\n"""', "").replace("while [", "kill -SEGV $$\nwhile ["))
    with pytest.raises(AssemblerError, match="died of signal 11"):
        assemble(ptx.module(ptx.PLAIN), SM90)
    path.write_text(script.replace("while [", "exec sleep 60\nwhile ["))
    with pytest.raises(AssemblerError, match="was stopped after 0 s"):
        assemble(ptx.module(ptx.PLAIN), SM90, options=Options(timeout=0.2))


def test_work_goes_on_without_a_cache(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "file/cache"))
    nowhere.setenv("TRLAUNCH_PTXAS", str(fake(tmp_path / "ptxas", "12.4.99")))
    nowhere.setenv("PATH", "/usr/bin:/bin")
    nowhere.setattr(cache, "_warned", set())
    with pytest.warns(UserWarning, match="cannot be written"):
        assert assemble(ptx.module(ptx.PLAIN), SM90).cubin == ptx.module(ptx.PLAIN).encode()


def test_resources_of_both_log_styles() -> None:
    """As ptxas 12.4 and 13.5 print them (seen for the kernels of tests/cuda/ptx.py)."""
    old = """ptxas info    : 3 bytes gmem
ptxas info    : Compiling entry function 'calling' for 'sm_80'
ptxas info    : Function properties for calling
    288 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 24 registers, 512 bytes smem, 288 bytes cumulative stack size, 360 bytes cmem[0], 8 bytes cmem[2]
ptxas info    : Function properties for callee
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""
    found = parse_resources(old)
    assert set(found) == {"calling"}
    assert found["calling"] == assembler.Resources(24, 288, 12, 8, None, 512, {0: 360, 2: 8})
    new = old.replace("24 registers,", "24 registers, used 1 barriers,")
    assert parse_resources(new)["calling"].barriers == 1


LOG_LINES = (
    "ptxas info    : Compiling entry function 'k' for 'sm_80'",
    "ptxas info    : Function properties for f",
    "    1 bytes stack frame, 2 bytes spill stores, 3 bytes spill loads",
    "ptxas info    : Used 24 registers, used 1 barriers",
    "Used x registers",
)


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from(LOG_LINES)).map("\n".join))
def test_any_log_is_read(log: str) -> None:
    for name, resources in parse_resources(log).items():
        assert name
        assert resources.registers == 24


def test_ptx_with_strides_for_an_old_ptxas_is_not_given_to_a_newer_one(
    nowhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = find("3.3.1", "cuda:90", "scratch_kernel").text("ptx")
    assert strides_in_16_bytes(text)
    assert not strides_in_16_bytes(find("3.4.0", "cuda:90", "scratch_kernel").text("ptx"))
    assert not strides_in_16_bytes(find("3.3.1", "cuda:90", "add_kernel").text("ptx"))
    newer, older = fake(tmp_path / "new" / "ptxas", "13.0.88"), fake(tmp_path / "old" / "ptxas", "12.4.99")
    nowhere.setenv("PATH", f"{newer.parent}{os.pathsep}/usr/bin:/bin")
    with pytest.raises(AssemblerMissing, match=r"it divides tensormap strides by 16, .* ptxas up to 12\.4"):
        assemble(text, Target("cuda", "90", "a"))
    nowhere.setenv("TRLAUNCH_PTXAS", str(older))
    assert assemble(text, Target("cuda", "90", "a")).assembler.version == (12, 4)
