"""Launch a Triton kernel on buffers of cuda.core, on one of its streams.

A cuda.core buffer is bytes without a type, so its address is passed as `trlaunch.Pointer`.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cuda.core import Device, LegacyPinnedMemoryResource

import trlaunch

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


def main() -> int:
    device = Device(0)
    device.set_current()
    hopper = tuple(device.compute_capability) == (9, 0)
    kernel = trlaunch.Kernel.from_file(ARTIFACTS / ("cuda90/add_kernel.cubin" if hopper else "cuda80/add_kernel.ptx"))

    n, nbytes = 98_432, 98_432 * 4
    stream = device.create_stream()
    pinned = [LegacyPinnedMemoryResource().allocate(nbytes) for _ in range(3)]
    a, b, found = (np.from_dlpack(buffer).view(np.float32) for buffer in pinned)
    a[:], b[:] = np.random.default_rng(0).random((2, n), dtype=np.float32)

    buffers = [device.allocate(nbytes, stream=stream) for _ in range(3)]
    for buffer, host in zip(buffers[:2], pinned[:2], strict=True):
        buffer.copy_from(host, stream=stream)
    x, y, out = (trlaunch.Pointer(int(buffer.handle), buffer.size) for buffer in buffers)
    kernel.launch(-(-n // 1024), x, y, out, n, stream=stream)
    buffers[2].copy_to(pinned[2], stream=stream)
    stream.sync()

    right = np.array_equal(found, a + b)
    print(f"cuda.core {version('cuda-core')}: {kernel} on cuda:0: {'right' if right else 'WRONG'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
