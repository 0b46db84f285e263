"""Writes GPU core dumps as drivers of every generation write them, and cubins as they are in GPU memory.

image = loaded(case.path("cubin").read_bytes(), {".text.k": 0x7F0000001000})
dump = Dump(driver=575, images=[image])
dump.fault(...)
data = dump.build()
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from trlaunch.cuda.coredump_format import SHT_LOUSER, TABLES, Kind

__all__ = ["Dump", "Warp", "loaded", "patched_sections"]

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_FORMATS = {4: "I", 8: "Q"}


@dataclass
class Warp:
    """A warp of a synthetic dump: one value a lane where there are lists, the same for all otherwise."""

    sm: int = 0
    block: tuple[int, int, int] = (0, 0, 0)
    id: int = 0
    error_pc: int | None = None
    exception: int = 0
    lanes: int = 32
    active: int = 0xFFFFFFFF
    broken: bool = False
    pc: int = 0
    offset: int = 0
    registers: list[list[int]] = field(default_factory=list)
    predicates: list[int] = field(default_factory=lambda: [0] * 7 + [1])
    uniform: list[int] = field(default_factory=list)
    uniform_predicates: list[int] = field(default_factory=list)
    cluster: tuple[int, int, int] = (0, 0, 0)
    backtrace: list[tuple[int, int]] = field(default_factory=list)
    local: bytes = b""
    shared: bytes = b""
    grid: int = 1


@dataclass
class Dump:
    """A core dump.

    `driver` decides which fields a row has; `extra` bytes are added to every row, as a driver of the future would.
    """

    driver: int = 615
    images: list[bytes] = field(default_factory=list)
    originals: list[bytes] = field(default_factory=list)
    warps: list[Warp] = field(default_factory=list)
    sm_exceptions: dict[int, tuple[int, int | None]] = field(default_factory=dict)
    grids: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    parameters: bytes = b""
    memory: list[tuple[int, bytes]] = field(default_factory=list)
    banks: list[tuple[int, int, int]] = field(default_factory=list)
    devices: int = 1
    sms: int = 2
    extra: int = 0
    exception_text: str = ""

    def build(self) -> bytes:
        """The file."""
        writer = _Writer(self.driver, self.extra)
        for i, (address, data) in enumerate(self.memory):
            writer.raw(Kind.GLOBAL_MEMORY, f".cudbg.global.{i}", data, address=address)
        rows = [
            {
                "name": writer.string("NVIDIA Imaginary"), "type": writer.string("GX1"),
                "sm_type": writer.string("sm_90"), "id": d, "pci_bus": d, "sms": self.sms, "warps_per_sm": 64,
                "lanes_per_warp": 32, "registers_per_lane": 255, "predicates_per_lane": 8, "sm_major": 9,
                "instruction_bytes": 16, "uniform_registers": 63, "uniform_predicates": 8, "barriers": 16,
            }
            for d in range(self.devices)
        ]  # fmt: skip
        devices = writer.table(Kind.DEVICES, ".cudbg.devtbl", rows)
        for device in range(self.devices):
            self._device(writer, devices, device)
        if self.driver >= 565:
            meta = {"generator": writer.string("UD"), "driver_major": self.driver, "driver_minor": 1, "cuda_major": 13,
                    "cuda_minor": 1, "flags": 47, "timestamp": 1_700_000_000}  # fmt: skip
            writer.table(Kind.METADATA, ".cudbg.meta", [meta], stride=False)
        return writer.finish()

    def _device(self, writer: _Writer, devices: int, device: int) -> None:
        context = writer.table(
            Kind.CONTEXTS, f".cudbg.ctxtbl.dev{device}", [{"id": 7, "device": device, "thread": 42}], devices, device
        )
        count = max(len(self.images), len(self.originals))
        handles = [{"handle": 100 + i} for i in range(count)]
        modules = writer.table(Kind.MODULES, f".cudbg.modtbl.dev{device}.ctx0", handles, context)
        for kind, images in ((Kind.RELOCATED_IMAGE, self.images), (Kind.IMAGE, self.originals)):
            for i, image in enumerate(images):
                writer.raw(kind, f".cudbg.{kind.name.lower()}.dev{device}.ctx0", image, modules, i)
        last = device == self.devices - 1  # of several devices the last one has the work
        rows = [
            {"id": i + 1, "context": 7, "module": 100, "type": 2, "status": 2, "registers": 32, "params_offset": 0x210,
             "grid_x": 4, "grid_y": 1, "grid_z": 1, "block_x": 128, "block_y": 1, "block_z": 1,
             "cluster_x": 2, "cluster_y": 1, "cluster_z": 1, **grid}
            for i, grid in enumerate(self.grids if last else [])
        ]  # fmt: skip
        grids = writer.table(Kind.GRIDS, f".cudbg.gridtbl.dev{device}", rows, devices, device)
        if rows:
            writer.raw(Kind.PARAMETERS, f".cudbg.param.dev{device}.grid0", self.parameters, grids, 0)
        if rows and self.driver >= 550:
            banks = [{"address": a, "size": s, "bank": b} for a, s, b in self.banks]
            writer.table(Kind.CONSTANT_BANKS, f".cudbg.cbankstbl.dev{device}.grid0", banks, grids, 0)
        self._sms(writer, devices, device, last)

    def _sms(self, writer: _Writer, devices: int, device: int, last: bool) -> None:
        rows = []
        for sm in range(self.sms):
            code, pc = self.sm_exceptions.get(sm, (0, None)) if last else (0, None)
            text = writer.string(self.exception_text) if code and self.exception_text else 0
            rows.append({"id": sm, "exception": code, "error_pc_valid": pc is not None, "error_pc": pc or 0,
                         "exception_text": text})  # fmt: skip
        sms = writer.table(Kind.SMS, f".cudbg.smtbl.dev{device}", rows, devices, device)
        for sm in range(self.sms):
            warps = [warp for warp in self.warps if warp.sm == sm] if last else []
            self._ctas(writer, sms, f"dev{device}.sm{sm}", sm, warps)

    def _ctas(self, writer: _Writer, sms: int, where: str, sm: int, warps: list[Warp]) -> None:
        blocks = list(dict.fromkeys(warp.block for warp in warps))
        rows = []
        for block in blocks:
            warp = next(warp for warp in warps if warp.block == block)
            rows.append({"grid": warp.grid, **_xyz("block", block), **_xyz("cluster", warp.cluster),
                         **_xyz("cluster_dim", (2, 1, 1))})  # fmt: skip
        ctas = writer.table(Kind.CTAS, f".cudbg.ctatbl.{where}", rows, sms, sm)
        for i, block in enumerate(blocks):
            inside = [warp for warp in warps if warp.block == block]
            if inside[0].shared:
                writer.raw(Kind.SHARED_MEMORY, f".cudbg.shared.{where}.cta{i}", inside[0].shared, ctas, i)
            self._warps(writer, ctas, f"{where}.cta{i}", i, inside)

    def _warps(self, writer: _Writer, ctas: int, where: str, cta: int, warps: list[Warp]) -> None:
        rows = [
            {"error_pc": warp.error_pc or 0, "id": warp.id, "valid_mask": (1 << warp.lanes) - 1,
             "active_mask": warp.active, "broken": warp.broken, "error_pc_valid": warp.error_pc is not None,
             "registers": 32, "shared_bytes": 1024}
            for warp in warps
        ]  # fmt: skip
        table = writer.table(Kind.WARPS, f".cudbg.wptbl.{where}", rows, ctas, cta)
        for i, warp in enumerate(warps):
            name = f"{where}.wp{i}"
            if self.driver >= 400:
                writer.words(Kind.UNIFORM_REGISTERS, f".cudbg.uregs.{name}", warp.uniform, table, i)
                writer.words(Kind.UNIFORM_PREDICATES, f".cudbg.upred.{name}", warp.uniform_predicates, table, i)
            if self.driver >= 575:
                writer.words(Kind.BARRIERS, f".cudbg.cbu_bar.{name}", [0] * 16, table, i)
            self._lanes(writer, table, name, i, warp)

    def _lanes(self, writer: _Writer, warps: int, name: str, row: int, warp: Warp) -> None:
        rows = [
            {"pc": warp.pc, "offset": warp.offset, "id": lane, "thread_x": 32 * warp.id + lane,
             "exception": warp.exception if warp.active >> lane & 1 else 0, "call_depth": len(warp.backtrace),
             "cbu_state": 1}
            for lane in range(32)
        ]  # fmt: skip
        lanes = writer.table(Kind.LANES, f".cudbg.lntbl.{name}", rows, warps, row)
        for lane in range(32):
            registers = [values[lane % len(values)] for values in warp.registers]
            writer.words(Kind.REGISTERS, f".cudbg.regs.{name}.ln{lane}", registers, lanes, lane)
            writer.words(Kind.PREDICATES, f".cudbg.pred.{name}.ln{lane}", warp.predicates, lanes, lane)
            frames = [
                {"return_offset": offset, "return_address": address, "level": level}
                for level, (address, offset) in enumerate(warp.backtrace)
            ]
            writer.table(Kind.BACKTRACE, f".cudbg.bt.{name}.ln{lane}", frames, lanes, lane)
            if warp.local:
                writer.raw(
                    Kind.LOCAL_MEMORY, f".cudbg.local.{name}.ln{lane}", warp.local, lanes, lane, address=0xFF0000
                )


def _xyz(name: str, values: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip((f"{name}_x", f"{name}_y", f"{name}_z"), values, strict=True))


class _Writer:
    def __init__(self, driver: int, extra: int) -> None:
        self._driver, self._extra = driver, extra
        self._data = bytearray(64)
        self._rows: list[tuple[int, ...]] = [(0,) * 10]
        self._names, self._strings = bytearray(1), bytearray(1)

    def string(self, text: str) -> int:
        at = len(self._strings)
        self._strings += text.encode() + b"\0"
        return at

    def raw(
        self, kind: int, name: str, data: bytes, link: int = 0, info: int = 0, stride: int = 0, address: int = 0
    ) -> int:
        at = len(self._names)
        self._names += name.encode() + b"\0"
        sort = SHT_LOUSER + kind if isinstance(kind, Kind) else kind
        self._rows.append((at, sort, 2, address, len(self._data), len(data), link, info, 0, stride))
        self._data += data
        return len(self._rows) - 1

    def words(self, kind: Kind, name: str, values: list[int], link: int, info: int) -> int:
        return self.raw(kind, name, struct.pack(f"<{len(values)}I", *values), link, info, 4)

    def table(
        self, kind: Kind, name: str, rows: list[dict[str, Any]], link: int = 0, info: int = 0, stride: bool = True
    ) -> int:
        fields = [f for f in TABLES[kind].fields if f.since <= self._driver]
        layout = struct.Struct("<" + "".join(_FORMATS[f.size] if f.name else f"{f.size}x" for f in fields))
        names = [f.name for f in fields if f.name]
        data = b"".join(
            layout.pack(*(int(row.get(name, 0)) for name in names)) + b"\xee" * (self._extra if stride else 0)
            for row in rows
        )
        return self.raw(kind, name, data, link, info, layout.size + self._extra if stride else 0)

    def finish(self) -> bytes:
        self.raw(3, ".strtab", bytes(self._strings))
        names = self.raw(3, ".shstrtab", b"")
        row = self._rows[names]
        self._rows[names] = (*row[:4], len(self._data), len(self._names), *row[6:])
        self._data += self._names
        table = len(self._data)
        count = len(self._rows)
        if count >= 0xFF00:  # gABI: the real numbers are in section 0
            self._rows[0] = (0, 0, 0, 0, 0, count, names, 0, 0, 0)
            count, names = 0, 0xFFFF
        self._data += b"".join(_SECTION.pack(*row) for row in self._rows)
        ident = b"\x7fELF\x02\x01\x01\x33\x07" + bytes(7)
        self._data[:64] = _HEADER.pack(ident, 4, 190, 1, 0, 0, table, 0, 64, 0, 0, 64, count, names)
        return bytes(self._data)


# Cubins in GPU memory


def patched_sections(cubin: bytes) -> dict[str, int]:
    """Index of each section by name."""
    from trlaunch.elf import ElfFile

    return {section.name: i for i, section in enumerate(ElfFile(cubin, "cubin", 190).sections)}


def loaded(cubin: bytes, addresses: dict[str, int]) -> bytes:
    """A cubin as the driver leaves it in GPU memory: sections have addresses, and so have the symbols in them."""
    data = bytearray(cubin)
    indexes = patched_sections(cubin)
    offset = struct.unpack_from("<Q", data, 40)[0]
    for name, address in addresses.items():
        struct.pack_into("<Q", data, offset + 64 * indexes[name] + 16, address)
    start, size = struct.unpack_from("<QQ", data, offset + 64 * indexes[".symtab"] + 24)
    by_index = {indexes[name]: address for name, address in addresses.items()}
    for at in range(start, start + size, 24):
        section, value = struct.unpack_from("<HQ", data, at + 6)
        if section in by_index:
            struct.pack_into("<Q", data, at + 8, value + by_index[section])
    return bytes(data)
