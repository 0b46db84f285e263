"""How fast a dump captures: bytes of a 64 MiB dump over the kernel's time, beside the GPU's write bandwidth.

    python benchmarks/dump.py [--mib 64] [--repeats 20] [--json FILE]

One kernel does nothing but make numbers, which are dumped: the dump is all that it writes. The other is the vector add
of the test corpus at TTIR and TTGIR with its sum dumped. Both are lowered by the installed Triton. What is timed is the
kernel alone: the buffer is there already, and stays on the device. The write bandwidth is that of the driver's own
memset over as many bytes. The add without a dump is timed too: it moves three times as much.

On an H200 (Triton 3.6.0): the numbers 20.5 us, 3278 GB/s captured, where memset writes 3710 GB/s; the add 70.7 us with
the dump and 50.9 us without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import trlaunch
from benchmarks import needs
from tests import corpus
from trlaunch.devices import get
from trlaunch.lowering.triton_compiler import release

BATCH = 20
BLOCK = 1024
# Nothing of this is left without a dump of %numbers.
NUMBERS = f"""\
module {{
  tt.func public @numbers(%arg0: !tt.ptr<i32> {{tt.divisibility = 16 : i32}}) attributes {{noinline = false}} {{
    %block = arith.constant {BLOCK} : i32
    %program = tt.get_program_id x : i32
    %first = arith.muli %program, %block : i32
    %range = tt.make_range {{end = {BLOCK} : i32, start = 0 : i32}} : tensor<{BLOCK}xi32>
    %firsts = tt.splat %first : i32 -> tensor<{BLOCK}xi32>
    %numbers = arith.addi %firsts, %range : tensor<{BLOCK}xi32>
    tt.return
  }}
}}
"""


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Of one call, on a device that is kept busy: `BATCH` calls are queued, then waited for."""
    driver = get("cuda")
    times = []
    for _ in range(repeats + 1):
        driver.synchronize(0)
        start = time.perf_counter()
        for _ in range(BATCH):
            work()
        driver.synchronize(0)
        times.append((time.perf_counter() - start) / BATCH)
    return statistics.median(times[1:])


def launching(kernel: trlaunch.Kernel, count: int, *args: Any) -> tuple[Callable[[], None], Callable[[], trlaunch.Run]]:
    """A launch that leaves its dump on the device, and what reads it at last and gives the buffer back.

    These are the steps of `Kernel.launch`, one by one: what is timed must not copy the buffer back.
    """
    driver = get("cuda")
    loaded = kernel._load(kernel._choose(None, args))
    grid = (count // BLOCK, 1, 1)
    packed = loaded.packer.pack(args, {}, driver=driver, device=loaded.device)
    assert kernel._captures is not None
    buffer = kernel._captures.buffer(grid, 1, loaded.subject.signature, packed.data)
    address = buffer.allocate(driver, 0, 0)
    packed = loaded.packer.fill_hidden(packed, {"dump": address})
    function, config = kernel._function(loaded), kernel._config(grid, 0)

    def finish() -> trlaunch.Run:
        run = buffer.collect()
        driver.free_scratch(address, 0, 0)
        return run

    return lambda: driver.launch(function, config, packed), finish


def memset_gb_per_s(array: trlaunch.DeviceArray, repeats: int) -> float:
    driver = get("cuda")
    return array.nbytes / median_seconds(lambda: driver.clear(array.address, array.nbytes, 0, 0), repeats) / 1e9


def measure_alone(mib: int, repeats: int) -> dict[str, Any]:
    count = mib * 2**20 // 4
    out = trlaunch.empty(count, "i32")
    target = get("cuda").properties(0).target
    kernel = trlaunch.Kernel.from_bytes(NUMBERS, name="numbers", target=f"cuda:{target.capability}", dump="%numbers")
    launch, finish = launching(kernel, count, out)
    seconds = median_seconds(launch, repeats)
    values = finish().dumps["%numbers"].values.reshape(-1)
    return {
        "kernel": "numbers",
        "level": "ttir",
        "dump_bytes": count * 4,
        "right": bool((values == range(count)).all()),
        "with_dump_us": seconds * 1e6,
        "captured_gb_per_s": count * 4 / seconds / 1e9,
        "memset_gb_per_s": memset_gb_per_s(out, repeats),
    }


def measure(level: str, mib: int, repeats: int) -> dict[str, Any]:
    driver = get("cuda")
    case = corpus.find(release().split("+")[0], f"cuda:{driver.properties(0).target.capability}", "add_kernel")
    assert case.constexprs["BLOCK"] == BLOCK
    count = mib * 2**20 // 4
    x, y, out = (trlaunch.empty(count, "fp32") for _ in range(3))
    for array in (x, y):
        driver.clear(array.address, array.nbytes, 0, 0)
    plain = trlaunch.Kernel.from_file(case.path(level))
    dumped = trlaunch.Kernel.from_file(case.path(level), dump=trlaunch.at(op="arith.addf", label="sum"))
    launch, finish = launching(dumped, count, x, y, out, count)
    with_dump = median_seconds(launch, repeats)
    without = median_seconds(lambda: plain.launch(count // BLOCK, x, y, out, count), repeats)
    dump = finish().dumps["sum"]
    size = count * 4
    return {
        "kernel": "add",
        "level": level,
        "dump_bytes": size,
        "right": bool(dump.written.all() and not dump.values.any()),
        "with_dump_us": with_dump * 1e6,
        "without_us": without * 1e6,
        "captured_gb_per_s": size / with_dump / 1e9,
        "moved_gb_per_s": 4 * size / with_dump / 1e9,
        "added_gb_per_s": size / max(with_dump - without, 1e-9) / 1e9,
        "memset_gb_per_s": memset_gb_per_s(out, repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    needs.packages("triton")
    needs.gpu()
    alone = measure_alone(options.mib, options.repeats)
    results = [alone, *(measure(level, options.mib, options.repeats) for level in ("ttir", "ttgir"))]
    print(
        f"numbers, ttir: {options.mib} MiB captured in {alone['with_dump_us']:.1f} us, "
        f"{alone['captured_gb_per_s']:.0f} GB/s; memset writes {alone['memset_gb_per_s']:.0f} GB/s"
    )
    for r in results[1:]:
        print(
            f"add, {r['level']}: {options.mib} MiB captured in {r['with_dump_us']:.1f} us, the add among them "
            f"({r['without_us']:.1f} us without a dump): {r['added_gb_per_s']:.0f} GB/s of the time that is added; "
            f"{r['moved_gb_per_s']:.0f} GB/s moved in all; memset writes {r['memset_gb_per_s']:.0f} GB/s"
        )
    if not all(r["right"] for r in results):
        raise SystemExit("a dump is not what was computed")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
