"""Traces: every value that registers held during a launch, without a change to the kernel.

>>> with trlaunch.emulator.trace("%f12") as traced:       # doctest: +SKIP
...     kernel.launch(grid, x, y, out, device="emulator")
>>> traced["%f12"].values[cta, thread]                    # doctest: +SKIP
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.instruments import Instrument, install
from trlaunch.emulator.registers import NUMPY_TYPES, Registers, instruction_at, interpret
from trlaunch.emulator.syntax import Register
from trlaunch.errors import EmulatorError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from trlaunch.driver import LaunchConfig, PackedArguments
    from trlaunch.emulator.program import Program
    from trlaunch.emulator.scheduler import Scheduler

__all__ = ["History", "Trace", "trace"]

_NAME = re.compile(r"(?:(?P<function>[\w$.]+):)?(?P<register>%[\w$]+)(?::(?P<type>\w+))?\Z")
#: Lanes that run in lockstep: all of the kernel's registers are kept.
_LANES = 16384


@dataclass(frozen=True, slots=True)
class History:
    """What one register held: a value for each time that a thread wrote it.

    Attributes
    ----------
    register : str
        As it was asked for.
    type : str
        The PTX type that the bits are read as.
    values : ndarray, shape (CTAs, threads, n)
        Occurrence ``k`` is what the thread wrote at its k-th time; n is that of the thread that wrote most often. CTAs
        are numbered along x first, then y, then z, threads likewise. Packed types have a last axis of two; bf16 comes
        as float32. Zero where nothing was written.
    written : ndarray of bool, shape (CTAs, threads, n)
        Whether the thread wrote so often: it did not where it took another branch, made fewer rounds of a loop, or its
        predicate was false.
    lines : ndarray of int32, shape (CTAs, threads, n)
        PTX line of the instruction that wrote; 0 where nothing was written.
    """

    register: str
    type: str
    values: Array
    written: Array
    lines: Array

    @property
    def floats(self) -> Array:
        """`values` as floating-point numbers, NaN where nothing was written."""
        wide = self.values.astype(np.result_type(self.values.dtype, np.float32))
        wide[~self.written] = np.nan
        return wide

    def at(self, line: int) -> History:
        """The values that the instruction of one PTX line wrote, counted anew.

        Raises
        ------
        EmulatorError
            No instruction of that line wrote the register.
        """
        here = self.lines == line
        if not here.any():
            known = ", ".join(map(str, np.unique(self.lines[self.written]).tolist()[:16])) or "none"
            raise EmulatorError(f"no write of {self.register} on PTX line {line}: it was written on lines {known}")
        order = np.argsort(~here, axis=2, kind="stable")[:, :, : int(here.sum(axis=2).max())]
        kept = np.take_along_axis(here, order, axis=2)
        at = order[..., None] if self.values.ndim == 4 else order
        values = np.take_along_axis(self.values, at, axis=2)
        values[~kept] = 0
        lines = np.where(kept, np.int32(line), np.int32(0))
        return History(self.register, self.type, values, kept, lines)

    def __repr__(self) -> str:
        ctas, threads, n = self.written.shape
        return f"History({self.register!r}, {self.type}, {ctas} CTAs x {threads} threads x {n} writes)"


@dataclass(slots=True)
class _Wanted:
    """A register as it was asked for."""

    key: str
    name: str
    function: str | None
    type: str | None


@dataclass(slots=True)
class _Event:
    """One instruction's write: the lanes (``None``: all) and the bits, as they broadcast to the chunk."""

    line: int
    lanes: Array | None
    bits: Array


class Trace(Instrument, Mapping[str, History]):
    """The registers of the launches of a block of code; made by `trace`.

    As a mapping it is of the last launch: the history of each register by what was asked for.

    Attributes
    ----------
    launches : list of dict
        Of each launch, in order.
    """

    stepping = True

    def __init__(self, wanted: Sequence[str], kernel: str | None, limit: int | None) -> None:
        if not wanted:
            raise EmulatorError("trace of which register? Expected names such as %f12")
        self._wanted = [_parse(text) for text in wanted]
        self._kernel, self._limit = kernel, limit
        self.launches: list[dict[str, History]] = []
        self._context: AbstractContextManager[None] | None = None
        self._registers: Registers | None = None
        self._events: list[list[_Event]] = []
        self._chunks: list[list[tuple[Array, Array, Array]]] = []
        self._scheduler: Scheduler | None = None
        self._writers: dict[int, list[tuple[int, Register]]] = {}
        self._kinds: list[str] = []
        self._bytes = 0

    # The mapping.

    def __getitem__(self, register: str) -> History:
        if not self.launches:
            raise KeyError(f"{register}: no launch was traced yet")
        return self.launches[-1][register]

    def __iter__(self) -> Iterator[str]:
        return iter(self.launches[-1] if self.launches else ())

    def __len__(self) -> int:
        return len(self.launches[-1]) if self.launches else 0

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    # The block of code.

    def __enter__(self) -> Trace:
        self._context = install(self)
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._context is not None
        self._context.__exit__(*error)

    # The launch.

    def most_lanes(self, program: Program, config: LaunchConfig) -> int | None:
        """Fewer than usual: all registers of all lanes are kept."""
        del program, config
        return _LANES

    def begin(self, program: Program, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Find the registers, and the instructions that write them."""
        del arguments
        self._scheduler, self._registers, self._writers = None, None, {}
        if self._kernel is not None and program.name != self._kernel:
            return
        registers = Registers(program)
        self._threads = config.block[0] * config.block[1] * config.block[2]
        self._kinds = []
        for number, wanted in enumerate(self._wanted):
            found = registers.select(wanted.name, wanted.function)
            if len({r.type for r in found}) > 1:
                raise EmulatorError(f"several registers {wanted.name} of different types: say function:{wanted.name}")
            kind = wanted.type or registers.kind(found[0])
            interpret(program.registers[found[0].index], kind)  # refuses what does not fit
            self._kinds.append(kind)
            for register in found:
                for block in registers.writers.get(register.index, ()):
                    self._writers.setdefault(block, []).append((number, register))
        self._registers = registers
        self._chunks = [[] for _ in self._wanted]
        self._bytes = 0

    def attach(self, scheduler: Scheduler) -> None:
        """Stand behind the instructions that write what is traced."""
        if self._registers is None:
            return
        self._finish_chunk()
        self._scheduler = scheduler
        self._events = [[] for _ in self._wanted]
        functions = list(scheduler.functions)
        for block, writes in self._writers.items():
            functions[block] = self._wrap(scheduler, block, functions[block], writes)
        scheduler.functions = functions

    def _wrap(
        self, scheduler: Scheduler, block: int, function: Callable[..., Any], writes: list[tuple[int, Register]]
    ) -> Callable[..., Any]:
        instruction = instruction_at(scheduler.program, block)
        assert instruction is not None
        guard, negated, line = instruction.guard, instruction.guard_negated, instruction.line
        chunk, threads = scheduler.chunk, self._threads

        def run(state: Any, registers: list[Array], mask: Array | None) -> Any:
            lanes = mask
            if guard is not None:
                active = ~registers[guard.index] if negated else registers[guard.index]
                lanes = active if mask is None else mask & active
            result = function(state, registers, mask)
            if lanes is None and not scheduler.whole:
                lanes = chunk.alive
            if lanes is not None:
                lanes = (lanes & chunk.alive)[:, :threads]
            for number, register in writes:
                bits = registers[register.index]
                self._grow(bits.itemsize * chunk.alive.size)
                self._events[number].append(_Event(line, lanes, bits[:, :threads].copy()))
            return result

        return run

    def _grow(self, nbytes: int) -> None:
        self._bytes += nbytes
        if self._limit is not None and self._bytes > self._limit:
            raise EmulatorError(
                f"the trace grows beyond {self._limit} bytes: trace fewer registers or fewer CTAs, or give limit="
            )

    def end(self) -> None:
        """Put the chunks together; of a launch that died there is what was written until then."""
        if self._registers is None:
            return
        self._finish_chunk()
        done: dict[str, History] = {}
        for wanted, kind, chunks in zip(self._wanted, self._kinds, self._chunks, strict=True):
            longest = max((lines.shape[2] for _, _, lines in chunks), default=0)
            bits, written, lines = (
                np.concatenate([_padded(chunk[part], longest) for chunk in chunks])
                if chunks
                else np.zeros((0, self._threads, 0), kind_of)
                for part, kind_of in enumerate((np.uint32, np.bool_, np.int32))
            )
            values = interpret(bits, kind)
            values[~written] = 0
            done[wanted.key] = History(wanted.key, kind, values, written, lines)
        self.launches.append(done)
        self._registers = None

    def _finish_chunk(self) -> None:
        if self._scheduler is None:
            return
        shape = (self._scheduler.shape[0], self._threads)
        for events, chunks in zip(self._events, self._chunks, strict=True):
            chunks.append(_assembled(events, shape))
        self._scheduler = None


def _parse(text: str) -> _Wanted:
    m = _NAME.match(text) if isinstance(text, str) else None
    if m is None:
        raise EmulatorError(
            f"{text!r:.60} is not understood: expected a register such as %f12, %r5:f32 or function:%r5"
        )
    if m["type"] is not None and m["type"] not in NUMPY_TYPES:
        raise EmulatorError(f"{text!r}: there is no type {m['type']}: expected one of {', '.join(NUMPY_TYPES)}")
    return _Wanted(text, m["register"], m["function"], m["type"])


def _assembled(events: Sequence[_Event], shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Bits, what was written and PTX lines, each (C, T, n), of the writes in the order they happened."""
    counts = np.zeros(shape, np.int64)
    for event in events:
        counts += 1 if event.lanes is None else np.broadcast_to(event.lanes, shape)
    longest = int(counts.max(initial=0))
    dtype = events[0].bits.dtype if events else np.dtype(np.uint32)
    bits = np.zeros((*shape, longest), dtype)
    lines = np.zeros((*shape, longest), np.int32)
    counts[:] = 0
    for event in events:
        lanes = np.ones(shape, bool) if event.lanes is None else np.broadcast_to(event.lanes, shape)
        rows, threads = np.nonzero(lanes)
        at = counts[rows, threads]
        bits[rows, threads, at] = np.broadcast_to(event.bits, shape)[rows, threads]
        lines[rows, threads, at] = event.line
        counts[rows, threads] += 1
    written = np.arange(longest) < counts[:, :, None]
    return bits, written, lines


def _padded(part: Array, length: int) -> Array:
    missing = length - part.shape[2]
    return np.pad(part, ((0, 0), (0, 0), (0, missing))) if missing else part


def trace(*registers: str, kernel: str | None = None, limit: int | None = 1 << 30) -> Trace:
    """Record what registers hold in the launches of a block of code, on the emulator.

    Parameters
    ----------
    *registers : str
        Names as in the PTX: ``"%f12"``. ``"%r5:f32"`` reads its bits as a type; left out, as what the instructions
        around it take them for. Of a name that device functions have, too, the kernel's own is meant:
        ``"function:%r5"`` means another's.
    kernel : str, optional
        Trace launches of this kernel alone.
    limit : int, optional
        Bytes that may be recorded; 1 GiB by default, ``None`` for no limit.

    Returns
    -------
    Trace
        A context manager, and then a mapping of `History` by what was asked for.

    Raises
    ------
    EmulatorError
        A name is not understood. A launch raises it where the kernel has no such register, or the limit is reached.
    """
    return Trace(registers, kernel, limit)
