"""Kernels beyond the corpus, of three releases and both architectures, against NumPy."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

import trlaunch
from tests.emulator.archive import Case, cases
from tests.emulator.test_kernels import from_bf16, normal, to_bf16
from trlaunch.errors import Fault
from trlaunch.kernel import Kernel


def every(*names: str, target: str | None = None) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases(*names, target=target), ids=str)


def test_every_release_is_there() -> None:
    assert {c.release for c in cases()} == {"3.2.0", "3.6.0", "3.9.0"}
    assert len(cases()) >= 100


@every("print_kernel")
def test_device_print(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    x = normal(256)
    case.run([x], (2,))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 256
    expected = {f"pid ({i // 128}, 0, 0) idx ({i % 128:3}) x: {value:f}" for i, value in enumerate(x.tolist())}
    assert set(lines) == expected


@every("assert_kernel")
def test_device_assert(case: Case) -> None:
    x, out = np.arange(512, dtype=np.int32), np.zeros(512, np.int32)
    case.run([x, out], (4,))
    np.testing.assert_array_equal(out, x + 1)
    x[300] = -1
    with pytest.raises(Fault, match="x is negative") as caught:
        case.run([x, out], (4,))
    assert (caught.value.kind, caught.value.cta, caught.value.thread) == ("assert", (2, 0, 0), (44, 0, 0))
    assert "kernels_emulator.py:" in str(caught.value)


@every("noinline_kernel")
def test_a_function_that_is_not_inlined(case: Case) -> None:
    assert "call.uni" in case.ptx
    x, y, out = normal(50), normal(50, seed=1), np.zeros(50, np.float32)
    case.run([x, y, out], (50,))
    np.testing.assert_allclose(out, (x * 3 + y) * 3 + x, rtol=1e-6, atol=1e-6)


@every("math_kernel", "math_kernel_f64")
def test_libdevice(case: Case) -> None:
    dtype = np.float64 if case.name.endswith("f64") else np.float32
    x = np.concatenate([normal(500) * 4, [1e5, -3e5, 1e7, 0.5]]).astype(dtype)
    x[:2] = 0, 1
    out = np.zeros_like(x)
    with np.errstate(over="ignore"):
        expected = np.sin(x.astype(np.float64)) + np.vectorize(math.erf)(x) + np.power(np.abs(x), x, dtype=np.float64)
    case.run([x, out, x.size], (2,))
    np.testing.assert_allclose(out, expected.astype(dtype), rtol=1e-12 if dtype == np.float64 else 1e-5, atol=1e-6)


@every("histogram_kernel")
def test_histogram(case: Case) -> None:
    x = np.random.default_rng(0).integers(0, 128, 5000).astype(np.int32)
    out = np.zeros(128, np.int32)
    case.run([x, out, x.size], (5,))
    expected = np.bincount(x, minlength=128)
    expected[0] += 5 * 1024 - 5000  # lanes beyond the end count as zeros
    np.testing.assert_array_equal(out, expected)


@every("sort_kernel")
def test_sort(case: Case) -> None:
    x, out = normal(4, 128), np.zeros((4, 128), np.float32)
    case.run([x, out], (4,))
    np.testing.assert_array_equal(out, np.sort(x, axis=1))


@every("scan_kernel")
def test_scan(case: Case) -> None:
    x, out = normal(4, 256), np.zeros((4, 256), np.float32)
    case.run([x, out], (4,))
    np.testing.assert_allclose(out, np.cumsum(x.astype(np.float64), axis=1), rtol=1e-5, atol=1e-5)


@every("argmax_kernel")
def test_argmax(case: Case) -> None:
    x, out, index = normal(9, 512), np.zeros(9, np.float32), np.zeros(9, np.int32)
    x[4, 100] = x[4, 300] = 50
    case.run([x, out, index], (9,))
    np.testing.assert_array_equal(out, x.max(axis=1))
    np.testing.assert_array_equal(index, x.argmax(axis=1))


def philox(seed: int, offset: np.ndarray) -> list[np.ndarray]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    mask = np.uint64(0xFFFFFFFF)
    zero = np.zeros_like(offset, dtype=np.uint64)
    c = [offset.astype(np.uint64), zero, zero, zero]
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]), b & mask,
             (a >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]), a & mask]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [x.astype(np.uint32) for x in c]


@every("philox_kernel")
def test_philox(case: Case) -> None:
    out = np.zeros((1024, 4), np.uint32)
    case.run([out, 1234], (4,))
    np.testing.assert_array_equal(out, np.stack(philox(1234, np.arange(1024)), axis=1))


@every("dropout_kernel")
def test_dropout(case: Case) -> None:
    n, p = 3000, 0.25
    x, out = normal(n) + 10, np.zeros(n, np.float32)
    case.run([x, out, n, p, 7], (3,))
    kept = out != 0
    np.testing.assert_allclose(out[kept], x[kept] / (1 - p), rtol=1e-6)
    bits = philox(7, np.arange(n))[0].view(np.int32)
    uniform = np.where(bits < 0, -bits.astype(np.int64) - 1, bits) * 4.6566127342e-10
    np.testing.assert_array_equal(kept, uniform > p)


@every("atomics_kernel")
def test_atomics(case: Case) -> None:
    n = 2000
    index = np.random.default_rng(0).integers(0, 100, n).astype(np.int32)
    x = normal(n)
    total, largest = np.zeros(100, np.float32), np.full(100, -1, np.float32)
    half, seen = np.zeros(64, np.float16), np.zeros(4, np.int32)
    case.run([index, x, total, largest, half, seen, n], (8,))
    expected, top = np.zeros(100), np.full(100, -1, np.float32)
    np.add.at(expected, index, x)
    np.maximum.at(top, index, x)
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(largest, top)
    np.testing.assert_array_equal(half, np.bincount(np.arange(n) % 64, minlength=64))
    bits = np.unpackbits(seen.view(np.uint8), bitorder="little")[:100]
    np.testing.assert_array_equal(bits.astype(bool), np.isin(np.arange(100), index))


@every("lock_kernel")
def test_a_spin_lock_over_ctas(case: Case) -> None:
    lock, count = np.zeros(1, np.int32), np.zeros(1, np.int32)
    case.run([lock, count], (24,))
    assert (lock[0], count[0]) == (0, 24)


@every("gather_kernel")
def test_gather(case: Case) -> None:
    x, out = normal(32, 32), np.zeros((32, 32), np.float32)
    index = np.random.default_rng(0).integers(0, 32, (32, 32)).astype(np.int32)
    case.run([x, index, out], (1,))
    np.testing.assert_array_equal(out, np.take_along_axis(x, index, axis=0))


def eight_bits(fraction: int, least: int, codes: int) -> np.ndarray:
    """Values of the non-negative codes of an fp8 type, by its definition."""

    def value(code: int) -> float:
        exponent, rest = code >> fraction, code & ((1 << fraction) - 1)
        return math.ldexp(rest + (exponent > 0) * 2**fraction, max(exponent, 1) - 1 + least - fraction)

    return np.array([value(code) for code in range(codes)])  # fmt: skip


def nearest(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Codes of the nearest values, ties to the even code, saturating; the sign in bit 7."""
    size = np.abs(x.astype(np.float64))
    distance = np.abs(size[:, None] - values)
    codes = distance.argmin(axis=1)
    tie = distance[np.arange(len(x)), np.minimum(codes + 1, len(values) - 1)] == distance[np.arange(len(x)), codes]
    codes = np.where(tie & (codes % 2 == 1) & (codes + 1 < len(values)), codes + 1, codes)
    return (codes | (np.signbit(x) << 7)).astype(np.uint8)


@every("casts_kernel")
def test_casts(case: Case) -> None:
    e4, e5 = eight_bits(3, -6, 127), eight_bits(2, -14, 124)
    exact = np.concatenate([e4, -e5, (e4[1:] + e4[:-1]) / 2]).astype(np.float32)
    x = np.concatenate([exact, normal(512 - len(exact)) * 20]).astype(np.float32)
    x = np.where(np.abs(x) > 448, np.float32(3.0), x)
    out4, out5 = np.zeros(512, np.uint8), np.zeros(512, np.uint8)
    bf16, i32, back = np.zeros(512, np.uint16), np.zeros(512, np.int32), np.zeros(512, np.float32)
    case.run([x, out4, out5, bf16, i32, back], (2,))
    np.testing.assert_array_equal(out4, nearest(x, e4))
    np.testing.assert_array_equal(out5, nearest(x, e5))
    np.testing.assert_array_equal(bf16, to_bf16(x))
    np.testing.assert_array_equal(i32, np.trunc(x))
    np.testing.assert_array_equal(back, np.concatenate([e4, np.zeros(1), -e4, np.zeros(1)])[out4])


@every("collatz_kernel")
def test_a_loop_that_diverges(case: Case) -> None:
    def steps(x: int) -> int:
        count = 0
        while x != 1:
            x, count = (x // 2 if x % 2 == 0 else 3 * x + 1), count + 1
        return count

    x, out = np.arange(1, 41, dtype=np.int64), np.zeros(40, np.int32)
    case.run([x, out, 40], (40,))
    np.testing.assert_array_equal(out, [steps(int(v)) for v in x])


@every("flash_kernel", "flash_kernel_causal")
def test_flash_attention(case: Case) -> None:
    heads, context = 2, 128
    q, k, v = (normal(heads, context, 64, seed=i).astype(np.float16) for i in range(3))
    out = np.zeros_like(q)
    case.run([q, k, v, out, 0.125, context * 64, context], (context // 64, heads), read_only=(0, 1, 2))
    score = q.astype(np.float64) @ k.astype(np.float64).transpose(0, 2, 1) / 8
    if case.name.endswith("causal"):
        score = np.where(np.tril(np.ones((context, context), bool)), score, -np.inf)
    weight = np.exp(score - score.max(axis=2, keepdims=True))
    expected = weight / weight.sum(axis=2, keepdims=True) @ v.astype(np.float64)
    np.testing.assert_allclose(out, expected, rtol=4e-3, atol=2e-3)


def operands(case: Case, m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A and B as they are passed (B transposed if the kernel wants that) and as f64, and C."""
    kind = case.name.removeprefix("matmul_kernel_")
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    if kind == "int8":
        a, b = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((m, k), (k, n)))
        wide = a.astype(np.float64), b.astype(np.float64)
    elif kind in ("e4m3", "e5m2"):
        values = eight_bits(3, -6, 127) if kind == "e4m3" else eight_bits(2, -14, 124)
        table = np.concatenate([values, np.zeros(128 - len(values)), -values, np.zeros(128 - len(values))])
        most = 80 if kind == "e4m3" else 68
        a, b = ((rng.integers(0, most, s) + 128 * rng.integers(0, 2, s)).astype(np.uint8) for s in ((m, k), (k, n)))
        wide = table[a], table[b]
    elif kind == "transposed":
        a, b = to_bf16(normal(m, k)), to_bf16(normal(k, n, seed=1))
        wide = from_bf16(a).astype(np.float64), from_bf16(b).astype(np.float64)
    else:
        dtype = np.float16 if kind.startswith("fp16") else np.float32
        a, b = normal(m, k).astype(dtype), normal(k, n, seed=1).astype(dtype)
        wide = a.astype(np.float64), b.astype(np.float64)
    if case.constexprs["TRANS_B"]:
        b = np.ascontiguousarray(b.T)
    return a, b, *wide, np.zeros((m, n), np.int32 if kind == "int8" else np.float32)


@every(*(f"matmul_kernel_{kind}" for kind in
         ("fp16_8_warps", "transposed", "tf32x3", "ieee", "int8", "e4m3", "e5m2")))  # fmt: skip
def test_matmul(case: Case) -> None:
    m, n, k = 128, 128, 128
    a, b, x, y, c = operands(case, m, n, k)
    case.run([a, b, c, m, n, k], (m // case.constexprs["BLOCK_M"], 2), read_only=(0, 1))
    bound = (np.abs(x) @ np.abs(y)) * (0 if case.name.endswith("int8") else 1e-5)
    assert (np.abs(c - x @ y) <= bound).all()


@every("group_matmul_kernel")
def test_group_matmul(case: Case) -> None:
    sizes = np.array([64, 100, 33], np.int32)
    n = k = 128
    a = [normal(m, k, seed=i).astype(np.float16) for i, m in enumerate(sizes)]
    b = [normal(k, n, seed=9 + i).astype(np.float16) for i in range(3)]
    c = [np.zeros((m, n), np.float16) for m in sizes]
    pointers = [np.array([x.ctypes.data for x in group], np.int64) for group in (a, b, c)]
    # No parameter names the matrices, so they have to be the emulator's own.
    base = [trlaunch.asarray(x, device="emulator") for x in (*a, *b, *c)]
    for g in range(3):
        for group in range(3):
            pointers[group][g] = base[3 * group + g].address
    case.run([*pointers, sizes, 3, n, k], (8,))
    for g in range(3):
        found = np.array(base[6 + g].numpy()).astype(np.float64)
        np.testing.assert_allclose(found, a[g].astype(np.float64) @ b[g].astype(np.float64), rtol=2e-3, atol=2e-3)


@every("persistent_kernel", "specialised_kernel")
def test_descriptors_persistent_and_with_specialised_warps(case: Case) -> None:
    m, n, k = 128, 192, 256
    a, b = normal(m, k).astype(np.float16), normal(k, n, seed=1).astype(np.float16)
    c = np.zeros((m, n), np.float16)
    x, y, z = (trlaunch.TensorDescriptor(t, block_shape=(64, 64)) for t in (a, b, c))
    kernel = Kernel.from_bytes(case.ptx.encode(), case.metadata, level="ptx", device="emulator")
    if case.name.startswith("persistent"):
        kernel.launch((6,), x, y, z, m, n, k)
    else:
        assert "setmaxnreg" in case.ptx
        kernel.launch((2, 3), x, y, c, n, k)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=2e-3, atol=2e-3)
