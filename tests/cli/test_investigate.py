"""``trlaunch investigate``: of a kernel and of a program, on the emulator."""

from __future__ import annotations

import json
import sys

import pytest

ARGUMENTS = ("-a", "x_ptr=rand:fp32:1000", "-a", "1=rand:fp32:1000", "-a", "out_ptr=zeros:fp32:1000")


@pytest.fixture
def add(artifacts):
    return artifacts / "add_kernel.ptx"


def order(*words: str) -> tuple[str, ...]:
    """Positions for the first three arguments, so that all go by position."""
    return tuple(word.replace("x_ptr=", "0=").replace("out_ptr=", "2=") for word in words)


def test_a_kernel_that_dies_is_exit_code_4_and_says_why(cli, add, tmp_path) -> None:
    found = cli(
        "investigate", add, "--grid", "2", "-d", "emulator", *order(*ARGUMENTS), "-a", "n_elements=2000", "--save",
        tmp_path / "repro",
    )  # fmt: skip
    assert found.code == 4, found.err
    assert "96 bytes past the end of x_ptr" in found.out
    assert "tt.load" in found.out
    assert "reproducer written to" in found.err
    assert (tmp_path / "repro" / "reproduce.py").is_file()


def test_json(cli, add) -> None:
    found = cli("investigate", add, "-g", "2", "-d", "emulator", *order(*ARGUMENTS), "-a", "3=2000", "--json")
    assert found.code == 4
    assert found.json["causes"][0]["rule"] == "out-of-bounds"


def test_a_kernel_that_ends(cli, add) -> None:
    found = cli("investigate", add, "-g", "1", "-d", "emulator", *order(*ARGUMENTS), "-a", "3=992")
    assert found.code == 0, found.err
    assert "Nothing died" in found.out


def test_a_launch_that_is_refused(cli, add) -> None:
    found = cli("investigate", add, "-g", "1", "-d", "emulator", *order(*ARGUMENTS), "-a", "3=2.5")
    assert found.code == 1
    assert "expected an int for i32" in found.out


def test_a_device_that_is_not_there(cli, add) -> None:
    found = cli("investigate", add, "-g", "1", "-d", "cuda:0", *order(*ARGUMENTS), "-a", "3=992")
    assert found.code == 3
    assert "was refused" in found.out


def test_a_program(cli, tmp_path) -> None:
    found = cli("investigate", "--json", "--", sys.executable, "-c", "import os; os.abort()")
    assert found.code == 4
    assert json.loads(found.out)["causes"][0]["rule"] == "host-crash"
    found = cli("investigate", "--timeout", "30", "--", sys.executable, "-c", "pass", "--grid")
    assert found.code == 0, found.err


@pytest.mark.parametrize(
    "words,message",
    [
        (("{add}",), "--grid is needed for add_kernel.ptx"),
        (("nothing.ptx", "--grid", "1"), "does not exist"),
        (("{add}", "more", "--grid", "1"), "one FILE was expected"),
        (("{add}", "--grid", "1", "--core", "huge"), "expected light, full or none"),
        (("{add}", "--grid", "1", "-a", "0=1", "-a", "0=2"), "given twice"),
        (("{add}", "--grid", "1", "-a", "1=1"), "argument 0 is missing"),
        (("--arg", "0=1", "--", "true"), "--arg is for a FILE"),
        (("{add}", "--grid", "1", "--check", "foo"), "--check 'foo': expected warn or error"),
        (("{add}", "--grid", "1", "--witness", "foo"), "--witness 'foo': expected one of auto, always, never"),
        (("--save", "{add}", "--", "true"), "is a file: expected a folder"),
        (("--save", "{add}/below", "--", "true"), "takes no files"),
        (("--html", "/proc/x.html", "--", "true"), "'/proc' takes no files"),
        (("--html", "{folder}", "--", "true"), "is a folder: expected a file"),
        (("nothing.py",), "'nothing.py' does not exist"),
    ],
)
def test_what_cannot_be_understood(cli, add, words, message) -> None:
    found = cli("investigate", *(word.format(add=add, folder=add.parent) for word in words))
    assert found.code == 2, found.out
    assert not found.out
    assert message in found.err


def test_a_program_that_ends_by_itself_exits_with_1(cli, tmp_path) -> None:
    script = tmp_path / "e7.py"
    script.write_text("import sys; sys.exit(7)")
    for words in ((script,), ("--", sys.executable, script)):
        found = cli("investigate", *words)
        assert found.code == 1, found.err
        assert "the program ended with status 7; no kernel died" in found.out
        assert "host-crash" not in found.out


@pytest.mark.parametrize("code,expected", [("pass", 2), ("import sys; sys.exit(7)", 1), ("import os; os.abort()", 4)])
def test_a_report_that_cannot_be_written_is_printed_all_the_same(cli, tmp_path, code, expected) -> None:
    """The program itself puts a file where the folder is to be."""
    taken = tmp_path / "taken"
    found = cli(
        "investigate", "--save", taken, "--", sys.executable, "-c", f"open({str(taken)!r}, 'w').close(); {code}"
    )
    assert found.code == expected, found.err
    assert "\nRuns\n" in found.out
    assert "the report cannot be saved" in found.err
    assert "written to" not in found.err


# --- under compute-sanitizer -----------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A program in compute-sanitizer's place, that runs the command and finds a race."""
    path = tmp_path / "compute-sanitizer"
    path.write_text(
        f"#!{sys.executable}\n"
        "import subprocess, sys\n"
        "words = sys.argv[1:]\n"
        "if words == ['--version']: sys.exit()\n"
        "code = subprocess.run(words[words.index('--show-backtrace') + 2 :]).returncode\n"
        "text = '========= Error: Race reported between Write access at k+0x80 in k.py:7\\n'\n"
        "found = words[words.index('--tool') + 1] == 'racecheck'\n"
        "open(words[words.index('--log-file') + 1], 'w').write(text if found else '')\n"
        "sys.exit(code)\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("TRLAUNCH_COMPUTE_SANITIZER", str(path))


def test_a_program_under_compute_sanitizer(cli, stand_in) -> None:
    words = ("--", sys.executable, "-c", "pass")
    found = cli("sanitize", "--tool", "compute-sanitizer:racecheck", "--json", *words)
    assert found.code == 4, found.err
    assert found.json["causes"][0]["rule"] == "race"
    assert cli("sanitize", "--tool", "compute-sanitizer", *words).code == 0
    assert cli("sanitize", "--tool", "compute-sanitizer:speed", *words).code == 2


def test_a_kernel_under_compute_sanitizer(cli, stand_in, add) -> None:
    words = ("-g", "1", "-d", "emulator", *order(*ARGUMENTS), "-a", "3=992")
    found = cli("sanitize", "--tool", "compute-sanitizer:racecheck", "--", add, *words)
    assert found.code == 4, found.err
    assert "k.py:7" in found.out
