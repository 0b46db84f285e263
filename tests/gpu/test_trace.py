"""Registers of a kernel on the GPU, by dumps in its PTX, against traces of the emulator: the same bits."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests import corpus
from tests.emulator.test_tracing import COUNTS, LOOP, line
from trlaunch import Kernel, asarray, at, emulator
from trlaunch.dump.ptx import instructions

pytestmark = pytest.mark.gpu

#: What IEEE 754 leaves no choice about; ex2.approx and what follows it may differ in the last places.
EXACT = ("max.f32", "sub.f32", "setp.lt.s32", "mul.lo.s32", "and.b32", "or.b32", "shl.b32", "mad.wide.s32")


#: Threads that reduce what the warps left in shared memory; the others' registers hold nothing that means anything.
WARPS = 4


def between_warps(text: list[str], line: int) -> bool:
    """Whether a line is behind a guarded load of shared memory, and before the next barrier."""
    for before in reversed(text[: line - 1]):
        if "bar.sync" in before:
            return False
        if re.search(r"@%p\d+ ld\.shared", before):
            return True
    return False


@pytest.mark.parametrize("release", ["3.2.0", "3.6.0", "3.9.0"])
def test_registers_of_softmax_are_those_of_the_emulator(release: str) -> None:
    case = corpus.find(release, "cuda:80", "softmax_kernel")
    text = case.text("ptx").split("\n")
    x = np.random.default_rng(1).standard_normal((5, 781)).astype(np.float32)
    asked, targets = [], []
    for instruction in instructions(case.text("ptx")):
        if instruction.opcode in EXACT and "rd" not in text[instruction.line - 1].split(",")[0]:
            asked.append(at(op=instruction.opcode, line=instruction.line, label=f"v{len(asked)}"))
            targets.append((instruction.line, re.findall(r"%\w+", text[instruction.line - 1])[0]))
    asked, targets = asked[:48], targets[:48]
    assert len(asked) > 20
    out = asarray(np.zeros_like(x))
    run = Kernel.from_file(case.path("ptx"), dump=asked).launch(5, out, asarray(x), 781, 781, 781)
    with emulator.trace(*dict.fromkeys(name for _, name in targets)) as traced:
        plain = Kernel.from_file(case.path("ptx"), device="emulator")
        plain.launch(5, np.zeros_like(x), x, 781, 781, 781)
    assert run is not None
    wrong = []
    for n, (where, name) in enumerate(targets):
        dump, history = run.dumps[f"v{n}"], traced[name].at(where)
        np.testing.assert_array_equal(dump.written, history.written[..., 0])
        threads = WARPS if between_warps(text, where) else dump.values.shape[-1]
        found, wanted = dump.values[..., :threads], history.values[..., :threads, 0]
        if np.ascontiguousarray(found).tobytes() != np.ascontiguousarray(wanted).tobytes():
            wrong.append((where, name, text[where - 1].strip()))
    assert not wrong


def test_registers_of_a_loop_are_those_of_the_emulator() -> None:
    asked: list[Any] = [at(op="mad.lo.s32", keep=6, label="sum"), at(op="setp.lt.s32", keep=6, label="again")]
    run = Kernel.from_bytes(LOOP, signature="*i32", dump=asked).launch(4, asarray(COUNTS))
    with emulator.trace("%r4", "%p2") as traced:
        Kernel.from_bytes(LOOP, signature="*i32", device="emulator").launch(4, COUNTS)
    assert run is not None
    for label, register, start in (("sum", "%r4", "mad.lo.s32"), ("again", "%p2", "setp.lt.s32 %p2")):
        dump, history = run.dumps[label], traced[register].at(line(start))
        rounds = history.values.shape[2]
        np.testing.assert_array_equal(dump.written[:, :rounds].transpose(0, 2, 1), history.written)
        np.testing.assert_array_equal(dump.values[:, :rounds].transpose(0, 2, 1), history.values)
