"""Distributed layouts of TTGIR: which element of a tensor each register of each thread holds.

Every layout is linear over bits: the index of an element is the exclusive or of one basis for each bit that is 1 in the
numbers of the register, the lane and the warp (Zhou et al., "Linear Layouts: Robust Code Generation of Efficient Tensor
Computation Using F2"). The encodings are those of ``TritonGPUAttrDefs.td``; the tiles of matrix instructions follow PTX
ISA, "Matrix fragments for mma.m16n8k16" and "wgmma.mma_async", chapters of the register fragments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trlaunch.errors import ArgumentError
from trlaunch.mlir import split_list

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Layout", "layout_of"]

_MAX_DEPTH = 8
_INPUTS = ("register", "lane", "warp")


@dataclass(slots=True)
class Layout:
    """A layout of a tensor.

    Attributes
    ----------
    shape : tuple of int
    bases : mapping of str to list of tuple of int
        Of ``register``, ``lane`` and ``warp``: for each bit of the number the index that it adds by exclusive or.
    """

    shape: tuple[int, ...]
    bases: dict[str, list[tuple[int, ...]]] = field(default_factory=lambda: {name: [] for name in _INPUTS})

    @property
    def registers(self) -> int:
        """Registers a thread, those that hold the same element counted each."""
        return 1 << len(self.bases["register"])

    @property
    def threads(self) -> int:
        """Threads of all warps."""
        return 1 << (len(self.bases["lane"]) + len(self.bases["warp"]))

    def without_copies(self) -> Layout:
        """The layout with one register for each element that a thread holds, as the compiler keeps them."""
        bases = {**self.bases, "register": [b for b in self.bases["register"] if any(b)]}
        return Layout(self.shape, bases)

    def elements(self) -> npt.NDArray[np.int64]:
        """The element, counted row-major, in each register of each thread: ``(threads, registers)``."""
        import numpy as np

        strides = np.array([math.prod(self.shape[d + 1 :]) for d in range(len(self.shape))], np.int64)

        def numbers(bases: Sequence[tuple[int, ...]]) -> npt.NDArray[np.int64]:
            found = np.zeros((1, len(self.shape)), np.int64)
            for basis in bases:
                found = np.concatenate([found, found ^ np.array(basis, np.int64)])
            return found

        threads = numbers([*self.bases["lane"], *self.bases["warp"]])
        registers = numbers(self.bases["register"])
        indices: npt.NDArray[np.int64] = (threads[:, None, :] ^ registers[None, :, :]) @ strides
        return indices

    # --- putting layouts together: each step works on the axes' next bits --------------------------------------------

    def _extent(self, axis: int) -> int:
        """Elements along an axis that the bases so far reach."""
        reached = 0
        for bases in self.bases.values():
            for basis in bases:
                reached |= basis[axis]
        return reached + 1

    def spread(self, name: str, axis: int, size: int) -> Layout:
        """Let the next bits of a number count `size` elements along an axis."""
        start = self._extent(axis)
        for bit in range(size.bit_length() - 1):
            basis = [0] * len(self.shape)
            basis[axis] = start << bit
            self.bases[name].append(tuple(basis))
        return self

    def repeat(self, name: str, size: int) -> Layout:
        """Let the next bits of a number change nothing: `size` copies."""
        self.bases[name] += [(0,) * len(self.shape)] * (size.bit_length() - 1)
        return self

    def fitted(self, order: Sequence[int]) -> Layout:
        """Wrapped around a tensor that is smaller, repeated in registers over one that is larger, axes in `order`."""
        for axis in order:
            size = self._extent(axis)
            if size < self.shape[axis]:
                self.spread("register", axis, self.shape[axis] // size)
        for name, bases in self.bases.items():
            self.bases[name] = [
                tuple(n if n < size else 0 for n, size in zip(basis, self.shape, strict=True)) for basis in bases
            ]
        return self


def layout_of(shape: tuple[int, ...], encoding: str, aliases: Mapping[str, str]) -> Layout:
    """The layout that an encoding gives a tensor.

    Parameters
    ----------
    shape : tuple of int
        Powers of two.
    encoding : str
        As printed: ``#blocked``, ``#ttg.slice<{dim = 1, parent = #mma}>``.
    aliases : mapping of str to str
        What the names of attributes stand for.

    Raises
    ------
    ArgumentError
        The encoding is none of those that are known here, or is spread over a cluster.
    """
    if not shape or any(n < 1 or n & (n - 1) for n in shape):
        raise ArgumentError(f"a tensor of shape {shape}: expected powers of two")
    return _Reader(aliases).layout(shape, encoding, 0)


class _Reader:
    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.aliases = aliases

    def layout(self, shape: tuple[int, ...], encoding: str, depth: int) -> Layout:
        kind, fields = self._attribute(encoding, depth)
        ctas = fields.get("CTAsPerCGA", ())
        if (isinstance(ctas, list) and math.prod(ctas) > 1) or fields.get("CGALayout") or fields.get("block"):
            raise ArgumentError(f"{encoding}: it is spread over the CTAs of a cluster")
        try:
            if kind == "slice":
                return self._slice(shape, fields, depth)
            if kind == "blocked":
                return _blocked(shape, fields)
            if kind == "nvidia_mma":
                return _mma(shape, fields)
            if kind == "dot_op":
                return self._dot_operand(shape, fields, depth)
            if kind in ("linear", "generic_linear"):
                return _linear(shape, fields)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ArgumentError(f"the layout {encoding} does not fit the shape {shape}: {error!r}") from None
        raise ArgumentError(f"the layout {encoding} ({kind}) is not one whose registers are known")

    def _attribute(self, text: str, depth: int) -> tuple[str, dict[str, Any]]:
        """Kind and fields of an attribute, behind its alias."""
        if depth > _MAX_DEPTH:
            raise ArgumentError(f"layouts are nested deeper than {_MAX_DEPTH}")
        meaning = self.aliases.get(text.strip(), text.strip())
        head, _, rest = meaning.partition("<{")
        kind = head.rpartition(".")[2]
        fields: dict[str, Any] = {}
        for part in split_list(rest, 0) or ():
            key, equals, value = part.partition("=")
            if equals:
                fields[key.strip()] = _value(value.strip())
        return kind, fields

    def _slice(self, shape: tuple[int, ...], fields: Mapping[str, Any], depth: int) -> Layout:
        """The parent's layout with an axis left out; registers that differ along it alone hold the same element."""
        axis = int(fields["dim"])
        whole = (*shape[:axis], 1, *shape[axis:])
        parent = self.layout(whole, fields["parent"], depth + 1)
        bases = {name: [b[:axis] + b[axis + 1 :] for b in found] for name, found in parent.bases.items()}
        return Layout(shape, bases).without_copies()

    def _dot_operand(self, shape: tuple[int, ...], fields: Mapping[str, Any], depth: int) -> Layout:
        kind, parent = self._attribute(fields["parent"], depth + 1)
        left = int(fields["opIdx"]) == 0
        if len(shape) != 2:
            raise ArgumentError("operands of batched products are not put back into shape")
        if kind == "blocked":
            return _blocked_operand(shape, parent, left)
        if kind != "nvidia_mma":
            raise ArgumentError(f"the layout of an operand of {kind} is not one whose registers are known")
        width, warps = int(fields.get("kWidth", 2)), list(parent["warpsPerCTA"])
        # Along K contiguous: rows of A, columns of B.
        order = [1, 0] if left else [0, 1]
        rows, inner = (16, 8 * width) if left else (8, 8 * width)
        layout = _tile(Layout(shape), rows, inner, width, order)
        for axis in _warp_order(parent):
            if axis == order[0]:
                layout.repeat("warp", warps[axis])
            else:
                layout.spread("warp", axis, warps[axis])
        return layout.fitted(order)


def _value(text: str) -> Any:
    """A number, a list of them, a boolean, or text."""
    if text.startswith("["):
        return [_value(part) for part in split_list(text, 1) or () if part]
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdigit() else text


def _blocked(shape: tuple[int, ...], fields: Mapping[str, Any]) -> Layout:
    layout, order = Layout(shape), list(fields["order"])
    for name, key in (("register", "sizePerThread"), ("lane", "threadsPerWarp"), ("warp", "warpsPerCTA")):
        for axis in order:
            layout.spread(name, axis, fields[key][axis])
    return layout.fitted(order)


def _blocked_operand(shape: tuple[int, ...], parent: Mapping[str, Any], left: bool) -> Layout:
    """An operand of a product without matrix instructions: each thread has all of K."""
    layout, order, inner = Layout(shape), list(parent["order"]), 1 if left else 0
    for axis in order:
        layout.spread("register", axis, shape[axis] if axis == inner else parent["sizePerThread"][axis])
    for name, key in (("lane", "threadsPerWarp"), ("warp", "warpsPerCTA")):
        for axis in order:
            if axis == inner:
                layout.repeat(name, parent[key][axis])
            else:
                layout.spread(name, axis, parent[key][axis])
    return layout.fitted([1, 0] if left else [0, 1])


def _warp_order(fields: Mapping[str, Any]) -> list[int]:
    """The axis along which warps count first: down the rows since Hopper."""
    return [0, 1] if int(fields["versionMajor"]) == 3 else [1, 0]


def _tile(layout: Layout, outer: int, inner: int, width: int, order: Sequence[int]) -> Layout:
    """The tile of one matrix instruction: groups of four lanes along a row, `width` elements in each."""
    layout.spread("register", order[0], width)
    layout.spread("lane", order[0], 4)
    layout.spread("lane", order[1], 8)
    layout.spread("register", order[1], outer // 8)
    return layout.spread("register", order[0], inner // (4 * width))


def _mma(shape: tuple[int, ...], fields: Mapping[str, Any]) -> Layout:
    major, sizes = int(fields["versionMajor"]), list(fields["instrShape"])
    if major not in (2, 3) or len(shape) != 2:
        raise ArgumentError(f"the layout of version {major} of matrix products on {len(shape)} axes is not known here")
    layout = _tile(Layout(shape), sizes[0], sizes[1], 2, [1, 0])
    for axis in _warp_order(fields):
        layout.spread("warp", axis, fields["warpsPerCTA"][axis])
    return layout.fitted([1, 0])


def _linear(shape: tuple[int, ...], fields: Mapping[str, Any]) -> Layout:
    bases = {name: [tuple(int(n) for n in basis) for basis in fields.get(name, [])] for name in _INPUTS}
    if any(len(basis) != len(shape) for found in bases.values() for basis in found):
        raise ArgumentError(f"a linear layout of other axes than {shape}")
    return Layout(shape, bases).fitted(list(reversed(range(len(shape)))))
