"""Run Triton-compiled GPU kernels straight through the driver API.

The public names are imported on first use: ``import trlaunch`` loads neither torch, triton, cuda nor hip.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trlaunch._version import __version__

if TYPE_CHECKING:
    from trlaunch import bisection, bundle, hooks
    from trlaunch.artifact import Artifact, Level
    from trlaunch.check import Finding, Report
    from trlaunch.comparison.difference import Difference, diff
    from trlaunch.cuda.coredump import CoreDump, coredump
    from trlaunch.driver import Device
    from trlaunch.dump.read import Dump, Run
    from trlaunch.dump.request import At, at
    from trlaunch.errors import (
        ArgumentError,
        ArtifactError,
        AssemblerError,
        AssemblerMissing,
        CheckError,
        CheckWarning,
        CoreDumpError,
        DeviceUnavailable,
        DriverError,
        EmulatorError,
        FallbackWarning,
        Fault,
        ImageError,
        MetadataError,
        SignatureError,
        TrlaunchError,
        TuningError,
        UnsupportedInstruction,
    )
    from trlaunch.image import Image, ImageKernel
    from trlaunch.investigate.api import investigate
    from trlaunch.jit_function import TrlaunchFunction, jit
    from trlaunch.kernel import Kernel
    from trlaunch.memory import DeviceArray, asarray, empty
    from trlaunch.metadata import Metadata
    from trlaunch.patch import TritonPatch, patch_triton
    from trlaunch.resources import Resources
    from trlaunch.signature import Param, Signature
    from trlaunch.target import Target
    from trlaunch.tensor_descriptor import TensorDescriptor
    from trlaunch.tensors import Pointer
    from trlaunch.tuning import Autotuner, Candidate, autotune

_MODULES = {
    "artifact": ("Artifact", "Level"),
    "check": ("Finding", "Report"),
    "comparison.difference": ("Difference", "diff"),
    "cuda.coredump": ("CoreDump", "coredump"),
    "driver": ("Device",),
    "dump.read": ("Dump", "Run"),
    "dump.request": ("At", "at"),
    "errors": (
        "ArgumentError",
        "ArtifactError",
        "AssemblerError",
        "AssemblerMissing",
        "CheckError",
        "CheckWarning",
        "CoreDumpError",
        "DeviceUnavailable",
        "DriverError",
        "EmulatorError",
        "FallbackWarning",
        "Fault",
        "ImageError",
        "MetadataError",
        "SignatureError",
        "TrlaunchError",
        "TuningError",
        "UnsupportedInstruction",
    ),
    "image": ("Image", "ImageKernel"),
    "investigate": ("investigate",),
    "jit_function": ("TrlaunchFunction", "jit"),
    "kernel": ("Kernel",),
    "memory": ("DeviceArray", "asarray", "empty"),
    "metadata": ("Metadata",),
    "patch": ("TritonPatch", "patch_triton"),
    "resources": ("Resources",),
    "signature": ("Param", "Signature"),
    "target": ("Target",),
    "tensor_descriptor": ("TensorDescriptor",),
    "tensors": ("Pointer",),
    "tuning": ("Autotuner", "Candidate", "autotune"),
}
_PARTS = ("bisection", "bundle", "hooks")  # modules that are public by their own name
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ArgumentError",
    "Artifact",
    "ArtifactError",
    "AssemblerError",
    "AssemblerMissing",
    "At",
    "Autotuner",
    "Candidate",
    "CheckError",
    "CheckWarning",
    "CoreDump",
    "CoreDumpError",
    "Device",
    "DeviceArray",
    "DeviceUnavailable",
    "Difference",
    "DriverError",
    "Dump",
    "EmulatorError",
    "FallbackWarning",
    "Fault",
    "Finding",
    "Image",
    "ImageError",
    "ImageKernel",
    "Kernel",
    "Level",
    "Metadata",
    "MetadataError",
    "Param",
    "Pointer",
    "Report",
    "Resources",
    "Run",
    "Signature",
    "SignatureError",
    "Target",
    "TensorDescriptor",
    "TritonPatch",
    "TrlaunchError",
    "TrlaunchFunction",
    "TuningError",
    "UnsupportedInstruction",
    "__version__",
    "asarray",
    "at",
    "autotune",
    "bisection",
    "bundle",
    "coredump",
    "diff",
    "empty",
    "hooks",
    "investigate",
    "jit",
    "patch_triton",
]


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"trlaunch.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'trlaunch' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"trlaunch.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
