"""From an instruction of a core dump to the line of every level, by the files beside the kernel."""

from __future__ import annotations

import shutil
from functools import cache

import pytest

from tests import corpus
from tests.cuda.coredumps import Dump, Warp, loaded
from trlaunch import CoreDump
from trlaunch.artifact import Level
from trlaunch.cuda.disassembler import disassemble
from trlaunch.cuda.kernel_files import KernelFiles

BASE = 0x7F0000001000


@cache
def died_of(release: str, kernel: str, mnemonic: str) -> bytes:
    """A dump of a kernel that died of its first instruction of a name."""
    cubin = corpus.find(release, "cuda:90", kernel).path("cubin").read_bytes()
    at = next(i.offset for i in disassemble(cubin) if i.opcode.startswith(mnemonic))
    warp = Warp(error_pc=BASE + at, exception=14, pc=BASE + at, offset=at, registers=[[0]] * 64, uniform=[0] * 64)
    return Dump(images=[loaded(cubin, {f".text.{kernel}": BASE})], warps=[warp]).build()


@pytest.mark.parametrize(
    "release,kernel,mnemonic,operations",
    [
        ("3.6.0", "add_kernel", "STG", {"ttir": "tt.store", "ttgir": "tt.store", "ptx": "st.global"}),
        ("3.6.0", "add_kernel", "LDG",
         {"ttir": "tt.load", "ttgir": "tt.load", "llir": "ld.global", "ptx": "ld.global"}),
        ("3.9.0", "matmul_kernel", "HGMMA", {"ttir": "tt.dot", "ttgir": "warp_group_dot", "ptx": "wgmma"}),
        ("3.6.0", "tma_matmul_kernel", "UTMALDG",
         {"ttir": "tt.descriptor_load", "ttgir": "async_tma_copy_global_to_local", "ptx": "cp.async.bulk.tensor"}),
        ("3.0.0", "matmul_kernel", "LDGSTS", {"ttir": "tt.load", "ttgir": "async_copy", "ptx": "cp.async"}),
    ],
)  # fmt: skip
def test_every_level_has_its_line(release, kernel, mnemonic, operations):
    case = corpus.find(release, "cuda:90", kernel)
    (found,) = CoreDump(died_of(release, kernel, mnemonic), case.path("cubin").parent).exceptions
    frames = {frame.level: frame for frame in found.frames}
    assert frames.keys() >= {"python", *operations}
    for level, operation in operations.items():
        frame = frames[level]
        assert operation in frame.text, frame
        assert case.path(level).read_text().split("\n")[frame.line - 1].strip() == frame.text
        assert frame.file == str(case.path(level))
    # What nvdisasm says of the instruction is the line of Python.
    expected = found.instruction.source if found.instruction.source else found.site.source
    assert expected is not None
    own = expected
    while own.inlined_at is not None:
        own = own.inlined_at
    python = frames["python"]
    last = python.inlined_at[-1] if python.inlined_at else f"{python.file}:{python.line}"
    assert last.endswith(f"{own.line}")


def test_the_kernel_is_found_in_a_cache_by_its_code(tmp_path):
    """Folders of other kernels, and of the same name with other code, as Triton's cache has them."""
    right = corpus.find("3.6.0", "cuda:90", "add_kernel")
    for folder, case in (
        ("AAAA", corpus.find("3.9.0", "cuda:90", "add_kernel")),
        ("BBBB", corpus.find("3.6.0", "cuda:90", "softmax_kernel")),
        ("CCCC", right),
    ):
        shutil.copytree(case.path("cubin").parent, tmp_path / folder)
    (tmp_path / "AAAA" / "broken.cubin").write_bytes(b"nothing")
    (found,) = CoreDump(died_of("3.6.0", "add_kernel", "STG"), tmp_path).exceptions
    assert {frame.file.rpartition("/")[0] for frame in found.frames if frame.level != "python"} == {f"{tmp_path}/CCCC"}
    assert not any("cubin" in note for note in found.notes)


def test_other_code_under_the_same_name_is_said(tmp_path):
    other = corpus.find("3.9.0", "cuda:90", "add_kernel").path("cubin")
    (found,) = CoreDump(died_of("3.6.0", "add_kernel", "STG"), other.parent).exceptions
    assert "with other code" in " ".join(found.notes)
    assert [frame.level for frame in found.frames] == ["python", "ptx"]
    (found,) = CoreDump(died_of("3.6.0", "add_kernel", "STG"), tmp_path).exceptions
    assert "none of 0 cubins" in " ".join(found.notes)


def test_without_files_the_ptx_is_that_of_the_cubin():
    (found,) = CoreDump(died_of("3.6.0", "add_kernel", "STG")).exceptions
    python, ptx = found.frames
    assert (python.level, ptx.level, ptx.file) == ("python", "ptx", "")
    assert "st.global" in ptx.text
    file = corpus.find("3.6.0", "cuda:90", "add_kernel").path("ptx").read_text().split("\n")
    assert file[ptx.line - 1].split() == ptx.text.split()


def test_the_texts_of_the_levels_with_their_lines(tmp_path):
    case = corpus.find("3.6.0", "cuda:90", "add_kernel")
    dump = CoreDump(died_of("3.6.0", "add_kernel", "STG"), case.path("cubin").parent)
    texts = KernelFiles(dump.kernel_dir).texts(dump.exceptions[0].site)
    assert list(texts) == [Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX]
    for text in texts.values():
        assert len(text.chains) == len(text.lines)
        assert any(text.chains)


def test_the_python_line_is_shown_where_the_file_is_at_hand(tmp_path):
    case = corpus.find("3.6.0", "cuda:90", "add_kernel")
    folder = tmp_path / "kernel"
    shutil.copytree(case.path("cubin").parent, folder)
    (before,) = CoreDump(died_of("3.6.0", "add_kernel", "STG"), folder).exceptions
    line = before.frames[0].line
    (folder / "kernels.py").write_text("\n" * (line - 1) + "    tl.store(out_ptr + offsets, x + y, mask=mask)\n")
    (found,) = CoreDump(died_of("3.6.0", "add_kernel", "STG"), folder).exceptions
    assert found.frames[0].text == "tl.store(out_ptr + offsets, x + y, mask=mask)"
