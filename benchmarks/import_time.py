"""How long ``import trlaunch`` takes, and what it is beside ``import numpy``.

Each import runs in a fresh interpreter that has NumPy's files in the page cache; the time is what the interpreter spent
in the import statement, not its start. The budget is 0.15 s on top of NumPy.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

RUNS = 15
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
    medians = {}
    for label, statement in STATEMENTS.items():
        before = "import numpy" if "after numpy" in label else "pass"
        seconds(statement, before)  # compiles the .pyc files, warms the page cache
        medians[label] = statistics.median(seconds(statement, before) for _ in range(RUNS))
    numpy = medians["import numpy"]
    print(f"median of {RUNS} fresh interpreters, Python {sys.version.split()[0]}")
    for label, value in medians.items():
        print(f"{label:32} {value * 1e3:8.2f} ms   {value / numpy:5.2f} of import numpy")
    within = medians["import trlaunch, after numpy"] <= BUDGET
    print(f"budget for import trlaunch with NumPy warm: {BUDGET * 1e3:.0f} ms, {'kept' if within else 'EXCEEDED'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
