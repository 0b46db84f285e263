"""Hooks: functions that see every launch of every kernel, before and after it.

While there is none a launch costs what it costs without this module. With one it goes on taking the fast path, between
the calls of the hooks.

    def show(launch):
        print(launch.name, launch.grid)

    with trlaunch.hooks.before(show):
        kernel.launch(grid, x, y, out)
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trlaunch import hook_switch
from trlaunch.driver import Device
from trlaunch.errors import ArgumentError, TrlaunchError

if TYPE_CHECKING:
    from trlaunch.kernel import Kernel
    from trlaunch.metadata import Metadata

__all__ = ["Hook", "Hooks", "Launch", "after", "before", "nvtx", "proton"]

_lock = threading.RLock()
_ADDED = object()


class Launch:
    """One call of `Kernel.launch`, or of what `Kernel.bind` gave. What costs time is worked out when it is asked for.

    Attributes
    ----------
    kernel : Kernel
    grid : int or sequence of int
        As it was given.
    args : tuple
        By position, as they were given.
    named : mapping
        By name, as they were given.
    error : BaseException or None
        What the launch raised; hooks behind it see it.
    notes : dict
        For a hook to leave something to its counterpart behind the launch, by a key of its own.
    """

    __slots__ = ("_device", "_stream", "args", "error", "grid", "kernel", "named", "notes")

    def __init__(
        self, kernel: Kernel, grid: Any, args: tuple[Any, ...], named: Mapping[str, Any], stream: Any, device: Any
    ) -> None:
        self.kernel = kernel
        self.grid = grid
        self.args = args
        self.named = named
        self._stream = stream
        self._device = device
        self.error: BaseException | None = None
        self.notes: dict[Any, Any] = {}

    @property
    def name(self) -> str:
        """Symbol of the kernel."""
        return self.kernel.name

    @property
    def metadata(self) -> Metadata | None:
        """What Triton's compiler says about it."""
        return self.kernel.metadata

    @property
    def device(self) -> Device:
        """Where it goes."""
        return self.kernel._choose(self._device, (*self.args, *self.named.values()))

    @property
    def stream(self) -> int:
        """Handle of the stream that it is queued on."""
        return self.kernel._stream(self._stream, (*self.args, *self.named.values()), self.device)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by name, ``"arg0"`` where names are not known; a tuple or a descriptor is one argument.

        Unchecked before the launch: what a wrong one lacks is lacking here.
        """
        bases = dict.fromkeys((p.name or f"arg{i}").partition(".")[0] for i, p in enumerate(self.kernel.signature.user))
        names = list(bases) + [f"arg{i}" for i in range(len(bases), len(self.args))]
        return {**dict(zip(names, self.args, strict=False)), **self.named}

    def __repr__(self) -> str:
        return f"trlaunch.hooks.Launch({self.name!r}, grid={self.grid!r})"


Hook = Callable[[Launch], object]
"""What is added to `before` and `after`. What it raises reaches whoever launched."""


class Hooks:
    """Hooks on one side of launches. Called with a hook, it is a context manager that has it added meanwhile."""

    def __init__(self, side: str) -> None:
        self._side = side
        self._hooks: tuple[Hook, ...] = ()
        self._holders: list[tuple[Hook, object]] = []  # why each is there: `add`, or one `with` of its own

    def add(self, hook: Hook) -> None:
        """Call `hook` with the `Launch`, behind those that are there (`after`: before them). Twice is once.

        Raises
        ------
        ArgumentError
            It cannot be called.
        """
        with _lock:
            if (hook, _ADDED) not in self._holders:
                self._hold(hook, _ADDED)

    def remove(self, hook: Hook) -> None:
        """Call it no more, not within a ``with`` statement of it either.

        Raises
        ------
        ArgumentError
            It was not added.
        """
        with _lock:
            if hook not in self._hooks:
                raise ArgumentError(f"{hook!r:.60} is not among the hooks {self._side} launches")
            self._holders = [held for held in self._holders if held[0] != hook]
            self._change(tuple(other for other in self._hooks if other != hook))

    def _hold(self, hook: Hook, holder: object) -> None:
        if not callable(hook):
            raise ArgumentError(f"a hook is a function of a launch, found {hook!r:.60}")
        with _lock:
            self._holders.append((hook, holder))
            if hook not in self._hooks:
                self._change((*self._hooks, hook))

    def _let_go(self, hook: Hook, holder: object) -> None:
        with _lock:
            self._holders = [held for held in self._holders if held[1] is not holder]
            if hook in self._hooks and all(held[0] != hook for held in self._holders):
                self._change(tuple(other for other in self._hooks if other != hook))

    def _change(self, hooks: tuple[Hook, ...]) -> None:
        self._hooks = hooks
        _switch()

    @contextlib.contextmanager
    def __call__(self, hook: Hook) -> Iterator[None]:
        """Have `hook` added within a ``with`` statement, and where several have it, until the last of them ends."""
        holder = object()
        self._hold(hook, holder)
        try:
            yield
        finally:
            self._let_go(hook, holder)

    def __iter__(self) -> Iterator[Hook]:
        return iter(self._hooks)

    def __len__(self) -> int:
        return len(self._hooks)

    def __repr__(self) -> str:
        return f"trlaunch.hooks.{self._side} ({len(self)} hooks)"


before = Hooks("before")
"""Hooks that are called before each launch, in the order in which they were added."""

after = Hooks("after")
"""Hooks that are called after each launch, the last added first, whether it went well or raised (or a hook did)."""

_on = False


def _switch() -> None:
    global _on
    wanted = bool(before._hooks or after._hooks)
    if wanted == _on:
        return
    if wanted:
        hook_switch.switch_on(_around)
    else:
        hook_switch.switch_off()
    _on = wanted


def _around(
    kernel: Kernel,
    launch: Callable[..., Any],
    grid: Any,
    args: tuple[Any, ...],
    stream: Any,
    device: Any,
    named: Mapping[str, Any],
) -> Any:
    """A launch between the hooks."""
    event = Launch(kernel, grid, args, named, stream, device)
    try:
        for hook in before._hooks:
            hook(event)
        result = launch(grid, args, stream, device, named)
    except BaseException as error:
        event.error = error
        _call_after(event, error)
        raise
    _call_after(event, None)
    return result


def _call_after(event: Launch, first: BaseException | None) -> None:
    """Call every hook behind a launch, whatever the others raise, then raise what was raised first.

    What is raised later is a note of the first; but what is no `Exception` (Ctrl-C) goes before what is one.
    """
    raised = first
    for hook in reversed(after._hooks):
        try:
            hook(event)
        except BaseException as error:  # noqa: BLE001 - raised below
            if raised is None or (isinstance(raised, Exception) and not isinstance(error, Exception)):
                raised = error
            elif error is not raised:
                said = f"{hook!r:.80} after the launch raised, too: {error!r:.400}"
                raised.__notes__ = [*getattr(raised, "__notes__", []), said]  # add_note is of Python 3.11
    if raised is not None and raised is not first:
        raise raised


@contextlib.contextmanager
def _pair(enter: Hook, leave: Hook) -> Iterator[None]:
    with before(enter), after(leave):
        yield


def nvtx(domain: str = "trlaunch") -> contextlib.AbstractContextManager[None]:
    """Show each launch as an NVTX range of the kernel's name, for Nsight Systems and other tools that read NVTX.

    Parameters
    ----------
    domain : str
        NVTX domain of the ranges.

    Returns
    -------
    context manager
        The ranges are made within it. Where no tool is attached they are not made at all.

    Raises
    ------
    TrlaunchError
        The package ``nvtx`` is not installed.
    """
    try:
        import nvtx as library
    except ImportError as error:
        raise TrlaunchError(f"hooks.nvtx() needs the package nvtx ({error}): pip install 'trlaunch[nvtx]'") from None
    found = library.get_domain(domain)
    attributes: dict[str, Any] = {}

    def enter(launch: Launch) -> None:
        name = launch.kernel.name
        if name not in attributes:
            attributes[name] = found.get_event_attributes(message=name)
        found.push_range(attributes[name])
        launch.notes[found] = True

    def leave(launch: Launch) -> None:
        if launch.notes.pop(found, False):
            found.pop_range()

    return _pair(enter, leave)


def proton(
    metrics: Callable[[Launch], Mapping[str, Any]] | None = None,
) -> contextlib.AbstractContextManager[None]:
    """Show each launch to Proton, Triton's profiler, and to whatever else has hooks on Triton's launches.

    Triton's own launch hooks are called as for a launch by Triton: with the kernel's name, the stream, and `metrics`.
    Kernels of `trlaunch.patch_triton` are left out: Triton calls its hooks for them.

    Parameters
    ----------
    metrics : callable, optional
        Gives what Proton adds up for a launch: ``flops``, ``flops16``, ``bytes`` ..., and ``name`` to call it by
        another name. It is called when the profiler wants it.

    Returns
    -------
    context manager
        The launches within it are shown.

    Raises
    ------
    LoweringError
        Triton is not installed.
    """
    from trlaunch.lowering.launch_hooks import lazy_metadata, triton_hooks

    triton_hooks()

    def enter(launch: Launch) -> None:
        hook = None if launch.kernel in hook_switch.seen_by_triton else triton_hooks()[0]
        if hook is not None:
            made = lazy_metadata({"name": launch.name, "function": 0, "stream": launch.stream})
            if metrics is not None:
                made.add(lambda: dict(metrics(launch)), ())
            launch.notes[proton] = made
            hook(made)

    def leave(launch: Launch) -> None:
        made, hook = launch.notes.pop(proton, None), triton_hooks()[1]
        if made is not None and hook is not None:
            hook(made)

    return _pair(enter, leave)
