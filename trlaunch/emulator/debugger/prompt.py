"""The debugger's prompt: commands as in pdb and gdb."""

from __future__ import annotations

import cmd
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from trlaunch.emulator.debugger import render, values
from trlaunch.emulator.debugger.expressions import REGISTER, Expression
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.registers import NUMPY_TYPES
from trlaunch.errors import EmulatorError, TrlaunchError
from trlaunch.scalars import SCALARS
from trlaunch.tensors import numpy_dtype

if TYPE_CHECKING:
    from trlaunch.emulator.debugger.session import Session

__all__ = ["PROMPT", "Prompt", "interact", "split_commands"]

PROMPT = "(trlaunch) "
_HISTORY = 1000
_CONDITION = re.compile(r"\s*(.*?)\s*(?:\bif\b\s*(.+))?\Z", re.DOTALL)
_FORMAT = re.compile(r"/(\d*)([A-Za-z]?)\s*")
_NAME = re.compile(r"[^\W\d][\w.$]*|<.*>")  # what an argument may be called
_CAST = re.compile(r"([a-z]\w*)\((%[\w$.]+)\)\Z")


def split_commands(texts: Iterable[str]) -> list[str]:
    """Commands separated by semicolons or line ends; a line that begins with ``#`` is a comment."""
    lines = (line.strip() for text in texts for line in text.splitlines())
    parts = (part.strip() for line in lines if not line.startswith("#") for part in line.split(";"))
    return [part for part in parts if part]


class Prompt(cmd.Cmd):
    """Reads commands and says what came of them.

    Commands may be shortened as long as one begins that way; an empty line repeats the last.
    """

    prompt = PROMPT
    doc_header = "commands (help COMMAND says more):"

    def __init__(self, session: Session, stdout: IO[str] | None = None) -> None:
        super().__init__(stdout=stdout)
        self.session = session
        self.quitting = False
        self.refused = 0  # commands that were answered with an error
        self._listed: int | None = None

    # The machinery of cmd.

    def say(self, command: str) -> str:
        """What one command says."""
        kept, self.stdout = self.stdout, io.StringIO()
        try:
            self.onecmd(command)
            return self.stdout.getvalue()
        finally:
            self.stdout = kept

    def onecmd(self, line: str) -> bool:
        """Run one command; an error is said, and the session goes on."""
        try:
            return bool(super().onecmd(line))
        except TrlaunchError as error:
            self.refused += 1
            self._lines([f"error: {error}"])
        return False

    def parseline(self, line: str) -> tuple[str | None, str | None, str]:
        """Split off the command, shortened or not; ``p/x`` is ``p`` with the argument ``/x``."""
        line = re.sub(r"^\s*(\w+)/", r"\1 /", line)
        command, rest, whole = super().parseline(line)
        if command and not hasattr(self, f"do_{command}"):
            command = self._whole(command)
        return command, rest, whole

    def _whole(self, command: str) -> str:
        if command in _SHORT:
            return _SHORT[command]
        names = [n[3:] for n in dir(self) if n.startswith("do_") and n[3:].startswith(command)]
        return names[0] if len(names) == 1 else command

    def default(self, line: str) -> None:
        """Nothing begins that way, or several commands do."""
        word = line.split(maxsplit=1)[0]
        names = sorted(n[3:] for n in dir(self) if n.startswith("do_") and n[3:].startswith(word))
        if line == "EOF":
            self.quitting = True
            return
        self.refused += 1
        self._lines(
            [f"error: {word!r} may be {', '.join(names)}" if names else f"error: no command {word!r}: see help"]
        )

    def do_help(self, arg: str) -> None:
        """``help [COMMAND]``: what there is, or what one command does."""
        command = self._whole(arg.strip()) if arg.strip() else ""
        if not command:
            super().do_help("")
            return
        found = getattr(self, f"do_{command}", None)
        if found is None:
            raise EmulatorError(f"there is no command {command[:40]!r}: see help")
        self._lines(line.strip() for line in str(found.__doc__).replace("``", "").strip().splitlines())

    def emptyline(self) -> bool:
        """An empty line repeats the last command."""
        return bool(self.lastcmd) and self.onecmd(self.lastcmd)

    def postcmd(self, stop: bool, line: str) -> bool:
        """Whether the prompt ends."""
        del line
        return stop or self.quitting

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.stdout.write(f"{line}\n")

    def _number(self, text: str, default: int = 1) -> int:
        text = text.strip()
        if not text:
            return default
        if not text.isdecimal() or len(text) > 9 or not int(text):
            raise EmulatorError(f"{text[:40]!r}: expected a positive number")
        return int(text)

    def _moved(self) -> None:
        self._listed = None
        self._lines(render.stopped(self.session))

    # Running.

    def do_run(self, arg: str) -> None:
        """``run``: go on until something stops the kernel; one that has ended is launched anew."""
        del arg
        if self.session.ended:
            self._lines(["launching anew: arrays are as the last launch left them"])
        self.session.run()
        self._moved()

    def do_continue(self, arg: str) -> None:
        """``continue``: go on until something stops the kernel."""
        del arg
        self.session._resume(None)
        self._moved()

    def do_step(self, arg: str) -> None:
        """``step [N]``: execute N instructions of the thread in focus, and of the lanes that move with it."""
        self.session.step(self._number(arg))
        self._moved()

    def do_next(self, arg: str) -> None:
        """``next [N]``: go to the next Python line of the function, over what it calls or has inlined."""
        self.session.next(self._number(arg))
        self._moved()

    def do_until(self, arg: str) -> None:
        """``until [LINE]``: go to a later Python line (out of a loop), or to LINE of this file or one behind it."""
        self.session.until(self._number(arg) if arg.strip() else None)
        self._moved()

    def do_finish(self, arg: str) -> None:
        """``finish``: go to the end of the innermost function, called or inlined; else to the end of the thread."""
        del arg
        self.session.finish()
        self._moved()

    def do_quit(self, arg: str) -> bool:
        """``quit``: end the launch where it is, and the debugger."""
        del arg
        self.session.close()
        self.quitting = True
        return True

    # Breakpoints.

    def do_break(self, arg: str) -> None:
        """``break [PLACE] [if CONDITION]``: stop at a PTX line, file.py:12, :12 (a line of the kernel), a label."""
        self._break(arg, False)

    def do_tbreak(self, arg: str) -> None:
        """``tbreak [PLACE] [if CONDITION]``: stop there once."""
        self._break(arg, True)

    def _break(self, arg: str, temporary: bool) -> None:
        m = _CONDITION.match(arg)
        assert m is not None
        point = self.session.break_(m[1], m[2], temporary=temporary)
        condition = f" if {point.condition.text}" if point.condition is not None else ""
        self._lines([f"{'temporary ' if temporary else ''}breakpoint {point.number} at {point.place}{condition}"])

    def do_watch(self, arg: str) -> None:
        """``watch WHAT [if CONDITION]``: stop behind a change of out[5], of ADDRESS [BYTES], shared ADDRESS [BYTES]."""
        m = _CONDITION.match(arg)
        assert m is not None
        point = self.session.watch(m[1], m[2])
        now = point.read(self.session.engine)
        self._lines([f"watchpoint {point.number}: {point.what}, now {point.show(now) if now is not None else '?'}"])

    def do_delete(self, arg: str) -> None:
        """``delete [N ...]``: remove breakpoints and watchpoints; all without a number."""
        for number in self._points(arg):
            del self.session.points.table[number]

    def do_enable(self, arg: str) -> None:
        """``enable [N ...]``: have breakpoints and watchpoints stop the kernel again."""
        for number in self._points(arg):
            self.session.points.get(number).enabled = True

    def do_disable(self, arg: str) -> None:
        """``disable [N ...]``: keep breakpoints and watchpoints, but pass over them."""
        for number in self._points(arg):
            self.session.points.get(number).enabled = False

    def _points(self, arg: str) -> list[int]:
        numbers = [self._number(word) for word in arg.split()] or list(self.session.points.table)
        for number in numbers:
            self.session.points.get(number)
        return numbers

    # Focus.

    def do_cta(self, arg: str) -> None:
        """``cta X[,Y[,Z]]``: look at another CTA of those that run."""
        self._focus("cta", arg)

    def do_thread(self, arg: str) -> None:
        """``thread X[,Y[,Z]]``: look at another thread of the CTA."""
        self._focus("thread", arg)

    def do_warp(self, arg: str) -> None:
        """``warp W``: look at the first thread of a warp."""
        self._focus("warp", arg)

    def _focus(self, what: str, arg: str) -> None:
        parts = [p for p in re.split(r"[,\s]+", arg.strip(" ()")) if p]
        if parts:
            if not all(p.isdecimal() and len(p) < 11 for p in parts) or (what == "warp" and len(parts) > 1):
                raise EmulatorError(f"{what} {arg.strip()[:40]}: expected {'a number' if what == 'warp' else 'x,y,z'}")
            index = [int(p) for p in parts]
            if what == "cta":
                self.session.focus(cta=index)
            elif what == "thread":
                self.session.focus(thread=index)
            else:
                self.session.focus(warp=index[0])
        self._listed = None
        self._lines(render.location(self.session))

    # Looking.

    def do_print(self, arg: str) -> None:
        """``print[/FORMAT] VALUE``: a register, %r5 or f32(%r5), an expression, %r5 * 4, an argument, out or out[3].

        Formats: x hexadecimal, d signed, u unsigned, f floating point, h fp16, b bf16, t binary.
        """
        m = _FORMAT.match(arg)
        letter = (m[2] or None) if m else None
        text = arg[m.end() :].strip() if m else arg.strip()
        if not text:
            raise EmulatorError("print what? A register, an expression over registers, an argument or out[3]")
        if REGISTER.fullmatch(text):
            return self._lines(render.register(self.session, text, letter))
        cast = _CAST.match(text)
        if cast is not None and cast[1] in NUMPY_TYPES and letter is None:
            found = self.session.register(cast[2], cast[1])
            return self._lanes(f"{text}", found, None)
        if "%" in text or not ("[" in text or _NAME.fullmatch(text)):
            block = self.session._here()
            computed = Expression(text).evaluate(values.reader(self.session.engine, block))
            row = self.session._row()
            wide = np.broadcast_to(computed, self.session.engine.lanes)[row][: self.session._threads()]
            return self._lanes(text, wide, letter)
        if "[" in text:
            array, dtype, index = self.session._element(text)
            self._lines([f"{text} = {render.element(array[index], dtype, letter)}"])
            return None
        self._argument(text)
        return None

    def _lanes(self, label: str, every: Array, letter: str | None) -> None:
        warp = self.session.engine.focus[1] // 32
        part, here = every[warp * 32 : warp * 32 + 32], self.session.active()[warp * 32 : warp * 32 + 32]
        self._lines([f"{label}, CTA ({','.join(map(str, self.session.cta))}) warp {warp}"])
        self._lines(values.lane_table(values.formatted(part, letter), list(here)))

    def _argument(self, name: str) -> None:
        argument = self.session.argument(name)
        array = argument.array
        if array is None:
            self._lines([f"{name} = {argument.value!r} ({argument.type})"])
            return
        self._lines([f"{name}: {argument.dtype}, shape {array.shape}, at {render.address(argument)}"])
        self._lines(str(render.numbers(array, argument.dtype)).splitlines())

    def do_info(self, arg: str) -> None:
        """``info WHAT``: breakpoints, registers, args, warps, barriers, line (where the focus is), shared."""
        topics: dict[str, Callable[[Session], list[str]]] = {
            "breakpoints": render.breakpoints, "registers": render.registers, "args": render.arguments,
            "warps": render.warps, "barriers": render.barriers, "line": render.location, "shared": render.shared,
        }  # fmt: skip
        word = arg.strip()
        names = [n for n in topics if n.startswith(word)] if word else []
        if not names:
            raise EmulatorError(f"info {word}: expected one of {', '.join(topics)}")
        self._lines(topics[names[0]](self.session))

    def do_backtrace(self, arg: str) -> None:
        """``backtrace``: the Python lines that the instruction stands for, innermost first, and the calls around it."""
        del arg
        self._lines(render.backtrace(self.session))

    def do_list(self, arg: str) -> None:
        """``list [LINE | python [LINE]]``: PTX around the focus or a line; Python source (else its TTIR)."""
        words = arg.split()
        if words and words[0] in ("python", "py", "source"):
            frame = self.session.line
            if frame is None:
                raise EmulatorError("the PTX states no Python line for this instruction")
            if len(words) > 1:
                from dataclasses import replace

                frame = replace(frame, line=self._number(words[1]))
            return self._lines(render.source_listing(self.session, frame))
        if words:
            around = self._number(words[0])
        elif self._listed is not None:
            around = self._listed + 11
        else:
            around = self.session.ptx_line or len(self.session.engine.lines.ptx)
        self._listed = around
        self._lines(render.ptx_listing(self.session, around))
        return None

    def do_shared(self, arg: str) -> None:
        """``shared ADDRESS [COUNT [TYPE]]``: shared memory of the CTA, as u32 or fp16, bf16, fp32, i32, u8 ..."""
        words = arg.split()
        dtype = words[2] if len(words) > 2 else "u32"
        if not 1 <= len(words) <= 3 or dtype not in SCALARS:
            raise EmulatorError(f"shared {arg.strip()[:40]}: expected ADDRESS COUNT TYPE, as in shared 1024 32 fp16")
        address, count = self._integer(words[0]), self._count(words[1]) if len(words) > 1 else 8
        kind = np.dtype(numpy_dtype(dtype))
        found = self.session.shared(address, count, kind)
        written = self.session.shared_written(address, count * kind.itemsize).reshape(count, -1).all(axis=1)
        self._lines(render.memory(found, dtype, None, address, "address"))
        if not written.all():
            self._lines([f"  {int((~written).sum())} of these {count} elements were never written"])

    def do_memory(self, arg: str) -> None:
        """``memory ARG [START [COUNT]]``, ``memory ADDRESS [COUNT [TYPE]]``: elements of an array, or at an address."""
        words = arg.split()
        if not words:
            raise EmulatorError("memory of what? An argument, as in memory out 0 16, or an address")
        if words[0][0].isdigit():
            dtype = words[2] if len(words) > 2 else "u32"
            if dtype not in SCALARS or len(words) > 3:
                raise EmulatorError(f"memory {arg.strip()[:40]}: expected ADDRESS COUNT TYPE")
            kind = np.dtype(numpy_dtype(dtype))
            address, count = self._integer(words[0]), self._count(words[1]) if len(words) > 1 else 8
            found = np.frombuffer(self.session.bytes(address, count * kind.itemsize), kind)
            return self._lines(render.memory(found, dtype, None, address, "address"))
        array = self.session.memory(words[0])
        flat = array.reshape(-1)
        start = self._integer(words[1]) if len(words) > 1 else 0
        count = self._count(words[2]) if len(words) > 2 else 32
        if not 0 <= start < max(len(flat), 1):
            raise EmulatorError(f"{words[0]} has {len(flat)} elements: there is none {start}")
        dtype = self.session.argument(words[0]).dtype
        self._lines(render.memory(flat[start : start + count], dtype, None, start, "index"))
        return None

    def do_x(self, arg: str) -> None:
        """``x[/COUNT FORMAT] ARG or ADDRESS``: words of memory: x/8x a, x/4f 0x7f0012340000, x/8h shared:1024."""
        m = _FORMAT.match(arg)
        count = int(m[1] or 8) if m else 8
        letter = (m[2] or "x") if m else "x"
        place = (arg[m.end() :] if m else arg).strip()
        dtype = {"x": "u32", "t": "u32", "u": "u32", "d": "i32", "f": "fp32", "h": "fp16", "b": "bf16"}.get(letter)
        if dtype is None or not place:
            raise EmulatorError(
                "expected x/COUNT FORMAT PLACE, as in x/8x out or x/8h shared:1024; formats x t u d f h b"
            )
        kind = np.dtype(numpy_dtype(dtype))
        if place.startswith("shared:"):
            start = self._integer(place[7:])
            found = self.session.shared(start, count, kind)
        else:
            if place[0].isdigit():
                start = self._integer(place)
            else:
                value = self.session.argument(place).value
                start = value if isinstance(value, int) else 0
            found = np.frombuffer(self.session.bytes(start, count * kind.itemsize), kind)
        self._lines(render.memory(found, dtype, letter if letter in "xt" else None, start, "address"))

    def _integer(self, text: str) -> int:
        try:
            return int(text, 0) if len(text) < 24 else -1
        except ValueError:
            raise EmulatorError(f"{text[:40]!r}: expected a number or an address") from None

    def _count(self, text: str) -> int:
        count = self._integer(text)
        if count < 1:
            raise EmulatorError(f"{text[:40]!r}: expected a positive number")
        return count

    def do_EOF(self, arg: str) -> bool:  # noqa: N802  cmd's name for the end of the input
        """End of the input: quit."""
        self.stdout.write("\n")
        return self.do_quit(arg)


#: Short forms that begin several commands, as pdb and gdb read them.
_SHORT = {
    "b": "break", "bt": "backtrace", "where": "backtrace", "c": "continue", "cont": "continue", "d": "delete",
    "f": "finish", "h": "help", "i": "info", "l": "list", "m": "memory", "n": "next", "p": "print", "q": "quit",
    "r": "run", "s": "step", "si": "step", "stepi": "step", "t": "thread", "u": "until", "w": "warp", "exit": "quit",
}  # fmt: skip


def interact(session: Session) -> None:
    """Read commands from the terminal until ``quit``; their history is kept between sessions."""
    prompt = Prompt(session)
    history = _history()
    sys.stdout.write("\n".join(render.location(session) if session.running else ["the kernel has ended"]) + "\n")
    try:
        while True:
            try:
                prompt.cmdloop()
                return
            except KeyboardInterrupt:
                sys.stdout.write("\n")
    finally:
        session.close()
        if history is not None:
            _save(history)


def _history() -> Path | None:
    """The file of the history, read; ``None`` where there is no readline or nowhere to keep it."""
    try:
        import readline
    except ImportError:
        return None
    import platformdirs

    path = platformdirs.user_state_path("trlaunch") / "debugger_history"
    with contextlib.suppress(OSError):  # none yet
        readline.read_history_file(path)
    return path


def _save(path: Path) -> None:
    import readline

    readline.set_history_length(_HISTORY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(path)
    except OSError:
        sys.stderr.write(f"note: the history could not be written to {os.fspath(path)}\n")
