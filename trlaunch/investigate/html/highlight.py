"""Colours for the levels: comments, strings, values, numbers and the words that name operations. HTML, escaped."""

from __future__ import annotations

import re
from html import escape

__all__ = ["highlight"]

_STRING = r"(?P<s>\"(?:[^\"\\]|\\.)*\")"
_NUMBER = r"(?P<n>\b(?:0x[0-9a-fA-F]+|0f[0-9A-Fa-f]{8}|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\b)"
_MLIR = re.compile(
    rf"(?P<c>//.*$|\bloc\(#?\w*\))|{_STRING}|(?P<v>%[\w.#$-]+)|(?P<a>[#!][\w.$]+)|(?P<k>\b[a-z_]\w*\.[\w.]+\b)|{_NUMBER}"
)
_LLVM = re.compile(
    rf"(?P<c>;.*$)|{_STRING}|(?P<v>%[\w.$-]+)|(?P<a>[#!][\w.]+)|"
    r"(?P<k>\b(?:call|load|store|br|ret|phi|define|declare|getelementptr|icmp|fcmp|select|add|mul|sub|shl|lshr|and|or|xor|"
    rf"fadd|fmul|fsub|fdiv|zext|sext|trunc|bitcast|insertvalue|extractvalue|insertelement|extractelement|asm)\b)|{_NUMBER}"
)
_PTX = re.compile(
    rf"(?P<c>//.*$)|{_STRING}|(?P<v>%[\w.$]+)|(?P<a>(?<![\w.])\.[a-z]\w*(?=\s))|"
    rf"(?P<k>(?<=[\s;{{])[a-z]\w*(?:\.[\w:]+)+)|{_NUMBER}"
)
_SASS = re.compile(
    rf"(?P<c>/\*.*?\*/)|(?P<v>(?<![\w.])U?(?:R|P)(?:\d+|Z|T)\b)|(?P<k>(?:(?<=^)|(?<=@\S\S\s)|(?<=@\S\S\S\s)|"
    rf"(?<=@\S\S\S\S\s))[A-Z][\w.]+)|{_NUMBER}"
)
_PYTHON = re.compile(
    r"(?P<c>\#.*$)|(?P<s>(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'))|"
    r"(?P<k>\b(?:def|return|for|in|if|else|elif|while|import|from|as|range|and|or|not|None|True|False|with|assert|class)\b)|"
    rf"(?P<a>@[\w.]+)|{_NUMBER}"
)
_RULES = {"python": _PYTHON, "ttir": _MLIR, "ttgir": _MLIR, "llir": _LLVM, "ptx": _PTX, "sass": _SASS}


def highlight(text: str, level: str) -> str:
    """A line as HTML: escaped, with ``<i class=...>`` around what has a colour."""
    rule = _RULES.get(level)
    if rule is None:
        return escape(text)
    parts, at = [], 0
    for found in rule.finditer(text):
        if found.start() == found.end():
            continue
        parts.append(escape(text[at : found.start()]))
        parts.append(f'<i class="{found.lastgroup}">{escape(found[0])}</i>')
        at = found.end()
    parts.append(escape(text[at:]))
    return "".join(parts)
