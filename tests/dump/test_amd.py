"""Dumps of kernels for AMD, up to what the driver is called with: a fake libamdhip64 records it."""

from __future__ import annotations

import os
import re
import struct
import sys

import pytest

from tests.corpus_hip import find, releases
from tests.hip.conftest import library, newest_hip
from tests.hip.test_launch_bytes import run
from trlaunch import ArgumentError, Kernel, at
from trlaunch.artifact import Artifact, Level
from trlaunch.dump.capture import dumpable, instrument
from trlaunch.lowering import lower

__all__ = ["library", "newest_hip"]

REQUESTS = {
    "ttir": "at(op='arith.addf', label='sum')",
    "ttgir": "at(op='arith.addf', label='sum')",
    "llir": "at(op='fadd', nth=0, label='sum')",
}


@pytest.fixture
def case(triton):
    release = triton.__version__.split("+")[0]
    assert release in releases()
    return find(release, "hip:gfx942", "add_kernel")


@pytest.mark.since(3, 5)  # before, Triton cannot link what it assembles
@pytest.mark.parametrize("level", REQUESTS)
def test_the_pointer_is_the_last_of_the_users_or_the_last_of_all(case, newest_hip, level):
    recorded = run(
        newest_hip,
        f"""
from trlaunch import at
case = find({case.release!r}, "hip:gfx942", "add_kernel")
kernel = Kernel.from_file(case.path({level!r}), dump={REQUESTS[level]}, device="hip:1", target="hip:gfx942")
values = [Pointer(BASE + i * 4096) if p.type.startswith("*") else 3072 for i, p in enumerate(case.params)]
dump = kernel.launch((3,), *values).dumps["sum"]
print(dump.values.shape, dump.dtype, dump.written.shape)
print([(p.role, p.offset) for p in kernel.signature.params])
""",
        timeout=300,
        env={"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},  # Triton's and hip-python's
    )
    shape, roles = recorded.stdout.splitlines()[-2:]
    threads = case.metadata["num_warps"] * 64
    if level == "llir":  # vectors, of two or four by release
        assert re.fullmatch(rf"\(3, {threads}(, \d)?\) fp32 \(3, {threads}\)", shape)
    else:
        assert shape == f"(3, {case.constexprs['BLOCK']}) fp32 (3,)"
    launch = recorded.only("hipModuleLaunchKernel")
    kernarg = bytes.fromhex(launch["kernarg"])
    ((role, offset),) = [p for p in eval(roles) if p[0] == "dump"]
    users = sum(p[0] == "user" for p in eval(roles))
    assert [p[0] for p in eval(roles)].index(role) == (len(eval(roles)) - 1 if level == "llir" else users)
    (address,) = struct.unpack_from("<Q", kernarg, offset)
    allocated = [call.name for call in recorded.calls if call.values.get("address") == address]
    assert any("Malloc" in name for name in allocated), allocated
    copies = [call.name for call in recorded.calls if "Memcpy" in call.name]
    assert len(copies) >= 2, "the header goes there and the dump comes back"
    assert launch["grid"] == [3, 1, 1]


@pytest.mark.parametrize("level", REQUESTS)
def test_every_release_assembles_it(case, level):
    artifact = Artifact.from_file(case.path(level))
    captures = instrument(artifact, eval(REQUESTS[level], {"at": at}), "add_kernel")
    text = lower(captures.artifact, Level.AMDGCN, "hip:gfx942").text
    plain = lower(artifact, Level.AMDGCN, "hip:gfx942").text
    assert text.count("global_store") + text.count("buffer_store") > plain.count("global_store") + plain.count(
        "buffer_store"
    )
    arguments = [t[t.index(".args:") : t.index(".group_segment")] for t in (text, plain)]
    passed, before = (a.count(".value_kind:") - len(re.findall(r"\.value_kind:\s+hidden_", a)) for a in arguments)
    assert passed == before + 1
    if level == "llir":
        assert ".amdhsa_system_sgpr_workgroup_id_y 1" in text


def test_what_is_below_is_refused(case):
    for level in ("amdgcn", "hsaco"):
        if level not in case.levels:
            continue
        message = (
            f"is {level}, which captures cannot be put into; expected ttir, ttgir, llir; beside it there is ttir, "
        )
        with pytest.raises(ArgumentError, match=message):
            Kernel.from_file(case.path(level), dump="%x")


def test_values_of_llvm_ir_for_amd_are_listed(case):
    rows = dumpable(Artifact.from_file(case.path("llir")))
    assert any(where.op == "fadd" and not reason for where, reason in rows)
