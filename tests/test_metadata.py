"""Triton's JSON of every release, and anything else that calls itself JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.corpus import cases, find
from trlaunch.errors import MetadataError, TrlaunchError
from trlaunch.metadata import Metadata, TensorDescriptorMeta
from trlaunch.target import Target


@pytest.mark.parametrize("case", cases(), ids=str)
def test_every_release_is_read(case):
    metadata, raw = Metadata.from_file(case.path("json")), case.metadata
    assert metadata.raw == raw
    assert (metadata.name, metadata.hash) == (case.kernel, raw["hash"])
    assert metadata.target == Target.parse(case.target)
    assert metadata.num_warps == raw["num_warps"] >= case.options["num_warps"]
    assert metadata.shared == raw["shared"]
    assert metadata.num_ctas == case.options.get("num_ctas", 1)
    assert list(metadata.cluster) == raw.get("cluster_dims", [metadata.num_ctas, 1, 1])
    assert metadata.cooperative == case.options.get("launch_cooperative_grid", False)
    assert metadata.pdl == case.options.get("launch_pdl", False)
    assert metadata.release == (case.release if case.version >= (3, 3) else None)
    assert (metadata.global_scratch_size is None) == (case.version < (3, 3))
    assert (metadata.profile_scratch_size is None) == (case.version < (3, 5))
    assert metadata.releases == {(3, 0): "3.0 or 3.1", (3, 1): "3.0 or 3.1", (3, 2): "3.2"}.get(
        case.version, case.release
    )


def test_scratch_and_descriptors():
    scratch = Metadata.from_dict(find("3.6.0", "cuda:90", "scratch_kernel").metadata)
    assert (scratch.global_scratch_size, scratch.global_scratch_align) == (256, 128)
    assert (scratch.profile_scratch_size, scratch.profile_scratch_align) == (0, 1)
    tma = Metadata.from_dict(find("3.6.0", "cuda:90", "tma_matmul_kernel").metadata)
    assert tma.tensor_descriptors == (TensorDescriptorMeta((64, 64), 6, 2, 3),) * 3
    assert Metadata.from_dict(find("3.6.0", "cuda:80", "tma_matmul_kernel").metadata).tensor_descriptors == ()


def test_hip_metadata():
    raw = {
        "hash": "00", "target": {"backend": "hip", "arch": "gfx942", "warp_size": 64}, "num_warps": 4, "num_ctas": 1,
        "num_stages": 2, "shared": 8192, "name": "k", "triton_version": "3.9.0", "warp_size": 64,
        "tensordesc_meta": [{"block_size": [64, 64], "elem_bits": 16, "interval_padding_pairs": [[128, 8]]}],
    }  # fmt: skip
    metadata = Metadata.from_dict(raw)
    assert metadata.target == Target("hip", "gfx942", "", 64)
    assert metadata.tensor_descriptors == ()


def test_what_is_left_out_is_unknown():
    metadata = Metadata.from_dict({})
    assert metadata.name is metadata.target is metadata.num_warps is metadata.shared is None
    assert (metadata.cluster, metadata.num_ctas, metadata.releases) == ((1, 1, 1), 1, "unknown")


@pytest.mark.parametrize(
    "key,value,expected",
    [
        ("num_warps", 0, "an integer from 1 to 64"),
        ("num_warps", "4", "an integer from 1 to 64"),
        ("num_warps", True, "an integer from 1 to 64"),
        ("num_warps", 4.0, "an integer from 1 to 64"),
        ("num_ctas", 17, "an integer from 1 to 16"),
        ("shared", -1, "an integer from 0"),
        ("shared", None.__class__, "an integer from 0"),
        ("global_scratch_align", 0, "an integer from 1"),
        ("name", 3, "a string"),
        ("hash", [], "a string"),
        ("launch_pdl", "yes", "true or false"),
        ("launch_cooperative_grid", 1, "true or false"),
        ("target", "cuda", "an object such as"),
        ("target", {"backend": "cuda", "arch": True}, "an object such as"),
        ("target", {"backend": "cuda", "arch": 90, "warp_size": 31}, "an object such as"),
        ("cluster_dims", [1, 2], "three positive integers"),
        ("cluster_dims", [0, 1, 1], "three positive integers"),
        ("cluster_dims", "111", "three positive integers"),
        ("tensordesc_meta", {}, "a list of objects with block_size"),
        ("tensordesc_meta", [{"block_size": ""}], "a list of objects with block_size"),
        (
            "tensordesc_meta",
            [{"block_size": [64], "elem_type": 6, "elem_size": 2}],
            "a list of objects with block_size",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_was_found_and_expected(key, value, expected):
    with pytest.raises(MetadataError) as caught:
        Metadata.from_dict({key: value}, where="k.json")
    message = str(caught.value)
    assert message.startswith(f"metadata in k.json: {key} = ")
    assert repr(value)[:40] in message
    assert f"expected {expected}" in message


def test_cluster_must_fit_the_number_of_ctas():
    with pytest.raises(MetadataError, match="cluster_dims = .*expected a shape of num_ctas = 2 CTAs"):
        Metadata.from_dict({"num_ctas": 2, "cluster_dims": [2, 2, 1]})


@pytest.mark.parametrize(
    "text,found", [("", "Expecting value"), ("[1]", "found list"), ("null", "found NoneType"), ("{", "Expecting")]
)
def test_no_json_object(text, found, tmp_path):
    path = tmp_path / "k.json"
    path.write_text(text)
    with pytest.raises(MetadataError, match=found) as caught:
        Metadata.from_file(path)
    assert str(path) in str(caught.value)


def test_unreadable_file(tmp_path):
    with pytest.raises(MetadataError, match="cannot be read: No such file or directory"):
        Metadata.from_file(tmp_path / "k.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
REAL = find("3.9.0", "cuda:90", "tma_matmul_kernel")
keys = st.sampled_from([*sorted(REAL.metadata), "cluster_dims", "block_size", "elem_type"])


@given(st.one_of(st.binary(), st.text(), st.dictionaries(keys, json_values).map(json.dumps)))
@example(b"\xff\xfe\x00")
@example("[" * 100_000)
@example('{"shared": ' + "9" * 5000 + "}")
def test_any_json_is_read_or_refused(data):
    try:
        Metadata.from_json(data)
    except TrlaunchError as error:
        assert str(error)


@given(keys, json_values, st.sampled_from(["3.0.0", "3.6.0", "3.9.0"]))
def test_real_json_with_one_value_changed_is_read_or_refused(key, value, release):
    raw = {**find(release, "cuda:90", "tma_matmul_kernel").metadata, key: value}
    try:
        metadata = Metadata.from_dict(raw)
    except MetadataError as error:
        assert key in str(error) or "cluster_dims" in str(error)
    else:
        assert metadata.raw[key] is value


@given(st.data())
def test_real_json_with_bytes_changed_is_read_or_refused(data):
    text = bytearray(REAL.bytes("json"))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        Metadata.from_json(bytes(text))
    except MetadataError as error:
        assert str(error)
