"""The header for HIP, compiled as C and C++: what reaches the fake libamdhip64 is what `Kernel.launch` sends."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.bundle.programs import build, literal
from tests.corpus_hip import Case, find
from tests.fakehip import FakeHip
from tests.oracle import sample
from trlaunch import Kernel
from trlaunch.bundle import header

BASE = 0x7F40_0000_0000
GRID = (6, 3, 2)
DEVICE = "gfx942:sramecc+:xnack-"
CASES = [
    find(release, "hip:gfx942", name)
    for release, name in (
        ("3.6.0", "add_kernel"), ("3.6.0", "cooperative_kernel"), ("3.6.0", "matmul_kernel"), ("3.6.0", "tuple_kernel"),
        ("3.0.0", "scalars_kernel"), ("3.4.0", "scalars_kernel"), ("3.9.0", "scalars_kernel"),
    )
]  # fmt: skip

MAIN = """
#include <dlfcn.h>
#include <stdio.h>
#define POINTER(address) ((hipDeviceptr_t)(uintptr_t)address##ULL)

static inline float real32(uint64_t bits) { float f; uint32_t b = (uint32_t)bits; memcpy(&f, &b, 4); return f; }
static inline double real64(uint64_t bits) { double d; memcpy(&d, &bits, 8); return d; }
static inline int failed(const char *what, hipError_t status) {
    if (status != hipSuccess) printf("%s %d %s\\n", what, (int)status, trlaunch_hip_error_name(status));
    return status != hipSuccess;
}

/* HIP initialises itself at its first call, but the fake one wants to be told. */
static void initialise(void) {
    void *library = dlopen("libamdhip64.so", RTLD_NOW), *symbol = library ? dlsym(library, "hipInit") : NULL;
    int (*init)(unsigned);
    memcpy(&init, &symbol, sizeof init);
    if (symbol) init(0);
}
"""


@pytest.fixture(scope="module")
def fakehip(tmp_path_factory: pytest.TempPathFactory) -> FakeHip:
    return FakeHip.build(tmp_path_factory.mktemp("fakehip"))


def name_of(case: Case) -> str:
    return f"{case.name}_{case.release.replace('.', '_')}"


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("headers")
    lines = []
    for case in CASES:
        (made / f"{name_of(case)}.h").write_text(header(Kernel.from_file(case.path("hsaco")), prefix=name_of(case)))
        lines.append(f'#include "{name_of(case)}.h"')
    grid = ", ".join(map(str, GRID))
    lines += [MAIN, "int main(void) {", "    int bad = 0;", "    initialise();"]
    for case in CASES:
        passed = "".join(f", {literal(t, v)}" for t, v in values_of(case))
        lines.append(f'    bad |= failed("{case}", {name_of(case)}_launch(NULL, {grid}{passed}));')
    first = f"{name_of(CASES[0])}_launch(NULL"
    lines += [
        '    failed("no such device", trlaunch_hip_use_device(7));',
        '    bad |= failed("device", trlaunch_hip_use_device(0));',
        f'    failed("misaligned", {first}, 1, 1, 1, POINTER(0x1008), POINTER(0), POINTER(0), 16));',
        f'    failed("multiple", {first}, 1, 1, 1, POINTER(0x1000), POINTER(0), POINTER(0), 17));',
        f'    failed("empty", {first}, 1, 0, 1, POINTER(0x1000), POINTER(0), POINTER(0), 16));',
        "    return bad;",
        "}",
    ]
    (made / "main.c").write_text("\n".join([*lines, ""]))
    return made


@pytest.fixture(scope="module")
def by_kernel(fakehip):
    return fakehip.run(
        """
        from tests.bundle.test_header_hip import CASES, GRID, values_of
        from trlaunch import Kernel, Pointer
        for case in CASES:
            values = [Pointer(v) if t.startswith("*") else v for t, v in values_of(case)]
            Kernel.from_file(case.path("hsaco"), device="hip:0").launch(GRID, *values)
        """,
        devices=(DEVICE,),
    )


LAUNCHES = ("hipModuleLaunchKernel", "hipModuleLaunchCooperativeKernel")


def sent(recorded):
    return [
        (c.name, c.status, {k: v for k, v in c.values.items() if k not in ("module", "function")})
        for c in recorded.of(*LAUNCHES)
    ]


@pytest.mark.parametrize("language", ["c", "c++"])
def test_a_program_launches_what_kernel_launch_does(fakehip, folder, by_kernel, language):
    executable = build(folder / f"main_{language.count('+')}", folder / "main.c", language, flags=["-DTRLAUNCH_DLOPEN"])
    recorded = fakehip.execute([str(executable)], devices=(DEVICE,))
    assert recorded.stdout.splitlines() == [
        "no such device 101 hipErrorFake", "misaligned 1 hipErrorFake", "multiple 1 hipErrorFake",
    ]  # fmt: skip
    assert [call["wanted"] for call in recorded.of("hipSetDevice")] == [7, 0]
    assert len(recorded.of(*LAUNCHES)) == len(CASES)
    assert sent(recorded) == sent(by_kernel)
    assert len(recorded.of("hipModuleLoadData")) == len(CASES)


def test_without_a_runtime_the_status_says_so(fakehip, folder):
    executable = build(folder / "main_alone", folder / "main.c", "c", flags=["-DTRLAUNCH_DLOPEN"])
    recorded = fakehip.execute([str(executable)], found=False, check=False)
    assert recorded.stdout.splitlines()[0].endswith(" 303 hipErrorSharedObjectInitFailed")
