"""The lower bound of shared memory from TTGIR is one, and is not a loose one where it matters."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.corpus import cases, find
from trlaunch.shared_bound import shared_lower_bound


def test_bound_is_at_most_what_the_compiler_allocated_for_every_kernel():
    compared = 0
    for case in cases(level="ttgir"):
        bound = shared_lower_bound(case.text("ttgir"))
        assert 0 <= bound <= case.metadata["shared"], str(case)
        compared += bound > 0
    assert compared > 60


@pytest.mark.parametrize("case", cases(kernel="matmul_kernel", target="cuda:90"), ids=str)
def test_bound_of_a_pipelined_matmul_is_exact(case):
    assert shared_lower_bound(case.text("ttgir")) == case.metadata["shared"] == 3 * (64 * 32 + 32 * 64) * 2


ALLOC = "%{name} = ttg.local_alloc : () -> !ttg.memdesc<{shape}x{dtype}, #shared, #smem, mutable>"


def alloc(name, shape, dtype="f16"):
    return ALLOC.format(name=name, shape=shape, dtype=dtype)


def test_buffers_count_while_they_live():
    text = "\n".join([alloc("a", "64x64"), "ttg.local_load %a", alloc("b", "32x32", "f32"), "ttg.local_load %b"])
    assert shared_lower_bound(text) == 64 * 64 * 2
    text = "\n".join([alloc("a", "64x64"), alloc("b", "32x32", "f32"), "use %a, %b"])
    assert shared_lower_bound(text) == 64 * 64 * 2 + 32 * 32 * 4
    text = "\n".join([alloc("a", "64x64"), alloc("b", "32x32", "f32"), "use %a_1, %b"])  # another value's name
    assert shared_lower_bound(text) == 64 * 64 * 2


def test_old_dialect_and_element_sizes():
    old = "%0 = triton_gpu.local_alloc  : () -> !tt.memdesc<3x64x32xf16, #shared, mutable> \nuse %0"
    assert shared_lower_bound(old) == 3 * 64 * 32 * 2
    sizes = {"i1": 1, "i8": 1, "f8E4M3FN": 1, "bf16": 2, "f32": 4, "i64": 8, "f64": 8}
    for dtype, size in sizes.items():
        assert shared_lower_bound(alloc("a", "16", dtype)) == 16 * size


def test_a_cluster_shares_the_work():
    module = 'module attributes {"ttg.num-ctas" = 2 : i32} {\n'
    assert shared_lower_bound(module + alloc("a", "64x64")) == 64 * 64
    assert shared_lower_bound(module.replace("= 2", "= 0") + alloc("a", "64x64")) == 64 * 64 * 2


TTGIR = find("3.6.0", "cuda:90", "matmul_kernel").text("ttgir")


@given(st.one_of(st.text(), st.lists(st.sampled_from(TTGIR.splitlines()[:60])).map("\n".join)))
@example(alloc("a", "0x1"))
@example(alloc("a", "9" * 5000 + "x1"))
@example(alloc("a", "1", "f" + "9" * 5000))
@example('"ttg.num-ctas" = ' + "9" * 5000)
def test_any_text_has_a_bound(text):
    assert shared_lower_bound(text) >= 0
