"""The HTML report in headless Chromium: it draws, lines link on a click, nothing is fetched. Left out without one."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator

import pytest

from tests.investigate.test_html import LEVELS, page, page_of_report, report
from trlaunch.investigate.html import render

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1600,1400",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[object]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """Show a page; nothing may be said on the console."""

    def show(found):
        file = tmp_path / "report.html"
        file.write_text(render(found), "utf-8")
        browser.get(file.as_uri())
        return browser

    yield show
    assert browser.get_log("browser") == []


def ids(browser, selector: str) -> list[str]:
    return browser.execute_script(f"return [...document.querySelectorAll('{selector}')].map((e) => e.id)")


def visible(browser, name: str) -> bool:
    """Whether a row is inside the part of its pane that is scrolled to."""
    return browser.execute_script(
        "const row = document.getElementById(arguments[0]).getBoundingClientRect();"
        "const code = document.getElementById(arguments[0]).closest('.code').getBoundingClientRect();"
        "return row.top >= code.top && row.bottom <= code.bottom;",
        name,
    )


def test_the_faulting_line_of_every_level_is_in_sight(opened):
    browser = opened(page())
    marked = ids(browser, ".row.marked")
    assert sorted(name.partition("-")[0] for name in marked) == sorted(LEVELS)
    assert all(visible(browser, name) for name in marked)
    panes = browser.execute_script("return [...document.querySelectorAll('.pane')].map((e) => e.offsetTop)")
    assert len(set(panes)) == 2  # three beside each other, two rows


def test_a_click_highlights_what_came_from_the_same_line(opened):
    browser = opened(page())
    sass = page().panes[5]
    load = next(row for row in sass.rows if "LDG" in row.text)
    name = f"sass-{load.number}"
    browser.execute_script("document.getElementById(arguments[0]).scrollIntoView()", name)
    browser.find_element("id", name).click()
    linked = set(ids(browser, ".row.linked"))
    expected = {f"{pane.level}-{row.number}" for pane in page().panes for row in pane.rows if row.key == load.key}
    assert linked == expected
    assert {other.partition("-")[0] for other in linked} == set(LEVELS)
    assert ids(browser, ".row.exact") == [load.exact]
    assert visible(browser, load.exact)
    for level in LEVELS[:5]:
        assert any(visible(browser, other) for other in linked if other.startswith(f"{level}-")), level
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert ids(browser, ".row.linked") == []


def test_hovering_shows_the_same_lightly(opened):
    from selenium.webdriver import ActionChains

    browser = opened(page())
    row = page().panes[0].marked
    ActionChains(browser).move_to_element(browser.find_element("id", f"python-{row.number}")).perform()
    near = ids(browser, ".row.near")
    assert {name.partition("-")[0] for name in near} == set(LEVELS)


def test_links_of_the_summary_lead_to_rows(opened):
    browser = opened(page())
    link = browser.find_element("css selector", ".lines a.to[href^='#ttgir-']")
    target = link.get_attribute("href").partition("#")[2]
    browser.find_element("css selector", "[data-pane='ttgir']").click()
    assert ids(browser, ".pane[hidden]") == ["pane-ttgir"]
    link.click()
    assert ids(browser, ".pane[hidden]") == []
    assert visible(browser, target)
    assert target in ids(browser, ".row.linked")


def test_registers_and_themes(opened):
    browser = opened(page_of_report(report()))
    used = len(browser.find_elements("css selector", ".lanes thead th"))
    shown = "return [...document.querySelectorAll('.lanes thead th')].filter((e) => e.offsetWidth).length"
    few = browser.execute_script(shown)
    assert few < used
    browser.find_element("id", "every").click()
    assert browser.execute_script(shown) == used
    back = "return getComputedStyle(document.body).backgroundColor"
    first = browser.execute_script(back)
    browser.find_element("id", "theme").click()
    assert browser.execute_script(back) != first


def pixels(png: bytes) -> list[bytes]:
    """The rows of a PNG's pixels without their filter bytes undone: enough to tell an empty page from a full one."""
    width, _height = struct.unpack(">II", png[16:24])
    data, at = b"", 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += 12 + size
    raw = zlib.decompress(data)
    stride = 1 + width * (4 if png[25] == 6 else 3)
    return [raw[i + 1 : i + stride] for i in range(0, len(raw), stride)]


def test_a_screenshot_shows_a_full_page(opened, tmp_path):
    browser = opened(page_of_report(report()))
    shot = tmp_path / "report.png"
    assert browser.save_screenshot(str(shot))
    rows = pixels(shot.read_bytes())
    assert len(rows) > 1000
    # Text and colours everywhere: an empty or unstyled page has long runs of rows without any change.
    assert sum(len(set(row)) > 8 for row in rows) > len(rows) / 2
    width = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width[0] == width[1]  # nothing sticks out to the side
