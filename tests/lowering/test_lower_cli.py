"""``trlaunch lower`` by the installed release; what needs no Triton is in tests/cli."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from tests import corpus
from trlaunch.cli import app
from trlaunch.lowering.triton_compiler import installed_release


def source() -> corpus.Case:
    return next(c for c in corpus.cases(target="cuda:80", kernel="add_kernel") if c.version == installed_release())


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_levels_on_the_way(triton, tmp_path):
    code, said = run("lower", source().path("ttir"), "--to", "ptx", "-o", tmp_path, "--all", "--option", "num_warps=8")
    assert code == 0, said
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".llir", ".ptx", ".ttgir", ".ttir"]
    assert '.num-warps" = 8' in (tmp_path / "add_kernel.ttgir").read_text()
    again = tmp_path / "again"
    code, said = run("lower", tmp_path / "add_kernel.ttgir", "--to", "ptx", "-o", again)
    assert code == 0, said
    assert (again / "add_kernel.ptx").read_bytes() == (tmp_path / "add_kernel.ptx").read_bytes()


def test_a_failure_names_its_reproducer(triton, tmp_path):
    broken = tmp_path / "broken.ttir"
    broken.write_text(source().text("ttir").replace("tt.return", "tt.retrun"))
    code, said = run("lower", broken, "--to", "ptx", "--target", "cuda:80", "-o", tmp_path)
    assert code == 1
    folder = Path(said.rpartition("reproducer: ")[2].strip())
    assert (folder / "rerun.py").is_file()
    assert not (tmp_path / "broken.ptx").exists()
