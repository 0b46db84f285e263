"""Autotuning on a GPU: right results, plausible times, and candidates that fault do no harm in isolation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import trlaunch
from tests.corpus import cases, find
from trlaunch import autotune
from trlaunch.devices import get

pytestmark = pytest.mark.gpu

N = 98432 * 64  # 25 MB an array: time that can be told from a launch's


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRLAUNCH_CACHE_DIR", str(tmp_path / "cache"))


def block_of(release: str, target: str) -> int:
    (block,) = find(release, target, "add_kernel").constexprs.values()
    return int(block)


def arrays() -> tuple[trlaunch.DeviceArray, trlaunch.DeviceArray]:
    x = trlaunch.asarray(np.arange(N, dtype=np.float32), device="cuda")
    return x, trlaunch.asarray(np.zeros(N, np.float32), device="cuda")


@pytest.mark.usefixtures("hopper")
def test_cubins_of_every_release(report: Callable[[str], None]) -> None:
    found = cases(kernel="add_kernel", target="cuda:90")
    candidates = {
        c.release: trlaunch.Candidate(
            c.path("cubin"), constants=dict(c.constexprs), grid=-(-N // next(iter(c.constexprs.values())))
        )
        for c in found
    }
    x, out = arrays()
    tuned = autotune(candidates, reference="first")
    tuned(x, x, out, N)
    assert np.array_equal(out.numpy(), 2 * np.arange(N, dtype=np.float32))
    assert tuned.report is not None
    report(f"autotune, add of {N} fp32 ({3 * 4 * N / 1e6:.0f} MB):")
    for line in str(tuned.report).splitlines():
        report(f"  {line}")
    assert {r.status for r in tuned.report.results} == {"ok"}
    for result in tuned.report.results:
        assert result.times is not None
        assert 3 * 4 * N / (result.times.median * 1e-3) < 20e12, "faster than any memory"
    again = autotune(candidates, reference="first")
    again(x, x, out, N)
    assert again.report is not None
    assert again.report.cached
    assert again.report.best == tuned.report.best


def overrunning(text: str) -> str:
    """The output's address moved by 1 TB."""
    lines = []
    for line in text.splitlines():
        if "st.global" in line and "[" in line:
            register = line.split("[")[1].split()[0].strip("]+,")
            lines.append(f"\tadd.s64 {register}, {register}, 1099511627776;")
        lines.append(line)
    return "\n".join(lines) + "\n"


def test_a_candidate_that_faults_does_no_harm_in_isolation(tmp_path: Path) -> None:
    good = find("3.6.0", "cuda:80", "add_kernel")
    (tmp_path / "add_kernel.ptx").write_text(overrunning(good.text("ptx")))
    (tmp_path / "add_kernel.json").write_text(good.text("json"))
    types = ["*fp32", "*fp32", "*fp32", "i32"]
    dies = trlaunch.Kernel.from_file(tmp_path / "add_kernel.ptx", signature=types)
    x, out = arrays()
    tuned = autotune(
        {"dies": dies, "lives": good.path("ptx")}, isolated=True, grid=-(-N // block_of("3.6.0", "cuda:80"))
    )
    tuned(x, x, out, N)
    assert tuned.report is not None
    assert [r.status for r in tuned.report.results] == ["fault", "ok"], str(tuned.report)
    assert np.array_equal(out.numpy(), 2 * np.arange(N, dtype=np.float32))
    get("cuda").synchronize(0)


def test_times_are_those_of_do_bench(report: Callable[[str], None]) -> None:
    torch = pytest.importorskip("torch")
    testing = pytest.importorskip("triton.testing")
    kernel = trlaunch.Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("ptx"), device="cuda")
    x = torch.ones(N, device="cuda")
    out = torch.empty_like(x)
    grid = (-(-N // block_of("3.6.0", "cuda:80")),)
    tuned = autotune(kernel, cache=False)
    tuned[grid](x, x, out, N)
    assert tuned.report is not None
    times = tuned.report.results[0].times
    assert times is not None
    theirs = testing.do_bench(lambda: kernel.launch(grid, x, x, out, N), return_mode="median")
    report(f"one kernel: autotune {times.median * 1e3:.1f} us, triton.testing.do_bench {theirs * 1e3:.1f} us (medians)")
    assert torch.equal(out, x + x)


def test_restore_and_reset_on_the_stream(report: Callable[[str], None]) -> None:
    kernel = trlaunch.Kernel.from_file(find("3.6.0", "cuda:80", "add_kernel").path("ptx"), device="cuda")
    x, y = arrays()
    y.copy_from(np.full(N, 7, np.float32))
    tuned = autotune(kernel, restore=["x_ptr"], reset_to_zero=["y_ptr"], cache=False)
    tuned[(-(-N // block_of("3.6.0", "cuda:80")),)](x, y, x, N)  # x += y, in place
    assert np.array_equal(x.numpy(), np.arange(N, dtype=np.float32))
    assert not y.numpy().any()
    assert tuned.report is not None
    report(f"in place, restored before each run: {tuned.report.results[0].times}")
