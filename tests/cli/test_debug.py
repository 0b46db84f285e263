"""``trlaunch debug`` and ``trlaunch map``."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import corpus
from trlaunch.arguments import parse_argument

ADD = (
    "--grid", "3", "--arg", "x_ptr=rand:float32:3000", "--arg", "y_ptr=randn:float32:3000:5",
    "--arg", "out_ptr=zeros:float32:3000", "--arg", "n_elements=2992",
)  # fmt: skip


def store_line(path: Path) -> int:
    return next(i for i, text in enumerate(path.read_text().split("\n"), 1) if "st.global" in text)


def test_commands_are_shown_with_what_they_say(cli, artifacts):
    file = artifacts / "add_kernel.ptx"
    found = cli("debug", file, *ADD, "-c", f"break {store_line(file)}; run", "-c", "print out_ptr[0]; info args; quit")
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0] == f"(trlaunch) break {store_line(file)}"
    assert lines[1] == f"breakpoint 1 at PTX line {store_line(file)}"
    assert "breakpoint 1: 384 lanes in 3 CTAs" in lines
    assert "out_ptr[0] = 0" in lines
    assert any(line.split()[:2] == ["n_elements", "i32"] and line.split()[-1] == "2992" for line in lines)
    assert lines[-1] == "(trlaunch) quit"


def test_a_script_and_standard_input(cli, artifacts, tmp_path):
    file = artifacts / "add_kernel.ptx"
    x = parse_argument("a=rand:float32:3000").value(default_seed=0)
    script = tmp_path / "commands"
    script.write_text(f"# a comment; run\nbreak {store_line(file)} if %ctaid.x == 2\n\nrun; memory x_ptr 0 4\n")
    found = cli("debug", file, *ADD, "--script", script)
    assert found.code == 0, found.err
    assert "[CTA (2,0,0)" in found.out
    assert "  [0]: " + " ".join(f"{float(v):.9g}" for v in x[:4]) in found.out or f"{float(x[0]):.6g}"[:6] in found.out
    piped = subprocess.run(
        [sys.executable, "-m", "trlaunch", "debug", file, *ADD],
        input=script.read_text(), capture_output=True, text=True, check=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert piped.stdout == found.out


def test_a_fault_is_looked_at_and_then_the_exit_code(cli, artifacts):
    arguments = list(ADD)
    arguments[7] = "out_ptr=zeros:float32:2048"
    commands = "run; nonsense; print n_elements; backtrace; info warps"
    found = cli("debug", artifacts / "add_kernel.ptx", *arguments, "-c", commands)
    assert found.code == 4
    assert "n_elements = 2992 (i32)" in found.out
    assert "#0  add_kernel at kernels.py:" in found.out
    assert " running " not in found.out
    assert " faulted " in found.out
    assert found.err.startswith("Fault: out-of-bounds in add_kernel: store of ")


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["--grid", "x"], 2, "grid"),
        ([*ADD[:-2]], 1, "n_elements"),
        ([*ADD, "--arg", "n_elements=3"], 2, "was given before"),
    ],
)
def test_wrong_use(cli, artifacts, words, code, message):
    found = cli("debug", artifacts / "add_kernel.ptx", *words, "-c", "run")
    assert found.code == code
    assert message in found.err


def test_json_has_every_answer(cli, artifacts):
    file = artifacts / "add_kernel.ptx"
    found = cli("debug", file, *ADD, "--json", "-c", f"break {store_line(file)} if %tid.x == 40; run; thread 3")
    assert found.code == 0, found.err
    document = found.json
    assert [c["command"] for c in document["commands"]][1:] == ["run", "thread 3"]
    assert document["commands"][1]["said"][0] == "breakpoint 1: 3 lanes in 3 CTAs"
    assert (document["stopped"], document["running"], document["thread"]) == ("breakpoint", True, [3, 0, 0])
    assert cli("debug", file, *ADD, "--json").code == 2


@pytest.mark.parametrize("wrong", ["nonsense", "print nothing", "delete 7", "break 40 if %r3 =="])
def test_a_refused_command_is_the_exit_code_and_the_rest_is_run(cli, artifacts, tmp_path, wrong):
    file = artifacts / "add_kernel.ptx"
    script = tmp_path / "commands"
    script.write_text(f"{wrong}\nprint n_elements\n")
    for option, value in (("-c", f"{wrong}; print n_elements"), ("--script", script)):
        found = cli("debug", file, *ADD, option, value)
        assert found.code == 1
        assert "error: " in found.out
        assert "n_elements = 2992 (i32)" in found.out
        assert found.err == "1 command was refused\n"


def test_a_script_that_cannot_be_read(cli, artifacts, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    found = cli("debug", artifacts / "add_kernel.ptx", *ADD, "--script", tmp_path / "binary")
    assert found.code == 2
    assert "cannot be read" in found.err


def test_a_terminal_has_a_prompt_that_repeats_commands(artifacts, tmp_path):
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "trlaunch", "debug", artifacts / "add_kernel.ptx", *ADD],
        stdin=inner, stdout=inner, stderr=subprocess.PIPE,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"},
    )  # fmt: skip
    os.close(inner)
    text = _until(outer, "(trlaunch) ")
    for typed in ("step 2", "", "quit"):
        os.write(outer, f"{typed}\n".encode())
        text += _until(outer, "(trlaunch) ")
    _, err = process.communicate(timeout=60)
    os.close(outer)
    assert process.returncode == 0, err
    assert text.count("=> ") == 3  # at the start, after a step, after the repeated one
    assert "step 2" in (tmp_path / "trlaunch" / "debugger_history").read_text()


def _until(terminal: int, wanted: str) -> str:
    """What a terminal shows until it shows that, or is closed."""
    text = ""
    while not text.endswith(wanted):
        try:
            read = os.read(terminal, 4096)
        except OSError:  # Linux says so where the other side is closed
            break
        if not read:
            break
        text += read.decode()
    return text


# trlaunch map


def test_a_map_as_a_table_json_and_files(cli, artifacts, tmp_path):
    file = artifacts / "add_kernel.ptx"
    found = cli("map", file, *ADD, "--save", tmp_path / "map.npz", "--plot", tmp_path / "plots")
    assert found.code == 0, found.err
    rows = {line.split()[0]: line.split() for line in found.out.splitlines() if line.strip()}
    assert rows["out_ptr"][3:7] == ["0", "2992", "to", "2992"]
    assert f"wrote {tmp_path / 'map.npz'}" in found.out
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == [
        f"add_kernel.{name}.png" for name in ("instructions", "out_ptr", "x_ptr", "y_ptr")
    ]
    with np.load(tmp_path / "map.npz") as saved:
        np.testing.assert_array_equal(saved["x_ptr.reads"], np.arange(3000) < 2992)
    document = cli("map", file, *ADD, "--json").json
    assert document["kernel"] == "add_kernel"
    assert [a["sectors"] for a in document["arguments"]] == [2992 * 4 // 32] * 3
    assert json.dumps(document["instructions"])


def test_a_map_of_nothing_is_refused(cli, artifacts, tmp_path):
    words = ["0" if w == "3" else w for w in ADD]
    assert cli("map", artifacts / "add_kernel.ptx", *words).code == 2
    found = cli("map", artifacts / "add_kernel.ptx", *ADD, "--save", tmp_path / "none" / "x.npz")
    assert found.code == 2
    assert "there is no folder" in found.err


def test_a_cubin_is_debugged_by_the_ptx_beside_it(cli):
    case = corpus.find("3.6.0", "cuda:80", "softmax_kernel")
    words = ["-a", "out_ptr=zeros:fp32:2x781", "-a", "in_ptr=rand:fp32:2x781"]
    words += [w for name in ("in_row_stride", "out_row_stride", "n_cols") for w in ("-a", f"{name}=781")]
    found = cli("debug", case.path("cubin"), "-g", "2", *words, "-c", "break :32; run; list python; bt")
    assert found.code == 0, found.err
    assert "kernels.py:32 in TTIR (the file itself is not here):" in found.out
    assert "tt.reduce" in found.out
    assert "#2  softmax_kernel at kernels.py:32" in found.out
