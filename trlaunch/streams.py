"""Streams of any framework as a handle."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from trlaunch.errors import ArgumentError

__all__ = ["current_torch_stream", "handle"]


def handle(stream: Any) -> int:
    """Handle of a stream.

    Parameters
    ----------
    stream : object
        Has ``__cuda_stream__`` (cuda.core's protocol: version and handle), ``.cuda_stream`` (torch), ``.ptr`` (CuPy),
        ``.handle`` (numba-cuda), is one of hip-python's pointers, or is the handle as an int. 0 is the default stream.

    Raises
    ------
    ArgumentError
        It is none of these.
    """
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        pair = protocol() if callable(protocol) else protocol
        if isinstance(pair, tuple) and len(pair) == 2:
            return int(pair[1] or 0)
    for attribute in ("cuda_stream", "ptr", "handle"):
        value = getattr(stream, attribute, None)
        if value is not None and hasattr(value, "value"):
            value = value.value or 0  # a ctypes pointer, as numba-cuda's handle is; the default stream's is null
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    if hasattr(stream, "as_c_void_p"):  # hip-python's ihipStream_t
        return int(stream)
    raise ArgumentError(
        f"stream={stream!r:.80}: expected an object with __cuda_stream__, .cuda_stream (torch) or .ptr (CuPy), "
        f"or the handle as an int (0 is the default stream)"
    )


def current_torch_stream(values: Iterable[Any], ordinal: int) -> int | None:
    """Handle of torch's current stream when a torch CUDA tensor is among the values; ``None`` when none is."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    for value in values:
        # A host tensor descriptor holds its tensor: trlaunch's as .tensor, Triton's as .base.
        for tensor in (value, getattr(value, "tensor", None), getattr(value, "base", None)):
            if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                return int(torch._C._cuda_getCurrentRawStream(ordinal))
    return None
