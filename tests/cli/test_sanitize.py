"""``trlaunch sanitize``: programs with every launch checked."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from trlaunch.arguments import UsageError
from trlaunch.cli.sanitize import command_of

ROOT = Path(__file__).resolve().parents[2]

#: Launches a kernel as it is (0), without its barriers (1), or out of bounds (2), on what it takes for a GPU.
PROGRAM = """
import sys
import numpy as np
import trlaunch

folder, which = sys.argv[1], sys.argv[2]
kernel = trlaunch.Kernel.from_file(folder + "/softmax_kernel.ptx", device="cuda:0")
x = np.random.default_rng(0).standard_normal((4, 781), dtype=np.float32)
out = np.zeros_like(x)
kernel.launch(4, out, x, 781, 781, 781)
if which == "1":
    text = open(folder + "/softmax_kernel.ptx").read().replace("bar.sync", "// bar.sync")
    racing = trlaunch.Kernel.from_bytes(text.encode(), kernel.metadata, level="ptx")
    for _ in range(2):
        racing.launch(4, out, x, 781, 781, 781)
if which == "2":
    kernel.launch(4, out, x, 781, 781, 1000)
    kernel.launch(4, out, x, 781, 781, 781)
print("came to its end")
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))
    return file


def test_a_clean_program_exits_with_0(cli, artifacts, program):
    found = cli("sanitize", "--json", "--", sys.executable, program, artifacts, "0")
    assert found.code == 0, found.err
    assert found.json["status"] == 0
    assert found.json["launches"] == {"softmax_kernel": 1}
    assert found.json["findings"] == []


def test_what_is_found_ends_the_program(cli, artifacts, program):
    found = cli("sanitize", "--", sys.executable, program, artifacts, "1")
    assert found.code == 4
    assert "1. race in softmax_kernel" in found.out
    assert "which no barrier orders after the write below" in found.out
    assert "1 finding in 2 launches of 1 kernel; the command ended with status 1" in found.out


def test_findings_are_collected_over_all_launches(cli, artifacts, program):
    found = cli("sanitize", "--collect", "--json", program, artifacts, "1")
    assert found.code == 4
    document = found.json
    assert document["status"] == 0
    assert document["launches"] == {"softmax_kernel": 3}
    assert {f["kind"] for f in document["findings"]} == {"race"}
    assert len(document["findings"]) > 3
    assert {f["occurrences"] for f in document["findings"]} == {2}
    lines = [tuple(f["ptx_lines"]) for f in document["findings"]]
    assert len(lines) == len(set(lines))


def test_a_launch_out_of_bounds_does_not_stop_a_program_that_collects(cli, artifacts, program):
    found = cli("sanitize", "--collect", "--check", "memory", program, artifacts, "2")
    assert found.code == 4
    assert "1. out-of-bounds in softmax_kernel" in found.out
    assert "softmax_kernel         3         1" in found.out


def test_a_kernel_takes_what_run_takes(cli, artifacts):
    arguments = [f"-a{n}=ones:fp32:1024" for n in range(3)]
    found = cli("sanitize", "--json", artifacts / "add_kernel.ptx", "--grid", "2", *arguments, "-a3=2048")
    assert found.code == 4
    (finding,) = found.json["findings"]
    assert (finding["kind"], finding["cta"]) == ("out-of-bounds", [1, 0, 0])


def test_only_what_is_asked_for_is_checked(cli, artifacts, program):
    assert cli("sanitize", "--check", "init", program, artifacts, "1").code == 0


def test_a_program_that_fails_by_itself_is_told_from_one_with_findings(cli):
    found = cli("sanitize", "--", sys.executable, "-c", "raise SystemExit(3)")
    assert found.code == 1
    assert "launched nothing" in found.out
    assert "status 3" in found.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nothing.py"], "'nothing.py' does not exist"),
        (["--", "python"], "expected a script, -m module or -c code behind python"),
        (["--", "no-such-command-here"], "'no-such-command-here' is not a command"),
        (["--tool", "valgrind", "x.py"], "--tool 'valgrind': expected emulator"),
        (["--tool", "emulator:race", "x.py"], "the emulator has no tools of its own"),
        (
            ["--check", "speed", "x.py"],
            "--check 'speed': there is no check 'speed': expected some of memory, race, init",
        ),
    ],
)
def test_wrong_words_are_usage_errors(cli, words, expected):
    found = cli("sanitize", *words)
    assert found.code == 2
    assert expected in found.err


def test_a_kernel_without_a_grid_is_a_usage_error_and_nothing_else(cli, artifacts, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = cli("sanitize", artifacts / "add_kernel.ptx")
    assert (found.code, found.out) == (2, "")
    assert cli("sanitize", "--json", artifacts / "add_kernel.ptx").code == 2


ENDLESS = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry endless(.param .u64 p) .reqntid 32
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [p];
again:
    ld.global.u32 %r1, [%rd1];
    bar.sync 0;
    bra again;
}
"""


def test_a_kernel_that_does_not_end_is_named(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    file = tmp_path / "endless.ptx"
    file.write_text(ENDLESS)
    words = ("--timeout", "4", file, "-g", "1", "-a", "0=zeros:fp32:4", "--signature", "*fp32")
    found = cli("sanitize", *words)
    assert found.code == 4, found.err
    assert "stopped after 4.0 s in endless, launch 0: grid (1) block (32) on emulator, which did not end" in found.out
    assert "0 findings in 1 launch of 1 kernel" in found.out


def test_a_program_that_is_stopped_outside_of_kernels(cli):
    found = cli("sanitize", "--json", "--timeout", "1", "--", sys.executable, "-c", "import time; time.sleep(60)")
    assert found.code == 1
    assert (found.json["status"], found.json["stopped_in"]) == (124, None)


def test_the_command_keeps_python_s_own_options():
    start = ["-m", "trlaunch.emulator.checks.program"]
    for words in (["python3.12", "-u", "-W", "ignore", "a.py", "-x"], ["/usr/bin/python", "-m", "pytest", "-q"]):
        made = command_of(words)
        at = next(n for n, word in enumerate(words) if word in ("a.py", "-m"))
        assert made == [*words[:at], *start, *words[at:]]
    assert command_of(["torchrun", "a.py"]) == ["torchrun", "a.py"]
    with pytest.raises(UsageError):
        command_of(["python", "-"])


def test_modules_and_code_run_as_python_runs_them(cli, tmp_path, monkeypatch):
    (tmp_path / "some_module.py").write_text("import sys\nassert __name__ == '__main__'\nsys.exit(len(sys.argv) - 3)\n")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    assert cli("sanitize", "--", sys.executable, "-m", "some_module", "a", "b").code == 0
    assert cli("sanitize", "--", sys.executable, "-c", "import sys; assert sys.argv == ['-c', 'x']", "x").code == 0


def test_triton_is_patched_when_a_program_imports_it(cli, tmp_path, monkeypatch):
    """Not before: many programs have no use for it."""
    package = tmp_path / "triton"
    package.mkdir()
    (package / "__init__.py").write_text("print('imported')\n")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    code = "import sys; assert 'triton' not in sys.modules\n{}"
    assert cli("sanitize", "--", sys.executable, "-c", code.format("")).code == 0
    code = "import sys, trlaunch\ntrlaunch.patch_triton = print\nimport triton\nassert triton.__file__"
    assert cli("sanitize", "--", sys.executable, "-c", code).code == 0
