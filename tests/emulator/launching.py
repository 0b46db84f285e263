"""Helpers: pack parameters by the offsets of an image, launch on the emulator, and tiny kernels of one instruction."""

from __future__ import annotations

import functools
import importlib.util
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trlaunch.driver import Buffer, Function, LaunchConfig, PackedArguments
from trlaunch.emulator.driver import EmulatorDriver
from trlaunch.emulator.image import read_image
from trlaunch.image import ImageKernel

HEADER = ".version 8.0\n.target sm_90\n.address_size 64\n"
REGISTERS = ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<19>; .reg .b64 %d<19>; .reg .f32 %f<9>; .reg .f64 %g<9>;\n"


def pack(kernel: ImageKernel, values: Sequence[Any], read_only: Sequence[int] = ()) -> PackedArguments:
    """Parameter bytes from arrays, numbers and bytes in order; hidden parameters are null."""
    data, buffers = bytearray(kernel.param_bytes), []
    for param in kernel.params:
        value = values[param.index] if param.index < len(values) else 0
        if isinstance(value, np.ndarray):
            buffers.append(Buffer(value.ctypes.data, value.nbytes, f"arg{param.index}", param.index in read_only))
            value = int(value.ctypes.data)
        if isinstance(value, bytes):
            data[param.offset : param.offset + len(value)] = value
        elif isinstance(value, float):
            data[param.offset : param.offset + param.size] = struct.pack("<f" if param.size == 4 else "<d", value)
        else:
            raw = (int(value) % (1 << 8 * param.size)).to_bytes(param.size, "little")
            data[param.offset : param.offset + param.size] = raw
    return PackedArguments(bytes(data), buffers)


def launch(
    text: str | bytes,
    values: Sequence[Any],
    *,
    kernel: str | None = None,
    grid: tuple[int, ...] = (1,),
    block: tuple[int, ...] | None = None,
    shared: int = 0,
    cooperative: bool = False,
    read_only: Sequence[int] = (),
    driver: EmulatorDriver | None = None,
) -> Function:
    """Load a kernel and run it; the block is the one it was compiled for unless one is given."""
    image = read_image(text)
    found = image.kernel(kernel)
    driver = driver or EmulatorDriver.instance()
    function = driver.load(image, found.name, 0)
    block = block or (found.block_threads or 32,)
    config = LaunchConfig((*grid, 1, 1)[:3], (*block, 1, 1)[:3], shared=shared, cooperative=cooperative)
    driver.launch(function, config, pack(found, values, read_only))
    return function


def wrap(
    body: str, params: int = 1, *, name: str = "k", threads: int = 32, extra: str = "", directives: str = ""
) -> str:
    """A module with one kernel of 64-bit parameters ``a0``, ``a1``, ..., loaded to ``%a0``, ``%a1``, ..."""
    return HEADER + extra + entry(body, params, name=name, threads=threads, directives=directives)


def entry(body: str, params: int = 1, *, name: str = "k", threads: int = 32, directives: str = "") -> str:
    listed = ", ".join(f".param .u64 {name}_{i}" for i in range(params))
    loads = "".join(f"ld.param.u64 %a{i}, [{name}_{i}];\n" for i in range(params))
    return (
        f".visible .entry {name}({listed})\n{directives or f'.maxntid {threads}'}\n{{\n"
        f".reg .b64 %a<{params + 1}>;\n{REGISTERS}{loads}{body}\nret;\n}}\n"
    )


#: How a type is declared, loaded and stored, and its NumPy type.
TYPES = {
    "u8": ("b16", "u8", np.uint8), "s8": ("b16", "s8", np.int8), "u16": ("b16", "u16", np.uint16),
    "s16": ("b16", "u16", np.int16), "f16": ("b16", "u16", np.float16), "bf16": ("b16", "u16", np.uint16),
    "u32": ("b32", "u32", np.uint32), "s32": ("b32", "u32", np.int32), "f32": ("f32", "f32", np.float32),
    "x2": ("b32", "u32", np.uint32), "u64": ("b64", "u64", np.uint64), "s64": ("b64", "u64", np.int64),
    "f64": ("f64", "f64", np.float64),
}  # fmt: skip


@dataclass(frozen=True)
class Op:
    """One instruction (or a few) on operands ``%a``, ``%b``, ``%c`` with the result in ``%d``.

    `kinds` are the types of the result and of the operands.
    """

    name: str
    code: str
    kinds: tuple[str, ...]
    reference: Callable[..., Any]
    values: tuple[Sequence[Any], ...]
    same: Callable[[Any, Any], bool] | None = None

    def text(self) -> str:
        """The kernel: element ``i`` of the inputs to element ``i`` of the output, a thread each."""
        lines = [f".reg .{TYPES[kind][0]} %{'dabc'[n]};" for n, kind in enumerate(self.kinds)]
        lines += ["mov.u32 %r1, %ctaid.x;", "mov.u32 %r2, %tid.x;", "mad.lo.u32 %r3, %r1, 32, %r2;"]
        for n, kind in enumerate(self.kinds[1:]):
            size = np.dtype(TYPES[kind][2]).itemsize
            lines += [f"mad.wide.u32 %d1, %r3, {size}, %a{n + 1};", f"ld.global.{TYPES[kind][1]} %{'abc'[n]}, [%d1];"]
        size = np.dtype(TYPES[self.kinds[0]][2]).itemsize
        lines += [self.code, f"mad.wide.u32 %d1, %r3, {size}, %a0;"]
        lines.append(f"st.global.{TYPES[self.kinds[0]][1]} [%d1], %d;")
        return entry("\n".join(lines), len(self.kinds), name=self.name)

    def run(self, module: str) -> None:
        """Run over every combination of the operands' values and compare with the reference, lane by lane."""
        grids = np.meshgrid(*(np.arange(len(v)) for v in self.values), indexing="ij")
        count = grids[0].size
        padded = -(-count // 32) * 32
        inputs = []
        for grid, kind, values in zip(grids, self.kinds[1:], self.values, strict=True):
            column = np.array(values, dtype=TYPES[kind][2])[grid.ravel()]
            inputs.append(np.concatenate([column, np.repeat(column[:1], padded - count)]))
        out = np.zeros(padded, dtype=TYPES[self.kinds[0]][2])
        launch(module, [out, *inputs], kernel=self.name, grid=(padded // 32,))
        for i in range(count):
            operands = [x[i].item() for x in inputs]
            expected = self.reference(*operands)
            assert (self.same or same)(out[i].item(), expected), (
                f"{self.code} of {operands}: {out[i].item()!r}, expected {expected!r}"
            )


def same(found: Any, expected: Any) -> bool:
    """Equal, or both NaN; zeros of equal sign."""
    if isinstance(found, float):
        if found != found or expected != expected:
            return found != found and expected != expected
        return found == expected and np.signbit(found) == np.signbit(expected)
    return bool(found == expected)


@functools.cache
def assemblers() -> list[Path]:
    """The ptxas of NVIDIA's wheel, if it is installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations or [] if spec else []
    return [p for folder in folders for p in sorted(Path(folder).glob("*/bin/ptxas"))]


def assert_ptxas_accepts(text: str, folder: Path) -> None:
    """What the tests run is PTX: NVIDIA's assembler takes it. Skipped where there is none."""
    if not assemblers():
        pytest.skip("needs ptxas (the nvidia-cuda-nvcc wheel)")
    file = folder / "module.ptx"
    file.write_text(text)
    target = read_image(text).target.sm
    done = subprocess.run(
        [assemblers()[0], f"-arch={target}", "-o", folder / "module.cubin", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
