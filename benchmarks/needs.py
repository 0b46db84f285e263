"""What a benchmark needs that may not be here: one line on stderr and exit code 2, before anything is measured.

Called after the command line is read and before the packages are imported::

    needs.packages("torch", "triton")
    needs.gpu()

Exit code 2 says that a benchmark did not start, as it does of a wrong command line; ``make bench`` goes on behind it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CANNOT_RUN = 2


def packages(*names: str) -> None:
    """End here unless all of these can be imported."""
    missing = [name for name in names if not _is_there(name)]
    if missing:
        _end(f"needs {' and '.join(names)}, there is no {' and no '.join(missing)}: pip install {' '.join(missing)}")


def gpu(device: str = "cuda") -> None:
    """End here unless this device answers."""
    import trlaunch
    from trlaunch.devices import get
    from trlaunch.driver import Device

    place = Device.parse(device)
    try:
        get(place.driver).properties(place.ordinal)
    except trlaunch.DeviceUnavailable as error:
        kind = {"cuda": "an NVIDIA GPU", "hip": "an AMD GPU"}.get(place.driver, device)
        _end(f"needs {kind}: {str(error).partition(', or use device=')[0]}")


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


def _end(why: str) -> NoReturn:
    print(f"{Path(sys.argv[0]).name} {' '.join(why.split())}", file=sys.stderr)
    raise SystemExit(CANNOT_RUN)
