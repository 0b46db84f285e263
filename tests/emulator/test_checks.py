"""The checks of launches on the emulator: races, asynchronous work that nobody waited for, memory nobody wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import trlaunch
import trlaunch.emulator
from tests.emulator.launching import assert_ptxas_accepts, launch, wrap
from tests.emulator.test_tensor_copies import numbers, tensor_map
from trlaunch.emulator import settings
from trlaunch.emulator.checks.clocks import MOST_BARRIERS, Clocks, Releases
from trlaunch.emulator.checks.lanes import Groups, Touch, differ
from trlaunch.emulator.checks.records import epochs, places, records, threads
from trlaunch.errors import EmulatorError, Fault

SHARED = ".shared .align 16 .b8 s[8192];\n"
#: %r1: thread; %r2: its word of shared memory; %r3: that of the thread 32 on; %r4: of the neighbour in the warp.
PLACES = """
mov.u32 %r1, %tid.x; shl.b32 %r5, %r1, 2; mov.u32 %r6, s; add.u32 %r2, %r6, %r5;
add.u32 %r7, %r1, 32; and.b32 %r7, %r7, 63; shl.b32 %r7, %r7, 2; add.u32 %r3, %r6, %r7;
xor.b32 %r8, %r1, 1; shl.b32 %r8, %r8, 2; add.u32 %r4, %r6, %r8;
mul.wide.u32 %d1, %r1, 4; add.u64 %d2, %a0, %d1;
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = trlaunch.emulator.check
    yield
    trlaunch.emulator.check = before


def kernel(body: str, params: int = 1, threads: int = 64) -> str:
    return wrap(PLACES + body, params, threads=threads, extra=SHARED)


def found(text: str, *values: np.ndarray, grid: int = 1, checks: tuple[str, ...] = ("race", "init")) -> Fault | None:
    """What the checks find, if anything."""
    try:
        with trlaunch.emulator.checking(*checks):
            launch(text, list(values), grid=(grid,))
    except Fault as fault:
        return fault
    return None


def zeros(n: int = 256) -> np.ndarray:
    return np.zeros(n, np.uint32)


# --- which checks ----------------------------------------------------------------------------------------------------


def test_the_attribute_takes_names_and_always_has_memory() -> None:
    trlaunch.emulator.check = "race"
    assert trlaunch.emulator.check == "memory,race"
    trlaunch.emulator.check = "init, race,memory"
    assert trlaunch.emulator.check == "memory,race,init"
    trlaunch.emulator.check = ""
    assert trlaunch.emulator.check == "memory"


@pytest.mark.parametrize("text", ["races", "race,speed", 7, "race;init"])
def test_unknown_names_are_refused_with_the_list(text: object) -> None:
    with pytest.raises(EmulatorError, match="expected some of memory, race, init"):
        trlaunch.emulator.check = text  # type: ignore[assignment]
    with pytest.raises(EmulatorError, match="expected some of memory, race, init"), trlaunch.emulator.checking("wrong"):
        pass


def test_the_attribute_holds_for_launches_and_checking_replaces_it() -> None:
    text = kernel("st.shared.u32 [%r2], %r1; ld.shared.u32 %r9, [%r3]; st.global.u32 [%d2], %r9;")
    launch(text, [zeros()])
    trlaunch.emulator.check = "race"
    with pytest.raises(Fault, match="race in k"):
        launch(text, [zeros()])
    with trlaunch.emulator.checking("memory"):
        launch(text, [zeros()])
    with pytest.raises(Fault, match="race in k"):
        launch(text, [zeros()])


def test_the_environment_says_what_a_process_begins_with() -> None:
    code = "import trlaunch.emulator; print(trlaunch.emulator.check)"
    env = os.environ | {settings.VARIABLE: "init"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "memory,init"
    env[settings.VARIABLE] = "everything"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no check 'everything'" in done.stderr


# --- shared memory ---------------------------------------------------------------------------------------------------

STORE, LOAD = "st.shared.u32 [%r2], %r1;", "ld.shared.u32 %r9, [%r3];"
OUT = "st.global.u32 [%d2], %r9;"


def test_a_report_has_both_accesses_with_threads_lines_and_values(tmp_path: Path) -> None:
    text = kernel(f"\n{STORE}\n{LOAD}\n{OUT}")
    assert_ptxas_accepts(text, tmp_path)
    fault = found(text, zeros())
    assert fault is not None
    lines = text.splitlines()
    assert (fault.kind, fault.cta, fault.thread, fault.address) == ("race", (0, 0, 0), (0, 0, 0), 128)
    assert fault.ptx_line == lines.index(LOAD) + 1
    message = str(fault)
    assert "load of 4 bytes at shared address 0x80, which no barrier orders after the write below" in message
    assert "(the value there is 0x00000020)" in message
    assert f"the write: CTA (0, 0, 0), thread (32, 0, 0), PTX line {lines.index(STORE) + 1}: {STORE}" in message
    assert "64 lanes in all" in message


@pytest.mark.parametrize(
    "between",
    ["bar.sync 0;", "barrier.sync 3;", "bar.sync 1, 64;", "@%p1 bra L; L: bar.sync 0;"],
)
def test_barriers_order(between: str) -> None:
    assert found(kernel(f"{STORE} setp.eq.u32 %p1, %r1, 5; {between} {LOAD} {OUT}"), zeros()) is None


@pytest.mark.parametrize("between", ["", "bar.warp.sync -1;", "membar.cta;", "fence.proxy.async.shared::cta;"])
def test_what_does_not_order_other_warps(between: str) -> None:
    fault = found(kernel(f"{STORE} {between} {LOAD} {OUT}"), zeros())
    assert fault is not None
    assert fault.kind == "race"


def test_lanes_of_a_warp_are_ordered_by_its_own_barrier_alone() -> None:
    body = f"{STORE} {{}} ld.shared.u32 %r9, [%r4]; {OUT}"
    fault = found(kernel(body.format("")), zeros())
    assert fault is not None
    assert "thread (1, 0, 0)" in str(fault)
    assert found(kernel(body.format("bar.warp.sync -1;")), zeros()) is None
    assert found(kernel(body.format("bar.sync 0;")), zeros()) is None
    own = f"{STORE} ld.shared.u32 %r9, [%r2]; {OUT}"  # a thread knows of itself
    assert found(kernel(own), zeros()) is None


def test_a_write_races_with_an_earlier_read() -> None:
    body = f"{STORE} bar.sync 0; {LOAD} {{}} st.shared.u32 [%r2], %r5; {OUT}"
    fault = found(kernel(body.format("")), zeros())
    assert fault is not None
    assert "store of 4 bytes" in str(fault)
    assert "after the read below (it writes 0x00000000 over 0x00000000)" in str(fault)
    assert found(kernel(body.format("bar.sync 0;")), zeros()) is None


def test_equal_values_do_not_race_and_different_ones_do() -> None:
    """Triton has several warps store what they all have; of one instruction, too."""
    same = "mov.u32 %r9, 7; st.shared.u32 [%r6], %r9; st.shared.u32 [%r6], %r9; bar.sync 0; ld.shared.u32 %r9, [%r6];"
    assert found(kernel(same + OUT), zeros()) is None
    fault = found(kernel("st.shared.u32 [%r6], %r1; bar.sync 0; ld.shared.u32 %r9, [%r6];" + OUT), zeros())
    assert fault is not None
    assert "where another thread stores another value in the same instruction" in str(fault)
    assert "(it writes 0x00000000, the other 0x00000001)" in str(fault)


def test_bytes_are_told_apart() -> None:
    """Two warps write the halves of a word."""
    body = """
    cvt.u16.u32 %h1, %r1; shr.u32 %r9, %r1, 5; and.b32 %r10, %r1, 31; mad.lo.u32 %r10, %r10, 4, %r6;
    {at}
    st.shared.u16 [%r10], %h1;
    """
    assert found(kernel(body.format(at="mad.lo.u32 %r10, %r9, 2, %r10;")), zeros()) is None
    assert found(kernel(body.format(at="")), zeros()) is not None


def test_named_barriers_order_those_that_meet_there_alone() -> None:
    """Warp 0 only arrives: warp 1 knows what it did, not the other way round."""
    body = """
    setp.lt.u32 %p1, %r1, 32;
    @%p1 st.shared.u32 [%r2], %r1;
    @!%p1 st.shared.u32 [%r2+1024], %r1;
    @%p1 bar.arrive 1, 64;
    @!%p1 bar.sync 1, 64;
    {load}
    st.global.u32 [%d2], %r9;
    """
    assert found(kernel(body.format(load="@!%p1 ld.shared.u32 %r9, [%r3];")), zeros()) is None
    fault = found(kernel(body.format(load="@%p1 ld.shared.u32 %r9, [%r3+1024];")), zeros())
    assert fault is not None
    assert fault.thread == (0, 0, 0)


def test_atomics_do_not_race_with_each_other() -> None:
    text = """
    setp.eq.u32 %p1, %r1, 0; mov.u32 %r9, 0;
    @%p1 st.shared.u32 [%r6], %r9;
    {0}
    atom.shared.add.u32 %r9, [%r6], 1;
    {1}
    ld.shared.u32 %r9, [%r6];
    """
    text += OUT
    assert found(kernel(text.format("bar.sync 0;", "bar.sync 0;")), zeros()) is None
    for barriers in (("bar.sync 0;", ""), ("", "bar.sync 0;")):
        fault = found(kernel(text.format(*barriers)), zeros())
        assert fault is not None
        assert "atomic" in str(fault)


# --- asynchronous copies ---------------------------------------------------------------------------------------------

COPY = "cp.async.ca.shared.global [%r2], [%d3], 4;"
SOURCE = "add.u64 %d3, %a1, %d1;"


@pytest.mark.parametrize(
    ("body", "clean"),
    [
        (f"{COPY} cp.async.commit_group; cp.async.wait_group 0; bar.sync 0; {LOAD}", True),
        (f"{COPY} cp.async.wait_all; bar.sync 0; {LOAD}", True),
        (f"{COPY} cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r9, [%r2];", True),
        (f"{COPY} cp.async.commit_group; cp.async.wait_group 1; bar.sync 0; {LOAD}", False),
        (f"{COPY} cp.async.commit_group; bar.sync 0; {LOAD}", False),
        (f"{COPY} cp.async.wait_group 0; bar.sync 0; {LOAD}", False),  # not committed
        (f"{COPY} cp.async.commit_group; bar.sync 0; cp.async.wait_group 0; {LOAD}", False),
        (f"{COPY} cp.async.commit_group; st.shared.u32 [%r2], %r1; cp.async.wait_all; bar.sync 0; {LOAD}", False),
    ],
)
def test_copies_have_come_for_those_who_waited(body: str, clean: bool) -> None:
    fault = found(kernel(SOURCE + body + OUT, 2), zeros(), np.arange(1, 257, dtype=np.uint32))
    assert (fault is None) == clean
    if fault is not None:
        assert fault.kind == "race"
        assert "cp.async" in str(fault)


def test_groups_are_counted_per_thread() -> None:
    """Half of the threads commit once more: for them, leaving one group pending is enough."""
    body = f"{SOURCE} setp.lt.u32 %p1, %r1, 32; {COPY} cp.async.commit_group;"
    body += " {} cp.async.commit_group; cp.async.wait_group 1;"
    load = f"bar.sync 0; {LOAD} {OUT}"
    values = zeros(), np.arange(256, dtype=np.uint32)
    assert found(kernel(body.format("") + load, 2), *values) is None
    fault = found(kernel(body.format("@%p1") + load, 2), *values)
    assert fault is not None
    assert "its thread has not waited for the group" in str(fault)
    assert "thread (32, 0, 0), PTX line" in str(fault)


@pytest.mark.parametrize(
    ("store", "values", "clean"),
    [
        ("cp.async.bulk.tensor.2d.global", "5", True),  # both CTAs store the same
        ("cp.async.bulk.tensor.2d.global", "%ctaid.x", False),
        ("cp.reduce.async.bulk.tensor.2d.global", "%ctaid.x", True),
    ],
)
def test_tensor_stores_of_two_ctas_to_one_place(store: str, values: str, clean: bool) -> None:
    """Reductions are atomic."""
    out = numbers(8, 16)
    out[:] = 0
    reduced = ".add.bulk_group" if "reduce" in store else ".bulk_group"
    body = f"""
    mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0; mov.u32 %r2, s; mad.lo.u32 %r3, %r1, 8, %r2;
    mov.u32 %r4, {values}; st.shared.v2.u32 [%r3], {{%r4, %r4}};
    fence.proxy.async.shared::cta; bar.sync 0; mov.u32 %r5, 0;
    @%p1 {store}.shared::cta{reduced} [%a0, {{%r5, %r5}}], [%r2];
    cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
    """
    text = wrap(body, 2, threads=32, extra=SHARED.replace("16 .b8", "1024 .b8"))
    with trlaunch.emulator.checking("race", collect=True) as findings:
        launch(text, [tensor_map(out, (8, 16)), out], grid=(2,), read_only=(0,))
    assert (len(findings) == 0) == clean
    if not clean:
        (finding,) = findings
        assert finding.fault.cta == (0, 0, 0)
        assert "the other 0x00000001000000010000000100000001" in str(finding.fault)
        assert "CTA (1, 0, 0)" in str(finding.fault)


# --- global memory ---------------------------------------------------------------------------------------------------


def test_ctas_race_where_nothing_orders_them() -> None:
    store = "mov.u32 %r9, %ctaid.x; st.global.u32 [%d2], %r9;"
    fault = found(kernel(store), zeros(), grid=4)
    assert fault is not None
    assert "address 0x" in str(fault)
    assert "0 bytes into 'arg0'" in str(fault)
    assert "CTA (1, 0, 0)" in str(fault) or fault.cta == (1, 0, 0)
    assert found(kernel("mov.u32 %r9, 5; st.global.u32 [%d2], %r9;"), zeros(), grid=4) is None
    load = "ld.global.u32 %r9, [%d2]; add.u32 %r9, %r9, %ctaid.x; st.global.u32 [%d2+256], %r9;"
    assert found(kernel(load), zeros()) is None
    fault = found(kernel("ld.global.u32 %r9, [%d2]; st.global.u32 [%d2], %r1;"), zeros(), grid=2)
    assert fault is not None


def test_ctas_of_different_chunks_race_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trlaunch.emulator.driver._LANES", 64)
    fault = found(kernel("mov.u32 %r9, %ctaid.x; st.global.u32 [%d2], %r9;"), zeros(), grid=4)
    assert fault is not None
    assert fault.cta == (1, 0, 0)
    assert "CTA (0, 0, 0)" in str(fault)


#: CTA 0 writes and raises a flag, the others poll it and read.
FLAG = """
mov.u32 %r9, %ctaid.x; setp.ne.u32 %p1, %r9, 0; setp.eq.u32 %p2, %r1, 0; mov.u32 %r10, 1;
@%p1 bra READ;
st.global.u32 [%d2], %r1;
{before}
@%p2 {release}
bra DONE;
READ:
@!%p2 bra MET;
POLL: {acquire} setp.eq.u32 %p3, %r11, 0; @%p3 bra POLL;
MET: {after}
ld.global.u32 %r12, [%d2];
DONE:
"""
RELEASE, ACQUIRE = "atom.global.gpu.release.exch.b32 %r11, [%a1], %r10;", "ld.global.gpu.acquire.u32 %r11, [%a1];"


@pytest.mark.parametrize(
    ("parts", "clean"),
    [
        (("bar.sync 0;", RELEASE, ACQUIRE, "bar.sync 0;"), True),
        (("bar.sync 0;", RELEASE.replace("release", "acq_rel"), ACQUIRE, "bar.sync 0;"), True),
        (("bar.sync 0;", RELEASE.replace(".release", ".relaxed"), ACQUIRE, "bar.sync 0;"), False),
        (("bar.sync 0;", RELEASE, ACQUIRE.replace("acquire", "relaxed"), "bar.sync 0;"), False),
        (("", RELEASE, ACQUIRE, "bar.sync 0;"), False),
        (("bar.sync 0;", RELEASE, ACQUIRE, ""), False),
        (("bar.sync 0; membar.gl;", RELEASE.replace(".release", ".relaxed"),
          ACQUIRE.replace("acquire", "relaxed"), "membar.gl; bar.sync 0;"), True),
    ],
)  # fmt: skip
def test_releases_and_acquires_order_ctas(parts: tuple[str, ...], clean: bool, tmp_path: Path) -> None:
    text = kernel(FLAG.format(**dict(zip(("before", "release", "acquire", "after"), parts, strict=True))), 2)
    assert_ptxas_accepts(text, tmp_path)
    fault = found(text, zeros(), zeros(), grid=3, checks=("race",))
    assert (fault is None) == clean


def test_a_load_that_only_feeds_the_store_it_races_with_is_none() -> None:
    """What Triton makes of ``store(p, load(p) + 1)``: every warp loads, one thread stores."""
    body = "ld.global.u32 %r9, [%a0]; add.u32 %r10, %r9, 1; setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u32 [%a0], %r10;"
    assert found(kernel(body), zeros()) is None
    fault = found(kernel(body + "st.global.u32 [%d2+512], %r9;"), zeros())
    assert fault is not None


# --- memory nobody wrote ---------------------------------------------------------------------------------------------


def test_loads_of_new_arrays_are_found() -> None:
    text = kernel("add.u64 %d3, %a1, %d1; ld.global.u32 %r9, [%d3]; st.global.u32 [%d2], %r9;", 2)
    module = trlaunch.Kernel.from_bytes(text.encode(), level="ptx", device="emulator", signature="*u32,*u32")
    source, out = (trlaunch.empty(256, "u32", device="emulator") for _ in range(2))
    with trlaunch.emulator.checking("init"):
        with pytest.raises(Fault, match="which nothing has written since it was allocated") as caught:
            module.launch(1, out, source)
        assert caught.value.kind == "uninitialised"
        source.copy_from(np.arange(256, dtype=np.uint32))
        module.launch(1, out, source)
        module.launch(1, source, out)  # what a kernel wrote
        other = trlaunch.empty(256, "u32", device="emulator")
        np.asarray(other)[:] = 3  # what the host wrote through a view
        module.launch(1, out, other)
    module.launch(1, out, trlaunch.empty(256, "u32", device="emulator"))  # without the check


def test_shared_memory_that_nothing_wrote_is_found() -> None:
    fault = found(kernel("@%p1 st.shared.u32 [%r2], %r1; bar.sync 0;" + LOAD + OUT), zeros(), checks=("memory",))
    assert fault is not None
    assert fault.kind == "uninitialised"


# --- findings --------------------------------------------------------------------------------------------------------


def test_findings_are_collected_once_a_pair_of_lines() -> None:
    text = kernel(f"\n{STORE}\n{LOAD}\nst.shared.u32 [%r2], %r9;\n{OUT}")
    out = zeros()
    with trlaunch.emulator.checking("race", collect=True) as findings:
        for _ in range(3):
            launch(text, [out], grid=(2,))
    assert findings.launches == {"k": 3}
    assert {f.fault.kind for f in findings} == {"race"}
    lines = [f.ptx_lines for f in findings]
    assert len(lines) == len(set(lines)) >= 2
    assert all(findings.times(f) == 3 for f in findings)
    described = findings.to_dict()
    assert json.loads(json.dumps(described))["launches"] == {"k": 3}
    assert {"kernel", "kind", "cta", "thread", "ptx_lines", "source", "message"} <= described["findings"][0].keys()


def test_a_launch_that_cannot_go_on_is_taken_down_and_ends() -> None:
    with trlaunch.emulator.checking(collect=True) as findings:
        launch(wrap("mov.u32 %r1, 1; st.global.u32 [%a0+4096], %r1;"), [zeros(4)])
        launch(wrap("mov.u32 %r1, 1; st.global.u32 [%a0], %r1;"), [zeros(4)])
    (finding,) = findings
    assert finding.fault.kind == "out-of-bounds"
    assert findings.launches == {"k": 2}
    with trlaunch.emulator.checking() as findings, pytest.raises(Fault):
        launch(wrap("mov.u32 %r1, 1; st.global.u32 [%a0+4096], %r1;"), [zeros(4)])
    assert len(findings) == 1


def test_variables_of_the_module_are_those_of_unchecked_launches() -> None:
    text = wrap("ld.global.u32 %r1, [v]; add.u32 %r1, %r1, 1; st.global.u32 [v], %r1; st.global.u32 [%a0], %r1;",
                extra=".global .u32 v = 0;\n", threads=1)  # fmt: skip
    out = zeros(1)
    for expected in range(1, 6):
        with trlaunch.emulator.checking("race" if expected % 2 else "memory"):
            launch(text, [out])
        assert out[0] == expected


# --- the parts -------------------------------------------------------------------------------------------------------


def test_records_keep_what_they_are_made_of() -> None:
    rng = np.random.default_rng(0)
    when, who = rng.integers(1, 1 << 20, 1000), rng.integers(0, 1 << 30, 1000)
    made = records(when, who, 12345)
    assert (epochs(made) == when).all()
    assert (threads(made) == who).all()
    assert (places(made) == 12345).all()


def test_groups_end_in_order_and_for_their_own_threads() -> None:
    groups = Groups((1, 64))
    thread = np.array([3])
    for n in range(3):
        groups.add(np.array([0]), thread, np.array([[n]]), np.array([n + 1], np.uint64))
        groups.commit(None)
    only = np.zeros((1, 64), bool)
    only[0, 4] = True
    assert groups.wait(only, 0) == []
    assert [int(done[3][0]) for done in groups.wait(None, 2)] == [1]
    assert [int(done[3][0]) for done in groups.wait(None, 0)] == [2, 3]


def test_touches_are_the_active_lanes_in_order() -> None:
    mask = np.zeros((2, 64), bool)
    mask[1, 5] = mask[0, 40] = True
    touch = Touch.of(np.full((1, 1), 8, np.uint32), mask, None, (2, 64))
    assert touch.row.tolist() == [0, 1]
    assert touch.thread.tolist() == [40, 5]
    rows = Touch.of(np.arange(16, dtype=np.uint32)[None], None, None, (1, 64))  # ldmatrix.x1: eight rows a warp
    assert rows.thread.tolist() == [n * 4 for n in range(16)]


def test_values_differ_by_more_than_rounding() -> None:
    one = np.array([1.0, 1.0, 1.0, 0.0, np.inf], np.float32)
    other = np.array([1.0, 1.0000001, 1.001, 1e-30, 1.0], np.float32)
    assert differ(one, other).tolist() == [False, False, True, True, True]
    assert differ(np.arange(4, dtype=np.uint32), np.arange(1, 5, dtype=np.uint32)).all()
    assert differ(np.array([1, 2], np.uint16), np.array([1, 3], np.uint16)).tolist() == [False, True]
    pairs = np.array([[1.0, 2.0], [1.0, 2.0]], np.float32)
    others = np.array([[1.0, 2.0000002], [1.0, 3.0]], np.float32)
    assert differ(pairs.view(np.uint64)[:, 0], others.view(np.uint64)[:, 0]).tolist() == [False, True]


def test_more_mbarriers_than_are_told_apart_share_the_last() -> None:
    clocks = Clocks(np.arange(2), 4, None)
    numbers = {clocks.barrier_at(8 * n) for n in range(MOST_BARRIERS + 10)}
    assert numbers == set(range(MOST_BARRIERS))


def test_clocks_hand_on_what_was_learnt_from_others() -> None:
    """Warp 0 to 1 by one barrier, 1 to 2 by another: 2 knows of 0."""
    clocks = Clocks(np.arange(1), 3, None)
    first = clocks.epoch[0, 0]
    one, two = np.array([[True, True, False]]), np.array([[False, True, True]])
    assert not clocks.known[0, 0, 2, 0] >= first
    clocks.barrier(one, one)
    clocks.barrier(two, two)
    assert clocks.known[0, 0, 2, 0] >= first
    assert clocks.known[0, 0, 0, 2] < clocks.epoch[0, 2]


def test_an_acquire_learns_what_was_released_at_that_address_and_everywhere() -> None:
    releases = Releases(4)
    releases.put(64, np.array([5, 0, 0, 0]))
    assert releases.get(128).tolist() == [0, 0, 0, 0]
    assert releases.get(-1).tolist() == [5, 0, 0, 0]
    releases.put(-1, np.array([0, 7, 0, 0]))
    assert releases.get(128).tolist() == [0, 7, 0, 0]
    assert releases.get(64).tolist() == [5, 7, 0, 0]
