"""The bytes of a bundle: what is written is read back, what was damaged is refused, whatever the damage."""

from __future__ import annotations

import hashlib
import struct

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trlaunch import Metadata, Target
from trlaunch.artifact import BUNDLE_MAGIC, Level
from trlaunch.bundle import Entry, decode, encode
from trlaunch.errors import ArtifactError, TrlaunchError
from trlaunch.signature import Slot

ENTRY = Entry(
    kernel="add_kernel",
    target=Target("cuda", "90", "a"),
    level=Level.CUBIN,
    data=b"\x7fELF" + bytes(range(256)),
    metadata=Metadata.from_dict({"name": "add_kernel", "num_warps": 4, "shared": 0}),
    parameters=(Slot("x_ptr", "*fp32", 8, 16, True), Slot(None, None, 4, 1, False)),
    constants={"BLOCK": 1024, "eps": 0.5, "MODE": "add", "flag": True, "none": None},
    texts={Level.PTX: b".version 8.0\n"},
)


def wrapped(content: bytes) -> bytes:
    """A head that fits the content."""
    return struct.pack("<8sIQ32s", BUNDLE_MAGIC, 1, len(content), hashlib.sha256(content).digest()) + content


def content_of(data: bytes) -> dict:
    return msgpack.unpackb(data[52:])


names = st.text(max_size=20)
types = st.sampled_from(["*fp32", "*", "i32", "u1", "bf16", "fp8e5", "nvTmaDesc", "tensordesc<fp16[64, 64]>", None])
entries = st.builds(
    Entry,
    kernel=st.just("k"),
    target=st.sampled_from([Target("cuda", "80"), Target("cuda", "90", "a"), Target("hip", "gfx942", "", 64)]),
    level=st.sampled_from([Level.CUBIN, Level.HSACO, Level.PTX]),
    data=st.binary(max_size=200),
    metadata=st.one_of(st.none(), st.builds(Metadata.from_dict, st.fixed_dictionaries({"name": names}))),
    parameters=st.lists(
        st.builds(Slot, st.one_of(st.none(), names), types, st.integers(1, 128), st.integers(1, 64), st.booleans()),
        max_size=4,
    ).map(tuple),
    constants=st.dictionaries(names, st.one_of(st.integers(-(2**63), 2**64 - 1), st.booleans(), names, st.none())),
    texts=st.dictionaries(st.sampled_from([Level.TTIR, Level.PTX]), st.binary(max_size=50)),
)


@given(st.lists(entries, min_size=1, max_size=3, unique_by=lambda e: e.target))
def test_what_is_written_is_read_back(given_entries):
    assert decode(encode(given_entries)) == tuple(given_entries)


@settings(max_examples=300)
@given(st.data())
def test_any_flipped_bit_is_found(data):
    good = encode([ENTRY])
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ArtifactError):
        decode(bytes(bad))


@given(st.integers(0, len(encode([ENTRY])) - 1))
def test_any_cut_is_found(length):
    with pytest.raises(ArtifactError):
        decode(encode([ENTRY])[:length])


def test_the_messages_say_what_was_expected_and_found():
    good = encode([ENTRY])
    size = len(good) - 52
    with pytest.raises(ArtifactError, match=rf"k\.trk is torn: expected {size} bytes of content, found {size - 9}"):
        decode(good[:-9], "k.trk")
    with pytest.raises(ArtifactError, match=rf"expected {size} bytes of content, found {size + 1}"):
        decode(good + b"\0")
    digest = hashlib.sha256(good[52:]).hexdigest()
    edited = good[:-1] + bytes([good[-1] ^ 1])
    found = hashlib.sha256(edited[52:]).hexdigest()
    with pytest.raises(ArtifactError, match=f"expected SHA-256 {digest} of its content, found {found}"):
        decode(edited)
    with pytest.raises(ArtifactError, match="has version 2 of the format, this trlaunch reads version 1"):
        decode(good[:8] + struct.pack("<I", 2) + good[12:])
    with pytest.raises(ArtifactError, match="is no bundle: expected 52 bytes of head"):
        decode(b"\x89TRK\n\x1a\n" + good[8:])  # as a copy that was made as text leaves it


nested = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=6)),
    max_leaves=20,
)


@given(nested)
def test_whatever_messagepack_holds_is_read_or_refused(value):
    with pytest.raises(ArtifactError):
        decode(wrapped(msgpack.packb(value)))
    with pytest.raises(ArtifactError):
        decode(wrapped(msgpack.packb({"entries": [value]})))


def paths(value, at=()):
    """Every place in the content where something else could stand."""
    yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*at, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from paths(item, (*at, i))


PATHS = [p for p in paths(content_of(encode([ENTRY]))) if p and p[0] == "entries"]


@settings(max_examples=300)
@given(st.sampled_from(PATHS), nested)
def test_a_wrong_type_anywhere_is_read_or_refused(path, value):
    content = content_of(encode([ENTRY]))
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    try:
        found = decode(wrapped(msgpack.packb(content)))
    except TrlaunchError as error:
        assert str(error)
    else:
        assert decode(encode(found)) == found


@given(st.binary(max_size=64))
def test_any_bytes_as_content_are_refused(content):
    with pytest.raises(ArtifactError):
        decode(wrapped(content))


@pytest.mark.parametrize(
    "content",
    [
        b"\xdf\xff\xff\xff\xff",  # a map of 2**32 - 1 entries
        b"\xdd\xff\xff\xff\xff\x01",  # an array of as many
        b"\xc6\xff\xff\xff\xff\x01",  # as many bytes
        b"\xdb\x7f\xff\xff\xffx",
        b"\x91" * 100_000,  # nested arrays
        b"\x81\xa1k" * 100_000,
        b"\xc7\xff\x05" + bytes(255),  # an extension type
        b"\x81\x01\x02",  # a key that is no text
    ],
)
def test_huge_lengths_and_depths_are_refused(content):
    with pytest.raises(ArtifactError):
        decode(wrapped(content))


@pytest.mark.parametrize(
    "change,expected",
    [
        ({"level": "ttir"}, "level: expected one of cubin, hsaco, ptx"),
        ({"target": "sm_x"}, "target 'sm_x' is not understood"),
        ({"warp_size": 33}, "warp_size: expected 32 or 64, found 33"),
        ({"data": "text"}, "data: expected bytes"),
        ({"metadata": "{"}, "expected JSON"),
        ({"metadata": '{"num_warps": -1}'}, "num_warps"),
        ({"parameters": [["x", "*fp33", 8, 1, True]]}, "parameter 0, type: expected one of Triton's, found '\\*fp33'"),
        ({"parameters": [["x", "i32", 2**40, 1, True]]}, "size: expected 1 to"),
        ({"parameters": [["x"]]}, "expected name, type, size, divisibility, signless"),
        ({"constants": {"a": [1]}}, "constant a: expected a number"),
        ({"texts": {"cubin": b""}}, "texts: expected one of ttir"),
    ],
)
def test_a_field_of_another_kind_is_named(change, expected):
    content = content_of(encode([ENTRY]))
    content["entries"][0] |= change
    with pytest.raises(TrlaunchError, match=expected):
        decode(wrapped(msgpack.packb(content)))


def test_entries_must_go_together():
    with pytest.raises(ArtifactError, match="found none"):
        encode([])
    with pytest.raises(ArtifactError, match="two for cuda:90a"):
        encode([ENTRY, ENTRY])
    other = Entry("other", Target("cuda", "80"), Level.CUBIN, b"")
    with pytest.raises(ArtifactError, match="found add_kernel, other"):
        encode([ENTRY, other])
