"""Autotuning: which of several kernels is fastest for the arguments at hand."""

from __future__ import annotations

from trlaunch.tuning.autotuner import Autotuner, autotune
from trlaunch.tuning.candidate import Candidate
from trlaunch.tuning.report import Report, Result

__all__ = ["Autotuner", "Candidate", "Report", "Result", "autotune"]
