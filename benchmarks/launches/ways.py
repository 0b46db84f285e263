"""The ways to launch that ``benchmarks/launch_latency.py`` measures: trlaunch's, its peers', and the driver's alone."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import itertools
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import trlaunch
from trlaunch.launching import MODE

__all__ = ["FLOORS", "OWN", "PEERS", "SUBJECTS", "Missing", "Subject", "Unfit", "Way", "call", "subject"]

HERE = Path(__file__).resolve().parent
CONSTEXPRS = tuple(range(5))
ROWS, COLUMNS, BLOCK = 64, 64, (16, 32)  # the matrix of `descriptor_kernel`, and what it sums up
ROTATION = 64  # descriptors in turn, more than any cache here keeps

SUBJECTS = {
    "none_kernel": (0, 0, "no argument"),
    "fourteen_kernel": (5, 9, "5 tensors and 9 ints"),
    "nineteen_kernel": (10, 9, "10 tensors and 9 ints"),
    "fifty_eight_kernel": (28, 30, "28 tensors and 30 ints"),
    "descriptor_kernel": (1, 1, "a tensor descriptor, a tensor and an int"),
}
"""Tensors and ints of each kernel beside its descriptor, and what to call it."""


class Missing(Exception):
    """A way cannot be measured here; says why."""


class Unfit(Missing):
    """A way does not apply to this kernel."""


def need(*names: str) -> Any:
    """Import modules, the last of which is returned."""
    try:
        return [importlib.import_module(name) for name in names][-1]
    except ImportError as error:
        raise Missing(str(error)) from None


def call(name: str, *arguments: Any) -> Any:
    """Call the driver; one result or none."""
    status, *results = getattr(need("cuda.bindings.driver"), name)(*arguments)
    if status:
        raise SystemExit(f"{name}: {status.name}")
    return results[0] if results else None


# --- what is launched ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """How a library makes and reads arrays on the GPU."""

    zeros: Callable[[], Any]  # 4 of fp32
    matrix: Callable[[], Any]  # ones, fp16
    read: Callable[[Any], float]
    clear: Callable[[Any], object]


def own_arrays() -> Library:
    """trlaunch's."""
    make = functools.partial(trlaunch.asarray, device="cuda:0")
    return Library(
        lambda: make(np.zeros(4, np.float32)),
        lambda: make(np.ones((ROWS, COLUMNS), np.float16)),
        lambda array: float(array.numpy()[0]),
        lambda array: array.copy_from(np.zeros(4, np.float32)),
    )


def torch_tensors() -> Library:
    """torch's."""
    torch = need("torch")
    return Library(
        lambda: torch.zeros(4, device="cuda"),
        lambda: torch.ones(ROWS, COLUMNS, device="cuda", dtype=torch.float16),
        lambda tensor: float(tensor[0]),
        lambda tensor: tensor.zero_(),
    )


def cupy_arrays() -> Library:
    """CuPy's."""
    cupy = need("cupy")
    return Library(
        lambda: cupy.zeros(4, cupy.float32),
        lambda: cupy.ones((ROWS, COLUMNS), cupy.float16),
        lambda array: float(array[0]),
        lambda array: array.fill(0),
    )


@dataclass
class Subject:
    """The kernel that every way launches, loaded once through the driver."""

    name: str
    kernel: trlaunch.Kernel
    cubin: bytes
    function: Any  # CUfunction
    tensors: int
    ints: tuple[int, ...]
    described: bool

    @property
    def threads(self) -> int:
        return self.kernel.threads or 0

    @property
    def shared(self) -> int:
        return self.kernel.shared or 0

    @property
    def expected(self) -> float:
        """What the kernel stores."""
        weighted = sum((i + 1) * value for i, value in enumerate(self.ints))
        return float(weighted + BLOCK[0] * BLOCK[1] * self.described)

    def arguments(self, library: Library, descriptor: Any = trlaunch.TensorDescriptor) -> tuple[list[Any], Any]:
        """One launch's arguments, and the array that the kernel stores to, ``None`` where it stores nothing."""
        tensors = [library.zeros() for _ in range(self.tensors)]
        described = [descriptor(library.matrix(), block_shape=list(BLOCK))] if self.described else []
        return [*described, *tensors, *self.ints], (tensors or [None])[-1]

    def own(self) -> tuple[list[Any], Any]:
        """`arguments` that are trlaunch's arrays."""
        return self.arguments(own_arrays())


def subject(name: str, capability: int) -> Subject:
    """Load one of `SUBJECTS`."""
    kernel = trlaunch.Kernel.from_file(HERE / (f"cuda90/{name}.cubin" if capability == 90 else f"cuda80/{name}.ptx"))
    cubin = kernel.artifact.data
    if capability != 90:
        from trlaunch.cuda.assembler import assemble
        from trlaunch.devices import get

        properties = get("cuda").properties(0)
        cubin = assemble(cubin, properties.target, driver_version=properties.driver_version).cubin
    function = call("cuModuleGetFunction", call("cuModuleLoadData", cubin), name.encode())
    tensors, ints, _ = SUBJECTS[name]
    # Neither 1 nor multiples of 16: Triton specialises none of them.
    return Subject(
        name, kernel, cubin, function, tensors, tuple(range(3, 3 + 2 * ints, 2)), name == "descriptor_kernel"
    )


@dataclass
class Packed:
    """The parameters of one launch as the driver takes them: a buffer, and the address of each in it."""

    buffer: Any
    params: Any
    extra: Any
    keep: Any


def packed(s: Subject, arguments: list[Any]) -> Packed:
    """Pack with trlaunch, once."""
    from trlaunch.devices import get
    from trlaunch.driver import Device
    from trlaunch.packing import Packer

    packer = Packer(s.name, s.kernel.signature, s.kernel.metadata)
    data = packer.pack(arguments, {}, driver=get("cuda"), device=Device("cuda", 0)).data
    storage = (ctypes.c_char * (len(data) + 64))()
    base = ctypes.addressof(storage) + -ctypes.addressof(storage) % 64
    ctypes.memmove(base, data, len(data))
    offsets = [param.offset for param in s.kernel.signature]
    params = (ctypes.c_void_p * max(len(offsets), 1))(*(base + offset for offset in offsets))
    size = ctypes.c_size_t(len(data))
    extra = (ctypes.c_void_p * 5)(1, base, 2, ctypes.addressof(size), 0)
    return Packed(base, params, extra, (storage, size, arguments))


@dataclass
class Way:
    """One way to launch: `burst` launches so many times; `result` reads what the last launch stored."""

    name: str
    burst: Callable[[int], object]
    result: Callable[[], float | None]
    clear: Callable[[], object]
    keep: Any = None
    times: list[float] = field(default_factory=list)


def way(name: str, burst: Callable[[int], object], library: Library, out: Any, keep: Any = None) -> Way:
    """A way whose kernel stores to `out`."""
    if out is None:
        return Way(name, burst, lambda: None, lambda: None, keep)
    return Way(name, burst, lambda: library.read(out), lambda: library.clear(out), keep)


def repeat(function: Callable[[], object]) -> Callable[[int], None]:
    """A burst of a function without arguments."""

    def burst(count: int) -> None:
        for _ in itertools.repeat(None, count):
            function()

    return burst


def calling(function: Callable[..., object], *arguments: Any, text: str = "function") -> Callable[[int], None]:
    """A burst of ``function(a, b, c, ...)``: no tuple is unpacked on the way."""
    passed = "".join(f"a{i}, " for i in range(len(arguments)))
    source = (
        f"def make(function, repeat, {passed}):\n"
        f"    def burst(count):\n"
        f"        for _ in repeat(None, count):\n"
        f"            {text}({passed})\n"
        f"    return burst\n"
    )
    names: dict[str, Any] = {}
    exec(source, names)
    made: Callable[[int], None] = names["make"](function, itertools.repeat, *arguments)
    return made


def in_turn(function: Callable[..., object], first: list[Any], *arguments: Any) -> Callable[[int], None]:
    """A burst of ``function((1,), x, a, b, ...)`` where x goes round."""
    passed = "".join(f"a{i}, " for i in range(len(arguments)))
    source = (
        f"def make(function, take, first, {passed}):\n"
        f"    def burst(count):\n"
        f"        for x in take(first, count):\n"
        f"            function((1,), x, {passed})\n"
        f"    return burst\n"
    )
    names: dict[str, Any] = {}
    exec(source, names)
    turning = itertools.cycle(first)
    made: Callable[[int], None] = names["make"](function, itertools.islice, turning, *arguments)
    return made


# --- the driver alone ------------------------------------------------------------------------------------------------


@functools.cache
def loops() -> ctypes.CDLL:
    """``floor.c``, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("no gcc")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "floor.so")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, HERE / "floor.c"], check=True)
        return ctypes.CDLL(str(library))


def address(name: str) -> ctypes.c_void_p:
    """Of a driver function."""
    return ctypes.cast(getattr(ctypes.CDLL("libcuda.so.1"), name), ctypes.c_void_p)


def floor(s: Subject, entry: str, in_buffer: bool) -> Way:
    """A C loop with arguments packed before."""
    loop = loops().launch_ex if entry == "cuLaunchKernelEx" else loops().launch
    arguments, out = s.own()
    made = packed(s, arguments)
    function = ctypes.c_void_p(int(s.function))
    params, extra = (None, made.extra) if in_buffer else (made.params, None)
    if not s.kernel.signature.params:
        params = extra = None
    passed = (address(entry), function, s.threads, s.shared, params, extra)

    def burst(count: int) -> None:
        if loop(*passed, count):
            raise SystemExit(f"{entry} failed")

    how = "a buffer" if in_buffer else "addresses"
    return way(f"C loop: {entry}, {how}", burst, own_arrays(), out, made)


def floor_addresses(s: Subject) -> Way:
    return floor(s, "cuLaunchKernel", False)


def floor_buffer(s: Subject) -> Way:
    return floor(s, "cuLaunchKernel", True)


def floor_ex_addresses(s: Subject) -> Way:
    return floor(s, "cuLaunchKernelEx", False)


def floor_ex_buffer(s: Subject) -> Way:
    return floor(s, "cuLaunchKernelEx", True)


def encoding_loop(s: Subject) -> Way:
    """A C loop that encodes the tensor map before each launch."""
    if not s.described:
        raise Unfit("no descriptor to encode")
    metadata = s.kernel.metadata
    if metadata is None or not metadata.tensor_descriptors or not s.kernel.signature.user[0].is_tensor_map:
        raise Unfit("this target takes a descriptor in its parts")
    arguments, out = s.own()
    made = packed(s, arguments)
    loop = loops().encode_and_launch
    passed = (
        address("cuLaunchKernel"), address("cuTensorMapEncodeTiled"), ctypes.c_void_p(int(s.function)), s.threads,
        s.shared, made.extra, ctypes.c_void_p(made.buffer + s.kernel.signature.user[0].offset),
        ctypes.c_void_p(arguments[0].tensor.address), ROWS, COLUMNS, metadata.tensor_descriptors[0].swizzle,
    )  # fmt: skip

    def burst(count: int) -> None:
        if loop(*passed, count):
            raise SystemExit("cuTensorMapEncodeTiled or cuLaunchKernel failed")

    return way("C loop: cuTensorMapEncodeTiled and cuLaunchKernel", burst, own_arrays(), out, made)


FLOORS: tuple[Callable[[Subject], Way], ...] = (floor_addresses, floor_buffer, floor_ex_addresses, floor_ex_buffer)
"""The quickest of them is the floor."""


# --- trlaunch --------------------------------------------------------------------------------------------------------


def trlaunch_way(s: Subject, library: Library, what: str) -> Way:
    arguments, out = s.arguments(library)
    name = f"trlaunch ({MODE})" + (f", {what}" if s.tensors else "")
    return way(name, calling(s.kernel.launch, (1,), *arguments), library, out, arguments)


def trlaunch_own(s: Subject) -> Way:
    return trlaunch_way(s, own_arrays(), "its own arrays")


def trlaunch_torch(s: Subject) -> Way:
    if not s.tensors:
        raise Unfit("no tensor to pass")
    return trlaunch_way(s, torch_tensors(), "torch tensors")


def trlaunch_cupy(s: Subject) -> Way:
    if not s.tensors:
        raise Unfit("no tensor to pass")
    return trlaunch_way(s, cupy_arrays(), "CuPy arrays")


def trlaunch_pointers(s: Subject) -> Way:
    if not s.tensors or s.described:
        raise Unfit("no pointer to pass")
    arguments, out = s.own()
    given = [trlaunch.Pointer(a.address) if isinstance(a, trlaunch.DeviceArray) else a for a in arguments]
    burst = calling(s.kernel.launch, (1,), *given)
    return way(f"trlaunch ({MODE}), raw pointers", burst, own_arrays(), out, arguments)


def trlaunch_bound(s: Subject) -> Way:
    library = torch_tensors() if s.tensors else own_arrays()
    arguments, out = s.arguments(library)
    bound = s.kernel.bind(grid=(1,), stream=0)
    name = f"trlaunch ({MODE}), bound" + (", torch tensors" if s.tensors else "")
    return way(name, calling(bound, *arguments), library, out, arguments)


def trlaunch_bound_current(s: Subject) -> Way:
    if not s.tensors:
        raise Unfit("no tensor that would have a current stream")
    library = torch_tensors()
    arguments, out = s.arguments(library)
    bound = s.kernel.bind(grid=(1,))
    name = f"trlaunch ({MODE}), bound but for the stream, torch tensors"
    return way(name, calling(bound, *arguments), library, out, arguments)


def trlaunch_encoding(s: Subject) -> Way:
    """So many descriptors in turn that each is encoded anew."""
    if not s.described:
        raise Unfit("no descriptor to encode")
    library = torch_tensors()
    arguments, out = s.arguments(library)
    others = [s.arguments(library)[0][0] for _ in range(ROTATION)]
    burst = in_turn(s.kernel.launch, others, *arguments[1:])
    name = f"trlaunch ({MODE}), torch tensors, descriptor encoded anew"
    return way(name, burst, library, out, (arguments, others))


# --- the others ------------------------------------------------------------------------------------------------------


def bindings_packed(s: Subject) -> Way:
    bindings = need("cuda.bindings.driver")
    arguments, out = s.own()
    made = packed(s, arguments)
    params = ctypes.addressof(made.params) if s.kernel.signature.params else 0
    burst = calling(
        bindings.cuLaunchKernel, s.function, 1, 1, 1, s.threads, 1, 1, s.shared, bindings.CUstream(0), params, 0
    )
    return way("cuda.bindings, packed before", burst, own_arrays(), out, made)


def bindings_tuple(s: Subject) -> Way:
    if s.described:
        raise Unfit("it takes no tensor map")
    bindings = need("cuda.bindings.driver")
    arguments, out = s.own()
    addresses = [a.address for a in arguments[: s.tensors]]
    types = (*[ctypes.c_uint64] * s.tensors, *[ctypes.c_int32] * len(s.ints), ctypes.c_uint64, ctypes.c_uint64)
    launch, stream, f, ints = bindings.cuLaunchKernel, bindings.CUstream(0), s.function, s.ints
    threads, shared = s.threads, s.shared

    def one() -> None:
        launch(f, 1, 1, 1, threads, 1, 1, shared, stream, ((*addresses, *ints, 0, 0), types), 0)

    return way("cuda.bindings, (values, ctypes) tuple", repeat(one), own_arrays(), out, arguments)


def bindings_struct(s: Subject) -> Way:
    if s.described:
        raise Unfit("it takes no tensor map")
    library, bindings = torch_tensors(), need("cuda.bindings.driver")
    arguments, out = s.arguments(library)
    layout = struct.Struct(f"<{s.tensors}Q{len(s.ints)}i{'4x' * (len(s.ints) % 2)}QQ")
    buffer, size = ctypes.create_string_buffer(layout.size), ctypes.c_size_t(layout.size)
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
    where, pack, ints, tensors = ctypes.addressof(extra), layout.pack_into, s.ints, arguments[: s.tensors]
    launch, stream, f = bindings.cuLaunchKernel, bindings.CUstream(0), s.function
    threads, shared = s.threads, s.shared

    def one() -> None:
        pack(buffer, 0, *[t.data_ptr() for t in tensors], *ints, 0, 0)
        launch(f, 1, 1, 1, threads, 1, 1, shared, stream, 0, where)

    keep = (size, extra, arguments)
    return way("struct.pack_into, data_ptr() and cuda.bindings", repeat(one), library, out, keep)


def cuda_core(s: Subject) -> Way:
    if s.described:
        raise Unfit("it takes no tensor map of another encoder")
    core = need("cuda.core")
    if not hasattr(core, "ObjectCode"):
        raise Missing("this release has no cuda.core.ObjectCode")
    arguments, out = s.own()
    device = core.Device(0)
    device.set_current()
    kernel = core.ObjectCode.from_cubin(s.cubin).get_kernel(s.name)
    config = core.LaunchConfig(grid=1, block=s.threads, shmem_size=s.shared)
    passed = (*(a.address for a in arguments[: s.tensors]), *map(np.int32, s.ints), 0, 0)
    burst = calling(core.launch, device.default_stream, config, kernel, *passed)
    return way("cuda.core launch, addresses before", burst, own_arrays(), out, arguments)


def cupy_raw(s: Subject) -> Way:
    if s.described:
        raise Unfit("it takes no tensor map")
    cupy, library = need("cupy"), cupy_arrays()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(s.cubin)
        file.flush()
        function = cupy.RawModule(path=file.name).get_function(s.name)
        function.compile()  # loads the file
    arguments, out = s.arguments(library)
    passed = (*arguments[: s.tensors], *map(np.int32, s.ints), np.uint64(0), np.uint64(0))
    grid, block, shared = (1,), (s.threads,), s.shared
    return way("CuPy RawModule", repeat(lambda: function(grid, block, passed, shared_mem=shared)), library, out)


def triton_function(s: Subject) -> Any:
    """The jitted function of `kernels.py`."""
    need("torch", "triton")
    spec = importlib.util.spec_from_file_location("launch_kernels", HERE / "kernels.py")
    assert spec is not None
    assert spec.loader is not None
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    return getattr(kernels, s.name)


def triton_arguments(s: Subject) -> tuple[Any, list[Any], list[Any], Any]:
    """The jitted function, everything that is passed, what is left at run time, and where the kernel stores."""
    function = triton_function(s)

    def descriptor(tensor: Any, block_shape: list[int]) -> Any:
        return need("triton.tools.tensor_descriptor").TensorDescriptor.from_tensor(tensor, block_shape)

    arguments, out = s.arguments(torch_tensors(), descriptor)
    constants = CONSTEXPRS if s.name == "fourteen_kernel" else ()
    return function, [*arguments, *constants], arguments, out


def triton_jit(s: Subject) -> Way:
    function, passed, _, out = triton_arguments(s)
    burst = calling(function, *passed, text="function[(1, 1, 1)]")
    return way("Triton JIT kernel[grid](...)", burst, torch_tensors(), out, passed)


def triton_compiled(s: Subject) -> Way:
    function, passed, _, out = triton_arguments(s)
    compiled = function[1, 1, 1](*passed)
    burst = calling(compiled, *passed, text="function[(1, 1, 1)]")
    return way("Triton compiled[grid](...)", burst, torch_tensors(), out, passed)


def triton_run(s: Subject) -> Way:
    function, passed, _, out = triton_arguments(s)
    compiled = function[1, 1, 1](*passed)
    handle, metadata = compiled.function, compiled.packed_metadata
    burst = calling(compiled.run, 1, 1, 1, 0, handle, metadata, None, None, None, *passed)
    return way("Triton CompiledKernel.run", burst, torch_tensors(), out, passed)


def torch_static(s: Subject) -> Way:
    """torch.compile's own launcher for Triton kernels; private, so that it moves from release to release."""
    if s.described:
        raise Unfit("it takes no tensor descriptor")
    torch = need("torch")
    for module in ("static_triton_launcher", "static_cuda_launcher"):
        try:
            found = importlib.import_module(f"torch._inductor.runtime.{module}")
        except ImportError:
            continue
        make = getattr(found, "StaticallyLaunchedCudaKernel", None)
        if make is not None:
            break
    else:
        raise Missing(f"torch {torch.__version__} has no StaticallyLaunchedCudaKernel")
    function, passed, arguments, out = triton_arguments(s)
    compiled = function[1, 1, 1](*passed)
    with tempfile.NamedTemporaryFile(suffix=".cubin", delete=False) as file:
        file.write(compiled.asm["cubin"])
    compiled._cubin_path = file.name
    try:
        kernel = make(compiled)
        kernel.load_kernel(0)
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise Missing(f"torch {torch.__version__} loads it in another way: {error}") from None
    finally:
        Path(file.name).unlink()
    burst = calling(kernel.run, 1, 1, 1, 0, *arguments)
    return way("torch static CUDA launcher", burst, torch_tensors(), out, (kernel, arguments))


def triton_runner(s: Subject) -> Way:
    runner = need("triton_runner")
    function, passed, _, out = triton_arguments(s)
    burst = calling(runner.jit(function.fn), *passed, text="function[(1, 1, 1)]")
    return way("triton-runner kernel[grid](...)", burst, torch_tensors(), out, passed)


OWN: tuple[Callable[[Subject], Way], ...] = (
    trlaunch_own,
    trlaunch_pointers,
    trlaunch_torch,
    trlaunch_bound,
    trlaunch_bound_current,
    trlaunch_cupy,
    trlaunch_encoding,
)

PEERS: tuple[Callable[[Subject], Way], ...] = (
    encoding_loop,
    bindings_packed,
    cuda_core,
    bindings_struct,
    bindings_tuple,
    cupy_raw,
    torch_static,
    triton_run,
    triton_compiled,
    triton_jit,
    triton_runner,
)
