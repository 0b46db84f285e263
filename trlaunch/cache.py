"""A folder of results, each under a hash of what it was made from.

An entry is written to a temporary folder and renamed into place, so readers see all of it or nothing, whichever process
is faster. Every file's hash is kept beside it: what was cut short or edited is not served.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trlaunch.errors import FallbackWarning, warn

__all__ = ["Entry", "clear", "entries", "get", "key", "path", "put"]

_VARIABLE = "TRLAUNCH_CACHE_DIR"
_MANIFEST = "manifest.json"
_TEMPORARY = "tmp-"
_ATTEMPTS = 5
_LEFTOVER_AGE = 3600.0  # seconds
_KEY = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")

_warned: set[Path] = set()


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the cache. `nbytes` is the size of its files, `modified` seconds since the epoch."""

    key: str
    names: tuple[str, ...]
    nbytes: int
    modified: float


def path() -> Path:
    """The cache's folder: ``TRLAUNCH_CACHE_DIR``, else the user's cache folder for ``trlaunch``. It need not exist."""
    chosen = os.environ.get(_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("trlaunch", appauthor=False)).absolute()


def key(*parts: bytes | str | int) -> str:
    """SHA-256 over `parts` as 64 hex digits; where one part ends and the next begins counts, and so does its type."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(f"{type(part).__name__}:{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def get(key: str, name: str) -> bytes | None:
    """The bytes stored as `name` under `key`.

    Returns
    -------
    bytes or None
        ``None`` when there is no such entry, or it is not what was written; such an entry is removed.
    """
    folder = _folder(key)
    manifest = _manifest(folder)
    if manifest is None:
        if folder.exists():
            _remove(folder)
        return None
    if _checked(name) not in manifest:
        return None
    try:
        data = (folder / name).read_bytes()
    except OSError:
        data = None
    if data is None or hashlib.sha256(data).hexdigest() != manifest[name]:
        _remove(folder)
        return None
    return data


def put(key: str, files: Mapping[str, bytes]) -> bool:
    """Store `files` under `key`.

    An entry that is already there stays: it was made from the same parts.

    Returns
    -------
    bool
        Whether the entry is there now. When the folder cannot be written a `FallbackWarning` says so, once.
    """
    folder = _folder(key)
    manifest = json.dumps({_checked(name): hashlib.sha256(data).hexdigest() for name, data in files.items()})
    for attempt in range(_ATTEMPTS):
        try:
            return _write(folder, files, manifest)
        except FileNotFoundError as error:
            # Another process cleared the cache meanwhile, the folder that was being written included.
            if attempt == _ATTEMPTS - 1:
                return _unwritable(error)
        except OSError as error:
            return _unwritable(error)
    return False


def entries() -> list[Entry]:
    """What the cache holds, oldest first."""
    found = []
    for folder in _folders():
        manifest = _manifest(folder)
        if manifest is None:
            continue
        with contextlib.suppress(OSError):
            sizes = sum((folder / name).stat().st_size for name in manifest)
            found.append(Entry(folder.name, tuple(sorted(manifest)), sizes, folder.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.modified)


def clear() -> int:
    """Remove every entry, and what interrupted processes left behind.

    Returns
    -------
    int
        Number of entries removed.
    """
    removed = sum(_remove(folder) for folder in _folders())
    for group in _groups():
        for leftover in group.glob(_TEMPORARY + "*"):
            # A younger one is being written.
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE:
                    shutil.rmtree(leftover, ignore_errors=True)
        # Another process may be writing there.
        with contextlib.suppress(OSError):
            group.rmdir()
    return removed


def _folder(key: str) -> Path:
    if not _KEY.match(key):
        raise ValueError(f"cache key {key!r}: expected 64 lower-case hex digits, as key() makes them")
    return path() / key[:2] / key


def _checked(name: str) -> str:
    if not _NAME.match(name) or name == _MANIFEST:
        raise ValueError(f"cache file name {name!r}: expected letters, digits, dot, dash or underscore")
    return name


def _write(folder: Path, files: Mapping[str, bytes], manifest: str) -> bool:
    temporary = _temporary(folder.parent)
    try:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        (temporary / _MANIFEST).write_text(manifest)
        temporary.rename(folder)
    except OSError as error:
        # Renaming onto a folder that is not empty fails: another process was faster, and its entry is as good.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return folder.is_dir()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _temporary(parent: Path) -> Path:
    """Make a folder of a new name; unlike mkdtemp's it has the permissions that the umask gives."""
    folder = parent / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    folder.mkdir(parents=True)
    return folder


def _groups() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(p for p in path().iterdir() if re.fullmatch(r"[0-9a-f]{2}", p.name))


def _folders() -> Iterator[Path]:
    for group in _groups():
        with contextlib.suppress(OSError):
            yield from sorted(p for p in group.iterdir() if _KEY.match(p.name))


def _manifest(folder: Path) -> dict[str, str] | None:
    """Hash of each file of an entry; ``None`` when the manifest is missing or not one."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(manifest, dict) or not all(_NAME.match(n) and isinstance(h, str) for n, h in manifest.items()):
        return None
    return manifest


def _remove(folder: Path) -> bool:
    """Remove an entry; it is renamed first, so that no reader finds half of it."""
    try:
        aside = _temporary(folder.parent)
    except OSError:
        return False
    try:
        folder.rename(aside / folder.name)
    except OSError:
        return False
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _unwritable(error: OSError) -> bool:
    folder = path()
    if folder not in _warned:
        _warned.add(folder)
        warn(
            f"the cache folder {str(folder)!r} cannot be written ({error.strerror or error}), so nothing is kept for "
            f"the next run; set {_VARIABLE} to a folder that can",
            FallbackWarning,
        )
    return False
