"""Stream handles of every library's streams."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from trlaunch.errors import ArgumentError
from trlaunch.streams import current_torch_stream, handle


class Protocol:
    """cuda.core's protocol: version and handle."""

    def __init__(self, pair):
        self.pair = pair

    def __cuda_stream__(self):
        return self.pair


@pytest.mark.parametrize(
    "stream,expected",
    [
        (0, 0),
        (0x7F00_0000, 0x7F00_0000),
        (Protocol((0, 42)), 42),
        (Protocol((0, None)), 0),
        (SimpleNamespace(__cuda_stream__=(0, 7)), 7),  # cuda.core before 0.3 had a property
        (SimpleNamespace(cuda_stream=5), 5),
        (SimpleNamespace(ptr=6), 6),
        (SimpleNamespace(handle=8), 8),
        (SimpleNamespace(handle=ctypes.c_void_p(9)), 9),
        (SimpleNamespace(handle=ctypes.c_void_p(0)), 0),  # numba-cuda's default stream
        (SimpleNamespace(cuda_stream=1, ptr=2), 1),
    ],
)
def test_handle(stream, expected):
    assert handle(stream) == expected


@pytest.mark.parametrize(
    "stream", [None, "0", 1.5, -1, True, object(), SimpleNamespace(ptr="x"), Protocol(5), SimpleNamespace(ptr=None)]
)
def test_what_is_no_stream_is_refused(stream):
    with pytest.raises(ArgumentError, match=r"expected an object with __cuda_stream__, .cuda_stream \(torch\) or .ptr"):
        handle(stream)


def test_torchs_current_stream_is_taken_for_its_cuda_tensors_only(monkeypatch):
    class Tensor:
        def __init__(self, is_cuda):
            self.is_cuda = is_cuda

    asked = []
    torch = SimpleNamespace(
        Tensor=Tensor, _C=SimpleNamespace(_cuda_getCurrentRawStream=lambda ordinal: asked.append(ordinal) or 77)
    )
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert current_torch_stream([Tensor(True)], 0) is None
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert current_torch_stream([1, Tensor(False)], 0) is None
    assert current_torch_stream([1, Tensor(False), Tensor(True)], 3) == 77
    assert asked == [3]
    for holder in (SimpleNamespace(tensor=Tensor(True)), SimpleNamespace(base=Tensor(True))):  # descriptors
        assert current_torch_stream([1, holder], 4) == 77
    assert current_torch_stream([SimpleNamespace(base=Tensor(False))], 5) is None
    assert asked == [3, 4, 4]
