"""``benchmarks/cold_start.py``: one launch from a cubin, by ``cuda.bindings`` alone."""

import ctypes
import sys
from pathlib import Path

import numpy as np
from cuda.bindings import driver as cuda


def call(name, *arguments):
    status, *results = getattr(cuda, name)(*arguments)
    if status:
        raise SystemExit(f"{name}: {status.name}")
    return results[0] if results else None


call("cuInit", 0)
call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", 0)))
module = call("cuModuleLoadData", Path(sys.argv[1]).read_bytes())
function = call("cuModuleGetFunction", module, b"add_kernel")
n = 1 << 20
x, y, out = np.arange(n, dtype=np.float32), np.ones(n, np.float32), np.zeros(n, np.float32)
addresses = []
for host in (x, y, out):
    address = call("cuMemAlloc", host.nbytes)
    call("cuMemcpyHtoD", address, host.ctypes.data, host.nbytes)
    addresses.append(int(address))
types = (*[ctypes.c_uint64] * 3, ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64)
values = (*addresses, n, 0, 0)
call("cuLaunchKernel", function, n // 1024, 1, 1, 128, 1, 1, 0, 0, (values, types), 0)
call("cuMemcpyDtoH", out.ctypes.data, addresses[2], out.nbytes)
print(np.array_equal(out, x + y), flush=True)
