"""The cubin reader against cuobjdump, readelf and Triton's metadata, and against damaged bytes."""

from __future__ import annotations

import re
import struct
import subprocess
import tracemalloc
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus import Case, cases
from tests.cuda import ptx
from tests.cuda.conftest import Oracle
from trlaunch.cuda import eiattr
from trlaunch.cuda.assembler import ptx_isa
from trlaunch.cuda.image import read_image
from trlaunch.cuda.toolkit import Tool
from trlaunch.errors import ImageError
from trlaunch.image import Image

CUBINS = cases(level="cubin")
ARCHITECTURES = (
    "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_100a", "sm_100f", "sm_103a", "sm_120",
    "sm_120a", "sm_120f", "sm_121a",
)  # fmt: skip
# The PTX ISA version that introduced an architecture, where 8.4 is too old: "Target ISA notes" of the PTX ISA document.
INTRODUCED = {"100": (8, 6), "100a": (8, 6), "120": (8, 7), "120a": (8, 7)}


class Dump:
    """What ``cuobjdump -elf`` and ``-res-usage`` print about a cubin."""

    def __init__(self, cuobjdump: Oracle, file: Path) -> None:
        text = cuobjdump("-elf", file)
        header = re.search(r"ELF: type=\w+, ABI=(\d+), sm=(\w+), toolkit=([\d.]+)|abi=(\d+), sm=(\w+), toolkit=(\d+)",
                           text, re.IGNORECASE)  # fmt: skip
        assert header
        self.abi, self.sm, self.toolkit = [part for part in header.groups() if part]
        self.toolkit = self.toolkit if "." in self.toolkit else f"{self.toolkit[:-1]}.{self.toolkit[-1]}"
        self.sections = dict(re.findall(r"^(\.\S+)\n(.*?)(?=^\.\S|\Z)", text, re.DOTALL | re.MULTILINE))
        self.usage = {
            name: {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", usage)}
            for name, usage in re.findall(r"Function (\S+):\n\s*(REG:.*)", cuobjdump("-res-usage", file))
        }

    def attributes(self, section: str) -> list[tuple[str, str]]:
        found = []
        for attribute in re.split(r"^\t<0x\w+>\n", self.sections.get(section, ""), flags=re.MULTILINE)[1:]:
            name, _, value = attribute.partition("\n")
            found.append((name.partition(":")[2].strip(), value.partition("Value:")[2].strip()))
        return found

    def dimensions(self, kernel: str, attribute: str) -> tuple[int, ...] | None:
        for name, value in self.attributes(f".nv.info.{kernel}"):
            if name == attribute:
                return tuple(int(n, 16) for n in value.split())
        return None

    def params(self, kernel: str) -> list[tuple[int, int, int, int]]:
        values = [v for n, v in self.attributes(f".nv.info.{kernel}") if n.startswith("EIATTR_KPARAM_INFO")]
        pattern = r"Ordinal : (\w+)\s+Offset  : (\w+)\s+Size    : (\w+)\s+Pointee's logAlignment : \w+\s+Space : (\w+)"
        return sorted(tuple(int(n, 16) for n in re.search(pattern, value).groups()) for value in values)


def agree(image: Image, dump: Dump) -> None:
    """Compare everything that cuobjdump says too."""
    assert f"{image.target.arch}{image.target.suffix.replace('f', '')}" == dump.sm
    assert image.toolchain.startswith(f"ELF ABI {dump.abi}, CUDA {dump.toolkit}")
    assert set(image.kernels) <= set(dump.usage)  # which has device functions as well
    for name, kernel in image.kernels.items():
        spaces = {space: number for number, space in eiattr.SPACES.items()}
        assert [(p.index, p.offset, p.size, spaces.get(p.space, 0)) for p in kernel.params] == dump.params(name)
        assert (kernel.param_bytes,) == (dump.dimensions(name, "EIATTR_CBANK_PARAM_SIZE") or (0,))
        assert kernel.required_block == dump.dimensions(name, "EIATTR_REQNTID")
        assert kernel.max_threads == dump.dimensions(name, "EIATTR_MAX_THREADS")
        assert kernel.cluster == dump.dimensions(name, "EIATTR_CTA_PER_CLUSTER")
        assert kernel.explicit_cluster == (dump.dimensions(name, "EIATTR_EXPLICIT_CLUSTER") is not None)
        assert kernel.max_cluster == (dump.dimensions(name, "EIATTR_MAX_CLUSTER_RANK") or (None,))[0]
        usage = dump.usage[name]
        assert (kernel.registers, kernel.local_bytes) == (usage["REG"], usage["STACK"])
        assert kernel.static_shared == usage["SHARED"]
        annotated = dict(dump.attributes(f".nv.info.{name}")).get("EIATTR_ANNOTATIONS", "").count("SpillRefill")
        assert (kernel.spill_instructions or 0) == annotated


def assemble(tool: Tool, text: str, arch: str, folder: Path, *arguments: str) -> Path:
    source, output = folder / "in.ptx", folder / "out.cubin"
    source.write_text(text)
    done = subprocess.run(
        [tool.path, *arguments, f"--gpu-name={arch}", source, "-o", output], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{tool}: {done.stderr}"
    return output


def knows(tool: Tool, arch: str) -> bool:
    help_text = subprocess.run([tool.path, "--help"], capture_output=True, text=True, check=True).stdout
    return f"'{arch}'" in help_text


@pytest.mark.parametrize("case", CUBINS, ids=str)
def test_corpus_cubin_agrees_with_cuobjdump(case: Case, cuobjdump: Oracle) -> None:
    agree(read_image(case.bytes("cubin")), Dump(cuobjdump, case.path("cubin")))


@pytest.mark.parametrize("case", CUBINS, ids=str)
def test_corpus_cubin_agrees_with_metadata(case: Case) -> None:
    image, metadata = read_image(case.bytes("cubin")), case.metadata
    kernel = image.kernel()
    assert kernel.name == metadata["name"]
    assert image.target.capability == metadata["target"]["arch"]
    assert kernel.block_threads == 32 * metadata["num_warps"]
    assert kernel.uses_dynamic_shared is (metadata["shared"] > 0)
    # Triton states the cluster in the PTX from 3.6 on.
    assert kernel.cluster in (None, (metadata["num_ctas"], 1, 1))
    hidden = 0 if case.version < (3, 3) else 1 if case.version < (3, 5) else 2
    if not case.descriptors:  # a descriptor becomes several parameters
        assert len(kernel.params) == len(case.params) + hidden


def test_corpus_pointers_declare_their_space_from_3_2_on() -> None:
    declared = {
        case.version: [p.space for p in read_image(case.bytes("cubin")).kernel().params]
        for case in cases(target="cuda:80", kernel="add_kernel", level="cubin")
    }
    for version, spaces in declared.items():
        assert spaces[:3] == [None if version < (3, 2) else "global"] * 3
        assert spaces[3] is None


@pytest.mark.parametrize("case", CUBINS[:: max(1, len(CUBINS) // 60)], ids=str)
def test_corpus_symbols_agree_with_readelf(case: Case, readelf: Oracle) -> None:
    image = read_image(case.bytes("cubin"))
    symbols = readelf("-sW", case.path("cubin"))
    kernels = set(re.findall(r"FUNC\s+GLOBAL\s+DEFAULT\s+\[<other>: 10\]\s+\d+ (\S+)$", symbols, re.MULTILINE))
    assert set(image.kernels) == kernels
    sizes = dict(re.findall(r"\] \.nv\.shared\.(\S+)\s+NOBITS\s+\w+ \w+ (\w+)", readelf("-SW", case.path("cubin"))))
    relocations = readelf("-rW", case.path("cubin"))
    lines = re.search(r"'\.rela?\.debug_line'.*?(?=^Relocation|\Z)", relocations, re.DOTALL | re.MULTILINE)
    for name, kernel in image.kernels.items():
        assert kernel.static_shared == int(sizes.get(name, "0"), 16)
        assert kernel.has_line_table == bool(lines and re.search(rf" {name}(?: \+ 0)?$", lines[0], re.MULTILINE))


def test_attribute_names_agree_with_cuobjdump(cuobjdump: Oracle, ptxas: Oracle, tmp_path: Path) -> None:
    """Each number in the table has the name that cuobjdump prints for those bytes."""
    text = ptx.module(ptx.BOUNDS, ptx.PARAMETERS, ptx.spilling(), ptx.EXTERN_SHARED, ptx.PLAIN)
    files = [assemble(ptxas.tool, text, "sm_90", tmp_path), *(case.path("cubin") for case in CUBINS)]
    seen: dict[int, set[str]] = {}
    for file in files:
        data, dump = file.read_bytes(), Dump(cuobjdump, file)
        for section, content in _sections(data).items():
            if section == ".nv.info" or section.startswith(".nv.info."):
                numbers = [number for number, _ in eiattr.decode(content, section)]
                names = [name for name, _ in dump.attributes(section)]
                assert len(numbers) == len(names)
                for number, name in zip(numbers, names, strict=True):
                    seen.setdefault(number, set()).add(name)
    for number, name in eiattr.ATTRIBUTE_NAMES.items():
        if number in seen:
            assert seen[number] <= {f"EIATTR_{name}", "unknown Attribute"}
    used = {"KPARAM_INFO", "KPARAM_INFO_V2", "CBANK_PARAM_SIZE", "PARAM_CBANK", "REQNTID", "MAX_THREADS", "REGCOUNT",
            "CTA_PER_CLUSTER", "EXPLICIT_CLUSTER", "MAX_CLUSTER_RANK", "FRAME_SIZE", "MIN_STACK_SIZE", "ANNOTATIONS",
            "CUDA_API_VERSION"}  # fmt: skip
    assert used <= {eiattr.ATTRIBUTE_NAMES.get(number) for number in seen}


def _sections(data: bytes) -> dict[str, bytes]:
    from trlaunch.elf import ElfFile

    file = ElfFile(data, "cubin", eiattr.EM_CUDA)
    return {section.name: file.content(section) for section in file.sections}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architecture_of_every_ptxas(arch: str, every_ptxas: list[Tool], cuobjdump: Oracle, tmp_path: Path) -> None:
    """Both ELF layouts, with and without a suffix, whichever ptxas is at hand."""
    tools = [tool for tool in every_ptxas if knows(tool, arch)]
    for tool in tools:
        newest = ptx_isa(tool.version) or (8, 8)
        version = max((8, 4), INTRODUCED.get(arch[3:], (0, 0)), newest if arch[3:] not in INTRODUCED else (0, 0))
        text = ptx.module(ptx.PLAIN, version="{}.{}".format(*min(version, newest)), target=arch)
        file = assemble(tool, text, arch, tmp_path)
        image = read_image(file.read_bytes())
        assert image.target.sm == arch
        assert image.toolchain.startswith(
            f"ELF ABI {7 if tool.version < (13, 0) and int(image.target.arch) < 100 else 8}"
        )
        assert "{}.{}".format(*tool.version) in image.toolchain
        agree(image, Dump(cuobjdump, file))
    if not tools:
        assert all(tool.version is not None for tool in every_ptxas)


@pytest.mark.parametrize(
    "name, parts",
    [
        ("bounds", (ptx.BOUNDS,)),
        ("parameters", (ptx.PARAMETERS,)),
        ("spilling", (ptx.spilling(),)),
        ("calling", (ptx.CALLING,)),
        ("many", (ptx.EXTERN_SHARED, ptx.STATIC_SHARED, ptx.PLAIN, ptx.through_shared("one", "fixed"), ptx.BOUNDS)),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("-O0",), ("-g",)], ids=["", "O0", "g"])
def test_hand_written_ptx_agrees_with_cuobjdump(
    name: str, parts: tuple[str, ...], arguments: tuple[str, ...], every_ptxas: list[Tool], cuobjdump: Oracle,
    tmp_path: Path,
) -> None:  # fmt: skip
    for tool in every_ptxas:
        if arguments == ("-g",):
            arguments = ("-g", "-O0")
        file = assemble(tool, ptx.module(*parts), "sm_90", tmp_path, *arguments)
        image = read_image(file.read_bytes())
        agree(image, Dump(cuobjdump, file))
        expected = set(re.findall(r"\.visible \.entry (\w+)", "\n".join(parts)))
        assert set(image.kernels) == expected


def test_spills_are_counted_where_the_cubin_states_them(every_ptxas: list[Tool], tmp_path: Path) -> None:
    for tool in every_ptxas:
        spilling = read_image(assemble(tool, ptx.module(ptx.spilling()), "sm_90", tmp_path).read_bytes()).kernel()
        plain = read_image(assemble(tool, ptx.module(ptx.PLAIN), "sm_90", tmp_path).read_bytes()).kernel()
        if tool.version < (12, 8):
            assert spilling.spill_instructions is plain.spill_instructions is None
        else:
            assert spilling.spill_instructions > 0
            assert plain.spill_instructions == 0


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(
    "parts, expected",
    [
        ((ptx.PLAIN,), False),
        ((ptx.STATIC_SHARED, ptx.PLAIN), False),
        ((ptx.EXTERN_SHARED, ptx.through_shared("dynamic", "global_smem")), True),
        ((ptx.EXTERN_SHARED, ptx.PLAIN), True),  # declared is as far as the cubin tells
        ((ptx.STATIC_SHARED, ptx.through_shared("static", "fixed")), None),
        ((ptx.EXTERN_SHARED, ptx.STATIC_SHARED, ptx.through_shared("both", "fixed", "global_smem")), None),
    ],
    ids=["none", "unused-static", "dynamic", "declared", "static", "both"],
)
def test_dynamic_shared_rule(
    arch: str, parts: tuple[str, ...], expected: bool | None, every_ptxas: list[Tool], tmp_path: Path
) -> None:
    for tool in every_ptxas:
        if knows(tool, arch):
            text = ptx.module(*parts, target="sm_80", version="8.0")
            kernel = read_image(assemble(tool, text, arch, tmp_path).read_bytes()).kernel()
            assert kernel.uses_dynamic_shared is expected


def test_static_shared_is_the_drivers_and_the_kernels(every_ptxas: list[Tool], tmp_path: Path) -> None:
    text = ptx.module(ptx.STATIC_SHARED, ptx.PLAIN, ptx.through_shared("one", "fixed"), target="sm_80", version="8.0")
    for tool in every_ptxas:
        for arch, reserved in (("sm_80", 0), ("sm_90", 1024), ("sm_100", 1024), ("sm_120", 1024)):
            if knows(tool, arch):
                image = read_image(assemble(tool, text, arch, tmp_path).read_bytes())
                one, plain = image.kernel("one"), image.kernel("plain")
                assert (one.static_shared, one.reserved_shared) == (512 + reserved, reserved)
                assert (plain.static_shared, plain.reserved_shared) == (0, 0)


def test_lines_belong_to_the_kernels_that_have_them(ptxas: Oracle, tmp_path: Path) -> None:
    with_line = ptx.PLAIN.replace("plain", "lined").replace("  ret;", "  .loc 1 7 0\n  ret;")
    text = ptx.module('.file 1 "source.py"', with_line, ptx.PLAIN)
    image = read_image(assemble(ptxas.tool, text, "sm_90", tmp_path, "-lineinfo").read_bytes())
    assert image.kernel("lined").has_line_table
    assert not image.kernel("plain").has_line_table
    image = read_image(assemble(ptxas.tool, text, "sm_90", tmp_path, "-lineinfo", "-suppress-debug-info").read_bytes())
    assert not image.kernel("lined").has_line_table


def test_relocatable_object_is_refused(ptxas: Oracle, tmp_path: Path) -> None:
    file = assemble(ptxas.tool, ptx.module(ptx.PLAIN), "sm_90", tmp_path, "-c")
    with pytest.raises(ImageError, match="relocatable object.*nvlink"):
        read_image(file.read_bytes())


@cache
def sample() -> bytes:
    return cases(target="cuda:90", kernel="matmul_kernel", level="cubin")[-1].bytes("cubin")


@cache
def samples() -> tuple[bytes, ...]:
    """One cubin of each release and target: both ELF layouts, every ptxas that Triton carries."""
    first = {(case.release, case.target): case for case in CUBINS}
    return tuple(case.bytes("cubin") for case in first.values())


def patched(data: bytes, layout: str, at: int, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, value)
    return bytes(changed)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "found no bytes at all"),
        (b"\x50\xed\x55\xba" + bytes(60), "found a CUDA fatbin.*0xBA55ED50"),
        (b".version 8.4\n.target sm_90\n", "found PTX text"),
        (b"; ModuleID\ndefine void @k() {}\n", "found LLVM IR text"),
        (b"BC\xc0\xde" + bytes(60), "found LLVM bitcode"),
        (b"\x00\x01\x02\x03\x04", r"found 5 bytes starting with b'\\x00"),
        (b"\x7fELF\x02\x01", "truncated: 6 bytes"),
    ],
)
def test_other_files_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(data)


@pytest.mark.parametrize(
    "layout, at, value, message",
    [
        ("B", 4, 1, "64-bit little-endian.*EI_CLASS 1"),
        ("B", 5, 2, "64-bit little-endian.*EI_DATA 2"),
        ("B", 7, 0x40, "EI_OSABI 0x33 with ABI version 7 or EI_OSABI 0x41 with ABI version 8, found EI_OSABI 0x40"),
        ("<H", 16, 1, "relocatable object"),
        ("<H", 16, 4, "GPU core dump"),
        ("<H", 18, 224, r"ELF machine 190; found ELF machine 224, AMDGPU \(an hsaco\)"),
        ("<H", 18, 62, "found ELF machine 62, x86-64"),
        ("<I", 48, 0, "e_flags 0x0 state architecture sm_0"),
        ("<Q", 40, 0, "no usable section table"),
        ("<Q", 40, 1 << 60, "truncated: its section table ends"),
        ("<H", 58, 40, "section headers of 40 bytes"),
        ("<H", 60, 0, "no usable section table"),
        ("<H", 60, 0xFE00, "truncated: its section table ends"),
        ("<H", 62, 0xFF, "names section 255 as its section names"),
    ],
)
def test_header_fields_are_checked(layout: str, at: int, value: int, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(patched(sample(), layout, at, value))


def test_a_huge_section_does_not_eat_memory() -> None:
    data = sample()
    (table,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    outcomes: Counter[bool] = Counter()
    tracemalloc.start()
    try:
        for index in range(1, count):
            for size in (1 << 32, (1 << 64) - 1):
                try:
                    read_image(patched(data, "<Q", table + 64 * index + 32, size))
                    outcomes[True] += 1
                except ImageError:
                    outcomes[False] += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * len(data)
    assert outcomes[False] > outcomes[True]  # sections without bytes in the file may be of any size


def _elf(sections: list[tuple[int, int, int, int]], body: bytes) -> bytes:
    """A cubin header, `body` at 64, then sections as (name, type, link, size), all of them starting at `body`."""
    ident = b"\x7fELF\x02\x01\x01\x41\x08" + bytes(7)
    offset = 64 + len(body)
    sizes = {2: 24, 4: 24, 9: 16, 11: 24}
    header = struct.pack("<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, offset, 0x6005A04, 64, 56, 0, 64, len(sections), 1)
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, 64, size, link, 0, 1, sizes.get(kind, 0))
        for name, kind, link, size in sections
    )
    return ident + header + body + table


@pytest.mark.parametrize(
    "byte, sections, message",
    [
        # 30,000 names of 30,000 bytes each.
        (b"n", [(0, 0, 0, 0), *[(0, 3, 0, 30_001)] * 30_000], "names longer in total"),
        # 30,000 symbol tables over the same bytes.
        (b"\0", [(0, 0, 0, 0), (30_000, 3, 0, 30_001), *[(30_000, 2, 1, 30_000)] * 30_000], "names longer in total"),
        (
            b"\0",
            [(0, 0, 0, 0), (30_000, 3, 0, 30_001), *[(30_000, 5, 1, 30_000)] * 30_000],
            "no symbol table",
        ),
    ],
    ids=["names", "symbols", "hashes"],
)
def test_work_is_bounded_by_the_size_of_the_file(
    byte: bytes, sections: list[tuple[int, int, int, int]], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(_elf(sections, byte * 30_000 + b"\0"))


def test_contradicting_parameters_are_refused() -> None:
    data = sample()
    section = _sections(data)[".nv.info.matmul_kernel"]
    start = data.index(section)
    at, positions = 0, []
    for number, value in eiattr.decode(section, ""):
        size = 4 + len(value) if isinstance(value, bytes) else 4
        if number == eiattr.Attribute.KPARAM_INFO:
            positions.append(start + at + 4)
        elif number == eiattr.Attribute.CBANK_PARAM_SIZE:
            size_field = start + at + 2
        elif number == eiattr.Attribute.REQNTID:
            block = start + at + 4
        at += size
    with pytest.raises(ImageError, match="are numbered"):
        read_image(patched(data, "<H", positions[0] + 4, 200))
    with pytest.raises(ImageError, match="takes 8 bytes from offset 4000"):
        read_image(patched(data, "<H", positions[0] + 6, 4000))
    with pytest.raises(ImageError, match="7 bytes of parameters by CBANK_PARAM_SIZE"):
        read_image(patched(data, "<H", size_field, 7))
    with pytest.raises(ImageError, match="REQNTID of .* is 0, 1, 1"):
        read_image(patched(data, "<I", block, 0))


def readable_or_image_error(data: bytes) -> None:
    try:
        image = read_image(data)
    except ImageError as error:
        assert str(error)
    else:
        assert image.format == "cubin"
        assert all(k.params == () or k.params[-1].offset + k.params[-1].size <= k.param_bytes
                   for k in image.kernels.values())  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400), st.booleans())
def test_arbitrary_bytes(data: bytes, elf: bool) -> None:
    readable_or_image_error((b"\x7fELF\x02\x01\x01\x41\x08" if elf else b"") + data)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_bit_flips(choices: st.DataObject) -> None:
    data = bytearray(choices.draw(st.sampled_from(samples())))
    (table,) = struct.unpack_from("<Q", data, 40)
    # The header, the section table and the attributes are what is parsed; the rest is mostly code.
    interesting = st.one_of(
        st.integers(0, 63), st.integers(table, len(data) - 1), st.integers(64, table - 1), st.integers(64, 4095)
    )
    for position in choices.draw(st.lists(interesting, min_size=1, max_size=8)):
        if position < len(data):
            data[position] ^= choices.draw(st.integers(1, 255))
    readable_or_image_error(bytes(data))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_truncations(choices: st.DataObject) -> None:
    data = choices.draw(st.sampled_from(samples()))
    (table,) = struct.unpack_from("<Q", data, 40)
    end = table + 64 * struct.unpack_from("<H", data, 60)[0]
    with pytest.raises(ImageError, match="truncated|expected a cubin"):
        read_image(data[: choices.draw(st.integers(0, end - 1))])
