"""CUDA contexts: use the thread's own where it fits, else the device's primary context, and leave no trace."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from trlaunch.cuda.status import UNKNOWN_STATUS, Calls
from trlaunch.errors import DeviceUnavailable, DriverError

__all__ = ["Contexts"]

INVALID_CONTEXT = 201


class Contexts:
    """The contexts of this process, by identity.

    A context is known by ``cuCtxGetId``, which is never used twice: a handle is, after a context was destroyed or a
    primary context was reset.

    Primary contexts that were used once stay retained, so that modules in them live as long as they are referred to.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.process = os.getpid()
        # Device ordinals and CUdevice handles are the same numbers in practice, but nothing promises it.
        self.devices = [calls("cuDeviceGet", n) for n in range(calls("cuDeviceGetCount"))]
        self._ordinals = {int(device): n for n, device in enumerate(self.devices)}
        self._ordinal_of: dict[int, int] = {}
        self._primary: dict[int, Any] = {}
        self._lock = threading.Lock()

    def device(self, ordinal: int) -> Any:
        """The ``CUdevice`` of an ordinal.

        Raises
        ------
        DeviceUnavailable
            There is no device of that ordinal.
        """
        if not 0 <= ordinal < len(self.devices):
            count = len(self.devices)
            raise DeviceUnavailable(
                f"there is no cuda:{ordinal}: the driver has {count} device{'s' * (count != 1)}"
                + (f", cuda:0 to cuda:{count - 1}" if count > 1 else ", cuda:0" if count else "")
                + _visible()
            )
        return self.devices[ordinal]

    def current_id(self) -> int | None:
        """Identity of the calling thread's current context, ``None`` when it has none."""
        # Every launch comes through here: the binding is called directly.
        try:
            status, context_id = self.calls.bindings.cuCtxGetId(None)
        except UNKNOWN_STATUS as error:
            raise self.calls.unknown("cuCtxGetId", error) from error
        if not status:
            found: int = context_id
            return found
        if status == INVALID_CONTEXT:
            return None
        raise self.calls.error("cuCtxGetId", int(status))

    def ordinal_of(self, context_id: int) -> int:
        """Ordinal of the device of the current context, whose identity is `context_id`."""
        ordinal = self._ordinal_of.get(context_id)
        if ordinal is None:
            ordinal = self._ordinal_of[context_id] = self._ordinals[int(self.calls("cuCtxGetDevice"))]
        return ordinal

    def use(self, ordinal: int) -> _Use:
        """Have a context of that device current inside a ``with`` block, which is given its identity.

        The thread's current context is taken when it belongs to the device; else the primary context is pushed and
        popped again.
        """
        return _Use(self, ordinal, self.current_id())

    def use_instead_of(self, context_id: int | None, ordinal: int) -> _Use:
        """`use`, when the identity of the thread's current context was asked for already."""
        return _Use(self, ordinal, context_id)

    @contextlib.contextmanager
    def use_exactly(self, context: Any, context_id: int) -> Iterator[bool]:
        """Have one context current inside the block, which is told whether that was possible.

        It is when the context is current already or is a primary one: the handle of any other may be dangling.
        """
        if self.current_id() == context_id:
            yield True
        elif any(int(context) == int(primary) for primary in self._primary.values()):
            self.calls("cuCtxPushCurrent", context)
            try:
                # After a reset the same handle stands for a new context.
                yield self.current_id() == context_id
            finally:
                self.calls("cuCtxPopCurrent")
        else:
            yield False

    @contextlib.contextmanager
    def relaxed_capture(self) -> Iterator[None]:
        """Let this thread make calls inside the block that are unsafe during a graph capture, such as loading.

        A capture in the default mode is broken by them even where they touch nothing that is captured.
        """
        mode = self.calls.bindings.CUstreamCaptureMode
        previous = self.calls("cuThreadExchangeStreamCaptureMode", mode.CU_STREAM_CAPTURE_MODE_RELAXED)
        try:
            yield
        finally:
            self.calls("cuThreadExchangeStreamCaptureMode", previous)

    def primary(self, ordinal: int) -> Any:
        """The primary context of a device, retained once."""
        primary = self._primary.get(ordinal)
        if primary is None:
            device = self.device(ordinal)
            with self._lock:
                primary = self._primary.get(ordinal)
                if primary is None:
                    primary = self._primary[ordinal] = self.calls("cuDevicePrimaryCtxRetain", device)
        return primary


class _Use:
    """The block of `Contexts.use`; a class, because a generator costs a microsecond more in every launch."""

    __slots__ = ("_contexts", "_current_id", "_ordinal", "_pushed")

    def __init__(self, contexts: Contexts, ordinal: int, current_id: int | None) -> None:
        self._contexts = contexts
        self._ordinal = ordinal
        self._current_id = current_id
        self._pushed = False

    def __enter__(self) -> int:
        contexts, current_id = self._contexts, self._current_id
        if current_id is not None and contexts.ordinal_of(current_id) == self._ordinal:
            return current_id
        contexts.calls("cuCtxPushCurrent", contexts.primary(self._ordinal))
        try:
            # Asked for every time: a reset gives the same handle another identity.
            pushed_id = int(contexts.calls("cuCtxGetId", None))
        except DriverError:
            contexts.calls("cuCtxPopCurrent")
            raise
        self._pushed = True
        return pushed_id

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pushed:
            try:
                self._contexts.calls("cuCtxPopCurrent")
            except DriverError as second:
                if error is None:
                    raise
                # What failed first is what the caller must see; the second failure is told with it.
                error.args = (f"{error}; then {second}", *error.args[1:])


def _visible() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
