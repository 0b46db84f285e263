"""How long the host takes for one launch, beside every other way to launch the same kernel.

All ways are measured in one process and one run, in turns, because the floor moves from run to run: each repeat times
so many launches of every way, in bursts between which the device is waited for. Only the calls are timed, not the
waiting. The floor is a C loop over ``cuLaunchKernel`` with arguments packed before; without a C compiler it is
``cuda.bindings`` with arguments packed before. Two kernels: no argument, and 5 fp32 tensors with 9 ints (and 5
constexprs, which Triton's own launchers are passed too). What the second one stores is compared before it is timed.
Every way is called as a program would call it, argument by argument, from a loop of its own.

trlaunch's rows are those of the native launcher where it was built (``python setup.py build_ext --inplace``). A second
process then measures the pure-Python path, ``TRLAUNCH_PURE_PYTHON=1``, beside a floor of its own.

A way whose package is missing is left out, and that is said. Needs an NVIDIA GPU::

    python benchmarks/launch_latency.py --json launch_latency.json
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import itertools
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import trlaunch
from trlaunch.devices import get
from trlaunch.launching import MODE

HERE = Path(__file__).resolve().parent / "launches"
INTS = (3, 5, 7, 11, 13, 19, 21, 23, 27)  # neither 1 nor multiples of 16: Triton specialises none of them
EXPECTED = float(sum((i + 1) * value for i, value in enumerate(INTS)))
CONSTEXPRS = tuple(range(5))
FLOOR_SOURCE = """
typedef int (*launch_t)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                        void **);
int burst(launch_t launch, void *function, unsigned threads, unsigned shared, void **parameters, int count) {
    int status = 0;
    for (int i = 0; i < count; i++) status |= launch(function, 1, 1, 1, threads, 1, 1, shared, 0, parameters, 0);
    return status;
}
"""


class Missing(Exception):
    """A way cannot be measured here; says why."""


@dataclass
class Subject:
    """The kernel that every way launches, loaded once through the driver."""

    name: str
    kernel: trlaunch.Kernel
    cubin: bytes
    function: Any  # CUfunction
    threads: int
    shared: int
    ints: tuple[int, ...]
    arrays: tuple[trlaunch.DeviceArray, ...]

    @property
    def addresses(self) -> tuple[int, ...]:
        return tuple(array.address for array in self.arrays)

    def packed(self) -> tuple[Any, list[Any]]:
        """``kernelParams`` for the driver, and what must live as long as it."""
        values = [*map(ctypes.c_uint64, self.addresses), *map(ctypes.c_int32, self.ints)]
        values += [ctypes.c_uint64(0), ctypes.c_uint64(0)]  # the hidden scratch pointers
        return (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values)), values


@dataclass
class Way:
    """One way to launch: `burst` launches so many times; `result` reads what the last launch stored."""

    name: str
    burst: Callable[[int], object]
    result: Callable[[], float]
    clear: Callable[[], object]
    keep: Any = None
    times: list[float] = field(default_factory=list)


def repeat(call: Callable[[], object]) -> Callable[[int], None]:
    def burst(count: int) -> None:
        for _ in itertools.repeat(None, count):
            call()

    return burst


def calling(function: Callable[..., object], *arguments: Any, **named: Any) -> Callable[[int], None]:
    """A burst of ``function(a, b, c, ...)``: no tuple is unpacked on the way."""
    values = {f"a{i}": value for i, value in enumerate(arguments)} | {f"k_{name}": v for name, v in named.items()}
    passed = [*(f"a{i}" for i in range(len(arguments))), *(f"{name}=k_{name}" for name in named)]
    source = (
        f"def make(function, repeat, {', '.join(values)}):\n"
        f"    def burst(count):\n"
        f"        for _ in repeat(None, count):\n"
        f"            function({', '.join(passed)})\n"
        f"    return burst\n"
    )
    names: dict[str, Any] = {}
    exec(source, names)
    made: Callable[[int], None] = names["make"](function, itertools.repeat, **values)
    return made


def getting(function: Any, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> Callable[[int], None]:
    """A burst of ``function[grid](a, b, c, ...)``."""
    passed = [f"a{i}" for i in range(len(arguments))]
    source = (
        f"def make(function, repeat, grid, {', '.join(passed)}):\n"
        f"    def burst(count):\n"
        f"        for _ in repeat(None, count):\n"
        f"            function[grid]({', '.join(passed)})\n"
        f"    return burst\n"
    )
    names: dict[str, Any] = {}
    exec(source, names)
    made: Callable[[int], None] = names["make"](function, itertools.repeat, grid, *arguments)
    return made


def need(*names: str) -> Any:
    """Import modules, the last of which is returned."""
    try:
        return [importlib.import_module(name) for name in names][-1]
    except ImportError as error:
        raise Missing(str(error)) from None


def bindings() -> Any:
    return need("cuda.bindings.driver")


def call(name: str, *arguments: Any) -> Any:
    status, *results = getattr(bindings(), name)(*arguments)
    if status:
        raise SystemExit(f"{name}: {status.name}")
    return results[0] if results else None


def subject(name: str, capability: int) -> Subject:
    kernel = trlaunch.Kernel.from_file(HERE / (f"cuda90/{name}.cubin" if capability == 90 else f"cuda80/{name}.ptx"))
    cubin = kernel.artifact.data
    if capability != 90:
        from trlaunch.cuda.assembler import assemble

        properties = get("cuda").properties(0)
        cubin = assemble(cubin, properties.target, driver_version=properties.driver_version).cubin
    module = call("cuModuleLoadData", cubin)
    function = call("cuModuleGetFunction", module, name.encode())
    with_arguments = name == "fourteen_kernel"
    arrays = tuple(trlaunch.asarray(np.zeros(4, np.float32), device="cuda:0") for _ in range(5 * with_arguments))
    ints = INTS if with_arguments else ()
    return Subject(name, kernel, cubin, function, kernel.threads or 0, kernel.shared or 0, ints, arrays)


# --- the ways --------------------------------------------------------------------------------------------------------


def own(s: Subject, name: str, burst: Callable[[int], object], keep: Any = None) -> Way:
    """A way that launches on the subject's own arrays."""
    if not s.arrays:
        return Way(name, burst, lambda: EXPECTED, lambda: None, keep)
    out = s.arrays[-1]
    return Way(name, burst, lambda: float(out.numpy()[0]), lambda: out.copy_from(np.zeros(4, np.float32)), keep)


def c_loop(s: Subject) -> Way:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("no gcc")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "floor.c"), Path(folder, "floor.so")
        source.write_text(FLOOR_SOURCE)
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        loop = ctypes.CDLL(str(library)).burst
    launch = ctypes.cast(ctypes.CDLL("libcuda.so.1").cuLaunchKernel, ctypes.c_void_p)
    loop.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_int]
    parameters, values = s.packed()

    def burst(count: int) -> None:
        if loop(launch, int(s.function), s.threads, s.shared, parameters, count):
            raise SystemExit("cuLaunchKernel failed")

    return own(s, "C loop over cuLaunchKernel, packed before", burst, values)


def bindings_packed(s: Subject) -> Way:
    launch = bindings().cuLaunchKernel
    parameters, values = s.packed()
    address = ctypes.addressof(parameters)
    f, threads, shared, stream = s.function, s.threads, s.shared, bindings().CUstream(0)

    burst = calling(launch, f, 1, 1, 1, threads, 1, 1, shared, stream, address, 0)
    return own(s, "cuda.bindings, packed before", burst, (parameters, values))


def bindings_tuple(s: Subject) -> Way:
    launch = bindings().cuLaunchKernel
    types = (*[ctypes.c_uint64] * len(s.addresses), *[ctypes.c_int32] * len(s.ints), ctypes.c_uint64, ctypes.c_uint64)
    addresses, ints, stream = s.addresses, s.ints, bindings().CUstream(0)
    f, threads, shared = s.function, s.threads, s.shared

    def one() -> None:
        launch(f, 1, 1, 1, threads, 1, 1, shared, stream, ((*addresses, *ints, 0, 0), types), 0)

    return own(s, "cuda.bindings, (values, ctypes) tuple", repeat(one))


def bindings_struct(s: Subject) -> Way:
    torch = need("torch")
    launch = bindings().cuLaunchKernel
    layout = struct.Struct(f"<{len(s.addresses)}Q{len(s.ints)}i{'4x' * (len(s.ints) % 2)}QQ")
    buffer, size = ctypes.create_string_buffer(layout.size), ctypes.c_size_t(layout.size)
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
    address, pack, ints = ctypes.addressof(extra), layout.pack_into, s.ints
    tensors = [torch.zeros(4, device="cuda") for _ in s.arrays]
    f, threads, shared, stream = s.function, s.threads, s.shared, bindings().CUstream(0)

    def one() -> None:
        pack(buffer, 0, *[t.data_ptr() for t in tensors], *ints, 0, 0)
        launch(f, 1, 1, 1, threads, 1, 1, shared, stream, 0, address)

    return of_torch("struct.pack_into, data_ptr() and cuda.bindings", repeat(one), tensors, (size, extra))


def of_torch(name: str, burst: Callable[[int], object], tensors: list[Any], keep: Any = None) -> Way:
    if not tensors:
        return Way(name, burst, lambda: EXPECTED, lambda: None, keep)
    return Way(name, burst, lambda: float(tensors[-1][0]), tensors[-1].zero_, keep)


def trlaunch_own(s: Subject) -> Way:
    return own(s, f"trlaunch ({MODE}), its own arrays", calling(s.kernel.launch, (1,), *s.arrays, *s.ints))


def trlaunch_bound(s: Subject) -> Way:
    bound = s.kernel.bind(grid=(1,), stream=0)
    if not s.arrays:
        return own(s, f"trlaunch ({MODE}), bound", calling(bound))
    torch = need("torch")
    tensors = [torch.zeros(4, device="cuda") for _ in s.arrays]
    return of_torch(f"trlaunch ({MODE}), bound, torch tensors", calling(bound, *tensors, *s.ints), tensors)


def trlaunch_pointers(s: Subject) -> Way:
    if not s.arrays:
        raise Missing("no argument to pass")
    pointers = [trlaunch.Pointer(address) for address in s.addresses]
    return own(s, f"trlaunch ({MODE}), raw pointers", calling(s.kernel.launch, (1,), *pointers, *s.ints))


def trlaunch_torch(s: Subject) -> Way:
    torch = need("torch")
    if not s.arrays:
        raise Missing("no argument to pass")
    tensors = [torch.zeros(4, device="cuda") for _ in s.arrays]
    return of_torch(f"trlaunch ({MODE}), torch tensors", calling(s.kernel.launch, (1,), *tensors, *s.ints), tensors)


def trlaunch_cupy(s: Subject) -> Way:
    cupy = need("cupy")
    if not s.arrays:
        raise Missing("no argument to pass")
    arrays = [cupy.zeros(4, cupy.float32) for _ in s.arrays]
    burst = calling(s.kernel.launch, (1,), *arrays, *s.ints)
    return Way(f"trlaunch ({MODE}), CuPy arrays", burst, lambda: float(arrays[-1][0]), lambda: arrays[-1].fill(0))


def cuda_core(s: Subject) -> Way:
    core = need("cuda.core")
    if not hasattr(core, "ObjectCode"):
        raise Missing("this release has no cuda.core.ObjectCode")
    device = core.Device(0)
    device.set_current()
    kernel = core.ObjectCode.from_cubin(s.cubin).get_kernel(s.name)
    config = core.LaunchConfig(grid=1, block=s.threads, shmem_size=s.shared)
    stream, launch = device.default_stream, core.launch
    arguments = (*s.addresses, *map(np.int32, s.ints), 0, 0)
    return own(s, "cuda.core launch, addresses before", calling(launch, stream, config, kernel, *arguments))


def cupy_raw(s: Subject) -> Way:
    cupy = need("cupy")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(s.cubin)
        file.flush()
        function = cupy.RawModule(path=file.name).get_function(s.name)
        function.compile()  # loads the file
    arrays = [cupy.zeros(4, cupy.float32) for _ in s.arrays]
    arguments = (*arrays, *map(np.int32, s.ints), np.uint64(0), np.uint64(0))
    grid, block, shared = (1,), (s.threads,), s.shared
    burst = repeat(lambda: function(grid, block, arguments, shared_mem=shared))
    if not arrays:
        return Way("CuPy RawModule", burst, lambda: EXPECTED, lambda: None)
    return Way("CuPy RawModule", burst, lambda: float(arrays[-1][0]), lambda: arrays[-1].fill(0))


def triton_arguments(s: Subject) -> tuple[Any, list[Any], tuple[Any, ...]]:
    """The jitted function, its tensors, and everything that is passed."""
    torch, _ = need("torch"), need("triton")
    spec = importlib.util.spec_from_file_location("launch_kernels", HERE / "kernels.py")
    assert spec is not None
    assert spec.loader is not None
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    tensors = [torch.zeros(4, device="cuda") for _ in s.arrays]
    return getattr(kernels, s.name), tensors, (*tensors, *s.ints, *(CONSTEXPRS if s.arrays else ()))


def triton_jit(s: Subject) -> Way:
    function, tensors, arguments = triton_arguments(s)
    grid = (1, 1, 1)
    return of_torch("Triton JIT kernel[grid](...)", getting(function, grid, arguments), tensors)


def triton_compiled(s: Subject) -> Way:
    function, tensors, arguments = triton_arguments(s)
    grid = (1, 1, 1)
    compiled = function[grid](*arguments)
    return of_torch("Triton compiled[grid](...)", getting(compiled, grid, arguments), tensors)


def triton_run(s: Subject) -> Way:
    function, tensors, arguments = triton_arguments(s)
    compiled = function[1, 1, 1](*arguments)
    run, handle, packed = compiled.run, compiled.function, compiled.packed_metadata
    burst = calling(run, 1, 1, 1, 0, handle, packed, None, None, None, *arguments)
    return of_torch("Triton CompiledKernel.run", burst, tensors)


WAYS: tuple[Callable[[Subject], Way], ...] = (
    c_loop,
    bindings_packed,
    cuda_core,
    bindings_struct,
    bindings_tuple,
    trlaunch_pointers,
    trlaunch_own,
    trlaunch_bound,
    trlaunch_torch,
    trlaunch_cupy,
    cupy_raw,
    triton_run,
    triton_compiled,
    triton_jit,
)


# --- measuring -------------------------------------------------------------------------------------------------------


def microseconds(way: Way, launches: int, burst: int) -> float:
    """Host time of one launch."""
    spent = 0
    for _ in range(launches // burst):
        start = time.perf_counter_ns()
        way.burst(burst)
        spent += time.perf_counter_ns() - start
        call("cuCtxSynchronize")
    return spent / (launches // burst * burst) / 1e3


def prepare(s: Subject, own_only: bool) -> tuple[list[Way], dict[str, str]]:
    """The ways that can be measured here, each found to pass its arguments right, and why the others cannot."""
    ready, missing = [], {}
    for make in WAYS:
        if own_only and make is not c_loop and not make.__name__.startswith("trlaunch"):
            continue
        name = make.__name__.replace("_", " ")
        try:
            way = make(s)
            way.clear()
            call("cuCtxSynchronize")
            way.burst(1)
            call("cuCtxSynchronize")
            found = way.result()
        except Missing as error:
            missing[name] = str(error)
        except Exception as error:  # noqa: BLE001  other people's packages; it is reported, and the run fails
            missing[name] = f"FAILED, {type(error).__name__}: {error}"
        else:
            if found == EXPECTED:
                ready.append(way)
            else:
                missing[name] = f"FAILED: the kernel stored {found}, expected {EXPECTED}"
    return ready, missing


def machine() -> dict[str, Any]:
    properties = get("cuda").properties(0)
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    versions = {}
    for package in ("cuda-bindings", "cuda-core", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "gpu": properties.name,
        "driver": ".".join(map(str, properties.driver_version or ())),
        "processor": processor,
        "python": platform.python_version(),
        "trlaunch": trlaunch.__version__,
        "packages": versions,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--launches", type=int, default=20_000, help="of each way in each repeat")
    parser.add_argument("--burst", type=int, default=250, help="launches between two synchronisations")
    parser.add_argument("--own", action="store_true", help="only the floor and trlaunch, in this process alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every time measured here")
    options = parser.parse_args()
    try:
        properties = get("cuda").properties(0)
    except trlaunch.DeviceUnavailable as error:
        print(f"needs an NVIDIA GPU: {error}")
        return 0
    call("cuCtxPushCurrent", call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", 0)))
    where = machine()
    print(f"{where['gpu']}, CUDA {where['driver']} driver; {where['processor']}; Python {where['python']}")
    print(", ".join(f"{name} {number}" for name, number in where["packages"].items()))
    report: dict[str, Any] = {"machine": where, "repeats": options.repeats, "launches": options.launches}
    failed = False
    report |= {"burst": options.burst, "unit": "microseconds of host time per launch", "kernels": {}}
    for name in ("none_kernel", "fourteen_kernel"):
        s = subject(name, properties.target.capability)
        ways, missing = prepare(s, options.own)
        failed |= any(reason.startswith("FAILED") for reason in missing.values())
        if not ways:
            raise SystemExit("\n".join(f"{left_out}: {reason}" for left_out, reason in missing.items()))
        gc.collect()
        gc.disable()
        for way in ways:
            microseconds(way, min(options.launches, 2000), options.burst)
        for _ in range(options.repeats):
            for way in ways:
                way.times.append(microseconds(way, options.launches, options.burst))
        gc.enable()
        medians = {way.name: statistics.median(way.times) for way in ways}
        floor = medians[ways[0].name]
        what = f"{len(s.arrays)} tensors and {len(s.ints)} ints" if s.arrays else "no argument"
        print(f"\n{what}: median of {options.repeats} x {options.launches:,} launches in bursts of {options.burst}")
        print(f"  {'way':48} {'us':>7} {'above':>7} {'ratio':>6}   fastest - slowest repeat")
        for way in sorted(ways, key=lambda way: medians[way.name]):
            us, low, high = medians[way.name], min(way.times), max(way.times)
            print(f"  {way.name:48} {us:7.2f} {us - floor:+7.2f} {us / floor:6.2f}   {low:.2f} - {high:.2f}")
        print(f"  the floor is: {ways[0].name}")
        for left_out, reason in missing.items():
            print(f"  not measured: {left_out} ({reason})")
        times = {way.name: {"median": medians[way.name], "repeats": way.times} for way in ways}
        report["kernels"][name] = {"floor": ways[0].name, "ways": times, "missing": missing}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if MODE == "native" and not options.own:
        print("\nThe pure-Python path, in a process of its own:\n", flush=True)
        arguments = [f"--{name}={getattr(options, name)}" for name in ("repeats", "launches", "burst")]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "pure.json")
            done = subprocess.run(
                [sys.executable, __file__, "--own", *arguments, "--json", file],
                env={**os.environ, "TRLAUNCH_PURE_PYTHON": "1"},
                check=False,
            )
            failed |= done.returncode != 0
            if file.exists() and options.json:
                report["pure"] = json.loads(file.read_text())["kernels"]
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
