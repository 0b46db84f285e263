"""Heat maps of dumps: every rank, and what is no number in a colour of its own."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from tests import corpus
from tests.cli.conftest import cli
from trlaunch import ArgumentError, Dump
from trlaunch.dump.plan import Where
from trlaunch.dump.plot import MARKS, MAX_PANELS, panels
from trlaunch.errors import DeviceUnavailable

__all__ = ["cli"]

WHERE = Where("%acc", "tt.dot", 12, None, "tensor<8x16xf32>")


def made(values, dtype="fp32", axes=1, written=None):
    found = np.ones(values.shape[:axes], bool) if written is None else written
    return Dump("%acc $x", dtype, values, found, WHERE)


def pixels(path, mark):
    """How many pixels have the colour of a mark."""
    return int((np.abs(imread(path)[..., :3] - to_rgb(MARKS[mark])) < 0.02).all(-1).sum())


@pytest.mark.parametrize("shape", [(3,), (3, 5), (2, 8, 16), (2, 2, 4, 8), (1, 1, 1, 2, 1, 4, 8), (1, 1), (4, 4, 2, 2)])
def test_every_rank(tmp_path, shape):
    path = made(np.arange(np.prod(shape), dtype=np.float32).reshape(shape)).plot(tmp_path / "d")
    assert path == tmp_path / "d.png"
    assert imread(path).shape[0] > 100
    assert not any(pixels(path, mark) for mark in MARKS)
    assert [p.name for p in tmp_path.iterdir()] == ["d.png"]


@pytest.mark.parametrize("dtype", ["i1", "u64", "i8", "bf16", "fp8e5", "fp64"])
def test_every_dtype(tmp_path, dtype):
    kind = {"i1": bool, "u64": np.uint64, "i8": np.int8, "bf16": np.uint16, "fp8e5": np.uint8, "fp64": float}[dtype]
    assert made(np.ones((1, 4, 4), kind), dtype).plot(tmp_path / "d.png").stat().st_size > 1000


@pytest.mark.parametrize(("value", "mark"), [(np.nan, "NaN"), (np.inf, "+Inf"), (-np.inf, "-Inf")])
@pytest.mark.parametrize("side", [8, 1024])
def test_one_element_that_is_no_number_is_seen(tmp_path, value, mark, side):
    values = np.zeros((1, side, side), np.float32)
    values[0, side // 2, side // 3] = value
    path = made(values).plot(tmp_path / "d.png")
    legend = 30
    assert pixels(path, mark) > legend + 4
    assert [other for other in MARKS if pixels(path, other)] == [mark]


def test_nothing_but_nan_and_what_was_not_written(tmp_path):
    written = np.array([True, False])
    path = made(np.full((2, 8, 8), np.nan, np.float32), written=written).plot(tmp_path / "d.png")
    assert pixels(path, "NaN") > 1000
    assert pixels(path, "not written") > 1000


def test_pictures_are_the_last_two_axes():
    values = np.arange(5 * 20 * 4 * 8, dtype=np.float32).reshape(5, 20, 4, 8)
    shown, count = panels(made(values, axes=2))
    assert (count, len(shown)) == (100, MAX_PANELS)
    index, picture, written = shown[27]
    assert index == (1, 7)
    np.testing.assert_array_equal(picture, values[1, 7])
    assert written.all()
    row, _ = panels(made(values[0, 0, 0]))
    assert row[0][1].shape == (1, 8)


def test_what_cannot_be_plotted(tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match=r"shape \(0, 4\): there is nothing to plot"):
        made(np.zeros((0, 4), np.float32)).plot(tmp_path / "d.png")
    with pytest.raises(ArgumentError, match=r"nowhere.d.png' cannot be written: No such file"):
        made(np.zeros((1, 4), np.float32)).plot(tmp_path / "nowhere" / "d.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DeviceUnavailable, match=r"pip install 'trlaunch\[plot\]'"):
        made(np.zeros((1, 4), np.float32)).plot(tmp_path / "d.png")


def test_from_the_command_line(cli, tmp_path):
    path = corpus.find("3.6.0", "cuda:80", "add_kernel").path("ptx")
    words = ["-a", "x_ptr=full:float32:3072:nan", "-a", "y_ptr=ones:float32:3072", "-a", "out_ptr=zeros:float32:3072"]
    command = ["run", path, "-g", "3", *words, "-a", "n_elements=3072", "-d", "emulator", "--plot", tmp_path / "p"]
    dumps = ["--dump", "op=add.f32,nth=0,dtype=fp32,label=a/b", "--dump", "op=add.f32,nth=1,dtype=fp32,label=a?b"]
    assert cli(*command, *dumps).code == 0
    names = sorted(p.name for p in (tmp_path / "p").iterdir())
    assert names == ["a_b-2.png", "a_b.png"]
    assert pixels(tmp_path / "p" / "a_b.png", "NaN") > 1000
    assert "--plot draws dumps: give --dump, too" in cli(*command).err
