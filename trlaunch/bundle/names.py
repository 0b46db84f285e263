"""Names and texts of kernels as C takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["comment", "identifier", "string", "unique"]

# Keywords of C99 and C++17, and the alternative tokens of C++.
_WORDS = frozenset((
    "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch", "char",
    "char16_t", "char32_t", "class", "compl", "const", "const_cast", "constexpr", "continue", "decltype", "default",
    "delete", "do", "double", "dynamic_cast", "else", "enum", "explicit", "export", "extern", "false", "float", "for",
    "friend", "goto", "if", "inline", "int", "long", "mutable", "namespace", "new", "noexcept", "not", "not_eq",
    "nullptr", "operator", "or", "or_eq", "private", "protected", "public", "register", "reinterpret_cast",
    "restrict", "return", "short", "signed", "sizeof", "static", "static_assert", "static_cast", "struct", "switch",
    "template", "this", "thread_local", "throw", "true", "try", "typedef", "typeid", "typename", "union", "unsigned",
    "using", "virtual", "void", "volatile", "wchar_t", "while", "xor", "xor_eq",
))  # fmt: skip
# Macros of the headers that are included, of GNU C without -std=c99, and of <complex.h>.
_MACROS = frozenset(
    ("NULL", "EOF", "linux", "unix", "i386", "I", "complex", "imaginary", "assert", "errno", "__FILE__")
)


def identifier(text: str, otherwise: str) -> str:
    """A C identifier like `text` that is neither a keyword nor reserved; `otherwise` where nothing of it is left."""
    # In C++ a double underscore anywhere is the implementation's, and so is a capital behind a leading one.
    found = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_]", "_", text)).strip("_")
    if not found:
        return otherwise
    if found[0].isdigit():
        found = f"{otherwise}_{found}"
    return f"{found}_" if found in _WORDS | _MACROS else found


def unique(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """The names, each made different from the ones before it and from those taken by a number."""
    seen, out = set(taken), []
    for name in names:
        candidate, number = name, 2
        while candidate in seen:
            candidate, number = f"{name}_{number}", number + 1
        seen.add(candidate)
        out.append(candidate)
    return out


def string(text: str) -> str:
    """A C string literal of the UTF-8 bytes of `text`."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{plain}"'


def comment(text: str) -> str:
    """`text` for one line of a C comment."""
    plain = text.encode("ascii", "backslashreplace").decode()
    plain = "".join(c if c.isprintable() else " " for c in plain)
    return plain.replace("*/", "* /").replace("/*", "/ *")
