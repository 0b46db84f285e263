"""The tests of launches over the fake libcuda, said for the fake libamdhip64.

`AsCuda` runs their scripts with the words of `WORDS` exchanged, and gives what was recorded CUDA's names. What the
scripts call is below: it is imported in the process that runs them.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests import corpus_hip
from tests.fakecuda import Call, Recorded
from tests.fakehip import FakeHip
from tests.fakehip.inside import driver, hip
from tests.fakehip.inside import fail as fail_hip

__all__ = ["AsCuda", "cases", "cuda", "driver", "fail", "find", "user_context", "values_of"]

ARCHITECTURES = {80: "gfx90a:sramecc+:xnack-", 90: "gfx942:sramecc+:xnack-", 125: "gfx1250"}

WORDS = {
    "cuda:90": "hip:gfx942",
    "cuda:80": "hip:gfx90a",
    'path("cubin")': 'path("hsaco")',
    '"cuda': '"hip',
    "from tests.corpus import": "from tests.hip.as_cuda import",
    "from tests.cuda.test_launch_bytes import": "from tests.hip.as_cuda import",
    "from tests.fakecuda.inside import": "from tests.hip.as_cuda import",
}

NAMES = {
    "hipModuleLaunchKernel": "cuLaunchKernelEx",
    "hipModuleLaunchCooperativeKernel": "cuLaunchKernelEx",
    "hipDrvLaunchKernelEx": "cuLaunchKernelEx",
    "hipGetDevice": "cuCtxGetId",
    "hipHostRegister": "cuMemHostRegister",
    "hipPointerGetAttribute": "cuPointerGetAttributes",
    "hipDrvPointerGetAttributes": "cuPointerGetAttributes",
    "hipStreamCreate": "cuStreamCreate",
    "hipMallocFromPoolAsync": "cuMemAllocFromPoolAsync",
    "hipFreeAsync": "cuMemFreeAsync",
    "hipMemsetD8Async": "cuMemsetD8Async",
    "hipModuleUnload": "cuModuleUnload",
    "hipStreamSynchronize": "cuCtxSynchronize",
}

# torch for ROCm: its device is called cuda, and torch.version.hip tells.
ROCM = """
torch.version, torch.__spec__ = types.SimpleNamespace(hip="6.4.43484"), types.SimpleNamespace(
    submodule_search_locations=None)
class Device:
    def __init__(self, type, index): self.type, self.index = type, index
    def __str__(self): return self.type if self.index is None else f"{self.type}:{self.index}"
Device.__module__ = "torch"
plain = Tensor.__init__
def made(self, address, shape=(1024,), dtype="float32", device="cuda:0", strides=None):
    plain(self, address, shape, dtype, device.replace("hip", "cuda"), strides)
    self.device = Device(self.device.type, self.device.index)
Tensor.__init__ = made
cuda_read = read
def read(tensor, out):
    status = cuda_read(tensor, out)
    if tensor.is_cuda:
        out[0].kind = 10
    return status
"""


@dataclass(frozen=True)
class AsCuda:
    """A fake libamdhip64 that is used as `tests.fakecuda.FakeCuda` is.

    Attributes
    ----------
    library : FakeHip
    torch : str
        The part of a script that makes a torch; it is left as it is, and made one for ROCm.
    """

    library: FakeHip
    torch: str

    def run(self, script: str, devices: tuple[int, ...] = (90, 90), **options: Any) -> Recorded:
        """Run a script; what it printed and the calls it made have CUDA's names for calls."""
        options.pop("driver_version", None)
        pieces = script.split(self.torch)
        translated = (self.torch + ROCM).join(map(_translate, pieces))
        found = self.library.run(translated, devices=[ARCHITECTURES[n] for n in devices], **options)
        printed = found.stdout
        for name, word in NAMES.items():
            printed = re.sub(rf"\b{name}\b", word, printed)
        return replace(found, stdout=printed, calls=[_renamed(call) for call in found.calls])


def _translate(script: str) -> str:
    for word, other in WORDS.items():
        script = script.replace(word, other)
    return script


def _renamed(call: Call) -> Call:
    values = {"parameters" if key == "kernarg" else key: value for key, value in call.values.items()}
    values.pop("function", None)  # another address in each process
    return replace(call, name=NAMES.get(call.name, call.name), values=values | {"call": call.name})


# --- in the process --------------------------------------------------------------------------------------------------


def cuda(call: str, *args: Any) -> Any:
    """What the CUDA driver's function does, by HIP's."""
    if call == "cuDevicePrimaryCtxRetain":
        return args[0]
    if call == "cuCtxSetCurrent":
        return hip("hipSetDevice", *args)
    if call == "cuCtxSynchronize":
        return hip("hipStreamSynchronize", 0)
    name = next(hip_name for hip_name, name in NAMES.items() if name == call)
    return hip(name, *(() if call == "cuStreamCreate" else args))


def fail(call: str, status: int, nth: int = 0) -> None:
    """Make the n-th next call of that name fail (0: every one); status 0 heals it."""
    for hip_name, name in NAMES.items():
        if name == call:
            fail_hip(hip_name, status, nth)


def user_context(ordinal: int) -> None:
    """HIP has no contexts: the device is made current."""
    hip("hipSetDevice", ordinal)


def values_of(case: corpus_hip.Case, number: int) -> Any:
    """Those of `tests.hip.test_launch_bytes`."""
    from tests.hip.test_launch_bytes import values_of

    return values_of(case, number)


cases = corpus_hip.cases


def find(release: str, target: str, kernel: str) -> Any:
    """The case; one that wants scratch, of which AMD's corpus has none, is add_kernel with sizes in its JSON."""
    if kernel == "scratch_kernel":
        return _scratch(release, target)
    return corpus_hip.find(release, target, kernel)


@dataclass(frozen=True)
class _Scratch:
    folder: Path
    params: tuple[Any, ...]

    def path(self, level: str) -> Path:
        return self.folder / f"add_kernel.{level}"


@cache
def _scratch(release: str, target: str) -> _Scratch:
    case = corpus_hip.find(release, target, "add_kernel")
    folder = Path(tempfile.mkdtemp(dir=case.folder.parent), "add_kernel")
    shutil.copytree(case.folder, folder)
    metadata = case.metadata
    for role, size in (("global_scratch", 256), ("profile_scratch", 64))[: corpus_hip.hidden(case)]:
        metadata[f"{role}_size"], metadata[f"{role}_align"] = size, 128
    (folder / "add_kernel.json").write_text(json.dumps(metadata))
    return _Scratch(folder, case.params)
