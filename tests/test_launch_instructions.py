"""What a native launch costs in instructions, so that a regression is seen without a GPU.

Only the launcher's own instructions are counted, not the interpreter's or the driver's: they depend on the compiler
alone. `launch_instructions.json` has what gcc 10 -O2 gave on x86-64; write it anew with the counts that a failure shows
when a change is worth its cost.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher import build_launcher, compile_c

KEPT = Path(__file__).with_name("launch_instructions.json")
TOLERANCE = 0.15
LAUNCHES = 500

DRIVER = """
int launch(const void *c, void *f, void **p, void **e) { return 0; }
int identify(void *c, unsigned long long *id) { *id = 7; return 0; }
int push(void *c) { return 0; }
int pop(void **c) { return 0; }

typedef struct {
    void *data; int device_type, device_id, ndim; unsigned char code, bits; unsigned short lanes;
    long long *shape, *strides; unsigned long long offset;
} DLTensor;
static long long shape[1] = {4}, strides[1] = {1};
static int read(void *object, DLTensor *out) {
    *out = (DLTensor){(void *)4096, 2, 0, 1, 2, 32, 1, shape, strides, 0};
    return 0;
}
static int stream(int type, int ordinal, void **out) { *out = 0; return 0; }
struct { unsigned major, minor; void *previous, *others[3], *read, *stream; } table =
    {1, 3, 0, {0}, read, stream};

typedef struct { void *data; int type, device, dtype; } Held;
int held_data(Held **t, void **out) { *out = (*t)->data; return 0; }
int held_type(Held **t, int *out) { *out = (*t)->type; return 0; }
int held_device(Held **t, int *out) { *out = (*t)->device; return 0; }
int held_dtype(Held **t, int *out) { *out = (*t)->dtype; return 0; }
int held_stream(int device, void **out) { *out = 0; return 0; }
"""

SCRIPT = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import _launcher as n

class Pointer:
    __slots__ = ("address",)
    def __init__(self, address): self.address = address
class Array:
    __slots__ = ("_native",)
    def __init__(self, address): self._native = (address, 2, 0, 10)
class Descriptor: pass
n.know(Pointer, Array, Descriptor, int)
driver = ctypes.CDLL(sys.argv[1] + "/driver.so")
functions = [ctypes.cast(getattr(driver, f), ctypes.c_void_p).value for f in ("launch", "identify", "push", "pop")]
functions += [0, 0]
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
class Tensor:
    table = ctypes.c_int.in_dll(driver, "table")
    __dlpack_c_exchange_api__ = new(ctypes.addressof(table), b"dlpack_exchange_api", None)
    def __init__(self, address): pass
class Held(ctypes.Structure):  # it has the address of these fields inside of it, as a tensor has its TensorImpl's
    _fields_ = (("data", ctypes.c_void_p), ("type", ctypes.c_int), ("device", ctypes.c_int), ("dtype", ctypes.c_int),
                ("gap", ctypes.c_int), ("key", ctypes.c_uint64))
    def __init__(self, address): super().__init__(address, 1, 0, 6, 0, 6 | 1 << 16 | 1 << 32)
if sys.argv[2].startswith(("handles", "keyed")):
    n.know_tensors(Held, {}, int, 2)
    address = lambda name: ctypes.cast(getattr(driver, "held_" + name), ctypes.c_void_p).value
    readers = tuple(map(address, ("data", "type", "device", "dtype", "stream")))
    key = 24 if sys.argv[2].startswith("keyed") else 0
    n.know_handles((object.__basicsize__, key), readers, 1, 2, bytes([255] * 6 + [10] + [255] * 57))
else:
    assert n.know_tensors(Tensor, {}, int, 2)

class Launched:
    __slots__ = ("_launches",)
n.know_launched(Launched)

class Kernel(Launched):
    def explain(self, *given): raise SystemExit("explained")
    launch = n.Method(explain)
    def __init__(self, pointers, ints):
        slots = [(n.POINTER, 8 * i, 8, 0, 0, 16, 2**64 - 1, f"t{i}", None) for i in range(pointers)]
        slots += [(n.INTEGER, 8 * pointers + 4 * i, 4, -2**31, 2**32 - 1, 1, 0, f"i{i}", None) for i in range(ints)]
        size = -(-(8 * pointers + 4 * ints) // 8) * 8 + 16
        plan = n.Plan(slots=slots, bytes=size, config=bytes(56), grid_offset=0, stream_offset=32,
            functions=tuple(functions), primary=0, no_context=201, cluster=(1, 1, 1), limit=(2**31 - 1, 65535, 65535),
            listed=False, place=(2, 0), keep=None, fail=None, encode=None)
        plan.add_entry(7, 1)
        self._launches = n.Launches(False)
        self._launches.add(plan, True)

what, count = sys.argv[2], int(sys.argv[3])
kinds = {"pointers": Pointer, "arrays": Array, "tensors": Tensor, "handles": Held, "keyed": Held}
kind = kinds.get(what.split()[0], Array)
pointers, ints = {"none": (0, 0), "5": (5, 9), "40": (40, 18)}[what.split()[-1]]
kernel = Kernel(pointers, ints)
arguments = [*(kind(4096 * (i + 1)) for i in range(pointers)), *range(3, 3 + ints)]
for _ in range(count):
    kernel.launch((1,), *arguments)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if shutil.which("valgrind") is None:
        pytest.skip("no valgrind: apt install valgrind")
    if platform.machine() != "x86_64":
        pytest.skip("the counts are of x86-64")
    made = build_launcher(tmp_path_factory.mktemp("counted"))
    (made / "driver.c").write_text(DRIVER)
    compile_c(made / "driver.c", made / "driver.so")
    (made / "script.py").write_text(SCRIPT)
    return made


def instructions(folder, what):
    """The launcher's own instructions of one launch."""
    out = folder / "callgrind.out"
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--toggle-collect=method_call", "--compress-strings=no", "--compress-pos=no",
         f"--callgrind-out-file={out}", sys.executable, "-S", "-E", folder / "script.py", folder, what, str(LAUNCHES)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    total, inside, inclusive = 0, False, False
    for line in out.read_text().splitlines():
        if line.startswith("ob="):
            inside = "_launcher" in line
        elif line.startswith("calls="):
            inclusive = True  # the next line is what the callee cost
        elif line[:1].isdigit():
            total += int(line.split()[1]) if inside and not inclusive else 0
            inclusive = False
    return total / LAUNCHES


@pytest.mark.parametrize("what", ["none", "arrays 5", "pointers 5", "tensors 5", "handles 5", "keyed 5", "arrays 40"])
def test_a_launch_costs_no_more_instructions_than_it_did(folder, what):
    kept = json.loads(KEPT.read_text())[what]
    found = instructions(folder, what)
    assert found > 50
    assert found == pytest.approx(kept, rel=TOLERANCE), f"{what}: {found:.0f} instructions, {kept} are kept"
