"""The HTML report: structure, links, marks, escaping; in a browser in test_html_browser.py."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests import corpus
from tests.cuda.coredumps import Warp, loaded
from tests.cuda.test_kernel_files import BASE, died_of
from trlaunch import CoreDump, DeviceUnavailable
from trlaunch.errors import ArgumentError
from trlaunch.investigate.cause import Cause
from trlaunch.investigate.evidence import Evidence, Line, Site
from trlaunch.investigate.html import page_of_dump, page_of_report, render, write, write_dump
from trlaunch.investigate.html.highlight import highlight
from trlaunch.investigate.html.page import Page, Pane, Row
from trlaunch.investigate.report import Report
from trlaunch.investigate.trial import Died, Launched, Outcome

KERNELS = Path(__file__).parents[1] / "fixtures" / "kernels.py"
LIGHT = Path(__file__).parents[1] / "fixtures" / "coredumps" / "h200_misaligned_light.nvcudmp.xz"
LEVELS = ["python", "ttir", "ttgir", "llir", "ptx", "sass"]


VOID = ("meta", "input", "br", "link", "img", "hr")


class Document(HTMLParser):
    """Elements by id, links, text by element, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: dict[str, dict[str, str]] = {}
        self.links: list[str] = []
        self.tags: list[str] = []
        self.external: list[str] = []
        self.text: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        found = {name: value or "" for name, value in attributes}
        self.tags.append(tag)
        if "id" in found:
            assert found["id"] not in self.ids, found["id"]
            self.ids[found["id"]] = found
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            if name in found:
                (self.links if found[name].startswith("#") else self.external).append(found[name])
        if tag not in VOID:
            self._open.append((tag, found.get("id", "")))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, name in self._open:
            if name:
                self.text[name] = self.text.get(name, "") + data


@cache
def folder(kernel: str) -> Path:
    """A kernel's files with its Python source, which the corpus names without a folder."""
    case = corpus.find("3.6.0", "cuda:90", kernel)
    target = case.path("cubin").parent.parent / f"{kernel}-with-source"
    shutil.copytree(case.path("cubin").parent, target, dirs_exist_ok=True)
    shutil.copy(KERNELS, target / "kernels.py")
    return target


@cache
def page(mnemonic: str = "STG") -> Page:
    return page_of_dump(CoreDump(died_of("3.6.0", "add_kernel", mnemonic), folder("add_kernel")))


def report(**more) -> Report:
    """A report as `investigate` makes it of a launch that died on a GPU."""
    case = corpus.find("3.6.0", "cuda:90", "add_kernel")
    texts = {level: case.path(level).read_text() for level in ("ttir", "ttgir", "llir", "ptx")}
    ptx = next(i for i, line in enumerate(texts["ptx"].split("\n"), 1) if "st.global" in line)
    launched = Launched(0, "add_kernel", "cuda:0", (97, 1, 1), (128, 1, 1), parameters="00" * 8)
    outcome = Outcome(
        "fault",
        error=Died("DriverError", "an illegal memory access", call="cuStreamSynchronize", code=700,
                   name="CUDA_ERROR_ILLEGAL_ADDRESS"),
        launches=(launched,),
        core=died_of("3.6.0", "add_kernel", "STG"),
    )  # fmt: skip
    site = Site("core dump", "illegal-address", "Warp Illegal Address", "add_kernel", (0, 0, 0), (0, 0, 0),
                lines=(Line("ptx", "kernel.ptx", ptx, ""), Line("python", "kernels.py", 25, "")))  # fmt: skip
    evidence = Evidence(outcome, sites=(site,), blamed=launched, blamed_by="it was the only one", texts=texts)
    causes = (Cause("null-pointer", 0.97, ("x_ptr is null",)), Cause("out-of-bounds", 0.4, ("it may be",)))
    return replace(Report(evidence, causes), **more)


# --- what is on the page ---------------------------------------------------------------------------------------------


def test_the_levels_stand_side_by_side_with_the_faulting_line_marked():
    case = corpus.find("3.6.0", "cuda:90", "add_kernel")
    found = page()
    assert [pane.level for pane in found.panes] == LEVELS
    words = ("tl.store", "tt.store", "tt.store", "st.global", "st.global", "STG")
    operations = dict(zip(LEVELS, words, strict=True))
    for pane in found.panes:
        assert pane.marked is not None, pane.level
        assert operations[pane.level] in pane.marked.text
        if pane.level not in ("python", "sass"):
            assert pane.marked.text == case.path(pane.level).read_text().split("\n")[int(pane.marked.number) - 1]
    assert len({pane.marked.key for pane in found.panes}) == 1


def test_lines_of_one_source_line_have_one_key_at_every_level():
    found = page()
    keys = [{row.key for row in pane.rows if row.key} for pane in found.panes]
    python = found.panes[0].rows
    memory = {row.key for row in python if row.key and ("tl.load" in row.text or "tl.store" in row.text)}
    assert len(memory) >= 2
    assert set.intersection(*keys) >= memory
    # Each instruction of SASS names its line of PTX.
    ptx = {f"ptx-{row.number}": row.text for row in found.panes[4].rows}
    stores = [row for row in found.panes[5].rows if "STG" in row.text]
    assert stores
    assert all("st.global" in ptx[row.exact] for row in stores)


def test_the_registers_are_those_of_the_warp():
    found = page_of_dump(CoreDump(LIGHT))
    assert len(found.lanes) == 32
    assert found.register_names[:14] == tuple(f"R{i}" for i in range(14))
    assert found.used == {"R2", "R3", "R5", "UR4", "UR5"}
    assert found.lanes[7].registers[5] == "00000001"
    assert all(lane.faulted for lane in found.lanes)
    assert found.title == "Warp Misaligned Address at k+0x40"


def test_a_report_has_causes_launch_registers_and_levels():
    found = page_of_report(report())
    assert [cause.rule for cause in found.causes] == ["null-pointer", "out-of-bounds"]
    # The source is not at hand: its levels are.
    assert [pane.level for pane in found.panes] == LEVELS[1:]
    assert "STG" in found.panes[-1].marked.text
    assert dict(found.sections[0].rows)["grid"] == "97 × 1 × 1"
    assert len(found.lanes) == 32
    summary = dict(found.summary)
    assert summary["error"] == "CUDA_ERROR_ILLEGAL_ADDRESS from cuStreamSynchronize"
    assert summary["kernel"] == "add_kernel"


def test_without_a_core_dump_the_binary_is_marked_by_its_ptx():
    whole = report()
    cubin = corpus.find("3.6.0", "cuda:90", "add_kernel").path("cubin").read_bytes()
    outcome = replace(whole.evidence.outcome, core=None, images={"0.cubin": cubin})
    found = page_of_report(replace(whole, evidence=replace(whole.evidence, outcome=outcome)))
    sass = found.panes[-1]
    assert sass.level == "sass"
    assert [row.text for row in sass.rows if row.marked]
    assert all("STG" in row.text for row in sass.rows if row.marked)
    assert found.lanes == ()


def test_a_damaged_core_dump_is_said():
    whole = report()
    outcome = replace(whole.evidence.outcome, core=whole.evidence.outcome.core[:2000])
    found = page_of_report(replace(whole, evidence=replace(whole.evidence, outcome=outcome)))
    assert "cannot be read" in " ".join(found.notes)
    assert [pane.level for pane in found.panes] == LEVELS[1:5]


def test_a_report_of_a_good_launch():
    found = page_of_report(Report(Evidence(Outcome("ok")), ()))
    assert (found.good, found.panes, found.causes) == (True, (), ())
    document = Document(render(found))
    assert "levels" not in document.ids
    assert "ok" in document.text.get("launch", "")


# --- HTML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [page, lambda: page_of_report(report()), lambda: page_of_dump(CoreDump(LIGHT))],
                         ids=["dump", "report", "h200"])  # fmt: skip
def test_the_file_is_whole_and_links_resolve(made):
    text = render(made())
    document = Document(text)
    assert document.external == []
    assert document.links
    assert [link for link in document.links if link[1:] not in document.ids] == []
    assert not re.search(r"@import|url\(|https?://", re.sub(r"<code>.*?</code>", "", text))
    assert "default-src 'none'" in text
    assert document.tags.count("script") == document.tags.count("style") == 1


def test_every_row_is_there_and_the_marked_one_is_the_right_one():
    found = page()
    document = Document(render(found))
    for pane in found.panes:
        for row in pane.rows:
            element = document.ids[f"{pane.level}-{row.number}"]
            assert ("marked" in element["class"].split()) == row.marked
            assert element.get("data-key", "") == row.key
            assert document.text[f"{pane.level}-{row.number}"] == row.number + row.text


def test_text_is_escaped():
    evil = '</script><script>alert("x")</script><b>&amp;'
    rows = (Row("1", evil, f'k"{evil}', marked=True),)
    panes = tuple(Pane(level, level, evil, rows) for level in LEVELS)
    text = render(Page(title=evil, status=evil, panes=panes, notes=(evil,), summary=((evil, evil),), backtrace=(evil,)))
    document = Document(text)
    assert document.tags.count("script") == 1
    assert "b" not in document.tags
    assert document.text["python-1"] == "1" + evil
    assert document.ids["python-1"]["data-key"] == f'k"{evil}'


@pytest.mark.parametrize(
    "level,text,expected",
    [
        ("ttir", "%0 = tt.load %p : f32 loc(#loc3)", "v%0 ktt.load v%p cloc(#loc3)"),
        ("ptx", "@%p1 st.global.b32 [ %rd1 + 0 ], { %r2 }; // a", "v%p1 kst.global.b32 v%rd1 n0 v%r2 c//_a"),
        ("sass", "@!P0 STG.E [R2.64+0x1], R5", "vP0 kSTG.E vR2 n64 n0x1 vR5"),
        ("python", "x = f('a<b') # c", "s'a<b' c#_c"),
        ("llir", 'call void asm "st" (i32 %4), !dbg !7', 'kcall kasm s"st" v%4 a!dbg a!7'),
        ("other", "<a>", ""),
    ],
)  # fmt: skip
def test_colours(level, text, expected):
    from html import unescape

    found = highlight(text, level)
    tokens = [kind + unescape(word).replace(" ", "_") for kind, word in re.findall(r'<i class="(\w)">(.*?)</i>', found)]
    assert tokens == expected.split()
    assert unescape(re.sub(r"</?i[^>]*>", "", found)) == text
    assert "<a>" not in found


def test_long_listings_are_cut_around_the_mark(monkeypatch):
    from trlaunch.investigate.html import gather

    monkeypatch.setattr(gather, "_MOST_ROWS", 10)
    found = page_of_dump(CoreDump(died_of("3.6.0", "add_kernel", "STG"), folder("add_kernel")))
    for pane in found.panes[1:]:
        assert len(pane.rows) == 10
        assert pane.marked is not None
    document = Document(render(found))
    assert [link for link in document.links if link[1:] not in document.ids] == []


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_files_are_written(tmp_path):
    assert write(report(), tmp_path / "a.html").read_text("utf-8").startswith("<!doctype html>")
    assert report().html(str(tmp_path / "b.html")) == tmp_path / "b.html"
    assert write_dump(CoreDump(LIGHT), tmp_path / "c.html").stat().st_size > 10_000
    with pytest.raises(ArgumentError, match="cannot be written"):
        write(report(), tmp_path / "nowhere" / "a.html")


def test_without_jinja2_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(DeviceUnavailable, match=re.escape("pip install 'trlaunch[report]'")):
        render(Page("a", "b"))


def test_a_dump_without_registers_or_files():
    cubin = corpus.find("3.6.0", "cuda:90", "add_kernel").path("cubin").read_bytes()
    from tests.cuda.coredumps import Dump

    source = Dump(
        driver=346, images=[loaded(cubin, {".text.add_kernel": BASE})], warps=[Warp(error_pc=BASE, exception=4)]
    )
    found = page_of_dump(CoreDump(source.build()))
    assert Document(render(found)).ids.keys() >= {"summary", "levels", "registers"}
    empty = page_of_dump(CoreDump(Dump(driver=346).build()))
    assert Document(render(empty)).ids.keys() >= {"summary", "launch"}
