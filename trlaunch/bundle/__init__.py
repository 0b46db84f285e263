"""Bundles: kernels in one file (``.trk``) that cannot be torn, and as C headers for programs without Python.

``Kernel.from_file`` takes a ``.trk`` like any other file.
"""

from __future__ import annotations

from trlaunch.bundle.archive import VERSION, Entry, decode, encode
from trlaunch.bundle.choice import choose
from trlaunch.bundle.files import Bundle, artifact_of, entry_of, load, save
from trlaunch.bundle.header import header

__all__ = [
    "VERSION",
    "Bundle",
    "Entry",
    "artifact_of",
    "choose",
    "decode",
    "encode",
    "entry_of",
    "header",
    "load",
    "save",
]
