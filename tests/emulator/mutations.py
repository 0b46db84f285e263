"""Kernels with one thing broken: what the checks make of each, and whether it can do harm at all.

A subject is a test of a kernel: it launches it and compares the result with NumPy. A mutant is the same with one line
of the PTX, one pointer or one buffer changed. Besides running a mutant under the checks, `harm` runs it with its warps
one after the other, in several orders, without any check: lockstep hides missing barriers, this does not.
"""

from __future__ import annotations

import atexit
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from inspect import signature
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

import trlaunch
import trlaunch.emulator
from tests import corpus
from tests.emulator import archive, test_hopper, test_kernels, test_more_kernels
from trlaunch.driver import Buffer, Function, LaunchConfig, PackedArguments
from trlaunch.emulator import driver
from trlaunch.emulator.cfg import Block
from trlaunch.emulator.scheduler import Scheduler
from trlaunch.errors import Fault

__all__ = ["CLASSES", "Mutant", "Subject", "changed", "every_subject", "harm", "judge", "mutants", "reason", "subjects"]


# --- subjects --------------------------------------------------------------------------------------------------------


@cache
def _folder() -> Path:
    """For files of changed cases, until the process ends."""
    made = Path(mkdtemp(prefix="trlaunch-mutants-"))
    atexit.register(shutil.rmtree, made)
    return made


class _Changed:
    """A case of the corpus with other PTX."""

    def __init__(self, case: corpus.Case | _Changed, text: str) -> None:
        self._case, self._text = case, text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._case, name)

    def __str__(self) -> str:
        return str(self._case)

    def bytes(self, level: str) -> bytes:
        assert level == "ptx"
        return self._text.encode()

    def text(self, level: str) -> str:
        assert level == "ptx"
        return self._text

    def path(self, level: str) -> Path:
        """The file in a folder of its own, beside the metadata."""
        original = self._case.path(level)
        changed = Path(mkdtemp(dir=_folder())) / original.name
        changed.write_text(self._text)
        shutil.copy(original.with_suffix(".json"), changed.with_suffix(".json"))
        return changed


def changed(case: Any, lines: list[str]) -> Any:
    """A case with other PTX."""
    text = "\n".join(lines) + "\n"
    return replace(case, ptx=text) if isinstance(case, archive.Case) else _Changed(case, text)


@dataclass(frozen=True)
class Subject:
    """A kernel with a test of it."""

    case: Any
    test: Callable[[Any], None]

    def __str__(self) -> str:
        return str(self.case)

    @property
    def text(self) -> str:
        return self.case.ptx if isinstance(self.case, archive.Case) else self.case.text("ptx")

    def run(self, text: str | None = None) -> None:
        """Launch and compare, with other PTX if any is given."""
        self.test(self.case if text is None else changed(self.case, text.splitlines()))


def _persistent(case: archive.Case) -> None:
    """With more tiles than CTAs, so that shared memory is used again."""
    m, n, k = 192, 192, 320
    a, b = test_kernels.normal(m, k).astype(np.float16), test_kernels.normal(k, n, seed=1).astype(np.float16)
    c = np.zeros((m, n), np.float16)
    x, y, z = (trlaunch.TensorDescriptor(t, block_shape=(64, 64)) for t in (a, b, c))
    kernel = trlaunch.Kernel.from_bytes(case.ptx.encode(), case.metadata, level="ptx", device="emulator")
    kernel.launch((6,), x, y, z, m, n, k)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=2e-3, atol=2e-3)


_CORPUS = (
    ("softmax_kernel", "cuda:80", ("3.0.0", "3.6.0"), test_kernels.test_softmax),
    ("layer_norm_kernel", "cuda:80", ("3.9.0",), test_kernels.test_layer_norm),
    ("matmul_kernel", "cuda:80", ("3.0.0", "3.9.0"), test_kernels.test_matmul_16_bits),
    ("matmul_kernel_tf32", "cuda:80", ("3.4.0",), test_kernels.test_matmul_tf32),
    ("cooperative_kernel", "cuda:80", ("3.6.0",), test_kernels.test_cooperative_grid_barrier),
    ("matmul_kernel", "cuda:90", ("3.2.0", "3.7.1"), test_hopper.test_matmul_16_bits),
    ("tma_matmul_kernel", "cuda:90", ("3.3.1", "3.6.0"), test_hopper.test_matmul_on_host_descriptors),
    ("scratch_kernel", "cuda:90", ("3.8.0",), test_hopper.test_descriptors_made_by_the_kernel),
)
_ARCHIVE = (
    ("histogram_kernel", "cuda80", "3.6.0", test_more_kernels.test_histogram),
    ("sort_kernel", "cuda80", "3.2.0", test_more_kernels.test_sort),
    ("scan_kernel", "cuda80", "3.9.0", test_more_kernels.test_scan),
    ("argmax_kernel", "cuda90", "3.6.0", test_more_kernels.test_argmax),
    ("gather_kernel", "cuda80", "3.6.0", test_more_kernels.test_gather),
    ("lock_kernel", "cuda80", "3.9.0", test_more_kernels.test_a_spin_lock_over_ctas),
    ("flash_kernel_causal", "cuda80", "3.6.0", test_more_kernels.test_flash_attention),
    ("flash_kernel", "cuda90", "3.9.0", test_more_kernels.test_flash_attention),
    ("persistent_kernel", "cuda90", "3.6.0", _persistent),
    ("specialised_kernel", "cuda90", "3.9.0", test_more_kernels.test_descriptors_persistent_and_with_specialised_warps),
)


def subjects() -> list[Subject]:
    """Kernels of several releases and of both architectures that use shared memory or order their CTAs."""
    found = []
    for name, target, releases, test in _CORPUS:
        cases = [
            c for c in corpus.cases(level="ptx") if c.name == name and c.target == target and c.release in releases
        ]
        assert len(cases) == len(releases), name
        found += [Subject(case, test) for case in cases]
    for name, target, release, test in _ARCHIVE:
        (one,) = [c for c in archive.cases(name) if c.target == target and c.release == release]
        found.append(Subject(one, test))
    return found


def every_subject() -> list[Subject]:
    """Every case of every test of Triton's kernels that ends well."""
    found = []
    for module in (test_kernels, test_hopper, test_more_kernels):
        for name, test in vars(module).items():
            marks = [m for m in getattr(test, "pytestmark", ()) if m.name == "parametrize" and m.args[0] == "case"]
            ends_well = name.startswith("test_") and name != "test_a_wait_that_is_dropped_is_found"
            if ends_well and marks and list(signature(test).parameters) == ["case"]:
                found += [Subject(case, test) for case in marks[0].args[1]]
    return found


# --- mutants ---------------------------------------------------------------------------------------------------------

_GUARD = r"^\s*(?:@!?%\w+\s+)?"
#: Lines to drop, by class.
_DROPPED = {
    "barrier": _GUARD + r"bar(rier)?\.(sync|warp\.sync|arrive)\b",
    "cp.async wait": _GUARD + r"cp\.async\.wait_(group|all)",
    "mbarrier wait": r"^\s*@!complete bra\.uni waitLoop",
    "wgmma wait": _GUARD + r"wgmma\.wait_group",
    "bulk wait": _GUARD + r"cp\.async\.bulk\.wait_group",
    "proxy fence": _GUARD + r"fence\.proxy\.async",
    "shared store": _GUARD + r"(st\.shared|stmatrix)",
    "arrival": _GUARD + r"mbarrier\.arrive",
}
CLASSES = (*_DROPPED, "byte count", "pointer", "buffer")


@dataclass(frozen=True)
class Mutant:
    """A subject with one thing changed."""

    subject: Subject
    kind: str
    what: str
    text: str | None = None
    line: int | None = None
    arguments: Callable[[Function, PackedArguments], PackedArguments] | None = None

    def run(self) -> None:
        """As the subject's test."""
        if self.arguments is None:
            self.subject.run(self.text)
            return
        with _other_arguments(self.arguments):
            self.subject.run(self.text)


def mutants(subject: Subject, most: int | None = None) -> Iterator[Mutant]:
    """All mutants of a subject, or at most so many of each class, spread evenly."""
    lines = subject.text.splitlines()
    for kind, pattern in _DROPPED.items():
        found = [n for n, line in enumerate(lines) if re.match(pattern, line)]
        for n in _spread(found, most):
            changed = [*lines[:n], f"// {lines[n].strip()}", *lines[n + 1 :]]
            yield Mutant(subject, kind, f"line {n + 1}: {lines[n].strip()[:60]}", "\n".join(changed) + "\n", n + 1)
    found = [n for n, line in enumerate(lines) if "expect_tx" in line]
    for n in _spread(found, most):
        line = re.sub(r"(\d+)(\s*;)", lambda m: f"{int(m[1]) + 16}{m[2]}", lines[n])
        changed = [*lines[:n], line, *lines[n + 1 :]]
        yield Mutant(subject, "byte count", f"line {n + 1}: 16 bytes more", "\n".join(changed) + "\n")
    buffers = _buffers(subject)
    for at in _spread(list(range(len(buffers))), most):
        yield Mutant(subject, "pointer", f"buffer {at} behind its end", arguments=_shifted(at, None))
        yield Mutant(subject, "pointer", f"buffer {at} one byte on", arguments=_shifted(at, 1))
        yield Mutant(subject, "buffer", f"buffer {at} shorter by an eighth", arguments=_shrunk(at))


def _spread(found: list[int], most: int | None) -> list[int]:
    if most is None or len(found) <= most:
        return found
    return [found[k * len(found) // most] for k in range(most)]


@contextmanager
def _other_arguments(change: Callable[[Function, PackedArguments], PackedArguments]) -> Iterator[None]:
    original = driver.EmulatorDriver.launch

    def launch(self: Any, function: Function, config: LaunchConfig, arguments: PackedArguments) -> None:
        original(self, function, config, change(function, arguments))

    driver.EmulatorDriver.launch = launch  # type: ignore[method-assign]
    try:
        yield
    finally:
        driver.EmulatorDriver.launch = original  # type: ignore[method-assign]


def _buffers(subject: Subject) -> list[Buffer]:
    """The buffers of the subject's first launch that a pointer leads to."""
    seen: list[Buffer] = []

    def look(_: Function, arguments: PackedArguments) -> PackedArguments:
        if not seen:
            seen.extend(b for b in arguments.buffers if struct.pack("<Q", b.address) in arguments.data)
        return arguments

    with _other_arguments(look):
        subject.run()
    return seen


def _shifted(at: int, by: int | None) -> Callable[[Function, PackedArguments], PackedArguments]:
    def change(_: Function, arguments: PackedArguments) -> PackedArguments:
        found = [b for b in arguments.buffers if struct.pack("<Q", b.address) in arguments.data]
        buffer = found[at]
        there = buffer.address + (buffer.nbytes if by is None else by)
        data = arguments.data.replace(struct.pack("<Q", buffer.address), struct.pack("<Q", there), 1)
        return PackedArguments(data, arguments.buffers)

    return change


def _shrunk(at: int) -> Callable[[Function, PackedArguments], PackedArguments]:
    def change(_: Function, arguments: PackedArguments) -> PackedArguments:
        found = [b for b in arguments.buffers if struct.pack("<Q", b.address) in arguments.data]
        short = [
            Buffer(b.address, b.nbytes - max(b.nbytes // 8, 1), b.name, b.read_only) if b is found[at] else b
            for b in arguments.buffers
        ]
        return PackedArguments(arguments.data, short)

    return change


# --- what becomes of them --------------------------------------------------------------------------------------------


def judge(mutant: Mutant | Subject) -> str:
    """The kind of fault that the checks find; ``wrong result`` or ``nothing``."""
    try:
        with trlaunch.emulator.checking():
            mutant.run()
    except Fault as fault:
        return fault.kind
    except AssertionError:
        return "wrong result"
    return "nothing"


class _WarpByWarp(Scheduler):
    """Runs warps (warpgroups, where products are of these) one after the other, each as far as it can go."""

    seed = 0

    def run(self) -> None:
        unit = 128 if any(i.opcode.startswith("wgmma") for i in self.program.sites) else 32
        self._order = list(range(-(-self.shape[1] // unit)))
        if self.seed == 1:
            self._order.reverse()
        elif self.seed > 1:
            random.Random(self.seed).shuffle(self._order)
        self._unit, self._queue = unit, []
        functions, chunk, blocks = self.functions, self.chunk, self.program.blocks
        for _ in range(self.step_limit):
            self._one_unit()
            if not self.pending:
                if self._queue:
                    index, mask = self._queue.pop(0)
                    self.pending[index] = mask
                elif not self._unpark():
                    return
                continue
            index = min(self.pending)
            mask = self.pending.pop(index)
            self._force = True
            result = functions[index](chunk, chunk.registers, mask)
            self._leave(blocks[index], mask, result)
        raise self._hung()

    def _leave(self, block: Block, mask: Any, result: Any) -> None:
        if block.kind == "fall":
            self._add(block.following, mask)
        elif block.kind == "jump":
            self._jump(block.polls, block.target, mask)
        elif block.kind == "branch":
            self._branch(block, mask, result)
        elif block.kind == "barrier":
            self._barrier(block.index, mask, result)
        else:
            self._exit(block.index, mask, result)

    def _one_unit(self) -> None:
        """Leave one unit's lanes pending; the others queue up in order."""
        found = {}
        for index, mask in self.pending.items():
            wide = np.broadcast_to(self.chunk.alive if mask is None else mask, self.shape)
            for unit in self._order:
                here = np.zeros(self.shape, bool)
                here[:, unit * self._unit : (unit + 1) * self._unit] = wide[
                    :, unit * self._unit : (unit + 1) * self._unit
                ]
                if here.any():
                    found.setdefault(unit, []).append((index, here))
        if not found:
            return
        first, *others = [unit for unit in self._order if unit in found]
        self.pending.clear()
        self.pending.update(found[first])
        for unit in others:
            self._queue += found[unit]


def harm(mutant: Mutant | Subject, seeds: int = 4) -> bool:
    """Whether any of so many orders of warps gives another result than NumPy's."""
    original = driver.Scheduler
    try:
        for seed in range(seeds):
            driver.Scheduler = type("Order", (_WarpByWarp,), {"seed": seed})  # type: ignore[misc]
            try:
                mutant.run()
            except (AssertionError, Fault):
                return True
    finally:
        driver.Scheduler = original  # type: ignore[misc]
    return False


_NEIGHBOURS = 6


def reason(mutant: Mutant) -> str:
    """Why a mutant that does no harm does none.

    Another barrier (or wait, or fence) may order the same accesses: then there are races that come up when both are
    missing and not when the other one alone is. If none of the nearest ones does, nothing there conflicts.
    """
    if mutant.line is None or mutant.kind not in _DROPPED or mutant.kind in ("shared store", "arrival"):
        return "the result is the same"
    lines = mutant.subject.text.splitlines()
    if not _executed(mutant.subject, mutant.line):
        return "it is not executed in this launch"
    similar = [n + 1 for n, line in enumerate(lines) if re.match(_DROPPED[mutant.kind], line) and n + 1 != mutant.line]
    nearest = sorted(similar, key=lambda n: abs(n - mutant.line))[:_NEIGHBOURS]
    for chosen in [*([n] for n in nearest), *(nearest[: k + 1] for k in range(1, len(nearest)))]:
        if _races(mutant.subject, [mutant.line, *chosen]) - _races(mutant.subject, chosen):
            names = " and ".join(map(str, sorted(chosen)))
            return (
                f"line{'s' if len(chosen) > 1 else ''} {names} order{'s' if len(chosen) == 1 else ''} the same accesses"
            )
    return "there are no accesses that it alone could order"


def _executed(subject: Subject, line: int) -> bool:
    """Whether any thread comes to a line: it would not get past a trap there."""
    lines = subject.text.splitlines()
    lines[line - 1] = "trap;"
    return judge(Mutant(subject, "trap", f"line {line}", "\n".join(lines) + "\n")) == "trap"


_found: dict[str, frozenset[Any]] = {}


def _races(subject: Subject, dropped: list[int]) -> frozenset[Any]:
    """What is found with these lines missing, all of it."""
    text = "\n".join("//" if n + 1 in dropped else line for n, line in enumerate(subject.text.splitlines())) + "\n"
    if text not in _found:
        with trlaunch.emulator.checking(collect=True) as findings, suppress(AssertionError):
            subject.run(text)
        _found[text] = frozenset((f.fault.kind, f.ptx_lines) for f in findings)
    return _found[text]
