"""hip-python of any release behind one small adapter, and the libamdhip64 that it is to load.

What differs between hip-python 6.4, 7.2 and 10.0, as far as a launcher meets it: from 10.0 on structures that a call
fills are returned instead of passed in, names are str instead of bytes, and the library is looked for in more places.
Every call returns a tuple whose first item is the status; the tuple and list forms of kernel arguments are never used,
for they align by size, leave padding undefined and cost ten times the launch.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from trlaunch.errors import DeviceUnavailable

__all__ = ["address", "filled", "load_bindings", "missing_device", "text"]

_LIBRARY = "libamdhip64.so"
_MAPS = Path("/proc/self/maps")


def load_bindings() -> ModuleType:
    """Import ``hip.hip`` (hip-python 6.4 or newer) and have it load the right libamdhip64.

    One that is in the process already is taken, such as the one of torch for ROCm: two of them would not know each
    other's memory and streams. Else it is where hip-python looks, else where ROCm's packages and installers put it,
    which hip-python up to 7.2 does not look for, nor any release for a library without development files
    (``libamdhip64.so.7``).

    Raises
    ------
    DeviceUnavailable
        hip-python is not installed, or no libamdhip64 can be loaded; the message lists where it was looked for.
    """
    try:
        from hip import hip as bindings  # from 10.0 on no module of its own but the name of one
    except ImportError as error:
        raise DeviceUnavailable(
            f"the HIP driver needs hip-python 6.4 or newer, and importing hip.hip failed ({error}): "
            f'pip install "trlaunch[hip]"'
        ) from error
    module: ModuleType = bindings
    loader = _Loader()
    mapped = _mapped()
    if mapped is not None:
        loader.point_to(mapped)
        return module
    own = loader.own()
    reasons = []
    for path in (own, *_candidates()):
        reason = _why_not(path)
        if reason is None:
            if path != own:
                loader.point_to(path)
            return module
        reasons.append(f"  {path}: {reason}")
    raise DeviceUnavailable(_no_library(reasons))


class _Loader:
    """Where hip-python takes libamdhip64 from, which each line of releases keeps in another place."""

    def __init__(self) -> None:
        self._paths: Any = None
        self._chip: Any = None
        try:
            self._paths = importlib.import_module("rocm.bindings.util.paths")
        except ImportError:
            self._chip = importlib.import_module("hip.chip")  # up to 7.2

    def own(self) -> str:
        """The path or name that hip-python comes to by itself."""
        found: bytes = self._paths.get_library_path("amdhip64") if self._paths is not None else self._chip.DLL
        return os.fsdecode(found)

    def point_to(self, path: str) -> None:
        """Have it load this library; without effect once it has called any function of one."""
        if self._paths is None:
            self._chip.DLL = os.fsencode(path)
            return
        original: Callable[..., bytes] = self._paths.get_library_path

        def get_library_path(shortname: str, *args: Any, **keywords: Any) -> bytes:
            return os.fsencode(path) if shortname == "amdhip64" else original(shortname, *args, **keywords)

        self._paths.get_library_path = get_library_path


def _mapped() -> str | None:
    """The libamdhip64 that this process has loaded."""
    try:
        maps = _MAPS.read_text()
    except OSError:
        return None
    found = re.search(rf"(/\S.*/{re.escape(_LIBRARY)}[\d.]*)$", maps, re.MULTILINE)
    return found[1] if found else None


@functools.lru_cache(maxsize=1)
def _library(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path, os.RTLD_NOLOAD | os.RTLD_NOW)


def address(call: str) -> int:
    """Address of a function in the libamdhip64 that this process has loaded; 0 where there is none of that name."""
    path = _mapped()
    if path is None:
        return 0
    try:
        function = getattr(_library(path), call)
    except (OSError, AttributeError):  # a file that was replaced; a function of later releases
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _why_not(path: str) -> str | None:
    """Why a library cannot be loaded; ``None`` when it was."""
    try:
        ctypes.CDLL(path)
    except OSError as error:
        return " ".join(str(error).split())
    return None


def _candidates() -> Iterator[str]:
    """Libraries beside those that hip-python finds by itself, best first."""
    for folder in _folders():
        named = [folder / _LIBRARY] if (folder / _LIBRARY).exists() else []
        versioned = sorted(folder.glob(f"{_LIBRARY}.[0-9]*"), key=_version, reverse=True)
        yield from map(str, (*named, *versioned))


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name.partition(".so")[2])]


def _folders() -> Iterator[Path]:
    for variable in ("ROCM_PATH", "ROCM_HOME", "HIP_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "lib"
    for name, inner in (("_rocm_sdk_core", "lib"), ("torch", "lib")):
        spec = importlib.util.find_spec(name)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(root) / inner
    yield Path("/opt/rocm/lib")
    yield from (folder / "lib" for folder in sorted(Path("/opt").glob("rocm-*"), reverse=True))
    yield from (Path(p) for p in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"))


def _no_library(reasons: list[str]) -> str:
    searched = os.environ.get("LD_LIBRARY_PATH")
    where = f"LD_LIBRARY_PATH={searched}, " if searched else ""
    return (
        f"{_LIBRARY} could not be used: it was looked for in {where}the linker's cache, ROCM_PATH, ROCM_HOME, "
        f"HIP_PATH, the rocm-sdk and torch packages, /opt/rocm and the system's library folders; {missing_device()}\n"
        + "\n".join(reasons)
    )


def missing_device() -> str:
    """What to do where there is no device, by what the kernel shows of one."""
    device = Path("/dev/kfd")
    if not device.exists():
        return (
            "/dev/kfd is not there, so the amdgpu driver is not loaded, or the container was started without "
            "--device=/dev/kfd --device=/dev/dri"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        return "/dev/kfd cannot be opened: add the user to the groups render and video"
    return "the amdgpu driver is loaded: install ROCm (libamdhip64), or pip install rocm-sdk-core"


def filled(call: Callable[..., tuple[Any, ...]], make: Callable[[], Any], *args: Any) -> tuple[Any, Any]:
    """Status and structure of a call that fills one: from 10.0 on it returns it, before it takes it first."""
    try:
        status, made = call(*args)
    except TypeError:  # raised for the number of arguments, before anything is called
        made = make()
        (status,) = call(made, *args)
    return status, made


def text(value: bytes | str) -> str:
    """A name, which is bytes up to 7.2."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
