"""nvdisasm's text as instructions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus import Case, cases
from tests.cuda.conftest import Oracle
from tests.cuda.test_image import sample
from trlaunch.cuda import toolkit
from trlaunch.cuda.disassembler import Instruction, SourceLine, disassemble, parse
from trlaunch.cuda.image import read_image
from trlaunch.errors import AssemblerError, AssemblerMissing, ImageError

CUBINS = cases(level="cubin")


@pytest.mark.parametrize("case", CUBINS[:: max(1, len(CUBINS) // 24)], ids=str)
def test_corpus_agrees_with_cuobjdump(case: Case, nvdisasm: Oracle, cuobjdump: Oracle) -> None:
    """Every instruction, at its offset, as ``cuobjdump -sass`` has it; the code has no gap."""
    ours = disassemble(case.bytes("cubin"))
    assert [i.offset for i in ours] == list(range(0, 16 * len(ours), 16))
    text = cuobjdump("-sass", case.path("cubin"))
    theirs = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@(\S+)\s+)?(\S.*?)\s*;", text)
    assert len(theirs) == len(ours)
    for mine, (offset, predicate, words) in zip(ours, theirs, strict=True):
        assert (mine.offset, mine.predicate or "", mine.opcode) == (int(offset, 16), predicate, words.split()[0])
    branches = {label for i in ours for label in re.findall(r"`\(([.\w]+)\)", i.text)}
    assert branches <= {label for i in ours for label in i.labels} | {read_image(case.bytes("cubin")).kernel().name}


@pytest.mark.parametrize("case", CUBINS[:: max(1, len(CUBINS) // 24)], ids=str)
def test_lines_are_there_when_the_image_says_so(case: Case, nvdisasm: Oracle) -> None:
    kernel = read_image(case.bytes("cubin")).kernel()
    sources = [i.source for i in disassemble(case.bytes("cubin"), kernel.name) if i.source]
    assert bool(sources) is kernel.has_line_table
    files = set(re.findall(r'\.file\s+\d+ "([^"]*)"', case.text("ptx")))
    for source in sources:
        link: SourceLine | None = source
        while link is not None:
            assert any(Path(link.file).name == Path(file).name for file in files)
            assert link.line >= 0
            link = link.inlined_at


def test_kernel_is_chosen_and_checked(nvdisasm: Oracle) -> None:
    assert disassemble(sample()) == disassemble(sample(), "matmul_kernel")
    with pytest.raises(ImageError, match="no kernel 'matmul'.*'matmul_kernel'"):
        disassemble(sample(), "matmul")
    with pytest.raises(ImageError, match="expected a cubin"):
        disassemble(b"\x7fELG")


def test_missing_and_failing_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRLAUNCH_NVDISASM", str(tmp_path / "nvdisasm"))
    with pytest.raises(AssemblerMissing, match=r"TRLAUNCH_NVDISASM.*\n.*No such file"):
        disassemble(sample())
    script = '#!/bin/sh\n[ "$1" = --version ] && { echo "release 12.4, V12.4.99"; exit; }\necho broken >&2; exit 2\n'
    (tmp_path / "nvdisasm").write_text(script)
    (tmp_path / "nvdisasm").chmod(0o755)
    with pytest.raises(AssemblerError, match="exited with 2: broken") as caught:
        disassemble(sample())
    assert caught.value.log == "broken\n"
    (tmp_path / "nvdisasm").write_text(script.replace("exit 2", "exit 0"))
    with pytest.raises(AssemblerError, match="printed no instruction of kernel 'matmul_kernel'"):
        disassemble(sample())
    monkeypatch.delenv("TRLAUNCH_NVDISASM")
    monkeypatch.setattr(toolkit, "_folders", lambda: iter(()))
    with pytest.raises(AssemblerMissing, match="nvidia-cuda-nvdisasm"):
        disassemble(sample())


TEXT = """
//--------------------- .text.other          --------------------------
.text.other:
        /*0000*/                   EXIT ;
//--------------------- .text.k          --------------------------
k:
.text.k:
	//## File "lib.py", line 263 inlined at "lib.py", line 293
	//## File "lib.py", line 293 inlined at "k.py", line 153
	//## File "k.py", line 153
        /*0000*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64+0x10] ;
        /*0010*/                   FADD R1, R2, -R3 ;
.L_x_1:
	//## File "k.py", line 8
        /*0020*/             @!UP2 UTMALDG.2D [UR8], [UR6] ;
        /*0030*/                   BRA `(.L_x_1);
        /*0040*/                   NOP;
"""


def test_text() -> None:
    found = parse(TEXT, "k")
    inlined = SourceLine("lib.py", 263, SourceLine("lib.py", 293, SourceLine("k.py", 153)))
    assert found == [
        Instruction(0x00, "LDG.E.128 R4, desc[UR4][R2.64+0x10]", "!P0", ("k", ".text.k"), inlined),
        Instruction(0x10, "FADD R1, R2, -R3", None, (), inlined),
        Instruction(0x20, "UTMALDG.2D [UR8], [UR6]", "!UP2", (".L_x_1",), SourceLine("k.py", 8)),
        Instruction(0x30, "BRA `(.L_x_1)", None, (), SourceLine("k.py", 8)),
        Instruction(0x40, "NOP", None, (), SourceLine("k.py", 8)),
    ]
    assert (found[0].opcode, found[0].operands) == ("LDG.E.128", ("R4", "desc[UR4][R2.64+0x10]"))
    assert (found[4].opcode, found[4].operands) == ("NOP", ())
    assert str(found[0]) == "0000: @!P0 LDG.E.128 R4, desc[UR4][R2.64+0x10]"
    assert str(found[0].source) == "lib.py:263"
    assert [i.text for i in parse(TEXT, "other")] == ["EXIT"]
    assert parse(TEXT, "absent") == []


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(TEXT.splitlines()) | st.text(max_size=30), max_size=20).map("\n".join))
def test_any_text_is_read(text: str) -> None:
    for instruction in parse(text, "k"):
        assert instruction.text
        assert instruction.opcode
        assert isinstance(instruction.operands, tuple)
