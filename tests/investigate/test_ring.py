"""The ring of launches: what it keeps, that it survives its process, and damage to its file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trlaunch.errors import ArtifactError
from trlaunch.investigate.carried import Spot
from trlaunch.investigate.isolation import environment, launches_in
from trlaunch.investigate.ring import Ring, read_ring

ROOT = Path(__file__).resolve().parents[2]


def launch(name: str = "k", **changes: object) -> dict[str, object]:
    return {
        "kernel": name, "device": "cuda:0", "grid": (1, 2, 3), "block": (32, 1, 1), "cluster": (1, 1, 1), "shared": 16,
        "cooperative": False, "stream": 7, "parameters": "00ff", "buffers": [("x", 4096, 8)], "image": "a.cubin",
        "time": 1.5, **changes,
    }  # fmt: skip


def test_the_last_launches_are_kept_in_order(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "1.ring", slots=4)
    for i in range(10):
        ring.end(ring.begin(launch(f"k{i}")))
    ring.begin(launch("last"))
    launches, phase = read_ring(tmp_path / "1.ring")
    assert [(x.index, x.kernel, x.state) for x in launches] == [
        (7, "k7", "queued"), (8, "k8", "queued"), (9, "k9", "queued"), (10, "last", "launching"),
    ]  # fmt: skip
    assert phase == "launching"
    assert launches[0].grid == (1, 2, 3)
    assert launches[0].buffers == (Spot("x", 4096, 8),)
    assert launches[0].parameters == "00ff"


def test_a_launch_too_large_for_its_slot_is_kept_without_its_bytes(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "1.ring", slots=2)
    ring.begin(launch(buffers=[("x" * 300, i, i) for i in range(64)], parameters="00" * 4096))
    ((kept,), _) = read_ring(tmp_path / "1.ring")
    assert (kept.kernel, kept.parameters, kept.buffers) == ("k", "", ())


PROGRAM = """
import os, signal
import numpy as np
import trlaunch
from tests.investigate.cases import assemble

kernel = trlaunch.Kernel.from_bytes(assemble(""), {"num_warps": 1, "shared": 0}, signature="*u32", device="emulator")
x = trlaunch.asarray(np.zeros(5, np.uint32), device="emulator")
for grid in (1, 2, 3):
    kernel.launch(grid, x)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_survives_the_process(tmp_path: Path) -> None:
    env = environment(tmp_path, more={"PYTHONPATH": str(ROOT)})
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    launches, phase = launches_in(tmp_path)
    assert [launch.grid for launch in launches] == [(1, 1, 1), (2, 1, 1), (3, 1, 1)]
    assert phase == ""
    (image,) = {launch.image for launch in launches}
    assert b".entry k(" in (tmp_path / image).read_bytes()
    assert [spot.nbytes for spot in launches[0].buffers] == [20]
    address = int.from_bytes(bytes.fromhex(launches[0].parameters), "little")
    assert address == launches[0].buffers[0].address


def test_without_the_variable_there_is_none(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("TRLAUNCH_")} | {"PYTHONPATH": str(ROOT)}
    code = "from trlaunch.devices import get; print(type(get('emulator')).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "EmulatorDriver"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ring") / "1.ring"
    ring = Ring(path, slots=2)
    for name in ("a", "b", "c"):
        ring.end(ring.begin(launch(name)))
    return path.read_bytes()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_damaged_ring_is_read_or_refused(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    damaged = bytearray(whole)
    used = [*range(80), *range(64, 500), *range(64 + 16384, 64 + 16384 + 400)]
    for at in data.draw(st.lists(st.sampled_from(used), min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([None, 10, 64, len(damaged) - 1]))
    path = tmp_path_factory.getbasetemp() / "damaged.ring"
    path.write_bytes(bytes(damaged[:cut]))
    try:
        launches, phase = read_ring(path)
    except ArtifactError as error:
        assert "ring" in str(error)
    else:
        assert len(launches) <= 2
        assert phase in ("", "launching", "waiting")
