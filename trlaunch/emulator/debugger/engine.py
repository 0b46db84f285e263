"""The launch that is debugged: it runs in a thread of its own, instruction by instruction, and stops where it is told.

Only one of the two threads runs at a time, so that a session is deterministic: the launch waits while it is looked at,
and whoever looks waits while it runs. Lanes of a chunk of CTAs move in lockstep; the *focus* is the thread whose steps
are followed.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.debugger.lines import LineTable
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.instruments import Instrument, install
from trlaunch.emulator.registers import Registers, instruction_at
from trlaunch.errors import EmulatorError, Fault

if TYPE_CHECKING:
    from trlaunch.driver import LaunchConfig, PackedArguments
    from trlaunch.emulator.program import Program
    from trlaunch.emulator.scheduler import Scheduler

__all__ = ["Engine", "Goal", "Place", "Stop"]

#: Lanes that run in lockstep while a kernel is debugged: all of its registers are kept.
_LANES = 8192
#: How often Ctrl-C is pressed until a launch that does not stop is left alone.
_PATIENCE = 3


class _Quit(BaseException):
    """Ends the thread of a launch that nobody wants to see the end of."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the launch stopped.

    Attributes
    ----------
    kind : {"breakpoint", "watchpoint", "step", "interrupt", "fault", "exited"}
    what : str
        In words; several lines for a fault.
    lanes : ndarray of bool, shape (C, T), or None
        The lanes that it is about.
    """

    kind: str
    what: str = ""
    lanes: Array | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a lane is: a block, and why it waits there.

    `state` is one of ``running``, ``ready``, ``waiting`` (for the rest of its warp, or for memory that it polls),
    ``barrier <n>``, ``exited``.
    """

    block: int | None
    state: str


class Goal:
    """How far to run: `reached` is asked before an instruction for the focus. The base class never ends."""

    def reached(self, engine: Engine, block: int) -> bool:
        """Whether to stop before the focus executes `block`."""
        del engine, block
        return False


#: Asked before (or after) every instruction; a stop ends the run.
Check = Callable[["Engine", int, "Array | None"], "Stop | None"]


@dataclass(slots=True)
class _Current:
    block: int
    mask: Array | None


@dataclass(slots=True)
class _Hooks:
    before: Check | None = None
    after: Check | None = None
    blocks: frozenset[int] = field(default_factory=frozenset)


class Engine(Instrument):
    """Runs one launch and stops it.

    Parameters
    ----------
    launch : callable
        Launches the kernel, in whatever thread calls it.

    Attributes
    ----------
    focus : tuple of int
        Linear index of the CTA in the grid, and of the thread in the CTA.
    stop : Stop or None
        Why it stands still; ``None`` before it was started.
    error : BaseException or None
        What ended the launch, if it ended badly.
    result : object
        What it returned.
    """

    stepping = True
    observes = False

    def __init__(self, launch: Callable[[], Any]) -> None:
        self._launch = launch
        self.focus = (0, 0)
        self.stop: Stop | None = None
        self.error: BaseException | None = None
        self.fault: Fault | None = None
        self._faulted: Array | None = None  # the lane that the fault is of, shape (C, T)
        self.result: Any = None
        self.finished = False
        self.program: Program | None = None
        self.config: LaunchConfig | None = None
        self.arguments: PackedArguments | None = None
        self.scheduler: Scheduler | None = None
        self._thread: threading.Thread | None = None
        self._to_launch, self._to_front = threading.Semaphore(0), threading.Semaphore(0)
        self._goal: Goal | None = None
        self._hooks = _Hooks()
        self._interrupted = self._quitting = False
        self._current: _Current | None = None
        self._deferred: Stop | None = None

    # The side of whoever looks.

    @property
    def started(self) -> bool:
        """Whether the launch has begun."""
        return self._thread is not None

    @property
    def running(self) -> bool:
        """Whether the launch stands still somewhere inside the kernel."""
        return self.started and not self.finished

    def set_hooks(self, blocks: Sequence[int], before: Check | None, after: Check | None) -> None:
        """`before` is asked before one of `blocks`, `after` behind every instruction."""
        self._hooks = _Hooks(before, after, frozenset(blocks))

    def start(self) -> None:
        """Begin the launch and stop before its first instruction."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work,), name="trlaunch debugger", daemon=True)
        self._goal = _First()
        self._thread.start()
        self._wait()

    def resume(self, goal: Goal | None = None) -> None:
        """Run on, to `goal` or without one, until something stops the launch.

        Raises
        ------
        EmulatorError
            The launch is over, or has not begun.
        """
        if not self.running:
            raise EmulatorError("the kernel does not run" + (": it has ended" if self.finished else " yet"))
        self._goal = goal
        self._interrupted = False
        self._to_launch.release()
        self._wait()

    def _wait(self) -> None:
        asked = 0
        while True:
            try:
                self._to_front.acquire()
                return
            except KeyboardInterrupt:
                self._interrupted = True
                asked += 1
                if asked == _PATIENCE:  # not even an instruction ends: give the launch up
                    self.finished = self._quitting = True
                    raise

    def close(self) -> None:
        """End the launch wherever it is."""
        if self.running and not self._quitting:
            self._quitting = True
            self._to_launch.release()
            self._wait()

    def abandon(self) -> None:
        """End the launch without waiting for that: whoever looked at it is gone."""
        if self.running and not self._quitting:
            self._quitting = True
            self._to_launch.release()

    # The side of the launch.

    def _work(self) -> None:
        with _Ending(self), install(self):
            self.result = self._launch()

    def _ended(self, error: BaseException | None) -> None:
        """The launch is over; whoever looks raises or shows what ended it."""
        self.error = error
        self.finished = True
        self.stop = Stop("exited")
        self._to_front.release()

    def _pause(self, stop: Stop) -> None:
        self.stop = stop
        self._to_front.release()
        self._to_launch.acquire()
        if self._quitting:
            raise _Quit

    def most_lanes(self, program: Program, config: LaunchConfig) -> int | None:
        """Fewer than usual: all registers of all lanes are kept."""
        del program, config
        return _LANES

    def begin(self, program: Program, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Read what the launch consists of."""
        self.program, self.config, self.arguments = program, config, arguments
        self.registers = Registers(program)
        self.lines = LineTable(program)
        self._block_of_site = [b.index for b in program.blocks if instruction_at(program, b.index) is not None]

    def attach(self, scheduler: Scheduler) -> None:
        """Stand between the scheduler and the instructions of a chunk."""
        self.scheduler = scheduler
        self._current = None
        scheduler.functions = [self._wrap(i, f) for i, f in enumerate(scheduler.functions)]

    def _wrap(self, block: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(chunk: Any, registers: list[Array], mask: Array | None) -> Any:
            self._before(block, mask)
            result = function(chunk, registers, mask)
            if self._hooks.after is not None:
                self._after(block, mask)
            return result

        return run

    def _before(self, block: int, mask: Array | None) -> None:
        self._current = _Current(block, mask)
        stop, self._deferred = self._deferred, None
        if self._interrupted:
            stop = Stop("interrupt", "interrupted")
        if block in self._hooks.blocks and self._hooks.before is not None:
            found = self._hooks.before(self, block, mask)
            stop = found or stop
        if stop is None and self._goal is not None:
            stop = self._at_goal(block, mask)
        if stop is not None:
            self._refocus(stop, mask)
            self._pause(stop)

    def _at_goal(self, block: int, mask: Array | None) -> Stop | None:
        row = self.row
        if row is None or not self.alive[row, self.focus[1]]:
            return Stop("step", "the thread that was followed has exited")
        if mask is not None and not np.broadcast_to(mask, self.lanes)[row, self.focus[1]]:
            return None
        assert self._goal is not None
        return Stop("step") if self._goal.reached(self, block) else None

    def _after(self, block: int, mask: Array | None) -> None:
        """Stop before the next instruction: until then nothing says where these lanes go."""
        assert self._hooks.after is not None
        self._deferred = self._hooks.after(self, block, mask)

    def _refocus(self, stop: Stop, mask: Array | None) -> None:
        """Move the focus to a lane that the stop is about, if it is not one of them."""
        lanes = stop.lanes if stop.lanes is not None else self.alive if mask is None else mask & self.alive
        wide = np.broadcast_to(lanes, self.lanes)
        row = self.row
        if wide.any() and (row is None or not wide[row, self.focus[1]]):
            at = int(np.flatnonzero(wide)[0])
            self.focus = (int(self.ctas[at // wide.shape[1]]), at % wide.shape[1])

    def failed(self, scheduler: Scheduler, fault: Fault) -> None:
        """A lane died: stop once more before the launch ends."""
        self.fault = fault
        lanes = None
        if fault.cta is not None and fault.thread is not None:
            assert self.config is not None
            (x, y, _), (bx, by, _) = self.config.grid, self.config.block
            cta = fault.cta[0] + x * (fault.cta[1] + y * fault.cta[2])
            thread = fault.thread[0] + bx * (fault.thread[1] + by * fault.thread[2])
            here = np.flatnonzero(self.ctas == cta)
            if len(here):
                lanes = np.zeros(self.lanes, bool)
                lanes[here[0], thread] = True
        self._faulted = lanes
        stop = Stop("fault", str(fault), lanes)
        if lanes is not None:
            self.focus = (cta, thread)
        del scheduler
        self._pause(stop)

    def end(self) -> None:
        """The launch is over."""

    # What the chunk that runs looks like.

    def _chunk(self) -> Scheduler:
        if self.scheduler is None or not self.running:
            raise EmulatorError("the kernel does not run" + (": it has ended" if self.finished else " yet: try run"))
        return self.scheduler

    @property
    def lanes(self) -> tuple[int, int]:
        """CTAs and threads of the chunk that runs."""
        return self._chunk().chunk.log.lanes

    @property
    def ctas(self) -> Array:
        """Linear indices of its CTAs."""
        return self._chunk().chunk.ctas

    @property
    def alive(self) -> Array:
        """Its lanes that have not exited, shape (C, T)."""
        return self._chunk().chunk.alive

    @property
    def row(self) -> int | None:
        """Which CTA of the chunk has the focus; ``None`` when it is not one of them."""
        found = np.flatnonzero(self.ctas == self.focus[0])
        return int(found[0]) if len(found) else None

    def places(self) -> tuple[Array, Array, list[str]]:
        """Where each lane is: its block, shape (C, T), -1 for exited ones; an index into the list of states, likewise.

        States are in words: ``running`` is what executes the current instruction; after a fault the lane that it is of
        has ``faulted``, and those that were with it are ``stopped``.
        """
        scheduler = self._chunk()
        blocks = np.full(self.lanes, -1, np.int64)
        states = np.zeros(self.lanes, np.int64)
        names = ["exited", "ready", "waiting", "running"]
        alive = self.alive

        def put(mask: Array | None, block: int, state: int) -> None:
            here = alive if mask is None else np.broadcast_to(mask, self.lanes) & alive
            blocks[here], states[here] = block, state

        for block, mask in scheduler.pending.items():
            put(mask, block, 1)
        for block, mask in scheduler.parked.items():
            put(mask, block, 2)
        for number, arrivals in sorted(scheduler.waiting.items()):
            names.append(f"barrier {number}")
            for arrival in arrivals:
                if arrival.resume is not None:
                    put(arrival.lanes, self._block_of_site[arrival.site], len(names) - 1)
        stuck = self.fault is not None and self.fault.kind in ("deadlock", "hang")  # nothing executes: all wait
        if self._current is not None and not stuck:
            put(self._current.mask, self._current.block, 3)
        if self.fault is not None and not stuck:
            names[3] = "stopped"
            if self._faulted is not None:
                names.append("faulted")
                states[self._faulted & alive] = len(names) - 1
        return blocks, states, names

    def place(self) -> Place:
        """Where the focus is."""
        row = self.row
        if row is None:
            return Place(None, "ended" if self.focus[0] < int(self.ctas[0]) else "not started")
        blocks, states, names = self.places()
        block = int(blocks[row, self.focus[1]])
        return Place(None if block < 0 else block, names[int(states[row, self.focus[1]])])

    def active(self, block: int) -> Array:
        """The lanes of the chunk that are at a block, shape (C, T)."""
        return np.asarray(self.places()[0] == block)


class _Ending:
    """Hands what a block of code ended with to an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._engine._ended(None if isinstance(error, _Quit) else error)
        return True


class _First(Goal):
    """Stops before the first instruction."""

    def reached(self, engine: Engine, block: int) -> bool:
        """At once."""
        del engine, block
        return True
