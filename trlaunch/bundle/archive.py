r"""The bytes of a ``.trk`` file.

=======  =====  ==========================================================================
offset   bytes
=======  =====  ==========================================================================
0        8      ``\x89TRK\r\n\x1a\n``: as PNG's, it shows a copy that was made as text
8        4      version of the format, little-endian
12       8      length of the content, little-endian
20       32     SHA-256 of the content
52              the content, MessagePack
=======  =====  ==========================================================================

The content is a map: ``producer`` and ``entries``, one a target. What is in an entry says `Entry`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trlaunch._version import __version__
from trlaunch.artifact import BUNDLE_MAGIC, Level
from trlaunch.errors import ArtifactError, TrlaunchError
from trlaunch.metadata import Metadata
from trlaunch.scalars import SCALARS
from trlaunch.signature import Slot
from trlaunch.target import Target

__all__ = ["VERSION", "Constant", "Entry", "decode", "encode"]

VERSION = 1

Constant = int | float | str | bool | None

_HEAD = struct.Struct("<8sIQ32s")
_BINARY = (Level.CUBIN, Level.HSACO, Level.PTX)
_TEXTS = (Level.TTIR, Level.TTGIR, Level.LLIR, Level.PTX, Level.AMDGCN)
_LIMIT = 1 << 20
"""Largest size and divisibility of a parameter that is believed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One kernel for one target.

    Attributes
    ----------
    kernel : str
        Its symbol.
    target : Target
    level : Level
        Of `data`: cubin, hsaco or PTX.
    data : bytes
    metadata : Metadata or None
    parameters : tuple of Slot
        What a caller passes, in order: names and types, where they are known, sizes and divisibility.
    constants : mapping of str to number, str, bool or None
        The constexpr arguments that were compiled in, as far as whoever wrote the bundle stated them.
    texts : mapping of Level to bytes
        The text levels that were beside the binary, if they were taken along.
    """

    kernel: str
    target: Target
    level: Level
    data: bytes = field(repr=False)
    metadata: Metadata | None = field(default=None, repr=False)
    parameters: tuple[Slot, ...] = field(default=(), repr=False)
    constants: Mapping[str, Constant] = field(default_factory=dict)
    texts: Mapping[Level, bytes] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of `data`."""
        return hashlib.sha256(self.data).hexdigest()


def encode(entries: Sequence[Entry]) -> bytes:
    """The bytes of a bundle.

    Raises
    ------
    ArtifactError
        There is no entry, two are for the same target, or they are of different kernels.
    """
    import msgpack

    _agree(entries)
    value = {"producer": f"trlaunch {__version__}", "entries": [_packed(entry) for entry in entries]}
    content: bytes = msgpack.packb(value)
    return _HEAD.pack(BUNDLE_MAGIC, VERSION, len(content), hashlib.sha256(content).digest()) + content


def _packed(entry: Entry) -> dict[str, Any]:
    return {
        "kernel": entry.kernel,
        "target": str(entry.target),
        "warp_size": entry.target.warp_size,
        "level": entry.level.value,
        "data": entry.data,
        "metadata": None if entry.metadata is None else json.dumps(dict(entry.metadata.raw)),
        "parameters": [[s.name, s.type, s.size, s.divisibility, s.signless] for s in entry.parameters],
        "constants": dict(entry.constants),
        "texts": {level.value: text for level, text in entry.texts.items()},
    }


def decode(data: bytes, where: str = "the bundle") -> tuple[Entry, ...]:
    """The entries of a bundle.

    Parameters
    ----------
    data : bytes
    where : str
        What to call it in messages.

    Raises
    ------
    ArtifactError
        It is no bundle, of a later version, cut short, edited, or holds what no bundle holds.
    """
    import msgpack

    if len(data) < _HEAD.size or not data.startswith(BUNDLE_MAGIC):
        raise ArtifactError(
            f"{where} is no bundle: expected {_HEAD.size} bytes of head that begin with {BUNDLE_MAGIC!r}, found "
            f"{len(data)} bytes that begin with {data[:8]!r}"
        )
    _, version, length, digest = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ArtifactError(
            f"{where} has version {version} of the format, this trlaunch reads version {VERSION}: write it anew"
        )
    content = memoryview(data)[_HEAD.size :]
    if len(content) != length:
        raise ArtifactError(
            f"{where} is torn: expected {length} bytes of content, found {len(content)}; copy or write it anew"
        )
    found = hashlib.sha256(content).digest()
    if found != digest:
        raise ArtifactError(
            f"{where} was edited or damaged: expected SHA-256 {digest.hex()} of its content, found {found.hex()}"
        )
    try:
        value = msgpack.unpackb(content, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ArtifactError(f"{where}: expected MessagePack, found {error or type(error).__name__}") from None
    reader = _Reader(where)
    listed = reader.of(value, "the content", dict).get("entries")
    entries = tuple(reader.entry(item, i) for i, item in enumerate(reader.of(listed, "entries", list)))
    try:
        _agree(entries)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from None
    return entries


def _agree(entries: Sequence[Entry]) -> None:
    if not entries:
        raise ArtifactError("a bundle holds a kernel for one target at least, found none")
    names = sorted({entry.kernel for entry in entries})
    if len(names) > 1:
        raise ArtifactError(f"a bundle holds one kernel for several targets, found {', '.join(names)}")
    seen: set[Target] = set()
    for entry in entries:
        if entry.target in seen:
            raise ArtifactError(f"a bundle holds one entry for each target, found two for {entry.target}")
        seen.add(entry.target)


class _Reader:
    """Typed access to what MessagePack gave: a wrong type is an error that names the field."""

    def __init__(self, where: str) -> None:
        self.where = where

    def wrong(self, what: str, expected: str, found: object) -> ArtifactError:
        return ArtifactError(f"{self.where}: {what}: expected {expected}, found {found!r:.80}")

    def of(self, value: Any, what: str, kind: type) -> Any:
        if type(value) is not kind:
            raise self.wrong(what, _KINDS[kind], value)
        return value

    def entry(self, value: Any, index: int) -> Entry:
        at = f"entry {index}"
        fields = self.of(value, at, dict)
        level = self.level(fields.get("level"), f"{at}, level", _BINARY)
        return Entry(
            kernel=self.of(fields.get("kernel"), f"{at}, kernel", str),
            target=self.target(fields, at),
            level=level,
            data=self.of(fields.get("data"), f"{at}, data", bytes),
            metadata=self.metadata(fields.get("metadata"), at),
            parameters=tuple(
                self.slot(item, f"{at}, parameter {i}")
                for i, item in enumerate(self.of(fields.get("parameters"), f"{at}, parameters", list))
            ),
            constants=self.constants(fields.get("constants"), at),
            texts={
                self.level(name, f"{at}, texts", _TEXTS): self.of(text, f"{at}, text {name}", bytes)
                for name, text in self.of(fields.get("texts"), f"{at}, texts", dict).items()
            },
        )

    def level(self, value: Any, what: str, allowed: Sequence[Level]) -> Level:
        found = next((level for level in allowed if level.value == value), None)
        if found is None:
            raise self.wrong(what, f"one of {', '.join(level.value for level in allowed)}", value)
        return found

    def target(self, fields: Mapping[str, Any], at: str) -> Target:
        text, warp = self.of(fields.get("target"), f"{at}, target", str), fields.get("warp_size")
        if warp not in (32, 64) or type(warp) is not int:
            raise self.wrong(f"{at}, warp_size", "32 or 64", warp)
        try:
            return Target.parse(text, warp)
        except TrlaunchError as error:
            raise ArtifactError(f"{self.where}: {at}: {error}") from None

    def metadata(self, value: Any, at: str) -> Metadata | None:
        if value is None:
            return None
        text = self.of(value, f"{at}, metadata", str)
        return Metadata.from_json(text, where=f"{self.where}, {at}")

    def slot(self, value: Any, what: str) -> Slot:
        fields = self.of(value, what, list)
        if len(fields) != 5:
            raise self.wrong(what, "name, type, size, divisibility, signless", value)
        name, type_name, size, divisibility, signless = fields
        if name is not None:
            self.of(name, f"{what}, name", str)
        if type_name is not None and not _is_type(self.of(type_name, f"{what}, type", str)):
            raise self.wrong(f"{what}, type", "one of Triton's", type_name)
        for number, of in ((size, "size"), (divisibility, "divisibility")):
            if not 1 <= self.of(number, f"{what}, {of}", int) <= _LIMIT:
                raise self.wrong(f"{what}, {of}", f"1 to {_LIMIT}", number)
        return Slot(name, type_name, size, divisibility, self.of(signless, f"{what}, signless", bool))

    def constants(self, value: Any, at: str) -> dict[str, Constant]:
        found: dict[str, Constant] = {}
        for name, constant in self.of(value, f"{at}, constants", dict).items():
            if type(constant) not in (int, float, str, bool, type(None)):
                raise self.wrong(f"{at}, constant {name}", "a number, text, true, false or nil", constant)
            found[self.of(name, f"{at}, constants", str)] = constant
        return found


_KINDS: dict[type, str] = {
    dict: "a map",
    list: "an array",
    str: "text",
    bytes: "bytes",
    int: "an integer",
    bool: "true or false",
}


def _is_type(name: str) -> bool:
    if name.startswith("*"):
        return name.lstrip("*") in SCALARS or name == "*"
    return name in SCALARS or name == "nvTmaDesc" or name.startswith("tensordesc<")
