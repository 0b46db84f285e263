"""A debugging session: one launch of a kernel that stops where it is told, and what can be seen of it then."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.arguments import Argument, arguments_of
from trlaunch.emulator.debugger import values
from trlaunch.emulator.debugger.engine import Engine, Goal, Stop
from trlaunch.emulator.debugger.expressions import Expression
from trlaunch.emulator.debugger.goals import Finish, Instructions, NextLine, Until
from trlaunch.emulator.debugger.lines import Frame, Sources
from trlaunch.emulator.debugger.points import Breakpoint, Points, Watchpoint, where
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.memory import bytes_at
from trlaunch.emulator.registers import instruction_at
from trlaunch.errors import EmulatorError, Fault

if TYPE_CHECKING:
    from trlaunch.signature import Signature

__all__ = ["RegisterView", "Session"]

_ELEMENT = re.compile(r"([A-Za-z_][\w.]*)\s*\[([^\]]*)\]\Z")
_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]+|\d+)\Z")


class Session:
    """A launch that is debugged; made by `trlaunch.Kernel.debug`.

    It stands before the first instruction when it is made. A method that runs the kernel returns when it has stopped;
    `stop` says why. What is shown of registers is of the *focus*: a thread, its warp, its CTA.

    Attributes
    ----------
    transcript : str
        The commands of `execute` so far and what they said.
    stop : Stop or None
        Why the launch stands still.
    fault : Fault or None
        What the kernel died of.

    Examples
    --------
    >>> session = kernel.debug((4,), x, y, out, n, commands=["break 31"])   # doctest: +SKIP
    >>> session.run()                                                       # doctest: +SKIP
    >>> session.registers["%r5"]                                            # doctest: +SKIP
    """

    def __init__(
        self,
        launch: Callable[[], Any],
        *,
        name: str,
        signature: Signature | None = None,
        folders: Sequence[Path] = (),
        ttir: str | None = None,
    ) -> None:
        self.name = name
        self.transcript = ""
        self.sources = Sources(folders, ttir)
        self._launch = launch
        self._signature = signature
        self.points = Points()
        self.engine = Engine(launch)
        self._begin()

    def _begin(self) -> None:
        self.engine.start()
        if self.engine.error is not None:
            raise self.engine.error
        if self.engine.program is None:
            raise EmulatorError(f"{self.name} was launched on a grid of no programs: there is nothing to debug")

    def restart(self) -> None:
        """Launch anew, and stand before the first instruction; arrays are as they are, breakpoints stay."""
        focus = self.engine.focus
        self.engine.close()
        self.engine = Engine(self._launch)
        self.engine.focus = focus
        self._begin()

    # Running.

    def run(self) -> Stop:
        """Go on until something stops the launch; one that is over is launched anew."""
        if self.ended:
            self.restart()
        return self._resume(None)

    def step(self, count: int = 1) -> Stop:
        """Execute instructions of the thread in focus; the lanes that move with it do the same."""
        waits = self.engine.place().state != "running"  # then the instruction in focus is still to begin
        return self._resume(Instructions(count + waits))

    def next(self, count: int = 1) -> Stop:
        """Go to the next Python line of the function, over what it calls and over what was inlined into it."""
        stop = self._resume(NextLine(self.engine, self._here()))
        for _ in range(count - 1):
            if stop.kind != "step":
                break
            stop = self._resume(NextLine(self.engine, self._here()))
        return stop

    def until(self, line: int | None = None) -> Stop:
        """Go to a later Python line of the function: to `line`, or behind the loop that the focus is in."""
        return self._resume(Until(self.engine, self._here(), line))

    def finish(self) -> Stop:
        """Go to the end of the function that the focus is in: one that is called or inlined, else the kernel."""
        return self._resume(Finish(self.engine, self._here()))

    def close(self) -> None:
        """End the launch wherever it is; the arrays stay as they are."""
        self.engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None:
            engine.abandon()

    def _resume(self, goal: Goal | None) -> Stop:
        self.points.install(self.engine)
        self.engine.resume(goal)
        error = self.engine.error
        if error is not None and not isinstance(error, Fault):
            raise error
        assert self.engine.stop is not None
        return self.engine.stop

    # Where it is.

    @property
    def stop(self) -> Stop | None:
        """Why the launch stands still."""
        return self.engine.stop

    @property
    def running(self) -> bool:
        """Whether the launch is not over."""
        return self.engine.running

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to run: the launch is over, or stands where the kernel died."""
        return not self.engine.running or self.engine.fault is not None

    @property
    def result(self) -> Any:
        """What the launch returned: the `Run` of a kernel with dumps, once it is over."""
        return self.engine.result

    @property
    def fault(self) -> Fault | None:
        """What the kernel died of."""
        return self.engine.fault

    def _here(self) -> int:
        """The block of the focus.

        Raises
        ------
        EmulatorError
            The focus is on no thread that runs.
        """
        self.engine.ctas  # noqa: B018  raises where nothing runs
        place = self.engine.place()
        if place.block is None:
            x, y, z = self.cta
            if place.state == "exited":
                raise EmulatorError(f"thread {self.thread} of CTA ({x},{y},{z}) has exited")
            first, last = (self._cta(int(n)) for n in (self.engine.ctas[0], self.engine.ctas[-1]))
            raise EmulatorError(f"CTA ({x},{y},{z}) has {place.state}: CTAs {first} to {last} run now")
        return place.block

    @property
    def ptx_line(self) -> int:
        """The PTX line that the focus executes next; 0 behind the last instruction."""
        instruction = instruction_at(self.engine.registers.program, self._here())
        return instruction.line if instruction is not None else 0

    @property
    def line(self) -> Frame | None:
        """The Python line of that; ``None`` where the PTX states none."""
        return self.engine.lines.own(self.ptx_line)

    def backtrace(self) -> list[Frame]:
        """The lines of the focus, innermost first: what was inlined, and what is called, each with its caller."""
        return [self.described(f) for f in self.engine.lines.backtrace(self._here())]

    def described(self, frame: Frame) -> Frame:
        """A frame with its Python function, where the file can be read."""
        from dataclasses import replace

        return frame if frame.function else replace(frame, function=self.sources.function(frame.file, frame.line))

    # The focus.

    def _cta(self, linear: int) -> tuple[int, int, int]:
        assert self.engine.config is not None
        x, y, _ = self.engine.config.grid
        return linear % x, linear // x % y, linear // (x * y)

    @property
    def cta(self) -> tuple[int, int, int]:
        """Block index of the focus."""
        return self._cta(self.engine.focus[0])

    @property
    def thread(self) -> tuple[int, int, int]:
        """Thread index of the focus."""
        assert self.engine.config is not None
        x, y, _ = self.engine.config.block
        n = self.engine.focus[1]
        return n % x, n // x % y, n // (x * y)

    def focus(
        self,
        cta: int | Sequence[int] | None = None,
        thread: int | Sequence[int] | None = None,
        warp: int | None = None,
    ) -> None:
        """Look at another CTA, thread or warp (its first thread).

        Raises
        ------
        EmulatorError
            It is not in the launch, or its CTA does not run now.
        """
        config = self.engine.config
        if config is None:
            raise EmulatorError("the kernel does not run")
        row, lane = self.engine.focus
        if cta is not None:
            row = _linear(cta, config.grid, "CTA")
        if thread is not None:
            lane = _linear(thread, config.block, "thread")
        if warp is not None:
            threads = config.block[0] * config.block[1] * config.block[2]
            if not 0 <= warp * 32 < threads:
                raise EmulatorError(f"there is no warp {warp}: expected 0 to {(threads - 1) // 32}")
            lane = warp * 32
        if self.engine.running and row not in self.engine.ctas:
            first, last = (self._cta(int(n)) for n in (self.engine.ctas[0], self.engine.ctas[-1]))
            state = "has ended" if row < int(self.engine.ctas[0]) else "has not started"
            raise EmulatorError(
                f"CTA {self._cta(row)} {state}: CTAs {first} to {last} run now"
                + ("" if state == "has ended" else f" (break ... if on %ctaid.x == {self._cta(row)[0]} stops there)")
            )
        self.engine.focus = (row, lane)

    # Breakpoints.

    def break_(self, place: str | int = "", condition: str | None = None, *, temporary: bool = False) -> Breakpoint:
        """Stop at a place from now on.

        Parameters
        ----------
        place : str or int
            A PTX line; ``"file.py:12"``; ``":12"``, a line of the kernel's own file; a label of the PTX. Left out, the
            instruction of the focus.
        condition : str, optional
            Stop only if this holds for a lane: ``"%r5 == 3 and %tid.x < 32"``.
        temporary : bool
            Only once.

        Raises
        ------
        EmulatorError
            There is no such place, or the condition is none.
        """
        known = not str(place).strip()
        name, blocks = where(self.engine, str(place), self._here() if known else None)
        expression = self._expression(condition, blocks[0]) if condition else None
        point = Breakpoint(self.points.number(), name, tuple(blocks), expression, temporary)
        self.points.table[point.number] = point
        return point

    def _expression(self, text: str, block: int) -> Expression:
        expression = Expression(text)
        for name in expression.registers:  # what is wrong with it is said now
            values.width_of(self.engine, name, block)
        if self.engine.running:
            expression.evaluate(values.reader(self.engine, block))
        return expression

    def watch(self, what: str, condition: str | None = None) -> Watchpoint:
        """Stop behind the instruction that changes an element of an argument, or bytes of memory.

        Parameters
        ----------
        what : str
            ``"out[5]"``, ``"c[3, 7]"``, an address, ``"shared 1024 4"`` (bytes of the shared memory of the CTA in
            focus).
        condition : str, optional
            As for `break_`, for one of the lanes that write.

        Raises
        ------
        EmulatorError
            There is no such argument or memory.
        """
        address, nbytes, show, space = self._watched(what)
        expression = self._expression(condition, self._here()) if condition else None
        number = self.points.number()
        point = Watchpoint(number, what.strip(), space, address, nbytes, self.engine.focus[0], show, expression)
        self.points.table[number] = point
        return point

    def _watched(self, what: str) -> tuple[int, int, Callable[[bytes], str], str]:
        text = what.strip()
        words = text.split()
        if words and words[0] == "shared":
            if not 2 <= len(words) <= 3 or not all(_NUMBER.match(w) for w in words[1:]):
                raise EmulatorError(f"watch {text!r}: expected shared ADDRESS and how many bytes, as in shared 1024 4")
            nbytes = int(words[2], 0) if len(words) == 3 else 4
            self._check_shared(int(words[1], 0), nbytes)
            return int(words[1], 0), nbytes, _hex, "shared"
        if words and len(words) <= 2 and all(_NUMBER.match(w) for w in words):
            address, nbytes = int(words[0], 0), int(words[1], 0) if len(words) == 2 else 4
            self._range(address, nbytes)
            return address, nbytes, _hex, "global"
        array, dtype, index = self._element(text)
        element = array[index]
        if np.ndim(element):
            raise EmulatorError(f"{text} is no single element: the array has shape {array.shape}")
        address = array.__array_interface__["data"][0] + sum(i * s for i, s in zip(index, array.strides, strict=True))

        def show(data: bytes) -> str:
            value = np.frombuffer(data, array.dtype)
            return values.format_value(_numbers(value, dtype)[0])

        return address, array.itemsize, show, "global"

    def _element(self, text: str) -> tuple[Array, str, tuple[int, ...]]:
        """An array and an index into it, from ``name[i, j]``."""
        m = _ELEMENT.match(text)
        parts = [p.strip() for p in m[2].split(",")] if m else []
        if m is None or not all(re.match(r"-?\d+\Z", p) for p in parts):
            raise EmulatorError(f"{text!r} is not understood: expected an element such as out[5], or an address")
        argument = self.argument(m[1])
        array = argument.array
        if array is None:
            raise EmulatorError(f"{m[1]} is no array: it is a {argument.type}")
        index = tuple(int(p) for p in parts)
        if len(index) == 1 and array.ndim > 1 and array.flags.c_contiguous:
            array = array.reshape(-1)
        if len(index) != array.ndim or any(not -n <= i < n for i, n in zip(index, array.shape, strict=True)):
            raise EmulatorError(f"{text}: there is no such element, {m[1]} has shape {array.shape}")
        return array, argument.dtype, tuple(i % n for i, n in zip(index, array.shape, strict=True))

    # What is in registers and memory.

    @property
    def registers(self) -> Mapping[str, Array]:
        """The registers of the function that the focus is in, by name: an array of the CTA's threads each.

        Values are of the type that the instructions around the register give it (`Session.register` takes another);
        packed halves have a last axis of two. Threads that are elsewhere have what they last wrote.
        """
        return RegisterView(self)

    def register(self, name: str, type_name: str | None = None) -> Array:
        """One register of all threads of the CTA in focus.

        Parameters
        ----------
        name : str
            ``"%r5"``; special registers as well, ``"%tid.x"``.
        type_name : str, optional
            A PTX type to read the bits as: ``"f32"``, ``"f16x2"``, ``"u32"``.

        Returns
        -------
        ndarray, shape (T,) or (T, 2)

        Raises
        ------
        EmulatorError
            There is no such register, or the kernel does not run.
        """
        found, _ = values.read_register(self.engine, name, type_name, self._here())
        return np.array(found[self._row()][: self._threads()])

    def active(self) -> Array:
        """The threads of the CTA in focus that are at the same instruction as the focus, shape (T,)."""
        return np.asarray(self.engine.active(self._here())[self._row()][: self._threads()])

    def _row(self) -> int:
        self._here()
        row = self.engine.row
        assert row is not None
        return row

    def _threads(self) -> int:
        assert self.engine.config is not None
        x, y, z = self.engine.config.block
        return x * y * z

    def arguments(self) -> list[Argument]:
        """The parameters of the launch, the hidden ones included."""
        if self.engine.program is None or self.engine.arguments is None:
            raise EmulatorError("the kernel was not launched")
        return arguments_of(self.engine.program, self.engine.arguments, self._signature)

    def argument(self, name: str) -> Argument:
        """One of them by name, or ``"arg<n>"`` by position.

        Raises
        ------
        EmulatorError
            There is none of that name.
        """
        every = self.arguments()
        for argument in every:
            if name in (argument.name, f"arg{argument.index}"):
                return argument
        known = ", ".join(a.name if a.name.isidentifier() else f"arg{a.index}" for a in every if a.role == "user")
        raise EmulatorError(f"the kernel has no argument {name!r}: expected one of {known or 'none'}")

    def memory(self, name: str) -> Array:
        """The memory behind an argument, in place, in the tensor's shape; bf16 and fp8 as their bits.

        Raises
        ------
        EmulatorError
            There is no such argument, or it is no array.
        """
        argument = self.argument(name)
        array = argument.array
        if array is None:
            raise EmulatorError(f"{name} is no array: it is a {argument.type}")
        return array

    def shared(self, address: int = 0, count: int | None = None, dtype: Any = np.uint8) -> Array:
        """A copy of shared memory of the CTA in focus.

        Parameters
        ----------
        address : int
            In bytes from the start of the CTA's shared memory.
        count : int, optional
            Elements; left out, all to the end.
        dtype : dtype

        Raises
        ------
        EmulatorError
            That is not in shared memory.
        """
        row = self._row()
        kind = np.dtype(dtype)
        if count is None:
            count = max(self._shared().nbytes - address, 0) // kind.itemsize
        self._check_shared(address, count * kind.itemsize)
        found = self._shared().bytes[row, address : address + count * kind.itemsize].copy()
        return np.asarray(found.view(kind))

    def shared_written(self, address: int, nbytes: int) -> Array:
        """Which of these bytes of shared memory the kernel has written, shape (nbytes,)."""
        row, shared = self._row(), self._shared()
        self._check_shared(address, nbytes)
        units = np.arange(address, address + nbytes, dtype=np.int64)
        found: Array = shared.is_written(np.array([row]), units[None, :], 1)[0]
        return found

    def _shared(self) -> Any:
        if self.engine.scheduler is None:
            raise EmulatorError("the kernel does not run")
        return self.engine.scheduler.chunk.shared

    def _check_shared(self, address: int, nbytes: int) -> None:
        most = self._shared().nbytes
        if address < 0 or nbytes < 0 or address + nbytes > most:
            raise EmulatorError(f"shared memory has {most} bytes: {nbytes} from {address} are not in it")

    def bytes(self, address: int, nbytes: int) -> bytes:
        """Bytes of global memory that the launch may touch.

        Raises
        ------
        EmulatorError
            They are not in an array of the launch.
        """
        self._range(address, nbytes)
        return bytes_at(address, nbytes).tobytes()

    def _range(self, address: int, nbytes: int) -> None:
        if self.engine.scheduler is None:
            raise EmulatorError("the kernel does not run")
        for found in self.engine.scheduler.chunk.memory.ranges:
            if found.base <= address and address + nbytes <= found.base + found.nbytes:
                return
        raise EmulatorError(f"{nbytes} bytes at {address:#x} are in no array of the launch: see info args")

    # As text.

    def execute(self, command: str) -> str:
        """Run one command of the prompt; what it says is the result, and is added to `transcript`."""
        from trlaunch.emulator.debugger.prompt import Prompt

        said = Prompt(self).say(command)
        self.transcript += f"(trlaunch) {command}\n{said}"
        return said

    def __repr__(self) -> str:
        if not self.running:
            return f"Session({self.name}, {'died' if self.fault else 'ended'})"
        place = self.engine.place()
        return f"Session({self.name}, CTA {self.cta}, thread {self.thread}, {place.state})"


class RegisterView(Mapping[str, Array]):
    """Registers by name; each look at one reads it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getitem__(self, name: str) -> Array:
        try:
            return self._session.register(name)
        except EmulatorError as error:
            raise KeyError(str(error)) from error

    def __iter__(self) -> Iterator[str]:
        engine = self._session.engine
        return iter(sorted(engine.registers.names(self._session._here()), key=values.natural))

    def __len__(self) -> int:
        return len(self._session.engine.registers.names(self._session._here()))


def _hex(data: bytes) -> str:
    return "0x" + data[::-1].hex()


def _numbers(array: Array, dtype: str) -> Array:
    """bf16 and fp8 as the numbers that they stand for."""
    from trlaunch.dump.read import as_numbers

    found: Array = as_numbers(array, dtype)
    return found


def _linear(index: int | Sequence[int], sizes: tuple[int, int, int], what: str) -> int:
    """The linear index of ``(x, y, z)``; an int is one already."""
    parts = (index,) if isinstance(index, int) else tuple(index)
    if isinstance(index, int) and index >= 0 and index < sizes[0] * sizes[1] * sizes[2]:
        return index
    if not isinstance(index, int) and 1 <= len(parts) <= 3:
        x, y, z = (*parts, 0, 0)[:3]
        if 0 <= x < sizes[0] and 0 <= y < sizes[1] and 0 <= z < sizes[2]:
            return x + sizes[0] * (y + sizes[1] * z)
    shown = ",".join(map(str, parts))
    raise EmulatorError(f"there is no {what} ({shown}): the launch has {sizes[0]} x {sizes[1]} x {sizes[2]}")
