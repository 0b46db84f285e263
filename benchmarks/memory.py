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
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import trlaunch
from benchmarks import needs
from trlaunch.devices import get
from trlaunch.launching import MODE

HERE = Path(__file__).resolve().parent / "launches"
GROWTH = 64 << 10
"""Bytes that the process may have more after all launches: what the allocator and the interpreter come and go with."""


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


class Foreign:
    """An array as another library hands it out."""

    def __init__(self, array: trlaunch.DeviceArray) -> None:
        self.array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        address = self.array.address
        return {"shape": (4,), "typestr": "<f4", "data": (address, False), "strides": None, "stream": 1, "version": 3}


def ways(folder: Path, suffix: str) -> list[Callable[[], object]]:
    """Launches to take turns."""
    none, fourteen, described = (
        trlaunch.Kernel.from_file(folder / f"{name}_kernel{suffix}") for name in ("none", "fourteen", "descriptor")
    )
    arrays = [trlaunch.asarray(np.zeros(4, np.float32), device="cuda:0") for _ in range(5)]
    foreign = [Foreign(array) for array in arrays]
    matrix = trlaunch.asarray(np.ones((64, 64), np.float16), device="cuda:0")
    descriptor = trlaunch.TensorDescriptor(matrix, block_shape=[16, 32])
    ints = range(3, 21, 2)
    return [
        lambda: none.launch(1),
        lambda: fourteen.launch(1, *arrays, *ints),
        lambda: fourteen.launch(1, *foreign, *ints),
        lambda: described.launch(1, descriptor, arrays[0], 3),
    ]


def over_the_fake(options: argparse.Namespace) -> int:
    """The same in processes whose libcuda is the tests'; the largest of their exit codes."""
    from tests.fakecuda import FakeCuda

    codes, reports = [], []
    with tempfile.TemporaryDirectory() as folder:
        fake = FakeCuda.build(Path(folder))
        arguments = [f"--kernels={options.kernels}", f"--launches={options.launches}"]
        file = Path(folder, "report.json")
        for pure in (["0"] if MODE == "native" else []) + ["1"]:
            done = fake.execute(
                [sys.executable, __file__, *arguments, "--json", str(file)],
                env={"TRLAUNCH_PURE_PYTHON": pure, "FAKECUDA_LOG": os.devnull},
                check=False,
                timeout=600,
            )
            print(done.stdout + done.stderr, end="", flush=True)
            codes.append(done.returncode)
            if file.exists():
                reports.append(json.loads(file.read_text()))
                file.unlink()
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1) + "\n")
    return max(codes)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernels", type=int, default=200)
    parser.add_argument("--launches", type=int, default=1_000_000)
    parser.add_argument("--fake", action="store_true", help="over the libcuda of the tests, without a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="with --fake a list, one for each launcher")
    options = parser.parse_args()
    if options.fake:
        return over_the_fake(options)
    needs.gpu()
    properties = get("cuda").properties(0)
    capability = 90 if properties.target.capability == 90 else 80
    path = HERE / (f"cuda{capability}/none_kernel.{'cubin' if capability == 90 else 'ptx'}")
    kept = loaded(20, path)  # what the first kernels bring along is not theirs
    before = resident()
    kept += loaded(options.kernels, path)[20:]
    each = (resident() - before) / max(options.kernels - 20, 1)
    turns, driver = ways(path.parent, path.suffix), get("cuda")
    before = resident()
    for start in range(0, options.launches, 1000):
        for _ in range(min(1000, options.launches - start) // len(turns)):
            for launch in turns:
                launch()
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
    return 1 if growth > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
