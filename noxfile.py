"""Sessions over every Python that trlaunch serves: ``nox``, or ``nox -s tests-3.12``."""

from __future__ import annotations

import sys
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

# Every minor release of Triton 3 at its last patch; the matrix needs a Python that all have wheels for, 3.10 to 3.12.
TRITONS = ["3.0.0", "3.1.0", "3.2.0", "3.3.1", "3.4.0", "3.5.1", "3.6.0", "3.7.1", "3.8.0", "3.9.0"]

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


@nox.session(python=False)
def matrix(session: nox.Session) -> None:
    """Start again from every level with each release of Triton: ``nox -s matrix -- 3.6.0 3.9.0``.

    Without releases, all of them; ``--write`` writes docs/compatibility.md. An environment for each is made once under
    .nox/matrix; wheels (200 MB and more each) come from pip's own cache the second time.
    """
    chosen = [word for word in session.posargs if word != "--write"] or TRITONS
    unknown = sorted(set(chosen) - set(TRITONS))
    if unknown:
        session.error(f"no release {', '.join(unknown)}: expected some of {', '.join(TRITONS)}, and --write")
    root = Path(".nox") / "matrix"
    results = root / "results"
    results.mkdir(parents=True, exist_ok=True)
    for release in chosen:
        python = (root / release / "bin" / "python").absolute()
        if not python.exists():
            session.run(sys.executable, "-m", "venv", str(root / release), external=True)
        # Releases up to 3.2 import setuptools and declare filelock.
        needs = [f"triton=={release}", "setuptools<80", "filelock", "--editable", "."]
        session.run(str(python), "-m", "pip", "install", "--quiet", *needs, external=True)
        for part in ("restarting", "reading"):
            with (results / f"{part}-{release}.json").open("w") as file:
                environment = {"TRITON_DEFAULT_FP_FUSION": "1"}  # 3.9 warns that 3.10 will have another default
                session.run(
                    str(python), "-m", f"tests.matrix.{part}", env=environment, stdout=file, external=True, silent=False
                )
    arguments = ["--write"] if "--write" in session.posargs else []
    python = (root / chosen[-1] / "bin" / "python").absolute()
    session.run(str(python), "-m", "tests.matrix.table", str(results), *arguments, external=True)
