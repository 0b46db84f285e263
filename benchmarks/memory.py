"""Host memory that trlaunch takes: for each loaded kernel, and for launches, which should take none.

Resident bytes of the process are read before and after. Each kernel loaded is another one: the same binary under
another symbol is another image, so that nothing is shared. Needs an NVIDIA GPU (or a libcuda that answers like one)::

    python benchmarks/memory.py --json memory.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from pathlib import Path

import trlaunch
from trlaunch.devices import get
from trlaunch.launching import MODE

HERE = Path(__file__).resolve().parent / "launches"


def resident() -> int:
    """Bytes of this process that are in memory (proc(5), statm)."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def loaded(count: int, path: Path) -> list[trlaunch.Kernel]:
    """Kernels that differ, each launched once."""
    kernels = []
    old = b"none_kernel"
    for i in range(count):
        new = b"nk%09d" % i
        metadata = json.loads(path.with_suffix(".json").read_text()) | {"name": new.decode()}
        kernel = trlaunch.Kernel.from_bytes(path.read_bytes().replace(old, new), metadata)
        kernel.launch(1)
        kernels.append(kernel)
    return kernels


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernels", type=int, default=200)
    parser.add_argument("--launches", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        properties = get("cuda").properties(0)
    except trlaunch.DeviceUnavailable as error:
        print(f"needs an NVIDIA GPU: {error}")
        return 0
    capability = 90 if properties.target.capability == 90 else 80
    path = HERE / (f"cuda{capability}/none_kernel.{'cubin' if capability == 90 else 'ptx'}")
    kept = loaded(20, path)  # what the first kernels bring along is not theirs
    before = resident()
    kept += loaded(options.kernels, path)[20:]
    each = (resident() - before) / max(options.kernels - 20, 1)
    launch, driver = kept[0].launch, get("cuda")
    before = resident()
    for start in range(0, options.launches, 1000):
        for _ in range(min(1000, options.launches - start)):
            launch(1)
        driver.synchronize(0)
        if start == 10_000:
            before = resident()
    growth = resident() - before
    print(f"{properties.name}, trlaunch {trlaunch.__version__} ({MODE})")
    print(
        f"{each / 1024:10.1f} KiB a loaded kernel ({path.stat().st_size / 1024:.1f} KiB of file), the driver included"
    )
    print(f"{growth / 1024:10.1f} KiB more after {options.launches:,} launches")
    if options.json:
        report = {"gpu": properties.name, "mode": MODE, "bytes_per_kernel": each, "growth": growth}
        options.json.write_text(json.dumps(report | {"launches": options.launches}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
