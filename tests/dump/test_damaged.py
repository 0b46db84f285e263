"""Damaged PTX and LLVM IR is read or refused, never a traceback of another kind."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import corpus
from tests.dump.test_ptx import LOOP
from trlaunch import TrlaunchError, at
from trlaunch.dump import choose, flat, llir, ptx, ttir

LLIR = corpus.find("3.6.0", "cuda:80", "add_kernel").text("llir")
TTGIR = [corpus.find(release, "cuda:90", "matmul_kernel").text("ttgir") for release in ("3.2.0", "3.6.0")]
TTIR = corpus.find("3.6.0", "cuda:80", "matmul_kernel").text("ttir")
BESIDE = corpus.find("3.6.0", "cuda:80", "add_kernel").text("ttgir")
NAME = next(line.split(" = ")[0].strip() for line in BESIDE.splitlines() if " = arith.addf " in line)
PIECES = st.text(alphabet='(){}[]<>"%@!#^:=,;\n .abx019-/\\', max_size=6)


def damaged(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    return text[:start] + data.draw(PIECES) + text[start + data.draw(st.integers(0, 40)) :]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_ptx(data):
    text = damaged(LOOP, data)
    with contextlib.suppress(TrlaunchError):
        ptx.inject(text, None, [at(op="mad.lo.s32", keep=2), at("%r4", line=30)], None)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_llvm_ir(data):
    text = damaged(LLIR, data)
    with contextlib.suppress(TrlaunchError):
        llir.inject(text, "add_kernel", [at(op="fadd", nth=0), at(op="icmp", nth=0)], 128)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ttir(data):
    text = damaged(TTIR, data)
    with contextlib.suppress(TrlaunchError):
        ttir.inject(text, None, [at(op="tt.dot"), at(op="tt.load", nth=0, keep="last")])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_ttgir(data):
    text = damaged(data.draw(st.sampled_from(TTGIR)), data)
    for action in (
        lambda: choose.candidates(text),
        lambda: ttir.inject(
            text, None, [at(op="ttg.memdesc_index", nth=1, after=112), at(op="tt.load", nth=0, keep=2)]
        ),
        lambda: flat.inject_flat(text, None, [at(op="arith.truncf", programs=[(1, 0)])]),
    ):
        with contextlib.suppress(TrlaunchError):
            action()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ttgir_beside_llvm_ir(data):
    text = damaged(BESIDE, data)
    with contextlib.suppress(TrlaunchError):
        llir.inject(LLIR, "add_kernel", [at(tensor=NAME)], 128, text)
