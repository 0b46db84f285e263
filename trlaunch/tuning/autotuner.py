"""The tuner: called like a kernel, it launches whichever of its candidates is fastest for these arguments."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from trlaunch.devices import default_device, get
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError, CheckError, DriverError, Fault, TrlaunchError, TuningError
from trlaunch.packing import describe, flatten
from trlaunch.placement import place_of
from trlaunch.streams import current_torch_stream, handle
from trlaunch.tensors import is_tensor
from trlaunch.tuning import store
from trlaunch.tuning.arrays import Kept, by_name, difference, read, tensors_in
from trlaunch.tuning.candidate import Candidate, candidates_of
from trlaunch.tuning.isolated import run_isolated
from trlaunch.tuning.progress import progress
from trlaunch.tuning.report import Report, Result
from trlaunch.tuning.timing import measure

__all__ = ["Autotuner", "autotune"]

_QUICK = 4096
"""Keys that are kept in the form that is cheap to ask for."""


def autotune(
    candidates: Any,
    *,
    options: Sequence[Mapping[str, Any]] | None = None,
    key: Sequence[str] | Callable[[dict[str, Any]], Any] = (),
    grid: Any = None,
    restore: Sequence[str] = (),
    reset_to_zero: Sequence[str] = (),
    reference: Any = None,
    rtol: float = 1e-2,
    atol: float = 1e-2,
    warmup: float = 25.0,
    rep: float = 100.0,
    isolated: bool = False,
    timeout: float = 60.0,
    cache: bool = True,
    show: bool | None = None,
) -> Autotuner:
    """Choose among kernels by measuring them.

    Parameters
    ----------
    candidates : kernel, path, artifact, function, `Candidate`, sequence or mapping of these
        Of a folder every kernel in it and below, each at the level closest to the device. A mapping gives labels.
    options : sequence of mapping, optional
        Compile options: each candidate is tried with each of them (levels above PTX, functions).
    key : sequence of str or callable
        The arguments by name whose values decide anew, tensors by dtype and shape; or a function of the arguments by
        name that gives something that JSON can hold. The dtypes of all tensors always count.
    grid : int, sequence of int or callable, optional
        For `Autotuner.__call__`, and where a launch gives none; a callable is given the `Candidate`.
    restore, reset_to_zero : sequence of str
        Arguments that the kernel changes: put back, or set to zero, before each run.
    reference : mapping, callable or str, optional
        What the results must be: arrays by argument name; a function of the arguments by name that gives these; the
        label of a candidate, or ``"first"``, whose results those of the others are compared with.
    rtol, atol : float
        Floats agree within ``atol + rtol * |expected|``; everything else to the bit.
    warmup, rep : float
        Milliseconds to spend on each candidate, as for Triton's ``do_bench``.
    isolated : bool
        Run each candidate first in a process of its own: one that faults or hangs does no harm to this one.
    timeout : float
        Seconds for such a process.
    cache : bool
        Keep choices in trlaunch's cache, by key, device and content.
    show : bool, optional
        A progress bar; left out, where stderr is a terminal.

    Returns
    -------
    Autotuner
        Called like a kernel: ``tuned[grid](...)``, ``tuned.launch(grid, ...)``.

    Raises
    ------
    ArgumentError
        There is no candidate, or a setting is not understood.
    """
    for name, value in (("warmup", warmup), ("rep", rep), ("timeout", timeout), ("rtol", rtol), ("atol", atol)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ArgumentError(f"{name}={value!r:.60}: expected a number that is not negative")
    for name, names in (("key", key), ("restore", restore), ("reset_to_zero", reset_to_zero)):
        if name == "key" and callable(names):
            continue
        if isinstance(names, str) or not isinstance(names, Collection) or any(not isinstance(n, str) for n in names):
            raise ArgumentError(f"{name}={names!r:.60}: expected names of arguments, for example ['M', 'N']")
    found = candidates_of(candidates, options)
    if isolated and (functions := [c.label for c in found if c.is_function]):
        raise ArgumentError(
            f"isolated=True needs candidates that are files or kernels, {functions[0]!r} is a function, which another "
            f"process does not have: compile it first (Kernel.from_function)"
        )
    return Autotuner(
        found, key, grid, tuple(restore), tuple(reset_to_zero), reference, rtol, atol,
        warmup, rep, isolated, timeout, cache, show,
    )  # fmt: skip


class Autotuner:
    """Several kernels as one; made by `autotune`.

    Attributes
    ----------
    candidates : list of Candidate
    reports : dict
        A `Report` for each key and device that was met.
    """

    def __init__(
        self,
        candidates: list[Candidate],
        key: Sequence[str] | Callable[[dict[str, Any]], Any],
        grid: Any,
        restore: tuple[str, ...],
        reset_to_zero: tuple[str, ...],
        reference: Any,
        rtol: float,
        atol: float,
        warmup: float,
        rep: float,
        isolated: bool,
        timeout: float,
        cache: bool,
        show: bool | None,
    ) -> None:
        self.candidates = candidates
        self.reports: dict[Any, Report] = {}
        self._key = key
        self._grid = grid
        self._restore, self._zero = restore, reset_to_zero
        self._reference, self._rtol, self._atol = reference, rtol, atol
        self._warmup, self._rep = warmup, rep
        self._isolated, self._timeout = isolated, timeout
        self._cache, self._show = cache, show
        self._lock = threading.RLock()
        self._chosen: dict[Any, Candidate] = {}
        self._quick: dict[Any, Candidate] = {}  # the same by what costs less to ask for

    # --- launching ---------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, stream: Any = None, device: Any = None, **named: Any) -> Any:
        """Launch on the tuner's own grid."""
        return self.launch(None, *args, stream=stream, device=device, **named)

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        """``tuned[grid](...)``, as Triton writes it."""
        return functools.partial(self.launch, grid)

    def launch(self, grid: Any, *args: Any, stream: Any = None, device: Any = None, **named: Any) -> Any:
        """Launch the best candidate; where its key is met for the first time, find it.

        Parameters
        ----------
        grid : int, sequence of int or callable
            As for `Kernel.launch`, or a function of the `Candidate`; ``None`` for the tuner's.
        *args, stream, device, **named
            As for `Kernel.launch`.

        Raises
        ------
        TuningError
            No candidate runs, or none gives the right results.
        ArgumentError, CheckError, DriverError, Fault
            As `Kernel.launch`.
        """
        candidate = self.choose(grid, *args, stream=stream, device=device, **named)
        return candidate.launch(
            candidate.settled_grid(grid if grid is not None else self._grid), args, named, stream, device
        )

    def choose(self, grid: Any, *args: Any, stream: Any = None, device: Any = None, **named: Any) -> Candidate:
        """The best candidate for a launch, without the launch."""
        quick = None if named or device is not None else self._quick_key(args)
        try:
            found = self._quick.get(quick)
        except TypeError:  # a dtype or a device that has no hash
            quick = found = None
        if found is not None:
            return found
        place = self._place(args, named, device)
        arguments = by_name(self._names(), args, named)
        values = self._values(arguments)
        where = (str(place), *((name, repr(value)) for name, value in values.items()))
        with self._lock:
            found = self._chosen.get(where)
            if found is None:
                report = self._tune(
                    grid if grid is not None else self._grid, arguments, values, args, named, stream, place
                )
                self.reports[where] = report
                found = next((c for c in self.candidates if c.label == report.best), None)
                if found is None:
                    raise TuningError(f"none of {len(self.candidates)} candidates can be used:\n{report}", report)
                self._chosen[where] = found
        if quick is not None:
            if len(self._quick) >= _QUICK:
                self._quick.clear()
            self._quick[quick] = found
        return found

    @property
    def report(self) -> Report | None:
        """The newest report."""
        return next(reversed(self.reports.values()), None)

    # --- the key -----------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """Names of the arguments, by the first candidate that can be opened."""
        if not hasattr(self, "_argument_names"):
            names: list[str] = []
            for candidate in self.candidates:
                try:
                    names = candidate.names
                except TrlaunchError:
                    continue
                break
            self._argument_names = names
        return self._argument_names

    def _quick_key(self, args: Sequence[Any]) -> Any:
        """What decides, of plain arguments by position; ``None`` where it takes a closer look."""
        if callable(self._key):
            return None
        if not hasattr(self, "_positions"):
            names = self._names()
            self._positions = [names.index(name) if name in names else len(names) for name in self._key]
        made: list[Any] = []
        for arg in args:
            if type(arg) is not int and type(arg) is not float:
                dtype, device = getattr(arg, "dtype", None), getattr(arg, "device", None)
                if dtype is None or device is None:
                    return None
                made += (type(arg), dtype, device)
        for position in self._positions:
            if position >= len(args) or type(args[position]) is not int:
                return None
            made.append(args[position])
        return (len(args), *made)

    def _values(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What decides: the key's values, and the dtypes of the tensors."""
        values: dict[str, Any] = {}
        if callable(self._key):
            values["key"] = found = self._key(arguments)
            try:
                json.dumps(found)
            except (TypeError, ValueError) as error:
                raise ArgumentError(f"key= gave {found!r:.60}: expected what JSON can hold ({error})") from None
        else:
            for name in self._key:
                if name not in arguments:
                    raise ArgumentError(
                        f"key {name!r} is no argument of this launch: expected some of {list(arguments)}"
                    )
                values[name] = _value(arguments[name])
        values["dtypes"] = [str(dtype) for a in arguments.values() if (dtype := getattr(a, "dtype", None)) is not None]
        return values

    def _place(self, args: Sequence[Any], named: Mapping[str, Any], device: Any) -> Device:
        if device is not None:
            return Device.parse(device)
        for candidate in self.candidates:
            if candidate.device is not None:
                return candidate.device
        place = place_of((*args, *named.values()))
        return default_device() if place is None else Device.parse(place)

    # --- tuning ------------------------------------------------------------------------------------------------------

    def _tune(
        self,
        grid: Any,
        arguments: dict[str, Any],
        values: dict[str, Any],
        args: Sequence[Any],
        named: Mapping[str, Any],
        stream: Any,
        device: Device,
    ) -> Report:
        driver = get(device.driver)
        properties = driver.properties(device.ordinal)
        usable = [c for c in self.candidates if _opens(c)]
        key = None
        if self._cache and len(usable) == len(self.candidates) and _kept(self._reference):
            how = f"{self._reference!r} {self._rtol} {self._atol}" if self._reference is not None else ""
            how += f" isolated {self._timeout}" if self._isolated else ""  # other verdicts of what faults or hangs
            key = store.key_of(values, properties, self.candidates, how)
            known = store.load(key, values, properties.name, self.candidates)
            if known is not None:
                return known
        on = _stream(args, named, stream, device)
        kept = Kept(arguments, self._restore, self._zero, device, on)
        trial = _Trial(self, grid, arguments, args, named, on, device, kept)
        results: dict[str, Result] = {}
        try:
            with progress(len(self.candidates), "tuning", self._show) as tell:
                for candidate in sorted(self.candidates, key=lambda c: c.label != self._reference):
                    tell(candidate.label)
                    result = results[candidate.label] = trial.result(candidate)
                    if candidate.label == self._reference and result.status != "ok":
                        raise TuningError(
                            f"the reference {candidate.label} cannot be used: {result.status}, {result.message}", None
                        )
            kept.put_back()
        finally:
            kept.close()
        report = Report.of(values, properties.name, [results[c.label] for c in self.candidates])
        if key is not None and report.best is not None:
            store.save(key, report, self.candidates)
        return report


class _Trial:
    """What the candidates are tried with, for one key."""

    def __init__(
        self,
        tuner: Autotuner,
        grid: Any,
        arguments: dict[str, Any],
        args: Sequence[Any],
        named: Mapping[str, Any],
        stream: int,
        device: Device,
        kept: Kept,
    ) -> None:
        self.tuner, self.grid, self.arguments, self.args, self.named = tuner, grid, arguments, args, named
        self.stream, self.device, self.kept = stream, device, kept
        self.driver = get(device.driver)
        self.expected: Mapping[str, Any] | None = None
        reference = tuner._reference
        if callable(reference):
            reference = reference(arguments)
            if not isinstance(reference, Mapping):
                raise ArgumentError(
                    f"the function of reference= gave {describe(reference)}: expected arrays by argument name; return "
                    f"what the kernel should write, for example {{'out_ptr': x + y}}"
                )
        if isinstance(reference, Mapping):
            if not reference:
                raise ArgumentError(
                    "reference= has no array, so that nothing would be compared: expected arrays by argument name; "
                    "name what the kernel writes, or leave reference= out"
                )
            self.expected = {name: _host(name, value) for name, value in reference.items()}
        elif isinstance(reference, str):
            labels = [c.label for c in tuner.candidates]
            if reference != "first" and reference not in labels:
                raise ArgumentError(f"reference={reference!r}: expected 'first' or one of {', '.join(labels)}")
        elif reference is not None:
            raise ArgumentError(
                f"reference={reference!r:.60}: expected arrays by argument name, a function that gives them, or a label"
            )
        if self.expected is not None and (unknown := sorted(self.expected.keys() - tensors_in(arguments).keys())):
            raise ArgumentError(f"reference has {unknown[0]!r}, which is no tensor among {', '.join(arguments)}")

    def result(self, candidate: Candidate) -> Result:
        """Try one."""
        try:
            digest = candidate.digest
            grid = candidate.settled_grid(self.grid)
        except TrlaunchError as error:
            return Result(candidate.label, "", "refused", message=_first(error))
        try:
            return self._run(candidate, digest, grid)
        except (CheckError, ArgumentError) as error:
            return Result(candidate.label, digest, "refused", message=_first(error))
        except Fault as error:
            return Result(candidate.label, digest, "hang" if error.kind == "hang" else "fault", message=_first(error))
        except DriverError as error:
            self._still_alive(candidate, error)
            return Result(candidate.label, digest, "error", message=_first(error))
        except TrlaunchError as error:
            return Result(candidate.label, digest, "refused", message=_first(error))

    def _run(self, candidate: Candidate, digest: str, grid: Any) -> Result:
        tuner = self.tuner
        self.kept.put_back()
        outputs: Mapping[str, Any] | None = None
        if tuner._isolated:
            self.driver.synchronize(self.device.ordinal, self.stream)
            status, message, outputs = run_isolated(candidate, grid, self.args, self.named, self.device, tuner._timeout)
            if status != "ok":
                return Result(candidate.label, digest, status, message=message)
        self._launch(candidate, grid)
        self.driver.synchronize(self.device.ordinal, self.stream)
        error, message = self._compare(candidate, outputs)
        if message:
            return Result(candidate.label, digest, "wrong", error=error, message=message)
        times = measure(
            self.driver,
            self.device,
            self.stream,
            lambda: self._launch(candidate, grid),
            self.kept.put_back,
            warmup=tuner._warmup,
            rep=tuner._rep,
        )
        return Result(candidate.label, digest, "ok", times, error)

    def _launch(self, candidate: Candidate, grid: Any) -> None:
        stream = self.stream or None if self.device.driver == "emulator" else self.stream
        candidate.launch(grid, self.args, self.named, stream, self.device)

    def _compare(self, candidate: Candidate, outputs: Mapping[str, Any] | None) -> tuple[float | None, str]:
        """The largest difference to the reference, and what is wrong."""
        reference = self.tuner._reference
        if reference is None:
            return None, ""
        tensors = tensors_in(self.arguments)
        names = tensors if self.expected is None else self.expected
        found: dict[str, tuple[Any, str | None]] = {}
        for name in names:
            values, dtype = read(tensors[name])
            if outputs is not None:
                own = self._name_in(candidate, name)
                if own not in outputs:
                    raise ArgumentError(
                        f"the process of {candidate.label} gave no {own!r}: it has {', '.join(outputs)}"
                    )
                values = np.asarray(outputs[own]).reshape(values.shape)
            found[name] = values, dtype
        if self.expected is None:  # of the first that ran; the one that was named is tried before the others
            self.expected = {name: values for name, (values, _) in found.items()}
            return 0.0, ""
        worst, message = 0.0, ""
        for name, (values, dtype) in found.items():
            same, apart = difference(values, self.expected[name], dtype, self.tuner._rtol, self.tuner._atol)
            worst = apart if not apart <= worst else worst
            if not same and not message:
                wanted = self.expected[name].shape
                message = f"{name} differs by up to {apart:.3g}"
                if values.shape != wanted:
                    message = f"{name} has the shape {values.shape}, the reference {wanted}"
        return worst, message

    def _name_in(self, candidate: Candidate, name: str) -> str:
        """What a candidate calls an argument: those by position may have other names in it, or none."""
        position = list(self.arguments).index(name)
        names = candidate.names
        return names[position] if position < min(len(self.args), len(names)) else name

    def _still_alive(self, candidate: Candidate, error: DriverError) -> None:
        """Raise when the device answers nothing any more, which a fault of a kernel leads to."""
        try:
            self.driver.synchronize(self.device.ordinal, self.stream)
        except DriverError as dead:
            raise TuningError(
                f"{candidate.label} left {self.device} unusable for this process ({_first(error)}): tune with "
                f"isolated=True, which runs each candidate in a process of its own first, and leave it out",
                None,
            ) from dead


def _opens(candidate: Candidate) -> bool:
    try:
        return bool(candidate.digest)
    except TrlaunchError:
        return False


def _kept(reference: Any) -> bool:
    """Whether a choice with this reference may be kept: data and functions are not part of the key."""
    return reference is None or isinstance(reference, str)


def _value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return [str(value.dtype), [int(n) for n in value.shape]]
    raise ArgumentError(f"a key of {type(value).__name__}: expected a number, text or a tensor; or key= a function")


def _stream(args: Sequence[Any], named: Mapping[str, Any], stream: Any, device: Device) -> int:
    if device.driver == "emulator":
        return 0
    if stream is not None:
        return handle(stream)
    return current_torch_stream(flatten((*args, *named.values())), device.ordinal) or 0


def _host(name: Any, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value
    if not is_tensor(value):
        raise ArgumentError(
            f"reference[{name!r}] is {describe(value)}: expected an array or a tensor; numpy.asarray makes one"
        )
    return read(value)[0]


def _first(error: Exception) -> str:
    """The first line of a message, without a clause at its end that only leads to the lines below."""
    first, newline, _ = str(error).partition("\n")
    if not newline or first.endswith((".", "!")):
        return first
    end = max(first.rfind(". "), first.rfind("; "))
    return first[:end] if end > 0 else first.rstrip(":")
