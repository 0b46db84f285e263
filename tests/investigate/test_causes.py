"""Rules over evidence that is made by hand: what each needs to speak, and what comes first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trlaunch.errors import DriverError
from trlaunch.finding import Finding
from trlaunch.investigate.carried import Address, Carried, Spot
from trlaunch.investigate.cause import CAUSES, Cause
from trlaunch.investigate.causes import LIKELY, causes, merged
from trlaunch.investigate.evidence import Evidence, Site, nearest
from trlaunch.investigate.rules_launch import RULES as LAUNCH_RULES
from trlaunch.investigate.rules_memory import RULES as MEMORY_RULES
from trlaunch.investigate.symptoms import MEANINGS, of_exception, of_fault, of_status
from trlaunch.investigate.trial import STATUSES, Died, Launched, Outcome, Scene, Trial

SPOTS = (Spot("x", 0x1000000, 1024), Spot("y", 0x2000000, 64))
X = SPOTS[0]


def scene(*findings: Finding, **image: object) -> Scene:
    return Scene("k", "cubin", "cuda:90", "cuda:0", "H200", threads=128, image=image, spots=SPOTS, findings=findings)


def evidence(
    code: int | None = None,
    *,
    status: str = "error",
    findings: tuple[Finding, ...] = (),
    ptx: str = "",
    addresses: tuple[int, ...] = (),
    sites: tuple[Site, ...] = (),
    stderr: str = "",
    block: tuple[int, int, int] = (128, 1, 1),
    **image: object,
) -> Evidence:
    """A launch on a GPU that ended with a driver's status."""
    error = (
        None
        if code is None
        else Died("DriverError", f"status {code}", call="cuLaunchKernelEx", name=str(code), code=code)
    )
    launch = Launched(0, "k", "cuda:0", (1, 1, 1), block, buffers=SPOTS, shared=1024)
    outcome = Outcome(status, error, scene(*findings, **image), (launch,), stderr=stderr)
    carried = Carried(tuple(Address(a) for a in addresses))
    trial = Trial({"k.ptx": b""}, "k.ptx", (1,), carried)
    return Evidence(outcome, trial, sites=sites, blamed=launch, texts={"ptx": ptx} if ptx else {})


def core(symptom: str | None, instruction: str = "", **fields: object) -> Site:
    return Site("core dump", symptom, "Warp Something", "k", (0, 0, 0), (1, 0, 0), instruction, spots=SPOTS, **fields)


def emulator(symptom: str, what: str = "", instruction: str = "", **fields: object) -> Site:
    return Site("emulator", symptom, what or symptom, "k", (0, 0, 0), (1, 0, 0), instruction, spots=SPOTS, **fields)


BLOCK = Finding("block", "error", "64 threads, compiled for 128")
SHARED = Finding("shared", "error", "1024 bytes were given, the kernel needs 24576")
ILLEGAL = "illegal-instruction"
WGMMA = "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%f1}, %rd1, %rd2, 1, 1, 1, 0, 0;"
TMA = (
    "\tcp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r8], [%rd1, {%r79, %r44}], [%r5];"
)
WAIT = "\tmbarrier.init.shared.b64 [%r1], 1;\n\tmbarrier.try_wait.parity.shared.b64 %p1, [%r1], 0;"
COPY = "UTMALDG.2D [UR8], [UR6]"

FIRST = {
    "block, illegal instruction": (evidence(715, findings=(BLOCK,), ptx=WGMMA, block=(64, 1, 1)), "block"),
    "block refused by the driver": (evidence(1, findings=(BLOCK,)), "block"),
    "shared memory": (evidence(700, findings=(SHARED,), addresses=(0,)), "shared"),
    "wgmma without the audit": (evidence(715, ptx=WGMMA, block=(64, 1, 1)), "wgmma"),
    "wgmma at the instruction": (
        evidence(715, block=(96, 1, 1), sites=(core(ILLEGAL, "HGMMA.64x64x16.F32 R24, gdesc[UR4], R24"),)),
        "wgmma",
    ),
    "null, address known": (
        evidence(700, addresses=(0,), sites=(core("illegal-address", "STG.E", address=8),)),
        "null-pointer",
    ),
    "null, address not known": (evidence(700, addresses=(0,)), "null-pointer"),
    "wild, address known": (
        evidence(700, addresses=(0x7F0000000000,), sites=(core("illegal-address", "LDG.E", address=0x7F0000000010),)),
        "wild-pointer",
    ),
    "wild, address not known": (evidence(700, addresses=(0x7F0000000000,)), "wild-pointer"),
    "outside, although a null is passed": (
        evidence(700, addresses=(0,), sites=(core("illegal-address", "LDG.E", address=X.address + 2048),)),
        "out-of-bounds",
    ),
    "nothing known of an address": (evidence(700), "out-of-bounds"),
    "shared window": (evidence(700, sites=(core("illegal-address", "STS [UR4+0x7fff0], R5"),)), "shared-out-of-bounds"),
    "misaligned": (evidence(716), "misaligned"),
    "misaligned by the core": (
        evidence(716, sites=(core("misaligned", "LDG.E.128", address=X.address + 4),)),
        "misaligned",
    ),
    "tensor copy by the core": (evidence(715, sites=(core(ILLEGAL, COPY),), ptx=TMA), "tma-coordinate"),
    "tensor copy by the emulator": (
        evidence(715, ptx=TMA, sites=(emulator("misaligned", "misaligned: coordinate 3", TMA.strip()),)),
        "tma-coordinate",
    ),
    "tensor copy in the text alone": (evidence(715, ptx=TMA), "tma-coordinate"),
    "descriptor by the emulator": (
        evidence(715, ptx=TMA, sites=(core(ILLEGAL, "EXIT"), emulator("tensor-map"))),
        "tensor-map",
    ),
    "mbarrier by the core": (
        evidence(719, sites=(core(ILLEGAL, "SYNCS.ARRIVE.TRANS64.A1T0 RZ, [UR4], RZ"),)),
        "mbarrier",
    ),
    "mbarrier by the text": (evidence(719, ptx="\tmbarrier.arrive.shared.b64 %rd1, [%r1];"), "mbarrier"),
    "mbarrier by its own code": (evidence(719, sites=(core("mbarrier", "SYNCS.ARRIVE"),)), "mbarrier"),
    "assert": (
        evidence(710, ptx="\ttrap;", stderr="k.py:3: k: block: [0,0,0] Assertion `x is negative` failed."),
        "assert",
    ),
    "trap with a dump": (evidence(719, status="fault", ptx="\t@%p1 trap;", sites=(core(None, "BRA 0x80"),)), "trap"),
    "trap in the text": (evidence(719, ptx="\t@%p1 trap;"), "trap"),
    "stack": (evidence(714, local_bytes=4096), "stack"),
    "budget at the instruction": (
        evidence(715, ptx="setmaxnreg.inc.sync.aligned.u32 232;", sites=(core(ILLEGAL, "USETMAXREG.TRY_ALLOC 0xe8"),)),
        "setmaxnreg",
    ),
    "budget of no multiple of 8": (evidence(715, ptx="setmaxnreg.dec.sync.aligned.u32 25;"), "setmaxnreg"),
    "no binary": (evidence(209), "architecture"),
    "damaged binary": (evidence(200), "architecture"),
    "ptx": (evidence(222), "ptx"),
    "out of memory": (evidence(2), "memory"),
    "too many registers": (evidence(701), "resources"),
    "cooperative": (evidence(720), "cooperative"),
    "cluster": (evidence(912), "cluster"),
    "invalid value": (evidence(1), "invalid-value"),
    "ecc": (evidence(214), "hardware"),
    "nothing known of an instruction": (evidence(715), "illegal-instruction"),
    "a race by compute-sanitizer": (
        evidence(None, status="fault", sites=(Site("compute-sanitizer", "race", "Race reported between", "k"),)),
        "race",
    ),
    "a loop": (evidence(None, status="hang", ptx="again:\n\tbra again;"), "endless-loop"),
    "a wait": (evidence(None, status="hang", ptx=WAIT), "deadlock"),
    "a wait by the core": (
        evidence(None, status="hang", sites=(core(None, "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R1]"),)),
        "deadlock",
    ),
    "a loop by the core": (evidence(None, status="hang", sites=(core(None, "BRA `(.L_1)"),)), "endless-loop"),
    "nothing at all": (evidence(719), "unknown"),
}


@pytest.mark.parametrize("name", FIRST)
def test_what_comes_first(name: str) -> None:
    found, rule = FIRST[name]
    ranked = causes(found)
    assert ranked[0].rule == rule, [(c.rule, c.score, c.facts) for c in ranked]
    assert [c.score for c in ranked] == sorted((c.score for c in ranked), reverse=True)
    assert len({c.rule for c in ranked}) == len(ranked)
    assert all(c.facts for c in ranked)


def test_the_distance_to_the_nearest_argument_is_a_fact() -> None:
    for address, words in [
        (X.address - 4, "4 bytes before x (1024 bytes"),
        (X.address + 1024, "0 bytes past the end of x"),
        (X.address + 2048, "1024 bytes past the end of x"),
    ]:
        site = core("illegal-address", "LDG.E R2, [R4.64]", address=address, access=4)
        (first, *_) = causes(evidence(700, sites=(site,)))
        assert words in first.facts[0], first.facts


@pytest.mark.parametrize(
    "address,size,label,distance",
    [
        (X.address, 4, "x", 0),
        (X.address + 1020, 4, "x", 0),
        (X.address + 1022, 4, "x", 2),
        (X.address - 1, 1, "x", 1),
        (0x1FFFFFF, 1, "y", 1),
        (0, 1, "x", 0x1000000),
    ],
)
def test_nearest(address: int, size: int, label: str, distance: int) -> None:
    found = nearest(address, SPOTS, size)
    assert found is not None
    assert (found[0].label, found[1]) == (label, distance)
    assert nearest(address, []) is None


def test_a_witness_that_contradicts_the_device_counts_less() -> None:
    agreeing = evidence(716, sites=(emulator("misaligned", address=X.address + 4),))
    contradicting = evidence(716, sites=(emulator("race"),))
    assert causes(agreeing)[0].rule == "misaligned"
    ranked = {c.rule: c.score for c in causes(contradicting)}
    assert ranked["misaligned"] > ranked["race"]


@pytest.mark.parametrize(
    "innermost,size,first",
    [(3, None, "tma-coordinate"), (-1, None, "tma-coordinate"), (8, None, "tma-coordinate"), (64, None, "tensor-map"),
     (8, 2, "tensor-map"), (4, 2, "tma-coordinate")],
)  # fmt: skip
def test_a_coordinate_that_is_known_decides(innermost: int, size: int | None, first: str) -> None:
    site = core(ILLEGAL, COPY, coordinates=(innermost, 0))
    found = evidence(715, sites=(site,))
    if size is not None:
        entry = {"block_size": [64, 64], "elem_type": 6, "elem_size": size, "swizzle": 3}
        files = {"k.ptx": b"", "k.json": json.dumps({"tensordesc_meta": [entry]}).encode()}
        assert found.trial is not None
        found = replace(found, trial=replace(found.trial, files=files))
    ranked = causes(found)
    assert ranked[0].rule == first, [(c.rule, c.score, c.facts) for c in ranked]
    assert f"coordinates {innermost}, 0, innermost first" in ranked[0].facts


def test_causes_that_agree_become_one() -> None:
    (found, other) = merged([Cause("trap", 0.5, ("a",)), Cause("trap", 0.9, ("b", "a")), Cause("block", 0.6, ("c",))])
    assert (found.rule, found.facts, other.rule) == ("trap", ("b", "a"), "block")
    assert 0.9 < found.score < 0.95


def test_unlikely_causes_come_behind_unknown() -> None:
    found = causes(evidence(719))
    assert found[0].rule == "unknown"
    assert all(c.score <= LIKELY for c in found)


def test_of_a_launch_that_ends_only_the_audit_speaks() -> None:
    found = causes(evidence(None, status="ok", findings=(BLOCK,), ptx="\ttrap;"))
    assert [(c.rule, c.score) for c in found] == [("block", 0.85)]
    assert causes(evidence(None, status="ok", ptx=TMA)) == ()


def test_an_unexplained_finding_of_the_audit_comes_behind_what_explains() -> None:
    grid = Finding("grid", "error", "70000 CTAs along y")
    found = causes(evidence(710, findings=(grid,)))
    assert [c.rule for c in found[:2]] == ["assert", "configuration"]


def test_every_symptom_and_rule_has_its_words() -> None:
    for code in range(1000):
        symptom = of_status(code)
        assert symptom is None or symptom in MEANINGS
    from trlaunch.cuda.exceptions import EXCEPTIONS

    for exception in EXCEPTIONS.values():
        symptom = of_exception(exception.kind)
        assert (symptom is None) == (exception.kind == "none"), exception
        assert symptom is None or symptom in MEANINGS, exception
    assert of_fault("nothing") is None
    assert all(title and advice for title, advice in CAUSES.values())
    assert LAUNCH_RULES
    assert MEMORY_RULES


def test_a_driver_error_is_kept_whole() -> None:
    error = DriverError("it failed", call="cuLaunchKernelEx", code=700, name="CUDA_ERROR_ILLEGAL_ADDRESS")
    died = Died.of(error)
    assert (died.type, died.call, died.code, died.name) == (
        "DriverError", "cuLaunchKernelEx", 700, "CUDA_ERROR_ILLEGAL_ADDRESS",
    )  # fmt: skip


def test_the_finer_exception_counts_before_the_status() -> None:
    found = evidence(719, sites=(core(ILLEGAL, "SYNCS.ARRIVE"),))
    assert found.status_symptom == "launch-failed"
    assert found.symptom == ILLEGAL
    assert replace(found, sites=()).symptom == "launch-failed"


def test_every_cause_and_status_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "investigate.md").read_text()
    for rule, (title, advice) in CAUSES.items():
        assert f"| `{rule}` | {title} | {advice} |" in page
    for status, meaning in STATUSES.items():
        assert f"| `{status}` | {meaning} |" in page
