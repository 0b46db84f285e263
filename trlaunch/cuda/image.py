"""Cubin: which kernels it holds, for which architecture, and what their launch must look like.

The format is ELF64 with NVIDIA's sections; its facts are tables in ``eiattr``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from types import MappingProxyType

from trlaunch.cuda import eiattr
from trlaunch.cuda.eiattr import ATTRIBUTE_NAMES, Abi, Attribute
from trlaunch.elf import ElfFile, reading
from trlaunch.errors import ImageError
from trlaunch.image import Image, ImageKernel, ImageParam
from trlaunch.records import dataclass, field
from trlaunch.target import Target

__all__ = ["read_image"]

_INFO = ".nv.info."
_TYPE_NAMES = {
    "ET_REL": "a relocatable object (made by ptxas -c or nvcc -dc): link it with nvlink first",
    "ET_CORE": "a GPU core dump",
}


def read_image(data: bytes) -> Image:
    """Read a cubin.

    Parameters
    ----------
    data : bytes
        Content of the file.

    Returns
    -------
    Image
        ``format == "cubin"``, one `ImageKernel` for each entry function.

    Raises
    ------
    ImageError
        Not a cubin (the message says what it seems to be), not an executable one, damaged, or contradicting itself.

    Notes
    -----
    ``uses_dynamic_shared`` follows the section ``.nv.shared.<kernel>``. ptxas writes it for a kernel that uses static
    shared memory and for every kernel of a module that declares an ``.extern .shared`` array. So without the section
    it is ``False``, with a section of no more than the driver's reserve it is ``True``, and where static shared memory
    accounts for the section it is ``None``. Triton declares the array only in modules whose kernel uses it (3.0 to
    3.9); other PTX may declare it in vain. (ptxas 12.4, 12.8, 13.5; sm_80, sm_90, sm_100a.)
    """
    data = bytes(data)
    file = ElfFile(data, "cubin", eiattr.EM_CUDA)
    with reading("this cubin"):
        return _read(file, data)


def _read(file: ElfFile, data: bytes) -> Image:
    abi = _check_header(file)
    toolkit = _Toolkit.read(file)
    target = _target(file, abi, toolkit)
    symbols = _symbols(file)
    functions = _function_values(file, symbols)
    shared = _sizes(file, ".nv.shared.")
    lines = _functions_with_lines(file, symbols)
    reserved = eiattr.RESERVED_SHARED if target.capability >= 90 else 0
    kernels: dict[str, ImageKernel] = {}
    api_version = 0
    infos = [section for section in file.sections if section.name.startswith(_INFO)]
    if sum(section["sh_size"] for section in infos) > len(data):
        raise ImageError(f"this cubin is damaged: its sections {_INFO}* overlap")
    for section in infos:
        name = section.name[len(_INFO) :]
        if name not in symbols.entries:
            continue
        if name in kernels:
            raise ImageError(f"this cubin is damaged: it has two sections {section.name}")
        info = _KernelInfo.read(file.content(section), name)
        api_version = max(api_version, info.api_version)
        values = functions.get(name, {})
        static = shared.get(name, 0)
        kernels[name] = ImageKernel(
            name=name,
            params=info.ordered_params(name),
            param_bytes=info.param_bytes,
            required_block=info.required_block,
            max_threads=info.max_threads,
            cluster=info.cluster,
            registers=values.get(Attribute.REGCOUNT),
            static_shared=static,
            reserved_shared=min(static, reserved),
            local_bytes=_local_bytes(values),
            uses_dynamic_shared=False if name not in shared else True if static <= reserved else None,
            has_line_table=name in lines,
            explicit_cluster=info.explicit_cluster,
            max_cluster=info.max_cluster,
            spill_instructions=info.spills(),
        )
    missing = sorted(symbols.entries - kernels.keys())
    if missing:
        raise ImageError(
            f"this cubin is damaged: its kernel {missing[0]!r} has no section {_INFO}{missing[0]}, "
            "which would say how its parameters are laid out"
        )
    version = toolkit.version or (api_version and f"{api_version // 10}.{api_version % 10}")
    toolchain = f"ELF ABI {int(abi)}" + (f", CUDA {version}" if version else "")
    return Image("cubin", target, data, MappingProxyType(kernels), toolchain + (toolkit.tool and f" ({toolkit.tool})"))


def _check_header(file: ElfFile) -> Abi:
    kind = file.type
    if kind != "ET_EXEC":
        raise ImageError(f"expected an executable cubin (ELF type ET_EXEC), found {_TYPE_NAMES.get(kind, kind)}")
    osabi, version = file.osabi, file.abi_version
    for abi, expected in eiattr.OSABI.items():
        if (osabi, version) == (expected, abi):
            return abi
    known = " or ".join(f"EI_OSABI {expected:#x} with ABI version {int(abi)}" for abi, expected in eiattr.OSABI.items())
    raise ImageError(f"expected a cubin with {known}, found EI_OSABI {osabi:#x} with ABI version {version}")


def _target(file: ElfFile, abi: Abi, toolkit: _Toolkit) -> Target:
    flags = file.flags
    sm = eiattr.sm_of_flags(abi, flags)
    if not 20 <= sm < 200:
        raise ImageError(f"this cubin is damaged: e_flags {flags:#x} state architecture sm_{sm}")
    compat = file.section(".nv.compat")
    stated = dict(eiattr.decode(file.content(compat), ".nv.compat")) if compat is not None else {}
    accelerator = stated.get(eiattr.CUDA_ACCELERATOR_TARGET, flags & eiattr.ACCELERATOR_FLAG[abi])
    if accelerator:
        suffix = "a"
    else:
        suffix = "f" if re.search(rf"\bsm_{sm}f\b", toolkit.arguments) else ""
    return Target("cuda", str(sm), suffix)


@dataclass(frozen=True)
class _Toolkit:
    """What ``.note.nv.tkinfo`` says; empty strings without it (ELF ABI 7)."""

    version: str = ""
    tool: str = ""
    arguments: str = ""

    @classmethod
    def read(cls, file: ElfFile) -> _Toolkit:
        for owner, _, data in file.notes(".note.nv.tkinfo"):
            if owner != "NVIDIA Corp" or len(data) < eiattr.TKINFO_NOTE.size:
                continue
            _, _, name, version, _, arguments = eiattr.TKINFO_NOTE.unpack_from(data)
            strings = data[eiattr.TKINFO_NOTE.size :]

            def text(at: int, strings: bytes = strings) -> str:
                return strings[at:].partition(b"\0")[0].decode("utf-8", "replace").strip()

            # "Cuda compilation tools, release 13.1, V13.1.80"
            release = re.search(r"release (\d+\.\d+)(?:, V([\d.]+))?", text(version))
            tool = text(name)
            return cls(
                release[1] if release else "",
                f"{tool} {release[2]}" if release and release[2] and tool else tool,
                text(arguments),
            )
        return cls()


@dataclass(frozen=True)
class _Symbols:
    """Function symbols: names by symbol index, and which of the names are kernels."""

    names: Mapping[int, str]
    entries: frozenset[str]


def _symbols(file: ElfFile) -> _Symbols:
    table = file.section(".symtab")
    if table is None or table["sh_type"] != "SHT_SYMTAB":
        raise ImageError("this cubin has no symbol table, which would name its kernels")
    names: dict[int, str] = {}
    entries: set[str] = set()
    for index, symbol in enumerate(file.symbols(table)):
        if symbol.kind != "STT_FUNC":
            continue
        names[index] = symbol.name
        if symbol.other & eiattr.STO_CUDA_ENTRY and symbol.section is not None:
            entries.add(symbol.name)
            _check_code(file, symbol.name, symbol.section, symbol.value, symbol.size)
    return _Symbols(names, frozenset(entries))


def _check_code(file: ElfFile, name: str, section: int, start: int, size: int) -> None:
    if section >= len(file.sections):
        raise ImageError(
            f"this cubin is damaged: kernel {name!r} lies in section {section}, it has {len(file.sections)}"
        )
    code = file.sections[section]
    if code["sh_type"] != "SHT_PROGBITS" or start + size > code["sh_size"] or size == 0:
        raise ImageError(
            f"this cubin is damaged: kernel {name!r} takes {size:#x} bytes from {start:#x} of {code.name}, "
            f"which has {code['sh_size']:#x}"
        )


def _function_values(file: ElfFile, symbols: _Symbols) -> Mapping[str, Mapping[int, int]]:
    """REGCOUNT, FRAME_SIZE and MIN_STACK_SIZE of every function, from the module's ``.nv.info``."""
    wanted = (Attribute.REGCOUNT, Attribute.FRAME_SIZE, Attribute.MIN_STACK_SIZE)
    found: dict[str, dict[int, int]] = {}
    section = file.section(".nv.info")
    for number, value in eiattr.decode(file.content(section), ".nv.info") if section is not None else ():
        if number in wanted:
            index, amount = _unpack(eiattr.FUNCTION_VALUE, value, ".nv.info", number)
            if index not in symbols.names:
                raise ImageError(
                    f"this cubin is damaged: {ATTRIBUTE_NAMES[number]} of .nv.info is about symbol {index}, "
                    "which is no function"
                )
            found.setdefault(symbols.names[index], {})[number] = amount
    return found


def _local_bytes(values: Mapping[int, int]) -> int | None:
    """Stack of a kernel with all it calls, as ``cuobjdump -res-usage`` gives it; its own frame where not bounded."""
    stack = values.get(Attribute.MIN_STACK_SIZE)
    return values.get(Attribute.FRAME_SIZE) if stack in (None, eiattr.UNKNOWN_SIZE) else stack


def _sizes(file: ElfFile, prefix: str) -> Mapping[str, int]:
    return {s.name[len(prefix) :]: s["sh_size"] for s in file.sections if s.name.startswith(prefix)}


def _functions_with_lines(file: ElfFile, symbols: _Symbols) -> frozenset[str]:
    """Functions that ``.debug_line`` has a sequence for: its start addresses are relocated against their symbols."""
    lines = file.section(".debug_line")
    if lines is None or not lines["sh_size"]:
        return frozenset()
    found: set[str] = set()
    for name in (".rel.debug_line", ".rela.debug_line"):
        section = file.section(name)
        if section is not None:
            found.update(symbols.names.get(entry.symbol, "") for entry in file.relocations(section))
    return frozenset(found)


def _unpack(layout: struct.Struct, value: int | bytes, where: str, number: int) -> tuple[int, ...]:
    if not isinstance(value, bytes) or len(value) != layout.size:
        size = len(value) if isinstance(value, bytes) else "no"
        raise ImageError(
            f"this cubin is damaged: {ATTRIBUTE_NAMES[number]} of {where} has {size} bytes, expected {layout.size}"
        )
    return layout.unpack(value)


@dataclass
class _KernelInfo:
    """``.nv.info.<kernel>``, as far as a launch needs it."""

    params: list[ImageParam] = field(default_factory=list)
    param_bytes: int = 0
    bank_bytes: int | None = None
    required_block: tuple[int, int, int] | None = None
    max_threads: tuple[int, int, int] | None = None
    cluster: tuple[int, int, int] | None = None
    explicit_cluster: bool = False
    max_cluster: int | None = None
    api_version: int = 0
    annotations: bytes = b""

    @classmethod
    def read(cls, data: bytes, name: str) -> _KernelInfo:
        info = cls()
        where = _INFO + name
        for number, value in eiattr.decode(data, where):
            if number == Attribute.KPARAM_INFO:
                _, ordinal, offset, bits = _unpack(eiattr.KPARAM, value, where, number)
                info.params.append(_param(ordinal, offset, bits >> 18, bits >> 8 & 0xF))
            elif number == Attribute.KPARAM_INFO_V2:
                _, ordinal, offset, size, _, space = _unpack(eiattr.KPARAM_V2, value, where, number)
                info.params.append(_param(ordinal, offset, size, space))
            elif number == Attribute.CBANK_PARAM_SIZE and isinstance(value, int):
                info.param_bytes = value
            elif number == Attribute.PARAM_CBANK:
                _, _, info.bank_bytes = _unpack(eiattr.CBANK, value, where, number)
            elif number == Attribute.REQNTID:
                info.required_block = _dimensions(value, where, number)
            elif number == Attribute.MAX_THREADS:
                info.max_threads = _dimensions(value, where, number)
            elif number == Attribute.CTA_PER_CLUSTER:
                info.cluster = _dimensions(value, where, number)
            elif number == Attribute.EXPLICIT_CLUSTER:
                info.explicit_cluster = True
            elif number == Attribute.MAX_CLUSTER_RANK:
                (info.max_cluster,) = _unpack(struct.Struct("<I"), value, where, number)
            elif number == Attribute.CUDA_API_VERSION:
                (info.api_version,) = _unpack(struct.Struct("<I"), value, where, number)
            elif number == Attribute.ANNOTATIONS and isinstance(value, bytes):
                info.annotations += value
        return info

    def ordered_params(self, name: str) -> tuple[ImageParam, ...]:
        """The parameters by index, after checking that they lie one behind the other inside the buffer."""
        if self.bank_bytes is not None and self.bank_bytes != self.param_bytes:
            raise ImageError(
                f"this cubin is damaged: kernel {name!r} has {self.param_bytes} bytes of parameters by "
                f"CBANK_PARAM_SIZE, {self.bank_bytes} by PARAM_CBANK"
            )
        params = tuple(sorted(self.params, key=lambda param: param.index))
        end = 0
        for index, param in enumerate(params):
            if param.index != index:
                raise ImageError(
                    f"this cubin is damaged: the parameters of kernel {name!r} are numbered "
                    f"{', '.join(str(p.index) for p in params)}"
                )
            if param.offset < end or param.offset + param.size > self.param_bytes:
                raise ImageError(
                    f"this cubin is damaged: parameter {index} of kernel {name!r} takes {param.size} bytes from offset "
                    f"{param.offset}; the one before it ends at {end}, the buffer at {self.param_bytes}"
                )
            end = param.offset + param.size
        return params

    def spills(self) -> int | None:
        """Number of spill annotations; none means no spills only where the assembler is known to write them."""
        if len(self.annotations) % eiattr.ANNOTATION.size:
            return None
        kinds = [kind for kind, _ in eiattr.ANNOTATION.iter_unpack(self.annotations)]
        if any(kind != eiattr.SPILL_ANNOTATION for kind in kinds):
            return None
        return len(kinds) if kinds or self.api_version >= eiattr.SPILL_ANNOTATIONS_SINCE else None


def _param(ordinal: int, offset: int, size: int, space: int) -> ImageParam:
    return ImageParam(ordinal, offset, size, space=eiattr.SPACES.get(space))


def _dimensions(value: int | bytes, where: str, number: int) -> tuple[int, int, int]:
    x, y, z = _unpack(eiattr.DIMENSIONS, value, where, number)
    if min(x, y, z) < 1:
        raise ImageError(f"this cubin is damaged: {ATTRIBUTE_NAMES[number]} of {where} is {x}, {y}, {z}")
    return x, y, z
