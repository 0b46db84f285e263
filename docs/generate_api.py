"""Write docs/api.md from the docstrings. ``--check`` only says whether it is up to date."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import trlaunch

TARGET = Path(__file__).with_name("api.md")

# In the order a reader meets them.
MODULES = (
    "trlaunch.kernel",
    "trlaunch.jit_function",
    "trlaunch.patch",
    "trlaunch.check",
    "trlaunch.artifact",
    "trlaunch.metadata",
    "trlaunch.signature",
    "trlaunch.memory",
    "trlaunch.tensors",
    "trlaunch.tensor_descriptor",
    "trlaunch.bundle",
    "trlaunch.hooks",
    "trlaunch.tuning",
    "trlaunch.image",
    "trlaunch.target",
    "trlaunch.driver",
    "trlaunch.emulator.debugger",
    "trlaunch.emulator.tracing",
    "trlaunch.emulator.memory_maps",
    "trlaunch.investigate.api",
    "trlaunch.investigate.report",
    "trlaunch.investigate.trial",
    "trlaunch.investigate.isolation",
    "trlaunch.investigate.program",
    "trlaunch.investigate.sanitizers",
    "trlaunch.cuda.coredump",
    "trlaunch.cuda.coredump_model",
    "trlaunch.cuda.fault_site",
    "trlaunch.errors",
)

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.M)
_ENTRY = re.compile(r"^\S.*$")


class _Bare:
    """An annotation printed without the quotes that `inspect` puts around a string."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def signature(obj: Any) -> str:
    """``(path: str | Path, *, name: str | None = None) -> Kernel``; empty where there is none."""
    try:
        found = inspect.signature(obj)
    except (TypeError, ValueError):
        return ""
    parameters = [
        p.replace(annotation=_Bare(p.annotation)) if isinstance(p.annotation, str) else p
        for name, p in found.parameters.items()
        if name not in ("self", "cls")
    ]
    returns = found.return_annotation
    result: Any = _Bare(returns) if isinstance(returns, str) and returns != "None" else inspect.Signature.empty
    return str(found.replace(parameters=parameters, return_annotation=result))


def markdown(doc: str) -> str:
    """A numpydoc docstring as Markdown: sections become bold words, their entries a list."""
    text = re.sub(r"``([^`]+)``", r"`\1`", inspect.cleandoc(doc))
    parts = _SECTION.split(text)
    blocks = [parts[0].strip()]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        blocks += [f"**{title}**", "\n".join(_entries(body.rstrip()))]
    return "\n\n".join(block for block in blocks if block)


def _entries(body: str) -> Iterator[str]:
    for line in body.splitlines():
        if _ENTRY.match(line):
            name, colon, kind = line.partition(" : ")
            yield f"- `{name}`" + (f" ({kind})" if colon else "")
        elif line.strip():
            yield f"  {line.strip()}"


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines, with a docstring."""
    for name, value in vars(cls).items():
        if name.startswith("_") or isinstance(value, type):
            continue
        if isinstance(value, property):
            yield name, value
        elif inspect.isfunction(inspect.unwrap(value)) or isinstance(value, (classmethod, staticmethod)):
            yield name, getattr(cls, name)


def render(module: ModuleType) -> Iterator[str]:
    """The lines of one module."""
    yield f"## {module.__name__}"
    yield markdown(module.__doc__ or "")
    exported = set(trlaunch.__all__)
    for name in module.__all__:
        obj = getattr(module, name)
        public = getattr(trlaunch, name) if name in exported else None
        same = public is obj or (public is not None and public is sys.modules.get(f"trlaunch.{name}"))
        shown = f"trlaunch.{name}" if same else f"{module.__name__}.{name}"
        if not (inspect.isclass(obj) or inspect.isfunction(obj)):
            continue
        plain = inspect.isclass(obj) and (issubclass(obj, (Exception, Enum)) or obj.__init__ is object.__init__)
        yield f"### {shown}"
        if not plain and (call := signature(obj)):
            yield f"```python\n{name}{call}\n```"
        yield markdown(inspect.getdoc(obj) or "")
        if inspect.isclass(obj) and issubclass(obj, Enum):
            yield ", ".join(f"`{member.value}`" for member in obj)
        if inspect.isclass(obj):
            for member, value in members(obj):
                head = f"#### {name}.{member}"
                yield head
                if not isinstance(value, property):
                    yield f"```python\n{member}{signature(value)}\n```"
                doc = inspect.getdoc(value.fget if isinstance(value, property) else value)
                yield markdown(doc or "")


def generate() -> str:
    """The whole page."""
    blocks = ["# API reference", "Written by `docs/generate_api.py` from the docstrings; edit those."]
    for name in MODULES:
        blocks += render(importlib.import_module(name))
    return "\n\n".join(block for block in blocks if block) + "\n"


def main() -> int:
    """Write the page, or check it."""
    text = generate()
    if "--check" in sys.argv[1:]:
        if TARGET.exists() and TARGET.read_text() == text:
            return 0
        print(f"{TARGET.name} is out of date: run python docs/generate_api.py (or make docs)", file=sys.stderr)
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
