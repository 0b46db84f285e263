"""How candidates are timed on a GPU: which calls reach the fake drivers, in which order."""

from __future__ import annotations

import pytest

from tests.fakehip import FakeHip
from trlaunch.tuning.timing import FLUSH_BYTES

SCRIPT = """
import json
import trlaunch
from trlaunch import Kernel
from trlaunch.devices import get
{find}
files = [find("3.6.0", target, "add_kernel").path(level) for target in targets]
driver = get(device.partition(":")[0])
x = trlaunch.empty(1024, "fp32", device)
y = trlaunch.empty(1024, "fp32", device)
stream = {stream}
tuned = trlaunch.autotune(files, key=["n_elements"], restore=["x_ptr"], reset_to_zero=["y_ptr"], warmup=1.0, rep=2.0,
                          cache=False)
tuned[(1,)](x, y, x, 1024, stream=stream)
result = [[r.label, r.status, r.message, r.times and [r.times.median, r.times.best, r.times.runs]]
          for r in tuned.report.results]
tuned[(1,)](x, y, x, 1024, stream=stream)
print(json.dumps([stream, x.address, y.address, result]))
"""
CUDA = SCRIPT.format(
    find="""from tests.corpus import find
from tests.fakecuda.inside import cuda
targets, level, device = ("cuda:90", "cuda:80"), "cubin", "cuda:0"
get("cuda").device_count()
cuda("cuCtxSetCurrent", cuda("cuDevicePrimaryCtxRetain", 0))""",
    stream='int(cuda("cuStreamCreate", 0))',
)
HIP = SCRIPT.format(
    find="""from tests.corpus_hip import find
targets, level, device = ("hip:gfx942", "hip:gfx90a"), "hsaco", "hip:0"
""",
    stream="0",
)


def check(recorded, launch, clear, copy, refused):
    stream, x, y, results = recorded.json()
    good, bad = results
    assert good[1] == "ok", good
    assert (bad[1], bad[3]) == ("refused", None)
    assert refused in bad[2]
    # The n-th measurement is n / 8 ms: five give an estimate of 1/8 ms, 16 fit into 2 ms.
    assert good[3] == [pytest.approx((6 + 21) / 16), 6 / 8, 16]
    record = "cuEventRecord" if launch.startswith("cu") else "hipEventRecord"
    work = [name for name in recorded.names() if name in (launch, clear, copy, record)]
    first = work.index(record)
    # flushed, put back, set to zero, then the launch alone between two events
    assert work[first - 3 : first + 3] == [clear, copy, clear, record, launch, record]
    assert work.count(record) == 2 * (5 + 16)
    assert work.count(launch) == 1 + 5 + 8 + 16 + 2  # a first run, the estimate, warming up, measuring, two calls
    assert {c["stream"] for c in recorded.of(record, launch, clear, copy)} == {stream}
    flushes = [c for c in recorded.of(clear) if FLUSH_BYTES in c.values.values()]
    assert len(flushes) == 5 + 16
    return x, y


def test_events_around_the_launch_alone_on_cuda(fakecuda):
    recorded = fakecuda.run(CUDA, devices=(90,))
    own = check(recorded, "cuLaunchKernelEx", "cuMemsetD8Async", "cuMemcpyDtoDAsync", "cubin is for sm_80")
    freed = sorted(c["address"] for c in recorded.of("cuMemFree"))
    taken = sorted(c["address"] for c in recorded.of("cuMemAlloc") if c["address"] not in own)
    assert freed == taken, "what tuning took it gave back"
    assert len(taken) == 2
    assert recorded.names().count("cuEventCreate") == recorded.names().count("cuEventDestroy") > 0


def test_events_around_the_launch_alone_on_hip(tmp_path):
    recorded = FakeHip.build(tmp_path).run(HIP, devices=("gfx942:sramecc+:xnack-",))
    check(recorded, "hipModuleLaunchKernel", "hipMemsetD8Async", "hipMemcpyDtoDAsync", "gfx90a")


def test_a_device_that_a_candidate_killed_ends_the_tuning(fakecuda):
    recorded = fakecuda.run(
        """
        import trlaunch
        from tests.corpus import find
        x = trlaunch.Pointer(4096)
        try:
            trlaunch.autotune(find("3.6.0", "cuda:90", "add_kernel").path("cubin"), grid=1, cache=False)(
                x, x, x, 1024, device="cuda:0")
        except trlaunch.TuningError as error:
            print(error)
        """,
        fail={"cuStreamSynchronize": 700},
    )
    assert "add_kernel.cubin left cuda:0 unusable for this process" in recorded.stdout
    assert "isolated=True" in recorded.stdout


def test_a_fault_of_a_gpu_in_isolation_is_a_fault_and_the_others_are_tuned(fakecuda):
    recorded = fakecuda.run(
        """
        import json, os
        import trlaunch
        from tests.corpus import find
        x = trlaunch.asarray([1.0] * 1024, "fp32", device="cuda:0")
        files = {"dies": find("3.6.0", "cuda:90", "add_kernel").path("cubin"),
                 "lives": find("3.9.0", "cuda:90", "add_kernel").path("cubin")}
        from trlaunch.tuning import isolated
        from trlaunch import investigate
        run = investigate.run
        def once(trial, timeout):  # the first process alone meets a device that faults
            os.environ["FAKECUDA_FAIL"] = "" if once.met else "cuStreamSynchronize=700:0"
            once.met = True
            return run(trial, timeout)
        once.met = False
        investigate.run = once
        tuned = trlaunch.autotune(files, grid=1, isolated=True, cache=False, warmup=0, rep=0)
        tuned(x, x, x, 1024)
        print(json.dumps([[r.status, r.message] for r in tuned.report.results]))
        """
    )
    dies, lives = recorded.json()
    assert dies[0] == "fault"
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in dies[1]
    assert lives == ["ok", ""]
