"""The header for CUDA, compiled as C and C++: what reaches the fake libcuda is what `Kernel.launch` sends."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.bundle.programs import build, compiled, cuda_include, literal
from tests.corpus import Case, find
from tests.oracle import sample
from trlaunch import Kernel
from trlaunch.bundle import header

BASE = 0x7F40_0000_0000
GRID = (6, 3, 2)

#: The kernels of one release that differ in how they are launched, and every scalar type.
CASES = [
    *(find("3.6.0", "cuda:90", name) for name in (
        "add_kernel", "cluster_kernel", "cooperative_kernel", "pdl_kernel", "matmul_kernel_tf32", "scratch_kernel",
        "softmax_kernel", "tuple_kernel")),
    *(find(release, "cuda:90", "scalars_kernel") for release in ("3.0.0", "3.4.0", "3.9.0")),
]  # fmt: skip
TMA = [find(release, "cuda:90", "tma_matmul_kernel") for release in ("3.4.0", "3.6.0", "3.9.0")]
MATRICES = ((0x7F00_0000_0000, 512, 64), (0x7F10_0000_0000, 64, 256), (0x7F20_0000_0000, 512, 256))

MAIN = """
#include <stdio.h>
#define POINTER(address) ((CUdeviceptr)address##ULL)

static inline float real32(uint64_t bits) { float f; uint32_t b = (uint32_t)bits; memcpy(&f, &b, 4); return f; }
static inline double real64(uint64_t bits) { double d; memcpy(&d, &bits, 8); return d; }
static inline int failed(const char *what, CUresult status) {
    if (status != CUDA_SUCCESS) printf("%s %d %s\\n", what, (int)status, trlaunch_cuda_error_name(status));
    return status != CUDA_SUCCESS;
}

/* The context is the program's own business: by name, so that it works with and without cuda.h. */
#include <dlfcn.h>
static int call(const char *name, void *a, uint64_t b) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *symbol = dlsym(library, name);
    int (*one)(uint64_t), (*two)(void *, uint64_t);
    memcpy(&one, &symbol, sizeof one);
    memcpy(&two, &symbol, sizeof two);
    return a ? two(a, b) : one(b);
}
static int context_of(int device) {
    void *context;
    return call("cuInit", NULL, 0) || call("cuDevicePrimaryCtxRetain", &context, (uint64_t)device) ||
           call("cuCtxSetCurrent", NULL, (uint64_t)(uintptr_t)context);
}
"""


def values_of(case: Case) -> list[tuple[str, object]]:
    rng = random.Random(str(case))
    out: list[tuple[str, object]] = []
    for param in case.params:
        if param.type.startswith("*"):
            out.append((param.type, BASE + 4096 * rng.randrange(2**20)))
        elif param.divisible_by_16 or param.value is not None:
            out.append((param.type, param.value if param.value is not None else 16 * rng.randrange(100)))
        else:
            out.append((param.type, sample(param.type, rng)))
    return out


def name_of(case: Case) -> str:
    return f"{case.name}_{case.release.replace('.', '_')}"


def program() -> str:
    lines = [f'#include "{name_of(case)}.h"' for case in [*CASES, *TMA]]
    lines += [MAIN, "int main(void) {", "    int bad = context_of(0);", "    const CUstream stream = NULL;"]
    grid = ", ".join(map(str, GRID))
    for case in CASES:
        passed = "".join(f", {literal(t, v)}" for t, v in values_of(case))
        lines.append(f'    bad |= failed("{case}", {name_of(case)}_launch(stream, {grid}{passed}));')
    for case in TMA:
        name = name_of(case)
        lines.append("    {")
        passed = []
        for argument, (address, rows, columns) in zip(("a_desc", "b_desc", "c_desc"), MATRICES, strict=True):
            lines += [
                f"        uint64_t {argument}_shape[2] = {{{rows}, {columns}}};",
                f"        uint64_t {argument}_strides[2] = {{{columns}, 1}};",
                f"        CUtensorMap {argument};",
                f'        bad |= failed("encode", {name}_encode_{argument}(',
                f"            &{argument}, POINTER(0x{address:x}), {argument}_shape, {argument}_strides, 0));",
            ]
            passed += [f"&{argument}", rows, columns, columns, 1]
        passed += [512, 256, 64]
        lines += [
            f'        bad |= failed("{case}", {name}_launch(stream, {grid}, {", ".join(map(str, passed))}));',
            "    }",
        ]
    return "\n".join([*lines, "    return bad;", "}", ""])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("headers")
    for case in [*CASES, *TMA]:
        # Up to 3.4 the text has no names, and a descriptor's are in the program.
        signature = {p.name: p.type for p in case.params} if case in TMA and case.version < (3, 5) else None
        kernel = Kernel.from_file(case.path("cubin"), signature=signature)
        (made / f"{name_of(case)}.h").write_text(header(kernel, prefix=name_of(case), constants=case.constexprs))
    (made / "main.c").write_text(program())
    return made


@pytest.fixture(scope="module")
def by_kernel(fakecuda):
    """What `Kernel.launch` sends."""
    recorded = fakecuda.run("""
        from tests.arrays import TorchLike
        from tests.bundle.test_header_cuda import CASES, GRID, MATRICES, TMA, values_of
        from tests.fakecuda.inside import cuda, driver
        from trlaunch import Kernel, Pointer, TensorDescriptor
        driver()
        cuda("cuCtxSetCurrent", cuda("cuDevicePrimaryCtxRetain", 0))
        for case in CASES:
            values = [Pointer(v) if t.startswith("*") else v for t, v in values_of(case)]
            Kernel.from_file(case.path("cubin"), device="cuda:0").launch(GRID, *values)
        for case in TMA:
            maps = [TensorDescriptor(TorchLike(a, (m, n), "float16", "cuda:0"), (m, n), (n, 1), (64, 64))
                    for a, m, n in MATRICES]
            Kernel.from_file(case.path("cubin"), device="cuda:0").launch(GRID, *maps, 512, 256, 64)
        """)
    assert len(recorded.of("cuLaunchKernelEx")) == len(CASES) + len(TMA)
    return recorded


def sent(recorded, name):
    """The calls of that name but for handles and the scratch of `scratch_kernel`, whose address is the allocator's."""
    found = []
    for call in recorded.of(name):
        values = {k: v for k, v in call.values.items() if k not in ("context", "module", "options", "misalignment")}
        if values.get("function") == "scratch_kernel" and "parameters" in values:
            values["parameters"] = values["parameters"][: 2 * 24]
        found.append((call.status, values))
    return found


@pytest.mark.parametrize("language", ["c", "c++"])
@pytest.mark.parametrize("how", ["linked", "opened"])
def test_a_program_launches_what_kernel_launch_does(fakecuda, folder, by_kernel, language, how):
    name = f"main_{how}_{language.count('+')}"
    flags, libraries = ["-DTRLAUNCH_DLOPEN"], []
    if how == "linked":  # cuda.h has unnamed structures, which C99 has not: it counts as the system's
        flags, libraries = ["-isystem", str(cuda_include())], [str(fakecuda.folder / "libcuda.so.1")]
    executable = build(folder / name, folder / "main.c", language, libraries, flags)
    recorded = fakecuda.execute([str(executable)])
    assert recorded.stdout == ""
    for call in ("cuLaunchKernelEx", "cuTensorMapEncodeTiled", "cuFuncSetAttribute", "cuFuncSetCacheConfig"):
        assert sent(recorded, call) == sent(by_kernel, call), call
    assert all(call["misalignment"] == 0 for call in recorded.of("cuLaunchKernelEx"))
    loads = sent(recorded, "cuModuleLoadDataEx")
    assert [v["hash"] for _, v in loads] == [v["hash"] for _, v in sent(by_kernel, "cuModuleLoadDataEx")]
    assert {v["capture_mode"] for _, v in loads} == {2}, "loading would end a capture"


def test_scratch_is_taken_and_given_back_on_the_stream(fakecuda, small):
    text = f"""#include "scratch_kernel_3_6_0.h"\n{MAIN}
    int main(void) {{ return context_of(0) || scratch_kernel_3_6_0_launch(NULL, 6, 3, 2, 0x1000, 0x2000, 64, 64); }}
    """
    recorded = fakecuda.execute([str(opened(small, "scratch", text))])
    metadata = find("3.6.0", "cuda:90", "scratch_kernel").metadata
    taken = recorded.only("cuMemAllocAsync")
    assert taken["size"] == metadata["global_scratch_size"] * 6 * 3 * 2
    names = recorded.names()
    launch = next(i for i, c in enumerate(recorded.calls) if c.values.get("function") == "scratch_kernel"
                  and c.name == "cuLaunchKernelEx")  # fmt: skip
    assert names.index("cuMemAllocAsync") < launch < names.index("cuMemFreeAsync")
    parameters = bytes.fromhex(recorded.calls[launch]["parameters"])
    assert taken["address"].to_bytes(8, "little") in parameters


THREADS = """
#include "add_kernel_3_6_0.h"
#include "softmax_kernel_3_6_0.h"
""" + MAIN + """
static pthread_barrier_t barrier;
static void *work(void *device) {
    int i;
    if (context_of((int)(intptr_t)device)) return device;
    pthread_barrier_wait(&barrier);
    for (i = 0; i < 20; i++)
        failed("add", add_kernel_3_6_0_launch(NULL, 1, 1, 1, POINTER(0x1000), POINTER(0x2000), POINTER(0x3000), 16));
    return NULL;
}
int main(void) {
    pthread_t threads[8];
    intptr_t i;
    pthread_barrier_init(&barrier, NULL, 8);
    for (i = 0; i < 8; i++) pthread_create(&threads[i], NULL, work, (void *)(i % 2));
    for (i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    return 0;
}
"""  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("small")
    for name in ("add_kernel", "softmax_kernel", "scratch_kernel"):
        case = find("3.6.0", "cuda:90", name)
        (made / f"{name_of(case)}.h").write_text(header(Kernel.from_file(case.path("cubin")), prefix=name_of(case)))
    return made


def opened(folder: Path, name: str, text: str, language: str = "c") -> Path:
    (folder / f"{name}.c").write_text(text)
    return build(folder / name, folder / f"{name}.c", language, flags=["-DTRLAUNCH_DLOPEN", "-D_GNU_SOURCE"])


def test_threads_load_once_for_each_context(fakecuda, small):
    recorded = fakecuda.execute([str(opened(small, "threads", THREADS))], devices=(90, 90))
    assert recorded.stdout == ""
    assert len(recorded.of("cuModuleLoadDataEx")) == 2
    launches = recorded.of("cuLaunchKernelEx")
    assert len(launches) == 160
    assert {call.status for call in launches} == {0}
    assert len({call["context"] for call in launches}) == 2


STATUSES = """
#include "add_kernel_3_6_0.h"
#include "softmax_kernel_3_6_0.h"
""" + MAIN + """
#define ADD(x) add_kernel_3_6_0_launch(NULL, 1, 1, 1, POINTER(x), POINTER(0x2000), POINTER(0x3000), 16)
int main(int count, char **arguments) {
    (void)arguments;
    if (count > 1) return failed("device", trlaunch_cuda_use_device(0)) | failed("nothing", add_kernel_3_6_0_load());
    call("cuInit", NULL, 0);
    failed("no context", ADD(0x1000));
    context_of(0);
    failed("misaligned", ADD(0x1008));
    failed("multiple",
           add_kernel_3_6_0_launch(NULL, 1, 1, 1, POINTER(0x1000), POINTER(0x2000), POINTER(0x3000), 17));
    failed("huge", add_kernel_3_6_0_launch(NULL, 0x80000000u, 1, 1, POINTER(0x1000), POINTER(0), POINTER(0), 16));
    failed("empty", add_kernel_3_6_0_launch(NULL, 0, 1, 1, POINTER(0x1000), POINTER(0), POINTER(0), 16));
    failed("load", add_kernel_3_6_0_load());
    failed("again", add_kernel_3_6_0_load());
    failed("launch", ADD(0x1000));
    failed("other", softmax_kernel_3_6_0_load());
    return 0;
}
"""  # fmt: skip


@pytest.mark.parametrize("language", ["c", "c++"])
def test_every_failure_is_a_status_with_a_name(fakecuda, small, language):
    executable = opened(small, f"statuses_{language.count('+')}", STATUSES, language)
    fail = {"cuModuleLoadDataEx": (209, 1), "cuLaunchKernelEx": 700}
    recorded = fakecuda.execute([str(executable)], fail=fail)
    assert recorded.stdout.splitlines() == [
        "no context 201 CUDA_ERROR_INVALID_CONTEXT",
        "misaligned 1 CUDA_ERROR_INVALID_VALUE",
        "multiple 1 CUDA_ERROR_INVALID_VALUE",
        "huge 1 CUDA_ERROR_INVALID_VALUE",
        "load 209 CUDA_ERROR_NO_BINARY_FOR_GPU",
        "launch 700 CUDA_ERROR_ILLEGAL_ADDRESS",
        "other 700 CUDA_ERROR_ILLEGAL_ADDRESS",
    ]
    assert len(recorded.of("cuLaunchKernelEx")) == 1
    assert len(recorded.of("cuModuleLoadDataEx")) == 3, "what failed once is tried again"


def documented() -> str:
    """The program that docs/bundle.md shows."""
    text = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
    return next(block for block in re.findall(r"^```c\n(.*?)^```$", text, re.M | re.S) if "int main" in block)


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_documented_program_has_no_context_and_makes_one(fakecuda, tmp_path, language):
    kernel = Kernel.from_file(find("3.6.0", "cuda:90", "add_kernel").path("cubin"))
    (tmp_path / "add_kernel.h").write_text(header(kernel))
    (tmp_path / "main.c").write_text(documented())
    library = str(fakecuda.folder / "libcuda.so.1")
    flags = ["-isystem", str(cuda_include())]
    executable = build(tmp_path / "main", tmp_path / "main.c", language, [library], flags)
    recorded = fakecuda.execute([str(executable)])
    assert recorded.only("cuDevicePrimaryCtxRetain")["device"] == 0
    taken = [call["address"] for call in recorded.of("cuMemAlloc")]
    parameters = b"".join(address.to_bytes(8, "little") for address in taken) + (98432).to_bytes(4, "little")
    launch = recorded.only("cuLaunchKernelEx")
    assert launch["function"] == "add_kernel"
    assert bytes.fromhex(launch["parameters"]).startswith(parameters)
    failed = fakecuda.execute([str(executable)], fail={"cuInit": 100}, check=False)
    assert failed.stderr == "CUDA_ERROR_NO_DEVICE\n"


USING = """
#include "add_kernel_3_6_0.h"
""" + MAIN + """
int main(void) {
    failed("no such device", trlaunch_cuda_use_device(2));
    failed("second", trlaunch_cuda_use_device(1));
    failed("load", add_kernel_3_6_0_load());
    failed("first", trlaunch_cuda_use_device(0));
    failed("launch",
           add_kernel_3_6_0_launch(NULL, 1, 1, 1, POINTER(0x1000), POINTER(0x2000), POINTER(0x3000), 16));
    return (int)context_of(0);
}
"""  # fmt: skip


@pytest.mark.parametrize("language", ["c", "c++"])
def test_a_device_is_chosen_by_its_number(fakecuda, small, language):
    executable = opened(small, f"using_{language.count('+')}", USING, language)
    recorded = fakecuda.execute([str(executable)], devices=(90, 90))
    assert recorded.stdout == "no such device 101 CUDA_ERROR_INVALID_DEVICE\n"
    assert [call["device"] for call in recorded.of("cuDevicePrimaryCtxRetain")] == [1, 0, 0]
    assert len(recorded.of("cuModuleLoadDataEx")) == 2
    failing = fakecuda.execute([str(executable)], devices=(90, 90), fail={"cuInit": 999}, check=False)
    assert failing.stdout.splitlines()[0] == "no such device 999 CUDA_ERROR_UNKNOWN"


def test_without_a_driver_the_status_says_so(fakecuda, small, tmp_path):
    executable = opened(small, "nothing", STATUSES)
    found = fakecuda.execute([str(executable), "x"], env={"LD_LIBRARY_PATH": str(tmp_path)}, check=False)
    name = "303 CUDA_ERROR_SHARED_OBJECT_INIT_FAILED"
    assert found.stdout.splitlines() == [f"device {name}", f"nothing {name}"]


@pytest.mark.parametrize("language", ["c", "c++"])
def test_two_headers_with_the_same_names_are_a_compile_error(tmp_path, language):
    kernels = [Kernel.from_file(find("3.6.0", target, "add_kernel").path("cubin")) for target in ("cuda:80", "cuda:90")]
    for kernel in kernels:
        (tmp_path / f"sm_{kernel.target.arch}.h").write_text(header(kernel, constants={"SM": kernel.target.arch}))
    (tmp_path / "again.h").write_text(header(kernels[0]))
    (tmp_path / "mine.h").write_text(header(kernels[1], prefix="add_kernel_sm_90"))

    def build_with(*names):
        text = "".join(f'#include "{name}"\n' for name in names)
        (tmp_path / "main.c").write_text(f"{text}int main(void) {{ return add_kernel_load() == CUDA_SUCCESS; }}\n")
        return compiled(tmp_path / "main", tmp_path / "main.c", language, flags=["-DTRLAUNCH_DLOPEN"])

    refused = build_with("sm_80.h", "sm_90.h")
    assert refused.returncode != 0
    assert "this header for cuda:90a and another one before it" in refused.stderr
    assert "--prefix add_kernel_cuda_90a" in refused.stderr
    done = build_with("sm_80.h", "sm_80.h", "again.h", "mine.h")
    assert done.returncode == 0, done.stderr
