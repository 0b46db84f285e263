"""Whole programs: which launch is to blame, core dumps, hangs, errors that others print."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

import pytest

from trlaunch.errors import ArgumentError
from trlaunch.investigate import investigate_program
from trlaunch.investigate.symptoms import printed

ROOT = Path(__file__).resolve().parents[2]
DUMPS = ROOT / "tests" / "fixtures" / "coredumps"

LAUNCHES = """
import ctypes, os
import numpy as np
import trlaunch
from tests import corpus
from tests.fakecuda.inside import fail

blocking = os.environ.get("CUDA_LAUNCH_BLOCKING") == "1"
names = "add_kernel", "softmax_kernel"
kernels = {n: trlaunch.Kernel.from_file(corpus.path("3.6.0", "cuda:90", n, "cubin")) for n in names}
x = trlaunch.asarray(np.zeros(1024, np.float32), device="cuda:0")
add = lambda: kernels["add_kernel"].launch(1, x, x, x, 1024)
add()
add()
if blocking:  # the driver waits for each kernel, and the launch reports the error
    fail("cuLaunchKernelEx", 700)
kernels["softmax_kernel"].launch(1, x, x, 16, 16, 16)
fail("cuLaunchKernelEx", 0)
add()
fail("cuStreamSynchronize", 700)
x.numpy()
"""


def python(tmp_path: Path, code: str, **settings) -> object:
    (tmp_path / "program.py").write_text(code)
    environ = {"PYTHONPATH": str(ROOT), **settings.pop("environ", {})}
    return investigate_program(
        [sys.executable, "program.py"], folder=tmp_path, environ=environ, **{"timeout": 60, **settings}
    )


def test_an_asynchronous_error_is_blamed_on_the_launch_that_the_replay_died_in(tmp_path, fake_environment) -> None:
    report = python(tmp_path, LAUNCHES, environ=fake_environment())
    assert report.status == "error"
    assert report.evidence.outcome.last.kernel == "add_kernel"
    assert report.evidence.outcome.error.call == "cuStreamSynchronize"
    assert report.evidence.blamed is not None, str(report)
    assert (report.evidence.blamed.index, report.evidence.blamed.kernel) == (2, "softmax_kernel")
    assert "the error showed after launch 3 (add_kernel)" in report.evidence.blamed_by
    assert "softmax_kernel failed" in report.title


def test_without_a_replay_it_says_that_an_earlier_launch_may_be_to_blame(tmp_path, fake_environment) -> None:
    report = python(tmp_path, LAUNCHES, environ=fake_environment(), replay=False)
    assert report.evidence.replay is None
    assert "an earlier one may have caused it" in report.evidence.blamed_by


def test_a_core_dump_names_the_kernel_and_what_happened(tmp_path: Path) -> None:
    """A program that dies as one under the CUDA driver does: a dump at the place asked for, then SIGABRT."""
    dump = tmp_path / "dump"
    dump.write_bytes(lzma.decompress((DUMPS / "h200_misaligned_light.nvcudmp.xz").read_bytes()))
    code = f"""
import os, shutil
shutil.copy({str(dump)!r}, os.environ["CUDA_COREDUMP_FILE"].replace("%p", str(os.getpid())))
os.abort()
"""
    report = python(tmp_path, code)
    assert report.status == "fault"
    assert report.kernel == "k"
    assert report.cause.rule == "misaligned"
    site = report.evidence.own_site
    assert (site.cta, site.thread) == ((0, 0, 0), (0, 0, 0))
    assert site.address is not None
    assert site.address % 4 == 1
    assert report.core == dump.read_bytes()
    assert "was not launched by trlaunch" in report.evidence.blamed_by
    assert "STG.E" in str(report) or "nvdisasm" in str(report)


def test_a_damaged_core_dump_is_a_report_that_says_so(tmp_path: Path) -> None:
    code = "import os\nopen(os.environ['CUDA_COREDUMP_FILE'].replace('%p', '1'), 'wb').write(b'no dump')\nos.abort()"
    report = python(tmp_path, code)
    assert report.status == "fault"
    assert "cannot be read" in report.evidence.sites[0].what
    assert report.cause.rule == "unknown"


def test_an_error_that_torch_prints_is_understood(tmp_path: Path) -> None:
    text = "RuntimeError: CUDA error: an illegal memory access was encountered"
    report = python(tmp_path, f"import sys; sys.exit({text!r})")
    assert report.status == "error"
    assert report.evidence.symptom == "illegal-address"
    assert report.cause.rule == "out-of-bounds"


def test_a_program_that_dies_by_itself_is_no_kernels_fault(tmp_path: Path) -> None:
    report = python(tmp_path, "import os; os.abort()")
    assert report.status == "killed"
    assert report.cause.rule == "host-crash"


def test_a_program_that_goes_well(tmp_path: Path) -> None:
    report = python(tmp_path, "print('done')")
    assert report.ok
    assert report.causes == ()
    assert report.evidence.outcome.stdout == "done\n"


def test_a_program_that_hangs_outside_of_kernels(tmp_path: Path) -> None:
    report = python(tmp_path, "import time; time.sleep(60)", timeout=1)
    assert report.status == "timeout"
    assert report.cause.rule == "not-started"


def test_what_it_prints_is_shown_while_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)", echo=True)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("out\n", "err\n")


def test_a_saved_program_can_be_run_again(tmp_path: Path) -> None:
    import subprocess

    report = python(tmp_path, "import os; os.abort()")
    folder = report.save(tmp_path / "repro")
    done = subprocess.run(
        [sys.executable, folder / "reproduce.py"], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "host-crash" in done.stdout, done.stderr


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="cannot be started"):
        investigate_program([str(tmp_path / "nothing")])
    with pytest.raises(ArgumentError, match="no command"):
        investigate_program([])


@pytest.mark.parametrize(
    "line,code",
    [
        ("RuntimeError: Triton Error [CUDA]: an illegal instruction was encountered", 715),
        ("torch.AcceleratorError: CUDA error: device-side assert triggered", 710),
        ("cupy_backends.cuda.api.driver.CUDADriverError: CUDA_ERROR_MISALIGNED_ADDRESS: misaligned address", 716),
        ("RuntimeError: HIP error: unspecified launch failure", 719),
        ("AssertionError: a misaligned address in a comment", None),
        ("ok", None),
    ],
)
def test_errors_of_devices_in_text(line: str, code: int | None) -> None:
    found = printed(f"Traceback\n{line}\nmore")
    assert (found.code if found else None) == code


@pytest.mark.parametrize("code,status,words", [("import sys; sys.exit(7)", 7, ""), ("1 / 0", 1, "ZeroDivisionError")])
def test_a_program_that_ends_by_itself_has_no_kernel_to_blame(
    tmp_path: Path, code: str, status: int, words: str
) -> None:
    report = python(tmp_path, code)
    assert (report.status, report.causes, report.evidence.blamed) == ("exit", (), None)
    assert report.title == f"the program ended with status {status}; no kernel died"
    assert words in str(report)


def test_a_signal_that_a_shell_reports_is_a_crash() -> None:
    report = investigate_program(["sh", "-c", f"{sys.executable} -c 'import os; os.abort()'; exit $?"], timeout=60)
    assert report.evidence.outcome.returncode == 134
    assert report.cause.rule == "host-crash"
