"""Loaded modules: one image, loaded once in each context that uses it."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from trlaunch.cuda.context import Contexts
from trlaunch.cuda.status import GONE, STICKY
from trlaunch.errors import DriverError

__all__ = ["Entry", "Kernel", "Module"]

PORTABLE_SHARED = 48 * 1024
"""Bytes of dynamic shared memory that every kernel may use without opting in (CUDA C++ Programming Guide)."""

LOG_BYTES = 16384
"""Size of each of the two logs that the driver's compiler may fill."""


class Entry:
    """A kernel in one context: the ``CUfunction``, and what it was allowed so far."""

    __slots__ = ("function", "non_portable_cluster", "shared")

    def __init__(self, function: Any) -> None:
        self.function = function
        self.shared = PORTABLE_SHARED
        self.non_portable_cluster = False


class Kernel:
    """One kernel of a module on one device, found in each context on first use.

    `entries` maps the identity of a context (``cuCtxGetId``, never used twice) to the kernel in it. `shared` is the
    most dynamic shared memory that was prepared for: contexts that come later are given it too.
    """

    __slots__ = ("entries", "name", "shared")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[int, Entry] = {}
        self.shared = 0


class Module:
    """One image and the modules made from it, one a context.

    Parameters
    ----------
    contexts : Contexts
    data : bytes
        A cubin, or PTX text for the driver's compiler.
    is_ptx : bool
    """

    def __init__(self, contexts: Contexts, data: bytes, is_ptx: bool) -> None:
        self.data = data
        self.is_ptx = is_ptx
        self.log = ""
        self._contexts = contexts
        self._calls = contexts.calls
        self._lock = threading.RLock()
        self._kernels: dict[tuple[str, int], Kernel] = {}
        self._loaded: dict[int, tuple[Any, Any]] = {}
        # Not at interpreter exit: the process takes its contexts with it, and libcuda may already be shut down.
        weakref.finalize(self, _unload, contexts, self._loaded).atexit = False

    def kernel(self, name: str, ordinal: int) -> Kernel:
        """The kernel of that name on a device; the same object for every caller, as the driver's attributes are."""
        with self._lock:
            return self._kernels.setdefault((name, ordinal), Kernel(name))

    def entry(self, kernel: Kernel, context_id: int) -> Entry:
        """`kernel` in the current context, whose identity is `context_id`; loaded when this is its first use.

        Raises
        ------
        DriverError
            The driver cannot load the image or has no kernel of that name; its compiler's log is in the message.
        """
        with self._lock:
            entry = kernel.entries.get(context_id)
            if entry is None:
                with self._contexts.relaxed_capture():
                    module = self._load(context_id)
                    entry = Entry(
                        self._calls(
                            "cuModuleGetFunction",
                            module,
                            kernel.name.encode(),
                            detail=lambda: f"looking for kernel {kernel.name!r}",
                        )
                    )
                    if kernel.shared > PORTABLE_SHARED:
                        self.allow_shared(entry, kernel.shared)
                kernel.entries[context_id] = entry
            return entry

    def allow_shared(self, entry: Entry, nbytes: int) -> None:
        """Opt in to `nbytes` of dynamic shared memory and prefer shared memory over L1, in the current context."""
        calls, cuda = self._calls, self._calls.bindings
        attribute = cuda.CUfunction_attribute
        with self._lock:
            if nbytes <= entry.shared:
                return

            def numbers() -> str:
                static = calls("cuFuncGetAttribute", attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, entry.function)
                limit = calls(
                    "cuDeviceGetAttribute",
                    cuda.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                    calls("cuCtxGetDevice"),
                )
                return (
                    f"asked for {nbytes} bytes of dynamic shared memory; the device allows {limit} bytes a block, "
                    f"of which the kernel takes {static} statically"
                )

            calls("cuFuncSetCacheConfig", entry.function, cuda.CUfunc_cache.CU_FUNC_CACHE_PREFER_SHARED)
            calls(
                "cuFuncSetAttribute",
                entry.function,
                attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                nbytes,
                detail=numbers,
            )
            entry.shared = nbytes

    def allow_non_portable_cluster(self, entry: Entry) -> None:
        """Opt in to clusters of more than 8 CTAs, in the current context."""
        with self._lock:
            if not entry.non_portable_cluster:
                attribute = self._calls.bindings.CUfunction_attribute
                self._calls(
                    "cuFuncSetAttribute",
                    entry.function,
                    attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
                    1,
                )
                entry.non_portable_cluster = True

    def _load(self, context_id: int) -> Any:
        """The ``CUmodule`` in the current context."""
        if context_id in self._loaded:
            return self._loaded[context_id][1]
        option = self._calls.bindings.CUjit_option
        logs = bytearray(LOG_BYTES), bytearray(LOG_BYTES)
        options = {
            option.CU_JIT_INFO_LOG_BUFFER: logs[0],
            option.CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES: LOG_BYTES,
            option.CU_JIT_ERROR_LOG_BUFFER: logs[1],
            option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES: LOG_BYTES,
        }

        def log() -> str:
            return "\n".join(filter(None, (_text(part) for part in reversed(logs))))

        # The driver reads PTX up to a NUL; a bytes object ends with one beyond its length, which is spelled out here.
        module = self._calls(
            "cuModuleLoadDataEx",
            self.data + b"\0" if self.is_ptx else self.data,
            len(options),
            list(options),
            list(options.values()),
            detail=log,
        )
        self.log = log()
        self._loaded[context_id] = self._calls("cuCtxGetCurrent"), module
        return module


def _text(log: bytearray) -> str:
    return log.split(b"\0", 1)[0].decode(errors="replace").strip()


def _unload(contexts: Contexts, loaded: dict[int, tuple[Any, Any]]) -> None:
    """Unload modules that nothing refers to any more, in whichever thread dropped the last reference.

    A context of the user's own may have been destroyed since, and its handle must then not be touched: a module is
    unloaded where its context is current or is a primary one (`Contexts` keeps those retained), else it goes with
    its context.
    """
    if os.getpid() != contexts.process:
        return  # after fork() the modules belong to the parent
    for context_id, (context, module) in loaded.items():
        try:
            with contexts.use_exactly(context, context_id) as is_current:
                if is_current:
                    with contexts.relaxed_capture():
                        contexts.calls("cuModuleUnload", module)
        except DriverError as error:
            # A dead context was reported to whoever used it, and took its modules along.
            if error.code not in GONE | STICKY:
                raise
