"""Damaged PTX and LLVM IR is read or refused, never a traceback of another kind."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import corpus
from tests.dump.test_ptx import LOOP
from trlaunch import TrlaunchError, at
from trlaunch.dump import llir, ptx, ttir

LLIR = corpus.find("3.6.0", "cuda:80", "add_kernel").text("llir")
TTIR = corpus.find("3.6.0", "cuda:80", "matmul_kernel").text("ttir")
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
