"""``trlaunch coredump`` over the dumps of an H200."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import corpus
from tests.cuda.test_kernel_files import died_of

FOLDER = Path(__file__).parents[1] / "fixtures" / "coredumps"
LIGHT = FOLDER / "h200_misaligned_light.nvcudmp.xz"


def test_what_died_is_shown(cli):
    found = cli("coredump", LIGHT)
    assert found.code == 0, found.err
    for words in (
        "Warp Misaligned Address (6) at k+0x40",
        "(0, 0, 0) to (31, 0, 0)",
        "=> 0040: STG.E desc[UR4][R2.64+0x1], R5",
        "NVIDIA H200, sm_90, 132 SMs",
        "580.159",
        "global memory",
        "note: the module has no line table",
    ):
        assert words in found.out
    assert "R13 " not in found.out


def test_registers_are_shown_on_request(cli):
    found = cli("coredump", LIGHT, "--registers", "--all")
    assert "lane 31, thread (31, 0, 0), pc +0x50" in found.out
    assert "R13" in found.out
    assert "UR63" in found.out
    assert "uniform predicates" in found.out


def test_json_has_everything(cli):
    found = cli("coredump", LIGHT, "--json").json
    (first, second) = found["exceptions"]
    assert (first["kind"], first["function"], first["offset"], first["block"]) == (
        "misaligned-address",
        "k",
        64,
        [0, 0, 0],
    )
    assert second["block"] == [1, 0, 0]
    assert "registers" not in first
    assert len(cli("coredump", LIGHT, "--json", "-r").json["exceptions"][0]["registers"]["lanes"]) == 32


def test_the_levels_beside_the_kernel(cli, tmp_path):
    case = corpus.find("3.6.0", "cuda:90", "add_kernel")
    dump = tmp_path / "core.nvcudmp"
    dump.write_bytes(died_of("3.6.0", "add_kernel", "STG"))
    found = cli("coredump", dump, "--kernel-dir", case.path("cubin").parent)
    assert found.code == 0, found.err
    for words in ("python", "add_kernel.ttir", "add_kernel.ttgir", "add_kernel.llir", "add_kernel.ptx", "tt.store"):
        assert words in found.out


def test_the_page_is_written(cli, tmp_path):
    found = cli("coredump", LIGHT, "--html", tmp_path / "a.html")
    assert found.code == 0, found.err
    assert "HTML written to" in found.err
    assert "Warp Misaligned Address at k+0x40" in (tmp_path / "a.html").read_text("utf-8")


@pytest.mark.parametrize("words,code", [(("coredump", "{file}"), 1), (("coredump", "{file}", "--json"), 1)])
def test_a_file_that_is_no_dump(cli, tmp_path, words, code):
    file = tmp_path / "a"
    file.write_bytes(b"nothing")
    found = cli(*(word.format(file=file) for word in words))
    assert found.code == code
    assert "expected a GPU core dump" in found.err
    if "--json" in words:
        assert found.json["error"]["type"] == "CoreDumpError"
