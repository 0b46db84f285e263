"""Launches that die, each with the cause that a report must put first: on the emulator, and the same on a GPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import trlaunch
from tests import corpus
from tests.emulator import archive
from tests.gpu.launches import launch_of
from trlaunch.artifact import Artifact
from trlaunch.investigate import Trial

__all__ = ["CASES", "ENDLESS", "Case", "assemble", "compiled", "numbers", "written"]


@dataclass(frozen=True)
class Case:
    """A launch that dies.

    Attributes
    ----------
    name : str
    trial : callable
        The trial, for a device; keywords replace its settings.
    causes : tuple of str
        Rules, each of which is right as the first.
    statuses : tuple of str
        On the emulator, and on a GPU.
    """

    name: str
    trial: Callable[..., Trial]
    causes: tuple[str, ...]
    statuses: tuple[str, str] = ("fault", "error")

    def __str__(self) -> str:
        return self.name


def assemble(
    body: str, parameters: str = ".param .u64 p", *, target: str = "sm_80", shared: int = 0, warps: int = 1
) -> str:
    """A kernel ``k`` around a few instructions."""
    return f"""
.version 8.0
.target {target}
.address_size 64
.visible .entry k({parameters})
.reqntid {32 * warps}, 1, 1
{{
    .reg .pred %p<4>;
    .reg .b32 %r<8>;
    .reg .b64 %d<8>;
    {f".shared .align 16 .b8 s[{shared}];" if shared else ""}
    ld.param.u64 %d1, [p];
    {body}
    ret;
}}
"""


def written(body: str, argument: Any, types: str = "*u32", **settings: Any) -> Callable[..., Trial]:
    """A trial of hand-written PTX with one pointer."""
    artifact = Artifact.from_bytes(
        assemble(body, **settings), {"num_warps": settings.get("warps", 1), "shared": 0, "name": "k"}
    )

    def trial(**changes: Any) -> Trial:
        return Trial.of(artifact, grid=1, args=[argument()], signature=types, **changes)

    return trial


def compiled(release: str, name: str, metadata: dict[str, Any]) -> Callable[..., Trial]:
    """A trial of a kernel of the corpus with other metadata than its own."""

    def trial(**changes: Any) -> Trial:
        case = corpus.find(release, "cuda:90", name)
        launch = launch_of(case)
        level = "ptx" if changes.get("device") == "emulator" else "cubin"
        arguments = [getattr(a, "array", a) for a in launch.arguments]
        grid = (1,) * len(launch.grid) if level == "ptx" else launch.grid
        return Trial.of(case.path(level), case.metadata | metadata, grid=grid, args=arguments, **changes)

    return trial


def odd_coordinate(**changes: Any) -> Trial:
    """A tensor copy that begins at column 3 of a matrix of fp16: 6 bytes."""
    case = corpus.find("3.6.0", "cuda:90", "tma_matmul_kernel")
    text = case.text("ptx")
    copy = re.search(r"^.*cp\.async\.bulk\.tensor\.2d\.shared.*\{(%r\d+), .*$", text, re.M)
    assert copy is not None
    broken = f"\tadd.s32 \t%odd1, {copy[1]}, 3;\n" + copy[0].replace("{" + copy[1], "{%odd1")
    text = text.replace(copy[0], broken, 1)
    first = re.search(r"^\t\.reg \.b32 .*$", text, re.M)
    assert first is not None
    text = text.replace(first[0], first[0] + "\n\t.reg .b32 \t%odd<2>;", 1)
    # Without the metadata's names of the other levels: the text is not theirs any more.
    artifact = Artifact.from_bytes(text, case.metadata)
    matrices = [np.ones((64, 64), np.float16) for _ in range(3)]
    arguments = [trlaunch.TensorDescriptor(matrix, block_shape=(64, 64)) for matrix in matrices]
    types = ",".join(p.type for p in case.params)
    return Trial.of(artifact, grid=(1, 1), args=[*arguments, 64, 64, 64], signature=types, **changes)


def failed_assert(**changes: Any) -> Trial:
    """``tl.device_assert(x >= 0, "x is negative")`` on a negative x."""
    case = next(c for c in archive.cases("assert_kernel", target="cuda80") if c.release == "3.6.0")
    x = np.arange(128, dtype=np.float32) - 5
    artifact = Artifact.from_bytes(case.ptx, case.metadata)
    return Trial.of(artifact, grid=1, args=[x, np.zeros_like(x)], **changes)


ENDLESS = "again: add.u32 %r1, %r1, 1; st.volatile.global.u32 [%d1], %r1; bra again;"

# A load that is waited for: a store by a warp that exits at once may fail after the launch counts as done.
_ACCESS = "ld.global.u32 %r1, [%d1]; add.u32 %r1, %r1, 7; st.global.u32 [%d1], %r1;"


def numbers() -> Any:
    """256 zeros."""
    return np.zeros(256, np.uint32)


CASES = (
    Case(
        "wgmma with too few warps",
        compiled("3.0.0", "matmul_kernel", {"num_warps": 2}),
        ("block", "wgmma"),
    ),
    Case("too little shared memory", compiled("3.6.0", "matmul_kernel", {"shared": 1024}), ("shared",)),
    Case(
        "misaligned pointer",
        written(_ACCESS, lambda: np.zeros(257, np.uint8)[1:], "*u8"),
        ("misaligned",),
    ),
    Case("wild pointer", written(_ACCESS, lambda: trlaunch.Pointer(0x7F1234567000)), ("wild-pointer",)),
    Case(
        "out of bounds",
        written("add.s64 %d1, %d1, 1099511627776; " + _ACCESS, numbers),
        ("out-of-bounds",),
    ),
    Case("null pointer", written(_ACCESS, lambda: None), ("null-pointer",)),
    Case("trap", written("mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 7; @%p1 trap; " + _ACCESS, numbers), ("trap",)),
    Case("device_assert", failed_assert, ("assert",)),
    Case("TMA coordinate", odd_coordinate, ("tma-coordinate",)),
    Case(
        "uninitialised mbarrier",
        written(
            "mov.u32 %r1, s; mbarrier.arrive.shared.b64 %d2, [%r1]; st.global.u64 [%d1], %d2;"
            "bar.sync 0; ld.volatile.shared.u64 %d2, [%r1]; st.global.u64 [%d1], %d2;",
            numbers,
            target="sm_90",
            shared=64,
        ),
        ("mbarrier",),
    ),
    Case("endless loop", written("mov.u32 %r1, 0; " + ENDLESS, numbers), ("endless-loop",), ("hang", "hang")),
)
