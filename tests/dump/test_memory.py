"""Shared and tensor memory: read in a plain layout where the text says that it is filled."""

from __future__ import annotations

import numpy as np
import pytest

from tests import corpus
from tests.dump import hopper
from tests.dump.test_ttir import captured, floats
from trlaunch import ArgumentError, Kernel, at
from trlaunch.artifact import Artifact, Level
from trlaunch.dump.capture import dumpable, instrument
from trlaunch.dump.choose import candidates
from trlaunch.errors import Fault
from trlaunch.lowering import lower
from trlaunch.lowering.specialize import bind, compile_function, jit_function
from trlaunch.target import Target


def case_of(triton, name):
    return corpus.find(triton.__version__.split("+")[0], "cuda:90", name)


def matmul(kernels, lowered, **options):
    a, b = floats(32, 96).astype(np.float16), floats(96, 32).astype(np.float16)
    args = (a, b, np.zeros((32, 32), np.float32), 96)
    return lowered(kernels.matmul, "ttgir", *args, M=32, N=32, BLOCK_K=32, **options), args


def test_a_buffer_that_is_made_of_a_tensor(kernels, lowered):
    artifact, args = matmul(kernels, lowered, num_stages=1)
    allocations = [c for c in candidates(artifact.text)[2] if c.where.op.endswith(".local_alloc")]
    assert len(allocations) == 2
    asked = [at(c.where.name, line=c.where.line, label=key) for c, key in zip(allocations, "ab", strict=True)]
    dumps = captured(artifact, asked, 1, *args)
    a, b, out, _ = args
    np.testing.assert_array_equal(dumps["a"].values[0], a.reshape(32, 3, 32).transpose(1, 0, 2))
    np.testing.assert_array_equal(dumps["b"].values[0], b.reshape(3, 32, 32))
    plain = np.zeros_like(out)
    Kernel(artifact, device="emulator").launch(1, a, b, plain, 96)
    assert out.tobytes() == plain.tobytes()


def test_an_operand_of_a_product(kernels, lowered):
    artifact, args = matmul(kernels, lowered, num_stages=1)
    operands = [c for c in candidates(artifact.text)[2] if "dot_op" in c.where.type and not c.refused]
    asked = [at(c.where.name, line=c.where.line, label=key) for c, key in zip(operands, "ab", strict=True)]
    dumps = captured(artifact, asked, 1, *args)
    np.testing.assert_array_equal(dumps["a"].values[0], args[0].reshape(32, 3, 32).transpose(1, 0, 2))
    np.testing.assert_array_equal(dumps["b"].values[0], args[1].reshape(3, 32, 32))
    assert "dot_op" in dumps["b"].where.layout


@pytest.mark.parametrize("name", ["matmul_kernel", "tma_matmul_kernel"])
def test_what_asynchronous_copies_brought(triton, name):
    if name == "tma_matmul_kernel" and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):
        return  # no descriptors of the host's before
    hopper.check_operands_in_shared_memory(case_of(triton, name), "emulator")


def test_a_buffer_before_it_is_filled(triton):
    found = case_of(triton, "matmul_kernel")
    view = next(c for c in candidates(found.text("ttgir"))[2] if c.load is not None and not c.refused)
    a = np.zeros((64, 64), np.float16)
    kernel = Kernel.from_file(found.path("ttgir"), dump=at(view.where.name, line=view.where.line), device="emulator")
    with pytest.raises(Fault, match="which nothing has written yet .*an asynchronous copy that was not waited for"):
        kernel.launch((1, 1), a, a, a.copy(), 64, 64, 64, 64, 64, 64)


def test_memory_that_is_refused_has_the_reason(triton):
    reasons = {w.name: reason for w, reason in dumpable(artifact_of(case_of(triton, "matmul_kernel"))) if reason}
    assert any("3 buffers of a pipeline: dump the one that" in reason for reason in reasons.values())


def artifact_of(case):
    return Artifact.from_file(case.path("ttgir"))


def test_after_names_a_line(kernels, lowered):
    x, out = floats(32), np.zeros(32, np.float32)
    artifact = lowered(kernels.three_axes, "ttgir", x.view(np.int32), out.view(np.int32), A=2, B=4, C=4)
    load = next(c for c in candidates(artifact.text)[2] if c.where.op == "tt.load")
    store = next(i for i, line in enumerate(artifact.text.splitlines(), 1) if "tt.store" in line)
    behind = at(load.where.name, after=store, label="x")
    dump = captured(artifact, behind, 1, x.view(np.int32), out.view(np.int32))["x"]
    np.testing.assert_array_equal(dump.values.reshape(-1), x.view(np.int32))
    for line, message in (
        (1, "after=1: no operation to capture behind is in that line"),
        (load.where.line - 1, "is not seen behind line"),
    ):
        with pytest.raises(ArgumentError, match=message):
            Kernel(artifact, dump=at(load.where.name, after=line), device="emulator")


@pytest.mark.since(3, 4)
def test_tensor_memory_is_read_as_the_kernel_reads_it(kernels):
    """For sm_100, which the emulator does not execute: the accumulator after each product, lowered to PTX."""
    a, b, c = np.zeros((128, 128), np.float16), np.zeros((128, 64), np.float16), np.zeros((128, 64), np.float32)
    bound = bind(jit_function(kernels.matmul), (a, b, c, 128), {"M": 128, "N": 64, "BLOCK_K": 64})
    artifact = compile_function(bound, Level.PTX, Target.parse("cuda:100")).artifact
    ttgir = artifact.sibling(Level.TTGIR)
    _, function, values = candidates(ttgir.text)
    (memory,) = (v for v in values if "#ttng.tensor_memory" in v.where.type)
    loop = next(o for o in function.walk() if o.name == "scf.for")
    waited = next(o for o in loop.walk() if o.name == "ttng.wait_barrier")
    made = instrument(ttgir, at(memory.where.name, line=memory.where.line, after=waited.line, label="acc"), None)
    assert (made.captures[0].shape, made.captures[0].dtype, len(made.captures[0].loops)) == ((128, 64), "fp32", 1)
    dumped = lower(made.artifact, Level.PTX, "cuda:100").text
    assert dumped.count("tcgen05.ld") > artifact.text.count("tcgen05.ld") > 0
    # without a load of the kernel's own nothing says in which layout that memory is read
    without = [line for line in ttgir.text.splitlines() if " ttng.tmem_load " not in line and "%acc_77" not in line]
    reasons = [c.refused for c in candidates("\n".join(without))[2] if "#ttng.tensor_memory" in c.where.type]
    assert len(reasons) == 1
    assert "no ttng.tmem_load of the kernel shows in which layout" in reasons[0]
