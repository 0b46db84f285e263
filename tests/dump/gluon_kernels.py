"""Gluon functions whose insides the tests look at; importing this needs Triton 3.4 or later."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

import trlaunch.language as dl

# mypy: ignore-errors


@gluon.jit
def looked_into(x, out, BLOCK: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    i = gl.program_id(0) * BLOCK + gl.arange(0, BLOCK, layout=layout)
    value = gl.load(x + i)
    dl.dump_grids(value * 2, name="twice")
    dl.dump(value, 16, 1)
    dl.dump_boundary(value > 0, name="positive")
    gl.store(out + i, value + 1)
