"""Tokens of PTX text, with the line each stands on (PTX ISA, chapter "Syntax")."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from trlaunch.errors import EmulatorError

__all__ = ["MAX_TEXT", "Token", "TokenStream", "decode"]

#: Longest text that is read, in characters: a thousand times what Triton writes.
MAX_TEXT = 1 << 26

# The blank part never fails and the token part ends in "any character" or the end, so matching is linear.
_TOKEN = re.compile(
    r"""(?:\s|//[^\n]*|/\*(?:.*?)\*/)*
    (?:(?P<name>[A-Za-z_$%][\w$]*(?:(?:\.|::)\w+)*)
      |(?P<directive>\.[A-Za-z_][\w$]*(?:(?:\.|::)[\w$]+)*)
      |(?P<number>0[fF][0-9a-fA-F]{8}\b|0[dD][0-9a-fA-F]{16}\b|0[xX][0-9a-fA-F]+U?|0[bB][01]+U?
                 |\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+U?)
      |(?P<string>"(?:[^"\\]|\\.)*")
      |(?P<mark>.)
      |(?P<end>\Z))""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is name, directive, number, string, mark or end; `start` is an index into the text."""

    kind: str
    text: str
    start: int


def decode(text: bytes | str) -> str:
    """PTX as text; the zero byte that ends a C string is dropped.

    Raises
    ------
    EmulatorError
        The input is longer than `MAX_TEXT`.
    """
    if len(text) > MAX_TEXT:
        raise EmulatorError(f"PTX of {len(text)} bytes: expected at most {MAX_TEXT}")
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="surrogateescape")
    return text.rstrip("\0")


class TokenStream:
    """All tokens of a text and a cursor over them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = [0]
        self._lines.extend(m.end() for m in re.finditer("\n", text))
        self.tokens = [Token(m.lastgroup or "end", m[m.lastgroup or "end"], m.start(m.lastgroup or "end"))
                       for m in _TOKEN.finditer(text)]  # fmt: skip
        if not self.tokens or self.tokens[-1].kind != "end":
            self.tokens.append(Token("end", "", len(text)))
        self.at = 0

    def line_of(self, token: Token) -> int:
        """1-based line of a token."""
        return bisect_right(self._lines, token.start)

    def line_text(self, line: int) -> str:
        """The text of a 1-based line, stripped, without its comment."""
        start = self._lines[line - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)].split("//")[0].strip()

    @property
    def here(self) -> Token:
        """The token under the cursor."""
        return self.tokens[self.at]

    def next(self) -> Token:
        """The token under the cursor; the cursor moves on (not past the end)."""
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def accept(self, text: str) -> bool:
        """Move past the token if it reads `text`."""
        token = self.tokens[self.at]
        if token.text == text and token.kind not in ("string", "end"):
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> Token:
        """Move past a token that must read `text`."""
        token = self.tokens[self.at]
        if not self.accept(text):
            raise self.error(f"expected {text!r}")
        return token

    def expect_kind(self, kind: str, what: str) -> str:
        """Text of the token, which must be of that kind."""
        token = self.tokens[self.at]
        if token.kind != kind:
            raise self.error(f"expected {what}")
        self.at += 1
        return token.text

    def integer(self) -> int:
        """An integer literal with an optional minus sign."""
        negative = self.accept("-")
        text = self.expect_kind("number", "an integer")
        value = self.integer_value(text)
        return -value if negative else value

    def integer_value(self, text: str) -> int:
        """Value of an integer literal of at most 64 bits (PTX ISA, "Integer Constants")."""
        digits = text.rstrip("U")
        try:
            if digits[:2] in ("0x", "0X", "0b", "0B"):
                value = int(digits, 0) if len(digits) < 80 else 1 << 64
            elif digits.startswith("0") and len(digits) > 1:
                value = int(digits, 8) if len(digits) < 80 else 1 << 64
            else:
                value = int(digits) if len(digits) < 80 else 1 << 64
        except ValueError:
            raise self.error(f"expected an integer, found {text!r}", back=1) from None
        if value >= 1 << 64:
            raise self.error("integer constant of more than 64 bits", back=1)
        return value

    def error(self, what: str, back: int = 0) -> EmulatorError:
        """An error that names the line under the cursor, its text and what stands there."""
        token = self.tokens[max(0, self.at - back)]
        line = self.line_of(token)
        found = (
            "" if back else (", found the end of the text" if token.kind == "end" else f", found {token.text[:40]!r}")
        )
        text = self.line_text(line)[:120]
        return EmulatorError(f"PTX line {line}: {what}{found}" + (f" in `{text}`" if text else ""))
