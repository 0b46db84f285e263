"""Line tables of cubins against what nvdisasm prints of them, as linked and as in GPU memory."""

from __future__ import annotations

import subprocess
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import corpus
from tests.cuda.coredumps import loaded
from trlaunch.cuda.disassembler import SourceLine, disassemble, find_disassemblers, parse
from trlaunch.cuda.eiattr import EM_CUDA
from trlaunch.cuda.line_table import ptx_text, read_line_table
from trlaunch.cuda.module_image import ModuleImage
from trlaunch.cuda.toolkit import newest
from trlaunch.elf import ElfFile
from trlaunch.errors import ImageError

BASE = 0x7F0000001000
CASES = [
    ("3.0.0", "cuda:90", "matmul_kernel"),
    ("3.2.0", "cuda:80", "layer_norm_kernel"),
    ("3.6.0", "cuda:90", "softmax_kernel"),
    # Inlined calls: standard.py in standard.py in the kernel.
    ("3.9.0", "cuda:90", "cooperative_kernel"),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def case(request) -> corpus.Case:
    return corpus.find(*request.param)


def ptx_lines(cubin) -> dict[int, int]:
    """The PTX line of each instruction by nvdisasm."""
    tool = newest(find_disassemblers())
    assert tool is not None
    done = subprocess.run([tool.path, "-ndf", "-c", "-gp", cubin], capture_output=True, check=True, text=True)
    found = parse(done.stdout, cubin.stem)
    assert {i.source.file for i in found if i.source} == {".nv_debug_ptx_txt"}
    return {i.offset: i.source.line for i in found if i.source}


def test_lines_and_inlined_calls_are_those_of_nvdisasm(case):
    image = ModuleImage(case.path("cubin").read_bytes())
    function = image.function(case.kernel)
    assert function is not None
    expected = disassemble(image.data)
    assert image.instructions(function) == expected
    assert [image.source(function, i.offset) for i in expected] == [i.source for i in expected]
    assert any(i.source is not None for i in expected)


def test_lines_of_ptx_are_those_of_nvdisasm(case):
    image = ModuleImage(case.path("cubin").read_bytes())
    function = image.function(case.kernel)
    expected = ptx_lines(case.path("cubin"))
    assert expected
    assert {offset: image.ptx_line(function, offset) for offset in expected} == expected


def test_the_ptx_in_the_cubin_has_the_lines_of_the_file(case):
    """ptxas drops comments and directives, but not their lines."""
    own = ptx_text(ElfFile(case.path("cubin").read_bytes(), "cubin", EM_CUDA))
    file = case.path("ptx").read_text().split("\n")
    assert any(line.strip() for line in own)
    for mine, whole in zip(own, file, strict=False):
        if mine.strip():
            assert mine.partition("//")[0].split() == whole.partition("//")[0].split()


def test_a_deep_chain_of_inlined_calls():
    image = ModuleImage(corpus.find(*CASES[3]).path("cubin").read_bytes())
    function = image.functions[0]
    depths = set()
    for offset in range(0, function.size, 16):
        line, depth = image.source(function, offset), 0
        while line is not None:
            line, depth = line.inlined_at, depth + 1
        depths.add(depth)
    assert depths >= {1, 2, 3}


def test_in_gpu_memory_the_lines_are_the_same(case):
    data = case.path("cubin").read_bytes()
    linked, moved = ModuleImage(data), ModuleImage(loaded(data, {f".text.{case.kernel}": BASE}))
    function, there = linked.function(case.kernel), moved.function(case.kernel)
    assert there.address == BASE + function.address
    assert moved.at(BASE + 0x40) == there
    assert linked.at(0x40) is None  # offsets are no addresses
    offsets = range(0, function.size, 16)
    assert [moved.source(there, o) for o in offsets] == [linked.source(function, o) for o in offsets]
    assert [moved.ptx_line(there, o) for o in offsets] == [linked.ptx_line(function, o) for o in offsets]
    assert [(i.offset, i.text) for i in moved.instructions(there)] == [
        (i.offset, i.text) for i in linked.instructions(function)
    ]
    assert moved.same_code(linked, case.kernel)


def test_a_relocated_line_table_is_read_as_well(case):
    """The driver may also have put addresses into the line table: they are told by where the sections are."""
    data = case.path("cubin").read_bytes()
    moved = bytearray(loaded(data, {f".text.{case.kernel}": BASE}))
    file = ElfFile(data, "cubin", EM_CUDA)
    patched = 0
    for section in file.sections:
        if section.name in (".rel.debug_line", ".rela.debug_line"):
            lines = file.section(".debug_line")
            for entry in file.relocations(section):
                at = lines["sh_offset"] + entry.offset
                moved[at : at + 8] = BASE.to_bytes(8, "little")
                patched += 1
    assert patched
    linked, there = ModuleImage(data), ModuleImage(bytes(moved))
    function = linked.function(case.kernel)
    for offset in range(0, function.size, 16):
        assert there.source(there.function(case.kernel), offset) == linked.source(function, offset)


def test_other_code_of_the_same_name_is_not_the_same():
    old = ModuleImage(corpus.find("3.0.0", "cuda:90", "add_kernel").path("cubin").read_bytes())
    new = ModuleImage(corpus.find("3.6.0", "cuda:90", "add_kernel").path("cubin").read_bytes())
    assert not old.same_code(new, "add_kernel")
    assert not old.same_code(new, "nothing")


@cache
def small() -> bytes:
    return corpus.find("3.9.0", "cuda:90", "cooperative_kernel").path("cubin").read_bytes()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_tables_raise_image_errors_alone(data):
    content = bytearray(small())
    section = ElfFile(small(), "cubin", EM_CUDA).section(".debug_line")
    start, size = section["sh_offset"], section["sh_size"]
    for _ in range(data.draw(st.integers(1, 5))):
        content[start + data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    try:
        table = read_line_table(ElfFile(bytes(content), "cubin", EM_CUDA))
    except ImageError:
        return
    found = table.at(".text.cooperative_kernel", 0x40)
    assert found is None or isinstance(found, SourceLine)
