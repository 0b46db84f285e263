"""Memory maps: which elements of its arguments a launch touched, how often, and how well its warps did it.

>>> with trlaunch.emulator.memory_map() as seen:          # doctest: +SKIP
...     kernel.launch(grid, x, y, out, device="emulator")
>>> seen.arguments["x"].reads                             # doctest: +SKIP
>>> print(seen.table())                                   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.emulator.arguments import dtype_of
from trlaunch.emulator.coalescing import SECTOR, bank_wavefronts, sectors_of
from trlaunch.emulator.faults import source_of
from trlaunch.emulator.instructions.base import Array
from trlaunch.emulator.instruments import install
from trlaunch.emulator.observer import Observer
from trlaunch.errors import EmulatorError
from trlaunch.scalars import SCALARS
from trlaunch.tensors import contiguous_strides

if TYPE_CHECKING:
    from trlaunch.driver import Buffer, LaunchConfig, PackedArguments
    from trlaunch.emulator.program import Program
    from trlaunch.emulator.scheduler import Scheduler

__all__ = ["ArgumentMap", "InstructionMap", "MemoryMap", "Recorder", "memory_map"]

_KINDS = ("reads", "writes", "atomics")
#: What each kind of access does to an element.
_EFFECT = {"load": "reads", "store": "writes", "atomic": "atomics", "cp.async": "writes",
           "tensor load": "reads", "tensor store": "writes", "tensor reduce": "atomics"}  # fmt: skip
_UNIT = 16
_OTHER = "other memory"


@dataclass(slots=True)
class ArgumentMap:
    """What became of the memory behind one argument.

    Attributes
    ----------
    name, dtype : str
    reads, writes, atomics : ndarray of int64, in the tensor's shape
        How often each element was read (by loads and copies), written, changed by an atomic. An access of a thread
        counts once for each element that it covers.
    requests : int
        Instructions of warps that touched it, and tensor copies.
    sectors : int
        Sectors of 32 bytes that these moved.
    useful : int
        Bytes of these that somebody wanted.
    """

    name: str
    dtype: str
    reads: Array
    writes: Array
    atomics: Array
    requests: int = 0
    sectors: int = 0
    useful: int = 0

    @property
    def sectors_per_request(self) -> float:
        """Sectors that a warp's instruction moves; 4 is the least for 4 bytes a lane, 16 for 16."""
        return self.sectors / self.requests if self.requests else 0.0

    @property
    def efficiency(self) -> float:
        """Share of the bytes moved that somebody wanted."""
        return self.useful / (self.sectors * SECTOR) if self.sectors else 0.0

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind} {int(getattr(self, kind).sum())}" for kind in _KINDS)
        return f"ArgumentMap({self.name!r}, {self.dtype}, {self.reads.shape}, {counts})"


@dataclass(slots=True)
class InstructionMap:
    """What one instruction did to one argument, or to shared memory.

    Attributes
    ----------
    line : int
        PTX line.
    text : str
    source : str
        ``file.py:12``; empty where the PTX does not say.
    space : {"global", "shared"}
    kind : str
        ``load``, ``store``, ``atomic``, ``cp.async`` (its writes to shared memory), ``tensor load``, ``tensor store``,
        ``tensor reduce``.
    argument : str
        Names of the arguments; empty for shared memory.
    requests, accesses : int
        Warps that executed it, and lanes of them.
    useful : int
        Distinct bytes of each request that a lane wanted.
    sectors : int
        Sectors of global memory that were moved.
    wavefronts, ideal : int
        Turns that shared memory took, and would have taken without bank conflicts.
    degree : int
        The most words that one bank had to serve one after the other in one turn; 1 is free of conflicts.
    """

    line: int
    text: str
    source: str
    space: str
    kind: str
    argument: str = ""
    requests: int = 0
    accesses: int = 0
    useful: int = 0
    sectors: int = 0
    wavefronts: int = 0
    ideal: int = 0
    degree: int = 0

    @property
    def sectors_per_request(self) -> float:
        """Sectors that a warp's execution moves."""
        return self.sectors / self.requests if self.requests else 0.0

    @property
    def efficiency(self) -> float:
        """Share of the bytes moved that somebody wanted."""
        return self.useful / (self.sectors * SECTOR) if self.sectors else 0.0

    @property
    def conflicts(self) -> int:
        """Wavefronts that bank conflicts cost."""
        return self.wavefronts - self.ideal


@dataclass(slots=True)
class MemoryMap:
    """One launch.

    Attributes
    ----------
    kernel : str
    grid : tuple of int
    arguments : dict of str to ArgumentMap
        The arrays among the arguments.
    instructions : list of InstructionMap
        In the order of the text.
    """

    kernel: str
    grid: tuple[int, int, int]
    arguments: dict[str, ArgumentMap] = field(default_factory=dict)
    instructions: list[InstructionMap] = field(default_factory=list)

    def table(self) -> str:
        """Arguments and instructions as text."""
        from trlaunch.emulator.memory_report import as_text

        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays, for JSON."""
        from trlaunch.emulator.memory_report import as_dict

        return as_dict(self)

    def save(self, path: str | Path) -> Path:
        """Write the arrays of all arguments, ``<name>.reads`` and so on, to an .npz file."""
        from trlaunch.emulator.memory_report import save

        return save(self, Path(path))

    def plot(self, folder: str | Path) -> list[Path]:
        """Draw a heat map of each argument, and the instructions' sectors and bank conflicts, as PNG files.

        Raises
        ------
        DeviceUnavailable
            matplotlib is not installed: ``pip install trlaunch[plot]``.
        """
        from trlaunch.emulator.memory_report import plot

        return plot(self, Path(folder))


@dataclass(slots=True)
class _Area:
    """The memory of one or several arguments, and counts per effect and size of access."""

    buffers: list[Buffer]
    counts: dict[tuple[str, int], Array] = field(default_factory=dict)

    @property
    def names(self) -> str:
        return ", ".join(dict.fromkeys(b.name for b in self.buffers))

    def add(self, effect: str, size: int, address: Array, times: int = 1) -> None:
        """Count accesses of `size` bytes at addresses inside, multiples of it; each so many times."""
        start = self.buffers[0].address // _UNIT * _UNIT
        end = self.buffers[0].address + self.buffers[0].nbytes
        key = (effect, size)
        if key not in self.counts:
            self.counts[key] = np.zeros(-(-(end - start) // _UNIT) * (_UNIT // size), np.int64)
        counts = self.counts[key]
        counts += np.bincount((address - start) // size, minlength=len(counts)) * times

    def elements(self, buffer: Buffer, effect: str, itemsize: int) -> Array:
        """How often each element was touched, in the tensor's shape."""
        first = buffer.address % _UNIT
        items = -(-(first + buffer.nbytes) // _UNIT) * (_UNIT // itemsize) if itemsize <= _UNIT else 0
        total = np.zeros(items, np.int64)
        for (which, size), counts in self.counts.items():
            if which == effect:
                if size >= itemsize:
                    total += np.repeat(counts, size // itemsize)
                else:  # an element in parts: as often as its most wanted part
                    total += counts.reshape(-1, itemsize // size).max(axis=1)
        total = total[first // itemsize :]
        shape = buffer.shape
        if not shape and not buffer.strides and buffer.nbytes != itemsize:
            shape = (buffer.nbytes // itemsize,)
        steps = [s * total.itemsize for s in buffer.strides or contiguous_strides(shape)]
        if 0 in shape or not buffer.nbytes:
            return np.zeros(shape, np.int64)
        return np.lib.stride_tricks.as_strided(total, shape, steps).copy()


class Recorder(Observer):
    """The launches of a block of code; made by `memory_map`. Its attributes are of the last launch.

    Attributes
    ----------
    launches : list of MemoryMap
    """

    def __init__(self, kernel: str | None) -> None:
        self.launches: list[MemoryMap] = []
        self._only = kernel
        self._context: AbstractContextManager[None] | None = None
        self._map: MemoryMap | None = None
        self._areas: list[_Area] = []
        self._rows: dict[tuple[int, str, str, int], InstructionMap] = {}
        self._types: dict[int, str] = {}

    @property
    def last(self) -> MemoryMap:
        """The last launch.

        Raises
        ------
        EmulatorError
            There was none.
        """
        if not self.launches:
            raise EmulatorError("no launch was seen yet: launch on the emulator inside of the with block")
        return self.launches[-1]

    @property
    def arguments(self) -> Mapping[str, ArgumentMap]:
        """Of the last launch, by name."""
        return self.last.arguments

    @property
    def instructions(self) -> Sequence[InstructionMap]:
        """Of the last launch, in the order of the text."""
        return self.last.instructions

    def table(self) -> str:
        """The last launch as text."""
        return self.last.table()

    def plot(self, folder: str | Path) -> list[Path]:
        """Draw the last launch: `MemoryMap.plot`."""
        return self.last.plot(folder)

    def __enter__(self) -> Recorder:
        self._context = install(self)
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._context is not None
        self._context.__exit__(*error)

    # The launch.

    def begin(self, program: Program, config: LaunchConfig, arguments: PackedArguments) -> None:
        """Find the arguments' memory."""
        self._map = None
        if self._only is not None and program.name != self._only:
            return
        self._map = MemoryMap(program.name, config.grid)
        areas: dict[tuple[int, int], _Area] = {}
        for buffer in arguments.buffers:
            if buffer.nbytes:
                areas.setdefault((buffer.address, buffer.nbytes), _Area([])).buffers.append(buffer)
        self._areas, self._rows = list(areas.values()), {}
        numbers = {key: n for n, key in enumerate(areas)}
        self._buffers = [(b, numbers.get((b.address, b.nbytes), -1)) for b in arguments.buffers]
        self._program = program

    def attach(self, scheduler: Scheduler) -> None:
        """A chunk of CTAs begins."""
        self._chunk = scheduler.chunk

    def end(self) -> None:
        """Put the arrays together."""
        done = self._map
        if done is None:
            return
        self._map = None
        totals: dict[int, list[InstructionMap]] = {}
        for (_, _, _, number), row in self._rows.items():
            totals.setdefault(number, []).append(row)
        for buffer, number in self._buffers:
            dtype = dtype_of(buffer, None)
            area = self._areas[number] if number >= 0 else _Area([buffer])
            reads, writes, atomics = (area.elements(buffer, effect, SCALARS[dtype].size) for effect in _KINDS)
            argument = ArgumentMap(buffer.name, dtype, reads, writes, atomics)
            rows = totals.get(number, []) if number >= 0 else []
            argument.requests = sum(r.requests for r in rows)
            argument.sectors = sum(r.sectors for r in rows)
            argument.useful = sum(r.useful for r in rows)
            done.arguments[buffer.name] = argument
        done.instructions = sorted(self._rows.values(), key=lambda r: (r.line, r.space, r.kind, r.argument))
        self.launches.append(done)

    def _row(self, site: int, space: str, kind: str, area: int) -> InstructionMap:
        key = (site, space, kind, area)
        if key not in self._rows:
            instruction = self._program.sites[site]
            source, _ = source_of(self._program.module, instruction.position)
            self._rows[key] = InstructionMap(
                line=instruction.line,
                text=" ".join(self._program.module.line_text(instruction.line).split()),
                source=source or "",
                space=space,
                kind=kind,
                argument="" if space == "shared" else self._areas[area].names if area >= 0 else _OTHER,
            )
        return self._rows[key]

    def access(
        self, site: int, space: str, kind: str, address: Array, mask: Array | None, size: int, value: Array | None
    ) -> None:
        """Count an instruction of warps."""
        del value
        if self._map is None or kind in ("wgmma", "tensor-map"):
            return
        places, active, times = self._warps(address, mask)
        asked = active.any(axis=1)
        if not asked.any():
            return
        places, active = places[asked], active[asked]
        if space == "shared":
            row = self._row(site, space, kind, -1)
            wavefronts, ideal, degree = bank_wavefronts(places, active, size)
            row.requests += len(places) * times
            row.accesses += int(active.sum()) * times
            row.useful += int(sectors_of(places, active, size)[1].sum()) * times
            row.wavefronts += int(wavefronts.sum()) * times
            row.ideal += int(ideal.sum()) * times
            row.degree = max(row.degree, int(degree.max()))
            return
        left = active
        for number, area in enumerate(self._areas):
            buffer = area.buffers[0]
            here = left & (places >= buffer.address) & (places < buffer.address + buffer.nbytes)
            if here.any():
                self._global(site, kind, number, places, here, size, times)
                left = left & ~here
        if left.any():
            self._global(site, kind, -1, places, left, size, times)

    def _global(self, site: int, kind: str, area: int, places: Array, active: Array, size: int, times: int) -> None:
        row = self._row(site, "global", kind, area)
        asked = active.any(axis=1)
        sectors, useful = sectors_of(places[asked], active[asked], size)
        row.requests += int(asked.sum()) * times
        row.accesses += int(active.sum()) * times
        row.sectors += int(sectors.sum()) * times
        row.useful += int(useful.sum()) * times
        if area >= 0:
            self._areas[area].add(_EFFECT[kind], size, places[active], times)

    def _warps(self, address: Array, mask: Array | None) -> tuple[Array, Array, int]:
        """Addresses, shape (warps, lanes), which are active, and how many CTAs do just the same."""
        ctas, threads = self._chunk.log.lanes
        columns = address.shape[1] if address.shape[1] > 1 else threads
        rows = max(address.shape[0], 1 if mask is None else mask.shape[0])
        wide = np.broadcast_to(address, (rows, columns)).astype(np.int64)
        active = np.ones(wide.shape, bool)
        if mask is not None:
            active = np.broadcast_to(mask if mask.shape[1] in (1, columns) else _per_row(mask, columns), wide.shape)
        lanes = columns // (threads // 32)
        return wide.reshape(-1, lanes), np.ascontiguousarray(active).reshape(-1, lanes), 1 if rows > 1 else ctas

    def tensor(
        self, site: int, kind: str, rows: Array, lanes: Array, units: Array, places: Any, signal: Array | None
    ) -> None:
        """Count copies of boxes; each is a request."""
        del lanes, units, signal
        if self._map is None:
            return
        address = places.address.reshape(len(rows), -1)
        keep = places.keep.reshape(len(rows), -1)
        touched = keep > 0
        if not touched.any():
            return
        first = int(address[touched].min())
        area = next(
            (n for n, a in enumerate(self._areas) if a.buffers[0].address <= first
             < a.buffers[0].address + a.buffers[0].nbytes), -1,
        )  # fmt: skip
        row = self._row(site, "global", f"tensor {kind}", area)
        row.requests += len(rows)
        row.accesses += int(touched.sum())
        row.sectors += int(sectors_of(address, touched, _UNIT)[0].sum())
        row.useful += int(keep.sum())
        if area < 0:
            return
        effect = _EFFECT[f"tensor {kind}"]
        self._areas[area].add(effect, _UNIT, address[keep == _UNIT])
        for at, count in zip(address[touched & (keep < _UNIT)], keep[touched & (keep < _UNIT)], strict=True):
            self._areas[area].add(effect, 1, np.arange(at, at + count))


def _per_row(mask: Array, columns: int) -> Array:
    """A mask of threads for addresses of rows: a warp takes part as a whole."""
    warps = mask.reshape(mask.shape[0], -1, 32).any(axis=2)
    return np.repeat(warps, columns // warps.shape[1], axis=1)


def memory_map(*, kernel: str | None = None) -> Recorder:
    """Map the memory accesses of the launches of a block of code, on the emulator.

    Parameters
    ----------
    kernel : str, optional
        Launches of this kernel alone.

    Returns
    -------
    Recorder
        A context manager; afterwards it has the arrays and tables of the last launch, and of all in `launches`.

    Notes
    -----
    Reads of shared memory by ``wgmma``, and its side of tensor copies, are not counted: bank conflicts are a matter of
    the threads' own instructions. Caches are not modelled: a sector counts each time that it is asked for.
    """
    return Recorder(kernel)
