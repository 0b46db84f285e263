"""Operands of SASS: the registers they name, and the addresses that they make."""

from __future__ import annotations

import pytest

from tests import corpus
from trlaunch.cuda.disassembler import Instruction, disassemble
from trlaunch.cuda.sass_operands import access_of, destinations, operands


def state(name):
    """R<n> is n + 16, UR<n> is 100 + n, except for the pair R2:R3."""
    if name in ("RZ", "URZ"):
        return 0
    if name.startswith("UR"):
        return 100 + int(name[2:])
    return {"R2": 0xDFE00000, "R3": 0x7F17}.get(name, int(name[1:]) + 16)


@pytest.mark.parametrize(
    "text,space,size,address",
    [
        ("STG.E desc[UR4][R2.64+0x1], R5", "global", 4, 0x7F17DFE00001),
        ("LDG.E.128 R4, [R2.64+-0x10]", "global", 16, 0x7F17DFDFFFF0),
        ("LDG.E.U8 R4, desc[UR4][R2.64]", "global", 1, 0x7F17DFE00000),
        ("LDG.E.SYS R4, [R2]", "global", 4, 0x7F17DFE00000),  # up to sm_75
        ("LDG.E.64 R4, [R2.64+UR8]", "global", 8, 0x7F17DFE00000 + 108),
        ("ST.E.U16 desc[UR4][R2.64], R5", "generic", 2, 0x7F17DFE00000),
        ("ATOMG.E.ADD.STRONG.GPU PT, R3, desc[UR8][R2.64], R3", "global", 4, 0x7F17DFE00000),
        ("LDS.128 R4, [R57+UR12+0x2000]", "shared", 16, 73 + 112 + 0x2000),
        ("LDS R61, [R89.X4+UR11+0x400]", "shared", 4, 105 * 4 + 111 + 0x400),
        ("STS [UR4+0x7fff0], R4", "shared", 4, 104 + 0x7FFF0),
        ("STS.64 [RZ], R4", "shared", 8, 0),
        ("LDS R4, [R2+0x7fffffff]", "shared", 4, (0xDFE00000 + 0x7FFFFFFF) & 0xFFFFFFFF),
        ("LDL.LU R0, [R1]", "local", 4, 17),
        ("LDSM.16.MT88.4 R56, [R4+UR5+0x800]", "shared", 16, 20 + 105 + 0x800),
        ("SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR16+0xc000], R4", "shared", 8, 116 + 0xC000),
        # The global side of a copy is the one that can be wild.
        ("LDGSTS.E.BYPASS.128 [R8+0x1000], desc[UR22][R2.64+0x40], P5", "global", 16, 0x7F17DFE00040),
    ],
)
def test_the_address_of_an_access(text, space, size, address):
    access = access_of(operands(Instruction(0, text)))
    assert access is not None
    assert (access.space, access.size, access.address(state)) == (space, size, address)
    assert access.address(lambda _name: None) is None or not access.terms


@pytest.mark.parametrize(
    "instruction,registers",
    [
        (Instruction(0, "STG.E.128 desc[UR4][R16.64], R12", "!P0"),
         ["P0", "UR4", "UR5", "R16", "R17", "R12", "R13", "R14", "R15"]),
        (Instruction(0, "IADD3 R6, -R16, c[0x0][0x194], RZ"), ["R6", "R16", "RZ"]),
        (Instruction(0, "HGMMA.64x64x8.F32.TF32 R24, gdesc[UR20], R24"),
         ["R24", "UR20", "UR21", "UR22", "UR23", "R24"]),
        (Instruction(0, "ISETP.GE.AND P0, PT, R0.reuse, c[0x0][0x178], PT"), ["P0", "PT", "R0", "PT"]),
        (Instruction(0, "FADD R1, |R2|, ~R3"), ["R1", "R2", "R3"]),
        (Instruction(0, "S2R R0, SR_TID.X"), ["R0"]),
        (Instruction(0, "BRA `(.L_x_0)"), []),
        (Instruction(0, "EXIT"), []),
    ],
)  # fmt: skip
def test_the_registers_of_an_instruction(instruction, registers):
    assert [name for operand in operands(instruction) for name in operand.registers] == registers


def test_constants():
    (_, constant) = operands(Instruction(0, "LDC.64 R2, c[0x0][0x210]"))
    assert (constant.constant.bank, constant.constant.offset, constant.constant.register) == (0, 0x210, None)
    (_, constant) = operands(Instruction(0, "LDC R2, c[0x3][R4+0x10]"))
    assert (constant.constant.bank, constant.constant.offset, constant.constant.register) == (3, 0x10, "R4")


def test_the_registers_of_a_tensor_copy_have_roles():
    load = operands(Instruction(0, "UTMALDG.2D [UR8], [UR6]", "UP2"))
    assert dict(zip(load[1].registers, load[1].roles, strict=True)) == {
        "UR8": "shared address", "UR9": "mbarrier", "UR10": "coordinate 0", "UR11": "coordinate 1",
    }  # fmt: skip
    assert load[2].registers == ("UR6", "UR7")
    store = operands(Instruction(0, "UTMASTG.3D [UR8], [UR6]"))
    assert store[0].roles == ("shared address", "coordinate 0", "coordinate 1", "coordinate 2")
    assert access_of(load) is None


@pytest.mark.parametrize(
    "text,written",
    [
        ("LDG.E.128 R4, [R2.64]", {"R4", "R5", "R6", "R7"}),
        ("IMAD.WIDE R20, R0.reuse, R23, c[0x0][0x168]", {"R20", "R21"}),
        ("ISETP.GE.AND P0, PT, R0, R1, PT", {"P0"}),
        ("ULDC.64 UR4, c[0x0][0x208]", {"UR4", "UR5"}),
        ("STG.E desc[UR4][R2.64+0x1], R5", set()),
        ("EXIT", set()),
    ],
)
def test_the_registers_that_an_instruction_writes(text, written):
    assert destinations(Instruction(0, text)) == written


@pytest.mark.parametrize("release", ["3.0.0", "3.9.0"])
def test_every_access_of_the_corpus_is_understood(release):
    """Loads and stores have an address that follows from registers they name, of a space, of a size."""
    spaces = set()
    for case in corpus.cases(release=release, target="cuda:90"):
        if case.name not in ("matmul_kernel_bf16", "tma_matmul_kernel", "scratch_kernel"):
            continue
        for instruction in disassemble(case.path("cubin").read_bytes()):
            base = instruction.opcode.split(".")[0]
            if base in ("LDG", "STG", "LDS", "STS", "LDGSTS", "LDSM", "STSM", "ATOMG", "SYNCS", "LDL", "STL"):
                if "[" not in instruction.text:
                    continue
                found = operands(instruction)
                access = access_of(found)
                assert access is not None, instruction
                assert access.size in (1, 2, 4, 8, 16), instruction
                named = {name for operand in found for name in operand.registers}
                assert {term.register for term in access.terms} <= named, instruction
                assert all(term.wide for term in access.terms if access.space == "global"), instruction
                spaces.add(access.space)
    assert spaces >= {"global", "shared"}
