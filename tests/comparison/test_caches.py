"""Two caches, laid out as Triton's."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

import trlaunch
from tests.corpus import cases
from trlaunch.cli import app
from trlaunch.comparison.caches import diff_caches, is_cache


def cache(folder, release, *, names=("add_kernel", "softmax_kernel"), twice=None):
    for i, case in enumerate(c for c in cases(target="cuda:80") if c.release == release and c.name in names):
        shutil.copytree(case.path("cubin").parent, folder / f"{release}-{i}")
        if case.name == twice:
            again = folder / f"{release}-{i}-again"
            shutil.copytree(case.path("cubin").parent, again)
            stated = json.loads((again / f"{case.kernel}.json").read_text())
            (again / f"{case.kernel}.json").write_text(json.dumps(stated | {"num_warps": stated["num_warps"] * 2}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("caches")
    return cache(base / "a", "3.2.0"), cache(base / "b", "3.6.0", names=("add_kernel", "matmul_kernel"))


def test_kernels_are_paired_by_name(folders):
    found = diff_caches(*folders)
    assert list(found.pairs) == ["add_kernel"]
    assert found.only_first == ["softmax_kernel"]
    assert found.only_second == ["matmul_kernel"]
    assert found.pairs["add_kernel"].first.artifact.path.is_relative_to(folders[0])
    assert json.loads(json.dumps(found.to_dict()))["pairs"]["add_kernel"]["same"] is False


def test_variants_are_paired_by_options(tmp_path):
    a = cache(tmp_path / "a", "3.6.0", names=("add_kernel",), twice="add_kernel")
    b = cache(tmp_path / "b", "3.6.0", names=("add_kernel",), twice="add_kernel")
    found = diff_caches(a, b)
    assert len(found.pairs) == 2
    assert all(pair.same and "num_warps=" in label for label, pair in found.pairs.items())
    shutil.copytree(next(b.iterdir()), b / "third")
    found = diff_caches(a, b)
    assert len(found.pairs) == 1
    assert "1 in the first, 2 in the second" in found.unpaired[0]


def test_a_folder_of_a_kernel_is_no_cache(folders, tmp_path):
    assert is_cache(folders[0])
    assert not is_cache(next(folders[0].iterdir()))
    with pytest.raises(trlaunch.ArtifactError, match="no folder of a kernel in .*: expected a cache of Triton"):
        diff_caches(folders[0], tmp_path)
    with pytest.raises(trlaunch.ArtifactError, match="no kernel 'nobody' in"):
        diff_caches(*folders, name="nobody")


def run(*arguments):
    return CliRunner().invoke(app, ["diff", *map(str, arguments)])


def test_the_command(folders):
    one, other = (next(p for p in f.iterdir() if (p / "add_kernel.json").exists()) for f in folders)
    done = run(one, other)
    assert done.exit_code == 0
    assert "registers" in done.stdout
    assert "source lines whose code changed" in done.stdout
    assert run(one, other, "--exit-code").exit_code == 1
    assert run(one, one, "--exit-code").exit_code == 0
    assert json.loads(run(one, other, "--json").stdout)["kernel"] == ["add_kernel", "add_kernel"]
    assert run(one, other, "--level", "ptx").stdout.startswith("--- ")
    assert run(one, one, "--level", "sass").stdout == "the same\n"
    done = run(one, other, "--line", "3")
    assert done.exit_code == 2
    assert "--line needs --level" in done.stderr
    done = run(*folders)
    assert "only in the first: softmax_kernel" in done.stdout
    assert done.exit_code == 0
    assert json.loads(run(*folders, "--json").stdout)["only_second"] == ["matmul_kernel"]
    assert run(*folders, "--level", "sass").exit_code == 2
