"""AMDGCN to hsaco: which assembler reads which text, and that its code is Triton's."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus_hip import ARCHITECTURES, Case, cases, find
from tests.hip.conftest import Oracle
from trlaunch import Kernel, cache
from trlaunch.elf import ElfFile
from trlaunch.errors import AssemblerError, AssemblerMissing
from trlaunch.hip import assembler, toolkit
from trlaunch.hip.assembler import assemble, choose, find_assemblers, text_target
from trlaunch.hip.image import read_image
from trlaunch.hip.note import EM_AMDGPU
from trlaunch.hip.toolkit import Tool, find_tools
from trlaunch.lowering.triton_compiler import installed_release

MATMULS = cases(kernel="matmul_kernel")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))


def code(hsaco: bytes) -> bytes:
    file = ElfFile(hsaco, "hsaco", EM_AMDGPU)
    section = file.section(".text")
    assert section is not None
    return file.content(section)


def external() -> list[Tool]:
    """The LLVMs at hand that read all that a released LLVM reads."""
    return [t for t in find_tools("llvm-mc", "clang", variable="TRLAUNCH_NONE") if (t.version or (0, 0)) >= (22, 0)]


def use(monkeypatch: pytest.MonkeyPatch, *tools: Tool) -> None:
    monkeypatch.setattr(assembler, "find_assemblers", lambda: list(tools))


def needs_llvm() -> list[Tool]:
    found = external()
    if not found:
        pytest.skip("no LLVM 22 for AMD GPUs: pip install ziglang")
    return found


# --- the code --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in MATMULS if c.version <= (3, 6)], ids=str)
def test_code_of_every_llvm_is_byte_for_byte_that_of_triton(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 3.5 on the hsacos of the corpus are of Triton's own assembler and linker; 3.6 has all six architectures."""
    theirs = case.bytes("hsaco")
    for tool in needs_llvm():
        use(monkeypatch, tool)
        made = assemble(case.text("amdgcn"), release=case.release)
        assert (made.assembler, made.cached) == (tool, False)
        assert code(made.hsaco) == code(theirs), str(tool)
        ours, theirs_image = read_image(made.hsaco), read_image(theirs)
        assert ours.target == theirs_image.target
        assert ours.kernels == theirs_image.kernels


def test_the_six_architectures_are_among_them() -> None:
    assert {c.arch for c in MATMULS if c.version == (3, 6)} == set(ARCHITECTURES)


@pytest.mark.parametrize("case", [c for c in cases() if c.version >= (3, 7) and c.arch.startswith("gfx9")], ids=str)
def test_code_for_gfx9_of_later_releases_is_the_same_too(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, needs_llvm()[0])
    made = assemble(case.text("amdgcn"), release=case.release)
    assert code(made.hsaco) == code(case.bytes("hsaco"))
    assert read_image(made.hsaco).kernels == read_image(case.bytes("hsaco")).kernels


@pytest.mark.parametrize("case", [c for c in MATMULS if c.version == (3, 7) and c.arch.startswith("gfx1")], ids=str)
def test_code_for_gfx11_of_3_7_differs_in_a_field_that_is_not_used(
    case: Case, monkeypatch: pytest.MonkeyPatch, llvm_objdump: Oracle, tmp_path: Path
) -> None:
    """Triton 3.7's LLVM encodes the unused third operand of a VOP3 instruction as 0, LLVM 22 as s0: the text is one."""
    use(monkeypatch, needs_llvm()[0])
    ours = tmp_path / "ours.hsaco"
    ours.write_bytes(assemble(case.text("amdgcn"), release=case.release).hsaco)

    def instructions(file: Path) -> list[str]:
        return re.findall(r"^\t(.*?)\s*// ", llvm_objdump("-d", file), re.M)

    assert instructions(ours) == instructions(case.path("hsaco"))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_hsaco_of_the_installed_triton_is_byte_for_byte_its_own(arch: str) -> None:
    version = installed_release()
    if version is None or version < assembler.OLDEST_TRITON:
        pytest.skip("needs Triton 3.5 or later")
    found = [c for c in cases(target=f"hip:{arch}") if c.version == version]
    for case in found:
        made = assemble(case.text("amdgcn"), release=case.release)
        assert made.assembler.name == "triton"
        assert made.hsaco == case.bytes("hsaco")


def test_amdgcn_file_becomes_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, needs_llvm()[0])
    case = find("3.6.0", "hip:gfx1200", "tma_matmul_kernel")
    ours, theirs = Kernel.from_file(case.path("amdgcn")), Kernel.from_file(case.path("hsaco"))
    assert ours.signature.params == theirs.signature.params
    assert (ours.shared, ours.threads, ours.target) == (theirs.shared, theirs.threads, theirs.target)
    assert (str(ours.level), ours.image.format) == ("amdgcn", "hsaco")


def test_result_is_kept_by_text_and_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, needs_llvm()[0])
    text = find("3.6.0", "hip:gfx942", "add_kernel").text("amdgcn")
    first, second = assemble(text), assemble(text.encode())
    assert (first.cached, second.cached) == (False, True)
    assert first.hsaco == second.hsaco
    assert assemble(text + "\n; another\n").cached is False
    assert len(cache.entries()) == 2


# --- who reads what --------------------------------------------------------------------------------------------------


def tool(version: tuple[int, int], name: str = "llvm-mc") -> Tool:
    command = () if name == "triton" else (f"/usr/bin/{name}",)
    return Tool(name, command, version, ".".join(map(str, version)), "here")


@pytest.mark.parametrize(
    "release, arch, found, reason",
    [
        ("3.6.0", "gfx942", tool((18, 1)), "it is too old: expected LLVM 19 or later"),
        ("3.6.0", "gfx1100", tool((20, 1)), "it does not know .amdhsa_inst_pref_size: expected LLVM 21 or later"),
        ("3.6.0", "gfx950", tool((19, 1)), "it does not know gfx950"),
        ("3.8.0", "gfx1100", tool((22, 1)), "it does not know instprefsize(), which Triton 3.8 and later write"),
        ("3.9.0", "gfx1250", tool((22, 1)), "it does not know instprefsize(), which Triton 3.8 and later write"),
        ("3.6.0", "gfx942", tool((3, 4), "triton"), "it cannot link: expected Triton 3.5 or later"),
        ("3.6.0", "gfx1100", tool((3, 9), "triton"), "written by Triton 3.6, and for gfx1100 each release"),
        ("3.9.0", "gfx1200", tool((3, 8), "triton"), "written by Triton 3.9, and for gfx1200 each release"),
        ("3.6.0", "gfx1250", tool((3, 5), "triton"), "it does not know all of gfx1250"),
    ],
)  # fmt: skip
def test_versions_that_cannot_read_a_text_are_refused_by_name_not_tried(release, arch, found, reason, monkeypatch):
    use(monkeypatch, found)
    known = {19: ("gfx942", "gfx1200"), 22: ARCHITECTURES}.get((found.version or (0, 0))[0], ())
    monkeypatch.setattr(assembler, "_cpus", lambda _: frozenset(known))
    case = find(release, f"hip:{arch}", "matmul_kernel")
    with pytest.raises(AssemblerMissing, match=re.escape(reason)) as refused:
        choose(case.text("amdgcn"), case.release)
    assert str(found) in str(refused.value)
    assert f"for hip:{arch}" in str(refused.value)


@pytest.mark.parametrize(
    "release, arch, chosen",
    [
        ("3.6.0", "gfx1100", "triton 3.6"),
        ("3.9.0", "gfx1100", "triton 3.9"),
        ("3.8.0", "gfx942", "llvm-mc 22.1"),
        ("3.4.0", "gfx1200", "llvm-mc 22.1"),
    ],
)
def test_the_triton_that_wrote_the_text_comes_first_then_the_newest_llvm(release, arch, chosen, monkeypatch):
    use(monkeypatch, tool((19, 1)), tool((22, 1)), tool((3, 6), "triton"), tool((3, 9), "triton"))
    monkeypatch.setattr(assembler, "_cpus", lambda _: frozenset(ARCHITECTURES))
    monkeypatch.setattr(assembler, "_linker", lambda t: (t, ""))
    case = find(release, f"hip:{arch}", "matmul_kernel")
    found, linker = choose(case.text("amdgcn"), case.metadata.get("triton_version"))
    assert str(found).startswith(chosen)
    assert (linker is None) == chosen.startswith("triton")


def test_release_is_told_by_the_text_where_no_metadata_does(monkeypatch):
    use(monkeypatch, tool((3, 8), "triton"))
    for release, arch in (("3.9.0", "gfx1100"), ("3.8.0", "gfx1100")):
        text = find(release, f"hip:{arch}", "matmul_kernel").text("amdgcn")
        if release == "3.8.0":
            assert choose(text)[0].name == "triton"
        else:
            with pytest.raises(AssemblerMissing, match="of Triton 3.9 for hip:gfx1100"):
                choose(text)


def test_nothing_at_hand_says_where_it_looked(monkeypatch):
    use(monkeypatch)
    with pytest.raises(AssemblerMissing, match=r"no assembler for hip:gfx942: looked for the triton package.*ziglang"):
        choose(find("3.6.0", "hip:gfx942", "add_kernel").text("amdgcn"))


def test_a_linker_is_needed_too(monkeypatch):
    use(monkeypatch, tool((22, 1)))
    monkeypatch.setattr(assembler, "_cpus", lambda _: frozenset(ARCHITECTURES))
    monkeypatch.setattr(assembler, "find_tools", lambda *_, **__: [])
    with pytest.raises(AssemblerMissing, match=r"there is no ld.lld 19 or later to link with: looked in TRLAUNCH_LLD"):
        choose(find("3.6.0", "hip:gfx942", "add_kernel").text("amdgcn"))


# --- what is wrong with a text ---------------------------------------------------------------------------------------


def test_refused_text_is_shown_with_its_line(monkeypatch):
    text = find("3.6.0", "hip:gfx942", "add_kernel").text("amdgcn")
    for found in needs_llvm():
        use(monkeypatch, found)
        broken = text.replace("s_load_dwordx8", "s_load_dwordx9", 1)
        number = broken[: broken.index("s_load_dwordx9")].count("\n") + 1
        with pytest.raises(AssemblerError, match="exited with 1 on this text for hip:gfx942") as refused:
            assemble(broken)
        assert f"line {number}: " in str(refused.value)
        assert f"{number} | s_load_dwordx9" in str(refused.value)
        assert "s_load_dwordx9" in refused.value.log


@pytest.mark.parametrize("text", ["", "ret;", '.amdgcn_target "amdgcn-amd-amdhsa"', ".version 8.0\n.target sm_90"])
def test_text_of_something_else_is_named(text):
    with pytest.raises(AssemblerError, match=r"expected AMDGCN with an \.amdgcn_target directive, found text starting"):
        text_target(text)


def test_bytes_that_are_no_text_are_named():
    with pytest.raises(AssemblerError, match="expected AMDGCN text, found bytes that are not UTF-8 at offset 2"):
        assemble(b"ab\xff")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_target_of_any_text_is_read_or_refused(text: str) -> None:
    for candidate in (text, f'.amdgcn_target "{text}"'):
        try:
            target = text_target(candidate)
        except AssemblerError:
            continue
        assert target.backend == "hip"


def test_features_of_the_target_are_read():
    text = '\t.amdgcn_target "amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-"\n'
    assert str(text_target(text)) == "hip:gfx90a:sramecc+:xnack-"


# --- tools -----------------------------------------------------------------------------------------------------------


def program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_tools_are_found_in_rocm_and_on_the_path_with_versions_behind_their_names(tmp_path, monkeypatch):
    program(tmp_path / "rocm" / "llvm" / "bin", "clang", "AMD clang version 19.0.0git (roc-6.4.3)")
    program(tmp_path / "bin", "llvm-mc-21", "Debian LLVM version 21.1.0")
    program(tmp_path / "bin", "llvm-mc", "nothing of the kind")
    program(tmp_path / "bin", "llvm-mc-help", "LLVM version 99.0.0")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "rocm"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])
    found = {(t.name, t.version, t.origin): t for t in find_tools("llvm-mc", "clang", variable="TRLAUNCH_NONE")}
    assert ("clang", (19, 0), "ROCM_PATH") in found
    assert ("llvm-mc", (21, 1), "PATH") in found
    unusable = found["llvm-mc", None, "PATH"]
    assert unusable.problem == "--version said 'nothing of the kind', no version of LLVM"
    assert not any(version == (99, 0) for _, version, _ in found)


def test_a_variable_names_one_tool_alone(tmp_path, monkeypatch):
    path = program(tmp_path, "clang-20", "clang version 20.1.8")
    monkeypatch.setenv("TRLAUNCH_AMDGPU_ASSEMBLER", str(path))
    (only,) = find_assemblers()
    assert (only.name, only.version, only.command) == ("clang", (20, 1), (str(path),))
    monkeypatch.setenv("TRLAUNCH_AMDGPU_ASSEMBLER", str(tmp_path / "gone"))
    (gone,) = find_assemblers()
    assert gone.problem == "No such file or directory"


def test_ziglang_is_one_program_with_subcommands():
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang: pip install ziglang")
    found = [t for t in find_tools("clang", "ld.lld", variable="TRLAUNCH_NONE") if t.origin == "ziglang wheel"]
    assert [t.command[1] for t in found] == ["clang", "ld.lld"]
    assert all(t.version is not None and t.version >= (19, 0) for t in found)


def test_every_place_is_named_in_messages():
    for word in ("ROCM_PATH", "HIP_PATH", "PATH", "/opt/rocm", "/usr/lib/llvm-*", "ziglang", "TRLAUNCH_X"):
        assert word in toolkit.searched("TRLAUNCH_X")
