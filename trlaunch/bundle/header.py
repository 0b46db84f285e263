"""C headers: a binary and a typed launch function over the driver API, for programs without Python.

The part that all headers of a vendor share is C as it stands in ``cuda_support.h`` and ``hip_support.h``; what depends
on the kernel is written here.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trlaunch._version import __version__
from trlaunch.bundle.archive import Constant
from trlaunch.bundle.names import comment, identifier, string, unique
from trlaunch.bundle.whole import constants_of, refuse_torn
from trlaunch.errors import ArgumentError, SignatureError
from trlaunch.metadata import TensorDescriptorMeta
from trlaunch.signature import Param, category
from trlaunch.tensor_descriptor import PTX_TO_DRIVER

if TYPE_CHECKING:
    from trlaunch.kernel import Kernel

__all__ = ["header"]

# Triton's scalar types in C; 16-bit floats and fp8 are passed as their bits.
_C_TYPES = {
    "i1": "bool", "u1": "bool", "i8": "int8_t", "u8": "uint8_t", "i16": "int16_t", "u16": "uint16_t",
    "i32": "int32_t", "u32": "uint32_t", "i64": "int64_t", "u64": "uint64_t",
    "fp16": "uint16_t", "bf16": "uint16_t", "fp32": "float", "fp64": "double",
    "fp8e4nv": "uint8_t", "fp8e5": "uint8_t", "fp8e4b15": "uint8_t", "fp8e4b8": "uint8_t", "fp8e5b16": "uint8_t",
}  # fmt: skip
_BITS = {"fp16": "IEEE half", "bf16": "bfloat16"}
_GRID = ("grid_x", "grid_y", "grid_z")
_LOCALS = (
    "stream",
    *_GRID,
    "status",
    "storage",
    "buffer",
    "programs",
    "parameters",
    "global_scratch",
    "profile_scratch",
)
_SHOWN_OPTIONS = (
    "num_warps",
    "num_stages",
    "num_ctas",
    "maxnreg",
    "enable_fp_fusion",
    "launch_cooperative_grid",
    "launch_pdl",
)


@dataclass(frozen=True, slots=True)
class _Api:
    """How one vendor's driver is called."""

    prefix: str
    status: str
    success: str
    invalid: str
    pointer: str
    stream: str
    null: str
    where: str


_CUDA = _Api(
    "trlaunch_cuda", "CUresult", "CUDA_SUCCESS", "CUDA_ERROR_INVALID_VALUE", "CUdeviceptr", "CUstream", "0",
    "the calling thread's current context",
)  # fmt: skip
_HIP = _Api(
    "trlaunch_hip", "hipError_t", "hipSuccess", "hipErrorInvalidValue", "hipDeviceptr_t", "hipStream_t", "NULL",
    "the calling thread's current device",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Argument:
    """One parameter of the launch function."""

    name: str
    type: str
    param: Param
    note: str


def header(kernel: Kernel, *, prefix: str | None = None, constants: Mapping[str, Constant] | None = None) -> str:
    """A C99 and C++17 header with a kernel's binary and a typed function that launches it.

    Parameters
    ----------
    kernel : Kernel
        Of a cubin or an hsaco, with a signature of known types.
    prefix : str, optional
        What the names in the header begin with; left out, the kernel's name.
    constants : mapping, optional
        The constexpr arguments that were compiled in, for the comment at its head.

    Returns
    -------
    str
        The text; it depends on nothing but ``cuda.h`` or ``hip_runtime_api.h``, and where ``TRLAUNCH_DLOPEN`` is
        defined not on these.

    Raises
    ------
    ArgumentError
        The kernel is PTX, which only the driver of the device at hand lays out, or has what HIP cannot launch; or a
        constant is no number, text or bool, or names an argument of the launch.
    SignatureError
        The type of a parameter is not known.
    CheckError
        Binary, metadata and text levels are not of one compilation, or lack what a launch needs.
    """
    return "".join(f"{line}\n" for line in _Header(kernel, prefix, constants).lines())


class _Header:
    def __init__(self, kernel: Kernel, prefix: str | None, constants: Mapping[str, Constant] | None) -> None:
        if kernel.image.format == "ptx":
            raise ArgumentError(
                f"{kernel.name} is {kernel.level}, and a header takes a cubin or an hsaco: lower it first "
                f"(trlaunch lower FILE --to cubin)"
            )
        if kernel._captures is not None:
            raise ArgumentError(f"{kernel.name} captures dumps: make the header of the kernel without dump=")
        refuse_torn(kernel)
        self.threads = kernel.threads or 1
        self.shared = kernel.shared or 0
        self.kernel = kernel
        self.constants = constants_of(kernel, constants)
        self.metadata = kernel.metadata
        self.cluster = kernel.metadata.cluster if kernel.metadata else (1, 1, 1)
        self.cooperative = bool(kernel.metadata and kernel.metadata.cooperative)
        self.pdl = bool(kernel.metadata and kernel.metadata.pdl)
        self.api = _HIP if kernel.target.backend == "hip" else _CUDA
        if self.api is _HIP and (self.cluster != (1, 1, 1) or self.pdl):
            raise ArgumentError(
                f"{kernel.name} is launched in clusters of {self.cluster}, with launch_pdl={self.pdl}; a header for "
                f"HIP launches single CTAs, without it"
            )
        self.prefix = identifier(prefix or kernel.name, "kernel")
        self.maps = self._maps()
        self.arguments = self._arguments()
        self.scratch = {
            p.role: (int(getattr(self.metadata, f"{p.role}_size", None) or 0), p) for p in kernel.signature.hidden
        }

    # --- what is passed ----------------------------------------------------------------------------------------------

    def _maps(self) -> dict[int, TensorDescriptorMeta]:
        """The compiler's decisions for each parameter that is a tensor map, by index."""
        metas = self.metadata.tensor_descriptors if self.metadata else ()
        indices = [p.index for p in self.kernel.signature.user if p.is_tensor_map]
        return dict(zip(indices, metas, strict=False))

    def _arguments(self) -> list[_Argument]:
        user = self.kernel.signature.user
        wished = [identifier(p.name or "", f"argument{i}") if p.name else f"argument{i}" for i, p in enumerate(user)]
        for at, param in enumerate(user):  # the slots behind a map are the shape and strides of its tensor
            meta = self.maps.get(param.index)
            if meta is not None:
                rank = len(meta.block_shape)
                for i, (what, axis) in enumerate([(w, a) for w in ("shape", "stride") for a in range(rank)]):
                    if at + 1 + i < len(user):
                        wished[at + 1 + i] = f"{wished[at]}_{what}_{axis}"
        names = unique(wished, _LOCALS)
        return [self._argument(name, param) for name, param in zip(names, user, strict=True)]

    def _argument(self, name: str, param: Param) -> _Argument:
        kind = category(param.type)
        if kind == "pointer":
            aligned = f", a multiple of {param.divisibility}" if param.divisibility > 1 else ""
            return _Argument(name, self.api.pointer, param, f"{param.type}{aligned}")
        if param.is_tensor_map:
            return _Argument(
                name, "const CUtensorMap *", param, f"{param.type or 'a tensor map'}, 128 bytes on the host"
            )
        if kind is None or param.type not in _C_TYPES:
            raise SignatureError(
                f"{self.kernel.name}, {param.label}: a header needs its type; give signature= with Triton's types, or "
                f"put the .ttir beside the binary. The slots are\n{self.kernel.signature.table()}"
            )
        note = param.type + (f", the bits of an {_BITS[param.type]}" if param.type in _BITS else "")
        if kind == "integer" and param.divisibility > 1:
            note += f", a multiple of {param.divisibility}"
        return _Argument(name, _C_TYPES[param.type], param, note)

    # --- the text ----------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        code = [
            *self._image(),
            *self._state(),
            *self._loading(),
            *self._encoders(),
            *self._launching(),
        ]
        guard = f"TRLAUNCH_{self.prefix.upper()}_H"
        content = f"{guard}_{hashlib.sha256(chr(10).join(code).encode()).hexdigest()[:16]}"
        yield from self._about()
        yield f"#ifndef {guard}"
        yield f"#define {guard}"
        yield f"#define {content}"
        yield ""
        support = "hip_support.h" if self.api is _HIP else "cuda_support.h"
        yield from (Path(__file__).with_name(support)).read_text().splitlines()
        yield ""
        yield f"/* ---- {comment(self.kernel.name)} {'-' * max(3, 106 - len(comment(self.kernel.name)))} */"
        yield ""
        yield from code
        yield f"#elif !defined({content})"
        yield (
            f'#error "this header for {self.kernel.target} and another one before it both name what they hold '
            f"{self.prefix}_...: write one of them with --prefix (trlaunch bundle FILE -o FILE.h --prefix "
            f'{identifier(f"{self.prefix}_{self.kernel.target}", self.prefix)})"'
        )
        yield f"#endif /* {guard} */"

    def _about(self) -> Iterator[str]:
        kernel, p = self.kernel, self.prefix
        data = kernel.code.ready.data
        yield "/*"
        yield f" * {comment(kernel.name)} for {kernel.target}, {len(data)} bytes of {kernel.image.format}."
        yield f" * SHA-256 {hashlib.sha256(data).hexdigest()}. Written by trlaunch {__version__}; do not edit."
        yield " *"
        about = (
            f"{p}_launch(stream, grid_x, grid_y, grid_z, ...) queues the kernel in {self.api.where}, where it is "
            f"loaded at its first launch (or by {p}_load) and stays until that is gone. Any thread may call it. "
            f"The grid is counted in programs, as in Triton; an empty one launches nothing. What is returned is the "
            f"driver's status; {self.api.prefix}_error_name has its name. A pointer or an integer that is not the "
            f"multiple that the kernel was compiled for is {self.api.invalid}."
        )
        yield from textwrap.wrap(about, 117, initial_indent=" * ", subsequent_indent=" * ")
        yield " *"
        yield " * Arguments:"
        for a in self.arguments:
            yield f" *   {a.type}{'' if a.type.endswith('*') else ' '}{a.name}: {comment(a.note)}"
        if not self.arguments:
            yield " *   none"
        if self.constants:
            yield " * Compiled in:"
            yield from (f" *   {comment(name)} = {comment(repr(value))}" for name, value in self.constants.items())
        raw = self.metadata.raw if self.metadata else {}
        options = ", ".join(f"{key} {raw[key]}" for key in _SHOWN_OPTIONS if raw.get(key) is not None)
        yield f" * Compile options: {comment(options) or 'not known'}."
        yield f" * {self.threads} threads a block, {self.shared} bytes of dynamic shared memory" + (
            f", clusters of {' x '.join(map(str, self.cluster))}." if math.prod(self.cluster) > 1 else "."
        )
        yield " */"

    def _image(self) -> Iterator[str]:
        data = self.kernel.code.ready.data
        yield f"static const unsigned char {self.prefix}_image[{len(data)}] __attribute__((aligned(16))) = {{"
        for start in range(0, len(data), 24):
            yield "    " + ",".join(f"0x{byte:02x}" for byte in data[start : start + 24]) + ","
        yield "};"
        yield ""

    def _state(self) -> Iterator[str]:
        p, name = self.prefix, string(self.kernel.name)
        lock = "PTHREAD_MUTEX_INITIALIZER, NULL"
        if self.api is _HIP:
            values = f"{self.threads}, {self.shared}, {int(self.cooperative)}, {lock}"
        else:
            cluster = ", ".join(map(str, self.cluster))
            static = self.kernel.entry.static_shared - self.kernel.entry.reserved_shared
            flags = f"{int(self.cooperative)}, {int(self.pdl)}"
            values = f"{self.threads}, {{{cluster}}}, {self.shared}, {static}, {flags}, {lock}"
        yield f"static {self.api.prefix}_kernel {p}_kernel = {{"
        yield f"    {p}_image, {name}, {values},"
        yield "};"
        yield ""

    def _loading(self) -> Iterator[str]:
        a, p = self.api, self.prefix
        short, function = ("cuda", "CUfunction") if a is _CUDA else ("hip", "hipFunction_t")
        yield f"/* Load the kernel in {a.where}, so that the first launch need not. */"
        yield f"static inline {a.status} {p}_load(void) {{"
        yield f"    const {a.prefix}_api *{short};"
        yield f"    {function} function;"
        yield f"    {a.status} status = {a.prefix}_open(&{short});"
        yield f"    return status == {a.success} ? {a.prefix}_load({short}, &{p}_kernel, &function) : status;"
        yield "}"
        yield ""

    def _encoders(self) -> Iterator[str]:
        for argument in self.arguments:
            meta = self.maps.get(argument.param.index)
            if meta is None:
                continue
            rank, element = len(meta.block_shape), PTX_TO_DRIVER.get(meta.element_type, meta.element_type)
            box = ", ".join(map(str, meta.block_shape))
            size = meta.element_size
            yield f"/* The map for {argument.name}: a tensor of {rank} axes of {size}-byte elements, outermost"
            yield " * first, strides in elements, the last 1; nan_fill: what lies outside reads as NaN instead of 0. */"
            yield f"static inline CUresult {self.prefix}_encode_{argument.name}(CUtensorMap *map, CUdeviceptr base,"
            indent = " " * len(f"static inline CUresult {self.prefix}_encode_{argument.name}(")
            yield f"{indent}const uint64_t shape[{rank}], const uint64_t strides[{rank}],"
            yield f"{indent}int nan_fill) {{"
            yield f"    static const uint32_t box[{rank}] = {{{box}}};"
            yield (
                f"    return trlaunch_cuda_encode(map, {element}, {rank}, {meta.element_size}, box, {meta.swizzle}, "
                f"{int(meta.fp4_padded)}, base,"
            )
            yield "                                shape, strides, nan_fill);"
            yield "}"
            yield ""

    def _launching(self) -> Iterator[str]:
        a, p = self.api, self.prefix
        sized = {role: size for role, (size, _) in self.scratch.items() if size}
        if not sized:
            yield from self._function(f"{p}_launch", ())
            return
        for role, size in sized.items():
            ctas = math.prod(self.cluster)
            yield f"/* Bytes of {role} that a launch on this grid needs. */"
            axes = ", ".join(f"unsigned int {axis}" for axis in _GRID)
            yield f"static inline size_t {p}_{role}_bytes({axes}) {{"
            yield f"    return (size_t){size * ctas} * grid_x * grid_y * grid_z;"
            yield "}"
            yield ""
        alignment = " and ".join(f"{role} aligned to {self._align(role)}" for role in sized)
        yield f"/* With memory of the caller's: {alignment}"
        yield " * bytes, in use until the kernel is done" + (
            "; profile_scratch filled with zeros. */" if "profile_scratch" in sized else ". */"
        )
        yield from self._function(f"{p}_launch_with_scratch", tuple(sized))
        release = "cuMemFreeAsync" if a is _CUDA else "hipFreeAsync"
        take = release.replace("Free", "Alloc" if a is _CUDA else "Malloc")
        yield f"/* Scratch is taken by {take} and given back by {release} on the stream. */"
        yield from self._declared(f"{p}_launch", ())
        for role in sized:
            yield f"    {a.pointer} {role} = {a.null};"
        yield f"    {a.status} status = {a.success}, released;"
        yield f"    if (!grid_x || !grid_y || !grid_z) return {a.success};"
        for role in sized:
            nbytes, zeros = f"{p}_{role}_bytes({', '.join(_GRID)})", int(role == "profile_scratch")
            yield f"    if (status == {a.success})"
            yield f"        status = {a.prefix}_allocate(&{role}, {nbytes}, {zeros}, stream);"
        names = [*("stream", *_GRID), *(x.name for x in self.arguments), *sized]
        yield f"    if (status == {a.success})"
        yield f"        status = {p}_launch_with_scratch({', '.join(names)});"
        for role in reversed(sized):
            yield f"    if ({role} != {a.null}) {{"
            yield f"        released = {a.prefix}_release({role}, stream);"
            yield f"        if (status == {a.success}) status = released;"
            yield "    }"
        yield "    return status;"
        yield "}"
        yield ""

    def _align(self, role: str) -> int:
        return int(getattr(self.metadata, f"{role}_align", 1))

    def _declared(self, name: str, scratch: tuple[str, ...]) -> Iterator[str]:
        """The head of a launch function."""
        parts = [f"{self.api.stream} stream, " + ", ".join(f"unsigned int {axis}" for axis in _GRID)]
        parts += [f"{x.type}{'' if x.type.endswith('*') else ' '}{x.name}" for x in self.arguments]
        parts += [f"{self.api.pointer} {role}" for role in scratch]
        yield f"static inline {self.api.status} {name}("
        yield from (f"    {part}," for part in parts[:-1])
        yield f"    {parts[-1]}) {{"

    def _function(self, name: str, scratch: tuple[str, ...]) -> Iterator[str]:
        body = self._hip_body(scratch) if self.api is _HIP else self._cuda_body(scratch)
        yield from self._declared(name, scratch)
        yield from (f"    {line}" for line in body)
        yield "}"
        yield ""

    def _checks(self) -> Iterator[str]:
        for x in self.arguments:
            if x.type == "const CUtensorMap *":
                yield f"if (!{x.name}) return {self.api.invalid};"
            elif x.param.divisibility > 1 and category(x.param.type) in ("pointer", "integer"):
                value = f"(uintptr_t){x.name}" if self.api is _HIP and category(x.param.type) == "pointer" else x.name
                yield f"if ({value} % {x.param.divisibility}) return {self.api.invalid};"
        yield f"if (!grid_x || !grid_y || !grid_z) return {self.api.success};"

    def _cuda_body(self, scratch: tuple[str, ...]) -> Iterator[str]:
        size = self.kernel.signature.param_bytes
        yield "unsigned int programs[3];"
        if size:
            yield f"uint64_t storage[{(size + 64 + 7) // 8}]; /* and 64 bytes to align it */"
            yield "unsigned char *buffer = (unsigned char *)storage;"
        yield from self._checks()
        if size:
            yield "buffer += -(uintptr_t)buffer & 63;"
            yield f"memset(buffer, 0, {size});"
        for x in self.arguments:
            source = x.name if x.type.endswith("*") else f"&{x.name}"
            yield f"memcpy(buffer + {x.param.offset}, {source}, {x.param.size});"
        for role in scratch:
            param = self.scratch[role][1]
            yield f"memcpy(buffer + {param.offset}, &{role}, {param.size});"
        yield from (f"programs[{i}] = {axis};" for i, axis in enumerate(_GRID))
        buffer = "buffer" if size else "NULL"
        yield f"return trlaunch_cuda_launch(&{self.prefix}_kernel, stream, programs, {buffer}, {size});"

    def _hip_body(self, scratch: tuple[str, ...]) -> Iterator[str]:
        names: dict[int, str] = {x.param.index: x.name for x in self.arguments}
        hidden = [p for p in self.kernel.signature.hidden if p.role not in scratch]
        names |= {p.index: p.role for p in self.kernel.signature.hidden}
        yield "unsigned int programs[3];"
        yield f"void *parameters[{len(names) + 1}];"
        yield from (f"hipDeviceptr_t {p.role} = NULL;" for p in hidden)
        yield from self._checks()
        for i, index in enumerate(sorted(names)):
            yield f"parameters[{i}] = (void *)&{names[index]};"
        yield f"parameters[{len(names)}] = NULL;"
        yield from (f"programs[{i}] = {axis};" for i, axis in enumerate(_GRID))
        yield f"return trlaunch_hip_launch(&{self.prefix}_kernel, stream, programs, parameters);"
