"""Checks of launches on the emulator, beyond those of every access: races, and use of what nothing has written."""

from __future__ import annotations

from trlaunch.emulator.checks.findings import Finding, Findings
from trlaunch.emulator.checks.instrument import instruments

__all__ = ["Finding", "Findings", "instruments"]
