"""Named arrays in a file: an .npz that takes every name (`numpy.savez` takes no array called ``file``)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trlaunch.errors import ArtifactError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["load_arrays", "save_arrays"]


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays, as `numpy.load` reads them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read them; nothing where there is no such file.

    Raises
    ------
    ArtifactError
        The file is damaged.
    """
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error}") from None
