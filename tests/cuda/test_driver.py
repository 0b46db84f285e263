"""The CUDA driver over the fake libcuda: what reaches the C ABI, and what happens to every status that comes back."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fakecuda import FakeCuda, Recorded
from tests.fakecuda.inside import cubin, fnv1a
from trlaunch.cuda.driver import CudaDriver
from trlaunch.driver import Driver

PRELUDE = """
import json
from tests.fakecuda.inside import *
from trlaunch.driver import LaunchConfig, PackedArguments
from trlaunch.errors import *
d = driver()

def config(**changes):
    return LaunchConfig(**{"grid": (16, 2, 1), "block": (128, 1, 1), **changes})

def launch(function, data=b"", **changes):
    d.launch(function, config(**changes), PackedArguments(data))

def error(action):
    try:
        action()
    except TrlaunchError as e:
        return {"type": type(e).__name__, "message": str(e), **vars(e)}
    return None

def current():
    return int(cuda("cuCtxGetCurrent"))
"""


def run(fakecuda: FakeCuda, script: str, **options: Any) -> Recorded:
    return fakecuda.run(PRELUDE + inspect.cleandoc(script), **options)


def between(recorded: Recorded, first: str, last: str) -> list[str]:
    """Names of the working calls from the first `first` to the last `last`."""
    work = recorded.work()
    return work[work.index(first) : len(work) - work[::-1].index(last)]


def test_has_the_functions_of_the_protocol_in_its_order() -> None:
    def functions(cls: type) -> list[str]:
        return [name for name, value in vars(cls).items() if not name.startswith("_") and inspect.isfunction(value)]

    assert functions(CudaDriver) == functions(Driver)


class TestLaunch:
    @pytest.mark.parametrize("pdl", [False, True])
    @pytest.mark.parametrize("cooperative", [False, True])
    @pytest.mark.parametrize("cluster", [(1, 1, 1), (2, 1, 1), (2, 2, 1), (16, 1, 1)])
    def test_attributes_are_exactly_those_asked_for(
        self, fakecuda: FakeCuda, cluster: tuple[int, int, int], cooperative: bool, pdl: bool
    ) -> None:
        recorded = run(
            fakecuda,
            f"""
            k = d.load(image("k"), "k", 0)
            launch(k, b"x", cluster={cluster}, cooperative={cooperative}, pdl={pdl}, shared=1000)
            """,
        )
        call = recorded.only("cuLaunchKernelEx")
        expected: dict[str, Any] = {}
        if cluster != (1, 1, 1):
            expected |= {"CLUSTER_DIMENSION": list(cluster), "CLUSTER_SCHEDULING_POLICY_PREFERENCE": 1}
        if cooperative:
            expected["COOPERATIVE"] = 1
        if pdl:
            expected["PROGRAMMATIC_STREAM_SERIALIZATION"] = 1
        assert call["attributes"] == expected
        assert (call["function"], call["grid"], call["block"], call["shared"], call["stream"], call.status) == (
            "k",
            [16, 2, 1],
            [128, 1, 1],
            1000,
            0,
            0,
        )
        # Only clusters of more than 8 CTAs must be allowed first: CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED.
        allowed = [(call["attribute"], call["value"]) for call in recorded.of("cuFuncSetAttribute")]
        assert allowed == ([(14, 1)] if cluster == (16, 1, 1) else [])

    def test_parameter_bytes_arrive_as_given(self, fakecuda: FakeCuda) -> None:
        sizes = [0, 1, 7, 8, 64, 128 + 64, 4096, 32764]
        recorded = run(
            fakecuda,
            f"""
            k = d.load(image("k"), "k", 0)
            for size in {sizes}:
                launch(k, bytes(i * 37 % 251 for i in range(size)))
            """,
        )
        calls = recorded.of("cuLaunchKernelEx")
        assert [bytes.fromhex(call["parameters"]) for call in calls] == [
            bytes(i * 37 % 251 for i in range(size)) for size in sizes
        ]
        assert {call["misalignment"] for call in calls} == {0}

    def test_too_many_parameter_bytes(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda, 'k = d.load(image("k"), "k", 0)\nprint(json.dumps(error(lambda: launch(k, bytes(32765)))))'
        )
        assert recorded.json()["type"] == "ArgumentError"
        assert "32765 bytes" in recorded.json()["message"]
        assert "at most 32764" in recorded.json()["message"]
        assert not recorded.of("cuLaunchKernelEx")

    @pytest.mark.parametrize("changes", ["grid=(-1, 1, 1)", "grid=(2**32, 1, 1)", "shared=-1", "block=(1, 1, 2**40)"])
    def test_numbers_out_of_range(self, fakecuda: FakeCuda, changes: str) -> None:
        recorded = run(
            fakecuda, f'k = d.load(image("k"), "k", 0)\nprint(json.dumps(error(lambda: launch(k, {changes}))))'
        )
        assert recorded.json()["type"] == "ArgumentError"
        assert not recorded.of("cuLaunchKernelEx")

    def test_stream(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            cuda("cuCtxSetCurrent", cuda("cuDevicePrimaryCtxRetain", 0))
            stream = int(cuda("cuStreamCreate", 0))
            launch(k, stream=stream)
            print(stream)
            """,
        )
        assert recorded.only("cuLaunchKernelEx")["stream"] == recorded.json() != 0

    def test_allocates_and_waits_for_nothing(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            for i in range(3):
                launch(k, b"x" * 40, cluster=(2, 1, 1), pdl=True)
            """,
        )
        launched = ["cuCtxPushCurrent", "cuLaunchKernelEx", "cuCtxPopCurrent"]
        assert recorded.work()[-9:] == launched * 3

    def test_threads_do_not_mix_their_parameters(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            import threading
            k = d.load(image("k"), "k", 0)
            start = threading.Barrier(8)

            def work(n):
                start.wait()
                for i in range(100):
                    launch(k, bytes([n, i]) * (4 + n), grid=(n + 1, i + 1, 1))

            threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            """,
        )
        calls = recorded.of("cuLaunchKernelEx")
        found = {(call["parameters"], *call["grid"]) for call in calls}
        assert len(calls) == 800
        assert found == {((bytes([n, i]) * (4 + n)).hex(), n + 1, i + 1, 1) for n in range(8) for i in range(100)}
        assert len({call.thread for call in calls}) == 8
        assert len(recorded.of("cuModuleLoadDataEx")) == 1


class TestShared:
    def test_opts_in_above_48_kib_only(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            for shared in (0, 49152, 100_000, 60_000, 232448):
                d.prepare(k, shared)
                launch(k, shared=shared)
            """,
        )
        sets = [(call["attribute"], call["value"]) for call in recorded.of("cuFuncSetAttribute")]
        assert sets == [(8, 100_000), (8, 232448)]  # MAX_DYNAMIC_SHARED_SIZE_BYTES, never lowered again
        assert [call["config"] for call in recorded.of("cuFuncSetCacheConfig")] == [1, 1]  # PREFER_SHARED

    def test_more_than_there_is(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            'k = d.load(image("k"), "k", 0)\nprint(json.dumps(error(lambda: d.prepare(k, 99_000))))',
            devices=[86],
            static_shared=4096,
        )
        assert recorded.json()["call"] == "cuFuncSetAttribute"
        assert recorded.json()["name"] == "CUDA_ERROR_INVALID_VALUE"
        assert all(number in recorded.json()["message"] for number in ("99000", "101376", "4096"))

    def test_holds_in_a_context_that_comes_later(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            d.prepare(k, 100_000)
            user_context(0)
            launch(k, shared=100_000)
            """,
        )
        assert [call["value"] for call in recorded.of("cuFuncSetAttribute")] == [100_000, 100_000]
        assert recorded.only("cuLaunchKernelEx").status == 0

    def test_two_handles_of_one_kernel_share_the_allowance(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            a, b = d.load(image("k"), "k", 0), d.load(image("k"), "k", 0)
            d.prepare(a, 100_000)
            d.prepare(b, 60_000)
            launch(a, shared=100_000)
            """,
        )
        assert recorded.only("cuLaunchKernelEx").status == 0


class TestContexts:
    def test_none_current_uses_the_primary_one_and_leaves_none(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 1)
            launch(k)
            d.free(d.allocate(16, 1), 1)
            print(json.dumps([current(), d.current_device()]))
            """,
            devices=[90, 80],
        )
        assert recorded.json() == [0, 0]
        retained = recorded.only("cuDevicePrimaryCtxRetain")
        assert retained["device"] == 1
        assert recorded.only("cuLaunchKernelEx")["context"] == retained["context"]
        assert len(recorded.of("cuCtxPushCurrent")) == len(recorded.of("cuCtxPopCurrent"))

    def test_the_users_own_is_used(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            own = int(user_context(1))
            k = d.load(image("k"), "k", 1)
            launch(k)
            d.free(d.allocate(16, 1), 1)
            print(json.dumps([own, current(), d.current_device()]))
            """,
            devices=[90, 80],
        )
        own, current, device = recorded.json()
        assert recorded.only("cuLaunchKernelEx")["context"] == own == current
        assert device == 1
        assert not recorded.of("cuCtxPushCurrent", "cuDevicePrimaryCtxRetain")

    def test_another_devices_stays_current(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            own = int(user_context(0))
            k = d.load(image("k"), "k", 1)
            launch(k)
            print(json.dumps([own, current()]))
            """,
            devices=[90, 90],
        )
        own, current = recorded.json()
        assert own == current
        assert recorded.only("cuLaunchKernelEx")["context"] == recorded.only("cuDevicePrimaryCtxRetain")["context"]
        assert recorded.only("cuDevicePrimaryCtxRetain")["device"] == 1

    def test_loads_once_in_each(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            own = user_context(0)
            for i in range(3):
                launch(k)
            cuda("cuCtxPopCurrent")
            for i in range(3):
                launch(k)
            """,
        )
        loads = recorded.of("cuModuleLoadDataEx")
        launches = recorded.of("cuLaunchKernelEx")
        assert len({call["context"] for call in loads}) == len(loads) == 2
        assert [call["context"] for call in launches] == [loads[1]["context"]] * 3 + [loads[0]["context"]] * 3
        assert not any(call.status for call in launches)

    def test_a_reset_primary_context_is_loaded_anew(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            cuda("cuDevicePrimaryCtxReset", 0)
            launch(k)
            del k
            """,
        )
        assert [call.status for call in recorded.of("cuLaunchKernelEx", "cuModuleUnload")] == [0, 0]
        loads = recorded.of("cuModuleLoadDataEx")
        assert len(loads) == 2
        assert recorded.only("cuModuleUnload")["module"] == loads[1]["module"]

    def test_is_left_when_the_call_fails(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            fail("cuLaunchKernelEx", 1)
            failed = error(lambda: launch(k))
            print(json.dumps([failed["call"], current()]))
            """,
        )
        assert recorded.json() == ["cuLaunchKernelEx", 0]

    def test_both_failures_are_told_when_leaving_fails_too(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            fail("cuLaunchKernelEx", 701)
            fail("cuCtxPopCurrent", 801)
            print(json.dumps(error(lambda: launch(k))))
            """,
        )
        assert recorded.json()["call"] == "cuLaunchKernelEx"
        assert "cuCtxPopCurrent returned CUDA_ERROR_NOT_SUPPORTED" in recorded.json()["message"]


class TestModules:
    def test_the_bytes_are_the_images(self, fakecuda: FakeCuda) -> None:
        recorded = run(fakecuda, 'd.load(image("one", "two"), "two", 0)')
        loaded = recorded.only("cuModuleLoadDataEx")
        data = cubin("one", "two")
        assert (loaded["size"], loaded["hash"], loaded["format"]) == (len(data), fnv1a(data), "elf")
        assert recorded.only("cuModuleGetFunction")["name"] == "two"

    def test_one_for_the_same_bytes(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            one, two = d.load(image("one", "two"), "one", 0), d.load(image("one", "two"), "two", 0)
            other = d.load(image("other"), "other", 0)
            elsewhere = d.load(image("one", "two"), "one", 1)
            """,
            devices=[90, 90],
        )
        assert len(recorded.of("cuModuleLoadDataEx")) == 3

    def test_unloads_when_the_last_reference_goes(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            one, two = d.load(image("one", "two"), "one", 0), d.load(image("one", "two"), "two", 0)
            launch(one)
            del one
            launch(two)
            del two
            print(current())
            """,
        )
        unloaded = recorded.only("cuModuleUnload")
        assert unloaded["module"] == recorded.only("cuModuleLoadDataEx")["module"]
        assert unloaded.status == 0
        assert recorded.names().index("cuModuleUnload") > recorded.names().index("cuLaunchKernelEx")
        assert recorded.json() == 0

    def test_does_nothing_at_exit(self, fakecuda: FakeCuda) -> None:
        recorded = run(fakecuda, 'k = d.load(image("k"), "k", 0)\nlaunch(k)\ncycle = [k]\ncycle.append(cycle)')
        assert recorded.work()[-1] == "cuCtxPopCurrent"
        assert not recorded.of("cuModuleUnload")

    def test_a_destroyed_context_takes_its_module_along(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            own = user_context(0)
            k = d.load(image("k"), "k", 0)
            cuda("cuCtxDestroy", own)
            launch(k)
            del k
            """,
        )
        loads = recorded.of("cuModuleLoadDataEx")
        assert recorded.only("cuModuleUnload")["module"] == loads[1]["module"]
        assert recorded.only("cuLaunchKernelEx").status == 0

    def test_a_dead_context_is_not_reported_again(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            fail("cuStreamSynchronize", 719)
            print(json.dumps(error(lambda: d.synchronize(0))))
            del k
            """,
        )
        assert recorded.json()["code"] == 719
        assert recorded.only("cuModuleUnload").status == 719

    def test_a_failed_unload_is_reported(self, fakecuda: FakeCuda) -> None:
        recorded = run(fakecuda, 'k = d.load(image("k"), "k", 0)\nfail("cuModuleUnload", 999)\ndel k', check=False)
        assert "cuModuleUnload returned CUDA_ERROR_UNKNOWN" in recorded.stderr
        assert recorded.returncode == 0  # a finalizer cannot raise: Python prints it

    def test_a_forked_child_leaves_the_parents_modules_alone(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            import os
            k = d.load(image("k"), "k", 0)
            child = os.fork()
            del k
            if child:
                assert os.waitpid(child, 0)[1] == 0
            """,
        )
        assert len(recorded.of("cuModuleUnload")) == 1

    def test_loading_does_not_break_a_capture(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            d.free_scratch(d.allocate_scratch(16, 16, 0, 0), 0, 0)
            d.free(d.allocate(16, 0), 0)
            del k
            """,
        )
        calls = recorded.of("cuModuleLoadDataEx", "cuModuleUnload", "cuMemPoolCreate", "cuMemAlloc")
        assert [call["capture_mode"] for call in calls] == [2, 2, 2, 2]  # CU_STREAM_CAPTURE_MODE_RELAXED
        assert [call["mode"] for call in recorded.of("cuThreadExchangeStreamCaptureMode")][1::2] == [0] * 5

    def test_ptx_goes_through_the_drivers_compiler(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(ptx("k"), "k", 0)
            print(json.dumps([k.module.log, error(lambda: d.load(ptx("k", "nonsense"), "k", 0))]))
            """,
        )
        log, failed = recorded.json()
        assert log == "fake compiler: compiled 1 module"
        assert failed["name"] == "CUDA_ERROR_INVALID_PTX"
        assert "fake compiler: line 1: no .entry in the text" in failed["message"]
        assert recorded.of("cuModuleLoadDataEx")[0]["format"] == "text"
        # CU_JIT_INFO_LOG_BUFFER, its size, CU_JIT_ERROR_LOG_BUFFER, its size
        assert recorded.of("cuModuleLoadDataEx")[0]["options"] == [3, 4, 5, 6]

    def test_no_such_kernel(self, fakecuda: FakeCuda) -> None:
        recorded = run(fakecuda, 'print(json.dumps(error(lambda: d.load(image("k"), "q", 0))))')
        assert recorded.json()["name"] == "CUDA_ERROR_NOT_FOUND"
        assert "kernel 'q'" in recorded.json()["message"]

    def test_an_image_of_another_vendor(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            from trlaunch.image import Image
            from trlaunch.target import Target
            print(json.dumps(error(lambda: d.load(Image("hsaco", Target.parse("gfx942"), b"", {}), "k", 0))))
            """,
        )
        assert recorded.json()["type"] == "ImageError"


class TestMemory:
    def test_bytes_come_back(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            data = bytes(range(256)) * 3
            address = d.allocate(len(data), 0)
            d.copy_to_device(address, memoryview(data), 0)
            back = bytearray(len(data) - 5)
            d.copy_to_host(memoryview(back), address + 5, 0)
            d.clear(address, 2, 0, 0)
            cleared = bytearray(3)
            d.copy_to_host(memoryview(cleared), address, 0)
            d.free(address, 0)
            print(json.dumps([bytes(back) == data[5:], list(cleared)]))
            """,
        )
        assert recorded.json() == [True, [0, 0, 2]]
        assert between(recorded, "cuMemcpyHtoDAsync", "cuMemcpyHtoDAsync") == ["cuMemcpyHtoDAsync"]
        work = recorded.work()
        assert work[work.index("cuMemcpyHtoDAsync") + 1] == "cuStreamSynchronize"
        assert work[work.index("cuMemcpyDtoHAsync") + 1] == "cuStreamSynchronize"

    def test_copies_are_queued_on_the_stream(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            address = d.allocate(8, 0)
            d.copy_to_device(address, memoryview(b"12345678"), 0, 2)
            d.copy_to_host(memoryview(bytearray(8)), address, 0, 2)
            d.clear(address, 8, 0, 2)
            """,
        )
        calls = recorded.of("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemsetD8Async", "cuStreamSynchronize")
        assert [call["stream"] for call in calls] == [2] * 5

    def test_nothing_to_copy(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            d.copy_to_device(0, memoryview(b""), 0)
            d.copy_to_host(memoryview(bytearray()), 0, 0)
            d.clear(0, 0, 0, 0)
            assert d.allocate(0, 0)
            """,
        )
        assert not recorded.of("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemsetD8Async")
        assert recorded.only("cuMemAlloc")["size"] == 1

    @pytest.mark.parametrize(
        "action",
        [
            'd.copy_to_host(memoryview(b"read-only"), address, 0)',
            "d.copy_to_host(memoryview(bytearray(8))[::2], address, 0)",
            "d.copy_to_device(address, memoryview(bytearray(8))[::2], 0)",
            "d.allocate(-1, 0)",
            "d.allocate(2**70, 0)",
            "d.free(-1, 0)",
            "d.synchronize(0, -1)",
            "d.allocate_scratch(-1, 16, 0, 0)",
            "d.allocate_scratch(16, 512, 0, 0)",
            "d.allocate_scratch(16, 24, 0, 0)",
            "d.allocate_scratch(16, 0, 0, 0)",
        ],
    )
    def test_wrong_arguments(self, fakecuda: FakeCuda, action: str) -> None:
        recorded = run(fakecuda, f"address = d.allocate(8, 0)\nprint(json.dumps(error(lambda: {action})))")
        assert recorded.json()["type"] == "ArgumentError"
        reached = {"cuMemAlloc", "cuMemFree", "cuStreamSynchronize", "cuMemAllocFromPoolAsync", "cuMemcpyDtoHAsync"}
        assert [name for name in recorded.names() if name in reached] == ["cuMemAlloc"]

    def test_scratch_is_ordered_around_the_launch(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            cuda("cuCtxSetCurrent", cuda("cuDevicePrimaryCtxRetain", 0))
            stream = int(cuda("cuStreamCreate", 0))
            k = d.load(image("k"), "k", 0)
            for i in range(2):
                scratch = d.allocate_scratch(1000, 128, 0, stream)
                assert scratch % 128 == 0
                launch(k, scratch.to_bytes(8, "little"), stream=stream)
                d.free_scratch(scratch, 0, stream)
            print(stream)
            """,
        )
        ordered = ["cuMemAllocFromPoolAsync", "cuLaunchKernelEx", "cuMemFreeAsync"]
        assert between(recorded, ordered[0], ordered[-1]) == ordered * 2
        for allocated, launched, freed in zip(*(recorded.of(name) for name in ordered), strict=True):
            assert allocated["stream"] == launched["stream"] == freed["stream"] == recorded.json()
            assert (
                allocated["address"]
                == freed["address"]
                == int.from_bytes(bytes.fromhex(launched["parameters"]), "little")
            )
            assert allocated["size"] == 1000

    def test_a_pool_a_device_that_keeps_its_memory(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            for ordinal in (0, 1, 0, 1):
                d.free_scratch(d.allocate_scratch(16, 16, ordinal, 0), ordinal, 0)
            """,
            devices=[90, 80],
        )
        pools = recorded.of("cuMemPoolCreate")
        assert [call["device"] for call in pools] == [0, 1]
        # CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_LOCATION_TYPE_DEVICE, no handle to share
        assert {(call["allocation"], call["location"], call["handles"]) for call in pools} == {(1, 1, 0)}
        thresholds = recorded.of("cuMemPoolSetAttribute")  # CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
        assert [(call["pool"], call["attribute"], call["value"]) for call in thresholds] == [
            (call["pool"], 4, 2**64 - 1) for call in pools
        ]
        used = [call["pool"] for call in recorded.of("cuMemAllocFromPoolAsync")]
        assert used == [pools[0]["pool"], pools[1]["pool"]] * 2

    def test_whose_pointer_it_is(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            import ctypes
            user_context(1)
            ours, scratch = d.allocate(100, 1), d.allocate_scratch(100, 16, 0, 0)
            managed = int(cuda("cuMemAllocManaged", 100, 1))
            host = ctypes.create_string_buffer(100)
            before = d.device_of_pointer(ctypes.addressof(host))
            cuda("cuMemHostRegister", ctypes.addressof(host), 100, 0)
            locked = ctypes.addressof(host)
            print(json.dumps([
                [d.device_of_pointer(p) for p in (ours, ours + 99, scratch, managed, locked)],
                [before, *(d.device_of_pointer(p) for p in (0, -1, 2**64, 4096))],
            ]))
            """,
            devices=[90, 80],
        )
        assert recorded.json() == [[1, 1, 0, 1, 1], [None] * 5]

    def test_streams_wait_by_event(self, fakecuda: FakeCuda) -> None:
        recorded = run(fakecuda, "d.wait_for_stream(0, 1, 2)\nd.wait_for_stream(0, 2, 2)")
        assert between(recorded, "cuEventCreate", "cuEventDestroy") == [
            "cuEventCreate",
            "cuEventRecord",
            "cuStreamWaitEvent",
            "cuEventDestroy",
        ]
        event = recorded.only("cuEventCreate")
        assert event["flags"] == 2  # CU_EVENT_DISABLE_TIMING
        assert recorded.only("cuEventRecord")["stream"] == 2
        assert recorded.only("cuStreamWaitEvent")["stream"] == 1
        assert {call["event"] for call in recorded.of("cuEventRecord", "cuStreamWaitEvent", "cuEventDestroy")} == {
            event["event"]
        }


TENSOR_MAP = {
    "element_type": 6,
    "address": 0x7F0000001000,
    "shape": [768, 512, 3],
    "strides": [1536, 786432],
    "box": [64, 128, 1],
    "swizzle": 3,
    "nan_fill": False,
    "ordinal": 0,
}


class TestTensorMap:
    @pytest.mark.parametrize("nan_fill", [False, True])
    @pytest.mark.parametrize("rank", [1, 2, 3, 5])
    def test_arguments_and_result(self, fakecuda: FakeCuda, rank: int, nan_fill: bool) -> None:
        shape, strides, box = [64, 32, 16, 8, 4], [128, 4096, 65536, 524288], [64, 16, 8, 4, 2]
        asked = TENSOR_MAP | {
            "shape": shape[:rank],
            "strides": strides[: rank - 1],
            "box": box[:rank],
            "nan_fill": nan_fill,
        }
        recorded = run(fakecuda, f"print(d.encode_tensor_map(**{asked}).hex())")
        call = recorded.only("cuTensorMapEncodeTiled")
        for name in ("element_type", "address", "shape", "strides", "box", "swizzle"):
            assert call[name] == asked[name], name
        assert call["element_strides"] == [1] * rank
        assert (call["interleave"], call["l2_promotion"], call["oob_fill"]) == (0, 2, int(nan_fill))
        assert recorded.stdout.strip() == call["map"]
        assert len(call["map"]) == 256

    @pytest.mark.parametrize(
        "changes",
        [
            {"shape": [], "strides": [], "box": []},
            {"shape": [8] * 6, "strides": [16] * 5, "box": [8] * 6},
            {"strides": [1536]},
            {"box": [64, 128]},
            {"element_type": 99},
            {"swizzle": 99},
            {"shape": [-1, 512, 3]},
            {"box": [2**32, 128, 1]},
        ],
    )
    def test_wrong_arguments(self, fakecuda: FakeCuda, changes: dict[str, Any]) -> None:
        recorded = run(fakecuda, f"print(json.dumps(error(lambda: d.encode_tensor_map(**{TENSOR_MAP | changes}))))")
        assert recorded.json()["type"] == "ArgumentError"
        assert not recorded.of("cuTensorMapEncodeTiled")

    def test_refusal_gives_rules_and_numbers(self, fakecuda: FakeCuda) -> None:
        asked = TENSOR_MAP | {"strides": [1538, 786432]}
        recorded = run(fakecuda, f"print(json.dumps(error(lambda: d.encode_tensor_map(**{asked}))))")
        message = recorded.json()["message"]
        assert recorded.json()["call"] == "cuTensorMapEncodeTiled"
        assert "multiples of 16" in message
        assert "(1538, 786432)" in message
        assert "0x7f0000001000" in message
        assert "SWIZZLE_128B" in message


class TestProperties:
    def test_of_each_device(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            for n in range(d.device_count()):
                p = d.properties(n)
                print(p.device, p.name, p.target, p.target.warp_size, p.max_threads_per_block, p.max_shared,
                      p.max_shared_optin, p.max_grid, p.multiprocessors, p.supports_clusters, p.driver_version, sep="|")
                assert d.properties(n) is p
            """,
            devices=[80, 90, 121],
            driver_version=12080,
        )
        common = "32|1024|49152"
        grid = "(2147483647, 65535, 65535)|132"
        assert recorded.stdout.splitlines() == [
            f"cuda:0|Fake GPU 0 (sm_80)|cuda:80|{common}|166912|{grid}|False|(12, 8)",
            f"cuda:1|Fake GPU 1 (sm_90)|cuda:90|{common}|232448|{grid}|True|(12, 8)",
            f"cuda:2|Fake GPU 2 (sm_121)|cuda:121|{common}|101376|{grid}|True|(12, 8)",
        ]

    @pytest.mark.parametrize(
        "action", ["d.properties({})", "d.allocate(1, {})", "d.synchronize({})", 'd.load(image("k"), "k", {})']
    )
    @pytest.mark.parametrize("ordinal", [-1, 2])
    def test_no_such_device(self, fakecuda: FakeCuda, action: str, ordinal: int) -> None:
        recorded = run(fakecuda, f"print(json.dumps(error(lambda: {action.format(ordinal)})))", devices=[90, 90])
        assert recorded.json()["type"] == "DeviceUnavailable"
        assert f"no cuda:{ordinal}" in recorded.json()["message"]
        assert "cuda:0 to cuda:1" in recorded.json()["message"]

    def test_resources(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda, 'print(json.dumps(d.resources(d.load(image("k"), "k", 0))))', devices=[86], static_shared=512
        )
        assert recorded.json() == {
            "registers": 32,
            "local_bytes": 8,
            "static_shared": 512,
            "constant_bytes": 16,
            "max_threads": 1024,
            "binary_version": 86,
            "ptx_version": 86,
        }

    def test_occupancy(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            print(json.dumps([
                d.occupancy(k, config(block=(64, 2, 1), shared=10_000)),
                d.occupancy(k, config(cluster=(2, 1, 1))),
                d.occupancy(k, config(cluster=(8, 2, 1))),
            ]))
            """,
        )
        # 16 blocks of 128 threads; 66 clusters of 2 on 132 multiprocessors; 7 of 16 leave some multiprocessors over.
        assert recorded.json() == [16, 1, 1]
        asked = recorded.only("cuOccupancyMaxActiveBlocksPerMultiprocessor")
        assert (asked["threads"], asked["shared"]) == (128, 10_000)
        clusters = recorded.of("cuOccupancyMaxActiveClusters")
        assert [call["attributes"]["CLUSTER_DIMENSION"] for call in clusters] == [[2, 1, 1], [8, 2, 1]]
        assert recorded.only("cuFuncSetAttribute")["attribute"] == 14

    def test_current_device(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            devices = [d.current_device()]
            user_context(1)
            devices.append(d.current_device())
            user_context(0)
            devices.append(d.current_device())
            cuda("cuCtxPopCurrent")
            devices.append(d.current_device())
            print(json.dumps(devices))
            """,
            devices=[90, 90],
        )
        assert recorded.json() == [0, 1, 0, 1]

    def test_one_driver_a_process(self, fakecuda: FakeCuda) -> None:
        recorded = fakecuda.run(
            """
            import threading
            from trlaunch.devices import get
            found, start = [], threading.Barrier(8)

            def work():
                start.wait()
                found.append(get("cuda"))

            threads = [threading.Thread(target=work) for _ in range(8)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            print(len(found), len(set(map(id, found))))
            """
        )
        assert recorded.stdout == "8 1\n"
        assert len(recorded.of("cuInit")) == 1


KERNEL = 'k = d.load(image("k"), "k", 0)'
MEMORY = "address = d.allocate(16, 0)"

# Of each driver call: what is done first, and the operation that must report the call's failure.
OPERATIONS = {
    "cuCtxGetId": ("", "d.current_device()"),
    "cuCtxGetDevice": ("user_context(0)", "d.current_device()"),
    "cuCtxPushCurrent": ("", "d.synchronize(0)"),
    "cuCtxPopCurrent": ("", "d.synchronize(0)"),
    "cuCtxGetCurrent": ("", 'd.load(image("k"), "k", 0)'),
    "cuDevicePrimaryCtxRetain": ("", "d.synchronize(0)"),
    "cuDeviceGetAttribute": ("", "d.properties(0)"),
    "cuDeviceGetName": ("", "d.properties(0)"),
    "cuThreadExchangeStreamCaptureMode": ("", "d.allocate(16, 0)"),
    "cuModuleLoadDataEx": ("", 'd.load(image("k"), "k", 0)'),
    "cuModuleGetFunction": ("", 'd.load(image("k"), "k", 0)'),
    "cuFuncSetCacheConfig": (KERNEL, "d.prepare(k, 100_000)"),
    "cuFuncSetAttribute": (KERNEL, "d.prepare(k, 100_000)"),
    "cuFuncGetAttribute": (KERNEL, "d.resources(k)"),
    "cuOccupancyMaxActiveBlocksPerMultiprocessor": (KERNEL, "d.occupancy(k, config())"),
    "cuOccupancyMaxActiveClusters": (KERNEL, "d.occupancy(k, config(cluster=(2, 1, 1)))"),
    "cuLaunchKernelEx": (KERNEL, "launch(k)"),
    "cuStreamSynchronize": ("", "d.synchronize(0)"),
    "cuMemAlloc": ("", "d.allocate(16, 0)"),
    "cuMemFree": (MEMORY, "d.free(address, 0)"),
    "cuMemPoolCreate": ("", "d.allocate_scratch(16, 16, 0, 0)"),
    "cuMemPoolSetAttribute": ("", "d.allocate_scratch(16, 16, 0, 0)"),
    "cuMemPoolDestroy": ('fail("cuMemPoolSetAttribute", 1)', "d.allocate_scratch(16, 16, 0, 0)"),
    "cuMemAllocFromPoolAsync": ("", "d.allocate_scratch(16, 16, 0, 0)"),
    "cuMemFreeAsync": (MEMORY, "d.free_scratch(address, 0, 0)"),
    "cuMemsetD8Async": (MEMORY, "d.clear(address, 16, 0, 0)"),
    "cuMemcpyHtoDAsync": (MEMORY, 'd.copy_to_device(address, memoryview(b"bytes"), 0)'),
    "cuMemcpyDtoHAsync": (MEMORY, "d.copy_to_host(memoryview(bytearray(5)), address, 0)"),
    "cuMemcpyDtoDAsync": (MEMORY, "d.copy_on_device(address, address, 4, 0)"),
    "cuPointerGetAttributes": (MEMORY, "d.device_of_pointer(address)"),
    "cuEventCreate": ("", "d.wait_for_stream(0, 0, 1)"),
    "cuEventRecord": ("", "d.wait_for_stream(0, 0, 1)"),
    "cuStreamWaitEvent": ("", "d.wait_for_stream(0, 0, 1)"),
    "cuEventDestroy": ("", "d.wait_for_stream(0, 0, 1)"),
    "cuTensorMapEncodeTiled": ("", f"d.encode_tensor_map(**{TENSOR_MAP})"),
}
STARTUP = {"cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuGetProcAddress"}


class TestStatuses:
    @pytest.mark.parametrize("call", OPERATIONS)
    def test_none_is_dropped(self, fakecuda: FakeCuda, call: str) -> None:
        before, action = OPERATIONS[call]
        recorded = run(
            fakecuda,
            f"""
            {before}
            failed = []
            for status in (801, 23456):
                fail("{call}", status, 1)
                failed.append(error(lambda: {action}))
            print(json.dumps(failed))
            """,
        )
        names = {801: "CUDA_ERROR_NOT_SUPPORTED", 23456: "CUDA_ERROR_23456"}
        for failed, (status, name) in zip(recorded.json(), names.items(), strict=True):
            assert failed is not None, f"status {status} was not reported"
            assert failed["type"] == "DriverError"
            assert (failed["call"], failed["code"], failed["name"]) == (call, status, name)
            assert f"{call} returned {name} ({status}: " in failed["message"]
            # The bindings have no member for the second, and cannot return it.
            assert ("this cuda-python does not know" in failed["message"]) == (status == 23456)

    @pytest.mark.parametrize("call", sorted(STARTUP))
    def test_none_is_dropped_at_the_start(self, fakecuda: FakeCuda, call: str) -> None:
        recorded = fakecuda.run(
            """
            from trlaunch.devices import get
            from trlaunch.errors import TrlaunchError
            try:
                get("cuda")
            except TrlaunchError as error:
                print(error)
            """,
            fail={call: 801},
        )
        assert f"{call} returned CUDA_ERROR_NOT_SUPPORTED (801" in recorded.stdout

    def test_every_call_is_tried(self, fakecuda: FakeCuda) -> None:
        """No call was added to the driver without its failure being tried above."""
        modules = ("driver", "context", "module", "status")
        sources = [Path(inspect.getfile(CudaDriver)).with_name(f"{name}.py").read_text() for name in modules]
        made = set(re.findall(r'"(cu[A-Z]\w+)"', "".join(sources)))
        finalizer = {"cuModuleUnload"}  # TestModules
        texts = {"cuGetErrorName", "cuGetErrorString"}
        assert made == {*OPERATIONS, *STARTUP, *finalizer, *texts}

    @pytest.mark.parametrize("status", [700, 710, 715, 719])
    def test_one_that_kills_the_context_says_so(self, fakecuda: FakeCuda, status: int) -> None:
        recorded = run(
            fakecuda,
            f"""
            k = d.load(image("k"), "k", 0)
            launch(k)
            fail("cuStreamSynchronize", {status}, 1)
            print(json.dumps([error(lambda: d.synchronize(0)), error(lambda: launch(k))]))
            """,
        )
        for failed in recorded.json():
            assert failed["code"] == status
            assert "context is dead" in failed["message"]
            assert "an earlier launch may be the cause" in failed["message"]

    def test_the_drivers_words(self, fakecuda: FakeCuda) -> None:
        recorded = run(fakecuda, "print(json.dumps(error(lambda: d.allocate(2**40, 0))))")
        assert recorded.json() == {
            "type": "DriverError",
            "message": "cuMemAlloc returned CUDA_ERROR_OUT_OF_MEMORY (2: out of memory)\n"
            "allocating 1099511627776 bytes on cuda:0",
            "call": "cuMemAlloc",
            "code": 2,
            "name": "CUDA_ERROR_OUT_OF_MEMORY",
        }

    def test_a_launch_says_what_was_launched(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("my_kernel"), "my_kernel", 0)
            print(json.dumps(error(lambda: launch(k, b"12345678", grid=(3, 1, 1), cluster=(2, 1, 1)))))
            """,
        )
        message = recorded.json()["message"]
        assert "CUDA_ERROR_INVALID_CLUSTER_SIZE" in message
        for part in ("'my_kernel'", "cuda:0", "grid=(3, 1, 1)", "cluster=(2, 1, 1)", "8 bytes of parameters"):
            assert part in message

    def test_the_event_goes_when_waiting_fails(self, fakecuda: FakeCuda) -> None:
        recorded = run(fakecuda, 'fail("cuStreamWaitEvent", 801)\nerror(lambda: d.wait_for_stream(0, 0, 1))')
        assert recorded.only("cuEventDestroy")["event"] == recorded.only("cuEventCreate")["event"]

    def test_a_failure_while_asking_for_more_is_told_too(self, fakecuda: FakeCuda) -> None:
        recorded = run(
            fakecuda,
            """
            k = d.load(image("k"), "k", 0)
            fail("cuFuncGetAttribute", 801)
            print(json.dumps(error(lambda: d.prepare(k, 10**6))))
            """,
        )
        assert recorded.json()["call"] == "cuFuncSetAttribute"
        assert "cuFuncGetAttribute returned CUDA_ERROR_NOT_SUPPORTED" in recorded.json()["message"]


START = """
import json
from trlaunch.devices import get
from trlaunch.errors import DeviceUnavailable
try:
    get("cuda")
except DeviceUnavailable as error:
    print(error)
"""


class TestUnavailable:
    def test_nothing_is_called_before_a_device_is_used(self, fakecuda: FakeCuda) -> None:
        recorded = fakecuda.run(
            """
            import sys
            import threading
            import trlaunch

            trlaunch.Kernel.from_file("examples/artifacts/cuda80/add_kernel.cubin")
            print(threading.active_count(), "cuda" in sys.modules)
            """
        )
        assert recorded.stdout == "1 False\n"
        assert recorded.calls == []

    def test_no_libcuda(self, fakecuda: FakeCuda, tmp_path: Path) -> None:
        (tmp_path / "libcuda.so.1").write_text("not a library\n")  # hides the one of a machine that has a driver
        recorded = fakecuda.run(START, env={"LD_LIBRARY_PATH": str(tmp_path)})
        assert "libcuda.so.1 could not be used" in recorded.stdout
        assert f"LD_LIBRARY_PATH={tmp_path}" in recorded.stdout
        assert "emulator" in recorded.stdout or "--gpus" in recorded.stdout

    def test_no_cuda_python(self, fakecuda: FakeCuda) -> None:
        for module in ("cuda", "cuda.bindings", "cuda.bindings.driver"):
            recorded = fakecuda.run(f"import sys\nsys.modules[{module!r}] = None\n" + START)
            assert 'pip install "trlaunch[cuda]"' in recorded.stdout
            assert recorded.calls == []

    def test_no_device(self, fakecuda: FakeCuda) -> None:
        recorded = fakecuda.run(START, devices=[], env={"CUDA_VISIBLE_DEVICES": "7"})
        assert "cuInit returned CUDA_ERROR_NO_DEVICE (100: no CUDA-capable device is detected)" in recorded.stdout
        assert "CUDA_VISIBLE_DEVICES='7'" in recorded.stdout

    @pytest.mark.parametrize(
        ("status", "advice"), [(34, "stub"), (803, "different versions"), (999, "nvidia-uvm"), (4321, "nvidia-smi")]
    )
    def test_cuinit_fails(self, fakecuda: FakeCuda, status: int, advice: str) -> None:
        recorded = fakecuda.run(START, fail={"cuInit": status})
        assert f"({status}" in recorded.stdout
        assert advice in recorded.stdout

    def test_old_driver(self, fakecuda: FakeCuda) -> None:
        recorded = fakecuda.run(START, driver_version=11080)
        assert "serves CUDA 11.8" in recorded.stdout
        assert "12.0 or newer" in recorded.stdout

    def test_a_failed_start_is_tried_again(self, fakecuda: FakeCuda) -> None:
        recorded = fakecuda.run(START + START + "print(get('cuda').device_count())", fail={"cuInit": (999, 1)})
        assert recorded.stdout.count("CUDA_ERROR_UNKNOWN") == 1
        assert recorded.stdout.endswith("\n1\n")
