"""The last launches of a process, in a memory-mapped file that survives its death.

With ``TRLAUNCH_LAUNCH_RING=<folder>`` in the environment, `trlaunch.devices.get` hands out drivers that write every
launch to ``<folder>/<pid>.ring`` before the real driver sees it. Stores to a shared mapping are in the page cache at
once, so whatever ends the process afterwards, the file has them.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trlaunch.driver import Driver, Function, LaunchConfig, PackedArguments
from trlaunch.errors import ArtifactError, TrlaunchError
from trlaunch.image import Image
from trlaunch.investigate.carried import Spot
from trlaunch.investigate.trial import Died, Launched

__all__ = ["SLOTS", "VARIABLE", "Recording", "Ring", "read_ring", "recording"]

VARIABLE = "TRLAUNCH_LAUNCH_RING"
SLOTS = "TRLAUNCH_LAUNCH_RING_SLOTS"

_MAGIC = b"TRLRING1"
_HEADER = struct.Struct("<8sIIQI")  # magic, slots, bytes of a slot, launches so far, phase
_HEADER_BYTES = 64
_SLOT = struct.Struct("<QII")  # launch index + 1 (0: empty), state, bytes of text
_SLOT_BYTES = 16384
_PARAMETERS = 4096  # bytes kept of each parameter buffer; in hexadecimal they fill half a slot
_BUFFERS = 64
_PHASES = ("", "launching", "waiting")
_STATES = ("launching", "queued")


class Ring:
    """Writes launches.

    Parameters
    ----------
    path : path
        Created; one file a process.
    slots : int
        Launches that are kept.
    """

    def __init__(self, path: str | Path, slots: int = 64) -> None:
        size = _HEADER_BYTES + slots * _SLOT_BYTES
        partial = Path(path).with_suffix(".partial")  # whoever reads it finds it complete
        with partial.open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        _HEADER.pack_into(self._map, 0, _MAGIC, slots, _SLOT_BYTES, 0, 0)
        partial.replace(path)
        self.slots = slots
        self.count = 0
        self._lock = threading.Lock()

    def begin(self, launch: dict[str, Any]) -> int:
        """Keep a launch that is about to happen; its index."""
        with self._lock:
            index = self.count
            text = json.dumps(launch).encode()
            if len(text) > _SLOT_BYTES - _SLOT.size:
                text = json.dumps(launch | {"parameters": "", "buffers": []}).encode()[: _SLOT_BYTES - _SLOT.size]
            at = _HEADER_BYTES + index % self.slots * _SLOT_BYTES
            _SLOT.pack_into(self._map, at, 0, 0, 0)  # empty while it is written
            self._map[at + _SLOT.size : at + _SLOT.size + len(text)] = text
            _SLOT.pack_into(self._map, at, index + 1, 0, len(text))
            self.count += 1
            struct.pack_into("<Q", self._map, 16, self.count)
            self.phase(1)
        return index

    def end(self, index: int) -> None:
        """The driver took launch `index`."""
        with self._lock:
            at = _HEADER_BYTES + index % self.slots * _SLOT_BYTES
            if struct.unpack_from("<Q", self._map, at)[0] == index + 1:
                struct.pack_into("<I", self._map, at + 8, 1)
            self.phase(0)

    def phase(self, number: int) -> None:
        """0: the process is elsewhere; 1: in a launch; 2: waiting for the device."""
        struct.pack_into("<I", self._map, 24, number)


def read_ring(path: str | Path) -> tuple[tuple[Launched, ...], str]:
    """The launches in a ring file, oldest first, and the phase.

    Raises
    ------
    ArtifactError
        It is no ring, or damaged.
    """
    data = Path(path).read_bytes()
    if len(data) < _HEADER_BYTES or data[:8] != _MAGIC:
        raise ArtifactError(f"{str(path)!r} is no ring of launches: expected it to begin with {_MAGIC!r}")
    _, slots, size, _, phase = _HEADER.unpack_from(data)
    if size <= _SLOT.size or len(data) != _HEADER_BYTES + slots * size or phase >= len(_PHASES):
        raise ArtifactError(f"{str(path)!r} is a damaged ring: {len(data)} bytes for {slots} slots of {size}")
    found = []
    for at in range(_HEADER_BYTES, len(data), size):
        index, state, length = _SLOT.unpack_from(data, at)
        if not index:
            continue
        text = data[at + _SLOT.size : at + _SLOT.size + length]
        try:
            fields = json.loads(text)
            fields["buffers"] = tuple(Spot(*spot) for spot in fields["buffers"])
            for key in ("grid", "block", "cluster"):
                fields[key] = tuple(fields[key])
            found.append(Launched(index=index - 1, state=_STATES[state], **fields))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ArtifactError(f"{str(path)!r} is a damaged ring: slot of launch {index - 1}: {error}") from None
    return tuple(sorted(found, key=lambda launch: launch.index)), _PHASES[phase]


class Recording:
    """A driver that keeps every launch in a ring before it passes it on.

    Parameters
    ----------
    driver : Driver
    ring : Ring
    folder : pathlib.Path
        Where images are kept, by content.
    """

    #: There are no plans over this driver: each launch is seen.
    direct_launch = None

    def __init__(self, driver: Driver, ring: Ring, folder: Path) -> None:
        self.driver = driver
        self.name = driver.name
        self._ring = ring
        self._folder = folder
        self._images: dict[int, tuple[Function, str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)

    def load(self, image: Image, kernel: str, ordinal: int) -> Function:
        """As the driver's; the image is kept."""
        function = self.driver.load(image, kernel, ordinal)
        name = f"{hashlib.sha256(image.data).hexdigest()[:16]}.{image.format}"
        path = self._folder / name
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(image.data)
            partial.replace(path)
        self._images[id(function)] = function, name
        return function

    def launch(self, function: Function, config: LaunchConfig, arguments: PackedArguments) -> None:
        """As the driver's; the launch is kept first."""
        index = self._ring.begin(
            {
                "kernel": function.name,
                "device": str(function.device),
                "grid": config.grid,
                "block": config.block,
                "cluster": config.cluster,
                "shared": config.shared,
                "cooperative": config.cooperative,
                "stream": config.stream,
                "parameters": arguments.data[:_PARAMETERS].hex(),
                "buffers": [(b.name, b.address, b.nbytes) for b in arguments.buffers[:_BUFFERS]],
                "image": self._images.get(id(function), (function, ""))[1],
                "time": time.time(),
            }
        )
        with self._kept_error():
            self.driver.launch(function, config, arguments)
        self._ring.end(index)

    def synchronize(self, ordinal: int, stream: int = 0) -> None:
        """As the driver's."""
        self._wait(self.driver.synchronize, ordinal, stream)

    def copy_to_host(self, data: memoryview, address: int, ordinal: int, stream: int = 0) -> None:
        """As the driver's."""
        self._wait(self.driver.copy_to_host, data, address, ordinal, stream)

    def _wait(self, call: Callable[..., None], *args: Any) -> None:
        self._ring.phase(2)
        with self._kept_error():
            call(*args)
        self._ring.phase(0)

    @contextmanager
    def _kept_error(self) -> Iterator[None]:
        """Keep the first error of the process, whatever the program makes of it."""
        try:
            yield
        except TrlaunchError as error:
            path = self._folder / f"{os.getpid()}.died"
            if not path.exists():
                path.write_text(json.dumps(asdict(Died.of(error)), default=int))
            raise


_recordings: dict[str, Recording] = {}
_lock = threading.Lock()
_ring: Ring | None = None


def recording(driver: Driver) -> Driver:
    """The driver, with its launches kept where the environment says."""
    global _ring
    with _lock:
        found = _recordings.get(driver.name)
        if found is None:
            folder = Path(os.environ[VARIABLE])
            if _ring is None:
                _ring = Ring(folder / f"{os.getpid()}.ring", int(os.environ.get(SLOTS, "64")))
            found = _recordings[driver.name] = Recording(driver, _ring, folder)
    return found
