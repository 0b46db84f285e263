"""Builds of one kernel by several releases beside each other, against the tools that read the same files."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter

import pytest

import trlaunch
from tests.corpus import cases, find
from trlaunch.comparison.mix import CLASSES, class_of, mix
from trlaunch.comparison.normal import SASS, expanded, normalised
from trlaunch.cuda.disassembler import disassemble
from trlaunch.cuda.toolkit import find_tools, newest


def build(release, kernel="matmul_kernel", target="cuda:80"):
    return find(release, target, kernel).path("cubin")


def printed(tool, *arguments):
    found = newest(find_tools(tool, variable="TRLAUNCH_NO_SUCH_VARIABLE"))
    return subprocess.run([found.path, *arguments], capture_output=True, text=True, check=True).stdout


def test_resources_are_those_that_cuobjdump_states():
    found = trlaunch.diff(build("3.2.0"), build("3.6.0"))
    for side, build_ in enumerate((found.first, found.second)):
        usage = printed("cuobjdump", "-res-usage", build_.artifact.path)
        registers = int(re.search(r"REG:(\d+)", usage)[1])
        pair = next(p for p in found.resources if p.name == "registers")
        assert (pair.first, pair.second)[side] == registers
        shared = next(p for p in found.resources if p.name == "dynamic shared bytes")
        stated = json.loads(build_.artifact.path.with_suffix(".json").read_text())["shared"]
        assert (shared.first, shared.second)[side] == stated


def test_mnemonics_are_those_that_nvdisasm_prints():
    found = trlaunch.diff(build("3.2.0"), build("3.6.0"))
    for build_ in (found.first, found.second):
        text = printed("nvdisasm", "-ndf", "-c", build_.artifact.path)
        names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text)
        while names[-1] == "NOP":
            names.pop()
        assert build_.opcodes == Counter(names)
    assert {p.name for p in found.opcodes if p.differs} == {
        name
        for name in found.first.opcodes.keys() | found.second.opcodes.keys()
        if found.first.opcodes[name] != found.second.opcodes[name]
    }
    assert sum(p.first for p in found.mix) == found.first.opcodes.total()
    assert sum(p.second for p in found.mix) == found.second.opcodes.total()


def test_every_instruction_of_the_corpus_has_a_class():
    wanted = {("3.0.0", "cuda:80"), ("3.6.0", "cuda:90"), ("3.9.0", "cuda:90")}
    seen = set()
    for case in cases():
        if (case.release, case.target) in wanted and "cubin" in case.levels:
            seen |= {i.opcode for i in disassemble(case.path("cubin").read_bytes())}
    assert len(seen) > 150
    assert sorted(name for name in seen if class_of(name) == "other") == []


@pytest.mark.parametrize(
    ("opcode", "group"),
    [
        ("HMMA.16816.F32", "tensor core"), ("UTMALDG.2D", "TMA"), ("LDGSTS.E.BYPASS.128", "global memory"),
        ("STL.64", "local memory"), ("ATOMG.E.ADD.STRONG.GPU", "atomic"), ("F2FP.BF16.F32.PACK_AB", "conversion"),
        ("v_mfma_f32_32x32x8_f16", "tensor core"), ("buffer_load_dwordx4", "global memory"),
        ("ds_read_b128", "shared memory"), ("ds_add_f32", "atomic"), ("scratch_load_dword", "local memory"),
        ("s_load_dwordx2", "constant memory"), ("v_fma_f32", "float"), ("v_add_u32_e32", "integer"),
        ("s_waitcnt", "synchronisation"), ("s_cbranch_scc1", "control"), ("v_cvt_f16_f32_e32", "conversion"),
    ],
)  # fmt: skip
def test_classes(opcode, group):
    assert class_of(opcode) == group
    assert mix([opcode]) == {name: int(name == group) for name in CLASSES}


def test_a_build_and_itself_are_the_same():
    path = build("3.6.0")
    found = trlaunch.diff(path, path)
    assert found.same
    assert not any(row.changed for row in found.lines)
    assert "the same but for names of registers" in str(found)


def test_counts_by_line_add_up_to_the_code_that_has_a_line():
    found = trlaunch.diff(build("3.2.0"), build("3.9.0"))
    assert found.levels == ("ttir", "ttgir", "llir", "ptx", "sass")
    for level in found.levels:
        for side, build_ in enumerate((found.first, found.second)):
            code = next(code for key, code in build_.code.items() if str(key) == level)
            assert sum(row.counts[level][side] for row in found.lines) == sum(s is not None for s in code.sources) > 0


def test_one_edited_line_is_the_one_that_is_reported(tmp_path):
    path = build("3.6.0")
    for file in path.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ttgir = tmp_path / "matmul_kernel.ttgir"
    text = ttgir.read_text()
    line = next(line for line in text.split("\n") if "arith.truncf" in line)
    ttgir.write_text(text.replace(line, line.replace("arith.truncf", "arith.other")))
    found = trlaunch.diff(path, tmp_path / path.name)
    assert not found.same
    changed = [row for row in found.lines if row.changed]
    assert [row.changed for row in changed] == [("ttgir",)]
    shown = found.text("ttgir", changed[0].line)
    assert [text[0] for text in shown.split("\n")[3:] if text[0] in "+-"] == ["-", "+"]
    assert "arith.other" in shown
    assert f"{changed[0]}" in str(found)
    assert not found.text("sass")


def test_a_line_without_code_and_a_level_without_file_are_named():
    found = trlaunch.diff(build("3.6.0"), build("3.9.0"))
    with pytest.raises(trlaunch.ArtifactError, match=r"no sass comes from line 1; there is code of lines \d+"):
        found.text("sass", 1)
    with pytest.raises(
        trlaunch.ArtifactError, match="level 'amdgcn' is not in both builds: expected one of ttir, ttgir"
    ):
        found.text("amdgcn")


def test_a_kernel_that_is_not_there_is_named():
    with pytest.raises(trlaunch.ImageError, match="no kernel 'zz' in this cubin: it holds 'matmul_kernel'"):
        trlaunch.diff(build("3.6.0"), build("3.9.0"), name="zz")


def test_texts_alone_are_compared_with_a_note(tmp_path):
    path = build("3.6.0").with_suffix(".ttgir")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "k.ttgir").write_bytes(path.read_bytes())
    found = trlaunch.diff(tmp_path / "a" / "k.ttgir", tmp_path / "b" / "k.ttgir")
    assert found.same
    assert "there is no binary beside it" in str(found)
    assert found.mix == []


def test_aliases_of_layouts_are_compared_by_what_they_stand_for():
    lines = [
        "#a = #ttg.blocked<{order = [0]}>",
        "#b = #ttg.slice<{dim = 0, parent = #a}>",
        "%1 = op : tensor<4xf32, #b>",
    ]
    assert expanded(lines)[2].endswith("tensor<4xf32, #ttg.slice<{dim = 0, parent = #ttg.blocked<{order = [0]}>}>>")
    other = [lines[0].replace("#a", "#blocked7"), lines[1].replace("#a", "#blocked7").replace("#b =", "#c ="), lines[2]]
    other[2] = other[2].replace("#b", "#c").replace("%1", "%acc_12").replace("ttg.", "triton_gpu.")
    assert normalised("ttgir", expanded(lines)[2]) == normalised("ttgir", expanded(other)[2])


@pytest.mark.parametrize(
    ("level", "first", "second"),
    [
        ("ttir", "%3 = arith.addi %x_1, %c : i32 loc(#loc3)", "%x = arith.addi %x_5, %4 : i32 loc(#loc9)"),
        ("llir", "  %5 = add i32 %4, 1, !dbg !11", "  %x = add i32 %.not.i, 1, !dbg !3"),
        ("ptx", "\tadd.s32 \t%r4, %r5, 1;", "\tadd.s32 \t%r17, %r2, 1;   // note"),
        (SASS, "@!P0 LDG.E R0, desc[UR4][R6.64]", "@!P3 LDG.E R9, desc[UR8][R2.64]"),
        (SASS, "v_add_u32_e32 v3, v1, v2", "v_add_u32_e32 v7, v9, v12"),
    ],
)
def test_names_make_no_difference(level, first, second):
    key = level if level == SASS else trlaunch.Level(level)
    assert normalised(key, first) == normalised(key, second)
    assert normalised(key, first) != normalised(key, first.replace("add", "sub").replace("LDG", "STG"))


def test_json_of_a_difference_can_be_written():
    found = trlaunch.diff(build("3.2.0"), build("3.6.0")).to_dict()
    assert json.loads(json.dumps(found))["resources"]["registers"][0] > 0


@pytest.mark.parametrize("case", [c for c in cases(target="cuda:90") if c.release == "3.9.0"][:2], ids=str)
def test_hopper(case):
    other = find("3.6.0", "cuda:90", case.name)
    found = trlaunch.diff(other.path("cubin"), case.path("cubin"))
    assert found.mix
    assert str(found)
