"""Targets, and devices by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trlaunch.driver import Device
from trlaunch.errors import DeviceUnavailable, TrlaunchError
from trlaunch.target import Target


@pytest.mark.parametrize(
    "text,expected",
    [
        ("cuda:80", Target("cuda", "80")),
        ("cuda:90a", Target("cuda", "90", "a")),
        ("sm_90a", Target("cuda", "90", "a")),
        ("sm_100f", Target("cuda", "100", "f")),
        ("sm75", Target("cuda", "75")),
        ("hip:gfx942", Target("hip", "gfx942", "", 64)),
        ("gfx90a:sramecc+:xnack-", Target("hip", "gfx90a", ":sramecc+:xnack-", 64)),
        ("gfx1100", Target("hip", "gfx1100", "", 32)),
        ("gfx1250", Target("hip", "gfx1250", "", 32)),
    ],
)
def test_parse(text, expected):
    assert Target.parse(text) == expected
    assert Target.parse(str(expected)) == expected


def test_names():
    target = Target.parse("cuda:90a")
    assert (target.sm, target.capability, str(target)) == ("sm_90a", 90, "cuda:90a")
    with pytest.raises(TrlaunchError, match="hip:gfx942 has no CUDA compute capability"):
        _ = Target.parse("gfx942").capability


def test_warp_size_can_be_stated():
    assert Target.parse("gfx1100", 64).warp_size == 64


@pytest.mark.parametrize(
    "text", ["", "cuda", "cuda:9", "cuda:9000", "sm_90x", "cuda:90 ", "gfx", "hip:90", "gfx90a:xnack"]
)
def test_refused_with_the_forms_that_are_read(text):
    with pytest.raises(TrlaunchError, match=r"is not understood: expected cuda:<capability> such as cuda:90 or sm_90a"):
        Target.parse(text)


@given(st.one_of(st.text(max_size=20), st.from_regex(r"(cuda:|sm_|hip:|gfx)[0-9a-f:+-]*", fullmatch=True)))
def test_any_text_is_a_target_or_refused(text):
    try:
        target = Target.parse(text)
    except TrlaunchError:
        return
    assert Target.parse(str(target)) == target


def test_devices():
    assert Device.parse("cuda") == Device("cuda", 0)
    assert Device.parse("hip:3") == Device("hip", 3)
    assert str(Device.parse("cuda:1")) == "cuda:1"
    assert str(Device.parse("emulator")) == "emulator"
    assert Device.parse(Device("cuda", 2)) == Device("cuda", 2)


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:-1", "emulator:0", "cuda:1 ", 0, None])
def test_devices_that_do_not_exist_by_name(text):
    with pytest.raises(DeviceUnavailable, match="expected cuda, cuda:<n>, hip:<n> or emulator"):
        Device.parse(text)
