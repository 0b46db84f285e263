"""The checks on Triton's own kernels: nothing is found in them as they are, and what is broken is found.

``benchmarks/mutations.py`` runs all cases of all releases and all mutants; here are a release of each kernel and a few
mutants of each class.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from itertools import islice

import pytest

from tests.emulator import mutations
from tests.emulator.mutations import Mutant, Subject
from trlaunch.emulator import settings


def sample() -> list[Subject]:
    """One release of each kernel for each target, not always the same."""
    found: dict[tuple[str, str], list[Subject]] = defaultdict(list)
    for subject in mutations.every_subject():
        found[subject.case.name, subject.case.target].append(subject)
    return [cases[zlib.crc32("".join(key).encode()) % len(cases)] for key, cases in sorted(found.items())]


def test_there_is_every_kernel() -> None:
    assert len(mutations.every_subject()) >= 350
    assert len(sample()) >= 50


@pytest.mark.parametrize("subject", sample(), ids=str)
def test_nothing_is_found_in_kernels_as_they_are(subject: Subject) -> None:
    assert settings.process_wide() == {"memory"}
    assert mutations.judge(subject) == "nothing"


#: Kernel, class of mutant, number among its mutants of that class, and what is found.
CHOSEN = [
    ("3.6.0-cuda80-softmax_kernel", "barrier", 0, "race"),
    ("3.9.0-cuda80-layer_norm_kernel", "barrier", 3, "race"),
    ("3.9.0-cuda80-matmul_kernel", "barrier", 0, "race"),
    ("3.9.0-cuda80-matmul_kernel", "cp.async wait", 0, "race"),
    ("3.6.0-cuda80-cooperative_kernel", "barrier", 0, "race"),
    ("3.2.0-cuda90-matmul_kernel", "cp.async wait", 0, "race"),
    ("3.2.0-cuda90-matmul_kernel", "wgmma wait", 0, "race"),
    ("3.7.1-cuda90-matmul_kernel", "wgmma wait", 1, "race"),
    ("3.6.0-cuda90-tma_matmul_kernel", "mbarrier wait", 0, "race"),
    ("3.6.0-cuda90-tma_matmul_kernel", "bulk wait", 0, "race"),
    ("3.6.0-cuda90-tma_matmul_kernel", "proxy fence", 0, "race"),
    ("3.8.0-cuda90-scratch_kernel", "arrival", 0, "deadlock"),
    ("3.8.0-cuda90-scratch_kernel", "byte count", 0, "deadlock"),
    ("3.9.0-cuda90-specialised_kernel", "mbarrier wait", 1, "race"),
    ("3.9.0-cuda80-scan_kernel", "barrier", 0, "race"),
    ("3.6.0-cuda80-histogram_kernel", "pointer", 0, "out-of-bounds"),
    ("3.6.0-cuda80-histogram_kernel", "pointer", 1, "misaligned"),
    ("3.6.0-cuda80-gather_kernel", "buffer", 0, "out-of-bounds"),
]


@pytest.mark.parametrize(("name", "kind", "number", "expected"), CHOSEN)
def test_what_is_broken_is_found(name: str, kind: str, number: int, expected: str) -> None:
    (subject,) = [s for s in mutations.subjects() if str(s) == name]
    chosen: Mutant = next(islice((m for m in mutations.mutants(subject) if m.kind == kind), number, None))
    assert mutations.judge(chosen) == expected
    if kind == "barrier":
        assert mutations.harm(chosen)


def test_a_barrier_too_many_is_told_from_one_that_is_needed() -> None:
    """Two in a row: without one of them nothing changes, without both it does."""
    (subject,) = [s for s in mutations.subjects() if str(s) == "3.6.0-cuda80-softmax_kernel"]
    lines = subject.text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.strip().startswith("bar.sync"))
    doubled = Subject(mutations.changed(subject.case, [*lines[:at], "bar.sync 0;", *lines[at:]]), subject.test)
    first, second = islice((m for m in mutations.mutants(doubled) if m.kind == "barrier"), 2)
    assert (first.line, second.line) == (at + 1, at + 2)
    for mutant in (first, second):
        assert mutations.judge(mutant) == "nothing"
        assert not mutations.harm(mutant)
        other = second if mutant is first else first
        assert mutations.reason(mutant) == f"line {other.line} orders the same accesses"
