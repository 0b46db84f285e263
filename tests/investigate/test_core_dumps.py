"""Core dumps of an H200, each with the status that the driver gave: what they alone tell of the cause."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from trlaunch.investigate.causes import causes
from trlaunch.investigate.evidence import Evidence, Site
from trlaunch.investigate.sites import core_site
from trlaunch.investigate.trial import Died, Outcome

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "coredumps"

# The status that the driver reported where no dump was asked for, the first cause, and its instruction.
DUMPS = {
    "TMA_coordinate": (715, "tma-coordinate", "UTMALDG.2D"),
    "call_stack": (716, "misaligned", "STG.E"),
    "device_assert": (710, "assert", ""),
    "h200_misaligned_full": (716, "misaligned", "STG.E"),
    "too_little_shared_memory": (700, "shared-out-of-bounds", "LDGSTS"),
    "trap": (719, "trap", ""),
    "wgmma_with_too_few_warps": (715, "wgmma", "WARPGROUP.ARRIVE"),
}


def site_of(name: str) -> Site:
    return core_site(lzma.decompress((FOLDER / f"{name}.nvcudmp.xz").read_bytes()), None, ())


@pytest.mark.parametrize("name", DUMPS)
def test_the_dump_and_the_status_are_enough(name: str) -> None:
    code, rule, instruction = DUMPS[name]
    site = site_of(name)
    error = Died("DriverError", f"status {code}", call="cuStreamSynchronize", name=str(code), code=code)
    ranked = causes(Evidence(Outcome("error", error), sites=(site,)))
    assert ranked[0].rule == rule, [(c.rule, c.score, c.facts) for c in ranked]
    assert instruction in site.instruction
    assert site.lines[0].level == "sass"
    assert site.kernel in site.lines[0].file


def test_the_coordinates_of_a_tensor_copy_are_read_from_its_registers() -> None:
    assert site_of("TMA_coordinate").coordinates == (3, 0)


def test_threads_of_the_block_are_the_dumps() -> None:
    assert site_of("wgmma_with_too_few_warps").threads == 64


def test_an_address_in_global_memory_is_the_first_lanes() -> None:
    site = site_of("h200_misaligned_full")
    assert site.address is not None
    assert (site.address % 4, site.access) == (1, 4)
