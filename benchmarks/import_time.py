"""How long ``import trlaunch`` takes, and what it is beside ``import numpy``.

Each import runs in a fresh interpreter that has NumPy's files in the page cache; the time is what the interpreter spent
in the import statement, not its start. The budget is 0.15 s on top of NumPy::

    python benchmarks/import_time.py [--runs 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

BUDGET = 0.15
STATEMENTS = {
    "import numpy": "import numpy",
    "import trlaunch": "import trlaunch",
    "import trlaunch, after numpy": "import trlaunch",
    "trlaunch.Kernel, after numpy": "import trlaunch; trlaunch.Kernel",
}


def seconds(statement: str, before: str) -> float:
    code = f"{before}\nimport time\nt = time.perf_counter()\n{statement}\nprint(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    medians = {}
    for label, statement in STATEMENTS.items():
        before = "import numpy" if "after numpy" in label else "pass"
        seconds(statement, before)  # compiles the .pyc files, warms the page cache
        medians[label] = statistics.median(seconds(statement, before) for _ in range(options.runs))
    numpy = medians["import numpy"]
    print(f"median of {options.runs} fresh interpreters, Python {sys.version.split()[0]}")
    for label, value in medians.items():
        print(f"{label:32} {value * 1e3:8.2f} ms   {value / numpy:5.2f} of import numpy")
    within = medians["import trlaunch, after numpy"] <= BUDGET
    print(f"budget for import trlaunch with NumPy warm: {BUDGET * 1e3:.0f} ms, {'kept' if within else 'EXCEEDED'}")
    if options.json:
        report = {"python": sys.version, "runs": options.runs, "budget": BUDGET, "seconds": medians}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
