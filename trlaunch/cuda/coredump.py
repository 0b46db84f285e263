"""GPU core dumps, which the driver writes when a kernel dies: ``CUDA_ENABLE_COREDUMP_ON_EXCEPTION=1`` makes it.

`trlaunch.cuda.coredump_model` is what a dump holds, `trlaunch.cuda.fault_site` finds the code of an exception.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trlaunch.cuda.coredump_file import CoreFile
from trlaunch.cuda.coredump_format import Flag, Kind
from trlaunch.cuda.coredump_model import DumpInfo, Memory, device_of

if TYPE_CHECKING:
    from trlaunch.cuda.fault_site import CoreException, Locator

__all__ = ["CoreDump", "coredump"]


class CoreDump:
    """A GPU core dump.

    Parameters
    ----------
    source : path or bytes
        The file, plain or compressed by gzip or xz, or its content.
    kernel_dir : path, optional
        A folder with compiled kernels, such as Triton's cache: the levels beside the one that died are found there by
        the name and the code of the kernel.

    Attributes
    ----------
    path : pathlib.Path or None
    kernel_dir : pathlib.Path or None
    info : DumpInfo
        Driver, flags and time.
    devices : tuple of Device

    Raises
    ------
    CoreDumpError
        It is no GPU core dump, cut off, or damaged. What is read later raises the same.
    """

    def __init__(self, source: str | Path | bytes, kernel_dir: str | Path | None = None) -> None:
        from trlaunch.cuda.fault_site import Locator

        self._file = CoreFile(source)
        self.path = self._file.path
        self.kernel_dir = None if kernel_dir is None else Path(kernel_dir)
        self.info = self._info()
        self.devices = tuple(device_of(self._file, at, row) for at, row in self._file.rows(Kind.DEVICES))
        self._locator: Locator = Locator(self)
        self._found: tuple[CoreException, ...] | None = None

    def _info(self) -> DumpInfo:
        for _, row in self._file.rows(Kind.METADATA):
            stamp = row["timestamp"]
            return DumpInfo(
                self._file.string(row["generator"]) or None,
                _pair(row, "driver"),
                _pair(row, "cuda"),
                None if row["flags"] is None else Flag(row["flags"]),
                None if not stamp else datetime.fromtimestamp(stamp, timezone.utc),
            )
        return DumpInfo()

    @property
    def exceptions(self) -> tuple[CoreException, ...]:
        """What died, by device and SM: one entry a warp, and one an SM whose faulting warps have all exited.

        Empty where the kernel was stopped without an exception, by a ``trap`` or a failed assert: see `stopped`.
        """
        if self._found is None:
            self._found = tuple(self._locator.exceptions())
        return self._found

    @property
    def stopped(self) -> tuple[CoreException, ...]:
        """Where the warps were that had no exception, one entry a place: those at a breakpoint (a trap) first."""
        return self._locator.stopped()

    @property
    def fault(self) -> CoreException | None:
        """The first exception; where there is none, the first place that warps were stopped at."""
        found = self.exceptions or self.stopped
        return found[0] if found else None

    @property
    def memory(self) -> tuple[Memory, ...]:
        """Global and managed memory."""
        return tuple(
            Memory.of(self._file, kind, section)
            for kind in (Kind.GLOBAL_MEMORY, Kind.MANAGED_MEMORY)
            for section in self._file.children(kind)
        )

    def read(self, address: int, size: int) -> bytes | None:
        """Global memory at an address; ``None`` where the dump does not have it."""
        return next((data for piece in self.memory if (data := piece.read(address, size)) is not None), None)

    def as_dict(self, registers: bool = False) -> dict[str, Any]:
        """Everything there is to say, for JSON: dump, devices, launches, exceptions.

        Parameters
        ----------
        registers : bool
            Every register of the faulting warps, too.
        """
        from trlaunch.cuda.coredump_text import as_dict

        return as_dict(self, registers)

    def __str__(self) -> str:
        from trlaunch.cuda.coredump_text import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return f"<CoreDump {self._file.label}: {len(self.devices)} devices>"


def coredump(path: str | Path | bytes, kernel_dir: str | Path | None = None) -> CoreDump:
    """Read a GPU core dump.

    Parameters
    ----------
    path : path or bytes
        The file that the driver wrote (``CUDA_COREDUMP_FILE``), plain or compressed by gzip or xz, or its content.
    kernel_dir : path, optional
        A folder with compiled kernels, such as Triton's cache: lines of PTX, LLIR, TTGIR and TTIR are told from the
        files there that hold the same code as the kernel that died.

    Returns
    -------
    CoreDump
        ``.exceptions`` says what died, where, with which operands; ``print`` shows it.

    Raises
    ------
    CoreDumpError
        It is no GPU core dump, cut off, or damaged.

    Examples
    --------
    >>> dump = trlaunch.coredump("core.nvcudmp")  # doctest: +SKIP
    >>> dump.exceptions[0].kind  # doctest: +SKIP
    'misaligned-address'
    """
    return CoreDump(path, kernel_dir)


def _pair(row: dict[str, Any], name: str) -> tuple[int, int] | None:
    major, minor = row[f"{name}_major"], row[f"{name}_minor"]
    return None if major is None or minor is None else (major, minor)
