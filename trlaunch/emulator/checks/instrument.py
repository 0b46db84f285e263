"""The instruments that a checked launch has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trlaunch.emulator.checks.findings import Findings
from trlaunch.emulator.checks.races import Races
from trlaunch.emulator.checks.uninitialised import Uninitialised
from trlaunch.emulator.instruments import Instrument

if TYPE_CHECKING:
    from trlaunch.driver import LaunchConfig, PackedArguments
    from trlaunch.emulator.program import Program
    from trlaunch.emulator.scheduler import Scheduler
    from trlaunch.errors import Fault

__all__ = ["instruments"]


class _Count(Instrument):
    """Counts launches, and takes down what ended them."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.forgives = findings.collect

    def begin(self, program: Program, config: LaunchConfig, arguments: PackedArguments) -> None:  # noqa: ARG002
        self.findings.launches[program.name] += 1

    def failed(self, scheduler: Scheduler, fault: Fault) -> None:
        self.findings.add(scheduler.program.name, fault)


def instruments(names: frozenset[str], findings: Findings | None) -> tuple[Instrument, ...]:
    """What one launch is looked at by."""
    findings = findings if findings is not None else Findings()
    found: list[Instrument] = [_Count(findings)]
    if "race" in names:
        found.append(Races(findings))
    if "init" in names:
        found.append(Uninitialised(findings))
    return tuple(found)
