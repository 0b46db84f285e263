"""Floating-point arithmetic and conversions over edge values, against exact fractions."""

# ruff: noqa: E501  (tables of PTX statements read best as rows)

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest

from tests.emulator.exact import bf16_bits, from_bf16, rounded, to_integer
from tests.emulator.launching import HEADER, TYPES, Op, assert_ptxas_accepts, same

INF, NAN = math.inf, math.nan
EDGES = {
    "f32": [0.0, -0.0, 1.0, -1.0, 1.5, 2.5, -3.5, 1 + 2**-23, 2.0**-126, 2.0**-149, -3 * 2.0**-140, 3.4028234663852886e38,
            16777217.0, 0.1, -1e10, 65519.0, 2049.0, 1e-7, INF, -INF, NAN],
    "f64": [0.0, -0.0, 1.0, -1.5, 0.1, 2.0**-1022, 5e-324, 1.7976931348623157e308, 1e-300, 1e200, -1e16, 1 + 2.0**-52,
            1 + 2.0**-29 + 2.0**-52, INF, -INF, NAN],
    "f16": [0.0, -0.0, 1.0, -1.5, 0.1, 65504.0, 2.0**-14, 2.0**-24, -3 * 2.0**-20, 2048.0, 1 + 2.0**-10, INF, -INF, NAN],
}  # fmt: skip
RNG = np.random.default_rng(5)
RANDOM = [float(np.float32(v)) for v in RNG.standard_normal(14) * 2.0 ** RNG.integers(-30, 30, 14)]


def f32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def exact(function, name: str, mode: str = "rn"):
    """A reference: `function` on fractions where all operands are finite, on floats (IEEE) otherwise."""

    def reference(*operands: float) -> float:
        if all(map(math.isfinite, operands)):
            value = function(*map(Fraction, operands))
            if value:
                return rounded(value, name, mode)
        with np.errstate(all="ignore"):
            return float(function(*map(np.float64, operands)))

    return reference


def flush(x: float) -> float:
    return math.copysign(0.0, x) if abs(x) < 2.0**-126 else x


def lesser(a: float, b: float) -> float:
    if a != a or b != b:
        return b if a != a else a
    if a == b == 0:
        return a if math.copysign(1, a) < 0 else b
    return min(a, b)


def greater(a: float, b: float) -> float:
    return -lesser(-a, -b)


def divide(a: float, b: float) -> float:
    if math.isfinite(a) and math.isfinite(b) and b != 0 and a != 0:
        return rounded(Fraction(a) / Fraction(b), "f32")
    with np.errstate(all="ignore"):
        return float(np.float32(a) / np.float32(b))


SINGLE = EDGES["f32"] + RANDOM
ADD, SUB, MUL = (lambda a, b: a + b), (lambda a, b: a - b), (lambda a, b: a * b)


def fma(a, b, c):
    return a * b + c


TRICKY = [  # products near a tie of f32 that c breaks
    *((1 + k * 2.0**-23, 1 + j * 2.0**-12, s * 2.0**-e) for k in (1, 3, 5) for j in (1, 2048) for s in (1, -1) for e in (24, 60, 77)),
]  # fmt: skip
OPS: list[Op] = []
for kind in ("f32", "f64", "f16"):
    values = SINGLE if kind == "f32" else EDGES[kind]
    for name, function in (("add", ADD), ("sub", SUB), ("mul", MUL)):
        OPS.append(
            Op(f"{name}_{kind}", f"{name}.{kind} %d, %a, %b;", (kind,) * 3, exact(function, kind), (values, values))
        )
    OPS += [
        Op(
            f"fma_{kind}",
            f"fma.rn.{kind} %d, %a, %b, %c;",
            (kind,) * 4,
            exact(fma, kind),
            (values[2:19], values[2:19], values[::2]),
        ),
        Op(f"min_{kind}", f"min.{kind} %d, %a, %b;", (kind,) * 3, lesser, (values, values)),
        Op(f"max_{kind}", f"max.{kind} %d, %a, %b;", (kind,) * 3, greater, (values, values)),
        Op(f"neg_{kind}", f"neg.{kind} %d, %a;", (kind,) * 2, lambda a: -a, (values,)),
        Op(f"abs_{kind}", f"abs.{kind} %d, %a;", (kind,) * 2, abs, (values,)),
    ]
for index, column in enumerate(zip(*TRICKY, strict=True)):
    assert all(f32(v) == v for v in column), index
OPS += [
    Op("fma_ties", "fma.rn.f32 %d, %a, %b, %c;", ("f32",) * 4, exact(fma, "f32"),
       tuple(sorted(set(column)) for column in zip(*TRICKY, strict=True))),
    Op("div_rn", "div.rn.f32 %d, %a, %b;", ("f32",) * 3, divide, (SINGLE, SINGLE)),
    Op("sqrt_rn", "sqrt.rn.f32 %d, %a;", ("f32",) * 2,
       lambda a: NAN if a < 0 else f32(math.sqrt(a)) if math.isfinite(a) else a, (SINGLE,)),
    Op("rcp_rn", "rcp.rn.f32 %d, %a;", ("f32",) * 2, lambda a: divide(1.0, a), (SINGLE,)),
    Op("add_ftz", "add.ftz.f32 %d, %a, %b;", ("f32",) * 3,
       lambda a, b: flush(exact(ADD, "f32")(flush(a), flush(b))), (SINGLE, SINGLE)),
    Op("mul_ftz", "mul.ftz.f32 %d, %a, %b;", ("f32",) * 3,
       lambda a, b: flush(exact(MUL, "f32")(flush(a), flush(b))), (SINGLE, SINGLE)),
    Op("add_sat", "add.sat.f32 %d, %a, %b;", ("f32",) * 3,
       lambda a, b: 0.0 if not exact(ADD, "f32")(a, b) > 0 else min(exact(ADD, "f32")(a, b), 1.0), (SINGLE, SINGLE)),
    Op("max_nan", "max.NaN.f32 %d, %a, %b;", ("f32",) * 3,
       lambda a, b: NAN if a != a or b != b else greater(a, b), (SINGLE, SINGLE)),
    Op("min_xor", "min.xorsign.abs.f32 %d, %a, %b;", ("f32",) * 3,
       lambda a, b: lesser(abs(a), abs(b)) * math.copysign(1, a) * math.copysign(1, b), (SINGLE[:-15], SINGLE[:-15])),
    Op("copysign", "copysign.f32 %d, %a, %b;", ("f32",) * 3, lambda a, b: math.copysign(b, a), (SINGLE, SINGLE)),
    Op("fma_bf16", "fma.rn.bf16 %d, %a, %b, %c;", ("bf16",) * 4,
       lambda a, b, c: bf16_bits(rounded(fma(*(Fraction(from_bf16(v)) for v in (a, b, c))), "bf16")),
       ([0x3F81, 0x4049, 0xBFFF, 0x0081, 0x7F00], [0x3F83, 0x40FF, 0x3381], [0x3F80, 0xB380, 0x2501, 0x4300])),
    Op("fma_relu", "fma.rn.relu.f16 %d, %a, %b, %c;", ("f16",) * 4,
       lambda a, b, c: max(rounded(fma(Fraction(a), Fraction(b), Fraction(c)), "f16"), 0.0),
       ([1.5, -0.1, 100.0], [1.5, 3.0], [-0.25, 2.0])),
    Op("add_f16x2", "add.f16x2 %d, %a, %b;", ("x2",) * 3,
       lambda a, b: int((np.array([a], "<u4").view("<f2") + np.array([b], "<u4").view("<f2")).view("<u4")[0]),
       ([0x3C004000, 0x7BFF0001, 0xC248B5A3], [0x3C00C000, 0x3BFF0001, 0x12344321])),
    Op("fma_f16x2", "fma.rn.f16x2 %d, %a, %b, %b;", ("x2",) * 3,
       lambda a, b: int(np.array([rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(y)), "f16")
                                  for x, y in zip(np.array([a], "<u4").view("<f2"), np.array([b], "<u4").view("<f2"),
                                                  strict=True)], "<f2").view("<u4")[0]),
       ([0x3C014002, 0xC248B5A3], [0x3C03C005, 0x12344321])),
    Op("neg_bf16x2", "neg.bf16x2 %d, %a;", ("x2",) * 2, lambda a: a ^ 0x80008000, ([0, 0x3F80BF80, 0xFFFFFFFF],)),
    Op("testp", ".reg .pred %p; testp.subnormal.f32 %p, %a; selp.u32 %d, 1, 0, %p;", ("u32", "f32"),
       lambda a: int(0 < abs(a) < 2.0**-126), (SINGLE,)),
    *(Op(f"setp_{name}", f".reg .pred %p; setp.{name}.f32 %p, %a, %b; selp.u32 %d, 1, 0, %p;", ("u32", "f32", "f32"),
         lambda a, b, f=function: int(f(a, b)), (EDGES["f32"], EDGES["f32"]))
      for name, function in {
          "eq": lambda a, b: a == b, "ne": lambda a, b: a < b or a > b, "lt": lambda a, b: a < b,
          "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
          "equ": lambda a, b: not (a < b or a > b), "neu": lambda a, b: a != b, "ltu": lambda a, b: not a >= b,
          "leu": lambda a, b: not a > b, "gtu": lambda a, b: not a <= b, "geu": lambda a, b: not a < b,
          "num": lambda a, b: a == a and b == b, "nan": lambda a, b: a != a or b != b,
      }.items()),
]  # fmt: skip


def close(relative: float, absolute: float = 0.0):
    def check(found: float, expected: float) -> bool:
        if not math.isfinite(expected) or not math.isfinite(found):
            return same(found, expected)
        return abs(found - expected) <= max(relative * abs(expected), absolute)

    return check


def guarded(function):
    def reference(a: float) -> float:
        try:
            return f32(function(a))
        except OverflowError:
            return INF
        except ValueError:
            return NAN

    return reference


POSITIVE = [v for v in SINGLE if v > 0 and math.isfinite(v)]
SMALL = [0.0, 0.5, -1.25, 3.0, -3.14, 0.001]
#: Error bounds of the PTX ISA.
OPS += [
    Op("ex2", "ex2.approx.f32 %d, %a;", ("f32",) * 2, guarded(lambda a: 2.0**a), ([*SMALL, 100.5, -140.0, 200.0, -INF],), close(2.0**-21)),
    Op("lg2", "lg2.approx.f32 %d, %a;", ("f32",) * 2, guarded(math.log2), (POSITIVE,), close(2.0**-22, 2.0**-22)),
    Op("sin", "sin.approx.f32 %d, %a;", ("f32",) * 2, guarded(math.sin), (SMALL,), close(0, 2.0**-20)),
    Op("cos", "cos.approx.f32 %d, %a;", ("f32",) * 2, guarded(math.cos), (SMALL,), close(0, 2.0**-20)),
    Op("tanh", "tanh.approx.f32 %d, %a;", ("f32",) * 2, guarded(math.tanh), (SMALL,), close(2.0**-10)),
    Op("rsqrt", "rsqrt.approx.f32 %d, %a;", ("f32",) * 2, lambda a: a**-0.5, (POSITIVE,), close(2.0**-22)),
    Op("rcp_ftz", "rcp.approx.ftz.f32 %d, %a;", ("f32",) * 2,
       lambda a: flush(divide(1.0, flush(a))), (SINGLE,), close(2.0**-22)),
    Op("sqrt_ftz", "sqrt.approx.ftz.f32 %d, %a;", ("f32",) * 2, lambda a: math.sqrt(flush(a)), (POSITIVE,), close(2.0**-22)),
    Op("div_full", "div.full.f32 %d, %a, %b;", ("f32",) * 3, divide, (RANDOM, RANDOM), close(2.0**-21)),
]  # fmt: skip
WIDE = [
    0.5,
    1.5,
    2.5,
    -0.5,
    -2.5,
    2147483647.0,
    2147483648.0,
    -2147483649.0,
    4294967295.0,
    1e19,
    -1e19,
    9.3e18,
    65535.5,
    127.5,
]
for of in ("f32", "f64", "f16"):
    values = [*EDGES[of], *([0.5, 2.5, -3.5] if of == "f16" else WIDE)]
    values = [float(np.array(v, TYPES[of][2])) for v in values]
    for to in ("u16", "s16", "u32", "s32", "u64", "s64"):
        for mode in ("rni", "rzi", "rmi", "rpi"):
            OPS.append(Op(f"cvt_{mode}_{to}_{of}", f"cvt.{mode}.{to}.{of} %d, %a;", (to, of),
                          lambda a, t=to, m=mode, w=of == "f64": to_integer(a, t, m, w), (values,)))  # fmt: skip
    for mode in ("rni", "rzi", "rmi", "rpi"):
        OPS.append(Op(f"cvt_{mode}_{of}", f"cvt.{mode}.{of}.{of} %d, %a;", (of, of),
                      lambda a, m=mode: math.copysign(float(to_integer(a, "s2000", m)), a) if math.isfinite(a) else a,
                      (values,)))  # fmt: skip
INTEGERS = {
    "s16": [0, 1, -1, 2049, -32768, 32767], "u32": [0, 1, 16777217, 16777219, 0xFFFFFFFF, 65535, 33554435],
    "s32": [0, -1, 16777217, -16777219, -(1 << 31), (1 << 31) - 1],
    "u64": [0, 1, (1 << 64) - 1, (1 << 53) + 1, (1 << 53) + 3, (1 << 63) + 1025, (1 << 40) + 1, (1 << 63) + (1 << 39) + 1],
    "s64": [0, -1, -(1 << 63), (1 << 63) - 1, (1 << 53) + 1, -((1 << 54) + 3), (1 << 62) + (1 << 38) + 1],
}  # fmt: skip
for of, whole in INTEGERS.items():
    for to in ("f32", "f64", "f16"):
        for mode in ("rn", "rz", "rm", "rp"):
            OPS.append(Op(f"cvt_{mode}_{to}_{of}", f"cvt.{mode}.{to}.{of} %d, %a;", (to, of),
                          lambda a, t=to, m=mode: rounded(a, t, m), (whole,)))  # fmt: skip
HALVES = [65520.0, 65519.99, 2.0**-25, 2.0**-25 * 1.5, 1 + 2.0**-11, 1 + 3 * 2.0**-11, -(1 + 2.0**-11)]
NARROW = [f32(v) for v in (*SINGLE, *HALVES, 3.39e38, 1 + 2.0**-8)]


def finite_or(function):
    return lambda a: function(a) if math.isfinite(a) else a


for mode in ("rn", "rz"):
    OPS.append(Op(f"cvt_{mode}_f16_f32", f"cvt.{mode}.f16.f32 %d, %a;", ("f16", "f32"),
                  finite_or(lambda a, m=mode: rounded(a, "f16", m)), (NARROW,)))  # fmt: skip
    OPS.append(Op(f"cvt_{mode}_bf16_f32", f"cvt.{mode}.bf16.f32 %d, %a;", ("bf16", "f32"),
                  lambda a, m=mode: 0x7FFF if a != a else bf16_bits(rounded(a, "bf16", m)), (NARROW,)))  # fmt: skip
for mode in ("rn", "rz", "rm", "rp"):
    OPS.append(Op(f"cvt_{mode}_f32_f64", f"cvt.{mode}.f32.f64 %d, %a;", ("f32", "f64"),
                  finite_or(lambda a, m=mode: rounded(a, "f32", m)), ([*EDGES["f64"], 1 + 2.0**-24, 1 + 3 * 2.0**-24, -1e-46],)))  # fmt: skip


def pair(function):
    def reference(a: float, b: float) -> int:
        return function(a) << 16 | function(b)

    return reference


def half_bits(a: float) -> int:
    return 0x7FFF if a != a else struct.unpack("<H", struct.pack("<e", rounded(a, "f16")))[0]


OPS += [
    Op("cvt_f16x2", "cvt.rn.f16x2.f32 %d, %a, %b;", ("x2", "f32", "f32"), pair(half_bits), (NARROW, NARROW)),
    Op("cvt_bf16x2", "cvt.rn.bf16x2.f32 %d, %a, %b;", ("x2", "f32", "f32"),
       pair(lambda a: 0x7FFF if a != a else bf16_bits(rounded(a, "bf16"))), (NARROW, NARROW)),
    Op("cvt_relu", "cvt.rn.relu.f16x2.f32 %d, %a, %b;", ("x2", "f32", "f32"),
       pair(lambda a: half_bits(a) if not a <= 0 else 0), (NARROW, NARROW)),
    Op("cvt_tf32", "cvt.rna.tf32.f32 %d, %a;", ("u32", "f32"),
       lambda a: struct.unpack("<I", struct.pack("<f", rounded(a, "tf32", "rna")))[0],
       ([v for v in NARROW if math.isfinite(v)],)),
    Op("cvt_f32_f16", "cvt.f32.f16 %d, %a;", ("f32", "f16"), lambda a: a, (EDGES["f16"],)),
    Op("cvt_f64_f32", "cvt.f64.f32 %d, %a;", ("f64", "f32"), lambda a: a, (SINGLE,)),
    Op("cvt_f32_bf16", "cvt.f32.bf16 %d, %a;", ("f32", "bf16"), from_bf16, ([0, 0x8000, 0x3F81, 0x7F80, 0x0001],)),
    Op("cvt_sat", "cvt.sat.f32.f32 %d, %a;", ("f32", "f32"), lambda a: min(a, 1.0) if a > 0 else 0.0, (SINGLE,)),
    Op("cvt_ftz", "cvt.rzi.ftz.f32.f32 %d, %a;", ("f32", "f32"),
       lambda a: math.copysign(float(math.trunc(a)), a) if math.isfinite(a) else a, (SINGLE,)),
]  # fmt: skip


def in_mode(name: str, mode: str, kind: str = "f32"):
    """The exact result of an operation of f32, rounded once; special values as Python has them."""

    def python(*x: float) -> float:
        try:
            return {
                "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
                "div": lambda a, b: a / b, "fma": lambda a, b, c: a * b + c, "sqrt": math.sqrt, "rcp": lambda a: 1 / a,
            }[name](*x)  # fmt: skip
        except ZeroDivisionError:
            top, by = x if name == "div" else (1.0, x[0])
            return (
                math.nan
                if top == 0 or top != top
                else math.copysign(math.inf, math.copysign(1, top) * math.copysign(1, by))
            )
        except ValueError:
            return math.nan

    def reference(*x: float) -> float:
        value = python(*x)
        by_zero = (name == "div" and x[1] == 0) or (name == "rcp" and x[0] == 0)
        if not all(math.isfinite(v) for v in x) or value != value or by_zero:
            return value
        if name == "sqrt":
            if not x[0]:
                return x[0]
            scaled = Fraction(x[0]) * 2**400
            root = math.isqrt(scaled.numerator * scaled.denominator) / Fraction(scaled.denominator)
            sticky = Fraction(0) if root * root == scaled else Fraction(1, 2**200)
            return rounded((root + sticky) / 2**200, kind, mode)
        a = [Fraction(v) for v in x]
        exact_value = {
            "add": lambda: a[0] + a[1], "sub": lambda: a[0] - a[1], "mul": lambda: a[0] * a[1], "div": lambda: a[0] / a[1],
            "fma": lambda: a[0] * a[1] + a[2], "rcp": lambda: 1 / a[0],
        }[name]()  # fmt: skip
        if exact_value:
            return rounded(exact_value, kind, mode)
        if name in ("mul", "div", "rcp"):
            return value
        last = {"add": x[-1], "sub": -x[-1], "fma": x[-1]}[name]
        first = x[0] * x[1] if name == "fma" else x[0]
        both = first == 0 and last == 0 and math.copysign(1, first) > 0 and math.copysign(1, last) > 0
        return -0.0 if mode == "rm" and not both else value

    return reference


DIRECTED = [*SINGLE, 1 + 2.0**-23, 1 / 3, -3e38, 2.0**-149, 7.0, 0.1]
OPS += [
    Op(f"{name}_{mode}", f"{name}.{mode}.f32 %d, {', '.join(('%a', '%b', '%c')[:count])};", ("f32",) * (count + 1),
       in_mode(name, mode), (DIRECTED,) * min(count, 2) + (([0.0, 1.0, -1e-30, 3e38],) if count == 3 else ()))
    for name, count in (("add", 2), ("sub", 2), ("mul", 2), ("div", 2), ("fma", 3), ("sqrt", 1), ("rcp", 1))
    for mode in ("rz", "rm", "rp")
]  # fmt: skip
WIDE = [
    *(0.0, -0.0, 1.0, -1.0, 3.0, 0.1, -1 / 3, 1 + 2.0**-52, 1e300, -1.7e308, 2.0**-1074, -3e-310, 1e-160, 7e153),
    *(math.inf, -math.inf, math.nan),
]
OPS += [
    Op(f"{name}_{mode}_f64", f"{name}.{mode}.f64 %d, {', '.join(('%a', '%b', '%c')[:count])};", ("f64",) * (count + 1),
       in_mode(name, mode, "f64"), (WIDE,) * min(count, 2) + (([0.0, 1.0, -1e-30, 1.7e308],) if count == 3 else ()))
    for name, count in (("add", 2), ("sub", 2), ("mul", 2), ("div", 2), ("fma", 3), ("sqrt", 1), ("rcp", 1))
    for mode in ("rz", "rm", "rp")
]  # fmt: skip


def compared(kind: str, holds, one: int):
    """A comparison of both halves, `one` in the result where it holds."""

    def pairs(a: int, b: int) -> int:
        def value(bits: int) -> float:
            return struct.unpack("<e", struct.pack("<H", bits))[0] if kind == "f16" else from_bf16(bits)

        halves = (holds(value(a >> n & 0xFFFF), value(b >> n & 0xFFFF)) for n in (0, 16))
        return sum(one << n for n, true in zip((0, 16), halves, strict=True) if true)

    return pairs


HALVES = [0, 0x80000000, 0x3C003F80, 0xBF80BC00, 0x7E007FC0, 0x7C00FC00, 0x7F80FF80, 0x00010001]
UNORDERED = {"lt": lambda a, b: a < b, "leu": lambda a, b: not a > b, "nan": lambda a, b: a != a or b != b}
OPS += [
    op
    for kind, one in (("f16", 0x3C00), ("bf16", 0x3F80))
    for name, holds in UNORDERED.items()
    for op in (
        Op(f"set_{name}_{kind}x2", f"set.{name}.{kind}x2.{kind}x2 %d, %a, %b;", ("x2",) * 3,
           compared(kind, holds, one), (HALVES, HALVES)),
        Op(f"set_{name}_u32_{kind}x2", f"set.{name}.u32.{kind}x2 %d, %a, %b;", ("x2",) * 3,
           compared(kind, holds, 0xFFFF), (HALVES, HALVES)),
        Op(f"setp_{name}_{kind}x2", f".reg .pred %p, %q; .reg .u32 %e; setp.{name}.{kind}x2 %p|%q, %a, %b;"
           "selp.u32 %d, 7, 0, %p; selp.u32 %e, 0x70000, 0, %q; or.b32 %d, %d, %e;", ("x2",) * 3,
           compared(kind, holds, 7), (HALVES, HALVES)),
    )
]  # fmt: skip
MODULE = HEADER + "".join(op.text() for op in OPS)


def test_ptxas_accepts_the_module(tmp_path) -> None:
    assert_ptxas_accepts(MODULE, tmp_path)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_instruction(op: Op) -> None:
    op.run(HEADER + op.text())
