"""Headers compiled with the C compiler at hand and run: the results are NumPy's, without Python between."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import trlaunch
from tests.corpus import find
from trlaunch import Kernel
from trlaunch.bundle import header, save
from trlaunch.devices import get

pytestmark = pytest.mark.gpu

PROGRAM = """
#define TRLAUNCH_DLOPEN
#include "add.h"
#include "matmul.h"
#include <stdio.h>

static void *library;
static int call(const char *name, uint64_t a, uint64_t b, uint64_t c) {
    void *symbol = dlsym(library, name);
    int status, (*function)(uint64_t, uint64_t, uint64_t);
    memcpy(&function, &symbol, sizeof function);
    status = function(a, b, c);
    if (status) printf("%s %d %s\\n", name, status, trlaunch_cuda_error_name((CUresult)status));
    return status;
}
#define AT(pointer) ((uint64_t)(uintptr_t)(pointer))

static CUdeviceptr upload(const char *path, size_t size) {
    FILE *file = fopen(path, "rb");
    void *host = malloc(size);
    CUdeviceptr at = 0;
    if (file && fread(host, 1, size, file) == size) {
        call("cuMemAlloc_v2", AT(&at), size, 0);
        call("cuMemcpyHtoD_v2", at, AT(host), size);
    }
    if (file) fclose(file);
    free(host);
    return at;
}
static void download(const char *path, CUdeviceptr at, size_t size) {
    void *host = malloc(size);
    FILE *file = fopen(path, "wb");
    call("cuMemcpyDtoH_v2", AT(host), at, size);
    if (file) fwrite(host, 1, size, file);
    if (file) fclose(file);
    free(host);
}
static int failed(const char *what, CUresult status) {
    printf("%s %d %s\\n", what, (int)status, trlaunch_cuda_error_name(status));
    return status != CUDA_SUCCESS;
}

int main(void) {
    enum { N = 98432, ROWS = 512, COLUMNS = 256, DEPTH = 64 };
    void *context;
    CUdeviceptr x, out, a, b, c;
    CUtensorMap maps[3];
    const uint64_t shapes[3][2] = {{ROWS, DEPTH}, {DEPTH, COLUMNS}, {ROWS, COLUMNS}};
    const uint64_t strides[3][2] = {{DEPTH, 1}, {COLUMNS, 1}, {COLUMNS, 1}};
    int bad = 0;
    library = dlopen("libcuda.so.1", RTLD_NOW);
    call("cuInit", 0, 0, 0);
    bad |= add_load() != CUDA_ERROR_INVALID_CONTEXT;
    call("cuDevicePrimaryCtxRetain", AT(&context), 0, 0);
    call("cuCtxSetCurrent", AT(context), 0, 0);
    x = upload("x.bin", N * 4);
    call("cuMemAlloc_v2", AT(&out), N * 4, 0);
    bad |= failed("add", add_launch(NULL, (N + BLOCK - 1) / BLOCK, 1, 1, x, x, out, N));
    download("out.bin", out, N * 4);
    bad |= add_launch(NULL, 1, 1, 1, x + 4, x, out, N) != CUDA_ERROR_INVALID_VALUE;
    a = upload("a.bin", ROWS * DEPTH * 2);
    b = upload("b.bin", DEPTH * COLUMNS * 2);
    call("cuMemAlloc_v2", AT(&c), ROWS * COLUMNS * 2, 0);
    bad |= failed("map a", matmul_encode_a_desc(&maps[0], a, shapes[0], strides[0], 0));
    bad |= failed("map b", matmul_encode_b_desc(&maps[1], b, shapes[1], strides[1], 0));
    bad |= failed("map c", matmul_encode_c_desc(&maps[2], c, shapes[2], strides[2], 0));
    bad |= failed("matmul", matmul_launch(NULL, GRID_X, GRID_Y, 1, &maps[0], ROWS, DEPTH, DEPTH, 1, &maps[1],
                                          DEPTH, COLUMNS, COLUMNS, 1, &maps[2], ROWS, COLUMNS, COLUMNS, 1,
                                          ROWS, COLUMNS, DEPTH));
    bad |= call("cuCtxSynchronize", 0, 0, 0);
    download("c.bin", c, ROWS * COLUMNS * 2);
    return bad;
}
"""


@pytest.mark.parametrize("compiler,standard", [("gcc", "c99"), ("g++", "c++17")])
def test_a_program_without_python_computes_what_numpy_does(tmp_path: Path, compiler: str, standard: str) -> None:
    if get("cuda").properties(0).target.capability != 90:
        pytest.skip("the tensor maps are compiled for sm_90a")
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"{compiler} is not installed")
    add, matmul = find("3.6.0", "cuda:90", "add_kernel"), find("3.6.0", "cuda:90", "tma_matmul_kernel")
    (tmp_path / "add.h").write_text(header(Kernel.from_file(add.path("cubin")), prefix="add"))
    (tmp_path / "matmul.h").write_text(header(Kernel.from_file(matmul.path("cubin")), prefix="matmul"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal(98432, dtype=np.float32)
    a = rng.standard_normal((512, 64), dtype=np.float32).astype(np.float16)
    b = rng.standard_normal((64, 256), dtype=np.float32).astype(np.float16)
    for name, array in (("x", x), ("a", a), ("b", b)):
        array.tofile(tmp_path / f"{name}.bin")
    (tmp_path / "main.c").write_text(PROGRAM)
    language = "c" if compiler == "gcc" else "c++"
    (block,) = add.constexprs.values()
    rows, columns = (matmul.constexprs[name] for name in ("BLOCK_M", "BLOCK_N"))
    built = subprocess.run(
        [found, f"-std={standard}", "-x", language, "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread",
         f"-DBLOCK={block}", f"-DGRID_X={-(-512 // rows)}", f"-DGRID_Y={-(-256 // columns)}",
         "-o", str(tmp_path / "main"), str(tmp_path / "main.c"), "-ldl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    done = subprocess.run(
        [str(tmp_path / "main")], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert np.array_equal(np.fromfile(tmp_path / "out.bin", np.float32), x + x)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    assert np.allclose(np.fromfile(tmp_path / "c.bin", np.float16).reshape(512, 256), expected, rtol=1e-2, atol=1e-1)


def test_a_bundle_of_two_architectures_runs_here(tmp_path: Path) -> None:
    kernels = [Kernel.from_file(find("3.6.0", target, "add_kernel").path("cubin")) for target in ("cuda:80", "cuda:90")]
    path = save(tmp_path / "k.trk", kernels, texts=True)
    kernel = Kernel.from_file(path, device="cuda")
    n = 98432
    x = trlaunch.asarray(np.arange(n, dtype=np.float32), device="cuda")
    out = trlaunch.empty(n, "fp32", "cuda")
    (block,) = find("3.6.0", "cuda:90", "add_kernel").constexprs.values()
    kernel[(-(-n // block),)](x, x, out, n)
    assert np.array_equal(out.numpy(), 2 * np.arange(n, dtype=np.float32))
