"""Compute-sanitizer's text, read; and a run under a stand-in that prints such text."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trlaunch
from tests.investigate.cases import assemble, numbers, written
from trlaunch.errors import ArgumentError, AssemblerMissing
from trlaunch.investigate import sanitizers
from trlaunch.investigate.sanitizers import (
    TOOLS,
    SanitizerFinding,
    parse_findings,
    sanitize_program,
    sanitize_trial,
    tool_name,
)
from trlaunch.investigate.symptoms import MEANINGS

MEMCHECK = """\
a line of the program
========= COMPUTE-SANITIZER
========= Program hit CUDA_ERROR_INVALID_CONTEXT (error 201) due to "invalid device context" on CUDA API call to \
cuCtxGetId.
=========
========= Invalid __global__ write of size 4 bytes
=========     at k+0x40 in /src/kernels.py:21
=========     by thread (3,0,0) in block (1,2,0)
=========     Address 0x7f0000000400 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f0000000000 of size 1,024 bytes
=========
========= Invalid __global__ write of size 4 bytes
=========     at k+0x40 in /src/kernels.py:21
=========     by thread (4,0,0) in block (1,2,0)
=========     Access to 0x7f0000000404 is out of bounds
=========
========= Invalid __global__ read of size 16 bytes
=========     at void other<float>(float *)+0x1a0
=========     by thread (0,0,0) in block (0,0,0)
=========     Address 0x7f0000000401 is misaligned
=========
========= Program hit CUDA_ERROR_LAUNCH_FAILED (error 719) due to "unspecified launch failure" on CUDA API call to \
cuStreamSynchronize.
=========     Saved host backtrace up to driver entry point at error
=========
========= ERROR SUMMARY: 4 errors
"""

RACECHECK = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at k+0x80 in kernels.py:7
=========     and Read access at k+0x110 in kernels.py:8 [64 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""

SYNCCHECK = """\
========= COMPUTE-SANITIZER
========= Barrier error detected. Divergent thread(s) in block.
=========     at k+0x60
=========     by thread (0,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 1 error
"""

INITCHECK = """\
========= Uninitialized __global__ memory read of size 8 bytes
=========     at k+0x50
=========     by thread (1,0,0) in block (0,0,0)
=========     Address 0x7f0000000008
=========
"""


def test_memcheck() -> None:
    (first, second, third), died = parse_findings(MEMCHECK)
    assert first == SanitizerFinding(
        "illegal-address",
        "Invalid __global__ write of size 4 bytes",
        (
            "at k+0x40 in /src/kernels.py:21",
            "by thread (3,0,0) in block (1,2,0)",
            "Address 0x7f0000000400 is out of bounds",
            "and is 1 bytes after the nearest allocation at 0x7f0000000000 of size 1,024 bytes",
        ),
        function="k",
        offset=0x40,
        file="/src/kernels.py",
        line=21,
        thread=(3, 0, 0),
        block=(1, 2, 0),
        address=0x7F0000000400,
        size=4,
    )
    assert second.key == first.key
    assert second.address == 0x7F0000000404
    assert (third.symptom, third.function, third.offset, third.size) == ("misaligned", "other<float>", 0x1A0, 16)
    assert died is not None
    assert (died.name, died.code, died.call) == ("CUDA_ERROR_LAUNCH_FAILED", 719, "cuStreamSynchronize")


@pytest.mark.parametrize(
    "text,symptom,offset,line",
    [(RACECHECK, "race", 0x80, 7), (SYNCCHECK, "barrier", 0x60, None), (INITCHECK, "uninitialised", 0x50, None)],
)
def test_the_other_tools(text: str, symptom: str, offset: int, line: int | None) -> None:
    (found,), died = parse_findings(text)
    assert (found.symptom, found.function, found.offset, found.line) == (symptom, "k", offset, line)
    assert died is None


@pytest.mark.parametrize(
    "row,function,offset,place",
    [
        ("at k+0x40", "k", 0x40, (None, None)),
        ("at k(unsigned char *, int)+0x120", "k", 0x120, (None, None)),
        ("at void k<float, 4>(float *)+0x120 in /a b/k.cu:7", "k<float, 4>", 0x120, ("/a b/k.cu", 7)),
        ("at 0xcc0 in /home/me/k.py:38:__main__::k[abi:v1](Array<float, (int)1>)", "", 0xCC0, ("/home/me/k.py", 38)),
        ("at 0x00000030 in __cuda_sm70_warpsync", "__cuda_sm70_warpsync", 0x30, (None, None)),
    ],
)
def test_places_of_every_release(row: str, function: str, offset: int, place: tuple[str | None, int | None]) -> None:
    (found,), _ = parse_findings(f"========= Invalid __global__ read of size 4 bytes\n=========     {row}\n")
    assert found.offset == offset
    assert (found.file, found.line) == place
    assert found.function is not None
    assert function in found.function


def test_an_access_that_a_bulk_copy_makes() -> None:
    (found,), _ = parse_findings(
        "========= Invalid __global__ write of size 256 bytes\n=========     Access to 0x10 is out of"
    )
    assert (found.address, found.size) == (16, 256)


def test_what_is_not_its_own_is_passed_over() -> None:
    assert parse_findings("Invalid __global__ write\n     at k+0x40\n") == ([], None)
    assert parse_findings("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n") == ([], None)


ROWS = [row for text in (MEMCHECK, RACECHECK, SYNCCHECK, INITCHECK) for row in text.splitlines()]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(ROWS), st.text(max_size=30).map("=========".__add__)), max_size=12))
def test_any_text_is_read(rows: list[str]) -> None:
    found, died = parse_findings("\n".join(rows))
    assert len(found) <= len(rows)
    for finding in found:
        assert finding.symptom in MEANINGS
        assert (finding.function is None) == (finding.offset is None)
        assert finding.site(()).what.startswith(finding.what)
    assert died is None or any("Program hit" in row for row in rows)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program that takes compute-sanitizer's options, runs the command, and prints a text as its log."""

    def put(text: str) -> None:
        path = tmp_path / "compute-sanitizer"
        code = f"""\
            #!{sys.executable}
            import subprocess, sys
            words = sys.argv[1:]
            if words == ["--version"]:
                print("NVIDIA (R) Compute Sanitizer\\nVersion 2025.1.0.0 (build 1) (public-release)")
                sys.exit()
            log = words[words.index("--log-file") + 1]
            assert words[words.index("--tool") + 1] in {list(TOOLS)}
            start = words.index("--show-backtrace") + 2
            code = subprocess.run(words[start:]).returncode
            open(log, "w").write({text!r})
            sys.exit(code)
            """
        path.write_text(textwrap.dedent(code))
        path.chmod(0o755)
        monkeypatch.setenv("TRLAUNCH_COMPUTE_SANITIZER", str(path))

    return put


def test_its_findings_become_a_report(stand_in) -> None:
    stand_in(MEMCHECK)
    report = sanitize_trial(written("", numbers)(device="emulator"), timeout=60)
    assert report.status == "fault"
    assert report.kernel == "k"
    assert report.cause is not None
    assert report.cause.rule == "out-of-bounds"
    assert [(site.kernel, site.lanes) for site in report.evidence.sites] == [("k", 2), ("other<float>", 1)]
    assert "is out of bounds" in str(report)
    assert "kernels.py:21" in str(report)
    assert report.evidence.symptom == "illegal-address"


def test_without_findings_nothing_died(stand_in) -> None:
    stand_in("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n")
    report = sanitize_trial(written("", numbers)(device="emulator"), "racecheck", timeout=60)
    assert report.ok
    assert report.causes == ()


def test_a_program_under_it(stand_in, tmp_path: Path) -> None:
    stand_in(RACECHECK)
    report = sanitize_program([sys.executable, "-c", "print('ran')"], "racecheck", timeout=60, folder=tmp_path)
    assert report.cause is not None
    assert report.cause.rule == "race"
    assert report.evidence.outcome.stdout == "ran\n"


def test_a_launch_that_is_refused_stays_refused(stand_in) -> None:
    stand_in("========= COMPUTE-SANITIZER\n")
    artifact = trlaunch.Artifact.from_bytes(assemble(""), {"num_warps": 1, "shared": 0})
    trial = trlaunch.investigate.Trial.of(artifact, grid=1, args=[np.zeros(1), 3], signature="*fp64", device="emulator")
    report = sanitize_trial(trial, timeout=60)
    assert report.status == "refused"


def test_tools_by_name() -> None:
    assert tool_name("compute-sanitizer") == "memcheck"
    assert tool_name("compute-sanitizer:synccheck") == "synccheck"
    for text in ("compute-sanitizer:speed", "valgrind"):
        with pytest.raises(ArgumentError, match="memcheck, racecheck, initcheck, synccheck"):
            tool_name(text)
    with pytest.raises(ArgumentError, match="expected one of memcheck"):
        sanitize_trial(written("", numbers)(device="emulator"), "speed")


def test_without_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizers, "find_tools", lambda *_, **__: [])
    with pytest.raises(AssemblerMissing, match="TRLAUNCH_COMPUTE_SANITIZER"):
        sanitize_trial(written("", numbers)(device="emulator"))
