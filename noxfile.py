"""Sessions over every Python that trlaunch serves: ``nox``, or ``nox -s tests-3.12``."""

from __future__ import annotations

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    session.install("--editable", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
@nox.parametrize("release", ["6.4", "7.2", "10.0"])
def hip(session: nox.Session, release: str) -> None:
    session.install("--editable", ".[dev]", f"hip-python=={release}.*")
    session.run("pytest", "tests/hip", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    session.install("--editable", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def types(session: nox.Session) -> None:
    session.install("--editable", ".[dev]")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    session.install("--editable", ".[dev]")
    session.run("python", "docs/generate_api.py", "--check")
