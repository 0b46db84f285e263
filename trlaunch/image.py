"""Image: a loadable binary (or PTX for the emulator) and what it says about itself.

The readers are ``trlaunch.cuda.image`` (cubin), ``trlaunch.hip.image`` (hsaco) and ``trlaunch.emulator.image`` (PTX).
"""

from __future__ import annotations

from collections.abc import Mapping

from trlaunch.errors import ImageError
from trlaunch.records import dataclass
from trlaunch.target import Target

__all__ = ["Image", "ImageKernel", "ImageParam", "nearest"]


@dataclass(frozen=True, slots=True)
class ImageParam:
    """One parameter slot as the image lays it out.

    Attributes
    ----------
    index : int
        Position among the kernel's parameters, hidden ones included.
    offset, size : int
        Bytes, from the start of the parameter buffer.
    type : str or None
        PTX type (``"u64"``, ``"f32"``, ``"b8"`` for byte arrays) where the image states one; a cubin does not. Of an
        implicit argument of an hsaco, its kind (``"hidden_block_count_x"``).
    space : str or None
        State space of the memory that a pointer was declared to point to (``"global"``, ``"generic"``). ``None`` does
        not mean that it is no pointer: PTX of Triton before 3.2 does not declare any.
    """

    index: int
    offset: int
    size: int
    type: str | None = None
    space: str | None = None


@dataclass(frozen=True, slots=True)
class ImageKernel:
    """One kernel of an image. ``None`` means that the image does not say.

    Attributes
    ----------
    name : str
        Symbol to load.
    params : tuple of ImageParam
        In order of index.
    param_bytes : int
        Size of the parameter buffer in bytes.
    required_block : tuple of int or None
        Threads per block that the driver insists on (``.reqntid``).
    max_threads : tuple of int or None
        Upper limit of threads per block (``.maxntid``), x, y, z.
    cluster : tuple of int or None
        CTAs per cluster that the image requires.
    registers : int or None
        Registers per thread; of an hsaco vector registers, those for accumulation included where the two are one file.
    static_shared : int
        Statically allocated shared memory in bytes (what the driver reserves for itself included).
    reserved_shared : int
        The part of `static_shared` that is the driver's own; it does not count against the opt-in limit.
    local_bytes : int or None
        Local memory (stack frame) per thread in bytes.
    uses_dynamic_shared : bool or None
        Whether the kernel was compiled with dynamically sized shared memory in reach.
    has_line_table : bool
        Whether source lines can be found from instruction addresses.
    explicit_cluster : bool
        Whether the kernel may only be launched in clusters (``.explicitcluster``): of `cluster` where it is stated,
        else of a size that the launch states.
    max_cluster : int or None
        Largest number of CTAs per cluster (``.maxclusterrank``).
    spill_instructions : int or None
        Instructions that store or reload spilled registers.
    scalar_registers, accumulation_registers : int or None
        Of an hsaco: SGPRs of a wavefront, AGPRs per thread.
    spilled_registers, spilled_scalar_registers : int or None
        Of an hsaco: VGPRs and SGPRs that the compiler spilled.
    wave_size : int or None
        Of an hsaco: threads of a wavefront that the kernel was compiled for.
    param_align : int or None
        Of an hsaco: alignment of the parameter buffer in bytes.
    implicit : tuple of ImageParam
        Of an hsaco: arguments behind the parameters that the runtime fills by itself.
    """

    name: str
    params: tuple[ImageParam, ...]
    param_bytes: int
    required_block: tuple[int, int, int] | None = None
    max_threads: tuple[int, int, int] | None = None
    cluster: tuple[int, int, int] | None = None
    registers: int | None = None
    static_shared: int = 0
    local_bytes: int | None = None
    uses_dynamic_shared: bool | None = None
    has_line_table: bool = False
    explicit_cluster: bool = False
    max_cluster: int | None = None
    spill_instructions: int | None = None
    reserved_shared: int = 0
    scalar_registers: int | None = None
    accumulation_registers: int | None = None
    spilled_registers: int | None = None
    spilled_scalar_registers: int | None = None
    wave_size: int | None = None
    param_align: int | None = None
    implicit: tuple[ImageParam, ...] = ()

    @property
    def block_threads(self) -> int | None:
        """Threads per block that the kernel was compiled for: the required block, else the upper limit."""
        for shape in (self.required_block, self.max_threads):
            if shape is not None:
                return shape[0] * shape[1] * shape[2]
        return None


@dataclass(frozen=True, slots=True)
class Image:
    """A loadable binary and what it says about itself.

    Attributes
    ----------
    format : {"cubin", "hsaco", "ptx"}
    target : Target
    data : bytes
        What the driver loads.
    kernels : mapping of str to ImageKernel
    toolchain : str
        What the image says about who made it, for people (``"ELF ABI 7, CUDA 12.8"``); may be empty.
    ptx_version : tuple of int or None
        PTX ISA version, for ``format == "ptx"``.
    """

    format: str
    target: Target
    data: bytes
    kernels: Mapping[str, ImageKernel]
    toolchain: str = ""
    ptx_version: tuple[int, int] | None = None

    def kernel(self, name: str | None = None) -> ImageKernel:
        """The kernel of that name; without a name, the only one.

        Raises
        ------
        ImageError
            There is no such kernel (the nearest names are shown), or a name is needed to choose.
        """
        if name is None:
            if len(self.kernels) == 1:
                return next(iter(self.kernels.values()))
            raise ImageError(
                f"this {self.format} holds {len(self.kernels)} kernels"
                + (f" ({', '.join(sorted(self.kernels))})" if self.kernels else "")
                + ": expected exactly one, or name=..."
            )
        try:
            return self.kernels[name]
        except KeyError:
            raise ImageError(f"no kernel {name!r} in this {self.format}: {nearest(name, self.kernels)}") from None


def nearest(name: str, names: Mapping[str, object]) -> str:
    """``"it holds 'a', 'b'"``, the names most like `name` first."""
    import difflib

    close = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
    rest = len(names) - len(close)
    return "it holds " + (
        ", ".join(map(repr, close)) + (f" and {rest} more" if rest > 0 else "") if names else "no kernel at all"
    )
