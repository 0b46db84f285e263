"""The HTML report (jinja2, the extra ``report``): one file without anything from elsewhere, to look at and to send.

`gather` turns a report or a core dump into a `Page`, which is plain data; the template, its style and its script are
files beside this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trlaunch.errors import ArgumentError, DeviceUnavailable
from trlaunch.investigate.html.gather import page_of_dump, page_of_report
from trlaunch.investigate.html.page import Page

if TYPE_CHECKING:
    from trlaunch.cuda.coredump import CoreDump
    from trlaunch.investigate.report import Report

__all__ = ["Page", "page_of_dump", "page_of_report", "render", "write", "write_dump"]

_FOLDER = Path(__file__).parent


def render(page: Page) -> str:
    """The page as HTML.

    Raises
    ------
    DeviceUnavailable
        jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise DeviceUnavailable(
            f"HTML reports need jinja2, which cannot be imported ({error}): pip install 'trlaunch[report]'"
        ) from error
    from trlaunch.investigate.html.highlight import highlight

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["highlight"] = lambda text, level: Markup(highlight(text, level))  # noqa: S704 - it escapes
    # Both are this package's own files.
    style = Markup((_FOLDER / "page.css").read_text("utf-8"))  # noqa: S704
    script = Markup((_FOLDER / "page.js").read_text("utf-8"))  # noqa: S704
    return environment.get_template("page.html.j2").render(page=page, style=style, script=script)


def write(report: Report, path: str | Path) -> Path:
    """Write a report as one HTML file.

    Parameters
    ----------
    report : Report
    path : path

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ArgumentError
        The file cannot be written.
    DeviceUnavailable
        jinja2 is not installed.
    """
    return _put(page_of_report(report), Path(path))


def write_dump(dump: CoreDump, path: str | Path) -> Path:
    """Write a core dump as one HTML file; parameters and errors as of `write`."""
    return _put(page_of_dump(dump), Path(path))


def _put(page: Page, path: Path) -> Path:
    try:
        path.write_text(render(page), "utf-8")
    except OSError as error:
        raise ArgumentError(f"the report cannot be written to {str(path)!r}: {error.strerror or error}") from None
    return path
