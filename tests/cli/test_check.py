"""``trlaunch check``."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("stem", ["add_kernel", "softmax_kernel", "matmul_kernel"])
@pytest.mark.parametrize("level", ["ptx", "cubin"])
def test_a_right_pair_passes(cli, artifacts, stem, level):
    found = cli("check", artifacts / f"{stem}.{level}", "--grid", "8,8")
    assert found.code == 0, found.out + found.err
    assert "error" not in found.out
    assert stem in found.out


def test_another_kernels_metadata_is_refused_by_rule(cli, artifacts):
    words = ("check", artifacts / "matmul_kernel.ptx", "-m", artifacts / "add_kernel.json")
    text = cli(*words)
    assert text.code == 1
    assert "add_kernel" in text.out
    assert "matmul_kernel" in text.out
    document = cli(*words, "--json")
    assert document.code == 1
    assert document.json["ok"] is False
    assert {"name", "shared"} <= {f["rule"] for f in document.json["findings"] if f["severity"] == "error"}


@pytest.mark.parametrize("grid", ["1,70000", "1,1,70000", "3000000000"])
def test_the_grid_is_held_to_the_devices_limits(cli, artifacts, grid):
    found = cli("check", artifacts / "add_kernel.ptx", "--grid", grid)
    assert found.code == 1
    assert "grid" in found.out


def test_a_file_that_is_no_kernel(cli, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    found = cli("check", tmp_path / "notes.txt")
    assert found.code == 1
    assert "no known level" in found.err
    assert cli("check", tmp_path / "absent.cubin").code == 2
