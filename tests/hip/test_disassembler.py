"""llvm-objdump's text as instructions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus_hip import ARCHITECTURES, Case, cases, find
from tests.hip.conftest import Oracle
from tests.hip.test_assembler import code
from tests.hip.test_image import sample
from trlaunch.errors import AssemblerError, AssemblerMissing, ImageError
from trlaunch.hip import disassembler
from trlaunch.hip.disassembler import Instruction, SourceLine, disassemble, parse
from trlaunch.hip.image import read_image

CASES = [find(release, f"hip:{arch}", "matmul_kernel") for release in ("3.6.0", "3.9.0") for arch in ARCHITECTURES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_word_of_the_code_is_there_once(case: Case, llvm_objdump: Oracle) -> None:
    found = disassemble(case.bytes("hsaco"))
    at = 0
    for instruction in found:
        assert instruction.offset == at
        at += 4 * len(instruction.words)
    words = b"".join(word.to_bytes(4, "little") for i in found for word in i.words)
    assert code(case.bytes("hsaco")).startswith(words)
    symbols = llvm_objdump("-t", case.path("hsaco"))
    size = re.search(rf"\.text\s+([0-9a-f]{{16}})\s.* {case.kernel}$", symbols, re.M)
    assert size
    assert at >= int(size[1], 16)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mnemonics_are_those_of_the_text_it_was_made_of(case: Case, llvm_objdump: Oracle) -> None:
    text = case.text("amdgcn")
    body = text[text.index(f"{case.kernel}:") : text.index("s_endpgm")]
    written = set(re.findall(r"^\t([a-z]+_[a-z0-9_]+)\b", body, re.M))
    seen = {instruction.opcode for instruction in disassemble(case.bytes("hsaco"))}
    plain = {re.sub(r"_(?:e32|e64|sdwa|dpp|e64_dpp)$", "", name) for name in seen}
    missing = {name for name in written if re.sub(r"_(?:e32|e64|sdwa|dpp|e64_dpp)$", "", name) not in plain}
    assert len(missing) <= len(written) // 20, missing


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lines_are_those_of_the_source(case: Case, llvm_objdump: Oracle) -> None:
    sources = {i.source for i in disassemble(case.bytes("hsaco")) if i.source}
    assert bool(sources) is read_image(case.bytes("hsaco")).kernel().has_line_table
    stated = {
        (name, int(line)) for line, name in re.findall(r"\.loc\s+\d+ (\d+) .*; ([\w./]+):\d+", case.text("amdgcn"))
    }
    assert {Path(s.file).name for s in sources} <= {Path(name).name for name, _ in stated}
    assert {s.line for s in sources} <= {line for _, line in stated}


def test_kernel_is_chosen_and_checked(llvm_objdump: Oracle) -> None:
    assert disassemble(sample()) == disassemble(sample(), "matmul_kernel")
    with pytest.raises(ImageError, match="no kernel 'matmul'.*'matmul_kernel'"):
        disassemble(sample(), "matmul")
    with pytest.raises(ImageError, match="expected a hsaco"):
        disassemble(b"\x7fELG")


def test_missing_and_failing_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(disassembler, "find_disassemblers", list)
    with pytest.raises(AssemblerMissing, match="no llvm-objdump to disassemble 'matmul_kernel': looked in"):
        disassemble(sample())
    monkeypatch.undo()
    failing = tmp_path / "llvm-objdump"
    failing.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "LLVM version 22.1.8" && exit 0\necho bad >&2; exit 3\n'
    )
    failing.chmod(0o755)
    monkeypatch.setenv("TRLAUNCH_LLVM_OBJDUMP", str(failing))
    with pytest.raises(AssemblerError, match="exited with 3: bad") as failed:
        disassemble(sample())
    assert failed.value.log == "bad\n"


OUTPUT = """
k.hsaco:	file format elf64-amdgpu

Disassembly of section .text:

0000000000001600 <add_kernel>:
; add_kernel():
; kernels.py:18
	s_load_dwordx2 s[2:3], s[0:1], 0x0                         // 000000001600: C0060080 00000000
	s_branch 56                                                // 000000001608: BF820038 <add_kernel+0x100>
; kernels.py:0
	v_add_f32_e32 v0, v1, v2                                   // 00000000160C: 02000501

0000000000001700 <other>:
	s_endpgm                                                   // 000000001700: BF810000
"""


def test_text_becomes_instructions() -> None:
    line = SourceLine("kernels.py", 18)
    assert parse(OUTPUT, "add_kernel") == [
        Instruction(0, "s_load_dwordx2 s[2:3], s[0:1], 0x0", (0xC0060080, 0), line),
        Instruction(8, "s_branch 56", (0xBF820038,), line, "add_kernel+0x100"),
        Instruction(12, "v_add_f32_e32 v0, v1, v2", (0x02000501,), None),
    ]
    assert parse(OUTPUT, "other")[0].offset == 0
    first = parse(OUTPUT, "add_kernel")[0]
    assert (first.opcode, first.operands) == ("s_load_dwordx2", ("s[2:3]", "s[0:1]", "0x0"))
    assert str(first) == "0000: s_load_dwordx2 s[2:3], s[0:1], 0x0"
    assert str(line) == "kernels.py:18"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400), st.data())
def test_any_text_is_parsed(text: str, data: st.DataObject) -> None:
    parse(text, "add_kernel")
    at = data.draw(st.integers(0, len(OUTPUT)))
    for instruction in parse(OUTPUT[:at] + text + OUTPUT[at:], "add_kernel"):
        assert instruction.text
        assert instruction.words


def test_all_of_the_corpus_has_line_tables() -> None:
    assert all(read_image(c.bytes("hsaco")).kernel().has_line_table for c in cases())
