"""Memory maps: counts, sectors and bank conflicts against models in NumPy and plain Python."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trlaunch
from tests import corpus
from tests.emulator.archive import cases
from tests.emulator.launching import wrap
from trlaunch import ArgumentError, DeviceUnavailable, EmulatorError, Kernel, emulator
from trlaunch.emulator.coalescing import bank_wavefronts, sectors_of
from trlaunch.emulator.memory_maps import InstructionMap, MemoryMap
from trlaunch.emulator.memory_report import _charted, pixels

RNG = np.random.default_rng(11)
N = 64
# out[column, row] = in[row, column], a CTA a column, a thread a row; n of each.
TRANSPOSE = """\
mov.u32 %r1, %ctaid.x;
mov.u32 %r2, %tid.x;
mad.lo.u32 %r3, %r2, 64, %r1;
mul.wide.u32 %d1, %r3, 4;
add.s64 %d1, %d1, %a0;
ld.global.b32 %r4, [%d1];
mad.lo.u32 %r5, %r1, 64, %r2;
mul.wide.u32 %d2, %r5, 4;
add.s64 %d2, %d2, %a1;
st.global.b32 [%d2], %r4;
"""
SHARED = ".extern .shared .align 16 .b8 smem[];\n"


def on_emulator(array: np.ndarray) -> Any:
    """A copy that begins on a boundary of 256 bytes, as allocations on a GPU do."""
    return trlaunch.asarray(array, device="emulator")


def case_kernel(name: str, release: str = "3.6.0", target: str = "cuda:80") -> tuple[corpus.Case, Kernel]:
    case = corpus.find(release, target, name)
    return case, Kernel.from_file(case.path("ptx"), device="emulator")


# The model of sectors and banks.


def lanes_of(draw: Any, size: int, count: int) -> tuple[list[int], list[bool]]:
    address = [size * n for n in draw(st.lists(st.integers(0, 400), min_size=count, max_size=count))]
    return address, draw(st.lists(st.booleans(), min_size=count, max_size=count))


@given(st.data())
def test_sectors_are_counted_as_by_hand(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    address, active = lanes_of(data.draw, size, 32)
    bytes_wanted = {a + k for a, on in zip(address, active, strict=True) if on for k in range(size)}
    sectors, useful = sectors_of(np.array([address]), np.array([active]), size)
    assert sectors[0] == len({b // 32 for b in bytes_wanted})
    assert useful[0] == len(bytes_wanted)


@given(st.data())
def test_bank_conflicts_are_counted_as_by_hand(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    address, active = lanes_of(data.draw, size, 32)
    together = 32 if size <= 4 else 128 // size
    wavefronts = ideal = degree = 0
    for start in range(0, 32, together):
        words: set[int] = set()
        for lane in range(start, start + together):
            if active[lane]:
                words |= {(address[lane] + k) // 4 for k in range(size)}
        per_bank = [sum(w % 32 == bank for w in words) for bank in range(32)]
        wavefronts += max(per_bank)
        ideal += bool(words)
        degree = max(degree, *per_bank)
    found = bank_wavefronts(np.array([address]), np.array([active]), size)
    assert tuple(int(f[0]) for f in found) == (wavefronts, ideal, degree)


@pytest.mark.parametrize(
    "stride, size, degree", [(1, 4, 1), (2, 4, 2), (3, 4, 1), (32, 4, 32), (33, 4, 1), (8, 4, 8), (1, 16, 1), (2, 8, 2)]
)
def test_strides_in_shared_memory(stride: int, size: int, degree: int) -> None:
    """A stride in elements: even ones conflict, odd ones do not."""
    found = bank_wavefronts((np.arange(32) * stride * size)[None], np.ones((1, 32), bool), size)
    assert found[2][0] == degree
    assert found[0][0] == degree * found[1][0]


# Kernels.


@pytest.mark.parametrize("release", ["3.0.0", "3.6.0", "3.9.0"])
def test_add_touches_every_element_once(release: str) -> None:
    case, kernel = case_kernel("add_kernel", release)
    block = case.constexprs["BLOCK"]
    n = 3 * block
    x, y, out = (on_emulator(np.zeros(n, np.float32)) for _ in range(3))
    with emulator.memory_map() as seen:
        kernel.launch(3, x, y, out, n)
    one, two, three = seen.arguments.values()
    for argument, reads, writes in ((one, 1, 0), (two, 1, 0), (three, 0, 1)):
        assert argument.dtype == "fp32"
        np.testing.assert_array_equal(argument.reads, np.full(n, reads))
        np.testing.assert_array_equal(argument.writes, np.full(n, writes))
        assert not argument.atomics.any()
        # 16 bytes a lane, side by side: 512 bytes a request.
        assert argument.requests == n * 4 // 512
        assert argument.sectors_per_request == 16
        assert argument.efficiency == 1
    assert len(seen.instructions) == 3 * block // 128 // 4
    assert {i.kind for i in seen.instructions} == {"load", "store"}
    assert all(i.accesses == 32 * i.requests == n // 4 // (block // 512) for i in seen.instructions)


def test_rows_of_softmax() -> None:
    case, kernel = case_kernel("softmax_kernel")
    rows, columns = 6, 781
    x, out = on_emulator(np.ones((rows, columns), np.float32)), on_emulator(np.ones((rows, columns), np.float32))
    with emulator.memory_map() as seen:
        kernel.launch(rows, out, x, columns, columns, columns)
    arguments = seen.arguments
    np.testing.assert_array_equal(arguments["in_ptr"].reads, np.ones((rows, columns)))
    np.testing.assert_array_equal(arguments["out_ptr"].writes, np.ones((rows, columns)))
    # A row begins at a multiple of 4 bytes alone. Four warps of 32 floats, time and again, until the columns end.
    sectors = useful = requests = 0
    for row in range(rows):
        for first in range(0, 1024, 32):
            wanted = np.arange(first, min(first + 32, columns))
            if len(wanted):
                requests += 1
                sectors += len(np.unique((row * columns + wanted) * 4 // 32))
                useful += 4 * len(wanted)
    for argument in arguments.values():
        assert (argument.requests, argument.sectors, argument.useful) == (requests, sectors, useful)
    shared = [i for i in seen.instructions if i.space == "shared"]
    assert shared
    assert all(i.conflicts == 0 and i.degree == 1 for i in shared)
    assert case.kernel == seen.last.kernel


def test_a_transpose_reads_a_sector_an_element() -> None:
    x, out = on_emulator(RNG.random((N, N), np.float32)), on_emulator(np.zeros((N, N), np.float32))
    kernel = Kernel.from_bytes(wrap(TRANSPOSE, 2, threads=N), signature="*fp32, *fp32", device="emulator")
    with emulator.memory_map() as seen:
        kernel.launch(N, x, out)
    np.testing.assert_array_equal(out.numpy(), x.numpy().T)
    load, store = seen.instructions
    assert (load.kind, load.requests, load.sectors_per_request, load.efficiency) == ("load", 2 * N, 32, 4 / 32)
    assert (store.kind, store.requests, store.sectors_per_request, store.efficiency) == ("store", 2 * N, 4, 1)
    for argument in seen.arguments.values():
        np.testing.assert_array_equal(argument.reads + argument.writes, np.ones((N, N)))


@pytest.mark.parametrize("release", ["3.2.0", "3.6.0"])
def test_blocks_of_a_matmul(release: str) -> None:
    """Each row of A is read for every block of columns, each column of B for every block of rows."""
    case, kernel = case_kernel("matmul_kernel", release)
    bm, bn = case.constexprs["BLOCK_M"], case.constexprs["BLOCK_N"]
    m, n, k = 96, 160, 112
    a, b = on_emulator(np.ones((m, k), np.float16)), on_emulator(np.ones((k, n), np.float16))
    c = on_emulator(np.zeros((m, n), np.float16))
    grid = (-(-m // bm), -(-n // bn))
    with emulator.memory_map() as seen:
        kernel.launch(grid, a, b, c, m, n, k, k, n, n)
    one, two, three = seen.arguments.values()
    np.testing.assert_array_equal(one.reads, np.full((m, k), grid[1]))
    np.testing.assert_array_equal(two.reads, np.full((k, n), grid[0]))
    np.testing.assert_array_equal(three.writes, np.ones((m, n)))
    assert one.useful == one.reads.sum() * 2
    assert two.useful == two.reads.sum() * 2
    copies = [i for i in seen.instructions if i.kind == "cp.async"]
    assert copies
    assert all(i.space == "shared" and i.ideal <= i.wavefronts <= i.requests * 4 for i in copies)
    # Triton swizzles the tiles so that ldmatrix meets no conflict.
    tiles = [i for i in seen.instructions if i.text.startswith("ldmatrix")]
    assert tiles
    assert all(i.conflicts == 0 and i.wavefronts == 4 * i.requests for i in tiles)


@pytest.mark.parametrize("case", cases("specialised_kernel"), ids=str)
def test_tensor_copies_are_counted_by_the_box(case: Any) -> None:
    m, n, k = 128, 192, 256
    a, b = on_emulator(np.ones((m, k), np.float16)), on_emulator(np.ones((k, n), np.float16))
    c = on_emulator(np.zeros((m, n), np.float16))
    x, y = (trlaunch.TensorDescriptor(t, block_shape=(64, 64)) for t in (a, b))
    kernel = Kernel.from_bytes(case.ptx.encode(), case.metadata, level="ptx", device="emulator")
    with emulator.memory_map() as seen:
        kernel.launch((2, 3), x, y, c, n, k)
    one, two, three = seen.arguments.values()
    np.testing.assert_array_equal(one.reads, np.full((m, k), 3))
    np.testing.assert_array_equal(two.reads, np.full((k, n), 2))
    np.testing.assert_array_equal(three.writes, np.full((m, n), 2))  # both groups of consumers store the whole tile
    loads = [i for i in seen.instructions if i.kind == "tensor load"]
    assert [i.requests for i in loads] == [6 * k // 64] * 2  # a box of 64 x 64 each round, by one thread of each CTA
    assert [i.sectors_per_request for i in loads] == [64 * 64 * 2 / 32] * 2
    assert all(i.efficiency == 1 for i in loads)


def test_boxes_over_the_edge_count_what_lies_inside() -> None:
    case, kernel = case_kernel("tma_matmul_kernel", "3.6.0", "cuda:90")
    m, n, k = 112, 144, 208
    arrays = [on_emulator(np.ones(shape, np.float16)) for shape in ((m, k), (k, n), (m, n))]
    with emulator.memory_map() as seen:
        kernel.launch((2, 3), *(trlaunch.TensorDescriptor(t, block_shape=(64, 64)) for t in arrays), m, n, k)
    one, two, three = seen.arguments.values()
    np.testing.assert_array_equal(one.reads, np.full((m, k), 3))
    np.testing.assert_array_equal(two.reads, np.full((k, n), 2))
    np.testing.assert_array_equal(three.writes, np.ones((m, n)))
    assert case.name.startswith("tma")


def test_atomics() -> None:
    case = next(c for c in cases("histogram_kernel") if (c.release, c.target) == ("3.6.0", "cuda80"))
    x = RNG.integers(0, 128, 2048).astype(np.int32)
    out = on_emulator(np.zeros(128, np.int32))
    kernel = Kernel.from_bytes(case.ptx.encode(), case.metadata, level="ptx", signature="*i32, *i32, i32")
    with emulator.memory_map() as seen:
        kernel.launch(2, on_emulator(x), out, len(x), device="emulator")
    first, second = seen.arguments.values()
    np.testing.assert_array_equal(first.reads, np.ones(len(x)))
    np.testing.assert_array_equal(second.atomics, np.full(128, 2))  # a histogram of each CTA is added to that of all
    assert not second.writes.any()


def test_bank_conflicts_of_an_instruction() -> None:
    body = (
        "mov.u32 %r1, %tid.x;\nmov.u32 %r2, smem;\nmad.lo.u32 %r3, %r1, 128, %r2;\nst.shared.b32 [%r3], %r1;\n"
        "bar.sync 0;\nmad.lo.u32 %r4, %r1, 4, %r2;\nld.shared.b32 %r5, [%r2];\nst.shared.b32 [%r4], %r5;\n"
        "setp.lt.u32 %p1, %r1, 4;\n@%p1 ld.shared.b32 %r6, [%r3];\n"
    )
    kernel = Kernel.from_bytes(wrap(body, 1, threads=64, extra=SHARED), signature="*i32", shared=64 * 128)
    with emulator.memory_map() as seen:
        kernel.launch(5, np.zeros(4, np.int32), device="emulator")
    found = [(i.kind, i.requests, i.wavefronts, i.ideal, i.degree) for i in seen.instructions]
    assert found == [
        ("store", 10, 320, 10, 32),  # a column of a matrix of 32 words a row
        ("load", 10, 10, 10, 1),  # the same word for all
        ("store", 10, 10, 10, 1),
        ("load", 5, 20, 5, 4),  # four lanes of one warp
    ]
    (argument,) = seen.arguments.values()
    assert (argument.requests, argument.sectors_per_request, argument.efficiency) == (0, 0, 0)


def test_strided_arrays_and_arrays_that_begin_anywhere() -> None:
    kernel = Kernel.from_bytes(wrap(TRANSPOSE, 2, threads=N), signature="*fp32, *fp32", device="emulator")
    memory = np.zeros(N * N + 3, np.float32)
    x = memory[3:].reshape(N, N)
    column = np.zeros((N, 2 * N), np.float32)[:, ::2]  # the kernel takes it for a contiguous one of half its extent
    with emulator.memory_map() as seen:
        kernel.launch(N, x, column)
    one, two = seen.arguments.values()
    np.testing.assert_array_equal(one.reads, np.ones((N, N)))
    assert two.writes.shape == (N, N)
    np.testing.assert_array_equal(two.writes, np.repeat([1, 0], N // 2)[:, None] * np.ones(N, int))


def test_one_array_for_two_arguments() -> None:
    case, kernel = case_kernel("add_kernel")
    n = case.constexprs["BLOCK"]
    x, y = on_emulator(np.zeros(n, np.float32)), on_emulator(np.zeros(n, np.float32))
    with emulator.memory_map() as seen:
        kernel.launch(1, x, y, x, n)
    one, two, three = seen.arguments.values()
    for argument in (one, three):
        np.testing.assert_array_equal(argument.reads, np.ones(n))
        np.testing.assert_array_equal(argument.writes, np.ones(n))
    np.testing.assert_array_equal(two.reads, np.ones(n))
    assert {i.argument for i in seen.instructions} == {"x_ptr, out_ptr", "y_ptr"}


def test_results_and_chunks_are_as_without_a_map() -> None:
    case, kernel = case_kernel("softmax_kernel")
    x = RNG.standard_normal((300, 781)).astype(np.float32)
    plain, seen_out = np.zeros_like(x), np.zeros_like(x)
    kernel.launch(300, plain, x, 781, 781, 781)
    with emulator.memory_map(kernel=case.kernel) as seen:
        kernel.launch(300, seen_out, x, 781, 781, 781)
        other, add = case_kernel("add_kernel")
        add.launch(1, *(np.zeros(16, np.float32) for _ in range(3)), 16)
    assert plain.tobytes() == seen_out.tobytes()
    assert len(seen.launches) == 1
    np.testing.assert_array_equal(seen.arguments["out_ptr"].writes, np.ones_like(x))
    with emulator.memory_map() as nothing:
        pass
    with pytest.raises(EmulatorError, match="no launch was seen"):
        nothing.table()
    assert other.kernel == "add_kernel"


# What it looks like.


@pytest.fixture
def softmax_map() -> Any:
    _, kernel = case_kernel("softmax_kernel")
    x = on_emulator(np.ones((3, 781), np.float32))
    with emulator.memory_map() as seen:
        kernel.launch(3, on_emulator(np.ones((3, 781), np.float32)), x, 781, 781, 781)
    return seen.last


def test_tables_and_json(softmax_map: Any) -> None:
    text = softmax_map.table()
    assert "softmax_kernel, grid 3 x 1 x 1" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("in_ptr"))
    assert row[:6] == ["in_ptr", "fp32", "3x781", "2343", "to", "2343"]
    assert "global memory" in text
    assert "shared memory" in text
    found = softmax_map.to_dict()
    assert found["arguments"][1]["reads"] == {"total": 2343, "elements": 2343, "most": 1}
    assert sum(i.get("sectors", 0) for i in found["instructions"]) == sum(a["sectors"] for a in found["arguments"])
    assert {i["space"] for i in found["instructions"]} == {"global", "shared"}


def test_files(softmax_map: Any, tmp_path: Path) -> None:
    path = softmax_map.save(tmp_path / "counts.npz")
    with np.load(path) as saved:
        assert sorted(saved) == sorted(
            f"{name}.{kind}" for name in ("in_ptr", "out_ptr") for kind in ("reads", "writes", "atomics")
        )
        np.testing.assert_array_equal(saved["in_ptr.reads"], softmax_map.arguments["in_ptr"].reads)
    with pytest.raises(ArgumentError, match="cannot be written"):
        softmax_map.save(tmp_path / "no folder" / "counts.npz")


def test_pictures(softmax_map: Any, tmp_path: Path) -> None:
    written = softmax_map.plot(tmp_path / "maps")
    assert [p.name for p in written] == [
        "softmax_kernel.out_ptr.png", "softmax_kernel.in_ptr.png", "softmax_kernel.instructions.png"
    ]  # fmt: skip
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_pictures_need_matplotlib(softmax_map: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DeviceUnavailable, match=r"pip install trlaunch\[plot\]"):
        softmax_map.plot(tmp_path)


def test_pixels_keep_the_largest_count_and_every_shape() -> None:
    counts = RNG.integers(0, 9, (50, 70))
    small = pixels(counts, 20)
    assert small.shape == (17, 18)
    assert small.max() == counts.max()
    np.testing.assert_array_equal(small[0, 0], counts[:3, :4].max())
    np.testing.assert_array_equal(pixels(counts, 100), counts)
    flat = pixels(np.arange(100))
    assert flat.shape[0] * flat.shape[1] >= 100
    np.testing.assert_array_equal(flat.ravel()[:100], np.arange(100))
    assert np.isnan(flat.ravel()[100:]).all()
    assert pixels(np.zeros((2, 3, 4))).shape == (6, 4)
    assert pixels(np.zeros(())).shape == (1, 1)
    assert pixels(np.zeros(0)).size == 1


def test_of_many_instructions_the_costliest_are_drawn(tmp_path: Path) -> None:
    found = MemoryMap("k", (1, 1, 1))
    for line in range(300):
        row = InstructionMap(line, "ld.shared.b32", "", "shared", "load", requests=2, wavefronts=2 + line % 7, ideal=2)
        found.instructions.append(row)
    (drawn,) = _charted(found).values()
    assert len(drawn) == 80
    assert [i.line for i in drawn] == sorted(i.line for i in drawn)
    assert min(i.wavefronts for i in drawn) == 7
    (path,) = found.plot(tmp_path)
    assert path.name == "k.instructions.png"
