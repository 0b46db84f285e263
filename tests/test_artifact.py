"""Artifacts: the level by content, siblings, cache folders, and refusals that say what was found."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.corpus import cases, find
from trlaunch.artifact import Artifact, Level, detect
from trlaunch.errors import ArtifactError, FallbackWarning, MetadataError, TrlaunchError
from trlaunch.metadata import Metadata

ADD = find("3.6.0", "cuda:90", "add_kernel")


@pytest.mark.parametrize("case", cases(), ids=str)
def test_level_of_every_file_is_known_by_content(case):
    for level in case.levels:
        assert detect(case.bytes(level)) is Level(level)
        artifact = Artifact.from_file(case.path(level))
        assert artifact.level is Level(level)
        assert artifact.metadata.name == case.kernel
        assert set(artifact.siblings) == {Level(other) for other in case.levels} - {Level(level)}
        assert Artifact.from_bytes(case.bytes(level)).level is Level(level)


def test_content_rules_over_the_extension(tmp_path):
    for suffix in ("ptx", "json5", "cubin"):
        path = tmp_path / f"add_kernel.{suffix}"
        path.write_bytes(ADD.bytes("ttir"))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert Artifact.from_file(path).level is Level.TTIR
        expected = [] if suffix == "json5" else [f"{path.name} is ttir by its content and is taken as that"]
        assert [str(w.message) for w in seen] == expected
        assert all(w.category is FallbackWarning and w.filename == __file__ for w in seen)


@pytest.mark.parametrize(
    "text,level",
    [
        ("import triton\n@triton.jit\ndef k(): pass", Level.PYTHON),
        ("from triton import jit\n@jit\ndef k(): pass", Level.PYTHON),
        ("from triton.experimental import gluon\n@gluon.jit\ndef k(): pass", Level.GLUON),
        ("define void @k(ptr %0) {\n  ret void\n}", Level.LLIR),
        ("define ptx_kernel void @k(ptr addrspace(1) %0) {", Level.LLIR),
        (".visible .entry k()", Level.PTX),
        ("//\n.version 8.4\n.target sm_90a\n.address_size 64\n", Level.PTX),
        ('\t.text\n\t.amdgcn_target "amdgcn-amd-amdhsa--gfx942"\n', Level.AMDGCN),
        ("module { tt.func public @k() { tt.return } }", Level.TTIR),
        ('module attributes {"triton_gpu.num-warps" = 4 : i32} { tt.func @k() }', Level.TTGIR),
        ('module attributes {"ttg.num-warps" = 4 : i32} { tt.func @k() }', Level.TTGIR),
        ("hello", None),
        ("", None),
    ],
)
def test_marks(text, level):
    assert detect(text.encode()) is level


def test_other_binaries_are_called_what_they_are():
    elf = bytearray(64)
    elf[:7] = b"\x7fELF\x02\x01\x01"
    elf[18] = 62
    with pytest.raises(ArtifactError, match=r"an ELF file for machine 62: expected 190 \(EM_CUDA, a cubin\) or 224"):
        detect(bytes(elf))
    elf[18] = 224
    assert detect(bytes(elf)) is Level.HSACO
    with pytest.raises(ArtifactError, match="a CUDA fatbin: expected a cubin; take it out with `cuobjdump -xelf all"):
        detect(b"\x50\xed\x55\xba" + bytes(16))
    with pytest.raises(ArtifactError, match="an ELF file cut off after 7 bytes"):
        detect(b"\x7fELF\x02\x01\x01")


def test_refusals_of_files(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be read: No such file or directory"):
        Artifact.from_file(tmp_path / "k.cubin")
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        Artifact.from_file(tmp_path)
    (tmp_path / "k.cubin").write_bytes(b"")
    with pytest.raises(
        ArtifactError, match=r"k.cubin: content of no known level \(it is empty\); expected one of python,"
    ):
        Artifact.from_file(tmp_path / "k.cubin")
    (tmp_path / "k.bin").write_bytes(b"\x00\x01\x02")
    with pytest.raises(ArtifactError, match=r"it begins with b'\\x00\\x01\\x02'"):
        Artifact.from_file(tmp_path / "k.bin")


def test_level_given():
    assert Artifact.from_bytes("; nothing tells", level="llir").level is Level.LLIR
    with pytest.raises(ArtifactError, match="content of no known level: it begins with b'hello'"):
        Artifact.from_bytes("hello")
    with pytest.raises(ArtifactError, match="level 'sass' does not exist: expected one of python, gluon, ttir"):
        Artifact.from_bytes("hello", level="sass")
    with pytest.raises(ArtifactError, match="content is cubin, level=ptx was given"):
        Artifact.from_bytes(ADD.bytes("cubin"), level="ptx")


def test_metadata_is_taken_from_beside_given_or_absent(tmp_path):
    for level in ("cubin", "ptx"):
        shutil.copy(ADD.path(level), tmp_path)
    assert Artifact.from_file(tmp_path / "add_kernel.cubin").metadata is None
    given = Metadata.from_dict({"num_warps": 2})
    for metadata in (given, {"num_warps": 2}):
        assert Artifact.from_file(tmp_path / "add_kernel.cubin", metadata).metadata.num_warps == 2
    assert Artifact.from_file(tmp_path / "add_kernel.cubin", str(ADD.path("json"))).metadata.num_warps == 4
    with pytest.raises(MetadataError, match="metadata is a int: expected a path, a mapping or trlaunch.Metadata"):
        Artifact.from_file(tmp_path / "add_kernel.cubin", 3)
    (tmp_path / "add_kernel.json").write_text("{")
    with pytest.raises(MetadataError, match="expected JSON as Triton writes it"):
        Artifact.from_file(tmp_path / "add_kernel.cubin")


def test_text_and_siblings(tmp_path):
    artifact = Artifact.from_file(ADD.path("cubin"))
    with pytest.raises(ArtifactError, match="add_kernel.cubin is a cubin: it has no text"):
        _ = artifact.text
    assert artifact.sibling(Level.PTX).text == ADD.text("ptx")
    assert artifact.sibling(Level.HSACO) is None
    with pytest.raises(ArtifactError, match="expected UTF-8 text, found byte 0 that is not"):
        _ = Artifact(Level.PTX, b"\xff").text
    shutil.copy(ADD.path("cubin"), tmp_path)
    shutil.copy(ADD.path("ttir"), tmp_path / "add_kernel.ptx")
    with pytest.raises(ArtifactError, match="add_kernel.ptx beside add_kernel.cubin should be ptx, found ttir"):
        Artifact.from_file(tmp_path / "add_kernel.cubin").sibling(Level.PTX)


def test_cache_folder(tmp_path):
    folder = tmp_path / "ABC"
    shutil.copytree(ADD.folder, folder)
    (folder / "__grp__add_kernel.json").write_text(json.dumps({"child_paths": {}}))
    (folder / "case.json").unlink()
    assert Artifact.from_cache(folder).level is Level.CUBIN
    assert Artifact.from_cache(folder, level="ttgir").level is Level.TTGIR
    assert Artifact.from_cache(folder, "add_kernel", Level.PTX).path.name == "add_kernel.ptx"
    (folder / "add_kernel.cubin").unlink()
    assert Artifact.from_cache(folder).level is Level.PTX
    with pytest.raises(ArtifactError, match=r"add_kernel in .* has (\w+, )+\w+: expected cubin"):
        Artifact.from_cache(folder, level="cubin")
    with pytest.raises(ArtifactError, match="level 'bin' does not exist: expected one of"):
        Artifact.from_cache(folder, level="bin")
    with pytest.raises(ArtifactError, match="kernel 'mul' is not in .*: expected name=, one of add_kernel"):
        Artifact.from_cache(folder, "mul")
    with pytest.raises(ArtifactError, match=r"no <kernel>.json in .*; it holds 1 cache folders \(ABC, ...\): give one"):
        Artifact.from_cache(tmp_path)
    with pytest.raises(ArtifactError, match="is not a folder: expected a folder of Triton's cache"):
        Artifact.from_cache(folder / "add_kernel.ptx")
    shutil.copy(folder / "add_kernel.json", folder / "notes.json")
    assert Artifact.from_cache(folder).path.name == "add_kernel.ptx"  # no level belongs to notes.json
    shutil.copy(folder / "add_kernel.json", folder / "other.json")
    shutil.copy(folder / "add_kernel.ptx", folder / "other.ptx")
    with pytest.raises(ArtifactError, match="several kernels are in .*: expected name=, one of add_kernel, other"):
        Artifact.from_cache(folder)


CUBIN, PTX = ADD.bytes("cubin"), ADD.bytes("ptx")


@given(st.one_of(st.binary(), st.text().map(str.encode), st.binary().map(b"\x7fELF".__add__)))
@example(b"\x7fELF")
@example(b"\x50\xed\x55\xba")
def test_any_content_has_a_level_or_is_refused(data):
    try:
        artifact = Artifact.from_bytes(data)
    except TrlaunchError as error:
        assert str(error)
    else:
        assert artifact.level is detect(data)
        assert artifact.data == data


@given(st.sampled_from([CUBIN, PTX]), st.data())
def test_cut_and_changed_files_have_a_level_or_are_refused(content, data):
    cut = bytearray(content[: data.draw(st.integers(0, len(content)))])
    if cut:
        cut[data.draw(st.integers(0, len(cut) - 1))] = data.draw(st.integers(0, 255))
    try:
        Artifact.from_bytes(bytes(cut))
    except TrlaunchError as error:
        assert str(error)


@pytest.mark.parametrize("value", [None, 3, b"k.cubin"])
def test_what_is_no_path_is_said_to_be_none(value):
    for read in (Artifact.from_file, Artifact.from_cache):
        with pytest.raises(ArtifactError, match=f"expected a path, a str or os.PathLike, found {type(value).__name__}"):
            read(value)


def test_content_of_another_kind_and_names_of_files():
    with pytest.raises(ArtifactError, match="expected the content of a file, bytes or text, found NoneType"):
        Artifact.from_bytes(None)
    with pytest.raises(ArtifactError, match="a file is read by its name with from_file"):
        Artifact.from_bytes("add_kernel.ptx")


def test_metadata_in_place_of_the_kernel(tmp_path):
    (tmp_path / "k.json").write_text("{}")
    (tmp_path / "k.ptx").write_text(".version 8.0")
    with pytest.raises(ArtifactError, match="it is the metadata of the file beside it: give that one"):
        Artifact.from_file(tmp_path / "k.json")
