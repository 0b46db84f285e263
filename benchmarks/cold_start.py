"""From the start of a process to a checked result: trlaunch beside the driver's API alone and Triton's JIT.

Each way is a script of its own (``cold/``) that adds two vectors of a million numbers and compares with NumPy. trlaunch
and ``cuda.bindings`` load the same cubin; Triton's JIT finds the kernel in its cache, which a first run fills. Every
run is a fresh process, and the clock stops when the result is printed. Files are in the page cache. Each round runs
every way once, in an order drawn anew, so that none always follows the same one; ratios are those within a round, their
medians over the rounds. The row "python" is an interpreter that imports NumPy and prints. Needs an NVIDIA GPU::

    python benchmarks/cold_start.py --json cold_start.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import needs
from benchmarks.rounds import ratio

HERE = Path(__file__).resolve().parent
PYTHON = "import numpy; print(True, flush=True)"


def seconds(command: list[str], env: dict[str, str]) -> float:
    """Until the process prints that the result is right.

    Raises
    ------
    SystemExit
        It printed something else, or ended with an error.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        spent = time.perf_counter() - start
        _, errors = process.communicate()
    if line.strip() != "True" or process.returncode:
        raise SystemExit(f"{command} printed {line!r}\n{errors}")
    return spent


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    needs.packages("cuda.bindings")
    needs.gpu()
    from trlaunch.devices import get

    properties = get("cuda").properties(0)
    with tempfile.TemporaryDirectory() as folder:
        if properties.target.capability == 90:
            binary = HERE / "launches" / "cuda90" / "add_kernel.cubin"
        else:
            from trlaunch.cuda.assembler import assemble

            source = HERE / "launches" / "cuda80" / "add_kernel"
            made = assemble(
                source.with_suffix(".ptx").read_bytes(), properties.target, driver_version=properties.driver_version
            )
            binary = Path(folder, "add_kernel.cubin")
            binary.write_bytes(made.cubin)
            binary.with_suffix(".json").write_bytes(source.with_suffix(".json").read_bytes())
        env = {**os.environ, "TRITON_CACHE_DIR": str(Path(folder, "triton"))}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # the first run of each way compiles what it imports
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
        ways = {
            "python": [sys.executable, "-c", PYTHON],
            "cuda.bindings": [sys.executable, str(HERE / "cold" / "with_bindings.py"), str(binary)],
            "trlaunch": [sys.executable, str(HERE / "cold" / "with_trlaunch.py"), str(binary)],
        }
        absent = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
        if absent:
            print(f"not measured: Triton's JIT (no {', '.join(absent)})")
        else:
            ways["Triton JIT"] = [sys.executable, str(HERE / "cold" / "with_triton.py")]
        times: dict[str, list[float]] = {name: [] for name in ways}
        for name, command in ways.items():
            seconds(command, env)  # bytecode, the page cache, Triton's cache
            times[name] = []
        names, shuffle = list(ways), random.Random(0).shuffle
        for _ in range(options.rounds):
            shuffle(names)
            for name in names:
                times[name].append(seconds(ways[name], env))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{properties.name}; Python {sys.version.split()[0]}; medians of {options.rounds} fresh processes each")
    print(f"  {'way':16} {'ms':>8}  {'of cuda.bindings':>16}  {'of trlaunch':>11}  fastest - slowest")
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        raw, own = (ratio(times[name], times[base]) for base in ("cuda.bindings", "trlaunch"))
        low, high = min(times[name]) * 1e3, max(times[name]) * 1e3
        print(f"  {name:16} {median * 1e3:8.1f}  {raw:16.3f}  {own:11.2f}  {low:.1f} - {high:.1f}")
    if options.json:
        report = {"gpu": properties.name, "python": sys.version, "medians": medians, "seconds": times}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
