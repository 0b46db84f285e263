"""Types in MLIR text: tensors taken apart, and the types of an operation's results by its type clause.

An operation's own format may leave the types of its results out of the clause; what to make of those is in `_TYPES`.
"""

from __future__ import annotations

from collections.abc import Callable

from trlaunch.mlir import split_list

__all__ = ["CLOSE", "OPEN", "element_type", "find", "result_types", "split_tensor", "string_end", "type_list"]

OPEN, CLOSE = "([{<", ")]}>"


def split_tensor(type_text: str) -> tuple[tuple[int, ...], str, str | None] | None:
    """Shape, element type and encoding of ``tensor<64x32xf16, #mma>``; ``None`` for another type."""
    if not type_text.startswith("tensor<") or not type_text.endswith(">"):
        return None
    parts = split_list(type_text, len("tensor<"))
    if not parts:
        return None
    shape, rest = [], parts[0]
    while rest[:1].isdigit():
        number, x, after = rest.partition("x")
        if not x or not number.isdigit():
            return None
        shape.append(int(number))
        rest = after
    return tuple(shape), rest, ", ".join(parts[1:]) or None


def element_type(type_text: str) -> str:
    """The element type of a tensor, the type itself of anything else."""
    tensor = split_tensor(type_text)
    return tensor[1] if tensor else type_text


def _with_element(type_text: str, element: str) -> str:
    tensor = split_tensor(type_text)
    if tensor is None:
        return element
    shape, _, encoding = tensor
    return f"tensor<{''.join(f'{n}x' for n in shape)}{element}{f', {encoding}' if encoding else ''}>"


def _pointee(type_text: str) -> str | None:
    element = element_type(type_text)
    if not element.startswith("!tt.ptr<"):
        return None
    parts = split_list(element, len("!tt.ptr<"))
    if not parts:
        return None
    return parts[0] if parts[0].startswith("tensor<") else _with_element(type_text, parts[0])


# Operations whose type clause names other types than those of their results, in TableGen's assemblyFormat of
# TritonOps.td and ArithOps.td.
_TYPES: dict[str, Callable[[list[str]], list[str | None]]] = {
    "arith.cmpi": lambda types: [_with_element(types[0], "i1")],
    "arith.cmpf": lambda types: [_with_element(types[0], "i1")],
    "arith.select": lambda types: [types[-1]],
    "arith.addui_extended": lambda types: [types[0], types[-1] if len(types) > 1 else _with_element(types[0], "i1")],
    "arith.mulsi_extended": lambda types: [types[0], types[0]],
    "arith.mului_extended": lambda types: [types[0], types[0]],
    "tt.addptr": lambda types: [types[0]],
    "tt.advance": lambda types: [types[0]],
    "tt.load": lambda types: [_pointee(types[0])],
    "tt.unsplat": lambda types: [element_type(types[0])],
    "tt.make_tensor_ptr": lambda types: [f"!tt.ptr{types[0]}" if types[0].startswith("<") else types[0]],
}


def result_types(name: str, clause: str, count: int) -> list[str | None]:
    """Types of the results by the text behind the colon."""
    arrow = find(clause, "->")
    if arrow >= 0:
        listed = type_list(clause[arrow + 2 :])
        return [*listed] if len(listed) == count else [None] * count if len(listed) != 1 else [listed[0]] * count
    to = find(clause, " to ")
    if to >= 0:
        return [clause[to + 4 :].strip()] * count
    types = type_list(clause)
    if not types:
        return [None] * count
    if name in _TYPES:
        made = _TYPES[name](types)
        return made if len(made) == count else [None] * count
    if len(types) == count:
        return [*types]
    return [types[0] if len(types) == 1 else None] * count


def type_list(text: str) -> list[str]:
    """The types of a list, in brackets or not."""
    text = text.strip()
    inner = text[1:] if text.startswith("(") else text + ")"
    return split_list(inner, 0) or []


def find(text: str, what: str, last: bool = False) -> int:
    """Where something is outside of all brackets and strings; -1 where it is not."""
    depth, i, found = 0, 0, -1
    while i < len(text):
        char = text[i]
        if char == '"':
            i = string_end(text, i)
            continue
        if depth == 0 and text.startswith(what, i):
            if not last:
                return i
            found = i
        if text.startswith("->", i):
            i += 2
            continue
        if char in OPEN:
            depth += 1
        elif char in CLOSE:
            depth -= 1
        i += 1
    return found


def string_end(text: str, start: int) -> int:
    """Offset behind the string that begins at `start`; the end of the text where it is not closed."""
    i = start + 1
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == '"':
            return i + 1
        i += 1
    return len(text)
