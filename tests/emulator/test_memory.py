"""Loads, stores, atomics and asynchronous copies; and the driver's own memory."""

# ruff: noqa: E501  (tables of PTX statements read best as rows)

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.emulator.launching import HEADER, assert_ptxas_accepts, entry, launch, pack, wrap
from trlaunch.devices import get
from trlaunch.driver import Device, LaunchConfig
from trlaunch.emulator.driver import EmulatorDriver
from trlaunch.emulator.image import read_image
from trlaunch.errors import DeviceUnavailable, EmulatorError, Fault, ImageError

EXTRA = (
    ".shared .align 16 .b8 s[1024];\n.global .align 4 .b32 table[4] = {10, 20, 30, 40};\n"
    ".global .align 8 .u64 where = table;\n.const .align 4 .f32 half = 0f3F000000;\n"
)
TID = "mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 4; add.s64 %d2, %a0, %d1;"
BODIES = {
    "narrow": "ld.global.s8 %r1, [%a1]; ld.global.u8 %r2, [%a1]; ld.global.s16 %r3, [%a1+2]; ld.global.u16 %r4, [%a1+2];"
    " ld.global.s32 %d1, [%a1+4]; st.global.v4.u32 [%a0], {%r1, %r2, %r3, %r4}; st.global.u64 [%a0+16], %d1;"
    " st.global.u8 [%a0+24], %r3; st.global.u16 [%a0+26], %r3; st.global.u32 [%a0+28], 0;",
    "vectors": "ld.global.v2.u64 {%d1, %d2}, [%a1]; ld.global.v2.u16 {%h1, %h2}, [%a1]; ld.global.v4.u8 {%h3, %h4, %h5, %h6}, [%a1];"
    " st.global.v2.u64 [%a0], {%d2, %d1}; st.global.v2.u16 [%a0+16], {%h2, %h1};"
    " st.global.v4.u8 [%a0+20], {%h6, %h5, %h4, %h3}; ld.global.v2.f32 {%f1, %f2}, [%a1]; st.global.v2.f32 [%a0+24], {%f2, %f1};",
    "guarded": f"{TID} mov.u32 %r2, 77; setp.lt.u32 %p1, %r1, 5; add.s64 %d3, %a1, %d1; @%p1 ld.global.u32 %r2, [%d3];"
    " st.global.u32 [%d2], %r2;",
    "generic": f"{TID} mov.u64 %d3, s; cvta.shared.u64 %d3, %d3; add.s64 %d3, %d3, %d1; st.u32 [%d3], %r1; ld.u32 %r2, [%d3];"
    " setp.lt.u32 %p1, %r1, 16; selp.b64 %d4, %d3, %d2, %p1; st.u32 [%d2], 1000; ld.u32 %r3, [%d4]; add.u32 %r2, %r2, %r3;"
    " cvta.to.shared.u64 %d5, %d3; ld.shared.u32 %r4, [%d5]; add.u32 %r2, %r2, %r4; st.u32 [%d2], %r2;",
    "variables": "mov.u64 %d1, table; ld.global.u32 %r1, [%d1+8]; ld.global.u64 %d2, [where]; ld.global.u32 %r2, [%d2+12];"
    " ld.const.f32 %f1, [half]; cvt.rzi.u32.f32 %r3, %f1; mov.b32 %r4, %f1; st.global.v4.u32 [%a0], {%r1, %r2, %r3, %r4};",
    "histogram": f"{TID} add.s64 %d3, %a1, %d1; ld.global.u32 %r2, [%d3]; mul.wide.u32 %d4, %r2, 4; add.s64 %d5, %a0, %d4;"
    " atom.global.add.u32 %r3, [%d5], 1; st.global.u32 [%d3], %r3;",
    "shared_atomic": f"{TID} mov.u32 %r4, s; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r4], 1000; bar.sync 0;"
    " atom.shared.add.u32 %r3, [%r4], 2; st.global.u32 [%d2], %r3;",
    "floats": "atom.global.add.f32 %f1, [%a0], 0f3F800000; red.global.add.f64 [%a0+8], 0d3FE0000000000000;"
    " mov.b32 %r1, 0x3C003C00; red.global.add.noftz.f16x2 [%a0+16], %r1;",
    "copies": f"{TID} add.s64 %d3, %a1, %d1; mov.u32 %r4, s; mul.lo.u32 %r5, %r1, 4; add.u32 %r4, %r4, %r5; and.b32 %r6, %r1, 1;"
    " shl.b32 %r6, %r6, 2; cp.async.ca.shared.global [%r4], [%d3], 4, %r6; cp.async.commit_group; cp.async.wait_group 0;"
    " bar.sync 0; ld.shared.u32 %r7, [%r4]; st.global.u32 [%d2], %r7;",
    "partial": "mov.u32 %r4, s; cp.async.cg.shared.global [%r4], [%a1], 16, 6; cp.async.wait_all;"
    " ld.shared.v2.u64 {%d1, %d2}, [%r4]; st.global.v2.u64 [%a0], {%d1, %d2};",
    **{
        f"{name}_{kind}": f"{TID} add.s64 %d3, %a1, %d1; ld.global.u32 %r2, [%d3]; atom.global.{name}.{kind} %r3, [%a0], %r2;"
        " st.global.u32 [%d3], %r3;"
        for name, kind in (("min", "s32"), ("max", "u32"), ("and", "b32"), ("or", "b32"), ("xor", "b32"), ("inc", "u32"),
                           ("dec", "u32"), ("exch", "b32"))
    },
}  # fmt: skip


def text(name: str) -> str:
    return HEADER + EXTRA + entry(BODIES[name], 2, name=name)


def test_ptxas_accepts_the_module(tmp_path) -> None:
    assert_ptxas_accepts(HEADER + EXTRA + "".join(entry(b, 2, name=n) for n, b in BODIES.items()), tmp_path)


def test_narrow_loads_extend_and_narrow_stores_truncate() -> None:
    data, out = np.array([0xFF80, 0x8001, 0x0000, 0xF000], np.uint16), np.zeros(32, np.uint8)
    launch(text("narrow"), [out, data])
    assert out[:16].view(np.uint32).tolist() == [0xFFFFFF80, 0x80, 0xFFFF8001, 0x8001]
    assert out[16:24].view(np.int64)[0] == -0x10000000
    assert (out[24], out[26:28].view(np.uint16)[0]) == (0x01, 0x8001)


def test_vector_accesses() -> None:
    data, out = np.arange(1, 17, dtype=np.uint8), np.zeros(32, np.uint8)
    launch(text("vectors"), [out, data])
    assert out.tolist() == [*range(9, 17), *range(1, 9), 3, 4, 1, 2, 4, 3, 2, 1, 5, 6, 7, 8, 1, 2, 3, 4]


def test_a_guarded_load_keeps_the_register_and_touches_nothing() -> None:
    out, data = np.zeros(32, np.uint32), np.arange(5, dtype=np.uint32)
    launch(text("guarded"), [out, data])
    assert out.tolist() == [0, 1, 2, 3, 4] + [77] * 27


def test_generic_addresses() -> None:
    out = np.zeros(32, np.uint32)
    launch(text("generic"), [out, out])
    n = np.arange(32)
    assert (out == np.where(n < 16, 3 * n, 2 * n + 1000)).all()


def test_variables_of_the_module() -> None:
    out = np.zeros(4, np.uint32)
    launch(text("variables"), [out, out])
    assert out.tolist() == [30, 40, 0, 0x3F000000]


def test_atomic_results_are_those_of_some_order() -> None:
    data = np.random.default_rng(0).integers(0, 5, 32).astype(np.uint32)
    bins, before = np.zeros(5, np.uint32), data.copy()
    launch(text("histogram"), [bins, data])
    assert bins.tolist() == np.bincount(before, minlength=5).tolist()
    for value, count in Counter(before.tolist()).items():
        assert sorted(data[before == value].tolist()) == list(range(count))
    out = np.zeros(32, np.uint32)
    launch(text("shared_atomic"), [out, out])
    assert sorted(out.tolist()) == list(range(1000, 1064, 2))


CHANGES = {
    "min_s32": min, "max_u32": max, "and_b32": lambda a, b: a & b, "or_b32": lambda a, b: a | b,
    "xor_b32": lambda a, b: a ^ b, "inc_u32": lambda a, b: 0 if a >= b else a + 1,
    "dec_u32": lambda a, b: b if a == 0 or a > b else a - 1, "exch_b32": lambda a, b: b,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_atomic_operations(name: str) -> None:
    kind = np.int32 if name.endswith("s32") else np.uint32
    data = np.random.default_rng(1).integers(-9 if kind is np.int32 else 0, 30, 32).astype(kind)
    memory, operands = np.array([12], kind), data.tolist()
    launch(text(name), [memory, data])
    value, old = 12, []
    for operand in operands:  # lanes come one after the other, in their order
        old.append(value)
        value = CHANGES[name](value, operand)
    assert memory[0] == value
    assert data.tolist() == old


def test_floating_point_atomics() -> None:
    memory = np.zeros(24, np.uint8)
    launch(text("floats"), [memory, memory])
    assert memory[:4].view(np.float32)[0] == 32
    assert memory[8:16].view(np.float64)[0] == 16
    assert memory[16:20].view(np.float16).tolist() == [32, 32]


def test_asynchronous_copies_fill_up_with_zeros() -> None:
    data, out = np.arange(1, 33, dtype=np.uint32), np.zeros(32, np.uint32)
    launch(text("copies"), [out, data])
    assert (out == np.where(np.arange(32) & 1, data, 0)).all()
    data, out = np.arange(1, 7, dtype=np.uint8), np.full(16, 9, np.uint8)  # no more than the six bytes that are read
    aligned = np.zeros(32, np.uint8)
    start = -aligned.ctypes.data % 16
    aligned[start : start + 6] = data
    launch(text("partial"), [out, aligned[start : start + 6]])
    assert out.tolist() == [1, 2, 3, 4, 5, 6] + [0] * 10


def test_lanes_may_reach_into_different_buffers() -> None:
    body = (
        "mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0; selp.b64 %d1, %a0, %a1, %p1;"
        " mad.wide.u32 %d2, %r1, 4, %d1; ld.global.u32 %r3, [%d2]; add.u32 %r3, %r3, 1; st.global.u32 [%d2], %r3;"
    )
    a, b = np.zeros(32, np.uint32), np.full(32, 5, np.uint32)
    launch(wrap(body, 2), [a, b])
    even = np.arange(32) % 2 == 0
    assert (a == even).all()
    assert (b == np.where(even, 5, 6)).all()


# The driver.


@pytest.fixture
def driver() -> EmulatorDriver:
    return EmulatorDriver()


def test_the_emulator_is_the_driver_of_that_name() -> None:
    found = get("emulator")
    assert found is EmulatorDriver.instance()
    assert found.device_count() == 1
    properties = found.properties(0)
    assert properties.target.sm == "sm_80"
    assert properties.max_shared_optin == 232448
    assert properties.device == Device("emulator")
    with pytest.raises(DeviceUnavailable, match="there is one emulator"):
        found.properties(1)


def test_allocations_are_memory_that_kernels_may_touch(driver: EmulatorDriver) -> None:
    address = driver.allocate(128, 0)
    assert address % 256 == 0
    assert driver.device_of_pointer(address + 127) == 0
    assert driver.device_of_pointer(address + 128) is None
    driver.copy_to_device(address, memoryview(np.arange(32, dtype=np.uint32)), 0)
    out = np.zeros(32, np.uint32)
    launch(text("guarded"), [out, address], driver=driver)
    assert out[:5].tolist() == [0, 1, 2, 3, 4]
    back = bytearray(8)
    driver.copy_to_host(memoryview(back), address + 4, 0)
    assert np.frombuffer(back, np.uint32).tolist() == [1, 2]
    with pytest.raises(EmulatorError, match="that can be written"):
        driver.copy_to_host(memoryview(b"12345678"), address, 0)
    driver.clear(address, 8, 0, 0)
    driver.copy_to_host(memoryview(back), address, 0)
    assert not any(back)
    driver.free(address, 0)
    with pytest.raises(EmulatorError, match="freed before"):
        driver.free(address, 0)
    with pytest.raises(Fault, match="out-of-bounds"):
        launch(text("guarded"), [out, address], driver=driver)
    scratch = driver.allocate_scratch(64, 128, 0, 0)
    assert scratch % 128 == 0
    driver.copy_to_host(memoryview(back), scratch + 56, 0)
    assert not any(back)
    with pytest.raises(EmulatorError, match="do not lie in an allocation"):
        driver.copy_to_host(memoryview(back), scratch + 60, 0)
    driver.free_scratch(scratch, 0, 0)


def test_resources_and_limits(driver: EmulatorDriver) -> None:
    image = read_image(text("generic"))
    function = driver.load(image, "generic", 0)
    resources = driver.resources(function)
    assert resources["shared"] == 1024
    assert resources["max_threads"] == 32
    driver.prepare(function, 100_000)
    with pytest.raises(EmulatorError, match="expected 0 to 231424"):
        driver.prepare(function, 232448)
    config = LaunchConfig((1, 1, 1), (32, 1, 1))
    assert driver.occupancy(function, config) > 100
    arguments = pack(image.kernel(), [np.zeros(32, np.uint32)] * 2)
    for wrong, message in (
        (LaunchConfig((1, 1, 1), (64, 1, 1)), "at most"),
        (LaunchConfig((0, 1, 1), (32, 1, 1)), "no empty axis"),
        (LaunchConfig((2, 1, 1), (32, 1, 1), cluster=(2, 1, 1)), "clusters"),
        (LaunchConfig((1, 1, 1), (32, 1, 1), shared=300_000), "dynamic shared"),
    ):
        with pytest.raises(EmulatorError, match=message):
            driver.launch(function, wrong, arguments)
    arguments.data += b"\0"
    with pytest.raises(EmulatorError, match="takes 16 bytes of parameters, not 17"):
        driver.launch(function, config, arguments)


def test_code_is_compiled_once(driver: EmulatorDriver) -> None:
    image = read_image(text("generic"))
    assert driver.load(image, "generic", 0).handle is EmulatorDriver().load(image, "generic", 0).handle
    with pytest.raises(ImageError, match="no kernel 'other'"):
        driver.load(image, "other", 0)
