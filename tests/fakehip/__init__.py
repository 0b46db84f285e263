"""A ``libamdhip64.so`` that needs no GPU, under the real hip-python, and a record of every call that reaches it.

``libamdhip64.c`` simulates devices, modules and memory on the host and logs each call: the exact kernarg bytes, laid
out from the addresses that a launch passes as AMD's runtime lays them out, grid, block, LDS, attributes, stream,
allocations, injected failures. It refuses what the runtime refuses too, so that a call it accepts is one that fits
together. It executes no kernel.

hip-python loads its library once a process, so a test hands its code over as text, to be run in a process of its own,
as with `tests.fakecuda`. ``TRLAUNCH_TEST_HIP_PYTHONS`` lists interpreters, separated as PATH is, with other releases of
hip-python; `pythons` has them beside the one that runs the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.fakecuda import Call, Recorded

__all__ = ["FakeHip", "pythons", "release_of"]

ROOT = Path(__file__).parents[2]
_ASK = "import hip, importlib.metadata as m; print(m.version('hip-python'))"


@cache
def release_of(python: str) -> str | None:
    """The hip-python that an interpreter has, ``"7.2"``; ``None`` when it has none."""
    done = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=False)
    return ".".join(done.stdout.split(".")[:2]) if done.returncode == 0 else None


@cache
def pythons() -> Mapping[str, str]:
    """Interpreters by the release of hip-python that they have, the one that runs the tests first."""
    listed = [p for p in os.environ.get("TRLAUNCH_TEST_HIP_PYTHONS", "").split(os.pathsep) if p]
    missing = [p for p in listed if release_of(p) is None]
    assert not missing, f"TRLAUNCH_TEST_HIP_PYTHONS: no hip-python in {missing}"
    return {found: python for python in (sys.executable, *listed) if (found := release_of(python)) is not None}


@dataclass(frozen=True)
class FakeHip:
    """The built library, and the interpreter that `run` runs code in."""

    folder: Path
    python: str = sys.executable

    @classmethod
    def build(cls, folder: Path) -> FakeHip:
        """Compile the library into `folder`; needs a C compiler."""
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
        assert compiler, "the tests over the fake libamdhip64 need a C compiler: install gcc, or set CC"
        source = Path(__file__).with_name("libamdhip64.c")
        command = [compiler, "-O1", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libamdhip64.so"]
        built = subprocess.run(
            [*command, "-o", str(folder / "libamdhip64.so"), str(source)], capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, built.stderr
        return cls(folder)

    def run(
        self,
        script: str,
        **settings: Any,
    ) -> Recorded:
        """Run Python code in a process whose libamdhip64 is the fake one; the settings are `execute`'s.

        Parameters
        ----------
        script : str
            Code; common indentation is taken off.
        """
        return self.execute([self.python, "-W", "error", "-c", textwrap.dedent(script)], **settings)

    def execute(
        self,
        command: Sequence[str],
        *,
        devices: Sequence[str] = ("gfx942:sramecc+:xnack-",),
        version: int = 60443484,
        lds: int | None = None,
        fail: Mapping[str, int | tuple[int, int]] | None = None,
        env: Mapping[str, str] | None = None,
        found: bool = True,
        check: bool = True,
        timeout: float = 120,
    ) -> Recorded:
        """Run a program in a process whose libamdhip64 is the fake one.

        Parameters
        ----------
        command : sequence of str
        devices : sequence of str
            ``gcnArchName`` of each device.
        version : int
            What ``hipDriverGetVersion`` says: 60443484 for 6.4.
        lds : int, optional
            LDS of a workgroup in bytes; by default what the architecture has.
        fail : mapping of str to int or (int, int), optional
            Status by call: every call of that name fails with it, or only the n-th for ``(status, n)``.
        env : mapping of str to str, optional
            More environment variables.
        found : bool
            Whether the library lies where the linker looks.
        check : bool
            Assert that the code ran without an uncaught exception and wrote nothing to stderr.
        timeout : float
            Seconds until the process is ended.
        """
        failures = {name: s if isinstance(s, tuple) else (s, 0) for name, s in (fail or {}).items()}
        hidden = ("HIP_", "ROCR_", "ROCM_", "CUDA_", "FAKEHIP_", "LD_LIBRARY_PATH")
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch, "calls.jsonl")
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
                timeout=timeout,
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith(hidden)},
                    "PYTHONPATH": str(ROOT),
                    **({"LD_LIBRARY_PATH": str(self.folder)} if found else {}),
                    "FAKEHIP_LOG": str(log),
                    "FAKEHIP_DEVICES": ",".join(devices),
                    "FAKEHIP_VERSION": str(version),
                    "FAKEHIP_LDS": str(lds or 0),
                    "FAKEHIP_FAIL": ",".join(f"{name}={status}:{n}" for name, (status, n) in failures.items()),
                    **(env or {}),
                },
            )
            lines = log.read_text().splitlines() if log.exists() else []
        if check:
            assert result.returncode == 0, f"exit {result.returncode}\n{result.stderr}"
            assert not result.stderr, result.stderr
        calls = [json.loads(line) for line in lines]
        return Recorded(
            result.stdout,
            result.stderr,
            result.returncode,
            [Call(values.pop("call"), values.pop("status"), values.pop("thread"), values) for values in calls],
        )
