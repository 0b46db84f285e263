"""What checks found, over all launches of a process or of a block of code."""

from __future__ import annotations

import atexit
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trlaunch.errors import Fault

__all__ = ["Finding", "Findings"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a kernel: the fault of its first occurrence, and how often it occurred."""

    kernel: str
    fault: Fault
    #: Lines of the PTX it is about: where it was found, and the other access of a race.
    ptx_lines: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        fault = self.fault
        return {
            "kernel": self.kernel,
            "kind": fault.kind,
            "cta": fault.cta,
            "thread": fault.thread,
            "address": fault.address,
            "ptx_lines": list(self.ptx_lines),
            "source": fault.source,
            "message": str(fault),
        }


@dataclass
class Findings:
    """Findings in the order in which they came up, each kind and pair of lines of a kernel once.

    Attributes
    ----------
    collect : bool
        Findings do not end a launch.
    launches : Counter of str
        Launches that were checked, by kernel.
    occurrences : Counter
        By finding, in how many accesses (of all lanes at once) it came up.
    folder : Path or None
        Where a file has them, written at each new finding and when the process ends.
    """

    collect: bool = False
    folder: Path | None = None
    launches: Counter[str] = field(default_factory=Counter)
    occurrences: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    _found: dict[tuple[Any, ...], Finding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder is not None:
            atexit.register(self.write)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: launches by kernel, and findings."""
        found = [{**finding.to_dict(), "occurrences": self.times(finding)} for finding in self]
        return {"launches": dict(self.launches), "findings": found}

    def write(self) -> None:
        """Write the file of this process."""
        if self.folder is not None and self.folder.is_dir():
            file = self.folder / f"{os.getpid()}.json"
            temporary = file.with_suffix(".new")
            temporary.write_text(json.dumps(self.to_dict()))
            temporary.replace(file)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found.values())

    def add(self, kernel: str, fault: Fault, *other_lines: int) -> bool:
        """Take a fault down; whether it is a new one."""
        lines = tuple(line for line in (fault.ptx_line, *other_lines) if line is not None)
        key = kernel, fault.kind, lines
        self.occurrences[key] += 1
        new = key not in self._found
        if new:
            self._found[key] = Finding(kernel, fault, lines)
            self.write()
        return new

    def again(self, kernel: str, kind: str, *lines: int) -> bool:
        """Count a finding that was there before; false if it was not."""
        key = kernel, kind, lines
        if key in self._found:
            self.occurrences[key] += 1
            return True
        return False

    def times(self, finding: Finding) -> int:
        """How often a finding came up."""
        return self.occurrences[finding.kernel, finding.fault.kind, finding.ptx_lines]
