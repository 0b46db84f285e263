"""Plans: native, generated and explaining launches do the same, over the fake libcuda.

One script runs in a process for each of the three; what it prints (results and messages) and what reached the driver
must be equal. The explaining path's bytes are those that `tests.cuda.test_launch_bytes` checks against PTX and NumPy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from tests.launcher import build_launcher, compile_c


@dataclass(frozen=True)
class Mode:
    """One of the three: what a process of it begins with."""

    name: str
    setting: str
    prefix: str = ""
    env: dict[str, str] = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "env", {"TRLAUNCH_PURE_PYTHON": self.setting})


EXPLAIN = Mode("explain", "explain")


@pytest.fixture(scope="module", params=["python", "native"])
def mode(request, tmp_path_factory):
    if request.param == "python":
        return Mode("python", "1")
    folder = build_launcher(tmp_path_factory.mktemp("launcher"))
    return Mode("native", "0", f"import trlaunch\ntrlaunch.__path__.insert(0, {str(folder)!r})\n")


SETUP = """
import ctypes, json, math, random, sys, threading, types, warnings
import numpy as np
import trlaunch
from trlaunch import Kernel, Pointer, TensorDescriptor
from trlaunch import kernel as kernel_module, launching
from tests.arrays import CupyLike, TorchLike
from tests.corpus import cases, find
from tests.cuda.test_launch_bytes import values_of
from tests.fakecuda.inside import cuda, driver, fail, user_context

BASE = 0x7F40_0000_0000
explained = 0
original = Kernel._choose

def choose(self, *given):
    global explained
    explained += 1
    return original(self, *given)

Kernel._choose = choose

def primary(ordinal):
    driver()
    context = cuda("cuDevicePrimaryCtxRetain", ordinal)
    cuda("cuCtxSetCurrent", context)
    return context

def array(address, device="cuda:0", dtype="fp32"):
    made = trlaunch.empty(0, dtype, device)  # of its own it would be somewhere else in each process
    made.address, made.shape, made.nbytes = address, (1024,), 4096
    made._native = (address, *made._native[1:])
    return made

def attempt(kernel, *given, **named):
    try:
        call = kernel.launch if isinstance(kernel, Kernel) else kernel
        print(call(*given, **named))
    except (trlaunch.TrlaunchError, TypeError) as error:
        print(type(error).__name__, error)
"""

TORCH = """
class DLTensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16),
                ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("offset", ctypes.c_uint64))

From = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))
Current = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p))

class Exchange(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("previous", ctypes.c_void_p),
                ("functions", ctypes.c_void_p * 3), ("read", From), ("current", Current))

class dtype:
    def __init__(self, name): self.name = name
    def __str__(self): return "torch." + self.name
    __repr__ = __str__

torch = types.ModuleType("torch")
torch.dtype = dtype
NUMBERS = {"float16": (2, 16), "float32": (2, 32), "float64": (2, 64), "bfloat16": (4, 16), "int32": (0, 32),
           "int64": (0, 64), "uint8": (1, 8), "bool": (6, 8), "complex64": (5, 64)}
for name in NUMBERS:
    setattr(torch, name, dtype(name))

class Tensor(TorchLike):
    reads = 0
    def __init__(self, address, shape=(1024,), dtype="float32", device="cuda:0", strides=None):
        super().__init__(address, shape, "float32", device, strides)
        self.dtype = getattr(torch, dtype)
        self.sizes = (ctypes.c_int64 * len(shape))(*shape)
        self.steps = (ctypes.c_int64 * len(shape))(*self.stride())
    def element_size(self): return NUMBERS[self.dtype.name][1] // 8
    @property
    def is_cuda(self): return self.device.type == "cuda"
    def get_device(self): return (self.device.index or 0) if self.is_cuda else -1

def read(tensor, out):
    Tensor.reads += 1
    code, bits = NUMBERS[tensor.dtype.name]
    out[0] = DLTensor(tensor.address - 8, 2 if tensor.is_cuda else 1, max(tensor.get_device(), 0), len(tensor.shape),
                      code, bits, 1, ctypes.addressof(tensor.sizes), ctypes.addressof(tensor.steps), 8)
    return 0

current = {}
def current_stream(kind, ordinal, out):
    out[0] = current.get(ordinal, 0)
    return 0

torch.Tensor = Tensor
torch._C = types.SimpleNamespace(_cuda_getCurrentRawStream=lambda ordinal: current.get(ordinal, 0))
sys.modules["torch"] = torch

def with_table(major=1):
    global api
    api = Exchange(major, 3, None, (ctypes.c_void_p * 3)(1, 1, 1), From(read), Current(current_stream))
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    Tensor.__dlpack_c_exchange_api__ = new(ctypes.addressof(api), b"dlpack_exchange_api", None)
"""


def same(fakecuda, mode, script, **options):
    """Run in the explaining and in another mode; what both printed, and how often the other explained."""
    tail = "\nprint('explained', explained)\n"
    runs = {}
    for each in (EXPLAIN, mode):
        runs[each.name] = fakecuda.run(
            each.prefix + SETUP + script + tail, **{"devices": (90, 80), "env": each.env, **options}
        )
    lines = {name: recorded.stdout.splitlines() for name, recorded in runs.items()}
    assert lines["explain"][:-1] == lines[mode.name][:-1]
    launches = {name: recorded.of("cuLaunchKernelEx") for name, recorded in runs.items()}
    for name, calls in launches.items():  # handles are other addresses in each process: by their first appearance
        seen: dict[tuple[str, int], int] = {}
        launches[name] = [
            {k: seen.setdefault((k, v), len(seen)) if k in ("stream", "context") else v for k, v in call.values.items()}
            | {"thread": call.thread, "status": call.status}
            for call in calls
        ]
    assert launches["explain"] == launches[mode.name]
    assert launches[mode.name]
    return lines[mode.name][:-1], *(int(lines[name][-1].split()[1]) for name in ("explain", mode.name))


def test_scalars_of_every_type(fakecuda, mode):
    _, long, short = same(
        fakecuda,
        mode,
        """
primary(0)
for case in cases(kernel="scalars_kernel", target="cuda:90"):
    kernel = Kernel.from_file(case.path("cubin"))
    for number in range(40):
        attempt(kernel, 1 + number % 3, *[Pointer(v) if t.startswith("*") else v for t, v in values_of(case, number)])
""",
    )
    assert long == 400
    # The generated plan leaves to others what `struct` does not take: 200 for an i8 of unknown sign, 1e300 for fp16.
    assert short == 10 if mode.name == "native" else short < 400


WRONG = """
primary(0)
case = find("3.6.0", "cuda:90", "scalars_kernel")
kernel = Kernel.from_file(case.path("cubin"))
odd = [None, "x", b"", 1.5, True, False, -1, 1, 2**7, 2**8, 2**15, 2**16, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1,
       2**64, -2**31, -2**31 - 1, -2**63, -2**63 - 1, 10**400, math.nan, math.inf, -0.0, 1e39, 65520.0, 1 + 1j,
       np.int32(3), np.float32(1.5), np.float64(2.5), np.bool_(True), np.array(3), np.zeros(4), Pointer(BASE),
       Pointer(BASE + 1), Pointer(0), Pointer(2**64 - 16), TorchLike(BASE), TorchLike(BASE, dtype="float16"),
       TorchLike(BASE, device="cuda:1"), TorchLike(BASE, device="cpu"), types.SimpleNamespace(), (), (1,), [1.5], (1,
       2)]
good = [Pointer(BASE) if p.type.startswith("*") else 1.5 if p.type[0] in "bf" and p.type[:3] != "fp8" else 1
        for p in case.params]
kernel.launch(1, *good)
for position in range(len(good)):
    for value in odd:
        attempt(kernel, 1, *good[:position], value, *good[position + 1:])
attempt(kernel, 1, *good[:-1])
attempt(kernel, 1, *good, 1)
attempt(kernel, 1)
names = [p.name for p in kernel.signature.user]
attempt(kernel, 1, **dict(zip(names, good)))
attempt(kernel, 1, *good[:3], **dict(zip(names[3:], good[3:])))
attempt(kernel, 1, *good[:3], **dict(zip(names[2:], good[2:])))
attempt(kernel, 1, *good, nonsense=1)
attempt(kernel, 1, tuple(good[:2]), *good[2:])
attempt(kernel, 1, [good[0], (good[1],)], *good[2:])
for grid in (1, (2,), [2, 3], (1, 1, 1), (1, 1, 1, 1), (), 0, (0, 1), -1, (1.0,), 1.0, True, (True, 2),
             np.int64(2), (np.int64(2), 1), "1", None, 2**31 - 1, 2**31, (1, 65535), (1, 65536), (1.0,), (1,), 2**70):
    attempt(kernel, grid, *good)
    try:
        bound = kernel.bind(grid=grid)
    except trlaunch.ArgumentError as error:
        print(error)
    else:
        attempt(bound, *good)
for stream in (None, 0, 1, 2, True, -1, 2**64, "x", 1.5, 12345, int(cuda("cuStreamCreate", 0)) and 0):
    attempt(kernel, 1, *good, stream=stream)
for device in (None, "cuda", "cuda:0", "cuda:1", "cuda:7", "nonsense", trlaunch.Device("cuda", 0), 3):
    for _ in range(2):
        attempt(kernel, 1, *good, device=device)
attempt(kernel)
attempt(kernel, *good, grid=1)
attempt(kernel[2], *good)
attempt(kernel[2], *good[:-1])
attempt(kernel[(1, 2)], *good, stream=1)
attempt(kernel.bind(grid=1, stream=1, device="cuda:0"), *good)
attempt(kernel.bind(grid=1, stream=1), *good[:3], **dict(zip(names[3:], good[3:])))
"""


def test_whatever_is_wrong_is_explained_alike(fakecuda, mode):
    lines, long, short = same(fakecuda, mode, WRONG)
    assert sum(line.startswith("ArgumentError") for line in lines) > 200
    assert sum(line == "None" for line in lines) > 100
    assert short < long


@pytest.mark.parametrize("table", [True, False], ids=["table", "methods"])
def test_torch_tensors_are_checked_and_bring_their_stream(fakecuda, mode, table):
    _, long, short = same(
        fakecuda,
        mode,
        TORCH
        + ("with_table()" if table else "")
        + """
contexts = [primary(1), primary(0)]
case = find("3.6.0", "cuda:90", "add_kernel")
kernel = Kernel.from_file(case.path("cubin"))
streams = [int(cuda("cuStreamCreate", 0)) for _ in range(2)]
good = [Tensor(BASE + 4096 * i) for i in range(3)]
for step in range(6):
    current[0] = streams[step % 2]
    attempt(kernel, 4, *good, 1024)
    attempt(kernel, 4, *good, 1024, stream=0)
    attempt(kernel[4], *good, 1024)
    attempt(kernel.bind(grid=4, stream=streams[1]), *good, 1024)
attempt(kernel, 4, *good, 1024, stream=types.SimpleNamespace(cuda_stream=streams[0]))
attempt(kernel, 4, *good, 1024, stream=types.SimpleNamespace())
bad = [Tensor(BASE, device="cpu"), Tensor(BASE, device="cuda:1"), Tensor(BASE + 4), Tensor(BASE, dtype="float16"),
       Tensor(BASE, dtype="int32"), Tensor(BASE, dtype="complex64"), Tensor(0, (0,)),
       Tensor(BASE, (0,), device="cuda:1"), Tensor(0, (0,), device="cpu"), None, 5, 5.0]
for position in range(3):
    for value in bad:
        attempt(kernel, 4, *good[:position], value, *good[position + 1:], 1024)
for tensor in good:
    attempt(kernel, 4, *good, tensor)
attempt(kernel, 4, *good, 1000)
current.clear()
attempt(kernel, 4, good[0], Pointer(BASE), good[1], 1024)
"""
        + "print()\n",
        devices=(90, 90),
    )
    assert short < long - 15


def test_torch_without_a_table_or_with_a_later_one_is_read_by_its_methods(fakecuda, mode):
    script = """
primary(0)
case = find("3.6.0", "cuda:90", "add_kernel")
kernel = Kernel.from_file(case.path("cubin"))
for _ in range(3):
    kernel.launch(4, *[Tensor(BASE + 4096 * i) for i in range(3)], 1024)
print(Tensor.reads, explained)
"""
    for table, reads in (("with_table()", 6), ("with_table(2)", 0), ("", 0)):
        recorded = fakecuda.run(mode.prefix + SETUP + TORCH + table + script, env=mode.env)
        assert recorded.stdout.split() == [str(reads if mode.name == "native" else 0), "1"]


SHIM = """
typedef struct { void *data; int type, device, dtype; } Tensor;
int reads, questions;
int aoti_torch_device_type_cpu(void) { return 0; }
int aoti_torch_device_type_cuda(void) { return 1; }
int aoti_torch_get_data_ptr(Tensor **t, void **out) { reads++; *out = (*t)->data; return 0; }
int aoti_torch_get_device_type(Tensor **t, int *out) { questions++; *out = (*t)->type; return 0; }
int aoti_torch_get_device_index(Tensor **t, int *out) { *out = (*t)->device; return 0; }
int aoti_torch_get_dtype(Tensor **t, int *out) { *out = (*t)->dtype; return WRONG; }
"""

# A ctypes structure has the address of its bytes inside of it, as a tensor has that of its TensorImpl. KEYED says
# whether dtype and device are found in them, side by side.
HANDLES = (
    TORCH
    + """
class Tensor(ctypes.Structure):
    _fields_ = (("address", ctypes.c_uint64), ("kind", ctypes.c_int), ("ordinal", ctypes.c_int),
                ("number", ctypes.c_int), ("gap", ctypes.c_int), ("key", ctypes.c_uint8 * 168))
    NUMBERS = {name: i for i, name in enumerate(NUMBERS)}
    def __init__(self, address, dtype="float32", device="cuda:0"):
        kind, _, ordinal = device.partition(":")
        super().__init__(address, kind == "cuda", int(ordinal or 0) if kind == "cuda" else -1, Tensor.NUMBERS[dtype])
        if KEYED:
            self.key[24:29] = self.number, 0, self.kind, self.ordinal & 255, 1
        self.dtype, self.device = getattr(torch, dtype), types.SimpleNamespace(type=kind, index=int(ordinal or 0))
        self.shape = (1024,)
    _cdata = property(ctypes.addressof)
    def data_ptr(self): return self.address
    def get_device(self): return self.ordinal
    def stride(self): return (1,)
    def element_size(self): return 4
    is_cuda = property(lambda self: self.kind == 1)
torch.Tensor, torch.__file__ = Tensor, FOLDER + "/torch/__init__.py"
torch.empty = lambda size, dtype, device: Tensor(4096, dtype.name, device)
torch.cuda = types.SimpleNamespace(is_initialized=lambda: True, current_device=lambda: 0)
Tensor.__module__ = "torch"
"""
)


def build_shim(folder, wrong=0):
    """torch's library in ``FOLDER / torch / lib``, whose dtypes are read in vain where it is `wrong`."""
    libraries = folder / "torch" / "lib"
    libraries.mkdir(parents=True)
    (folder / "shim.c").write_text(SHIM)
    compile_c(folder / "shim.c", libraries / "libtorch_cpu.so", f"-DWRONG={wrong}")


@pytest.mark.parametrize("keyed", [False, True], ids=["asked", "by their bytes"])
@pytest.mark.parametrize("wrong", [0, 1], ids=["as it says", "refusing"])
def test_torch_tensors_are_read_by_its_c_interface(fakecuda, mode, tmp_path, wrong, keyed):
    build_shim(tmp_path, wrong)
    lines, long, short = same(
        fakecuda,
        mode,
        f"FOLDER, KEYED = {str(tmp_path)!r}, {keyed}"
        + HANDLES
        + """
contexts = [primary(1), primary(0)]
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
streams = [int(cuda("cuStreamCreate", 0)) for _ in range(2)]
good = [Tensor(BASE + 4096 * i) for i in range(3)]
for step in range(6):
    current[0] = streams[step % 2]
    attempt(kernel, 4, *good, 1024)
    attempt(kernel.bind(grid=4, stream=streams[1]), *good, 1024)
bad = [Tensor(BASE, device="cpu"), Tensor(BASE, device="cuda:1"), Tensor(BASE + 4), Tensor(BASE, "float16"),
       Tensor(BASE, "int32"), Tensor(BASE, "complex64"), Tensor(0), None]
for position in range(3):
    for value in bad:
        attempt(kernel, 4, *good[:position], value, *good[position + 1:], 1024)
shim = ctypes.CDLL(FOLDER + "/torch/lib/libtorch_cpu.so")
with open(FOLDER + "/reads", "w") as file:
    file.write(" ".join(str(ctypes.c_int.in_dll(shim, name).value) for name in ("reads", "questions")))
""",
        devices=(90, 90),
    )
    assert sum(line.startswith("ArgumentError") for line in lines) >= 15
    assert short < long - 9
    # All 9 dtypes are looked at, and a refusal ends it; then each launch reads 3 tensors.
    reads, questions = map(int, (tmp_path / "reads").read_text().split())
    assert reads == 0 if mode.name == "python" else reads <= 9 if wrong else reads > 36
    if mode.name == "native" and not wrong:  # with known bytes each slot asks once, besides about what is wrong
        assert questions - 9 <= 3 + 2 * 3 * 8 if keyed else questions >= reads


@pytest.mark.parametrize("mode", ["native"], indirect=True)
def test_bytes_of_a_tensor_that_contradict_its_functions_are_not_believed(fakecuda, mode, tmp_path):
    build_shim(tmp_path)
    recorded = fakecuda.run(
        mode.prefix
        + SETUP
        + f"FOLDER, KEYED = {str(tmp_path)!r}, True"
        + HANDLES
        + """
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
shim = ctypes.CDLL(FOLDER + "/torch/lib/libtorch_cpu.so")
good = [Tensor(BASE + 4096 * i) for i in range(3)]
def asked(*tensors):
    count = ctypes.c_int.in_dll(shim, "questions")
    before = count.value
    kernel.launch(4, *tensors, 1024)
    return count.value - before
kernel.launch(4, *good, 1024)
print(asked(*good), asked(*good), asked(good[1], good[0], Tensor(BASE)))
lying = Tensor(BASE)
lying.key[27] = 1  # another device's index
print(asked(lying, *good[1:]), asked(*good), explained)
""",
        env=mode.env,
    )
    # Once for each slot, then never again; a contradiction ends that for good.
    assert recorded.stdout.split() == ["3", "0", "0", "3", "3", "1"]


def test_every_device_and_context(fakecuda, mode):
    _, long, short = same(
        fakecuda,
        mode,
        """
case = find("3.6.0", "cuda:80", "add_kernel")
kernel = Kernel.from_file(case.path("cubin"))
both = [[array(BASE + 4096 * i, f"cuda:{n}") for i in range(3)] for n in (0, 1)]
for where in (None, 0, 1):
    if where is not None:
        primary(where)
    for _ in range(3):
        for arrays in both:
            attempt(kernel, 4, *arrays, 1024)
            attempt(kernel, 4, Pointer(BASE), *arrays[1:], 1024)
        attempt(kernel, 4, *both[0][:2], both[1][0], 1024)
        attempt(kernel, 4, *[Pointer(BASE)] * 3, 1024)
        attempt(kernel, 4, *[Pointer(BASE)] * 3, 1024, device="cuda:1")
own = user_context(1)
for _ in range(2):
    for arrays in both:
        attempt(kernel, 4, *arrays, 1024)
given = Kernel.from_file(case.path("cubin"), device="cuda:1")
for _ in range(3):
    attempt(given, 4, *both[1], 1024)
    attempt(given, 4, *both[0], 1024)
    attempt(given, 4, *[Pointer(BASE)] * 3, 1024)
    attempt(given, 4, *[Pointer(BASE)] * 3, 1024, device="cuda:0")
thread = threading.Thread(target=lambda: [attempt(given, 4, *both[1], 1024) for _ in range(3)])
thread.start()
thread.join()
""",
        devices=(80, 80),
    )
    assert short < long / 2


def test_clusters_cooperative_grids_and_programmatic_launches(fakecuda, mode):
    _, long, short = same(
        fakecuda,
        mode,
        """
primary(0)
for name in ("cluster_kernel", "cluster_matmul_kernel", "cooperative_kernel", "pdl_kernel"):
    for case in cases(kernel=name, target="cuda:90"):
        kernel = Kernel.from_file(case.path("cubin"))
        values = [Pointer(BASE) if p.type.startswith("*") else p.value for p in case.params]
        for grid in ((4, 6), (4, 6), 3, (4, 6), 100000, 100000, (1, 40000)):
            attempt(kernel, grid, *values)
""",
    )
    assert short < long


DESCRIPTORS = """
primary(0)
class Foreign:
    pass
def descriptor(address, rows=512, cols=512, block=(64, 64), device="cuda:0", **more):
    return TensorDescriptor(Tensor(address, (rows, cols), "float16", device), (rows, cols), (cols, 1), block, **more)
A, B, C = 0x7F00_0000_0000, 0x7F10_0000_0000, 0x7F20_0000_0000
for release in ("3.2.0", "3.4.0", "3.6.0", "3.9.0"):
    kernel = Kernel.from_file(find(release, "cuda:90", "tma_matmul_kernel").path("cubin"))
    a, b, c = descriptor(A), descriptor(B), descriptor(C)
    for _ in range(3):
        attempt(kernel, 4, a, b, c, 512, 512, 512)
    a.tensor.address += 4096
    attempt(kernel, 4, a, b, c, 512, 512, 512)
    a.tensor.address += 4096
    for _ in range(2):
        attempt(kernel, 4, a, b, c, 512, 512, 512)
        attempt(kernel, 4, TensorDescriptor(a.tensor, block_shape=[64, 64]), b, c, 512, 512, 512)
        attempt(kernel, 4, TensorDescriptor(a.tensor, None, [512, 1], [64, 64]), b, c, 512, 512, 512)
        attempt(kernel, 4, TensorDescriptor(a.tensor, [256, 512], None, [64, 64]), b, c, 512, 512, 512)
    for bad in (descriptor(A + 8), descriptor(A, device="cuda:1"), descriptor(A, padding="nan"),
                descriptor(A, padding="one"), descriptor(A, round_f32_to_tf32=True), descriptor(A, block=(64,)),
                descriptor(A, 512, 500), descriptor(A, block=(512, 64)), descriptor(A, 0), a.tensor, None, 5,
                TensorDescriptor(a.tensor, (64, 64, 64), (1, 1, 1), (1, 1, 1)), bytes(128),
                TensorDescriptor(a.tensor, (512,), (1,), (64,)), TensorDescriptor(a.tensor, "xy", None, (64, 64))):
        for _ in range(2):
            attempt(kernel, 4, bad, b, c, 512, 512, 512)
            attempt(kernel, 4, a, b, bad, 512, 512, 512)
kernel = Kernel.from_file(find("3.6.0", "cuda:80", "tma_matmul_kernel").path("cubin"))
a, b, c = descriptor(A, device="cuda:1"), descriptor(B, device="cuda:1"), descriptor(C, device="cuda:1")
for _ in range(3):
    attempt(kernel, 4, a, b, c, 512, 512, 512)
    attempt(kernel, 4, descriptor(A, device="cuda:1", padding="nan"), b, c, 512, 512, 512)
    attempt(kernel, 4, a, b, 512, 512, 512)
"""


def test_tensor_descriptors(fakecuda, mode):
    _, long, short = same(fakecuda, mode, TORCH + "with_table()\n" + DESCRIPTORS)
    assert short < long - 60


def test_tensor_maps_are_encoded_anew_without_python(fakecuda, mode):
    _, long, short = same(
        fakecuda,
        mode,
        TORCH
        + "with_table()\n"
        + """
from trlaunch.packing import Packer
if launching.MODE == "native":
    Packer.encoded = lambda *given, **named: sys.exit("encoded by the interpreter")
class Size(tuple): pass  # as torch.Size is
primary(0)
for release in ("3.4.0", "3.6.0", "3.9.0"):
    kernel = Kernel.from_file(find(release, "cuda:90", "tma_matmul_kernel").path("cubin"))
    for i in range(40):
        rows, cols = 64 << i % 4, 128 * (1 + i % 3)
        made = [Tensor(BASE + 4096 * (i + j), (rows, cols), "float16") for j in range(3)]
        d = [TensorDescriptor(made[0], block_shape=[64, 64]),
             TensorDescriptor(made[1], Size((rows, cols)), (cols, 1), (64, 64), "nan" if i % 2 else "zero"),
             TensorDescriptor(array(BASE + 4096 * i, dtype="fp16"), (rows, cols), [cols, 1], [64, 64])]
        attempt(kernel, 4, *d, 512, 512, 512)
""",
        driver_version=13000,
    )
    assert long == 120
    assert short == 3


ARRAYS = """
class Own(CupyLike):  # a dtype as CuPy's and numba's have it
    dtype = property(lambda self: np.dtype(self.typestr))
class Odd(CupyLike):
    changes = {}
    @property
    def __cuda_array_interface__(self):
        return {k: v for k, v in {**CupyLike(self.address).__cuda_array_interface__, **self.changes}.items() if v != ""}
def odd(**changes):
    made = Odd(memory[0])
    made.changes = changes
    return made
contexts = [primary(1), primary(0)]
mmap = ctypes.CDLL(None).mmap
mmap.restype, mmap.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
def allocate(ordinal, address):  # page-locked, at the same address in each process
    cuda("cuCtxSetCurrent", contexts[1 - ordinal])
    assert mmap(address, 1 << 16, 3, 0x32, -1, 0) == address  # MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
    cuda("cuMemHostRegister", address, 1 << 16, 0)
    return address
FIXED = 0x2000_0000_0000  # where no system puts anything of its own
memory = [allocate(0, FIXED + (i << 32)) for i in range(3)]
far = allocate(1, FIXED + (3 << 32))
cuda("cuCtxSetCurrent", contexts[1])
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
streams = [int(cuda("cuStreamCreate", 0)) for _ in range(2)]
for kind in (CupyLike, Own):
    good = [kind(address) for address in memory]
    for _ in range(4):
        attempt(kernel, 4, *good, 1024)
        attempt(kernel[4], *good, 1024)
        attempt(kernel.bind(grid=4, stream=streams[0]), *good, 1024)
        attempt(kernel, 4, Pointer(memory[0]), good[1], array(memory[2]), 1024)
    for asked in (None, 0, 1, 2, *streams):
        for stream in (None, 0, 1, 2, *streams):
            attempt(kernel, 4, *good[:2], kind(memory[2], stream=asked), 1024, stream=stream)
            attempt(kernel, 4, good[0], kind(memory[1], stream=streams[0]), kind(memory[2], stream=asked), 1024,
                    stream=stream)
bad = [Own(far), Own(far, shape=(0,)), Own(0, shape=(0,)), Own(0), Own(BASE - 4096), Own(memory[0] + 4),
       Own(2**64 - 16), Own(memory[0], typestr="<f2"), Own(memory[0], typestr="<i4"), Own(memory[0], typestr=">f4"),
       Own(memory[0], (32, 32), strides=(128, 4)), Own(memory[0], (32, 32), strides=(130, 4)),
       Own(memory[0], (32, 32), strides=(4,)), Own(memory[0], (2,) * 7), CupyLike(memory[0], typestr="<V3"),
       Own(memory[0], read_only=True), odd(data=""), odd(data=5), odd(data=(None, False)), odd(data=(1.5, False)),
       odd(shape=""), odd(shape=[1024]), odd(typestr=""), odd(typestr="<f"), odd(typestr=5), odd(stream="x"),
       odd(stream=""), odd(strides=""), odd(strides=[4]), odd(strides=(True,)), odd(version=2)]
for position in range(3):
    for value in bad:
        for _ in range(2):
            attempt(kernel, 4, *good[:position], value, *good[position + 1:], 1024)
other = [Own(far + 4096 * i) for i in range(3)]
for _ in range(3):
    attempt(kernel, 4, *other, 1024)
    attempt(kernel, 4, *good, 1024)
    attempt(kernel, 4, Pointer(far), *other[:2], 1024)
fail("cuPointerGetAttributes", 700)
attempt(kernel, 4, *good, 1024)
fail("cuPointerGetAttributes", 0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "tma_matmul_kernel").path("cubin"))
for _ in range(6):
    a, b, c = [TensorDescriptor(Own(m, (64, 128), "<f2", strides), block_shape=[64, 64])
               for m, strides in zip(memory, (None, (256, 2), (512, 2)))]
    attempt(kernel, 4, a, b, c, 512, 512, 512)
    attempt(kernel, 4, TensorDescriptor(Own(memory[0] + 2, (64, 128), "<f2"), block_shape=[64, 64]), b, c, 1, 1, 1)
    attempt(kernel, 4, TensorDescriptor(Own(far, (64, 128), "<f2"), block_shape=[64, 64]), b, c, 1, 1, 1)
"""


def test_arrays_with_the_cuda_array_interface(fakecuda, mode):
    lines, long, short = same(fakecuda, mode, ARRAYS, devices=(90, 90), driver_version=13000)
    assert sum(line.startswith("ArgumentError") for line in lines) > 80
    assert sum(line == "None" for line in lines) > 150
    assert short < long - 70


def test_scratch_is_allocated_and_given_back_around_each_launch(fakecuda, mode):
    script = """
primary(0)
for release in ("3.3.1", "3.6.0", "3.9.0"):
    case = find(release, "cuda:90", "scratch_kernel")
    kernel = Kernel.from_file(case.path("cubin"))
    values = [Pointer(BASE) if p.type.startswith("*") else p.value for p in case.params]
    stream = int(cuda("cuStreamCreate", 0))
    for grid in (1, (2, 3), 1, (2, 3)):
        attempt(kernel, grid, *values)
        attempt(kernel, grid, *values, stream=stream)
        attempt(kernel, grid, *values[:-1])
    for call in ("cuMemAllocFromPoolAsync", "cuLaunchKernelEx", "cuMemFreeAsync"):
        fail(call, 2)
        attempt(kernel, 1, *values)
        fail(call, 0)
    attempt(kernel, 1, *values)
print(explained)
"""
    steps, stated, counts = {}, {}, {}
    for each in (EXPLAIN, mode):
        recorded = fakecuda.run(each.prefix + SETUP + script, env=each.env)
        steps[each.name] = [
            (call.name, call.status, call.values.get("size"), call.values.get("grid")) for call in recorded.calls
            if call.name in ("cuMemAllocFromPoolAsync", "cuMemFreeAsync", "cuMemsetD8Async", "cuLaunchKernelEx")
        ]  # fmt: skip
        *stated[each.name], explained = recorded.stdout.splitlines()
        counts[each.name] = int(explained)
        allocated = ""
        for call in recorded.calls:
            if call.name == "cuMemAllocFromPoolAsync" and not call.status:
                allocated = call["address"].to_bytes(8, "little").hex()
            if call.name == "cuLaunchKernelEx" and "parameters" in call.values:
                assert allocated in call["parameters"]
    assert steps["explain"] == steps[mode.name]
    assert stated["explain"] == stated[mode.name]
    assert sum(line.startswith("DriverError") for line in stated[mode.name]) == 9
    assert sum(name == "cuMemAllocFromPoolAsync" for name, *_ in steps[mode.name]) >= 30
    assert counts[mode.name] < counts["explain"] - 20


def test_statuses_of_the_driver_are_raised_alike(fakecuda, mode):
    lines, _, short = same(
        fakecuda,
        mode,
        """
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
arrays = [array(BASE + 4096 * i) for i in range(3)]
for _ in range(3):
    attempt(kernel, 4, *arrays, 1024)
for status in (1, 400, 701):
    fail("cuLaunchKernelEx", status)
    attempt(kernel, 4, *arrays, 1024)
    fail("cuLaunchKernelEx", 0)
fail("cuCtxGetId", 999)
attempt(kernel, 4, *arrays, 1024)
fail("cuCtxGetId", 0)
attempt(kernel, 4, *arrays, 1024, stream=0x1234)
fail("cuLaunchKernelEx", 700)
attempt(kernel, 4, *arrays, 1024)
attempt(kernel, 4, *arrays, 1024)
""",
    )
    assert sum(line.startswith("DriverError cuLaunchKernelEx returned") for line in lines) == 6
    assert short < 6


def test_grids_of_other_types_are_looked_at_each_time(fakecuda, mode):
    lines, _, _ = same(
        fakecuda,
        mode,
        """
class Grid(list): pass
class Hashed(list):
    __hash__, __eq__ = object.__hash__, object.__eq__
class Lying(tuple):
    __hash__, __eq__ = (lambda self: 1), (lambda self, other: True)
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
arrays = [array(BASE + 4096 * i) for i in range(3)]
hashed = Hashed([4])
for size in (4, 7, 9, 7):
    hashed[0] = size
    for grid in (Grid([size]), hashed, Lying((size,)), [size], (size,), size, (size, True), (size, 1.0)):
        attempt(kernel, grid, *arrays, 1024)
""",
    )
    assert lines.count("None") >= 24


def test_threads_share_a_kernel(fakecuda, mode):
    recorded = fakecuda.run(
        mode.prefix
        + SETUP
        + """
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "tuple_kernel").path("cubin"))
def work(n):
    primary(0)
    for i in range(200):
        kernel.launch(1 + n, (Pointer(BASE + 4096 * n), Pointer(BASE)), (float(n), n), Pointer(BASE + 16 * n), 16 * n)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
""",
        env=mode.env,
    )
    seen = {(c.thread, tuple(c["grid"]), c["parameters"]) for c in recorded.of("cuLaunchKernelEx")}
    assert len(recorded.of("cuLaunchKernelEx")) == 1600
    assert len(seen) == 8
    assert {grid[0] for _, grid, _ in seen} == set(range(1, 9))


def test_a_kernel_is_unloaded_with_its_last_reference(fakecuda, mode):
    recorded = fakecuda.run(
        mode.prefix
        + SETUP
        + """
import gc
gc.disable()
primary(0)
kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
arrays = [trlaunch.empty(1024, "fp32", "cuda:0") for _ in range(3)]
for _ in range(3):
    kernel.launch(4, *arrays, 1024)
bound = kernel.bind(grid=4)
bound(*arrays, 1024)
del kernel
bound(*arrays, 1024)
print(explained)
del bound
cuda("cuCtxSynchronize")
""",
        env=mode.env,
    )
    assert recorded.stdout == "1\n"
    assert recorded.work()[-8:].count("cuModuleUnload") == 1
    assert recorded.work().index("cuModuleUnload") < recorded.work().index("cuCtxSynchronize")


def test_the_method_looks_like_a_function(mode, fakecuda):
    recorded = fakecuda.run(
        mode.prefix
        + """
import inspect
from trlaunch import Kernel, launching
print(Kernel.launch.__name__, inspect.signature(Kernel.launch))
print(Kernel.launch.__doc__.splitlines()[0])
print(launching.MODE)
""",
        env=mode.env,
    )
    first, second, third = recorded.stdout.splitlines()
    assert first.startswith("launch (self, grid: ")
    assert second == "Check, pack and launch."
    assert third == mode.name


@pytest.mark.parametrize("setting", ["no", "EXPLAIN"])
def test_an_unknown_setting_is_said_to_be_one(setting):
    script = "import warnings; warnings.simplefilter('always'); from trlaunch.launching import MODE; print(MODE)"
    found = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TRLAUNCH_PURE_PYTHON": setting},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "python\n"
    assert f"TRLAUNCH_PURE_PYTHON='{setting}' is taken as 1: expected 0, 1 or explain" in found.stderr


def test_a_launcher_of_other_sources_is_left_alone():
    code = (
        "import sys, types, warnings\n"
        "import trlaunch\n"
        "trlaunch._launcher = sys.modules['trlaunch._launcher'] = types.ModuleType('trlaunch._launcher')\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    from trlaunch import launching\n"
        "print(launching.MODE, [str(w.message) for w in seen])\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "TRLAUNCH_PURE_PYTHON"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert found.stdout.startswith(
        "python ['the native launcher that is installed has interface 1, this trlaunch needs"
    )
    assert "build it again with pip install -e ." in found.stdout
