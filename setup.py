"""Entry point of the build. Everything declarative is in pyproject.toml; what has to be computed goes here."""

from setuptools import setup

setup()
