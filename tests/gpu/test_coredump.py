"""Core dumps of this GPU's driver: the same said of them as cuda-gdb says.

With ``TRLAUNCH_KEEP_DUMPS=FOLDER`` the dumps, and what cuda-gdb printed of each, are kept there.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tests.gpu import cuda_gdb
from tests.investigate.cases import CASES
from trlaunch import CoreDump
from trlaunch.investigate import run

pytestmark = pytest.mark.gpu

NAMES = [case.name for case in CASES]
# These leave no exception: cuda-gdb shows where the threads are.
STOPPED = ("trap", "device_assert", "endless loop")

PROGRAM = r"""
#include <cstdio>
__device__ __noinline__ void store(unsigned *p, unsigned v) { *(volatile unsigned *)((char *)p + 1) = v; }
__device__ __forceinline__ unsigned twice(unsigned x) { return x * 2; }
__global__ void entry(unsigned *p) { store(p, twice(threadIdx.x)); p[threadIdx.x] = 1; }
int main() {
  unsigned *p;
  cudaMalloc(&p, 4096);
  entry<<<2, 64>>>(p);
  return cudaDeviceSynchronize() != cudaSuccess;
}
"""


def keep(name: str, data: bytes, text: str = "") -> None:
    """Put a dump where the caller of the tests wants it."""
    folder = os.environ.get("TRLAUNCH_KEEP_DUMPS")
    if folder:
        stem = Path(folder) / re.sub(r"\W+", "_", name)
        stem.with_suffix(".nvcudmp.xz").write_bytes(lzma.compress(data))
        stem.with_suffix(".cuda-gdb.txt").write_text(text)


@cache
def dump_of(name: str, core: str = "light") -> bytes:
    case = next(case for case in CASES if case.name == name)
    trial = replace(case.trial(device="cuda:0"), blocking=True, core=core)
    outcome = run(trial, 5.0 if name == "endless loop" else 40.0)
    assert outcome.core, f"{name}: no core dump; {outcome.status}, {outcome.error}, {outcome.notes}"
    return outcome.core


@cache
def seen_of(name: str, folder: Path) -> cuda_gdb.Seen:
    if cuda_gdb.find() is None:
        pytest.fail("cuda-gdb, which is to say what a dump holds, is not on the path")
    file = folder / "core.nvcudmp"
    file.write_bytes(dump_of(name))
    seen = cuda_gdb.ask(file)
    keep(name, dump_of(name), seen.text)
    return seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dumps")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STOPPED])
def test_exception_place_and_registers_are_those_of_cuda_gdb(name, folder):
    cuda_gdb.same(CoreDump(dump_of(name)), seen_of(name, folder))


@pytest.mark.parametrize("name", [name for name in STOPPED if name in NAMES])
def test_where_threads_stopped_without_an_exception(name, folder):
    seen, dump = seen_of(name, folder), CoreDump(dump_of(name))
    found = dump.exceptions or dump.stopped
    assert found
    if seen.focus:
        entry = cuda_gdb.entry_of(dump, seen.focus) if not dump.exceptions else found[0]
        assert entry.block is not None


def test_the_operands_of_a_tensor_copy_have_the_coordinate():
    dump = CoreDump(dump_of("TMA coordinate"))
    entry = dump.exceptions[0]
    assert entry.instruction.opcode.startswith("UTMALDG")
    by_role = {
        operand.roles[name]: values[0]
        for operand in entry.operands
        for name, values in operand.registers.items()
        if name in operand.roles
    }
    assert by_role["coordinate 0"] == 3


def test_a_full_dump_has_memory(folder):
    dump = CoreDump(dump_of("misaligned pointer", "full"))
    entry = dump.exceptions[0]
    assert dump.memory
    assert entry.cta.shared is not None or not entry.warp.shared_bytes
    assert dump.read(entry.address, 4) == bytes(4)


def test_callers_and_lines_of_a_program_of_nvcc(tmp_path):
    if shutil.which("nvcc") is None or cuda_gdb.find() is None:
        pytest.fail("nvcc and cuda-gdb are to make and read a dump, and are not on the path")
    (tmp_path / "a.cu").write_text(PROGRAM)
    flags = ["-lineinfo", "-arch=native", "-o", "a.out", "a.cu"]
    subprocess.run(["nvcc", *flags], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    file = tmp_path / "core.nvcudmp"
    environment = os.environ | {"CUDA_ENABLE_COREDUMP_ON_EXCEPTION": "1", "CUDA_COREDUMP_FILE": str(file)}
    subprocess.run(["./a.out"], cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)
    seen, dump = cuda_gdb.ask(file), CoreDump(file)
    keep("call stack", file.read_bytes(), seen.text)
    entry = cuda_gdb.entry_of(dump, seen.focus)
    assert entry.text == seen.exception == "Warp Misaligned Address"
    assert "store" in entry.function
    assert entry.site.source is not None
    assert entry.site.source.file.endswith("a.cu")
    assert len(entry.backtrace) == seen.text.count("\n#1")  # none, where the threads had returned when they stopped
