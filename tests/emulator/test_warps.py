"""Shuffles, votes, matches, reductions, matrices and barriers, against the PTX ISA's pseudo-code and NumPy."""

# ruff: noqa: E501  (tables of PTX statements read best as rows)

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.launching import HEADER, assert_ptxas_accepts, entry, launch

LANE = "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 4; add.s64 %d2, %a0, %d1; add.s64 %d3, %a1, %d1; ld.global.u32 %r2, [%d3];"
STORE = "st.global.u32 [%d2], %r3;"


def source(mode: str, lane: int, b: int, clamp: int) -> tuple[int, bool]:
    """PTX ISA, shfl.sync."""
    b, segment, limit = b & 31, clamp >> 8 & 31, clamp & 31
    top, low = lane & segment | limit & ~segment & 31, lane & segment
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": low | b & ~segment & 31}[mode]
    valid = j >= top if mode == "up" else j <= top
    return (j if valid else lane), valid


SHUFFLES = [
    (mode, b, clamp)
    for mode in ("up", "down", "bfly", "idx")
    for b, clamp in ((1, 0 if mode == "up" else 31), (16, 0 if mode == "up" else 31), (3, 0x1800 if mode == "up" else 0x181F),
                     (5, 0x1C03), (31, 31), (0, 0))
]  # fmt: skip
BODIES = {
    f"shfl{n}": f"{LANE} shfl.sync.{mode}.b32 %r3|%p1, %r2, {b}, {clamp}, -1; @!%p1 add.u32 %r3, %r3, 1000; {STORE}"
    for n, (mode, b, clamp) in enumerate(SHUFFLES)
}
BODIES |= {
    f"dyn{n}": f"{LANE} mov.u32 %r4, {b}; mov.u32 %r5, {clamp}; shfl.sync.{mode}.b32 %r3|%p1, %r2, %r4, %r5, -1;"
    f" @!%p1 add.u32 %r3, %r3, 1000; {STORE}"
    for n, (mode, b, clamp) in enumerate(SHUFFLES)
}
PREDICATE = "setp.gt.u32 %p1, %r2, 50;"
BODIES |= {
    "ballot": f"{LANE} {PREDICATE} vote.sync.ballot.b32 %r3, %p1, -1; {STORE}",
    "any": f"{LANE} {PREDICATE} vote.sync.any.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2; {STORE}",
    "all": f"{LANE} {PREDICATE} vote.sync.all.pred %p2, !%p1, -1; selp.u32 %r3, 1, 0, %p2; {STORE}",
    "uni": f"{LANE} {PREDICATE} vote.sync.uni.pred %p2, %p1, -1; selp.u32 %r3, 1, 0, %p2; {STORE}",
    "match": f"{LANE} and.b32 %r2, %r2, 3; match.any.sync.b32 %r3, %r2, -1; {STORE}",
    "matchall": f"{LANE} shr.u32 %r2, %r1, 5; match.all.sync.b32 %r3|%p1, %r2, -1; @!%p1 mov.u32 %r3, 7; {STORE}",
    "radd": f"{LANE} redux.sync.add.u32 %r3, %r2, -1; {STORE}",
    "rmin": f"{LANE} sub.u32 %r2, %r2, 60; redux.sync.min.s32 %r3, %r2, -1; {STORE}",
    "rxor": f"{LANE} redux.sync.xor.b32 %r3, %r2, -1; {STORE}",
    "active": f"{LANE} mov.u32 %r3, 0; setp.lt.u32 %p1, %r1, 40; @!%p1 bra skip; activemask.b32 %r3; skip: {STORE}",
    "half": f"{LANE} mov.u32 %r3, 5; and.b32 %r4, %r1, 16; setp.eq.u32 %p1, %r4, 0; @!%p1 bra skip;"
    f" shfl.sync.bfly.b32 %r3, %r2, 1, 31, 0xffff; skip: bar.warp.sync -1; {STORE}",
    "ids": f"{LANE} mov.u32 %r3, %laneid; mov.u32 %r4, %warpid; mad.lo.u32 %r3, %r4, 100, %r3; mov.u32 %r5, %lanemask_lt;"
    f" popc.b32 %r5, %r5; sub.u32 %r3, %r3, %r5; mov.u32 %r6, %ntid.x; add.u32 %r3, %r3, %r6; {STORE}",
}
MODULE = HEADER + "".join(entry(body, 2, name=name, threads=64) for name, body in BODIES.items())
DATA = np.random.default_rng(3).integers(0, 100, 64).astype(np.uint32)
WARPS = DATA.reshape(2, 32)


def run(name: str, data: np.ndarray = DATA) -> np.ndarray:
    out = np.zeros(64, np.uint32)
    launch(HEADER + entry(BODIES[name], 2, name=name, threads=64), [out, data.copy()])
    return out.reshape(2, 32)


def test_ptxas_accepts_the_module(tmp_path) -> None:
    assert_ptxas_accepts(MODULE, tmp_path)


@pytest.mark.parametrize("form", ["shfl", "dyn"])
@pytest.mark.parametrize("number", range(len(SHUFFLES)))
def test_shuffle(form: str, number: int) -> None:
    mode, b, clamp = SHUFFLES[number]
    found = run(f"{form}{number}")
    for warp in range(2):
        for lane in range(32):
            j, valid = source(mode, lane, b, clamp)
            assert found[warp, lane] == WARPS[warp, j] + (0 if valid else 1000), (mode, b, clamp, lane)


def words(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=-1)


def test_votes_matches_and_reductions() -> None:
    p = WARPS > 50
    assert (run("ballot") == words(p)[:, None]).all()
    assert (run("any") == p.any(axis=1)[:, None]).all()
    assert (run("all") == (~p).all(axis=1)[:, None]).all()
    assert not run("uni").any()
    assert (run("uni", np.zeros(64, np.uint32)) == 1).all()
    assert (run("any", np.zeros(64, np.uint32)) == 0).all()
    low = WARPS & 3
    assert (run("match") == words(low[:, :, None] == low[:, None, :])).all()
    assert (run("matchall") == 0xFFFFFFFF).all()
    assert (run("radd") == WARPS.sum(axis=1)[:, None]).all()
    assert (run("rmin").view(np.int32) == WARPS.astype(int).min(axis=1)[:, None] - 60).all()
    assert (run("rxor") == np.bitwise_xor.reduce(WARPS, axis=1)[:, None]).all()


def test_active_lanes_and_identities() -> None:
    active = run("active")
    assert (active[0] == 0xFFFFFFFF).all()
    assert (active[1] == np.where(np.arange(32) < 8, 0xFF, 0)).all()
    half = run("half")
    lanes = np.arange(32)
    assert (half == np.where(lanes & 16, 5, WARPS[:, lanes ^ 1])).all()
    assert (run("ids") == np.array([[64], [164]])).all()


# Matrices: every lane stores its registers; NumPy puts them where the PTX ISA's figures say.

FRAGMENTS = {
    "m16n8k16.row.col.f32.f16.f16.f32": (4, 2, 4), "m16n8k8.row.col.f32.f16.f16.f32": (2, 1, 4),
    "m16n8k16.row.col.f32.bf16.bf16.f32": (4, 2, 4), "m16n8k8.row.col.f32.tf32.tf32.f32": (4, 2, 4),
    "m16n8k4.row.col.f32.tf32.tf32.f32": (2, 1, 4), "m16n8k16.row.col.f16.f16.f16.f16": (4, 2, 2),
    "m16n8k32.row.col.s32.s8.s8.s32": (4, 2, 4), "m16n8k16.row.col.s32.u8.s8.s32": (2, 1, 4),
    "m16n8k32.row.col.f32.e4m3.e4m3.f32": (4, 2, 4), "m16n8k32.row.col.f32.e5m2.e4m3.f32": (4, 2, 4),
}  # fmt: skip


def mma_body(shape: str) -> str:
    a, b, d = FRAGMENTS[shape]
    lines = [
        "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 16; add.s64 %d2, %a0, %d1; add.s64 %d3, %a1, %d1; add.s64 %d4, %a2, %d1;"
    ]
    lines += [".reg .b32 %x<4>, %y<4>, %z<4>; .reg .f32 %w<4>;"]
    lines += [f"ld.global.b32 %x{k}, [%d3+{4 * k}];" for k in range(a)]
    lines += [f"ld.global.b32 %y{k}, [%d4+{4 * k}];" for k in range(b)]
    z = "w" if ".f32." in f".{shape.split('.')[3]}." else "z"
    lines += [f"ld.global.{'f32' if z == 'w' else 'b32'} %{z}{k}, [%d2+{4 * k}];" for k in range(d)]

    def listed(name: str, count: int) -> str:
        return "{" + ", ".join(f"%{name}{k}" for k in range(count)) + "}"

    lines.append(f"mma.sync.aligned.{shape} {listed(z, d)}, {listed('x', a)}, {listed('y', b)}, {listed(z, d)};")
    lines += [f"st.global.{'f32' if z == 'w' else 'b32'} [%d2+{4 * k}], %{z}{k};" for k in range(d)]
    return "\n".join(lines)


def matrix_module() -> str:
    header = HEADER.replace("8.0", "8.4")  # which has mma of fp8
    return header + "".join(entry(mma_body(s), 3, name=f"m{n}", threads=32) for n, s in enumerate(FRAGMENTS))


def test_ptxas_accepts_the_matrix_module(tmp_path) -> None:
    assert_ptxas_accepts(matrix_module(), tmp_path)


ELEMENTS = {"f16": np.float16, "bf16": np.uint16, "tf32": np.float32, "s8": np.int8, "u8": np.uint8, "e4m3": np.uint8,
            "e5m2": np.uint8}  # fmt: skip


@pytest.mark.parametrize("shape", FRAGMENTS)
def test_mma(shape: str) -> None:
    a_count, b_count, _ = FRAGMENTS[shape]
    size, _, _, out, left, right, _ = shape.split(".")
    k = int(size.partition("k")[2])
    rng = np.random.default_rng(1)
    a = rng.integers(-7 if left != "u8" else 0, 8, (16, k)).astype(float)
    b = rng.integers(-7, 8, (k, 8)).astype(float)
    if left == "e5m2":
        a = np.sign(a) * 2.0 ** (abs(a) % 3)  # two bits of fraction
    c = rng.integers(-50, 50, (16, 8)).astype(float)

    def encode(x: np.ndarray, kind: str) -> np.ndarray:
        if kind == "bf16":
            return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        if kind == "e5m2":  # the upper half of f16
            return (x.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8)
        if kind == "e4m3":  # the middle of f16, with another bias
            bits = x.astype(np.float16).view(np.uint16)
            size = np.where(x == 0, 0, ((bits & 0x7FFF) >> 7) - (8 << 3))
            return (size | (bits >> 8 & 0x80)).astype(np.uint8)
        return x.astype(ELEMENTS[kind])

    per_word = 4 // np.dtype(ELEMENTS[left]).itemsize
    a_bits, b_bits = encode(a, left), encode(b, right)
    regs_a, regs_b = np.zeros((32, 4), np.uint32), np.zeros((32, 4), np.uint32)
    # Exact copies of the figures: element i of lane's fragment to (row, column).
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        for word in range(a_count):
            row, start = g + 8 * (word & 1), (t + 4 * (word >> 1)) * per_word
            regs_a[lane, word] = np.ascontiguousarray(a_bits[row, start : start + per_word]).view(np.uint32)[0]
        for word in range(b_count):
            start = (t + 4 * word) * per_word
            regs_b[lane, word] = np.ascontiguousarray(b_bits[start : start + per_word, g]).view(np.uint32)[0]
    kind = {"f32": np.float32, "s32": np.int32, "f16": np.float16}[out]
    per_register = 4 // np.dtype(kind).itemsize
    registers = np.zeros((32, 4 * per_register), kind)
    places = (
        [(lane >> 2) + 8 * (i >> 1) for lane in range(32) for i in range(4)],
        [2 * (lane & 3) + (i & 1) for lane in range(32) for i in range(4)],
    )
    registers[:, :4] = c[places].reshape(32, 4)
    launch(HEADER + entry(mma_body(shape), 3), [registers, regs_a, regs_b])
    found = np.zeros((16, 8))
    found[places] = registers[:, :4].ravel()
    np.testing.assert_array_equal(found, a @ b + c)


DOUBLES = {"m8n8k4": (1, 1, 2), "m16n8k4": (2, 1, 4), "m16n8k8": (4, 2, 4), "m16n8k16": (8, 4, 4)}


def double_body(shape: str) -> str:
    """Products of f64: registers come from and go to 64 bytes per lane of each matrix."""
    counts = DOUBLES[shape]
    lines = ["mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 64;"]
    lines += [f"add.s64 %d{n + 2}, %a{n}, %d1;" for n in range(3)]
    lines += [".reg .f64 %x<8>, %y<4>, %z<4>;"]
    for name, base, count in zip("xyz", (3, 4, 2), counts, strict=True):
        lines += [f"ld.global.f64 %{name}{k}, [%d{base}+{8 * k}];" for k in range(count)]
    x, y, z = ("{" + ", ".join(f"%{n}{k}" for k in range(count)) + "}" for n, count in zip("xyz", counts, strict=True))
    lines.append(f"mma.sync.aligned.{shape}.row.col.f64.f64.f64.f64 {z}, {x}, {y}, {z};")
    return "\n".join([*lines, *(f"st.global.f64 [%d2+{8 * k}], %z{k};" for k in range(counts[2]))])


def test_ptxas_accepts_products_of_f64(tmp_path) -> None:
    text = "".join(entry(double_body(s), 3, name=f"m{n}", threads=32) for n, s in enumerate(DOUBLES))
    assert_ptxas_accepts(HEADER + text, tmp_path)


@pytest.mark.parametrize("shape", DOUBLES)
def test_mma_f64(shape: str) -> None:
    a_count, b_count, d_count = DOUBLES[shape]
    rows, k = 4 * d_count, 4 * b_count
    rng = np.random.default_rng(2)
    a, b, c = (rng.integers(-99, 99, s).astype(float) for s in ((rows, k), (k, 8), (rows, 8)))
    regs_a, regs_b, regs_c = (np.zeros((32, 8)) for _ in range(3))
    # PTX ISA, "Matrix Fragments for mma.m8n8k4 / m16n8k* with .f64 floating point type".
    places = [(g + 8 * (i >> 1), 2 * t + (i & 1)) for g in range(8) for t in range(4) for i in range(d_count)]
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        regs_a[lane, :a_count] = [a[g + 8 * (i % (rows // 8)), t + 4 * (i // (rows // 8))] for i in range(a_count)]
        regs_b[lane, :b_count] = [b[t + 4 * i, g] for i in range(b_count)]
    at = tuple(np.array(places).T)
    regs_c[:, :d_count] = c[at].reshape(32, d_count)
    launch(HEADER + entry(double_body(shape), 3), [regs_c, regs_a, regs_b])
    found = np.zeros((rows, 8))
    found[at] = regs_c[:, :d_count].ravel()
    np.testing.assert_array_equal(found, a @ b + c)


def listed(name: str, numbers: range) -> str:
    return "{" + ", ".join(f"%{name}{k}" for k in numbers) + "}"


def block_body(fresh: bool, look: bool) -> str:
    """A 32 x 16 x 32 product of f16 as eight ``mma``; accumulators that are replaced or new ones (`fresh`); with `look`,
    something reads one of them between two steps.
    """
    lines = [
        ".reg .b32 %x<16>, %y<8>; .reg .f32 %w<16>, %v<16>, %u;",
        "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 64; add.s64 %d2, %a0, %d1; add.s64 %d3, %a1, %d1;",
        "add.s64 %d4, %a2, %d1; mov.f32 %u, 0f00000000;",
        *(f"ld.global.b32 %x{k}, [%d3+{4 * k}];" for k in range(16)),
        *(f"ld.global.b32 %y{k}, [%d4+{4 * k}];" for k in range(8)),
        *(f"ld.global.f32 %w{k}, [%d2+{4 * k}];" for k in range(16)),
    ]
    opcode = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
    source = "w"
    for step in range(2):
        target = "v" if fresh and step == 0 else "w"
        for at in range(4):
            m, n = at >> 1, at & 1
            x, y = range(8 * step + 4 * m, 8 * step + 4 * m + 4), range(4 * step + 2 * n, 4 * step + 2 * n + 2)
            accumulator = range(4 * at, 4 * at + 4)
            operands = listed(target, accumulator), listed("x", x), listed("y", y), listed(source, accumulator)
            lines.append(f"{opcode} {', '.join(operands)};")
        source = target
        if look and step == 0:
            lines.append(f"add.f32 %u, %{target}5, 0f3F800000;")
    lines += [f"st.global.f32 [%d2+{4 * k}], %w{k};" for k in range(16)]
    return "\n".join([*lines, "st.global.f32 [%d3], %u;"])


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("fresh", [False, True])
def test_products_that_share_operands(fresh: bool, look: bool, tmp_path) -> None:
    text = HEADER + entry(block_body(fresh, look), 3, threads=64)
    assert_ptxas_accepts(text, tmp_path)
    rng = np.random.default_rng(3)
    a = rng.integers(-7, 8, (2, 32, 32)).astype(np.float16)  # of each warp
    b = rng.integers(-7, 8, (2, 32, 16)).astype(np.float16)
    c = rng.integers(-50, 50, (2, 32, 16)).astype(np.float32)
    regs_a, regs_b = (np.zeros((2, 32, 16), np.uint32) for _ in range(2))
    place = {}
    for warp in range(2):
        for lane in range(32):
            g, t = lane >> 2, lane & 3
            for k in range(16):  # step, tile, half of k, half of the rows
                row, start = 16 * (k >> 2 & 1) + g + 8 * (k & 1), 16 * (k >> 3) + 8 * (k >> 1 & 1) + 2 * t
                regs_a[warp, lane, k] = a[warp, row, start : start + 2].view(np.uint32)[0]
                place[warp, lane, k] = (warp, 16 * (k >> 3) + g + 8 * (k >> 1 & 1), 8 * (k >> 2 & 1) + 2 * t + (k & 1))
            for k in range(8):
                start, column = 16 * (k >> 2) + 8 * (k & 1) + 2 * t, 8 * (k >> 1 & 1) + g
                pair = np.ascontiguousarray(b[warp, start : start + 2, column])
                regs_b[warp, lane, k] = pair.view(np.uint32)[0]
    at = tuple(np.array([place[w, i, k] for w in range(2) for i in range(32) for k in range(16)]).T)
    found = c[at].reshape(64, 16).copy()
    launch(text, [found, regs_a.reshape(64, 16), regs_b.reshape(64, 16)])
    expected = a.astype(np.float32) @ b + c
    np.testing.assert_array_equal(found.ravel(), expected[at])
    first = (a[:, :, :16].astype(np.float32) @ b[:, :16] + c)[at].reshape(64, 16)[:, 5] + 1
    np.testing.assert_array_equal(regs_a.reshape(64, 16)[:, 0].view(np.float32), first if look else 0)


LDMATRIX = """.shared .align 16 .b8 s[512];
"""


def ldmatrix_body(count: int, trans: str, store: bool) -> str:
    """Lane i writes 16 bytes at 16 i; the matrices are read back (or written and read as rows)."""
    names = ", ".join(f"%x{k}" for k in range(count))
    rows = "mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 4; mov.u32 %r3, s; add.u32 %r3, %r3, %r2; mul.wide.u32 %d1, %r1, 16;"
    rows += (
        "add.s64 %d2, %a0, %d1; add.s64 %d3, %a1, %d1; .reg .b32 %x<4>; ld.global.v4.b32 {%x0, %x1, %x2, %x3}, [%d3];"
    )
    if store:
        return (
            rows + "st.shared.v4.b32 [%r3], {%r1, %r1, %r1, %r1}; bar.sync 0;"
            f"stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 [%r3], {{{names}}}; bar.sync 0;"
            "ld.shared.v4.b32 {%x0, %x1, %x2, %x3}, [%r3]; st.global.v4.b32 [%d2], {%x0, %x1, %x2, %x3};"
        )
    stores = "".join(f"st.global.b32 [%d2+{4 * k}], %x{k};" for k in range(count))
    return (
        rows + "st.shared.v4.b32 [%r3], {%x0, %x1, %x2, %x3}; bar.sync 0;"
        f"ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{names}}}, [%r3]; {stores}"
    )


FORMS = [(count, trans, store) for count in (1, 2, 4) for trans in ("", ".trans") for store in (False, True)]


def test_ptxas_accepts_matrix_loads(tmp_path) -> None:
    text = "".join(entry(ldmatrix_body(*form), 2, name=f"k{n}") for n, form in enumerate(FORMS))
    assert_ptxas_accepts(HEADER + LDMATRIX + text, tmp_path)


@pytest.mark.parametrize("count, trans, store", FORMS)
def test_matrices_in_shared_memory(count: int, trans: str, store: bool) -> None:
    data = np.arange(256, dtype=np.uint16).reshape(
        32, 8
    )  # eight elements per lane: a row of a matrix, or its registers
    out = np.zeros((32, 8), np.uint16)
    launch(HEADER + LDMATRIX + entry(ldmatrix_body(count, trans, store), 2), [out, data])
    matrices = data.reshape(4, 8, 8)[:count]
    if trans:
        matrices = matrices.transpose(0, 2, 1)
    if not store:
        for k in range(count):
            expected = matrices[k].reshape(32, 2)  # lane 4 r + t holds elements 2 t and 2 t + 1 of row r
            np.testing.assert_array_equal(out[:, 2 * k : 2 * k + 2], expected)
        return
    rows = out.reshape(4, 8, 8)
    for k in range(count):
        held = data[:, 2 * k : 2 * k + 2].reshape(8, 8)
        np.testing.assert_array_equal(rows[k], held.T if trans else held)


CONTROL = {
    # Threads loop as often as their index says; sums of 0 .. n - 1.
    "loop": "mov.u32 %r1, %tid.x; mov.u32 %r2, 0; mov.u32 %r3, 0; again: setp.ge.u32 %p1, %r2, %r1; @%p1 bra done;"
    " add.u32 %r3, %r3, %r2; add.u32 %r2, %r2, 1; bra.uni again; done: mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %a0, %d1;"
    " st.global.u32 [%d1], %r3;",
    # Two groups meet at barriers of their own, then all at barrier 0.
    "groups": "mov.u32 %r1, %tid.x; mov.u32 %r4, s; shl.b32 %r2, %r1, 2; add.u32 %r4, %r4, %r2; st.shared.u32 [%r4], %r1;"
    " setp.lt.u32 %p1, %r1, 64; @%p1 bra low; bar.sync 1, 64; add.u32 %r3, %r1, 1; bra.uni all; low: bar.sync 2, 64;"
    " add.u32 %r3, %r1, 2; all: st.shared.u32 [%r4], %r3; bar.sync 0; mov.u32 %r5, s; xor.b32 %r6, %r2, 256;"
    " add.u32 %r5, %r5, %r6; ld.shared.u32 %r7, [%r5]; mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %a0, %d1;"
    " st.global.u32 [%d1], %r7;",
    # Producers arrive without waiting, consumers wait; the first warp exits early.
    "arrive": "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 32; @%p1 ret; setp.lt.u32 %p1, %r1, 64; mov.u32 %r4, s;"
    " @!%p1 bra consume; and.b32 %r2, %r1, 31; mad.lo.u32 %r3, %r2, 4, %r4; st.shared.u32 [%r3], %r2; bar.arrive 3, 96;"
    " bra.uni end; consume: bar.sync 3, 96; and.b32 %r2, %r1, 31; mad.lo.u32 %r3, %r2, 4, %r4; ld.shared.u32 %r5, [%r3];"
    " mul.wide.u32 %d1, %r1, 4; add.s64 %d1, %a0, %d1; add.u32 %r5, %r5, 100; st.global.u32 [%d1], %r5; end: bar.sync 0;",
    # A lock taken by one lane after the other.
    "lock": "mov.u32 %r9, 0; again: atom.global.cas.b32 %r1, [%a0], 0, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra again;"
    " ld.volatile.global.u32 %r2, [%a0+4]; add.u32 %r2, %r2, 1; st.volatile.global.u32 [%a0+4], %r2;"
    " atom.global.exch.b32 %r3, [%a0], 0;",
}
CONTROL_EXTRA = ".shared .align 16 .b8 s[512];\n"


def control(name: str) -> str:
    return HEADER + CONTROL_EXTRA + entry(CONTROL[name], 1, name=name, threads=128)


def test_ptxas_accepts_control_flow(tmp_path) -> None:
    text = "".join(entry(body, 1, name=name, threads=128) for name, body in CONTROL.items())
    assert_ptxas_accepts(HEADER + CONTROL_EXTRA + text, tmp_path)


def test_divergent_loop() -> None:
    out = np.zeros(128, np.uint32)
    launch(control("loop"), [out])
    n = np.arange(128)
    assert (out == n * (n - 1) // 2).all()


def test_a_block_that_is_not_whole_warps() -> None:
    out = np.zeros(64, np.uint32)
    launch(control("loop"), [out], block=(45,))
    n = np.arange(45)
    assert (out[:45] == n * (n - 1) // 2).all()
    assert not out[45:].any()


def test_named_barriers() -> None:
    out = np.zeros(128, np.uint32)
    launch(control("groups"), [out])
    other = np.arange(128) ^ 64
    assert (out == other + np.where(other < 64, 2, 1)).all()
    out[:] = 0
    launch(control("arrive"), [out])
    assert (out[64:] == np.arange(64) % 32 + 100).all()
    assert not out[:64].any()


def test_lanes_that_spin_let_others_on() -> None:
    memory = np.zeros(2, np.uint32)
    launch(control("lock"), [memory], grid=(3,))
    assert memory.tolist() == [0, 3 * 128]
