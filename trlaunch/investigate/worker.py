"""The process of one trial: ``python -m trlaunch.investigate.worker FOLDER``.

It leaves ``scene.json`` before the launch, and ``outcome.json``, ``outputs.npz`` and ``dumps.npz`` after it; what is
not there says how far it came.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from trlaunch import devices
from trlaunch.check import audit_grid
from trlaunch.driver import Device
from trlaunch.errors import TrlaunchError
from trlaunch.investigate.arrays import save_arrays
from trlaunch.investigate.carried import Put
from trlaunch.investigate.trial import Died, Scene, Trial
from trlaunch.kernel import Kernel

__all__ = ["main"]


def main(folder: Path) -> int:
    """Run the trial in `folder`; the exit code is 0 whatever became of it."""
    state: dict[str, Any] = {"error": None, "notes": [], "kernel_seconds": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _run(folder, state)
        except TrlaunchError as error:
            state["error"] = dataclasses.asdict(Died.of(error))
    state["notes"] = list(dict.fromkeys(str(w.message) for w in caught))
    _write(folder / "outcome.json", state)
    return 0


def _run(folder: Path, state: dict[str, Any]) -> None:
    trial = Trial.load(folder)
    kernel = trial.kernel(folder)
    device = kernel.device
    put = trial.arguments.put(device, [p.name for p in kernel.signature.user])
    _write(folder / "scene.json", dataclasses.asdict(_scene(kernel, device, put, trial.grid)))
    driver = devices.get(device.driver)
    if trial.step_limit is not None and device.driver == "emulator":
        from trlaunch.emulator.driver import EmulatorDriver

        EmulatorDriver.instance().step_limit = trial.step_limit
    start = time.perf_counter()
    run = None
    for _ in range(trial.repeat):
        run = kernel.launch(trial.grid, *put.args, device=device, **put.named)
    driver.synchronize(device.ordinal)
    state["kernel_seconds"] = time.perf_counter() - start
    if device.driver != "emulator" and trial.settle:
        time.sleep(trial.settle)
        driver.synchronize(device.ordinal)
    if trial.keep_outputs:
        save_arrays(folder / "outputs.npz", put.read())
    if run is not None:
        save_arrays(folder / "dumps.npz", {key: dumped.values for key, dumped in run.dumps.items()})


def _scene(kernel: Kernel, device: Device, put: Put, grid: tuple[int, ...]) -> Scene:
    """What is known before the launch. The audit of the grid asks a GPU for occupancy, hence loads the kernel."""
    report = kernel.check(None, device)
    properties = devices.get(device.driver).properties(device.ordinal)
    subject = kernel._load(device).subject
    findings = report.findings
    if 0 not in grid:
        findings += audit_grid(
            subject, kernel._ctas(((*grid, 1, 1)[0], (*grid, 1, 1)[1], (*grid, 1, 1)[2])), False, None
        )
    entry = dataclasses.asdict(subject.entry)
    entry.pop("params"), entry.pop("implicit")
    return Scene(
        kernel=kernel.name,
        level=str(kernel.level),
        target=str(kernel.target),
        device=str(device),
        device_name=properties.name,
        device_target=str(properties.target),
        threads=kernel.threads,
        shared=kernel.shared,
        image={"format": subject.image.format, "toolchain": subject.image.toolchain, **entry},
        parameters=tuple(
            {
                "label": p.label,
                "name": p.name,
                "offset": p.offset,
                "size": p.size,
                "type": p.type,
                "role": p.role,
                "divisibility": p.divisibility,
            }
            for p in subject.signature.params
        ),
        spots=tuple(put.spots),
        findings=findings,
    )


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write JSON so that the file is there complete or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state, default=_jsonable))
    partial.replace(path)


def _jsonable(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
