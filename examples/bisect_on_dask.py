"""A bisection whose trials run on a Dask cluster, here of two local processes: which CTA of a kernel dies.

::

    pip install 'trlaunch[cuda]' distributed
    python examples/bisect_on_dask.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import distributed
import numpy as np

from trlaunch.bisection import Crashes, cells, first_bad

#: Every CTA stores its number; the 37th goes past the end of the array.
PTX = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry store_number(.param .u64 store_number_param_0)
.maxntid 32, 1, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [store_number_param_0];
    mov.u32 %r1, %ctaid.x;
    setp.eq.s32 %p1, %r1, 37;
    selp.b32 %r2, 1000000, %r1, %p1;
    mul.wide.s32 %rd2, %r2, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.b32 [%rd3], %r1;
    ret;
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "store_number.ptx"
        file.write_text(PTX)
        rows = cells.candidates(
            file, Crashes(), grid=64, args=[np.zeros(64, np.int32)], signature="*i32", device="emulator"
        )
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            found = first_bad(rows, executor=client.get_executor(), parallel=2)
        print(found.table())


if __name__ == "__main__":
    main()
