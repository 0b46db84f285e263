"""Integer, logic, selection and byte instructions over edge values, against Python's integers."""

# ruff: noqa: E501  (tables of PTX statements read best as rows)

from __future__ import annotations

import pytest

from tests.emulator.launching import HEADER, Op, assert_ptxas_accepts

EDGES = {
    16: [0, 1, 2, 5, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x1234],
    32: [0, 1, 2, 3, 31, 32, 33, 0x7F, 0x80, 255, 256, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x12345678, 0xDEADBEEF],
    64: [0, 1, 3, 63, 64, 65, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 0x123456789ABCDEF0],
}


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def edges(kind: str) -> list[int]:
    bits = int(kind[1:])
    return [signed(v, bits) for v in EDGES[bits]] if kind[0] == "s" else EDGES[bits]


def wrap(value: int, kind: str) -> int:
    bits = int(kind[1:])
    return signed(value, bits) if kind[0] == "s" else value & ((1 << bits) - 1)


def truncated_div(a: int, b: int, kind: str) -> int:
    if b == 0:
        return wrap(-1, kind)
    quotient = abs(a) // abs(b)
    return wrap(-quotient if (a < 0) != (b < 0) else quotient, kind)


def truncated_rem(a: int, b: int, kind: str) -> int:
    return a if b == 0 else wrap(a - truncated_div(a, b, kind) * b, kind)


def shift(a: int, n: int, kind: str, left: bool) -> int:
    bits = int(kind[1:])
    if left:
        return wrap(a << n, kind) if n < bits else 0
    return a >> n if n < bits else (-1 if a < 0 else 0)


def extract(a: int, position: int, length: int, kind: str) -> int:
    """PTX ISA, bfe, the pseudo-code."""
    bits = int(kind[1:])
    pos, size, raw = position & 0xFF, length & 0xFF, a & ((1 << bits) - 1)
    sign = 0 if kind[0] == "u" or size == 0 else raw >> min(pos + size - 1, bits - 1) & 1
    out = 0
    for i in range(bits):
        out |= ((raw >> pos + i & 1) if i < size and pos + i < bits else sign) << i
    return wrap(out, kind)


def insert(a: int, b: int, position: int, length: int, bits: int) -> int:
    pos, size, out = position & 0xFF, length & 0xFF, b
    for i in range(size):
        if pos + i < bits:
            out = out & ~(1 << pos + i) | (a >> i & 1) << pos + i
    return out


def permute(a: int, b: int, selector: int, mode: str = "") -> int:
    data = (b << 32 | a).to_bytes(8, "little")
    picks = {
        "": None, "f4e": lambda s: [s, s + 1, s + 2, s + 3], "b4e": lambda s: [s, s - 1, s - 2, s - 3],
        "rc8": lambda s: [s] * 4, "ecl": lambda s: [max(s, k) for k in range(4)],
        "ecr": lambda s: [min(s, k) for k in range(4)], "rc16": lambda s: [2 * (s & 1), 2 * (s & 1) + 1] * 2,
    }[mode]  # fmt: skip
    out = []
    for k in range(4):
        if picks is None:
            nibble = selector >> 4 * k & 15
            byte = data[nibble & 7]
            out.append((0xFF if byte & 0x80 else 0) if nibble & 8 else byte)
        else:
            out.append(data[picks(selector & 3)[k] & 7])
    return int.from_bytes(bytes(out), "little")


def binary(name, kind, reference, second=None, values=None):
    values = values or (edges(kind), edges(second or kind))
    return Op(
        f"{name}_{kind}".replace(".", "_"),
        f"{name}.{kind} %d, %a, %b;",
        (kind, kind, second or kind),
        reference,
        values,
    )


OPS: list[Op] = []
for kind in ("u16", "s16", "u32", "s32", "u64", "s64"):
    OPS += [
        binary("add", kind, lambda a, b, k=kind: wrap(a + b, k)),
        binary("sub", kind, lambda a, b, k=kind: wrap(a - b, k)),
        binary("mul.lo", kind, lambda a, b, k=kind: wrap(a * b, k)),
        binary("mul.hi", kind, lambda a, b, k=kind: wrap(a * b >> int(k[1:]), k)),
        binary("div", kind, lambda a, b, k=kind: truncated_div(a, b, k)),
        binary("rem", kind, lambda a, b, k=kind: truncated_rem(a, b, k)),
        binary("min", kind, min),
        binary("max", kind, max),
        binary("shr", kind, lambda a, b, k=kind: shift(a, b, k, False), "u32"),
        Op(f"mad_{kind}", f"mad.lo.{kind} %d, %a, %b, %c;", (kind,) * 4,
           lambda a, b, c, k=kind: wrap(a * b + c, k), (edges(kind)[:6], edges(kind)[-6:], edges(kind)[::3])),
        Op(f"sad_{kind}", f"sad.{kind} %d, %a, %b, %c;", (kind,) * 4,
           lambda a, b, c, k=kind: wrap(abs(a - b) + c, k), (edges(kind)[::2], edges(kind)[::2], edges(kind)[::3])),
    ]  # fmt: skip
    if kind[0] == "s":
        OPS += [
            Op(f"neg_{kind}", f"neg.{kind} %d, %a;", (kind, kind), lambda a, k=kind: wrap(-a, k), (edges(kind),)),
            Op(f"abs_{kind}", f"abs.{kind} %d, %a;", (kind, kind), lambda a, k=kind: wrap(abs(a), k), (edges(kind),)),
        ]
    if kind[1:] != "64":
        wide = f"{kind[0]}{2 * int(kind[1:])}"
        OPS += [
            Op(f"mulw_{kind}", f"mul.wide.{kind} %d, %a, %b;", (wide, kind, kind), lambda a, b: a * b, (edges(kind),) * 2),
            Op(f"madw_{kind}", f"mad.wide.{kind} %d, %a, %b, %c;", (wide, kind, kind, wide),
               lambda a, b, c, k=wide: wrap(a * b + c, k), (edges(kind)[::2], edges(kind)[::2], edges(wide)[::3])),
        ]  # fmt: skip
    else:
        OPS.append(Op(f"madhi_{kind}", f"mad.hi.{kind} %d, %a, %b, %c;", (kind,) * 4,
                      lambda a, b, c, k=kind: wrap((a * b >> 64) + c, k), (edges(kind)[::2],) * 3))  # fmt: skip
for kind in ("u32", "s32", "u64", "s64"):
    OPS.append(Op(f"bfe_{kind}", f"bfe.{kind} %d, %a, %b, %c;", (kind, kind, "u32", "u32"),
                  lambda a, b, c, k=kind: extract(a, b, c, k),
                  (edges(kind)[2:], [0, 1, 8, 31, 33, 63, 64, 255, 257], [0, 1, 5, 31, 32, 33, 64, 255])))  # fmt: skip
for bits in (16, 32, 64):
    kind = f"u{bits}"
    OPS += [
        Op(f"shl_{bits}", f"shl.b{bits} %d, %a, %b;", (kind, kind, "u32"),
           lambda a, b, k=kind: shift(a, b, k, True), (edges(kind), edges("u32"))),
        Op(f"and_{bits}", f"and.b{bits} %d, %a, %b;", (kind,) * 3, lambda a, b: a & b, (edges(kind),) * 2),
        Op(f"or_{bits}", f"or.b{bits} %d, %a, %b;", (kind,) * 3, lambda a, b: a | b, (edges(kind),) * 2),
        Op(f"xor_{bits}", f"xor.b{bits} %d, %a, %b;", (kind,) * 3, lambda a, b: a ^ b, (edges(kind),) * 2),
        Op(f"not_{bits}", f"not.b{bits} %d, %a;", (kind,) * 2, lambda a, k=kind: wrap(~a, k), (edges(kind),)),
        Op(f"cnot_{bits}", f"cnot.b{bits} %d, %a;", (kind,) * 2, lambda a: int(a == 0), (edges(kind),)),
    ]  # fmt: skip
for bits in (32, 64):
    kind, mask = f"u{bits}", (1 << bits) - 1
    OPS += [
        Op(f"popc_{bits}", f"popc.b{bits} %d, %a;", ("u32", kind), lambda a: a.bit_count(), (edges(kind),)),
        Op(f"clz_{bits}", f"clz.b{bits} %d, %a;", ("u32", kind), lambda a, n=bits: n - a.bit_length(), (edges(kind),)),
        Op(f"brev_{bits}", f"brev.b{bits} %d, %a;", (kind,) * 2,
           lambda a, n=bits: int(f"{a:0{n}b}"[::-1], 2), (edges(kind),)),
        Op(f"bfind_u{bits}", f"bfind.u{bits} %d, %a;", ("u32", kind),
           lambda a: (a.bit_length() - 1) & 0xFFFFFFFF, (edges(kind),)),
        Op(f"bfind_s{bits}", f"bfind.s{bits} %d, %a;", ("u32", f"s{bits}"),
           lambda a: ((~a if a < 0 else a).bit_length() - 1) & 0xFFFFFFFF, (edges(f"s{bits}"),)),
        Op(f"bfindsh_{bits}", f"bfind.shiftamt.u{bits} %d, %a;", ("u32", kind),
           lambda a, n=bits: n - a.bit_length() if a else 0xFFFFFFFF, (edges(kind),)),
        Op(f"bfi_{bits}", f".reg .b32 %n; cvt.u32.u32 %n, %c; bfi.b{bits} %d, %a, %b, 5, %n;", (kind, kind, kind, "u32"),
           lambda a, b, c, n=bits: insert(a, b, 5, c, n), (edges(kind), edges(kind)[::3], [0, 1, 8, 31, 64, 300])),
    ]  # fmt: skip
U32 = edges("u32")
OPS += [
    Op("addsat", "add.sat.s32 %d, %a, %b;", ("s32",) * 3,
       lambda a, b: min(max(a + b, -(1 << 31)), (1 << 31) - 1), (edges("s32"),) * 2),
    Op("subsat", "sub.sat.s32 %d, %a, %b;", ("s32",) * 3,
       lambda a, b: min(max(a - b, -(1 << 31)), (1 << 31) - 1), (edges("s32"),) * 2),
    Op("mul24", "mul24.lo.s32 %d, %a, %b;", ("s32",) * 3,
       lambda a, b: wrap(signed(a, 24) * signed(b, 24), "s32"), (edges("s32"),) * 2),
    Op("mul24hi", "mul24.hi.u32 %d, %a, %b;", ("u32",) * 3,
       lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 16 & 0xFFFFFFFF, (U32,) * 2),
    Op("lop3_96", "lop3.b32 %d, %a, %b, %c, 0x96;", ("u32",) * 4, lambda a, b, c: a ^ b ^ c, (U32[::2],) * 3),
    Op("lop3_e8", "lop3.b32 %d, %a, %b, %c, 0xE8;", ("u32",) * 4,
       lambda a, b, c: a & b | a & c | b & c, (U32[::2],) * 3),
    Op("lop3_0", "lop3.b32 %d, %a, %b, %c, 0;", ("u32",) * 4, lambda a, b, c: 0, (U32[:2],) * 3),
    Op("shfl_w", "shf.l.wrap.b32 %d, %a, %b, %c;", ("u32",) * 4,
       lambda a, b, c: ((b << 32 | a) << (c & 31) >> 32) & 0xFFFFFFFF, (U32[-5:], U32[-5:], U32)),
    Op("shfr_c", "shf.r.clamp.b32 %d, %a, %b, %c;", ("u32",) * 4,
       lambda a, b, c: ((b << 32 | a) >> min(c, 32)) & 0xFFFFFFFF, (U32[-5:], U32[-5:], U32)),
    Op("shfl_c", "shf.l.clamp.b32 %d, %a, %b, %c;", ("u32",) * 4,
       lambda a, b, c: ((b << 32 | a) << min(c, 32) >> 32) & 0xFFFFFFFF, (U32[-5:], U32[-5:], U32)),
    Op("shfr_w", "shf.r.wrap.b32 %d, %a, %b, %c;", ("u32",) * 4,
       lambda a, b, c: ((b << 32 | a) >> (c & 31)) & 0xFFFFFFFF, (U32[-5:], U32[-5:], U32)),
    Op("prmt_any", "prmt.b32 %d, %a, %b, %c;", ("u32",) * 4, permute,
       (U32[-3:], U32[-3:], [0x3210, 0x7654, 0x8F9B, 0xFFFF, 0x0123, 0x5140])),
    Op("prmt_5410", "prmt.b32 %d, %a, %b, 0x5410;", ("u32",) * 3, lambda a, b: permute(a, b, 0x5410), (U32, U32)),
    Op("prmt_7632", "prmt.b32 %d, %a, %b, 0x7632;", ("u32",) * 3, lambda a, b: permute(a, b, 0x7632), (U32, U32)),
    Op("prmt_bb77", "prmt.b32 %d, %a, %b, 0xBB77;", ("u32",) * 3, lambda a, b: permute(a, b, 0xBB77), (U32, U32)),
    *(Op(f"prmt_{m}", f"prmt.b32.{m} %d, %a, %b, %c;", ("u32",) * 4,
         lambda a, b, c, m=m: permute(a, b, c, m), (U32[-3:], U32[-3:], [0, 1, 2, 3]))
      for m in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")),
    Op("dp4a_s", "dp4a.s32.s32 %d, %a, %b, %c;", ("s32",) * 4,
       lambda a, b, c: wrap(sum(signed(a >> 8 * k, 8) * signed(b >> 8 * k, 8) for k in range(4)) + c, "s32"),
       (edges("s32")[-6:],) * 3),
    Op("dp2a_u", "dp2a.hi.u32.u32 %d, %a, %b, %c;", ("u32",) * 4,
       lambda a, b, c: ((a & 0xFFFF) * (b >> 16 & 255) + (a >> 16) * (b >> 24) + c) & 0xFFFFFFFF, (U32[-6:],) * 3),
    Op("carry", ".reg .b32 %l, %h, %x, %y, %u, %v; mov.b64 {%l, %h}, %a; mov.b64 {%x, %y}, %b;"
       "add.cc.u32 %u, %l, %x; addc.u32 %v, %h, %y; mov.b64 %d, {%u, %v};", ("u64",) * 3,
       lambda a, b: (a + b) & ((1 << 64) - 1), (edges("u64"),) * 2),
    Op("borrow", ".reg .b32 %l, %h, %x, %y, %u, %v; mov.b64 {%l, %h}, %a; mov.b64 {%x, %y}, %b;"
       "sub.cc.u32 %u, %l, %x; subc.u32 %v, %h, %y; mov.b64 %d, {%u, %v};", ("u64",) * 3,
       lambda a, b: (a - b) & ((1 << 64) - 1), (edges("u64"),) * 2),
    Op("madcc", ".reg .b32 %l, %h, %u, %v; mov.b64 {%l, %h}, %c;"
       "mad.lo.cc.u32 %u, %a, %b, %l; madc.hi.u32 %v, %a, %b, %h; mov.b64 %d, {%u, %v};", ("u64", "u32", "u32", "u64"),
       lambda a, b, c: (a * b + c) & ((1 << 64) - 1), (U32, U32, edges("u64"))),
    Op("selp32", ".reg .pred %p; setp.lt.and.s32 %p, %a, %b, 1; selp.b32 %d, %a, %b, %p;".replace(".and", "").replace(", 1", ""),
       ("s32",) * 3, min, (edges("s32"),) * 2),
    Op("slct", "slct.u32.s32 %d, %a, %b, %c;", ("u32", "u32", "u32", "s32"), lambda a, b, c: a if c >= 0 else b,
       (U32[:3], U32[-3:], edges("s32"))),
    Op("set", "set.gt.u32.s32 %d, %a, %b;", ("u32", "s32", "s32"), lambda a, b: 0xFFFFFFFF if a > b else 0,
       (edges("s32"),) * 2),
    Op("setp_lo", ".reg .pred %p, %q; setp.lo.u32 %p|%q, %a, %b; selp.b32 %d, 1, 0, %p; @%q add.u32 %d, %d, 2;",
       ("u32",) * 3, lambda a, b: 1 if a < b else 2, (U32, U32)),
    Op("setp_xor", ".reg .pred %p, %q; setp.ne.b32 %p, %a, 0; setp.ge.xor.u32 %q, %a, %b, !%p; selp.u32 %d, 1, 0, %q;",
       ("u32",) * 3, lambda a, b: int((a >= b) ^ (a == 0)), (U32, U32)),
    Op("pred_logic", ".reg .pred %p, %q, %s; setp.gt.u32 %p, %a, 31; setp.gt.u32 %q, %b, 31; and.pred %s, %p, %q;"
       "xor.pred %q, %p, %s; not.pred %p, %q; mov.pred %s, %p; selp.b32 %d, %a, %b, %s;", ("u32",) * 3,
       lambda a, b: a if not ((a > 31) ^ (a > 31 and b > 31)) else b, (U32, U32)),
    Op("unpack", ".reg .b16 %l, %h; mov.b32 {%l, %h}, %a; mov.b32 %d, {%h, %l};", ("u32",) * 2,
       lambda a: (a << 16 | a >> 16) & 0xFFFFFFFF, (U32,)),
    Op("unpack4", ".reg .b16 %x, %y, %z, %w; mov.b64 {%x, %y, %z, %w}, %a; mov.b64 %d, {%w, %z, %y, %x};", ("u64",) * 2,
       lambda a: int.from_bytes(b"".join(a.to_bytes(8, "big")[k : k + 2][::-1] for k in range(0, 8, 2)), "little"),
       (edges("u64"),)),
    *(Op(f"cvt_{to}_{of}", f"cvt.{to}.{of} %d, %a;", (to, of), lambda a, k=to: wrap(a, k),
         ([wrap(v, of) for v in EDGES[16]] if of[1:] == "8" else edges(of),))
      for of in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64") for to in ("u16", "s16", "u32", "s32", "u64", "s64")
      if to != of),
    *(Op(f"cvtsat_{to}_{of}", f"cvt.sat.{to}.{of} %d, %a;", (to, of),
         lambda a, k=to: min(max(a, wrap(1 << int(k[1:]) - 1, k) if k[0] == "s" else 0),
                             (1 << int(k[1:]) - 1) - 1 if k[0] == "s" else (1 << int(k[1:])) - 1), (edges(of),))
      for of in ("u32", "s32", "s64") for to in ("u16", "s16", "u32", "s32") if to != of),
]  # fmt: skip


def in_pairs(function, kind: str):
    """A function of both 16-bit halves."""

    def pairs(a: int, b: int) -> int:
        low, high = (wrap(function(wrap(a >> n & 0xFFFF, kind), wrap(b >> n & 0xFFFF, kind)), "u16") for n in (0, 16))
        return low | high << 16

    return pairs


PAIRS = [0, 0xFFFF, 0x80007FFF, 0x7FFF8000, 0x12348765, 0xFFFF0001]
OPS += [
    Op(f"{name.replace('.', '_')}_{kind}x2", f"{name}.{kind}x2 %d, %a, %b;", ("u32",) * 3, in_pairs(function, kind),
       (PAIRS, PAIRS))
    for kind in ("u16", "s16")
    for name, function in (("add", lambda a, b: a + b), ("min", min), ("max", max))
]  # fmt: skip
OPS += [
    Op("max_relu", "max.relu.s16x2 %d, %a, %b;", ("u32",) * 3,
       in_pairs(lambda a, b: max(a, b, 0), "s16"), (PAIRS, PAIRS)),
]  # fmt: skip
MODULE = HEADER + "".join(op.text() for op in OPS)


def test_ptxas_accepts_the_module(tmp_path) -> None:
    assert_ptxas_accepts(MODULE, tmp_path)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_instruction(op: Op) -> None:
    op.run(HEADER + op.text())
