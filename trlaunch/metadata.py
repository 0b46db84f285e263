"""Metadata: Triton's JSON beside a compiled kernel, read into one dataclass whatever release wrote it.

The keys differ by release (3.0 writes 19 of them for CUDA, 3.9 writes 38); what a launch needs is the same in all.
No release stores the argument signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trlaunch.errors import MetadataError, TrlaunchError
from trlaunch.records import dataclass, field
from trlaunch.target import Target

__all__ = ["Metadata", "TensorDescriptorMeta"]


@dataclass(frozen=True, slots=True)
class TensorDescriptorMeta:
    """What the compiler decided for one host tensor descriptor (an entry of ``tensordesc_meta``, CUDA).

    Attributes
    ----------
    block_shape : tuple of int
        The box one TMA copy moves, in elements; it can be smaller than the block in the kernel's source.
    element_type : int
        As PTX numbers the ``elemtype`` field of ``tensormap.replace``; the driver's ``CUtensorMapDataType`` has the
        same numbers up to 7 (`trlaunch.tensor_descriptor` maps the others).
    element_size : int
        Bytes.
    swizzle : int
        ``CUtensorMapSwizzle``.
    fp4_padded : bool
        Two fp4 values a byte, padded: the innermost dimension counts half elements.
    """

    block_shape: tuple[int, ...]
    element_type: int
    element_size: int
    swizzle: int
    fp4_padded: bool = False


@dataclass(frozen=True, slots=True)
class Metadata:
    """What Triton's compiler says about one kernel.

    Attributes
    ----------
    raw : mapping
        The JSON as it was read.
    name : str or None
        Symbol of the kernel in the binary.
    hash : str or None
        Triton's hash over source, target and options (not over the binary).
    target : Target or None
    num_warps : int or None
        Warps per CTA in total, those of warp specialisation included.
    num_ctas : int
        CTAs per cluster.
    cluster : tuple of int
        CTAs per cluster along x, y, z.
    shared : int or None
        Dynamic shared memory in bytes; only the JSON knows it.
    global_scratch_size, profile_scratch_size : int or None
        Bytes per CTA; ``None`` where the release does not write the key, hence has no such parameter.
    global_scratch_align, profile_scratch_align : int
        Bytes.
    tmem_size : int
        Tensor-memory columns (sm_100).
    cooperative, pdl : bool
        ``launch_cooperative_grid``, ``launch_pdl``.
    tensor_descriptors : tuple of TensorDescriptorMeta
        One entry per host tensor descriptor that is passed as a CUtensorMap; empty where they are decomposed.
    fp_fusion : bool
        ``enable_fp_fusion``: whether the assembler may contract multiplications and additions.
    ptx_options : str
        Further arguments for ptxas.
    release : str or None
        Triton's version where the JSON states it (3.3 and later).
    """

    raw: Mapping[str, Any] = field(repr=False)
    name: str | None = None
    hash: str | None = None
    target: Target | None = None
    num_warps: int | None = None
    num_ctas: int = 1
    cluster: tuple[int, int, int] = (1, 1, 1)
    shared: int | None = None
    global_scratch_size: int | None = None
    global_scratch_align: int = 1
    profile_scratch_size: int | None = None
    profile_scratch_align: int = 1
    tmem_size: int = 0
    cooperative: bool = False
    pdl: bool = False
    tensor_descriptors: tuple[TensorDescriptorMeta, ...] = ()
    fp_fusion: bool = True
    ptx_options: str = ""
    release: str | None = None

    @classmethod
    def from_file(cls, path: str | Path) -> Metadata:
        """Read a JSON file.

        Raises
        ------
        MetadataError
            The file cannot be read, or is not metadata.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise MetadataError(f"metadata {str(path)!r} cannot be read: {error.strerror or error}") from None
        return cls.from_json(data, where=str(path))

    @classmethod
    def from_json(cls, data: str | bytes, where: str = "the JSON given") -> Metadata:
        """Read JSON text; `where` names it in errors."""
        try:
            value = json.loads(data)
        except RecursionError:
            raise MetadataError(f"metadata in {where}: nested too deeply to be Triton's") from None
        except ValueError as error:
            raise MetadataError(f"metadata in {where}: expected JSON as Triton writes it, found {error}") from None
        if not isinstance(value, dict):
            raise MetadataError(f"metadata in {where}: expected a JSON object, found {type(value).__name__}")
        return cls.from_dict(value, where=where)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "the mapping given") -> Metadata:
        """Take the mapping that a JSON file holds; keys that are left out are unknown.

        Raises
        ------
        MetadataError
            A field has a value that no release writes there.
        """
        read = _Fields(raw, where)
        target = read.target()
        num_ctas = read.integer("num_ctas", low=1, high=16) or 1
        return cls(
            raw=dict(raw),
            name=read.text("name"),
            hash=read.text("hash"),
            target=target,
            num_warps=read.integer("num_warps", low=1, high=64),
            num_ctas=num_ctas,
            cluster=read.cluster(num_ctas),
            shared=read.integer("shared"),
            global_scratch_size=read.integer("global_scratch_size"),
            global_scratch_align=read.integer("global_scratch_align", low=1) or 1,
            profile_scratch_size=read.integer("profile_scratch_size"),
            profile_scratch_align=read.integer("profile_scratch_align", low=1) or 1,
            tmem_size=read.integer("tmem_size") or 0,
            cooperative=read.flag("launch_cooperative_grid"),
            pdl=read.flag("launch_pdl"),
            tensor_descriptors=read.descriptors() if target is None or target.backend == "cuda" else (),
            fp_fusion=read.flag("enable_fp_fusion", True),
            ptx_options=read.text("ptx_options") or "",
            release=read.text("triton_version"),
        )

    @property
    def releases(self) -> str:
        """The Triton release that wrote this, as exactly as the keys tell: ``"3.6.0"``, ``"3.2"``, ``"3.0 or 3.1"``."""
        if self.release:
            return self.release
        if "num_consumer_groups" in self.raw:  # written by 3.2 and 3.3 only, and 3.3 states its version
            return "3.2"
        return "3.0 or 3.1" if "allow_fp8e4nv" in self.raw else "unknown"


class _Fields:
    """Typed access to a metadata mapping: a wrong type is an error that names the key."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw = raw
        self.where = where

    def _wrong(self, key: str, expected: str) -> MetadataError:
        return MetadataError(f"metadata in {self.where}: {key} = {self.raw.get(key)!r:.80}, expected {expected}")

    def text(self, key: str) -> str | None:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.raw.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def integer(self, key: str, low: int = 0, high: int = 2**40) -> int | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, f"an integer from {low}" + (f" to {high}" if high < 2**40 else ""))
        return value

    def target(self) -> Target | None:
        value = self.raw.get("target")
        if value is None:
            return None
        try:
            if isinstance(value, str):
                return Target.parse(value)
            if isinstance(value, Mapping) and isinstance(value.get("backend"), str):
                warp_size = value.get("warp_size")
                if warp_size in (None, 32, 64):
                    return Target.parse(f"{value['backend']}:{value.get('arch')}", warp_size)
        except TrlaunchError:
            pass
        raise self._wrong("target", 'an object such as {"backend": "cuda", "arch": 90, "warp_size": 32}')

    def cluster(self, num_ctas: int) -> tuple[int, int, int]:
        value = self.raw.get("cluster_dims")
        if value is None:  # 3.6 and later, and every HIP release from then on: the cluster lies along x
            return (num_ctas, 1, 1)
        if not _integers(value, low=1) or len(value) != 3:
            raise self._wrong("cluster_dims", "three positive integers")
        x, y, z = value
        if x * y * z != num_ctas and "num_ctas" in self.raw:
            raise self._wrong("cluster_dims", f"a shape of num_ctas = {num_ctas} CTAs")
        return (x, y, z)

    def descriptors(self) -> tuple[TensorDescriptorMeta, ...]:
        value = self.raw.get("tensordesc_meta")
        if value is None:
            return ()
        expected = "a list of objects with block_size, elem_type, elem_size and swizzle"
        if not isinstance(value, list):
            raise self._wrong("tensordesc_meta", expected)
        entries = []
        for entry in value:
            if entry is None:  # a descriptor that is decomposed although others are not
                continue
            if not isinstance(entry, Mapping) or not _integers(entry.get("block_size"), low=1):
                raise self._wrong("tensordesc_meta", expected)
            numbers = [entry.get(key) for key in ("elem_type", "elem_size", "swizzle")]
            if not _integers(numbers) or not 1 <= len(entry["block_size"]) <= 5:
                raise self._wrong("tensordesc_meta", expected)
            kind, size, swizzle = (int(number) for number in numbers if number is not None)
            block = tuple(entry["block_size"])
            entries.append(TensorDescriptorMeta(block, kind, size, swizzle, bool(entry.get("fp4_padded"))))
        return tuple(entries)


def _integers(value: object, low: int = 0) -> bool:
    return isinstance(value, Sequence) and all(
        isinstance(v, int) and not isinstance(v, bool) and low <= v < 2**31 for v in value
    )
