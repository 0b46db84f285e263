"""Entry point of the build. Everything declarative is in pyproject.toml; what has to be computed goes here."""

from pathlib import Path

from setuptools import Extension, setup

# Launches work without it too, through the interpreter: where no compiler is found the build goes on.
setup(
    ext_modules=[
        Extension(
            "trlaunch._launcher",
            ["trlaunch/native/launcher.c"],
            depends=sorted(map(str, Path("trlaunch/native").glob("*.h"))),
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            optional=True,
        )
    ]
)
