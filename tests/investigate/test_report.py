"""The report as text, as JSON and as a folder that reproduces it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.investigate.cases import CASES
from trlaunch.errors import ArgumentError
from trlaunch.investigate import Report, Trial, investigate_trial

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def report() -> Report:
    case = next(case for case in CASES if case.name == "out of bounds")
    return investigate_trial(case.trial(device="emulator"), timeout=30)


def test_the_text_says_what_died_where_and_why(report: Report) -> None:
    text = str(report)
    lines = text.splitlines()
    assert lines[0] == "k died on emulator: a thread accessed memory that it may not"
    assert max(map(len, lines)) <= 120
    order = [
        "Where, by the emulator",
        "block (0,0,0) thread (0,0,0), 32 threads there",
        "st.global.u32",
        "Likely causes",
        "1. an access lies outside of every argument  [out-of-bounds, 0.85]",
        "1099511626752 bytes past the end of",
        "try: ",
        "Arguments in memory",
        "1024 bytes",
        "Runs",
    ]
    at = 0
    for words in order:
        at = text.index(words, at)


def test_json_has_all_of_it(report: Report) -> None:
    found = json.loads(json.dumps(report.to_json()))
    assert (found["status"], found["kernel"], found["symptom"]) == ("fault", "k", "illegal-address")
    assert found["causes"][0]["rule"] == "out-of-bounds"
    assert found["causes"][0]["title"]
    assert found["causes"][0]["advice"]
    assert found["sites"][0]["cta"] == [0, 0, 0]
    assert found["blamed"]["kernel"] == "k"
    assert found["error"]["kind"] == "out-of-bounds"
    assert found["outcome"]["scene"]["threads"] == 32
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_folder_reproduces_it(report: Report, tmp_path: Path) -> None:
    folder = report.save(tmp_path / "repro")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["images", "report.json", "report.txt", "reproduce.py", "trial", "versions.json"]
    assert Trial.load(folder / "trial") == report.evidence.trial
    assert (folder / "report.txt").read_text().splitlines()[0] == report.title
    moved = folder.rename(tmp_path / "elsewhere")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(moved / "reproduce.py")]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[out-of-bounds, 0.85]" in done.stdout
    here = subprocess.run([*command, "--here"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "trlaunch.errors.Fault: out-of-bounds in k" in here.stderr


def test_a_folder_that_cannot_be_written(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="cannot be saved"):
        report.save(tmp_path / "file" / "repro")


def test_html_is_one_file(report: Report, tmp_path: Path) -> None:
    path = report.html(tmp_path / "report.html")
    text = path.read_text()
    assert "out-of-bounds" in text
    assert "src=" not in text
