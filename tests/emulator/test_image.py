"""The header of every PTX of the corpus, against the cubin that was assembled from it."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from elftools.elf.elffile import ELFFile

from tests import corpus
from trlaunch.emulator.image import read_image
from trlaunch.errors import EmulatorError

CASES = corpus.cases(level="ptx")


def kernel_params(cubin: bytes, kernel: str) -> list[tuple[int, int, int]]:
    """(index, offset, size) from EIATTR_KPARAM_INFO, which is format 4, attribute 0x17, twelve bytes."""
    data = ELFFile(BytesIO(cubin)).get_section_by_name(f".nv.info.{kernel}").data()
    found, at = [], 0
    while at < len(data):
        form, attribute, size = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == 4:
            if attribute == 0x17:
                _, index, offset, packed = struct.unpack_from("<IHHI", data, at)
                found.append((index, offset, packed >> 18))
            at += size
    return sorted(found)


@pytest.mark.parametrize("case", [c for c in CASES if "cubin" in c.levels], ids=str)
def test_parameters_are_those_of_the_cubin(case: corpus.Case) -> None:
    image = read_image(case.bytes("ptx"))
    kernel = image.kernel(case.kernel)
    expected = kernel_params(case.bytes("cubin"), case.kernel)
    # ptxas aligns to the constant bank, whose parameters begin at 0x210: a first parameter of alignment 64 moves.
    start = expected[0][1]
    assert [(p.index, start + p.offset, p.size) for p in kernel.params] == expected
    assert start + kernel.param_bytes == expected[-1][1] + expected[-1][2]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_block_shared_and_target_are_those_of_the_metadata(case: corpus.Case) -> None:
    image = read_image(case.text("ptx"))
    kernel, metadata = image.kernel(), case.metadata
    assert kernel.name == metadata["name"]
    assert kernel.block_threads == 32 * metadata["num_warps"]
    assert (kernel.required_block is None) == (case.version < (3, 2))
    assert image.target.capability == metadata["target"]["arch"]
    assert kernel.static_shared == 0
    assert kernel.has_line_table
    if metadata["shared"]:
        assert kernel.uses_dynamic_shared
    assert image.format == "ptx"
    assert image.data == case.bytes("ptx")


def test_cluster_and_architecture_suffix() -> None:
    clusters = [c for c in CASES if c.name == "cluster_kernel" and c.version >= (3, 6)]
    for case in clusters:
        image = read_image(case.bytes("ptx"))
        assert image.kernel().cluster == (2, 1, 1)
        assert image.target.suffix == "a"
    assert clusters


HEADER = ".version 8.7\n.target sm_90a, debug\n.address_size 64\n"


def test_alignment_of_byte_arrays_and_narrow_types() -> None:
    image = read_image(
        HEADER
        + ".visible .entry k(.param .u8 a, .param .u16 b, .param .align 2 .b8 c[2], .param .f64 d,"
        + " .param .align 64 .b8 e[128], .param .u32 f) .reqntid 64, 2\n{ ret; }"
    )
    kernel = image.kernel("k")
    assert [(p.offset, p.size, p.type) for p in kernel.params] == [
        (0, 1, "u8"), (2, 2, "u16"), (4, 2, "b8"), (8, 8, "f64"), (64, 128, "b8"), (192, 4, "u32"),
    ]  # fmt: skip
    assert kernel.param_bytes == 196
    assert kernel.required_block == (64, 2, 1)
    assert (image.target.sm, image.ptx_version) == ("sm_90a", (8, 7))


def test_static_shared_counts_what_the_kernel_reaches() -> None:
    image = read_image(
        HEADER
        + ".shared .align 4 .b8 used[10];\n.shared .align 16 .b8 unused[1000];\n.shared .align 8 .b64 table[3];\n"
        + ".extern .shared .align 16 .b8 dyn[];\n"
        + ".func f() { .reg .b32 %r<2>; mov.u32 %r1, table; ret; }\n"
        + ".entry k() { .reg .b32 %r<2>; .shared .align 4 .b8 inner[4]; mov.u32 %r1, used; call.uni f; ret; }\n"
        + ".entry d() { .reg .b32 %r<2>; mov.u32 %r1, dyn; ret; }\n"
    )
    assert image.kernel("k").static_shared == 44  # 10, up to 16, 24 of table, 4 of inner
    assert image.kernel("k").uses_dynamic_shared is False
    assert image.kernel("d").uses_dynamic_shared is True
    assert image.kernel("d").static_shared == 0
    assert image.kernel("k").has_line_table is False


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no .version"),
        ("hello", "line 1"),
        (".version 8.7\n", "no .target"),
        (".version eight", "line 1: expected a version"),
        (".version 8.7\n.target compute_1\n", "compute_1"),
        (HEADER + ".entry k(.param .u32 a, .param .b33 b) { }", "line 4: expected a type"),
        (HEADER + ".entry k(.param .u32 a)\n{ ret;\n", "no closing '}'"),
        (HEADER + ".entry k(.param .align 3 .b8 a[4]) { }", "power of two"),
        (HEADER + ".entry k() .reqntid 0 { }", "must be positive"),
        (HEADER + "\n\n.bogus", "line 6: expected a module directive"),
        (b"\x7fELF\x02\x01\x01", "line 1"),
    ],
)
def test_what_is_not_ptx_is_refused_with_the_line(text: str | bytes, message: str) -> None:
    with pytest.raises(EmulatorError, match=message.replace("(", r"\(")):
        read_image(text)
