"""The hsaco reader against the AMDGCN text, readelf, Triton's metadata and the kernel descriptor; and damaged bytes."""

from __future__ import annotations

import re
import struct
import tracemalloc
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus_hip import ARCHITECTURES, Case, cases, find, hidden
from tests.hip.conftest import Oracle
from trlaunch.elf import ElfFile
from trlaunch.errors import ImageError
from trlaunch.hip import note
from trlaunch.hip.image import read_image
from trlaunch.image import ImageKernel

HSACOS = cases()


def sample() -> bytes:
    return find("3.9.0", "hip:gfx950", "matmul_kernel").bytes("hsaco")  # with arguments that the runtime fills


def described(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The kernel of the metadata as YAML has it, and its arguments; ``llvm-readelf -n`` prints the same."""
    block = text[text.index("amdhsa.kernels:") :]
    block = block[: block.index("amdhsa.version:")]
    at = block.find(".args:")
    stop = block.index(".group_segment_fixed_size:")
    arguments = [
        dict(re.findall(r"(\.\w+):\s+(\S+)", part))
        for part in re.split(r"\n\s+- ", block[at:stop] if at >= 0 else "")[1:]
    ]
    rest = block[:at] + block[stop:]
    return dict(re.findall(r"(\.\w+|amdhsa\.target):\s+(\S+)", rest)), arguments


def agree(kernel: ImageKernel, text: str) -> None:
    fields, arguments = described(text)
    passed = [a for a in arguments if not a[".value_kind"].startswith("hidden_")]
    assert [(p.offset, p.size) for p in kernel.params] == [(int(a[".offset"]), int(a[".size"])) for a in passed]
    assert [p.space for p in kernel.params] == [a.get(".address_space") for a in passed]
    filled = [(p.offset, p.size, p.type) for p in kernel.implicit]
    assert filled == [(int(a[".offset"]), int(a[".size"]), a[".value_kind"]) for a in arguments if a not in passed]
    assert kernel.name == fields[".name"]
    for value, key in (
        (kernel.registers, ".vgpr_count"),
        (kernel.scalar_registers, ".sgpr_count"),
        (kernel.spilled_registers, ".vgpr_spill_count"),
        (kernel.spilled_scalar_registers, ".sgpr_spill_count"),
        (kernel.local_bytes, ".private_segment_fixed_size"),
        (kernel.static_shared, ".group_segment_fixed_size"),
        (kernel.wave_size, ".wavefront_size"),
        (kernel.param_align, ".kernarg_segment_align"),
        (kernel.block_threads, ".max_flat_workgroup_size"),
    ):
        assert value == int(fields[key]), key
    assert kernel.accumulation_registers == (int(fields[".agpr_count"]) if ".agpr_count" in fields else None)
    if not kernel.implicit:
        assert kernel.param_bytes == int(fields[".kernarg_segment_size"])


@pytest.mark.parametrize("case", HSACOS, ids=str)
def test_corpus_hsaco_agrees_with_the_text_it_was_made_of(case: Case) -> None:
    agree(read_image(case.bytes("hsaco")).kernel(), case.text("amdgcn"))


@pytest.mark.parametrize("case", HSACOS[::5], ids=str)
def test_corpus_hsaco_agrees_with_llvm_readelf(case: Case, llvm_readelf: Oracle) -> None:
    image = read_image(case.bytes("hsaco"))
    agree(image.kernel(), llvm_readelf("-n", case.path("hsaco")))
    header = llvm_readelf("-h", case.path("hsaco"))
    flags = re.search(r"Flags:\s+0x[0-9a-f]+, (gfx\w+)(.*)", header)
    assert flags
    assert image.target.arch == flags[1]
    assert image.target.suffix == "".join(f":{s}" for s in re.findall(r"((?:xnack|sramecc)[+-])", flags[2]))
    abi = re.search(r"ABI Version:\s+(\d)", header)
    assert abi
    assert image.toolchain.startswith(f"code object v{int(abi[1]) + 2}, LLD ")


@pytest.mark.parametrize("case", HSACOS, ids=str)
def test_corpus_hsaco_agrees_with_metadata(case: Case) -> None:
    image, metadata = read_image(case.bytes("hsaco")), case.metadata
    kernel = image.kernel()
    assert kernel.name == metadata["name"]
    assert (image.target.arch, image.target.warp_size) == (metadata["target"]["arch"], metadata["target"]["warp_size"])
    assert kernel.block_threads == metadata["num_warps"] * metadata["target"]["warp_size"]
    assert kernel.uses_dynamic_shared is None
    assert image.toolchain.startswith("code object v4" if case.version <= (3, 2) else "code object v5")
    if not case.descriptors:  # a descriptor becomes several parameters
        assert len(kernel.params) == len(case.params) + hidden(case)
        assert [p.space for p in kernel.params[: len(case.params)]] == [
            "global" if p.type.startswith("*") else None for p in case.params
        ]


@pytest.mark.parametrize("case", HSACOS, ids=str)
def test_kernel_descriptor_has_the_registers_of_the_note(case: Case, readelf: Oracle) -> None:
    """GRANULATED_WORKITEM_VGPR_COUNT, bits 0 to 5 of COMPUTE_PGM_RSRC1: granules of the registers, less one."""
    data = case.bytes("hsaco")
    symbols = readelf("--dyn-syms", "-W", case.path("hsaco"))
    address = re.search(rf"\d+: ([0-9a-f]{{16}})\s+64 OBJECT .* {case.kernel}\.kd", symbols)
    sections = readelf("-SW", case.path("hsaco"))
    rodata = re.search(r"\] \.rodata\s+PROGBITS\s+([0-9a-f]{16}) ([0-9a-f]{6})", sections)
    assert address
    assert rodata
    at = int(address[1], 16) - int(rodata[1], 16) + int(rodata[2], 16)
    descriptor = note.Descriptor.unpack(data[at : at + 64])
    kernel = read_image(data).kernel()
    granule = 8 if case.arch in ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1200") else 16
    granules = (descriptor.rsrc1 & 63) + 1
    assert granules * granule - granule < max(kernel.registers or 0, 1) <= granules * granule
    assert descriptor.wave32 is (kernel.wave_size == 32)
    assert descriptor.kernarg in (0, kernel.param_bytes) or kernel.implicit


def test_flags_mean_what_llvm_readelf_says(llvm_readelf: Oracle, tmp_path: Path) -> None:
    file = tmp_path / "k.hsaco"
    data = bytearray(sample())
    for machine, name in note.MACHINES.items():
        for features in (0, 0x500, 0xA00, 0xF00, 0xE00):
            struct.pack_into("<I", data, 48, machine | features)
            file.write_bytes(data)
            flags = re.search(r"Flags:\s+0x[0-9a-f]+(.*)", llvm_readelf("-h", file))
            assert flags
            found = [part.strip() for part in flags[1].split(",")[1:]]
            assert found[0] == name
            stated = sorted(part for part in found[1:] if part[-1] in "+-")
            assert sorted(s for s in note.features_of_flags(machine | features).split(":") if s) == stated


def with_note(change, data: bytes | None = None) -> bytes:
    """An hsaco whose note says something else: `change` takes and changes the decoded map. It must fit."""
    data = data if data is not None else find("3.6.0", "hip:gfx942", "add_kernel").bytes("hsaco")
    section = ElfFile(data, "hsaco", note.EM_AMDGPU).section(".note")
    assert section is not None
    start, size = section["sh_offset"] + 20, struct.unpack_from("<I", data, section["sh_offset"] + 4)[0]
    root = msgpack.unpackb(data[start : start + size])
    change(root)
    made = msgpack.packb(root)
    assert len(made) <= size
    result = bytearray(data)
    result[start : start + size] = made.ljust(size, b"\0")
    struct.pack_into("<I", result, section["sh_offset"] + 4, len(made))
    return bytes(result)


def first(root):
    return root["amdhsa.kernels"][0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r.update({"amdhsa.target": "amdgcn-amd-amdhsa--gfx90a"}), "e_flags 0x54c mean gfx942, its note"),
        (lambda r: first(r).pop(".vgpr_count"), r".vgpr_count of kernel 'add_kernel' is nothing, expected a number"),
        (lambda r: first(r).update({".sgpr_count": -1}), ".sgpr_count of kernel 'add_kernel' is -1"),
        (lambda r: first(r).update({".wavefront_size": 32}), "32 in the note, 64 in its descriptor"),
        (lambda r: first(r).update({".kernarg_segment_size": 56}), "is 56 in the note, 48 in its descriptor"),
        (lambda r: first(r).update({".group_segment_fixed_size": 9}), "is 9 in the note, 0 in its descriptor"),
        (lambda r: first(r)[".args"][1].update({".offset": 4}), "takes 8 bytes from offset 4; the one before it ends"),
        (lambda r: first(r)[".args"][5].update({".offset": 44}), "from offset 44.*the kernarg segment at 48"),
        (lambda r: first(r)[".args"][0].update({".value_kind": "odd"}), "has .value_kind 'odd', expected by_value"),
        (lambda r: first(r)[".args"][0].update({".value_kind": "hidden_none"}), "lies behind those of the runtime"),
        (lambda r: first(r).update({".symbol": "x.kd"}), "has descriptor 'x.kd', expected 'add_kernel.kd'"),
        (lambda r: first(r).update({".name": "gone", ".symbol": "gone.kd"}), "no descriptor 'gone.kd' of 64 bytes"),
        (lambda r: r.update({"amdhsa.kernels": []}), "'add_kernel.kd' is a kernel that its note knows nothing of"),
        (lambda r: r.update({"amdhsa.kernels": 3}), "amdhsa.kernels of the note is 3, expected a list of maps"),
        (lambda r: first(r).update({".args": [1]}), "expected a list of maps"),
    ],
)  # fmt: skip
def test_contradictions_are_named(change, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(with_note(change))


def test_unchanged_note_is_read_as_before() -> None:
    assert read_image(with_note(lambda _: None)).kernel().param_bytes == 48


def test_a_note_that_is_no_map_or_no_message_pack_is_named() -> None:
    data = find("3.6.0", "hip:gfx942", "add_kernel").bytes("hsaco")
    at = data.index(b"AMDGPU\0") + 8
    with pytest.raises(ImageError, match="its metadata note is no (map|MessagePack)"):
        read_image(data[:at] + b"\x93" + data[at + 1 :])
    with pytest.raises(ImageError, match="has 0 metadata notes"):
        read_image(data.replace(b"AMDGPU\0", b"AMDGPV\0"))


@pytest.mark.parametrize(
    "patch, message",
    [
        ((18, b"\xbe\x00"), "found ELF machine 190, NVIDIA CUDA"),
        ((16, b"\x01\x00"), "an object file, which is not linked"),
        ((7, b"\x00"), "expected an hsaco with EI_OSABI 64 .* found EI_OSABI 0"),
        ((8, b"\x01"), r"ABI version 2 \(code object v4\).* found EI_OSABI 64 with ABI version 1"),
        ((48, b"\x01"), "for a machine that is not known here: e_flags 0x501, EF_AMDGPU_MACH 0x1"),
    ],
)
def test_headers_of_something_else_are_named(patch, message: str) -> None:
    data = bytearray(find("3.6.0", "hip:gfx942", "add_kernel").bytes("hsaco"))
    data[patch[0] : patch[0] + len(patch[1])] = patch[1]
    with pytest.raises(ImageError, match=message):
        read_image(bytes(data))


def test_features_of_the_flags_are_part_of_the_target() -> None:
    data = bytearray(find("3.6.0", "hip:gfx90a", "add_kernel").bytes("hsaco"))
    assert str(read_image(bytes(data)).target) == "hip:gfx90a"
    struct.pack_into("<I", data, 48, 0x3F | 3 << 8 | 2 << 10)
    assert str(read_image(bytes(data)).target) == "hip:gfx90a:sramecc-:xnack+"


def test_architectures_of_the_corpus_are_all_there() -> None:
    assert {read_image(c.bytes("hsaco")).target.arch for c in cases("3.9.0")} == set(ARCHITECTURES)


# --- damaged bytes ---------------------------------------------------------------------------------------------------


def read_or_refuse(data: bytes) -> None:
    try:
        image = read_image(data)
    except ImageError:
        return
    for kernel in image.kernels.values():
        assert all(p.offset + p.size <= kernel.param_bytes for p in kernel.params)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=4096))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read_or_refuse(data)
    read_or_refuse(b"\x7fELF\x02\x01\x01\x40\x03" + data)


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_flipped_bits_are_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(sample())
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read_or_refuse(bytes(damaged))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_note_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(sample())
    start = damaged.index(b"AMDGPU\0") + 8
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[start + data.draw(st.integers(0, 900))] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(sample())))
def test_a_truncated_hsaco_is_refused(length: int) -> None:
    data = sample()
    if length < len(data):
        with pytest.raises(ImageError):
            read_image(data[:length])


def test_a_note_of_billions_of_entries_costs_nothing() -> None:
    data = bytearray(sample())
    at = data.index(b"AMDGPU\0") + 8
    data[at : at + 5] = b"\xdf\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="no MessagePack"):
            read_image(bytes(data))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
