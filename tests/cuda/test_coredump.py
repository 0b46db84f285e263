"""Reading GPU core dumps: two of an H200, and synthetic ones of every driver generation."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import struct
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trlaunch
from tests import corpus
from tests.cuda.coredumps import Dump, Warp, loaded
from tests.gpu import cuda_gdb
from trlaunch import CoreDump, CoreDumpError
from trlaunch.cuda import coredump_file
from trlaunch.cuda.coredump_format import TABLES, Flag
from trlaunch.cuda.exceptions import EXCEPTIONS, UNKNOWN, exception
from trlaunch.target import Target

FOLDER = Path(__file__).parents[1] / "fixtures" / "coredumps"
FULL = FOLDER / "h200_misaligned_full.nvcudmp.xz"
LIGHT = FOLDER / "h200_misaligned_light.nvcudmp.xz"
BASE = 0x7F0000001000


@cache
def real(path: Path) -> CoreDump:
    return CoreDump(path)


@cache
def add_kernel() -> corpus.Case:
    return corpus.find("3.6.0", "cuda:90", "add_kernel")


@cache
def image() -> bytes:
    return loaded(add_kernel().path("cubin").read_bytes(), {".text.add_kernel": BASE})


# --- the dumps of an H200 --------------------------------------------------------------------------------------------
# What cuda-gdb 13.0 printed of them is in the README beside them.


@pytest.mark.parametrize("path", [FULL, LIGHT], ids=["full", "light"])
def test_a_dump_of_an_h200_says_what_cuda_gdb_printed(path):
    dump = real(path)
    first = dump.exceptions[0]
    assert (first.text, first.kind, first.code) == ("Warp Misaligned Address", "misaligned-address", 6)
    assert (first.block, first.thread) == ((0, 0, 0), (0, 0, 0))
    assert (first.function, first.offset) == ("k", 0x40)
    assert first.instruction is not None
    assert first.instruction.text == "STG.E desc[UR4][R2.64+0x1], R5"
    assert first.exact
    # The kernel stores a 32-bit 1 at p + 1.
    parameter = dump.devices[0].grids[0].parameters
    assert parameter is not None
    pointer = int.from_bytes(parameter.data, "little")
    assert first.address == pointer + 1
    assert first.access is not None
    assert (first.access.space, first.access.size) == ("global", 4)
    by_register = {name: v for operand in first.operands for name, v in operand.registers.items()}
    assert by_register["R2"] == (pointer & 0xFFFFFFFF,) * 32
    assert by_register["R3"] == (pointer >> 32,) * 32
    assert by_register["R5"] == (1,) * 32


# Dumps with what cuda-gdb printed beside them, as tests/gpu/test_coredump.py keeps them.
TRANSCRIPTS = sorted(FOLDER.glob("*.cuda-gdb.txt"))

if TRANSCRIPTS:

    @pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.name.partition(".")[0])
    def test_a_dump_says_what_the_transcript_beside_it_says(path):
        seen = cuda_gdb.parse(path.read_text("utf-8"))
        dump = CoreDump(path.with_name(path.name.replace(".cuda-gdb.txt", ".nvcudmp.xz")))
        if seen.exception is None:  # a trap, an assert: where the threads are
            kinds = {entry.exception.kind for entry in dump.exceptions}
            assert kinds == ({"assert"} if "Assertion failed." in seen.text else set())
            entry = cuda_gdb.entry_of(dump, seen.focus)
            assert entry.block == seen.focus["block"]
            assert f"<{entry.function}+{entry.offset}>" in seen.text
        else:
            cuda_gdb.same(dump, seen)


@pytest.mark.parametrize("path", [FULL, LIGHT], ids=["full", "light"])
def test_the_launch_and_the_device_of_an_h200(path):
    dump = real(path)
    (device,) = dump.devices
    assert (device.name, device.type, device.sm_type) == ("NVIDIA H200", "GH100GL-A", "sm_90")
    assert (device.sm_count, len(device.sms), device.capability) == (132, 132, (9, 0))
    (grid,) = device.grids
    assert (grid.grid, grid.block, grid.cluster) == ((2, 1, 1), (64, 1, 1), (0, 0, 0))
    assert (grid.status, grid.type, grid.origin, grid.register_count) == ("active", "application", "cpu", 16)
    assert grid.params_offset == 0x210
    assert sorted(grid.constant_banks) == [0, 1, 5, 7]
    assert [(e.block, e.sm.id) for e in dump.exceptions] == [((0, 0, 0), 124), ((1, 0, 0), 126)]
    assert [len(warp.lanes) for warp in dump.exceptions[0].cta.warps] == [32, 32]
    assert dump.info.driver == (580, 159)
    assert dump.info.cuda == (13, 0)
    assert dump.info.time is not None
    assert dump.info.time.tzinfo is timezone.utc
    assert dump.info.time > datetime(2024, 1, 1, tzinfo=timezone.utc)
    lane = dump.exceptions[0].lanes[5]
    assert (lane.thread, lane.offset, lane.cbu_state) == ((5, 0, 0), 0x50, "ready")
    assert len(lane.registers) == 14
    assert lane.predicates[-1] is True
    assert len(dump.exceptions[0].warp.uniform_registers) == 64


def test_what_the_light_flags_leave_out_is_in_the_full_dump():
    full, light = real(FULL), real(LIGHT)
    assert full.info.flags == Flag(0)
    assert light.info.flags == Flag(1 | 2 | 4 | 8 | 32)
    assert light.memory == ()
    assert light.exceptions[0].cta.shared is None
    assert light.exceptions[0].lanes[0].local is None
    assert light.exceptions[0].module.original is None
    cta = full.exceptions[0].cta
    assert cta.shared is not None
    assert len(cta.shared.data) == cta.shared.size == 1024
    assert full.exceptions[0].lanes[0].local.size == 1952
    assert full.exceptions[0].module.original is not None
    # Nothing was stored: the access faulted.
    assert full.read(full.exceptions[0].address, 4) == bytes(4)
    assert full.read(0, 4) is None


def test_the_notes_say_what_is_not_exact():
    notes = " ".join(real(LIGHT).exceptions[0].notes)
    assert "no line table" in notes
    assert "went on to +0x50" in notes


def test_a_dump_is_shown_and_goes_into_json():
    dump = real(LIGHT)
    text = str(dump)
    assert "Warp Misaligned Address (6) at k+0x40" in text
    assert "=> 0040: STG.E desc[UR4][R2.64+0x1], R5" in text
    assert "block (0, 0, 0), thread (0, 0, 0)" in text
    found = json.loads(json.dumps(dump.as_dict(registers=True)))
    assert found["exceptions"][0]["address"] == dump.exceptions[0].address
    assert len(found["exceptions"][0]["registers"]["lanes"]) == 32


def test_the_public_name_reads_bytes_and_compressed_files(tmp_path):
    data = lzma.decompress(LIGHT.read_bytes())
    plain, packed = tmp_path / "a.nvcudmp", tmp_path / "b.nvcudmp.gz"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    for source in (data, plain, str(packed)):
        assert trlaunch.coredump(source).exceptions[0].offset == 0x40


def test_a_large_file_is_read_piece_by_piece(tmp_path, monkeypatch):
    plain = tmp_path / "a.nvcudmp"
    plain.write_bytes(lzma.decompress(LIGHT.read_bytes()))
    monkeypatch.setattr(coredump_file, "_IN_MEMORY", 1 << 20)
    dump = CoreDump(plain)
    assert str(dump) == str(real(LIGHT)).replace(LIGHT.name, plain.name)
    plain.write_bytes(b"")
    with pytest.raises(CoreDumpError, match="cut off"):
        _ = dump.exceptions[0].warp.lanes[3].registers


# --- every generation ------------------------------------------------------------------------------------------------

DRIVERS = sorted({field.since for table in TABLES.values() for field in table.fields} | {346})


@cache
def instruction_at(mnemonic: str) -> int:
    """Offset of the first instruction of a name in the kernel of the synthetic dumps."""
    from trlaunch.cuda.disassembler import disassemble

    return next(i.offset for i in disassemble(add_kernel().path("cubin").read_bytes()) if i.opcode.startswith(mnemonic))


def faulting(driver: int = 615, **more) -> Dump:
    """A dump of a kernel that died of its first load: R2:R3 hold an address that rises by 16 bytes a lane."""
    at = instruction_at("LDG")
    registers = [[n] for n in range(32)]
    registers[2] = [0x1000 + 16 * lane for lane in range(32)]
    registers[3] = [0x7F11]
    warp = Warp(
        sm=1, block=(3, 0, 0), id=2, error_pc=BASE + at, exception=14, pc=BASE + at + 16, offset=at + 16,
        registers=registers, predicates=[1, 0, 0, 0, 0, 0, 0, 1], uniform=list(range(100, 164)),
        uniform_predicates=[0] * 7 + [1],
    )  # fmt: skip
    settings = {"images": [image()], "warps": [warp], "sm_exceptions": {1: (14, BASE + at)},
                "parameters": struct.pack("<QQQiQQ", 1, 2, 3, 4, 0, 0)} | more  # fmt: skip
    return Dump(driver=driver, **settings)


# And one of the future, whose rows are longer than any that is known.
@pytest.mark.parametrize("driver,extra", [*((driver, 0) for driver in DRIVERS), (DRIVERS[-1], 24)])
def test_rows_of_every_driver_are_read_by_their_size(driver, extra):
    dump = CoreDump(faulting(driver, extra=extra).build())
    (found,) = dump.exceptions
    assert (found.kind, found.block, found.thread) == ("illegal-address", (3, 0, 0), (64, 0, 0))
    assert (found.function, found.offset) == ("add_kernel", instruction_at("LDG"))
    assert found.addresses == tuple(0x7F11_0000_1000 + 16 * lane for lane in range(32))
    grid, sm, warp = found.grid, found.sm, found.warp
    assert (grid.grid, grid.block) == ((4, 1, 1), (128, 1, 1))
    assert (grid.cluster is not None) == (driver >= 525)
    assert (found.cta.cluster is not None) == (driver >= 525)
    assert (found.cta.cluster_dim is not None) == (driver >= 565)
    assert (sm.exception is not None) == (driver >= 555)
    assert (warp.register_count == 32) == (driver >= 525)
    assert (warp.cbu_active_mask is not None) == (driver >= 575)
    assert (dump.info.driver is not None) == (driver >= 565)
    assert (len(warp.uniform_registers) == 64) == (driver >= 400)


def test_rows_of_known_sizes_are_those_of_the_header():
    sizes = {kind.name: table.sizes for kind, table in TABLES.items()}
    assert sizes["DEVICES"] == (72, 80, 88)
    assert sizes["SMS"] == (8, 24, 40, 48)
    assert sizes["GRIDS"] == (104, 120, 136)
    assert sizes["CTAS"] == (24, 40, 56)
    assert sizes["WARPS"] == (32, 40, 48, 64, 80)
    assert sizes["LANES"] == (48, 56, 64)
    assert [sizes[name] for name in ("CONTEXTS", "MODULES", "BACKTRACE", "METADATA", "CONSTANT_BANKS")] == [
        (40,), (8,), (24,), (32,), (16,),
    ]  # fmt: skip


def test_lanes_that_do_not_say_what_they_died_of_take_it_from_the_sm():
    source = faulting()
    source.warps[0].exception = 0
    source.warps[0].active = 0xF0
    source.sm_exceptions = {1: (4, source.warps[0].error_pc)}
    (found,) = CoreDump(source.build()).exceptions
    assert found.kind == "illegal-instruction"
    assert [lane.id for lane in found.lanes] == [4, 5, 6, 7]


def test_only_the_sm_is_left_when_the_warps_have_exited():
    at = instruction_at("STG")
    source = faulting(warps=[], sm_exceptions={0: (4, BASE + at)}, exception_text="the driver's own words")
    (found,) = CoreDump(source.build()).exceptions
    assert (found.kind, found.warp, found.lanes, found.block) == ("illegal-instruction", None, (), None)
    assert (found.function, found.offset, found.thread) == ("add_kernel", at, None)
    assert found.instruction.opcode.startswith("STG")
    assert found.addresses == ()
    notes = " ".join(found.notes)
    assert "have exited" in notes
    assert "the driver's own words" in notes
    assert "have exited" in str(found)


def test_a_cluster_exception():
    source = faulting(sm_exceptions={1: (17, None)})
    warp = source.warps[0]
    warp.exception, warp.cluster = 17, (1, 0, 0)
    (found,) = CoreDump(source.build()).exceptions
    assert (found.kind, found.exception.scope, found.cta.cluster) == (
        "cluster-out-of-range-address",
        "cluster",
        (1, 0, 0),
    )
    assert found.grid.cluster == (2, 1, 1)


def test_several_devices_keep_their_own_work():
    dump = CoreDump(faulting(devices=3).build())
    assert [device.id for device in dump.devices] == [0, 1, 2]
    assert [len(device.grids) for device in dump.devices] == [0, 0, 1]
    (found,) = dump.exceptions
    assert found.device.id == 2
    assert found.function == "add_kernel"


def test_warps_at_a_trap_are_where_it_stopped():
    source = faulting(sm_exceptions={})
    trapped, waiting = source.warps[0], Warp(sm=0, pc=BASE, offset=0)
    trapped.error_pc, trapped.exception, trapped.broken = None, 0, True
    source.warps.append(waiting)
    dump = CoreDump(source.build())
    assert dump.exceptions == ()
    assert [entry.offset for entry in dump.stopped] == [instruction_at("LDG") + 16, 0]
    assert dump.fault is not None
    assert (dump.fault.kind, dump.fault.exact) == ("none", False)
    assert "no exception" in str(dump)
    assert json.dumps(dump.as_dict())


TRAP = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 p)
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [p];
    mov.u32 %r1, %tid.x;
    setp.eq.u32 %p1, %r1, 7;
    @%p1 trap;
    st.global.u32 [%d1], %r1;
    ret;
}
"""


def test_the_trap_that_a_warp_stopped_behind_is_found():
    from trlaunch.cuda.assembler import assemble
    from trlaunch.cuda.disassembler import disassemble

    cubin = assemble(TRAP, Target.parse("cuda:90")).cubin
    listed = disassemble(cubin)
    at = next(i.offset for i in listed if i.opcode.startswith("BPT.TRAP"))
    behind = Warp(id=1, pc=BASE + at + 16, offset=at + 16)
    end = Warp(pc=BASE + listed[-1].offset, offset=listed[-1].offset)
    source = Dump(images=[loaded(cubin, {".text.k": BASE})], warps=[end, behind])
    dump = CoreDump(source.build())
    assert [entry.warp.id for entry in dump.stopped] == [1, 0]
    assert "BPT.TRAP" in " ".join(dump.fault.notes)
    assert "at or behind" in " ".join(dump.stopped[1].notes)


def test_the_classic_backend_has_host_addresses_and_offsets():
    source = faulting(sm_exceptions={}, grids=[{"entry": BASE}])
    warp = source.warps[0]
    warp.error_pc, warp.pc, warp.offset = None, 0x5500_0000_0180, instruction_at("LDG")
    (found,) = CoreDump(source.build()).exceptions
    assert (found.function, found.offset, found.exact) == ("add_kernel", instruction_at("LDG"), False)
    assert "at or behind" in " ".join(found.notes)


def test_the_callers_of_a_lane():
    source = faulting()
    source.warps[0].backtrace = [(BASE + 0x40, 0x40), (BASE + 0x80, 0x80)]
    (found,) = CoreDump(source.build()).exceptions
    assert [(frame.level, str(frame.site)) for frame in found.backtrace] == [
        (0, "add_kernel+0x40"), (1, "add_kernel+0x80"),
    ]  # fmt: skip
    assert "#1 add_kernel+0x80" in str(found)


def test_memory_of_every_kind():
    source = faulting(memory=[(0x7F1100000000, b"a" * 64), (0x7F1200000000, bytes(range(16)))])
    source.warps[0].shared, source.warps[0].local = b"s" * 256, b"l" * 32
    dump = CoreDump(source.build())
    assert [piece.size for piece in dump.memory] == [64, 16]
    assert dump.read(0x7F1200000004, 4) == b"\4\5\6\7"
    assert dump.read(0x7F120000000E, 4) is None
    found = dump.exceptions[0]
    assert found.cta.shared.read(16, 2) == b"ss"
    assert found.lanes[0].local.address == 0xFF0000
    assert 0xFF001F in found.lanes[0].local
    assert 0xFF0020 not in found.lanes[0].local


def test_a_module_without_a_relocated_image_is_placed_by_the_launch():
    at = instruction_at("LDG")
    source = faulting(images=[], originals=[add_kernel().path("cubin").read_bytes()], grids=[{"entry": BASE}])
    (found,) = CoreDump(source.build()).exceptions
    assert (found.function, found.offset) == ("add_kernel", at)


def test_without_any_image_only_the_address_is_known():
    (found,) = CoreDump(faulting(images=[]).build()).exceptions
    assert (found.function, found.instruction, found.operands) == (None, None, ())
    assert found.pc == BASE + instruction_at("LDG")
    assert "no module" in " ".join(found.notes)


def test_a_damaged_image_leaves_the_rest_readable():
    (found,) = CoreDump(faulting(images=[image()[:400]]).build()).exceptions
    assert found.function is None
    assert found.block == (3, 0, 0)
    assert "cannot be read" in " ".join(found.notes)


def test_without_nvdisasm_the_offset_is_known_and_the_reason_is_said(monkeypatch):
    at = instruction_at("LDG")
    other = loaded(add_kernel().path("cubin").read_bytes(), {".text.add_kernel": 2 * BASE})
    source = faulting(images=[other])
    source.warps[0].error_pc = 2 * BASE + at
    monkeypatch.setenv("TRLAUNCH_NVDISASM", "/nowhere/nvdisasm")
    (found,) = CoreDump(source.build()).exceptions
    assert (found.function, found.offset) == ("add_kernel", at)
    assert found.instruction is None
    assert found.address is None
    assert "nvdisasm" in " ".join(found.notes)
    assert [frame.level for frame in found.frames] == ["python", "ptx"]


def test_more_sections_than_the_header_can_count(tmp_path):
    warps = [Warp(sm=i % 4, block=(i // 64, 0, 0), id=i % 64) for i in range(700)]
    source = faulting(sms=4, warps=[*faulting().warps, *warps])
    data = source.build()
    assert struct.unpack_from("<H", data, 60) == (0,)
    dump = CoreDump(data)
    assert len(dump.exceptions) == 1
    assert sum(len(cta.warps) for sm in dump.devices[0].sms for cta in sm.ctas) == 701


# --- exceptions ------------------------------------------------------------------------------------------------------


def test_every_code_has_a_name_of_its_own():
    assert sorted(EXCEPTIONS) == list(range(37))
    assert len({entry.kind for entry in EXCEPTIONS.values()}) == 37
    assert len({entry.text for entry in EXCEPTIONS.values()}) == 37
    assert all(entry.meaning.endswith(".") for entry in EXCEPTIONS.values())
    assert exception(99).kind == exception(UNKNOWN).kind == "unknown"
    assert "99" in exception(99).text


# --- what is no dump -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data,words",
    [
        (b"", "no bytes"),
        (b"hello", "expected a GPU core dump"),
        (b"\x7fELF", "does not parse"),
        (b".version 8.0\n", "PTX text"),
    ],
)
def test_something_else_is_told_apart(data, words):
    with pytest.raises(CoreDumpError, match=words):
        CoreDump(data)


def test_a_cubin_is_no_dump():
    with pytest.raises(CoreDumpError, match="ET_EXEC"):
        CoreDump(add_kernel().path("cubin").read_bytes())


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(CoreDumpError, match="No such file"):
        CoreDump(tmp_path / "nothing")


def test_a_dump_cut_off_says_that_the_table_is_last():
    with pytest.raises(CoreDumpError, match="cut off: its section table"):
        CoreDump(lzma.decompress(LIGHT.read_bytes())[:-100])


def test_compressed_data_that_is_damaged(tmp_path):
    file = tmp_path / "a.gz"
    for data in (gzip.compress(b"x" * 1000)[:-9], gzip.compress(b"x" * 1000)[:-4] + b"zzzz", b"\xfd7zXZ\0" + b"?" * 99):
        file.write_bytes(data)
        with pytest.raises(CoreDumpError, match="unpack|damaged"):
            CoreDump(file)


def read_everything(data: bytes) -> None:
    """Ask a dump for all it has."""
    dump = CoreDump(data)
    json.dumps(dump.as_dict(registers=True))
    str(dump)
    for device in dump.devices:
        for sm in device.sms:
            for cta in sm.ctas:
                for warp in cta.warps:
                    for lane in warp.lanes:
                        _ = lane.registers, lane.predicates, lane.backtrace
                    _ = warp.uniform_registers, warp.barriers


@cache
def small() -> bytes:
    source = faulting()
    source.warps[0].backtrace = [(BASE + 0x40, 0x40)]
    return source.build()


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_damaged_dumps_raise_core_dump_errors_alone(data):
    content = bytearray(small())
    # Half of the flips in the section table, where they matter most.
    table = struct.unpack_from("<Q", content, 40)[0]
    for _ in range(data.draw(st.integers(1, 4))):
        low = data.draw(st.sampled_from([0, table]))
        at = data.draw(st.integers(low, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRLAUNCH_NVDISASM", "/nowhere/nvdisasm")  # a process for each example would take minutes
        with contextlib.suppress(CoreDumpError):
            read_everything(bytes(content))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30))
def test_dumps_cut_off_raise_core_dump_errors(length):
    content = small()
    with pytest.raises(CoreDumpError):
        CoreDump(content[: length % len(content)])
