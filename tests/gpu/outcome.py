"""What the device does with one launch, right or wrong: run as a program, because a fault ends its context.

    python -m tests.gpu.outcome 3.6.0 matmul_kernel '{"metadata": {"num_warps": 2}, "shared": null, "level": "cubin"}'

Prints one line: ``right``, ``wrong numbers``, ``refused by <rule>``, or a driver error and where it showed.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import trlaunch
from tests import corpus
from tests.gpu.launches import launch_of, put
from trlaunch.devices import get

__all__ = ["outcome"]


def outcome(release: str, name: str, metadata: dict[str, Any], shared: int | None, check: str) -> str:
    """Launch a kernel with other metadata or shared memory than its own."""
    case = corpus.find(release, "cuda:90", name)
    kernel = trlaunch.Kernel.from_file(
        case.path("cubin"), case.metadata | metadata, shared=shared, check=check, device="cuda:0"
    )
    placed = put(launch_of(case), case)
    try:
        kernel.launch(placed.launch.grid, *placed.arguments)
    except trlaunch.CheckError as error:
        return "refused by " + ", ".join(finding.rule for finding in error.report.errors)
    except trlaunch.DriverError as error:
        return f"{error.name} at launch"
    try:
        get("cuda").synchronize(0)
    except trlaunch.DriverError as error:
        return f"{error.name} at synchronise"
    return "wrong numbers" if placed.wrong() else "right"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(outcome(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3])), flush=True)
