"""How long the host takes for one launch, beside every other way to launch the same kernel.

All ways are measured in one process and one run, in turns, because the floor moves from run to run, and on a shared
host from second to second: each round times so many launches of every way, in bursts between which the device is waited
for. Only the calls are timed, not the waiting; figures are medians over the rounds, also those of ratios and
differences, which are taken within a round. What a kernel stores is compared before it is timed. Every way is called as
a program would call it, argument by argument, from a loop of its own.

The floor is the quickest of four C loops with everything packed before: over ``cuLaunchKernel`` and
``cuLaunchKernelEx``, with the parameters in one buffer and by an address each. The last column is the ratio to the
quicker of the two over ``cuLaunchKernel``, the call that most launchers use. Without a C compiler the floor is
``cuda.bindings`` with arguments packed before. The kernels (``launches/kernels.py``) take no argument, 5 fp32 tensors
with 9 ints (and 5 constexprs, which Triton's own launchers are passed too), 19 and 58 arguments, and a tensor
descriptor, whose map is kept or encoded anew for each launch.

trlaunch's rows are those of the native launcher where it was built (``python setup.py build_ext --inplace``). A second
process then measures the pure-Python path, ``TRLAUNCH_PURE_PYTHON=1``, beside a floor of its own.

A way whose package is missing is left out, and that is said. Needs an NVIDIA GPU::

    python benchmarks/launch_latency.py --json launch_latency.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import trlaunch
from benchmarks import needs
from benchmarks.launches.ways import FLOORS, OWN, PEERS, SUBJECTS, Missing, Subject, Unfit, Way, call, subject
from benchmarks.rounds import ratio
from trlaunch.devices import get
from trlaunch.launching import MODE

PACKAGES = (
    "cuda-bindings",
    "cuda-core",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "torch",
    "triton",
    "triton-runner",
    "numpy",
)


def microseconds(way: Way, launches: int, burst: int) -> float:
    """Host time of one launch."""
    spent = 0
    for _ in range(launches // burst):
        start = time.perf_counter_ns()
        way.burst(burst)
        spent += time.perf_counter_ns() - start
        call("cuCtxSynchronize")
    return spent / (launches // burst * burst) / 1e3


def prepare(s: Subject, own_only: bool) -> tuple[list[Way], list[Way], dict[str, str]]:
    """The floors and the other ways that can be measured here, each found to pass its arguments right; why not others.

    ``cuda.bindings`` is among the floors where there is no C compiler.
    """
    floors: list[Way] = []
    ways: list[Way] = []
    missing: dict[str, str] = {}
    for make in (*FLOORS, *OWN, *(() if own_only else PEERS)):
        name = make.__name__.replace("_", " ")
        try:
            way = make(s)
            way.clear()
            call("cuCtxSynchronize")
            way.burst(1)
            call("cuCtxSynchronize")
            found = way.result()
        except Unfit:
            continue
        except Missing as error:
            missing[name] = str(error)
        except Exception as error:  # noqa: BLE001  other people's packages; it is reported, and the run fails
            missing[name] = f"FAILED, {type(error).__name__}: {error}"
        else:
            if found in (None, s.expected):
                (floors if make in FLOORS else ways).append(way)
            else:
                missing[name] = f"FAILED: the kernel stored {found}, expected {s.expected}"
    return floors, ways, missing


def measure(floors: list[Way], ways: list[Way], rounds: int, launches: int, burst: int) -> None:
    """Fill in the times of every way, in turns that begin with another way each round."""
    every = [*floors, *ways]
    gc.collect()
    gc.disable()
    try:
        for way in every:
            microseconds(way, max(launches, 4 * burst), burst)
        for turn in range(rounds):
            start = turn % len(every)
            for way in every[start:] + every[:start]:
                way.times.append(microseconds(way, launches, burst))
    finally:
        gc.enable()


def report(s: Subject, floors: list[Way], ways: list[Way], missing: dict[str, str]) -> dict[str, Any]:
    """Print the table of one kernel; its figures."""
    medians = {way.name: statistics.median(way.times) for way in (*floors, *ways)}
    base = min(floors or ways[:1], key=lambda way: medians[way.name])
    usual = min((f for f in floors if "cuLaunchKernel," in f.name), key=lambda way: medians[way.name], default=base)

    def above(way: Way) -> float:
        return statistics.median(a - b for a, b in zip(way.times, base.times, strict=True))

    print(f"\n{SUBJECTS[s.name][2]}; the floor is {base.name}")
    print(f"  {'way':58} {'us':>7} {'above':>7} {'ratio':>6}  {'quarters of the rounds':22}  of cuLaunchKernel")
    for way in sorted((*floors, *ways), key=lambda way: medians[way.name]):
        us = medians[way.name]
        low, _, high = statistics.quantiles(way.times, n=4)
        quarters = f"{low:.2f} - {high:.2f}"
        print(
            f"  {way.name:58} {us:7.3f} {above(way):+7.3f} {ratio(way.times, base.times):6.3f}  {quarters:22}", end="  "
        )
        print(f"{ratio(way.times, usual.times):.3f}")
    for left_out, reason in missing.items():
        print(f"  not measured: {left_out} ({reason.splitlines()[0] if reason else 'no reason'})")
    figures = {
        way.name: {
            "median": medians[way.name],
            "ratio": ratio(way.times, base.times),
            "ratio_to_cuLaunchKernel": ratio(way.times, usual.times),
            "above": above(way),
            "rounds": way.times,
        }
        for way in (*floors, *ways)
    }
    return {"floor": base.name, "ways": figures, "missing": missing}


def machine() -> dict[str, Any]:
    """What was measured on."""
    properties = get("cuda").properties(0)
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "gpu": properties.name,
        "driver": ".".join(map(str, properties.driver_version or ())),
        "processor": processor,
        "python": platform.python_version(),
        "trlaunch": trlaunch.__version__,
        "launcher": MODE,
        "packages": versions,
    }


def pure_python(options: argparse.Namespace) -> dict[str, Any] | None:
    """The same for the pure-Python path, in a process of its own; ``None`` when that failed."""
    print("\nThe pure-Python path, in a process of its own:", flush=True)
    arguments = [f"--{name}={getattr(options, name)}" for name in ("rounds", "launches", "burst", "only")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pure.json")
        done = subprocess.run(
            [sys.executable, __file__, "--own", *arguments, "--json", file],
            env={**os.environ, "TRLAUNCH_PURE_PYTHON": "1"},
            check=False,
        )
        if done.returncode or not file.exists():
            return None
        found: dict[str, Any] = json.loads(file.read_text())["kernels"]
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--launches", type=int, default=1_000, help="of each way in each round")
    parser.add_argument("--burst", type=int, default=250, help="launches between two synchronisations")
    parser.add_argument("--own", action="store_true", help="only the floors and trlaunch, in this process alone")
    parser.add_argument("--only", default="", metavar="KERNELS", help=f"some of {','.join(SUBJECTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every time measured here")
    options = parser.parse_args()
    needs.gpu()
    properties = get("cuda").properties(0)
    call("cuCtxPushCurrent", call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", 0)))
    where = machine()
    if not options.own:
        print(f"{where['gpu']}, CUDA {where['driver']} driver; {where['processor']}; Python {where['python']}")
        print(", ".join(f"{name} {number}" for name, number in where["packages"].items()))
        print(
            f"microseconds of host time a launch: medians of {options.rounds} rounds of {options.launches:,} launches "
            f"in bursts of {options.burst}"
        )
    result: dict[str, Any] = {"machine": where, "rounds": options.rounds, "launches": options.launches}
    result |= {"burst": options.burst, "unit": "microseconds of host time per launch", "kernels": {}}
    failed = False
    for name in options.only.split(",") if options.only else SUBJECTS:
        s = subject(name, properties.target.capability)
        floors, ways, missing = prepare(s, options.own)
        failed |= any(reason.startswith("FAILED") for reason in missing.values())
        if not floors and not ways:
            raise SystemExit("\n".join(f"{left_out}: {reason}" for left_out, reason in missing.items()))
        measure(floors, ways, options.rounds, options.launches, options.burst)
        result["kernels"][name] = report(s, floors, ways, missing)
    if MODE == "native" and not options.own:
        result["pure"] = pure_python(options)
        failed |= result["pure"] is None
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
