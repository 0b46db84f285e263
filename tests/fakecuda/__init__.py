"""A ``libcuda.so.1`` that needs no GPU, under the real cuda-python, and a record of every call that reaches it.

``libcuda.c`` simulates devices, contexts, modules and memory on the host and logs each call: exact parameter bytes,
grid, block, every launch attribute, stream, contexts pushed and popped, allocations, injected failures. It refuses what
a GPU refuses too (a stream of another context, shared memory beyond the opt-in, a cluster that does not divide the
grid), so that a call it accepts is one that fits together. It executes no kernel.

cuda-python binds libcuda once a process, so a test hands its code over as text, to be run in a process of its own::

    def test_bytes(fakecuda):
        recorded = fakecuda.run('''
            from tests.fakecuda.inside import driver, image
            from trlaunch.driver import LaunchConfig, PackedArguments

            function = driver().load(image("k"), "k", 0)
            driver().launch(function, LaunchConfig((2, 1, 1), (128, 1, 1)), PackedArguments(b"\\x01\\x02"))
            print("launched")
        ''')
        assert recorded.stdout == "launched\\n"
        launch = recorded.only("cuLaunchKernelEx")
        assert launch["parameters"] == "0102" and launch["grid"] == [2, 1, 1] and launch["attributes"] == {}

``fakecuda`` is the session fixture of ``tests/conftest.py``. The code runs in the repository's root with ``trlaunch``
and ``tests`` importable; `tests.fakecuda.inside` has what such code often needs.
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
from pathlib import Path
from typing import Any

__all__ = ["Call", "FakeCuda", "Recorded"]

ROOT = Path(__file__).parents[2]

QUERIES = frozenset(
    {
        "cuCtxGetCurrent",
        "cuCtxGetDevice",
        "cuCtxGetId",
        "cuDeviceGet",
        "cuDeviceGetAttribute",
        "cuDeviceGetCount",
        "cuDeviceGetName",
        "cuDriverGetVersion",
        "cuFuncGetAttribute",
        "cuGetProcAddress",
        "cuInit",
        "cuPointerGetAttributes",
    }
)
"""Calls that only ask: `Recorded.work` leaves them out."""


@dataclass(frozen=True)
class Call:
    """One driver call.

    Attributes
    ----------
    name : str
        As in ``cuda.h``, without a version suffix: ``cuMemAlloc``.
    status : int
        What it returned.
    thread : int
        Threads are numbered from 1, in the order of their first calls.
    values : dict
        Arguments and results by name, as ``libcuda.c`` logs them; ``call["grid"]`` is ``call.values["grid"]``.
        Handles and addresses are integers, bytes are hexadecimal.
    """

    name: str
    status: int
    thread: int
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


@dataclass(frozen=True)
class Recorded:
    """What a process printed and which calls it made, in order."""

    stdout: str
    stderr: str
    returncode: int
    calls: Sequence[Call]

    def of(self, *names: str) -> list[Call]:
        """The calls of these names, in order."""
        return [call for call in self.calls if call.name in names]

    def only(self, name: str) -> Call:
        """The call of that name, of which there must be exactly one."""
        found = self.of(name)
        assert len(found) == 1, f"{len(found)} calls of {name} among {self.names()}"
        return found[0]

    def names(self) -> list[str]:
        """Names of all calls, in order."""
        return [call.name for call in self.calls]

    def work(self) -> list[str]:
        """Names of the calls that do something, in order: all but `QUERIES`."""
        return [name for name in self.names() if name not in QUERIES]

    def json(self) -> Any:
        """What the process printed, as JSON."""
        return json.loads(self.stdout)


@dataclass(frozen=True)
class FakeCuda:
    """The built library; `run` runs Python code on it, `execute` any program."""

    folder: Path

    @classmethod
    def build(cls, folder: Path) -> FakeCuda:
        """Compile the library into `folder`; needs a C compiler."""
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
        assert compiler, "the tests over the fake libcuda need a C compiler: install gcc, or set CC"
        source = Path(__file__).with_name("libcuda.c")
        command = [compiler, "-O1", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libcuda.so.1"]
        built = subprocess.run(
            [*command, "-o", str(folder / "libcuda.so.1"), str(source)], capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, built.stderr
        return cls(folder)

    def run(
        self,
        script: str,
        **settings: Any,
    ) -> Recorded:
        """Run Python code in a process whose libcuda is the fake one; the settings are `execute`'s.

        Parameters
        ----------
        script : str
            Code; common indentation is taken off.
        """
        return self.execute([sys.executable, "-W", "error", "-c", textwrap.dedent(script)], **settings)

    def execute(
        self,
        command: Sequence[str],
        *,
        devices: Sequence[int] = (90,),
        driver_version: int = 13000,
        optin: int | None = None,
        static_shared: int = 0,
        fail: Mapping[str, int | tuple[int, int]] | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 120,
    ) -> Recorded:
        """Run a program in a process whose libcuda is the fake one.

        Parameters
        ----------
        command : sequence of str
        devices : sequence of int
            Compute capability of each device, 90 for 9.0.
        driver_version : int
            What ``cuDriverGetVersion`` says: 13000 for 13.0.
        optin : int, optional
            Shared memory in bytes that a block may opt in to; by default what the architecture has.
        static_shared : int
            Static shared memory of every kernel in bytes.
        fail : mapping of str to int or (int, int), optional
            Status by call: every call of that name fails with it, or only the n-th for ``(status, n)``.
        env : mapping of str to str, optional
            More environment variables.
        check : bool
            Assert that the code ran without an uncaught exception and wrote nothing to stderr.
        timeout : float
            Seconds until the process is ended.
        """
        failures = {name: s if isinstance(s, tuple) else (s, 0) for name, s in (fail or {}).items()}
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
                    **{k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "FAKECUDA_"))},
                    "PYTHONPATH": str(ROOT),
                    "LD_LIBRARY_PATH": str(self.folder),
                    "FAKECUDA_LOG": str(log),
                    "FAKECUDA_DEVICES": ",".join(map(str, devices)),
                    "FAKECUDA_DRIVER": str(driver_version),
                    "FAKECUDA_OPTIN": str(optin or 0),
                    "FAKECUDA_STATIC_SHARED": str(static_shared),
                    "FAKECUDA_FAIL": ",".join(f"{name}={status}:{n}" for name, (status, n) in failures.items()),
                    **(env or {}),
                },
            )
            lines = log.read_text().splitlines() if log.exists() else []
        if check:
            assert result.returncode == 0, f"exit {result.returncode}\n{result.stderr}"
            assert not result.stderr, result.stderr
        return Recorded(result.stdout, result.stderr, result.returncode, [_call(json.loads(line)) for line in lines])


def _call(values: dict[str, Any]) -> Call:
    return Call(values.pop("call"), values.pop("status"), values.pop("thread"), values)
