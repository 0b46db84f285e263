"""Entry point of the build. Everything declarative is in pyproject.toml; what has to be computed goes here."""

from setuptools import Extension, setup

# Launches work without it too, through the interpreter: where no compiler is found the build goes on.
setup(
    ext_modules=[
        Extension(
            "trlaunch._launcher",
            ["trlaunch/_launcher.c"],
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            optional=True,
        )
    ]
)
