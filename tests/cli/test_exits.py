"""Exit codes and the one block that an error is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from trlaunch import errors
from trlaunch.arguments import UsageError
from trlaunch.cli.exits import Exit, exit_code, reporting

ROOT = Path(__file__).resolve().parents[2]

CASES = [
    (UsageError("no"), 2),
    (errors.TrlaunchError("no"), 1),
    (errors.ArtifactError("no"), 1),
    (errors.MetadataError("no"), 1),
    (errors.ImageError("no"), 1),
    (errors.SignatureError("no"), 1),
    (errors.CoreDumpError("no"), 1),
    (errors.ArgumentError("no"), 1),
    (errors.LoweringError("no", stage="ptx"), 1),
    (errors.LoweringError("no", stage="install"), 3),
    (errors.AssemblerError("no", "ptxas: line 3"), 1),
    (errors.AssemblerMissing("no"), 3),
    (errors.EmulatorError("no"), 1),
    (errors.UnsupportedInstruction("no"), 1),
    (errors.DeviceUnavailable("no"), 3),
    (errors.DriverError("no", call="cuLaunchKernelEx", code=700, name="CUDA_ERROR_ILLEGAL_ADDRESS"), 4),
    (errors.Fault("no", kind="out-of-bounds", cta=(1, 0, 0), address=16), 4),
]


@pytest.mark.parametrize("error,code", CASES, ids=lambda value: type(value).__name__)
def test_every_error_has_its_code(error, code, capsys):
    assert exit_code(error) == code
    with pytest.raises(typer.Exit) as caught, reporting(as_json=True):
        raise error
    assert caught.value.exit_code == code
    out, err = capsys.readouterr()
    described = json.loads(out)["error"]
    assert described["type"] == type(error).__name__
    assert described["message"] == "no"
    assert described["exit_code"] == code
    assert err.startswith(f"{type(error).__name__}: no")


def test_no_error_is_left_out():
    ours = {getattr(errors, name) for name in errors.__all__}
    # A CheckError and a TuningError carry a report; test_run.py and tests/tuning make real ones.
    ours = {kind for kind in ours if isinstance(kind, type) and issubclass(kind, errors.TrlaunchError)}
    assert ours - {errors.CheckError, errors.TuningError} == {type(error) for error, _ in CASES} - {UsageError}


def test_details_go_into_the_json_and_a_log_below_the_message(capsys):
    for error in (CASES[-1][0], CASES[-2][0], next(e for e, _ in CASES if isinstance(e, errors.AssemblerError))):
        with pytest.raises(typer.Exit), reporting(as_json=True):
            raise error
    out, err = capsys.readouterr()
    fault, driver, _ = (json.loads(part)["error"] for part in re.findall(r"^\{.*?^\}", out, re.M | re.S))
    assert (fault["kind"], fault["cta"], fault["address"]) == ("out-of-bounds", [1, 0, 0], 16)
    assert (driver["call"], driver["code"], driver["name"]) == ("cuLaunchKernelEx", 700, "CUDA_ERROR_ILLEGAL_ADDRESS")
    assert "\n  ptxas: line 3\n" in err


def test_without_json_stdout_stays_empty(capsys):
    with pytest.raises(typer.Exit), reporting(as_json=False):
        raise errors.ImageError("no")
    assert capsys.readouterr().out == ""


def test_warnings_become_notes(capsys):
    with reporting(as_json=False):
        warnings.warn("the emulator is used", errors.FallbackWarning, stacklevel=1)
    assert capsys.readouterr().err == "note: the emulator is used\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), reporting(as_json=False):
        raise ZeroDivisionError


def test_the_docs_list_every_exit_code():
    table = (ROOT / "docs" / "cli.md").read_text().partition("## Exit codes")[2]
    assert [int(code) for code in re.findall(r"^\| (\d) \|", table, re.M)] == [int(code) for code in Exit]


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(package, tmp_path):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('no', name={package!r})\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from trlaunch.__main__ import main; main()"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == Exit.UNAVAILABLE
    assert found.stdout == ""
    assert found.stderr == f'the command line needs {package}: pip install "trlaunch[cli]"\n'
