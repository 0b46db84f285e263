"""Instructions by what they occupy: tensor cores, each kind of memory, arithmetic, synchronisation, control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["CLASSES", "class_of", "mix"]

#: In the order they are shown.
CLASSES = (
    "tensor core",
    "TMA",
    "global memory",
    "shared memory",
    "local memory",
    "constant memory",
    "atomic",
    "float",
    "conversion",
    "integer",
    "predicate",
    "move",
    "synchronisation",
    "control",
    "padding",
    "other",
)

# Mnemonics without modifiers, from the instruction tables of "CUDA Binary Utilities" (Volta to Blackwell).
_SASS: Mapping[str, str] = {
    "tensor core": "HMMA IMMA DMMA BMMA QMMA OMMA HGMMA IGMMA QGMMA BGMMA WARPGROUP WARPGROUPSET MOVM "
    "UTCHMMA UTCIMMA UTCOMMA UTCQMMA UTCCP UTCBAR UTCATOMSWS UTCSHIFT LDT STT LDTM STTM",
    "TMA": "UTMALDG UTMASTG UTMAREDG UTMAPF UTMACCTL UTMACMDFLUSH UBLKCP UBLKPF UBLKRED",
    "global memory": "LDG STG LD ST LDGSTS LDGDEPBAR CCTL CCTLL CCTLT",
    "shared memory": "LDS STS LDSM STSM STAS LDGMC",
    "local memory": "LDL STL",
    "constant memory": "LDC LDCU ULDC",
    "atomic": "ATOM ATOMG ATOMS RED REDG REDAS REDUX CREDUX SUATOM SURED",
    "float": "FADD FADD32I FMUL FMUL32I FFMA FFMA32I FMNMX FMNMX3 FSEL FSWZADD MUFU FCHK HADD2 HADD2_32 HMUL2 "
    "HMUL2_32 HFMA2 HFMA2_32 HMNMX2 DADD DMUL DFMA DMNMX FADD2 FMUL2 FFMA2 UFADD UFMUL UFFMA UFMNMX UFSEL",
    "conversion": "F2F F2I F2FP F2IP I2F I2I I2IP I2FP FRND UF2F UF2FP UI2F UF2I UI2FP UFRND",
    "integer": "IADD3 IADD3X IADD IADD2 IMAD IMUL IMNMX IABS IDP IDP4A ISCADD LEA LOP LOP3 LOP32I SHF SHL SHR SGXT "
    "BMSK BREV FLO POPC VIADD VIADDMNMX VIMNMX VIMNMX3 VABSDIFF VABSDIFF4 VHMNMX UIADD3 UIMAD ULEA ULOP ULOP3 ULOP32I "
    "USHF USHL USHR USGXT UBMSK UBREV UFLO UPOPC UIMNMX UVIADD UVIMNMX UIABS",
    "predicate": "FSETP FSET HSETP2 HSET2 DSETP ISETP ISET PLOP3 PSETP PSET P2R R2P CSETP UISETP UPLOP3 UPSETP UP2UR "
    "UR2UP UFSETP UFSET VOTE VOTEU",
    "move": "MOV MOV32I UMOV SEL USEL PRMT UPRMT SHFL CS2R S2R S2UR CS2UR R2UR R2B B2R UCLEA MATCH",
    "synchronisation": "BAR WARPSYNC DEPBAR MEMBAR FENCE ERRBAR CGAERRBAR SYNCS NANOSLEEP ELECT UCGABAR_ARV "
    "UCGABAR_WAIT ACQBULK ACQSHMINIT PREEXIT ENDCOLLECTIVE USETMAXREG",
    "control": "BRA BRX BRXU JMP JMX JMXU CALL RET EXIT BREAK BSSY BSYNC KILL BPT RPCMOV YIELD COLLECTIVE PMTRIG LEPC "
    "SETLMEMBASE GETLMEMBASE",
    "padding": "NOP",
}
_BY_NAME = {name: group for group, names in _SASS.items() for name in names.split()}

# AMD's mnemonics say it in their beginning; first match wins (the ISA documents of CDNA 3 and RDNA 4).
_AMDGCN: tuple[tuple[str, str], ...] = (
    ("v_mfma", "tensor core"), ("v_smfmac", "tensor core"), ("v_wmma", "tensor core"), ("v_swmmac", "tensor core"),
    ("global_atomic", "atomic"), ("buffer_atomic", "atomic"), ("flat_atomic", "atomic"),
    ("scratch_", "local memory"), ("ds_add", "atomic"), ("ds_cmpst", "atomic"), ("ds_cmpstore", "atomic"),
    ("ds_swizzle", "move"), ("ds_permute", "move"), ("ds_bpermute", "move"), ("ds_nop", "padding"),
    ("ds_", "shared memory"), ("tensor_load", "TMA"), ("tensor_store", "TMA"),
    ("global_", "global memory"), ("buffer_inv", "synchronisation"), ("buffer_wb", "synchronisation"),
    ("buffer_gl", "synchronisation"), ("buffer_", "global memory"), ("flat_", "global memory"),
    ("s_load", "constant memory"), ("s_buffer_load", "constant memory"), ("s_scratch", "local memory"),
    ("s_barrier", "synchronisation"), ("s_wait", "synchronisation"), ("s_sleep", "synchronisation"),
    ("s_nop", "padding"), ("s_code_end", "padding"), (".long", "padding"), ("v_nop", "padding"),
    ("s_delay_alu", "control"), ("s_clause", "control"), ("s_set_gpr", "control"), ("s_setprio", "control"),
    ("s_sendmsg", "control"), ("s_endpgm", "control"), ("s_branch", "control"), ("s_cbranch", "control"),
    ("s_swappc", "control"), ("s_setpc", "control"), ("s_getpc", "control"), ("s_call", "control"),
    ("s_inst_prefetch", "control"), ("s_icache", "control"), ("s_version", "control"),
    ("v_cmp", "predicate"), ("s_cmp", "predicate"), ("s_bitcmp", "predicate"), ("v_cvt", "conversion"),
    ("s_cvt", "conversion"), ("v_mov", "move"), ("s_mov", "move"), ("s_cmov", "move"), ("v_cndmask", "move"),
    ("v_accvgpr", "move"), ("v_readlane", "move"), ("v_readfirstlane", "move"), ("v_writelane", "move"),
    ("v_perm", "move"), ("v_swap", "move"), ("s_cselect", "move"), ("s_pack", "move"),
)  # fmt: skip
_AMD_FLOATS = ("_f16", "_f32", "_f64", "_bf16", "_legacy")


def class_of(opcode: str) -> str:
    """The class of an instruction by its mnemonic, SASS (``LDG.E.128``) or AMDGCN (``global_load_b128``)."""
    root = opcode.partition(".")[0] if not opcode.startswith(".") else opcode
    if root in _BY_NAME:
        return _BY_NAME[root]
    for beginning, group in _AMDGCN:
        if opcode.startswith(beginning):
            return group
    if opcode.startswith(("v_", "s_")):
        return "float" if any(mark in opcode for mark in _AMD_FLOATS) else "integer"
    return "other"


def mix(opcodes: Iterable[str]) -> dict[str, int]:
    """How many instructions of each class; every class is there, in the order of `CLASSES`."""
    count = Counter(class_of(opcode) for opcode in opcodes)
    return {group: count[group] for group in CLASSES}
