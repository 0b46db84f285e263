"""Cycles that loads of shared memory take on a GPU beside the wavefronts that the memory map counts for them.

    python benchmarks/bank_conflicts.py [--json FILE]

One CTA of 32 warps loads with every stride; a multiprocessor serves one wavefront a cycle, so that the cycles for each
warp's load are the wavefronts, and a little more.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import trlaunch
from benchmarks import needs
from trlaunch import emulator

WARPS, ROUNDS, UNROLLED = 32, 64, 16
FORMS = {4: "ld.volatile.shared.u32 %a;", 8: "ld.volatile.shared.v2.u32 {%a, %b};",
         16: "ld.volatile.shared.v4.u32 {%a, %b, %c, %d};"}  # fmt: skip
TEXT = """
.version 7.0
.target sm_80
.address_size 64
.visible .entry loads(.param .u64 out, .param .u32 stride)
.reqntid 1024, 1, 1
{
    .reg .b32 %a, %b, %c, %d, %r<8>;
    .reg .b64 %t<4>;
    .reg .pred %p<2>;
    .shared .align 16 .b8 memory[16384];
    ld.param.u64 %t1, [out];
    ld.param.u32 %r1, [stride];
    mov.u32 %r2, %tid.x;
    shl.b32 %r3, %r2, 4;
    mov.u32 %r4, memory;
    add.u32 %r3, %r3, %r4;
    mov.u32 %a, 0;
    st.shared.v4.u32 [%r3], {%a, %a, %a, %a};
    and.b32 %r5, %r2, 31;
    mad.lo.u32 %r5, %r5, %r1, %r4;
    mov.u32 %r6, 0;
    bar.sync 0;
    mov.u64 %t2, %clock64;
again:
LOADS
    add.u32 %r6, %r6, 1;
    setp.lt.u32 %p1, %r6, ROUNDS;
    @%p1 bra again;
    bar.sync 0;
    mov.u64 %t3, %clock64;
    sub.u64 %t3, %t3, %t2;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra done;
    st.global.u64 [%t1], %t3;
done:
    ret;
}
"""


def text(size: int, rounds: int) -> str:
    form = FORMS[size].replace(";", ", [%r5];")
    return TEXT.replace("LOADS", f"    {form}\n" * UNROLLED).replace("ROUNDS", str(rounds))


def predicted(size: int, stride: int) -> float:
    """Wavefronts of a warp's load, by the memory map of a launch on the emulator."""
    kernel = trlaunch.Kernel.from_bytes(text(size, 1), signature="*i64, i32", device="emulator")
    with emulator.memory_map() as seen:
        kernel.launch(1, np.zeros(1, np.int64), stride)
    loads = [i for i in seen.instructions if i.kind == "load"]
    return sum(i.wavefronts for i in loads) / sum(i.requests for i in loads)


def measured(size: int, stride: int) -> float:
    """Cycles for each of them on the GPU; the best of five launches."""
    kernel = trlaunch.Kernel.from_bytes(text(size, ROUNDS), signature="*i64, i32", device="cuda")
    best = float("inf")
    for _ in range(5):
        out = trlaunch.asarray(np.zeros(1, np.int64), device="cuda")
        kernel.launch(1, out, stride)
        best = min(best, float(out.numpy()[0]) / (WARPS * ROUNDS * UNROLLED))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    needs.gpu()
    rows = []
    print("bytes  stride  wavefronts  cycles  cycles/wavefront")
    for size in FORMS:
        for stride in (size * n for n in (1, 2, 3, 4, 8, 16, 32)):
            if stride * 31 + size > 16384:
                continue
            wavefronts, cycles = predicted(size, stride), measured(size, stride)
            print(f"{size:5}  {stride:6}  {wavefronts:10.1f}  {cycles:6.2f}  {cycles / wavefronts:16.2f}")
            rows.append({"bytes": size, "stride": stride, "wavefronts": wavefronts, "cycles": cycles})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
